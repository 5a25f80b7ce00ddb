#include "model/direct.h"

#include "backend/draws.h"
#include "config/config.h"
#include "model/direct_layers.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the parts of the model ---- */

/* Mean and variance of a posterior, (B, width) each. */
typedef struct normal {
  double *mean, *variance;
  int64_t width;
} normal;

static normal encoder(direct_work *w, const char *name, int64_t n_layers, int64_t first_unit,
                      const double *x) {
  char prefix[64];
  const av_model_spec *spec = &w->in->layout->spec;
  int64_t width = spec->n_genes;
  snprintf(prefix, sizeof prefix, "%s.encoder", name);
  const direct_stack s = {.prefix = prefix,
                          .n_layers = n_layers,
                          .covariates = spec->encode_covariates,
                          .batch_norm = spec->encoder_batch_norm,
                          .layer_norm = spec->encoder_layer_norm,
                          .dropout = true,
                          .first_unit = first_unit};
  w->training = w->in->training && !w->in->frozen;
  double *h = direct_fully_connected(w, &s, x, &width);
  normal q = {0};
  snprintf(prefix, sizeof prefix, "%s.mean_encoder", name);
  q.mean = direct_linear(w, prefix, true, h, width, &q.width);
  snprintf(prefix, sizeof prefix, "%s.var_encoder", name);
  q.variance = direct_linear(w, prefix, true, h, width, &q.width);
  for (int64_t i = 0; i < w->in->n * q.width; ++i) {
    q.variance[i] = exp(q.variance[i]) + 1e-4;
  }
  free(h);
  w->training = w->in->training;
  return q;
}

static double noise(const direct_work *w, int64_t i, uint32_t index, int place) {
  uint32_t words[4];
  double normals[4];
  if (!w->in->sample) {
    return 0.0;
  }
  av_random4(words, w->in->draw.seed, w->in->draw.purpose, (uint64_t)w->in->cells[i],
             w->in->draw.epoch, index);
  av_normals4(words, normals);
  return normals[place];
}

static void counts_of(const direct_work *w, double *x) {
  const int64_t genes = w->in->layout->spec.n_genes;
  const av_counts *counts = &w->in->dataset->counts;
  const size_t longest = (size_t)av_counts_longest_row(counts) + 1;
  int32_t *gene = calloc(longest, sizeof *gene);
  float *value = calloc(longest, sizeof *value);
  for (int64_t i = 0; i < w->in->n; ++i) {
    const int64_t n = av_counts_row(counts, w->in->cells[i], gene, value);
    for (int64_t e = 0; e < n; ++e) {
      x[i * genes + gene[e]] = (double)value[e];
    }
  }
  free(gene);
  free(value);
}

static void softmax_rows(double *x, int64_t n, int64_t width) {
  for (int64_t i = 0; i < n; ++i) {
    double sum = 0.0;
    double top = x[i * width];
    for (int64_t j = 1; j < width; ++j) {
      top = fmax(top, x[i * width + j]);
    }
    for (int64_t j = 0; j < width; ++j) {
      x[i * width + j] = exp(x[i * width + j] - top);
      sum += x[i * width + j];
    }
    for (int64_t j = 0; j < width; ++j) {
      x[i * width + j] /= sum;
    }
  }
}

/* z (B, K), on the simplex with latent_distribution = ln, and the KL of the draw to N(0, I). */
static double *draw_z(const direct_work *w, const normal *q, double *kl) {
  double *z = direct_zeros(w->in->n * q->width);
  for (int64_t i = 0; i < w->in->n; ++i) {
    for (int64_t k = 0; k < q->width; ++k) {
      const double mean = q->mean[i * q->width + k];
      const double variance = q->variance[i * q->width + k];
      z[i * q->width + k] = mean + sqrt(variance) * noise(w, i, (uint32_t)(k / 4), (int)(k % 4));
      *kl += 0.5 * (variance + mean * mean - 1.0 - log(variance));
    }
  }
  if (w->in->layout->spec.simplex) {
    softmax_rows(z, w->in->n, q->width);
  }
  return z;
}

