/* The JSON-lines log and the lines for people; run on 1 and 3 ranks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/comm.h"
#include "base/log.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static av_comm comm;
static char folder[64]; /* the same on every rank */
static char path[128];

/* The text of a file; the caller frees. */
static char *contents(const char *name) {
  FILE *file = fopen(name, "r");
  assert_non_null(file);
  char *text = calloc(1, 1 << 20);
  assert_non_null(text);
  const size_t length = fread(text, 1, (1 << 20) - 1, file);
  text[length] = '\0';
  fclose(file);
  return text;
}

/* Line `number` (from 0) of the log, parsed; NULL if there is none. */
static cJSON *record(int number) {
  char *text = contents(path);
  char *line = text;
  for (int i = 0; i < number && line != NULL; ++i) {
    line = strchr(line, '\n');
    line = line == NULL ? NULL : line + 1;
  }
  cJSON *parsed = NULL;
  if (line != NULL && *line != '\0') {
    char *end = strchr(line, '\n');
    assert_non_null(end);
    *end = '\0';
    parsed = cJSON_ParseWithOpts(line, NULL, 1);
    assert_non_null(parsed);
  }
  free(text);
  return parsed;
}

static const char *text_of(const cJSON *object, const char *name) {
  const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, name));
  assert_non_null(text);
  return text;
}

/* Runs `work` with the stream's descriptor pointing to a file; returns what was written. */
static char *captured(int fd, void (*work)(void)) {
  char name[160];
  snprintf(name, sizeof name, "%s/captured.%d", folder, comm.rank);
  fflush(NULL);
  FILE *file = fopen(name, "w");
  const int saved = dup(fd);
  assert_true(file != NULL && saved >= 0 && dup2(fileno(file), fd) == fd);
  work();
  fflush(NULL);
  assert_true(dup2(saved, fd) == fd);
  close(saved);
  fclose(file);
  char *text = contents(name);
  unlink(name);
  return text;
}

static void start_over(void) {
  av_log_close();
  av_error_clear();
  if (comm.rank == 0) {
    unlink(path);
  }
  MPI_Barrier(comm.mpi);
}

static void every_kind_of_value(void **unused) {
  (void)unused;
  start_over();
  assert_int_equal(av_log_open(&comm, path), AV_OK);
  const time_t before = time(NULL);
  av_log_event("epoch", "epoch", "i", (int64_t)3, "large", "i", INT64_MAX, "elbo_train", "d", 0.1,
               "nan", "d", (double)NAN, "inf", "d", -(double)INFINITY, "name", "s",
               "caf\xc3\xa9 \"x\"\n\\", "none", "s", (const char *)NULL, "yes", "b", 1, "no", "b",
               0, NULL);
  if (comm.rank != 0) {
    return;
  }
  /* read while the log is open: the line was flushed */
  cJSON *line = record(0);
  assert_non_null(line);
  assert_string_equal(line->child->string, "time");
  assert_string_equal(line->child->next->string, "event");
  struct tm parts = {0};
  int milliseconds = -1;
  int used = 0;
  assert_int_equal(
      sscanf(text_of(line, "time"), "%4d-%2d-%2dT%2d:%2d:%2d.%3dZ%n", &parts.tm_year, &parts.tm_mon,
             &parts.tm_mday, &parts.tm_hour, &parts.tm_min, &parts.tm_sec, &milliseconds, &used),
      7);
  assert_int_equal(used, 24);
  assert_int_equal(strlen(text_of(line, "time")), 24);
  parts.tm_year -= 1900;
  parts.tm_mon -= 1;
  const time_t then = timegm(&parts);
  assert_true(then >= before && then <= time(NULL));
  assert_string_equal(text_of(line, "event"), "epoch");
  assert_string_equal(text_of(line, "name"), "caf\xc3\xa9 \"x\"\n\\");
  assert_true(cJSON_GetObjectItem(line, "epoch")->valueint == 3);
  assert_true(cJSON_GetObjectItem(line, "elbo_train")->valuedouble == 0.1);
  assert_true(cJSON_IsNull(cJSON_GetObjectItem(line, "nan")));
  assert_true(cJSON_IsNull(cJSON_GetObjectItem(line, "inf")));
  assert_true(cJSON_IsNull(cJSON_GetObjectItem(line, "none")));
  assert_true(cJSON_IsTrue(cJSON_GetObjectItem(line, "yes")));
  assert_true(cJSON_IsFalse(cJSON_GetObjectItem(line, "no")));
  cJSON_Delete(line);
  char *text = contents(path);
  assert_non_null(strstr(text, "\"large\":9223372036854775807"));
  free(text);
  assert_null(record(1));
}

