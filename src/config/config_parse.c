/* The reader of INI text and overrides: finds every fault before it gives up. */
#include "base/memory.h"
#include "config/config_table.h"
#include "config/ini.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* One pass over a text or over the overrides. */
typedef struct parser {
  av_config *config;
  const char *path;
  const char *section; /* the legal section meant by the last header; NULL: its keys are skipped */
  av_status status;    /* AV_OK or AV_NOMEM; faults are counted in the origin */
} parser;

/* Beyond this many faults the text is not a configuration, and more lines help nobody. */
enum { MOST_FAULTS = 200 };

/* Records "run.ini:12: [section] key: message" (section and key where they are not NULL). */
static void fault(parser *p, int64_t line, const char *section, const char *key, const char *format,
                  ...) __attribute__((format(printf, 5, 6)));
static void fault(parser *p, int64_t line, const char *section, const char *key, const char *format,
                  ...) {
  if (p->config->origin->n_faults++ >= MOST_FAULTS) {
    return;
  }
  char place[32];
  snprintf(place, sizeof place, ":%lld", (long long)line);
  char *message = NULL;
  va_list args;
  va_start(args, format);
  if (vasprintf(&message, format, args) < 0) {
    message = NULL;
  }
  va_end(args);
  char section_room[AV_SHOWN_ROOM];
  char key_room[AV_SHOWN_ROOM];
  av_fail(AV_CONFIG, "%s%s: %s%s%s%s%s%s%s", line == AV_LINE_OVERRIDE ? "command line" : p->path,
          line == AV_LINE_OVERRIDE ? "" : place, section == NULL ? "" : "[",
          section == NULL ? "" : av_config_shown(section_room, section), section == NULL ? "" : "]",
          section == NULL || key == NULL ? "" : " ",
          key == NULL ? "" : av_config_shown(key_room, key),
          section == NULL && key == NULL ? "" : ": ", message == NULL ? format : message);
  free(message);
}

static void unknown_section(parser *p, int64_t line, const char *section, const char *key,
                            const char *near) {
  if (near != NULL) {
    fault(p, line, section, key, "unknown section; did you mean [%s]?", near);
    return;
  }
  char *names = NULL;
  for (int i = 0; i < AV_N_SECTIONS; ++i) {
    char *longer = av_format("%s%s%s", names == NULL ? "" : names, names == NULL ? "" : ", ",
                             av_config_sections[i].name);
    free(names);
    names = longer;
  }
  fault(p, line, section, key, "unknown section; there are %s", names == NULL ? "others" : names);
  free(names);
}

static void unknown_key(parser *p, int64_t line, const char *section, const char *name) {
  for (int i = 0; i < AV_N_SECTIONS; ++i) {
    if (av_config_find(av_config_sections[i].name, name) != NULL) {
      fault(p, line, section, name, "unknown key; %s belongs to [%s]", name,
            av_config_sections[i].name);
      return;
    }
  }
  const char *found_in = NULL;
  const char *near = av_config_nearest_key(section, name, &found_in);
  if (near != NULL) {
    fault(p, line, section, name, "unknown key; did you mean %s?", near);
    return;
  }
  near = av_config_nearest_key(NULL, name, &found_in);
  if (near != NULL) {
    fault(p, line, section, name, "unknown key; did you mean %s of [%s]?", near, found_in);
  } else {
    fault(p, line, section, name, "unknown key; \"atlasvi help\" lists them all");
  }
}

static void on_section(void *user, int64_t line, const char *name) {
  parser *p = user;
  if (av_config_has_section(name)) {
    p->section = name;
    return;
  }
  p->section = av_config_nearest_section(name); /* whose keys are checked, to find all faults */
  unknown_section(p, line, name, NULL, p->section);
}

static void on_fault(void *user, int64_t line, const char *message) {
  fault(user, line, NULL, NULL, "%s", message);
}

/* True (and a fault) if a continuation line has the look of a legal key: it was indented by
 * mistake. */
static bool is_indented_key(parser *p, int64_t line, const char *name, const char *piece) {
  char word[64];
  const size_t length = strcspn(piece, "= \t\n");
  const char *after = piece + length + strspn(piece + length, " \t");
  if (length == 0 || length >= sizeof word || *after != '=') {
    return false;
  }
  memcpy(word, piece, length);
  word[length] = '\0';
  if (av_config_find(p->section, word) == NULL) {
    return false;
  }
  fault(p, line, p->section, word,
        "an indented line continues the value above it (%s); begin the key in the first column",
        name);
  return true;
}

/* The one line of a value that is no list, or NULL (and faults) if it goes on. A list is returned
 * as it is. */
static char *check_continuation(parser *p, int64_t line, const av_config_key *key, const char *name,
                                char *value) {
  if (strchr(value, '\n') == NULL) {
    return value;
  }
  char *only = NULL;
  bool bad = false;
  for (char *piece = value; piece != NULL; ++line) {
    char *end = strchr(piece, '\n');
    if (piece != value && is_indented_key(p, line, name, piece)) {
      bad = true;
    } else if (key->type != AV_TYPE_LIST && *piece != '\0' && *piece != '\n') {
      if (only != NULL && !bad) {
        fault(p, line, key->section, name,
              "its value goes on here, but only lists have more than one line");
        bad = true;
      }
      only = piece;
    }
    piece = end == NULL ? NULL : end + 1;
  }
  if (bad || key->type == AV_TYPE_LIST) {
    return bad ? NULL : value;
  }
  if (only == NULL) {
    return value + strlen(value);
  }
  only[strcspn(only, "\n")] = '\0';
  return only;
}

