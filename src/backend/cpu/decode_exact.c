/* One cell in double and in logarithms (math/likelihood.h): for library sizes and counts that float
 * cannot hold. Slow and rare; finite wherever the true value is. */
#include "backend/cpu/decode.h"
#include "math/likelihood.h"

#include <math.h>

/* A gradient as a float; what float cannot hold stays large and finite. */
static float bounded_float(double x) {
  const double largest = 1e36;
  return (float)(x > largest ? largest : x < -largest ? -largest : x);
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

/* Gene g of count x; p: the row of zero-inflation logits. */
static av_nll nll_of(const av_decode_run *run, double x, double log_mu, const float *px_r,
                     const float *p, int64_t g) {
  if (run->poisson) {
    return av_nll_poisson(x, log_mu);
  }
  return run->zinb ? av_nll_zinb(x, log_mu, (double)px_r[g], (double)p[g])
                   : av_nll_nb(x, log_mu, (double)px_r[g]);
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
    const av_nll nll = nll_of(run, x, log_mu, px_r, p, g);
    sums.loss += nll.loss;
    sums.q += nll.q;
    q[g] = nll.q;
    if (!run->poisson) {
      w[g] = bounded_float(nll.w);
    }
    if (run->zinb) {
      p[g] = (float)nll.dp;
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
