/* Decoder and likelihood, cell by cell: logits, rho, negative log-likelihood and gradients. */
#include "backend/latent.h"
#include "backend/reference/state.h"
#include "config/config.h"
#include "math/likelihood.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One cell's arrays over genes. */
typedef struct cell_arrays {
  double *counts, *rho, *log_rho;     /* (G) each, all one block */
  double *logits, *dropout, *px_r;    /* of the three heads */
  double *dlogits, *ddropout, *dpx_r; /* gradients on them */
} cell_arrays;

static cell_arrays arrays_create(const av_backend *be, int64_t genes) {
  double *block = scratch(be, 9 * genes, "decoder, one cell");
  return (cell_arrays){.counts = block,
                       .rho = block + genes,
                       .log_rho = block + 2 * genes,
                       .logits = block + 3 * genes,
                       .dropout = block + 4 * genes,
                       .px_r = block + 5 * genes,
                       .dlogits = block + 6 * genes,
                       .ddropout = block + 7 * genes,
                       .dpx_r = block + 8 * genes};
}

/* logits (G) = [x_i, one-hot] w + c. */
static void apply_head(const av_batch *batch, const av_decode *decode, const av_head *head,
                       const double *x, int64_t i, double *logits) {
  const int64_t genes = decode->n_genes;
  const double *w = const_doubles(head->w);
  const double *c = const_doubles(head->c);
  for (int64_t g = 0; g < genes; ++g) {
    logits[g] = c == NULL ? 0.0 : c[g];
    for (int64_t k = 0; k < decode->n_in; ++k) {
      logits[g] += x[i * decode->n_in + k] * w[k * genes + g];
    }
    for (int64_t f = 0; decode->n_onehot > 0 && f < n_factors(batch); ++f) {
      logits[g] += w[(decode->n_in + column_of(batch, i, f)) * genes + g];
    }
  }
}

/* Adds a head's gradients and its part of dx_i. */
static void head_grad(const av_batch *batch, const av_decode *decode, const av_head *head,
                      const double *x, int64_t i, const double *dlogits, double *dx) {
  const int64_t genes = decode->n_genes;
  const double *w = const_doubles(head->w);
  double *dw = doubles(head->dw);
  double *dc = doubles(head->dc);
  for (int64_t k = 0; k < decode->n_in; ++k) {
    for (int64_t g = 0; g < genes; ++g) {
      dx[i * decode->n_in + k] += dlogits[g] * w[k * genes + g];
      dw[k * genes + g] += x[i * decode->n_in + k] * dlogits[g];
    }
  }
  for (int64_t g = 0; g < genes; ++g) {
    if (dc != NULL) {
      dc[g] += dlogits[g];
    }
    for (int64_t f = 0; decode->n_onehot > 0 && f < n_factors(batch); ++f) {
      dw[(decode->n_in + column_of(batch, i, f)) * genes + g] += dlogits[g];
    }
  }
}

/* rho and its logarithm from the logits: softmax over the genes, or softplus of each. */
static void scale_of(const av_decode *decode, const cell_arrays *cell) {
  const int64_t genes = decode->n_genes;
  if (decode->softplus) {
    for (int64_t g = 0; g < genes; ++g) {
      const double a = cell->logits[g];
      cell->rho[g] = av_softplus(a);
      cell->log_rho[g] = av_log_softplus(a);
    }
    return;
  }
  double top = cell->logits[0];
  for (int64_t g = 1; g < genes; ++g) {
    top = cell->logits[g] > top ? cell->logits[g] : top;
  }
  double sum = 0.0;
  for (int64_t g = 0; g < genes; ++g) {
    sum += exp(cell->logits[g] - top);
  }
  for (int64_t g = 0; g < genes; ++g) {
    cell->log_rho[g] = cell->logits[g] - top - log(sum);
    cell->rho[g] = exp(cell->logits[g] - top) / sum;
  }
}

/* From q, the gradients on log rho, in dlogits: those on the logits. */
static void scale_grad(const av_decode *decode, const cell_arrays *cell, double q_sum) {
  for (int64_t g = 0; g < decode->n_genes; ++g) {
    if (decode->softplus) {
      cell->dlogits[g] *= av_log_softplus_slope(cell->logits[g]);
    } else {
      cell->dlogits[g] -= cell->rho[g] * q_sum;
    }
  }
}

static void expand_counts(const av_batch *batch, int64_t i, int64_t genes, double *counts) {
  memset(counts, 0, (size_t)genes * sizeof *counts);
  const int64_t length = expand_row(batch, i);
  for (int64_t e = 0; e < length; ++e) {
    counts[batch->gene[e]] = (double)batch->value[e];
  }
}

static av_nll gene_nll(const av_decode *decode, double x, double log_mu, double log_theta,
                       double dropout) {
  switch (decode->likelihood) {
    case AV_LIKELIHOOD_ZINB:
      return av_nll_zinb(x, log_mu, log_theta, dropout);
    case AV_LIKELIHOOD_NB:
      return av_nll_nb(x, log_mu, log_theta);
    default:
      return av_nll_poisson(x, log_mu);
  }
}

static bool is_inflated(const av_decode *decode) {
  return decode->likelihood == AV_LIKELIHOOD_ZINB;
}
/* px_r is an output of the decoder. */
static bool by_cell(const av_decode *decode) {
  return decode->dispersion == AV_DISPERSION_GENE_CELL &&
         decode->likelihood != AV_LIKELIHOOD_POISSON;
}
/* px_r is a parameter, and has gradients. */
static bool by_table(const av_decode *decode) {
  return decode->dispersion != AV_DISPERSION_GENE_CELL &&
         decode->likelihood != AV_LIKELIHOOD_POISSON;
}

