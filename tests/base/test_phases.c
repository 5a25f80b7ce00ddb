/* Phases and their report; run on 1, 2 and 3 ranks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/comm.h"
#include "base/memory.h"
#include "base/phases.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static av_comm comm;

static void wait_for(double seconds) {
  const double end = av_clock() + seconds;
  const struct timespec pause = {.tv_nsec = 1000000};
  while (av_clock() < end) {
    nanosleep(&pause, NULL);
  }
}

static void near(double value, double want) { assert_true(fabs(value - want) < 1e-9); }

/* Phases of known length: a rank's number + 1 seconds of reading, and training on the last rank
 * only. */
static void spread_over_ranks(void **unused) {
  (void)unused;
  const double n = comm.size;
  av_phases phases;
  av_phases_report report;
  av_phases_begin(&phases);
  phases.began -= 100;
  av_phase_start(&phases, "read");
  av_phase_stop(&phases, "read");
  phases.phase[0].seconds = comm.rank + 1;
  phases.phase[0].peak = 1000 * (comm.rank + 1);
  if (comm.rank == comm.size - 1) {
    av_phase_start(&phases, "train");
    av_phase_stop(&phases, "train");
    phases.phase[1].seconds = 30;
    phases.phase[1].peak = 5000;
    phases.phase[1].calls = 7;
  }
  assert_int_equal(av_phases_report_make(&comm, &phases, &report), AV_OK);
  assert_int_equal(report.n, 2);
  const av_phase_line *read = &report.line[0];
  const av_phase_line *train = &report.line[1];
  assert_string_equal(read->name, "read");
  assert_string_equal(train->name, "train");
  near(read->seconds.min, 1);
  near(read->seconds.mean, (n + 1) / 2);
  near(read->seconds.max, n);
  near(read->peak.min, 1000);
  near(read->peak.mean, 500 * (n + 1));
  near(read->peak.max, 1000 * n);
  assert_true(read->calls == 1 && train->calls == 7);
  near(train->seconds.min, comm.size == 1 ? 30 : 0);
  near(train->seconds.mean, 30 / n);
  near(train->seconds.max, 30);
  near(train->peak.mean, 5000);
  assert_true(report.total.min >= 100 && report.total.max < 110);
  const double most_other = comm.size == 1 ? report.total.max - 31 : report.total.max - 1;
  assert_true(fabs(report.other.max - most_other) < 0.5);
  assert_true(report.peak.max >= (double)1e6);
}

static void nested_and_repeated(void **unused) {
  (void)unused;
  av_phases phases;
  av_phases_report report;
  av_phases_begin(&phases);
  for (int i = 0; i < 2; ++i) {
    av_phase_start(&phases, "train");
    av_phase_start(&phases, "first layer");
    wait_for(0.03);
    av_phase_stop(&phases, "first layer");
    av_phase_start(&phases, "train"); /* itself again: counted once */
    wait_for(0.02);
    av_phase_stop(&phases, "train");
    av_phase_stop(&phases, "train");
  }
  av_phase_start(&phases, "write"); /* still running when the report is made */
  wait_for(0.02);
  assert_int_equal(av_phases_report_make(&comm, &phases, &report), AV_OK);
  assert_int_equal(report.n, 3);
  assert_true(report.line[0].depth == 0 && report.line[1].depth == 1 && report.line[2].depth == 0);
  const double inner = report.line[1].seconds.min;
  const double outer = report.line[0].seconds.min;
  const double write = report.line[2].seconds.min;
  assert_true(inner >= 0.06 && inner < outer);
  assert_true(outer >= 0.1 && outer < report.total.max);
  assert_true(write >= 0.02);
  /* outermost phases and the rest are the whole */
  near(report.line[0].seconds.mean + report.line[2].seconds.mean + report.other.mean,
       report.total.mean);
  assert_true(report.line[1].calls == 2);
}

/* The peak is that of the phase that took the memory. */
static void memory_of_a_phase(void **unused) {
  (void)unused;
  const size_t bytes = 64 << 20;
  av_phases phases;
  av_phases_report report;
  av_phases_begin(&phases);
  av_phase_start(&phases, "before");
  av_phase_stop(&phases, "before");
  av_phase_start(&phases, "large");
  char *block = av_malloc(bytes, 1);
  assert_non_null(block);
  memset(block, 1, bytes);
  assert_true(block[bytes / 2] == 1);
  av_phase_stop(&phases, "large");
  free(block);
  assert_int_equal(av_phases_report_make(&comm, &phases, &report), AV_OK);
  const double grown = report.line[1].peak.min - report.line[0].peak.max;
  assert_true(grown > 0.5 * (double)bytes || report.line[0].peak.max > (double)bytes * 2);
  assert_true(report.peak.max >= report.line[1].peak.max);
}

/* One rank's misuse is everybody's error. */
static void misuse(void **unused) {
  (void)unused;
  av_phases phases;
  av_phases_report report;
  for (int kind = 0; kind < 2; ++kind) {
    av_phases_begin(&phases);
    if (comm.rank == comm.size - 1) {
      if (kind == 0) {
        av_phase_stop(&phases, "read");
      }
      for (int i = 0; i <= AV_MOST_PHASES && kind == 1; ++i) {
        char name[16];
        snprintf(name, sizeof name, "p%d", i);
        av_phase_start(&phases, name);
        av_phase_stop(&phases, name);
      }
    }
    av_error_clear();
    assert_int_equal(av_phases_report_make(&comm, &phases, &report), AV_BUG);
    assert_non_null(strstr(av_error_text(), kind == 0 ? "phase read: stopped but not started"
                                                      : "phase p48: one too many"));
    av_error_clear();
  }
}

int main(int argc, char **argv) {
  if (av_comm_create(&comm, &argc, &argv) != AV_OK) {
    return 1;
  }
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(spread_over_ranks),
      cmocka_unit_test(nested_and_repeated),
      cmocka_unit_test(memory_of_a_phase),
      cmocka_unit_test(misuse),
  };
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  av_comm_free(&comm);
  return failed;
}
