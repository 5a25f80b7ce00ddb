/* The progress of a fit on a pipe and on a terminal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/log.h"
#include "cli/progress.h"
#include "config/config.h"

#include <cjson/cJSON.h>
#include <fcntl.h>
#include <math.h>
#include <pty.h>
#include <regex.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { MOST_TEXT = 1 << 20 };

static av_comm comm;

static av_epoch_line epoch_line(int64_t epoch) {
  return (av_epoch_line){.epoch = epoch,
                         .elbo_train = 1234.5,
                         .elbo_validation = 1240.125,
                         .kl_weight = 0.03,
                         .seconds = 2.31,
                         .cells_per_second = 8912.4};
}

static void wait_for(double seconds) {
  const double end = av_clock() + seconds;
  const struct timespec pause = {.tv_nsec = 1000000};
  while (av_clock() < end) {
    nanosleep(&pause, NULL);
  }
}

/* What lines a fit of n epochs gives; the caller frees. */
static char *lines_of(int mode, int64_t n_epochs, int64_t n_run, double seconds) {
  FILE *file = tmpfile();
  assert_non_null(file);
  av_progress *progress = NULL;
  assert_int_equal(av_progress_begin(&progress, &comm, mode, 1, n_epochs, file), AV_OK);
  for (int64_t e = 1; e <= n_run; ++e) {
    wait_for(seconds);
    av_progress_step(progress, 50, 100);
    const av_epoch_line line = epoch_line(e);
    av_progress_epoch(progress, &line);
  }
  av_progress_end(&progress);
  assert_null(progress);
  char *text = calloc(1, MOST_TEXT);
  assert_non_null(text);
  rewind(file);
  text[fread(text, 1, MOST_TEXT - 1, file)] = '\0';
  fclose(file);
  return text;
}

static int count(const char *text, char letter) {
  int n = 0;
  for (; *text != '\0'; ++text) {
    n += *text == letter;
  }
  return n;
}

static void assert_matches(const char *text, const char *pattern) {
  regex_t regex;
  assert_int_equal(regcomp(&regex, pattern, REG_EXTENDED | REG_NOSUB), 0);
  const int result = regexec(&regex, text, 0, NULL, 0);
  regfree(&regex);
  if (result != 0) {
    fail_msg("\"%s\" does not match %s", text, pattern);
  }
}

static void a_line_an_epoch(void **unused) {
  (void)unused;
  static const int modes[] = {AV_PROGRESS_AUTO, AV_PROGRESS_LINES}; /* a file is no terminal */
  for (int i = 0; i < 2; ++i) {
    char *text = lines_of(modes[i], 100, 100, 0);
    assert_int_equal(count(text, '\n'), 100);
    assert_int_equal(count(text, '\r'), 0);
    static const char first[] =
        "epoch   1/100  elbo_train 1234.5  elbo_validation 1240.1  "
        "kl_weight 0.030  2.31 s  8,912 cells/s  left 0:00:";
    assert_int_equal(strncmp(text, first, strlen(first)), 0);
    assert_non_null(strstr(text, "\nepoch  12/100  "));
    assert_non_null(strstr(text, "\nepoch 100/100  "));
    free(text);
  }
}

/* What was not computed is left out. */
static void values_that_are_missing(void **unused) {
  (void)unused;
  FILE *file = tmpfile();
  char text[400] = "";
  av_progress *progress = NULL;
  assert_non_null(file);
  assert_int_equal(av_progress_begin(&progress, &comm, AV_PROGRESS_LINES, 3, 3, file), AV_OK);
  const av_epoch_line line = {3, 10, NAN, 1, 0.5, NAN};
  av_progress_epoch(progress, &line);
  av_progress_end(&progress);
  rewind(file);
  text[fread(text, 1, sizeof text - 1, file)] = '\0';
  fclose(file);
  assert_string_equal(text, "epoch 3/3  elbo_train 10.0  kl_weight 1.000  0.50 s  left 0:00:00\n");
}

/* Many epochs: the first, the last, every percent. */
static void many_epochs(void **unused) {
  (void)unused;
  char *text = lines_of(AV_PROGRESS_LINES, 4000, 4000, 0);
  assert_int_equal(count(text, '\n'), 101);
  assert_int_equal(strncmp(text, "epoch    1/4000  ", 17), 0);
  assert_non_null(strstr(text, "\nepoch   40/4000  "));
  assert_null(strstr(text, "\nepoch   41/4000  "));
  assert_non_null(strstr(text, "\nepoch 4000/4000  "));
  free(text);
}

