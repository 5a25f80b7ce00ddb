/* Sums over the ranks of the cuda backend, through NCCL (its stand-in) and through MPI: values,
 * order of streams, what is counted. Run on 1, 2 and 3 ranks. How runs end: ranks_test.sh. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cuda_host.h"
#include "rig.h"
#include "standin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATIENCE = 60 };

static av_comm comm;
static av_traffic traffic;
static rig r;

/* Every way to be tried: through NCCL at once or asked often, streams in both orders; through MPI.
 */
typedef struct way {
  bool through_mpi;
  int polls;
  bool youngest_first;
} way;
static const way ways[] = {
    {false, 0, false}, {false, 0, true}, {false, 7, false}, {false, 7, true}, {true, 0, false}};
enum { WAYS = sizeof ways / sizeof ways[0] };

static void open_way(const way *w) {
  standin = (av_standin){.polls = w->polls};
  cuda_host_youngest_first = w->youngest_first;
  traffic = (av_traffic){0};
  comm.traffic = &traffic;
  assert_int_equal(rig_open(&r, &comm, w->through_mpi, PATIENCE), AV_OK);
  assert_int_equal(r.be.sums, comm.size == 1   ? AV_SUMS_BESIDE
                              : w->through_mpi ? AV_SUMS_AT_ONCE
                                               : AV_SUMS_IN_TURN);
}

static void close_way(void) {
  rig_close(&r);
  assert_null(standin.misused);
  assert_int_equal(standin.communicators, 0);
  assert_int_equal(standin.aborts, 0);
}

static void *make(av_kind kind, int64_t n) {
  void *array = NULL;
  assert_int_equal(cudaMalloc(&array, (size_t)n * r.be.bytes[kind]), cudaSuccess);
  return array;
}

static double at(const void *array, av_kind kind, int64_t i) {
  return kind == AV_SUM ? ((const double *)array)[i] : (double)((const float *)array)[i];
}

/* Small whole numbers: sums are exact in any order. */
static double term(int64_t i, int rank, int64_t salt) {
  return (double)((i * 7 + salt) % 13) + 20.0 * rank;
}
static double term_sum(int64_t i, int64_t salt) {
  double sum = 0.0;
  for (int rank = 0; rank < comm.size; ++rank) {
    sum += term(i, rank, salt);
  }
  return sum;
}

/* What kernels would have queued: this rank's terms appear in the array in the stream's turn. */
typedef struct filling {
  void *array;
  av_kind kind;
  int64_t n, salt;
  const int64_t *more; /* added to the salt when it runs; NULL: nothing */
} filling;

static bool run_filling(void *context) {
  const filling *f = context;
  const int64_t salt = f->salt + (f->more != NULL ? *f->more : 0);
  for (int64_t i = 0; i < f->n; ++i) {
    const double value = term(i, comm.rank, salt);
    if (f->kind == AV_SUM) {
      ((double *)f->array)[i] = value;
    } else {
      ((float *)f->array)[i] = (float)value;
    }
  }
  return true;
}

static void queue_filling(filling f) {
  static const av_stream_work work = {.run = run_filling};
  assert_int_equal(av_stream_queue(r.gpu.stream, &work, &f, sizeof f), cudaSuccess);
}

static void fill(void *array, av_kind kind, int64_t n, int64_t salt) {
  queue_filling((filling){array, kind, n, salt, NULL});
}

static void wait_all(void) { assert_int_equal(av_gpu_wait(&r.be, "the test"), AV_OK); }

static const int64_t lengths[] = {0, 1, 15, 16, 17, 40, 48, 96, 1000, 5000};
enum { LENGTHS = sizeof lengths / sizeof lengths[0], FEW = 3 };

/* ---- values ---- */

static void check_sum(av_kind kind, int64_t n) {
  void *array = make(kind, n);
  fill(array, kind, n, 3);
  av_gpu_allreduce(&r.be, kind, array, n);
  wait_all();
  for (int64_t i = 0; i < n; ++i) {
    assert_true(at(array, kind, i) == term_sum(i, 3));
  }
  cudaFree(array);
}

