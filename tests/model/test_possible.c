/* Two covariates with very many categories: refused where a linear decoder's BatchNorm would have
 * to exchange their pairs, and nowhere else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

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
  return av_vae_possible(&spec, &design);
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

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_pairs)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
