/* Loadings, intercepts, batch offsets, shares and signs of a linear decoder: that they are the
 * decoder, and that turning a factor round changes nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "model/direct.h"
#include "model/rig.h"
#include "model/toy.h"
#include "posterior/factors.h"
#include "posterior/posterior.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CELLS = 23, GENES = 31, LATENT = 4, ROWS_PER_PASS = 5 };

static av_comm comm;
static av_comm self;
static rig_kind kind;

typedef struct scene {
  rig r;
  av_config config;
  av_posterior posterior;
  double mean_rho[GENES], z_variance[LATENT];
} scene;

static void scene_open_with(scene *s, const av_comm *over, int likelihood, int64_t n_batches,
                            bool size_factor) {
  const toy_extras extras = {.size_factor = size_factor};
  av_model_spec spec = rig_spec(true, likelihood, AV_DISPERSION_GENE, true, 1, n_batches);
  spec.n_genes = GENES;
  spec.n_latent = LATENT;
  rig_open_with(&s->r, &kind, over, spec, &extras, CELLS);
  assert_int_equal(av_config_defaults(&s->config), AV_OK);
  assert_int_equal(av_posterior_create(&s->posterior, over, &s->config, &s->r.dataset, &s->r.be,
                                       s->r.data, s->r.vae, ROWS_PER_PASS),
                   AV_OK);
  assert_int_equal(av_posterior_summary(&s->posterior, s->mean_rho, s->z_variance), AV_OK);
}

static void scene_open(scene *s, const av_comm *over, int likelihood, int64_t n_batches) {
  scene_open_with(s, over, likelihood, n_batches, false);
}

static void scene_close(scene *s) {
  av_posterior_free(&s->posterior);
  av_config_free(&s->config);
  rig_close(&s->r);
}

static void near(double found, double expected, double tolerance, const char *what) {
  if (!(fabs(found - expected) <= tolerance * (1e-3 + fabs(expected)))) {
    fail_msg("%s: %.12g, expected %.12g", what, found, expected);
  }
}

static av_factors factors_of(const scene *s) {
  av_factors factors;
  assert_int_equal(av_factors_create(&factors, s->r.layout, s->r.params, s->r.running, s->mean_rho,
                                     s->z_variance),
                   AV_OK);
  return factors;
}

/* rho and latent means of this rank's cells as the program gives them. */
static void outputs(scene *s, float *z, float *both) {
  const int64_t n = s->r.dataset.n_local;
  assert_int_equal(av_posterior_latent(&s->posterior, 0, n, z), AV_OK);
  assert_int_equal(av_posterior_decoded(&s->posterior, 0, n, both), AV_OK);
  assert_int_equal(av_posterior_end(&s->posterior), AV_OK);
  assert_int_equal(av_posterior_end(&s->posterior), AV_OK);
}

/* ---- the tables are the decoder ---- */

/* rho of one cell by softmax(z L^T + O + c). */
static void rebuild(const av_factors *factors, const float *z, int32_t batch, double *rho) {
  double sum = 0.0;
  for (int64_t g = 0; g < GENES; ++g) {
    double logit = factors->intercept[g];
    for (int64_t k = 0; k < LATENT; ++k) {
      logit += (double)z[k] * factors->loadings[g * LATENT + k];
    }
    if (factors->n_batches > 0) {
      logit += factors->offsets[g * factors->n_batches + batch];
    }
    rho[g] = exp(logit);
    sum += rho[g];
  }
  for (int64_t g = 0; g < GENES; ++g) {
    rho[g] /= sum;
  }
}

static void check_tables(int likelihood, int64_t n_batches) {
  scene s;
  scene_open(&s, &comm, likelihood, n_batches);
  const int64_t n = s.r.dataset.n_local;
  float *z = av_calloc((size_t)(n * LATENT), sizeof *z);
  float *both = av_calloc((size_t)(2 * n * GENES), sizeof *both);
  double rho[GENES];
  av_factors factors = factors_of(&s);
  assert_int_equal(factors.n_batches, n_batches > 1 ? n_batches : 0);
  outputs(&s, z, both);
  for (int64_t i = 0; i < n; ++i) {
    rebuild(&factors, z + i * LATENT, s.r.dataset.batch.code[i], rho);
    for (int64_t g = 0; g < GENES; ++g) {
      near((double)both[i * GENES + g], rho[g], 1e-5, "rho");
    }
  }
  free(z);
  free(both);
  av_factors_free(&factors);
  scene_close(&s);
}

