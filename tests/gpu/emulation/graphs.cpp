/* Captures of streams, and graphs: work that is recorded, and run again and again. */
#include "graphs.h"

#include "cuda_runtime.h"
#include "memory.h"
#include "stream_work.h"

#include <memory>
#include <pthread.h>
#include <sched.h>
#include <set>
#include <vector>

namespace {

const size_t NONE = SIZE_MAX;

struct Node {
  Work work;                   /* empty: two streams come together */
  std::function<void()> enter; /* of stream_work.h; empty: nothing */
  std::vector<size_t> after;
};
typedef std::vector<Node> Nodes;

/* The capture that is current. */
struct Capture {
  uint64_t number; /* 0: none is */
  cudaStream_t origin;
  cudaStreamCaptureMode mode;
  pthread_t thread;
  bool spoiled;
  Nodes nodes;
  size_t last_of_libraries; /* they run what they put on streams one after the other */
};

Capture &current = *new Capture();
uint64_t n_captures;
int64_t n_played;
int64_t n_host_launches;
thread_local cudaStreamCaptureMode interaction = cudaStreamCaptureModeGlobal;

}  // namespace

struct CUgraph_st {
  std::shared_ptr<const Nodes> nodes;
};
struct CUgraphExec_st {
  std::shared_ptr<const Nodes> nodes;
};

namespace {

std::set<cudaGraph_t> &graphs = *new std::set<cudaGraph_t>;
std::set<cudaGraphExec_t> &ready_graphs = *new std::set<cudaGraphExec_t>;

cudaError_t answer(cudaError_t error) {
  if (error != cudaSuccess) {
    av_emulated_set_error(error);
  }
  return error;
}

cudaError_t spoil(cudaError_t error) {
  current.spoiled = true;
  return error;
}

/* Of a stream that captures. */
cudaError_t add(Captured *stream, Node node) {
  if (current.spoiled) {
    return cudaErrorStreamCaptureInvalidated;
  }
  if (stream->last != NONE) {
    node.after.push_back(stream->last);
  }
  current.nodes.push_back(std::move(node));
  stream->last = current.nodes.size() - 1;
  return cudaSuccess;
}

/* Work that the origin has not waited for. */
bool unjoined(const Nodes &nodes, size_t last) {
  std::vector<char> joined(nodes.size());
  std::vector<size_t> rest;
  if (last != NONE) {
    rest.push_back(last);
  }
  while (!rest.empty()) {
    const size_t i = rest.back();
    rest.pop_back();
    if (!joined[i]) {
      joined[i] = true;
      rest.insert(rest.end(), nodes[i].after.begin(), nodes[i].after.end());
    }
  }
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (!joined[i] && nodes[i].work) {
      return true;
    }
  }
  return false;
}

/* Nodes that nothing orders run as the blocks of a grid do: ascending, descending or shuffled. */
void run(const Nodes &nodes, cudaStream_t on) {
  ++n_played;
  for (const Node &node : nodes) {
    if (node.enter) {
      node.enter();
    }
  }
  std::vector<char> over(nodes.size());
  std::vector<size_t> next;
  for (size_t left = nodes.size(); left > 0; --left) {
    next.clear();
    for (size_t i = 0; i < nodes.size(); ++i) {
      bool can = !over[i];
      for (size_t before : nodes[i].after) {
        can = can && over[before];
      }
      if (can) {
        next.push_back(i);
      }
    }
    const size_t i = next[av_emulated_pick(next.size())];
    if (nodes[i].work) {
      nodes[i].work(on);
    }
    over[i] = true;
  }
}

}  // namespace

int64_t av_emulated_graphs() { return static_cast<int64_t>(graphs.size() + ready_graphs.size()); }

int64_t av_emulated_played() { return n_played; }

int64_t av_emulated_host_launches() { return n_host_launches; }

/* --- work ----------------------------------------------------------------------------------- */

bool av_emulated_captures(const Captured &captured) {
  return captured.capture != 0 && captured.capture == current.number;
}