static void sums(void **unused) {
  (void)unused;
  for (int w = 0; w < WAYS; ++w) {
    open_way(&ways[w]);
    for (int l = 0; l < LENGTHS; ++l) {
      check_sum(AV_SUM, lengths[l]);
      check_sum(AV_GRAD, lengths[l]);
      check_sum(AV_REAL, lengths[l]);
    }
    close_way();
  }
}

/* More than a piece of pinned memory. */
static void long_sums(void **unused) {
  (void)unused;
  for (int w = 3; w < WAYS; ++w) {
    open_way(&ways[w]);
    check_sum(AV_REAL, 9500000);
    check_sum(AV_SUM, 2500000);
    close_way();
  }
}

static void check_own(const void *array, av_kind kind, int64_t n, int64_t salt) {
  const int64_t first = av_share_first(&comm, n, comm.rank);
  const int64_t end = av_share_first(&comm, n, comm.rank + 1);
  for (int64_t i = 0; i < n; ++i) {
    const bool own = comm.size == 1 || (i >= first && i < end);
    assert_true(at(array, kind, i) == (own ? term_sum(i, salt) : 0.0));
  }
}

/* Two sums by shares, with other work and a sum to all between; then all of it everywhere. After
 * the last begin nothing but share_end makes the main stream wait. */
static void check_shares(av_kind kind, int64_t n) {
  enum { ARRAYS = 2 };
  void *array[ARRAYS];
  void *between = make(AV_SUM, FEW);
  for (int64_t a = 0; a < ARRAYS; ++a) {
    array[a] = make(kind, n);
    fill(array[a], kind, n, a);
    av_gpu_share_begin(&r.be, kind, array[a], n);
    if (a == 0) {
      fill(between, AV_SUM, FEW, 5);
      av_gpu_allreduce(&r.be, AV_SUM, between, FEW);
    }
  }
  av_gpu_share_end(&r.be);
  void *copies[ARRAYS]; /* what a kernel of the main stream would read now */
  const size_t bytes = (size_t)n * r.be.bytes[kind];
  for (int64_t a = 0; a < ARRAYS; ++a) {
    copies[a] = make(kind, n);
    cudaMemcpyAsync(copies[a], array[a], bytes, cudaMemcpyDeviceToDevice, r.gpu.stream);
  }
  for (int64_t a = 0; a < ARRAYS; ++a) {
    av_gpu_gather_begin(&r.be, kind, array[a], n);
  }
  av_gpu_gather_end(&r.be);
  wait_all();
  for (int64_t a = 0; a < ARRAYS; ++a) {
    check_own(copies[a], kind, n, a);
    for (int64_t i = 0; i < n; ++i) {
      assert_true(at(array[a], kind, i) == term_sum(i, a));
    }
    cudaFree(copies[a]);
    cudaFree(array[a]);
  }
  for (int64_t i = 0; i < FEW; ++i) {
    assert_true(at(between, AV_SUM, i) == term_sum(i, 5));
  }
  cudaFree(between);
}

static void shares(void **unused) {
  (void)unused;
  for (int w = 0; w < WAYS; ++w) {
    open_way(&ways[w]);
    for (int l = 0; l < LENGTHS; ++l) {
      check_shares(AV_GRAD, lengths[l]);
      check_shares(AV_SUM, lengths[l]);
    }
    av_gpu_share_end(&r.be); /* nothing is under way */
    av_gpu_gather_end(&r.be);
    close_way();
  }
}

