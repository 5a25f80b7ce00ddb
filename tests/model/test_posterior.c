/* Inference over a rank's cells against the formulas written out: latent codes, rho and mu in any
 * cut of the rows, averages over draws, NaN for cells without counts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "math/rng.h"
#include "model/direct.h"
#include "model/rig.h"
#include "posterior/posterior.h"

#ifdef AV_TESTED_CUDA
#include "cuda_backend.h"
#endif

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CELLS = 19, EMPTY = 6 /* this cell counts as one without counts */ };

static av_comm self;
static rig_kind kind;

static void near(float found, double expected, const char *what) {
  const double allowed = fmax(10.0 * kind.tolerance, 1e-6);
  if (!(fabs((double)found - expected) <= allowed * (1e-3 + fabs(expected)))) {
    fail_msg("%s: %.9g, expected %.9g", what, (double)found, expected);
  }
}

/* rho and mu of all cells: posterior means, or the average over n draws. */
static direct_output expected(const rig *r, int64_t samples, uint64_t seed) {
  int64_t cells[CELLS];
  for (int64_t i = 0; i < CELLS; ++i) {
    cells[i] = i;
  }
  direct_input in = {.layout = r->layout,
                     .params = r->params,
                     .running = r->running,
                     .prior = r->prior,
                     .dataset = &r->dataset,
                     .n = CELLS,
                     .cells = cells};
  if (samples == 0) {
    return direct_pass(&in);
  }
  in.sample = true;
  in.draw = (av_draw){.seed = seed, .purpose = AV_DRAW_POSTERIOR};
  const int64_t size = CELLS * r->layout->spec.n_genes;
  direct_output mean = direct_pass(&in);
  for (int64_t draw = 1; draw < samples; ++draw) {
    in.draw.epoch = (uint32_t)draw;
    direct_output one = direct_pass(&in);
    for (int64_t i = 0; i < size; ++i) {
      mean.rho[i] += (one.rho[i] - mean.rho[i]) / (double)(draw + 1);
      mean.mu[i] += (one.mu[i] - mean.mu[i]) / (double)(draw + 1);
    }
    direct_free(&one);
  }
  return mean;
}

static void check_rows(const float *found, const double *wanted, int64_t first, int64_t n,
                       int64_t width, const char *what) {
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < width; ++j) {
      if (first + i == EMPTY) {
        assert_true(isnan(found[i * width + j]));
      } else {
        near(found[i * width + j], wanted[(first + i) * width + j], what);
      }
    }
  }
}

/* rho and mu of all cells in calls of up to `most` rows, each begun before the one before it is
 * ended, as when they are written. */
static void check_ahead(av_posterior *posterior, int64_t most, const direct_output *wanted) {
  const int64_t genes = av_vae_layout(posterior->vae)->spec.n_genes;
  float *out[AV_POSTERIOR_PASSES];
  for (int i = 0; i < AV_POSTERIOR_PASSES; ++i) {
    out[i] = av_calloc((size_t)(2 * most * genes), sizeof *out[i]);
    assert_non_null(out[i]);
  }
  int64_t checked = 0;
  int64_t before = 0; /* rows under way */
  for (int64_t first = 0, call = 0; checked < CELLS; ++call) {
    const int64_t n = CELLS - first < most ? CELLS - first : most;
    if (n > 0) {
      assert_int_equal(av_posterior_decoded(posterior, first, n, out[call % AV_POSTERIOR_PASSES]),
                       AV_OK);
    }
    if (before > 0) {
      const float *rho = out[(call - 1) % AV_POSTERIOR_PASSES];
      assert_int_equal(av_posterior_end(posterior), AV_OK);
      check_rows(rho, wanted->rho, checked, before, genes, "rho ahead");
      check_rows(rho + before * genes, wanted->mu, checked, before, genes, "mu ahead");
      checked += before;
    }
    before = n;
    first += n;
  }
  assert_int_equal(av_posterior_end(posterior), AV_BUG);
  for (int i = 0; i < AV_POSTERIOR_PASSES; ++i) {
    assert_int_equal(av_posterior_rho(posterior, 0, 1, out[i]), AV_OK);
  }
  assert_int_equal(av_posterior_rho(posterior, 0, 1, out[0]), AV_BUG);
  assert_int_equal(av_posterior_summary(posterior, NULL, NULL), AV_BUG);
  for (int i = 0; i < AV_POSTERIOR_PASSES; ++i) {
    assert_int_equal(av_posterior_end(posterior), AV_OK);
    free(out[i]);
  }
  av_error_clear();
}

