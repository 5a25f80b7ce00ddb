/* Results on their way to the host, and how far the host is ahead, on streams that run late and in
 * either order (cuda_host.h): what arrives is what the kernels before wrote, whatever they write
 * after; and of what is queued never more than CUDA takes waits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cuda_host.h"
#include "fetch.h"
#include "rig.h"

#include <stdlib.h>
#include <string.h>

enum { RESULTS = 5 * AV_GPU_FETCH_SLOTS + 1, LONGEST = 700000, LATE = 3, CUDA_TAKES = 1000 };

static av_comm comm;

/* ---- results ---- */

static float value_of(int64_t result, int64_t i) { return (float)(result * 1000 + i % 977); }

/* Large ones too, which several of the host's threads copy. */
static int64_t length_of(int64_t result) { return result % 4 == 1 ? LONGEST : 1 + 37 * result; }

/* A kernel that writes a result, some time later. */
typedef struct kernel {
  float *to;
  int64_t n, result;
  int waits; /* turns of its stream until it runs */
} kernel;

static bool run_kernel(void *context) {
  kernel *of = context;
  if (of->waits-- > 0) {
    return false;
  }
  for (int64_t i = 0; i < of->n; ++i) {
    of->to[i] = value_of(of->result, i);
  }
  return true;
}

static void send(rig *r, av_gpu_fetch **fetch, int64_t result) {
  static const av_stream_work work = {.run = run_kernel};
  void *slot = NULL;
  const int64_t n = length_of(result);
  const size_t bytes = (size_t)n * sizeof(float); /* of a slot that may be longer */
  const size_t room = bytes + (result % 3 == 1 ? 400 : 0);
  assert_int_equal(av_gpu_fetch_room(&r->be, fetch, room, &slot), AV_OK);
  const kernel of = {
      .to = slot, .n = n, .result = result, .waits = result < RESULTS / 2 ? 0 : LATE};
  assert_int_equal(av_stream_queue(r->gpu.stream, &work, &of, sizeof of), cudaSuccess);
  assert_int_equal(av_gpu_fetch_send(&r->be, *fetch, bytes), AV_OK);
}

static void take(rig *r, av_gpu_fetch *fetch, int64_t result, float *to) {
  const void *arrived = NULL;
  const int64_t n = length_of(result);
  assert_int_equal(av_gpu_fetch_take(&r->be, fetch, "results", &arrived), AV_OK);
  av_gpu_fetch_copy(&r->be, to, arrived, (size_t)n * sizeof *to);
  for (int64_t i = 0; i < n; ++i) {
    if (to[i] != value_of(result, i)) {
      fail_msg("result %d, number %d: %g", (int)result, (int)i, (double)to[i]);
    }
  }
}

static void results(bool youngest_first) {
  const int live = cuda_host_live();
  rig r;
  av_gpu_fetch *fetch = NULL;
  float *to = malloc(LONGEST * sizeof *to);
  assert_non_null(to);
  cuda_host_youngest_first = youngest_first;
  assert_int_equal(rig_open(&r, &comm, true, 0), AV_OK);
  r.be.threads = 2;
  int64_t taken = 0;
  for (int64_t result = 0; result < RESULTS; ++result) {
    send(&r, &fetch, result);
    const int left = result % 7 == 6 ? 0 : AV_GPU_FETCH_SLOTS - 1;
    while (av_gpu_fetch_pending(fetch) > left) {
      take(&r, fetch, taken++, to);
    }
  }
  void *slot = NULL;
  while (av_gpu_fetch_pending(fetch) < AV_GPU_FETCH_SLOTS) { /* and freed under way */
    send(&r, &fetch, 0);
  }
  assert_int_equal(av_gpu_fetch_room(&r.be, &fetch, 1, &slot), AV_BUG);
  av_error_clear();
  av_gpu_fetch_free(&r.be, fetch);
  rig_close(&r);
  free(to);
  assert_int_equal(cuda_host_live(), live);
}

static void copies_first(void **unused) {
  (void)unused;
  results(true);
}
static void kernels_first(void **unused) {
  (void)unused;
  results(false);
}

/* A device that has failed is an error, not a wait. */
static void broken(void **unused) {
  (void)unused;
  rig r;
  av_gpu_fetch *fetch = NULL;
  const void *arrived = NULL;
  assert_int_equal(rig_open(&r, &comm, true, 0), AV_OK);
  r.be.threads = 1;
  assert_int_equal(av_gpu_fetch_take(&r.be, NULL, "results", &arrived), AV_BUG);
  send(&r, &fetch, 0);
  cuda_host_broken = cudaErrorIllegalAddress;
  assert_int_equal(av_gpu_fetch_take(&r.be, fetch, "results", &arrived), AV_BUG);
  assert_non_null(strstr(av_error_text(), "an illegal memory access"));
  av_error_clear();
  cuda_host_broken = cudaSuccess;
  av_gpu_fetch_free(&r.be, fetch);
  rig_close(&r);
}

/* ---- how far ahead ---- */

static int queued, done;

static bool run_and_count(void *context) {
  (void)context;
  ++done;
  return true;
}

/* Nobody asks how far the streams are but who is too far ahead. */
static void not_too_far(void **unused) {
  (void)unused;
  static const av_stream_work work = {.run = run_and_count};
  rig r;
  int most = 0;
  assert_int_equal(rig_open(&r, &comm, true, 0), AV_OK);
  assert_int_equal(av_gpu_ahead_open(&r.gpu), AV_OK);
  for (int i = 0; i < 5 * CUDA_TAKES; ++i) {
    for (int launch = 0; launch < 2; ++launch) {
      assert_int_equal(av_stream_queue(r.gpu.stream, &work, "", 1), cudaSuccess);
      ++queued;
    }
    most = queued - done > most ? queued - done : most;
    av_gpu_ran(&r.be);
  }
  assert_in_range(most, CUDA_TAKES / 4, CUDA_TAKES - 1); /* nor does it wait for each */
  av_gpu_ahead_close(&r.gpu);
  rig_close(&r);
}

int main(int argc, char **argv) {
  if (av_comm_create(&comm, &argc, &argv) != AV_OK) {
    return 1;
  }
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(copies_first),
      cmocka_unit_test(kernels_first),
      cmocka_unit_test(broken),
      cmocka_unit_test(not_too_far),
  };
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  av_comm_free(&comm);
  return failed;
}
