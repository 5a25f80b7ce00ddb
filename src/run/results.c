#include "run/results.h"

#include "base/memory.h"
#include "io/h5ad_keys.h"
#include "io/h5ad_write.h"

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
  for (int64_t k = 0; k < n; ++k) {
    free(texts[k]);
  }
  free(texts);
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

/* Per factor: share of the variance, and rank by it (1 = largest). */
static av_status write_shares(av_writer *writer, const av_results *results, const av_names *names) {
  static const char *const columns[] = {"variance_share", "rank"};
  const av_factors *factors = results->factors;
  const int64_t k = factors->n_latent;
  double *values = av_malloc((size_t)(2 * k), sizeof *values);
  av_status status = values == NULL ? av_fail(AV_NOMEM, "out of memory (factors)") : AV_OK;
  status = av_agree(results->comm, status);
  if (status == AV_OK) {
    memcpy(values, factors->share, (size_t)k * sizeof *values);
    for (int64_t place = 0; place < k; ++place) {
      values[k + factors->order[place]] = (double)(place + 1);
    }
    const av_table table = {.n_rows = k,
                            .n_columns = 2,
                            .row_names = (const char *const *)names->at,
                            .column_names = columns,
                            .values = values};
    status = av_writer_table(writer, AV_H5AD_FACTORS, &table);
  }
  free(values);
  return status;
}

static av_status write_factors(av_writer *writer, const av_results *results) {
  const av_factors *factors = results->factors;
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
    status = write_shares(writer, results, &names);
  }
  if (status == AV_OK && results->config->output.mode != AV_OUTPUT_RESULTS) {
    status = av_writer_varm(writer, AV_H5AD_LOADINGS_VARM, factors->n_latent, factors->loadings);
  }
  av_names_free(&names);
  return status;
}

static av_status write_history(av_writer *writer, const av_results *results) {
  const av_history *history = results->history;
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
  return write_history(writer, results);
}

static av_status write_cells(av_writer *writer, const av_results *results) {
  const av_config *config = results->config;
  const int64_t genes = results->dataset->n_genes;
  if (config->output.latent) {
    AV_TRY(av_writer_cell_matrix(writer, AV_H5AD_LATENT, config->model.n_latent,
                                 av_posterior_latent, results->posterior));
  }
  if (config->output.denoised && config->output.sample_rate) {
    return av_writer_cell_matrix_pair(writer, AV_H5AD_DENOISED, AV_H5AD_SAMPLE_RATE, genes,
                                      av_posterior_decoded, results->posterior);
  }
  if (config->output.denoised) {
    return av_writer_cell_matrix(writer, AV_H5AD_DENOISED, genes, av_posterior_rho,
                                 results->posterior);
  }
  if (config->output.sample_rate) {
    return av_writer_cell_matrix(writer, AV_H5AD_SAMPLE_RATE, genes, av_posterior_mu,
                                 results->posterior);
  }
  return AV_OK;
}

av_status av_results_write(const av_results *results) {
  av_writer *writer = NULL;
  AV_TRY(av_writer_create(&writer, results->comm, results->config, results->dataset));
  av_status status = write_cells(writer, results);
  if (status == AV_OK && results->factors != NULL && results->config->output.loadings) {
    status = write_factors(writer, results);
  }
  if (status == AV_OK) {
    status = write_facts(writer, results);
  }
  if (status == AV_OK) {
    status = av_writer_commit(&writer);
  }
  av_writer_discard(&writer);
  return status;
}
