/* A run, stage by stage: settings, data, model, fit, model file, results. */
#include "run/run.h"

#include "backend/backend.h"
#include "base/launcher.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/phases.h"
#include "base/threads.h"
#include "cli/report.h"
#include "cli/version.h"
#include "io/h5ad_read.h"
#include "io/h5ad_write.h"
#include "model/saved.h"
#include "run/fit.h"
#include "run/gpu_plan.h"
#include "run/results.h"
#include "run/summary.h"
#include "train/schedule.h"
#include "train/stopping.h"

#include <stdio.h>
#include <stdlib.h>

/* All that a run holds; freed together, whatever stage failed. */
typedef struct run {
  const av_comm *comm; /* &counted */
  av_comm counted;     /* the caller's, with this run's traffic */
  av_traffic traffic;
  av_config config;
  av_phases phases;
  av_model_file loaded; /* genes.n = 0 unless model.load is given */
  av_dataset dataset;
  av_split split;
  av_backend be;
  av_data *data;
  av_fitting fitting;
} run;

static void run_free(run *r) {
  av_fitting_free(&r->fitting);
  if (r->be.ops != NULL) {
    r->be.ops->data_free(&r->be, r->data);
  }
  r->counted.listener = (av_listener){0};
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
    AV_TRY(av_agree(r->comm, av_config_check_model(&r->config)));
  }
  return av_writer_preflight(r->comm, &r->config, 0);
}

