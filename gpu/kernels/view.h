/* What kernels are told of the counts, the minibatch and the step: plain structs, the same to the C
 * compiler and to nvcc. Pointers are to device memory.
 *
 * Letters as in backend/backend.h. Rules of every kernel of this folder:
 *   - the number of rows B is read on the device (av_gpu_rows.n), so that a captured graph serves
 *     minibatches of any size up to max_rows; grids are made for max_rows;
 *   - who writes a (B, n) array writes zeros to its rows B .. max_rows - 1, so that products over
 *     max_rows rows are right;
 *   - no atomic additions of floating-point numbers: every sum has an order of its own, and the
 *     bits are the same from run to run.
 */
#ifndef AV_GPU_KERNELS_VIEW_H
#define AV_GPU_KERNELS_VIEW_H

#include <stdbool.h>
#include <stdint.h>

/* A rank's slab. Counts as in data/counts.h, cells as in data/dataset.h. */
typedef struct av_gpu_data {
  int64_t first; /* global number of the first cell */
  int64_t n_genes;
  const int64_t *row_start; /* (cells + 1) */
  const void *gene;         /* uint16_t, or uint32_t if wide_genes */
  const void *value;        /* uint8_t, uint16_t or float: kind */
  bool wide_genes;
  int kind;                    /* av_count_kind */
  const int64_t *n_escaped;    /* (1) */
  const int64_t *escaped_at;   /* (n_escaped) increasing */
  const float *escaped_value;  /* (n_escaped) */
  int n_factors, n_onehot;     /* of the design; O */
  const int32_t *column;       /* (cells, n_factors) one-hot columns of a cell */
  const int32_t *factor_first; /* (n_factors + 1) first column of each factor */
  int n_continuous;            /* C */
  const float *continuous;     /* (cells, C) */
  const int32_t *batch;        /* (cells); NULL: all 0 */
  const int32_t *label;        /* (cells); NULL without labels */
  const float *log_size;       /* (cells) logarithm of the size factor, or of the library size */
} av_gpu_data;

/* The rows of a minibatch. Where counts are streamed (stage.h), those in `data` are the minibatch's
 * alone, in its order. */
typedef struct av_gpu_rows {
  av_gpu_data data;
  const int32_t *n;   /* (1) B */
  const int32_t *row; /* (max_rows) numbers within the slab */
  const int32_t
      *place; /* (max_rows) in row_start: `row`, or 0, 1, 2, ... if it is the minibatch's */
  int64_t max_rows;
} av_gpu_rows;

/* What differs from one step to the next. */
typedef struct av_gpu_step {
  int64_t n_cells; /* Bg */
  uint32_t epoch;  /* av_draw.epoch */
  float kl_weight;
  float adam_rate; /* lr / (1 - beta1^step) */
  float adam_root; /* 1 / sqrt(1 - beta2^step) */
  float adam_scale;
  float adam_decay; /* decoupled: lr * decay, else 0 */
} av_gpu_step;

#endif
