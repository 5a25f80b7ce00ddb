/* Planted faults: each must be seen by the emulation in the way that emulate.h promises. */
#include "device_array.h"

#include "emulate.h"
#include "planted/planted.h"

#include <cublas_v2.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* --- faults that end the program ------------------------------------------------------------- */

/* Runs `fault` in a child; true if that died of it, and its stderr holds all of the texts. */
static void expect_death(void (*fault)(void), const char *first, const char *second) {
  static char text[1 << 16];
  size_t n = 0;
  int ends[2];
  assert_int_equal(pipe(ends), 0);
  fflush(NULL);
  const pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    dup2(ends[1], STDERR_FILENO);
    close(ends[0]);
    fault();
    _exit(0);
  }
  close(ends[1]);
  for (ssize_t got = 1; got > 0 && n < sizeof text - 1;) {
    got = read(ends[0], text + n, sizeof text - 1 - n);
    n += got > 0 ? (size_t)got : 0;
  }
  text[n] = '\0';
  close(ends[0]);
  int status = 0;
  assert_int_equal(waitpid(child, &status, 0), child);
  if ((WIFEXITED(status) && WEXITSTATUS(status) == 0) || strstr(text, first) == NULL ||
      strstr(text, second) == NULL) {
    fail_msg("the fault has not been seen: status %d, stderr:\n%s", status, text);
  }
}

static void read_outside(void) {
  float *in = device_new(100 * sizeof *in);
  float *out = device_new(100 * sizeof *out);
  (void)planted_read_outside(NULL, 100, in, out);
}
static void read_inside(void) { /* the same kernel is right if there is one more */
  float *in = device_new(101 * sizeof *in);
  float *out = device_new(100 * sizeof *out);
  must(planted_read_outside(NULL, 100, in, out));
  must(cudaFree(in));
  must(cudaFree(out));
}
static void static_outside(void) {
  (void)planted_static_outside(NULL, false, device_new(64 * sizeof(float)));
}
static void static_in_place(void) {
  (void)planted_static_outside(NULL, true, device_new(64 * sizeof(float)));
}
static void dynamic_outside(void) {
  (void)planted_dynamic_outside(NULL, device_new(64 * sizeof(float)));
}
static void host_touches(void) {
  volatile float *array = device_new(100 * sizeof *array);
  array[0] = 1.0f;
}
static void copy_outside(void) {
  float *array = device_new(100 * sizeof *array);
  float host[101] = {0};
  (void)cudaMemcpy(array, host, sizeof host, cudaMemcpyHostToDevice);
}
static void product_outside(void) {
  const float one = 1.0f;
  float *array = device_new(100 * sizeof *array);
  cublasHandle_t handle;
  (void)cublasCreate(&handle);
  (void)cublasSgemm(handle, CUBLAS_OP_N, CUBLAS_OP_N, 10, 10, 10, &one, array, 11, array, 10, &one,
                    array, 10);
}

static void test_outside(void **state) {
  (void)state;
  read_inside();
  expect_death(read_outside, "AddressSanitizer: heap-buffer-overflow", "outside.cu");
  expect_death(static_outside, "AddressSanitizer: global-buffer-overflow", "outside.cu");
  expect_death(static_in_place, "runtime error: index 64 out of bounds", "outside.cu");
  expect_death(dynamic_outside, "AddressSanitizer: heap-buffer-overflow", "outside.cu");
  expect_death(host_touches, "AddressSanitizer: use-after-poison", "host_touches");
  expect_death(copy_outside, "AddressSanitizer: heap-buffer-overflow", "copy_outside");
  expect_death(product_outside, "AddressSanitizer: heap-buffer-overflow", "A of cublasSgemm");
}

static void divergent_end(void) {
  (void)planted_divergent_end(NULL, device_new(256 * sizeof(float)));
}
static void divergent_end_descending(void) {
  av_emulate_order(AV_ORDER_DESCENDING, 0);
  divergent_end();
}
static void divergent_barrier(void) {
  (void)planted_divergent_barrier(NULL, device_new(256 * sizeof(float)));
}
static void divergent_warp(void) {
  (void)planted_divergent_warp(NULL, device_new(32 * sizeof(int)));
}

