#include "posterior/posterior.h"

#include "base/exact.h"
#include "base/memory.h"
#include "math/numerics.h"
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

/* Selects the n rows listed in posterior->rows. */
static void select_listed(const av_posterior *posterior, int64_t n) {
  posterior->be->ops->batch_select(posterior->be, posterior->batch, n, posterior->rows);
}

/* Selects local rows [first, first + n), n <= rows_per_pass. */
static void select_rows(const av_posterior *posterior, int64_t first, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    posterior->rows[i] = first + i;
  }
  select_listed(posterior, n);
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

/* The codes of rows [first, first + n), the oldest that are being encoded. */
static av_status take_latent(av_posterior *posterior, int64_t first, int64_t n, float *out) {
  const av_model_spec *spec = &av_vae_layout(posterior->vae)->spec;
  AV_TRY(av_vae_codes_end(posterior->vae, n, posterior->z));
  for (int64_t i = 0; i < n * spec->n_latent; ++i) {
    out[i] = (float)posterior->z[i];
  }
  blank_empty(posterior, first, n, spec->n_latent, out);
  return AV_OK;
}

/* The codes of a pass are taken while the next one is under way. */
av_status av_posterior_latent(void *context, int64_t first_row, int64_t n_rows, float *out) {
  av_posterior *posterior = context;
  const int64_t k = av_vae_layout(posterior->vae)->spec.n_latent;
  int64_t taken = 0;
  int64_t begun = 0;
  while (taken < n_rows) {
    const int64_t before = begun - taken;
    if (begun < n_rows) {
      const int64_t now = rows_of_pass(posterior->rows_per_pass, n_rows - begun);
      select_rows(posterior, first_row + begun, now);
      AV_TRY(av_vae_codes_begin(posterior->vae, posterior->batch, now,
                                (uint64_t)posterior->config->train.seed,
                                posterior->config->output.latent_samples));
      begun += now;
    }
    if (before > 0) {
      AV_TRY(take_latent(posterior, first_row + taken, before, out + taken * k));
      taken += before;
    }
  }
  return AV_OK;
}

/* Decodes the encoded rows into rho and mu (either may be NULL), averaging draws if asked for. */
static av_status decode(av_posterior *posterior, float *rho, float *mu) {
  const av_config *config = posterior->config;
  if (!config->output.n_samples_given) {
    return av_vae_decode(posterior->vae, posterior->batch, NULL, (av_average){.n = 1}, rho, mu);
  }
  av_average average = {.n = config->output.n_samples};
  for (; average.at < average.n; ++average.at) {
    const av_draw draw = {.seed = (uint64_t)config->train.seed,
                          .epoch = (uint32_t)average.at,
                          .purpose = AV_DRAW_POSTERIOR};
    AV_TRY(av_vae_decode(posterior->vae, posterior->batch, &draw, average, rho, mu));
  }
  return AV_OK;
}

static av_status fill(av_posterior *posterior, int64_t first_row, int64_t n_rows, float *rho,
                      float *mu) {
  const int64_t genes = av_vae_layout(posterior->vae)->spec.n_genes;
  const int64_t averaged = av_backend_average_rows(posterior->be, genes);
  const bool fewer = posterior->config->output.n_samples > 1 && averaged < posterior->rows_per_pass;
  const int64_t most = fewer ? averaged : posterior->rows_per_pass;
  for (int64_t done = 0; done < n_rows;) {
    const int64_t now = rows_of_pass(most, n_rows - done);
    float *rho_now = rho == NULL ? NULL : rho + done * genes;
    float *mu_now = mu == NULL ? NULL : mu + done * genes;
    select_rows(posterior, first_row + done, now);
    AV_TRY(av_vae_encode(posterior->vae, posterior->batch, now, NULL, NULL));
    AV_TRY(decode(posterior, rho_now, mu_now));
    if (rho_now != NULL) {
      blank_empty(posterior, first_row + done, now, genes, rho_now);
    }
    if (mu_now != NULL) {
      blank_empty(posterior, first_row + done, now, genes, mu_now);
    }
    done += now;
  }
  return AV_OK;
}

av_status av_posterior_decoded(void *context, int64_t first_row, int64_t n_rows, float *out) {
  av_posterior *posterior = context;
  const int64_t genes = av_vae_layout(posterior->vae)->spec.n_genes;
  return fill(posterior, first_row, n_rows, out, out + n_rows * genes);
}

av_status av_posterior_rho(void *context, int64_t first_row, int64_t n_rows, float *out) {
  return fill(context, first_row, n_rows, out, NULL);
}

av_status av_posterior_mu(void *context, int64_t first_row, int64_t n_rows, float *out) {
  return fill(context, first_row, n_rows, NULL, out);
}

/* ---- summary ---- */

/* Order-free sums over this rank's cells, one block. */
typedef struct sums {
  av_wide *cells;   /* (1) */
  av_wide *rho;     /* (G) */
  av_wide *z;       /* (K) */
  av_wide *squares; /* (K) */
} sums;

