/* Gradients of 32 genes over a slab of cells: the kernel, for each kind and width of input.
 * decode_tiles*.cu compile it. Device code only.
 *
 * A lane is a gene. A warp takes 8 cells at a time, alone: places base terms in its slots (shared),
 * adds the corrections of the 8 cells' entries there (a lane an entry, whatever its gene and cell),
 * and reads back its genes' gradients. Sums over cells stay in registers (float, over a slab's
 * fourth of the cells) until the block's end, where the 4 warps' are added in double, in order. */
#ifndef AV_GPU_KERNELS_DECODE_TILES_H
#define AV_GPU_KERNELS_DECODE_TILES_H

#include "kernels/decode_math.h"

enum {
  AV_TILE_THREADS = 128,
  AV_TILE_WARPS = AV_TILE_THREADS / AV_WARP,
  AV_TILE_CELLS = AV_DECODE_CELLS / AV_TILE_WARPS, /* of a warp ... */
  AV_TILE_QUAD = 4,                                /* ... of which so many stay in registers */
  AV_TILE_QUADS = AV_TILE_CELLS / AV_TILE_QUAD,
  /* between rows of shared arrays: lanes that read vectors of 4 from rows side by side meet
     different banks */
  AV_TILE_PITCH = AV_DECODE_GENES + 4
};

/* Values that a warp keeps of each of its cells and genes. */
template <int KIND>
struct av_slots_of {
  static const int mean = 0;       /* logit, then mu; the logit still where that is exact */
  static const int d = 1;          /* q, then d */
  static const int carry = 2;      /* d = q carry with softplus, else q - carry */
  static const int w = 3;          /* gradient on px_r */
  static const int p = 4;          /* gradient on the zero-inflation logit */
  static const int zero_logit = 5; /* that logit */
  static const int px_r = av_kind_of<KIND>::zinb ? 6 : 4; /* px_r's head */
  static const int n = av_kind_of<KIND>::poisson ? 3
                                                 : 4 + (av_kind_of<KIND>::zinb ? 2 : 0) +
                                                       (av_kind_of<KIND>::by_cell ? 1 : 0);
  /* logits of head h, and gradients on them */
  static __device__ __forceinline__ int logit(int h) {
    return h == 0                                                       ? mean
           : av_kind_of<KIND>::zinb && h == av_kind_of<KIND>::zero_head ? zero_logit
                                                                        : px_r;
  }
  static __device__ __forceinline__ int gradient(int h) {
    return h == 0 ? d : av_kind_of<KIND>::zinb && h == av_kind_of<KIND>::zero_head ? p : w;
  }
};

/* What a block's threads have in common. WIDTH: rows of w that there is room for, and c; 1: wide,
 * where there is c alone. */
template <int KIND, int WIDTH>
struct av_tile_shared {
  static const int slot_floats = av_slots_of<KIND>::n * AV_TILE_CELLS * AV_TILE_PITCH;
  static const int sum_floats = WIDTH * AV_WARP;
  /* of a warp: slots while it walks, sums at the end */
  static const int room_floats = slot_floats > sum_floats ? slot_floats : sum_floats;
  float4 room[AV_TILE_WARPS * room_floats / 4];
  float4 x[AV_TILE_WARPS * AV_TILE_QUADS * WIDTH]; /* inputs of four cells each */
  float4 w[WIDTH > 1 ? av_kind_of<KIND>::heads *WIDTH *AV_TILE_PITCH / 4 : 1];
  float px_r[AV_DECODE_GENES]; /* where all cells have the same */
};

/* A lane's place. */
typedef struct av_tile_place {
  int warp, lane;
  int64_t tile;   /* of genes */
  int g;          /* the lane's gene */
  bool gene;      /* there is such */
  float *slots;   /* of the warp */
  float4 *x;      /* (QUADS, WIDTH) of the warp */
  const float *w; /* (heads, WIDTH, PITCH) of the block */
} av_tile_place;

static __device__ __forceinline__ float &av_slot(const av_tile_place &place, int slot, int r,
                                                 int gene) {
  return place.slots[(slot * AV_TILE_CELLS + r) * AV_TILE_PITCH + gene];
}

