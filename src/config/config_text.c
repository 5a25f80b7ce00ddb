/* The settings as INI text: what `check` shows and what is kept with the results. */
#include "config/config_table.h"

#include <stdlib.h>
#include <string.h>

/* Why a default has no effect, so that it is written as a comment: read again as a given value it
 * would contradict the key that displaces it. NULL if it counts. */
static const char *displaced_by(const av_config *config, const av_config_key *key) {
  if (key == &av_config_keys[AV_AT_train_n_epochs_kl_warmup] &&
      config->train.n_steps_kl_warmup_given) {
    return "n_steps_kl_warmup";
  }
  if (key == &av_config_keys[AV_AT_train_train_size] && config->train.split_key_given) {
    return "split_key";
  }
  return NULL;
}

static void print_key(FILE *out, const av_config *config, const av_config_key *key) {
  const void *value = av_config_value(config, key);
  const bool given = av_config_is_given(config, key);
  if (!given && displaced_by(config, key) != NULL) {
    fprintf(out, "; %s: %s counts instead\n", key->name, displaced_by(config, key));
    return;
  }
  fprintf(out, "%s =", key->name);
  if (av_config_has_value(config, key)) {
    /* A ; after a blank would be a comment; inih keeps one that follows the = directly. */
    const bool semicolon = key->type == AV_TYPE_TEXT && (*(char *const *)value)[0] == ';';
    fputs(semicolon ? "" : " ", out);
    av_config_print_value(out, key, value);
    if (!given) {
      fputs(key->default_value[0] != '\0' ? " ; default" : " ; chosen", out);
    }
  }
  fputc('\n', out);
}

char *av_config_text(const av_config *config) {
  char *text = NULL;
  size_t length = 0;
  FILE *out = open_memstream(&text, &length);
  if (out == NULL) {
    return NULL;
  }
  const char *section = "";
  for (int i = 0; i < AV_N_KEYS; ++i) {
    const av_config_key *key = &av_config_keys[i];
    if (strcmp(section, key->section) != 0) {
      fprintf(out, "%s[%s]\n", i == 0 ? "" : "\n", key->section);
      section = key->section;
    }
    print_key(out, config, key);
  }
  const int failed = ferror(out);
  if (fclose(out) != 0 || failed != 0) {
    free(text);
    return NULL;
  }
  return text;
}