/* l (B): log size factor, or log library, observed or drawn, and its KL to the batch's prior. */
static double *draw_l(direct_work *w, const double *counts, const double *x, double *kl) {
  const av_model_spec *spec = &w->in->layout->spec;
  double *l = direct_zeros(w->in->n);
  if (!spec->latent_library) {
    for (int64_t i = 0; i < w->in->n; ++i) {
      if (spec->size_factor) {
        l[i] = log(w->in->dataset->size_factor[w->in->cells[i]]);
        continue;
      }
      double total = 0.0;
      for (int64_t g = 0; g < spec->n_genes; ++g) {
        total += counts[i * spec->n_genes + g];
      }
      l[i] = log(total);
    }
    return l;
  }
  normal q = encoder(w, "l_encoder", 1, spec->n_hidden, x);
  for (int64_t i = 0; i < w->in->n; ++i) {
    const int32_t s = w->in->dataset->batch.code[w->in->cells[i]];
    const double there = w->in->prior[2 * s];
    const double spread = w->in->prior[2 * s + 1];
    l[i] = q.mean[i] + sqrt(q.variance[i]) * noise(w, i, 0x80000000u, 0);
    *kl += log(sqrt(spread) / sqrt(q.variance[i])) +
           (q.variance[i] + (q.mean[i] - there) * (q.mean[i] - there)) / (2.0 * spread) - 0.5;
  }
  free(q.mean);
  free(q.variance);
  return l;
}

static double softplus(double x) { return x > 30.0 ? x + exp(-x) : log1p(exp(x)); }

/* A linear decoder's Linear + BatchNorm to genes, over the (B, G) logits themselves. */
static double *linear_head(direct_work *w, const char *name, const double *z) {
  const av_model_spec *spec = &w->in->layout->spec;
  char prefix[96];
  int64_t width = spec->n_latent;
  int64_t genes = 0;
  double *u = direct_with_onehot(w, direct_with_continuous(w, z, &width), &width);
  snprintf(prefix, sizeof prefix, "decoder.%s.fc_layers.Layer 0.0", name);
  double *logits = direct_linear(w, prefix, spec->bias, u, width, &genes);
  if (spec->decoder_batch_norm) {
    snprintf(prefix, sizeof prefix, "decoder.%s.fc_layers.Layer 0.1", name);
    direct_batch_norm(w, prefix, logits, genes);
  }
  free(u);
  return logits;
}

/* What the decoder makes of z: (B, G) each; NULL where the model has no such output. */
typedef struct decoded {
  double *rho, *inflation, *px_r;
} decoded;

static decoded decoder(direct_work *w, const double *z) {
  const av_model_spec *spec = &w->in->layout->spec;
  const bool inflated = spec->likelihood == AV_LIKELIHOOD_ZINB;
  const bool by_cell =
      spec->dispersion == AV_DISPERSION_GENE_CELL && spec->likelihood != AV_LIKELIHOOD_POISSON;
  decoded out = {0};
  if (spec->linear) {
    out.rho = linear_head(w, "factor_regressor", z);
    out.inflation = inflated ? linear_head(w, "px_dropout_decoder", z) : NULL;
    out.px_r = by_cell ? linear_head(w, "px_r_decoder", z) : NULL;
  } else {
    const direct_stack s = {.prefix = "decoder.px_decoder",
                            .n_layers = spec->n_layers,
                            .covariates = true,
                            .batch_norm = spec->decoder_batch_norm,
                            .layer_norm = spec->decoder_layer_norm};
    int64_t width = spec->n_latent;
    int64_t genes = 0;
    double *h = direct_fully_connected(w, &s, z, &width);
    out.rho = direct_linear(w, "decoder.px_scale_decoder.0", true, h, width, &genes);
    out.inflation =
        inflated ? direct_linear(w, "decoder.px_dropout_decoder", true, h, width, &genes) : NULL;
    out.px_r = by_cell ? direct_linear(w, "decoder.px_r_decoder", true, h, width, &genes) : NULL;
    free(h);
  }
  if (spec->size_factor) {
    for (int64_t i = 0; i < w->in->n * spec->n_genes; ++i) {
      out.rho[i] = softplus(out.rho[i]);
    }
  } else {
    softmax_rows(out.rho, w->in->n, spec->n_genes);
  }
  return out;
}

/* ---- likelihoods, model.md section 2 ---- */

static double log_nb(double x, double mu, double theta) {
  const double eps = 1e-8;
  const double both = log(theta + mu + eps);
  return theta * (log(theta + eps) - both) + x * (log(mu + eps) - both) + lgamma(x + theta) -
         lgamma(theta) - lgamma(x + 1.0);
}

