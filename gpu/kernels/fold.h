/* The linear decoder's BatchNorm, folded into its weights: the algebra, and the numbers in `stats`,
 * are those of backend/cpu/fold.c. All sums are in double: moments are differences of large numbers
 * where a covariate is large, and an H100 has half as many double multiply-adds as single ones.
 *
 * Sums over cells. Bound by launch and latency at a minibatch of 128, by latency still at 16,384
 * (64 rounds of loads that miss L1; x is 640 KB for 10 columns). A block takes one category, or one
 * column of x, and TILE columns: Sum weight x, the weight being 1 in the category and 0 outside, or
 * the column. Beyond AV_GPU_FOLD_BLOCK_COLUMNS categories a warp takes one and reads only the rows
 * of its cells. That is O B comparisons of one integer, from a list that lies in L1: 5,000 x 4,096
 * are 160,000 rounds of a warp, by estimate a few us, so cells are not sorted by category, which
 * would take more launches. Pairs of factors are counted by integer atomics. Launches: 1; with
 * several factors 3; with many categories 3, with both 4.
 *
 * Fold and its gradient. The covariance C of u = [x, one-hot] is never built: k rows of it over the
 * categories, and the shares of these, give C w in k (k + 2 b) + b multiply-adds a gene for b
 * categories, and two for each pair of categories that occurs (found by looking at all pairs of
 * categories present, for each 32 genes: with two factors of thousands that is what costs). At
 * 2,000 genes, k = 10, b = 2 that is 0.3 million, in reach of any shape of kernel: bound by
 * latency. A block takes 32 genes, a lane each (rows of w are read 128 bytes at a time), and its
 * warps take rows: 63 blocks of 8 warps. Each block makes the moments of u itself where they, and
 * the block's weights, fit in AV_GPU_FOLD_SHARED bytes; otherwise ("wide") a block makes them
 * first, of the categories present alone, and a launch over (D, G) scales the rows of w (5,000
 * categories x 2,000 genes: 80 MB in and out, by estimate 30 us, which is what bounds it then). A_x
 * s and M are sums over genes, of a block each for 4 rows and a column. Launches: fold 1 (wide 3, 2
 * after training), fold_grad 2 (wide 3).
 *
 * Correction. Elementwise on (B, k), k + factors multiply-adds an element, and in each block what
 * all cells have in common (a launch of its own with many categories). */
#ifndef AV_GPU_KERNELS_FOLD_H
#define AV_GPU_KERNELS_FOLD_H

#include "kernels/view.h"

#include <cuda_runtime_api.h>

enum {
  AV_GPU_FOLD_FACTORS = 63, /* at most: their columns travel in the kernels' arguments */
  AV_GPU_FOLD_BLOCK_COLUMNS = 64,
  AV_GPU_FOLD_SHARED = 20 * 1024,
  AV_GPU_FOLD_COMMON = 512 /* terms of what cells have in common, for each block to add */
};

/* What is constant in a fold. */
typedef struct av_gpu_fold_shape {
  int64_t n_genes;
  int n_in, n_onehot, n_factors;          /* k, O (D = k + O), those behind the one-hot block */
  int32_t first[AV_GPU_FOLD_FACTORS + 1]; /* first column of each factor, then O */
  int64_t pairs[AV_GPU_FOLD_FACTORS + 1]; /* where its pairs with later ones begin, then the end */
} av_gpu_fold_shape;

/* Arrays of av_fold. */
typedef struct av_gpu_fold_arrays {
  const float *w, *bias, *gamma, *beta; /* bias may be NULL */
  float *running, *a, *c, *inv_sigma;
} av_gpu_fold_arrays;

/* Scratch. Wide: moments of u over x and the categories present. */
typedef struct av_gpu_fold_work {
  double *weight; /* (G) gradient: gamma dgamma / (sigma^2 Bg) */
  double *mean;   /* (D) */
  double *cross;  /* (k, D) covariance of x with all */
  int32_t *width; /* (1) rows: k, then the categories present */
  int32_t *code;  /* (D) which row of w each is */
  int32_t *range; /* (n_factors + 1) where each factor's rows begin */
} av_gpu_fold_work;

static inline int av_gpu_fold_columns(const av_gpu_fold_shape *shape) {
  return shape->n_onehot > 0 ? shape->n_onehot : 1;
}
/* Shared memory of a block that makes the moments itself and keeps its weights. */
static inline int64_t av_gpu_fold_shared(const av_gpu_fold_shape *shape) {
  const int64_t width = shape->n_in + shape->n_onehot;
  return width * (shape->n_in + 1) * (int64_t)sizeof(double) + width * 32 * (int64_t)sizeof(float);
}
static inline bool av_gpu_fold_is_wide(const av_gpu_fold_shape *shape) {
  return av_gpu_fold_shared(shape) > AV_GPU_FOLD_SHARED;
}
/* Whether the sums need `list`, the minibatch's columns by factor. */
static inline bool av_gpu_fold_needs_list(const av_gpu_fold_shape *shape) {
  return shape->n_onehot > AV_GPU_FOLD_BLOCK_COLUMNS || shape->n_factors > 1;
}
/* Terms of what the correction of all cells has in common. */
static inline int64_t av_gpu_fold_terms(const av_gpu_fold_shape *shape) {
  const int64_t levels = shape->n_onehot > 0 ? shape->first[1] : 1;
  return levels * shape->n_in + shape->n_onehot;
}

#ifdef __cplusplus
extern "C" {
#endif

/* stats of x (B, k). list (n_factors, max_rows): scratch where it is needed, else NULL. */
cudaError_t av_gpu_run_fold_sums(cudaStream_t stream, const av_gpu_rows *rows,
                                 const av_gpu_fold_shape *shape, int32_t *list, const float *x,
                                 double *stats);
/* a, c, inv_sigma from stats, moving `running`, or (step NULL) from `running`. */
cudaError_t av_gpu_run_fold(cudaStream_t stream, const av_gpu_fold_shape *shape,
                            const av_gpu_fold_arrays *fold, const double *stats,
                            const av_gpu_step *step, const av_gpu_fold_work *work);
/* dw, dgamma and dbeta +=, back =, from p and s. Reads w, gamma, a and inv_sigma. */
cudaError_t av_gpu_run_fold_grad(cudaStream_t stream, const av_gpu_fold_shape *shape,
                                 const av_gpu_fold_arrays *fold, const double *stats,
                                 const av_gpu_step *step, const av_gpu_fold_work *work,
                                 const float *p, const float *s, float *dw, float *dgamma,
                                 float *dbeta, double *back);
/* dx (B, k) -= the correction. common (k): scratch if there are more than AV_GPU_FOLD_COMMON terms,
 * else NULL. */
cudaError_t av_gpu_run_fold_correct(cudaStream_t stream, const av_gpu_rows *rows,
                                    const av_gpu_fold_shape *shape, const double *stats,
                                    const double *back, const av_gpu_step *step, double *common,
                                    const float *x, float *dx);

#ifdef __cplusplus
}
#endif
#endif
