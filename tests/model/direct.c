#include "model/direct.h"

#include "backend/draws.h"
#include "config/config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- tensors ---- */

static const av_tensor *find(const av_layout *layout, const char *name) {
  for (int64_t t = 0; t < layout->n_tensors; ++t) {
    if (strcmp(layout->tensors[t].name, name) == 0) {
      return &layout->tensors[t];
    }
  }
  return NULL;
}

static double *zeros(int64_t n) {
  double *values = calloc((size_t)n + 1, sizeof *values);
  if (values == NULL) {
    abort();
  }
  return values;
}

double *direct_tensor(const av_layout *layout, const double *params, const double *running,
                      const char *name, int64_t *rows, int64_t *columns) {
  const av_tensor *tensor = find(layout, name);
  if (tensor == NULL) {
    return NULL;
  }
  const double *from = (tensor->in_running ? running : params) + tensor->at;
  double *values = zeros(tensor->rows * tensor->columns);
  *rows = tensor->transposed ? tensor->columns : tensor->rows;
  *columns = tensor->transposed ? tensor->rows : tensor->columns;
  for (int64_t i = 0; i < *rows; ++i) {
    for (int64_t j = 0; j < *columns; ++j) {
      const int64_t here = tensor->transposed ? j * tensor->stride + i : i * tensor->stride + j;
      values[i * *columns + j] = from[here];
    }
  }
  return values;
}

/* The pass at work. */
typedef struct work {
  const direct_input *in;
  double *running;
} work;

/* Tensor "prefix.name"; the model must have it. */
static double *tensor(const work *w, const char *prefix, const char *name, int64_t *rows,
                      int64_t *columns) {
  char full[128];
  snprintf(full, sizeof full, "%s%s%s", prefix, prefix[0] == '\0' ? "" : ".", name);
  double *values =
      direct_tensor(w->in->layout, w->in->params, w->in->running, full, rows, columns);
  if (values == NULL) {
    fprintf(stderr, "no tensor %s\n", full);
    abort();
  }
  return values;
}

/* ---- layers; matrices are (B, width) ---- */

/* x W^T + b of the Linear called `prefix`; `bias` false where scvi-tools has none. */
static double *linear(const work *w, const char *prefix, bool bias, const double *x, int64_t n_in,
                      int64_t *n_out) {
  int64_t columns = 0;
  int64_t one = 0;
  int64_t n_bias = 0;
  double *weight = tensor(w, prefix, "weight", n_out, &columns);
  double *shift = bias ? tensor(w, prefix, "bias", &one, &n_bias) : NULL;
  double *y = zeros(w->in->n * *n_out);
  if (columns != n_in || (bias && n_bias != *n_out)) {
    fprintf(stderr, "%s: %lld inputs, %lld wanted\n", prefix, (long long)columns, (long long)n_in);
    abort();
  }
  for (int64_t i = 0; i < w->in->n; ++i) {
    for (int64_t j = 0; j < *n_out; ++j) {
      double sum = bias ? shift[j] : 0.0;
      for (int64_t k = 0; k < n_in; ++k) {
        sum += x[i * n_in + k] * weight[j * n_in + k];
      }
      y[i * *n_out + j] = sum;
    }
  }
  free(weight);
  free(shift);
  return y;
}

/* Writes a running statistic's new value where the layout has it. */
static void set_running(work *w, const char *prefix, const char *name, int64_t j, double value) {
  char full[128];
  snprintf(full, sizeof full, "%s.%s", prefix, name);
  w->running[find(w->in->layout, full)->at + j] = value;
}

