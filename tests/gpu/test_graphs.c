/* Captures and graphs of the emulation: what is played is what was recorded, and what CUDA forbids
 * in a capture is refused. Expected values are written down here; error codes are those that CUDA's
 * documentation names. */
#include "device_array.h"

#include "emulate.h"
#include "unit/unit.h"

#include <cublas_v2.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { N = 100, BYTES = N * sizeof(int) };

static cudaStream_t stream, side;
static cudaEvent_t ready, done;
static int *a, *b, *c; /* (N) on the device */
static int *host;      /* (N) pinned */

static int set_up(void **state) {
  (void)state;
  must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  must(cudaStreamCreateWithFlags(&side, cudaStreamNonBlocking));
  must(cudaEventCreateWithFlags(&ready, cudaEventDisableTiming));
  must(cudaEventCreateWithFlags(&done, cudaEventDisableTiming));
  a = device_new(BYTES);
  b = device_new(BYTES);
  c = device_new(BYTES);
  must(cudaMallocHost((void **)&host, BYTES));
  must(cudaMemset(a, 0, BYTES));
  return 0;
}

static int tear_down(void **state) {
  (void)state;
  must(cudaFree(a));
  must(cudaFree(b));
  must(cudaFree(c));
  must(cudaFreeHost(host));
  must(cudaEventDestroy(ready));
  must(cudaEventDestroy(done));
  must(cudaStreamDestroy(stream));
  must(cudaStreamDestroy(side));
  (void)cudaGetLastError();
  return av_emulate_counts().live == 0 && av_emulate_counts().graphs == 0 ? 0 : -1;
}

static void begin(cudaStreamCaptureMode mode) { must(cudaStreamBeginCapture(stream, mode)); }

static cudaGraphExec_t end(void) {
  cudaGraph_t graph = NULL;
  cudaGraphExec_t made = NULL;
  must(cudaStreamEndCapture(stream, &graph));
  must(cudaGraphInstantiate(&made, graph, 0));
  must(cudaGraphDestroy(graph)); /* the other goes on without it */
  return made;
}

static void play(cudaGraphExec_t graph) {
  must(cudaGraphLaunch(graph, stream));
  must(cudaStreamSynchronize(stream));
}

/* b = factor * a + term, and so on. */
static void scale(cudaStream_t on, int factor, double term, const int *in, int *out) {
  must(unit_scale(on, N, (unit_line){factor, term}, in, out));
}

static void expect(const int *array, int value) {
  int got[N];
  device_get(array, got, sizeof got);
  for (int i = 0; i < N; ++i) {
    assert_int_equal(got[i], value);
  }
}

static void set(int *array, int value) {
  int values[N];
  for (int i = 0; i < N; ++i) {
    values[i] = value;
  }
  device_set(array, values, sizeof values);
}

/* --- what is played -------------------------------------------------------------------------- */

/* Arguments are those of the call; what pointers point to is that of the launch. */
static void test_arguments(void **state) {
  (void)state;
  unit_line line = {3, 4.0};
  const int *in = a;
  set(b, -1);
  begin(cudaStreamCaptureModeThreadLocal);
  const int64_t before = av_emulate_counts().launches;
  must(unit_scale(stream, N, line, in, b));
  line = (unit_line){0, 0.0};
  in = c;
  cudaGraphExec_t graph = end();
  assert_int_equal(av_emulate_counts().launches, before);
  expect(b, -1); /* nothing has run */
  for (int t = 0; t < 3; ++t) {
    set(a, t);
    play(graph);
    expect(b, 3 * t + 4);
  }
  assert_int_equal(av_emulate_counts().launches, before + 3);
  must(cudaGraphExecDestroy(graph));
}

/* Everything that a stream takes, in the order of the calls; pinned memory as it is then. */
static void test_order(void **state) {
  (void)state;
  begin(cudaStreamCaptureModeThreadLocal);
  must(cudaMemcpyAsync(a, host, BYTES, cudaMemcpyHostToDevice, stream));
  scale(stream, 2, 0, a, b);
  must(cudaMemsetAsync(a, 0, BYTES, stream));
  must(cudaMemcpyAsync(c, b, BYTES, cudaMemcpyDeviceToDevice, stream));
  scale(stream, 1, 5, c, b);
  must(cudaMemcpyAsync(host, b, BYTES, cudaMemcpyDeviceToHost, stream));
  cudaGraphExec_t graph = end();
  for (int i = 0; i < N; ++i) {
    host[i] = i;
  }
  for (int t = 1; t <= 3; ++t) { /* x -> 2 x + 5, starting from i */
    play(graph);
    for (int i = 0; i < N; ++i) {
      assert_int_equal(host[i], (1 << t) * i + 5 * ((1 << t) - 1));
    }
  }
  expect(a, 0);
  must(cudaGraphExecDestroy(graph));
}

