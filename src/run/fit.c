#include "run/fit.h"

#include "backend/latent.h"
#include "base/log.h"
#include "base/memory.h"
#include "cli/progress.h"
#include "math/rng.h"
#include "model/init.h"
#include "model/library_prior.h"
#include "train/evaluate.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool av_fitting_applies(const av_config *config) {
  return config->model.load != NULL && config->train.max_epochs == 0;
}

double av_result_kl(const av_result *result) {
  return result->losses[AV_LOSS_KL_Z] + result->losses[AV_LOSS_KL_L];
}

double av_result_elbo(const av_result *result) {
  return result->losses[AV_LOSS_NLL] + av_result_kl(result);
}

const char *av_result_cells(const av_result *result) {
  return result->which == AV_SPLIT_VALIDATION ? "validation"
         : result->which == AV_SPLIT_TRAIN    ? "training"
                                              : "all";
}

void av_fit_free(av_fit *fit) {
  av_values_free(&fit->values);
  av_history_free(&fit->history);
  av_factors_free(&fit->factors);
  free(fit->mean_rho);
  *fit = (av_fit){0};
}

void av_fitting_free(av_fitting *f) {
  av_posterior_free(&f->posterior);
  av_vae_free(&f->vae);
  av_fit_free(&f->fit);
  av_restarts_free(&f->restarts);
  free(f->prior);
  f->prior = NULL;
}

/* Times a stage and leaves the enclosing function when it fails. */
#define STAGE(f, name, call)               \
  do {                                     \
    av_phase_start((f)->phases, name);     \
    const av_status stage_status = (call); \
    av_phase_stop((f)->phases, name);      \
    AV_TRY(stage_status);                  \
  } while (0)

/* ---- one fit ---- */

/* Of the data alone, so it is made (and warned of) once, whatever the number of restarts. */
static av_status library_prior(av_fitting *f, int64_t n_batches, bool warn, double *prior) {
  const size_t n = (size_t)(2 * n_batches);
  if (f->prior == NULL) {
    f->prior = av_calloc(n, sizeof *f->prior);
    AV_TRY(av_agree(f->comm,
                    f->prior == NULL ? av_fail(AV_NOMEM, "out of memory (library prior)") : AV_OK));
    AV_TRY(av_library_prior(f->comm, f->dataset, warn, f->prior));
  }
  memcpy(prior, f->prior, n * sizeof *prior);
  return AV_OK;
}

static av_status starting_values(av_fitting *f, const av_layout *layout, int64_t seed,
                                 av_values *values) {
  const av_config *config = f->config;
  AV_TRY(av_agree(f->comm, av_values_create(values, layout)));
  if (config->model.load != NULL) {
    return av_agree(f->comm, av_saved_values(f->loaded, layout, config->model.load, values));
  }
  av_init_values(layout, (uint64_t)seed, values->params, values->running);
  AV_TRY(library_prior(f, layout->spec.n_batches, layout->spec.latent_library, values->prior));
  return config->model.init == AV_INIT_DATA
             ? av_init_from_data(f->comm, f->dataset, f->split->of, layout, values->params)
             : AV_OK;
}

/* A fresh model with its starting values, in place of an earlier one. */
static av_status begin(av_fitting *f, int64_t seed) {
  const av_model_spec spec = av_model_spec_from(f->config, f->dataset);
  av_posterior_free(&f->posterior);
  av_vae_free(&f->vae);
  av_fit_free(&f->fit);
  av_layout layout = {0};
  av_status status = av_agree(f->comm, av_layout_create(&layout, &spec));
  if (status == AV_OK) {
    status = starting_values(f, &layout, seed, &f->fit.values);
  }
  av_layout_free(&layout);
  AV_TRY(status);
  AV_TRY(av_vae_create(&f->vae, f->be, &spec, &f->dataset->design, f->fit.values.prior,
                       av_trainer_rows(f->config, f->dataset->n_genes, f->dataset->n_local)));
  return av_agree(f->comm, av_vae_set_values(f->vae, f->fit.values.params, f->fit.values.running));
}

static void watch_step(void *context, int64_t done, int64_t total) {
  av_progress_step(context, done, total);
}

static void watch_epoch(void *context, int64_t epoch, const av_epoch *line) {
  const av_epoch_line shown = {.epoch = epoch + 1,
                               .elbo_train = line->elbo_train,
                               .elbo_validation = line->elbo_validation,
                               .kl_weight = line->kl_weight,
                               .seconds = line->seconds,
                               .cells_per_second = line->cells_per_second};
  av_progress_epoch(context, &shown);
}