/* A sum that is not exact: the same bits on all ranks, and again. */
static void same_bits(void **unused) {
  (void)unused;
  enum { N = 1000, TIMES = 3 };
  for (int w = 0; w < WAYS; ++w) {
    open_way(&ways[w]);
    float *array = make(AV_GRAD, N);
    float first[N];
    for (int t = 0; t < TIMES; ++t) {
      for (int i = 0; i < N; ++i) {
        array[i] = 1.0f / (float)(3 + i + 7 * comm.rank);
      }
      av_gpu_share_begin(&r.be, AV_GRAD, array, N);
      av_gpu_share_end(&r.be);
      av_gpu_gather_begin(&r.be, AV_GRAD, array, N);
      av_gpu_gather_end(&r.be);
      av_gpu_allreduce(&r.be, AV_GRAD, array, N);
      wait_all();
      if (t == 0) {
        memcpy(first, array, sizeof first);
      }
      assert_memory_equal(array, first, sizeof first);
    }
    assert_int_equal(av_bcast(&comm, first, (int64_t)sizeof first), AV_OK);
    assert_memory_equal(array, first, sizeof first);
    cudaFree(array);
    close_way();
  }
}

/* ---- who waits for what ---- */

/* Nothing runs before somebody waits: operations through NCCL only queue. */
static void queued_only(void **unused) {
  (void)unused;
  if (comm.size == 1) {
    return;
  }
  open_way(&ways[2]);
  enum { N = 64 };
  void *array = make(AV_GRAD, N);
  fill(array, AV_GRAD, N, 0);
  av_gpu_allreduce(&r.be, AV_GRAD, array, N);
  av_gpu_share_begin(&r.be, AV_GRAD, array, N);
  av_gpu_share_end(&r.be);
  av_gpu_gather_begin(&r.be, AV_GRAD, array, N);
  av_gpu_gather_end(&r.be);
  assert_int_equal(standin.operations, 0);
  assert_int_equal(standin.groups, 3);
  wait_all();
  assert_int_equal(standin.operations, 1 + 2 * comm.size);
  cudaFree(array);
  close_way();
}

/* Arrays are gathered through NCCL in one operation, up to eight of them; what is queued for the
 * next array meanwhile is no part of it. */
static void gathered_together(void **unused) {
  (void)unused;
  if (comm.size == 1) {
    return;
  }
  enum { N = 40, ARRAYS = 9, TOGETHER = 8 };
  for (int w = 0; w < WAYS; ++w) {
    open_way(&ways[w]);
    float *array[ARRAYS];
    for (int arrays = 1; arrays <= ARRAYS; ++arrays) {
      const int groups = standin.groups;
      const int64_t operations = traffic.operations;
      for (int a = 0; a < arrays; ++a) {
        array[a] = make(AV_REAL, N + a);
        fill(array[a], AV_REAL, N + a, a);
        av_gpu_gather_begin(&r.be, AV_REAL, array[a], N + a);
      }
      av_gpu_gather_end(&r.be);
      wait_all();
      const int queued = arrays <= TOGETHER ? 1 : 2;
      assert_int_equal(standin.groups - groups, ways[w].through_mpi ? 0 : queued);
      assert_int_equal(traffic.operations - operations, ways[w].through_mpi ? arrays : queued);
      for (int a = 0; a < arrays; ++a) {
        for (int rank = 0; rank < comm.size; ++rank) {
          const int64_t end = av_share_first(&comm, N + a, rank + 1);
          for (int64_t i = av_share_first(&comm, N + a, rank); i < end; ++i) {
            assert_true(array[a][i] == (float)term(i, rank, a));
          }
        }
        cudaFree(array[a]);
      }
    }
    close_way();
  }
}

/* An event of the stream is waited for alone; "not ready" is nobody's error afterwards. */
static void events(void **unused) {
  (void)unused;
  for (int w = 0; w < WAYS; ++w) {
    open_way(&ways[w]);
    enum { N = 20 };
    cudaEvent_t event = NULL;
    cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
    assert_int_equal(av_gpu_wait_event(&r.be, event, "nothing"), AV_OK);
    void *array = make(AV_GRAD, N);
    fill(array, AV_GRAD, N, 0);
    av_gpu_allreduce(&r.be, AV_GRAD, array, N);
    cudaEventRecord(event, r.gpu.stream);
    assert_int_equal(av_gpu_wait_event(&r.be, event, "the test"), AV_OK);
    assert_int_equal(cudaGetLastError(), cudaSuccess);
    assert_true(at(array, AV_GRAD, 1) == term_sum(1, 0));
    cudaEventDestroy(event);
    cudaFree(array);
    close_way();
  }
}

