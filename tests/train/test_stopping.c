/* Early stopping, the best epoch and the falling learning rate against tables worked out by hand
 * from the rules of Lightning's EarlyStopping (with scvi-tools' warm-up) and torch's
 * ReduceLROnPlateau. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "train/stopping.h"

#include <math.h>
#include <stdio.h>

enum { MOST = 12 };

static av_config settings(const char *text) {
  av_config config;
  assert_int_equal(av_config_defaults(&config), AV_OK);
  assert_int_equal(av_config_parse(&config, "run.ini", text, 0, NULL), AV_OK);
  return config;
}

/* Values of epochs 1, 2, ...; SKIPPED is an epoch in which the validation cells are not evaluated.
 */
#define SKIPPED (-12345.0)

typedef struct stopping_case {
  const char *what;
  const char *train; /* lines of [train] */
  int n;
  double values[MOST];
  int64_t stops; /* after this epoch; 0: never */
  double best;
  int64_t best_epoch;
} stopping_case;

static const stopping_case stopping[] = {
    {"falls for ever", "early_stopping_patience = 1\n", 5, {5, 4, 3, 2, 1}, 0, 1, 5},
    {"the third check in a row", "early_stopping_patience = 3\n", 6, {5, 4, 6, 5, 4.5, 1}, 5, 4, 2},
    {"an improvement starts the count again",
     "early_stopping_patience = 3\n",
     9,
     {5, 6, 6, 4, 6, 6, 3, 9, 9},
     0,
     3,
     7},
    {"equal is no improvement", "early_stopping_patience = 2\n", 4, {5, 5, 5, 5}, 3, 5, 1},
    {"patience 0 is 1", "early_stopping_patience = 0\n", 4, {5, 4, 4, 3}, 3, 4, 2},
    {"patience 1", "early_stopping_patience = 1\n", 4, {5, 4, 4, 3}, 3, 4, 2},
    /* 4.5 and 4 are within 1 of 5; 3.5 is not; then 2.5 is exactly 1 below, which is not more */
    {"min_delta, strictly",
     "early_stopping_patience = 3\nearly_stopping_min_delta = 1\n",
     8,
     {5, 4.5, 4, 3.5, 2.5, 2.5, 2.5, 0},
     7,
     3.5,
     4},
    {"without min_delta",
     "early_stopping_patience = 3\n",
     8,
     {5, 4.5, 4, 3.5, 2.5, 2.5, 2.5, 0},
     0,
     0,
     8},
    {"rises for ever",
     "early_stopping_patience = 1\nearly_stopping_mode = max\n",
     4,
     {-4, -3, 0, 1},
     0,
     1,
     4},
    {"max with min_delta",
     "early_stopping_patience = 2\nearly_stopping_mode = max\nearly_stopping_min_delta = 0.5\n",
     6,
     {1, 1.5, 2, 2.5, 2.25, 9},
     5,
     2,
     3},
    /* the low values of warm-up are forgotten, and its rises not counted */
    {"warm-up",
     "early_stopping_patience = 2\nearly_stopping_warmup_epochs = 3\n",
     7,
     {1, 2, 3, 9, 8, 8, 8},
     7,
     8,
     5},
    {"warm-up longer than training",
     "early_stopping_patience = 1\nearly_stopping_warmup_epochs = 100\n",
     4,
     {1, 2, 3, 4},
     0,
     INFINITY,
     0},
    {"patience counts checks, not epochs",
     "early_stopping_patience = 2\n",
     9,
     {SKIPPED, 5, SKIPPED, 4, SKIPPED, 6, SKIPPED, 6, SKIPPED},
     8,
     4,
     4},
    {"and so does warm-up",
     "early_stopping_patience = 1\nearly_stopping_warmup_epochs = 1\n",
     6,
     {SKIPPED, 1, SKIPPED, 5, SKIPPED, 6},
     6,
     5,
     4},
    {"not a number ends it", "early_stopping_patience = 9\n", 4, {5, 4, NAN, 3}, 3, 4, 2},
    {"infinity ends it", "early_stopping_patience = 9\n", 3, {5, -INFINITY, 3}, 2, 5, 1},
    {"but not in warm-up",
     "early_stopping_patience = 9\nearly_stopping_warmup_epochs = 1\n",
     3,
     {NAN, 5, 4},
     0,
     4,
     3},
    {"a column of training has no skipped epochs",
     "early_stopping_patience = 2\nearly_stopping_monitor = elbo_train\n",
     4,
     {5, 6, 7, 1},
     3,
     5,
     1},
};

