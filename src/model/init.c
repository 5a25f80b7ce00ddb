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

/* Chosen on real files (tests/quality/start_values.md). */
static const double linear_scale = 0.6;     /* of a linear decoder's weights */
static const double factor_scale = 0.3;     /* of scVI's, and BatchNorm's gamma */
static const double inflation_logit = -1.5; /* of an extra zero */
static const double root_cells = 200.0;     /* cells for half of the way to the root of theta */

/* Sums over the training cells: s the size of a cell (its total count or size factor), x a count.
 */
enum { SUM_CELLS, SUM_S, SUM_SS, SUM_LOG, SUM_LOG_SQUARE, SUM_X, N_TOTALS };
typedef struct count_sums {
  double unit;          /* s is summed in these */
  av_wide *total;       /* (N_TOTALS), first of one block with the next three */
  av_wide *x, *xx, *sx; /* (G) sum x, sum x^2, sum s x */
} count_sums;

static double total_of(const count_sums *sums, int which) {
  return av_wide_value(&sums->total[which]);
}
static double sum_s(const count_sums *sums) { return sums->unit * total_of(sums, SUM_S); }
static double sum_ss(const count_sums *sums) {
  return sums->unit * sums->unit * total_of(sums, SUM_SS);
}

/* Fixed point holds total counts and their squares as they are, but size factors have any scale:
 * there a power of two that leaves the largest of all ranks between 2^15 and 2^16. Collective. */
static av_status choose_unit(const av_comm *comm, const av_model_spec *spec,
                             const av_dataset *dataset, double *unit) {
  int64_t exponent = -1074; /* of the smallest double */
  *unit = 1.0;
  if (!spec->size_factor) {
    return AV_OK;
  }
  for (int64_t i = 0; i < dataset->n_local; ++i) {
    const int64_t of_cell = ilogb(dataset->size_factor[i]);
    exponent = of_cell > exponent ? of_cell : exponent;
  }
  AV_TRY(av_max_i64(comm, &exponent, 1));
  *unit = ldexp(1.0, (int)exponent - 15);
  return AV_OK;
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
    if (split[i] != AV_SPLIT_TRAIN || dataset->library[i] <= 0.0) {
      continue;
    }
    const double s = av_size(dataset, i) / sums->unit;
    const double log_s = av_log_size(dataset, i);
    av_wide_add(&sums->total[SUM_CELLS], 1.0);
    av_wide_add(&sums->total[SUM_S], s);
    av_wide_add(&sums->total[SUM_X], dataset->library[i]);
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

/* log theta, given the gene's frequency f. Moments count as noise all that the factors will
 * explain: with them the genes that tell cells apart start with the smallest theta, weigh least and
 * stay behind (lower label accuracy and likelihood). The more cells there are, the more is
 * explained: theta goes from moments to 3 times their root. */
static double log_dispersion(const count_sums *sums, int64_t g, double f) {
  const double n = total_of(sums, SUM_CELLS);
  const double ss = sum_ss(sums);
  const double xx = av_wide_value(&sums->xx[g]);
  const double sx = sums->unit * av_wide_value(&sums->sx[g]);
  const double mean = f * sum_s(sums) / n;
  const double mean_square = f * f * ss / n;
  const double spread = (xx - 2.0 * f * sx + f * f * ss) / n;
  const double theta = mean_square / fmax(spread - mean, 1e-3 * mean_square);
  const double moments = log(fmin(fmax(theta, 1e-2), 100.0));
  return moments + n / (n + root_cells) * (log(3.0) - 0.5 * moments);
}

/* Share of gene g in a cell of size 1, with half a count added to every gene. */
static double frequency(const count_sums *sums, int64_t n_genes, int64_t g) {
  const double counts = total_of(sums, SUM_X);
  const double smoothed = (av_wide_value(&sums->x[g]) + 0.5) / (counts + 0.5 * (double)n_genes);
  return smoothed * counts / sum_s(sums); /* the last factor is 1 without size factors */
}

/* The logit that gives `rate` under the decoder's last function, softmax up to a constant. */
static double logit_of(const av_model_spec *spec, double rate) {
  if (!spec->size_factor) {
    return log(rate);
  }
  return rate > 30.0 ? rate : log(expm1(rate)); /* inverse softplus */
}

/* What is added to the logits of a head, (G): BatchNorm's shift or a bias; NULL if it has neither.
 */
static double *intercept_of(const av_gene_head *head, double *params) {
  const int64_t at = head->beta >= 0 ? head->beta : head->b;
  return head->w < 0 || at < 0 ? NULL : params + at;
}

/* Cells start near the mean, with small factors and, in a linear decoder, no offsets of batches and
 * covariates. Under BatchNorm gamma alone says how large factors are; small weights let Adam, whose
 * steps have one size, turn them and learn the offsets sooner, before z has learnt the batch. */
static void set_factor_scale(const av_layout *layout, double *params) {
  const av_gene_head *head = &layout->scale;
  const int64_t genes = layout->spec.n_genes;
  const double scale = layout->spec.linear ? linear_scale : factor_scale;
  for (int64_t i = 0; i < (head->n_in + head->n_onehot) * genes; ++i) {
    params[head->w + i] *= i < head->n_in * genes ? scale : 0.0;
  }
  for (int64_t g = 0; head->gamma >= 0 && g < genes; ++g) {
    params[head->gamma + g] = factor_scale;
  }
}

static void set_decoder(const av_layout *layout, const count_sums *sums, double *params) {
  const av_model_spec *spec = &layout->spec;
  const int64_t genes = spec->n_genes;
  double *scale = intercept_of(&layout->scale, params);
  double *dropout = intercept_of(&layout->dropout, params);
  double *px_r = intercept_of(&layout->px_r_head, params);
  double middle = 0.0; /* softmax does not see a constant: their mean is taken away */
  for (int64_t g = 0; g < genes && !spec->size_factor; ++g) {
    middle += log(frequency(sums, genes, g)) / (double)genes;
  }
  set_factor_scale(layout, params);
  for (int64_t g = 0; g < genes; ++g) {
    const double f = frequency(sums, genes, g);
    const double log_theta = log_dispersion(sums, g, f);
    if (scale != NULL) {
      scale[g] += logit_of(spec, f) - middle;
    }
    if (dropout != NULL) {
      dropout[g] = inflation_logit;
    }
    if (px_r != NULL) {
      px_r[g] = log_theta;
    }
    for (int64_t row = 0; row < av_spec_dispersions(spec); ++row) {
      params[layout->px_r + row * genes + g] = log_theta;
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
  av_status status = choose_unit(comm, &layout->spec, dataset, &sums.unit);
  if (status == AV_OK && sums.total == NULL) {
    status = av_fail(AV_NOMEM, "out of memory (sums of %lld genes)", (long long)genes);
  } else if (status == AV_OK) {
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