static void test_divergent(void **state) {
  (void)state;
  const char *barrier = "a barrier is not reached by all threads of the block";
  expect_death(divergent_end, "kernel divergent_end, block (0, 0, 0)", barrier);
  expect_death(divergent_end_descending, "kernel divergent_end, block (0, 0, 0)", barrier);
  expect_death(divergent_barrier, "kernel divergent_barrier, block (0, 0, 0)", barrier);
  expect_death(divergent_warp, "kernel divergent_warp", "__shfl_xor_sync");
}

static void pinned_changed(void) {
  int *host;
  int *array = device_new(sizeof *array);
  (void)cudaMallocHost((void **)&host, sizeof *host);
  host[0] = 1;
  (void)cudaMemcpyAsync(array, host, sizeof *host, cudaMemcpyHostToDevice, NULL);
  host[0] = 2; /* the fault: the copy has not been waited for */
  (void)cudaStreamSynchronize(NULL);
}
static void pinned_early(void) {
  int *host;
  int *array = device_new(sizeof *array);
  (void)cudaMallocHost((void **)&host, sizeof *host);
  (void)cudaMemcpyAsync(host, array, sizeof *host, cudaMemcpyDeviceToHost, NULL);
  printf("%d", *(volatile int *)host); /* the fault */
}
static void leak(void) {
  (void)device_new(10);
  exit(0);
}

static void test_host(void **state) {
  (void)state;
  expect_death(pinned_changed, "emulation:", "was changed before its cudaMemcpyAsync");
  expect_death(pinned_early, "AddressSanitizer: use-after-poison", "pinned_early");
  expect_death(leak, "emulation:", "never freed");
}

/* --- faults of graphs ------------------------------------------------------------------------ */

static cudaStream_t begin_capture(void) {
  cudaStream_t stream;
  must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  return stream;
}
static cudaGraphExec_t end_capture(cudaStream_t stream) {
  cudaGraph_t graph;
  cudaGraphExec_t ready;
  must(cudaStreamEndCapture(stream, &graph));
  must(cudaGraphInstantiate(&ready, graph, 0));
  must(cudaGraphDestroy(graph));
  return ready;
}

/* Played once, and once more when its memory is no longer there. */
static void play_freed(cudaStream_t stream, void *array) {
  cudaGraphExec_t ready = end_capture(stream);
  must(cudaGraphLaunch(ready, stream));
  must(cudaStreamSynchronize(stream));
  fprintf(stderr, "played once\n");
  must(cudaFree(array));
  (void)cudaGraphLaunch(ready, stream);
}
static void kernel_freed(void) {
  float *array = device_new(256 * sizeof *array);
  cudaStream_t stream = begin_capture();
  must(planted_rotate(stream, false, 1, array));
  play_freed(stream, array);
}
static void memset_freed(void) {
  float *array = device_new(256 * sizeof *array);
  cudaStream_t stream = begin_capture();
  must(cudaMemsetAsync(array, 0, 256 * sizeof *array, stream));
  play_freed(stream, array);
}
static void copy_freed(void) {
  float *array = device_new(256 * sizeof *array), *other = device_new(256 * sizeof *array);
  cudaStream_t stream = begin_capture();
  must(cudaMemcpyAsync(other, array, 256 * sizeof *array, cudaMemcpyDeviceToDevice, stream));
  play_freed(stream, array);
}
static void product_freed(void) {
  const float one = 1.0f;
  float *array = device_new(100 * sizeof *array), *work = device_new(100 * sizeof *work);
  cublasHandle_t handle;
  cudaStream_t stream = begin_capture();
  (void)cublasCreate(&handle);
  (void)cublasSetStream(handle, stream);
  (void)cublasSetWorkspace(handle, work, 100 * sizeof *work);
  (void)cublasSgemm(handle, CUBLAS_OP_N, CUBLAS_OP_N, 10, 10, 10, &one, array, 10, array, 10, &one,
                    array, 10);
  play_freed(stream, array);
}
static void pinned_played(void) {
  int *host;
  int *array = device_new(sizeof *array);
  must(cudaMallocHost((void **)&host, sizeof *host));
  host[0] = 1;
  cudaStream_t stream = begin_capture();
  must(cudaMemcpyAsync(array, host, sizeof *host, cudaMemcpyHostToDevice, stream));
  must(cudaGraphLaunch(end_capture(stream), stream));
  host[0] = 2; /* the fault */
  (void)cudaStreamSynchronize(stream);
}
static void blas_without_workspace(void) {
  const float one = 1.0f;
  float *array = device_new(sizeof *array);
  cublasHandle_t handle;
  (void)cublasCreate(&handle);
  (void)cublasSetWorkspace(handle, array, sizeof *array);
  (void)cublasSetStream(handle, begin_capture()); /* the fault: it takes the workspace away */
  (void)cublasSgemm(handle, CUBLAS_OP_N, CUBLAS_OP_N, 1, 1, 1, &one, array, 1, array, 1, &one,
                    array, 1);
}
static void destroyed(void) {
  cudaStream_t stream = begin_capture();
  cudaGraphExec_t ready = end_capture(stream);
  must(cudaGraphExecDestroy(ready));
  (void)cudaGraphLaunch(ready, stream);
}
static void never_destroyed(void) {
  (void)end_capture(begin_capture());
  exit(0);
}

