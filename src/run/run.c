/* A run, stage by stage: settings, data, model, training, model file, results. */
#include "run/run.h"

#include "backend/backend.h"
#include "base/launcher.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/phases.h"
#include "base/threads.h"
#include "cli/progress.h"
#include "cli/report.h"
#include "cli/version.h"
#include "io/h5ad_read.h"
#include "io/h5ad_write.h"
#include "model/init.h"
#include "model/library_prior.h"
#include "model/saved.h"
#include "posterior/factors.h"
#include "run/results.h"
#include "run/summary.h"
#include "train/schedule.h"
#include "train/stopping.h"
#include "train/trainer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* All that a run holds; freed together, whatever stage failed. */
typedef struct run {
  const av_comm *comm;
  av_config config;
  av_phases phases;
  av_model_file loaded; /* genes.n = 0 unless model.load is given */
  av_dataset dataset;
  av_split split;
  av_backend be;
  av_data *data;
  av_vae *vae;
  av_values values;
  av_history history;
  av_posterior posterior;
  double *mean_rho;   /* (G) */
  double *z_variance; /* (K) */
  av_factors factors;
  av_progress *progress;
} run;

static void run_free(run *r) {
  av_progress_end(&r->progress);
  av_factors_free(&r->factors);
  free(r->mean_rho);
  free(r->z_variance);
  av_posterior_free(&r->posterior);
  av_history_free(&r->history);
  av_values_free(&r->values);
  av_vae_free(&r->vae);
  if (r->be.ops != NULL) {
    r->be.ops->data_free(&r->be, r->data);
  }
  av_backend_close(&r->be);
  av_split_free(&r->split);
  av_dataset_free(&r->dataset);
  av_model_file_free(&r->loaded);
  av_config_free(&r->config);
}

/* ---- stages ---- */

static av_status settle(run *r, const char *path, int n_settings, char *const *settings) {
  AV_TRY(av_config_read(&r->config, r->comm, path, n_settings, settings));
  AV_TRY(av_log_open(r->comm, r->config.runtime.log));
  if (r->config.model.load != NULL) {
    AV_TRY(av_model_file_read(r->comm, r->config.model.load, &r->loaded));
    AV_TRY(av_agree(r->comm, av_saved_apply_settings(&r->loaded, &r->config)));
  }
  return av_writer_preflight(r->comm, &r->config, 0);
}

static av_status open_backend(run *r) {
  const av_config *config = &r->config;
  int threads = 1;
  const char *threads_from = NULL;
  AV_TRY(av_threads_choose(r->comm, config->runtime.threads_given ? config->runtime.threads : 0,
                           &threads, &threads_from));
  AV_TRY(av_backend_open(&r->be, config->runtime.backend, r->comm, threads,
                         config->runtime.reproducible == AV_REPRODUCIBLE_STRICT));
  char build[AV_BUILD_TEXT];
  av_build_text(build);
  const av_banner banner = {
      .version = av_version(),
      .revision = av_revision(),
      .build = build,
      .backend = r->be.ops->name,
      .reproducible = av_config_choice("runtime", "reproducible", config->runtime.reproducible),
      .settings = config->path,
      .threads = threads,
      .threads_from = threads_from};
  return av_report_banner(r->comm, &banner, stdout);
}

static av_status read_data(run *r) {
  AV_TRY(av_h5ad_read(r->comm, &r->config, &r->dataset));
  if (r->config.model.load != NULL) {
    AV_TRY(av_saved_match(r->comm, &r->loaded, &r->config, &r->dataset));
  }
  AV_TRY(av_split_create(&r->split, r->comm, &r->config, &r->dataset));
  AV_TRY(av_agree(r->comm, av_stopping_possible(&r->config, r->split.n_validation)));
  const int64_t cells[3] = {r->split.n_train, r->split.n_validation, r->split.n_test};
  AV_TRY(av_report_input(r->comm, &r->config, &r->dataset, cells, stdout));
  return av_writer_preflight(r->comm, &r->config,
                             av_results_bytes(&r->config, r->dataset.n_cells, r->dataset.n_genes));
}

/* max_epochs from the number of cells if not given. */
static void settle_epochs(run *r) {
  av_config *config = &r->config;
  if (!config->train.max_epochs_given) {
    config->train.max_epochs = av_default_epochs(r->dataset.n_cells);
  }
  av_warn_short_warmup(config, config->train.max_epochs, r->split.n_train);
}

