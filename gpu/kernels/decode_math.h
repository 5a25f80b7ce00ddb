/* Count likelihoods of one cell and gene on the device, in float: the scalar form of
 * backend/cpu/kernels/likelihood.c, where the formulas are explained. First the base term, that of
 * a zero count, then the correction for a count. mu is the mean, theta the inverse dispersion, p
 * the zero-inflation logit; q = mu dloss/dmu, w = theta dloss/dtheta.
 *
 * Written with log1p and ratios so that no term cancels when theta is large, and so that nothing
 * overflows for mu <= 1e22. Device code only. */
#ifndef AV_GPU_KERNELS_DECODE_MATH_H
#define AV_GPU_KERNELS_DECODE_MATH_H

#include "kernels/decode.h"
#include "kernels/device.h"

#include "math/likelihood.h"

#define AV_DECODE_EPS 1e-8f
#define AV_DECODE_LARGE 256.0f     /* counts above it are computed in double */
#define AV_DECODE_LARGEST_LOG 50.0 /* of a mean in float */

template <int KIND>
struct av_kind_of {
  static const bool poisson = KIND == AV_DECODE_POISSON;
  static const bool zinb = KIND == AV_DECODE_ZINB || KIND == AV_DECODE_ZINB_BY_CELL;
  static const bool by_cell = KIND == AV_DECODE_NB_BY_CELL || KIND == AV_DECODE_ZINB_BY_CELL;
  static const int heads = 1 + (zinb ? 1 : 0) + (by_cell ? 1 : 0);
  static const int zero_head = zinb ? 1 : 0; /* zero inflation's, where there is one */
  static const int px_r_head = heads - 1;    /* px_r's, likewise */
};

typedef struct av_terms {
  float loss, q, w, p; /* p: gradient on the zero-inflation logit */
} av_terms;

static __device__ __forceinline__ av_terms av_terms_of(float loss, float q, float w, float p) {
  av_terms made;
  made.loss = loss;
  made.q = q;
  made.w = w;
  made.p = p;
  return made;
}

typedef struct av_shape {
  float theta, inverse, log_theta; /* inverse: 1 / (theta + e) */
} av_shape;

static __device__ __forceinline__ av_shape av_shape_of(float px_r) {
  av_shape made;
  float theta = expf(px_r);
  theta = theta < 1e-37f ? 1e-37f : theta; /* a NaN stays */
  theta = theta > 1e30f ? 1e30f : theta;
  made.theta = theta;
  made.inverse = 1.0f / (theta + AV_DECODE_EPS);
  made.log_theta = px_r;
  return made;
}

/* softplus(x) = log(1 + e^x), and sigmoid(x) / softplus(x), which goes to 1 where both vanish. */
typedef struct av_softplus_pair {
  float value, slope;
} av_softplus_pair;

static __device__ __forceinline__ av_softplus_pair av_softplus_of(float x) {
  av_softplus_pair made;
  const float grow = expf(-fabsf(x));
  const float share = 1.0f / (1.0f + grow);
  made.value = (x > 0.0f ? x : 0.0f) + log1pf(grow);
  const float sigmoid = x < 0.0f ? grow * share : share;
  made.slope = made.value < 1e-30f ? 1.0f : sigmoid / made.value;
  return made;
}

/* --- zero counts ----------------------------------------------------------------------------- */

static __device__ __forceinline__ av_terms av_nb_zero(float mu, av_shape shape) {
  const float r = mu * shape.inverse;
  const float share = shape.theta / (shape.theta + mu + AV_DECODE_EPS);
  const float log_ratio = log1pf(r);
  return av_terms_of(shape.theta * log_ratio, mu * share, shape.theta * (log_ratio - share * r),
                     0.0f);
}

/* sigmoid(x) from grow = e^-|x| and share = 1 / (1 + grow). */
static __device__ __forceinline__ float av_sigmoid_from(float x, float grow, float share) {
  return x < 0.0f ? grow * share : share;
}

/* loss = softplus(-p) - softplus(-p - u), u the NB's, as the part without logarithm plus the log of
 * one ratio within [1/2, 2]; share = sigmoid(-p - u), the probability that the zero is the NB's. */
