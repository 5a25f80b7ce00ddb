/* The model on a backend against its formulas written out (direct.h): training and evaluation
 * losses, running statistics, decoded outputs, for every choice of the model (cases.c), and
 * training of the decoder alone. scvi-tools cannot run a linear decoder with gene-label or
 * gene-cell dispersion, covariates, size factors or encoded covariates: there this direct form,
 * with test_gradients, is the oracle.
 *
 * usage: test_direct reference|cpu|strict; on any number of ranks.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "backend/latent.h"
#include "base/memory.h"
#include "math/rng.h"
#include "model/direct.h"
#include "model/rig.h"
#include "model/toy.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CELLS = 17, PICKED = 10 };
static const int64_t picked[PICKED] = {16, 3, 0, 7, 11, 5, 2, 14, 9, 1};

static av_comm comm;
static av_comm self;
static rig_kind kind;
static double tolerance; /* relative */
static const char *model_name = "";

static const av_draw train_draw = {.seed = 3, .epoch = 2, .purpose = AV_DRAW_LATENT};
static const av_draw later_draw = {.seed = 3, .epoch = 5, .purpose = AV_DRAW_POSTERIOR};

static void check_near(double found, double expected, double scale, const char *what) {
  if (!(fabs(found - expected) <= tolerance * (fabs(expected) + scale))) {
    fail_msg("%s, %s: %.15g, expected %.15g", model_name, what, found, expected);
  }
}

/* ---- every choice ---- */

typedef void check_model(const av_model_spec *spec, const toy_extras *extras);

/* Every likelihood, dispersion and library together, and the odd sizes. */

static void with_all(bool linear, check_model *check) {
  static const int likelihoods[] = {AV_LIKELIHOOD_NB, AV_LIKELIHOOD_ZINB, AV_LIKELIHOOD_POISSON};
  for (int i = 0; i < 3; ++i) {
    for (int dispersion = 0; dispersion < 4; ++dispersion) {
      for (int latent_library = 0; latent_library < 2; ++latent_library) {
        for (int64_t n_layers = 1; n_layers <= 2; ++n_layers) {
          for (int64_t n_batches = 1; n_batches <= 3; n_batches += 2) {
            if (dispersion > AV_DISPERSION_GENE_BATCH && (n_layers == 2 || n_batches == 1)) {
              continue; /* nothing new */
            }
            av_model_spec spec = rig_spec(linear, likelihoods[i], dispersion, latent_library != 0,
                                          n_layers, n_batches);
            const toy_extras extras = {.n_labels = 3};
            check(&spec, &extras);
          }
        }
      }
    }
  }
  av_model_spec odd = rig_spec(linear, AV_LIKELIHOOD_ZINB, AV_DISPERSION_GENE_BATCH, true, 3, 4);
  odd.log1p = false;
  odd.dropout = 0.0;
  odd.n_latent = 6;
  odd.n_hidden = 19;
  odd.n_genes = 37;
  const toy_extras some = {.levels = {4, 0}, .n_continuous = 3};
  check(&odd, &some);
  odd.simplex = true;
  odd.encoder_layer_norm = true;
  odd.encode_covariates = true;
  check(&odd, &some);
}

/* The models of cases.c. */
static void with_cases(bool linear, check_model *check) {
  int64_t n = 0;
  const rig_case *cases = rig_cases(&n);
  for (int64_t i = 0; i < n; ++i) {
    if (rig_case_has(&cases[i], linear)) {
      const av_model_spec spec = rig_case_spec(&cases[i], linear);
      model_name = cases[i].name;
      check(&spec, &cases[i].extras);
    }
  }
  model_name = "";
}

/* ---- training ---- */

/* What the formulas say of the picked cells; `alone` is the data set on one process. */
static direct_output expected(const rig *r, const av_dataset *alone, const double *running,
                              bool training, const av_draw *draw) {
  const direct_input in = {.layout = r->layout,
                           .params = r->params,
                           .running = running,
                           .prior = r->prior,
                           .dataset = alone,
                           .n = PICKED,
                           .cells = picked,
                           .training = training,
                           .sample = draw != NULL,
                           .draw = draw == NULL ? (av_draw){0} : *draw};
  return direct_pass(&in);
}

