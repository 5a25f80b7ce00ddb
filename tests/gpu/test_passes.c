/* Passes that are kept as graphs: the same bits as kernel by kernel, for every model, whatever
 * differs from pass to pass, and with passes of other kinds and larger scratch in between; and on
 * the emulated device, which counts, what the host still queues. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cuda_backend.h"
#include "tested_cuda.h"

#include "backend/latent.h"
#include "backend/simplex.h"
#include "math/rng.h"
#include "model/rig.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifdef AV_EMULATED
#include "emulate.h"
static int64_t kernels_queued(void) { return av_emulate_counts().queued; }
#else
static int64_t kernels_queued(void) { return 0; }
#endif

enum { CELLS = 24, STEPS = 4, MOST = 1 << 15 };

static av_comm comm;

static rig_kind kind_of(bool keeps) {
  return (rig_kind){.ops = &av_backend_cuda, .keeps_passes = keeps};
}

/* Another minibatch, epoch, weight and rate in every step. */
static int64_t pick(int64_t step, int64_t *cells) {
  static const int64_t sizes[STEPS] = {9, 7, 12, 3};
  for (int64_t i = 0; i < sizes[step]; ++i) {
    cells[i] = (7 * i + 11 * step) % CELLS;
  }
  return sizes[step];
}

static av_draw draw_of(int64_t step) {
  return (av_draw){.seed = 5, .epoch = (uint32_t)(step / 2), .purpose = AV_DRAW_LATENT};
}

static av_adam adam_of(int64_t step, int64_t n, double clip) {
  return (av_adam){.lr = 0.01 / (double)(1 + step),
                   .beta1 = 0.9,
                   .beta2 = 0.999,
                   .eps = 0.01,
                   .weight_decay = 1e-3,
                   .decoupled = true,
                   .clip = clip,
                   .scale = 1.0 / (double)n,
                   .step = step + 1};
}

/* What training leaves. */
typedef struct outcome {
  double values[MOST]; /* parameters, running statistics */
  double losses[STEPS][AV_LOSSES];
  int64_t queued[STEPS];    /* kernels that the host has launched in each step, ... */
  int64_t evaluated[STEPS]; /* ... and in each evaluation */
} outcome;

static void evaluate(rig *r, av_batch *batch, int64_t step, double *losses, int64_t *queued) {
  const int64_t rows[] = {1, 5, 2, 17};
  r->be.ops->batch_select(&r->be, batch, 4 - step % 2, rows);
  av_vae_begin_inference(r->vae);
  const int64_t before = kernels_queued();
  av_vae_evaluate(r->vae, batch, draw_of(step));
  *queued = kernels_queued() - before;
  assert_int_equal(av_vae_take_losses(r->vae, losses), AV_OK);
}

/* `aside`: evaluation, by a batch of its own that asks for more scratch, after each step. */
static void train(const av_model_spec *spec, const toy_extras *extras, bool keeps, bool aside,
                  double clip, outcome *found) {
  const rig_kind kind = kind_of(keeps);
  int64_t cells[CELLS];
  rig r;
  av_batch *beside = NULL;
  rig_open_with(&r, &kind, &comm, *spec, extras, CELLS);
  memset(found, 0, sizeof *found);
  assert_int_equal(r.be.ops->batch_create(&r.be, r.data, CELLS, &beside), AV_OK);
  int64_t n = pick(0, cells);
  rig_select(&r, n, cells);
  for (int64_t step = 0; step < STEPS; ++step) {
    const av_adam adam = adam_of(step, n, clip);
    const int64_t before = kernels_queued();
    av_vae_train_step(r.vae, r.batch, n, draw_of(step), 0.1 * (double)step, &adam);
    n = pick((step + 1) % STEPS, cells);
    rig_select(&r, n, cells); /* for the next step, in the middle of this one */
    av_vae_update(r.vae, &adam);
    found->queued[step] = kernels_queued() - before;
    if (aside) {
      evaluate(&r, beside, step, found->losses[step], &found->evaluated[step]);
    }
  }
  assert_true(r.layout->n_params + r.layout->n_running <= MOST);
  assert_int_equal(av_vae_get_values(r.vae, found->values, found->values + r.layout->n_params),
                   AV_OK);
  r.be.ops->batch_free(&r.be, beside);
  rig_close(&r);
}

