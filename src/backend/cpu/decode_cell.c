/* Softmax and likelihood of one cell, its logits replaced by the gradients on them. */
#include "backend/cpu/decode.h"
#include "math/gamma_difference.h"
#include "math/likelihood.h"

#include <math.h>

/* Beyond these, floats would overflow or lose the answer; see kernels/likelihood.c. */
#define LARGEST_LOG_LIBRARY 60.0f
#define LARGEST_COUNT 1e8f

static av_theta theta_of(const av_decode_run *run, int64_t i) {
  const int64_t row = run->decode->n_dispersion > 1 ? run->batch->code[i] : 0;
  const int64_t slot = run->theta_slot == NULL ? 0 : run->theta_slot[row];
  const float *theta = run->theta + slot * 2 * run->stride;
  return (av_theta){.theta = theta,
                    .inverse = theta + run->stride,
                    .log_theta = av_const_floats(run->decode->px_r) + row * run->genes};
}

/* The loss of counts too large for floats (AV_LARGE_COUNT): x log(t / (mu + e8)) - [lgamma(x +
 * theta)
 * - lgamma(theta)]. */
static double large_counts(const av_cell_counts *counts, float scale, const float *e,
                           const av_theta *theta) {
  double loss = 0.0;
  for (int64_t j = 0; j < counts->n; ++j) {
    if (counts->value[j] > AV_LARGE_COUNT) {
      const int32_t g = counts->gene[j];
      const double x = (double)counts->value[j];
      const double mu = (double)scale * (double)e[g] + AV_LOG_EPS;
      const double shape = (double)theta->theta[g];
      loss += x * log1p(shape / mu) - av_lgamma_difference(x, shape, (double)theta->log_theta[g]);
    }
  }
  return loss;
}

/* NB and ZINB: e and p are the cell's rows; returns loss and Q, q and w complete. */
static av_cell_sums dispersed(const av_decode_run *run, const av_decode_space *space, int64_t i,
                              const av_cell_counts *counts, float scale, const float *e, float *p,
                              float *w) {
  const av_kernels *kernels = run->kernels;
  const av_theta theta = theta_of(run, i);
  av_cell_sums every;
  av_cell_sums some;
  if (run->zinb) {
    some = kernels->zinb_counts(counts, e, scale, &theta, p, space->dq, space->dw, space->dp);
    every = kernels->zinb_row(run->stride, e, scale, &theta, p, space->q, w);
    for (int64_t j = 0; j < counts->n; ++j) {
      p[counts->gene[j]] += space->dp[j];
    }
  } else {
    some = kernels->nb_counts(counts, e, scale, &theta, space->dq, space->dw);
    every = kernels->nb_row(run->stride, e, scale, &theta, space->q, w);
  }
  for (int64_t j = 0; j < counts->n; ++j) {
    space->q[counts->gene[j]] += space->dq[j];
    w[counts->gene[j]] += space->dw[j];
  }
  if (run->batch->largest[i] > AV_LARGE_COUNT) {
    some.loss += large_counts(counts, scale, e, &theta);
  }
  return (av_cell_sums){.loss = every.loss + some.loss, .q = every.q + some.q};
}

/* Poisson: loss = exp(l) - sum x (l + log rho), d = rho X - x with X the cell's total: exact and
 * free of exp(l), which may overflow. */
static av_cell_sums poisson(const av_decode_run *run, int64_t i, const av_cell_counts *counts,
                            float *e) {
  const double l = (double)run->l[i];
  const float top = run->kernels->row_max(run->stride, e);
  double weighted = 0.0; /* sum of x (logit - top) */
  for (int64_t j = 0; j < counts->n; ++j) {
    weighted += (double)counts->value[j] * ((double)e[counts->gene[j]] - (double)top);
  }
  const double sum = run->kernels->row_exp(run->stride, top, e);
  const double total = run->batch->total[i];
  const double rate = exp(l);
  run->kernels->scale_row(run->stride, (float)(total / sum), e, e);
  for (int64_t j = 0; j < counts->n; ++j) {
    e[counts->gene[j]] -= counts->value[j];
  }
  return (av_cell_sums){.loss = rate - (weighted + total * (l - log(sum))), .q = rate - total};
}

void av_decode_cell(const av_decode_run *run, const av_decode_space *space, int64_t i, int64_t r) {
  const av_cell_counts counts = av_counts_of(run->batch, i);
  float *e = run->head[0].rows + r * run->stride;
  av_cell_sums sums;
  if (run->poisson) {
    sums = poisson(run, i, &counts, e);
  } else if (run->l[i] <= LARGEST_LOG_LIBRARY && run->batch->largest[i] <= LARGEST_COUNT) {
    float *p = run->zinb ? run->head[1].rows + r * run->stride : NULL;
    float *w = run->w_rows + r * run->stride;
    const float top = run->kernels->row_max(run->stride, e);
    const double sum = run->kernels->row_exp(run->stride, top, e);
    const float scale = (float)(exp((double)run->l[i]) / sum);
    sums = dispersed(run, space, i, &counts, scale, e, p, w);
    run->kernels->softmax_grad(run->stride, (float)(sums.q / sum), space->q, e);
  } else {
    sums = av_decode_cell_exact(run, space, i, r);
  }
  run->loss[i] = sums.loss + run->batch->constant[i];
  if (run->gradients) {
    const double bounded = fabs(sums.q) > 1e36 ? copysign(1e36, sums.q) : sums.q;
    run->dl[i] = (float)bounded; /* a NaN stays; what float cannot hold stays finite */
  }
}
