/* Writing beside HDF5: the values arrive whatever the order and however many blocks, the disk is
 * kept busy, and a fault is kept too, also one that only the file system's own writing meets.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/log.h"
#include "base/memory.h"
#include "io/block_thread.h"
#include "io/h5.h"
#include "io/h5ad_put.h"
#include "io/output_driver.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <zlib.h>

enum { BLOCK_ROWS = 1 << 10, COLUMNS = 256, BLOCKS = 80 }; /* 1 MiB a block, 80 MiB a matrix */
enum { ROW_BYTES = COLUMNS * (int)sizeof(float), BLOCK_BYTES = BLOCK_ROWS * ROW_BYTES };

/* In place of the C library's: counts what is sent and what is waited for, and fails on demand. */
static struct {
  int64_t sent, waited;
  int fail_at, error; /* the fail_at-th wait; 0: none */
} disk;

int sync_file_range(int descriptor, off_t begin, off_t bytes, unsigned flags) {
  if ((flags & SYNC_FILE_RANGE_WAIT_AFTER) == 0) {
    disk.sent += bytes;
  } else {
    disk.waited += 1;
    if (disk.waited == disk.fail_at) {
      errno = disk.error;
      return -1;
    }
  }
  return (int)syscall(SYS_sync_file_range, descriptor, begin, bytes, flags);
}

typedef struct scene {
  char path[4096];
  hid_t file;
  av_write_failure failure;
} scene;

static int set_up(void **state) {
  scene *s = av_calloc(1, sizeof *s);
  assert_non_null(s);
  *state = s;
  const char *folder = getenv("TMPDIR");
  const int n = snprintf(s->path, sizeof s->path, "%s/atlasvi-thread-XXXXXX",
                         folder == NULL || folder[0] == '\0' ? "/tmp" : folder);
  assert_true(n > 0 && n < (int)sizeof s->path);
  const int descriptor = mkstemp(s->path);
  assert_true(descriptor >= 0);
  close(descriptor);
  memset(&disk, 0, sizeof disk);
  assert_int_equal(av_output_open(&s->file, s->path, true, &s->failure), AV_OK);
  return 0;
}

static int tear_down(void **state) {
  scene *s = *state;
  av_h5_close(&s->file);
  unlink(s->path);
  free(s);
  av_error_clear();
  return 0;
}

static float value_of(int64_t matrix, int64_t row, int64_t column) {
  return (float)((row * COLUMNS + column) % 16777213 + matrix);
}

static void fill(float *block, int64_t matrix, int64_t first, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < COLUMNS; ++j) {
      block[i * COLUMNS + j] = value_of(matrix, first + i, j);
    }
  }
}

/* Two matrices of `rows` rows; where their values go. */
static void put_matrices(scene *s, int64_t rows, int64_t address[2]) {
  static const char *const names[] = {"a", "b"};
  const hsize_t dims[2] = {(hsize_t)rows, COLUMNS};
  for (int m = 0; m < 2; ++m) {
    hid_t dataset = -1;
    assert_int_equal(
        av_put_matrix(&dataset, s->file, names[m], 2, dims, H5T_IEEE_F32LE, 1, 0, names[m]), AV_OK);
    address[m] = av_output_address(dataset);
    assert_true(address[m] > 0);
    av_h5_close(&dataset);
  }
}