static void check_same(const outcome *found, const outcome *wanted) {
  for (int64_t i = 0; i < MOST; ++i) {
    if (memcmp(&found->values[i], &wanted->values[i], sizeof(double)) != 0) {
      fail_msg("value %lld: %.17g, expected %.17g", (long long)i, found->values[i],
               wanted->values[i]);
    }
  }
  assert_memory_equal(found->losses, wanted->losses, sizeof found->losses);
}

#ifdef AV_EMULATED
/* From the second step and evaluation on the host queues the step's values and nothing else. */
static void check_queued(const outcome *kept, const outcome *plain) {
  for (int64_t step = 0; step < STEPS; ++step) {
    assert_true(plain->queued[step] > 10);
    if (step == 0) {
      assert_int_equal(kept->queued[step], plain->queued[step]);
    } else {
      assert_int_equal(kept->queued[step], 1);
      assert_true(plain->evaluated[step] > 5 && kept->evaluated[step] <= 1);
    }
  }
}
#endif

static outcome plain;
static outcome kept;

static void check_model(const av_model_spec *spec, const toy_extras *extras, double clip) {
  train(spec, extras, false, true, clip, &plain);
  train(spec, extras, true, true, clip, &kept);
  check_same(&kept, &plain);
#ifdef AV_EMULATED
  check_queued(&kept, &plain);
#endif
}

static void test_models(void **state) {
  (void)state;
  int64_t n = 0;
  const rig_case *cases = rig_cases(&n);
  for (int64_t i = 0; i < 2 * n; ++i) {
    if (rig_case_has(&cases[i / 2], i % 2 == 1)) {
      const av_model_spec spec = rig_case_spec(&cases[i / 2], i % 2 == 1);
      check_model(&spec, &cases[i / 2].extras, i % 3 == 0 ? 0.5 : 0.0);
    }
  }
}

/* Without anything in between, evaluation too is what it was. */
static void test_alone(void **state) {
  (void)state;
  const av_model_spec spec = rig_spec(true, AV_LIKELIHOOD_NB, AV_DISPERSION_GENE, true, 1, 2);
  const toy_extras none = {.levels = {0}};
  train(&spec, &none, true, true, 0.0, &plain);
  train(&spec, &none, true, false, 0.0, &kept);
  memcpy(kept.losses, plain.losses, sizeof kept.losses);
  check_same(&kept, &plain);
}

/* Means of q(z) through kept encodings, of batches of several sizes. */
static void test_encoding(void **state) {
  (void)state;
  const av_model_spec spec = rig_spec(false, AV_LIKELIHOOD_ZINB, AV_DISPERSION_GENE, false, 2, 1);
  const toy_extras none = {.levels = {0}};
  double means[2][STEPS][CELLS * 10];
  memset(means, 0, sizeof means);
  for (int keeps = 0; keeps < 2; ++keeps) {
    const rig_kind kind = kind_of(keeps == 1);
    int64_t cells[CELLS];
    rig r;
    rig_open_with(&r, &kind, &comm, spec, &none, CELLS);
    assert_true(spec.n_latent <= 10);
    for (int64_t step = 0; step < STEPS; ++step) {
      const int64_t n = pick(step, cells);
      rig_select(&r, n, cells);
      const int64_t before = kernels_queued();
      assert_int_equal(av_vae_encode(r.vae, r.batch, n, means[keeps][step], NULL), AV_OK);
      assert_true(keeps == 0 || step < 2 || kernels_queued() == before);
    }
    rig_close(&r);
  }
  assert_memory_equal(means[0], means[1], sizeof means[0]);
  assert_true(means[0][STEPS - 1][0] != 0.0);
}

