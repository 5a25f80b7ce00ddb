/* Tensors, layers and covariates of the direct form. */
#include "model/direct_layers.h"

#include "math/rng.h"

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

double *direct_zeros(int64_t n) {
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
  double *values = direct_zeros(tensor->rows * tensor->columns);
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

/* Tensor "prefix.name"; the model must have it. */
double *direct_weights(const direct_work *w, const char *prefix, const char *name, int64_t *rows,
                       int64_t *columns) {
  char full[128];
  snprintf(full, sizeof full, "%s%s%s", prefix, prefix[0] == '\0' ? "" : ".", name);
  double *values = direct_tensor(w->in->layout, w->in->params, w->in->running, full, rows, columns);
  if (values == NULL) {
    fprintf(stderr, "no tensor %s\n", full);
    abort();
  }
  return values;
}

/* ---- layers; matrices are (B, width) ---- */

/* x W^T + b of the Linear called `prefix`; `bias` false where scvi-tools has none. */
double *direct_linear(const direct_work *w, const char *prefix, bool bias, const double *x,
                      int64_t n_in, int64_t *n_out) {
  int64_t columns = 0;
  int64_t one = 0;
  int64_t n_bias = 0;
  double *weight = direct_weights(w, prefix, "weight", n_out, &columns);
  double *shift = bias ? direct_weights(w, prefix, "bias", &one, &n_bias) : NULL;
  double *y = direct_zeros(w->in->n * *n_out);
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
static void set_running(direct_work *w, const char *prefix, const char *name, int64_t j,
                        double value) {
  char full[128];
  snprintf(full, sizeof full, "%s.%s", prefix, name);
  w->running[find(w->in->layout, full)->at + j] = value;
}

/* torch.nn.BatchNorm1d(eps=1e-3, momentum=0.01) in place. */
void direct_batch_norm(direct_work *w, const char *prefix, double *x, int64_t width) {
  const int64_t n = w->in->n;
  int64_t rows = 0;
  int64_t columns = 0;
  double *gamma = direct_weights(w, prefix, "weight", &rows, &columns);
  double *beta = direct_weights(w, prefix, "bias", &rows, &columns);
  double *mean = direct_weights(w, prefix, "running_mean", &rows, &columns);
  double *variance = direct_weights(w, prefix, "running_var", &rows, &columns);
  for (int64_t j = 0; j < width; ++j) {
    if (w->training || w->in->population) {
      double sum = 0.0;
      double squares = 0.0;
      for (int64_t i = 0; i < n; ++i) {
        sum += x[i * width + j];
      }
      const double centre = sum / (double)n;
      for (int64_t i = 0; i < n; ++i) {
        squares += (x[i * width + j] - centre) * (x[i * width + j] - centre);
      }
      const double unbiased = squares / (double)(n - 1);
      const double kept = w->in->population ? 0.0 : 0.99;
      set_running(w, prefix, "running_mean", j, kept * mean[j] + (1.0 - kept) * centre);
      set_running(w, prefix, "running_var", j, kept * variance[j] + (1.0 - kept) * unbiased);
      mean[j] = centre;
      variance[j] = w->in->population ? unbiased : squares / (double)n;
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
static void drop(const direct_work *w, uint32_t layer, int64_t first, double *x, int64_t width) {
  const double rate = w->in->layout->spec.dropout;
  const uint32_t threshold = (uint32_t)(rate * 65536.0 + 0.5);
  if (!w->training || rate <= 0.0) {
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

/* torch.nn.LayerNorm(elementwise_affine=False) in place. */
static void layer_norm(double *x, int64_t n, int64_t width) {
  for (int64_t i = 0; i < n; ++i) {
    double *row = x + i * width;
    double mean = 0.0;
    double variance = 0.0;
    for (int64_t j = 0; j < width; ++j) {
      mean += row[j] / (double)width;
    }
    for (int64_t j = 0; j < width; ++j) {
      variance += (row[j] - mean) * (row[j] - mean) / (double)width;
    }
    for (int64_t j = 0; j < width; ++j) {
      row[j] = (row[j] - mean) / sqrt(variance + 1e-5);
    }
  }
}

/* ---- covariates, from the dataset's columns themselves ---- */

/* Appends one-hot columns of a factor, if it has more than one category. */
static double *with_factor(const direct_work *w, double *x, int64_t *width,
                           const av_factor *factor) {
  if (factor->levels.n <= 1) {
    return x;
  }
  const int64_t wide = *width + factor->levels.n;
  double *joined = direct_zeros(w->in->n * wide);
  for (int64_t i = 0; i < w->in->n; ++i) {
    memcpy(joined + i * wide, x + i * *width, (size_t)*width * sizeof *x);
    joined[i * wide + *width + factor->code[w->in->cells[i]]] = 1.0;
  }
  free(x);
  *width = wide;
  return joined;
}

/* [x, one-hot(batch), one-hot of each categorical covariate]; x is freed. */
double *direct_with_onehot(const direct_work *w, double *x, int64_t *width) {
  x = with_factor(w, x, width, &w->in->dataset->batch);
  for (int64_t c = 0; c < w->in->dataset->n_categorical; ++c) {
    x = with_factor(w, x, width, &w->in->dataset->categorical[c]);
  }
  return x;
}

/* [x, continuous covariates]; x is kept. */
double *direct_with_continuous(const direct_work *w, const double *x, int64_t *width) {
  const av_dataset *dataset = w->in->dataset;
  const int64_t wide = *width + dataset->n_continuous;
  double *joined = direct_zeros(w->in->n * wide);
  for (int64_t i = 0; i < w->in->n; ++i) {
    memcpy(joined + i * wide, x + i * *width, (size_t)*width * sizeof *x);
    for (int64_t c = 0; c < dataset->n_continuous; ++c) {
      joined[i * wide + *width + c] =
          dataset->continuous[w->in->cells[i] * dataset->n_continuous + c];
    }
  }
  *width = wide;
  return joined;
}

static double *copy_of(const direct_work *w, const double *x, int64_t width) {
  double *copy = direct_zeros(w->in->n * width);
  memcpy(copy, x, (size_t)(w->in->n * width) * sizeof *x);
  return copy;
}

/* FCLayers: Linear, BatchNorm, LayerNorm, ReLU, dropout, as often as there are layers. */
double *direct_fully_connected(direct_work *w, const direct_stack *s, const double *input,
                               int64_t *width) {
  double *x = s->covariates ? direct_with_continuous(w, input, width) : copy_of(w, input, *width);
  for (int64_t layer = 0; layer < s->n_layers; ++layer) {
    char prefix[96];
    int64_t n_out = 0;
    if (s->covariates && (layer == 0 || w->in->layout->spec.deep_covariates)) {
      x = direct_with_onehot(w, x, width);
    }
    snprintf(prefix, sizeof prefix, "%s.fc_layers.Layer %lld.0", s->prefix, (long long)layer);
    double *y = direct_linear(w, prefix, true, x, *width, &n_out);
    free(x);
    x = y;
    *width = n_out;
    snprintf(prefix, sizeof prefix, "%s.fc_layers.Layer %lld.1", s->prefix, (long long)layer);
    if (s->batch_norm) {
      direct_batch_norm(w, prefix, x, n_out);
    }
    if (s->layer_norm) {
      layer_norm(x, w->in->n, n_out);
    }
    for (int64_t i = 0; i < w->in->n * n_out; ++i) {
      x[i] = x[i] > 0.0 ? x[i] : 0.0;
    }
    if (s->dropout) {
      drop(w, (uint32_t)layer, layer == 0 ? s->first_unit : 0, x, n_out);
    }
  }
  return x;
}
