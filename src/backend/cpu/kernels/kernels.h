/* The innermost loops, compiled once for each instruction set and chosen at run time.
 *
 * Every file of this folder is compiled with AV_ISA = _baseline, _avx2 and _avx512 (the last two on
 * x86-64 only); AV_KERNEL(name) puts that suffix on the name, and table.c gathers the functions of
 * one set into a table. Kernels are single-threaded, allocate nothing and know nothing of ranks.
 *
 * Rules that order-free mode relies on: what belongs to one cell is computed in an order given by
 * column or gene alone, never by the cell's position in a tile; loops that sum with `omp simd
 * reduction` start on 64-byte boundaries and have lengths that depend on the model only.
 *
 * Rows over genes are padded to a multiple of AV_PANEL ("panels" * AV_PANEL floats, 64-byte
 * aligned): padding has logit -infinity, hence weight 0 everywhere.
 */
#ifndef AV_BACKEND_CPU_KERNELS_H
#define AV_BACKEND_CPU_KERNELS_H

#include <stdbool.h>
#include <stdint.h>

enum { AV_PANEL = 32, AV_ROW_BLOCK = 8, AV_FOLD = 64, AV_FOLD_LANES = 8, AV_TILE_COLUMNS = 64 };

/* Dispersion of one row of genes, prepared once a call (padded): theta = exp(px_r) kept inside
 * [1e-37, 1e30], where the loss no longer depends on it in float; inverse = 1 / (theta + 1e-8). */
typedef struct av_theta {
  const float *theta;
  const float *inverse;
  const float *log_theta; /* px_r itself, never clamped */
} av_theta;

/* Loss and sum of q = mu dloss/dmu of one cell. */
typedef struct av_cell_sums {
  double loss, q;
} av_cell_sums;

/* The non-zeros of one cell. */
typedef struct av_cell_counts {
  int64_t n;
  const int32_t *gene;
  const float *value;
} av_cell_counts;

/* Part of a minibatch by gene (../by_gene.h): run r holds entries [run[r].first, run[r + 1].first),
 * the rows of the tile in which gene run[r].gene occurs, increasing, and f(count). Genes increase.
 */
typedef struct av_sparse_entry {
  float value;
  int32_t row;
} av_sparse_entry;
typedef struct av_sparse_run {
  int32_t gene, first;
} av_sparse_run;
typedef struct av_sparse_part {
  int64_t n_runs;
  int64_t origin;           /* the gene whose row of dw comes first */
  const av_sparse_run *run; /* (n_runs + 1) */
  const av_sparse_entry *entry;
} av_sparse_part;

/* Larger counts leave the loss of nb_counts and zinb_counts to the caller, who adds it in double:
 * its terms are of the order x log x and cancel. Their gradients are there. */
#define AV_LARGE_COUNT 256.0f

typedef struct av_dropout_plan {
  bool drops;
  uint32_t threshold;
  float scale;
  uint64_t seed;
  uint32_t epoch, layer;
} av_dropout_plan;

/* BatchNorm of one layer as columns of floats. */
typedef struct av_norm_columns {
  const float *mean, *inv_sigma, *gamma, *beta;
} av_norm_columns;

/* The latent draws of one pass. */
typedef struct av_latent_plan {
  int64_t n_latent, stride; /* of rows of z and dz */
  bool sample, simplex;
  float kl_weight;
  uint64_t key; /* of Philox: seed and purpose */
  uint32_t epoch;
} av_latent_plan;

typedef struct av_adam_step {
  float scale, weight_decay;
  float shrink;                     /* lr * decoupled weight decay */
  float beta1, rest1, beta2, rest2; /* rest = 1 - beta, rounded once */
  float rate;                       /* lr / (1 - beta1^step) */
  float inv_root;                   /* 1 / sqrt(1 - beta2^step) */
  float eps;
} av_adam_step;

