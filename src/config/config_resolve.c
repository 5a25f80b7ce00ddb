/* Checks between keys, and the defaults that follow from other keys. */
#include "base/memory.h"
#include "config/config_table.h"

#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

typedef struct checker {
  const av_config *config;
  bool failed;
} checker;

/* Records "run.ini:12: [section] key: message"; a key that is not in the file has no line. */
static void fault(checker *c, int key, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void fault(checker *c, int key, const char *format, ...) {
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

/* "run.ini:12: [section] key" shortened to what a message about another key needs. */
static const char *place(const av_config *config, int key, char room[48]) {
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

static bool usable(const av_config *config, int key) { return !config->origin->faulty[key]; }

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

static void check_files(checker *c) {
  const av_config *config = c->config;
  const bool append = config->output.mode == AV_OUTPUT_APPEND;
  const bool clean = config->origin->n_faults == 0; /* else a misread line may be what is missing */
  if (config->data.input == NULL && usable(config, AV_AT_data_input) && clean) {
    fault(c, AV_AT_data_input, "missing; name the .h5ad file with the counts");
  }
  if (usable(config, AV_AT_output_path) && usable(config, AV_AT_output_mode)) {
    if (append && config->output.path != NULL) {
      fault(c, AV_AT_output_path,
            "mode append writes to the input file; remove path, or say mode = copy");
    } else if (!append && config->output.path == NULL && clean) {
      fault(c, AV_AT_output_path, "missing; name the .h5ad file to write");
    } else if (!append && same_file(config->data.input, config->output.path)) {
      fault(c, AV_AT_output_path,
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
        fault(c, files[i].key, "is the same file as [%s] %s", av_config_keys[files[j].key].section,
              av_config_keys[files[j].key].name);
      }
    }
    if (same_file(files[i].path, config->path)) {
      fault(c, files[i].key, "is this INI file");
    }
  }
}

static void check_split(checker *c) {
  const av_config *config = c->config;
  const av_amount *train = &config->train.train_size;
  const av_amount *validation = &config->train.validation_size;
  if (config->train.split_key_given) {
    static const int sizes[] = {AV_AT_train_train_size, AV_AT_train_validation_size};
    for (int i = 0; i < 2; ++i) {
      char room[48];
      if (av_config_is_given(config, &av_config_keys[sizes[i]])) {
        fault(c, sizes[i], "split_key, given %s, says where each cell goes; remove one of the two",
              place(config, AV_AT_train_split_key, room));
      }
    }
    return;
  }
  if (usable(config, AV_AT_train_train_size) && usable(config, AV_AT_train_validation_size) &&
      train->is_fraction && validation->is_fraction &&
      train->fraction + validation->fraction > 1 + 1e-12) {
    char room[48];
    fault(c, AV_AT_train_validation_size, "%.15g and train_size, %.15g %s, come to more than 1",
          validation->fraction, train->fraction, place(config, AV_AT_train_train_size, room));
  }
}

static void check_training(checker *c) {
  const av_config *config = c->config;
  char room[48];
  if (config->train.n_epochs_kl_warmup_given && config->train.n_steps_kl_warmup_given) {
    fault(c, AV_AT_train_n_steps_kl_warmup,
          "n_epochs_kl_warmup is given too, %s; give one of the two",
          place(config, AV_AT_train_n_epochs_kl_warmup, room));
  }
  if (usable(config, AV_AT_train_min_kl_weight) && usable(config, AV_AT_train_max_kl_weight) &&
      config->train.min_kl_weight > config->train.max_kl_weight) {
    const bool min_given = config->train.min_kl_weight_given;
    fault(c, min_given ? AV_AT_train_min_kl_weight : AV_AT_train_max_kl_weight,
          "%.15g is %s %s_kl_weight, %.15g %s",
          min_given ? config->train.min_kl_weight : config->train.max_kl_weight,
          min_given ? "above" : "below", min_given ? "max" : "min",
          min_given ? config->train.max_kl_weight : config->train.min_kl_weight,
          place(config, min_given ? AV_AT_train_max_kl_weight : AV_AT_train_min_kl_weight, room));
  }
}

/* A key that does nothing because a switch is off by default; switched off on purpose is fine. */
static void needs_switch(checker *c, int key, bool works, const char *switch_text) {
  if (!works && av_config_is_given(c->config, &av_config_keys[key])) {
    fault(c, key, "has no effect without %s; add it, or remove this key", switch_text);
  }
}

/* Early stopping, keep = best and reduce_lr_on_plateau. */
static void check_stopping(checker *c) {
  const av_config *config = c->config;
  char room[48];
  const bool stops =
      config->train.early_stopping_given || !usable(config, AV_AT_train_early_stopping);
  const bool keeps = config->train.keep_given || !usable(config, AV_AT_train_keep);
  static const int of_stopping[] = {AV_AT_train_early_stopping_patience,
                                    AV_AT_train_early_stopping_min_delta,
                                    AV_AT_train_early_stopping_warmup_epochs};
  for (int i = 0; i < 3; ++i) {
    needs_switch(c, of_stopping[i], stops, "early_stopping = yes");
  }
  needs_switch(c, AV_AT_train_early_stopping_monitor, stops || keeps,
               "early_stopping = yes or keep = best");
  needs_switch(c, AV_AT_train_early_stopping_mode, stops || keeps,
               "early_stopping = yes or keep = best");
  static const int of_plateau[] = {AV_AT_train_lr_factor, AV_AT_train_lr_patience,
                                   AV_AT_train_lr_threshold, AV_AT_train_lr_min,
                                   AV_AT_train_lr_scheduler_metric};
  for (int i = 0; i < 5; ++i) {
    needs_switch(c, of_plateau[i],
                 config->train.reduce_lr_on_plateau_given ||
                     !usable(config, AV_AT_train_reduce_lr_on_plateau),
                 "reduce_lr_on_plateau = yes");
  }
  if (config->train.reduce_lr_on_plateau && usable(config, AV_AT_train_lr) &&
      usable(config, AV_AT_train_lr_min) && config->train.lr_min > config->train.lr) {
    fault(c, AV_AT_train_lr_min, "%.15g is above lr, %.15g %s", config->train.lr_min,
          config->train.lr, place(config, AV_AT_train_lr, room));
  }
  const bool held_out = config->train.early_stopping_monitor <= AV_MONITOR_VALIDATION_LOSS;
  const int wanting = config->train.early_stopping && held_out ? AV_AT_train_early_stopping
                      : config->train.reduce_lr_on_plateau     ? AV_AT_train_reduce_lr_on_plateau
                      : config->train.keep == AV_KEEP_BEST && held_out ? AV_AT_train_keep
                                                                       : -1;
  if (wanting >= 0 && config->train.check_val_every_n_epoch_given &&
      config->train.max_epochs_given && config->train.max_epochs > 0 &&
      config->train.check_val_every_n_epoch > config->train.max_epochs) {
    fault(c, AV_AT_train_check_val_every_n_epoch,
          "%lld is above max_epochs, %lld %s: %s would see the validation cells only once",
          (long long)config->train.check_val_every_n_epoch, (long long)config->train.max_epochs,
          place(config, AV_AT_train_max_epochs, room), av_config_keys[wanting].name);
  }
}

static void check_features(checker *c) {
  const av_config *config = c->config;
  char room[48];
  if (config->runtime.reproducible == AV_REPRODUCIBLE_STRICT &&
      config->runtime.backend == AV_BACKEND_REFERENCE) {
    fault(c, AV_AT_runtime_reproducible,
          "strict needs backend = cpu; the reference backend, given %s, offers off and run",
          place(config, AV_AT_runtime_backend, room));
  }
  if (config->output.loadings_given && config->output.loadings && !config->model.linear_decoder &&
      usable(config, AV_AT_model_linear_decoder)) {
    fault(c, AV_AT_output_loadings,
          "only a linear decoder has loadings; say linear_decoder = yes, or remove this key");
  }
}

/* "a/b.h5ad" -> "a/b.model.h5" */
static char *model_path(const char *path) {
  static const char ending[] = ".h5ad";
  size_t length = strlen(path);
  if (length > strlen(ending) && strcmp(path + length - strlen(ending), ending) == 0) {
    length -= strlen(ending);
  }
  return length > INT_MAX ? NULL : av_format("%.*s.model.h5", (int)length, path);
}

static av_status fill_defaults(av_config *config) {
  const bool linear = config->model.linear_decoder;
  if (!config->model.gene_likelihood_given) {
    config->model.gene_likelihood = linear ? AV_LIKELIHOOD_NB : AV_LIKELIHOOD_ZINB;
  }
  if (!config->model.use_observed_lib_size_given) {
    config->model.use_observed_lib_size = !linear;
  }
  if (!config->output.loadings_given) {
    config->output.loadings = linear;
  }
  if (config->train.n_steps_kl_warmup_given) {
    config->train.n_epochs_kl_warmup = 0; /* warm-up is counted in steps */
  }
  if (!config->output.model_given) {
    const char *results =
        config->output.mode == AV_OUTPUT_APPEND ? config->data.input : config->output.path;
    char *path = results == NULL ? NULL : model_path(results);
    if (results != NULL) {
      AV_TRY_ALLOC(path);
    }
    free(config->output.model);
    config->output.model = path;
  }
  config->origin->resolved = true;
  return AV_OK;
}

av_status av_config_resolve(av_config *config) {
  if (config->origin == NULL) {
    return AV_FAIL_BUG("av_config_defaults comes first");
  }
  checker c = {.config = config};
  check_files(&c);
  check_split(&c);
  check_training(&c);
  check_stopping(&c);
  check_features(&c);
  AV_TRY(fill_defaults(config));
  return c.failed ? AV_CONFIG : AV_OK;
}
