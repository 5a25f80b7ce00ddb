/* The trial of a decoder's ways (gpu/trial.h): every way is tried and timed, by itself; the one
 * that takes least is taken from then on, by all ranks; a tie goes to the one that writes no rows;
 * and nothing is tried where that was not asked for. The linker puts planted times in the place of
 * the device's (--wrap): those of the way that the decoder really went between the two events.
 * Device code is the program's own, and graphs are played. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cuda_backend.h"
#include "tested_cuda.h"

#include "backend/gpu_decode.h"
#include "config/config.h"
#include "math/rng.h"
#include "model/rig.h"
#include "state.h"
#include "trial.h"

#include <math.h>
#include <string.h>

enum { CELLS = 24, STEPS = 94, LARGER = 84, FEW_STEPS = 6, EVENTS = 1000 };
enum { NONE = AV_GPU_DECODE_NO_ROWS, KEPT = AV_GPU_DECODE_KEPT, WIDE = AV_GPU_DECODE_WIDE };

static av_comm comm;

/* --- what happens --------------------------------------------------------------------------- */

static struct {
  float ms[AV_GPU_DECODE_WAYS]; /* planted */
  int went;                     /* the decoder's way in the step under way */
  cudaEvent_t started[EVENTS];
  int way_of[EVENTS]; /* of the step that began with the event; -1: nobody may ask */
  int n_events;
  int64_t n_timed[AV_GPU_DECODE_WAYS];
} seen;

av_gpu_decode_cut __real_av_gpu_decode_cut_of(const av_gpu_decode_sizes *of);
av_gpu_decode_cut __wrap_av_gpu_decode_cut_of(const av_gpu_decode_sizes *of);
av_gpu_decode_cut __wrap_av_gpu_decode_cut_of(const av_gpu_decode_sizes *of) {
  const av_gpu_decode_cut cut = __real_av_gpu_decode_cut_of(of);
  seen.went = cut.wide ? WIDE : cut.kept ? KEPT : NONE;
  return cut;
}

cudaError_t __wrap_cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t stop);
cudaError_t __wrap_cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t stop) {
  assert_non_null(start);
  assert_non_null(stop);
  for (int e = 0; e < seen.n_events; ++e) {
    if (seen.started[e] == start) {
      assert_in_range(seen.way_of[e], 0, AV_GPU_DECODE_WAYS - 1);
      /* some steps take long, for reasons of their own */
      const int64_t n = seen.n_timed[seen.way_of[e]]++;
      *ms = n % 5 == 4 ? 100.0F : seen.ms[seen.way_of[e]];
      return cudaSuccess;
    }
  }
  fail_msg("time since an event that no step began with");
  return cudaErrorInvalidValue;
}

cudaError_t __real_cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t __wrap_cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t __wrap_cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  assert_true(seen.n_events < EVENTS);
  seen.started[seen.n_events] = event; /* those of others are never asked for */
  seen.way_of[seen.n_events++] = -1;
  return __real_cudaEventRecord(event, stream);
}

/* --- training ------------------------------------------------------------------------------- */

typedef struct outcome {
  int way[STEPS];
  double values[4096];
} outcome;

/* As the last minibatch of an epoch. From step LARGER on the others are larger than any before:
 * when every trial is over. */
static bool is_short(int64_t step) { return step % 10 == 9; }

static void train(const rig_kind *kind, const av_model_spec *spec, int steps, outcome *found) {
  const toy_extras none = {.levels = {0}};
  rig r;
  memset(found, 0, sizeof *found);
  rig_open_with(&r, kind, &comm, *spec, &none, CELLS);
  for (int64_t step = 0; step < steps; ++step) {
    int64_t cells[CELLS];
    const int64_t n = is_short(step) ? 5 : step < LARGER ? 11 : 12;
    for (int64_t i = 0; i < n; ++i) {
      cells[i] = (7 * i + 11 * step) % CELLS;
    }
    const av_draw draw = {.seed = 5, .epoch = (uint32_t)(step / 4), .purpose = AV_DRAW_LATENT};
    const av_adam adam = {.lr = 1e-3,
                          .beta1 = 0.9,
                          .beta2 = 0.999,
                          .eps = 0.01,
                          .scale = 1.0 / (double)n,
                          .step = step + 1};
    rig_select(&r, n, cells);
    const int before = seen.n_events;
    av_vae_train_step(r.vae, r.batch, n, draw, 0.5, &adam);
    av_vae_update(r.vae, &adam);
    found->way[step] = seen.went;
    for (int e = before; e < seen.n_events; ++e) {
      seen.way_of[e] = is_short(step) ? -1 : seen.went;
    }
    seen.n_events = step == 0 ? 0 : seen.n_events;
  }
  assert_true(r.layout->n_params + r.layout->n_running <= 4096);
  assert_int_equal(av_vae_get_values(r.vae, found->values, found->values + r.layout->n_params),
                   AV_OK);
  rig_close(&r);
}

static outcome found;
static outcome other;

static rig_kind measured(bool keeps) {
  return (rig_kind){.ops = &av_backend_cuda,
                    .keeps_passes = keeps,
                    .gpu_rows = AV_GPU_ROWS_MEASURED,
                    .sums_by_mpi = comm.size > 1};
}

static void plant(float none, float kept, float wide) {
  memset(&seen, 0, sizeof seen);
  seen.ms[NONE] = none;
  seen.ms[KEPT] = kept;
  seen.ms[WIDE] = wide;
}

/* 3 inputs and 2 columns: all are inputs without rows, or logits are products. With 14 and 8 rows
 * may be kept for the columns alone, too. */