/* Ended early: the last epoch that was run has its line, once. */
static void ended_early(void **unused) {
  (void)unused;
  char *text = lines_of(AV_PROGRESS_LINES, 4000, 57, 0);
  assert_int_equal(count(text, '\n'), 3); /* 1, 40, 57 */
  assert_non_null(strstr(text, "\nepoch   57/4000  "));
  free(text);
  text = lines_of(AV_PROGRESS_LINES, 4000, 40, 0);
  assert_int_equal(count(text, '\n'), 2);
  free(text);
  text = lines_of(AV_PROGRESS_LINES, 10, 0, 0);
  assert_string_equal(text, "");
  free(text);
}

/* The fits of several restarts: a line before each, and its number in every record. */
static void restarts(void **unused) {
  (void)unused;
  char path[] = "/tmp/atlasvi_progress_XXXXXX";
  const int fd = mkstemp(path);
  assert_true(fd >= 0);
  close(fd);
  assert_int_equal(av_log_open(&comm, path), AV_OK);
  FILE *file = tmpfile();
  assert_non_null(file);
  for (int64_t r = 1; r <= 2; ++r) {
    av_progress *progress = NULL;
    assert_int_equal(av_progress_begin(&progress, &comm, AV_PROGRESS_LINES, 1, 2, file), AV_OK);
    av_progress_restart(progress, r, 2);
    for (int64_t e = 1; e <= 2; ++e) {
      const av_epoch_line line = epoch_line(e);
      av_progress_epoch(progress, &line);
    }
    av_progress_end(&progress);
  }
  av_progress_restart(NULL, 1, 2); /* on other ranks */
  av_log_close();
  char text[2000] = "";
  rewind(file);
  text[fread(text, 1, sizeof text - 1, file)] = '\0';
  fclose(file);
  assert_int_equal(count(text, '\n'), 6);
  assert_int_equal(strncmp(text, "restart 1 of 2\nepoch 1/2  ", 26), 0);
  assert_non_null(strstr(text, "\nrestart 2 of 2\nepoch 1/2  "));
  FILE *log = fopen(path, "r");
  assert_non_null(log);
  char line[1000];
  for (int n = 0; n < 4; ++n) {
    assert_non_null(fgets(line, sizeof line, log));
    cJSON *record = cJSON_Parse(line);
    assert_int_equal(cJSON_GetObjectItem(record, "restart")->valueint, 1 + n / 2);
    cJSON_Delete(record);
  }
  fclose(log);
  unlink(path);
}

static void silent(void **unused) {
  (void)unused;
  char *text = lines_of(AV_PROGRESS_NONE, 5, 5, 0);
  assert_string_equal(text, "");
  free(text);
}

/* 36,001 epochs of 0.1 s: after five there is an hour left, or somewhat more. */
static void time_left(void **unused) {
  (void)unused;
  char *text = lines_of(AV_PROGRESS_LINES, 36005, 5, 0.1);
  const char *last = strstr(text, "\nepoch     5/36005");
  assert_non_null(last);
  int hours = 0;
  int minutes = 0;
  int seconds = 0;
  assert_int_equal(sscanf(strstr(last, "left "), "left %d:%d:%d", &hours, &minutes, &seconds), 3);
  const int total = 3600 * hours + 60 * minutes + seconds;
  assert_in_range(total, 3600, 3 * 3600); /* waits are longer on a busy machine */
  free(text);
}

/* Every epoch is in the JSON-lines log, whatever the mode and the number of lines. */
static void json_lines(void **unused) {
  (void)unused;
  char path[] = "/tmp/atlasvi_progress_XXXXXX";
  const int fd = mkstemp(path);
  assert_true(fd >= 0);
  close(fd);
  assert_int_equal(av_log_open(&comm, path), AV_OK);
  free(lines_of(AV_PROGRESS_NONE, 150, 150, 0));
  av_log_close();
  FILE *file = fopen(path, "r");
  assert_non_null(file);
  char line[1000];
  int n = 0;
  while (fgets(line, sizeof line, file) != NULL) {
    cJSON *record = cJSON_Parse(line);
    assert_non_null(record);
    assert_string_equal(cJSON_GetObjectItem(record, "event")->valuestring, "epoch");
    assert_int_equal(cJSON_GetObjectItem(record, "epoch")->valueint, ++n);
    assert_int_equal(cJSON_GetObjectItem(record, "n_epochs")->valueint, 150);
    assert_true(cJSON_GetObjectItem(record, "elbo_validation")->valuedouble == 1240.125);
    assert_true(cJSON_GetObjectItem(record, "cells_per_second")->valuedouble == 8912.4);
    assert_true(cJSON_IsNumber(cJSON_GetObjectItem(record, "seconds_left")));
    cJSON_Delete(record);
  }
  assert_int_equal(n, 150);
  fclose(file);
  unlink(path);
}

