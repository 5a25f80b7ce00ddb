#include "run/results.h"

#include "backend/latent.h"
#include "base/memory.h"
#include "io/h5ad_keys.h"
#include "io/h5ad_write.h"
#include "posterior/stability.h"

#include <stdlib.h>
#include <string.h>

int64_t av_results_bytes(const av_config *config, int64_t n_cells, int64_t n_genes) {
  const int64_t matrices = (int64_t)config->output.denoised + (int64_t)config->output.sample_rate;
  const int64_t latent = config->output.latent ? config->model.n_latent : 0;
  return 4 * n_cells * (matrices * n_genes + latent);
}

const char *av_results_path(const av_config *config) {
  return config->output.mode == AV_OUTPUT_APPEND ? config->data.input : config->output.path;
}

static void free_texts(int64_t n, char **texts) {
  for (int64_t i = 0; texts != NULL && i < n; ++i) {
    free(texts[i]);
  }
  free(texts);
}

/* Names Z_0, Z_1, ... */
static av_status factor_names(int64_t n, av_names *names) {
  char **texts = av_calloc((size_t)n, sizeof *texts);
  AV_TRY_ALLOC(texts);
  av_status status = AV_OK;
  for (int64_t k = 0; status == AV_OK && k < n; ++k) {
    texts[k] = av_format("Z_%lld", (long long)k);
    status = texts[k] == NULL ? av_fail(AV_NOMEM, "out of memory (names of factors)") : AV_OK;
  }
  if (status == AV_OK) {
    status = av_names_copy(names, n, (const char *const *)texts);
  }
  free_texts(n, texts);
  return status;
}

/* Columns of the design after those of the batch: continuous covariates, then the categories of
 * each categorical covariate that has more than one. */
static int64_t count_covariates(const av_dataset *dataset) {
  int64_t n = dataset->n_continuous;
  for (int64_t c = 0; c < dataset->n_categorical; ++c) {
    const int64_t levels = dataset->categorical[c].levels.n;
    n += levels > 1 ? levels : 0;
  }
  return n;
}

/* Their names: "age", "sex: female". */
static av_status covariate_names(const av_dataset *dataset, av_names *names) {
  const int64_t n = count_covariates(dataset);
  char **texts = av_calloc((size_t)n, sizeof *texts);
  AV_TRY_ALLOC(texts);
  int64_t at = 0;
  for (int64_t c = 0; c < dataset->n_continuous; ++c) {
    texts[at++] = av_strdup(dataset->continuous_names.at[c]);
  }
  for (int64_t c = 0; c < dataset->n_categorical; ++c) {
    const av_names *levels = &dataset->categorical[c].levels;
    for (int64_t s = 0; levels->n > 1 && s < levels->n; ++s) {
      texts[at++] = av_format("%s: %s", dataset->categorical_names.at[c], levels->at[s]);
    }
  }
  av_status status = AV_OK;
  for (int64_t i = 0; status == AV_OK && i < n; ++i) {
    status = texts[i] == NULL ? av_fail(AV_NOMEM, "out of memory (names of covariates)") : AV_OK;
  }
  if (status == AV_OK) {
    status = av_names_copy(names, n, (const char *const *)texts);
  }
  free_texts(n, texts);
  return status;
}

/* (n_columns, n_rows) from (n_rows, n_columns); NULL when out of memory. */
static double *by_column(const double *by_row, int64_t n_rows, int64_t n_columns) {
  double *columns = av_malloc((size_t)(n_rows * n_columns), sizeof *columns);
  for (int64_t i = 0; columns != NULL && i < n_rows; ++i) {
    for (int64_t j = 0; j < n_columns; ++j) {
      columns[j * n_rows + i] = by_row[i * n_columns + j];
    }
  }
  return columns;
}

/* A float table (n_rows, n_columns) with names on both sides. */
static av_status write_table(av_writer *writer, const av_comm *comm, const char *link,
                             const av_names *rows, const av_names *columns, const double *by_row) {
  double *values = by_column(by_row, rows->n, columns->n);
  av_status status = values == NULL ? av_fail(AV_NOMEM, "out of memory (%s)", link) : AV_OK;
  status = av_agree(comm, status);
  if (status == AV_OK) {
    const av_table table = {.n_rows = rows->n,
                            .n_columns = columns->n,
                            .row_names = (const char *const *)rows->at,
                            .column_names = (const char *const *)columns->at,
                            .values = values,
                            .as_float32 = true};
    status = av_writer_table(writer, link, &table);
  }
  free(values);
  return status;
}

