#include "backend/gpu_decode.h"

#include "config/config.h"

#include <stddef.h>

enum {
  CACHED_BYTES = 32 << 20, /* of rows: they stay in the second-level cache ... */
  CACHED_CELLS = 256       /* ... but with fewer cells the weights cost more than the rows */
};

static int64_t parts(int64_t n, int64_t size) { return (n + size - 1) / size; }
static int64_t at_least(int64_t n, int64_t least) { return n > least ? n : least; }
static int64_t at_most(int64_t n, int64_t most) { return n < most ? n : most; }

/* ---- columns and rows of px_r ---- */

int av_gpu_px_r_of(int likelihood, int dispersion) {
  if (likelihood == AV_LIKELIHOOD_POISSON || dispersion == AV_DISPERSION_GENE_CELL) {
    return AV_GPU_PX_R_NONE;
  }
  return dispersion == AV_DISPERSION_GENE_LABEL   ? AV_GPU_PX_R_LABEL
         : dispersion == AV_DISPERSION_GENE_BATCH ? AV_GPU_PX_R_BATCH
                                                  : AV_GPU_PX_R_ONE;
}

static bool is_coded(const av_gpu_decode_sizes *of) {
  return (of->px_r == AV_GPU_PX_R_BATCH || of->px_r == AV_GPU_PX_R_LABEL) && of->n_px_r > 1;
}

static int64_t columns_of(const av_gpu_decode_sizes *of, int factor) {
  return of->first[factor + 1] - of->first[factor];
}

static int largest_factor(const av_gpu_decode_sizes *of) {
  int largest = 0;
  for (int f = 1; f < of->n_factors; ++f) {
    largest = columns_of(of, f) > columns_of(of, largest) ? f : largest;
  }
  return largest;
}

/* Rows of w, and c, that are inputs if the columns of `factor` are in runs. */
static int64_t width_beside(const av_gpu_decode_sizes *of, int factor) {
  return of->n_in + 1 + of->n_onehot - columns_of(of, factor);
}

/* Without rows of gradients on logits: what is in runs, where at most `most` rows of w, and c, are
 * inputs beside it. The batch's columns, if px_r's rows are the batch's, too. False: nothing is. */
static bool choose_walk(const av_gpu_decode_sizes *of, int64_t most, av_gpu_decode_cut *cut) {
  const int64_t all = of->n_in + 1 + of->n_onehot;
  const bool coded = is_coded(of);
  const bool same = of->px_r == AV_GPU_PX_R_BATCH && of->n_onehot > 0;
  cut->walk = coded ? AV_GPU_WALK_PX_R : AV_GPU_WALK_NONE;
  if (all <= AV_GPU_DECODE_FEW) {
    return true;
  }
  if (coded && same && width_beside(of, 0) <= most) {
    cut->walk = 0;
  } else if (of->n_onehot > 0 && !(coded && all <= most)) {
    const int largest = largest_factor(of);
    if (width_beside(of, largest) > most) {
      return false;
    }
    cut->walk = largest;
  }
  return true;
}

/* ---- rows of gradients on logits, or none ---- */

/* Up to how many rows of w, and c, as inputs no rows are written. */
typedef struct limits {
  int64_t inputs; /* but for one-hot columns */
  int64_t beside; /* with those that are beside a factor's in runs */
  bool wide;      /* rows are written for logits too, not for one-hot columns alone */
} limits;

/* Where the ways meet by the counts of tests/bench/ways.md: rows need launches of their own, which
 * few logits do not pay; and an input costs tiles more than products, where its sums are not in the
 * registers of a warp alone more still. */
static limits limits_of(const av_gpu_decode_sizes *of) {
  enum { SMALL = 400000, MEDIUM = 800000 }; /* logits of a minibatch */
  const int64_t logits = of->max_rows * of->n_genes;
  if (of->way != AV_GPU_DECODE_CHOSEN) {
    return (limits){AV_GPU_DECODE_WIDTH, AV_GPU_DECODE_WIDTH, false};
  }
  if (logits < MEDIUM) {
    const int64_t most = logits < SMALL ? 25 : AV_GPU_DECODE_FEW;
    return (limits){most, most, false};
  }
  if (is_coded(of)) { /* has runs, and with more inputs the kernels that share their sums */
    return (limits){12, 12, true};
  }
  if (of->n_onehot > 0) { /* whose sums need launches, too, if there are rows */
    return (limits){AV_GPU_DECODE_FEW, 12, true};
  }
  return (limits){of->max_rows < 1024 ? 13 : 14, 0, true}; /* below, rows has a cell a block */
}

static void choose_way(const av_gpu_decode_sizes *of, av_gpu_decode_cut *cut) {
  const limits most = limits_of(of);
  cut->walk = AV_GPU_WALK_NONE;
  cut->wide = of->way == AV_GPU_DECODE_WIDE || of->n_in + 1 > most.inputs;
  if (!cut->wide) {
    const bool walked = choose_walk(of, most.beside, cut);
    cut->kept = of->n_onehot > 0 && (!walked || of->way == AV_GPU_DECODE_KEPT);
    cut->wide = cut->kept && most.wide;
  }
}

