/* Decoder and likelihood, internal: see decode.c for the course of a call. */
#ifndef AV_BACKEND_CPU_DECODE_H
#define AV_BACKEND_CPU_DECODE_H

#include "backend/cpu/state.h"

enum { AV_HEADS = 3 };

/* One head during a call. */
typedef struct av_decode_head {
  const float *w;      /* (in + onehot, G) */
  const float *start;  /* (n_starts, stride) c, or c plus each one-hot row of w; padded */
  const float *packed; /* w's first n_in rows in panels */
  float *rows;         /* (chunk, stride) logits, then gradients on them */
  void *dw, *dc;       /* av_grad arrays; NULL without gradients; dc NULL without c too */
} av_decode_head;

/* What stays the same during a call. */
typedef struct av_decode_run {
  av_backend *be;
  const av_kernels *kernels;
  const av_batch *batch;
  const av_decode *decode;
  const float *x, *l;
  int64_t genes, panels, stride; /* stride = panels * AV_PANEL: padded genes */
  int64_t n_in;
  int64_t n_starts; /* one-hot columns where they are one factor's and few, else 1 */
  bool zinb, poisson, cell_theta, gradients; /* cell_theta: px_r is a head */
  int n_heads;
  av_decode_head head[AV_HEADS]; /* scale, then zero inflation and px_r where there are such */
  float *p_rows;                 /* (chunk, stride) zero inflation; NULL unless zinb */
  float *w_rows;                 /* (chunk, stride) gradients on px_r, a head's rows or its own */
  const int32_t *row;            /* (B) row of px_r of each cell; NULL: the first */
  const int32_t
      *theta_slot;    /* (rows of px_r) place of its dispersions among those prepared; NULL: one */
  const float *theta; /* (slots, 2, stride) theta and 1 / (theta + 1e-8) */
  int64_t chunk;      /* cells worked on together by all threads, in tiles of AV_ROW_BLOCK */
  float *space;       /* threads * space_size */
  int64_t space_size;
  double *loss; /* (B) */
  float *dx, *dl;
} av_decode_run;

/* One thread's rows of floats. */
typedef struct av_decode_space {
  float *q;            /* (stride) */
  float *dq, *dw, *dp; /* (stride) corrections of the non-zeros; dq and dw lie side by side */
  float *theta;        /* (2, stride) theta and its inverse, where they are the cell's own */
  float *ratio;        /* (stride) sigmoid(a) / softplus(a) of the logits */
  float *lanes;        /* scratch of panel_dots */
} av_decode_space;

av_decode_space av_decode_space_of(const av_decode_run *run, int part);

/* Logits of at most AV_ROW_BLOCK cells [begin, end) of the batch into rows [begin - base, end -
 * base) of each head. */
void av_decode_logits(const av_decode_run *run, int64_t base, int64_t begin, int64_t end);

/* One cell: logits in row r become gradients (decode_cell.c). Loss to run->loss. */
void av_decode_cell(const av_decode_run *run, const av_decode_space *space, int64_t i, int64_t r);

/* Row of px_r of cell i. */
static inline int64_t av_decode_row_of(const av_decode_run *run, int64_t i) {
  return run->row == NULL ? 0 : run->row[i];
}
/* px_r (G) of cell i, whose rows of logits are r. */
static inline const float *av_decode_px_r(const av_decode_run *run, int64_t i, int64_t r) {
  return run->cell_theta
             ? run->w_rows + r * run->stride
             : av_const_floats(run->decode->px_r) + av_decode_row_of(run, i) * run->genes;
}

/* The same in double and in logarithms, for cells whose numbers leave the range of the float
 * kernels (decode_exact.c). Returns the whole loss, and Q. */
av_cell_sums av_decode_cell_exact(const av_decode_run *run, const av_decode_space *space, int64_t i,
                                  int64_t r);

/* Weight, one-hot, intercept and dispersion gradients from the rows of cells [base, base + n)
 * (decode_grad.c). Order-free: collective, and the rows must be those of all B cells. */
void av_decode_weight_grads(const av_decode_run *run, int64_t base, int64_t n);
void av_decode_weight_grads_strict(const av_decode_run *run);

#endif
