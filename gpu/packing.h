/* A minibatch's counts in one block of the host's memory, as they travel to the GPU (stage.h): what
 * the slab holds of its rows, section behind section. */
#ifndef AV_GPU_PACKING_H
#define AV_GPU_PACKING_H

#include "backend/gpu_memory.h"
#include "data/counts.h"

/* The head: number of escapes, then row_start (n + 1). */
enum {
  AV_GPU_HEAD,
  AV_GPU_GENES,
  AV_GPU_VALUES,
  AV_GPU_ESCAPED_AT,
  AV_GPU_ESCAPED_VALUES,
  AV_GPU_SECTIONS
};

/* Where the sections lie, aligned; `used` bytes in all. */
typedef struct av_gpu_packing {
  size_t at[AV_GPU_SECTIONS], bytes[AV_GPU_SECTIONS];
  size_t used;
} av_gpu_packing;

/* Bytes of the sections of n rows with so many entries and escapes. */
void av_gpu_pack_sizes(const av_gpu_slab *slab, int64_t n, int64_t entries, int64_t escapes,
                       size_t bytes[AV_GPU_SECTIONS]);

/* Packs n rows of `counts`, which are the slab's, into `host`, that has room for sections of up to
 * `capacity` bytes each; `escapes` (n + 1) is overwritten: how many are before each row. By up to
 * `threads` threads. AV_BUG where the rows have more than fits; not collective. */
av_status av_gpu_pack(const av_counts *counts, const av_gpu_slab *slab, int threads,
                      const size_t capacity[AV_GPU_SECTIONS], int64_t n, const int64_t *rows,
                      int64_t *escapes, char *host, av_gpu_packing *made);

#endif