/* A rank alone gets the GPU's failure as a status. */
static void broken_alone(void **unused) {
  (void)unused;
  if (comm.size > 1) {
    return;
  }
  open_way(&ways[0]);
  cuda_host_broken = cudaErrorIllegalAddress;
  assert_int_equal(av_gpu_wait(&r.be, "the test"), AV_BUG);
  assert_non_null(strstr(av_error_text(), "an illegal memory access"));
  av_error_clear();
  cuda_host_broken = cudaSuccess;
  close_way();
}

/* Rank 0 gets no invitation from NCCL: all ranks go on with that status, and can try again. */
static void no_invitation(void **unused) {
  (void)unused;
  if (comm.size == 1) {
    return;
  }
  standin = (av_standin){.no_id = comm.rank == 0};
  assert_int_equal(rig_open(&r, &comm, false, PATIENCE), AV_IOERR);
  assert_string_equal(
      av_error_text(),
      "rank 0, starting NCCL: NCCL: unhandled system error "
      "(run with NCCL_DEBUG=INFO for details); NCCL_DEBUG=INFO tells more, [runtime] "
      "gpu_sums = mpi does without NCCL");
  av_error_clear();
  assert_null(r.gpu.ranks);
  rig_close(&r);
  open_way(&ways[2]);
  close_way();
}

/* ---- the environment ---- */

static av_status open_for(bool same_bits) {
  r.be.same_bits = same_bits;
  return av_gpu_ranks_open(&r.be, &r.gpu.ranks);
}

static void check_env(const char *name, const char *expected) {
  const char *value = getenv(name);
  assert_non_null(value);
  assert_string_equal(value, expected);
}

/* Where bits are promised, what varies from run to run is switched off, or refused: on all ranks
 * though one of them alone asks for it. */
static void switches(void **unused) {
  (void)unused;
  static const char *const names[] = {"NCCL_NVLS_ENABLE", "NCCL_COLLNET_ENABLE"};
  if (comm.size == 1) {
    return;
  }
  open_way(&ways[0]);
  struct av_gpu_ranks *const before = r.gpu.ranks;
  for (int i = 0; i < 2; ++i) {
    char text[200];
    snprintf(text, sizeof text, "[runtime] reproducible: %s = 1 in the environment ", names[i]);
    setenv(names[i], comm.rank == comm.size - 1 ? "1" : "", 1);
    assert_int_equal(open_for(true), AV_CONFIG);
    assert_memory_equal(av_error_text(), text, strlen(text));
    av_error_clear();
    assert_null(r.gpu.ranks);
    assert_int_equal(open_for(false), AV_OK);
    av_gpu_ranks_close(&r.be, r.gpu.ranks);
    if (comm.rank == comm.size - 1) {
      check_env(names[i], "1"); /* the user's wish, as nothing is promised */
    }
    unsetenv(names[i]);
  }
  assert_int_equal(open_for(true), AV_OK);
  av_gpu_ranks_close(&r.be, r.gpu.ranks);
  check_env(names[0], "0");
  check_env(names[1], "0");
  check_env("NCCL_GRAPH_REGISTER", "0");
  r.gpu.ranks = before;
  close_way();
}

/* ---- captured ---- */

/* The sums of a training step: by shares beside, of two parts, to all meanwhile, and both parts
 * gathered. The step's number, `at`, is on the device, and so are all results. */
enum { PARTS = 2 };
typedef struct step {
  av_kind kind;
  int64_t n[PARTS];
  void *grads[PARTS], *own[PARTS], *sums;
  int64_t *at;
} step;

static step make_step(av_kind kind, int64_t n) {
  step s = {.kind = kind, .n = {n, 2 * n + 3}, .sums = make(AV_SUM, FEW), .at = make(AV_SUM, 1)};
  for (int p = 0; p < PARTS; ++p) {
    s.grads[p] = make(kind, s.n[p]);
    s.own[p] = make(kind, s.n[p]);
  }
  return s;
}

