/* Captures, and graphs: what streams recorded, and run again and again. Parts of a graph that
 * nothing orders run side by side. */
#include "cuda_host_graphs.h"

#include "cuda_host.h"

#include <stdlib.h>
#include <string.h>

typedef struct node {
  const av_stream_work *work; /* NULL: two streams come together */
  void *context;
  size_t bytes;
  int after[2]; /* -1: none */
} node;

struct CUgraph_st {
  node *nodes;
  int n;
  int owners;
};
struct CUgraphExec_st {
  cudaGraph_t graph;
};

/* The capture that is current. */
static struct {
  uint64_t number; /* 0: none is */
  cudaStream_t origin;
  cudaStreamCaptureMode mode;
  bool spoiled;
  cudaGraph_t graph;
} current;
static uint64_t n_captures;
static cudaStreamCaptureMode interaction;
static int n_live;

int graphs_live(void) { return n_live; }

bool captures(const captured *c) { return current.number != 0 && c->capture == current.number; }

uint64_t av_stream_capture(cudaStream_t stream) {
  return captures(captured_of(stream)) ? current.number : 0;
}

/* --- what captures forbid ------------------------------------------------------------------- */

static cudaError_t spoil(cudaError_t code) {
  current.spoiled = true;
  return code;
}

cudaError_t forbidden(void) {
  return current.number != 0 ? spoil(cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}

cudaError_t unsafe(void) {
  const bool relaxed =
      current.mode == cudaStreamCaptureModeRelaxed || interaction == cudaStreamCaptureModeRelaxed;
  return relaxed ? cudaSuccess : forbidden();
}

cudaError_t wait_stream(const captured *stream) {
  return captures(stream) ? forbidden() : unsafe();
}

cudaError_t wait_event(const captured *event) {
  if (captures(event)) {
    return spoil(cudaErrorCapturedEvent);
  }
  return event->capture != 0 ? cudaErrorCapturedEvent : unsafe();
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode *mode) {
  const cudaStreamCaptureMode before = interaction;
  interaction = *mode;
  *mode = before;
  return cudaSuccess;
}

/* --- recording ------------------------------------------------------------------------------ */

static cudaError_t add(captured *stream, node made) {
  if (current.spoiled) {
    free(made.context);
    return cudaErrorStreamCaptureInvalidated;
  }
  cudaGraph_t graph = current.graph;
  graph->nodes = realloc(graph->nodes, ((size_t)graph->n + 1) * sizeof *graph->nodes);
  graph->nodes[graph->n] = made;
  stream->last = graph->n++;
  return cudaSuccess;
}

cudaError_t record_work(captured *stream, const av_stream_work *work, const void *context,
                        size_t bytes) {
  node made = {work, malloc(bytes + 1), bytes, {stream->last, -1}};
  memcpy(made.context, context, bytes);
  if (work->keep != NULL && !current.spoiled) {
    work->keep(made.context, 1);
  }
  return add(stream, made);
}

cudaError_t wait_captured(captured *stream, const captured *event, bool recorded) {
  if (!captures(event)) {
    return event->capture != 0 ? cudaErrorCapturedEvent
           : recorded          ? spoil(cudaErrorStreamCaptureIsolation)
                               : cudaSuccess;
  }
  if (!captures(stream)) { /* a fork */
    *stream = *event;
    return cudaSuccess;
  }
  return add(stream, (node){.after = {stream->last, event->last}});
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  if (current.number != 0) {
    return answer(cudaErrorIllegalState);
  }
  current.number = ++n_captures;
  current.origin = stream;
  current.mode = mode;
  current.spoiled = false;
  current.graph = calloc(1, sizeof *current.graph);
  current.graph->owners = 1;
  ++n_live;
  *captured_of(stream) = (captured){current.number, -1};
  return cudaSuccess;
}

static void release(cudaGraph_t graph) {
  if (--graph->owners > 0) {
    return;
  }
  for (int i = 0; i < graph->n; ++i) {
    const node *at = &graph->nodes[i];
    if (at->work != NULL && at->work->keep != NULL) {
      at->work->keep(at->context, -1);
    }
    free(at->context);
  }
  free(graph->nodes);
  free(graph);
}

static void mark_joined(const struct CUgraph_st *graph, int i, bool *joined) {
  if (i >= 0 && !joined[i]) {
    joined[i] = true;
    mark_joined(graph, graph->nodes[i].after[0], joined);
    mark_joined(graph, graph->nodes[i].after[1], joined);
  }
}

/* All work comes before the end of the first stream. */
static bool all_joined(const struct CUgraph_st *graph, int last) {
  bool *joined = calloc((size_t)graph->n + 1, sizeof *joined);
  bool all = true;
  mark_joined(graph, last, joined);
  for (int i = 0; i < graph->n; ++i) {
    all = all && (joined[i] || graph->nodes[i].work == NULL);
  }
  free(joined);
  return all;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
  const captured mine = *captured_of(stream);
  *graph = NULL;
  if (!captures(&mine)) {
    return answer(cudaErrorIllegalState);
  }
  if (stream != current.origin) {
    return answer(spoil(cudaErrorStreamCaptureUnmatched));
  }
  const cudaError_t code = current.spoiled ? cudaErrorStreamCaptureInvalidated
                           : !all_joined(current.graph, mine.last) ? cudaErrorStreamCaptureUnjoined
                                                                   : cudaSuccess;
  current.number = 0;
  if (code == cudaSuccess) {
    *graph = current.graph;
  } else {
    release(current.graph);
    --n_live;
  }
  return answer(code);
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status) {
  *status = !captures(captured_of(stream)) ? cudaStreamCaptureStatusNone
            : current.spoiled              ? cudaStreamCaptureStatusInvalidated
                                           : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}

/* --- graphs --------------------------------------------------------------------------------- */

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph,
                                 unsigned long long flags) {
  (void)flags;
  *exec = malloc(sizeof **exec);
  (*exec)->graph = graph;
  ++graph->owners;
  ++n_live;
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  release(graph);
  --n_live;
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  release(exec->graph);
  free(exec);
  --n_live;
  return cudaSuccess;
}

