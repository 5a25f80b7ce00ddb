/* One cell in double and in logarithms: for library sizes and counts that float
 * cannot hold. Slow and rare; finite wherever the true value is. */
#include "backend/cpu/decode.h"
#include "math/gamma_difference.h"
#include "math/likelihood.h"

#include <math.h>

/* exp(x) that stays finite. */
static double bounded_exp(double x) { return exp(x > 600.0 ? 600.0 : x); }

/* A gradient as a float; what float cannot hold stays large and finite. */
static float bounded_float(double x) {
  const double largest = 1e36;
  return (float)(x > largest ? largest : x < -largest ? -largest : x);
}

typedef struct gene_terms {
  double loss, q, w, dp;
} gene_terms;

/* u = theta log1p(mu / (theta + e)) with its derivatives q = mu du/dmu and w = theta du/dtheta,
 * from log mu and log theta. */
static gene_terms zero_part(double log_mu, double mu, double theta) {
  const double base = theta + AV_LOG_EPS;
  const double gap = log_mu - log(base);
  const double log_ratio = gap > 30.0 ? gap + log1p(exp(-gap)) : log1p(mu / base);
  const double mu_share = gap > 30.0 ? 1.0 / (1.0 + exp(-gap)) : mu / (base + mu); /* mu / t */
  return (gene_terms){.loss = theta * log_ratio,
                      .q = theta * mu_share,
                      .w = theta * (log_ratio - theta / base * mu_share)};
}

static gene_terms nb_terms(double x, double log_mu, double mu, double theta, double log_theta) {
  gene_terms out = zero_part(log_mu, mu, theta);
  if (x > 0.0) {
    const double base = theta + AV_LOG_EPS;
    const double gap = log_mu - log(base);
    const double log_t = gap > 30.0 ? log_mu + log1p(exp(-gap)) : log(base + mu);
    const double log_m = log_mu > 30.0 ? log_mu : log(mu + AV_LOG_EPS);
    const double share = exp(log(theta) - log_t); /* theta / t */
    const double kept = log_mu > 30.0 ? 1.0 : mu / (mu + AV_LOG_EPS);
    out.loss += x * (log_t - log_m) - av_lgamma_difference(x, theta, log_theta);
    out.q -= x * kept * share;
    out.w += x * share - av_scaled_digamma_difference(x, theta);
  }
  return out;
}

static gene_terms zinb_terms(double x, double log_mu, double mu, double theta, double log_theta,
                             double p) {
  gene_terms out = nb_terms(x, log_mu, mu, theta, log_theta);
  if (x > 0.0) {
    out.loss += av_softplus(p);
    out.dp = av_sigmoid(p);
    return out;
  }
  const double exponent = -p - out.loss;
  const double share = av_sigmoid(exponent);
  const double below = p < 0.0 ? -p : 0.0;
  const double flat = out.loss < below ? out.loss : below;
  out.loss = flat + log1p(exp(-fabs(p))) - log1p(exp(-fabs(exponent)));
  out.q *= share;
  out.w *= share;
  out.dp = share - av_sigmoid(-p);
  return out;
}

static gene_terms poisson_terms(double x, double log_mu, double mu) {
  return (gene_terms){.loss = mu - (x > 0.0 ? x * log_mu : 0.0), .q = mu - x};
}

/* How logits become rho. */
typedef struct scale_terms {
  bool softplus;
  double top, sum, log_sum; /* of the softmax */
} scale_terms;

static scale_terms scale_of(const av_decode_run *run, const float *e) {
  scale_terms made = {.softplus = run->decode->softplus};
  if (!made.softplus) {
    made.top = (double)run->kernels->row_max(run->stride, e);
    for (int64_t g = 0; g < run->genes; ++g) {
      made.sum += exp((double)e[g] - made.top);
    }
    made.log_sum = log(made.sum);
  }
  return made;
}

static double log_rho(const scale_terms *scale, double a) {
  return scale->softplus ? av_log_softplus(a) : a - scale->top - scale->log_sum;
}

/* Gradient on a logit from q = mu dloss/dmu of its gene and the sum of q over genes. */
static double logit_grad(const scale_terms *scale, double a, double q, double q_sum) {
  return scale->softplus ? q * av_log_softplus_slope(a)
                         : q - exp(a - scale->top) / scale->sum * q_sum;
}

/* A gene of count x whose logit in each head's row is at g. */
static gene_terms terms_of(const av_decode_run *run, double x, double log_mu, const float *px_r,
                           const float *p, int64_t g) {
  const double mu = bounded_exp(log_mu);
  if (run->poisson) {
    return poisson_terms(x, log_mu, mu);
  }
  const double log_theta = (double)px_r[g];
  const double theta = bounded_exp(log_theta < -600.0 ? -600.0 : log_theta);
  return run->zinb ? zinb_terms(x, log_mu, mu, theta, log_theta, (double)p[g])
                   : nb_terms(x, log_mu, mu, theta, log_theta);
}

av_cell_sums av_decode_cell_exact(const av_decode_run *run, const av_decode_space *space, int64_t i,
                                  int64_t r) {
  const av_cell_counts counts = av_counts_of(run->batch, i);
  const float *px_r = run->poisson ? NULL : av_decode_px_r(run, i, r);
  float *e = run->head[0].rows + r * run->stride;
  float *p = run->zinb ? run->p_rows + r * run->stride : NULL;
  float *w = run->poisson ? NULL : run->w_rows + r * run->stride; /* may be px_r */
  double *q = (void *)space->dq;                                  /* two rows of floats */
  const double l = (double)run->l[i];
  const scale_terms scale = scale_of(run, e);
  av_cell_sums sums = {0};
  int64_t next = 0; /* non-zeros come in the order of genes */
  for (int64_t g = 0; g < run->genes; ++g) {
    const bool here = next < counts.n && counts.gene[next] == g;
    const double x = here ? (double)counts.value[next] : 0.0;
    next += here ? 1 : 0;
    const double log_mu = l + log_rho(&scale, (double)e[g]);
    const gene_terms terms = terms_of(run, x, log_mu, px_r, p, g);
    sums.loss += terms.loss;
    sums.q += terms.q;
    q[g] = terms.q;
    if (!run->poisson) {
      w[g] = bounded_float(terms.w);
    }
    if (run->zinb) {
      p[g] = (float)terms.dp;
    }
  }
  for (int64_t g = 0; g < run->genes; ++g) {
    e[g] = bounded_float(logit_grad(&scale, (double)e[g], q[g], sums.q));
  }
  for (int64_t g = run->genes; g < run->stride; ++g) {
    e[g] = 0.0f;
    if (!run->poisson) {
      w[g] = 0.0f;
    }
  }
  return sums;
}
