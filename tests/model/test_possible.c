/* What a linear decoder's BatchNorm cannot do is refused, and nothing else: pairs of very many
 * categories, which would have to be exchanged; more factors than a GPU takes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "config/config.h"
#include "model/vae.h"

#include <string.h>

static av_status possible(bool linear, bool batch_norm, int64_t n_factors, int64_t a, int64_t b) {
  int64_t first[] = {0, a, a + b};
  const av_design design = {.n_factors = n_factors, .first = first, .n_onehot = first[n_factors]};
  const av_model_spec spec = {.linear = linear,
                              .decoder_batch_norm = batch_norm,
                              .n_latent = 10,
                              .n_onehot = design.n_onehot};
  av_error_clear();
  return av_vae_possible(&spec, &design, AV_BACKEND_AUTO);
}

static void test_pairs(void **state) {
  (void)state;
  assert_int_equal(possible(true, true, 2, 5000, 5000), AV_OK); /* 200 MB */
  assert_int_equal(possible(true, true, 2, 6000, 6000), AV_CONFIG);
  assert_non_null(strstr(av_error_text(), "categorical_covariate_keys"));
  assert_non_null(strstr(av_error_text(), "12000 columns"));
  assert_non_null(strstr(av_error_text(), "use_batch_norm = encoder"));
  assert_int_equal(possible(true, false, 2, 6000, 6000), AV_OK);
  assert_int_equal(possible(false, true, 2, 6000, 6000), AV_OK);
  assert_int_equal(possible(true, true, 1, 500000, 0), AV_OK); /* no pairs */
}

/* Factors of two categories each. */
static av_status with_factors(int64_t n, bool linear, bool batch_norm, int backend) {
  enum { MOST = 64 };
  int64_t first[MOST + 1];
  for (int64_t f = 0; f <= n; ++f) {
    first[f] = 2 * f;
  }
  const av_design design = {.n_factors = n, .first = first, .n_onehot = 2 * n};
  const av_model_spec spec = {.linear = linear,
                              .decoder_batch_norm = batch_norm,
                              .n_latent = 10,
                              .n_onehot = design.n_onehot};
  av_error_clear();
  return av_vae_possible(&spec, &design, backend);
}

static void test_factors(void **state) {
  (void)state;
  assert_int_equal(with_factors(63, true, true, AV_BACKEND_CUDA), AV_OK);
  assert_int_equal(with_factors(64, true, true, AV_BACKEND_CUDA), AV_CONFIG);
  assert_string_equal(
      av_error_text(),
      "[data] categorical_covariate_keys: with backend = cuda a linear decoder with BatchNorm "
      "takes "
      "up to 63 columns, batch_key among them; here are 64 with more than one category: leave some "
      "out, or say [runtime] backend = cpu or [model] use_batch_norm = encoder");
  assert_int_equal(with_factors(64, true, true, AV_BACKEND_CPU), AV_OK);
  assert_int_equal(with_factors(64, true, true, AV_BACKEND_AUTO), AV_OK);
  assert_int_equal(with_factors(64, true, false, AV_BACKEND_CUDA), AV_OK);
  assert_int_equal(with_factors(64, false, true, AV_BACKEND_CUDA), AV_OK);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_pairs), cmocka_unit_test(test_factors)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