/* A warp's cells; what is said of one is in the variables of the lane with its number. */
typedef struct av_tile_cells {
  int64_t base; /* rows [base, base + live) of the chunk */
  int live;
  int row;    /* of the slab */
  int count;  /* entries in the tile */
  int64_t at; /* the first of them */
} av_tile_cells;

/* --- once a block ----------------------------------------------------------------------------- */

/* w (heads, WIDTH, PITCH) of the tile's genes, c as the last row; zeros where there is nothing. */
template <int KIND, int WIDTH>
static __device__ __forceinline__ void av_tile_weights(const av_gpu_decode &call, int first_gene,
                                                       float *w) {
  const int rows = av_kind_of<KIND>::heads * WIDTH;
  AV_ROLLED
  for (int e = (int)threadIdx.x; e < rows * AV_WARP; e += AV_TILE_THREADS) {
    const av_gpu_decode_head &head = call.head[e / AV_WARP / WIDTH];
    const int k = e / AV_WARP % WIDTH;
    const int g = first_gene + e % AV_WARP;
    float value = 0.0f;
    if (g < call.n_genes && k < call.width - 1) {
      value = head.w[k * call.n_genes + g];
    } else if (g < call.n_genes && k == call.width - 1 && head.c != NULL) {
      value = head.c[g];
    }
    w[e / AV_WARP * AV_TILE_PITCH + e % AV_WARP] = value;
  }
}

/* --- the cells and their logits --------------------------------------------------------------- */

static __device__ __forceinline__ av_tile_cells av_tile_cells_of(const av_gpu_decode &call,
                                                                 const av_tile_place &place,
                                                                 int64_t base, int64_t n_rows) {
  av_tile_cells cells;
  const int64_t left = n_rows - base;
  cells.base = base;
  cells.live = left < 0 ? 0 : left < AV_TILE_CELLS ? (int)left : (int)AV_TILE_CELLS;
  cells.row = 0;
  cells.count = 0;
  cells.at = 0;
  if (place.lane < cells.live) {
    const int32_t *starts = call.starts + (base + place.lane) * (call.n_tiles + 1) + place.tile;
    const int begin = starts[0];
    cells.count = starts[1] - begin;
    cells.row = call.rows.row[call.first + base + place.lane];
    cells.at = av_entries_of(call.rows, call.first + base + place.lane).start + begin;
  }
  return cells;
}

/* Whether slab row `row` has a 1 in one-hot column `column`. */
static __device__ __forceinline__ float av_onehot_at(const av_gpu_data &data, int row, int column) {
  float found = 0.0f;
  AV_ROLLED
  for (int f = 0; f < data.n_factors; ++f) {
    found = data.column[(int64_t)row * data.n_factors + f] == column ? 1.0f : found;
  }
  return found;
}

/* Inputs of the cells: x, the one-hot columns if they are spread, then the 1 that c belongs to;
 * zeros beyond. A lane an input. */
template <int WIDTH>
static __device__ __forceinline__ void av_tile_inputs(const av_gpu_decode &call,
                                                      const av_tile_place &place,
                                                      const av_tile_cells &cells) {
  const int k = place.lane;
  const float *x = call.x + (call.first + cells.base) * call.n_in + k;
  AV_ROLLED
  for (int quad = 0; quad < AV_TILE_QUADS; ++quad) {
    float value[AV_TILE_QUAD];
    AV_UNROLL
    for (int j = 0; j < AV_TILE_QUAD; ++j) {
      const int r = quad * AV_TILE_QUAD + j;
      const int row = __shfl_sync(AV_ALL_LANES, cells.row, r);
      value[j] = 0.0f;
      if (r < cells.live && k < call.n_in) {
        value[j] = x[r * call.n_in];
      } else if (r < cells.live && k < call.width) {
        value[j] = k == call.width - 1 ? 1.0f : av_onehot_at(call.rows.data, row, k - call.n_in);
      }
    }
    if (k < WIDTH) {
      place.x[quad * WIDTH + k] = make_float4(value[0], value[1], value[2], value[3]);
    }
  }
}

