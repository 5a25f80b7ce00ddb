/* The linear decoder's BatchNorm folded into its weights (model.md section 5).
 *
 * The covariance of u = [x, one-hot] is never built: over the categories present in the minibatch,
 *   C_xx (K, K),  C_xs = sum of x in s / N - m f_s,  C_ss' = diag(f) - f f^T + J,
 * where J_ss' is the share of cells that have both s and s' of two different factors (0 within a
 * factor, so that a single factor has no J). C w_g costs K^2 + 2 K b + b multiply-adds a gene for b
 * present categories, and two more for each pair that occurs, however many categories there are in
 * the data. All in double, over blocks of BLOCK genes; sums over genes are of fixed blocks added in
 * order, so that results do not depend on threads. */
#include "backend/cpu/state.h"
#include "backend/cpu/strict.h"
#include "backend/norm.h"

#include <math.h>
#include <string.h>

enum { BLOCK = AV_FOLD, SUM_BLOCK = 256, LANES = AV_FOLD_LANES };

/* Moments of u: width = k + present. */
typedef struct moments {
  int64_t k, present;
  double *mean;  /* (k) of x, then share */
  double *share; /* (present) f */
  double *zz;    /* (k, k) covariance of x */
  int32_t *code; /* (present) columns that occur */
  double *zs;    /* (present, k) covariance of x and the indicator */
  int64_t n_pairs;
  int32_t *left, *right; /* (n_pairs) columns of different factors that occur together: places
                            among the present */
  double *joint;         /* (n_pairs) J */
} moments;

static int64_t levels_of(const av_design *design, int64_t f) {
  return design->first[f + 1] - design->first[f];
}

/* The J of all pairs of factors. counts: what follows the products in stats; place (columns): that
 * of a column among the present. */
static void take_pairs(av_backend *be, const av_fold *fold, const double *counts,
                       const int32_t *place, moments *u) {
  const av_design *design = fold->design;
  const int64_t possible = av_fold_stats_size(design, 0, fold->n_onehot) - fold->n_onehot;
  const int64_t found = fold->n_cells * (design->n_factors * (design->n_factors - 1) / 2);
  const int64_t most = possible < found ? possible : found;
  u->joint = av_scratch(be, AV_SLOT_PAIRS, 2 * most, sizeof *u->joint);
  u->left = (int32_t *)(u->joint + most);
  u->right = u->left + most;
  for (int64_t f = 0; f < design->n_factors; ++f) {
    for (int64_t g = f + 1; g < design->n_factors; ++g) {
      for (int64_t s = design->first[f]; s < design->first[f + 1]; ++s) {
        for (int64_t t = design->first[g]; t < design->first[g + 1]; ++t, ++counts) {
          if (*counts > 0.0) {
            const int64_t at = u->n_pairs++;
            u->left[at] = place[s];
            u->right[at] = place[t];
            u->joint[at] = *counts / (double)fold->n_cells;
          }
        }
      }
    }
  }
}

/* Columns whose cells are all cells once: those of the first factor. */
static int64_t columns_of_one(const av_design *design, int64_t n_onehot) {
  return n_onehot > 0 ? levels_of(design, 0) : 1;
}

static moments moments_of(av_backend *be, const av_fold *fold, const double *stats) {
  const int64_t k = fold->n_in;
  const int64_t columns = fold->n_onehot > 0 ? fold->n_onehot : 1;
  const int64_t once = columns_of_one(fold->design, fold->n_onehot);
  const double *cells = stats;
  const double *sums = stats + columns;
  const double *products = sums + columns * k;
  const double n = (double)fold->n_cells;
  double *space = av_scratch(be, AV_SLOT_FOLD, k + k * k + columns * (k + 1), sizeof *space);
  int32_t *code = av_scratch(be, AV_SLOT_CODES, 2 * columns, sizeof *code);
  int32_t *place = code + columns;
  moments u = {.k = k,
               .mean = space,
               .share = space + k,
               .zz = space + k + columns,
               .zs = space + k + columns + k * k,
               .code = code};
  memset(u.mean, 0, (size_t)k * sizeof *u.mean);
  for (int64_t s = 0; s < once; ++s) {
    for (int64_t a = 0; a < k; ++a) {
      u.mean[a] += sums[s * k + a] / n;
    }
  }
  for (int64_t a = 0; a < k; ++a) {
    for (int64_t b = 0; b < k; ++b) {
      u.zz[a * k + b] = products[a * k + b] / n - u.mean[a] * u.mean[b];
    }
  }
  for (int64_t s = 0; s < fold->n_onehot; ++s) {
    if (cells[s] > 0.0) {
      const int64_t at = u.present++;
      u.code[at] = (int32_t)s;
      place[s] = (int32_t)at;
      u.share[at] = cells[s] / n;
      for (int64_t a = 0; a < k; ++a) {
        u.zs[at * k + a] = sums[s * k + a] / n - u.mean[a] * u.share[at];
      }
    }
  }
  if (fold->n_onehot > 0 && fold->design->n_factors > 1) {
    take_pairs(be, fold, products + k * k, place, &u);
  }
  return u;
}

