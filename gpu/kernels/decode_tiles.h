/* Gradients of 32 genes over a slab of cells: the kernel, for each kind and width of input.
 * decode_tiles*.cu compile it. Device code only.
 *
 * A lane is a gene. A warp takes 8 cells at a time, alone: places base terms in its slots (shared),
 * adds the corrections of the 8 cells' entries there (a lane an entry, whatever its gene and cell),
 * and reads back its genes' gradients. Sums over cells stay in registers (float, over a slab's
 * fourth of the cells) until the block's end, where the 4 warps' are added in double, in order. */
#ifndef AV_GPU_KERNELS_DECODE_TILES_H
#define AV_GPU_KERNELS_DECODE_TILES_H

#include "kernels/decode_tile_sums.h"
#include "kernels/decode_tile_terms.h"

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