static void test_tables(void **state) {
  (void)state;
  check_tables(AV_LIKELIHOOD_NB, 1);
  check_tables(AV_LIKELIHOOD_ZINB, 3);
}

/* ---- summary, shares, order ---- */

static void check_summary(const scene *s, const av_dataset *alone) {
  int64_t cells[CELLS];
  for (int64_t i = 0; i < CELLS; ++i) {
    cells[i] = i;
  }
  const direct_input in = {.layout = s->r.layout,
                           .params = s->r.params,
                           .running = s->r.running,
                           .prior = s->r.prior,
                           .dataset = alone,
                           .n = CELLS,
                           .cells = cells};
  direct_output all = direct_pass(&in);
  for (int64_t g = 0; g < GENES; ++g) {
    double mean = 0.0;
    for (int64_t i = 0; i < CELLS; ++i) {
      mean += all.rho[i * GENES + g] / CELLS;
    }
    near(s->mean_rho[g], mean, 1e-5, "mean rho");
  }
  for (int64_t k = 0; k < LATENT; ++k) {
    double mean = 0.0;
    double spread = 0.0;
    for (int64_t i = 0; i < CELLS; ++i) {
      mean += all.z_mean[i * LATENT + k] / CELLS;
    }
    for (int64_t i = 0; i < CELLS; ++i) {
      const double off = all.z_mean[i * LATENT + k] - mean;
      spread += off * off / CELLS;
    }
    near(s->z_variance[k], spread, 1e-4, "variance of z");
  }
  direct_free(&all);
}

/* share_k ~ Var(z_k) sum_g r_g (L_gk - sum_h r_h L_hk)^2, r the mean rho scaled to add up to 1,
 * from scvi-tools' tensors. */
static void direct_shares(const scene *s, double *share) {
  int64_t rows = 0;
  int64_t columns = 0;
  const rig *r = &s->r;
  const char *const prefix = "decoder.factor_regressor.fc_layers.Layer 0.";
  char name[96];
  double *parts[3];
  static const char *const names[] = {"0.weight", "1.weight", "1.running_var"};
  int64_t width = 0;
  for (int i = 0; i < 3; ++i) {
    snprintf(name, sizeof name, "%s%s", prefix, names[i]);
    parts[i] = direct_tensor(r->layout, r->params, r->running, name, &rows, &columns);
    width = i == 0 ? columns : width;
  }
  double total = 0.0;
  double weights = 0.0;
  for (int64_t g = 0; g < GENES; ++g) {
    weights += s->mean_rho[g];
  }
  for (int64_t k = 0; k < LATENT; ++k) {
    double middle = 0.0;
    share[k] = 0.0;
    for (int pass = 0; pass < 2; ++pass) {
      for (int64_t g = 0; g < GENES; ++g) {
        const double loading = parts[0][g * width + k] * parts[1][g] / sqrt(parts[2][g] + 1e-3);
        if (pass == 0) {
          middle += s->mean_rho[g] / weights * loading;
        } else {
          share[k] += s->z_variance[k] * s->mean_rho[g] * (loading - middle) * (loading - middle);
        }
      }
    }
    total += share[k];
  }
  for (int64_t k = 0; k < LATENT; ++k) {
    share[k] /= total;
  }
  for (int i = 0; i < 3; ++i) {
    free(parts[i]);
  }
}