/* One key, from the text or (line AV_LINE_OVERRIDE) the command line. */
static void set_key(parser *p, int64_t line, const av_config_key *key, const char *name,
                    char *value) {
  struct av_config_origin *origin = p->config->origin;
  const size_t i = (size_t)(key - av_config_keys);
  const int64_t before = origin->line[i];
  if (line == AV_LINE_OVERRIDE && before == AV_LINE_OVERRIDE) {
    fault(p, line, key->section, name, "given twice");
  } else if (line != AV_LINE_OVERRIDE && before != AV_LINE_DEFAULT) {
    const bool same = strcmp(name, key->name) == 0;
    fault(p, line, key->section, name, "given again; first on line %lld%s%s", (long long)before,
          same ? "" : "; it means ", same ? "" : key->name);
  }
  origin->line[i] = line;
  origin->faulty[i] = true;
  value = check_continuation(p, line, key, name, value);
  if (value == NULL) {
    return;
  }
  const bool given = value[0] != '\0';
  char *why = NULL;
  const av_status status = av_config_read_value(key, value, av_config_field(p->config, key), &why);
  if (status == AV_OK) {
    origin->faulty[i] = false;
    *av_config_given(p->config, key) = given;
  } else if (status == AV_CONFIG) {
    fault(p, line, key->section, name, "%s", why == NULL ? "not a legal value" : why);
  } else {
    p->status = status;
  }
  free(why);
}

static void on_entry(void *user, int64_t line, const char *section, const char *name, char *value) {
  parser *p = user;
  (void)section; /* p->section is the legal one */
  if (p->section == NULL) {
    return;
  }
  const av_config_key *key = av_config_find(p->section, name);
  if (key != NULL) {
    set_key(p, line, key, name, value);
    return;
  }
  unknown_key(p, line, p->section, name);
  for (const char *piece = strchr(value, '\n'); piece != NULL; piece = strchr(piece, '\n')) {
    is_indented_key(p, ++line, name, ++piece);
  }
}

static char *trim(char *start) {
  char *end = start + strlen(start);
  while (end > start && strchr(" \t\r\n\v\f", end[-1]) != NULL) {
    *--end = '\0';
  }
  return start + strspn(start, " \t\r\n\v\f");
}

static void set_override(parser *p, const char *override) {
  char *copy = av_strdup(override);
  if (copy == NULL) {
    p->status = av_fail(AV_NOMEM, "out of memory (command line)");
    return;
  }
  char room[AV_SHOWN_ROOM];
  char *equals = strchr(copy, '=');
  if (equals == NULL) {
    fault(p, AV_LINE_OVERRIDE, NULL, NULL, "\"%s\" is not of the form section.key=value",
          av_config_shown(room, override));
    free(copy);
    return;
  }
  *equals = '\0';
  char *value = trim(equals + 1);
  char *name = trim(copy);
  char *dot = strchr(name, '.');
  if (dot == NULL) {
    const char *found_in = NULL;
    const char *near = av_config_nearest_key(NULL, name, &found_in);
    fault(p, AV_LINE_OVERRIDE, NULL, NULL, "\"%s\" names no section%s%s%s%s%s",
          av_config_shown(room, name), near == NULL ? "" : "; did you mean ",
          near == NULL ? "" : found_in, near == NULL ? "" : ".", near == NULL ? "" : near,
          near == NULL ? "" : "?");
    free(copy);
    return;
  }
  *dot = '\0';
  const char *section = name;
  name = dot + 1;
  const bool known = av_config_has_section(section);
  const av_config_key *key = known ? av_config_find(section, name) : NULL;
  if (!known) {
    unknown_section(p, AV_LINE_OVERRIDE, section, name, av_config_nearest_section(section));
  } else if (key == NULL) {
    unknown_key(p, AV_LINE_OVERRIDE, section, name);
  } else if (strchr(value, '\n') != NULL || strstr(value, " ;") != NULL ||
             strstr(value, "\t;") != NULL) {
    /* The settings are kept as INI text with the results. */
    fault(p, AV_LINE_OVERRIDE, section, name,
          "a value may not hold a line break, or a ; after a blank");
  } else {
    set_key(p, AV_LINE_OVERRIDE, key, name, value);
  }
  free(copy);
}

av_status av_config_parse_bytes(av_config *config, const char *path, const char *text,
                                size_t length, int n, char *const *overrides) {
  if (config->origin == NULL) {
    return AV_FAIL_BUG("av_config_defaults comes first");
  }
  free(config->path);
  config->path = NULL;
  if (path != NULL) {
    config->path = av_strdup(path);
    AV_TRY_ALLOC(config->path);
  }
  parser p = {.config = config, .path = path == NULL ? "settings" : path, .status = AV_OK};
  const av_ini_handler handler = {
      .user = &p, .section = on_section, .entry = on_entry, .fault = on_fault};
  AV_TRY(av_ini_parse(text, length, &handler));
  for (int i = 0; i < n; ++i) {
    set_override(&p, overrides[i]);
  }
  AV_TRY(p.status);
  const int64_t n_faults = config->origin->n_faults;
  if (n_faults > MOST_FAULTS) {
    av_fail(AV_CONFIG, "%s: %lld more faults", p.path, (long long)(n_faults - MOST_FAULTS));
  }
  return n_faults > 0 ? AV_CONFIG : AV_OK;
}

av_status av_config_parse(av_config *config, const char *path, const char *text, int n,
                          char *const *overrides) {
  return av_config_parse_bytes(config, path, text, strlen(text), n, overrides);
}