/* cw = C w for BLOCK genes. */
static void covariance(const av_kernels *kernels, const moments *u, const double *w, double *cw) {
  kernels->fold_covariance(u->k, u->present, u->zz, u->zs, u->share, w, cw);
  if (u->n_pairs > 0) {
    kernels->fold_pairs(u->n_pairs, u->left, u->right, u->joint, w + u->k * BLOCK,
                        cw + u->k * BLOCK);
  }
}

/* Row d of the compressed u (x first, then the present categories) as a row of w or p. */
static int64_t full_row(const moments *u, int64_t d) {
  return d < u->k ? d : u->k + u->code[d - u->k];
}

/* BLOCK genes of the rows of w (., genes) that are present; missing genes 0. */
static void take_block(const av_kernels *kernels, const moments *u, const float *w, int64_t genes,
                       int64_t first, double *out) {
  const int64_t width = genes - first < BLOCK ? genes - first : BLOCK;
  for (int64_t d = 0; d < u->k + u->present; ++d) {
    kernels->fold_take(width, w + full_row(u, d) * genes + first, out + d * BLOCK);
  }
}

/* Folds BLOCK genes given their variance and their mean without the bias: what is left of the bias
 * after its own mean is taken off. */
static void fold_block(const av_kernels *kernels, const av_fold *fold, int64_t first,
                       const double *mean, const double *variance) {
  const int64_t genes = fold->n_genes;
  const int64_t width = genes - first < BLOCK ? genes - first : BLOCK;
  const float *w = av_const_floats(fold->w) + first;
  float *a = av_floats(fold->a) + first;
  float factor[BLOCK];
  kernels->fold_factors(width, mean, variance, av_const_floats(fold->gamma) + first,
                        av_const_floats(fold->beta) + first, factor, av_floats(fold->c) + first,
                        av_floats(fold->inv_sigma) + first);
  for (int64_t d = 0; d < fold->n_in + fold->n_onehot; ++d) {
    kernels->product_row(width, 1.0f, factor, w + d * genes, a + d * genes);
  }
}

static double bias_of(const av_fold *fold, int64_t g) {
  return fold->bias == NULL ? 0.0 : (double)av_const_floats(fold->bias)[g];
}

static void move_running(const av_fold *fold, int64_t first, const double *mean,
                         const double *variance) {
  float *running = av_floats(fold->running);
  for (int64_t g = first; g < fold->n_genes && g < first + BLOCK; ++g) {
    const double unbiased = av_unbiased(variance[g - first], fold->n_cells);
    float *running_variance = running + fold->n_genes + g;
    const double biased = mean[g - first] + bias_of(fold, g);
    running[g] += (float)(AV_NORM_MOMENTUM * (biased - (double)running[g]));
    *running_variance += (float)(AV_NORM_MOMENTUM * (unbiased - (double)*running_variance));
  }
}

void av_cpu_fold(av_backend *be, const av_fold *fold, const av_sum *stats) {
  const av_kernels *kernels = av_kernels_of(be);
  const int64_t genes = fold->n_genes;
  moments u = {0};
  if (fold->training) {
    u = moments_of(be, fold, av_const_doubles(stats));
  }
  const int64_t width = u.k + u.present;
  double *space =
      av_scratch(be, AV_SLOT_FOLD2, (int64_t)be->threads * 2 * width * BLOCK, sizeof *space);
  const int64_t blocks = (genes + BLOCK - 1) / BLOCK;
#pragma omp parallel for schedule(static) num_threads(be->threads)
  for (int part = 0; part < be->threads; ++part) {
    double *w = space + part * 2 * width * BLOCK;
    double *cw = w + width * BLOCK;
    double mean[BLOCK];
    double variance[BLOCK];
    for (int64_t b = blocks * part / be->threads; b < blocks * (part + 1) / be->threads; ++b) {
      const int64_t first = b * BLOCK;
      if (fold->training) {
        take_block(kernels, &u, av_const_floats(fold->w), genes, first, w);
        covariance(kernels, &u, w, cw);
        kernels->fold_moments(width, u.mean, w, cw, mean, variance);
        for (int j = 0; j < BLOCK; ++j) {
          variance[j] = variance[j] < 0.0 ? 0.0 : variance[j]; /* rounding */
        }
        move_running(fold, first, mean, variance);
      } else {
        const float *running = av_const_floats(fold->running);
        for (int64_t j = 0; j < BLOCK && first + j < genes; ++j) {
          mean[j] = (double)running[first + j] - bias_of(fold, first + j);
          variance[j] = (double)running[genes + first + j];
        }
      }
      fold_block(kernels, fold, first, mean, variance);
    }
  }
}