/* torch.nn.BatchNorm1d(eps=1e-3, momentum=0.01) in place. */
static void batch_norm(work *w, const char *prefix, double *x, int64_t width) {
  const int64_t n = w->in->n;
  int64_t rows = 0;
  int64_t columns = 0;
  double *gamma = tensor(w, prefix, "weight", &rows, &columns);
  double *beta = tensor(w, prefix, "bias", &rows, &columns);
  double *mean = tensor(w, prefix, "running_mean", &rows, &columns);
  double *variance = tensor(w, prefix, "running_var", &rows, &columns);
  for (int64_t j = 0; j < width; ++j) {
    if (w->in->training) {
      double sum = 0.0;
      double squares = 0.0;
      for (int64_t i = 0; i < n; ++i) {
        sum += x[i * width + j];
      }
      const double centre = sum / (double)n;
      for (int64_t i = 0; i < n; ++i) {
        squares += (x[i * width + j] - centre) * (x[i * width + j] - centre);
      }
      set_running(w, prefix, "running_mean", j, 0.99 * mean[j] + 0.01 * centre);
      set_running(w, prefix, "running_var", j,
                  0.99 * variance[j] + 0.01 * squares / (double)(n - 1));
      mean[j] = centre;
      variance[j] = squares / (double)n;
    }
    for (int64_t i = 0; i < n; ++i) {
      x[i * width + j] =
          (x[i * width + j] - mean[j]) / sqrt(variance[j] + 1e-3) * gamma[j] + beta[j];
    }
  }
  free(gamma);
  free(beta);
  free(mean);
  free(variance);
}

/* Dropout of units first, first + 1, ... of layer `layer`, in place. */
static void drop(const work *w, uint32_t layer, int64_t first, double *x, int64_t width) {
  const double rate = w->in->layout->spec.dropout;
  const uint32_t threshold = (uint32_t)(rate * 65536.0 + 0.5);
  if (!w->in->training || rate <= 0.0) {
    return;
  }
  for (int64_t i = 0; i < w->in->n; ++i) {
    for (int64_t j = 0; j < width; ++j) {
      const int64_t unit = first + j;
      uint32_t words[4];
      av_random4(words, w->in->draw.seed, AV_DRAW_DROPOUT, (uint64_t)w->in->cells[i],
                 w->in->draw.epoch, (layer << 24) + (uint32_t)(unit / 8));
      const uint32_t field = words[unit % 8 / 2] >> (unit % 2 == 0 ? 0 : 16) & 0xffffu;
      x[i * width + j] *= field < threshold ? 0.0 : 65536.0 / (65536.0 - threshold);
    }
  }
}

/* [x, one-hot(batch)]; the one-hot only with more than one batch. */
static double *with_batch(const work *w, const double *x, int64_t *width) {
  const int64_t batches = w->in->layout->spec.n_batches > 1 ? w->in->layout->spec.n_batches : 0;
  const int64_t wide = *width + batches;
  double *joined = zeros(w->in->n * wide);
  for (int64_t i = 0; i < w->in->n; ++i) {
    memcpy(joined + i * wide, x + i * *width, (size_t)*width * sizeof *x);
    if (batches > 0) {
      joined[i * wide + *width + w->in->dataset->batch.code[w->in->cells[i]]] = 1.0;
    }
  }
  *width = wide;
  return joined;
}

typedef struct stack {
  const char *prefix; /* scvi-tools' FCLayers */
  int64_t n_layers;
  bool covariates; /* one-hot batch into every layer */
  bool dropout;
  int64_t first_unit; /* of the first layer's dropout draws */
} stack;

