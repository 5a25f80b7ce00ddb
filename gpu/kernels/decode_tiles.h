/* Gradients of 32 genes over a slab of cells: the kernel, for each kind and width of input.
 * decode_tiles*.cu compile it. Device code only.
 *
 * A lane is a gene. A warp takes 8 cells at a time, alone: places base terms in its slots (shared),
 * adds the corrections of the 8 cells' entries there (a lane an entry, whatever its gene and cell),
 * and reads back its genes' gradients. Sums over cells stay in registers (float, over a slab's
 * fourth of the cells) until the block's end, where the 4 warps' are added in double, in order.
 * Where inputs are more than registers hold, each warp has the sums of a fourth of them, over all
 * the block's cells, which the warps then take together; and a pass of several has those of its
 * window alone. With a walk a warp's cells follow one another in its order. */
#ifndef AV_GPU_KERNELS_DECODE_TILES_H
#define AV_GPU_KERNELS_DECODE_TILES_H

#include "kernels/decode_tile_runs.h"
#include "kernels/decode_tile_sums.h"
#include "kernels/decode_tile_terms.h"

/* One warp's cells; where warps share their sums, all warps of the block together. */
template <int KIND, int WIDTH, int WAY>
static __device__ __forceinline__ void av_tile_step(
    const av_gpu_decode &call, const av_tile_place &place, const av_tile_cells<WAY> &cells,
    const float *px_r_of, av_shape own, av_tile_run<KIND> *run, av_tile_sums<KIND, WIDTH> &sums) {
  if constexpr (WIDTH > 1) {
    AV_ROLLED
    for (int k = 0; k < WIDTH; k += AV_WARP) {
      av_tile_inputs<WIDTH>(call, place, cells, k + place.lane);
    }
    __syncwarp();
    av_make_logits<KIND, WIDTH>(call, place, cells);
  } else {
    av_load_logits<KIND>(call, place, cells);
  }
  AV_UNROLL_BY((av_kind_of<KIND>::zinb ? 1 : 2)) /* ZINB has enough to do at a time */
  for (int r = 0; r < AV_TILE_CELLS; ++r) {
    const int64_t i = cells.of(r);
    const int64_t code = cells.code_of(call, r);
    av_place_base<KIND, WAY>(call, place, i, r, code, r < cells.live && place.gene, own);
  }
  __syncwarp();
  av_place_entries<KIND>(call, place, cells, px_r_of);
  __syncwarp();
  AV_ROLLED
  for (int quad = 0; quad < AV_TILE_QUADS; ++quad) {
    av_take_quad<KIND, WIDTH>(call, place, cells, quad, sums);
  }
  if constexpr (WAY >= AV_TILE_ANY) {
    if (call.walk.order != NULL) {
      av_run_add<KIND>(call, place, cells, run);
    }
  }
  if constexpr (av_tile_sums<KIND, WIDTH>::shared) {
    __syncthreads();
    av_tile_add_all<KIND, WIDTH>(call, place, sums);
  }
  if constexpr (WIDTH > 1) {
    __syncwarp();
    av_tile_dx<KIND, WIDTH>(call, place, cells);
  }
  if constexpr (av_tile_sums<KIND, WIDTH>::shared) {
    __syncthreads();
  }
  __syncwarp(); /* slots and x are free */
}

/* Blocks of a multiprocessor: 4, of 128 registers a thread; 3, of 168, where a warp has many sums
 * for itself. Fewer where a kernel would spill registers (tests/gpu/resources.py): GPUs from 10.0
 * need more of them, and so does what CUDA 12 makes. */
template <int KIND, int WIDTH, int WAY>
struct av_tile_blocks {
  static const bool zinb = av_kind_of<KIND>::zinb;
  static const bool any = zinb && WAY >= AV_TILE_ANY;
  static const int sums =
      av_kind_of<KIND>::heads * (av_tile_sums<KIND, WIDTH>::shared ? 20 : WIDTH);
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
  static const int least = sums > (any ? 20 : 40) ? 2 : any || sums > (zinb ? 20 : 24) ? 3 : 4;
#elif defined(__CUDACC_VER_MAJOR__) && __CUDACC_VER_MAJOR__ < 13
  static const bool full = KIND == AV_DECODE_NB && (WIDTH == AV_DECODE_FEW || WAY == AV_TILE_ANY);
  static const int least = any || sums > 24 || full ? 3 : 4;
#else
  static const int least = !av_tile_sums<KIND, WIDTH>::shared && (any || sums > 24) ? 3 : 4;
#endif
};