/* Order-free mode: gradients of the fold are linear in p and s but rounded, so that parts of ranks
 * would not add up to the same bits. There p and s are made global first (exact), and rank 0 alone
 * adds what follows. */
static const double *global_sums(av_backend *be, int64_t width, int64_t genes, const double *p,
                                 const double *s) {
  double *both = av_scratch(be, AV_SLOT_GRADS, (width + 1) * genes, sizeof *both);
  memcpy(both, p, (size_t)(width * genes) * sizeof *both);
  memcpy(both + width * genes, s, (size_t)genes * sizeof *both);
  av_cpu_require(be, av_sum_f64(be->comm, both, (width + 1) * genes));
  return both;
}

/* Where the gradients of the fold come from and go to: float arrays, or double in order-free mode.
 */
typedef struct fold_arrays {
  bool strict;
  const void *p, *s;
  void *dw, *dgamma, *dbeta;
} fold_arrays;

/* out (BLOCK) = n numbers of the array from `at` on, then zeros. */
static void take(const av_kernels *kernels, bool strict, const void *array, int64_t at, int64_t n,
                 double *out) {
  if (!strict) {
    kernels->fold_take(n, av_const_floats(array) + at, out);
    return;
  }
  for (int64_t j = 0; j < BLOCK; ++j) {
    out[j] = j < n ? av_const_doubles(array)[at + j] : 0.0;
  }
}

/* array += n numbers from `at` on. */
static void add(const av_kernels *kernels, bool strict, const double *x, int64_t n, void *array,
                int64_t at) {
  if (!strict) {
    kernels->fold_add(n, x, av_floats(array) + at);
    return;
  }
  for (int64_t j = 0; j < n; ++j) {
    av_doubles(array)[at + j] += x[j];
  }
}

/* Gradients of BLOCK genes. weight (BLOCK) and s (BLOCK) are left for the sums over genes. */
static void grad_block(const av_kernels *kernels, const moments *u, const av_fold *fold,
                       const fold_arrays *arrays, int64_t first, double *w, double *cw, double *p,
                       double *weight, double *s) {
  const int64_t genes = fold->n_genes;
  const int64_t n = genes - first < BLOCK ? genes - first : BLOCK;
  const int64_t width = u->k + u->present;
  const bool strict = arrays->strict;
  double gamma[BLOCK];
  double inv_sigma[BLOCK];
  double dgamma[BLOCK];
  take_block(kernels, u, av_const_floats(fold->w), genes, first, w);
  covariance(kernels, u, w, cw);
  kernels->fold_take(n, av_const_floats(fold->gamma) + first, gamma);
  kernels->fold_take(n, av_const_floats(fold->inv_sigma) + first, inv_sigma);
  take(kernels, strict, arrays->s, first, n, s);
  for (int64_t d = 0; d < width; ++d) {
    take(kernels, strict, arrays->p, full_row(u, d) * genes + first, n, p + d * BLOCK);
  }
  kernels->fold_gradients(width, fold->n_cells, u->mean, w, cw, s, gamma, inv_sigma, p, dgamma,
                          weight);
  add(kernels, strict, dgamma, n, arrays->dgamma, first);
  add(kernels, strict, s, n, arrays->dbeta, first);
  for (int64_t d = 0; d < width; ++d) {
    add(kernels, strict, p + d * BLOCK, n, arrays->dw, full_row(u, d) * genes + first);
  }
}