static av_model_spec few(void) {
  return rig_spec(true, AV_LIKELIHOOD_NB, AV_DISPERSION_GENE, false, 1, 2);
}
static av_model_spec many(void) {
  av_model_spec spec = rig_spec(true, AV_LIKELIHOOD_ZINB, AV_DISPERSION_GENE, false, 1, 8);
  spec.n_latent = 14;
  return spec;
}

/* Each way has 19 steps of full minibatches, in turn; then 16 without rows; then `wanted`. The
 * others go without rows before that, and never have their time taken. */
static void check_ways(const int *ways, int n, int steps, int wanted) {
  int full = 0;
  for (int step = 0; step < steps; ++step) {
    const bool tried = !is_short(step) && full < 19 * n;
    const int expected = tried ? ways[full % n] : full <= 19 * n + 16 ? NONE : wanted;
    full += is_short(step) ? 0 : 1;
    const bool last = full == 19 * n + 17; /* the first that goes the way taken */
    if (found.way[step] != (last ? wanted : expected)) {
      fail_msg("step %d went way %d, not %d", step, found.way[step], expected);
    }
  }
  assert_true(full > 19 * n + 17);
  for (int w = 0; w < n; ++w) {
    assert_int_equal(seen.n_timed[ways[w]], 16);
  }
}

static void check_near(const outcome *a, const outcome *b, double tolerance) {
  for (size_t i = 0; i < sizeof a->values / sizeof *a->values; ++i) {
    const double gap = fabs(a->values[i] - b->values[i]);
    if (!(gap <= tolerance * (1.0 + fabs(b->values[i])))) {
      fail_msg("value %zu: %.9g, expected %.9g", i, a->values[i], b->values[i]);
    }
  }
}

/* The fastest of three is taken. Steps of the trial are steps of training: the same bits kernel by
 * kernel, and but for rounding what a run without a trial makes. */
static void test_three(void **state) {
  (void)state;
  const int ways[] = {NONE, KEPT, WIDE};
  const av_model_spec spec = many();
  const rig_kind played = measured(true);
  const rig_kind queued = measured(false);
  const rig_kind never = {.ops = &av_backend_cuda};
  plant(1.0F, 0.8F, 0.9F);
  train(&played, &spec, STEPS, &found);
  check_ways(ways, 3, STEPS, KEPT);
  plant(1.0F, 0.8F, 0.9F);
  train(&queued, &spec, STEPS, &other);
  check_near(&found, &other, 0.0);
  plant(1.0F, 0.8F, 0.9F);
  train(&never, &spec, STEPS, &other);
  check_near(&found, &other, 2e-3);
}

static void test_best(void **state) {
  (void)state;
  const int64_t medians[][4] = {{1000, 989, 0, 1},   {1000, 991, 0, 0},   {1000, 1000, 0, 0},
                                {1000, 2000, 0, 0},  {1000, 900, 800, 2}, {1000, 800, 900, 1},
                                {1000, 995, 980, 2}, {1000, 991, 990, 0}, {0, 0, 0, 0}};
  for (size_t c = 0; c < sizeof medians / sizeof *medians; ++c) {
    assert_int_equal(av_gpu_trial_best(medians[c], medians[c][2] > 0 ? 3 : 2), medians[c][3]);
  }
}

/* One way in all steps. */
static void one_way(const rig_kind *kind, const av_model_spec *spec, int wanted) {
  plant(1.0F, 0.5F, 0.5F);
  train(kind, spec, FEW_STEPS, &found);
  for (int step = 0; step < FEW_STEPS; ++step) {
    assert_int_equal(found.way[step], wanted);
  }
}

static void test_not_tried(void **state) {
  (void)state;
  const av_model_spec spec = few();
  rig_kind kind = measured(true);
  kind.gpu_rows = AV_GPU_ROWS_NEVER;
  one_way(&kind, &spec, NONE);
  kind.gpu_rows = AV_GPU_ROWS_ALWAYS;
  one_way(&kind, &spec, WIDE);
  kind.same_bits = true;
  one_way(&kind, &spec, WIDE);
  kind.gpu_rows = AV_GPU_ROWS_MEASURED; /* time varies from run to run */
  one_way(&kind, &spec, NONE);
  av_model_spec dense = rig_spec(false, AV_LIKELIHOOD_NB, AV_DISPERSION_GENE, false, 1, 1);
  dense.n_hidden = 40; /* products, and nothing else */
  kind = measured(true);
  one_way(&kind, &dense, WIDE);
}

/* The faster of two is taken; by all ranks the same, by the slowest of them. */
static void test_ranks(void **state) {
  (void)state;
  const int ways[] = {NONE, WIDE};
  const av_model_spec spec = few();
  const rig_kind kind = measured(true);
  const bool last = comm.rank == comm.size - 1;
  plant(last ? 2.0F : 0.5F, 0.0F, 1.0F);
  train(&kind, &spec, STEPS, &found);
  check_ways(ways, 2, STEPS, WIDE);
  if (comm.size > 1) {
    plant(1.0F, 0.0F, last ? 2.0F : 0.5F);
    train(&kind, &spec, STEPS, &found);
    check_ways(ways, 2, STEPS, NONE);
  }
}

int main(int argc, char **argv) {
  if (av_comm_create(&comm, &argc, &argv) != AV_OK) {
    return 1;
  }
  need_gpu();
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_ranks), cmocka_unit_test(test_three),
                                     cmocka_unit_test(test_best), cmocka_unit_test(test_not_tried)};
  const struct CMUnitTest of_ranks[] = {cmocka_unit_test(test_ranks)};
  const int failed = comm.size > 1 ? cmocka_run_group_tests(of_ranks, NULL, NULL)
                                   : cmocka_run_group_tests(tests, NULL, NULL);
  av_comm_free(&comm);
  return failed;
}
