/* A warp of decode_tiles and its cells: where they lie, what it keeps of each of them (slots),
 * their inputs and logits. Device code only. */
#ifndef AV_GPU_KERNELS_DECODE_TILE_CELLS_H
#define AV_GPU_KERNELS_DECODE_TILE_CELLS_H

#include "kernels/decode_inputs.h"
#include "kernels/decode_math.h"

enum {
  AV_TILE_THREADS = 128,
  AV_TILE_WARPS = AV_TILE_THREADS / AV_WARP,
  AV_TILE_CELLS = AV_DECODE_CELLS / AV_TILE_WARPS, /* of a warp ... */
  AV_TILE_QUAD = 4,                                /* ... of which so many stay in registers */
  AV_TILE_QUADS = AV_TILE_CELLS / AV_TILE_QUAD,
  AV_TILE_INPUTS = 8, /* that are multiplied at a time where there are many */
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
  static const int sum_floats = (WIDTH > AV_DECODE_FEW ? 1 : WIDTH) * AV_WARP;
  /* of a warp: slots while it walks, sums at the end that are added to those of others */
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

/* A warp's cells; what is said of one is in the variables of the lane with its number. ANY: they
 * come in the order of the call's walk, if it has one. */
template <int WAY>
struct av_tile_cells {
  int64_t base; /* numbers [base, base + live) of that order, or rows of the chunk */
  int live;
  int i;      /* ANY: row of the chunk */
  int row;    /* of the slab */
  int count;  /* entries in the tile */
  int64_t at; /* the first of them */

  /* row of the chunk of cell r; all lanes together */
  __device__ __forceinline__ int64_t of(int r) const {
    return WAY >= AV_TILE_ANY ? __shfl_sync(AV_ALL_LANES, i, r) : base + r;
  }
  /* its row of px_r; all lanes together */
  __device__ __forceinline__ int64_t code_of(const av_gpu_decode &call, int r) const {
    if (WAY == AV_TILE_PLAIN || call.code == NULL) {
      return 0;
    }
    return call.code[__shfl_sync(AV_ALL_LANES, row, r)];
  }
};

/* --- once a block ----------------------------------------------------------------------------- */

/* w (heads, WIDTH, PITCH) of the tile's genes, c as the last row; zeros where there is nothing. */
template <int KIND, int WIDTH, int WAY>
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
      value = head.w[av_row_of_input<WAY>(call, k) * call.n_genes + g];
    } else if (g < call.n_genes && k == call.width - 1 && head.c != NULL) {
      value = head.c[g];
    }
    w[e / AV_WARP * AV_TILE_PITCH + e % AV_WARP] = value;
  }
}

/* --- the cells and their logits --------------------------------------------------------------- */

