/* The emulation's own operations, in every order of threads and blocks. */
#include "device_array.h"

#include "emulate.h"
#include "unit/unit.h"

#include <cublas_v2.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void in_every_order(void (*check)(void)) {
  for (uint64_t seed = 0; seed < 5; ++seed) {
    av_emulate_order(seed < 2 ? (av_emulated_order)seed : AV_ORDER_SHUFFLED, seed);
    check();
  }
  av_emulate_order(AV_ORDER_ASCENDING, 0);
}

/* --- warps ---------------------------------------------------------------------------------- */

static void expect_warp(int thread, const int *got) {
  const int lane = thread % 32;
  const int first = thread - lane;
  const int segment = lane / 8 * 8;
  assert_int_equal(got[0], first + 5);
  assert_int_equal(got[1], first + (lane + 1) % 32);
  assert_int_equal(got[2], first + (lane ^ 3));
  assert_int_equal(got[3], lane + 4 < 32 ? thread + 4 : thread);
  assert_int_equal(got[4], lane >= 4 ? thread - 4 : thread);
  assert_int_equal(got[5], first + segment + 2);
  assert_int_equal(got[6], lane + 3 < segment + 8 ? thread + 3 : thread);
  assert_int_equal(got[7], 0x49249249);
  assert_int_equal(got[8], lane >= 16);
  assert_int_equal(got[9], lane < 16);
  assert_int_equal(got[10], first + (lane ^ 1));
  assert_int_equal(got[11], lane < 16 ? lane + (lane ^ 8) : lane);
  assert_int_equal(got[12], 31 * 32 / 2);
  assert_int_equal(got[13], 31);
}

static void check_warp(void) {
  enum { BLOCKS = 3, THREADS = 128 };
  static int got[BLOCKS * THREADS][UNIT_WARP_RESULTS];
  int *out = device_new(sizeof got);
  must(unit_warp(NULL, BLOCKS, THREADS, out));
  device_get(out, got, sizeof got);
  for (int i = 0; i < BLOCKS * THREADS; ++i) {
    expect_warp(i, got[i]);
  }
  must(cudaFree(out));
}

static void test_warp(void **state) {
  (void)state;
  in_every_order(check_warp);
}

/* --- blocks --------------------------------------------------------------------------------- */

static void check_block_sum(unsigned threads) {
  enum { BLOCKS = 3, MOST = 1024 };
  static float of_float[BLOCKS * MOST], largest[BLOCKS * MOST];
  static double of_double[BLOCKS * MOST];
  static int of_int[BLOCKS * MOST];
  const size_t n = BLOCKS * (size_t)threads;
  float *a = device_new(n * sizeof *a);
  double *b = device_new(n * sizeof *b);
  int *c = device_new(n * sizeof *c);
  float *d = device_new(n * sizeof *d);
  must(unit_block_sum(NULL, BLOCKS, threads, a, b, c, d));
  device_get(a, of_float, n * sizeof *a);
  device_get(b, of_double, n * sizeof *b);
  device_get(c, of_int, n * sizeof *c);
  device_get(d, largest, n * sizeof *d);
  for (size_t i = 0; i < n; ++i) {
    const size_t first = i / threads * threads;
    const size_t sum = threads * first + threads * (threads - 1) / 2;
    assert_true(of_float[i] == 2.0f * (float)sum);
    assert_true(of_double[i] == 0.5 * (double)sum);
    assert_int_equal(of_int[i], sum + threads);
    assert_true(largest[i] == (float)(i / 32 * 32 + 31));
  }
  must(cudaFree(a));
  must(cudaFree(b));
  must(cudaFree(c));
  must(cudaFree(d));
}

static void check_block_sums(void) {
  check_block_sum(32);
  check_block_sum(256);
  check_block_sum(1024);
}

static void test_block_sum(void **state) {
  (void)state;
  in_every_order(check_block_sums);
}

