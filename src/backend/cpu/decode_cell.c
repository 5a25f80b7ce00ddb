/* Softmax or softplus and likelihood of one cell, its logits replaced by the gradients on them. */
#include "backend/cpu/decode.h"
#include "math/gamma_difference.h"
#include "math/likelihood.h"

#include <math.h>

/* Beyond these, floats would overflow or lose the answer; see kernels/likelihood.c. The mean stays
 * far below the largest theta, 1e30. */
#define LARGEST_LOG_MEAN 50.0f
#define LARGEST_COUNT 1e8f

/* Dispersions of cell i, whose rows are r: prepared for the call, or its own. */
static av_theta theta_of(const av_decode_run *run, const av_decode_space *space, int64_t i,
                         int64_t r) {
  const float *log_theta = av_decode_px_r(run, i, r);
  const float *theta = space->theta;
  if (run->cell_theta) {
    run->kernels->theta_row(run->stride, log_theta, space->theta, space->theta + run->stride);
  } else {
    const int64_t slot = run->theta_slot == NULL ? 0 : run->theta_slot[av_decode_row_of(run, i)];
    theta = run->theta + slot * 2 * run->stride;
  }
  return (av_theta){.theta = theta, .inverse = theta + run->stride, .log_theta = log_theta};
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

/* NB and ZINB: e is row r of the cell; returns loss and Q; q, p and w complete. w may hold px_r
 * until the zero part is made. */
static av_cell_sums dispersed(const av_decode_run *run, const av_decode_space *space, int64_t i,
                              int64_t r, const av_cell_counts *counts, float scale,
                              const float *e) {
  const av_kernels *kernels = run->kernels;
  const av_theta theta = theta_of(run, space, i, r);
  float *p = run->zinb ? run->p_rows + r * run->stride : NULL;
  float *w = run->w_rows + r * run->stride;
  av_cell_sums every;
  av_cell_sums some;
  double large = 0.0;
  if (run->batch->largest[i] > AV_LARGE_COUNT) {
    large = large_counts(counts, scale, e, &theta);
  }
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
  some.loss += large;
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

/* Poisson with mu = exp(l) softplus(a): loss = sum mu - sum x (l + log softplus(a)), and the
 * gradient exp(l) sigmoid(a) - x sigmoid(a) / softplus(a). */
static av_cell_sums poisson_softplus(const av_decode_run *run, const av_decode_space *space,
                                     int64_t i, const av_cell_counts *counts, float *e) {
  const double l = (double)run->l[i];
  double weighted = 0.0; /* sum of x log softplus(a) */
  for (int64_t j = 0; j < counts->n; ++j) {
    weighted += (double)counts->value[j] * av_log_softplus((double)e[counts->gene[j]]);
  }
  const double sum = run->kernels->row_softplus(run->stride, e, space->ratio);
  const double rate = exp(l);
  run->kernels->product_row(run->stride, (float)rate, e, space->ratio, e);
  for (int64_t j = 0; j < counts->n; ++j) {
    e[counts->gene[j]] -= counts->value[j] * space->ratio[counts->gene[j]];
  }
  const double total = run->batch->total[i];
  return (av_cell_sums){.loss = rate * sum - (weighted + total * l), .q = rate * sum - total};
}

/* NB and ZINB with mu = exp(l) softplus(a). */
static av_cell_sums dispersed_softplus(const av_decode_run *run, const av_decode_space *space,
                                       int64_t i, int64_t r, const av_cell_counts *counts,
                                       float *e) {
  (void)run->kernels->row_softplus(run->stride, e, space->ratio);
  const float scale = (float)exp((double)run->l[i]);
  const av_cell_sums sums = dispersed(run, space, i, r, counts, scale, e);
  run->kernels->product_row(run->stride, 1.0f, space->q, space->ratio, e);
  return sums;
}

/* Softmax and the same. */
static av_cell_sums dispersed_softmax(const av_decode_run *run, const av_decode_space *space,
                                      int64_t i, int64_t r, const av_cell_counts *counts,
                                      float *e) {
  const float top = run->kernels->row_max(run->stride, e);
  const double sum = run->kernels->row_exp(run->stride, top, e);
  const float scale = (float)(exp((double)run->l[i]) / sum);
  const av_cell_sums sums = dispersed(run, space, i, r, counts, scale, e);
  run->kernels->softmax_grad(run->stride, (float)(sums.q / sum), space->q, e);
  return sums;
}

/* Whether float holds every mean and count of cell i: exp(l) rho and x. */
static bool fits(const av_decode_run *run, int64_t i, const float *e) {
  float l = run->l[i];
  if (run->decode->softplus) {
    const float top = run->kernels->row_max(run->stride, e);
    l += top > 1.0f ? logf(top) : 0.0f;
  }
  return l <= LARGEST_LOG_MEAN && run->batch->largest[i] <= LARGEST_COUNT;
}

void av_decode_cell(const av_decode_run *run, const av_decode_space *space, int64_t i, int64_t r) {
  const av_cell_counts counts = av_counts_of(run->batch, i);
  const bool softplus = run->decode->softplus;
  float *e = run->head[0].rows + r * run->stride;
  double factorials = run->batch->constant[i]; /* sum of log x! */
  av_cell_sums sums;
  if (run->poisson && !softplus) {
    sums = poisson(run, i, &counts, e);
  } else if (!fits(run, i, e)) {
    sums = av_decode_cell_exact(run, space, i, r);
    factorials = 0.0; /* they are in it */
  } else if (run->poisson) {
    sums = poisson_softplus(run, space, i, &counts, e);
  } else {
    sums = softplus ? dispersed_softplus(run, space, i, r, &counts, e)
                    : dispersed_softmax(run, space, i, r, &counts, e);
  }
  run->loss[i] = sums.loss + factorials;
  if (run->gradients) {
    const double bounded = fabs(sums.q) > 1e36 ? copysign(1e36, sums.q) : sums.q;
    run->dl[i] = (float)bounded; /* a NaN stays; what float cannot hold stays finite */
  }
}
