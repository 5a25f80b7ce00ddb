/* What decode_tiles adds up of its gradients: over cells for w, c and px_r, over genes for dx (over
 * runs of cells: decode_tile_runs.h). Device code only. */
#ifndef AV_GPU_KERNELS_DECODE_TILE_SUMS_H
#define AV_GPU_KERNELS_DECODE_TILE_SUMS_H

#include "kernels/decode_tile_cells.h"

/* Sums over cells of the lane's gene: over its warp's cells for all rows of w, and c, if there are
 * few; otherwise over all warps' cells for every AV_TILE_WARPS-th row. */
template <int KIND, int WIDTH>
struct av_tile_sums {
  static const bool shared = WIDTH > AV_DECODE_FEW;
  static const int n = shared ? WIDTH / AV_TILE_WARPS : WIDTH;
  float of[av_kind_of<KIND>::heads][n];
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

/* Adds the cells of all warps in this step to the rows of w that are this warp's. */
template <int KIND, int WIDTH>
static __device__ __forceinline__ void av_tile_add_all(const av_gpu_decode &call,
                                                       const av_tile_place &place,
                                                       av_tile_sums<KIND, WIDTH> &sums) {
  typedef av_kind_of<KIND> kind;
  const int n = av_tile_sums<KIND, WIDTH>::n;
  const int room = av_tile_shared<KIND, WIDTH>::room_floats;
  float step[kind::heads][n];
  AV_UNROLL
  for (int e = 0; e < kind::heads * n; ++e) {
    step[e / n][e % n] = 0.0f;
  }
  AV_ROLLED
  for (int at = 0; at < AV_TILE_WARPS * AV_TILE_QUADS; ++at) {
    const int other = at / AV_TILE_QUADS - place.warp;
    const int r = at % AV_TILE_QUADS * AV_TILE_QUAD;
    const float4 *x = place.x + (other * AV_TILE_QUADS + at % AV_TILE_QUADS) * WIDTH;
    float d[kind::heads][AV_TILE_QUAD];
    AV_UNROLL
    for (int e = 0; e < kind::heads * AV_TILE_QUAD; ++e) {
      const int slot = av_slots_of<KIND>::gradient(e / AV_TILE_QUAD);
      d[e / AV_TILE_QUAD][e % AV_TILE_QUAD] =
          (&av_slot(place, slot, r + e % AV_TILE_QUAD, place.lane))[other * room];
    }
    AV_UNROLL
    for (int j = 0; j < n; ++j) {
      const int k = place.warp + j * AV_TILE_WARPS;
      if (k < call.width) {
        const float4 by = x[k];
        AV_UNROLL
        for (int h = 0; h < kind::heads; ++h) {
          step[h][j] = fmaf(by.x, d[h][0], step[h][j]);
          step[h][j] = fmaf(by.y, d[h][1], step[h][j]);
          step[h][j] = fmaf(by.z, d[h][2], step[h][j]);
          step[h][j] = fmaf(by.w, d[h][3], step[h][j]);
        }
      }
    }
  }
  AV_UNROLL
  for (int e = 0; e < kind::heads * n; ++e) {
    sums.of[e / n][e % n] += step[e / n][e % n];
  }
}

/* Gradients on the lane's gene's logits in the quad's cells, final: into the sums, the slots and,
 * where they are kept, the rows. */
template <int KIND, int WIDTH, int WAY>
static __device__ __forceinline__ void av_take_quad(const av_gpu_decode &call,
                                                    const av_tile_place &place,
                                                    const av_tile_cells<WAY> &cells, int quad,
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
    const bool inside = WAY != AV_TILE_PLAIN && cells.base + r < call.n;
    const int64_t at = WAY == AV_TILE_PLAIN ? 0 : cells.of(r) * call.stride + place.g;
    AV_UNROLL
    for (int h = 0; h < kind::heads; ++h) {
      if (inside && call.head[h].rows != NULL) {
        call.head[h].rows[at] = d[h][j];
      }
    }
    if (!kind::poisson && !kind::by_cell) {
      const float w = av_slot(place, slots::w, r, place.lane);
      sums.px_r += w;
      if (inside && call.w_rows != NULL) {
        call.w_rows[at] = w;
      }
    }
  }
  if constexpr (!av_tile_sums<KIND, WIDTH>::shared) {
    av_tile_add<KIND, WIDTH>(place.x + quad * WIDTH, d, sums);
  }
}

/* dx of the cells from the tile's genes: an input of the window of a cell a lane. */
template <int KIND, int WIDTH, int WAY>
static __device__ __forceinline__ void av_tile_dx(const av_gpu_decode &call,
                                                  const av_tile_place &place,
                                                  const av_tile_cells<WAY> &cells) {
  const int walked =
      WAY >= AV_TILE_ANY ? __shfl_sync(AV_ALL_LANES, cells.i, place.lane % AV_TILE_CELLS) : 0;
  AV_ROLLED
  for (int e = place.lane; e < AV_TILE_CELLS * av_own_of<WAY>(call); e += AV_WARP) {
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
      const int64_t i = WAY >= AV_TILE_ANY ? walked : cells.base + r;
      call.dx_partial[(place.tile * call.n + i) * av_own_of<WAY>(call) + k] = sum;
    }
  }
}

/* The block's sums into rows of partial: nothing to add where each warp has rows of its own. */
template <int KIND, int WIDTH>
static __device__ __forceinline__ void av_tile_write(const av_gpu_decode &call,
                                                     const av_tile_place &place,
                                                     const av_tile_sums<KIND, WIDTH> &sums) {
  AV_UNROLL
  for (int h = 0; h < av_kind_of<KIND>::heads; ++h) {
    AV_UNROLL
    for (int j = 0; j < av_tile_sums<KIND, WIDTH>::n; ++j) {
      const int k = place.warp + j * AV_TILE_WARPS;
      if (k < call.width) {
        const int64_t row = (int64_t)blockIdx.y * call.n_partial + h * call.width + k;
        call.partial[row * call.stride + place.g] = sums.of[h][j];
      }
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

#endif
