/* How the decoder of the cuda backend cuts a call into chunks, slabs and passes, how it adds up
 * gradients of one-hot columns and of px_r's rows, and its scratch: arithmetic alone, for the
 * backend itself (gpu/decode.c) and for those who plan memory without a GPU (gpu_memory.h).
 *
 * The model's gradients on logits are a (cells, genes) matrix, which the decoder does not write
 * where it can add up what it needs of it at once:
 *   - over all cells, for rows of w that are inputs (AV_GPU_DECODE_WIDTH at most with c): x, and
 *     one-hot columns as any other input if there are few;
 *   - over runs of cells in the order of one key, of as many keys as there are: the columns of one
 *     factor, or px_r's rows (both, if they are the batch's).
 * What there is no room for in one pass over a chunk's cells takes more: each computes the
 * gradients on logits anew, and adds up a window of the inputs (no one-hot columns then) and the
 * runs of one factor, or of px_r's rows. So no model needs rows. But each pass computes all terms,
 * and leaves parts of dx that are as many bytes as a head's rows for each 32 inputs of its window.
 * Instead, columns, rows of px_r and products may be added up from rows that are written, in chunks
 * that stay in a second-level cache. A linear decoder does that where it was measured to be faster
 * (gpu/trial.h).
 *
 * Not collective; no errors. */
#ifndef AV_BACKEND_GPU_DECODE_H
#define AV_BACKEND_GPU_DECODE_H

#include <stdbool.h>
#include <stdint.h>

enum {
  AV_GPU_DECODE_WIDTH = 40,    /* rows of w, and c, of a pass: there is room for no more */
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
  AV_GPU_DECODE_NO_ROWS, /* none, in as many passes as that takes */
  AV_GPU_DECODE_KEPT,    /* for one-hot columns */
  AV_GPU_DECODE_WIDE,    /* for all, after the logits, which are products by cuBLAS */
  AV_GPU_DECODE_WAYS
} av_gpu_decode_way;

typedef struct av_gpu_decode_sizes {
  int64_t max_rows, n_genes;
  int64_t n_heads; /* 1 to 3 */
  int64_t n_in, n_onehot;
  int64_t n_factors;    /* of the one-hot block ... */
  const int64_t *first; /* ... (n_factors + 1) first column of each; may be NULL without columns */
  int px_r;             /* av_gpu_px_r */
  int64_t n_px_r;       /* its rows */
  bool linear;          /* inputs are the latent code; else those of a hidden layer */
  int way;              /* av_gpu_decode_way */
} av_gpu_decode_sizes;

/* Ways that such a decoder may take, whatever of->way: how many, the first of them what it takes
 * unless it is told otherwise (gpu/trial.h). That is without rows, but for a decoder after hidden
 * layers of more inputs than are added up at once: it is products, and always wide. */
int av_gpu_decode_ways(const av_gpu_decode_sizes *of, int ways[AV_GPU_DECODE_WAYS]);

enum { AV_GPU_WALK_NONE = -1, AV_GPU_WALK_PX_R = -2 }; /* no runs; runs of px_r's rows alone */

typedef struct av_gpu_decode_cut {
  bool wide;    /* logits are in rows, made by cuBLAS */
  bool spread;  /* narrow: one-hot columns are inputs, but for those in runs */
  bool kept;    /* gradients on logits are in rows, for one-hot columns */
  bool w_rows;  /* gradients on px_r are */
  int n_passes; /* over each chunk. If more than 1: nothing of the above; walk is the first's;
                   px_r_runs, width, n_partial and n_runs are the most that any has */
  int walk;     /* factor whose columns are in runs; or as above */
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

/* What a pass adds up: sums of inputs [from, from + own), and the rest as in the cut. Those of c
 * and of a single row of px_r are in all passes the same; the first's count. */
typedef struct av_gpu_decode_pass {
  int64_t from, own;
  int walk;
  bool px_r_runs;
  int64_t width, n_partial, n_runs;
} av_gpu_decode_pass;

/* Pass p < cut->n_passes of what av_gpu_decode_cut_of made of the same sizes. */
av_gpu_decode_pass av_gpu_decode_pass_of(const av_gpu_decode_sizes *of,
                                         const av_gpu_decode_cut *cut, int p);
/* Bytes of scratch that it takes, at most; and with any of its ways. */
int64_t av_gpu_decode_bytes(const av_gpu_decode_sizes *of);
int64_t av_gpu_decode_most_bytes(const av_gpu_decode_sizes *of);

#endif