static void check(bool linear, bool latent_library, int64_t rows_per_pass, int n_settings,
                  char *const *overrides, int64_t samples) {
  rig r;
  av_config config;
  av_posterior posterior;
  rig_open(&r, &kind, &self,
           rig_spec(linear, AV_LIKELIHOOD_NB, AV_DISPERSION_GENE, latent_library, 1, 3), CELLS);
  direct_output wanted = expected(&r, samples, 4);
  r.dataset.library[EMPTY] = 0.0;
  assert_int_equal(av_config_defaults(&config), AV_OK);
  assert_int_equal(av_config_parse(&config, NULL, "", n_settings, overrides), AV_OK);
  assert_int_equal(av_posterior_create(&posterior, &self, &config, &r.dataset, &r.be, r.data, r.vae,
                                       rows_per_pass),
                   AV_OK);
  const int64_t k = r.layout->spec.n_latent;
  const int64_t genes = r.layout->spec.n_genes;
  static const struct { int64_t first, n; } cuts[] = {{0, CELLS}, {3, 9}, {18, 1}, {5, 0}};
  for (int c = 0; c < 4; ++c) {
    const int64_t first = cuts[c].first;
    const int64_t n = cuts[c].n;
    const int64_t size = n * genes;
    float *out = av_calloc((size_t)(2 * size + n * k), sizeof *out);
    assert_int_equal(av_posterior_latent(&posterior, first, n, out + 2 * size), AV_OK);
    assert_int_equal(av_posterior_decoded(&posterior, first, n, out), AV_OK);
    assert_int_equal(av_posterior_end(&posterior), AV_OK);
    check_rows(out + 2 * size, wanted.z_mean, first, n, k, "latent");
    assert_int_equal(av_posterior_end(&posterior), AV_OK);
    check_rows(out, wanted.rho, first, n, genes, "rho of both");
    check_rows(out + size, wanted.mu, first, n, genes, "mu of both");
    memset(out, 0, (size_t)(2 * size) * sizeof *out);
    assert_int_equal(av_posterior_mu(&posterior, first, n, out), AV_OK);
    assert_int_equal(av_posterior_rho(&posterior, first, n, out + size), AV_OK);
    assert_int_equal(av_posterior_end(&posterior), AV_OK);
    check_rows(out, wanted.mu, first, n, genes, "mu");
    assert_int_equal(av_posterior_end(&posterior), AV_OK);
    check_rows(out + size, wanted.rho, first, n, genes, "rho");
    free(out);
  }
  check_ahead(&posterior, 5, &wanted);
  check_ahead(&posterior, 12, &wanted);
  /* the empty cell takes no part in the summary */
  double *mean_rho = av_calloc((size_t)genes, sizeof *mean_rho);
  double z_variance[8];
  assert_int_equal(av_posterior_summary(&posterior, mean_rho, z_variance), AV_OK);
  direct_output mean = expected(&r, 0, 0);
  for (int64_t g = 0; g < genes; ++g) {
    double average = 0.0;
    for (int64_t i = 0; i < CELLS; ++i) {
      average += i == EMPTY ? 0.0 : mean.rho[i * genes + g] / (CELLS - 1);
    }
    near((float)mean_rho[g], average, "mean rho");
  }
  free(mean_rho);
  direct_free(&mean);
  direct_free(&wanted);
  av_posterior_free(&posterior);
  av_config_free(&config);
  rig_close(&r);
}

static void test_means(void **state) {
  (void)state;
  check(true, true, 4, 0, NULL, 0);
  check(true, false, 19, 0, NULL, 0);
  check(false, true, 1, 0, NULL, 0);
  check(false, false, 7, 0, NULL, 0);
}

static void test_draws(void **state) {
  (void)state;
  char *const one[] = {"output.n_samples=1", "train.seed=4"};
  char *const many[] = {"output.n_samples=6", "train.seed=4"};
  check(true, true, 4, 2, one, 1);
  check(true, true, 4, 2, many, 6);
  check(false, false, 10, 2, many, 6);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_means),
      cmocka_unit_test(test_draws),
  };
  av_comm comm;
  if (av_comm_create(&comm, &argc, &argv) != AV_OK) {
    return 1;
  }
  av_comm_self(&self);
#ifdef AV_TESTED_CUDA
  kind = (rig_kind){.ops = &av_backend_cuda, .keeps_passes = true, .tolerance = 1e-4};
#else
  kind = rig_kind_of(argc > 1 ? argv[1] : "reference");
#endif
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  av_comm_free(&comm);
  return failed;
}
