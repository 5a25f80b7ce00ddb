/* Count likelihoods: loss = -log p and its derivatives, one value at a time in double.
 *
 * Source: model.md sections 2 and 5 in the design documents; Lopez et al. 2018, equations of the NB
 * and ZINB; e = 1e-8 inside logarithms as scvi-tools has it. mu = exp(l) rho is the mean, theta the
 * inverse dispersion, p the zero-inflation logit. Derivatives: q = mu dloss/dmu, w = theta
 * dloss/dtheta (those with respect to log mu and log theta), dp = dloss/dp.
 *
 * Both mu and theta come as logarithms, so that no finite parameter gives inf - inf or 0 * inf.
 * With t = theta + mu + e, gap = log mu - log(theta + e), s = theta / (theta + e):
 *
 * - log t - log(theta + e) = softplus(gap)
 * - mu / t = sigmoid(gap)
 * - theta / t = s sigmoid(-gap)
 *
 * The limits are exact to double rounding:
 *
 * - theta to infinity, Poisson: loss mu - x log(mu + e) + log x!, w 0
 * - theta to 0: loss log x - log theta and w -1 for x > 0, both 0 for x = 0
 *
 * Only means above e^600, and dispersions beside such means, are cut there: they could not be
 * summed over genes.
 */
#ifndef AV_MATH_LIKELIHOOD_H
#define AV_MATH_LIKELIHOOD_H

#include "math/gamma_difference.h"
#include "math/numerics.h"

#define AV_LOG_EPS 1e-8

typedef struct av_nll {
  double loss, q, w, dp;
} av_nll;

/* exp(x), at most e^600. */
static inline AV_HOST_DEVICE double av_bounded_exp(double x) { return exp(x > 600.0 ? 600.0 : x); }

/* log(e^x + e): x itself far above log e. */
static inline AV_HOST_DEVICE double av_log_plus_eps(double x) {
  return x > 40.0 ? x : log(exp(x) + AV_LOG_EPS);
}

/* e^x / (e^x + e) */
static inline AV_HOST_DEVICE double av_share_of_eps(double x) {
  return av_sigmoid(x - log(AV_LOG_EPS));
}

/* lgamma(x + theta) - lgamma(theta): for small integers sum over k < x of log(theta + k); for theta
 * above e^100, where x^2 / theta is no more than rounding, x log theta. */
static inline AV_HOST_DEVICE double av_log_rising(double x, double log_theta) {
  const double theta = exp(log_theta);
  if (log_theta > 100.0) {
    return x * log_theta;
  }
  if (x <= 64.0 && x == floor(x)) {
    double sum = x > 0.0 ? log_theta : 0.0;
    for (int k = 1; k < (int)x; ++k) {
      sum += log(theta + k);
    }
    return sum;
  }
  return av_lgamma_difference(x, theta, log_theta);
}

/* theta (digamma(x + theta) - digamma(theta)): for small integers sum over k < x of theta / (theta
 * + k); for theta above e^100 x. */
static inline AV_HOST_DEVICE double av_scaled_rising_slope(double x, double log_theta) {
  const double theta = exp(log_theta);
  if (log_theta > 100.0) {
    return x;
  }
  if (x <= 64.0 && x == floor(x)) {
    double sum = x > 0.0 ? 1.0 : 0.0;
    for (int k = 1; k < (int)x; ++k) {
      sum += theta / (theta + k);
    }
    return sum;
  }
  return av_scaled_digamma_difference(x, theta);
}

/* What x = 0 costs: u = theta softplus(gap), q = theta mu / t, w = u - s q. For gap < 0, where
 * theta may overflow, u = s mu log1p(r) / r with r = e^gap = mu / (theta + e), and q = s mu (1 - mu
 * / t). */
static inline AV_HOST_DEVICE av_nll av_nll_zero(double log_mu, double log_theta) {
  const double gap = log_mu - av_log_plus_eps(log_theta);
  const double s = av_share_of_eps(log_theta);
  av_nll out = {0.0, 0.0, 0.0, 0.0};
  if (gap < 0.0) {
    const double mu = av_bounded_exp(log_mu);
    const double r = exp(gap);
    out.loss = s * mu * (r > 0.0 ? log1p(r) / r : 1.0);
    out.q = s * mu * av_sigmoid(-gap);
  } else {
    const double theta = av_bounded_exp(log_theta);
    out.loss = theta * av_softplus(gap);
    out.q = theta * av_sigmoid(gap);
  }
  out.w = out.loss - s * out.q;
  return out;
}

/* x > 0 adds x (log t - log(mu + e)) - [lgamma(x + theta) - lgamma(theta)] + log x!, whose q is x
 * (mu / t - mu / (mu + e)) = -x mu / (mu + e) theta / t. */
static inline AV_HOST_DEVICE av_nll av_nll_nb(double x, double log_mu, double log_theta) {
  av_nll out = av_nll_zero(log_mu, log_theta);
  if (x > 0.0) {
    const double log_base = av_log_plus_eps(log_theta);
    const double gap = log_mu - log_base;
    const double theta_of_t = av_share_of_eps(log_theta) * av_sigmoid(-gap);
    out.loss += x * (log_base + av_softplus(gap) - av_log_plus_eps(log_mu)) -
                av_log_rising(x, log_theta) + av_lgamma(x + 1.0);
    out.q -= x * av_share_of_eps(log_mu) * theta_of_t;
    out.w += x * theta_of_t - av_scaled_rising_slope(x, log_theta);
  }
  return out;
}

static inline AV_HOST_DEVICE av_nll av_nll_zinb(double x, double log_mu, double log_theta,
                                                double p) {
  av_nll out = av_nll_nb(x, log_mu, log_theta);
  if (x > 0.0) {
    /* not an extra zero: the NB loss plus -log(1 - pi) = softplus(p) */
    out.loss += av_softplus(p);
    out.dp = av_sigmoid(p);
    return out;
  }
  /* softplus(-p) - softplus(-p - u), u the NB's loss; max(-p, 0) - max(-p - u, 0) is taken
   * together: both may be large */
  const double exponent = -p - out.loss; /* log of odds of "NB zero" over "extra zero" */
  const double share = av_sigmoid(exponent);
  out.loss = fmin(out.loss, fmax(-p, 0.0)) + log1p(exp(-fabs(p))) - log1p(exp(-fabs(exponent)));
  out.q *= share;
  out.w *= share;
  out.dp = share - av_sigmoid(-p);
  return out;
}

static inline AV_HOST_DEVICE av_nll av_nll_poisson(double x, double log_mu) {
  const double mu = av_bounded_exp(log_mu);
  const double loss = mu - (x > 0.0 ? x * log_mu - av_lgamma(x + 1.0) : 0.0);
  const av_nll out = {loss, mu - x, 0.0, 0.0};
  return out;
}

#endif