/* The row of px_r that is the cell's. */
static int64_t dispersion_row(const av_batch *batch, const av_decode *decode, int64_t i) {
  switch (decode->dispersion) {
    case AV_DISPERSION_GENE_BATCH:
      return batch_of(batch, i);
    case AV_DISPERSION_GENE_LABEL:
      return batch->dataset->label.code[batch->row[i]];
    default:
      return 0;
  }
}

/* Forward pass of cell i and the gradients on its logits, zero-inflation logits and px_r. Returns
 * the loss; *dl is the derivative with respect to log library. */
static double decode_cell(const av_batch *batch, const av_decode *decode, const cell_arrays *cell,
                          const double *x, const double *l, int64_t i, double *dl) {
  const int64_t genes = decode->n_genes;
  expand_counts(batch, i, genes, cell->counts);
  apply_head(batch, decode, &decode->scale, x, i, cell->logits);
  if (is_inflated(decode)) {
    apply_head(batch, decode, &decode->dropout, x, i, cell->dropout);
  }
  if (by_cell(decode)) {
    apply_head(batch, decode, &decode->px_r_head, x, i, cell->px_r);
  } else if (by_table(decode)) {
    memcpy(cell->px_r, const_doubles(decode->px_r) + dispersion_row(batch, decode, i) * genes,
           (size_t)genes * sizeof *cell->px_r);
  }
  scale_of(decode, cell);
  double loss = 0.0;
  double q_sum = 0.0;
  for (int64_t g = 0; g < genes; ++g) {
    const av_nll nll =
        gene_nll(decode, cell->counts[g], l[i] + cell->log_rho[g], cell->px_r[g], cell->dropout[g]);
    loss += nll.loss;
    q_sum += nll.q;
    cell->dlogits[g] = nll.q;
    cell->ddropout[g] = nll.dp;
    cell->dpx_r[g] = nll.w;
  }
  scale_grad(decode, cell, q_sum);
  *dl = q_sum;
  return loss;
}

void ref_decode_nll(av_backend *be, const av_batch *batch, const av_decode *decode,
                    const av_real *x_, const av_real *l_, av_sum *losses, av_real *dx_,
                    av_real *dl_) {
  const double *x = const_doubles(x_);
  const double *l = const_doubles(l_);
  double *dx = doubles(dx_);
  const bool gradients = decode->scale.dw != NULL;
  const int64_t genes = decode->n_genes;
  cell_arrays cell = arrays_create(be, genes);
  for (int64_t i = 0; i < batch->n; ++i) {
    double dl = 0.0;
    doubles(losses)[AV_LOSS_NLL] += decode_cell(batch, decode, &cell, x, l, i, &dl);
    if (!gradients) {
      continue;
    }
    doubles(dl_)[i] = dl;
    memset(dx + i * decode->n_in, 0, (size_t)decode->n_in * sizeof *dx);
    head_grad(batch, decode, &decode->scale, x, i, cell.dlogits, dx);
    if (is_inflated(decode)) {
      head_grad(batch, decode, &decode->dropout, x, i, cell.ddropout, dx);
    }
    if (by_cell(decode)) {
      head_grad(batch, decode, &decode->px_r_head, x, i, cell.dpx_r, dx);
    }
    if (by_table(decode)) {
      double *dpx_r = doubles(decode->dpx_r) + dispersion_row(batch, decode, i) * genes;
      for (int64_t g = 0; g < genes; ++g) {
        dpx_r[g] += cell.dpx_r[g];
      }
    }
  }
  free(cell.counts);
}

av_status ref_decode_cells(av_backend *be, const av_batch *batch, const av_decode *decode,
                           const av_real *x, const av_real *l, double *nll) {
  cell_arrays cell = arrays_create(be, decode->n_genes);
  for (int64_t i = 0; i < batch->n; ++i) {
    double dl = 0.0;
    nll[i] = decode_cell(batch, decode, &cell, const_doubles(x), const_doubles(l), i, &dl);
  }
  free(cell.counts);
  return AV_OK;
}

av_status ref_decode_output(av_backend *be, const av_batch *batch, const av_decode *decode,
                            const av_real *x, const av_real *l, av_average average, float *rho,
                            float *mu) {
  const int64_t genes = decode->n_genes;
  cell_arrays cell = arrays_create(be, genes);
  for (int64_t i = 0; i < batch->n; ++i) {
    apply_head(batch, decode, &decode->scale, const_doubles(x), i, cell.logits);
    scale_of(decode, &cell);
    for (int64_t g = 0; g < genes; ++g) {
      const int64_t at = i * genes + g;
      if (rho != NULL) {
        rho[at] = (average.at == 0 ? 0.0F : rho[at]) + (float)cell.rho[g] / (float)average.n;
      }
      if (mu != NULL) {
        mu[at] = (average.at == 0 ? 0.0F : mu[at]) +
                 (float)exp(const_doubles(l)[i] + cell.log_rho[g]) / (float)average.n;
      }
    }
  }
  free(cell.counts);
  return AV_OK;
}

av_status ref_decode_sums(av_backend *be, const av_batch *batch, const av_decode *decode,
                          const av_real *x, const av_real *l, double scale, av_sum *sums) {
  return av_backend_sum_rho(be, batch, batch->n, decode, x, l, scale, sums);
}