/* A terminal of some width; what the program has written to it is read from `master`. */
typedef struct terminal {
  int master;
  FILE *out;
} terminal;

static terminal open_terminal(unsigned short columns) {
  terminal t = {0};
  int slave = -1;
  const struct winsize size = {.ws_row = 24, .ws_col = columns};
  assert_int_equal(openpty(&t.master, &slave, NULL, NULL, &size), 0);
  t.out = fdopen(slave, "w");
  assert_non_null(t.out);
  assert_int_equal(fcntl(t.master, F_SETFL, O_NONBLOCK), 0);
  return t;
}

static char *seen_on(terminal *t) {
  char *text = calloc(1, MOST_TEXT);
  assert_non_null(text);
  size_t length = 0;
  ssize_t n = 0;
  fflush(t->out);
  while ((n = read(t->master, text + length, MOST_TEXT - 1 - length)) > 0) {
    length += (size_t)n;
  }
  return text;
}

static void close_terminal(terminal *t) {
  fclose(t->out);
  close(t->master);
}

/* What stands on the terminal's last line after `text` (only \r and \n move the cursor). */
static void screen_line(const char *text, char line[600]) {
  size_t at = 0;
  memset(line, 0, 600);
  for (; *text != '\0'; ++text) {
    if (*text == '\r') {
      at = 0;
    } else if (*text == '\n') {
      memset(line, 0, 600);
    } else {
      assert_true(at < 599);
      line[at++] = *text;
    }
  }
  for (size_t end = strlen(line); end > 0 && line[end - 1] == ' '; --end) {
    line[end - 1] = '\0';
  }
}

static void a_bar_on_a_terminal(void **unused) {
  (void)unused;
  terminal t = open_terminal(100);
  char shown[600];
  av_progress *progress = NULL;
  assert_int_equal(av_progress_begin(&progress, &comm, AV_PROGRESS_AUTO, 1, 400, t.out), AV_OK);
  wait_for(0.12);
  av_progress_step(progress, 50, 100);
  char *text = seen_on(&t);
  screen_line(text, shown);
  assert_matches(shown, "^epoch   1/400 \\[-{40}\\]    0 %  left 0:0[1-9]:[0-9]{2}$");
  assert_int_equal(count(text, '\n'), 0);
  free(text);
  for (int64_t e = 1; e <= 200; ++e) {
    const av_epoch_line line = epoch_line(e);
    av_progress_epoch(progress, &line);
  }
  wait_for(0.12);
  av_progress_step(progress, 0, 100);
  text = seen_on(&t);
  screen_line(text, shown);
  assert_matches(
      shown, "^epoch 201/400 \\[#{18}-{19}\\]  elbo 1234.5  val 1240.1   50 %  left 0:00:0[0-9]$");
  assert_int_equal(count(text, '\n'), 0);
  free(text);
  av_progress_end(&progress);
  text = seen_on(&t);
  /* the bar is wiped first, then the last epoch's line stays */
  assert_int_equal(strncmp(text, "\r     ", 6), 0);
  assert_matches(text, "\repoch 200/400  elbo_train 1234.5  elbo_validation 1240.1  .*\r\n$");
  screen_line(text, shown);
  assert_string_equal(shown, "");
  free(text);
  close_terminal(&t);
}

/* The bar of a restart says which. */
static void a_bar_of_a_restart(void **unused) {
  (void)unused;
  terminal t = open_terminal(100);
  char shown[600];
  av_progress *progress = NULL;
  assert_int_equal(av_progress_begin(&progress, &comm, AV_PROGRESS_AUTO, 1, 400, t.out), AV_OK);
  av_progress_restart(progress, 2, 5);
  wait_for(0.12);
  av_progress_step(progress, 50, 100);
  char *text = seen_on(&t);
  screen_line(text, shown);
  assert_matches(shown, "^restart 2/5  epoch   1/400 \\[-{40}\\]    0 %  left 0:0[1-9]:[0-9]{2}$");
  assert_int_equal(count(text, '\n'), 0);
  free(text);
  av_progress_end(&progress);
  close_terminal(&t);
}