static av_status make_model(run *r) {
  const av_config *config = &r->config;
  av_model_spec spec = av_model_spec_from(config, r->dataset.n_genes, r->dataset.batch.levels.n);
  const int64_t rows = av_trainer_rows(config, r->dataset.n_local);
  av_layout layout = {0};
  av_status status = av_layout_create(&layout, &spec);
  if (status == AV_OK) {
    status = av_values_create(&r->values, &layout);
  }
  status = av_agree(r->comm, status);
  if (status == AV_OK && config->model.load != NULL) {
    status =
        av_agree(r->comm, av_saved_values(&r->loaded, &layout, config->model.load, &r->values));
  } else if (status == AV_OK) {
    av_init_values(&layout, (uint64_t)config->train.seed, r->values.params, r->values.running);
    status = av_library_prior(r->comm, &r->dataset, r->values.prior);
    if (status == AV_OK && config->model.init == AV_INIT_DATA) {
      status = av_init_from_data(r->comm, &r->dataset, r->split.of, &layout, r->values.params);
    }
  }
  const av_model_facts facts = {
      .n_genes = spec.n_genes,
      .n_batches = spec.n_batches,
      .n_parameters = layout.n_trained,
      .bytes = layout.n_params * (int64_t)(3 * r->be.bytes[AV_REAL] + r->be.bytes[AV_GRAD]),
      .n_epochs = config->train.max_epochs,
      .output_bytes = av_results_bytes(config, r->dataset.n_cells, spec.n_genes),
      .output = av_results_path(config),
      .n_steps = av_steps_per_epoch(r->split.n_train, config->train.batch_size)};
  av_layout_free(&layout);
  AV_TRY(status);
  AV_TRY(av_agree(r->comm, r->be.ops->data_load(&r->be, &r->dataset, &r->data)));
  AV_TRY(av_vae_create(&r->vae, &r->be, &spec, r->values.prior, rows));
  AV_TRY(av_agree(r->comm, av_vae_set_values(r->vae, r->values.params, r->values.running)));
  return av_report_model(r->comm, config, &facts, stdout);
}

static void watch_step(void *context, int64_t done, int64_t total) {
  const run *r = context;
  av_progress_step(r->progress, done, total);
}

static void watch_epoch(void *context, int64_t epoch, const av_epoch *line) {
  const run *r = context;
  const av_epoch_line shown = {.epoch = epoch + 1,
                               .elbo_train = line->elbo_train,
                               .elbo_validation = line->elbo_validation,
                               .kl_weight = line->kl_weight,
                               .seconds = line->seconds,
                               .cells_per_second = line->cells_per_second};
  av_progress_epoch(r->progress, &shown);
}

static av_trainer trainer_of(run *r) {
  return (av_trainer){.comm = r->comm,
                      .config = &r->config,
                      .dataset = &r->dataset,
                      .split = &r->split,
                      .be = &r->be,
                      .data = r->data,
                      .vae = r->vae,
                      .observer = {.context = r, .step = watch_step, .epoch = watch_epoch}};
}

/* A loaded model that is not trained further: it stays as it is. */
static bool is_applied(const run *r) {
  return r->config.model.load != NULL && r->config.train.max_epochs == 0;
}

static bool all_finite(int64_t n, const double *values) {
  for (int64_t i = 0; i < n; ++i) {
    if (!isfinite(values[i])) {
      return false;
    }
  }
  return true;
}

/* What the last step of all did shows in no training loss any more. */
static av_status check_values(const run *r) {
  const av_layout *layout = av_vae_layout(r->vae);
  if (all_finite(layout->n_params, r->values.params) &&
      all_finite(layout->n_running, r->values.running)) {
    return AV_OK;
  }
  return av_fail(AV_NUMERIC,
                 "training failed: the model holds values that are not finite; try a smaller "
                 "train.lr (now %g)",
                 r->config.train.lr);
}

static av_status fit(run *r) {
  const av_trainer trainer = trainer_of(r);
  AV_TRY(av_progress_begin(&r->progress, r->comm, r->config.runtime.progress, 1,
                           r->config.train.max_epochs, stdout));
  const av_status status = av_train(&trainer, &r->history);
  av_progress_end(&r->progress);
  AV_TRY(status);
  AV_TRY(av_agree(r->comm, av_vae_get_values(r->vae, r->values.params, r->values.running)));
  return av_agree(r->comm, check_values(r));
}

/* Loadings for the linear decoder, after training with their sign rule, which the model's own
 * weights follow. */