static void check_running(const rig *r, const double *wanted) {
  double *params = av_calloc((size_t)r->layout->n_params, sizeof *params);
  double *running = av_calloc((size_t)r->layout->n_running, sizeof *running);
  assert_int_equal(av_vae_get_values(r->vae, params, running), AV_OK);
  for (int64_t i = 0; i < r->layout->n_running; ++i) {
    check_near(running[i], wanted[i], 1e-2, "running statistic");
  }
  free(params);
  free(running);
}

static void check_losses(const rig *r, const direct_output *wanted, double times) {
  double losses[AV_LOSSES];
  assert_int_equal(av_vae_take_losses(r->vae, losses), AV_OK);
  check_near(losses[AV_LOSS_NLL], times * wanted->nll, 0.0, "negative log-likelihood");
  check_near(losses[AV_LOSS_KL_Z], times * wanted->kl_z, 0.0, "KL(z)");
  check_near(losses[AV_LOSS_KL_L], times * wanted->kl_l, 1e-9, "KL(l)");
}

/* The model on this rank's part of the data, and the data on one process. */
static void open_both(rig *r, av_dataset *alone, av_split *split, const av_model_spec *spec,
                      const toy_extras *extras) {
  rig_open_with(r, &kind, &comm, *spec, extras, CELLS);
  toy_create(alone, split, &self, CELLS, spec->n_genes, spec->n_batches);
  toy_add(alone, extras);
}

/* Two minibatches: losses of each, running statistics after each. */
static void check_training(const av_model_spec *spec, const toy_extras *extras) {
  rig r;
  av_dataset alone;
  av_split split;
  open_both(&r, &alone, &split, spec, extras);
  rig_select(&r, PICKED, picked);
  direct_output first = expected(&r, &alone, r.running, true, &train_draw);
  direct_output second = expected(&r, &alone, first.running, true, &train_draw);
  assert_true(spec->latent_library ? first.kl_l > 1e-3 : first.kl_l == 0.0);
  av_vae_step(r.vae, r.batch, PICKED, train_draw, 0.3);
  check_losses(&r, &first, 1.0);
  check_running(&r, first.running);
  av_vae_step(r.vae, r.batch, PICKED, train_draw, 0.3);
  check_running(&r, second.running);
  av_vae_step(r.vae, r.batch, PICKED, train_draw, 0.9);
  check_losses(&r, &second, 2.0); /* unweighted, added up; the minibatch's own moments count */
  direct_free(&first);
  direct_free(&second);
  toy_free(&alone, &split);
  rig_close(&r);
}

static void test_training_linear(void **state) {
  (void)state;
  with_all(true, check_training);
  with_cases(true, check_training);
}

static void test_training_dense(void **state) {
  (void)state;
  with_all(false, check_training);
  with_cases(false, check_training);
}

/* ---- evaluation and outputs ---- */

static void check_rows(const rig *r, int64_t mine, const double *found_z, const double *found_v,
                       const float *found_rho, const float *found_mu, const direct_output *wanted) {
  const int64_t k = r->layout->spec.n_latent;
  const int64_t genes = r->layout->spec.n_genes;
  int64_t row = 0;
  const double kept = tolerance;
  for (int64_t i = 0; i < PICKED; ++i) {
    const int64_t local = picked[i] - r->dataset.first;
    if (local < 0 || local >= r->dataset.n_local) {
      continue;
    }
    for (int64_t j = 0; found_z != NULL && j < k; ++j) {
      check_near(found_z[row * k + j], wanted->z_mean[i * k + j], 1e-2, "mean of q(z)");
      check_near(found_v[row * k + j], wanted->z_variance[i * k + j], 1e-2, "variance of q(z)");
    }
    tolerance = fmax(kept, 2e-7); /* the outputs are float */
    for (int64_t g = 0; g < genes; ++g) {
      if (found_rho != NULL) {
        check_near((double)found_rho[row * genes + g], wanted->rho[i * genes + g], 0.0, "rho");
      }
      if (found_mu != NULL) {
        check_near((double)found_mu[row * genes + g], wanted->mu[i * genes + g], 0.0, "mu");
      }
    }
    tolerance = kept;
    ++row;
  }
  assert_int_equal(row, mine);
}