static av_trainer trainer_of(const av_fitting *f, int64_t seed) {
  return (av_trainer){.comm = f->comm,
                      .config = f->config,
                      .dataset = f->dataset,
                      .split = f->split,
                      .be = f->be,
                      .data = f->data,
                      .seed = (uint64_t)seed,
                      .vae = f->vae};
}

static bool all_finite(int64_t n, const double *values) {
  for (int64_t i = 0; i < n; ++i) {
    if (!isfinite(values[i])) {
      return false;
    }
  }
  return true;
}

/* What may help a training whose numbers overflow. */
static const char *remedy(const av_fitting *f) {
  return f->dataset->n_continuous > 0
             ? "try continuous covariates on the scale of 1, or a smaller train.lr"
             : "try a smaller train.lr";
}

/* What the last step of all did shows in no training loss any more. */
static av_status check_values(const av_fitting *f) {
  const av_layout *layout = av_vae_layout(f->vae);
  if (all_finite(layout->n_params, f->fit.values.params) &&
      all_finite(layout->n_running, f->fit.values.running)) {
    return AV_OK;
  }
  return av_fail(AV_NUMERIC,
                 "training failed: the model holds values that are not finite; %s (now %g)",
                 remedy(f), f->config->train.lr);
}

static av_status train(av_fitting *f, int64_t seed) {
  const av_config *config = f->config;
  av_progress *progress = NULL;
  AV_TRY(av_agree(f->comm, av_progress_begin(&progress, f->comm, config->runtime.progress, 1,
                                             config->train.max_epochs, stdout)));
  if (config->train.n_restarts > 1) {
    av_progress_restart(progress, seed - config->train.seed + 1, config->train.n_restarts);
  }
  av_trainer trainer = trainer_of(f, seed);
  trainer.observer = (av_observer){.context = progress, .step = watch_step, .epoch = watch_epoch};
  const av_status status = av_train(&trainer, &f->fit.history);
  av_progress_end(&progress);
  AV_TRY(status);
  av_values *values = &f->fit.values;
  AV_TRY(av_agree(f->comm, av_vae_get_values(f->vae, values->params, values->running)));
  return av_agree(f->comm, check_values(f));
}

/* Loadings for the linear decoder, after training with their sign rule, which the model's own
 * weights follow; not if the encoder is to stay as it is. */
static av_status read_factors(av_fitting *f) {
  const av_layout *layout = av_vae_layout(f->vae);
  av_fit *fit = &f->fit;
  fit->mean_rho = av_calloc((size_t)layout->spec.n_genes, sizeof *fit->mean_rho);
  double *z_variance = av_calloc((size_t)layout->spec.n_latent, sizeof *z_variance);
  av_status status = fit->mean_rho == NULL || z_variance == NULL
                         ? av_fail(AV_NOMEM, "out of memory (factors)")
                         : AV_OK;
  status = av_agree(f->comm, status);
  if (status == AV_OK) {
    status = av_posterior_summary(&f->posterior, fit->mean_rho, z_variance);
  }
  if (status == AV_OK && !av_fitting_applies(f->config) && !f->config->train.update_only_decoder) {
    av_factors_fix_signs(layout, fit->values.running, fit->mean_rho, fit->values.params);
    status = av_agree(f->comm, av_vae_set_values(f->vae, fit->values.params, fit->values.running));
    av_vae_begin_inference(f->vae);
  }
  if (status == AV_OK) {
    status = av_agree(f->comm, av_factors_create(&fit->factors, layout, fit->values.params,
                                                 fit->values.running, fit->mean_rho, z_variance));
  }
  free(z_variance);
  return status;
}

/* The model for inference, in place of an earlier one. */
static av_status open_posterior(av_fitting *f) {
  av_posterior_free(&f->posterior);
  return av_posterior_create(&f->posterior, f->comm, f->config, f->dataset, f->be, f->data, f->vae,
                             av_trainer_rows(f->config, f->dataset->n_genes, f->dataset->n_local));
}

static av_status infer(av_fitting *f) {
  AV_TRY(open_posterior(f));
  return f->config->model.linear_decoder ? read_factors(f) : AV_OK;
}