static void free_step(const step *s) {
  for (int p = 0; p < PARTS; ++p) {
    cudaFree(s->grads[p]);
    cudaFree(s->own[p]);
  }
  cudaFree(s->sums);
  cudaFree(s->at);
}

static void queue_step(const step *s) {
  for (int p = 0; p < PARTS; ++p) {
    queue_filling((filling){s->grads[p], s->kind, s->n[p], p, s->at});
    av_gpu_share_begin(&r.be, s->kind, s->grads[p], s->n[p]);
  }
  queue_filling((filling){s->sums, AV_SUM, FEW, PARTS, s->at});
  av_gpu_allreduce(&r.be, AV_SUM, s->sums, FEW);
  av_gpu_share_end(&r.be);
  for (int p = 0; p < PARTS; ++p) {
    const size_t bytes = (size_t)s->n[p] * r.be.bytes[s->kind];
    assert_int_equal(
        cudaMemcpyAsync(s->own[p], s->grads[p], bytes, cudaMemcpyDeviceToDevice, r.gpu.stream),
        cudaSuccess);
    av_gpu_gather_begin(&r.be, s->kind, s->grads[p], s->n[p]);
  }
  av_gpu_gather_end(&r.be);
}

static void check_step(const step *s) {
  for (int p = 0; p < PARTS; ++p) {
    check_own(s->own[p], s->kind, s->n[p], p + *s->at);
    for (int64_t i = 0; i < s->n[p]; ++i) {
      assert_true(at(s->grads[p], s->kind, i) == term_sum(i, p + *s->at));
    }
  }
  for (int64_t i = 0; i < FEW; ++i) {
    assert_true(at(s->sums, AV_SUM, i) == term_sum(i, PARTS + *s->at));
  }
}

static void begin_capture(void) {
  assert_int_equal(cudaStreamBeginCapture(r.gpu.stream, cudaStreamCaptureModeThreadLocal),
                   cudaSuccess);
}

static cudaGraphExec_t end_capture(void) {
  cudaGraph_t graph;
  cudaGraphExec_t ready;
  assert_int_equal(cudaStreamEndCapture(r.gpu.stream, &graph), cudaSuccess);
  assert_int_equal(cudaGraphInstantiate(&ready, graph, 0), cudaSuccess);
  cudaGraphDestroy(graph);
  return ready;
}

/* As a training loop does it: once as ever, once captured, played again and again, others between.
 */
static void check_captured(av_kind kind, int64_t n) {
  enum { STEPS = 5, OTHER = 3 };
  const step s = make_step(kind, n);
  cudaGraphExec_t ready = NULL;
  for (*s.at = 0; *s.at < STEPS; ++*s.at) {
    const int before = standin.operations;
    if (*s.at == 1) {
      begin_capture();
      queue_step(&s);
      ready = end_capture();
      wait_all();
      assert_int_equal(standin.operations, before); /* nothing has run */
    }
    if (*s.at == 0 || *s.at == OTHER) {
      queue_step(&s);
    } else {
      assert_int_equal(cudaGraphLaunch(ready, r.gpu.stream), cudaSuccess);
      assert_int_equal(cudaGraphLaunch(ready, r.gpu.stream), cudaSuccess); /* the same once more */
    }
    wait_all();
    assert_true(comm.size == 1 || standin.operations > before);
    check_step(&s);
  }
  cudaGraphExecDestroy(ready);
  free_step(&s);
}

static void captured_steps(void **unused) {
  (void)unused;
  for (int w = 0; w < WAYS; ++w) {
    if (!ways[w].through_mpi) {
      open_way(&ways[w]);
      check_captured(AV_GRAD, 1);
      check_captured(AV_GRAD, 17);
      check_captured(AV_SUM, 1000);
      close_way();
    }
  }
}

/* A main stream that never waits for the sums beside makes no graph; the next capture does. */
static void unjoined(void **unused) {
  (void)unused;
  if (comm.size == 1) {
    return;
  }
  open_way(&ways[2]);
  void *array = make(AV_GRAD, 40);
  cudaGraph_t graph = NULL;
  begin_capture();
  av_gpu_share_begin(&r.be, AV_GRAD, array, 40);
  assert_int_equal(cudaStreamEndCapture(r.gpu.stream, &graph), cudaErrorStreamCaptureUnjoined);
  av_gpu_share_end(&r.be);
  cudaFree(array);
  close_way();
}

