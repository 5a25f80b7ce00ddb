#include "model/init.h"

#include "base/exact.h"
#include "base/memory.h"
#include "math/rng.h"

#include <math.h>
#include <stdlib.h>

/* ---- scvi-tools' values ---- */

/* Element e of tensor number t: four words serve elements 4i .. 4i + 3. */
static uint32_t word_of(uint64_t seed, int64_t tensor, int64_t element, uint32_t words[4]) {
  if (element % 4 == 0) {
    av_random4(words, seed, AV_DRAW_INIT, (uint64_t)(element / 4), (uint32_t)tensor, 0);
  }
  return words[element % 4];
}

static double normal_of(uint64_t seed, int64_t tensor, int64_t element) {
  uint32_t words[4];
  av_random4(words, seed, AV_DRAW_INIT, (uint64_t)element, (uint32_t)tensor, 1);
  const double u = ((double)words[0] + 0.5) * 0x1p-32;
  const double v = ((double)words[1] + 0.5) * 0x1p-32;
  return sqrt(-2.0 * log(u)) * cos(6.283185307179586477 * v);
}

static double start_of(const av_tensor *tensor, uint64_t seed, int64_t number, int64_t element,
                       uint32_t words[4]) {
  switch (tensor->role) {
    case AV_ROLE_UNIFORM: {
      const double u = ((double)word_of(seed, number, element, words) + 0.5) * 0x1p-32;
      return (2.0 * u - 1.0) / sqrt((double)tensor->fan_in);
    }
    case AV_ROLE_NORMAL:
      return normal_of(seed, number, element);
    case AV_ROLE_ONE:
      return 1.0;
    default:
      return 0.0;
  }
}

void av_init_values(const av_layout *layout, uint64_t seed, double *params, double *running) {
  for (int64_t i = 0; i < layout->n_params; ++i) {
    params[i] = 0.0;
  }
  for (int64_t i = 0; i < layout->n_running; ++i) {
    running[i] = 0.0;
  }
  for (int64_t t = 0; t < layout->n_tensors; ++t) {
    const av_tensor *tensor = &layout->tensors[t];
    double *values = (tensor->in_running ? running : params) + tensor->at;
    uint32_t words[4] = {0};
    for (int64_t i = 0; i < tensor->rows; ++i) {
      for (int64_t j = 0; j < tensor->columns; ++j) {
        values[i * tensor->stride + j] = start_of(tensor, seed, t, i * tensor->columns + j, words);
      }
    }
  }
}

/* ---- values from the data ---- */

/* Sums over the training cells: s the library size of a cell, x a count. */
typedef struct count_sums {
  double cells, s, ss;   /* number, sum s, sum s^2 */
  double *x, *xx, *sx;   /* (G) sum x, sum x^2, sum s x */
  int64_t log_s, log_s2; /* fixed point: sum log s, sum (log s)^2 / 64 (to stay in range) */
} count_sums;

#define LOG2_SCALE 64.0

static av_status add_cells(const av_dataset *dataset, const int8_t *split, count_sums *sums) {
  const size_t longest = (size_t)av_counts_longest_row(&dataset->counts);
  int32_t *gene = av_malloc(longest, sizeof *gene);
  float *value = av_malloc(longest, sizeof *value);
  av_status status = AV_OK;
  if (gene == NULL || value == NULL) {
    status = av_fail(AV_NOMEM, "out of memory (one row of %zu counts)", longest);
  }
  for (int64_t i = 0; status == AV_OK && i < dataset->n_local; ++i) {
    const double s = dataset->library[i];
    if (split[i] != AV_SPLIT_TRAIN || s <= 0.0) {
      continue;
    }
    sums->cells += 1.0;
    sums->s += av_round_to_grid(s);
    sums->ss += av_round_to_grid(s * s);
    sums->log_s += av_to_fixed(log(s));
    sums->log_s2 += av_to_fixed(log(s) * log(s) / LOG2_SCALE);
    const int64_t n = av_counts_row(&dataset->counts, i, gene, value);
    for (int64_t e = 0; e < n; ++e) {
      const double x = (double)value[e];
      sums->x[gene[e]] += av_round_to_grid(x);
      sums->xx[gene[e]] += av_round_to_grid(x * x);
      sums->sx[gene[e]] += av_round_to_grid(s * x);
    }
  }
  free(gene);
  free(value);
  return status;
}

