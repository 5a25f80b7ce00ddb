/* One value: from text, to text, and what is legal. */
#include "base/memory.h"
#include "config/config_table.h"
#include "data/names.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { FEWEST_CELLS = 3 }; /* the smallest count an AMOUNT may be */

const char *av_config_shown(char room[AV_SHOWN_ROOM], const char *text) {
  enum { LONGEST = 60 };
  size_t n = 0;
  for (; text[n] != '\0' && n < LONGEST; ++n) {
    const unsigned char c = (unsigned char)text[n];
    room[n] = text[n];
    if (c < 0x20 || c == 0x7f) {
      room[n] = '?';
    }
  }
  if (text[n] != '\0') {
    while (n > 0 && ((unsigned char)text[n] & 0xc0) == 0x80) {
      --n; /* not in the middle of a UTF-8 character */
    }
    memcpy(room + n, "...", 3);
    n += 3;
  }
  room[n] = '\0';
  return room;
}

/* Digits, sign, point and exponent only: no inf, nan, hexadecimal or blanks, which strtod would
 * take. */
static bool is_decimal(const char *text) {
  return text[0] != '\0' && text[strspn(text, "0123456789+-.eE")] == '\0' &&
         strpbrk(text, "0123456789") != NULL;
}

static bool read_double(const char *text, double *value) {
  char *end = NULL;
  *value = is_decimal(text) ? strtod(text, &end) : NAN;
  return end != NULL && *end == '\0';
}

/* False if the text is not a whole number; one too large for int64_t becomes the largest
 * (smallest). */
static bool read_int(const char *text, int64_t *value) {
  char *end = NULL;
  errno = 0;
  *value = is_decimal(text) ? strtoll(text, &end, 10) : 0;
  return end != NULL && *end == '\0';
}

/* A number followed by " # ..." is nearly always meant as a comment. */
static const char *comment_hint(const char *text) {
  return strstr(text, " #") != NULL ? "; a comment after a value begins with ;" : "";
}

static char *out_of_range(const av_config_key *key, const char *text) {
  char room[AV_SHOWN_ROOM];
  av_config_shown(room, text);
  if (isinf(key->high)) {
    return av_format("%s is out of range; it must be at least %.16g", room, key->low);
  }
  if (isinf(key->low)) {
    return av_format("%s is out of range; it must be at most %.16g", room, key->high);
  }
  return av_format("%s is out of range; it must be from %.16g to %.16g", room, key->low, key->high);
}

static char *not_a(const char *text, const char *what) {
  char room[AV_SHOWN_ROOM];
  return av_format("\"%s\" is not %s%s", av_config_shown(room, text), what, comment_hint(text));
}

static av_status read_bool(const char *text, bool *value, char **why) {
  static const char *const yes[] = {"yes", "true", "on"};
  static const char *const no[] = {"no", "false", "off"};
  for (int i = 0; i < 3; ++i) {
    if (strcasecmp(text, yes[i]) == 0 || strcasecmp(text, no[i]) == 0) {
      *value = strcasecmp(text, yes[i]) == 0;
      return AV_OK;
    }
  }
  *why = not_a(text, "yes or no");
  return AV_CONFIG;
}

static av_status read_choice(const av_config_key *key, const char *text, int *value, char **why) {
  int n = 0;
  char *listed = NULL;
  for (; key->choices[n] != NULL; ++n) {
    if (strcmp(text, key->choices[n]) == 0) {
      free(listed);
      *value = n;
      return AV_OK;
    }
    char *longer = av_format("%s%s%s", listed == NULL ? "" : listed, listed == NULL ? "" : ", ",
                             key->choices[n]);
    free(listed);
    listed = longer;
  }
  char room[AV_SHOWN_ROOM];
  av_config_shown(room, text);
  char lower[AV_SHOWN_ROOM];
  for (size_t i = 0; i < sizeof lower; ++i) {
    lower[i] = (char)tolower((unsigned char)room[i]);
    if (room[i] == '\0') {
      break;
    }
  }
  const char *near = av_nearest(lower, n, key->choices);
  *why = av_format("\"%s\" is not one of %s%s%s%s%s", room, listed == NULL ? "the choices" : listed,
                   near == NULL ? "" : "; did you mean ", near == NULL ? "" : near,
                   near == NULL ? "" : "?", comment_hint(text));
  free(listed);
  return AV_CONFIG;
}

/* With a point or an exponent a fraction, without a count. */
static av_status read_amount(const av_config_key *key, const char *text, av_amount *value,
                             char **why) {
  char room[AV_SHOWN_ROOM];
  double fraction = 0;
  int64_t count = 0;
  if (!read_double(text, &fraction)) {
    *why = not_a(text, "a fraction such as 0.9 or a count of cells");
    return AV_CONFIG;
  }
  if (strpbrk(text, ".eE") != NULL) {
    if (!(fraction > 0 && fraction <= 1)) {
      *why = av_format("%s is out of range; a fraction is above 0 and at most 1.0",
                       av_config_shown(room, text));
      return AV_CONFIG;
    }
    *value = (av_amount){.is_fraction = true, .fraction = fraction};
    return AV_OK;
  }
  const bool whole = read_int(text, &count);
  if (!whole || errno == ERANGE || count < FEWEST_CELLS) {
    const bool all = key == &av_config_keys[AV_AT_train_train_size] && count == 1;
    *why = av_format("%s is out of range for a count of cells, which is at least %d; %s",
                     av_config_shown(room, text), FEWEST_CELLS,
                     all ? "1.0 for all cells?" : "a fraction is written with a point (0.9)");
    return AV_CONFIG;
  }
  *value = (av_amount){.count = count};
  return AV_OK;
}

