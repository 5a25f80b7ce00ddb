#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Written by one thread at a time: see status.h. */
static char *error_text;

static void append(const char *line) {
  const size_t old_length = error_text == NULL ? 0 : strlen(error_text);
  const size_t length = strlen(line);
  char *grown = realloc(error_text, old_length + length + 2);
  if (grown == NULL) {
    return; /* the exit status still tells the kind of failure */
  }
  error_text = grown;
  if (old_length > 0) {
    error_text[old_length] = '\n';
    memcpy(error_text + old_length + 1, line, length + 1);
  } else {
    memcpy(error_text, line, length + 1);
  }
}

static void append_formatted(const char *prefix, const char *format, va_list args) {
  va_list again;
  va_copy(again, args);
  const int length = vsnprintf(NULL, 0, format, args);
  char *line = length < 0 ? NULL : malloc(strlen(prefix) + (size_t)length + 1);
  if (line == NULL) {
    append(format);
  } else {
    vsnprintf(stpcpy(line, prefix), (size_t)length + 1, format, again);
    append(line);
    free(line);
  }
  va_end(again);
}

void av_error_add(const char *format, ...) {
  va_list args;
  va_start(args, format);
  append_formatted("", format, args);
  va_end(args);
}

av_status av_fail_at(av_status code, const char *file, int line, const char *format, ...) {
  char prefix[256];
  snprintf(prefix, sizeof prefix, "internal error at %s:%d: ", file, line);
  va_list args;
  va_start(args, format);
  append_formatted(prefix, format, args);
  va_end(args);
  return code;
}

const char *av_error_text(void) { return error_text == NULL ? "" : error_text; }

void av_error_clear(void) {
  free(error_text);
  error_text = NULL;
}

void av_error_set(const char *text) {
  av_error_clear();
  if (text[0] != '\0') {
    append(text);
  }
}

void av_error_print(void) {
  const char *line = av_error_text();
  while (*line != '\0') {
    const size_t length = strcspn(line, "\n");
    fprintf(stderr, "atlasvi: error: %.*s\n", (int)length, line);
    line += length + (line[length] == '\n');
  }
  fflush(stderr);
  av_error_clear();
}
