/* Decoder and likelihood of the cuda backend: kernels and what they are told.
 *
 * The loss is split as model.md section 5 has it: a base term that every gene pays, as if its count
 * were 0, and corrections for the non-zero counts alone. Cells are worked on in chunks of n rows of
 * the minibatch, [first, first + n). In the order of a call:
 *
 *   (products)  wide: x w of each head into its rows (n, stride), by cuBLAS. Narrow: logits are
 *               made where they are needed, and no (n, G) array exists but where sums that follow
 *               need one (sort, groups).
 *   rows        a block has 1 cell, or 4 of large minibatches, and all genes: log-sum-exp of the
 *               logits, loss, Q = sum of q, which is the gradient on l; and where each tile's
 *               entries begin in the cell's list. Wide: it also completes the rows, + c + one-hot.
 *   (sort)      narrow, with a walk: the order of the cells' batches, or other keys.
 *   tiles       gradients: a block has 32 genes and walks over a slab of cells, 8 a warp at a time:
 *               q again, corrections (a lane an entry), d = q - rho Q, sums over its cells for w,
 *               c and px_r, sums over its genes for dx. With a walk: sums over runs of cells of a
 *               key, for one-hot rows of w, and for px_r by batch or label. Wide: d replaces the
 *               logits.
 *   finish      adds up slabs, pieces of runs and tiles, in order; the loss.
 *               Narrow, with more to add up than there is room for: sort, tiles and finish again,
 *               in passes, each with a window of the inputs and a walk of its own; inputs that are
 *               outside add to the logits by loads from x and w.
 *   (sort, groups)  what no walk serves: rows of d that share a column, or a row of px_r, added up
 *               in the order of the cells.
 *   (products)  wide: dw += x^T d, dx = d w^T.
 *
 * So a narrow model costs three launches, with one-hot columns that are more than inputs or with
 * px_r by batch or label four, and with each further pass two or three more. Which it is:
 * backend/gpu_decode.h. What bounds them, by design (nothing has been measured): narrow, NB, 10
 * inputs, 2,000 genes, 140 non-zeros a cell, instructions as compiled for sm_90 and at 0.65 of the
 * issue rate of 132 multiprocessors:
 *   rows   about 250 instructions for each cell and gene (logits 60, base terms 120, entries 60):
 *          100 us at 4,096 cells. 80 KB of w a block, the second time from shared memory, which
 *          holds the logits up to 40 KB. At 128 cells: one block a multiprocessor, some us.
 *   tiles  about 300 (base terms 130, entries 45, logits and sums of w 45, dx 30): 130 us at 4,096
 *          cells; 252 blocks of 4 warps at 128. Registers (128) allow 16 warps a multiprocessor.
 *          dx takes 4 n_in bytes of scratch for each cell and tile, 10 MB at 4,096.
 *   (Counted since, they are 193 and 219, within a fourth: below, and tests/bench/roofline.md.)
 *   sort   n^2 comparisons (decode_groups.cu).
 *   runs   some 6 for each sum, whatever the number of keys, which takes no scratch: pieces are
 *          AV_DECODE_PIECES rows a slab, 136 at 4,096 cells, 32 at 128.
 *   finish the bytes of those parts; at 128 cells its launch.
 * Wide: the products, and 7 passes over each head's (n, G) rows, which stay in the second-level
 * cache (chunks of 32 MB).
 *
 * What the ways cost. Narrow inputs cost instructions: as warps issue them for each cell and gene,
 * counted in the kernels as compiled for sm_90, at 4,096 cells,
 *   inputs    10   14   20   wide
 *   rows     193  203  215    159
 *   tiles    219  253  364    153
 * Wide has three products beside, which take about as long whatever the inputs, as the rows' bytes
 * bound them, and three launches more. So narrow is expected to be faster at small minibatches and
 * with few inputs: tests/bench/ways.md. None of it was measured on a GPU; a run measures which way
 * is faster for itself (trial.h). AV_DECODE_WIDTH is what there is room for, by registers and by
 * shared memory of ZINB by cell (55 KB); rho and mu alone are made without rows for as many inputs,
 * sums of a linear decoder's rho for any number.
 *
 * Numbers: float, sums in double beyond short runs. Cells whose means leave the range of the float
 * formulas (log mean above 50; never in real data) are computed in double and in logarithms
 * (math/likelihood.h), counts above 256 in double. */
