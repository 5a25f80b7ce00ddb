/* What the checks between keys share, and the files that may not be the same. */
#include "config/config_check.h"

#include "base/memory.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

void av_check_fault(av_checker *c, int key, const char *format, ...) {
  const av_config_key *k = &av_config_keys[key];
  const char *path = c->config->path;
  c->failed = true;
  char *message = NULL;
  va_list args;
  va_start(args, format);
  if (vasprintf(&message, format, args) < 0) {
    message = NULL;
  }
  va_end(args);
  if (c->config->origin->line[key] != AV_LINE_DEFAULT) {
    av_fail(AV_CONFIG, "%s: %s", av_config_where(c->config, k->section, k->name),
            message == NULL ? format : message);
  } else {
    av_fail(AV_CONFIG, "%s%s[%s] %s: %s", path == NULL ? "" : path, path == NULL ? "" : ": ",
            k->section, k->name, message == NULL ? format : message);
  }
  free(message);
}

const char *av_check_place(const av_config *config, int key, char room[48]) {
  const int64_t line = config->origin->line[key];
  if (line == AV_LINE_DEFAULT) {
    snprintf(room, 48, "by default");
  } else if (line == AV_LINE_OVERRIDE) {
    snprintf(room, 48, "on the command line");
  } else {
    snprintf(room, 48, "on line %lld", (long long)line);
  }
  return room;
}

void av_check_needs_switch(av_checker *c, int key, bool works, const char *switch_text) {
  if (!works && av_config_is_given(c->config, &av_config_keys[key])) {
    av_check_fault(c, key, "has no effect without %s; add it, or remove this key", switch_text);
  }
}

/* The file that `path` names or would name when created, symbolic links followed; NULL if its
 * folder does not exist or memory is short (then nothing can be said, and opening it will tell). */
static char *resolve_path(const char *path) {
  char *real = realpath(path, NULL);
  if (real != NULL) {
    return real;
  }
  const char *slash = strrchr(path, '/');
  char *folder = slash == NULL ? av_strdup(".") : strndup(path, (size_t)(slash - path) + 1);
  char *real_folder = folder == NULL ? NULL : realpath(folder, NULL);
  if (real_folder != NULL) {
    real = av_format("%s/%s", real_folder, slash == NULL ? path : slash + 1);
  }
  free(real_folder);
  free(folder);
  return real;
}

static bool same_file(const char *a, const char *b) {
  if (a == NULL || b == NULL) {
    return false;
  }
  char *real_a = resolve_path(a);
  char *real_b = resolve_path(b);
  const bool same = real_a != NULL && real_b != NULL && strcmp(real_a, real_b) == 0;
  free(real_a);
  free(real_b);
  return same;
}

void av_check_files(av_checker *c) {
  const av_config *config = c->config;
  const bool append = config->output.mode == AV_OUTPUT_APPEND;
  const bool clean = config->origin->n_faults == 0; /* else a misread line may be what is missing */
  if (config->data.input == NULL && av_check_usable(config, AV_AT_data_input) && clean) {
    av_check_fault(c, AV_AT_data_input, "missing; name the .h5ad file with the counts");
  }
  if (av_check_usable(config, AV_AT_output_path) && av_check_usable(config, AV_AT_output_mode)) {
    if (append && config->output.path != NULL) {
      av_check_fault(c, AV_AT_output_path,
                     "mode append writes to the input file; remove path, or say mode = copy");
    } else if (!append && config->output.path == NULL && clean) {
      av_check_fault(c, AV_AT_output_path, "missing; name the .h5ad file to write");
    } else if (!append && same_file(config->data.input, config->output.path)) {
      av_check_fault(
          c, AV_AT_output_path,
          "is the input file; to add the results to it say mode = append and remove path");
    }
  }
  const struct {
    int key;
    const char *path;
  } files[] = {{AV_AT_data_input, config->data.input},
               {AV_AT_output_path, config->output.path},
               {AV_AT_output_model, config->output.model_given ? config->output.model : NULL},
               {AV_AT_runtime_log, config->runtime.log}};
  for (int i = 2; i < 4; ++i) {
    for (int j = 0; j < i; ++j) {
      if (same_file(files[i].path, files[j].path)) {
        av_check_fault(c, files[i].key, "is the same file as [%s] %s",
                       av_config_keys[files[j].key].section, av_config_keys[files[j].key].name);
      }
    }
    if (same_file(files[i].path, config->path)) {
      av_check_fault(c, files[i].key, "is this INI file");
    }
  }
}