static void check_shares(bool size_factor) {
  scene s, one;
  scene_open_with(&s, &comm, AV_LIKELIHOOD_NB, 3, size_factor);
  scene_open_with(&one, &self, AV_LIKELIHOOD_NB, 3, size_factor);
  check_summary(&s, &one.r.dataset);
  av_factors factors = factors_of(&s);
  double expected[LATENT];
  double sum = 0.0;
  bool seen[LATENT] = {false};
  direct_shares(&s, expected);
  for (int64_t k = 0; k < LATENT; ++k) {
    near(factors.share[k], expected[k], 1e-10, "share");
    sum += factors.share[k];
    assert_in_range(factors.order[k], 0, LATENT - 1);
    assert_false(seen[factors.order[k]]);
    seen[factors.order[k]] = true;
    assert_true(k == 0 || factors.share[factors.order[k - 1]] >= factors.share[factors.order[k]]);
  }
  assert_true(fabs(sum - 1.0) < 1e-12);
  if (kind.strict ||
      kind.tolerance < 1e-8) { /* cell by cell the same: the same sums, bit for bit */
    assert_memory_equal(s.mean_rho, one.mean_rho, sizeof s.mean_rho);
    assert_memory_equal(s.z_variance, one.z_variance, sizeof s.z_variance);
  }
  av_factors_free(&factors);
  scene_close(&s);
  scene_close(&one);
}

static void test_shares(void **state) {
  (void)state;
  check_shares(false);
  check_shares(true); /* rho does not add up to 1 */
}

/* Beside tiny size factors rho is as large as the counts over them. */
static void test_large_rho(void **state) {
  (void)state;
  scene s;
  scene_open_with(&s, &comm, AV_LIKELIHOOD_NB, 2, true);
  for (int64_t g = 0; g < GENES; ++g) {
    s.r.params[s.r.layout->scale.beta + g] += 1e11;
  }
  assert_int_equal(av_vae_set_values(s.r.vae, s.r.params, s.r.running), AV_OK);
  av_vae_begin_inference(s.r.vae);
  assert_int_equal(av_posterior_summary(&s.posterior, s.mean_rho, s.z_variance), AV_OK);
  for (int64_t g = 0; g < GENES; ++g) {
    near(s.mean_rho[g], 1e11, 1e-6, "mean rho");
  }
  scene_close(&s);
}

/* ---- signs ---- */

/* The centred loading of largest size. */
static double largest_centred(const av_factors *factors, const double *mean_rho, int64_t k) {
  double middle = 0.0;
  double weights = 0.0;
  double largest = 0.0;
  for (int64_t g = 0; g < GENES; ++g) {
    middle += mean_rho[g] * factors->loadings[g * LATENT + k];
    weights += mean_rho[g];
  }
  middle /= weights;
  for (int64_t g = 0; g < GENES; ++g) {
    const double value = factors->loadings[g * LATENT + k] - middle;
    largest = fabs(value) > fabs(largest) ? value : largest;
  }
  return largest;
}

static void check_signs(int likelihood, bool size_factor) {
  scene s;
  scene_open_with(&s, &comm, likelihood, 2, size_factor);
  const int64_t n = s.r.dataset.n_local;
  const size_t n_z = (size_t)(n * LATENT);
  const size_t n_both = (size_t)(2 * n * GENES);
  float *z[2], *both[2];
  for (int i = 0; i < 2; ++i) {
    z[i] = av_calloc(n_z, sizeof *z[i]);
    both[i] = av_calloc(n_both, sizeof *both[i]);
  }
  av_factors before = factors_of(&s);
  outputs(&s, z[0], both[0]);
  av_factors_fix_signs(s.r.layout, s.r.running, s.mean_rho, s.r.params);
  assert_int_equal(av_vae_set_values(s.r.vae, s.r.params, s.r.running), AV_OK);
  av_vae_begin_inference(s.r.vae);
  av_factors after = factors_of(&s);
  outputs(&s, z[1], both[1]);
  int64_t turned = 0;
  for (int64_t k = 0; k < LATENT; ++k) {
    const bool turn = largest_centred(&before, s.mean_rho, k) < 0.0;
    turned += turn;
    assert_true(largest_centred(&after, s.mean_rho, k) > 0.0);
    for (int64_t g = 0; g < GENES; ++g) {
      const double was = before.loadings[g * LATENT + k];
      assert_true(after.loadings[g * LATENT + k] == (turn ? -was : was));
    }
    for (int64_t i = 0; i < n; ++i) {
      const float was = z[0][i * LATENT + k];
      assert_true(fabsf(z[1][i * LATENT + k] - (turn ? -was : was)) <= 1e-6F * (1.0F + fabsf(was)));
    }
    assert_true(after.share[k] == before.share[k]);
  }
  assert_true(turned > 0 && turned < LATENT); /* or the test says little */
  for (size_t i = 0; i < n_both; ++i) {
    near((double)both[1][i], (double)both[0][i], 1e-5, "rho or mu after turning");
  }
  double *kept = av_calloc((size_t)s.r.layout->n_params, sizeof *kept);
  memcpy(kept, s.r.params, (size_t)s.r.layout->n_params * sizeof *kept);
  av_factors_fix_signs(s.r.layout, s.r.running, s.mean_rho, s.r.params); /* again: nothing to do */
  assert_memory_equal(kept, s.r.params, (size_t)s.r.layout->n_params * sizeof *kept);
  free(kept);
  for (int i = 0; i < 2; ++i) {
    free(z[i]);
    free(both[i]);
  }
  av_factors_free(&before);
  av_factors_free(&after);
  scene_close(&s);
}

