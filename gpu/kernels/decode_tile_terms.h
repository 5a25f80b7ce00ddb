/* Gradients on the logits of a warp's cells in decode_tiles, an element at a time: base terms, then
 * the corrections of the entries, which may be any lane's. Device code only. */
#ifndef AV_GPU_KERNELS_DECODE_TILE_TERMS_H
#define AV_GPU_KERNELS_DECODE_TILE_TERMS_H

#include "kernels/decode_tile_cells.h"

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
template <int KIND, int WAY>
static __device__ __forceinline__ void av_place_base(const av_gpu_decode &call,
                                                     const av_tile_place &place, int64_t i, int r,
                                                     int64_t code, bool valid, av_shape own) {
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
    } else if (!kind::poisson && WAY != AV_TILE_PLAIN && call.code != NULL) {
      shape = av_shape_of(call.px_r[code * call.n_genes + place.g]);
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
template <int KIND, int WAY>
static __device__ __forceinline__ void av_place_entry(const av_gpu_decode &call,
                                                      const av_tile_place &place,
                                                      const float *px_r_of, int64_t i, int r,
                                                      int64_t code, int gene, float x) {
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
  } else if (!kind::poisson && WAY != AV_TILE_PLAIN && call.code != NULL) {
    px_r = call.px_r[code * call.n_genes + place.tile * AV_DECODE_GENES + gene];
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
template <int KIND, int WAY>
static __device__ __forceinline__ void av_place_entries(const av_gpu_decode &call,
                                                        const av_tile_place &place,
                                                        const av_tile_cells<WAY> &cells,
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
    const int64_t i = cells.of(r);
    const int64_t code = cells.code_of(call, r);
    const int64_t at = __shfl_sync(AV_ALL_LANES, (long long)cells.at, r) + number - before;
    if (number < total) {
      const int gene = av_entry_gene(call.rows.data, at) - (int)(place.tile * AV_DECODE_GENES);
      av_place_entry<KIND, WAY>(call, place, px_r_of, i, r, code, gene,
                                av_entry_value(call.rows.data, at));
    }
  }
}

#endif