cudaError_t av_emulated_queue(cudaStream_t stream, Work work) {
  Captured &captured = av_emulated_captured(stream);
  if (stream == NULL && current.number != 0) {
    return spoil(cudaErrorStreamCaptureImplicit);
  }
  if (av_emulated_captures(captured)) {
    return add(&captured, {std::move(work), {}, {}});
  }
  work(stream);
  return cudaSuccess;
}

void av_emulate_launch(const char *name, dim3 grid, dim3 block, size_t shared_bytes,
                       cudaStream_t stream, void (*body)(void *), std::shared_ptr<void> arguments) {
  if (!av_emulated_fits(grid, block, shared_bytes)) {
    av_emulate_grid(name, grid, block, shared_bytes, body, arguments.get()); /* says so */
    return;
  }
  n_host_launches += av_emulated_captures(av_emulated_captured(stream)) ? 0 : 1;
  answer(av_emulated_queue(stream, [=](cudaStream_t) {
    av_emulate_grid(name, grid, block, shared_bytes, body, arguments.get());
  }));
}

uint64_t av_stream_capture(cudaStream_t stream) {
  const Captured &captured = av_emulated_captured(stream);
  return av_emulated_captures(captured) ? captured.capture : 0;
}

cudaError_t av_stream_queue(cudaStream_t stream, const av_stream_work *work, const void *context,
                            size_t bytes) {
  const char *first = static_cast<const char *>(context);
  Captured &captured = av_emulated_captured(stream);
  const bool captures = av_emulated_captures(captured);
  const auto forget = [=](std::vector<char> *kept) {
    if (captures && work->keep != NULL) {
      work->keep(kept->data(), -1);
    }
    delete kept;
  };
  const std::shared_ptr<std::vector<char>> kept(new std::vector<char>(first, first + bytes),
                                                forget);
  const auto instance = std::make_shared<std::vector<char>>();
  const auto enter = [=]() {
    *instance = *kept;
    if (work->enter != NULL) {
      work->enter(instance->data());
    }
  };
  const auto run_all = [=](cudaStream_t) {
    av_emulated_works = true;
    while (!work->run(instance->data())) {
      sched_yield();
    }
    av_emulated_works = false;
  };
  if (!captures) {
    enter();
    return answer(av_emulated_queue(stream, run_all));
  }
  if (work->keep != NULL) {
    work->keep(kept->data(), 1);
  }
  std::vector<size_t> after;
  if (current.last_of_libraries != NONE) {
    after.push_back(current.last_of_libraries);
  }
  const cudaError_t added = add(&captured, {run_all, enter, after});
  current.last_of_libraries = captured.last;
  return answer(added);
}

/* --- events --------------------------------------------------------------------------------- */

cudaError_t av_emulated_record(cudaStream_t stream, Captured *event) {
  const Captured &captured = av_emulated_captured(stream);
  *event = Captured();
  if (stream == NULL && current.number != 0) {
    return spoil(cudaErrorStreamCaptureImplicit);
  }
  if (av_emulated_captures(captured)) {
    *event = captured;
    return current.spoiled ? cudaErrorStreamCaptureInvalidated : cudaSuccess;
  }
  return cudaSuccess;
}

cudaError_t av_emulated_wait(cudaStream_t stream, const Captured &event, bool recorded,
                             bool *captured) {
  Captured &mine = av_emulated_captured(stream);
  *captured = true;
  if (stream == NULL && current.number != 0) {
    return spoil(cudaErrorStreamCaptureImplicit);
  }
  if (!av_emulated_captures(event)) {
    *captured = av_emulated_captures(mine);
    return event.capture != 0      ? cudaErrorCapturedEvent
           : *captured && recorded ? spoil(cudaErrorStreamCaptureIsolation)
                                   : cudaSuccess;
  }
  if (!av_emulated_captures(mine)) { /* a fork */
    mine = event;
    return cudaSuccess;
  }
  if (event.last == NONE || event.last == mine.last) {
    return cudaSuccess;
  }
  return add(&mine, {Work(), {}, {event.last}});
}

/* --- what captures forbid ------------------------------------------------------------------- */

