#include "base/log.h"

#include "base/memory.h"
#include "base/utf8.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

/* The log of this process, as log.h says. */
static struct {
  FILE *file; /* JSON lines; NULL: none */
  char *path;
  bool quiet; /* not rank 0 */
  void (*before)(void *context);
  void *context;
} state;

void av_log_close(void) {
  FILE *file = state.file;
  state.file = NULL;
  if (file != NULL && fclose(file) != 0) {
    av_warn("%s: the log is incomplete: %s", state.path, strerror(errno));
  }
  free(state.path);
  state.path = NULL;
}

/* Looks at what a regular file of this name holds already: nothing, or lines of an earlier log
 * (*unfinished: the last one was cut off). Anything else is not ours to append to. */
static av_status check_old_contents(const char *path, bool *unfinished) {
  *unfinished = false;
  struct stat info;
  if (stat(path, &info) != 0 || !S_ISREG(info.st_mode) || info.st_size == 0) {
    return AV_OK;
  }
  FILE *old = fopen(path, "r");
  if (old == NULL) {
    return AV_OK; /* write-only for us: nothing to look at */
  }
  const int first = fgetc(old);
  const int last = fseek(old, -1, SEEK_END) == 0 ? fgetc(old) : '\n';
  fclose(old);
  *unfinished = last != '\n';
  if (first == '{') {
    return AV_OK;
  }
  return av_fail(AV_CANTCREATE,
                 "%s: exists and is not a JSON-lines log: give another file as [runtime] log",
                 path);
}

static av_status open_file(const char *path) {
  bool unfinished = false;
  AV_TRY(check_old_contents(path, &unfinished));
  state.path = av_strdup(path);
  AV_TRY_ALLOC(state.path);
  state.file = fopen(path, "a");
  if (state.file == NULL) {
    return av_fail(AV_CANTCREATE, "%s: cannot write the log: %s ([runtime] log)", path,
                   strerror(errno));
  }
  if (unfinished) {
    fputc('\n', state.file);
  }
  return AV_OK;
}

av_status av_log_open(const av_comm *comm, const char *path) {
  av_log_close();
  state.quiet = comm->rank != 0;
  return av_agree(comm, path == NULL || state.quiet ? AV_OK : open_file(path));
}

void av_log_before_line(void (*before)(void *context), void *context) {
  state.before = before;
  state.context = context;
}

static void print_line(FILE *out, const char *prefix, const char *text) {
  if (state.before != NULL) {
    state.before(state.context);
  }
  fflush(stdout); /* keeps the order of the two streams on a terminal */
  fprintf(out, "%s%s\n", prefix, text);
  fflush(out);
}

void av_warn(const char *format, ...) {
  if (state.quiet) {
    return;
  }
  va_list args;
  va_start(args, format);
  char *text = NULL;
  if (vasprintf(&text, format, args) < 0) {
    text = NULL;
  }
  va_end(args);
  const char *shown = text == NULL ? format : text;
  print_line(stderr, "atlasvi: warning: ", shown);
  av_log_event("warning", "text", "s", shown, NULL);
  free(text);
}

void av_say(const char *format, ...) {
  if (state.quiet) {
    return;
  }
  va_list args;
  va_start(args, format);
  char *text = NULL;
  if (vasprintf(&text, format, args) < 0) {
    text = NULL;
  }
  va_end(args);
  print_line(stdout, "atlasvi: ", text == NULL ? format : text);
  free(text);
}

/* JSON is UTF-8: names of files and columns need not be. Bytes that are not become U+FFFD. */
static char *valid_utf8(const char *text) {
  char *copy = av_malloc(3 * strlen(text) + 1, 1);
  if (copy == NULL) {
    return NULL;
  }
  char *out = copy;
  while (*text != '\0') {
    const size_t length = av_utf8_length(text, 4); /* the end is no part of a longer one */
    if (length == 0) {
      memcpy(out, "\xef\xbf\xbd", 3);
      out += 3;
      ++text;
    } else {
      memcpy(out, text, length);
      out += length;
      text += length;
    }
  }
  *out = '\0';
  return copy;
}

static bool add_text(cJSON *record, const char *name, const char *text) {
  if (text == NULL) {
    return cJSON_AddNullToObject(record, name) != NULL;
  }
  char *valid = valid_utf8(text);
  const bool added = valid != NULL && cJSON_AddStringToObject(record, name, valid) != NULL;
  free(valid);
  return added;
}

static bool add_time(cJSON *record) {
  struct timespec now;
  struct tm parts;
  char text[64];
  clock_gettime(CLOCK_REALTIME, &now);
  gmtime_r(&now.tv_sec, &parts);
  const size_t length = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &parts);
  snprintf(text + length, sizeof text - length, ".%03dZ", (int)(now.tv_nsec / 1000000));
  return cJSON_AddStringToObject(record, "time", text) != NULL;
}

/* With as many digits as it takes to read the same number again: cJSON's own is off by one bit. */
static bool add_number(cJSON *record, const char *name, double value) {
  char digits[32];
  snprintf(digits, sizeof digits, "%.15g", value);
  if (strtod(digits, NULL) != value) {
    snprintf(digits, sizeof digits, "%.17g", value);
  }
  return cJSON_AddRawToObject(record, name, digits) != NULL;
}

/* Adds the triples of av_log_event; false when out of memory. */
static bool add_fields(cJSON *record, va_list args) {
  bool added = true;
  const char *name = NULL;
  while (added && (name = va_arg(args, const char *)) != NULL) {
    const char *kind = va_arg(args, const char *);
    if (kind[0] == 'i') {
      char digits[32]; /* written out: a cJSON number is a double */
      snprintf(digits, sizeof digits, "%" PRId64, va_arg(args, int64_t));
      added = cJSON_AddRawToObject(record, name, digits) != NULL;
    } else if (kind[0] == 'd') {
      const double value = va_arg(args, double);
      added = isfinite(value) ? add_number(record, name, value)
                              : cJSON_AddNullToObject(record, name) != NULL;
    } else if (kind[0] == 's') {
      added = add_text(record, name, va_arg(args, const char *));
    } else if (kind[0] == 'b') {
      added = cJSON_AddBoolToObject(record, name, va_arg(args, int)) != NULL;
    } else { /* its size is unknown: what follows cannot be read */
      return cJSON_AddStringToObject(record, name, "unknown kind of value") != NULL;
    }
  }
  return added;
}

void av_log_event(const char *event, ...) {
  if (state.quiet || state.file == NULL) {
    return;
  }
  cJSON *record = cJSON_CreateObject();
  va_list args;
  va_start(args, event);
  const bool made = record != NULL && add_time(record) && add_text(record, "event", event) &&
                    add_fields(record, args);
  va_end(args);
  char *line = made ? cJSON_PrintUnformatted(record) : NULL;
  cJSON_Delete(record);
  errno = ENOMEM;
  const bool written =
      line != NULL && fprintf(state.file, "%s\n", line) > 0 && fflush(state.file) == 0;
  const int cause = errno;
  cJSON_free(line);
  if (!written) {
    FILE *file = state.file;
    state.file = NULL; /* first: the warning below comes back here */
    fclose(file);
    av_warn("%s: the log ends here: %s", state.path, strerror(cause));
  }
}