static av_status read_factors(run *r) {
  const av_layout *layout = av_vae_layout(r->vae);
  r->mean_rho = av_calloc((size_t)layout->spec.n_genes, sizeof *r->mean_rho);
  r->z_variance = av_calloc((size_t)layout->spec.n_latent, sizeof *r->z_variance);
  av_status status = r->mean_rho == NULL || r->z_variance == NULL
                         ? av_fail(AV_NOMEM, "out of memory (factors)")
                         : AV_OK;
  AV_TRY(av_agree(r->comm, status));
  AV_TRY(av_posterior_summary(&r->posterior, r->mean_rho, r->z_variance));
  if (!is_applied(r)) {
    av_factors_fix_signs(layout, r->values.running, r->mean_rho, r->values.params);
    status = av_vae_set_values(r->vae, r->values.params, r->values.running);
    av_vae_begin_inference(r->vae);
  }
  if (status == AV_OK) {
    status = av_factors_create(&r->factors, layout, r->values.params, r->values.running,
                               r->mean_rho, r->z_variance);
  }
  return av_agree(r->comm, status);
}

static av_status prepare_inference(run *r) {
  AV_TRY(av_posterior_create(&r->posterior, r->comm, &r->config, &r->dataset, &r->be, r->data,
                             r->vae, av_trainer_rows(&r->config, r->dataset.n_local)));
  return r->config.model.linear_decoder ? read_factors(r) : AV_OK;
}

/* An applied model stays where it is unless another place is given. */
static bool saves_model(const run *r) { return !is_applied(r) || r->config.output.model_given; }

/* The model first: a disk that fills up in a large matrix must not cost the training. */
static av_status save_model(run *r) {
  if (!saves_model(r)) {
    return AV_OK;
  }
  return av_saved_write(r->comm, &r->config, &r->dataset, av_vae_layout(r->vae), &r->values,
                        r->be.bytes[AV_REAL] == sizeof(double));
}

static av_status write_results(run *r) {
  char build[AV_BUILD_TEXT];
  av_build_text(build);
  char *versions = av_format("atlasvi %s (%s), backend %s, %s", av_version(), av_revision(),
                             r->be.ops->name, build);
  const av_results results = {.comm = r->comm,
                              .config = &r->config,
                              .dataset = &r->dataset,
                              .split = &r->split,
                              .history = &r->history,
                              .posterior = &r->posterior,
                              .factors = r->config.model.linear_decoder ? &r->factors : NULL,
                              .versions = versions == NULL ? "atlasvi" : versions};
  const av_status status = av_results_write(&results);
  free(versions);
  return status;
}

static av_status report(run *r) {
  const av_trainer trainer = trainer_of(r);
  AV_TRY(av_summary_print(&trainer, &r->history, &r->factors, r->mean_rho, stdout));
  av_output_file files[2];
  int n = 0;
  files[n++] = (av_output_file){.what = "results", .path = av_results_path(&r->config)};
  if (saves_model(r)) {
    files[n++] = (av_output_file){.what = "model", .path = r->config.output.model};
  }
  AV_TRY(av_report_outputs(r->comm, n, files, stdout));
  return av_report_phases(r->comm, &r->phases, stdout);
}

/* ---- the run ---- */

/* Times a stage and leaves the enclosing function when it fails. */
#define STAGE(name, call)                  \
  do {                                     \
    av_phase_start(&r->phases, name);      \
    const av_status stage_status = (call); \
    av_phase_stop(&r->phases, name);       \
    AV_TRY(stage_status);                  \
  } while (0)

static av_status stages(run *r, const char *path, int n_settings, char *const *settings) {
  STAGE("settings", settle(r, path, n_settings, settings));
  STAGE("backend", open_backend(r));
  STAGE("read", read_data(r));
  settle_epochs(r);
  STAGE("model", make_model(r));
  STAGE("train", fit(r));
  STAGE("factors", prepare_inference(r));
  STAGE("save model", save_model(r));
  STAGE("write results", write_results(r));
  return report(r);
}

av_status av_run(const av_comm *comm, const char *path, int n_settings, char *const *settings) {
  run r = {.comm = comm};
  av_phases_begin(&r.phases);
  const av_status status = stages(&r, path, n_settings, settings);
  if (status != AV_OK) {
    av_log_event("error", "status", "i", (int64_t)status, "message", "s", av_error_text(), NULL);
  }
  run_free(&r);
  av_log_close();
  return status;
}
