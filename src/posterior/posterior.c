#include "posterior/posterior.h"

#include "base/memory.h"
#include "math/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

av_status av_posterior_create(av_posterior *posterior, const av_comm *comm, const av_config *config,
                              const av_dataset *dataset, av_backend *be, av_data *data, av_vae *vae,
                              int64_t rows_per_pass) {
  const av_model_spec *spec = &av_vae_layout(vae)->spec;
  const int64_t rows = rows_per_pass > 0 ? rows_per_pass : 1;
  *posterior = (av_posterior){.comm = comm,
                              .config = config,
                              .dataset = dataset,
                              .be = be,
                              .vae = vae,
                              .rows_per_pass = rows};
  posterior->rows = av_malloc((size_t)rows, sizeof *posterior->rows);
  posterior->z = av_malloc((size_t)(rows * spec->n_latent), sizeof *posterior->z);
  av_status status = AV_OK;
  if (posterior->rows == NULL || posterior->z == NULL) {
    status = av_fail(AV_NOMEM, "out of memory (inference, %lld cells at a time)", (long long)rows);
  } else {
    status = be->ops->batch_create(be, data, rows, &posterior->batch);
  }
  status = av_agree(comm, status);
  if (status != AV_OK) {
    av_posterior_free(posterior);
    return status;
  }
  av_vae_begin_inference(vae);
  return AV_OK;
}

void av_posterior_free(av_posterior *posterior) {
  if (posterior->be != NULL) {
    posterior->be->ops->batch_free(posterior->be, posterior->batch);
    posterior->be->ops->release(posterior->be, posterior->rho_sums);
  }
  free(posterior->rows);
  free(posterior->z);
  *posterior = (av_posterior){0};
}

/* Selects local rows [first, first + n), n <= rows_per_pass. */
static void select_rows(const av_posterior *posterior, int64_t first, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    posterior->rows[i] = first + i;
  }
  posterior->be->ops->batch_select(posterior->be, posterior->batch, n, posterior->rows);
}

/* Rows of the next pass: `left` rows in passes of about the same size, none of a few rows. */
static int64_t rows_of_pass(int64_t most, int64_t left) {
  const int64_t passes = (left + most - 1) / most;
  return (left + passes - 1) / passes;
}

/* NaN for the rows of cells without counts. */
static void blank_empty(const av_posterior *posterior, int64_t first, int64_t n, int64_t columns,
                        float *out) {
  for (int64_t i = 0; i < n; ++i) {
    if (posterior->dataset->library[first + i] <= 0.0) {
      for (int64_t j = 0; j < columns; ++j) {
        out[i * columns + j] = NAN;
      }
    }
  }
}

/* ---- passes under way ---- */

/* What is decoded is written by begin_pass and by this alone. */
static av_status end_decoded(const av_posterior *posterior, const av_posterior_pass *pass) {
  const int64_t genes = av_vae_layout(posterior->vae)->spec.n_genes;
  AV_TRY(av_vae_decode_end(posterior->vae));
  if (pass->rho != NULL) {
    blank_empty(posterior, pass->first, pass->n, genes, pass->rho);
  }
  if (pass->mu != NULL) {
    blank_empty(posterior, pass->first, pass->n, genes, pass->mu);
  }
  return AV_OK;
}

static av_status end_codes(const av_posterior *posterior, const av_posterior_pass *pass) {
  const int64_t k = av_vae_layout(posterior->vae)->spec.n_latent;
  AV_TRY(av_vae_codes_end(posterior->vae, pass->n, posterior->z));
  for (int64_t i = 0; i < pass->n * k; ++i) {
    pass->codes[i] = (float)posterior->z[i];
  }
  blank_empty(posterior, pass->first, pass->n, k, pass->codes);
  return AV_OK;
}

/* The oldest that is under way. */
static av_status end_pass(av_posterior *posterior) {
  const av_posterior_pass *pass = &posterior->pass[posterior->ended % AV_POSTERIOR_PASSES];
  ++posterior->ended;
  return pass->codes != NULL ? end_codes(posterior, pass) : end_decoded(posterior, pass);
}