static void check_plane(void) {
  enum { ROWS = 11, COLUMNS = 70 };
  static int got[ROWS][COLUMNS];
  int *out = device_new(sizeof got);
  must(unit_plane(NULL, ROWS, COLUMNS, out));
  device_get(out, got, sizeof got);
  for (int i = 0; i < ROWS; ++i) {
    for (int j = 0; j < COLUMNS; ++j) {
      assert_int_equal(got[i][j], 1000 * i + j);
    }
  }
  must(cudaFree(out));
}

static void test_plane(void **state) {
  (void)state;
  in_every_order(check_plane);
}

static void check_reverse(void) {
  enum { N = 150 };
  int in[N], got[N];
  for (int i = 0; i < N; ++i) {
    in[i] = 3 * i;
  }
  int *from = device_new(sizeof in);
  int *out = device_new(sizeof got);
  device_set(from, in, sizeof in);
  must(unit_reverse(NULL, N, from, out));
  device_get(out, got, sizeof got);
  for (int i = 0; i < N; ++i) {
    const int first = i / 64 * 64;
    const int here = N - first < 64 ? N - first : 64;
    assert_int_equal(got[i], in[first + here - 1 - (i - first)]);
  }
  must(cudaFree(from));
  must(cudaFree(out));
}

static void test_dynamic_shared(void **state) {
  (void)state;
  in_every_order(check_reverse);
}

static void test_shared_start(void **state) {
  (void)state;
  uint32_t got[10];
  uint32_t *out = device_new(sizeof got);
  must(unit_shared_start(NULL, 5, out, out + 5));
  device_get(out, got, sizeof got);
  for (int i = 0; i < 10; ++i) {
    assert_int_equal(got[i], 0xffffffffu);
  }
  must(cudaFree(out));
}

static void check_atomics(void) {
  struct {
    unsigned long long sum;
    unsigned count;
    int largest, first;
  } got = {0, 0, -5, -1};
  char *out = device_new(sizeof got);
  device_set(out, &got, sizeof got);
  must(unit_atomics(NULL, 1000, (unsigned *)(out + offsetof(__typeof__(got), count)),
                    (int *)(out + offsetof(__typeof__(got), largest)), (unsigned long long *)out,
                    (int *)(out + offsetof(__typeof__(got), first))));
  device_get(out, &got, sizeof got);
  assert_int_equal(got.count, 334);
  assert_int_equal(got.largest, 999);
  assert_int_equal(got.sum, 333 * 334 / 2 * 3);
  assert_int_equal(got.first, 7);
  must(cudaFree(out));
}

static void test_atomics(void **state) {
  (void)state;
  in_every_order(check_atomics);
}

/* --- orders --------------------------------------------------------------------------------- */

enum { TURN_BLOCKS = 4, TURN_THREADS = 96, TURNS = TURN_BLOCKS * TURN_THREADS };

static void run_turns(av_emulated_order order, uint64_t seed, int turn[TURNS]) {
  const int zero = 0;
  int *counter = device_new(sizeof *counter);
  int *out = device_new(TURNS * sizeof *out);
  device_set(counter, &zero, sizeof zero);
  av_emulate_order(order, seed);
  must(unit_turns(NULL, TURN_BLOCKS, TURN_THREADS, counter, out));
  av_emulate_order(AV_ORDER_ASCENDING, 0);
  device_get(out, turn, TURNS * sizeof *out);
  must(cudaFree(counter));
  must(cudaFree(out));
}

