/* What the outputs say of all cells together: mean rho and the variance of the latent codes. */
#include "base/exact.h"
#include "base/memory.h"
#include "math/numerics.h"
#include "posterior/posterior.h"

#include <stdlib.h>
#include <string.h>

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
    posterior->be->ops->batch_select(posterior->be, posterior->batch, n, posterior->rows);
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
  if (posterior->begun > posterior->ended) {
    return AV_FAIL_BUG("a summary while rows are under way");
  }
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