/* Decodes the encoded rows into rho and mu (either may be NULL), averaging draws if asked for. */
static av_status begin_decoded(const av_posterior *posterior, const av_posterior_pass *pass) {
  const av_config *config = posterior->config;
  av_average average = {.n = config->output.n_samples_given ? config->output.n_samples : 1};
  AV_TRY(av_vae_encode(posterior->vae, posterior->batch, pass->n, NULL, NULL));
  for (; average.at < average.n; ++average.at) {
    const av_draw draw = {.seed = (uint64_t)config->train.seed,
                          .epoch = (uint32_t)average.at,
                          .purpose = AV_DRAW_POSTERIOR};
    AV_TRY(av_vae_decode_begin(posterior->vae, posterior->batch,
                               config->output.n_samples_given ? &draw : NULL, average, pass->rho,
                               pass->mu));
  }
  return AV_OK;
}

static av_status begin_codes(const av_posterior *posterior, const av_posterior_pass *pass) {
  const av_config *config = posterior->config;
  return av_vae_codes_begin(posterior->vae, posterior->batch, pass->n, (uint64_t)config->train.seed,
                            config->output.latent_samples);
}

static av_status begin_pass(av_posterior *posterior, const av_posterior_pass *pass) {
  if (posterior->begun - posterior->ended == AV_POSTERIOR_PASSES) {
    AV_TRY(end_pass(posterior));
  }
  select_rows(posterior, pass->first, pass->n);
  posterior->pass[posterior->begun % AV_POSTERIOR_PASSES] = *pass;
  ++posterior->begun;
  return pass->codes != NULL ? begin_codes(posterior, pass) : begin_decoded(posterior, pass);
}

/* ---- rows of a matrix ---- */

/* Part of the rows of a call. */
static float *rows_of(float *all, int64_t done, int64_t columns) {
  return all == NULL ? NULL : all + done * columns;
}

/* All passes of a call, of at most so many rows. */
static av_status begin_rows(av_posterior *posterior, int64_t most, const av_posterior_pass *all) {
  const av_model_spec *spec = &av_vae_layout(posterior->vae)->spec;
  if (posterior->calls == AV_POSTERIOR_PASSES) {
    return AV_FAIL_BUG("rows of more than %d calls under way", AV_POSTERIOR_PASSES);
  }
  for (int64_t done = 0; done < all->n;) {
    const int64_t now = rows_of_pass(most, all->n - done);
    const av_posterior_pass pass = {.first = all->first + done,
                                    .n = now,
                                    .codes = rows_of(all->codes, done, spec->n_latent),
                                    .rho = rows_of(all->rho, done, spec->n_genes),
                                    .mu = rows_of(all->mu, done, spec->n_genes)};
    AV_TRY(begin_pass(posterior, &pass));
    done += now;
  }
  posterior->last[posterior->calls++] = posterior->begun;
  return AV_OK;
}

static av_status begin_matrices(av_posterior *posterior, int64_t first_row, int64_t n_rows,
                                float *rho, float *mu) {
  const int64_t averaged =
      av_backend_average_rows(posterior->be, av_vae_layout(posterior->vae)->spec.n_genes);
  const bool fewer = posterior->config->output.n_samples > 1 && averaged < posterior->rows_per_pass;
  const av_posterior_pass all = {.first = first_row, .n = n_rows, .rho = rho, .mu = mu};
  return begin_rows(posterior, fewer ? averaged : posterior->rows_per_pass, &all);
}

av_status av_posterior_latent(void *context, int64_t first_row, int64_t n_rows, void *out) {
  av_posterior *posterior = context;
  const av_posterior_pass all = {.first = first_row, .n = n_rows, .codes = out};
  return begin_rows(posterior, posterior->rows_per_pass, &all);
}

av_status av_posterior_decoded(void *context, int64_t first_row, int64_t n_rows, void *out) {
  av_posterior *posterior = context;
  float *rho = out;
  float *mu = rho + n_rows * av_vae_layout(posterior->vae)->spec.n_genes;
  return begin_matrices(posterior, first_row, n_rows, rho, mu);
}

av_status av_posterior_rho(void *context, int64_t first_row, int64_t n_rows, void *out) {
  return begin_matrices(context, first_row, n_rows, out, NULL);
}

av_status av_posterior_mu(void *context, int64_t first_row, int64_t n_rows, void *out) {
  return begin_matrices(context, first_row, n_rows, NULL, out);
}

av_status av_posterior_end(void *context) {
  av_posterior *posterior = context;
  if (posterior->calls == 0) {
    return AV_FAIL_BUG("no rows under way");
  }
  while (posterior->ended < posterior->last[0]) {
    AV_TRY(end_pass(posterior));
  }
  --posterior->calls;
  memmove(posterior->last, posterior->last + 1, sizeof posterior->last - sizeof *posterior->last);
  return AV_OK;
}