static void test_orders(void **state) {
  (void)state;
  int turn[TURNS], again[TURNS];
  int seen[TURNS] = {0};
  run_turns(AV_ORDER_ASCENDING, 0, turn);
  for (int i = 0; i < TURNS; ++i) {
    assert_int_equal(turn[i], i);
  }
  run_turns(AV_ORDER_DESCENDING, 0, turn);
  for (int i = 0; i < TURNS; ++i) {
    assert_int_equal(turn[i], TURNS - 1 - i);
  }
  run_turns(AV_ORDER_SHUFFLED, 3, turn);
  run_turns(AV_ORDER_SHUFFLED, 3, again);
  assert_memory_equal(turn, again, sizeof turn);
  run_turns(AV_ORDER_SHUFFLED, 4, again);
  assert_memory_not_equal(turn, again, sizeof turn);
  for (int i = 0; i < TURNS; ++i) {
    ++seen[turn[i]];
  }
  for (int i = 0; i < TURNS; ++i) {
    assert_int_equal(seen[i], 1);
  }
}

/* --- launches ------------------------------------------------------------------------------- */

static void test_launches(void **state) {
  (void)state;
  assert_int_equal(unit_empty(NULL, 0, 256, 0), cudaSuccess); /* no launch */
  assert_int_equal(unit_empty(NULL, 7, 1024, 48 * 1024), cudaSuccess);
  assert_int_equal(unit_empty(NULL, 1, 1056, 0), cudaErrorInvalidConfiguration);
  assert_int_equal(cudaGetLastError(), cudaSuccess); /* the launcher has taken it */
  assert_int_equal(unit_empty(NULL, 1, 32, 48 * 1024 + 4), cudaErrorInvalidConfiguration);
  assert_int_equal(unit_allow_shared(300 * 1024), cudaErrorInvalidValue);
  assert_int_equal(cudaGetLastError(), cudaErrorInvalidValue);
  assert_int_equal(unit_allow_shared(100 * 1024), cudaSuccess);
  assert_int_equal(unit_empty(NULL, 1, 32, 100 * 1024), cudaSuccess);
  assert_int_equal(unit_empty(NULL, 1, 32, 100 * 1024 + 4), cudaErrorInvalidConfiguration);
}

/* --- the host's calls ------------------------------------------------------------------------ */