static void test_signs(void **state) {
  (void)state;
  check_signs(AV_LIKELIHOOD_NB, false);
  check_signs(AV_LIKELIHOOD_ZINB, false);
  check_signs(AV_LIKELIHOOD_NB, true);
}

/* With ZINB the zero-inflation head reads z too: the likelihood of the mean path must stay. */
static void test_likelihood_stays(void **state) {
  (void)state;
  scene s;
  av_dataset alone;
  av_split split;
  scene_open(&s, &comm, AV_LIKELIHOOD_ZINB, 2);
  toy_create(&alone, &split, &self, CELLS, GENES, 2);
  static const int64_t cells[] = {0, 5, 9, 22};
  const direct_input in = {.layout = s.r.layout,
                           .params = s.r.params,
                           .running = s.r.running,
                           .prior = s.r.prior,
                           .dataset = &alone,
                           .n = 4,
                           .cells = cells};
  direct_output before = direct_pass(&in);
  av_factors_fix_signs(s.r.layout, s.r.running, s.mean_rho, s.r.params);
  direct_output after = direct_pass(&in);
  near(after.nll, before.nll, 1e-12, "likelihood after turning");
  near(after.kl_z, before.kl_z, 1e-12, "KL(z) after turning");
  near(after.kl_l, before.kl_l, 1e-12, "KL(l) after turning");
  direct_free(&before);
  direct_free(&after);
  toy_free(&alone, &split);
  scene_close(&s);
}

/* ---- top genes ---- */

static void test_top(void **state) {
  (void)state;
  scene s;
  scene_open(&s, &comm, AV_LIKELIHOOD_NB, 1);
  av_factors factors = factors_of(&s);
  for (int64_t k = 0; k < LATENT; ++k) {
    for (int up = 0; up < 2; ++up) {
      for (int64_t n = 1; n <= GENES; n += 6) {
        int64_t genes[GENES];
        bool named[GENES] = {false};
        av_factors_top(&factors, s.mean_rho, k, up != 0, n, genes);
        const double sign = up ? 1.0 : -1.0;
        for (int64_t i = 0; i < n; ++i) {
          assert_in_range(genes[i], 0, GENES - 1);
          assert_false(named[genes[i]]);
          named[genes[i]] = true;
          assert_true(i == 0 || sign * factors.loadings[genes[i - 1] * LATENT + k] >=
                                    sign * factors.loadings[genes[i] * LATENT + k]);
        }
        for (int64_t g = 0; g < GENES; ++g) { /* nobody better is left out */
          assert_true(named[g] || sign * factors.loadings[g * LATENT + k] <=
                                      sign * factors.loadings[genes[n - 1] * LATENT + k]);
        }
      }
    }
  }
  av_factors_free(&factors);
  scene_close(&s);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_tables),           cmocka_unit_test(test_shares),
      cmocka_unit_test(test_large_rho),        cmocka_unit_test(test_signs),
      cmocka_unit_test(test_likelihood_stays), cmocka_unit_test(test_top),
  };
  if (av_comm_create(&comm, &argc, &argv) != AV_OK) {
    return 1;
  }
  av_comm_self(&self);
  kind = rig_kind_of(argc > 1 ? argv[1] : "reference");
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  av_comm_free(&comm);
  return failed;
}
