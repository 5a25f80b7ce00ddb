#include "posterior/factors.h"

#include "backend/norm.h"
#include "base/memory.h"

#include <math.h>
#include <stdlib.h>

void av_factors_free(av_factors *factors) {
  free(factors->loadings);
  free(factors->intercept);
  free(factors->offsets);
  free(factors->covariates);
  free(factors->stability);
  free(factors->share);
  free(factors->order);
  *factors = (av_factors){0};
}

/* What a gene's decoder row is multiplied by: gamma / sqrt(running variance + eps), or 1 without
 * BatchNorm. */
static double scale_of(const av_layout *layout, const double *params, const double *running,
                       int64_t g) {
  const av_gene_head *head = &layout->scale;
  const int64_t genes = layout->spec.n_genes;
  return head->gamma < 0
             ? 1.0
             : params[head->gamma + g] / sqrt(running[head->running + genes + g] + AV_NORM_EPS);
}

static double intercept_of(const av_layout *layout, const double *params, const double *running,
                           int64_t g) {
  const av_gene_head *head = &layout->scale;
  const double bias = head->b < 0 ? 0.0 : params[head->b + g];
  return head->gamma < 0 ? bias
                         : params[head->beta + g] + scale_of(layout, params, running, g) *
                                                        (bias - running[head->running + g]);
}

/* Row of the decoder's weights: z, continuous covariates, one-hot block. */
static double weight_at(const av_layout *layout, const double *params, int64_t row, int64_t g) {
  return params[layout->scale.w + row * layout->spec.n_genes + g];
}

static double loading(const av_layout *layout, const double *params, const double *running,
                      int64_t g, int64_t k) {
  return scale_of(layout, params, running, g) * weight_at(layout, params, k, g);
}

static void fill_tables(av_factors *factors, const av_layout *layout, const double *params,
                        const double *running) {
  const int64_t n_continuous = layout->spec.n_continuous;
  const int64_t onehot = factors->n_latent + n_continuous; /* first row of the block */
  for (int64_t g = 0; g < factors->n_genes; ++g) {
    const double scale = scale_of(layout, params, running, g);
    for (int64_t k = 0; k < factors->n_latent; ++k) {
      factors->loadings[g * factors->n_latent + k] = loading(layout, params, running, g, k);
    }
    for (int64_t s = 0; s < factors->n_batches; ++s) {
      factors->offsets[g * factors->n_batches + s] =
          scale * weight_at(layout, params, onehot + s, g);
    }
    for (int64_t v = 0; v < factors->n_covariates; ++v) {
      const int64_t row =
          v < n_continuous ? factors->n_latent + v : onehot + factors->n_batches + v - n_continuous;
      factors->covariates[g * factors->n_covariates + v] =
          scale * weight_at(layout, params, row, g);
    }
    factors->intercept[g] = intercept_of(layout, params, running, g);
  }
}

static double sum_of(const double *values, int64_t n) {
  double sum = 0.0;
  for (int64_t i = 0; i < n; ++i) {
    sum += values[i];
  }
  return sum;
}

/* Mean of factor k's loadings with weights mean_rho, which do not add up to 1 with size factors. */
static double centre(const av_factors *factors, const double *mean_rho, int64_t k) {
  double sum = 0.0;
  for (int64_t g = 0; g < factors->n_genes; ++g) {
    sum += mean_rho[g] * factors->loadings[g * factors->n_latent + k];
  }
  return sum / sum_of(mean_rho, factors->n_genes);
}

static void fill_shares(av_factors *factors, const double *mean_rho, const double *z_variance) {
  double total = 0.0;
  for (int64_t k = 0; k < factors->n_latent; ++k) {
    const double middle = centre(factors, mean_rho, k);
    double spread = 0.0;
    for (int64_t g = 0; g < factors->n_genes; ++g) {
      const double centred = factors->loadings[g * factors->n_latent + k] - middle;
      spread += mean_rho[g] * centred * centred;
    }
    factors->share[k] = z_variance[k] * spread;
    total += factors->share[k];
    /* insertion into the order by falling share */
    int64_t at = k;
    while (at > 0 && factors->share[factors->order[at - 1]] < factors->share[k]) {
      factors->order[at] = factors->order[at - 1];
      --at;
    }
    factors->order[at] = k;
  }
  for (int64_t k = 0; k < factors->n_latent && total > 0.0; ++k) {
    factors->share[k] /= total;
  }
}