static void test_memory(void **state) {
  (void)state;
  size_t before = 0, after = 0, total = 0;
  float got[10];
  void *none = &total;
  must(cudaMemGetInfo(&before, &total));
  float *array = device_new(sizeof got);
  must(cudaMemGetInfo(&after, &total));
  assert_int_equal(before - after, sizeof got);
  assert_int_equal((uintptr_t)array % 256, 0);
  device_get(array, got, sizeof got);
  assert_true(isnan(got[0]) && isnan(got[9])); /* nobody has written it */
  must(cudaMemsetAsync(array, 0, sizeof got, NULL));
  device_get(array, got, sizeof got);
  assert_true(got[0] == 0.0f && got[9] == 0.0f);
  assert_int_equal(cudaMemcpy(got, array, 4, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  assert_int_equal(cudaMemcpy(got, got + 1, 4, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
  assert_int_equal(cudaFree(got), cudaErrorInvalidValue);
  must(cudaFree(array));
  must(cudaFree(NULL));
  av_emulate_memory(1000);
  assert_int_equal(cudaMalloc(&none, 1001), cudaErrorMemoryAllocation);
  assert_null(none);
  av_emulate_memory((size_t)4 << 30);
  (void)cudaGetLastError();
}

static void test_pinned(void **state) {
  (void)state;
  cudaStream_t stream;
  cudaEvent_t event;
  int *host;
  must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  must(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  must(cudaMallocHost((void **)&host, 2 * sizeof *host));
  int *array = device_new(2 * sizeof *array);
  assert_int_equal(cudaEventQuery(event), cudaSuccess); /* nothing recorded */
  host[0] = 5;
  must(cudaMemcpyAsync(array, host, sizeof *host, cudaMemcpyHostToDevice, stream));
  must(cudaMemcpyAsync(host + 1, array, sizeof *host, cudaMemcpyDeviceToHost, stream));
  must(cudaEventRecord(event, stream));
  assert_int_equal(cudaEventQuery(event), cudaErrorNotReady);
  assert_int_equal(cudaEventQuery(event), cudaSuccess);
  assert_int_equal(host[1], 5);
  host[0] = 6;
  must(cudaMemcpyAsync(array, host, sizeof *host, cudaMemcpyHostToDevice, stream));
  must(cudaStreamSynchronize(stream));
  host[0] = 7;
  device_get(array, &host[1], sizeof *host);
  assert_int_equal(host[1], 6);
  must(cudaFree(array));
  must(cudaFreeHost(host));
  must(cudaEventDestroy(event));
  must(cudaStreamDestroy(stream));
}

static void test_devices(void **state) {
  (void)state;
  int n = -1;
  must(cudaGetDeviceCount(&n));
  assert_int_equal(n, 1);
  must(cudaSetDevice(0));
  assert_int_equal(cudaSetDevice(1), cudaErrorInvalidDevice);
  assert_string_equal(cudaGetErrorName(cudaGetLastError()), "cudaErrorInvalidDevice");
  must(cudaDeviceGetAttribute(&n, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0));
  assert_int_equal(n, 227 * 1024);
  av_emulate_devices(0);
  assert_int_equal(cudaGetDeviceCount(&n), cudaErrorNoDevice);
  assert_int_equal(n, 0);
  av_emulate_devices(1);
  (void)cudaGetLastError();
}

/* c = a b + c, column-major: a (2, 3), b (3, 2). */
static void test_cublas(void **state) {
  (void)state;
  const float a[] = {1, 2, 3, 4, 5, 6};
  const float b[] = {1, 0, 2, 0, 1, 0};
  float c[] = {10, 20, 30, 40};
  const float expected[] = {21, 34, 33, 44};
  const float one = 1.0f;
  cublasHandle_t handle;
  float *da = device_new(sizeof a), *db = device_new(sizeof b), *dc = device_new(sizeof c);
  device_set(da, a, sizeof a);
  device_set(db, b, sizeof b);
  device_set(dc, c, sizeof c);
  assert_int_equal(cublasCreate(&handle), CUBLAS_STATUS_SUCCESS);
  assert_int_equal(
      cublasSgemm(handle, CUBLAS_OP_N, CUBLAS_OP_N, 2, 2, 3, &one, da, 2, db, 3, &one, dc, 2),
      CUBLAS_STATUS_SUCCESS);
  device_get(dc, c, sizeof c);
  assert_memory_equal(c, expected, sizeof c);
  /* c += b' a', the transpose of a b */
  assert_int_equal(
      cublasSgemm(handle, CUBLAS_OP_T, CUBLAS_OP_T, 2, 2, 3, &one, db, 3, da, 2, &one, dc, 2),
      CUBLAS_STATUS_SUCCESS);
  device_get(dc, c, sizeof c);
  assert_true(c[0] == 21 + 11 && c[1] == 34 + 3 && c[2] == 33 + 14 && c[3] == 44 + 4);
  assert_int_equal(
      cublasSgemm(handle, CUBLAS_OP_N, CUBLAS_OP_N, 2, 2, 3, &one, da, 1, db, 3, &one, dc, 2),
      CUBLAS_STATUS_INVALID_VALUE);
  assert_int_equal(cublasDestroy(handle), CUBLAS_STATUS_SUCCESS);
  must(cudaFree(da));
  must(cudaFree(db));
  must(cudaFree(dc));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_warp),         cmocka_unit_test(test_block_sum),
      cmocka_unit_test(test_plane),        cmocka_unit_test(test_dynamic_shared),
      cmocka_unit_test(test_shared_start), cmocka_unit_test(test_atomics),
      cmocka_unit_test(test_orders),       cmocka_unit_test(test_launches),
      cmocka_unit_test(test_memory),       cmocka_unit_test(test_pinned),
      cmocka_unit_test(test_devices),      cmocka_unit_test(test_cublas),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
