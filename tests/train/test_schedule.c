/* Number of epochs and KL weight against tables worked out from scvi-tools' formulas. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "train/schedule.h"

#include <math.h>

/* Python: max(1, min(round(20000 / n * 400), 400)), halves to even. */
static void test_epochs(void **state) {
  (void)state;
  static const struct {
    int64_t cells, epochs;
  } table[] = {{1, 400},     {100, 400},    {20000, 400},  {20001, 400},
               {20026, 399}, {40000, 200},  {53334, 150},  {100000, 80},
               {1306127, 6}, {3200000, 2},  {5333333, 2},  {5333334, 1},
               {8000000, 1}, {16000000, 1}, {20000000, 1}, {100000000, 1}};
  for (size_t i = 0; i < sizeof table / sizeof *table; ++i) {
    assert_int_equal(av_default_epochs(table[i].cells), table[i].epochs);
  }
}

static av_config settings(int n, char *const *overrides) {
  av_config config;
  assert_int_equal(av_config_defaults(&config), AV_OK);
  assert_int_equal(av_config_parse(&config, NULL, "", n, overrides), AV_OK);
  return config;
}

typedef struct moment {
  int64_t epoch, step;
  double weight;
} moment;

static void check(int n, char *const *overrides, size_t n_moments, const moment *moments) {
  av_config config = settings(n, overrides);
  for (size_t i = 0; i < n_moments; ++i) {
    const double weight = av_kl_weight(&config, moments[i].epoch, moments[i].step);
    if (!(fabs(weight - moments[i].weight) < 1e-15)) {
      fail_msg("epoch %lld, step %lld: weight %.17g, expected %.17g", (long long)moments[i].epoch,
               (long long)moments[i].step, weight, moments[i].weight);
    }
  }
  av_config_free(&config);
}

#define N(array) (sizeof(array) / sizeof *(array))

static void test_default(void **state) {
  (void)state;
  static const moment moments[] = {{0, 0, 0.0},    {0, 999, 0.0},    {1, 1000, 0.0025},
                                   {100, 0, 0.25}, {399, 0, 0.9975}, {400, 0, 1.0},
                                   {401, 5, 1.0},  {100000, 0, 1.0}};
  check(0, NULL, N(moments), moments);
}

static void test_by_epoch(void **state) {
  (void)state;
  char *const some[] = {"train.n_epochs_kl_warmup=4", "train.min_kl_weight=0.2",
                        "train.max_kl_weight=0.6"};
  static const moment moments[] = {{0, 0, 0.2}, {1, 0, 0.3}, {2, 7, 0.4},
                                   {3, 0, 0.5}, {4, 0, 0.6}, {9, 0, 0.6}};
  check(3, some, N(moments), moments);
  char *const falling[] = {"train.n_epochs_kl_warmup=2", "train.min_kl_weight=3",
                           "train.max_kl_weight=1"};
  static const moment down[] = {{0, 0, 3.0}, {1, 0, 2.0}, {2, 0, 1.0}};
  check(3, falling, N(down), down);
}

static void test_by_step(void **state) {
  (void)state;
  char *const steps[] = {"train.n_steps_kl_warmup=10", "train.max_kl_weight=2"};
  static const moment moments[] = {{0, 0, 0.0}, {0, 5, 1.0},  {3, 5, 1.0},
                                   {0, 9, 1.8}, {0, 10, 2.0}, {7, 11, 2.0}};
  check(2, steps, N(moments), moments);
}

static void test_none(void **state) {
  (void)state;
  char *const off[] = {"train.n_epochs_kl_warmup=0", "train.min_kl_weight=0.5"};
  static const moment moments[] = {{0, 0, 1.0}, {1, 50, 1.0}};
  check(2, off, N(moments), moments);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_epochs),   cmocka_unit_test(test_default),
      cmocka_unit_test(test_by_epoch), cmocka_unit_test(test_by_step),
      cmocka_unit_test(test_none),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
