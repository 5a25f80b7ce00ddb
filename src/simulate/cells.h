/* Cells drawn from the truth, in blocks: any block, on any thread, gives the same cells. */
#ifndef AV_SIMULATE_CELLS_H
#define AV_SIMULATE_CELLS_H

#include "simulate/settings.h"
#include "simulate/truth.h"

#include <stdint.h>

typedef struct av_sim_block {
  int64_t capacity; /* cells that fit */
  int64_t genes, factors;
  int64_t first, n; /* cells held now: [first, first + n) of the file */
  int32_t *batch;   /* (n) */
  int32_t *label;   /* (n) */
  float *z;         /* (n, factors) */
  double *library;  /* (n): exp(l) */
  int64_t *indptr;  /* (n + 1), from 0 */
  int32_t *indices; /* (indptr[n]), increasing within a cell */
  float *data;      /* (indptr[n]) */
} av_sim_block;

/* Room for blocks of up to `capacity` cells; capacity * genes * 8 bytes are reserved, of which only
 * the share of non-zeros is touched. */
av_status av_sim_block_create(av_sim_block *block, const av_sim_settings *settings,
                              int64_t capacity);
void av_sim_block_free(av_sim_block *block);

/* Draws cells [first, first + n), n <= capacity, in parallel. Fails with AV_USAGE when a count
 * exceeds 2^24, which float32 does not hold exactly. */
av_status av_sim_block_draw(av_sim_block *block, const av_sim_settings *settings,
                            const av_sim_truth *truth, int64_t first, int64_t n);

#endif
