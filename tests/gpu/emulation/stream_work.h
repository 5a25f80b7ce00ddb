/* What stand-ins of libraries put on a stream in the place of kernels: a function of the host's.
 * For both kinds of streams, those of this folder and of ../nccl/cuda_host.c. */
#ifndef AV_TESTS_GPU_STREAM_WORK_H
#define AV_TESTS_GPU_STREAM_WORK_H

#include "cuda_runtime_api.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct av_stream_work {
  /* In the stream's turn, again and again until it returns true. */
  bool (*run)(void *context);
  /* Before that, when it enters the stream: at once, or each time that a graph with it is launched,
   * in the order in which it was recorded. NULL: nothing. */
  void (*enter)(void *context);
  /* A graph has recorded it (+1), or is gone (-1). NULL: nothing. */
  void (*keep)(void *context, int change);
} av_stream_work;

/* Queues work, or records it if the stream captures. Each run has a copy of its own of the `bytes`
 * of the context. */
cudaError_t av_stream_queue(cudaStream_t stream, const av_stream_work *work, const void *context,
                            size_t bytes);
/* The capture that the stream is part of, from 1; 0: none. */
uint64_t av_stream_capture(cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