/* lanes (k + k width, LANES) += {A_x s, M_x.} of BLOCK genes; space (k, BLOCK). */
static void back_block(const av_kernels *kernels, const moments *u, const av_fold *fold,
                       int64_t first, const double *w, const double *weight, const double *s,
                       double *space, double *lanes) {
  const int64_t genes = fold->n_genes;
  const int64_t n = genes - first < BLOCK ? genes - first : BLOCK;
  for (int64_t a = 0; a < u->k; ++a) {
    kernels->fold_take(n, av_const_floats(fold->a) + a * genes + first, space + a * BLOCK);
  }
  kernels->fold_products(u->k, 1, space, s, lanes);
  kernels->fold_weigh(u->k, weight, w, space);
  kernels->fold_products(u->k, u->k + u->present, space, w, lanes + u->k * LANES);
}

static double sum_of_lanes(const double *lanes) {
  double sum = 0.0;
  for (int l = 0; l < LANES; ++l) {
    sum += lanes[l];
  }
  return sum;
}

/* Adds up the blocks' sums, in order, to back (k + k D), which is 0. */
static void add_back(const moments *u, const av_fold *fold, int64_t blocks, const double *partial,
                     double *back) {
  const int64_t width = u->k + u->present;
  const int64_t full = fold->n_in + fold->n_onehot;
  const int64_t size = u->k + u->k * width;
  for (int64_t b = 0; b < blocks; ++b) {
    const double *from = partial + b * size;
    for (int64_t a = 0; a < u->k; ++a) {
      back[a] += from[a];
      for (int64_t d = 0; d < width; ++d) {
        back[u->k + a * full + full_row(u, d)] += from[u->k + a * width + d];
      }
    }
  }
}

void av_cpu_fold_grad(av_backend *be, const av_fold *fold, const av_sum *stats, const av_grad *p,
                      const av_grad *s, av_grad *dw, av_grad *dgamma, av_grad *dbeta,
                      av_sum *back) {
  const int64_t genes = fold->n_genes;
  const int64_t full = fold->n_in + fold->n_onehot;
  fold_arrays arrays = {
      .strict = be->strict, .p = p, .s = s, .dw = dw, .dgamma = dgamma, .dbeta = dbeta};
  memset(back, 0, (size_t)(fold->n_in * (1 + full)) * sizeof(double));
  if (be->strict && be->comm->size > 1) {
    const double *both = global_sums(be, full, genes, av_const_doubles(p), av_const_doubles(s));
    if (be->comm->rank != 0) {
      return;
    }
    arrays.p = both;
    arrays.s = both + full * genes;
  }
  const av_kernels *kernels = av_kernels_of(be);
  const moments u = moments_of(be, fold, av_const_doubles(stats));
  const int64_t width = u.k + u.present;
  const int64_t blocks = (genes + SUM_BLOCK - 1) / SUM_BLOCK;
  const int64_t size = u.k + u.k * width;
  const int64_t space_size = 3 * width * BLOCK + size * LANES;
  double *space =
      av_scratch(be, AV_SLOT_FOLD2, be->threads * space_size + blocks * size, sizeof *space);
  double *partial = space + be->threads * space_size;
#pragma omp parallel for schedule(static) num_threads(be->threads)
  for (int part = 0; part < be->threads; ++part) {
    double *w = space + part * space_size;
    double *cw = w + width * BLOCK;
    double *centred = cw + width * BLOCK;
    double *lanes = centred + width * BLOCK;
    double weight[BLOCK];
    double sums[BLOCK] __attribute__((aligned(64)));
    for (int64_t b = blocks * part / be->threads; b < blocks * (part + 1) / be->threads; ++b) {
      memset(lanes, 0, (size_t)(size * LANES) * sizeof *lanes);
      for (int64_t first = b * SUM_BLOCK; first < genes && first < (b + 1) * SUM_BLOCK;
           first += BLOCK) {
        grad_block(kernels, &u, fold, &arrays, first, w, cw, centred, weight, sums);
        back_block(kernels, &u, fold, first, w, weight, sums, centred, lanes);
      }
      for (int64_t i = 0; i < size; ++i) {
        partial[b * size + i] = sum_of_lanes(lanes + i * LANES);
      }
    }
  }
  add_back(&u, fold, blocks, partial, av_doubles(back));
}

/* Magic numbers of x (k), then of its products (k, k); NULL unless order-free. */
static const double *strict_magics(av_backend *be, const av_batch *batch, int64_t k,
                                   const float *x) {
  if (!be->strict) {
    return NULL;
  }
  float *top = av_scratch(be, AV_SLOT_TOP, k, sizeof *top);
  double *magic = av_scratch(be, AV_SLOT_MAGIC, k + k * k, sizeof *magic);
  av_strict_tops(be, batch->n, k, x, k, top);
  av_strict_maxima(be, top, k);
  const int bits = av_strict_sum_bits(av_strict_cells(be, batch->n));
  av_strict_magics(k, top, bits, magic);
  for (int64_t a = 0; a < k; ++a) {
    for (int64_t b = 0; b < k; ++b) {
      magic[k + a * k + b] = av_strict_magic((double)top[a] * (double)top[b], bits);
    }
  }
  return magic;
}