/* c = a + a / 10 by way of two streams, one of which comes to the capture by an event. */
static void record_fork(bool waits) {
  begin(cudaStreamCaptureModeThreadLocal);
  must(cudaEventRecord(ready, stream)); /* of an empty stream */
  must(cudaStreamWaitEvent(side, ready, 0));
  scale(stream, 0, 7, a, a);
  must(cudaEventRecord(ready, stream));
  if (waits) {
    must(cudaStreamWaitEvent(side, ready, 0));
  }
  scale(side, 10, 0, a, b);
  scale(stream, 1, 100, a, c);
  must(cudaEventRecord(done, side));
  must(cudaStreamWaitEvent(stream, done, 0));
  must(cudaMemsetAsync(a, 0, BYTES, stream)); /* after both */
}

static int play_in_order(cudaGraphExec_t graph, uint64_t seed) {
  int got = -1;
  set(a, 1);
  av_emulate_order(seed < 2 ? (av_emulated_order)seed : AV_ORDER_SHUFFLED, seed);
  play(graph);
  av_emulate_order(AV_ORDER_ASCENDING, 0);
  expect(c, 107);
  expect(a, 0);
  device_get(b, &got, sizeof got);
  return got;
}

static void test_streams(void **state) {
  (void)state;
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  record_fork(true);
  must(cudaStreamIsCapturing(side, &status));
  assert_int_equal(status, cudaStreamCaptureStatusActive);
  cudaGraphExec_t graph = end();
  must(cudaStreamIsCapturing(side, &status));
  assert_int_equal(status, cudaStreamCaptureStatusNone);
  for (uint64_t seed = 0; seed < 6; ++seed) {
    assert_int_equal(play_in_order(graph, seed), 70);
  }
  must(cudaGraphExecDestroy(graph));
  record_fork(false); /* a fault: it shows as a difference between orders */
  graph = end();
  assert_int_equal(play_in_order(graph, 0), 70);
  assert_int_equal(play_in_order(graph, 1), 10);
  must(cudaGraphExecDestroy(graph));
  scale(side, 1, 1, c, b); /* both streams work as before */
  expect(b, 108);
}

static void test_cublas(void **state) {
  (void)state;
  cublasHandle_t handle;
  float factor = 2.0f, zero = 0.0f, got = 0.0f;
  const float x = 5.0f, y = 11.0f;
  float *dx = device_new(sizeof x), *dy = device_new(sizeof y), *out = device_new(sizeof got);
  device_set(dx, &x, sizeof x);
  device_set(dy, &y, sizeof y);
  assert_int_equal(cublasCreate(&handle), CUBLAS_STATUS_SUCCESS);
  assert_int_equal(cublasSetStream(handle, stream), CUBLAS_STATUS_SUCCESS);
  assert_int_equal(cublasSetWorkspace(handle, a, BYTES), CUBLAS_STATUS_SUCCESS);
  begin(cudaStreamCaptureModeThreadLocal);
  assert_int_equal(
      cublasSgemm(handle, CUBLAS_OP_N, CUBLAS_OP_N, 1, 1, 1, &factor, dx, 1, dy, 1, &zero, out, 1),
      CUBLAS_STATUS_SUCCESS);
  factor = 0.0f;
  cudaGraphExec_t graph = end();
  must(cudaMemset(out, 0, sizeof got));
  play(graph);
  device_get(out, &got, sizeof got);
  assert_true(got == 2.0f * 5.0f * 11.0f);
  must(cudaGraphExecDestroy(graph));
  assert_int_equal(cublasDestroy(handle), CUBLAS_STATUS_SUCCESS);
  must(cudaFree(dx));
  must(cudaFree(dy));
  must(cudaFree(out));
}

/* --- what is refused ------------------------------------------------------------------------- */

static void spoilt(void) {
  cudaGraph_t graph = (cudaGraph_t)host;
  assert_int_equal(unit_scale(stream, N, (unit_line){1, 0}, a, b),
                   cudaErrorStreamCaptureInvalidated);
  assert_int_equal(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);
  assert_null(graph);
}