static void test_stopping(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof stopping / sizeof *stopping; ++i) {
    const stopping_case *c = &stopping[i];
    char text[256];
    snprintf(text, sizeof text, "[train]\nearly_stopping = yes\n%s", c->train);
    av_config config = settings(text);
    av_stopper stopper = av_stopper_from(&config);
    int64_t stops = 0;
    for (int e = 0; e < c->n && stops == 0; ++e) {
      const bool validated = c->values[e] != SKIPPED;
      if (av_monitor_checks(config.train.early_stopping_monitor, validated) &&
          av_stopper_check(&stopper, e + 1, validated ? c->values[e] : NAN)) {
        stops = e + 1;
      }
    }
    if (stops != c->stops || stopper.best != c->best || stopper.best_epoch != c->best_epoch) {
      fail_msg("%s: stops %lld, best %g of epoch %lld; expected %lld, %g, %lld", c->what,
               (long long)stops, stopper.best, (long long)stopper.best_epoch, (long long)c->stops,
               c->best, (long long)c->best_epoch);
    }
    av_config_free(&config);
  }
}

static void test_defaults(void **state) {
  (void)state;
  av_config config = settings("");
  assert_false(config.train.early_stopping || config.train.reduce_lr_on_plateau);
  assert_int_equal(config.train.keep, AV_KEEP_LAST);
  av_stopper stopper = av_stopper_from(&config);
  assert_false(av_stopper_check(&stopper, 1, 7.0));
  for (int64_t epoch = 2; epoch <= 45; ++epoch) {
    assert_false(av_stopper_check(&stopper, epoch, 7.0));
  }
  assert_true(av_stopper_check(&stopper, 46, 7.0)); /* the 45th without improvement */
  av_plateau plateau = av_plateau_from(&config);
  assert_false(av_plateau_check(&plateau, 7.0));
  for (int i = 0; i < 30; ++i) {
    assert_false(av_plateau_check(&plateau, 7.0));
  }
  assert_true(av_plateau_check(&plateau, 7.0)); /* the 31st */
  assert_true(fabs(plateau.lr - 6e-4) < 1e-15);
  av_config_free(&config);
}

static void test_monitors(void **state) {
  (void)state;
  static const struct {
    const char *name;
    bool held_out;
  } monitors[] = {{"elbo_validation", true},     {"reconstruction_loss_validation", true},
                  {"kl_local_validation", true}, {"validation_loss", true},
                  {"elbo_train", false},         {"reconstruction_loss_train", false},
                  {"kl_local_train", false},     {"train_loss", false}};
  for (int i = 0; i < 8; ++i) {
    char text[96];
    snprintf(text, sizeof text, "[train]\nearly_stopping_monitor = %s\n", monitors[i].name);
    av_config config = settings(text);
    const int monitor = config.train.early_stopping_monitor;
    assert_int_equal(av_monitor_held_out(monitor), monitors[i].held_out);
    assert_true(av_monitor_checks(monitor, true));
    assert_int_equal(av_monitor_checks(monitor, false), !monitors[i].held_out);
    av_config_free(&config);
  }
}

static void test_best(void **state) {
  (void)state;
  static const double values[] = {NAN, 5, 4, 4, -INFINITY, 6, 3, INFINITY, 3.5};
  static const bool falls[] = {false, true, true, false, false, false, true, false, false};
  static const bool rises[] = {false, true, false, false, false, true, false, false, false};
  for (int mode = 0; mode < 2; ++mode) {
    /* min_delta is early stopping's alone: the best is simply the best */
    av_config config = settings(mode == 0 ? "[train]\nearly_stopping_min_delta = 3\n"
                                          : "[train]\nearly_stopping_mode = max\n");
    av_best best = av_best_from(&config);
    assert_int_equal(best.epoch, 0);
    for (int e = 0; e < 9; ++e) {
      assert_int_equal(av_best_check(&best, e + 1, values[e]), mode == 0 ? falls[e] : rises[e]);
    }
    assert_int_equal(best.epoch, mode == 0 ? 7 : 6);
    assert_true(best.value == (mode == 0 ? 3.0 : 6.0));
    av_config_free(&config);
  }
}

typedef struct plateau_case {
  const char *what;
  const char *train;
  int n;
  double values[MOST];
  double rates[MOST]; /* after each check */
} plateau_case;

