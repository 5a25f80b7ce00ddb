/* The settings of a run: one struct generated from config.def, its reader and its printers. */
#ifndef AV_CONFIG_CONFIG_H
#define AV_CONFIG_CONFIG_H

#include "base/comm.h"
#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

typedef struct av_name_list {
  int64_t n;
  char **at; /* (n), owned */
} av_name_list;

/* A share or a number of cells. */
typedef struct av_amount {
  bool is_fraction;
  double fraction; /* in (0, 1] when is_fraction */
  int64_t count;   /* otherwise */
} av_amount;

/* Values of the CHOICE keys, in the order of config.def. */
enum { AV_EMPTY_CELLS_ERROR, AV_EMPTY_CELLS_NAN };
enum {
  AV_DISPERSION_GENE,
  AV_DISPERSION_GENE_BATCH,
  AV_DISPERSION_GENE_LABEL,
  AV_DISPERSION_GENE_CELL
};
enum { AV_LIKELIHOOD_ZINB, AV_LIKELIHOOD_NB, AV_LIKELIHOOD_POISSON };
enum { AV_LATENT_NORMAL, AV_LATENT_LN };
/* use_batch_norm and use_layer_norm */
enum { AV_WHERE_BOTH, AV_WHERE_ENCODER, AV_WHERE_DECODER, AV_WHERE_NONE };
enum { AV_INIT_DATA, AV_INIT_SCVI };
enum { AV_OPTIMIZER_ADAM, AV_OPTIMIZER_ADAMW };
enum { AV_STATISTICS_RUNNING, AV_STATISTICS_RECOMPUTED };
/* early_stopping_monitor; the first three are also those of lr_scheduler_metric. */
enum {
  AV_MONITOR_ELBO_VALIDATION,
  AV_MONITOR_RECONSTRUCTION_VALIDATION,
  AV_MONITOR_KL_VALIDATION,
  AV_MONITOR_VALIDATION_LOSS,
  AV_MONITOR_ELBO_TRAIN,
  AV_MONITOR_RECONSTRUCTION_TRAIN,
  AV_MONITOR_KL_TRAIN,
  AV_MONITOR_TRAIN_LOSS
};
enum { AV_MODE_MIN, AV_MODE_MAX };
enum { AV_KEEP_LAST, AV_KEEP_BEST };
enum { AV_OUTPUT_RESULTS, AV_OUTPUT_COPY, AV_OUTPUT_APPEND };
enum { AV_BACKEND_AUTO, AV_BACKEND_CPU, AV_BACKEND_CUDA, AV_BACKEND_REFERENCE };
enum { AV_PRECISION_FLOAT32, AV_PRECISION_TF32, AV_PRECISION_BF16 };
enum { AV_GPU_SUMS_NCCL, AV_GPU_SUMS_MPI };
enum { AV_GPU_ROWS_NEVER, AV_GPU_ROWS_MEASURED, AV_GPU_ROWS_ALWAYS };
enum { AV_REPRODUCIBLE_OFF, AV_REPRODUCIBLE_RUN, AV_REPRODUCIBLE_STRICT };
enum { AV_PROGRESS_AUTO, AV_PROGRESS_BAR, AV_PROGRESS_LINES, AV_PROGRESS_NONE };

#define AV_CTYPE_BOOL bool
#define AV_CTYPE_INT int64_t
#define AV_CTYPE_REAL double
#define AV_CTYPE_TEXT char *
#define AV_CTYPE_LIST av_name_list
#define AV_CTYPE_CHOICE int
#define AV_CTYPE_AMOUNT av_amount

/* One inner struct a section, one field a key: config->model.n_latent,
 * config->model.n_latent_given. */
#define AV_SECTION(name, sentence) struct {
#define AV_KEY(section, name, type, default_value, low, high, choices, sentence) \
  AV_CTYPE_##type name;                                                          \
  bool name##_given;
#define AV_SECTION_END(name) \
  }                          \
  name;
typedef struct av_config {
#include "config/config.def"
  char *path;                      /* the INI file, or NULL */
  struct av_config_origin *origin; /* where each key was set; private to src/config */
} av_config;

/* Fills `config` with the defaults. A key without one, until it is given or filled in, is INT -1,
 * CHOICE -1, REAL NaN, AMOUNT a count of -1, BOOL false, TEXT NULL, LIST empty. Free with
 * av_config_free (which accepts a zeroed struct), after a failure too. */
av_status av_config_defaults(av_config *config);
void av_config_free(av_config *config);

/* All of a run's configuration: defaults, the file, the overrides and av_config_resolve, on rank
 * 0, which alone reads files; the others get the same. Every fault of all these steps is recorded
 * (AV_CONFIG; AV_NOINPUT or AV_IOERR if the file cannot be read). `config` is overwritten, to be
 * freed also after a failure. Collective. */
av_status av_config_read(av_config *config, const av_comm *comm, const char *path, int n,
                         char *const *overrides);

/* Onto defaults, parses INI text (inih's syntax, see ini.h) and then `n` overrides of the form
 * "section.key=value"; overrides win. `path` names the file in messages. Every fault is recorded,
 * one line each ("run.ini:12: [model] n_latnt: unknown key; did you mean n_latent?"), before
 * AV_CONFIG is returned (200 at most, then their number). Values of LIST keys written @file are
 * read here, relative to the working folder. Not collective. */
av_status av_config_parse(av_config *config, const char *path, const char *text, int n,
                          char *const *overrides);

/* Checks between keys (both warm-ups given, train_size + validation_size over 1, append with a
 * path, data.input missing, ...), all faults recorded, then fills in defaults that depend on other
 * keys: gene_likelihood, use_observed_lib_size, batch_norm_statistics, output.loadings,
 * output.model; with n_steps_kl_warmup alone, n_epochs_kl_warmup becomes 0. Those that depend on
 * the data (max_epochs) are filled in by the run. May also be called after av_config_parse has
 * failed, to record more faults. */
av_status av_config_resolve(av_config *config);

/* The checks of [model]'s keys among themselves and of what only some models can write, with
 * AV_CONFIG for each fault. av_config_resolve makes them, but not with model.load: then the run
 * does, when it has taken the loaded model's settings. */
av_status av_config_check_model(const av_config *config);

/* Where a key was set, for messages: "run.ini:12: [data] batch_key", or "[data] batch_key
 * (default)", or "command line: [data] batch_key". Borrowed until the next call. */
const char *av_config_where(const av_config *config, const char *section, const char *key);

/* The settings as INI text that, parsed again, gives the same settings. Owned by the caller; NULL
 * when out of memory. */
char *av_config_text(const av_config *config);

/* `atlasvi help [KEY]`: every key, or one ("n_latent" or "model.n_latent"): type, default, bounds,
 * sentence. An unknown key fails with AV_USAGE and names the nearest. */
av_status av_config_help(FILE *out, const char *key);
/* The same table in Markdown, for the README's reference (atlasvi help --markdown). */
void av_config_help_markdown(FILE *out);
/* And as an INI file: every key, its sentence, its default behind a ; (config/default.ini). */
void av_config_help_ini(FILE *out);

/* The name of the value of a CHOICE key, e.g. ("model", "gene_likelihood", 1) -> "nb". */
const char *av_config_choice(const char *section, const char *key, int value);

#endif