static double log_zinb(double x, double mu, double theta, double logit) {
  const double eps = 1e-8;
  const double both = log(theta + mu + eps);
  const double t = -logit + theta * (log(theta + eps) - both);
  if (x == 0.0) {
    return softplus(t) - softplus(-logit);
  }
  return -softplus(-logit) + t + x * (log(mu + eps) - both) + lgamma(x + theta) - lgamma(theta) -
         lgamma(x + 1.0);
}

/* theta (B, G); scvi-tools' px_r: (G), or (G, S) and the cell's batch, (G, labels) and its label.
 */
static double *inverse_dispersion(const direct_work *w, const decoded *d) {
  const av_model_spec *spec = &w->in->layout->spec;
  double *theta = direct_zeros(w->in->n * spec->n_genes);
  int64_t rows = 0;
  int64_t columns = 0;
  double *px_r = spec->dispersion == AV_DISPERSION_GENE_CELL
                     ? NULL
                     : direct_weights(w, "", "px_r", &rows, &columns);
  for (int64_t i = 0; i < w->in->n; ++i) {
    const int64_t cell = w->in->cells[i];
    for (int64_t g = 0; g < spec->n_genes; ++g) {
      double *to = &theta[i * spec->n_genes + g];
      switch (spec->dispersion) {
        case AV_DISPERSION_GENE:
          *to = exp(px_r[g]);
          break;
        case AV_DISPERSION_GENE_BATCH:
          *to = exp(px_r[g * columns + w->in->dataset->batch.code[cell]]);
          break;
        case AV_DISPERSION_GENE_LABEL:
          *to = exp(px_r[g * columns + w->in->dataset->label.code[cell]]);
          break;
        default:
          *to = d->px_r == NULL ? 1.0 : exp(d->px_r[i * spec->n_genes + g]);
      }
    }
  }
  free(px_r);
  return theta;
}

static double log_likelihood(const direct_work *w, const double *counts, const double *mu,
                             const decoded *d) {
  const av_model_spec *spec = &w->in->layout->spec;
  double *dispersion = inverse_dispersion(w, d);
  double total = 0.0;
  for (int64_t i = 0; i < w->in->n; ++i) {
    for (int64_t g = 0; g < spec->n_genes; ++g) {
      const int64_t at = i * spec->n_genes + g;
      const double theta = dispersion[at];
      if (spec->likelihood == AV_LIKELIHOOD_NB) {
        total += log_nb(counts[at], mu[at], theta);
      } else if (d->inflation != NULL) {
        total += log_zinb(counts[at], mu[at], theta, d->inflation[at]);
      } else {
        total += counts[at] * log(mu[at]) - mu[at] - lgamma(counts[at] + 1.0);
      }
    }
  }
  free(dispersion);
  return total;
}

/* ---- the pass ---- */

direct_output direct_pass(const direct_input *in) {
  const av_model_spec *spec = &in->layout->spec;
  const int64_t size = in->n * spec->n_genes;
  direct_output out = {.running = direct_zeros(in->layout->n_running)};
  memcpy(out.running, in->running, (size_t)in->layout->n_running * sizeof *out.running);
  direct_work w = {.in = in, .running = out.running, .training = in->training};
  double *counts = direct_zeros(size);
  counts_of(&w, counts);
  double *x = direct_zeros(size);
  for (int64_t i = 0; i < size; ++i) {
    x[i] = spec->log1p ? log1p(counts[i]) : counts[i];
  }
  normal q = encoder(&w, "z_encoder", spec->n_layers, 0, x);
  double *z = draw_z(&w, &q, &out.kl_z);
  double *l = draw_l(&w, counts, x, &out.kl_l);
  decoded d = decoder(&w, z);
  out.rho = d.rho;
  out.mu = direct_zeros(size);
  for (int64_t i = 0; i < size; ++i) {
    out.mu[i] = exp(l[i / spec->n_genes]) * out.rho[i];
  }
  out.nll = -log_likelihood(&w, counts, out.mu, &d);
  out.z_mean = q.mean;
  out.z_variance = q.variance;
  free(counts);
  free(x);
  free(z);
  free(l);
  free(d.inflation);
  free(d.px_r);
  return out;
}

void direct_free(direct_output *out) {
  free(out->running);
  free(out->z_mean);
  free(out->z_variance);
  free(out->rho);
  free(out->mu);
  *out = (direct_output){0};
}
