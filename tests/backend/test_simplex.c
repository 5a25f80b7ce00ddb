/* Means of softmaxed normals against quadrature: with two dimensions softmax(z)_0 is the logistic
 * function of z_0 - z_1, which is normal too. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "backend/simplex.h"

#include <math.h>

enum { MOST = 8 };

static void mean_of(int64_t k, const double *mean, const double *variance, int64_t cell,
                    int64_t n_samples, double *out) {
  double space[2 * MOST];
  const av_simplex simplex = {.n_latent = k,
                              .mean = mean,
                              .variance = variance,
                              .seed = 3,
                              .cell = cell,
                              .n_samples = n_samples};
  av_simplex_mean(&simplex, space, out);
}

/* E of the logistic function of N(mean, variance), by the midpoint rule over +-12 deviations. */
static double logistic_mean(double mean, double variance) {
  enum { STEPS = 200000 };
  double sum = 0.0;
  for (int i = 0; i < STEPS; ++i) {
    const double t = -12.0 + 24.0 * (i + 0.5) / STEPS;
    sum += exp(-0.5 * t * t) / (1.0 + exp(-(mean + sqrt(variance) * t)));
  }
  return sum * 24.0 / STEPS / sqrt(2.0 * 3.14159265358979323846);
}

static void test_quadrature(void **state) {
  (void)state;
  const double mean[] = {0.7, -0.4};
  const double variance[] = {0.8, 1.9};
  const double wanted = logistic_mean(1.1, 2.7);
  double found[2];
  mean_of(2, mean, variance, 5, 200000, found);
  assert_true(fabs(found[0] - wanted) < 5.0 * 0.5 / sqrt(200000.0));
  assert_true(fabs(found[0] + found[1] - 1.0) < 1e-12);
  assert_true(fabs(wanted - 1.0 / (1.0 + exp(-1.1))) > 0.03); /* softmax of the mean is elsewhere */
}

/* One draw is the softmax of the draw that belongs to (seed, cell, sample 0). */
static void test_one_draw(void **state) {
  (void)state;
  const double mean[] = {0.1, -0.2, 0.3, 0.0, 1.5};
  const double variance[] = {0.5, 0.6, 0.7, 0.8, 0.9};
  double z[5];
  double sum = 0.0;
  for (int k = 0; k < 5; ++k) {
    uint32_t words[4];
    double noise[4];
    av_random4(words, 3, AV_DRAW_POSTERIOR, 11, 0, (uint32_t)(k / 4));
    av_normals4(words, noise);
    z[k] = exp(mean[k] + sqrt(variance[k]) * noise[k % 4]);
    sum += z[k];
  }
  double found[5];
  mean_of(5, mean, variance, 11, 1, found);
  for (int k = 0; k < 5; ++k) {
    assert_true(fabs(found[k] - z[k] / sum) < 1e-14);
  }
}

/* Other cells get other draws; large logits overflow nothing; one dimension is 1. */
static void test_edges(void **state) {
  (void)state;
  const double mean[] = {800.0, -800.0};
  const double variance[] = {4.0, 4.0};
  double a[2];
  double b[2];
  mean_of(2, mean, variance, 0, 7, a);
  assert_true(a[0] == 1.0 && a[1] == 0.0);
  const double near[] = {0.0, 0.0};
  mean_of(2, near, variance, 0, 3, a);
  mean_of(2, near, variance, 1, 3, b);
  assert_true(a[0] != b[0]);
  mean_of(1, mean, variance, 0, 5, a);
  assert_true(a[0] == 1.0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_quadrature),
      cmocka_unit_test(test_one_draw),
      cmocka_unit_test(test_edges),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