template <int WAY>
static __device__ __forceinline__ av_tile_cells<WAY> av_tile_cells_of(const av_gpu_decode &call,
                                                                      const av_tile_place &place,
                                                                      int64_t base,
                                                                      int64_t n_rows) {
  av_tile_cells<WAY> cells;
  const int64_t left = n_rows - base;
  cells.base = base;
  cells.live = left < 0 ? 0 : left < AV_TILE_CELLS ? (int)left : (int)AV_TILE_CELLS;
  cells.i = (int)base + place.lane;
  cells.row = 0;
  cells.count = 0;
  cells.at = 0;
  if (place.lane < cells.live) {
    if (WAY >= AV_TILE_ANY && call.walk.order != NULL) {
      cells.i = call.walk.order[base + place.lane];
    }
    const int64_t i = WAY >= AV_TILE_ANY ? cells.i : base + place.lane;
    const int32_t *starts = call.starts + i * (call.n_tiles + 1) + place.tile;
    const int begin = starts[0];
    cells.count = starts[1] - begin;
    cells.row = call.rows.row[call.first + i];
    cells.at = av_entries_of(call.rows, call.first + i).start + begin;
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

/* Inputs of the cells: x of the window, the one-hot columns if they are spread, then the 1 that c
 * belongs to; zeros beyond. A lane an input. */
template <int WIDTH, int WAY>
static __device__ __forceinline__ void av_tile_inputs(const av_gpu_decode &call,
                                                      const av_tile_place &place,
                                                      const av_tile_cells<WAY> &cells, int k) {
  const float *x = call.x + (call.first + (WAY >= AV_TILE_ANY ? 0 : cells.base)) * call.n_in +
                   av_from_of<WAY>(call) + k;
  AV_ROLLED
  for (int quad = 0; quad < AV_TILE_QUADS; ++quad) {
    float value[AV_TILE_QUAD];
    AV_UNROLL
    for (int j = 0; j < AV_TILE_QUAD; ++j) {
      const int r = quad * AV_TILE_QUAD + j;
      const int row = __shfl_sync(AV_ALL_LANES, cells.row, r);
      value[j] = 0.0f;
      const int64_t i = WAY >= AV_TILE_ANY ? cells.of(r) : r;
      if (r < cells.live && k < av_own_of<WAY>(call)) {
        value[j] = x[i * call.n_in];
      } else if (r < cells.live && k < call.width) {
        value[j] = k == call.width - 1 ? 1.0f
                                       : av_onehot_at(call.rows.data, row,
                                                      av_row_of_input<WAY>(call, k) - call.n_in);
      }
    }
    if (k < WIDTH) {
      place.x[quad * WIDTH + k] = make_float4(value[0], value[1], value[2], value[3]);
    }
  }
}

/* Adds what the one-hot columns add that are not inputs as any other. */
template <int KIND, int WAY>
static __device__ void av_add_onehot(const av_gpu_decode &call, const av_tile_place &place,
                                     const av_tile_cells<WAY> &cells) {
  const av_gpu_data &data = call.rows.data;
  AV_ROLLED
  for (int r = 0; r < cells.live; ++r) {
    const int64_t row = __shfl_sync(AV_ALL_LANES, cells.row, r);
    AV_ROLLED
    for (int f = 0; place.gene && f < call.n_beside; ++f) {
      const int64_t k = call.n_in + call.beside[row * data.n_factors + f];
      for (int h = 0; h < av_kind_of<KIND>::heads; ++h) {
        av_slot(place, av_slots_of<KIND>::logit(h), r, place.lane) +=
            __ldg(call.head[h].w + k * call.n_genes + place.g);
      }
    }
  }
}

/* Adds inputs [begin, end), which are outside of the window, to the logits of a quad's cells. */
template <int KIND, int WAY>
static __device__ void av_add_inputs(const av_gpu_decode &call, const av_tile_place &place,
                                     const av_tile_cells<WAY> &cells, int quad, int begin,
                                     int end) {
  AV_ROLLED
  for (int first = begin; first < end; first += AV_WARP) {
    const int n = end - first < AV_WARP ? end - first : (int)AV_WARP;
    float x[AV_TILE_QUAD]; /* a lane an input */
    AV_UNROLL
    for (int j = 0; j < AV_TILE_QUAD; ++j) {
      const int r = quad * AV_TILE_QUAD + j;
      const int64_t i = call.first + cells.of(r);
      x[j] = r < cells.live && place.lane < n ? call.x[i * call.n_in + first + place.lane] : 0.0f;
    }
    AV_ROLLED
    for (int h = 0; h < av_kind_of<KIND>::heads; ++h) {
      const float *w = call.head[h].w + first * call.n_genes + (place.gene ? place.g : 0);
      float *slot = &av_slot(place, av_slots_of<KIND>::logit(h), quad * AV_TILE_QUAD, place.lane);
      float sum[AV_TILE_QUAD];
      AV_UNROLL
      for (int j = 0; j < AV_TILE_QUAD; ++j) {
        sum[j] = slot[j * AV_TILE_PITCH];
      }
      AV_UNROLL_BY(4)
      for (int k = 0; k < n; ++k) {
        const float weight = __ldg(w);
        w += call.n_genes;
        AV_UNROLL
        for (int j = 0; j < AV_TILE_QUAD; ++j) {
          sum[j] = fmaf(__shfl_sync(AV_ALL_LANES, x[j], k), weight, sum[j]);
        }
      }
      AV_UNROLL
      for (int j = 0; j < AV_TILE_QUAD; ++j) {
        slot[j * AV_TILE_PITCH] = sum[j];
      }
    }
  }
}

/* Adds what all inputs outside of the window add. */
template <int KIND, int WAY>
static __device__ void av_add_outside(const av_gpu_decode &call, const av_tile_place &place,
                                      const av_tile_cells<WAY> &cells) {
  AV_ROLLED
  for (int part = 0; part < 2 * AV_TILE_QUADS; ++part) {
    const bool behind = part >= AV_TILE_QUADS;
    av_add_inputs<KIND>(call, place, cells, part % AV_TILE_QUADS, behind ? call.from + call.own : 0,
                        behind ? call.n_in : call.from);
  }
}

/* Logits of the lane's gene into its slots: narrow. */
template <int KIND, int WIDTH, int WAY>
static __device__ __forceinline__ void av_make_logits(const av_gpu_decode &call,
                                                      const av_tile_place &place,
                                                      const av_tile_cells<WAY> &cells) {
  const int heads = av_kind_of<KIND>::heads;
  const int blocks = (call.width + AV_TILE_INPUTS - 1) / AV_TILE_INPUTS;
  const int n = WIDTH > AV_DECODE_FEW ? blocks * AV_TILE_INPUTS : WIDTH; /* zeros beyond width */
  AV_ROLLED
  for (int quad = 0; quad < AV_TILE_QUADS; ++quad) {
    float4 logit[heads];
    AV_UNROLL
    for (int h = 0; h < heads; ++h) {
      logit[h] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
    AV_UNROLL_BY((WIDTH > AV_DECODE_FEW ? AV_TILE_INPUTS : WIDTH))
    for (int k = 0; k < n; ++k) {
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
  if (WAY >= AV_TILE_ANY && call.n_beside > 0) {
    av_add_onehot<KIND>(call, place, cells);
  }
  if (WAY == AV_TILE_WINDOW) {
    av_add_outside<KIND>(call, place, cells);
  }
}

/* The same: wide. */
template <int KIND>
static __device__ __forceinline__ void av_load_logits(const av_gpu_decode &call,
                                                      const av_tile_place &place,
                                                      const av_tile_cells<AV_TILE_WIDE> &cells) {
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

#endif
