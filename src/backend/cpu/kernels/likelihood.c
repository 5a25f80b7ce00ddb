/* Softmax or softplus and count likelihoods over the genes of one cell, in float (model.md
 * section 5).
 *
 * First the part that every gene pays as if its count were 0, then a correction for each non-zero
 * count. In e: exp(logit - max) or softplus(logit); mu = scale * e. Out: q = mu dloss/dmu and
 * w = theta dloss/dtheta.
 *
 *   zero part, u = theta log1p(mu / (theta + e8)), e8 = 1e-8 as in the definition:
 *     loss = u,  q = mu theta / t,  w = theta (log1p(r) - r theta / t),  t = theta + mu + e8,
 *     r = mu / (theta + e8)
 *   correction for x > 0:
 *     loss += x log(t / (mu + e8)) - [lgamma(x + theta) - lgamma(theta)]
 *     q -= x mu / (mu + e8) * theta / t
 *     w += theta x / t - theta [digamma(x + theta) - digamma(theta)]
 *   (lgamma(x + 1) is added by the caller: it is a constant of the cell.)
 *
 * Written with log1p and ratios so that no term cancels when theta is large, and so that nothing
 * overflows for mu <= 1e22, x <= 1e8; other cells take the way of decode_exact.c.
 * Sums: float within runs of RUN genes (a vector of sums each), double beyond. Bound: vector rate
 * of one exp, one log and a division (NB), two exp, two logs and three divisions (ZINB) a gene.
 */
#include "backend/cpu/kernels/kernels.h"
#include "math/vector_math.h"

#define EPS 1e-8f
enum { RUN = 1024 };

#define ROW(p) __builtin_assume_aligned((p), 64)
#define INLINE static inline __attribute__((always_inline))

void AV_KERNEL(theta_row)(int64_t n, const float *restrict px_r, float *restrict theta,
                          float *restrict inverse) {
#pragma omp simd
  for (int64_t g = 0; g < n; ++g) {
    float value = av_expf(px_r[g]);
    value = value < 1e-37f ? 1e-37f : value;
    value = value > 1e30f ? 1e30f : value;
    theta[g] = value;
    inverse[g] = 1.0f / (value + EPS);
  }
}

float AV_KERNEL(row_max)(int64_t n, const float *x_) {
  const float *x = ROW(x_);
  float top = -INFINITY;
#pragma omp simd reduction(max : top)
  for (int64_t g = 0; g < n; ++g) {
    top = x[g] > top ? x[g] : top;
  }
  return top;
}

/* x becomes exp(x - top); returns the sum. */
double AV_KERNEL(row_exp)(int64_t n, float top, float *x_) {
  float *x = ROW(x_);
  double total = 0.0;
  for (int64_t first = 0; first < n; first += RUN) {
    const int64_t end = first + RUN < n ? first + RUN : n;
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t g = first; g < end; ++g) {
      x[g] = av_exp_minus_absf(x[g] - top); /* x <= top */
      sum += x[g];
    }
    total += (double)sum;
  }
  return total;
}

/* x becomes softplus(x) = log(1 + e^x), ratio sigmoid(x) / softplus(x), which goes to 1 where both
 * vanish; returns the sum. */
double AV_KERNEL(row_softplus)(int64_t n, float *x_, float *ratio_) {
  float *restrict x = ROW(x_);
  float *restrict ratio = ROW(ratio_);
  double total = 0.0;
  for (int64_t first = 0; first < n; first += RUN) {
    const int64_t end = first + RUN < n ? first + RUN : n;
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t g = first; g < end; ++g) {
      const float logit = x[g];
      const float grow = av_exp_minus_absf(logit);
      const float share = 1.0f / (1.0f + grow);
      const float value = (logit > 0.0f ? logit : 0.0f) + av_log1pf(grow);
      const float slope = logit < 0.0f ? grow * share : share;
      const bool vanishes = value < 1e-30f;
      ratio[g] = vanishes ? 1.0f : slope / (vanishes ? 1.0f : value);
      x[g] = value;
      sum += value;
    }
    total += (double)sum;
  }
  return total;
}

