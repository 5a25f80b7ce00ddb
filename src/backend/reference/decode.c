/* Decoder and likelihood, cell by cell: logits, softmax, negative log-likelihood and gradients. */
#include "backend/latent.h"
#include "backend/reference/state.h"
#include "base/memory.h"
#include "config/config.h"
#include "math/likelihood.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One cell's arrays over genes. */
typedef struct cell_arrays {
  double *counts, *logits, *dropout, *rho, *dlogits, *ddropout; /* (G) each, one block */
} cell_arrays;

static cell_arrays arrays_create(const av_backend *be, int64_t genes) {
  double *block = av_calloc((size_t)(6 * genes), sizeof *block);
  if (block == NULL) {
    av_comm_abort(be->comm,
                  av_fail(AV_NOMEM, "out of memory (decoder of %lld genes)", (long long)genes));
  }
  return (cell_arrays){.counts = block,
                       .logits = block + genes,
                       .dropout = block + 2 * genes,
                       .rho = block + 3 * genes,
                       .dlogits = block + 4 * genes,
                       .ddropout = block + 5 * genes};
}

/* logits (G) = [x_i, one-hot] w + c. */
static void apply_head(const av_batch *batch, const av_decode *decode, const av_head *head,
                       const double *x, int64_t i, double *logits) {
  const int64_t genes = decode->n_genes;
  const double *w = const_doubles(head->w);
  const double *c = const_doubles(head->c);
  for (int64_t g = 0; g < genes; ++g) {
    logits[g] = c[g];
    for (int64_t k = 0; k < decode->n_in; ++k) {
      logits[g] += x[i * decode->n_in + k] * w[k * genes + g];
    }
    if (decode->n_onehot > 0) {
      logits[g] += w[(decode->n_in + batch_of(batch, i)) * genes + g];
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
    dc[g] += dlogits[g];
    if (decode->n_onehot > 0) {
      dw[(decode->n_in + batch_of(batch, i)) * genes + g] += dlogits[g];
    }
  }
}

/* Softmax of logits into rho; returns log of the sum of exponentials. */
static double softmax(int64_t n, const double *logits, double *rho) {
  double top = logits[0];
  for (int64_t g = 1; g < n; ++g) {
    top = logits[g] > top ? logits[g] : top;
  }
  double sum = 0.0;
  for (int64_t g = 0; g < n; ++g) {
    rho[g] = exp(logits[g] - top);
    sum += rho[g];
  }
  for (int64_t g = 0; g < n; ++g) {
    rho[g] /= sum;
  }
  return top + log(sum);
}

static void expand_counts(const av_batch *batch, int64_t i, int64_t genes, double *counts) {
  memset(counts, 0, (size_t)genes * sizeof *counts);
  const int64_t length = expand_row(batch, i);
  for (int64_t e = 0; e < length; ++e) {
    counts[batch->gene[e]] = (double)batch->value[e];
  }
}

static av_nll gene_nll(const av_decode *decode, double x, double mu, double log_mu, double theta,
                       double dropout) {
  switch (decode->likelihood) {
    case AV_LIKELIHOOD_ZINB:
      return av_nll_zinb(x, mu, theta, dropout);
    case AV_LIKELIHOOD_NB:
      return av_nll_nb(x, mu, theta);
    default:
      return av_nll_poisson(x, mu, log_mu);
  }
}

/* Forward pass of cell i; with `gradients`, dlogits, ddropout and the dispersion gradient too.
 * Returns the loss; *dl is the derivative with respect to log library. */
static double decode_cell(const av_batch *batch, const av_decode *decode, cell_arrays *cell,
                          const double *x, const double *l, int64_t i, bool gradients, double *dl) {
  const int64_t genes = decode->n_genes;
  const int64_t row = decode->n_dispersion > 1 ? batch_of(batch, i) : 0;
  const double *px_r = const_doubles(decode->px_r);
  expand_counts(batch, i, genes, cell->counts);
  apply_head(batch, decode, &decode->scale, x, i, cell->logits);
  if (decode->likelihood == AV_LIKELIHOOD_ZINB) {
    apply_head(batch, decode, &decode->dropout, x, i, cell->dropout);
  }
  const double log_sum = softmax(genes, cell->logits, cell->rho);
  double loss = 0.0;
  double q_sum = 0.0;
  for (int64_t g = 0; g < genes; ++g) {
    const double log_mu = l[i] + cell->logits[g] - log_sum;
    const double mu = exp(l[i]) * cell->rho[g];
    const bool dispersed = decode->likelihood != AV_LIKELIHOOD_POISSON;
    const double theta = dispersed ? exp(px_r[row * genes + g]) : 0.0;
    const av_nll nll = gene_nll(decode, cell->counts[g], mu, log_mu, theta, cell->dropout[g]);
    loss += nll.loss;
    q_sum += nll.q;
    cell->dlogits[g] = nll.q;
    cell->ddropout[g] = nll.dp;
    if (gradients && dispersed) {
      doubles(decode->dpx_r)[row * genes + g] += nll.dtheta * theta;
    }
  }
  for (int64_t g = 0; g < genes; ++g) {
    cell->dlogits[g] -= cell->rho[g] * q_sum;
  }
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
  cell_arrays cell = arrays_create(be, decode->n_genes);
  for (int64_t i = 0; i < batch->n; ++i) {
    double dl = 0.0;
    doubles(losses)[AV_LOSS_NLL] += decode_cell(batch, decode, &cell, x, l, i, gradients, &dl);
    if (!gradients) {
      continue;
    }
    doubles(dl_)[i] = dl;
    memset(dx + i * decode->n_in, 0, (size_t)decode->n_in * sizeof *dx);
    head_grad(batch, decode, &decode->scale, x, i, cell.dlogits, dx);
    if (decode->likelihood == AV_LIKELIHOOD_ZINB) {
      head_grad(batch, decode, &decode->dropout, x, i, cell.ddropout, dx);
    }
  }
  free(cell.counts);
}

av_status ref_decode_cells(av_backend *be, const av_batch *batch, const av_decode *decode,
                           const av_real *x, const av_real *l, double *nll) {
  cell_arrays cell = arrays_create(be, decode->n_genes);
  for (int64_t i = 0; i < batch->n; ++i) {
    double dl = 0.0;
    nll[i] = decode_cell(batch, decode, &cell, const_doubles(x), const_doubles(l), i, false, &dl);
  }
  free(cell.counts);
  return AV_OK;
}

av_status ref_decode_output(av_backend *be, const av_batch *batch, const av_decode *decode,
                            const av_real *x, const av_real *l, float *rho, float *mu) {
  const int64_t genes = decode->n_genes;
  cell_arrays cell = arrays_create(be, genes);
  for (int64_t i = 0; i < batch->n; ++i) {
    apply_head(batch, decode, &decode->scale, const_doubles(x), i, cell.logits);
    softmax(genes, cell.logits, cell.rho);
    for (int64_t g = 0; g < genes; ++g) {
      if (rho != NULL) {
        rho[i * genes + g] = (float)cell.rho[g];
      }
      if (mu != NULL) {
        mu[i * genes + g] = (float)(exp(const_doubles(l)[i]) * cell.rho[g]);
      }
    }
  }
  free(cell.counts);
  return AV_OK;
}
