/* Logits of a few cells (TILE, 1 or 4) at a time for the kernels in which a block has those cells
 * and all genes, or some, and their log-sum-exp. Wide: they lie in the heads' rows, once
 * av_first_logits has completed them. Narrow: they are made from x and w, and kept in shared memory
 * where it holds them. Device code only. */
#ifndef AV_GPU_KERNELS_DECODE_LOGITS_H
#define AV_GPU_KERNELS_DECODE_LOGITS_H

#include "kernels/decode_math.h"

#include <math.h>

/* Shared memory for logits, in bytes: more would leave room for fewer blocks. */
enum { AV_LOGITS_SHARED = 40 << 10 };

/* Inputs that are multiplied at a time: as many as there are registers for. */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#define AV_UNROLL_INPUTS AV_UNROLL_BY(2)
#else
#define AV_UNROLL_INPUTS AV_UNROLL_BY(4)
#endif

/* Cells of a block. */
template <int TILE>
struct av_tile {
  int64_t first; /* rows [first, first + live) of the chunk */
  int live;      /* how many there are; the others must not be read, and give zeros */
  int row[TILE]; /* of the slab; 0 for those that are not there */
  float *x;      /* shared (n_in, TILE), narrow */
  float *held;   /* shared (heads, TILE, G) logits; NULL: they are made again */
};

/* Bytes of shared memory: x, and logits if they are held. */
static inline size_t av_tile_bytes(const av_gpu_decode &call, int tile, bool *held) {
  const int64_t x = call.wide ? 0 : (call.n_in * tile * (int64_t)sizeof(float) + 15) / 16 * 16;
  const int64_t logits = call.n_heads * tile * call.n_genes * (int64_t)sizeof(float);
  *held = !call.wide && x + logits <= AV_LOGITS_SHARED;
  return (size_t)(*held ? x + logits : x);
}

/* Where the chunk's cells end. */
static __device__ __forceinline__ int64_t av_live_end(const av_gpu_decode &call) {
  const int64_t end = av_n_rows(call.rows) - call.first;
  return end < call.n ? end : call.n;
}

/* Cells of the chunk from `first` on, none from `end` on. x, held: as in av_tile. */
template <int TILE>
static __device__ __forceinline__ av_tile<TILE> av_tile_at(const av_gpu_decode &call, int64_t first,
                                                           int64_t end, float *x, float *held) {
  av_tile<TILE> made;
  made.first = first;
  const int64_t left = end - made.first;
  made.live = left < 0 ? 0 : left < TILE ? (int)left : TILE;
  made.x = x;
  made.held = held;
  AV_UNROLL
  for (int r = 0; r < TILE; ++r) {
    made.row[r] = r < made.live ? call.rows.row[call.first + made.first + r] : 0;
  }
  return made;
}

/* The block's. shared: av_tile_bytes of it. */
template <int TILE>
static __device__ __forceinline__ av_tile<TILE> av_tile_of(const av_gpu_decode &call, bool held,
                                                           float *shared) {
  return av_tile_at<TILE>(call, (int64_t)blockIdx.x * TILE, av_live_end(call), shared,
                          held ? shared + (call.n_in * TILE + 3) / 4 * 4 : NULL);
}

/* Fills tile.x; a barrier must follow. */
template <int TILE>
static __device__ __forceinline__ void av_tile_inputs(const av_gpu_decode &call,
                                                      const av_tile<TILE> &tile) {
  for (int e = (int)threadIdx.x; !call.wide && e < call.n_in * TILE; e += (int)blockDim.x) {
    const int64_t i = call.first + tile.first + e % TILE;
    tile.x[e] = e % TILE < tile.live ? call.x[i * call.n_in + e / TILE] : 0.0f;
  }
}

/* What the one-hot block adds to gene g of the cell in slab row `row`. */
static __device__ __forceinline__ float av_onehot_sum(const av_gpu_decode &call, const float *w,
                                                      int row, int g) {
  const av_gpu_data &data = call.rows.data;
  float sum = 0.0f;
  AV_ROLLED
  for (int f = 0; call.n_onehot > 0 && f < data.n_factors; ++f) {
    const int64_t k = call.n_in + data.column[(int64_t)row * data.n_factors + f];
    sum += __ldg(w + k * call.n_genes + g);
  }
  return sum;
}

static __device__ __forceinline__ float av_start_of(const av_gpu_decode_head &head, int g) {
  return head.c == NULL ? 0.0f : __ldg(head.c + g);
}

/* x_k of the tile's cells. */
template <int TILE>
static __device__ __forceinline__ void av_load_inputs(const float *x, int k,
                                                      float (&values)[TILE]) {
  if (TILE == 4) {
    const float4 four = reinterpret_cast<const float4 *>(x)[k];
    values[0] = four.x;
    values[1 % TILE] = four.y;
    values[2 % TILE] = four.z;
    values[3 % TILE] = four.w;
  } else {
    values[0] = x[k];
  }
}

/* Narrow: logits of gene g from x and w. */
template <int TILE>
static __device__ __forceinline__ void av_made_logits(const av_gpu_decode &call,
                                                      const av_gpu_decode_head &head,
                                                      const av_tile<TILE> &tile, int g,
                                                      float (&logit)[TILE]) {
  const float start = av_start_of(head, g);
  AV_UNROLL
  for (int r = 0; r < TILE; ++r) {
    logit[r] = start;
  }
  const float *w = head.w + g;
  AV_UNROLL_INPUTS
  for (int k = 0; k < call.n_in; ++k) {
    const float weight = __ldg(w + k * call.n_genes);
    float x[TILE];
    av_load_inputs<TILE>(tile.x, k, x);
    AV_UNROLL
    for (int r = 0; r < TILE; ++r) {
      logit[r] = fmaf(x[r], weight, logit[r]);
    }
  }
  AV_UNROLL
  for (int r = 0; r < TILE; ++r) {
    if (call.n_onehot > 0 && r < tile.live) {
      logit[r] += av_onehot_sum(call, head.w, tile.row[r], g);
    }
  }
}