static const plateau_case plateaus[] = {
    {"patience 1: the second bad check",
     "lr = 1\nlr_factor = 0.5\nlr_patience = 1\n",
     8,
     {5, 6, 6, 6, 6, 4, 4, 4},
     {1, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125}},
    {"patience 0: every bad check",
     "lr = 1\nlr_factor = 0.5\nlr_patience = 0\n",
     4,
     {5, 5, 4, 4},
     {1, 0.5, 0.5, 0.25}},
    {"an improvement starts the count again",
     "lr = 1\nlr_factor = 0.5\nlr_patience = 1\n",
     6,
     {5, 6, 4, 6, 3, 6},
     {1, 1, 1, 1, 1, 1}},
    /* 4.5 and 4 are not below 5 - 1; a relative 1 would call nothing better */
    {"threshold, absolute and strictly",
     "lr = 1\nlr_factor = 0.5\nlr_patience = 1\nlr_threshold = 1\n",
     6,
     {5, 4.5, 4, 2.5, 1.5, 0.25},
     {1, 1, 0.5, 0.5, 0.5, 0.5}},
    {"never below lr_min",
     "lr = 1\nlr_factor = 0.5\nlr_patience = 0\nlr_min = 0.3\n",
     5,
     {5, 5, 5, 5, 5},
     {1, 0.5, 0.3, 0.3, 0.3}},
    {"a change of 1e-8 or less is not made",
     "lr = 1.5e-8\nlr_factor = 0.5\nlr_patience = 0\n",
     3,
     {5, 5, 5},
     {1.5e-8, 1.5e-8, 1.5e-8}},
    {"not a number is no improvement",
     "lr = 1\nlr_factor = 0.5\nlr_patience = 1\n",
     4,
     {5, NAN, NAN, 4},
     {1, 1, 0.5, 0.5}},
};

static void test_plateau(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof plateaus / sizeof *plateaus; ++i) {
    const plateau_case *c = &plateaus[i];
    char text[256];
    snprintf(text, sizeof text, "[train]\nreduce_lr_on_plateau = yes\n%s", c->train);
    av_config config = settings(text);
    av_plateau plateau = av_plateau_from(&config);
    for (int e = 0; e < c->n; ++e) {
      const double before = plateau.lr;
      const bool lowered = av_plateau_check(&plateau, c->values[e]);
      if (!(fabs(plateau.lr - c->rates[e]) < 1e-15) || lowered != (plateau.lr < before)) {
        fail_msg("%s: rate %.17g after check %d, expected %.17g", c->what, plateau.lr, e + 1,
                 c->rates[e]);
      }
    }
    av_config_free(&config);
  }
}

static void expect_impossible(const char *train, const char *message) {
  char text[256];
  snprintf(text, sizeof text, "[train]\n%s", train);
  av_config config = settings(text);
  assert_int_equal(av_stopping_possible(&config, 1), AV_OK);
  assert_int_equal(av_stopping_possible(&config, 0), message == NULL ? AV_OK : AV_CONFIG);
  assert_string_equal(av_error_text(), message == NULL ? "" : message);
  av_error_clear();
  av_config_free(&config);
}

static void test_possible(void **state) {
  (void)state;
  expect_impossible("", NULL);
  expect_impossible(
      "early_stopping = yes\n",
      "run.ini:2: [train] early_stopping: elbo_validation needs validation cells, and "
      "the split leaves none; lower train.train_size, or monitor elbo_train");
  expect_impossible("keep = best\nearly_stopping_monitor = validation_loss\n",
                    "run.ini:2: [train] keep: the best validation_loss needs validation cells, and "
                    "the split leaves none; lower train.train_size, or monitor elbo_train");
  expect_impossible("reduce_lr_on_plateau = yes\nlr_scheduler_metric = kl_local_validation\n",
                    "run.ini:2: [train] reduce_lr_on_plateau: kl_local_validation needs validation "
                    "cells, and the split leaves none; lower train.train_size");
  expect_impossible("early_stopping = yes\nkeep = best\nearly_stopping_monitor = train_loss\n",
                    NULL);
  expect_impossible("early_stopping = yes\nmax_epochs = 0\n", NULL);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_stopping), cmocka_unit_test(test_defaults),
      cmocka_unit_test(test_monitors), cmocka_unit_test(test_best),
      cmocka_unit_test(test_plateau),  cmocka_unit_test(test_possible),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