static __device__ __forceinline__ av_terms av_zinb_zero(float mu, av_shape shape, float p) {
  const av_terms nb = av_nb_zero(mu, shape);
  const float both = p + nb.loss;
  const float grow_p = expf(-fabsf(p));
  const float grow_both = expf(-fabsf(both));
  const float of_p = 1.0f / (1.0f + grow_p);
  const float of_both = 1.0f / (1.0f + grow_both);
  const float share = av_sigmoid_from(-both, grow_both, of_both);
  const float below = p < 0.0f ? -p : 0.0f;
  const float loss = (nb.loss < below ? nb.loss : below) + logf((1.0f + grow_p) * of_both);
  return av_terms_of(loss, nb.q * share, nb.w * share, share - av_sigmoid_from(-p, grow_p, of_p));
}

/* What every gene pays. For Poisson the loss is mu alone. */
template <int KIND>
static __device__ __forceinline__ av_terms av_zero_terms(float mu, av_shape shape, float p) {
  if (av_kind_of<KIND>::poisson) {
    return av_terms_of(mu, mu, 0.0f, 0.0f);
  }
  return av_kind_of<KIND>::zinb ? av_zinb_zero(mu, shape, p) : av_nb_zero(mu, shape);
}

/* --- counts ---------------------------------------------------------------------------------- */

/* c(z) of Stirling's series, and the digamma's, for z >= 4; error below 3e-9 and 7e-9. */
static __device__ __forceinline__ float av_stirling_tail_f(float inv) {
  const float r = inv * inv;
  return inv * (1.0f / 12 - r * (1.0f / 360 - r * (1.0f / 1260 - r * (1.0f / 1680))));
}
static __device__ __forceinline__ float av_digamma_tail_f(float inv) {
  const float r = inv * inv;
  return r * (1.0f / 12 - r * (1.0f / 120 - r * (1.0f / 252 - r * (1.0f / 240))));
}

static __device__ AV_SLOW double av_large_factorial(double x) { return av_lgamma(x + 1.0); }

/* log x!, x > 0, whole or not: raised by 4, then Stirling's series. */
static __device__ __forceinline__ double av_log_factorial(float x) {
  if (x > AV_DECODE_LARGE) {
    return av_large_factorial((double)x);
  }
  const float z = x + 5.0f;
  const float raised = (x + 1.0f) * (x + 2.0f) * (x + 3.0f) * (x + 4.0f);
  const float half_log_two_pi = 0.918938533f;
  return (double)((z - 0.5f) * logf(z) - z + half_log_two_pi + av_stirling_tail_f(1.0f / z) -
                  logf(raised));
}

/* Corrections for a count x, with log x! in the loss. */
typedef struct av_count_terms {
  double loss;
  float q, w, p;
} av_count_terms;

static __device__ AV_SLOW av_count_terms av_large_count(double x, double mu, av_shape shape) {
  av_count_terms made;
  const double theta = (double)shape.theta;
  const double base = mu + AV_LOG_EPS;
  const double share = theta / (theta + base);
  made.loss = x * log1p(theta / base) - av_lgamma_difference(x, theta, (double)shape.log_theta) +
              av_lgamma(x + 1.0);
  made.q = (float)(-x * (mu / base) * share);
  made.w = (float)(x * share - av_scaled_digamma_difference(x, theta));
  made.p = 0.0f;
  return made;
}

/* theta below 4 is raised by 4 (recurrence), so that the series holds for every theta and every x,
 * whole or not. */
