#include "backend/gpu_decode.h"

#include "config/config.h"

#include <stddef.h>

enum {
  WINDOW = AV_GPU_DECODE_WIDTH - 1, /* inputs of a pass, at most */
  CACHED_BYTES = 32 << 20,          /* of rows: they stay in the second-level cache ... */
  CACHED_CELLS = 256 /* ... but with fewer cells the weights cost more than the rows */
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

/* Whether px_r's rows are in the runs of `walk`, which may be the batch's columns. */
static bool are_px_r_runs(const av_gpu_decode_sizes *of, int walk) {
  const bool same = walk == 0 && of->px_r == AV_GPU_PX_R_BATCH;
  return is_coded(of) && (walk == AV_GPU_WALK_PX_R || same);
}

/* Sums of a slab over all its cells, with `width` rows for a head; and of a run. */
static int64_t partials_of(const av_gpu_decode_sizes *of, int64_t width) {
  const bool one = of->px_r != AV_GPU_PX_R_NONE && !is_coded(of);
  return of->n_heads * width + (one ? 1 : 0);
}
static int64_t runs_of(const av_gpu_decode_sizes *of, int walk, bool px_r_runs) {
  return (walk >= 0 ? of->n_heads : 0) + (px_r_runs ? 1 : 0);
}

/* Rows of w, and c, that are inputs if the columns of `factor` are in runs. */
static int64_t width_beside(const av_gpu_decode_sizes *of, int factor) {
  return of->n_in + 1 + of->n_onehot - columns_of(of, factor);
}

/* In one pass without rows: what is in runs. The batch's columns, if px_r's rows are the batch's,
 * too. False: there is too much for one. */
static bool choose_walk(const av_gpu_decode_sizes *of, int *walk) {
  const int64_t most = AV_GPU_DECODE_WIDTH;
  const int64_t all = of->n_in + 1 + of->n_onehot;
  const bool coded = is_coded(of);
  *walk = coded ? AV_GPU_WALK_PX_R : AV_GPU_WALK_NONE;
  if (of->n_onehot > 0 && all > AV_GPU_DECODE_FEW) {
    if (coded && are_px_r_runs(of, 0) && width_beside(of, 0) <= most) {
      *walk = 0;
    } else if (!(coded && all <= most)) {
      *walk = largest_factor(of);
    }
  }
  const int64_t width = *walk >= 0 ? width_beside(of, *walk) : all;
  return width <= most && (!coded || are_px_r_runs(of, *walk));
}

/* ---- rows of gradients on logits, or none ---- */

int av_gpu_decode_ways(const av_gpu_decode_sizes *of, int ways[AV_GPU_DECODE_WAYS]) {
  const bool few = of->n_in + 1 <= AV_GPU_DECODE_WIDTH;
  int n = 0;
  if (of->linear || few) {
    ways[n++] = AV_GPU_DECODE_NO_ROWS;
  }
  if (few && of->n_onehot > 0 && of->n_in + 1 + of->n_onehot > AV_GPU_DECODE_FEW) {
    ways[n++] = AV_GPU_DECODE_KEPT;
  }
  ways[n++] = AV_GPU_DECODE_WIDE;
  return n;
}

/* In one pass, whose walk is chosen. */
static void cut_pass(const av_gpu_decode_sizes *of, av_gpu_decode_cut *cut) {
  cut->n_passes = 1;
  cut->spread = !cut->wide && !cut->kept;
  cut->px_r_runs = are_px_r_runs(of, cut->walk);
  cut->w_rows = is_coded(of) && !cut->px_r_runs;
  const int64_t walked = cut->walk >= 0 ? columns_of(of, cut->walk) : 0;
  cut->width = 1 + (cut->wide ? 0 : of->n_in) + (cut->spread ? of->n_onehot - walked : 0);
  cut->n_partial = partials_of(of, cut->width);
  cut->n_runs = runs_of(of, cut->walk, cut->px_r_runs);
}

static void cut_rows(const av_gpu_decode_sizes *of, av_gpu_decode_cut *cut) {
  cut->wide = of->way == AV_GPU_DECODE_WIDE || of->n_in + 1 > AV_GPU_DECODE_WIDTH;
  cut->kept = of->n_onehot > 0;
  cut->walk = is_coded(of) && !cut->wide ? AV_GPU_WALK_PX_R : AV_GPU_WALK_NONE;
  cut_pass(of, cut);
}

/* ---- passes ---- */

static int n_walks(const av_gpu_decode_sizes *of) {
  const bool alone = is_coded(of) && !(of->n_factors > 0 && are_px_r_runs(of, 0));
  return (int)of->n_factors + (alone ? 1 : 0);
}

/* What is in runs in pass p of several: each factor's columns, then px_r's rows, if they are not
 * the first factor's. */
static int walk_of_pass(const av_gpu_decode_sizes *of, int p) {
  if (p >= n_walks(of)) {
    return AV_GPU_WALK_NONE;
  }
  return p < of->n_factors ? p : AV_GPU_WALK_PX_R;
}

av_gpu_decode_pass av_gpu_decode_pass_of(const av_gpu_decode_sizes *of,
                                         const av_gpu_decode_cut *cut, int p) {
  if (cut->n_passes == 1) {
    return (av_gpu_decode_pass){.own = of->n_in,
                                .walk = cut->walk,
                                .px_r_runs = cut->px_r_runs,
                                .width = cut->width,
                                .n_partial = cut->n_partial,
                                .n_runs = cut->n_runs};
  }
  const int64_t from = at_most((int64_t)p * WINDOW, of->n_in);
  av_gpu_decode_pass pass = {
      .from = from, .own = at_most(WINDOW, of->n_in - from), .walk = walk_of_pass(of, p)};
  pass.px_r_runs = are_px_r_runs(of, pass.walk);
  pass.width = pass.own + 1;
  pass.n_partial = partials_of(of, pass.width);
  pass.n_runs = runs_of(of, pass.walk, pass.px_r_runs);
  return pass;
}

static void cut_passes(const av_gpu_decode_sizes *of, av_gpu_decode_cut *cut) {
  cut->n_passes = (int)at_least(parts(of->n_in, WINDOW), n_walks(of));
  for (int p = cut->n_passes - 1; p >= 0; --p) {
    const av_gpu_decode_pass pass = av_gpu_decode_pass_of(of, cut, p);
    cut->walk = pass.walk;
    cut->px_r_runs = cut->px_r_runs || pass.px_r_runs;
    cut->width = at_least(cut->width, pass.width);
    cut->n_partial = at_least(cut->n_partial, pass.n_partial);
    cut->n_runs = at_least(cut->n_runs, pass.n_runs);
  }
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
  const int64_t inputs = cut->wide ? 0 : at_most(of->n_in, WINDOW); /* of a pass */
  const int64_t dx = tiles * inputs * (int64_t)sizeof(float);
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
  if (of->way != AV_GPU_DECODE_NO_ROWS) {
    cut_rows(of, &cut);
  } else if (choose_walk(of, &cut.walk)) {
    cut_pass(of, &cut);
  } else {
    cut_passes(of, &cut);
  }
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

int64_t av_gpu_decode_most_bytes(const av_gpu_decode_sizes *of) {
  int ways[AV_GPU_DECODE_WAYS];
  const int n = av_gpu_decode_ways(of, ways);
  int64_t most = 0;
  for (int k = 0; k < n; ++k) {
    av_gpu_decode_sizes taken = *of;
    taken.way = ways[k];
    most = at_least(av_gpu_decode_bytes(&taken), most);
  }
  return most;
}