#ifndef AV_GPU_KERNELS_DECODE_H
#define AV_GPU_KERNELS_DECODE_H

#include "backend/gpu_decode.h"
#include "kernels/view.h"

#include <cuda_runtime_api.h>

/* Likelihood, and whether px_r is the output of a head. */
typedef enum av_decode_kind {
  AV_DECODE_POISSON,
  AV_DECODE_NB,
  AV_DECODE_NB_BY_CELL,
  AV_DECODE_ZINB,
  AV_DECODE_ZINB_BY_CELL
} av_decode_kind;

enum {
  AV_DECODE_HEADS = 3,
  AV_DECODE_GENES = AV_GPU_DECODE_TILE,  /* of a tile */
  AV_DECODE_CELLS = AV_GPU_DECODE_TILE,  /* that a block of tiles takes at a time */
  AV_DECODE_FEW = AV_GPU_DECODE_FEW,     /* rows of w, and c, whose sums a warp keeps for itself */
  AV_DECODE_WIDTH = AV_GPU_DECODE_WIDTH, /* at most: a block's warps share their sums */
  AV_DECODE_PIECES = AV_GPU_DECODE_PIECES, /* runs of a slab that may go on: two of each warp */
  AV_DECODE_KEY_GENES = 128                /* of a block of groups */
};

/* One output head. */
typedef struct av_gpu_decode_head {
  const float *w; /* (n_in + n_onehot, G) */
  const float *c; /* (G); NULL for 0 */
  float *dw, *dc; /* NULL without gradients, dc also without c */
  float *rows;    /* scratch (n, stride); wide: products of x and w, then logits, then the gradients
                     on them; narrow: those gradients, or NULL where nobody asks for them */
} av_gpu_decode_head;

/* Cells in the order of a key, such as their batch: cells of a key are a run, whose gradients are
 * added up as tiles walks over it. Rows of all the keys need no scratch then: who has the whole of
 * a run adds it to its row, and a warp leaves pieces of the first and last run of its cells, which
 * finish adds up. */
typedef struct av_gpu_decode_walk {
  const int32_t *order; /* (n) rows of the chunk, those that are there sorted; NULL: as they come,
                           and there are no runs */
  const int32_t *key;   /* of the cell in slab row r: key[r * stride] */
  int stride;
  bool columns;      /* keys are one-hot columns: runs of the gradients on logits, for dw */
  float *dpx_r;      /* (keys, G) runs of those on px_r; NULL: none */
  int n;             /* sums of a run: a head each, px_r */
  float *pieces;     /* scratch (n_slabs, AV_DECODE_PIECES, n, stride of rows) */
  int32_t *piece_of; /* scratch (n_slabs, AV_DECODE_PIECES) its key; -1: there is none */
} av_gpu_decode_walk;