cudaError_t av_emulated_unsafe() {
  const bool mine = current.number != 0 && pthread_equal(current.thread, pthread_self()) != 0;
  const bool strict = current.number != 0 && current.mode != cudaStreamCaptureModeRelaxed &&
                      (mine ? interaction != cudaStreamCaptureModeRelaxed
                            : current.mode == cudaStreamCaptureModeGlobal &&
                                  interaction == cudaStreamCaptureModeGlobal);
  return strict ? spoil(cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}

cudaError_t av_emulated_forbidden() {
  return current.number != 0 ? spoil(cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}

cudaError_t av_emulated_wait_stream(const Captured &stream) {
  return av_emulated_captures(stream) ? av_emulated_forbidden() : av_emulated_unsafe();
}

cudaError_t av_emulated_wait_event(const Captured &event) {
  if (av_emulated_captures(event)) {
    return spoil(cudaErrorCapturedEvent);
  }
  return event.capture != 0 ? cudaErrorCapturedEvent : av_emulated_unsafe();
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode *mode) {
  std::swap(*mode, interaction);
  return cudaSuccess;
}

/* --- captures and graphs -------------------------------------------------------------------- */

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  if (stream == NULL) {
    return answer(cudaErrorStreamCaptureUnsupported);
  }
  if (current.number != 0) {
    av_emulate_fail("a capture begins while another is open: not emulated");
  }
  Captured &captured = av_emulated_captured(stream);
  current = {++n_captures, stream, mode, pthread_self(), false, {}, NONE};
  captured.capture = current.number;
  captured.last = NONE;
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
  *graph = NULL;
  const Captured captured = av_emulated_captured(stream);
  if (!av_emulated_captures(captured)) {
    return answer(cudaErrorIllegalState);
  }
  if (current.mode != cudaStreamCaptureModeRelaxed &&
      pthread_equal(current.thread, pthread_self()) == 0) {
    return answer(cudaErrorStreamCaptureWrongThread);
  }
  if (current.origin != stream) {
    return answer(spoil(cudaErrorStreamCaptureUnmatched));
  }
  const cudaError_t error = current.spoiled ? cudaErrorStreamCaptureInvalidated
                            : unjoined(current.nodes, captured.last)
                                ? cudaErrorStreamCaptureUnjoined
                                : cudaSuccess;
  const auto nodes = std::make_shared<Nodes>(std::move(current.nodes));
  current = Capture();
  if (error == cudaSuccess) {
    *graph = new CUgraph_st{nodes};
    graphs.insert(*graph);
  }
  return answer(error);
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status) {
  *status = !av_emulated_captures(av_emulated_captured(stream)) ? cudaStreamCaptureStatusNone
            : current.spoiled                                   ? cudaStreamCaptureStatusInvalidated
                                                                : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long) {
  *exec = NULL;
  if (graphs.count(graph) == 0) {
    return answer(cudaErrorInvalidValue);
  }
  const cudaError_t error = av_emulated_unsafe();
  if (error == cudaSuccess) {
    *exec = new CUgraphExec_st{graph->nodes};
    ready_graphs.insert(*exec);
  }
  return answer(error);
}

cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t) {
  return answer(ready_graphs.count(exec) == 0 ? cudaErrorInvalidValue : av_emulated_unsafe());
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  if (ready_graphs.count(exec) == 0) {
    av_emulate_fail("a graph is launched that does not exist, or no longer");
  }
  if (av_emulated_captures(av_emulated_captured(stream))) {
    av_emulate_fail("a graph is launched in a stream that captures: not emulated");
  }
  const std::shared_ptr<const Nodes> nodes = exec->nodes;
  return answer(av_emulated_queue(stream, [=](cudaStream_t on) { run(*nodes, on); }));
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  if (ready_graphs.erase(exec) == 0) {
    return answer(cudaErrorInvalidValue);
  }
  delete exec;
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  if (graphs.erase(graph) == 0) {
    return answer(cudaErrorInvalidValue);
  }
  delete graph;
  return cudaSuccess;
}