/* Adds what the one-hot block adds where its columns are not inputs as any other. */
template <int KIND>
static __device__ void av_add_onehot(const av_gpu_decode &call, const av_tile_place &place,
                                     const av_tile_cells &cells) {
  const av_gpu_data &data = call.rows.data;
  AV_ROLLED
  for (int r = 0; r < cells.live; ++r) {
    const int64_t row = call.rows.row[call.first + cells.base + r];
    AV_ROLLED
    for (int f = 0; f < data.n_factors; ++f) {
      const int64_t k = call.n_in + data.column[row * data.n_factors + f];
      for (int h = 0; h < av_kind_of<KIND>::heads; ++h) {
        av_slot(place, av_slots_of<KIND>::logit(h), r, place.lane) +=
            __ldg(call.head[h].w + k * call.n_genes + place.g);
      }
    }
  }
}

/* Logits of the lane's gene into its slots: narrow. */
template <int KIND, int WIDTH>
static __device__ __forceinline__ void av_make_logits(const av_gpu_decode &call,
                                                      const av_tile_place &place,
                                                      const av_tile_cells &cells) {
  const int heads = av_kind_of<KIND>::heads;
  AV_ROLLED
  for (int quad = 0; quad < AV_TILE_QUADS; ++quad) {
    float4 logit[heads];
    AV_UNROLL
    for (int h = 0; h < heads; ++h) {
      logit[h] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
    AV_UNROLL
    for (int k = 0; k < WIDTH; ++k) {
      const float4 x = place.x[quad * WIDTH + k];
      AV_UNROLL
      for (int h = 0; h < heads; ++h) {
        const float weight = place.w[(h * WIDTH + k) * AV_TILE_PITCH + place.lane];
        logit[h].x = fmaf(x.x, weight, logit[h].x);
        logit[h].y = fmaf(x.y, weight, logit[h].y);
        logit[h].z = fmaf(x.z, weight, logit[h].z);
        logit[h].w = fmaf(x.w, weight, logit[h].w);
      }
    }
    AV_UNROLL
    for (int h = 0; h < heads; ++h) {
      const int slot = av_slots_of<KIND>::logit(h);
      const int r = quad * AV_TILE_QUAD;
      av_slot(place, slot, r, place.lane) = logit[h].x;
      av_slot(place, slot, r + 1, place.lane) = logit[h].y;
      av_slot(place, slot, r + 2, place.lane) = logit[h].z;
      av_slot(place, slot, r + 3, place.lane) = logit[h].w;
    }
  }
  if (call.n_onehot > 0 && !call.spread && place.gene) {
    av_add_onehot<KIND>(call, place, cells);
  }
}

/* The same: wide. */
template <int KIND>
static __device__ __forceinline__ void av_load_logits(const av_gpu_decode &call,
                                                      const av_tile_place &place,
                                                      const av_tile_cells &cells) {
  AV_UNROLL
  for (int h = 0; h < av_kind_of<KIND>::heads; ++h) {
    const float *rows = call.head[h].rows + cells.base * call.stride + place.g;
    AV_UNROLL
    for (int r = 0; r < AV_TILE_CELLS; ++r) {
      av_slot(place, av_slots_of<KIND>::logit(h), r, place.lane) =
          r < cells.live && place.gene ? rows[r * call.stride] : 0.0f;
    }
  }
}

/* --- one element ------------------------------------------------------------------------------ */

typedef struct av_exact_grads {
  float d, w, p;
} av_exact_grads;

/* Gradients on the logits of a cell that is computed in double; l its log library, top of its
 * softmax, exact as in the call. */
template <int KIND>
static __device__ AV_SLOW av_exact_grads av_exact_grads_of(bool softplus, double l, float top,
                                                           double2 exact, float x, float logit,
                                                           float px_r, float p) {
  const double log_rho = av_exact_log_rho(softplus, logit, top, exact.x);
  const av_nll nll = av_exact_nll<KIND>((double)x, l + log_rho, (double)px_r, (double)p);
  av_exact_grads made;
  made.d = av_bounded_float(softplus ? nll.q * av_log_softplus_slope((double)logit)
                                     : nll.q - exp(log_rho) * exact.y);
  made.w = av_bounded_float(nll.w);
  made.p = (float)nll.dp;
  return made;
}

/* Base terms of the lane's gene in cell r, from the logits in its slots. valid: there are such a
 * cell and gene. own: where all cells have the gene's px_r in common. */
template <int KIND>
static __device__ __forceinline__ void av_place_base(const av_gpu_decode &call,
                                                     const av_tile_place &place, int64_t i, int r,
                                                     int row, bool valid, av_shape own) {
  typedef av_kind_of<KIND> kind;
  typedef av_slots_of<KIND> slots;
  float mean = 0.0f;
  float carry = 0.0f;
  av_terms terms = {0.0f, 0.0f, 0.0f, 0.0f};
  if (valid) {
    const float4 cell = call.cell[i];
    const float logit = av_slot(place, slots::mean, r, place.lane);
    float p = 0.0f;
    if (kind::zinb) {
      p = av_slot(place, slots::zero_logit, r, place.lane);
    }
    av_shape shape = own;
    if (kind::by_cell) {
      shape = av_shape_of(av_slot(place, slots::px_r, r, place.lane));
    } else if (!kind::poisson && call.code != NULL) {
      shape = av_shape_of(call.px_r[call.code[row] * call.n_genes + place.g]);
    }
    if (cell.w != 0.0f) {
      const av_exact_grads grads =
          av_exact_grads_of<KIND>(call.softplus, (double)call.l[call.first + i], cell.x,
                                  call.exact[i], 0.0f, logit, shape.log_theta, p);
      mean = logit;
      carry = call.softplus ? 1.0f : 0.0f;
      terms = av_terms_of(0.0f, grads.d, grads.w, grads.p);
    } else {
      float e = 0.0f;
      float slope = cell.z;
      if (call.softplus) {
        const av_softplus_pair pair = av_softplus_of(logit);
        e = pair.value;
        slope = pair.slope;
      } else {
        e = expf(logit - cell.x);
        slope *= e;
      }
      mean = cell.y * e;
      carry = slope;
      terms = av_zero_terms<KIND>(mean, shape, p);
    }
  }
  av_slot(place, slots::mean, r, place.lane) = mean;
  av_slot(place, slots::carry, r, place.lane) = carry;
  av_slot(place, slots::d, r, place.lane) = terms.q;
  if (!kind::poisson) {
    av_slot(place, slots::w, r, place.lane) = terms.w;
  }
  if (kind::zinb) {
    av_slot(place, slots::p, r, place.lane) = terms.p;
  }
}

/* Corrections of entry (gene of the tile, x) of cell r into the slots. */
template <int KIND>
static __device__ __forceinline__ void av_place_entry(const av_gpu_decode &call,
                                                      const av_tile_place &place,
                                                      const float *px_r_of, int64_t i, int r,
                                                      int row, int gene, float x) {
  typedef av_kind_of<KIND> kind;
  typedef av_slots_of<KIND> slots;
  const float4 cell = call.cell[i];
  const float mean = av_slot(place, slots::mean, r, gene);
  float p = 0.0f;
  float px_r = 0.0f;
  if (kind::zinb) {
    p = av_slot(place, slots::zero_logit, r, gene);
  }
  if (kind::by_cell) {
    px_r = av_slot(place, slots::px_r, r, gene);
  } else if (!kind::poisson && call.code != NULL) {
    px_r = call.px_r[call.code[row] * call.n_genes + place.tile * AV_DECODE_GENES + gene];
  } else if (!kind::poisson) {
    px_r = px_r_of[gene];
  }
  if (cell.w != 0.0f) {
    const av_exact_grads grads = av_exact_grads_of<KIND>(
        call.softplus, (double)call.l[call.first + i], cell.x, call.exact[i], x, mean, px_r, p);
    av_slot(place, slots::d, r, gene) = grads.d;
    if (!kind::poisson) {
      av_slot(place, slots::w, r, gene) = grads.w;
    }
    if (kind::zinb) {
      av_slot(place, slots::p, r, gene) = grads.p;
    }
  } else if (kind::poisson) {
    av_slot(place, slots::d, r, gene) -= x;
  } else {
    const av_count_terms terms = av_terms_of_count<KIND>(x, mean, av_shape_of(px_r), p);
    av_slot(place, slots::d, r, gene) += terms.q;
    av_slot(place, slots::w, r, gene) += terms.w;
    if (kind::zinb) {
      av_slot(place, slots::p, r, gene) += terms.p;
    }
  }
}

/* Entries of the cells, one a lane. */
template <int KIND>
static __device__ __forceinline__ void av_place_entries(const av_gpu_decode &call,
                                                        const av_tile_place &place,
                                                        const av_tile_cells &cells,
                                                        const float *px_r_of) {
  int ends[AV_TILE_CELLS]; /* of each cell's entries, numbered through */
  int total = 0;
  AV_UNROLL
  for (int r = 0; r < AV_TILE_CELLS; ++r) {
    total += __shfl_sync(AV_ALL_LANES, cells.count, r);
    ends[r] = total;
  }
  AV_ROLLED
  for (int first = 0; first < total; first += AV_WARP) {
    const int number = first + place.lane;
    int r = 0;
    int before = 0;
    AV_UNROLL
    for (int c = 0; c + 1 < AV_TILE_CELLS; ++c) {
      r = number >= ends[c] ? c + 1 : r;
      before = number >= ends[c] ? ends[c] : before;
    }
    const int row = __shfl_sync(AV_ALL_LANES, cells.row, r);
    const int64_t at = __shfl_sync(AV_ALL_LANES, (long long)cells.at, r) + number - before;
    if (number < total) {
      const int gene = av_entry_gene(call.rows.data, at) - (int)(place.tile * AV_DECODE_GENES);
      av_place_entry<KIND>(call, place, px_r_of, cells.base + r, r, row, gene,
                           av_entry_value(call.rows.data, at));
    }
  }
}

/* --- sums ------------------------------------------------------------------------------------- */

/* Sums over a slab of cells, of the lane's gene. */
template <int KIND, int WIDTH>
struct av_tile_sums {
  float of[av_kind_of<KIND>::heads][WIDTH];
  float px_r;
};

/* Adds four cells. */
template <int KIND, int WIDTH>
static __device__ __forceinline__ void av_tile_add(
    const float4 *x, const float (&d)[av_kind_of<KIND>::heads][AV_TILE_QUAD],
    av_tile_sums<KIND, WIDTH> &sums) {
  AV_UNROLL
  for (int k = 0; k < WIDTH; ++k) {
    const float4 by = WIDTH > 1 ? x[k] : make_float4(1.0f, 1.0f, 1.0f, 1.0f);
    AV_UNROLL
    for (int h = 0; h < av_kind_of<KIND>::heads; ++h) {
      float sum = sums.of[h][k];
      sum = fmaf(by.x, d[h][0], sum);
      sum = fmaf(by.y, d[h][1], sum);
      sum = fmaf(by.z, d[h][2], sum);
      sum = fmaf(by.w, d[h][3], sum);
      sums.of[h][k] = sum;
    }
  }
}

/* Gradients on the lane's gene's logits in the quad's cells, final: into the sums, the slots and,
 * where they are kept, the rows. */
template <int KIND, int WIDTH>
static __device__ __forceinline__ void av_take_quad(const av_gpu_decode &call,
                                                    const av_tile_place &place,
                                                    const av_tile_cells &cells, int quad,
                                                    av_tile_sums<KIND, WIDTH> &sums) {
  typedef av_kind_of<KIND> kind;
  typedef av_slots_of<KIND> slots;
  float d[kind::heads][AV_TILE_QUAD];
  AV_UNROLL
  for (int j = 0; j < AV_TILE_QUAD; ++j) {
    const int r = quad * AV_TILE_QUAD + j;
    const float q = av_slot(place, slots::d, r, place.lane);
    const float carry = av_slot(place, slots::carry, r, place.lane);
    d[0][j] = call.softplus ? q * carry : q - carry;
    av_slot(place, slots::d, r, place.lane) = d[0][j];
    AV_UNROLL
    for (int h = 1; h < kind::heads; ++h) {
      d[h][j] = av_slot(place, slots::gradient(h), r, place.lane);
    }
    const bool inside = cells.base + r < call.n;
    const int64_t at = (cells.base + r) * call.stride + place.g;
    AV_UNROLL
    for (int h = 0; h < kind::heads; ++h) {
      if (call.head[h].rows != NULL && inside) {
        call.head[h].rows[at] = d[h][j];
      }
    }
    if (!kind::poisson && !kind::by_cell) {
      const float w = av_slot(place, slots::w, r, place.lane);
      sums.px_r += w;
      if (call.w_rows != NULL && inside) {
        call.w_rows[at] = w;
      }
    }
  }
  av_tile_add<KIND, WIDTH>(place.x + quad * WIDTH, d, sums);
}

/* dx of the cells from the tile's genes: an input of a cell a lane. */
template <int KIND, int WIDTH>
static __device__ __forceinline__ void av_tile_dx(const av_gpu_decode &call,
                                                  const av_tile_place &place,
                                                  const av_tile_cells &cells) {
  AV_ROLLED
  for (int e = place.lane; e < AV_TILE_CELLS * call.n_in; e += AV_WARP) {
    const int r = e % AV_TILE_CELLS;
    const int k = e / AV_TILE_CELLS;
    float sum = 0.0f;
    AV_UNROLL
    for (int h = 0; h < av_kind_of<KIND>::heads; ++h) {
      const float4 *d =
          reinterpret_cast<const float4 *>(&av_slot(place, av_slots_of<KIND>::gradient(h), r, 0));
      const float4 *w = reinterpret_cast<const float4 *>(place.w + (h * WIDTH + k) * AV_TILE_PITCH);
      AV_UNROLL
      for (int g = 0; g < AV_DECODE_GENES / 4; ++g) {
        sum = fmaf(d[g].x, w[g].x, sum);
        sum = fmaf(d[g].y, w[g].y, sum);
        sum = fmaf(d[g].z, w[g].z, sum);
        sum = fmaf(d[g].w, w[g].w, sum);
      }
    }
    if (r < cells.live) {
      call.dx_partial[(place.tile * call.n + cells.base + r) * call.n_in + k] = sum;
    }
  }
}

/* The warps' n rows of a lane's numbers, added up into rows of partial. */
static __device__ __forceinline__ void av_tile_join(const av_gpu_decode &call,
                                                    const av_tile_place &place, const float *room,
                                                    int pitch, int n, int row) {
  const int64_t first = (int64_t)blockIdx.y * call.n_partial + row;
  for (int k = place.warp; k < n; k += AV_TILE_WARPS) {
    double sum = 0.0;
    for (int v = 0; v < AV_TILE_WARPS; ++v) {
      sum += (double)room[v * pitch + k * AV_WARP + place.lane];
    }
    call.partial[(first + k) * call.stride + place.g] = (float)sum;
  }
}

/* --- the kernel ------------------------------------------------------------------------------- */

/* One warp's cells. */
template <int KIND, int WIDTH>
static __device__ __forceinline__ void av_tile_step(const av_gpu_decode &call,
                                                    const av_tile_place &place,
                                                    const av_tile_cells &cells,
                                                    const float *px_r_of, av_shape own,
                                                    av_tile_sums<KIND, WIDTH> &sums) {
  if constexpr (WIDTH > 1) {
    av_tile_inputs<WIDTH>(call, place, cells);
    __syncwarp();
    av_make_logits<KIND, WIDTH>(call, place, cells);
  } else {
    av_load_logits<KIND>(call, place, cells);
  }
  AV_UNROLL_BY((av_kind_of<KIND>::zinb ? 1 : 2)) /* ZINB has enough to do at a time */
  for (int r = 0; r < AV_TILE_CELLS; ++r) {
    const int row = __shfl_sync(AV_ALL_LANES, cells.row, r);
    av_place_base<KIND>(call, place, cells.base + r, r, row, r < cells.live && place.gene, own);
  }
  __syncwarp();
  av_place_entries<KIND>(call, place, cells, px_r_of);
  __syncwarp();
  AV_ROLLED
  for (int quad = 0; quad < AV_TILE_QUADS; ++quad) {
    av_take_quad<KIND, WIDTH>(call, place, cells, quad, sums);
  }
  if constexpr (WIDTH > 1) {
    __syncwarp();
    av_tile_dx<KIND, WIDTH>(call, place, cells);
  }
  __syncwarp(); /* slots and x are free */
}

/* Blocks of a multiprocessor: 4, of 128 registers a thread; 3, of 168, where there are many sums.
 * Fewer where a kernel would spill registers (tests/gpu/resources.py): GPUs from 10.0 need more of
 * them, and so does what CUDA 12 makes. */
template <int KIND, int WIDTH>
struct av_tile_blocks {
  static const int sums = av_kind_of<KIND>::heads * WIDTH;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
  static const int least = sums > 40 ? 2 : sums > (av_kind_of<KIND>::zinb ? 20 : 24) ? 3 : 4;
#elif defined(__CUDACC_VER_MAJOR__) && __CUDACC_VER_MAJOR__ < 13
  static const int least = sums > 24 || (KIND == AV_DECODE_NB && WIDTH == AV_DECODE_WIDTH) ? 3 : 4;
#else
  static const int least = sums > 24 ? 3 : 4;
#endif
};

/* Block (tile of genes, slab of cells). */
template <int KIND, int WIDTH>
static __global__ void __launch_bounds__(AV_TILE_THREADS, av_tile_blocks<KIND, WIDTH>::least)
    decode_tiles(const av_gpu_decode call) {
  typedef av_kind_of<KIND> kind;
  typedef av_tile_shared<KIND, WIDTH> shared_type;
  __shared__ shared_type shared;
  float *room = reinterpret_cast<float *>(shared.room);
  float *w = reinterpret_cast<float *>(shared.w);
  av_tile_place place;
  place.warp = (int)threadIdx.x / AV_WARP;
  place.lane = (int)threadIdx.x % AV_WARP;
  place.tile = blockIdx.x;
  place.g = (int)blockIdx.x * AV_DECODE_GENES + place.lane;
  place.gene = place.g < call.n_genes;
  place.slots = room + place.warp * shared_type::room_floats;
  place.x = shared.x + place.warp * AV_TILE_QUADS * WIDTH;
  place.w = w;
  av_shape own = {1.0f, 1.0f, 0.0f};
  if (!kind::poisson && !kind::by_cell && call.code == NULL && place.gene) {
    own = av_shape_of(call.px_r[place.g]);
  }
  if (place.warp == 0) {
    shared.px_r[place.lane] = own.log_theta;
  }
  if constexpr (WIDTH > 1) {
    av_tile_weights<KIND, WIDTH>(call, (int)blockIdx.x * AV_DECODE_GENES, w);
  }
  av_tile_sums<KIND, WIDTH> sums;
  sums.px_r = 0.0f;
  AV_UNROLL
  for (int h = 0; h < kind::heads; ++h) {
    AV_UNROLL
    for (int k = 0; k < WIDTH; ++k) {
      sums.of[h][k] = 0.0f;
    }
  }
  __syncthreads();
  int64_t n_rows = av_n_rows(call.rows) - call.first;
  n_rows = n_rows < call.n ? n_rows : call.n;
  /* where rows are kept, those of no cell are zeros */
  const bool kept = call.head[0].rows != NULL || call.w_rows != NULL;
  const int64_t last = kept ? call.n : n_rows;
  const int64_t slab = (int64_t)blockIdx.y * call.slab;
  const int64_t end = slab + call.slab < last ? slab + call.slab : last;
  for (int64_t base = slab + place.warp * AV_TILE_CELLS; base < end; base += AV_DECODE_CELLS) {
    const av_tile_cells cells = av_tile_cells_of(call, place, base, n_rows);
    av_tile_step<KIND, WIDTH>(call, place, cells, shared.px_r, own, sums);
  }
  float *mine = room + place.warp * shared_type::room_floats + place.lane;
  AV_UNROLL
  for (int h = 0; h < kind::heads; ++h) {
    __syncthreads();
    AV_UNROLL
    for (int k = 0; k < WIDTH; ++k) {
      mine[k * AV_WARP] = sums.of[h][k];
    }
    __syncthreads();
    av_tile_join(call, place, room, shared_type::room_floats, call.width, h * call.width);
  }
  if (!kind::poisson && !kind::by_cell && call.code == NULL) {
    __syncthreads();
    mine[0] = sums.px_r;
    __syncthreads();
    av_tile_join(call, place, room, shared_type::room_floats, 1, kind::heads * call.width);
  }
}

/* Widths: wide, and the least that holds the inputs. */
enum { AV_TILE_NARROW = 12 };

template <int KIND>
static void av_launch_tiles(cudaStream_t stream, const av_gpu_decode &call) {
  const dim3 grid((unsigned)call.n_tiles, (unsigned)call.n_slabs);
  if (call.wide) {
    AV_LAUNCH((decode_tiles<KIND, 1>), grid, AV_TILE_THREADS, 0, stream, call);
  } else if (call.width <= AV_TILE_NARROW) {
    AV_LAUNCH((decode_tiles<KIND, AV_TILE_NARROW>), grid, AV_TILE_THREADS, 0, stream, call);
  } else {
    AV_LAUNCH((decode_tiles<KIND, AV_DECODE_WIDTH>), grid, AV_TILE_THREADS, 0, stream, call);
  }
}

#endif