av_cell_sums AV_KERNEL(nb_row)(int64_t n, const float *e_, float scale, const av_theta *rows,
                               float *q_, float *w_) {
  const float *restrict e = ROW(e_);
  const float *restrict theta = ROW(rows->theta);
  const float *restrict inverse = ROW(rows->inverse);
  float *restrict q = ROW(q_);
  float *restrict w = ROW(w_);
  av_cell_sums sums = {0};
  for (int64_t first = 0; first < n; first += RUN) {
    const int64_t end = first + RUN < n ? first + RUN : n;
    float loss = 0.0f;
    float q_sum = 0.0f;
#pragma omp simd reduction(+ : loss, q_sum)
    for (int64_t g = first; g < end; ++g) {
      const float mu = e[g] * scale;
      const float r = mu * inverse[g];
      const float share = theta[g] / (theta[g] + mu + EPS);
      const float log_ratio = av_log1pf(r);
      loss += theta[g] * log_ratio;
      q[g] = mu * share;
      q_sum += q[g];
      w[g] = theta[g] * (log_ratio - share * r);
    }
    sums.loss += (double)loss;
    sums.q += (double)q_sum;
  }
  return sums;
}

/* sigmoid(x) from grow = e^-|x| and share = 1 / (1 + grow), which are there already. */
INLINE float sigmoid_from(float x, float grow, float share) {
  const float small = grow * share;
  return x < 0.0f ? small : share;
}

/* Zero count: loss = softplus(-p) - softplus(-p - u), as the part without logarithm plus the log of
 * one ratio within [1/2, 2]; share = sigmoid(-p - u), the probability that the zero is the NB's. p
 * becomes its gradient. Three loops: the chain from mu to the loss is longer than what a processor
 * keeps under way (in one loop 1.7 times the time). */
av_cell_sums AV_KERNEL(zinb_row)(int64_t n, const float *e_, float scale, const av_theta *rows,
                                 float *p_, float *q_, float *w_) {
  const float *restrict e = ROW(e_);
  const float *restrict theta = ROW(rows->theta);
  const float *restrict inverse = ROW(rows->inverse);
  float *restrict p = ROW(p_);
  float *restrict q = ROW(q_);
  float *restrict w = ROW(w_);
  _Alignas(64) float u_of[RUN];
  _Alignas(64) float grow_of[RUN];
  av_cell_sums sums = {0};
  for (int64_t first = 0; first < n; first += RUN) {
    const int64_t end = first + RUN < n ? first + RUN : n;
#pragma omp simd
    for (int64_t g = first; g < end; ++g) {
      const float mu = e[g] * scale;
      const float r = mu * inverse[g];
      const float part = theta[g] / (theta[g] + mu + EPS);
      const float log_ratio = av_log1pf(r);
      u_of[g - first] = theta[g] * log_ratio;
      grow_of[g - first] = av_exp_minus_absf(p[g]);
      q[g] = mu * part;
      w[g] = theta[g] * (log_ratio - part * r);
    }
    float loss = 0.0f;
    float q_sum = 0.0f;
#pragma omp simd reduction(+ : q_sum)
    for (int64_t g = first; g < end; ++g) {
      const float logit = p[g];
      const float u = u_of[g - first];
      const float both = logit + u;
      const float grow_p = grow_of[g - first];
      const float grow_both = av_exp_minus_absf(both);
      const float below = logit < 0.0f ? -logit : 0.0f;
      const float inverse_product = 1.0f / ((1.0f + grow_p) * (1.0f + grow_both));
      const float of_p = inverse_product * (1.0f + grow_both);
      const float of_both = inverse_product * (1.0f + grow_p);
      const float share = sigmoid_from(-both, grow_both, of_both);
      u_of[g - first] = u < below ? u : below;        /* the part without logarithm */
      grow_of[g - first] = (1.0f + grow_p) * of_both; /* the ratio */
      q[g] *= share;
      q_sum += q[g];
      w[g] *= share;
      p[g] = share - sigmoid_from(-logit, grow_p, of_p);
    }
#pragma omp simd reduction(+ : loss)
    for (int64_t g = 0; g < end - first; ++g) {
      loss += u_of[g] + av_log_normalf(grow_of[g]);
    }
    sums.loss += (double)loss;
    sums.q += (double)q_sum;
  }
  return sums;
}

/* c(z) of Stirling's series, and the digamma's, for z >= 4; error below 3e-9 and 7e-9. */
INLINE float stirling_tail(float inv) {
  const float r = inv * inv;
  return inv * (1.0f / 12 - r * (1.0f / 360 - r * (1.0f / 1260 - r * (1.0f / 1680))));
}
INLINE float digamma_tail(float inv) {
  const float r = inv * inv;
  return r * (1.0f / 12 - r * (1.0f / 120 - r * (1.0f / 252 - r * (1.0f / 240))));
}