/* Bytes that are not UTF-8 become U+FFFD; what is stays. */
static void names_that_are_not_utf8(void **unused) {
  (void)unused;
  static const char *const given[] = {
      "a\xff"
      "b",
      "\xc3",
      "\xe2\x82\xac\xe2\x82",
      "\xf0\x9f\xa7\xac",
      "\xc0\xaf",
      "\xed\xa0\x80",
      "\xf4\x90\x80\x80"};
  static const char *const want[] = {
      "a\xef\xbf\xbd"
      "b",
      "\xef\xbf\xbd",
      "\xe2\x82\xac\xef\xbf\xbd\xef\xbf\xbd",
      "\xf0\x9f\xa7\xac",
      "\xef\xbf\xbd\xef\xbf\xbd",
      "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd",
      "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"};
  start_over();
  assert_int_equal(av_log_open(&comm, path), AV_OK);
  for (int i = 0; i < 7; ++i) {
    av_log_event("name", "text", "s", given[i], NULL);
    if (comm.rank == 0) {
      cJSON *line = record(i);
      assert_string_equal(text_of(line, "text"), want[i]);
      cJSON_Delete(line);
    }
  }
}

static void warn_twice(void) {
  av_warn("%d genes have no count", 3);
  av_warn("second");
}

static void warnings(void **unused) {
  (void)unused;
  start_over();
  assert_int_equal(av_log_open(&comm, path), AV_OK);
  char *shown = captured(2, warn_twice);
  if (comm.rank == 0) {
    assert_string_equal(shown,
                        "atlasvi: warning: 3 genes have no count\natlasvi: warning: second\n");
    cJSON *line = record(0);
    assert_string_equal(text_of(line, "event"), "warning");
    assert_string_equal(text_of(line, "text"), "3 genes have no count");
    cJSON_Delete(line);
  } else {
    assert_string_equal(shown, ""); /* rank 0 only */
  }
  free(shown);
}

static int n_cleared;
static void clear_bar(void *context) {
  fputs("<clear>", stdout);
  n_cleared += *(int *)context;
}
static void say_once(void) { av_say("reading %s", "a.h5ad"); }

static void lines_clear_a_bar_first(void **unused) {
  (void)unused;
  start_over();
  assert_int_equal(av_log_open(&comm, NULL), AV_OK);
  int step = 1;
  n_cleared = 0;
  av_log_before_line(clear_bar, &step);
  char *shown = captured(1, say_once);
  av_log_before_line(NULL, NULL);
  assert_string_equal(shown, comm.rank == 0 ? "<clear>atlasvi: reading a.h5ad\n" : "");
  assert_int_equal(n_cleared, comm.rank == 0 ? 1 : 0);
  free(shown);
}

/* Several runs in one file, the first cut off in the middle of a line. */
static void appends(void **unused) {
  (void)unused;
  start_over();
  if (comm.rank == 0) {
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs("{\"time\":\"t\",\"event\":\"one\"}\n{\"time\":\"cut o", file) >= 0);
    assert_int_equal(fclose(file), 0);
  }
  MPI_Barrier(comm.mpi);
  assert_int_equal(av_log_open(&comm, path), AV_OK);
  av_log_event("two", NULL);
  av_log_close();
  av_log_event("lost", NULL); /* closed: nothing happens */
  if (comm.rank == 0) {
    cJSON *first = record(0);
    cJSON *last = record(2);
    assert_string_equal(text_of(first, "event"), "one");
    assert_string_equal(text_of(last, "event"), "two");
    assert_null(record(3));
    cJSON_Delete(first);
    cJSON_Delete(last);
  }
}