/* From the second minibatch on all is played; the epoch is sent but once. */
static void check_statistics(int64_t queued, bool played) {
#ifdef AV_EMULATED
  assert_true(played ? queued == 0 : queued > 1);
#else
  (void)queued, (void)played;
#endif
}

/* Statistics of all cells in place of running ones, layer by layer. */
static void recompute(rig *r, bool keeps) {
  int64_t cells[CELLS];
  for (int64_t layer = 0; layer < av_vae_norm_layers(r->vae); ++layer) {
    av_batch *batch = NULL;
    assert_int_equal(r->be.ops->batch_create(&r->be, r->data, CELLS, &batch), AV_OK);
    assert_int_equal(av_vae_norm_begin(r->vae, layer), AV_OK);
    for (int64_t step = 0; step < STEPS; ++step) {
      const int64_t n = pick(step, cells);
      const int64_t before = kernels_queued();
      r->be.ops->batch_select(&r->be, batch, n, cells);
      av_vae_norm_pass(r->vae, layer, batch, n, draw_of(0));
      check_statistics(kernels_queued() - before, keeps && step > 0);
    }
    assert_int_equal(av_vae_norm_finish(r->vae, layer), AV_OK);
    r->be.ops->batch_free(&r->be, batch);
  }
}

/* Kept passes leave the bits of those that are queued. */
static void test_statistics(void **state) {
  (void)state;
  int64_t n = 0;
  int64_t layers = 0;
  const rig_case *cases = rig_cases(&n);
  for (int64_t i = 0; i < 2 * n; ++i) {
    if (!rig_case_has(&cases[i / 2], i % 2 == 1)) {
      continue;
    }
    memset(&plain, 0, sizeof plain);
    memset(&kept, 0, sizeof kept);
    for (int keeps = 0; keeps < 2; ++keeps) {
      const rig_kind kind = kind_of(keeps == 1);
      double *values = keeps == 1 ? kept.values : plain.values;
      rig r;
      rig_open_with(&r, &kind, &comm, rig_case_spec(&cases[i / 2], i % 2 == 1),
                    &cases[i / 2].extras, CELLS);
      recompute(&r, keeps == 1);
      layers += av_vae_norm_layers(r.vae);
      assert_int_equal(av_vae_get_values(r.vae, values, values + r.layout->n_params), AV_OK);
      rig_close(&r);
    }
    check_same(&kept, &plain);
  }
  assert_true(layers > 20);
}

/* Codes that are taken while the next minibatches are under way. */
static void test_encoding_ahead(void **state) {
  (void)state;
  const av_model_spec spec = rig_spec(true, AV_LIKELIHOOD_NB, AV_DISPERSION_GENE, false, 1, 1);
  const toy_extras none = {.levels = {0}};
  const rig_kind kind = kind_of(true);
  double at_once[STEPS][2][CELLS * 10];
  double ahead[STEPS][2][CELLS * 10];
  int64_t cells[CELLS];
  rig r;
  memset(at_once, 0, sizeof at_once);
  memset(ahead, 0, sizeof ahead);
  rig_open_with(&r, &kind, &comm, spec, &none, CELLS);
  for (int64_t step = 0; step < STEPS; ++step) {
    const int64_t n = pick(step, cells);
    rig_select(&r, n, cells);
    assert_int_equal(av_vae_encode(r.vae, r.batch, n, at_once[step][0], at_once[step][1]), AV_OK);
  }
  for (int64_t step = 0; step <= STEPS; ++step) {
    if (step < STEPS) {
      const int64_t n = pick(step, cells);
      rig_select(&r, n, cells);
      assert_int_equal(av_vae_encode_begin(r.vae, r.batch, n), AV_OK);
    }
    if (step > 0) {
      double(*to)[CELLS * 10] = ahead[step - 1];
      assert_int_equal(av_vae_encode_end(r.vae, pick(step - 1, cells), to[0], to[1]), AV_OK);
    }
  }
  rig_close(&r);
  assert_memory_equal(at_once, ahead, sizeof at_once);
}