static av_status read_text(const char *text, char **value) {
  char *copy = av_strdup(text);
  AV_TRY_ALLOC(copy);
  free(*value);
  *value = copy;
  return AV_OK;
}

/* An empty value takes back what was set; only keys without a default have such a state. */
static av_status read_nothing(const av_config_key *key, void *field, char **why) {
  if (key->default_value[0] != '\0') {
    *why = av_format("no value; remove the line to get the default, %s", key->default_value);
    return AV_CONFIG;
  }
  if (key->type == AV_TYPE_TEXT) {
    free(*(char **)field);
  } else if (key->type == AV_TYPE_LIST) {
    av_config_free_list(field);
  }
  av_config_unset(key, field);
  return AV_OK;
}

av_status av_config_read_value(const av_config_key *key, char *text, void *field, char **why) {
  if (text[0] == '\0') {
    return read_nothing(key, field, why);
  }
  switch (key->type) {
    case AV_TYPE_BOOL:
      return read_bool(text, field, why);
    case AV_TYPE_INT: {
      int64_t value = 0;
      if (!read_int(text, &value)) {
        *why = not_a(text, "a whole number");
        return AV_CONFIG;
      }
      if (value < (int64_t)key->low || value > (int64_t)key->high) {
        *why = out_of_range(key, text);
        return AV_CONFIG;
      }
      *(int64_t *)field = value;
      return AV_OK;
    }
    case AV_TYPE_REAL: {
      double value = 0;
      if (!read_double(text, &value)) {
        *why = not_a(text, "a number");
        return AV_CONFIG;
      }
      if (!isfinite(value) || !(value >= key->low && value <= key->high)) {
        *why = out_of_range(key, text);
        return AV_CONFIG;
      }
      *(double *)field = value;
      return AV_OK;
    }
    case AV_TYPE_TEXT:
      return read_text(text, field);
    case AV_TYPE_LIST:
      return av_config_read_list(text, field, why);
    case AV_TYPE_CHOICE:
      return read_choice(key, text, field, why);
    case AV_TYPE_AMOUNT:
      return read_amount(key, text, field, why);
  }
  return AV_FAIL_BUG("key %s has no type", key->name);
}

/* The shortest decimal text that is read as the same number. */
static void shortest(char room[32], double value) {
  for (int digits = 15; digits <= 17; ++digits) {
    snprintf(room, 32, "%.*g", digits, value);
    if (strtod(room, NULL) == value) {
      return;
    }
  }
}

/* A name that would be taken apart, stripped or seen as @file is put in double quotes. */
static void print_entry(FILE *out, const char *name) {
  const size_t length = strlen(name);
  const bool quoted = length == 0 || strpbrk(name, ",\"") != NULL || name[0] == '@' ||
                      name[0] == ';' || isspace((unsigned char)name[0]) ||
                      isspace((unsigned char)name[length - 1]);
  if (!quoted) {
    fputs(name, out);
    return;
  }
  fputc('"', out);
  for (const char *c = name; *c != '\0'; ++c) {
    fputs(*c == '"' ? "\"" : "", out);
    fputc(*c, out);
  }
  fputc('"', out);
}

void av_config_print_value(FILE *out, const av_config_key *key, const void *field) {
  char room[32];
  if (!av_config_is_set(key, field)) {
    return;
  }
  switch (key->type) {
    case AV_TYPE_BOOL:
      fputs(*(const bool *)field ? "yes" : "no", out);
      break;
    case AV_TYPE_INT:
      fprintf(out, "%lld", (long long)*(const int64_t *)field);
      break;
    case AV_TYPE_REAL:
      shortest(room, *(const double *)field);
      fputs(room, out);
      break;
    case AV_TYPE_TEXT:
      fputs(*(char *const *)field, out);
      break;
    case AV_TYPE_LIST: {
      const av_name_list *list = field;
      for (int64_t i = 0; i < list->n; ++i) {
        fputs(i > 0 ? ", " : "", out);
        print_entry(out, list->at[i]);
      }
      break;
    }
    case AV_TYPE_CHOICE:
      fputs(key->choices[*(const int *)field], out);
      break;
    case AV_TYPE_AMOUNT: {
      const av_amount *amount = field;
      if (amount->is_fraction) {
        shortest(room, amount->fraction);
        fprintf(out, "%s%s", room, strpbrk(room, ".e") == NULL ? ".0" : "");
      } else {
        fprintf(out, "%lld", (long long)amount->count);
      }
      break;
    }
  }
}

void av_config_print_type(FILE *out, const av_config_key *key) {
  switch (key->type) {
    case AV_TYPE_BOOL:
      fputs("yes or no", out);
      break;
    case AV_TYPE_INT:
    case AV_TYPE_REAL:
      fputs(key->type == AV_TYPE_INT ? "whole number" : "number", out);
      if (isfinite(key->low)) {
        fprintf(out, ", %s%.16g", isinf(key->high) ? "at least " : "", key->low);
      }
      if (isfinite(key->high)) {
        fprintf(out, "%s%.16g", isinf(key->low) ? ", at most " : " to ", key->high);
      }
      break;
    case AV_TYPE_TEXT:
      fputs("text", out);
      break;
    case AV_TYPE_LIST:
      fputs("list: a, b, c or @file with one a line", out);
      break;
    case AV_TYPE_CHOICE:
      for (int i = 0; key->choices[i] != NULL; ++i) {
        fprintf(out, "%s%s", i == 0 ? "" : ", ", key->choices[i]);
      }
      break;
    case AV_TYPE_AMOUNT:
      fprintf(out, "fraction up to 1.0, written with a point, or a count from %d", FEWEST_CELLS);
      break;
  }
}