typedef struct correction {
  float loss, q, w;
} correction;

/* What a count x > 0 adds under the NB. theta below 4 is raised by 4 (recurrence), so that the
 * series holds for every theta and every x, whole or not. */
INLINE correction nb_correction(float x, float mu, float theta, float log_theta) {
  const float t = theta + mu + EPS;
  const float inv_t = 1.0f / t;
  const bool small = theta < 4.0f;
  const float a = small ? theta + 4.0f : theta;
  const float b = a + x;
  const float inv_a = 1.0f / a;
  const float inv_b = 1.0f / b;
  const float log_rise = av_log1pf(x * inv_a);
  /* theta (theta+1)(theta+2)(theta+3) over the same at theta + x; theta itself as its log */
  const float above = (theta + 1.0f) * (theta + 2.0f) * (theta + 3.0f);
  const float y = theta + x;
  const float under = y * (y + 1.0f) * (y + 2.0f) * (y + 3.0f);
  const float raised = small ? log_theta + av_log_normalf(small ? above / under : 1.0f) : 0.0f;
  const float lgamma_part =
      (a - 0.5f) * log_rise - x + (stirling_tail(inv_b) - stirling_tail(inv_a)) + raised;
  /* x log(a + x) of the series joins x log(t / (mu + e8)) */
  const float whole = x * av_log_normalf(t / (mu + EPS) * inv_b) - lgamma_part;
  const float loss = x > AV_LARGE_COUNT ? 0.0f : whole;
  const float steps = 1.0f / ((theta + 1.0f) * (y + 1.0f)) + 1.0f / ((theta + 2.0f) * (y + 2.0f)) +
                      1.0f / ((theta + 3.0f) * (y + 3.0f));
  const float first = small ? x / y + theta * (x * steps) : 0.0f;
  const float series =
      log_rise + 0.5f * (x * inv_a) * inv_b - (digamma_tail(inv_b) - digamma_tail(inv_a));
  const float share = theta * inv_t;
  return (correction){
      .loss = loss, .q = -x * (mu / (mu + EPS)) * share, .w = x * share - (first + theta * series)};
}

enum { LAST = 16 }; /* entries of the widest vector */

/* The last n < LAST entries of a cell, filled up with the first of them, and where what they add
 * goes: loops over entries have whole vectors only (one by one, what is left took a third of the
 * time). */
typedef struct last_entries {
  int32_t gene[LAST];
  float value[LAST];
  _Alignas(64) float loss[LAST], q[LAST], w[LAST], p[LAST];
} last_entries;

static void take_last(const av_cell_counts *counts, int64_t n, last_entries *last) {
  const int64_t first = counts->n - n;
  for (int64_t j = 0; j < LAST; ++j) {
    last->gene[j] = counts->gene[first + (j < n ? j : 0)];
    last->value[j] = counts->value[first + (j < n ? j : 0)];
  }
}

static void give_last(const last_entries *last, int64_t n, float *dq, float *dw, float *dp,
                      av_cell_sums *sums) {
  for (int64_t j = 0; j < n; ++j) {
    sums->loss += (double)last->loss[j];
    sums->q += (double)last->q[j];
    dq[j] = last->q[j];
    dw[j] = last->w[j];
    if (dp != NULL) {
      dp[j] = last->p[j];
    }
  }
}

av_cell_sums AV_KERNEL(nb_counts)(const av_cell_counts *counts, const float *e, float scale,
                                  const av_theta *rows, float *restrict dq, float *restrict dw) {
  const int32_t *restrict gene = counts->gene;
  const float *restrict value = counts->value;
  const float *restrict theta = rows->theta;
  const float *restrict log_theta = rows->log_theta;
  const int64_t rest = counts->n % LAST;
  const int64_t n = counts->n - rest;
  av_cell_sums sums = {0};
  for (int64_t first = 0; first < n; first += RUN) {
    const int64_t end = first + RUN < n ? first + RUN : n;
    float loss = 0.0f;
    float q_sum = 0.0f;
#pragma omp simd reduction(+ : loss, q_sum)
    for (int64_t j = first; j < end; ++j) {
      const int32_t g = gene[j];
      const correction c = nb_correction(value[j], e[g] * scale, theta[g], log_theta[g]);
      loss += c.loss;
      q_sum += c.q;
      dq[j] = c.q;
      dw[j] = c.w;
    }
    sums.loss += (double)loss;
    sums.q += (double)q_sum;
  }
  if (rest > 0) {
    last_entries last;
    take_last(counts, rest, &last);
#pragma omp simd
    for (int j = 0; j < LAST; ++j) {
      const int32_t g = last.gene[j];
      const correction c = nb_correction(last.value[j], e[g] * scale, theta[g], log_theta[g]);
      last.loss[j] = c.loss;
      last.q[j] = c.q;
      last.w[j] = c.w;
    }
    give_last(&last, rest, dq + n, dw + n, NULL, &sums);
  }
  return sums;
}