/* Per factor: share of the variance, and rank by it (1 = largest); with several restarts how alike
 * it was in them, and 1 if that makes it stable, else 0. */
static av_status write_shares(av_writer *writer, const av_results *results, const av_names *names) {
  static const char *const columns[] = {"variance_share", "rank", "stability", "stable"};
  const av_factors *factors = &results->fitting->fit.factors;
  const int64_t k = factors->n_latent;
  const int64_t n_columns = factors->stability != NULL ? 4 : 2;
  double *values = av_malloc((size_t)(n_columns * k), sizeof *values);
  av_status status = values == NULL ? av_fail(AV_NOMEM, "out of memory (factors)") : AV_OK;
  status = av_agree(results->comm, status);
  if (status == AV_OK) {
    memcpy(values, factors->share, (size_t)k * sizeof *values);
    for (int64_t place = 0; place < k; ++place) {
      values[k + factors->order[place]] = (double)(place + 1);
    }
    for (int64_t i = 0; i < k && factors->stability != NULL; ++i) {
      values[2 * k + i] = factors->stability[i];
      values[3 * k + i] = factors->stability[i] >= AV_STABLE_FACTOR ? 1.0 : 0.0;
    }
    const av_table table = {.n_rows = k,
                            .n_columns = n_columns,
                            .row_names = (const char *const *)names->at,
                            .column_names = columns,
                            .values = values};
    status = av_writer_table(writer, AV_H5AD_FACTORS, &table);
  }
  free(values);
  return status;
}

/* What covariates add to the logits; nothing where the model has none. */
static av_status write_covariates(av_writer *writer, const av_results *results) {
  const av_factors *factors = &results->fitting->fit.factors;
  const av_dataset *dataset = results->dataset;
  if (factors->n_covariates == 0) {
    return AV_OK;
  }
  if (factors->n_covariates != count_covariates(dataset)) {
    return AV_FAIL_BUG("%lld offsets of covariates", (long long)factors->n_covariates);
  }
  av_names names = {0};
  av_status status = av_agree(results->comm, covariate_names(dataset, &names));
  if (status == AV_OK) {
    status = write_table(writer, results->comm, AV_H5AD_COVARIATE_OFFSETS, &dataset->genes, &names,
                         factors->covariates);
  }
  av_names_free(&names);
  return status;
}

static av_status write_factors(av_writer *writer, const av_results *results) {
  const av_factors *factors = &results->fitting->fit.factors;
  const av_dataset *dataset = results->dataset;
  av_names names = {0};
  av_status status = av_agree(results->comm, factor_names(factors->n_latent, &names));
  if (status == AV_OK) {
    status = write_table(writer, results->comm, AV_H5AD_LOADINGS, &dataset->genes, &names,
                         factors->loadings);
  }
  if (status == AV_OK) {
    status =
        av_writer_array(writer, AV_H5AD_INTERCEPT, dataset->n_genes, 0, factors->intercept, true);
  }
  if (status == AV_OK && factors->n_batches > 0) {
    status = write_table(writer, results->comm, AV_H5AD_BATCH_OFFSETS, &dataset->genes,
                         &dataset->batch.levels, factors->offsets);
  }
  if (status == AV_OK) {
    status = write_covariates(writer, results);
  }
  if (status == AV_OK) {
    status = write_shares(writer, results, &names);
  }
  if (status == AV_OK && results->config->output.mode != AV_OUTPUT_RESULTS) {
    status = av_writer_varm(writer, AV_H5AD_LOADINGS_VARM, factors->n_latent, factors->loadings);
  }
  av_names_free(&names);
  return status;
}