static av_status mean_losses(const av_fitting *f, const av_trainer *trainer, int n_draws,
                             av_result *result) {
  av_evaluator cells = {0};
  av_status status = av_evaluator_create(&cells, trainer, result->which);
  result->n_cells = cells.n_cells;
  av_vae_begin_inference(f->vae);
  for (int s = 0; status == AV_OK && s < n_draws; ++s) {
    const av_draw draw = {
        .seed = trainer->seed, .epoch = (uint32_t)s, .purpose = AV_DRAW_POSTERIOR};
    double losses[AV_LOSSES];
    status = av_evaluate(&cells, draw, losses);
    for (int i = 0; status == AV_OK && i < AV_LOSSES; ++i) {
      result->losses[i] += losses[i] / n_draws;
    }
  }
  av_evaluator_free(&cells);
  return status;
}

/* With the run's seed, whatever the fit's: restarts are compared by the same draws, and by several
 * of them, for one draw a cell differs by about as much as restarts do. */
static av_status evaluate(av_fitting *f) {
  enum { DRAWS_TO_COMPARE = 8 };
  const av_config *config = f->config;
  const av_trainer trainer = trainer_of(f, config->train.seed);
  const int n_draws = config->train.n_restarts > 1 ? DRAWS_TO_COMPARE : 1;
  const bool applied = av_fitting_applies(config);
  av_result *result = &f->fit.result;
  *result = (av_result){.known = true,
                        .which = applied                      ? AV_EVALUATE_ALL
                                 : f->split->n_validation > 0 ? AV_SPLIT_VALIDATION
                                                              : AV_SPLIT_TRAIN};
  if (applied) {
    AV_TRY(av_saved_likelihood(f->comm, config, f->dataset, &result->known));
  }
  if (result->known) {
    AV_TRY(mean_losses(f, &trainer, n_draws, result));
  }
  if (!applied && !all_finite(AV_LOSSES, result->losses)) {
    return av_fail(AV_NUMERIC,
                   "training failed: the negative ELBO of the %s cells is not finite; %s (now %g)",
                   av_result_cells(result), remedy(f), config->train.lr);
  }
  return AV_OK;
}

static av_status fit_once(av_fitting *f, int64_t seed) {
  STAGE(f, "starting values", begin(f, seed));
  STAGE(f, "train", train(f, seed));
  STAGE(f, "factors", infer(f));
  STAGE(f, "evaluate", av_agree(f->comm, evaluate(f)));
  return AV_OK;
}

/* ---- restarts ---- */

static av_status compare(av_fitting *f, int64_t seed, av_fit *best) {
  const av_restart now = {.number = seed - f->config->train.seed + 1,
                          .seed = seed,
                          .epochs = f->fit.history.n_epochs,
                          .elbo = av_result_elbo(&f->fit.result)};
  bool is_best = false;
  AV_TRY(av_restarts_add(&f->restarts, f->comm, &now,
                         f->config->model.linear_decoder ? &f->fit.factors : NULL, &is_best));
  if (is_best) {
    av_fit_free(best);
    *best = f->fit;
    f->fit = (av_fit){0};
  }
  return AV_OK;
}

/* The best fit's values into the model, in place of the last one's, which may have failed before it
 * came to inference. */
static av_status settle(av_fitting *f, av_fit *best) {
  av_fit_free(&f->fit);
  f->fit = *best;
  *best = (av_fit){0};
  AV_TRY(av_agree(f->comm, av_vae_set_values(f->vae, f->fit.values.params, f->fit.values.running)));
  AV_TRY(open_posterior(f));
  return f->config->model.linear_decoder
             ? av_restarts_stability(&f->restarts, f->comm, &f->fit.factors)
             : AV_OK;
}

av_status av_fitting_run(av_fitting *f) {
  const int64_t n = f->config->train.n_restarts;
  if (n == 1) {
    return fit_once(f, f->config->train.seed);
  }
  AV_TRY(av_agree(f->comm, av_restarts_create(&f->restarts, n)));
  av_fit best = {0};
  av_status status = AV_OK;
  for (int64_t r = 0; status == AV_OK && r < n; ++r) {
    status = fit_once(f, f->config->train.seed + r);
    if (status == AV_NUMERIC) {
      av_warn("restart %lld of %lld is left out: %s", (long long)r + 1, (long long)n,
              av_error_text());
      av_error_clear();
      status = AV_OK;
    } else if (status == AV_OK) {
      status = compare(f, f->config->train.seed + r, &best);
    }
  }
  if (status == AV_OK && f->restarts.n == 0) {
    status = av_fail(AV_NUMERIC, "training failed in each of %lld restarts; the warnings say how",
                     (long long)n);
  }
  if (status == AV_OK) {
    status = settle(f, &best);
  }
  av_fit_free(&best);
  return status;
}
