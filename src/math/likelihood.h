/* Count likelihoods: loss = -log p and its derivatives, one value at a time in double.
 *
 * Source: model.md sections 2 and 5 in the design documents; Lopez et al. 2018, equations of the NB
 * and ZINB; eps = 1e-8 inside logarithms as scvi-tools has it. mu = exp(l) rho is the mean, theta
 * the inverse dispersion, p the zero-inflation logit. Derivatives: q = mu dloss/dmu (which is also
 * the derivative with respect to log mu), dtheta = dloss/dtheta, dp = dloss/dp.
 */
#ifndef AV_MATH_LIKELIHOOD_H
#define AV_MATH_LIKELIHOOD_H

#include "math/numerics.h"

#define AV_LOG_EPS 1e-8

typedef struct av_nll {
  double loss, q, dtheta, dp;
} av_nll;

/* lgamma(x + theta) - lgamma(theta) - lgamma(x + 1), kept accurate when theta is large beside x. */
static inline double av_log_choose(double x, double theta) {
  if (x <= 64.0 && x == floor(x)) {
    double sum = 0.0;
    for (int k = 0; k < (int)x; ++k) {
      sum += log(theta + k);
    }
    return sum - av_lgamma(x + 1.0);
  }
  return av_lgamma(x + theta) - av_lgamma(theta) - av_lgamma(x + 1.0);
}

/* digamma(x + theta) - digamma(theta), likewise. */
static inline double av_digamma_difference(double x, double theta) {
  if (x <= 64.0 && x == floor(x)) {
    double sum = 0.0;
    for (int k = 0; k < (int)x; ++k) {
      sum += 1.0 / (theta + k);
    }
    return sum;
  }
  return av_digamma(x + theta) - av_digamma(theta);
}

static inline av_nll av_nll_nb(double x, double mu, double theta) {
  const double t = theta + mu + AV_LOG_EPS;
  const double log_ratio = log(t) - log(theta + AV_LOG_EPS);
  av_nll out = {.loss = theta * log_ratio,
                .q = mu * (theta + x) / t,
                .dtheta = log_ratio + (theta + x) / t - theta / (theta + AV_LOG_EPS)};
  if (x > 0.0) {
    out.loss += x * (log(t) - log(mu + AV_LOG_EPS)) - av_log_choose(x, theta);
    out.q -= mu * x / (mu + AV_LOG_EPS);
    out.dtheta -= av_digamma_difference(x, theta);
  }
  return out;
}

static inline av_nll av_nll_zinb(double x, double mu, double theta, double p) {
  if (x > 0.0) {
    /* not an extra zero: the NB loss plus -log(1 - pi) = softplus(p) */
    av_nll out = av_nll_nb(x, mu, theta);
    out.loss += av_softplus(p);
    out.dp = av_sigmoid(p);
    return out;
  }
  const double t = theta + mu + AV_LOG_EPS;
  const double log_ratio = log(t) - log(theta + AV_LOG_EPS);
  const double exponent = -p - theta * log_ratio; /* log of odds of "NB zero" over "extra zero" */
  const double share = av_sigmoid(exponent);
  return (av_nll){.loss = av_softplus(-p) - av_softplus(exponent),
                  .q = share * theta * mu / t,
                  .dtheta = share * (log_ratio + theta / t - theta / (theta + AV_LOG_EPS)),
                  .dp = share - av_sigmoid(-p)};
}

/* log_mu = log(mu): finite even where mu underflows. */
static inline av_nll av_nll_poisson(double x, double mu, double log_mu) {
  return (av_nll){.loss = mu - (x > 0.0 ? x * log_mu - av_lgamma(x + 1.0) : 0.0), .q = mu - x};
}

#endif