static av_status write_history(av_writer *writer, const av_results *results) {
  const av_history *history = &results->fitting->fit.history;
  const int64_t n = history->n_epochs;
  if (n == 0) {
    return AV_OK; /* an applied model: nothing was trained */
  }
  _Static_assert(sizeof(av_epoch) == AV_HISTORY_COLUMNS * sizeof(double), "read as one line");
  double *values = av_malloc((size_t)(n * AV_HISTORY_COLUMNS), sizeof *values);
  av_status status = values == NULL ? av_fail(AV_NOMEM, "out of memory (history)") : AV_OK;
  status = av_agree(results->comm, status);
  for (int64_t e = 0; status == AV_OK && e < n; ++e) {
    const double *line = &history->epochs[e].elbo_train;
    for (int64_t j = 0; j < AV_HISTORY_COLUMNS; ++j) {
      values[j * n + e] = line[j];
    }
  }
  if (status == AV_OK) {
    const av_table table = {.n_rows = n,
                            .n_columns = AV_HISTORY_COLUMNS,
                            .column_names = av_history_names,
                            .values = values};
    status = av_writer_table(writer, AV_H5AD_OUR_HISTORY, &table);
  }
  free(values);
  return status;
}

/* One row a fit: what each came to, and 1 for the one that stayed. */
static av_status write_restarts(av_writer *writer, const av_results *results) {
  static const char *const columns[] = {"seed", "epochs", "elbo", "chosen"};
  const av_restarts *restarts = &results->fitting->restarts;
  if (restarts->most < 2) {
    return AV_OK;
  }
  const int64_t n = restarts->n;
  double *values = av_calloc((size_t)(4 * n), sizeof *values);
  av_status status = values == NULL ? av_fail(AV_NOMEM, "out of memory (restarts)") : AV_OK;
  status = av_agree(results->comm, status);
  for (int64_t r = 0; status == AV_OK && r < n; ++r) {
    values[r] = (double)restarts->fit[r].seed;
    values[n + r] = (double)restarts->fit[r].epochs;
    values[2 * n + r] = restarts->fit[r].elbo;
    values[3 * n + r] = r == restarts->chosen ? 1.0 : 0.0;
  }
  if (status == AV_OK) {
    const av_table table = {.n_rows = n, .n_columns = 4, .column_names = columns, .values = values};
    status = av_writer_table(writer, AV_H5AD_OUR_RESTARTS, &table);
  }
  free(values);
  return status;
}

/* The losses that the model ends with, as the run's last lines say them. */
static av_status write_result(av_writer *writer, const av_results *results) {
  const av_result *result = &results->fitting->fit.result;
  if (!result->known) {
    return AV_OK;
  }
  AV_TRY(av_writer_text(writer, AV_H5AD_OUR_RESULT "/cells", av_result_cells(result)));
  AV_TRY(av_writer_integer(writer, AV_H5AD_OUR_RESULT "/n_cells", result->n_cells));
  AV_TRY(av_writer_number(writer, AV_H5AD_OUR_RESULT "/elbo", av_result_elbo(result)));
  AV_TRY(av_writer_number(writer, AV_H5AD_OUR_RESULT "/reconstruction_loss",
                          result->losses[AV_LOSS_NLL]));
  return av_writer_number(writer, AV_H5AD_OUR_RESULT "/kl_local", av_result_kl(result));
}

static av_status write_facts(av_writer *writer, const av_results *results) {
  const av_dataset *dataset = results->dataset;
  char *settings = av_config_text(results->config);
  char checksum[32];
  snprintf(checksum, sizeof checksum, "%016llx", (unsigned long long)dataset->names_checksum);
  av_status status = av_agree(
      results->comm, settings == NULL ? av_fail(AV_NOMEM, "out of memory (settings)") : AV_OK);
  if (status == AV_OK) {
    status = av_writer_text(writer, AV_H5AD_OUR_SETTINGS, settings);
  }
  free(settings);
  AV_TRY(status);
  AV_TRY(av_writer_strings(writer, AV_H5AD_OUR_GENES, &dataset->genes));
  AV_TRY(av_writer_text(writer, AV_H5AD_OUR_VERSIONS, results->versions));
  AV_TRY(av_writer_text(writer, AV_H5AD_OUR_INPUT "/path", dataset->input_path));
  AV_TRY(av_writer_integer(writer, AV_H5AD_OUR_INPUT "/size", dataset->input_bytes));
  AV_TRY(av_writer_text(writer, AV_H5AD_OUR_INPUT "/names_checksum", checksum));
  AV_TRY(av_writer_cell_bytes(writer, AV_H5AD_OUR_SPLIT, results->split->of));
  AV_TRY(write_result(writer, results));
  AV_TRY(write_restarts(writer, results));
  return write_history(writer, results);
}