/* Every rank fails alike, with one line; the file that is no log stays as it was. */
static void refusals(void **unused) {
  (void)unused;
  char name[160];
  char want[512];
  start_over();
  snprintf(name, sizeof name, "%s/missing/run.log", folder);
  snprintf(want, sizeof want, "%s: cannot write the log: %s ([runtime] log)", name,
           strerror(ENOENT));
  assert_int_equal(av_log_open(&comm, name), AV_CANTCREATE);
  assert_string_equal(av_error_text(), want);
  av_error_clear();

  snprintf(want, sizeof want, "%s: cannot write the log: %s ([runtime] log)", folder,
           strerror(EISDIR));
  assert_int_equal(av_log_open(&comm, folder), AV_CANTCREATE);
  assert_string_equal(av_error_text(), want);
  av_error_clear();

  snprintf(name, sizeof name, "%s/input.h5ad", folder);
  if (comm.rank == 0) {
    FILE *file = fopen(name, "w");
    assert_true(file != NULL && fputs("\x89HDF\r\n", file) >= 0 && fclose(file) == 0);
  }
  MPI_Barrier(comm.mpi);
  snprintf(want, sizeof want,
           "%s: exists and is not a JSON-lines log: give another file as [runtime] log", name);
  assert_int_equal(av_log_open(&comm, name), AV_CANTCREATE);
  assert_string_equal(av_error_text(), want);
  av_error_clear();
  MPI_Barrier(comm.mpi);
  if (comm.rank == 0) {
    char *text = contents(name);
    assert_string_equal(text, "\x89HDF\r\n");
    free(text);
    unlink(name);
  }
}

static void log_until_full(void) {
  for (int i = 0; i < 200; ++i) {
    av_log_event("epoch", "epoch", "i", (int64_t)i, NULL);
  }
}

/* No room (here: a limit on the file's size): one warning, and the run goes on. */
static void disk_full(void **unused) {
  (void)unused;
  start_over();
  signal(SIGXFSZ, SIG_IGN);
  assert_int_equal(av_log_open(&comm, path), AV_OK);
  struct rlimit old;
  assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
  const struct rlimit tight = {.rlim_cur = 4096, .rlim_max = old.rlim_max};
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &tight), 0);
  char *shown = captured(2, log_until_full);
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
  char want[512];
  snprintf(want, sizeof want, "atlasvi: warning: %s: the log ends here: %s\n", path,
           strerror(EFBIG));
  assert_string_equal(shown, comm.rank == 0 ? want : "");
  free(shown);
  start_over();
}

int main(int argc, char **argv) {
  if (av_comm_create(&comm, &argc, &argv) != AV_OK) {
    return 1;
  }
  snprintf(folder, sizeof folder, "/tmp/atlasvi_log_XXXXXX");
  if (comm.rank == 0 && mkdtemp(folder) == NULL) {
    return 1;
  }
  if (av_bcast(&comm, folder, sizeof folder) != AV_OK) {
    return 1;
  }
  snprintf(path, sizeof path, "%s/run.jsonl", folder);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_kind_of_value),
      cmocka_unit_test(names_that_are_not_utf8),
      cmocka_unit_test(warnings),
      cmocka_unit_test(lines_clear_a_bar_first),
      cmocka_unit_test(appends),
      cmocka_unit_test(refusals),
      cmocka_unit_test(disk_full),
  };
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  av_log_close();
  MPI_Barrier(comm.mpi);
  if (comm.rank == 0) {
    unlink(path);
    rmdir(folder);
  }
  av_comm_free(&comm);
  return failed;
}