static av_status sum_over_ranks(const av_comm *comm, int64_t n_genes, count_sums *sums) {
  double scalars[3] = {sums->cells, sums->s, sums->ss};
  int64_t logs[2] = {sums->log_s, sums->log_s2};
  AV_TRY(av_sum_f64(comm, scalars, 3));
  AV_TRY(av_sum_i64(comm, logs, 2));
  AV_TRY(av_sum_f64(comm, sums->x, n_genes));
  AV_TRY(av_sum_f64(comm, sums->xx, n_genes));
  AV_TRY(av_sum_f64(comm, sums->sx, n_genes));
  sums->cells = scalars[0];
  sums->s = scalars[1];
  sums->ss = scalars[2];
  sums->log_s = logs[0];
  sums->log_s2 = logs[1];
  return AV_OK;
}

/* theta by moments, given the gene's frequency f. */
static double dispersion(const count_sums *sums, int64_t g, double f) {
  const double n = sums->cells;
  const double mean = f * sums->s / n;
  const double mean_square = f * f * sums->ss / n;
  const double spread = (sums->xx[g] - 2.0 * f * sums->sx[g] + f * f * sums->ss) / n;
  const double theta = mean_square / fmax(spread - mean, 1e-3 * mean_square);
  return fmin(fmax(theta, 0.05), 100.0);
}

static void set_decoder(const av_layout *layout, const count_sums *sums, double *params) {
  const int64_t genes = layout->spec.n_genes;
  const int64_t intercept = layout->spec.linear ? layout->scale.beta : layout->scale.b;
  double mean_log = 0.0;
  for (int64_t g = 0; g < genes; ++g) {
    mean_log += log((sums->x[g] + 0.5) / (sums->s + 0.5 * (double)genes)) / (double)genes;
  }
  for (int64_t g = 0; g < genes; ++g) {
    const double f = (sums->x[g] + 0.5) / (sums->s + 0.5 * (double)genes);
    params[intercept + g] += log(f) - mean_log;
    for (int64_t row = 0; row < av_spec_dispersions(&layout->spec); ++row) {
      params[layout->px_r + row * genes + g] = log(dispersion(sums, g, f));
    }
    if (layout->spec.linear) {
      params[layout->scale.gamma + g] = 0.3;
    }
    if (av_spec_inflated(&layout->spec)) {
      params[(layout->spec.linear ? layout->dropout.beta : layout->dropout.b) + g] = -3.0;
    }
  }
}

static void set_library_encoder(const av_layout *layout, const count_sums *sums, double *params) {
  if (!layout->spec.latent_library) {
    return;
  }
  const double mean = av_from_fixed(sums->log_s) / sums->cells;
  const double square = LOG2_SCALE * av_from_fixed(sums->log_s2) / sums->cells;
  const double variance = fmax(square - mean * mean, 0.0);
  for (int64_t i = 0; i < 2 * layout->spec.n_hidden; ++i) {
    params[layout->l_w + i] *= 0.1;
  }
  params[layout->l_b] = mean;
  params[layout->l_b + 1] = log(fmax(0.1 * variance, 1e-4));
}

av_status av_init_from_data(const av_comm *comm, const av_dataset *dataset, const int8_t *split,
                            const av_layout *layout, double *params) {
  const int64_t genes = layout->spec.n_genes;
  double *block = av_calloc((size_t)(3 * genes), sizeof *block);
  count_sums sums = {.x = block, .xx = block + genes, .sx = block + 2 * genes};
  av_status status = block == NULL
                         ? av_fail(AV_NOMEM, "out of memory (sums of %lld genes)", (long long)genes)
                         : add_cells(dataset, split, &sums);
  status = av_agree(comm, status);
  if (status == AV_OK) {
    status = sum_over_ranks(comm, genes, &sums);
  }
  if (status == AV_OK && sums.cells > 0.0) {
    set_decoder(layout, &sums, params);
    set_library_encoder(layout, &sums, params);
  }
  free(block);
  return status;
}
