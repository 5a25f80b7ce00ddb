/* The table of config.def as data, and what is done with one key's value. Private to src/config. */
#ifndef AV_CONFIG_CONFIG_TABLE_H
#define AV_CONFIG_CONFIG_TABLE_H

#include "config/config.h"

#include <stddef.h>

typedef enum av_config_type {
  AV_TYPE_BOOL,
  AV_TYPE_INT,
  AV_TYPE_REAL,
  AV_TYPE_TEXT,
  AV_TYPE_LIST,
  AV_TYPE_CHOICE,
  AV_TYPE_AMOUNT
} av_config_type;

typedef struct av_config_key {
  const char *section;
  const char *name;
  av_config_type type;
  const char *default_value;
  double low;
  double high;
  const char *const *choices; /* NULL-terminated; NULL unless CHOICE */
  const char *sentence;
  size_t offset;       /* of the value in av_config */
  size_t given_offset; /* of its companion */
} av_config_key;

typedef struct av_config_section {
  const char *name;
  const char *sentence;
} av_config_section;

/* AV_AT_model_n_latent is the position of [model] n_latent in av_config_keys. */
#define AV_SECTION(name, sentence)
#define AV_SECTION_END(name)
#define AV_KEY(section, name, ...) AV_AT_##section##_##name,
enum {
#include "config/config.def"
  AV_N_KEYS
};
#define AV_SECTION(name, sentence) AV_AT_SECTION_##name,
#define AV_SECTION_END(name)
#define AV_KEY(section, name, ...)
enum {
#include "config/config.def"
  AV_N_SECTIONS
};

extern const av_config_key av_config_keys[AV_N_KEYS];
extern const av_config_section av_config_sections[AV_N_SECTIONS];

/* Where every key was set, and what is wrong with it. */
enum { AV_LINE_DEFAULT = 0, AV_LINE_OVERRIDE = -1 }; /* else a line of the file */
struct av_config_origin {
  int64_t line[AV_N_KEYS];
  bool faulty[AV_N_KEYS]; /* given, but its value could not be used: left out of cross checks */
  int64_t n_faults;       /* of the parsed text and overrides */
  bool resolved;          /* av_config_resolve has filled in what depends on other keys */
  char *where;            /* what av_config_where returned last */
};

static inline const void *av_config_value(const av_config *config, const av_config_key *key) {
  return (const char *)config + key->offset;
}
static inline void *av_config_field(av_config *config, const av_config_key *key) {
  return (char *)config + key->offset;
}
static inline bool *av_config_given(av_config *config, const av_config_key *key) {
  return (bool *)((char *)config + key->given_offset);
}
static inline bool av_config_is_given(const av_config *config, const av_config_key *key) {
  return *(const bool *)((const char *)config + key->given_offset);
}

/* Looks up a key by its name or its other name (train.n_epochs); NULL if there is none. */
const av_config_key *av_config_find(const char *section, const char *name);
bool av_config_has_section(const char *name);
/* The other name that is accepted for a key, NULL if none. */
const char *av_config_alias(const av_config_key *key);
/* The legal section nearest to `word`, NULL if none is near. */
const char *av_config_nearest_section(const char *word);
/* The legal key of `section` (NULL: of any) nearest to `word` and the section it is in. */
const char *av_config_nearest_key(const char *section, const char *word, const char **found_in);

/* The value of a key that was not given and has no default: INT and CHOICE -1, REAL NaN, AMOUNT a
 * count of -1, TEXT NULL, LIST empty, BOOL no. */
void av_config_unset(const av_config_key *key, void *field);
/* False for such a value (a BOOL always counts as set: see av_config_has_value). */
bool av_config_is_set(const av_config_key *key, const void *field);

/* True if the key has a value now: given, a default, or filled in. */
bool av_config_has_value(const av_config *config, const av_config_key *key);

/* Reads `text` (may be written into) as a value of this key and stores it in `field`, which must
 * hold a value already. Unusable text: returns AV_CONFIG, the old value stays, and *why is the
 * reason, owned by the caller (NULL when out of memory). Nothing is recorded with av_fail but
 * AV_NOMEM. */
av_status av_config_read_value(const av_config_key *key, char *text, void *field, char **why);
/* The part of it for lists: "a, b, c" (a name with a comma in double quotes), or "@file". */
av_status av_config_read_list(char *text, av_name_list *list, char **why);
void av_config_free_list(av_name_list *list);

/* Prints a value so that av_config_read_value reads the same again; nothing if it is not set. */
void av_config_print_value(FILE *out, const av_config_key *key, const void *field);
/* "whole number, 1 to 4096": what may be given for this key. */
void av_config_print_type(FILE *out, const av_config_key *key);

/* At most 60 bytes of `text` for a message, with anything unprintable as ?; returns `room`. */
enum { AV_SHOWN_ROOM = 72 };
const char *av_config_shown(char room[AV_SHOWN_ROOM], const char *text);

/* Reads a whole file or pipe; `text` is owned by the caller and NUL-terminated. `why` as above; the
 * status is AV_NOINPUT, AV_IOERR, AV_CONFIG (larger than 1 GiB, or an HDF5 file) or AV_NOMEM. */
av_status av_config_slurp(const char *path, char **text, size_t *length, char **why);

/* av_config_parse for text that may hold NUL bytes. */
av_status av_config_parse_bytes(av_config *config, const char *path, const char *text,
                                size_t length, int n, char *const *overrides);

#endif