/* K(return type, name, (arguments)) */
#define AV_KERNEL_LIST(K)                                                                          \
  /* sparse.c */                                                                                   \
  K(void, log1p_row, (int64_t n, const float *x, float *y))                                        \
  K(void, expand_row,                                                                              \
    (int64_t n, const uint16_t *gene, const uint8_t *value, int32_t *to_gene, float *to_value))    \
  K(void, weighted_rows,                                                                           \
    (int64_t count, const int32_t *index, const float *value, const float *rows, int64_t stride,   \
     int64_t n, float *out))                                                                       \
  K(void, sparse_backward,                                                                         \
    (const av_sparse_part *part, const float *dy, int64_t stride, int64_t n, float *dw))           \
  K(void, sparse_backward_exact,                                                                   \
    (const av_sparse_part *part, const float *dy, int64_t stride, int64_t n, const double *magic,  \
     double *dw))                                                                                  \
  /* dense.c */                                                                                    \
  K(void, panel_product,                                                                           \
    (int64_t rows, int64_t depth, const float *x, int64_t x_stride, int64_t panels,                \
     const float *packed, const float *const *start, float *y, int64_t y_stride))                  \
  K(void, panel_dots,                                                                              \
    (int64_t rows, int64_t depth, int64_t panels, const float *d, int64_t d_stride,                \
     const float *packed, bool add, float *out, int64_t out_stride, float *lanes))                 \
  K(void, outer_add,                                                                               \
    (int64_t rows, int64_t depth, const float *x, int64_t x_stride, const float *d,                \
     int64_t d_stride, int64_t n, float *dw, int64_t stride))                                      \
  K(void, sum_rows, (int64_t rows, const float *d, int64_t d_stride, int64_t n, float *out))       \
  K(void, add_row, (int64_t n, const float *x, float *y))                                          \
  /* layer.c */                                                                                    \
  K(void, layer_pack,                                                                              \
    (int64_t depth, int64_t n, int64_t begin, int64_t end, const float *w, int64_t depth_stride,   \
     int64_t stride, float *packed))                                                               \
  K(void, layer_product,                                                                           \
    (int64_t rows, int64_t depth, const float *x, int64_t x_stride, int64_t n,                     \
     const float *packed, const float *bias, float *y, int64_t y_stride))                          \
  K(void, layer_outer,                                                                             \
    (int64_t rows, int64_t m, const float *x, int64_t x_stride, int64_t n, const float *d,         \
     int64_t d_stride, float *dw, int64_t stride))                                                 \
  /* likelihood.c */                                                                               \
  K(void, theta_row, (int64_t n, const float *px_r, float *theta, float *inverse))                 \
  K(float, row_max, (int64_t n, const float *x))                                                   \
  K(double, row_exp, (int64_t n, float top, float *x))                                             \
  K(double, row_softplus, (int64_t n, float *x, float *ratio))                                     \
  K(av_cell_sums, nb_row,                                                                          \
    (int64_t n, const float *e, float scale, const av_theta *theta, float *q, float *w))           \
  K(av_cell_sums, zinb_row,                                                                        \
    (int64_t n, const float *e, float scale, const av_theta *theta, float *p, float *q, float *w)) \
  K(av_cell_sums, nb_counts,                                                                       \
    (const av_cell_counts *counts, const float *e, float scale, const av_theta *theta, float *dq,  \
     float *dw))                                                                                   \
  K(av_cell_sums, zinb_counts,                                                                     \
    (const av_cell_counts *counts, const float *e, float scale, const av_theta *theta,             \
     const float *p, float *dq, float *dw, float *dp))                                             \
  K(void, softmax_grad, (int64_t n, float factor, const float *q, float *e))                       \
  K(void, product_row, (int64_t n, float factor, const float *x, const float *y, float *out))      \
  K(void, scale_row, (int64_t n, float factor, const float *x, float *y))                          \
  /* units.c */                                                                                    \
  K(void, norm_row,                                                                                \
    (int64_t n, const av_norm_columns *columns, bool relu, const av_dropout_plan *dropout,         \
     int64_t cell, const float *x, float *y))                                                      \
  K(void, act_row,                                                                                 \
    (int64_t n, bool relu, const av_dropout_plan *dropout, int64_t cell, const float *x,           \
     float *y))                                                                                    \
  K(float, layer_norm_row, (int64_t n, float *v))                                                  \
  K(void, layer_norm_grad_row, (int64_t n, float inv_sigma, const float *xhat, float *d))          \
  K(void, act_grad_row,                                                                            \
    (int64_t n, bool masked, float scale, const float *y, const float *dy, float *dx))             \
  K(void, norm_grad_row,                                                                           \
    (int64_t n, const av_norm_columns *columns, bool masked, float scale, const float *c0,         \
     const float *c1, const float *x, const float *y, const float *dy, float *dx))                 \
  K(void, norm_sums,                                                                               \
    (int64_t rows, int64_t n, int64_t stride, const av_norm_columns *columns, bool masked,         \
     float scale, const float *x, const float *y, const float *dy, double *sum, double *product))  \
  K(void, norm_terms_row,                                                                          \
    (int64_t n, const av_norm_columns *columns, bool masked, float scale, const float *x,          \
     const float *y, const float *dy, float *d, float *product))                                   \
  K(void, moments,                                                                                 \
    (int64_t rows, int64_t n, int64_t stride, const float *x, double *sum, double *squares))       \
  K(void, columns_of_moments,                                                                      \
    (int64_t n, const double *moments, int64_t n_cells, float *mean, float *inv_sigma))            \
  K(void, columns_of_running, (int64_t n, const float *running, float *mean, float *inv_sigma))    \
  K(void, move_running, (int64_t n, const double *moments, int64_t n_cells, float *running))       \
  /* latent.c: n cells, numbers `cell`; kl (n, 2): of z, of l; prior: rows `code` of a table */    \
  K(void, latent_draw,                                                                             \
    (const av_latent_plan *plan, int64_t n, const int64_t *cell, const float *head, float *z,      \
     double *kl))                                                                                  \
  K(void, latent_grad,                                                                             \
    (const av_latent_plan *plan, int64_t n, const int64_t *cell, const float *head,                \
     const float *z, const float *dz, float *dhead))                                               \
  K(void, library_draw,                                                                            \
    (const av_latent_plan *plan, int64_t n, const int64_t *cell, const int32_t *code,              \
     const float *head, const double *prior, float *l, double *kl))                                \
  K(void, library_grad,                                                                            \
    (const av_latent_plan *plan, int64_t n, const int64_t *cell, const int32_t *code,              \
     const float *head, const double *prior, const float *dl, float *dhead))                       \
  /* fold.c: AV_FOLD genes of the linear decoder's BatchNorm, (., AV_FOLD) arrays of doubles */    \
  K(void, fold_covariance,                                                                         \
    (int64_t k, int64_t present, const double *zz, const double *zs, const double *share,          \
     const double *w, double *cw))                                                                 \
  K(void, fold_pairs,                                                                              \
    (int64_t n, const int32_t *left, const int32_t *right, const double *share, const double *ws,  \
     double *cs))                                                                                  \
  K(void, fold_moments,                                                                            \
    (int64_t width, const double *mean_u, const double *w, const double *cw, double *mean,         \
     double *variance))                                                                            \
  K(void, fold_products,                                                                           \
    (int64_t rows, int64_t width, const double *left, const double *w, double *lanes))             \
  K(void, fold_take, (int64_t n, const float *from, double *out))                                  \
  K(void, fold_add, (int64_t n, const double *x, float *to))                                       \
  K(void, fold_factors,                                                                            \
    (int64_t n, const double *mean, const double *variance, const float *gamma, const float *beta, \
     float *factor, float *shift, float *inv_sigma))                                               \
  K(void, fold_gradients,                                                                          \
    (int64_t width, int64_t n_cells, const double *mean_u, const double *w, const double *cw,      \
     const double *s, const double *gamma, const double *inv_sigma, double *p, double *dgamma,     \
     double *weight))                                                                              \
  K(void, fold_weigh, (int64_t k, const double *weight, const double *w, double *out))             \
  /* exact.c */                                                                                    \
  K(void, max_abs_row, (int64_t n, const float *x, float *top))                                    \
  K(void, add_row_exact, (int64_t n, const float *x, const double *magic, double *y))              \
  K(void, add_squares_exact, (int64_t n, const float *x, const double *magic, double *y))          \
  K(void, round_row, (int64_t n, const float *x, const double *magic, double *y))                  \
  /* adam.c */                                                                                     \
  K(void, adam_float,                                                                              \
    (const av_adam_step *step, int64_t n, float *p, float *g, float *m, float *v))                 \
  K(void, adam_double,                                                                             \
    (const av_adam_step *step, int64_t n, float *p, double *g, float *m, float *v))                \
  K(double, squares_float, (int64_t n, const float *x))                                            \
  K(double, squares_double, (int64_t n, const double *x))

#define AV_KERNEL_FIELD(type, name, args) type(*name) args;
typedef struct av_kernels {
  const char *instructions;
  AV_KERNEL_LIST(AV_KERNEL_FIELD)
} av_kernels;

extern const av_kernels av_kernels_baseline;
#if defined(__x86_64__)
#define AV_KERNELS_X86 1
extern const av_kernels av_kernels_avx2;
extern const av_kernels av_kernels_avx512;
#endif

#ifdef AV_ISA
#define AV_PASTE2(a, b) a##b
#define AV_PASTE(a, b) AV_PASTE2(a, b)
#define AV_KERNEL(name) AV_PASTE(av_kernel_##name, AV_ISA)
#define AV_KERNEL_PROTOTYPE(type, name, args) type AV_KERNEL(name) args;
AV_KERNEL_LIST(AV_KERNEL_PROTOTYPE)
#endif

#endif
