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
enum { SUM_CELLS, SUM_S, SUM_SS, SUM_LOG, SUM_LOG_SQUARE, N_TOTALS };
typedef struct count_sums {
  av_wide *total;       /* (N_TOTALS), first of one block with the next three */
  av_wide *x, *xx, *sx; /* (G) sum x, sum x^2, sum s x */
} count_sums;

static double total_of(const count_sums *sums, int which) {
  return av_wide_value(&sums->total[which]);
}

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
    const double log_s = log(s);
    av_wide_add(&sums->total[SUM_CELLS], 1.0);
    av_wide_add(&sums->total[SUM_S], s);
    av_wide_add(&sums->total[SUM_SS], s * s);
    av_wide_add(&sums->total[SUM_LOG], log_s);
    av_wide_add(&sums->total[SUM_LOG_SQUARE], log_s * log_s);
    const int64_t n = av_counts_row(&dataset->counts, i, gene, value);
    for (int64_t e = 0; e < n; ++e) {
      const double x = (double)value[e];
      av_wide_add(&sums->x[gene[e]], x);
      av_wide_add(&sums->xx[gene[e]], x * x);
      av_wide_add(&sums->sx[gene[e]], s * x);
    }
  }
  free(gene);
  free(value);
  return status;
}

/* theta by moments, given the gene's frequency f. */
static double dispersion(const count_sums *sums, int64_t g, double f) {
  const double n = total_of(sums, SUM_CELLS);
  const double ss = total_of(sums, SUM_SS);
  const double xx = av_wide_value(&sums->xx[g]);
  const double sx = av_wide_value(&sums->sx[g]);
  const double mean = f * total_of(sums, SUM_S) / n;
  const double mean_square = f * f * ss / n;
  const double spread = (xx - 2.0 * f * sx + f * f * ss) / n;
  const double theta = mean_square / fmax(spread - mean, 1e-3 * mean_square);
  return fmin(fmax(theta, 0.05), 100.0);
}

/* Frequency of gene g, with half a count added. */
static double frequency(const count_sums *sums, int64_t n_genes, int64_t g) {
  return (av_wide_value(&sums->x[g]) + 0.5) / (total_of(sums, SUM_S) + 0.5 * (double)n_genes);
}

static void set_decoder(const av_layout *layout, const count_sums *sums, double *params) {
  const int64_t genes = layout->spec.n_genes;
  const int64_t intercept = layout->spec.linear ? layout->scale.beta : layout->scale.b;
  double mean_log = 0.0;
  for (int64_t g = 0; g < genes; ++g) {
    mean_log += log(frequency(sums, genes, g)) / (double)genes;
  }
  for (int64_t g = 0; g < genes; ++g) {
    const double f = frequency(sums, genes, g);
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
  const double cells = total_of(sums, SUM_CELLS);
  const double mean = total_of(sums, SUM_LOG) / cells;
  const double square = total_of(sums, SUM_LOG_SQUARE) / cells;
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
  const int64_t n = N_TOTALS + 3 * genes;
  count_sums sums = {.total = av_calloc((size_t)n, sizeof *sums.total)};
  av_status status = AV_OK;
  if (sums.total == NULL) {
    status = av_fail(AV_NOMEM, "out of memory (sums of %lld genes)", (long long)genes);
  } else {
    sums.x = sums.total + N_TOTALS;
    sums.xx = sums.x + genes;
    sums.sx = sums.xx + genes;
    status = add_cells(dataset, split, &sums);
  }
  status = av_agree(comm, status);
  if (status == AV_OK) {
    status = av_sum_wide(comm, sums.total, n);
  }
  if (status == AV_OK && total_of(&sums, SUM_CELLS) > 0.0) {
    set_decoder(layout, &sums, params);
    set_library_encoder(layout, &sums, params);
  }
  free(sums.total);
  return status;
}
