#include "config/config_table.h"

#include "data/names.h"

#include <ctype.h>
#include <math.h>
#include <string.h>

#define AV_CHOICES(...) ((const char *const[]){__VA_ARGS__, NULL})

#define AV_SECTION(name, sentence)
#define AV_SECTION_END(name)
#define AV_KEY(section, name, type, default_value, low, high, choices, sentence) \
  {#section,                                                                     \
   #name,                                                                        \
   AV_TYPE_##type,                                                               \
   default_value,                                                                \
   low,                                                                          \
   high,                                                                         \
   choices,                                                                      \
   sentence,                                                                     \
   offsetof(av_config, section.name),                                            \
   offsetof(av_config, section.name##_given)},
const av_config_key av_config_keys[AV_N_KEYS] = {
#include "config/config.def"
};

#define AV_SECTION(name, sentence) {#name, sentence},
#define AV_SECTION_END(name)
#define AV_KEY(section, name, ...)
const av_config_section av_config_sections[AV_N_SECTIONS] = {
#include "config/config.def"
};

/* Second names that users of older versions of scvi-tools know. */
static const struct {
  int key;
  const char *name;
} aliases[] = {{AV_AT_train_max_epochs, "n_epochs"}};
enum { N_ALIASES = sizeof aliases / sizeof aliases[0] };

const av_config_key *av_config_find(const char *section, const char *name) {
  for (int i = 0; i < AV_N_KEYS; ++i) {
    const av_config_key *key = &av_config_keys[i];
    if (strcmp(key->section, section) == 0 && strcmp(key->name, name) == 0) {
      return key;
    }
  }
  for (int i = 0; i < N_ALIASES; ++i) {
    const av_config_key *key = &av_config_keys[aliases[i].key];
    if (strcmp(key->section, section) == 0 && strcmp(aliases[i].name, name) == 0) {
      return key;
    }
  }
  return NULL;
}

bool av_config_has_section(const char *name) {
  for (int i = 0; i < AV_N_SECTIONS; ++i) {
    if (strcmp(av_config_sections[i].name, name) == 0) {
      return true;
    }
  }
  return false;
}

const char *av_config_alias(const av_config_key *key) {
  for (int i = 0; i < N_ALIASES; ++i) {
    if (&av_config_keys[aliases[i].key] == key) {
      return aliases[i].name;
    }
  }
  return NULL;
}

/* av_nearest, blind to upper and lower case (every legal name is lower case). */
static const char *nearest(const char *word, int n, const char *const *candidates) {
  char lower[65];
  size_t length = 0;
  for (; word[length] != '\0'; ++length) {
    if (length == sizeof lower - 1) {
      return NULL; /* longer than any name */
    }
    lower[length] = (char)tolower((unsigned char)word[length]);
  }
  lower[length] = '\0';
  return av_nearest(lower, n, candidates);
}

const char *av_config_nearest_section(const char *word) {
  const char *names[AV_N_SECTIONS];
  for (int i = 0; i < AV_N_SECTIONS; ++i) {
    names[i] = av_config_sections[i].name;
  }
  return nearest(word, AV_N_SECTIONS, names);
}

const char *av_config_nearest_key(const char *section, const char *word, const char **found_in) {
  const char *names[AV_N_KEYS + N_ALIASES];
  const char *sections[AV_N_KEYS + N_ALIASES];
  int n = 0;
  for (int i = 0; i < AV_N_KEYS + N_ALIASES; ++i) {
    const av_config_key *key = &av_config_keys[i < AV_N_KEYS ? i : aliases[i - AV_N_KEYS].key];
    if (section == NULL || strcmp(key->section, section) == 0) {
      names[n] = i < AV_N_KEYS ? key->name : aliases[i - AV_N_KEYS].name;
      sections[n++] = key->section;
    }
  }
  const char *name = nearest(word, n, names);
  for (int i = 0; i < n; ++i) {
    if (names[i] == name) {
      *found_in = sections[i];
      break;
    }
  }
  return name;
}

void av_config_unset(const av_config_key *key, void *field) {
  switch (key->type) {
    case AV_TYPE_BOOL:
      *(bool *)field = false;
      break;
    case AV_TYPE_INT:
      *(int64_t *)field = -1;
      break;
    case AV_TYPE_REAL:
      *(double *)field = NAN;
      break;
    case AV_TYPE_TEXT:
      *(char **)field = NULL;
      break;
    case AV_TYPE_LIST:
      *(av_name_list *)field = (av_name_list){0};
      break;
    case AV_TYPE_CHOICE:
      *(int *)field = -1;
      break;
    case AV_TYPE_AMOUNT:
      *(av_amount *)field = (av_amount){.count = -1};
      break;
  }
}

bool av_config_is_set(const av_config_key *key, const void *field) {
  switch (key->type) {
    case AV_TYPE_BOOL:
      return true;
    case AV_TYPE_INT:
      return *(const int64_t *)field != -1;
    case AV_TYPE_REAL:
      return !isnan(*(const double *)field);
    case AV_TYPE_TEXT:
      return *(char *const *)field != NULL;
    case AV_TYPE_LIST:
      return ((const av_name_list *)field)->n > 0;
    case AV_TYPE_CHOICE:
      return *(const int *)field != -1;
    case AV_TYPE_AMOUNT:
      return ((const av_amount *)field)->is_fraction || ((const av_amount *)field)->count != -1;
  }
  return false;
}

bool av_config_has_value(const av_config *config, const av_config_key *key) {
  if (key->type == AV_TYPE_BOOL && key->default_value[0] == '\0') {
    return av_config_is_given(config, key) || config->origin->resolved;
  }
  return av_config_is_set(key, av_config_value(config, key));
}

const char *av_config_choice(const char *section, const char *name, int value) {
  const av_config_key *key = av_config_find(section, name);
  if (key == NULL || key->choices == NULL || value < 0) {
    return "";
  }
  for (int i = 0; key->choices[i] != NULL; ++i) {
    if (i == value) {
      return key->choices[i];
    }
  }
  return "";
}