/* The posterior's rows, timed: what is left of a part's time is transport and disk. Of a GPU, which
 * goes on meanwhile, what the host takes to queue and to wait. */
_Static_assert((int)AV_POSTERIOR_PASSES >= (int)AV_ROW_CALLS, "as many calls as the writer makes");
static const char *const ENCODE = "encode";
static const char *const DECODE = "encode and decode";

static av_status begin_timed(const av_results *results, const char *name,
                             av_status (*begin)(void *, int64_t, int64_t, void *),
                             int64_t first_row, int64_t n_rows, void *out) {
  av_phase_start(results->fitting->phases, name);
  const av_status status = begin(&results->fitting->posterior, first_row, n_rows, out);
  av_phase_stop(results->fitting->phases, name);
  return status;
}
static av_status end_timed(const av_results *results, const char *name) {
  av_phase_start(results->fitting->phases, name);
  const av_status status = av_posterior_end(&results->fitting->posterior);
  av_phase_stop(results->fitting->phases, name);
  return status;
}

static av_status begin_latent(void *context, int64_t first_row, int64_t n_rows, void *out) {
  return begin_timed(context, ENCODE, av_posterior_latent, first_row, n_rows, out);
}
static av_status end_latent(void *context) { return end_timed(context, ENCODE); }
static av_status begin_both(void *context, int64_t first_row, int64_t n_rows, void *out) {
  return begin_timed(context, DECODE, av_posterior_decoded, first_row, n_rows, out);
}
static av_status begin_rho(void *context, int64_t first_row, int64_t n_rows, void *out) {
  return begin_timed(context, DECODE, av_posterior_rho, first_row, n_rows, out);
}
static av_status begin_mu(void *context, int64_t first_row, int64_t n_rows, void *out) {
  return begin_timed(context, DECODE, av_posterior_mu, first_row, n_rows, out);
}
static av_status end_decoded(void *context) { return end_timed(context, DECODE); }

static av_status write_latent(av_writer *writer, const av_results *results) {
  const av_row_source source = {(void *)(uintptr_t)results, begin_latent, end_latent};
  return av_writer_cell_matrix(writer, AV_H5AD_LATENT, results->config->model.n_latent, &source);
}

static av_status write_decoded(av_writer *writer, const av_results *results) {
  const av_config *config = results->config;
  const int64_t genes = results->dataset->n_genes;
  av_row_source source = {.context = (void *)(uintptr_t)results, .end = end_decoded};
  if (config->output.denoised && config->output.sample_rate) {
    source.begin = begin_both;
    return av_writer_cell_matrix_pair(writer, AV_H5AD_DENOISED, AV_H5AD_SAMPLE_RATE, genes,
                                      &source);
  }
  source.begin = config->output.denoised ? begin_rho : begin_mu;
  return av_writer_cell_matrix(
      writer, config->output.denoised ? AV_H5AD_DENOISED : AV_H5AD_SAMPLE_RATE, genes, &source);
}

/* Times a part of the writing, if it is wanted and nothing is wrong so far. */
#define PART(name, wanted, call)                      \
  do {                                                \
    if (status == AV_OK && (wanted)) {                \
      av_phase_start(results->fitting->phases, name); \
      status = (call);                                \
      av_phase_stop(results->fitting->phases, name);  \
    }                                                 \
  } while (0)

av_status av_results_write(const av_results *results) {
  const av_config *config = results->config;
  av_writer *writer = NULL;
  AV_TRY(av_writer_create(&writer, results->comm, config, results->dataset));
  av_status status = AV_OK;
  PART("latent", config->output.latent, write_latent(writer, results));
  PART("decoded", config->output.denoised || config->output.sample_rate,
       write_decoded(writer, results));
  if (status == AV_OK && config->model.linear_decoder && config->output.loadings) {
    status = write_factors(writer, results);
  }
  if (status == AV_OK) {
    status = write_facts(writer, results);
  }
  PART("store", true, av_writer_store(writer));
  PART("verify", true, av_writer_commit(&writer));
  av_writer_discard(&writer);
  return status;
}