static __device__ __forceinline__ av_count_terms av_nb_count(float x, float mu, av_shape shape) {
  if (x > AV_DECODE_LARGE) {
    return av_large_count((double)x, (double)mu, shape);
  }
  const float theta = shape.theta;
  const float t = theta + mu + AV_DECODE_EPS;
  const bool small = theta < 4.0f;
  const float a = small ? theta + 4.0f : theta;
  const float inv_a = 1.0f / a;
  const float inv_b = 1.0f / (a + x);
  const float log_rise = log1pf(x * inv_a);
  /* theta (theta+1)(theta+2)(theta+3) over the same at theta + x; theta itself as its log */
  const float above = (theta + 1.0f) * (theta + 2.0f) * (theta + 3.0f);
  const float y = theta + x;
  const float under = y * (y + 1.0f) * (y + 2.0f) * (y + 3.0f);
  const float raised = small ? shape.log_theta + logf(above / under) : 0.0f;
  const float lgamma_part =
      (a - 0.5f) * log_rise - x + (av_stirling_tail_f(inv_b) - av_stirling_tail_f(inv_a)) + raised;
  /* theta times the sum over k < 4 of 1 / (theta + k) - 1 / (theta + x + k), over one denominator
   */
  const float step1 = (theta + 1.0f) * (y + 1.0f);
  const float step2 = (theta + 2.0f) * (y + 2.0f);
  const float step3 = (theta + 3.0f) * (y + 3.0f);
  const float steps = step2 * step3 + step1 * (step2 + step3);
  const float all = step1 * step2 * step3;
  const float first = small ? x * (all + theta * y * steps) / (y * all) : 0.0f;
  const float series =
      log_rise + 0.5f * (x * inv_a) * inv_b - (av_digamma_tail_f(inv_b) - av_digamma_tail_f(inv_a));
  const float share = theta / t;
  av_count_terms made;
  /* x log(a + x) of the series joins x log(t / (mu + e)) */
  made.loss =
      (double)(x * logf(t / (mu + AV_DECODE_EPS) * inv_b) - lgamma_part) + av_log_factorial(x);
  made.q = -x * (mu / (mu + AV_DECODE_EPS)) * share;
  made.w = x * share - (first + theta * series);
  made.p = 0.0f;
  return made;
}

/* A count is never an extra zero: the base term's share of the NB is replaced by the whole, the
 * loss by softplus(p) + u. softplus(p) + u - base = softplus(p + u); 1 - share = sigmoid(p + u). */
static __device__ __forceinline__ av_count_terms av_zinb_count(float x, float mu, av_shape shape,
                                                               float p) {
  const av_terms nb = av_nb_zero(mu, shape);
  const float both = p + nb.loss;
  const float grow = expf(-fabsf(both));
  const float rest = av_sigmoid_from(both, grow, 1.0f / (1.0f + grow));
  av_count_terms made = av_nb_count(x, mu, shape);
  made.loss += (double)((both > 0.0f ? both : 0.0f) + log1pf(grow));
  made.q += rest * nb.q;
  made.w += rest * nb.w;
  made.p = rest;
  return made;
}

/* Not for Poisson, whose correction needs the logarithm of the mean. */
template <int KIND>
static __device__ __forceinline__ av_count_terms av_terms_of_count(float x, float mu,
                                                                   av_shape shape, float p) {
  return av_kind_of<KIND>::zinb ? av_zinb_count(x, mu, shape, p) : av_nb_count(x, mu, shape);
}

/* --- in double ------------------------------------------------------------------------------- */

/* The definition, base term and correction together. */
template <int KIND>
static __device__ AV_SLOW av_nll av_exact_nll(double x, double log_mu, double px_r, double p) {
  if (av_kind_of<KIND>::poisson) {
    return av_nll_poisson(x, log_mu);
  }
  return av_kind_of<KIND>::zinb ? av_nll_zinb(x, log_mu, px_r, p) : av_nll_nb(x, log_mu, px_r);
}

static __device__ AV_SLOW double av_slow_log_softplus(double x) { return av_log_softplus(x); }

/* From logit a; top and log_sum of the softmax. */
static __device__ __forceinline__ double av_exact_log_rho(bool softplus, float a, float top,
                                                          double log_sum) {
  return softplus ? av_slow_log_softplus((double)a) : (double)a - (double)top - log_sum;
}

/* What float cannot hold stays large and finite; a NaN stays. */
static __device__ __forceinline__ float av_bounded_float(double x) {
  const double largest = 1e36;
  return (float)(x > largest ? largest : x < -largest ? -largest : x);
}

#endif
