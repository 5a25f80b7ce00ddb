/* What the reference backend keeps behind the opaque handles. Internal to this folder. */
#ifndef AV_BACKEND_REFERENCE_STATE_H
#define AV_BACKEND_REFERENCE_STATE_H

#include "backend/operations.h"

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

/* The operations, in files that are named after them. */
AV_DECLARE_OPERATIONS(ref_)

#endif