static void test_graphs(void **state) {
  (void)state;
  const char *freed = "AddressSanitizer: heap-use-after-free";
  expect_death(kernel_freed, "played once", freed);
  expect_death(memset_freed, "played once", freed);
  expect_death(copy_freed, "played once", freed);
  expect_death(product_freed, "played once", freed);
  expect_death(pinned_played, "emulation:", "was changed before its cudaMemcpyAsync");
  expect_death(blas_without_workspace, "emulation:", "without cublasSetWorkspace");
  expect_death(destroyed, "emulation:", "does not exist, or no longer");
  expect_death(never_destroyed, "emulation:", "1 graphs were never destroyed");
}

/* --- faults that only show as differences ------------------------------------------------------
 */

enum { BLOCKS = 6, MOST = BLOCKS * 256 };

typedef void run_kernel(bool faulty, float *out);

/* The kernel's results in every order are those of the ascending one. */
static bool same_in_every_order(run_kernel *run, bool faulty) {
  static float first[MOST], got[MOST];
  bool same = true;
  for (uint64_t seed = 0; seed < 4; ++seed) {
    float *out = device_new(sizeof got);
    must(cudaMemset(out, 0, sizeof got));
    av_emulate_order(seed < 2 ? (av_emulated_order)seed : AV_ORDER_SHUFFLED, seed);
    run(faulty, out);
    av_emulate_order(AV_ORDER_ASCENDING, 0);
    device_get(out, seed == 0 ? first : got, sizeof got);
    same = same && (seed == 0 || memcmp(first, got, sizeof got) == 0);
    must(cudaFree(out));
  }
  return same;
}

static void rotate(bool faulty, float *out) { must(planted_rotate(NULL, faulty, BLOCKS, out)); }
static void halving(bool faulty, float *out) { must(planted_halving(NULL, faulty, BLOCKS, out)); }
static void between_blocks(bool faulty, float *out) {
  (void)faulty;
  must(planted_between_blocks(NULL, BLOCKS, out));
}

static void test_missing_barrier(void **state) {
  (void)state;
  assert_true(same_in_every_order(rotate, false));
  assert_false(same_in_every_order(rotate, true));
  assert_true(same_in_every_order(halving, false));
  assert_false(same_in_every_order(halving, true));
  assert_false(same_in_every_order(between_blocks, true));
}

static void test_unwritten(void **state) {
  (void)state;
  float sum = 0.0f;
  float *out = device_new(sizeof sum);
  must(planted_unwritten(NULL, out));
  device_get(out, &sum, sizeof sum);
  assert_true(isnan(sum));
  must(cudaFree(out));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_outside),   cmocka_unit_test(test_divergent),
      cmocka_unit_test(test_host),      cmocka_unit_test(test_missing_barrier),
      cmocka_unit_test(test_unwritten), cmocka_unit_test(test_graphs),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