static av_status open_backend(run *r) {
  const av_config *config = &r->config;
  int threads = 1;
  const char *threads_from = NULL;
  AV_TRY(av_threads_choose(r->comm, config->runtime.threads_given ? config->runtime.threads : 0,
                           &threads, &threads_from));
  const av_backend_options options = {
      .choice = config->runtime.backend,
      .threads = threads,
      .strict = config->runtime.reproducible == AV_REPRODUCIBLE_STRICT,
      .precision = config->runtime.precision,
      .same_bits = config->runtime.reproducible != AV_REPRODUCIBLE_OFF,
      .sums_by_mpi = config->runtime.gpu_sums == AV_GPU_SUMS_MPI,
      .keeps_passes = config->runtime.cuda_graphs,
      .gpu_rows = config->runtime.gpu_rows,
      .gpu_timeout = config->runtime.gpu_timeout,
      .gpu_memory = av_gpu_limit(config)};
  AV_TRY(av_backend_open(&r->be, &options, r->comm));
  r->counted.listener = r->be.listener;
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

/* Whether there is a model of these columns, as far as the design's sizes tell. */
static av_status model_possible(const run *r) {
  const av_model_spec spec = av_model_spec_from(&r->config, &r->dataset);
  return av_agree(r->comm, av_vae_possible(&spec, &r->dataset.design, r->config.runtime.backend));
}

/* Counts are read last, so that what is refused is refused at once; a loaded model brings its own
 * categories. */
static av_status read_input(run *r) {
  av_input_plan plan;
  AV_TRY(av_h5ad_read_metadata(r->comm, &r->config, &r->dataset, &plan));
  av_status status = av_agree(r->comm, av_dataset_size_design(&r->dataset));
  if (status == AV_OK && r->config.model.load == NULL) {
    status = model_possible(r);
  }
  if (status == AV_OK) {
    status = av_h5ad_read_counts(r->comm, &r->config, r->be.threads, &r->dataset, &plan);
  }
  av_input_plan_free(&plan);
  AV_TRY(status);
  if (r->config.model.load != NULL) {
    AV_TRY(av_saved_match(r->comm, &r->loaded, &r->config, &r->dataset));
    AV_TRY(model_possible(r));
  }
  return AV_OK;
}

static av_status read_data(run *r) {
  AV_TRY(read_input(r));
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

/* The counts on the backend: a GPU keeps room for the model; what there is to say of it in *gpu. */
static av_status load_data(run *r, const av_layout *layout, char **gpu) {
  const bool cuda = r->config.runtime.backend == AV_BACKEND_CUDA;
  if (cuda) {
    r->be.gpu.max_rows = av_trainer_rows(&r->config, r->dataset.n_genes, r->dataset.n_local);
    r->be.gpu.need.model = av_model_gpu_bytes(layout, &r->dataset.design, r->be.gpu.max_rows);
    r->be.gpu.scratch = av_model_gpu_scratch(layout, &r->dataset.design, r->be.gpu.max_rows);
  }
  AV_TRY(av_agree(r->comm, r->be.ops->data_load(&r->be, &r->dataset, &r->data)));
  return cuda ? av_agree(r->comm, av_gpu_plan_report(r->comm, &r->be.gpu, gpu)) : AV_OK;
}

/* The counts on the backend, and the model's size for those who wait. */
static av_status make_model(run *r) {
  const av_config *config = &r->config;
  const av_model_spec spec = av_model_spec_from(config, &r->dataset);
  av_layout layout = {0};
  AV_TRY(av_agree(r->comm, av_layout_create(&layout, &spec)));
  av_model_facts facts = {
      .n_genes = spec.n_genes,
      .n_batches = spec.n_batches,
      .n_parameters = layout.n_trained,
      .bytes = layout.n_params * (int64_t)(3 * r->be.bytes[AV_REAL] + r->be.bytes[AV_GRAD]),
      .n_epochs = config->train.max_epochs,
      .output_bytes = av_results_bytes(config, r->dataset.n_cells, spec.n_genes),
      .output = av_results_path(config),
      .n_steps = av_steps_per_epoch(r->split.n_train, config->train.batch_size)};
  char *gpu = NULL;
  av_status status = load_data(r, &layout, &gpu);
  av_layout_free(&layout);
  facts.gpu = gpu;
  if (status == AV_OK) {
    status = av_report_model(r->comm, config, &facts, stdout);
  }
  free(gpu);
  return status;
}

static av_status fit(run *r) {
  r->fitting.comm = r->comm;
  r->fitting.config = &r->config;
  r->fitting.dataset = &r->dataset;
  r->fitting.split = &r->split;
  r->fitting.loaded = &r->loaded;
  r->fitting.be = &r->be;
  r->fitting.data = r->data;
  r->fitting.phases = &r->phases;
  return av_fitting_run(&r->fitting);
}

/* An applied model stays where it is unless another place is given. */
static bool saves_model(const run *r) {
  return !av_fitting_applies(&r->config) || r->config.output.model_given;
}

/* The model first: a disk that fills up in a large matrix must not cost the training. */
static av_status save_model(run *r) {
  if (!saves_model(r)) {
    return AV_OK;
  }
  return av_saved_write(r->comm, &r->config, &r->dataset, av_vae_layout(r->fitting.vae),
                        &r->fitting.fit.values, r->be.bytes[AV_REAL] == sizeof(double));
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
                              .fitting = &r->fitting,
                              .versions = versions == NULL ? "atlasvi" : versions};
  const av_status status = av_results_write(&results);
  free(versions);
  return status;
}

static av_status report(run *r) {
  av_summary_print(r->comm, &r->dataset, &r->fitting, stdout);
  av_output_file files[2];
  int n = 0;
  files[n++] = (av_output_file){.what = "results", .path = av_results_path(&r->config)};
  if (saves_model(r)) {
    files[n++] = (av_output_file){.what = "model", .path = r->config.output.model};
  }
  AV_TRY(av_report_outputs(r->comm, n, files, stdout));
  const av_history *history = &r->fitting.fit.history;
  AV_TRY(av_report_communication(r->comm, history->n_steps, history->seconds, &history->traffic,
                                 stdout));
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
  AV_TRY(fit(r));
  STAGE("save model", save_model(r));
  STAGE("write results", write_results(r));
  return report(r);
}

av_status av_run(const av_comm *comm, const char *path, int n_settings, char *const *settings) {
  run r = {.counted = *comm};
  r.counted.traffic = &r.traffic;
  r.comm = &r.counted;
  av_phases_begin(&r.phases);
  const av_status status = stages(&r, path, n_settings, settings);
  if (status != AV_OK) {
    av_log_event("error", "status", "i", (int64_t)status, "message", "s", av_error_text(), NULL);
  }
  run_free(&r);
  av_log_close();
  return status;
}
