/* What decode_tiles adds up of its gradients: over cells for w, c and px_r, over genes for dx.
 * Device code only. */
#ifndef AV_GPU_KERNELS_DECODE_TILE_SUMS_H
#define AV_GPU_KERNELS_DECODE_TILE_SUMS_H

#include "kernels/decode_tile_cells.h"

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

#endif