static void decode(const rig *r, const av_draw *draw, float *rho, float *mu) {
  assert_int_equal(av_vae_decode_begin(r->vae, r->batch, draw, (av_average){.n = 1}, rho, mu),
                   AV_OK);
  assert_int_equal(av_vae_decode_end(r->vae), AV_OK);
}

static void check_inference(const av_model_spec *spec, const toy_extras *extras) {
  rig r;
  av_dataset alone;
  av_split split;
  open_both(&r, &alone, &split, spec, extras);
  const int64_t mine = rig_select(&r, PICKED, picked);
  const size_t size = (size_t)(mine * spec->n_genes);
  double *z = av_calloc((size_t)(mine * spec->n_latent), sizeof *z);
  double *v = av_calloc((size_t)(mine * spec->n_latent), sizeof *v);
  float *rho = av_calloc(size, sizeof *rho);
  float *mu = av_calloc(size, sizeof *mu);
  direct_output drawn = expected(&r, &alone, r.running, false, &later_draw);
  direct_output mean = expected(&r, &alone, r.running, false, NULL);

  av_vae_begin_inference(r.vae);
  av_vae_evaluate(r.vae, r.batch, later_draw);
  check_losses(&r, &drawn, 1.0);
  assert_int_equal(av_vae_encode(r.vae, r.batch, mine, z, v), AV_OK);
  decode(&r, NULL, rho, mu);
  check_rows(&r, mine, z, v, rho, mu, &mean);
  decode(&r, &later_draw, rho, mu);
  check_rows(&r, mine, NULL, NULL, rho, mu, &drawn);
  memset(rho, 0, size * sizeof *rho);
  decode(&r, NULL, rho, NULL);
  check_rows(&r, mine, NULL, NULL, rho, NULL, &mean);
  memset(mu, 0, size * sizeof *mu);
  decode(&r, NULL, NULL, mu);
  check_rows(&r, mine, NULL, NULL, NULL, mu, &mean);
  double losses[AV_LOSSES];
  assert_int_equal(av_vae_take_losses(r.vae, losses), AV_OK);
  assert_true(losses[0] == 0.0 && losses[1] == 0.0 && losses[2] == 0.0); /* decoding adds none */
  check_running(&r, r.running);                                          /* inference moves none */

  direct_free(&drawn);
  direct_free(&mean);
  free(z);
  free(v);
  free(rho);
  free(mu);
  toy_free(&alone, &split);
  rig_close(&r);
}

static void test_inference_linear(void **state) {
  (void)state;
  with_all(true, check_inference);
  with_cases(true, check_inference);
}

static void test_inference_dense(void **state) {
  (void)state;
  with_all(false, check_inference);
  with_cases(false, check_inference);
}

/* ---- the decoder alone ---- */