/* Where logits of head h lie; NULL: nowhere. `stride`: between cells. */
template <int TILE>
static __device__ __forceinline__ float *av_logits_at(const av_gpu_decode &call, int h,
                                                      const av_tile<TILE> &tile, int64_t *stride) {
  if (call.wide) {
    *stride = call.stride;
    return call.head[h].rows + tile.first * call.stride;
  }
  *stride = call.n_genes;
  return tile.held == NULL ? NULL : tile.held + h * TILE * call.n_genes;
}

/* Logits of gene g, the first time: makes those of all heads, and returns those of the first. */
template <int TILE>
static __device__ __forceinline__ void av_first_logits(const av_gpu_decode &call,
                                                       const av_tile<TILE> &tile, int g,
                                                       float (&logit)[TILE]) {
  AV_ROLLED
  for (int h = call.n_heads - 1; h >= 0; --h) {
    int64_t stride;
    float *at = av_logits_at(call, h, tile, &stride);
    if (!call.wide && (at != NULL || h == 0)) {
      av_made_logits(call, call.head[h], tile, g, logit);
    }
    AV_UNROLL
    for (int r = 0; r < TILE; ++r) {
      if (call.wide) {
        logit[r] = r < tile.live ? at[r * stride + g] + av_start_of(call.head[h], g) +
                                       av_onehot_sum(call, call.head[h].w, tile.row[r], g)
                                 : 0.0f;
      }
      if (at != NULL && r < tile.live) {
        at[r * stride + g] = logit[r];
      }
    }
  }
}

/* Logits of head h and gene g again, by the thread that made them first; of wide ones in a later
 * kernel, by any. */
template <int TILE>
static __device__ __forceinline__ void av_logits(const av_gpu_decode &call, int h,
                                                 const av_tile<TILE> &tile, int g,
                                                 float (&logit)[TILE]) {
  int64_t stride;
  const float *at = av_logits_at(call, h, tile, &stride);
  if (at == NULL) {
    av_made_logits(call, call.head[h], tile, g, logit);
    return;
  }
  AV_UNROLL
  for (int r = 0; r < TILE; ++r) {
    logit[r] = r < tile.live ? at[r * stride + g] : 0.0f;
  }
}

/* That of cell r, slab row `row`, alone, by any thread past a barrier. */
template <int TILE>
static __device__ __forceinline__ float av_logit(const av_gpu_decode &call, int h,
                                                 const av_tile<TILE> &tile, int r, int row, int g) {
  int64_t stride;
  const float *at = av_logits_at(call, h, tile, &stride);
  if (at != NULL) {
    return at[r * stride + g];
  }
  const av_gpu_decode_head &head = call.head[h];
  float logit = av_start_of(head, g);
  AV_UNROLL_INPUTS
  for (int k = 0; k < call.n_in; ++k) {
    logit = fmaf(tile.x[k * TILE + r], __ldg(head.w + k * call.n_genes + g), logit);
  }
  return logit + av_onehot_sum(call, head.w, row, g);
}

/* --- log-sum-exp ----------------------------------------------------------------------------- */

/* The largest logit and the sum of exp(logit - top), in one pass. */
template <int TILE>
struct av_lse {
  float top[TILE], sum[TILE];
};

template <int TILE>
static __device__ __forceinline__ void av_lse_start(av_lse<TILE> &lse) {
  AV_UNROLL
  for (int r = 0; r < TILE; ++r) {
    lse.top[r] = -INFINITY;
    lse.sum[r] = 0.0f;
  }
}

template <int TILE>
static __device__ __forceinline__ void av_lse_add(av_lse<TILE> &lse, const float (&logit)[TILE]) {
  AV_UNROLL
  for (int r = 0; r < TILE; ++r) {
    const float gap = logit[r] - lse.top[r];
    const float grow = expf(-fabsf(gap));
    lse.sum[r] = gap > 0.0f ? fmaf(lse.sum[r], grow, 1.0f) : lse.sum[r] + grow;
    lse.top[r] = gap > 0.0f ? logit[r] : lse.top[r];
  }
}

/* Top and sum over the block, to the lanes of warp r < TILE for cell r; room: shared, TILE for each
 * warp. */
template <int TILE>
static __device__ __forceinline__ void av_lse_join(const av_lse<TILE> &lse, double2 *room,
                                                   float *top, double *sum) {
  const int warp = (int)threadIdx.x / AV_WARP;
  const int lane = (int)threadIdx.x % AV_WARP;
  AV_UNROLL
  for (int r = 0; r < TILE; ++r) {
    const float most = av_warp_max(lse.top[r]);
    /* threads without genes have top -infinity and sum 0 */
    const float mine = lse.sum[r] == 0.0f ? 0.0f : lse.sum[r] * expf(lse.top[r] - most);
    double2 pair;
    pair.x = (double)most;
    pair.y = av_warp_sum((double)mine);
    if (lane == 0) {
      room[warp * TILE + r] = pair;
    }
  }
  __syncthreads();
  if (warp < TILE) {
    const bool one = lane < (int)blockDim.x / AV_WARP;
    const double2 pair = room[(one ? lane : 0) * TILE + warp];
    const double most = av_warp_max(pair.x);
    const double mine = one && pair.y != 0.0 ? pair.y * exp(pair.x - most) : 0.0;
    *top = (float)most;
    *sum = av_warp_sum(mine);
  }
}

#endif