/* The block's cells. */
template <int KIND, int WIDTH, int WAY>
static __device__ __forceinline__ void av_tile_walk(const av_gpu_decode &call,
                                                    const av_tile_place &place,
                                                    const float *px_r_of, av_shape own,
                                                    av_tile_run<KIND> *run,
                                                    av_tile_sums<KIND, WIDTH> &sums) {
  int64_t n_rows = av_n_rows(call.rows) - call.first;
  n_rows = n_rows < call.n ? n_rows : call.n;
  /* where rows are kept, those of no cell are zeros */
  const bool kept = call.head[0].rows != NULL || call.w_rows != NULL;
  const int64_t last = kept ? call.n : n_rows;
  const int64_t slab = (int64_t)blockIdx.y * call.slab;
  const int64_t end = slab + call.slab < last ? slab + call.slab : last;
  if constexpr (WAY >= AV_TILE_ANY) {
    const int64_t steps = (end - slab + AV_DECODE_CELLS - 1) / AV_DECODE_CELLS;
    const bool ordered = call.walk.order != NULL; /* a warp's cells follow one another */
    int64_t base = slab + place.warp * (ordered ? steps * AV_TILE_CELLS : (int64_t)AV_TILE_CELLS);
    AV_ROLLED
    for (int64_t step = 0; step < steps; ++step) {
      const av_tile_cells<WAY> cells = av_tile_cells_of<WAY>(call, place, base, n_rows);
      av_tile_step<KIND, WIDTH>(call, place, cells, px_r_of, own, run, sums);
      base += ordered ? (int)AV_TILE_CELLS : (int)AV_DECODE_CELLS;
    }
    if (ordered) {
      av_run_end<KIND>(call, place, run);
    }
  } else {
    for (int64_t base = slab + place.warp * AV_TILE_CELLS; base < end; base += AV_DECODE_CELLS) {
      const av_tile_cells<WAY> cells = av_tile_cells_of<WAY>(call, place, base, n_rows);
      av_tile_step<KIND, WIDTH>(call, place, cells, px_r_of, own, run, sums);
    }
  }
}

/* The block's sums to partial. */
template <int KIND, int WIDTH>
static __device__ __forceinline__ void av_tile_end(const av_gpu_decode &call,
                                                   const av_tile_place &place, float *room,
                                                   const av_tile_sums<KIND, WIDTH> &sums) {
  typedef av_kind_of<KIND> kind;
  const int pitch = av_tile_shared<KIND, WIDTH>::room_floats;
  float *mine = room + place.warp * pitch + place.lane;
  if constexpr (av_tile_sums<KIND, WIDTH>::shared) {
    av_tile_write(call, place, sums);
  } else {
    AV_UNROLL
    for (int h = 0; h < kind::heads; ++h) {
      __syncthreads();
      AV_UNROLL
      for (int k = 0; k < WIDTH; ++k) {
        mine[k * AV_WARP] = sums.of[h][k];
      }
      __syncthreads();
      av_tile_join(call, place, room, pitch, call.width, h * call.width);
    }
  }
  if (!kind::poisson && !kind::by_cell && call.code == NULL) {
    __syncthreads();
    mine[0] = sums.px_r;
    __syncthreads();
    av_tile_join(call, place, room, pitch, 1, kind::heads * call.width);
  }
}