static void check_matrix(scene *s, hid_t file, const char *name, int64_t matrix, int64_t rows) {
  const hid_t dataset = H5Dopen2(file, name, H5P_DEFAULT);
  assert_true(dataset >= 0);
  float *values = av_malloc((size_t)rows, ROW_BYTES);
  float *wanted = av_malloc((size_t)rows, ROW_BYTES);
  assert_true(H5Dread(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0);
  fill(wanted, matrix, 0, rows);
  assert_memory_equal(values, wanted, (size_t)rows * ROW_BYTES);
  free(values);
  free(wanted);
  assert_true(H5Dclose(dataset) >= 0);
  (void)s;
}

/* As rank 0 writes: the context is the open file. */
static bool write_part(void *context, const av_block_part *part) {
  if (part->checksum != NULL) {
    *part->checksum = (uint32_t)crc32_z(*part->checksum, part->data, (z_size_t)part->bytes);
  }
  return av_output_write(context, part->address, part->data, part->bytes);
}

static av_block_thread *start_thread(scene *s, int n_blocks, int64_t block_bytes) {
  av_output_handle *file = NULL;
  av_block_thread *thread = NULL;
  assert_int_equal(av_output_handle_of(&file, s->file), AV_OK);
  assert_int_equal(av_block_thread_create(&thread, n_blocks, block_bytes, write_part, file), AV_OK);
  return thread;
}

/* Blocks of both matrices, from the last rows to the first, through fewer blocks than there are. */
static void what_is_put_arrives(void **state) {
  scene *s = *state;
  const int64_t rows = BLOCKS * BLOCK_ROWS;
  int64_t address[2];
  put_matrices(s, rows, address);
  av_block_thread *thread = start_thread(s, 2, 2 * BLOCK_BYTES);
  uint32_t sum = 0;
  uint32_t wanted = 0;
  for (int64_t b = BLOCKS - 1; b >= 0; --b) {
    unsigned char *block = av_block_thread_room(thread);
    fill((float *)block, 0, b * BLOCK_ROWS, BLOCK_ROWS);
    fill((float *)(block + BLOCK_BYTES), 1, b * BLOCK_ROWS, BLOCK_ROWS);
    wanted = (uint32_t)crc32_z(wanted, block, BLOCK_BYTES);
    const av_block_part parts[2] = {{.data = block,
                                     .address = address[0] + b * BLOCK_BYTES,
                                     .bytes = BLOCK_BYTES,
                                     .checksum = &sum},
                                    {.data = block + BLOCK_BYTES,
                                     .address = address[1] + b * BLOCK_BYTES,
                                     .bytes = BLOCK_BYTES}};
    av_block_thread_put(thread, block, 2, parts);
  }
  assert_false(av_block_thread_failed(thread));
  av_block_thread_finish(&thread);
  assert_null(thread);
  assert_int_equal(sum, wanted);
  assert_int_equal(s->failure.error, 0);
  av_h5_close(&s->file);
  /* all but the last stretch went to the disk meanwhile, all but the window was waited for */
  assert_true(disk.sent >= 2 * (BLOCKS - 1) * (int64_t)BLOCK_BYTES);
  assert_true(disk.waited * BLOCK_BYTES >= (2 * BLOCKS - 70) * (int64_t)BLOCK_BYTES);
  hid_t again = -1;
  assert_int_equal(av_output_reopen(&again, s->path), AV_OK);
  check_matrix(s, again, "a", 0, rows);
  check_matrix(s, again, "b", 1, rows);
  av_h5_close(&again);
}

/* One part a block, until the file may not grow: what follows is discarded. */
static void put_until_failure(scene *s, int64_t n_blocks) {
  int64_t address[2];
  put_matrices(s, BLOCKS * BLOCK_ROWS, address);
  av_block_thread *thread = start_thread(s, 3, BLOCK_BYTES);
  for (int64_t b = 0; b < n_blocks; ++b) {
    unsigned char *block = av_block_thread_room(thread);
    fill((float *)block, 0, b * BLOCK_ROWS, BLOCK_ROWS);
    const av_block_part part = {
        .data = block, .address = address[0] + b * BLOCK_BYTES, .bytes = BLOCK_BYTES};
    av_block_thread_put(thread, block, 1, &part);
  }
  for (int i = 0; i < 3; ++i) { /* all blocks free: nothing is under way any more */
    av_block_thread_room(thread);
  }
  assert_true(av_block_thread_failed(thread));
  av_block_thread_finish(&thread);
}

static void a_file_that_cannot_grow_is_a_failure(void **state) {
  scene *s = *state;
  struct rlimit before;
  assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
  const struct rlimit limit = {.rlim_cur = 5 * BLOCK_BYTES, .rlim_max = before.rlim_max};
  signal(SIGXFSZ, SIG_IGN);
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
  put_until_failure(s, 20);
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
  assert_int_equal(s->failure.error, EFBIG);
  assert_true(s->failure.needed > 5 * BLOCK_BYTES);
}

static void a_fault_of_the_disk_is_a_failure(void **state) {
  scene *s = *state;
  disk.fail_at = 3;
  disk.error = EIO;
  put_until_failure(s, BLOCKS);
  assert_int_equal(s->failure.error, EIO);
}

/* Of a network file system, say. */
static void so_is_one_of_any_other_name(void **state) {
  scene *s = *state;
  disk.fail_at = 2;
  disk.error = ESTALE;
  put_until_failure(s, BLOCKS);
  assert_int_equal(s->failure.error, ESTALE);
}

/* Some file systems do not know the call. */
static void a_call_that_is_not_there_is_none(void **state) {
  scene *s = *state;
  disk.fail_at = 1;
  disk.error = EINVAL;
  what_is_put_arrives(state);
  assert_int_equal(s->failure.error, 0);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(what_is_put_arrives, set_up, tear_down),
      cmocka_unit_test_setup_teardown(a_file_that_cannot_grow_is_a_failure, set_up, tear_down),
      cmocka_unit_test_setup_teardown(a_fault_of_the_disk_is_a_failure, set_up, tear_down),
      cmocka_unit_test_setup_teardown(so_is_one_of_any_other_name, set_up, tear_down),
      cmocka_unit_test_setup_teardown(a_call_that_is_not_there_is_none, set_up, tear_down),
  };
  av_comm comm;
  if (av_comm_create(&comm, &argc, &argv) != AV_OK || av_h5_init() != AV_OK ||
      av_log_open(&comm, NULL) != AV_OK) {
    av_error_print();
    return 1;
  }
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  av_log_close();
  av_comm_free(&comm);
  return failed;
}