/* Codes on a simplex, kept or queued anew, while others are under way: those that the host makes of
 * q(z). */
static void test_codes_ahead(void **state) {
  (void)state;
  enum { K = 5, SAMPLES = 21, SEED = 4 };
  av_model_spec spec = rig_spec(true, AV_LIKELIHOOD_NB, AV_DISPERSION_GENE, false, 1, 1);
  const toy_extras none = {.levels = {0}};
  static double q[STEPS][2][CELLS * K];
  static double codes[2][STEPS][CELLS * K];
  int64_t cells[CELLS];
  spec.simplex = true;
  spec.n_latent = K;
  for (int keeps = 0; keeps < 2; ++keeps) {
    const rig_kind kind = kind_of(keeps == 1);
    rig r;
    rig_open_with(&r, &kind, &comm, spec, &none, CELLS);
    for (int64_t step = 0; step <= STEPS; ++step) {
      if (step < STEPS) {
        const int64_t n = pick(step, cells);
        rig_select(&r, n, cells);
        const int64_t before = kernels_queued();
        assert_int_equal(av_vae_codes_begin(r.vae, r.batch, n, SEED, SAMPLES), AV_OK);
        assert_true(keeps == 0 || step < 2 || kernels_queued() == before);
      }
      if (step > 0) {
        const int64_t n = pick(step - 1, cells);
        assert_int_equal(av_vae_codes_end(r.vae, n, codes[keeps][step - 1]), AV_OK);
      }
    }
    for (int64_t step = 0; step < STEPS; ++step) {
      const int64_t n = pick(step, cells);
      rig_select(&r, n, cells);
      assert_int_equal(av_vae_encode(r.vae, r.batch, n, q[step][0], q[step][1]), AV_OK);
      for (int64_t i = 0; i < n; ++i) {
        double space[2 * K];
        double expected[K];
        const av_simplex cell = {.n_latent = K,
                                 .mean = q[step][0] + i * K,
                                 .variance = q[step][1] + i * K,
                                 .seed = SEED,
                                 .cell = cells[i],
                                 .n_samples = SAMPLES};
        av_simplex_mean(&cell, space, expected);
        for (int64_t k = 0; k < K; ++k) {
          assert_true(fabs(codes[keeps][step][i * K + k] - expected[k]) < 1e-13);
        }
      }
    }
    rig_close(&r);
  }
  assert_memory_equal(codes[0], codes[1], sizeof codes[0]);
}

enum { GENES_MOST = 16, DRAWS = 3 };
typedef struct decoded {
  float means[STEPS][2 * CELLS * GENES_MOST];
  float draws[STEPS][2 * CELLS * GENES_MOST]; /* averaged */
  double sums[2 * GENES_MOST];                /* of rho */
  int64_t queued[STEPS][3]; /* kernels launched for the last draw, for the sums, for the means */
  float first[STEPS][CELLS * GENES_MOST]; /* of the first draw */
} decoded;

enum { OUTPUTS = 3 }; /* of a step */
static void end_outputs(const rig *r) {
  for (int i = 0; i < OUTPUTS; ++i) {
    assert_int_equal(av_vae_decode_end(r->vae), AV_OK);
  }
}

/* Everything that is decoded of encoded minibatches, of several sizes; on its way to the host while
 * the next is encoded and decoded. */
