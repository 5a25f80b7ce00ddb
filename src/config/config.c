/* Defaults, and where each key was set. */
#include "config/config.h"

#include "base/memory.h"
#include "config/config_table.h"

#include <stdlib.h>
#include <string.h>

av_status av_config_defaults(av_config *config) {
  *config = (av_config){0};
  config->origin = av_calloc(1, sizeof *config->origin);
  AV_TRY_ALLOC(config->origin);
  for (int i = 0; i < AV_N_KEYS; ++i) {
    const av_config_key *key = &av_config_keys[i];
    void *field = av_config_field(config, key);
    av_config_unset(key, field);
    if (key->default_value[0] == '\0') {
      continue;
    }
    char *text = av_strdup(key->default_value);
    AV_TRY_ALLOC(text);
    char *why = NULL;
    const av_status status = av_config_read_value(key, text, field, &why);
    free(text);
    free(why);
    if (status == AV_CONFIG) {
      return AV_FAIL_BUG("the default of %s is not legal", key->name);
    }
    AV_TRY(status);
  }
  return AV_OK;
}

void av_config_free(av_config *config) {
  for (int i = 0; i < AV_N_KEYS; ++i) {
    const av_config_key *key = &av_config_keys[i];
    if (key->type == AV_TYPE_TEXT) {
      free(*(char **)av_config_field(config, key));
    } else if (key->type == AV_TYPE_LIST) {
      av_config_free_list(av_config_field(config, key));
    }
  }
  if (config->origin != NULL) {
    free(config->origin->where);
    free(config->origin);
  }
  free(config->path);
  *config = (av_config){0};
}

const char *av_config_where(const av_config *config, const char *section, const char *name) {
  const av_config_key *key = av_config_find(section, name);
  if (key == NULL || config->origin == NULL) {
    return name;
  }
  const int64_t line = config->origin->line[key - av_config_keys];
  free(config->origin->where);
  if (line == AV_LINE_DEFAULT) {
    config->origin->where = av_format("[%s] %s (default)", section, name);
  } else if (line == AV_LINE_OVERRIDE) {
    config->origin->where = av_format("command line: [%s] %s", section, name);
  } else {
    config->origin->where =
        av_format("%s:%lld: [%s] %s", config->path == NULL ? "settings" : config->path,
                  (long long)line, section, name);
  }
  return config->origin->where == NULL ? name : config->origin->where;
}
