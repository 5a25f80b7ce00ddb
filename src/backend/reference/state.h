/* What the reference backend keeps behind the opaque handles. Internal to this folder. */
#ifndef AV_BACKEND_REFERENCE_STATE_H
#define AV_BACKEND_REFERENCE_STATE_H

#include "backend/backend.h"

/* av_real, av_grad and av_sum arrays are all plain doubles here. */
static inline double *doubles(void *array) { return array; }
static inline const double *const_doubles(const void *array) { return array; }

struct av_data {
  const av_dataset *dataset; /* borrowed */
};

struct av_batch {
  const av_dataset *dataset;
  int64_t max_rows;
  int64_t n;     /* B */
  int64_t *row;  /* (max_rows) local rows */
  int32_t *gene; /* (longest row) one expanded row */
  float *value;
};

/* n zeroed doubles for the caller to free; ends the run when there are none. */
double *scratch(const av_backend *be, int64_t n, const char *what);

/* Expands row i of the batch into batch->gene and batch->value; returns its length. */
static inline int64_t expand_row(const av_batch *batch, int64_t i) {
  return av_counts_row(&batch->dataset->counts, batch->row[i], batch->gene, batch->value);
}
static inline int64_t cell_of(const av_batch *batch, int64_t i) {
  return batch->dataset->first + batch->row[i];
}
static inline int64_t batch_of(const av_batch *batch, int64_t i) {
  return batch->dataset->batch.code[batch->row[i]];
}

/* Covariates of cell i: factor f's one-hot column, and the C continuous ones. */
static inline int64_t n_factors(const av_batch *batch) { return batch->dataset->design.n_factors; }
static inline int64_t column_of(const av_batch *batch, int64_t i, int64_t f) {
  const av_design *design = &batch->dataset->design;
  return design->column[batch->row[i] * design->n_factors + f];
}
static inline double continuous_of(const av_batch *batch, int64_t i, int64_t c) {
  const av_design *design = &batch->dataset->design;
  return design->continuous[batch->row[i] * design->n_continuous + c];
}

/* The operations, by file. */
void ref_sparse_linear(av_backend *be, const av_batch *batch, bool log1p, bool covariates,
                       int64_t n, const av_real *w, const av_real *bias, av_real *y);
void ref_sparse_linear_grad(av_backend *be, const av_batch *batch, bool log1p, bool covariates,
                            int64_t n, const av_real *dy, av_grad *dw, av_grad *dbias);
bool ref_sparse_linear_step(av_backend *be, const av_batch *batch, bool log1p_input,
                            bool covariates, int64_t n, const av_real *dy, const av_adam *adam,
                            av_real *w, av_real *m, av_real *v, av_grad *dw, av_grad *dbias);
void ref_linear(av_backend *be, const av_batch *batch, int64_t m, int64_t n_onehot, int64_t n,
                const av_real *x, int64_t x_stride, const av_real *w, const av_real *bias,
                av_real *y);
void ref_linear_grad(av_backend *be, const av_batch *batch, int64_t m, int64_t n_onehot, int64_t n,
                     const av_real *x, int64_t x_stride, const av_real *w, const av_real *dy,
                     av_real *dx, int64_t dx_stride, av_grad *dw, av_grad *dbias);
void ref_moments(av_backend *be, const av_batch *batch, int64_t n, const av_real *x,
                 av_sum *moments);
void ref_norm_act(av_backend *be, const av_batch *batch, const av_norm *norm, const av_real *x,
                  const av_sum *moments, const av_real *gamma, const av_real *beta,
                  av_real *running, av_real *y);
void ref_layer_norm_grad(av_backend *be, const av_batch *batch, const av_norm *norm,
                         const av_real *x, const av_sum *moments, const av_real *gamma,
                         const av_real *beta, const av_real *y, av_real *d);
void ref_norm_act_sums(av_backend *be, const av_batch *batch, const av_norm *norm, const av_real *x,
                       const av_sum *moments, const av_real *gamma, const av_real *y,
                       const av_real *dy, av_sum *back, av_grad *dgamma, av_grad *dbeta);
void ref_norm_act_grad(av_backend *be, const av_batch *batch, const av_norm *norm, const av_real *x,
                       const av_sum *moments, const av_real *gamma, const av_real *y,
                       const av_real *dy, const av_sum *back, av_real *dx);
void ref_latent_draw(av_backend *be, const av_batch *batch, const av_latent *latent,
                     const av_real *z_head, const av_real *l_head, const av_sum *prior, av_real *z,
                     av_real *l, av_sum *losses);
void ref_latent_grad(av_backend *be, const av_batch *batch, const av_latent *latent,
                     const av_real *z_head, const av_real *l_head, const av_sum *prior,
                     const av_real *z, const av_real *dz, const av_real *dl, av_real *dz_head,
                     av_real *dl_head);
void ref_fold_sums(av_backend *be, const av_batch *batch, int64_t n_in, int64_t n_onehot,
                   const av_real *x, av_sum *stats);
void ref_fold(av_backend *be, const av_fold *fold, const av_sum *stats);
void ref_fold_grad(av_backend *be, const av_fold *fold, const av_sum *stats, const av_grad *p,
                   const av_grad *s, av_grad *dw, av_grad *dgamma, av_grad *dbeta, av_sum *back);
void ref_fold_correct(av_backend *be, const av_batch *batch, const av_fold *fold,
                      const av_sum *stats, const av_sum *back, const av_real *x, av_real *dx);
void ref_decode_nll(av_backend *be, const av_batch *batch, const av_decode *decode,
                    const av_real *x, const av_real *l, av_sum *losses, av_real *dx, av_real *dl);
av_status ref_decode_cells(av_backend *be, const av_batch *batch, const av_decode *decode,
                           const av_real *x, const av_real *l, double *nll);
av_status ref_decode_output(av_backend *be, const av_batch *batch, const av_decode *decode,
                            const av_real *x, const av_real *l, float *rho, float *mu);

#endif