static void decode_all(const av_model_spec *spec, const toy_extras *extras, bool keeps,
                       decoded *found) {
  const rig_kind kind = kind_of(keeps);
  int64_t cells[CELLS];
  void *sums = NULL;
  rig r;
  rig_open_with(&r, &kind, &comm, *spec, extras, CELLS);
  assert_true(spec->n_genes <= GENES_MOST);
  assert_int_equal(r.be.ops->alloc(&r.be, AV_SUM, 2 * spec->n_genes, &sums), AV_OK);
  av_vae_begin_inference(r.vae);
  for (int64_t step = 0; step < STEPS; ++step) {
    const int64_t n = pick(step, cells);
    const int64_t size = n * spec->n_genes;
    int64_t before = 0;
    float *to = found->means[step];
    rig_select(&r, n, cells);
    assert_int_equal(av_vae_encode(r.vae, r.batch, n, NULL, NULL), AV_OK);
    before = kernels_queued();
    assert_int_equal(av_vae_decode_begin(r.vae, r.batch, NULL, (av_average){.n = 1}, to, to + size),
                     AV_OK);
    found->queued[step][2] = kernels_queued() - before;
    to = found->draws[step];
    for (av_average average = {.n = DRAWS}; average.at < average.n; ++average.at) {
      const av_draw draw = {.seed = 5, .epoch = (uint32_t)average.at, .purpose = AV_DRAW_POSTERIOR};
      before = kernels_queued();
      assert_int_equal(av_vae_decode_begin(r.vae, r.batch, &draw, average, to, to + size), AV_OK);
      found->queued[step][0] = kernels_queued() - before;
    }
    before = kernels_queued();
    assert_int_equal(av_vae_sum_rho(r.vae, r.batch, 0x1p30, sums), AV_OK);
    found->queued[step][1] = kernels_queued() - before;
    const av_draw draw = {.seed = 5, .purpose = AV_DRAW_POSTERIOR};
    assert_int_equal(
        av_vae_decode_begin(r.vae, r.batch, &draw, (av_average){.n = 1}, found->first[step], NULL),
        AV_OK);
    if (step > 0) {
      end_outputs(&r);
    }
  }
  end_outputs(&r);
  assert_int_equal(r.be.ops->read(&r.be, AV_SUM, sums, 2 * spec->n_genes, found->sums), AV_OK);
  r.be.ops->release(&r.be, sums);
  rig_close(&r);
}

/* Decoding through kept passes leaves the bits of what is queued; draws differ from one another,
 * and sums are added by passes that the host queues at once. */
static void test_decoding(void **state) {
  (void)state;
  static decoded found[2];
  int64_t n = 0;
  const rig_case *cases = rig_cases(&n);
  for (int64_t i = 0; i < 2 * n; ++i) {
    if (!rig_case_has(&cases[i / 2], i % 2 == 1)) {
      continue;
    }
    const av_model_spec spec = rig_case_spec(&cases[i / 2], i % 2 == 1);
    memset(found, 0, sizeof found);
    for (int keeps = 0; keeps < 2; ++keeps) {
      decode_all(&spec, &cases[i / 2].extras, keeps == 1, &found[keeps]);
    }
    assert_memory_equal(found[0].means, found[1].means, sizeof found[0].means);
    assert_memory_equal(found[0].draws, found[1].draws, sizeof found[0].draws);
    assert_memory_equal(found[0].sums, found[1].sums, sizeof found[0].sums);
    assert_memory_equal(found[0].first, found[1].first, sizeof found[0].first);
    const float one = found[0].first[0][0];
    const float average = found[0].draws[0][0];
    assert_true(average != found[0].means[0][0] && average > 0.0F);
    assert_true(fabsf(average - one) > 1e-6F * one);
#ifdef AV_EMULATED
    for (int64_t step = 2; step < STEPS; ++step) { /* in the first it is met, then it is kept */
      assert_true(found[0].queued[step][0] > 2 &&
                  found[1].queued[step][0] <= 2); /* epoch, values */
      assert_true(found[0].queued[step][1] > 3 && found[1].queued[step][1] <= 1);
      assert_true(found[0].queued[step][2] >= 2 && found[1].queued[step][2] == 1);
    }
#endif
  }
}

int main(int argc, char **argv) {
  if (av_comm_create(&comm, &argc, &argv) != AV_OK) {
    return 1;
  }
  need_gpu();
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_models),      cmocka_unit_test(test_alone),
      cmocka_unit_test(test_encoding),    cmocka_unit_test(test_encoding_ahead),
      cmocka_unit_test(test_statistics),  cmocka_unit_test(test_decoding),
      cmocka_unit_test(test_codes_ahead),
  };
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  av_comm_free(&comm);
  return failed;
}