/* A non-zero count is never an extra zero: replaces the zero part (share s) by the NB's, loss
 * softplus(p) + u. softplus(p) + u - loss of zero = softplus(p + u); 1 - s = sigmoid(p + u) = *dp.
 */
INLINE correction zinb_correction(float x, float mu, float theta, float inverse, float log_theta,
                                  float p, float *dp) {
  const float r = mu * inverse;
  const float part = theta / (theta + mu + EPS);
  const float log_ratio = av_log1pf(r);
  const float both = p + theta * log_ratio;
  const float grow = av_exp_minus_absf(both);
  const float rest = sigmoid_from(both, grow, 1.0f / (1.0f + grow));
  const correction c = nb_correction(x, mu, theta, log_theta);
  *dp = rest;
  return (correction){.loss = c.loss + (both > 0.0f ? both : 0.0f) + av_log1pf(grow),
                      .q = c.q + rest * mu * part,
                      .w = c.w + rest * theta * (log_ratio - part * r)};
}

av_cell_sums AV_KERNEL(zinb_counts)(const av_cell_counts *counts, const float *e, float scale,
                                    const av_theta *rows, const float *restrict p,
                                    float *restrict dq, float *restrict dw, float *restrict dp) {
  const int32_t *restrict gene = counts->gene;
  const float *restrict value = counts->value;
  const float *restrict theta = rows->theta;
  const float *restrict inverse = rows->inverse;
  const float *restrict log_theta = rows->log_theta;
  const int64_t rest = counts->n % LAST;
  const int64_t n = counts->n - rest;
  av_cell_sums sums = {0};
  for (int64_t first = 0; first < n; first += RUN) {
    const int64_t end = first + RUN < n ? first + RUN : n;
    float loss = 0.0f;
    float q_sum = 0.0f;
#pragma omp simd reduction(+ : loss, q_sum)
    for (int64_t j = first; j < end; ++j) {
      const int32_t g = gene[j];
      const correction c =
          zinb_correction(value[j], e[g] * scale, theta[g], inverse[g], log_theta[g], p[g], dp + j);
      loss += c.loss;
      q_sum += c.q;
      dq[j] = c.q;
      dw[j] = c.w;
    }
    sums.loss += (double)loss;
    sums.q += (double)q_sum;
  }
  if (rest > 0) {
    last_entries last;
    take_last(counts, rest, &last);
#pragma omp simd
    for (int j = 0; j < LAST; ++j) {
      const int32_t g = last.gene[j];
      const correction c = zinb_correction(last.value[j], e[g] * scale, theta[g], inverse[g],
                                           log_theta[g], p[g], last.p + j);
      last.loss[j] = c.loss;
      last.q[j] = c.q;
      last.w[j] = c.w;
    }
    give_last(&last, rest, dq + n, dw + n, dp + n, &sums);
  }
  return sums;
}

/* e becomes the gradient on the logits: q - rho Q, with factor = Q / sum of e. */
void AV_KERNEL(softmax_grad)(int64_t n, float factor, const float *q_, float *e_) {
  const float *restrict q = ROW(q_);
  float *restrict e = ROW(e_);
#pragma omp simd
  for (int64_t g = 0; g < n; ++g) {
    e[g] = q[g] - e[g] * factor;
  }
}

/* out = factor x y; out may be x. */
void AV_KERNEL(product_row)(int64_t n, float factor, const float *x, const float *y, float *out) {
#pragma omp simd
  for (int64_t g = 0; g < n; ++g) {
    out[g] = factor * (x[g] * y[g]);
  }
}

/* y may be x. */
void AV_KERNEL(scale_row)(int64_t n, float factor, const float *x, float *y) {
#pragma omp simd
  for (int64_t g = 0; g < n; ++g) {
    y[g] = factor * x[g];
  }
}
