/* Captures of streams, as runtime.cpp and cublas.cpp see them. One at a time. */
#ifndef AV_EMULATED_GRAPHS_H
#define AV_EMULATED_GRAPHS_H

#include "cuda_runtime_api.h"

#include <functional>
#include <stdint.h>

/* What a stream, or what was last recorded in an event, has to do with captures. */
struct Captured {
  uint64_t capture = 0;   /* its number; 0: nothing */
  size_t last = SIZE_MAX; /* node of its graph that must be over; SIZE_MAX: none */
};
Captured &av_emulated_captured(cudaStream_t stream); /* runtime.cpp */

/* Runs work, or records it if the stream captures. Work is told on which stream it runs. */
typedef std::function<void(cudaStream_t)> Work;
cudaError_t av_emulated_queue(cudaStream_t stream, Work work);

bool av_emulated_captures(const Captured &captured);
/* What the stream has recorded so far; nothing if it does not capture. */
cudaError_t av_emulated_record(cudaStream_t stream, Captured *event);
/* The stream waits for an event, `recorded` at all: *captured if both are parts of a capture, or
 * become so; otherwise the wait is none of a capture. */
cudaError_t av_emulated_wait(cudaStream_t stream, const Captured &event, bool recorded,
                             bool *captured);

/* Of a call that an open capture forbids, the error, which also spoils the capture. */
cudaError_t av_emulated_forbidden(); /* in every mode */
cudaError_t av_emulated_unsafe();    /* "potentially unsafe": not in the relaxed mode */
cudaError_t av_emulated_wait_stream(const Captured &stream); /* or ask it */
cudaError_t av_emulated_wait_event(const Captured &event);   /* or ask it */

int64_t av_emulated_host_launches();
int64_t av_emulated_graphs(); /* cudaGraph_t and cudaGraphExec_t that are not destroyed */
int64_t av_emulated_played(); /* launches of graphs */

#endif
