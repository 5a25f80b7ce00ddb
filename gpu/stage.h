/* Streaming: counts that do not fit the GPU stay with the host, and each minibatch's travel.
 *
 * The host's threads gather the rows' entries into one of a ring of pinned buffers; one copy, on a
 * stream of its own, brings them into a slot on the device while kernels work on the minibatches
 * before; when the kernels' stream gets there, it waits for that copy and copies from the slot into
 * arrays at fixed addresses, which kernels see in place of the slab's (kernels/view.h), so that a
 * captured graph serves every minibatch. A slot is filled again when it has been emptied. So up to
 * AV_GPU_STAGE_SLOTS minibatches are on their way, and on the kernels' stream the order is: kernels
 * of the minibatch before, copy, kernels of this one.
 *
 * Cells are those that the sampler has drawn from the whole slab, in that order, with the entries
 * that the slab holds: nothing is shuffled only within blocks of cells, and results are those of
 * resident counts to the bit. */
#ifndef AV_GPU_STAGE_H
#define AV_GPU_STAGE_H

#include "state.h"

#include "backend/gpu_memory.h"

/* How many rows have how much of something: n[i] rows have i. */
typedef struct av_gpu_tally {
  int64_t most;
  int64_t *n; /* (most + 1) */
} av_gpu_tally;

/* What is known of a slab whose counts are streamed. */
struct av_gpu_source {
  const av_counts *counts; /* borrowed */
  av_gpu_slab slab;
  av_gpu_tally entries, escapes;
  cudaStream_t stream; /* copies to the device */
};

/* AV_NOMEM. NULL is nothing to free. */
av_status av_gpu_source_create(const av_dataset *dataset, av_gpu_source **source);
void av_gpu_source_free(av_gpu_source *source);

/* Bytes of a slot for any max_rows different rows: what the largest of the slab take. */
int64_t av_gpu_source_slot_bytes(const av_gpu_source *source, int64_t max_rows);

/* A batch's ring, and the arrays that kernels see, which `view` is pointed to. */
av_status av_gpu_stage_create(av_backend *be, const av_gpu_source *source, int64_t max_rows,
                              av_gpu_rows *view, av_gpu_stage **stage);
/* After all that is queued for it. NULL is nothing to free. */
void av_gpu_stage_free(av_backend *be, av_gpu_stage *stage);

/* Entries of n rows on their way to the device, also while be's stream records a graph. Waits only
 * when the host is a whole ring ahead. */
void av_gpu_stage_send(av_backend *be, av_gpu_stage *stage, int64_t n, const int64_t *rows);
/* And into those arrays, in the order of be's stream; once for each that was sent, or for the last
 * of several. */
void av_gpu_stage_take(av_backend *be, av_gpu_stage *stage);

#endif