/* What rho is multiplied by before it is summed. A share of the cell is small: another 30 bits
 * after the point. A softplus, counts over size factors of any scale, may be as large as 10^7. */
static double rho_scale(const av_model_spec *spec) {
  return spec->size_factor ? 0x1p15 : AV_FIXED_ONE;
}

/* The codes of n cells, the oldest that are being encoded. */
static av_status add_codes(av_posterior *posterior, int64_t n, sums *total) {
  const av_model_spec *spec = &av_vae_layout(posterior->vae)->spec;
  AV_TRY(av_vae_encode_end(posterior->vae, n, posterior->z, NULL));
  for (int64_t i = 0; i < n; ++i) {
    double *z = posterior->z + i * spec->n_latent;
    av_wide_add(total->cells, 1.0);
    if (spec->simplex) {
      av_softmax(spec->n_latent, z);
    }
    for (int64_t k = 0; k < spec->n_latent; ++k) {
      av_wide_add(&total->z[k], z[k]);
      av_wide_add(&total->squares[k], z[k] * z[k]);
    }
  }
  return AV_OK;
}

/* Selects the next cells with counts, from row *next on; returns their number. */
static int64_t select_filled(const av_posterior *posterior, int64_t *next) {
  const av_dataset *dataset = posterior->dataset;
  int64_t n = 0;
  for (; *next < dataset->n_local && n < posterior->rows_per_pass; ++*next) {
    if (dataset->library[*next] > 0.0) {
      posterior->rows[n++] = *next;
    }
  }
  if (n > 0) {
    select_listed(posterior, n);
  }
  return n;
}

/* Rho is added up on the backend; codes are while the next pass is under way. */
static av_status add_cells(av_posterior *posterior, sums *total) {
  const double scale = rho_scale(&av_vae_layout(posterior->vae)->spec);
  int64_t next = 0;
  int64_t before = 0;
  do {
    const int64_t now = select_filled(posterior, &next);
    if (now > 0) {
      AV_TRY(av_vae_encode_begin(posterior->vae, posterior->batch, now));
      AV_TRY(av_vae_sum_rho(posterior->vae, posterior->batch, scale, posterior->rho_sums));
    }
    if (before > 0) {
      AV_TRY(add_codes(posterior, before, total));
    }
    before = now;
  } while (before > 0);
  return AV_OK;
}

static av_status add_all(av_posterior *posterior, sums *total) {
  av_backend *be = posterior->be;
  const int64_t n = av_vae_layout(posterior->vae)->spec.n_genes;
  _Static_assert(sizeof(av_wide) == 2 * sizeof(double), "two words a gene");
  if (posterior->rho_sums == NULL) {
    AV_TRY(be->ops->alloc(be, AV_SUM, 2 * n, (void **)&posterior->rho_sums));
  }
  be->ops->zero(be, AV_SUM, posterior->rho_sums, 2 * n);
  AV_TRY(add_cells(posterior, total));
  double *read = av_malloc((size_t)(2 * n), sizeof *read);
  AV_TRY_ALLOC(read);
  const av_status status = be->ops->read(be, AV_SUM, posterior->rho_sums, 2 * n, read);
  if (status == AV_OK) {
    memcpy(total->rho, read, (size_t)n * sizeof *total->rho);
  }
  free(read);
  return status;
}

av_status av_posterior_summary(av_posterior *posterior, double *mean_rho, double *z_variance) {
  const av_model_spec *spec = &av_vae_layout(posterior->vae)->spec;
  const int64_t size = 1 + spec->n_genes + 2 * spec->n_latent;
  sums total = {.cells = av_calloc((size_t)size, sizeof *total.cells)};
  av_status status = AV_OK;
  if (total.cells == NULL) {
    status = av_fail(AV_NOMEM, "out of memory (summary of the factors)");
  } else {
    total.rho = total.cells + 1;
    total.z = total.rho + spec->n_genes;
    total.squares = total.z + spec->n_latent;
    status = add_all(posterior, &total);
  }
  status = av_agree(posterior->comm, status);
  if (status == AV_OK) {
    status = av_sum_wide(posterior->comm, total.cells, size);
  }
  if (status == AV_OK) {
    const double cells = av_wide_value(total.cells);
    for (int64_t g = 0; g < spec->n_genes; ++g) {
      mean_rho[g] = av_wide_value(&total.rho[g]) / rho_scale(spec) / cells;
    }
    for (int64_t k = 0; k < spec->n_latent; ++k) {
      const double mean = av_wide_value(&total.z[k]) / cells;
      const double variance = av_wide_value(&total.squares[k]) / cells - mean * mean;
      z_variance[k] = variance < 0.0 ? 0.0 : variance; /* rounding; a NaN stays one */
    }
  }
  free(total.cells);
  return status;
}