/* Block (tile of genes, slab of cells). */
template <int KIND, int WIDTH, int WAY>
static __global__ void __launch_bounds__(AV_TILE_THREADS, av_tile_blocks<KIND, WIDTH, WAY>::least)
    decode_tiles(const av_gpu_decode call) {
  typedef av_kind_of<KIND> kind;
  typedef av_tile_shared<KIND, WIDTH> shared_type;
  typedef av_tile_sums<KIND, WIDTH> sums_type;
  AV_SHARED_ARRAY(float4, dynamic);
  shared_type *shared = reinterpret_cast<shared_type *>(dynamic);
  av_tile_run<KIND> *run = reinterpret_cast<av_tile_run<KIND> *>(dynamic);
  if constexpr (sums_type::shared) {
    run = reinterpret_cast<av_tile_run<KIND> *>(shared + 1);
  } else {
    __shared__ shared_type fixed;
    shared = &fixed;
  }
  float *room = reinterpret_cast<float *>(shared->room);
  float *w = reinterpret_cast<float *>(shared->w);
  av_tile_place place;
  place.warp = (int)threadIdx.x / AV_WARP;
  place.lane = (int)threadIdx.x % AV_WARP;
  place.tile = blockIdx.x;
  place.g = (int)blockIdx.x * AV_DECODE_GENES + place.lane;
  place.gene = place.g < call.n_genes;
  place.slots = room + place.warp * shared_type::room_floats;
  place.x = shared->x + place.warp * AV_TILE_QUADS * WIDTH;
  place.w = w;
  av_shape own = {1.0f, 1.0f, 0.0f};
  if (!kind::poisson && !kind::by_cell && call.code == NULL && place.gene) {
    own = av_shape_of(call.px_r[place.g]);
  }
  if (place.warp == 0) {
    shared->px_r[place.lane] = own.log_theta;
  }
  if constexpr (WIDTH > 1) {
    av_tile_weights<KIND, WIDTH, WAY>(call, (int)blockIdx.x * AV_DECODE_GENES, w);
  }
  if (WAY >= AV_TILE_ANY && call.walk.order != NULL) {
    run += place.warp;
    av_run_start<KIND>(place, run);
  }
  sums_type sums;
  sums.px_r = 0.0f;
  AV_UNROLL
  for (int e = 0; e < kind::heads * sums_type::n; ++e) {
    sums.of[e / sums_type::n][e % sums_type::n] = 0.0f;
  }
  __syncthreads();
  av_tile_walk<KIND, WIDTH, WAY>(call, place, shared->px_r, own, run, sums);
  av_tile_end<KIND, WIDTH>(call, place, room, sums);
}

/* Widths: wide, and the least that holds the inputs. */
enum { AV_TILE_NARROW = 12 };

template <int KIND, int WIDTH, int WAY>
static cudaError_t av_launch_tiles_as(cudaStream_t stream, const av_gpu_decode &call) {
  const dim3 grid((unsigned)call.n_tiles, (unsigned)call.n_slabs);
  const bool dynamic = av_tile_sums<KIND, WIDTH>::shared;
  const size_t shared = (dynamic ? sizeof(av_tile_shared<KIND, WIDTH>) : 0) +
                        (WAY >= AV_TILE_ANY ? AV_TILE_WARPS * sizeof(av_tile_run<KIND>) : 0);
  if (dynamic) {
    const cudaError_t asked = av_let_have(decode_tiles<KIND, WIDTH, WAY>, shared);
    if (asked != cudaSuccess) {
      return asked;
    }
  }
  AV_LAUNCH((decode_tiles<KIND, WIDTH, WAY>), grid, AV_TILE_THREADS, shared, stream, call);
  return cudaGetLastError();
}

template <int KIND>
static cudaError_t av_launch_tiles(cudaStream_t stream, const av_gpu_decode &call) {
  const bool plain = call.walk.order == NULL && call.head[0].rows == NULL && call.code == NULL;
  if (call.wide) {
    return av_launch_tiles_as<KIND, 1, AV_TILE_WIDE>(stream, call);
  }
  if (call.own < call.n_in) {
    return av_launch_tiles_as<KIND, AV_DECODE_WIDTH, AV_TILE_WINDOW>(stream, call);
  }
  if (call.width <= AV_TILE_NARROW) {
    return plain ? av_launch_tiles_as<KIND, AV_TILE_NARROW, AV_TILE_PLAIN>(stream, call)
                 : av_launch_tiles_as<KIND, AV_TILE_NARROW, AV_TILE_ANY>(stream, call);
  }
  if (call.width <= AV_DECODE_FEW && plain) {
    return av_launch_tiles_as<KIND, AV_DECODE_FEW, AV_TILE_PLAIN>(stream, call);
  }
  return av_launch_tiles_as<KIND, AV_DECODE_WIDTH, AV_TILE_ANY>(stream, call);
}

#endif
