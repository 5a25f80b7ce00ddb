/* Captures of cuda_host.c's streams. One at a time. */
#ifndef AV_TESTS_GPU_NCCL_CUDA_HOST_GRAPHS_H
#define AV_TESTS_GPU_NCCL_CUDA_HOST_GRAPHS_H

#include "stream_work.h"

/* What a stream, or what was last recorded in an event, has to do with captures. */
typedef struct captured {
  uint64_t capture; /* its number, from 1 */
  int last;         /* node of its graph that must be over; -1: none */
} captured;

/* cuda_host.c */
captured *captured_of(cudaStream_t stream);
cudaError_t answer(cudaError_t code);
/* Where nothing captures. */
void append_work(cudaStream_t stream, const av_stream_work *work, const void *context,
                 size_t bytes);

bool captures(const captured *c);
cudaError_t record_work(captured *stream, const av_stream_work *work, const void *context,
                        size_t bytes);
/* One of the two captures; then both do. */
cudaError_t wait_captured(captured *stream, const captured *event, bool recorded);

/* Of a call that an open capture forbids, the error, which also spoils the capture. */
cudaError_t forbidden(void);                     /* in every mode */
cudaError_t unsafe(void);                        /* not in the relaxed mode */
cudaError_t wait_stream(const captured *stream); /* or ask it */
cudaError_t wait_event(const captured *event);   /* or ask it */

int graphs_live(void);

#endif