/* What waits for the GPU is refused in a capture, and spoils it; in the relaxed mode events from
 * outside may be asked for. */
static void waits_in_captures(void **unused) {
  (void)unused;
  open_way(&ways[0]);
  cudaEvent_t event = NULL;
  cudaGraph_t graph = NULL;
  cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
  cudaEventRecord(event, r.gpu.stream);
  begin_capture();
  assert_int_equal(cudaEventQuery(event), cudaErrorStreamCaptureUnsupported);
  assert_int_equal(cudaStreamEndCapture(r.gpu.stream, &graph), cudaErrorStreamCaptureInvalidated);
  assert_int_equal(cudaStreamBeginCapture(r.gpu.stream, cudaStreamCaptureModeRelaxed), cudaSuccess);
  assert_int_equal(av_gpu_wait_event(&r.be, event, "the test"), AV_OK);
  assert_int_equal(cudaStreamQuery(r.gpu.stream), cudaErrorStreamCaptureUnsupported);
  assert_int_equal(cudaStreamEndCapture(r.gpu.stream, &graph), cudaErrorStreamCaptureInvalidated);
  cudaEventDestroy(event);
  close_way();
}

/* ---- what is counted ---- */

static void counted(void **unused) {
  (void)unused;
  enum { N = 100 };
  for (int w = 0; w < WAYS; ++w) {
    open_way(&ways[w]);
    void *array = make(AV_SUM, N);
    fill(array, AV_SUM, N, 0);
    av_gpu_allreduce(&r.be, AV_SUM, array, N);
    const int64_t all = av_traffic_sum(&comm, N, sizeof(double));
    assert_int_equal(traffic.operations, comm.size == 1 ? 0 : 1);
    assert_int_equal(traffic.bytes, all);
    av_gpu_share_begin(&r.be, AV_GRAD, array, N);
    av_gpu_share_end(&r.be);
    const int64_t own =
        av_share_first(&comm, N, comm.rank + 1) - av_share_first(&comm, N, comm.rank);
    const int64_t halves = (N - own + (comm.size - 1) * own) * (int64_t)sizeof(float);
    av_gpu_gather_begin(&r.be, AV_GRAD, array, N);
    av_gpu_gather_end(&r.be);
    wait_all();
    assert_int_equal(traffic.operations, comm.size == 1 ? 0 : 3);
    assert_int_equal(traffic.bytes, comm.size == 1 ? 0 : all + halves);
    assert_int_equal(traffic.queued, comm.size > 1 && !ways[w].through_mpi);
    cudaFree(array);
    close_way();
  }
}

static int nothing_left(void **unused) {
  (void)unused;
  return cuda_host_live() == 0 ? 0 : -1;
}

int main(int argc, char **argv) {
  if (av_comm_create(&comm, &argc, &argv) != AV_OK) {
    return 1;
  }
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_teardown(sums, nothing_left),
      cmocka_unit_test_teardown(long_sums, nothing_left),
      cmocka_unit_test_teardown(shares, nothing_left),
      cmocka_unit_test_teardown(same_bits, nothing_left),
      cmocka_unit_test_teardown(queued_only, nothing_left),
      cmocka_unit_test_teardown(gathered_together, nothing_left),
      cmocka_unit_test_teardown(events, nothing_left),
      cmocka_unit_test_teardown(broken_alone, nothing_left),
      cmocka_unit_test_teardown(no_invitation, nothing_left),
      cmocka_unit_test_teardown(switches, nothing_left),
      cmocka_unit_test_teardown(captured_steps, nothing_left),
      cmocka_unit_test_teardown(unjoined, nothing_left),
      cmocka_unit_test_teardown(waits_in_captures, nothing_left),
      cmocka_unit_test_teardown(counted, nothing_left),
  };
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  av_comm_free(&comm);
  return failed;
}
