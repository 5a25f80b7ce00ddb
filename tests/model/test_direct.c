/* The model on a backend against its formulas written out (direct.h): training and evaluation losses,
 * running statistics, decoded outputs, for every choice of the model; and Adam against its definition.
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

static const av_draw train_draw = {.seed = 3, .epoch = 2, .purpose = AV_DRAW_LATENT};
static const av_draw later_draw = {.seed = 3, .epoch = 5, .purpose = AV_DRAW_POSTERIOR};

static void check_near(double found, double expected, double scale, const char *what) {
  if (!(fabs(found - expected) <= tolerance * (fabs(expected) + scale))) {
    fail_msg("%s: %.15g, expected %.15g", what, found, expected);
  }
}

/* ---- every choice ---- */

typedef void check_model(const av_model_spec *spec);

static void with_all(bool linear, check_model *check) {
  static const int likelihoods[] = {AV_LIKELIHOOD_NB, AV_LIKELIHOOD_ZINB, AV_LIKELIHOOD_POISSON};
  for (int i = 0; i < 3; ++i) {
    for (int dispersion = 0; dispersion < 2; ++dispersion) {
      for (int latent_library = 0; latent_library < 2; ++latent_library) {
        for (int64_t n_layers = 1; n_layers <= 2; ++n_layers) {
          for (int64_t n_batches = 1; n_batches <= 3; n_batches += 2) {
            av_model_spec spec = rig_spec(linear, likelihoods[i], dispersion, latent_library != 0,
                                          n_layers, n_batches);
            check(&spec);
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
  check(&odd);
}

/* ---- training ---- */

/* What the formulas say of the picked cells; `alone` is the data set on one process. */
static direct_output expected(const rig *r, const av_dataset *alone, const double *running,
                              bool training, const av_draw *draw) {
  const direct_input in = {.layout = r->layout, .params = r->params, .running = running,
                           .prior = r->prior, .dataset = alone, .n = PICKED, .cells = picked,
                           .training = training, .sample = draw != NULL,
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

/* Two minibatches: losses of each, running statistics after each. */
static void check_training(const av_model_spec *spec) {
  rig r;
  av_dataset alone;
  av_split split;
  rig_open(&r, &kind, &comm, *spec, CELLS);
  toy_create(&alone, &split, &self, CELLS, spec->n_genes, spec->n_batches);
  const int64_t mine = rig_select(&r, PICKED, picked);
  direct_output first = expected(&r, &alone, r.running, true, &train_draw);
  direct_output second = expected(&r, &alone, first.running, true, &train_draw);
  assert_true(spec->latent_library ? first.kl_l > 1e-3 : first.kl_l == 0.0);
  av_vae_step(r.vae, r.batch, mine, PICKED, train_draw, 0.3);
  check_losses(&r, &first, 1.0);
  check_running(&r, first.running);
  av_vae_step(r.vae, r.batch, mine, PICKED, train_draw, 0.3);
  check_running(&r, second.running);
  av_vae_step(r.vae, r.batch, mine, PICKED, train_draw, 0.9);
  check_losses(&r, &second, 2.0); /* unweighted, added up; the minibatch's own moments count */
  direct_free(&first);
  direct_free(&second);
  toy_free(&alone, &split);
  rig_close(&r);
}

static void test_training_linear(void **state) {
  (void)state;
  with_all(true, check_training);
}

static void test_training_dense(void **state) {
  (void)state;
  with_all(false, check_training);
}

/* ---- evaluation and outputs ---- */

static void check_rows(const rig *r, int64_t mine, const double *found_z, const float *found_rho,
                       const float *found_mu, const direct_output *wanted) {
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

static void check_inference(const av_model_spec *spec) {
  rig r;
  av_dataset alone;
  av_split split;
  rig_open(&r, &kind, &comm, *spec, CELLS);
  toy_create(&alone, &split, &self, CELLS, spec->n_genes, spec->n_batches);
  const int64_t mine = rig_select(&r, PICKED, picked);
  const size_t size = (size_t)(mine * spec->n_genes);
  double *z = av_calloc((size_t)(mine * spec->n_latent), sizeof *z);
  float *rho = av_calloc(size, sizeof *rho);
  float *mu = av_calloc(size, sizeof *mu);
  direct_output drawn = expected(&r, &alone, r.running, false, &later_draw);
  direct_output mean = expected(&r, &alone, r.running, false, NULL);

  av_vae_begin_inference(r.vae);
  av_vae_evaluate(r.vae, r.batch, mine, later_draw);
  check_losses(&r, &drawn, 1.0);
  assert_int_equal(av_vae_encode(r.vae, r.batch, mine, z), AV_OK);
  assert_int_equal(av_vae_decode(r.vae, r.batch, mine, NULL, rho, mu), AV_OK);
  check_rows(&r, mine, z, rho, mu, &mean);
  assert_int_equal(av_vae_decode(r.vae, r.batch, mine, &later_draw, rho, mu), AV_OK);
  check_rows(&r, mine, NULL, rho, mu, &drawn);
  memset(rho, 0, size * sizeof *rho);
  assert_int_equal(av_vae_decode(r.vae, r.batch, mine, NULL, rho, NULL), AV_OK);
  check_rows(&r, mine, NULL, rho, NULL, &mean);
  memset(mu, 0, size * sizeof *mu);
  assert_int_equal(av_vae_decode(r.vae, r.batch, mine, NULL, NULL, mu), AV_OK);
  check_rows(&r, mine, NULL, NULL, mu, &mean);
  double losses[AV_LOSSES];
  assert_int_equal(av_vae_take_losses(r.vae, losses), AV_OK);
  assert_true(losses[0] == 0.0 && losses[1] == 0.0 && losses[2] == 0.0); /* decoding adds none */
  check_running(&r, r.running); /* inference moves none */

  direct_free(&drawn);
  direct_free(&mean);
  free(z);
  free(rho);
  free(mu);
  toy_free(&alone, &split);
  rig_close(&r);
}

static void test_inference_linear(void **state) {
  (void)state;
  with_all(true, check_inference);
}

static void test_inference_dense(void **state) {
  (void)state;
  with_all(false, check_inference);
}

/* ---- Adam ---- */

/* Textbook Adam with bias correction and L2 weight decay, in double. */
static void textbook_adam(const av_adam *adam, int64_t n, const double *gradient, double *p,
                          double *m, double *v) {
  for (int64_t i = 0; i < n; ++i) {
    const double g = adam->scale * gradient[i] + adam->weight_decay * p[i];
    m[i] = adam->beta1 * m[i] + (1.0 - adam->beta1) * g;
    v[i] = adam->beta2 * v[i] + (1.0 - adam->beta2) * g * g;
    const double m_hat = m[i] / (1.0 - pow(adam->beta1, (double)adam->step));
    const double v_hat = v[i] / (1.0 - pow(adam->beta2, (double)adam->step));
    p[i] -= adam->lr * m_hat / (sqrt(v_hat) + adam->eps);
  }
}

/* Three steps with a decay large enough to see. */
static void test_adam(void **state) {
  (void)state;
  rig r;
  rig_open(&r, &kind, &comm, rig_spec(true, AV_LIKELIHOOD_ZINB, AV_DISPERSION_GENE, true, 1, 3),
           CELLS);
  const int64_t n = r.layout->n_params;
  const int64_t mine = rig_select(&r, PICKED, picked);
  double *gradient = av_calloc((size_t)n, sizeof *gradient);
  double *params = av_calloc((size_t)n, sizeof *params);
  double *running = av_calloc((size_t)r.layout->n_running, sizeof *running);
  double *p = av_calloc((size_t)n, sizeof *p);
  double *m = av_calloc((size_t)n, sizeof *m);
  double *v = av_calloc((size_t)n, sizeof *v);
  memcpy(p, r.params, (size_t)n * sizeof *p);
  double moved = 0.0;
  for (int64_t step = 1; step <= 3; ++step) {
    const av_adam adam = {.lr = 0.02, .beta1 = 0.9, .beta2 = 0.999, .eps = 0.01,
                          .weight_decay = 0.05, .scale = 1.0 / PICKED, .step = step};
    av_vae_step(r.vae, r.batch, mine, PICKED, train_draw, 1.0);
    assert_int_equal(av_vae_get_gradients(r.vae, gradient), AV_OK);
    assert_int_equal(av_sum_f64(&comm, gradient, n), AV_OK);
    av_vae_update(r.vae, &adam);
    textbook_adam(&adam, n, gradient, p, m, v);
    assert_int_equal(av_vae_get_values(r.vae, params, running), AV_OK);
    for (int64_t i = 0; i < n; ++i) {
      check_near(params[i], p[i], 1e-2, "parameter after Adam");
      moved = fmax(moved, fabs(p[i] - r.params[i]));
    }
    assert_int_equal(av_vae_get_gradients(r.vae, gradient), AV_OK);
    for (int64_t i = 0; i < n; ++i) {
      assert_true(gradient[i] == 0.0); /* ready for the next minibatch */
    }
  }
  assert_true(moved > 0.02);
  free(gradient);
  free(params);
  free(running);
  free(p);
  free(m);
  free(v);
  rig_close(&r);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_training_linear),  cmocka_unit_test(test_training_dense),
      cmocka_unit_test(test_inference_linear), cmocka_unit_test(test_inference_dense),
      cmocka_unit_test(test_adam),
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