/* One call, one chunk of cells. */
typedef struct av_gpu_decode {
  av_gpu_rows rows;
  int64_t first, n;   /* the chunk: rows [first, first + n) of the minibatch, B or not */
  int kind;           /* av_decode_kind */
  bool softplus;      /* rho = softplus(logit); else softmax over genes */
  bool wide;          /* logits are in the heads' rows */
  bool spread;        /* narrow: one-hot columns are inputs as any other, but for those of ... */
  int apart, n_apart; /* ... a walk by columns, [apart, apart + n_apart) */
  int64_t n_genes, stride; /* G; of rows and partial: the next multiple of AV_DECODE_GENES */
  int n_in, n_onehot;
  int width;   /* rows of partial for a head: inputs (own; none if wide) and, last, c */
  int n_heads; /* scale, then zero inflation and px_r where the kind has them */
  av_gpu_decode_head head[AV_DECODE_HEADS];
  const float *x;      /* (max_rows, n_in) */
  const float *l;      /* (max_rows) */
  const float *px_r;   /* rows of G; NULL for Poisson and by cell */
  const int32_t *code; /* row of px_r of each cell of the slab; NULL: the first */

  /* scratch: facts about each cell */
  float4 *cell;    /* (n) top, scale, factor, exact: mu = scale e and d = q - factor e, with
                      e = exp(logit - top) or softplus(logit); exact != 0: in double */
  double2 *exact;  /* (n) log of the sum of e, and Q */
  double *loss;    /* (max_rows) */
  int32_t *starts; /* (n, n_tiles + 1) first entry of each tile of genes in the cell's list; NULL
                      without gradients */
  int64_t n_tiles; /* of genes */

  /* gradients */
  av_gpu_decode_walk walk;
  int64_t slab, n_slabs; /* cells of a slab; of tiles */
  float *partial;        /* scratch (n_slabs, n_partial, stride): heads' rows, then px_r */
  int n_partial;
  float *dx_partial;     /* scratch (n_tiles, n, own), narrow */
  float *w_rows;         /* scratch (n, stride) gradients on px_r, with `code`; NULL: runs */
  float *dpx_r;          /* (G) of the only row of px_r; NULL otherwise */
  float *dx;             /* (max_rows, n_in) */
  float *dl;             /* (max_rows) */
  const int32_t *beside; /* narrow: columns of n_beside factors that are not inputs as any other, of
                            the cell in slab row r: beside[r * data's n_factors + f] */
  int n_beside;
  int from, own; /* inputs [from, from + own) of n_in whose sums a pass of tiles and finish makes */
} av_gpu_decode;

/* Cells of the chunk by a key, such as their columns of a factor. */
typedef struct av_gpu_decode_keys {
  const int32_t *key; /* (cells of the slab, stride) of which n_factors are meant */
  int stride, n_factors;
  const int32_t *first; /* (n_factors + 1) first key of each factor; NULL: one has them all */
  int n_keys;
  int32_t *order;       /* scratch (n_factors, n) rows of the chunk, sorted by each factor's keys */
  int32_t *begin, *end; /* scratch (n_keys) where each key's rows lie in order */
} av_gpu_decode_keys;

#ifdef __cplusplus
extern "C" {
#endif

/* cell, exact, loss and dl, starts; wide: completes the heads' rows. */
cudaError_t av_gpu_decode_rows(cudaStream_t stream, const av_gpu_decode *call);
/* partial, dx_partial or the heads' rows, w_rows. */
cudaError_t av_gpu_decode_tiles(cudaStream_t stream, const av_gpu_decode *call);
/* losses[0] += the chunk's, unless NULL; with gradients dw, dc and dpx_r +=, and dx of the window
 * where it is narrow. */
cudaError_t av_gpu_decode_finish(cudaStream_t stream, const av_gpu_decode *call, bool gradients,
                                 double *losses);

/* order, begin and end. */
cudaError_t av_gpu_decode_sort(cudaStream_t stream, const av_gpu_decode *call,
                               const av_gpu_decode_keys *keys);
/* sums (n_keys, G) += those of rows (n, stride) of the cells of each key. */
cudaError_t av_gpu_decode_groups(cudaStream_t stream, const av_gpu_decode *call,
                                 const av_gpu_decode_keys *keys, const float *rows, float *sums);

/* rho and mu (n, G) of the chunk, on the device; either may be NULL. Divided by `share`, and
 * `added` to what is there. */
typedef struct av_gpu_decode_outputs {
  float *rho, *mu;
  float share;
  bool added;
} av_gpu_decode_outputs;
cudaError_t av_gpu_decode_values(cudaStream_t stream, const av_gpu_decode *call,
                                 const av_gpu_decode_outputs *to);
/* norms (n): what rho follows from with a cell's logits, exp(logit - x) y, which wide ones are
 * completed for; with softplus {., 1}. */
cudaError_t av_gpu_decode_norms(cudaStream_t stream, const av_gpu_decode *call, float2 *norms);

#ifdef __cplusplus
}
#endif

#endif