static cudaError_t allocates(void) {
  void *none;
  const cudaError_t code = cudaMalloc(&none, 8);
  return code == cudaSuccess ? cudaFree(none) : code;
}
static cudaError_t allocates_pinned(void) {
  void *none;
  const cudaError_t code = cudaMallocHost(&none, 8);
  return code == cudaSuccess ? cudaFreeHost(none) : code;
}
static cudaError_t frees(void) { return cudaFree(NULL); }
static cudaError_t copies_at_once(void) {
  return cudaMemcpy(host, a, BYTES, cudaMemcpyDeviceToHost);
}
static cudaError_t asks_event(void) { return cudaEventQuery(done); }
static cudaError_t waits_event(void) { return cudaEventSynchronize(done); }
static cudaError_t asks_other_stream(void) { return cudaStreamQuery(side); }
static cudaError_t waits_other_stream(void) { return cudaStreamSynchronize(side); }

/* Calls that are no part of the stream: allowed in the relaxed mode. */
static void test_unsafe(void **state) {
  (void)state;
  cudaError_t (*const calls[])(void) = {allocates,         allocates_pinned,  frees,
                                        copies_at_once,    asks_event,        waits_event,
                                        asks_other_stream, waits_other_stream};
  for (size_t i = 0; i < sizeof calls / sizeof calls[0]; ++i) {
    must(calls[i]());
    begin(cudaStreamCaptureModeThreadLocal);
    assert_int_equal(calls[i](), cudaErrorStreamCaptureUnsupported);
    spoilt();
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    begin(cudaStreamCaptureModeThreadLocal); /* the thread relaxes, and goes back */
    must(cudaThreadExchangeStreamCaptureMode(&mode));
    must(calls[i]());
    must(cudaThreadExchangeStreamCaptureMode(&mode));
    assert_int_equal(mode, cudaStreamCaptureModeRelaxed);
    must(cudaGraphExecDestroy(end()));
    begin(cudaStreamCaptureModeRelaxed);
    must(calls[i]());
    must(cudaGraphExecDestroy(end()));
  }
}

static cudaError_t waits_stream(void) { return cudaStreamSynchronize(stream); }
static cudaError_t asks_stream(void) { return cudaStreamQuery(stream); }
static cudaError_t waits_device(void) { return cudaDeviceSynchronize(); }
static cudaError_t destroys(void) { return cudaStreamDestroy(stream); }
static cudaError_t copies_pageable(void) {
  int pageable[N] = {0};
  return cudaMemcpyAsync(a, pageable, BYTES, cudaMemcpyHostToDevice, stream);
}
static cudaError_t copies_to_pageable(void) {
  int pageable[N];
  return cudaMemcpyAsync(pageable, a, BYTES, cudaMemcpyDeviceToHost, stream);
}
static cudaError_t copies_nothing(void) {
  return cudaMemcpyAsync(a, b, 0, cudaMemcpyDeviceToDevice, stream);
}
static cudaError_t sets_nothing(void) { return cudaMemsetAsync(a, 0, 0, stream); }
static cudaError_t waits_captured_event(void) {
  must(cudaEventRecord(ready, stream));
  return cudaEventSynchronize(ready);
}
static cudaError_t asks_captured_event(void) {
  must(cudaEventRecord(ready, stream));
  return cudaEventQuery(ready);
}
static cudaError_t waits_outside_event(void) { return cudaStreamWaitEvent(stream, done, 0); }
static cudaError_t default_kernel(void) { return unit_scale(NULL, N, (unit_line){1, 0}, a, b); }
static cudaError_t default_memset(void) { return cudaMemsetAsync(a, 0, BYTES, NULL); }
static cudaError_t default_copy(void) {
  return cudaMemcpyAsync(a, b, BYTES, cudaMemcpyDeviceToDevice, NULL);
}
static cudaError_t default_record(void) { return cudaEventRecord(ready, NULL); }
static cudaError_t default_waits(void) {
  must(cudaEventRecord(ready, stream));
  return cudaStreamWaitEvent(NULL, ready, 0);
}
static cudaError_t ends_elsewhere(void) {
  cudaGraph_t graph;
  must(cudaEventRecord(ready, stream));
  must(cudaStreamWaitEvent(side, ready, 0));
  return cudaStreamEndCapture(side, &graph);
}