/* A launch: contexts of its own, NULL where a node is over. */
typedef struct play {
  cudaGraph_t graph;
  void **contexts;
  bool *over;
  int n_over;
} play;

static void enter_play(void *context) {
  play *p = context;
  const cudaGraph_t graph = p->graph;
  p->contexts = calloc((size_t)graph->n + 1, sizeof *p->contexts);
  p->over = calloc((size_t)graph->n + 1, sizeof *p->over);
  ++graph->owners;
  for (int i = 0; i < graph->n; ++i) {
    const node *at = &graph->nodes[i];
    p->contexts[i] = malloc(at->bytes + 1);
    if (at->work != NULL) {
      memcpy(p->contexts[i], at->context, at->bytes);
    }
    if (at->work != NULL && at->work->enter != NULL) {
      at->work->enter(p->contexts[i]);
    }
  }
}

static bool can_run(const play *p, int i) {
  const int *after = p->graph->nodes[i].after;
  return !p->over[i] && (after[0] < 0 || p->over[after[0]]) && (after[1] < 0 || p->over[after[1]]);
}

/* One round: each node that can run is tried once. True if some of them is over now. */
static bool play_round(play *p) {
  const int n = p->graph->n;
  bool moved = false;
  for (int k = 0; k < n; ++k) {
    const int i = cuda_host_youngest_first ? n - 1 - k : k;
    const av_stream_work *work = p->graph->nodes[i].work;
    if (can_run(p, i) && (work == NULL || work->run(p->contexts[i]))) {
      p->over[i] = true;
      ++p->n_over;
      free(p->contexts[i]);
      moved = true;
    }
  }
  return moved;
}

static bool run_play(void *context) {
  play *p = context;
  while (play_round(p)) {
  }
  if (p->n_over < p->graph->n) {
    return false;
  }
  free(p->contexts);
  free(p->over);
  release(p->graph);
  return true;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  static const av_stream_work work = {.run = run_play, .enter = enter_play};
  if (captures(captured_of(stream))) {
    return answer(forbidden());
  }
  const play made = {.graph = exec->graph};
  append_work(stream, &work, &made, sizeof made);
  return cudaSuccess;
}