static void choose_sums(const av_gpu_decode_sizes *of, av_gpu_decode_cut *cut) {
  choose_way(of, cut);
  if (cut->wide) {
    cut->walk = AV_GPU_WALK_NONE;
    cut->kept = of->n_onehot > 0;
  } else if (cut->kept) {
    cut->walk = is_coded(of) ? AV_GPU_WALK_PX_R : AV_GPU_WALK_NONE;
  }
  cut->spread = !cut->wide && !cut->kept;
  const bool same = cut->walk == 0 && of->px_r == AV_GPU_PX_R_BATCH;
  cut->px_r_runs = is_coded(of) && (cut->walk == AV_GPU_WALK_PX_R || same);
  cut->w_rows = is_coded(of) && !cut->px_r_runs;
  const int64_t walked = cut->walk >= 0 ? columns_of(of, cut->walk) : 0;
  cut->width = 1 + (cut->wide ? 0 : of->n_in) + (cut->spread ? of->n_onehot - walked : 0);
  const bool one = of->px_r != AV_GPU_PX_R_NONE && !is_coded(of);
  cut->n_partial = of->n_heads * cut->width + (one ? 1 : 0);
  cut->n_runs = (cut->walk >= 0 ? of->n_heads : 0) + (cut->px_r_runs ? 1 : 0);
}

/* ---- cells ---- */

/* Rows that are written for a cell; without a tile's worth of genes 1. */
static int64_t row_bytes(const av_gpu_decode_sizes *of, const av_gpu_decode_cut *cut) {
  const int64_t rows = (cut->wide || cut->kept ? of->n_heads : 0) + (cut->w_rows ? 1 : 0);
  return rows * cut->stride * (int64_t)sizeof(float);
}

/* Those, parts of dx, and where tiles begin in the cell's entries. */
static int64_t cell_bytes(const av_gpu_decode_sizes *of, const av_gpu_decode_cut *cut) {
  const int64_t tiles = cut->stride / AV_GPU_DECODE_TILE;
  const int64_t dx = cut->wide ? 0 : tiles * of->n_in * (int64_t)sizeof(float);
  return row_bytes(of, cut) + dx + (tiles + 1) * (int64_t)sizeof(int32_t);
}

/* Slabs of a chunk's cells: enough blocks, and float sums that are short. */
static void cut_slabs(av_gpu_decode_cut *cut) {
  const int64_t tiles = cut->stride / AV_GPU_DECODE_TILE;
  const int64_t groups = at_least(parts(cut->chunk, AV_GPU_DECODE_TILE), 1);
  const int64_t wanted = at_most(parts(AV_GPU_DECODE_BLOCKS, at_least(tiles, 1)), groups);
  const int64_t slabs = at_least(wanted, parts(cut->chunk, AV_GPU_DECODE_SLAB));
  cut->slab = parts(groups, at_least(slabs, 1)) * AV_GPU_DECODE_TILE;
  cut->n_slabs = parts(cut->chunk, cut->slab);
}

av_gpu_decode_cut av_gpu_decode_cut_of(const av_gpu_decode_sizes *of) {
  av_gpu_decode_cut cut = {.stride = parts(of->n_genes, AV_GPU_DECODE_TILE) * AV_GPU_DECODE_TILE};
  choose_sums(of, &cut);
  const int64_t rows = row_bytes(of, &cut);
  int64_t chunk = AV_GPU_DECODE_SCRATCH / cell_bytes(of, &cut);
  if (rows > 0) {
    chunk = at_most(chunk, at_least(CACHED_BYTES / rows, CACHED_CELLS));
  }
  chunk = at_least(chunk / AV_GPU_DECODE_TILE, 1) * AV_GPU_DECODE_TILE;
  cut.chunk = at_most(chunk, of->max_rows);
  cut_slabs(&cut);
  return cut;
}

int64_t av_gpu_decode_bytes(const av_gpu_decode_sizes *of) {
  const av_gpu_decode_cut cut = av_gpu_decode_cut_of(of);
  const int64_t number = sizeof(float);
  const int64_t sums = cut.n_slabs * cut.n_partial * cut.stride * number;
  const int64_t pieces =
      cut.n_slabs * AV_GPU_DECODE_PIECES * (cut.n_runs * cut.stride + 1) * number;
  /* facts about a cell, its loss, places in the order of each factor and of px_r's rows */
  const int64_t facts = 64 + number * (2 + of->n_factors);
  const int64_t keys = 2 * number * (of->n_onehot + of->n_px_r);
  const int64_t blocks = INT64_C(8) << 10; /* of 256 bytes that are begun */
  return cut.chunk * cell_bytes(of, &cut) + sums + pieces + of->max_rows * facts + keys + blocks;
}