/* At most ten times a second, however often it is called; and at least a few times. */
static void redrawn_in_measure(void **unused) {
  (void)unused;
  terminal t = open_terminal(80);
  av_progress *progress = NULL;
  assert_int_equal(av_progress_begin(&progress, &comm, AV_PROGRESS_AUTO, 1, 3, t.out), AV_OK);
  const double start = av_clock();
  for (int64_t i = 0; av_clock() < start + 0.55; ++i) {
    av_progress_step(progress, i % 1000, 1000);
  }
  char *text = seen_on(&t);
  assert_in_range(count(text, '\r'), 3, 6);
  free(text);
  av_progress_end(&progress);
  close_terminal(&t);
}

/* Never wider than the terminal, also while it changes; a bar asked for on a file takes 80 columns.
 */
static void narrow_terminals(void **unused) {
  (void)unused;
  for (unsigned short columns = 2; columns <= 140; columns = (unsigned short)(columns + 6)) {
    terminal t = open_terminal(140);
    av_progress *progress = NULL;
    assert_int_equal(av_progress_begin(&progress, &comm, AV_PROGRESS_AUTO, 1, 1000000, t.out),
                     AV_OK);
    const struct winsize size = {.ws_row = 24, .ws_col = columns};
    assert_int_equal(ioctl(t.master, TIOCSWINSZ, &size), 0);
    const av_epoch_line line = epoch_line(1);
    av_progress_epoch(progress, &line);
    char *text = seen_on(&t);
    assert_true(text[0] == '\r' && strlen(text + 1) < columns && strlen(text + 1) >= 1);
    free(text);
    av_progress_end(&progress);
    close_terminal(&t);
  }
  char *text = lines_of(AV_PROGRESS_BAR, 3, 1, 0);
  assert_true(text[0] == '\r');
  assert_true(strcspn(text + 1, "\r") <= 79);
  free(text);
}

/* A warning meanwhile finds a clean line. */
static void warning_during_a_bar(void **unused) {
  (void)unused;
  terminal t = open_terminal(80);
  char shown[600];
  av_progress *progress = NULL;
  assert_int_equal(av_log_open(&comm, NULL), AV_OK);
  assert_int_equal(av_progress_begin(&progress, &comm, AV_PROGRESS_AUTO, 1, 3, t.out), AV_OK);
  const av_epoch_line line = epoch_line(1);
  av_progress_epoch(progress, &line);
  fflush(stderr);
  const int saved = dup(2);
  assert_true(saved >= 0 && dup2(fileno(t.out), 2) == 2);
  av_warn("slow disk");
  assert_true(dup2(saved, 2) == 2);
  close(saved);
  char *text = seen_on(&t);
  char *newline = strstr(text, "\r\n");
  assert_non_null(newline);
  *newline = '\0';
  screen_line(text, shown);
  assert_string_equal(shown, "atlasvi: warning: slow disk");
  free(text);
  av_progress_end(&progress);
  close_terminal(&t);
}

/* Other ranks draw nothing, and need not know. */
static void other_ranks(void **unused) {
  (void)unused;
  av_comm other = comm;
  other.rank = 1;
  av_progress *progress = NULL;
  assert_int_equal(av_progress_begin(&progress, &other, AV_PROGRESS_BAR, 1, 3, stdout), AV_OK);
  assert_null(progress);
  const av_epoch_line line = epoch_line(1);
  av_progress_step(progress, 1, 2);
  av_progress_epoch(progress, &line);
  av_progress_end(&progress);
}

int main(int argc, char **argv) {
  if (av_comm_create(&comm, &argc, &argv) != AV_OK) {
    return 1;
  }
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_line_an_epoch),
      cmocka_unit_test(values_that_are_missing),
      cmocka_unit_test(many_epochs),
      cmocka_unit_test(ended_early),
      cmocka_unit_test(restarts),
      cmocka_unit_test(silent),
      cmocka_unit_test(time_left),
      cmocka_unit_test(json_lines),
      cmocka_unit_test(a_bar_on_a_terminal),
      cmocka_unit_test(a_bar_of_a_restart),
      cmocka_unit_test(redrawn_in_measure),
      cmocka_unit_test(narrow_terminals),
      cmocka_unit_test(warning_during_a_bar),
      cmocka_unit_test(other_ranks),
  };
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  av_comm_free(&comm);
  return failed;
}
