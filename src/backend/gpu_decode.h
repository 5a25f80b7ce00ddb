/* How the decoder of the cuda backend cuts a call into chunks and slabs, how it adds up gradients
 * of one-hot columns and of px_r's rows, and its scratch: arithmetic alone, for the backend itself
 * (gpu/decode.c) and for those who plan memory without a GPU (gpu_memory.h).
 *
 * The model's gradients on logits are a (cells, genes) matrix, which the decoder does not write
 * where it can add up what it needs of it at once:
 *   - over all cells, for rows of w that are inputs (AV_GPU_DECODE_WIDTH at most with c): x, and
 *     one-hot columns as any other input if there are few;
 *   - over runs of cells in the order of one key, of as many keys as there are: the columns of one
 *     factor, or px_r's rows (both, if they are the batch's).
 * Columns or rows of px_r that neither serves are added up from rows that are written, in chunks
 * that stay in a second-level cache; so are the products of wider inputs. And rows are written
 * where that is faster, by the instructions of the compiled kernels: tests/bench/ways.md.
 *
 * Not collective; no errors. */
#ifndef AV_BACKEND_GPU_DECODE_H
#define AV_BACKEND_GPU_DECODE_H

#include <stdbool.h>
#include <stdint.h>

#ifndef ATLASVI_DECODE_WIDTH /* by CMake, to measure where the ways meet */
#define ATLASVI_DECODE_WIDTH 40
#endif

enum {
  AV_GPU_DECODE_WIDTH = ATLASVI_DECODE_WIDTH, /* rows of w, and c, of a narrow input: there is room
                                                 for no more */
  AV_GPU_DECODE_FEW = 20,      /* with all one-hot columns as inputs, where none is in runs */
  AV_GPU_DECODE_TILE = 32,     /* genes, and cells, that a block takes at a time */
  AV_GPU_DECODE_SLAB = 256,    /* cells at most */
  AV_GPU_DECODE_BLOCKS = 1024, /* of tiles, that are enough */
  AV_GPU_DECODE_PIECES = 8     /* of runs, for each slab */
};
#define AV_GPU_DECODE_SCRATCH (INT64_C(256) << 20) /* of a chunk's cells, where 32 fit */

/* Whose rows px_r has. */
typedef enum av_gpu_px_r {
  AV_GPU_PX_R_NONE, /* no parameter */
  AV_GPU_PX_R_ONE,  /* all cells' */
  AV_GPU_PX_R_BATCH,
  AV_GPU_PX_R_LABEL
} av_gpu_px_r;

/* By AV_LIKELIHOOD_* and AV_DISPERSION_* of config.h. */
int av_gpu_px_r_of(int likelihood, int dispersion);

/* Whether rows of the gradients on logits are written. */
typedef enum av_gpu_decode_way {
  AV_GPU_DECODE_CHOSEN,  /* what is fastest, by counts; the others are for those who compare them */
  AV_GPU_DECODE_NO_ROWS, /* where there is room to do without */
  AV_GPU_DECODE_KEPT,    /* for one-hot columns */
  AV_GPU_DECODE_WIDE     /* for all, after the logits, which are products by cuBLAS */
} av_gpu_decode_way;

typedef struct av_gpu_decode_sizes {
  int64_t max_rows, n_genes;
  int64_t n_heads; /* 1 to 3 */
  int64_t n_in, n_onehot;
  int64_t n_factors;    /* of the one-hot block ... */
  const int64_t *first; /* ... (n_factors + 1) first column of each; may be NULL without columns */
  int px_r;             /* av_gpu_px_r */
  int64_t n_px_r;       /* its rows */
  int way;              /* av_gpu_decode_way */
} av_gpu_decode_sizes;

enum { AV_GPU_WALK_NONE = -1, AV_GPU_WALK_PX_R = -2 }; /* no runs; runs of px_r's rows alone */

typedef struct av_gpu_decode_cut {
  bool wide;   /* logits are in rows, made by cuBLAS */
  bool spread; /* narrow: one-hot columns are inputs, but for those in runs */
  bool kept;   /* gradients on logits are in rows, for one-hot columns */
  bool w_rows; /* gradients on px_r are */
  int walk;    /* factor whose columns are in runs; or as above */
  bool px_r_runs;
  int64_t stride;    /* of rows: n_genes, up to a multiple of a tile */
  int64_t width;     /* inputs, and c */
  int64_t n_partial; /* sums of a slab over all its cells */
  int64_t n_runs;    /* of a run */
  int64_t chunk;     /* cells at a time */
  int64_t slab, n_slabs;
} av_gpu_decode_cut;

/* A call that ends in losses; with or without gradients the same. */
av_gpu_decode_cut av_gpu_decode_cut_of(const av_gpu_decode_sizes *of);
/* Bytes of scratch that it takes, at most. */
int64_t av_gpu_decode_bytes(const av_gpu_decode_sizes *of);

#endif
