/* Runs of cells of one key in a walk (av_gpu_decode_walk): what a warp of decode_tiles adds up of
 * them. Between steps it lies in shared memory, so that it takes no registers from the rest. Device
 * code only. */
#ifndef AV_GPU_KERNELS_DECODE_TILE_RUNS_H
#define AV_GPU_KERNELS_DECODE_TILE_RUNS_H

#include "kernels/decode_inputs.h"
#include "kernels/decode_tile_cells.h"

/* The run that a warp is in. */
template <int KIND>
struct av_tile_run {
  static const int sums =
      av_kind_of<KIND>::heads + (av_kind_of<KIND>::poisson || av_kind_of<KIND>::by_cell ? 0 : 1);
  float sum[sums][AV_WARP];
  int key;   /* -1: there was no cell yet */
  int first; /* key of the warp's first run, once that has ended; -1 before */
};

template <int KIND>
static __device__ __forceinline__ void av_run_start(const av_tile_place &place,
                                                    av_tile_run<KIND> *run) {
  if (place.lane == 0) {
    run->key = -1;
    run->first = -1;
  }
  __syncwarp();
}

/* Where runs go that others may have cells of: piece 0 of the warp's first, 1 of its last. */
static __device__ __forceinline__ int64_t av_piece_of(const av_tile_place &place, int piece) {
  return ((int64_t)blockIdx.y * AV_TILE_WARPS + place.warp) * 2 + piece;
}
static __device__ __forceinline__ float *av_row_of_piece(const av_gpu_decode &call,
                                                         const av_tile_place &place, int s,
                                                         int piece) {
  return call.walk.pieces + (av_piece_of(place, piece) * call.walk.n + s) * call.stride;
}

/* Adds the cells of a step, whose gradients are in their slots. */
template <int KIND, int WAY>
static __device__ __forceinline__ void av_run_add(const av_gpu_decode &call,
                                                  const av_tile_place &place,
                                                  const av_tile_cells<WAY> &cells,
                                                  av_tile_run<KIND> *run) {
  typedef av_slots_of<KIND> slots;
  const int mine =
      place.lane < cells.live ? call.walk.key[(int64_t)cells.row * call.walk.stride] : -1;
  int key = -1;
  int first = -1;
  AV_ROLLED
  for (int s = 0; s < call.walk.n; ++s) {
    const bool logits = call.walk.columns && s < av_kind_of<KIND>::heads;
    const int slot = logits ? slots::gradient(s) : slots::w;
    float sum = run->sum[s][place.lane];
    key = run->key;
    first = run->first;
    AV_ROLLED
    for (int r = 0; r < cells.live; ++r) {
      const int next = __shfl_sync(AV_ALL_LANES, mine, r);
      if (next != key) {
        if (key >= 0 && place.gene) {
          float *to = first < 0 ? av_row_of_piece(call, place, s, 0) : av_row_of_key(call, s, key);
          to[place.g] = first < 0 ? sum : to[place.g] + sum;
        }
        first = first < 0 ? key : first;
        key = next;
        sum = 0.0f;
      }
      sum += av_slot(place, slot, r, place.lane);
    }
    run->sum[s][place.lane] = sum;
  }
  __syncwarp();
  if (place.lane == 0 && cells.live > 0) {
    run->key = key;
    run->first = first;
  }
  __syncwarp();
}

/* The last run, and what pieces there are. */
template <int KIND>
static __device__ __forceinline__ void av_run_end(const av_gpu_decode &call,
                                                  const av_tile_place &place,
                                                  const av_tile_run<KIND> *run) {
  const int piece = run->first < 0 ? 0 : 1;
  for (int s = 0; s < call.walk.n && run->key >= 0 && place.gene; ++s) {
    av_row_of_piece(call, place, s, piece)[place.g] = run->sum[s][place.lane];
  }
  if (place.tile == 0 && place.lane == 0) {
    int32_t *of = call.walk.piece_of + av_piece_of(place, 0);
    of[0] = piece == 0 ? run->key : run->first;
    of[1] = piece == 0 ? -1 : run->key;
  }
}

#endif