av_status av_factors_create(av_factors *factors, const av_layout *layout, const double *params,
                            const double *running, const double *mean_rho,
                            const double *z_variance) {
  const int64_t genes = layout->spec.n_genes;
  const av_model_spec *spec = &layout->spec;
  *factors = (av_factors){.n_genes = genes,
                          .n_latent = spec->n_latent,
                          .n_batches = spec->n_batches > 1 ? spec->n_batches : 0};
  factors->n_covariates = spec->n_continuous + spec->n_onehot - factors->n_batches;
  const size_t k = (size_t)factors->n_latent;
  factors->loadings = av_malloc((size_t)genes * k, sizeof(double));
  factors->intercept = av_malloc((size_t)genes, sizeof(double));
  factors->offsets = av_malloc((size_t)(genes * factors->n_batches), sizeof(double));
  factors->covariates = av_malloc((size_t)(genes * factors->n_covariates), sizeof(double));
  factors->share = av_malloc(k, sizeof(double));
  factors->order = av_malloc(k, sizeof *factors->order);
  if (factors->loadings == NULL || factors->intercept == NULL || factors->offsets == NULL ||
      factors->covariates == NULL || factors->share == NULL || factors->order == NULL) {
    av_factors_free(factors);
    return av_fail(AV_NOMEM, "out of memory (loadings of %lld genes)", (long long)genes);
  }
  fill_tables(factors, layout, params, running);
  fill_shares(factors, mean_rho, z_variance);
  return AV_OK;
}

static void flip(double *values, int64_t at, int64_t n, int64_t stride) {
  for (int64_t i = 0; i < n; ++i) {
    values[at + i * stride] = -values[at + i * stride];
  }
}

void av_factors_fix_signs(const av_layout *layout, const double *running, const double *mean_rho,
                          double *params) {
  const int64_t genes = layout->spec.n_genes;
  const int64_t n_latent = layout->spec.n_latent;
  const double weights = sum_of(mean_rho, genes);
  for (int64_t k = 0; k < n_latent && !layout->spec.simplex; ++k) {
    double middle = 0.0;
    for (int64_t g = 0; g < genes; ++g) {
      middle += mean_rho[g] * loading(layout, params, running, g, k) / weights;
    }
    double largest = 0.0;
    for (int64_t g = 0; g < genes; ++g) {
      const double centred = loading(layout, params, running, g, k) - middle;
      largest = fabs(centred) > fabs(largest) ? centred : largest;
    }
    if (largest >= 0.0) {
      continue;
    }
    flip(params, layout->z_w + k, layout->spec.n_hidden, 2 * n_latent);
    flip(params, layout->z_b + k, 1, 1);
    flip(params, layout->scale.w + k * genes, genes, 1);
    if (layout->dropout.w >= 0) {
      flip(params, layout->dropout.w + k * genes, genes, 1);
    }
    if (layout->px_r_head.w >= 0) {
      flip(params, layout->px_r_head.w + k * genes, genes, 1);
    }
  }
}

void av_factors_top(const av_factors *factors, const double *mean_rho, int64_t k, bool up,
                    int64_t n, int64_t *genes) {
  const double middle = centre(factors, mean_rho, k);
  int64_t found = 0;
  for (int64_t g = 0; g < factors->n_genes; ++g) {
    const double centred = factors->loadings[g * factors->n_latent + k] - middle;
    const double value = up ? centred : -centred;
    int64_t at = found < n ? found++ : n;
    while (at > 0) {
      const double above = factors->loadings[genes[at - 1] * factors->n_latent + k] - middle;
      if ((up ? above : -above) >= value) {
        break;
      }
      if (at < n) {
        genes[at] = genes[at - 1];
      }
      --at;
    }
    if (at < n) {
      genes[at] = g;
    }
  }
}