static double rounded(double value, double magic) {
  const double shifted = value + magic;
  return shifted - magic;
}

/* counts (pairs of factors) += 1 where the cell has both columns. */
static void count_pairs(const av_design *design, const int32_t *column, double *counts) {
  for (int64_t f = 0; f < design->n_factors; ++f) {
    const int64_t s = column[f] - design->first[f];
    for (int64_t g = f + 1; g < design->n_factors; ++g) {
      const int64_t levels = levels_of(design, g);
      counts[s * levels + column[g] - design->first[g]] += 1.0;
      counts += levels_of(design, f) * levels;
    }
  }
}

/* Sequential: B (K F + K^2 / 2) multiply-adds for F factors, 7,000 for 128 cells, 10 dimensions. */
void av_cpu_fold_sums(av_backend *be, const av_batch *batch, int64_t n_in, int64_t n_onehot,
                      const av_real *x_, av_sum *stats_) {
  const float *x = av_const_floats(x_);
  const av_design *design = &batch->dataset->design;
  const int32_t all = 0;
  const int64_t factors = n_onehot > 0 ? batch->n_factors : 1;
  const int64_t columns = n_onehot > 0 ? n_onehot : 1;
  double *cells = av_doubles(stats_);
  double *sums = cells + columns;
  double *products = sums + columns * n_in;
  const double *magic = strict_magics(be, batch, n_in, x);
  memset(cells, 0, (size_t)av_fold_stats_size(design, n_in, n_onehot) * sizeof *cells);
  for (int64_t i = 0; i < batch->n; ++i) {
    const int32_t *column = n_onehot > 0 ? batch->column + i * factors : &all;
    const float *row = x + i * n_in;
    for (int64_t f = 0; f < factors; ++f) {
      cells[column[f]] += 1.0;
      for (int64_t a = 0; a < n_in; ++a) {
        const double value = (double)row[a];
        sums[column[f] * n_in + a] += magic == NULL ? value : rounded(value, magic[a]);
      }
    }
    for (int64_t a = 0; a < n_in; ++a) {
      for (int64_t b = 0; b <= a; ++b) {
        const double product = (double)row[a] * (double)row[b];
        products[a * n_in + b] +=
            magic == NULL ? product : rounded(product, magic[n_in + a * n_in + b]);
      }
    }
    if (n_onehot > 0) {
      count_pairs(design, column, products + n_in * n_in);
    }
  }
  for (int64_t a = 0; a < n_in; ++a) {
    for (int64_t b = 0; b < a; ++b) {
      products[b * n_in + a] = products[a * n_in + b];
    }
  }
}

void av_cpu_fold_correct(av_backend *be, const av_batch *batch, const av_fold *fold,
                         const av_sum *stats, const av_sum *back_, const av_real *x_,
                         av_real *dx_) {
  const int64_t k = fold->n_in;
  const int64_t full = k + fold->n_onehot;
  const int64_t factors = fold->n_onehot > 0 ? batch->n_factors : 0;
  const double *back = av_const_doubles(back_);
  const double *m = back + k; /* M (k, full) */
  const float *x = av_const_floats(x_);
  float *dx = av_floats(dx_);
  const moments u = moments_of(be, fold, av_const_doubles(stats));
  /* constant (k): what every cell is corrected by */
  double *constant = av_scratch(be, AV_SLOT_FOLD2, k, sizeof *constant);
  for (int64_t a = 0; a < k; ++a) {
    constant[a] = back[a] / (double)fold->n_cells;
    for (int64_t d = 0; d < k + u.present; ++d) {
      constant[a] -= m[a * full + full_row(&u, d)] * u.mean[d];
    }
  }
#pragma omp parallel for schedule(static) num_threads(be->threads)
  for (int64_t i = 0; i < batch->n; ++i) {
    for (int64_t a = 0; a < k; ++a) {
      double correction = constant[a];
      for (int64_t d = 0; d < k; ++d) {
        correction += m[a * full + d] * (double)x[i * k + d];
      }
      for (int64_t f = 0; f < factors; ++f) {
        correction += m[a * full + k + batch->column[i * factors + f]];
      }
      dx[i * k + a] -= (float)correction;
    }
  }
}