/* FCLayers: Linear, BatchNorm, ReLU, dropout, as often as there are layers. */
static double *fully_connected(work *w, const stack *s, const double *input, int64_t *width) {
  double *x = zeros(w->in->n * *width);
  memcpy(x, input, (size_t)(w->in->n * *width) * sizeof *x);
  for (int64_t layer = 0; layer < s->n_layers; ++layer) {
    char prefix[96];
    int64_t n_out = 0;
    if (s->covariates) {
      double *joined = with_batch(w, x, width);
      free(x);
      x = joined;
    }
    snprintf(prefix, sizeof prefix, "%s.fc_layers.Layer %lld.0", s->prefix, (long long)layer);
    double *y = linear(w, prefix, true, x, *width, &n_out);
    free(x);
    x = y;
    *width = n_out;
    snprintf(prefix, sizeof prefix, "%s.fc_layers.Layer %lld.1", s->prefix, (long long)layer);
    batch_norm(w, prefix, x, n_out);
    for (int64_t i = 0; i < w->in->n * n_out; ++i) {
      x[i] = x[i] > 0.0 ? x[i] : 0.0;
    }
    if (s->dropout) {
      drop(w, (uint32_t)layer, layer == 0 ? s->first_unit : 0, x, n_out);
    }
  }
  return x;
}

/* ---- the parts of the model ---- */

/* Mean and variance of a posterior, (B, width) each. */
typedef struct normal {
  double *mean, *variance;
  int64_t width;
} normal;

static normal encoder(work *w, const char *name, int64_t n_layers, int64_t first_unit,
                      const double *x) {
  char prefix[64];
  int64_t width = w->in->layout->spec.n_genes;
  snprintf(prefix, sizeof prefix, "%s.encoder", name);
  const stack s = {.prefix = prefix, .n_layers = n_layers, .dropout = true,
                   .first_unit = first_unit};
  double *h = fully_connected(w, &s, x, &width);
  normal q = {0};
  snprintf(prefix, sizeof prefix, "%s.mean_encoder", name);
  q.mean = linear(w, prefix, true, h, width, &q.width);
  snprintf(prefix, sizeof prefix, "%s.var_encoder", name);
  q.variance = linear(w, prefix, true, h, width, &q.width);
  for (int64_t i = 0; i < w->in->n * q.width; ++i) {
    q.variance[i] = exp(q.variance[i]) + 1e-4;
  }
  free(h);
  return q;
}

