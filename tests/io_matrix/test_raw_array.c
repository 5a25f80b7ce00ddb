/* Which datasets are read past HDF5's own read, and that the elements are those written. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "io/raw_array.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { N = 10000, CHUNK = 700, MOST = 1500, MOST_BYTES = 1 << 16 };

static const char *const path = "test_raw_array.h5";

static int32_t element(int64_t i) { return (int32_t)(i * 2654435761 % 1000003); }

/* One dataset of N elements; chunk 0: contiguous. */
static void write_dataset(hid_t file, const char *name, hid_t type, hsize_t chunk, bool shuffle,
                          int deflate, bool fletcher) {
  const hsize_t n = N;
  int32_t *values = av_malloc(N, sizeof *values);
  for (int64_t i = 0; i < N; ++i) {
    values[i] = element(i);
  }
  hid_t space = H5Screate_simple(1, &n, NULL);
  hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
  if (chunk > 0) {
    assert_true(H5Pset_chunk(creation, 1, &chunk) >= 0);
  }
  if (shuffle) {
    assert_true(H5Pset_shuffle(creation) >= 0);
  }
  if (deflate > 0) {
    assert_true(H5Pset_deflate(creation, (unsigned)deflate) >= 0);
  }
  if (fletcher) {
    assert_true(H5Pset_fletcher32(creation) >= 0);
  }
  hid_t dataset = H5Dcreate2(file, name, type, space, H5P_DEFAULT, creation, H5P_DEFAULT);
  assert_true(dataset >= 0);
  assert_true(H5Dwrite(dataset, H5T_NATIVE_INT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0);
  free(values);
  av_h5_close(&dataset);
  av_h5_close(&creation);
  av_h5_close(&space);
}

static int write_file(void **state) {
  (void)state;
  assert_int_equal(av_h5_init(), AV_OK);
  hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  assert_true(file >= 0);
  write_dataset(file, "contiguous", H5T_NATIVE_INT32, 0, false, 0, false);
  write_dataset(file, "chunked", H5T_NATIVE_INT32, CHUNK, false, 0, false);
  write_dataset(file, "gzip", H5T_NATIVE_INT32, CHUNK, false, 4, false);
  write_dataset(file, "shuffle", H5T_NATIVE_INT32, CHUNK, true, 0, false);
  write_dataset(file, "both", H5T_NATIVE_INT32, CHUNK, true, 4, false);
  write_dataset(file, "wide", H5T_NATIVE_INT64, CHUNK, true, 4, false);
  write_dataset(file, "checksum", H5T_NATIVE_INT32, CHUNK, false, 4, true);
  write_dataset(file, "big_endian", H5T_STD_I32BE, CHUNK, false, 4, false);
  write_dataset(file, "large_chunk", H5T_NATIVE_INT64, N, false, 4, false);
  av_h5_close(&file);
  return 0;
}

static int remove_file(void **state) {
  (void)state;
  return unlink(path);
}

/* Every element, in steps that begin and end within chunks, go back, and jump. */
static void check_elements(const av_raw_array *array) {
  av_raw_window window;
  const int64_t steps[][2] = {{0, 1},       {0, MOST},        {690, 20},  {300, MOST},
                              {1799, 1500}, {N - MOST, MOST}, {N - 1, 1}, {0, 10},
                              {2100, 700},  {N - 701, 701},   {5000, 0}};
  assert_true(av_raw_window_create(&window, array, MOST));
  for (size_t s = 0; s < sizeof steps / sizeof steps[0]; ++s) {
    const void *got = av_raw_get(&window, steps[s][0], steps[s][1]);
    assert_non_null(got);
    for (int64_t i = 0; i < steps[s][1]; ++i) {
      assert_true(av_number_at(array->kind, got, i) == element(steps[s][0] + i));
    }
  }
  assert_null(av_raw_get(&window, N - 1, 2)); /* beyond the end; too many; before the beginning */
  assert_null(av_raw_get(&window, 0, MOST + 1));
  assert_null(av_raw_get(&window, -1, 1));
  av_raw_window_free(&window);
}

static void reads(void **state) {
  (void)state;
  static const struct {
    const char *name;
    av_number kind; /* NONE: left to HDF5 */
  } expected[] = {{"contiguous", AV_NUMBER_I32},  {"chunked", AV_NUMBER_I32},
                  {"gzip", AV_NUMBER_I32},        {"shuffle", AV_NUMBER_I32},
                  {"both", AV_NUMBER_I32},        {"wide", AV_NUMBER_I64},
                  {"checksum", AV_NUMBER_NONE},   {"big_endian", AV_NUMBER_NONE},
                  {"large_chunk", AV_NUMBER_NONE}};
  pthread_mutex_t hdf5 = PTHREAD_MUTEX_INITIALIZER;
  hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
  assert_true(file >= 0);
  for (size_t i = 0; i < sizeof expected / sizeof expected[0]; ++i) {
    hid_t dataset = H5Dopen2(file, expected[i].name, H5P_DEFAULT);
    av_raw_array array;
    const bool opened = av_raw_open(&array, dataset, MOST_BYTES, &hdf5);
    assert_int_equal(opened, expected[i].kind != AV_NUMBER_NONE);
    assert_int_equal(array.kind, expected[i].kind);
    if (opened) {
      check_elements(&array);
    }
    av_raw_close(&array);
    av_h5_close(&dataset);
  }
  av_h5_close(&file);
}

/* A file that becomes shorter, or cannot be read, after it was opened: not zeros. */
static void ends_early(void **state) {
  (void)state;
  static const char *const names[] = {"contiguous", "chunked", "gzip", "shuffle"};
  pthread_mutex_t hdf5 = PTHREAD_MUTEX_INITIALIZER;
  for (size_t i = 0; i < sizeof names / sizeof names[0]; ++i) {
    for (int cut = 0; cut < 2; ++cut) {
      av_raw_array array;
      av_raw_window window;
      assert_int_equal(write_file(NULL), 0);
      hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
      hid_t dataset = H5Dopen2(file, names[i], H5P_DEFAULT);
      assert_true(av_raw_open(&array, dataset, MOST_BYTES, &hdf5));
      assert_true(av_raw_window_create(&window, &array, MOST));
      assert_non_null(av_raw_get(&window, 0, 10));
      assert_int_equal(window.fault, AV_RAW_FINE);
      if (cut) {
        assert_int_equal(truncate(path, array.chunk > 0 ? array.file_bytes - 1 : array.offset + 9),
                         0);
      } else {
        const int descriptor = open("/", O_RDONLY | O_CLOEXEC); /* a directory cannot be read */
        assert_true(descriptor >= 0 && dup2(descriptor, array.file) == array.file);
        close(descriptor);
      }
      assert_null(av_raw_get(&window, 5000, MOST));
      assert_int_equal(window.fault, cut || array.chunk > 0 ? AV_RAW_SHORT : AV_RAW_NO_READ);
      assert_int_equal(window.error, window.fault == AV_RAW_NO_READ ? EISDIR : 0);
      av_raw_window_free(&window);
      av_raw_close(&array);
      av_h5_close(&dataset);
      av_h5_close(&file);
    }
  }
}

/* The bound of a window's memory is what it takes, chunks as large as they may be included. */
static void window_memory(void **state) {
  (void)state;
  av_raw_array array = {.size = 4, .chunk = CHUNK, .n = N};
  assert_int_equal(av_raw_window_bytes(&array, MOST), 4 * (MOST + 2 * CHUNK));
  array.filters.n = 1;
  assert_true(av_raw_window_bytes(&array, MOST) > 4 * (MOST + 2 * CHUNK) + 2 * 4 * CHUNK);
}

int main(int argc, char **argv) {
  av_comm comm;
  if (av_comm_create(&comm, &argc, &argv) != AV_OK) {
    return 1;
  }
  const struct CMUnitTest tests[] = {cmocka_unit_test(reads), cmocka_unit_test(ends_early),
                                     cmocka_unit_test(window_memory)};
  const int failed = cmocka_run_group_tests(tests, write_file, remove_file);
  av_comm_free(&comm);
  return failed;
}