/* Encoders in evaluation mode, their parameters and running statistics as they were. */
static void check_frozen(const av_model_spec *spec, const toy_extras *extras) {
  rig r;
  av_dataset alone;
  av_split split;
  open_both(&r, &alone, &split, spec, extras);
  const size_t n = (size_t)r.layout->n_params;
  double *params = av_calloc(n, sizeof *params);
  double *running = av_calloc((size_t)r.layout->n_running, sizeof *running);
  rig_select(&r, PICKED, picked);
  const direct_input in = {.layout = r.layout,
                           .params = r.params,
                           .running = r.running,
                           .prior = r.prior,
                           .dataset = &alone,
                           .n = PICKED,
                           .cells = picked,
                           .training = true,
                           .frozen = true,
                           .sample = true,
                           .draw = train_draw};
  direct_output wanted = direct_pass(&in);
  av_vae_freeze_encoder(r.vae);
  av_vae_step(r.vae, r.batch, PICKED, train_draw, 0.3);
  check_losses(&r, &wanted, 1.0);
  check_running(&r, wanted.running);
  const av_adam adam = {.lr = 0.02,
                        .beta1 = 0.9,
                        .beta2 = 0.999,
                        .eps = 0.01,
                        .weight_decay = 0.05,
                        .clip = 1.0,
                        .scale = 1.0 / PICKED,
                        .step = 1};
  av_vae_update(r.vae, &adam);
  assert_int_equal(av_vae_get_values(r.vae, params, running), AV_OK);
  for (int64_t t = 0; t < r.layout->n_tensors; ++t) {
    const av_tensor *tensor = &r.layout->tensors[t];
    const bool decoder =
        strncmp(tensor->name, "decoder.", 8) == 0 || strcmp(tensor->name, "px_r") == 0;
    if (tensor->in_running) {
      continue;
    }
    double moved = 0.0;
    for (int64_t i = 0; i < tensor->rows; ++i) {
      for (int64_t j = 0; j < tensor->columns; ++j) {
        const int64_t at = tensor->at + i * tensor->stride + j;
        moved = fmax(moved, fabs(params[at] - r.params[at]));
      }
    }
    /* encoders: what set_values made of the numbers, in the backend's precision */
    if (decoder ? moved < 1e-6 : moved > 1e-6) {
      fail_msg("%s: %s moved by %g", model_name, tensor->name, moved);
    }
  }
  direct_free(&wanted);
  free(params);
  free(running);
  toy_free(&alone, &split);
  rig_close(&r);
}

static void test_frozen(void **state) {
  (void)state;
  for (int linear = 0; linear < 2; ++linear) {
    const toy_extras extras = {.levels = {3, 0}, .n_continuous = 1};
    av_model_spec spec =
        rig_spec(linear != 0, AV_LIKELIHOOD_ZINB, AV_DISPERSION_GENE_BATCH, true, 2, 2);
    check_frozen(&spec, &extras);
    spec.encode_covariates = true;
    spec.simplex = true;
    spec.encoder_layer_norm = true;
    check_frozen(&spec, &extras);
  }
}

/* ---- BatchNorm's statistics of all cells ---- */

/* Layer after layer, in two minibatches. */
static void check_population(const av_model_spec *spec, const toy_extras *extras) {
  rig r;
  av_dataset alone;
  av_split split;
  open_both(&r, &alone, &split, spec, extras);
  const direct_input in = {.layout = r.layout,
                           .params = r.params,
                           .running = r.running,
                           .prior = r.prior,
                           .dataset = &alone,
                           .n = PICKED,
                           .cells = picked,
                           .population = true,
                           .sample = true,
                           .draw = later_draw};
  direct_output wanted = direct_pass(&in);
  enum { FIRST = 6 };
  for (int64_t layer = 0; layer < av_vae_norm_layers(r.vae); ++layer) {
    assert_int_equal(av_vae_norm_begin(r.vae, layer), AV_OK);
    rig_select(&r, FIRST, picked);
    av_vae_norm_pass(r.vae, layer, r.batch, FIRST, later_draw);
    rig_select(&r, PICKED - FIRST, picked + FIRST);
    av_vae_norm_pass(r.vae, layer, r.batch, PICKED - FIRST, later_draw);
    assert_int_equal(av_vae_norm_finish(r.vae, layer), AV_OK);
  }
  check_running(&r, wanted.running);
  direct_free(&wanted);
  toy_free(&alone, &split);
  rig_close(&r);
}

static void test_population(void **state) {
  (void)state;
  with_cases(true, check_population);
  with_cases(false, check_population);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_training_linear),  cmocka_unit_test(test_training_dense),
      cmocka_unit_test(test_inference_linear), cmocka_unit_test(test_inference_dense),
      cmocka_unit_test(test_population),       cmocka_unit_test(test_frozen),
  };
  if (av_comm_create(&comm, &argc, &argv) != AV_OK) {
    return 1;
  }
  av_comm_self(&self);
  kind = rig_kind_of(argc > 1 ? argv[1] : "reference");
  tolerance = kind.tolerance;
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  av_comm_free(&comm);
  return failed;
}