static double noise(const work *w, int64_t i, uint32_t index, int place) {
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

static void counts_of(const work *w, double *x) {
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

/* z (B, K) and its KL to N(0, I). */
static double *draw_z(const work *w, const normal *q, double *kl) {
  double *z = zeros(w->in->n * q->width);
  for (int64_t i = 0; i < w->in->n; ++i) {
    for (int64_t k = 0; k < q->width; ++k) {
      const double mean = q->mean[i * q->width + k];
      const double variance = q->variance[i * q->width + k];
      z[i * q->width + k] =
          mean + sqrt(variance) * noise(w, i, (uint32_t)(k / 4), (int)(k % 4));
      *kl += 0.5 * (variance + mean * mean - 1.0 - log(variance));
    }
  }
  return z;
}

/* l (B): log library, observed or drawn, and its KL to the batch's prior. */
static double *draw_l(work *w, const double *counts, const double *x, double *kl) {
  const av_model_spec *spec = &w->in->layout->spec;
  double *l = zeros(w->in->n);
  if (!spec->latent_library) {
    for (int64_t i = 0; i < w->in->n; ++i) {
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

/* A linear decoder's Linear + BatchNorm to genes, over the (B, G) logits themselves. */
static double *linear_head(work *w, const char *name, const double *z) {
  char prefix[96];
  int64_t width = w->in->layout->spec.n_latent;
  int64_t genes = 0;
  double *u = with_batch(w, z, &width);
  snprintf(prefix, sizeof prefix, "decoder.%s.fc_layers.Layer 0.0", name);
  double *logits = linear(w, prefix, false, u, width, &genes);
  snprintf(prefix, sizeof prefix, "decoder.%s.fc_layers.Layer 0.1", name);
  batch_norm(w, prefix, logits, genes);
  free(u);
  return logits;
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

/* rho (B, G) and, with ZINB, the zero-inflation logits (else NULL). */
static double *decoder(work *w, const double *z, double **inflation) {
  const av_model_spec *spec = &w->in->layout->spec;
  const bool inflated = spec->likelihood == AV_LIKELIHOOD_ZINB;
  double *rho = NULL;
  *inflation = NULL;
  if (spec->linear) {
    rho = linear_head(w, "factor_regressor", z);
    *inflation = inflated ? linear_head(w, "px_dropout_decoder", z) : NULL;
  } else {
    const stack s = {.prefix = "decoder.px_decoder", .n_layers = spec->n_layers,
                     .covariates = true};
    int64_t width = spec->n_latent;
    int64_t genes = 0;
    double *h = fully_connected(w, &s, z, &width);
    rho = linear(w, "decoder.px_scale_decoder.0", true, h, width, &genes);
    *inflation =
        inflated ? linear(w, "decoder.px_dropout_decoder", true, h, width, &genes) : NULL;
    free(h);
  }
  softmax_rows(rho, w->in->n, spec->n_genes);
  return rho;
}

/* ---- likelihoods, model.md section 2 ---- */

static double softplus(double x) { return x > 30.0 ? x + exp(-x) : log1p(exp(x)); }

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

static double log_likelihood(const work *w, const double *counts, const double *mu,
                             const double *inflation) {
  const av_model_spec *spec = &w->in->layout->spec;
  int64_t rows = 0;
  int64_t columns = 0;
  double *px_r = tensor(w, "", "px_r", &rows, &columns);
  double total = 0.0;
  for (int64_t i = 0; i < w->in->n; ++i) {
    const int64_t s = w->in->dataset->batch.code[w->in->cells[i]];
    for (int64_t g = 0; g < spec->n_genes; ++g) {
      const int64_t at = i * spec->n_genes + g;
      /* scvi-tools: (G), or (G, S) and the cell's batch */
      const double theta = exp(spec->dispersion == AV_DISPERSION_GENE
                                   ? px_r[g]
                                   : px_r[g * spec->n_batches + s]);
      if (spec->likelihood == AV_LIKELIHOOD_NB) {
        total += log_nb(counts[at], mu[at], theta);
      } else if (spec->likelihood == AV_LIKELIHOOD_ZINB) {
        total += log_zinb(counts[at], mu[at], theta, inflation[at]);
      } else {
        total += counts[at] * log(mu[at]) - mu[at] - lgamma(counts[at] + 1.0);
      }
    }
  }
  free(px_r);
  return total;
}

/* ---- the pass ---- */

direct_output direct_pass(const direct_input *in) {
  const av_model_spec *spec = &in->layout->spec;
  const int64_t size = in->n * spec->n_genes;
  direct_output out = {.running = zeros(in->layout->n_running)};
  memcpy(out.running, in->running, (size_t)in->layout->n_running * sizeof *out.running);
  work w = {.in = in, .running = out.running};
  double *counts = zeros(size);
  counts_of(&w, counts);
  double *x = zeros(size);
  for (int64_t i = 0; i < size; ++i) {
    x[i] = spec->log1p ? log1p(counts[i]) : counts[i];
  }
  normal q = encoder(&w, "z_encoder", spec->n_layers, 0, x);
  double *z = draw_z(&w, &q, &out.kl_z);
  double *l = draw_l(&w, counts, x, &out.kl_l);
  double *inflation = NULL;
  out.rho = decoder(&w, z, &inflation);
  out.mu = zeros(size);
  for (int64_t i = 0; i < size; ++i) {
    out.mu[i] = exp(l[i / spec->n_genes]) * out.rho[i];
  }
  out.nll = -log_likelihood(&w, counts, out.mu, inflation);
  out.z_mean = q.mean;
  free(q.variance);
  free(counts);
  free(x);
  free(z);
  free(l);
  free(inflation);
  return out;
}

void direct_free(direct_output *out) {
  free(out->running);
  free(out->z_mean);
  free(out->rho);
  free(out->mu);
  *out = (direct_output){0};
}