/* Refused in every mode. */
static void test_forbidden(void **state) {
  (void)state;
  const struct {
    cudaError_t (*call)(void);
    cudaError_t code;
  } calls[] = {{waits_stream, cudaErrorStreamCaptureUnsupported},
               {asks_stream, cudaErrorStreamCaptureUnsupported},
               {waits_device, cudaErrorStreamCaptureUnsupported},
               {destroys, cudaErrorStreamCaptureUnsupported},
               {copies_pageable, cudaErrorStreamCaptureUnsupported},
               {copies_to_pageable, cudaErrorStreamCaptureUnsupported},
               {copies_nothing, cudaErrorStreamCaptureUnsupported},
               {sets_nothing, cudaErrorStreamCaptureUnsupported},
               {waits_captured_event, cudaErrorCapturedEvent},
               {asks_captured_event, cudaErrorCapturedEvent},
               {waits_outside_event, cudaErrorStreamCaptureIsolation},
               {default_kernel, cudaErrorStreamCaptureImplicit},
               {default_memset, cudaErrorStreamCaptureImplicit},
               {default_copy, cudaErrorStreamCaptureImplicit},
               {default_record, cudaErrorStreamCaptureImplicit},
               {default_waits, cudaErrorStreamCaptureImplicit},
               {ends_elsewhere, cudaErrorStreamCaptureUnmatched}};
  must(cudaEventRecord(done, side));
  for (size_t i = 0; i < sizeof calls / sizeof calls[0]; ++i) {
    begin(cudaStreamCaptureModeThreadLocal);
    assert_int_equal(calls[i].call(), calls[i].code);
    spoilt();
    begin(cudaStreamCaptureModeRelaxed);
    assert_int_equal(calls[i].call(), calls[i].code);
    spoilt();
  }
}

/* A launch that cannot be is refused when it is recorded; the rest of the graph is not. */
static void test_bad_launch(void **state) {
  (void)state;
  begin(cudaStreamCaptureModeThreadLocal);
  assert_int_equal(unit_empty(stream, 1, 1056, 0), cudaErrorInvalidConfiguration);
  scale(stream, 1, 2, a, b);
  cudaGraphExec_t graph = end();
  play(graph);
  expect(b, 2);
  must(cudaGraphExecDestroy(graph));
}

static void test_unjoined(void **state) {
  (void)state;
  cudaGraph_t graph = NULL;
  begin(cudaStreamCaptureModeThreadLocal);
  must(cudaEventRecord(ready, stream));
  must(cudaStreamWaitEvent(side, ready, 0));
  scale(side, 1, 0, a, b);
  must(cudaEventRecord(done, side));
  must(cudaStreamWaitEvent(stream, done, 0));
  scale(side, 1, 0, a, c); /* after the join */
  assert_int_equal(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureUnjoined);
  assert_null(graph);
  assert_int_equal(cudaStreamEndCapture(stream, &graph), cudaErrorIllegalState); /* it has ended */
}

/* What was recorded in a capture stays part of it; recorded anew, an event is as any other. */
static void test_old_event(void **state) {
  (void)state;
  begin(cudaStreamCaptureModeThreadLocal);
  must(cudaEventRecord(ready, stream));
  must(cudaGraphExecDestroy(end()));
  assert_int_equal(cudaEventQuery(ready), cudaErrorCapturedEvent);
  assert_int_equal(cudaEventSynchronize(ready), cudaErrorCapturedEvent);
  assert_int_equal(cudaStreamWaitEvent(side, ready, 0), cudaErrorCapturedEvent);
  must(cudaEventRecord(ready, stream));
  must(cudaEventSynchronize(ready));
  must(cudaStreamWaitEvent(side, ready, 0));
}

/* Work beside a capture, on a stream that is no part of it, runs at once. */
static void test_beside(void **state) {
  (void)state;
  begin(cudaStreamCaptureModeRelaxed);
  scale(stream, 0, 1, a, b);
  scale(side, 0, 2, a, c);
  int got = 0;
  must(cudaMemcpyAsync(host, c, sizeof got, cudaMemcpyDeviceToHost, side));
  must(cudaStreamSynchronize(side));
  assert_int_equal(host[0], 2);
  cudaGraphExec_t graph = end();
  play(graph);
  expect(b, 1);
  must(cudaGraphExecDestroy(graph));
}

int main(void) {
#define TEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
  const struct CMUnitTest tests[] = {
      TEST(test_arguments), TEST(test_order),     TEST(test_streams),    TEST(test_cublas),
      TEST(test_unsafe),    TEST(test_forbidden), TEST(test_bad_launch), TEST(test_unjoined),
      TEST(test_old_event), TEST(test_beside),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
