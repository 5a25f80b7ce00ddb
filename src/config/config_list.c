/* Lists of names, on a line or in a file, and reading whole files. */
#include "base/memory.h"
#include "config/config_table.h"
#include "data/names.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void av_config_free_list(av_name_list *list) {
  for (int64_t i = 0; i < list->n; ++i) {
    free(list->at[i]);
  }
  free(list->at);
  *list = (av_name_list){0};
}

static av_status append(av_name_list *list, const char *name) {
  if ((list->n & (list->n - 1)) == 0) { /* room for 1, 2, 4, 8, ... */
    const size_t room = list->n == 0 ? 1 : 2 * (size_t)list->n;
    char **grown = av_realloc(list->at, room, sizeof *grown);
    AV_TRY_ALLOC(grown);
    list->at = grown;
  }
  char *copy = av_strdup(name);
  AV_TRY_ALLOC(copy);
  list->at[list->n++] = copy;
  return AV_OK;
}

static bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r'; }

/* Ends the text between start and end, blanks dropped on both sides; returns its new start. */
static char *trim(char *start, char *end) {
  while (end > start && is_blank(end[-1])) {
    --end;
  }
  *end = '\0';
  while (is_blank(*start)) {
    ++start;
  }
  return start;
}

/* Takes the quotes off the entry that begins at the quote `start`: returns what follows the closing
 * quote, NULL if there is none before the end of the line. The entry then begins at start + 1. */
static char *unquote(char *start) {
  char *to = start + 1;
  for (char *from = start + 1; *from != '\0' && *from != '\n'; ++from) {
    if (*from == '"' && from[1] != '"') {
      *to = '\0';
      return from + 1;
    }
    from += *from == '"';
    *to++ = *from;
  }
  return NULL;
}

/* "a, b" and the lines of a continued value; a line may end in a comma. */
static av_status read_entries(char *text, av_name_list *list, char **why) {
  char room[AV_SHOWN_ROOM];
  char *next = text;
  bool more = true;
  while (more) {
    while (is_blank(*next)) {
      ++next;
    }
    char *entry = next;
    const bool quoted = *entry == '"';
    if (quoted) {
      ++entry;
      next = unquote(next);
      if (next == NULL) {
        *why = av_format("no closing quote after \"%s", av_config_shown(room, entry));
        return AV_CONFIG;
      }
      while (is_blank(*next)) {
        ++next;
      }
      if (*next != '\0' && *next != ',' && *next != '\n') {
        *why = av_format("no comma after \"%s\"", av_config_shown(room, entry));
        return AV_CONFIG;
      }
    }
    char *end = next + strcspn(next, ",\n");
    const char separator = *end;
    more = separator != '\0';
    next = end + 1;
    if (!quoted) {
      entry = trim(entry, end);
    }
    if (entry[0] != '\0') {
      AV_TRY(append(list, entry));
    } else if (separator == ',' || quoted) {
      *why = av_format("entry %lld of the list is empty", (long long)list->n + 1);
      return AV_CONFIG;
    }
  }
  return AV_OK;
}

static av_status read_lines(const char *path, char *text, av_name_list *list, char **why) {
  char *next = text;
  if (strncmp(next, "\xef\xbb\xbf", 3) == 0) {
    next += 3;
  }
  for (int64_t line = 1; *next != '\0'; ++line) {
    char *end = next + strcspn(next, "\n");
    const bool last = *end == '\0';
    const char *entry = trim(next, end);
    next = last ? end : end + 1;
    if (strstr(entry, " ;") != NULL || strstr(entry, "\t;") != NULL) {
      *why = av_format("%s:%lld: a name may not hold a ; after a blank", path, (long long)line);
      return AV_CONFIG;
    }
    if (entry[0] != '\0') {
      AV_TRY(append(list, entry));
    }
  }
  if (list->n == 0) {
    *why = av_format("%s has no entries", path);
    return AV_CONFIG;
  }
  return AV_OK;
}

static av_status read_file(const char *path, av_name_list *list, char **why) {
  char *text = NULL;
  size_t length = 0;
  av_status status = av_config_slurp(path, &text, &length, why);
  if (status == AV_OK && strlen(text) != length) {
    *why = av_format("%s: NUL byte; this is not a text file", path);
    status = AV_CONFIG;
  } else if (status == AV_OK) {
    status = read_lines(path, text, list, why);
  }
  free(text);
  return status == AV_OK || status == AV_NOMEM ? status : AV_CONFIG;
}

static av_status check_duplicates(const av_name_list *list, char **why) {
  av_name_index *index = NULL;
  const av_names names = {.n = list->n, .at = list->at};
  AV_TRY(av_name_index_create(&index, &names));
  const char *twice = av_name_index_duplicate(index);
  av_name_index_free(&index);
  if (twice != NULL) {
    char room[AV_SHOWN_ROOM];
    *why = av_format("%s is listed twice", av_config_shown(room, twice));
    return AV_CONFIG;
  }
  return AV_OK;
}

av_status av_config_read_list(char *text, av_name_list *list, char **why) {
  av_name_list read = {0};
  av_status status = text[0] == '@' ? read_file(trim(text + 1, text + strlen(text)), &read, why)
                                    : read_entries(text, &read, why);
  if (status == AV_OK) {
    status = check_duplicates(&read, why);
  }
  if (status != AV_OK) {
    av_config_free_list(&read);
    return status;
  }
  av_config_free_list(list);
  *list = read;
  return AV_OK;
}

static const char hdf5_signature[] = "\x89HDF\r\n\x1a\n";

av_status av_config_slurp(const char *path, char **text, size_t *length, char **why) {
  const size_t most = (size_t)1 << 30;
  FILE *file = fopen(path, "rb");
  if (file == NULL) {
    *why = av_format("cannot open %s: %s", path, strerror(errno));
    return AV_NOINPUT;
  }
  av_status status = AV_OK;
  char *block = NULL;
  size_t n = 0;
  for (size_t room = 1 << 16; status == AV_OK; room *= 2) {
    char *grown = av_realloc(block, room + 1, 1);
    if (grown == NULL) {
      status = av_fail(AV_NOMEM, "out of memory (%s)", path);
      break;
    }
    block = grown;
    errno = 0;
    n += fread(block + n, 1, room - n, file);
    if (ferror(file) && errno == EISDIR) {
      *why = av_format("%s is a directory, not a file", path);
      status = AV_NOINPUT;
    } else if (ferror(file)) {
      *why = av_format("cannot read %s: %s", path, strerror(errno));
      status = AV_IOERR;
    } else if (n >= 8 && memcmp(block, hdf5_signature, 8) == 0) {
      *why = av_format("%s is an HDF5 file, not text", path);
      status = AV_CONFIG;
    } else if (n > most) {
      *why = av_format("%s is larger than 1 GiB", path);
      status = AV_CONFIG;
    } else if (n < room) {
      break;
    }
  }
  fclose(file);
  if (status != AV_OK || block == NULL) {
    free(block);
    return status;
  }
  block[n] = '\0';
  *text = block;
  *length = n;
  return AV_OK;
}
