#include "config/ini.h"

#include "base/memory.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* The reader works inside one copy of the text: strings are ended where they stand, and a continued
 * value is moved up to the end of what it continues, which is always before it. */
typedef struct reader {
  const av_ini_handler *handler;
  const char *section; /* NULL before the first header */
  char *key;           /* the entry that may still be continued; NULL if none */
  char *value;
  char *value_end;
  int64_t key_line;
  int64_t value_line; /* the line that value_end stands for */
} reader;

static bool is_blank(char c) {
  return c == ' ' || c == '\t' || c == '\r' || c == '\v' || c == '\f';
}

static char *skip_blanks(char *start) {
  while (is_blank(*start)) {
    ++start;
  }
  return start;
}

static char *drop_blanks(const char *start, char *end) {
  while (end > start && is_blank(end[-1])) {
    --end;
  }
  *end = '\0';
  return end;
}

/* The first of the characters `wanted`, or the ; that begins a comment, or the end of the text. */
static char *find_or_comment(char *text, const char *wanted) {
  bool after_blank = false;
  while (*text != '\0' && strchr(wanted, *text) == NULL && !(after_blank && *text == ';')) {
    after_blank = is_blank(*text);
    ++text;
  }
  return text;
}

static void fault(const reader *r, int64_t line, const char *message) {
  r->handler->fault(r->handler->user, line, message);
}

/* Hands over the entry that no further line continues. */
static void finish_entry(reader *r) {
  if (r->key != NULL) {
    r->handler->entry(r->handler->user, r->key_line, r->section, r->key, r->value);
    r->key = NULL;
  }
}

static void read_continuation(reader *r, int64_t line, char *start) {
  char *end = find_or_comment(start, "");
  end = drop_blanks(start, end);
  for (; r->value_line < line; ++r->value_line) {
    *r->value_end++ = '\n';
  }
  memmove(r->value_end, start, (size_t)(end - start) + 1);
  r->value_end += end - start;
}

static void read_section(reader *r, int64_t line, char *start) {
  char *name = skip_blanks(start + 1);
  char *end = find_or_comment(name, "]");
  if (*end == ']') {
    const char *rest = skip_blanks(end + 1);
    if (*rest != '\0' && *rest != ';' && *rest != '#') {
      fault(r, line, "text after the ] of a section; a key begins on a line of its own");
    }
  } else {
    fault(r, line, "section without ]");
  }
  drop_blanks(name, end);
  r->section = name;
  r->handler->section(r->handler->user, line, name);
}

static void read_key(reader *r, int64_t line, char *start) {
  char *separator = find_or_comment(start, "=:");
  if (*separator != '=' && *separator != ':') {
    fault(r, line, "neither [section] nor key = value");
    return;
  }
  char *value = separator + 1;
  char *end = find_or_comment(value, "");
  drop_blanks(start, separator);
  if (*start == '\0') {
    fault(r, line, "no key before the = or :");
    return;
  }
  if (r->section == NULL) {
    fault(r, line, "key before the first [section]");
    return;
  }
  char *value_end = drop_blanks(value, end);
  r->key = start;
  r->value = skip_blanks(value);
  r->value_end = value_end;
  r->key_line = line;
  r->value_line = line;
}

static void read_line(reader *r, int64_t line, char *begin, char *end) {
  drop_blanks(begin, end);
  char *start = skip_blanks(begin);
  if (*start == '\0' || *start == ';' || *start == '#') {
    return;
  }
  if (r->key != NULL && start > begin) {
    read_continuation(r, line, start);
    return;
  }
  finish_entry(r);
  if (*start == '[') {
    read_section(r, line, start);
  } else {
    read_key(r, line, start);
  }
}

av_status av_ini_parse(const char *text, size_t length, const av_ini_handler *handler) {
  reader r = {.handler = handler};
  if (length >= 2 && (memcmp(text, "\xff\xfe", 2) == 0 || memcmp(text, "\xfe\xff", 2) == 0)) {
    fault(&r, 1, "the text is UTF-16; save it as UTF-8");
    return AV_OK;
  }
  if (length >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) {
    text += 3;
    length -= 3;
  }
  char *copy = av_realloc(NULL, length + 1, 1);
  if (copy == NULL) {
    return av_fail(AV_NOMEM, "out of memory (%zu bytes of INI text)", length);
  }
  memcpy(copy, text, length);
  copy[length] = '\0';
  char *next = copy;
  const char *stop = copy + length;
  for (int64_t line = 1; next < stop; ++line) {
    char *begin = next;
    char *end = memchr(begin, '\n', (size_t)(stop - begin));
    if (end == NULL) {
      end = copy + length;
    }
    next = end + 1;
    if (memchr(begin, '\0', (size_t)(end - begin)) != NULL) {
      finish_entry(&r);
      fault(&r, line, "NUL byte; this is not a text file");
      break;
    }
    read_line(&r, line, begin, end);
  }
  finish_entry(&r);
  free(copy);
  return AV_OK;
}
