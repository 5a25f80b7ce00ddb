/* What is decided after an epoch: from which column, when, and what is left alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "train/control.h"

#include <math.h>

static av_comm comm;
static av_config config;

static int forget(void **state) {
  (void)state;
  av_config_free(&config);
  return 0;
}

static av_trainer trainer_with(const char *text) {
  assert_int_equal(av_config_defaults(&config), AV_OK);
  assert_int_equal(av_config_parse(&config, "run.ini", text, 0, NULL), AV_OK);
  return (av_trainer){.comm = &comm, .config = &config};
}

/* Feeds epochs 1, 2, ... with these values of the monitored column; the epoch that stops (0: none).
 * rates (n) receives the rate after each. */
static int64_t feed(av_control *control, const av_trainer *trainer, int n, const double *values,
                    bool validated, size_t column, double *rates) {
  double lr = config.train.lr;
  for (int e = 0; e < n; ++e) {
    av_epoch line = {.elbo_train = NAN, .elbo_validation = NAN};
    bool stop = true;
    /* other ranks see something else, and do as rank 0 does */
    *(double *)((char *)&line + column) = comm.rank == 0 ? values[e] : -values[e];
    assert_int_equal(av_control_decide(control, trainer, e + 1, validated, &line, &lr, &stop),
                     AV_OK);
    rates[e] = lr;
    if (stop) {
      return e + 1;
    }
  }
  return 0;
}

#define ELBO offsetof(av_epoch, elbo_validation)

static void nothing_asked(void **state) {
  (void)state;
  const av_trainer trainer = trainer_with("[train]\nmax_epochs = 9\nlr = 1\n");
  av_control control;
  static const double values[] = {1, 2, NAN, 4, 5, 6};
  double rates[6];
  assert_int_equal(av_control_create(&trainer, &control), AV_OK);
  assert_null(control.params);
  assert_int_equal(feed(&control, &trainer, 6, values, true, ELBO, rates), 0);
  assert_true(rates[5] == 1.0);
  assert_int_equal(av_control_restore(&control, &trainer), AV_OK); /* nothing to go back to */
  av_control_free(&control);
}

static void stops(void **state) {
  (void)state;
  const av_trainer trainer =
      trainer_with("[train]\nmax_epochs = 9\nearly_stopping = yes\nearly_stopping_patience = 2\n");
  static const double values[] = {5, 4, 4.5, 4.5, 1};
  double rates[5];
  av_control control;
  assert_int_equal(av_control_create(&trainer, &control), AV_OK);
  assert_int_equal(feed(&control, &trainer, 5, values, true, ELBO, rates), 4);
  av_control_free(&control);
  /* epochs that are not evaluated are no checks */
  assert_int_equal(av_control_create(&trainer, &control), AV_OK);
  assert_int_equal(feed(&control, &trainer, 5, values, false, ELBO, rates), 0);
  av_control_free(&control);
}

/* The last epoch ends by itself: nothing is said to have stopped early. */
static void last_epoch(void **state) {
  (void)state;
  const av_trainer trainer =
      trainer_with("[train]\nmax_epochs = 4\nearly_stopping = yes\nearly_stopping_patience = 2\n");
  static const double values[] = {5, 4, 4.5, 4.5};
  double rates[4];
  av_control control;
  assert_int_equal(av_control_create(&trainer, &control), AV_OK);
  assert_int_equal(feed(&control, &trainer, 4, values, true, ELBO, rates), 0);
  av_control_free(&control);
}

static void training_column(void **state) {
  (void)state;
  const av_trainer trainer = trainer_with(
      "[train]\nmax_epochs = 9\nearly_stopping = yes\nearly_stopping_patience = 1\n"
      "early_stopping_monitor = kl_local_train\nearly_stopping_mode = max\n");
  static const double values[] = {1, 2, 2};
  double rates[3];
  av_control control;
  assert_int_equal(av_control_create(&trainer, &control), AV_OK);
  assert_int_equal(
      feed(&control, &trainer, 3, values, false, offsetof(av_epoch, kl_local_train), rates), 3);
  av_control_free(&control);
}

static void rate_falls(void **state) {
  (void)state;
  const av_trainer trainer = trainer_with(
      "[train]\nmax_epochs = 9\nlr = 1\nreduce_lr_on_plateau = yes\nlr_factor = 0.5\n"
      "lr_patience = 0\nlr_scheduler_metric = reconstruction_loss_validation\n");
  static const double values[] = {5, 4, 4, 3, 3.5};
  static const double expected[] = {1, 1, 0.5, 0.5, 0.25};
  double rates[5];
  av_control control;
  assert_int_equal(av_control_create(&trainer, &control), AV_OK);
  assert_int_equal(feed(&control, &trainer, 5, values, true,
                        offsetof(av_epoch, reconstruction_loss_validation), rates),
                   0);
  for (int e = 0; e < 5; ++e) {
    assert_true(rates[e] == expected[e]);
  }
  av_control_free(&control);
  /* not in epochs without validation */
  assert_int_equal(av_control_create(&trainer, &control), AV_OK);
  assert_int_equal(feed(&control, &trainer, 5, values, false,
                        offsetof(av_epoch, reconstruction_loss_validation), rates),
                   0);
  assert_true(rates[4] == 1.0);
  av_control_free(&control);
}

int main(int argc, char **argv) {
  if (av_comm_create(&comm, &argc, &argv) != AV_OK) {
    return 1;
  }
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_teardown(nothing_asked, forget),
      cmocka_unit_test_teardown(stops, forget),
      cmocka_unit_test_teardown(last_epoch, forget),
      cmocka_unit_test_teardown(training_column, forget),
      cmocka_unit_test_teardown(rate_falls, forget),
  };
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  av_comm_free(&comm);
  return failed;
}
