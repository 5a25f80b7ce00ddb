/* The host's calls: device memory from the heap, streams that work at once. */
#include "graphs.h"
#include "memory.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <sanitizer/asan_interface.h>
#include <set>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <vector>

#define AV_TRY_CUDA(call)           \
  do {                              \
    const cudaError_t code_ = call; \
    if (code_ != cudaSuccess) {     \
      return answer(code_);         \
    }                               \
  } while (0)

namespace {

struct Block {
  size_t bytes;
  bool pinned;
};

/* An asynchronous copy between pinned and device memory, or a wait for another stream, that the
 * host has not waited for. */
struct Pending {
  uint64_t ticket;
  char *host;
  bool to_host;
  std::vector<char> bytes; /* what was sent, or is to arrive */
  CUstream_st *other;      /* to wait for, up to ticket `until` */
  uint64_t until;
};

const size_t SHUT_BYTES = 8192;

/* Never destroyed: at_exit looks at them. */
std::map<uintptr_t, Block> &blocks = *new std::map<uintptr_t, Block>;
size_t used_bytes;
size_t total_bytes = static_cast<size_t>(4) << 30;
int capability = getenv("AV_EMULATED_MAJOR") != NULL ? atoi(getenv("AV_EMULATED_MAJOR")) : 9;
int64_t waits = 0;
int64_t new_waits = 0;
int64_t idle_waits = 0;
const int64_t LONG_AGO = 4; /* launches of graphs */
const bool backwards = getenv("AV_EMULATED_CLOCK") != NULL;
int devices = getenv("AV_EMULATED_DEVICES") != NULL ? atoi(getenv("AV_EMULATED_DEVICES")) : 1;
int most_shared;
cudaError_t last_error = cudaSuccess;
uint64_t tickets;
bool open_to_all;

}  // namespace

struct CUstream_st {
  unsigned flags;
  std::vector<Pending> pending;
  Captured captured;
};
bool av_emulated_works = false;
int64_t av_emulated_clock;

struct CUevent_st {
  CUstream_st *stream;
  uint64_t ticket;
  bool recorded, asked;
  bool timed;  /* it has a time, ... */
  bool done;   /* ... which is there */
  int64_t now;    /* when it was recorded ... */
  int64_t played; /* ... after so many launches of graphs */
  Captured captured;
};

namespace {

CUstream_st &default_stream = *new CUstream_st();
std::set<CUstream_st *> &streams = *new std::set<CUstream_st *>{&default_stream};
std::set<CUevent_st *> &events = *new std::set<CUevent_st *>;

cudaError_t answer(cudaError_t error) {
  if (error != cudaSuccess && error != cudaErrorNotReady) {
    last_error = error;
  }
  return error;
}

const char *rank_text() {
  const char *rank = getenv("OMPI_COMM_WORLD_RANK");
  return rank == NULL ? "0" : rank;
}

/* The launch after which the device is broken, from the environment; negative: never. */
int64_t last_launch() {
  const char *text = getenv("AV_EMULATED_BREAKS");
  int breaks = 0;
  long long launch = 0;
  const bool told = text != NULL && sscanf(text, "%d:%lld", &breaks, &launch) == 2;
  return told && breaks == atoi(rank_text()) ? launch : -1;
}

cudaError_t health() {
  static const int64_t last = last_launch();
  const bool broken = last >= 0 && av_emulate_counts().launches > last;
  return broken ? cudaErrorIllegalAddress : cudaSuccess;
}

CUstream_st *stream_of(cudaStream_t stream) {
  CUstream_st *found = stream == NULL ? &default_stream : stream;
  if (streams.count(found) == 0) {
    av_emulate_fail("a stream that does not exist, or no longer");
  }
  return found;
}

/* The block that `at` lies in, or begins where it ends; NULL: none. */
const std::pair<const uintptr_t, Block> *block_of(const void *at) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(at);
  auto after = blocks.upper_bound(address);
  if (after == blocks.begin()) {
    return NULL;
  }
  const auto &found = *std::prev(after);
  return address <= found.first + found.second.bytes ? &found : NULL;
}
bool on_device(const void *at) {
  const auto *block = block_of(at);
  return block != NULL && !block->second.pinned;
}
bool is_pinned(const void *at) {
  const auto *block = block_of(at);
  return block != NULL && block->second.pinned;
}

/* A block is shut to the host by its first bytes alone: each launch opens and shuts all of them. */
void shut(uintptr_t at, const Block &block) {
  if (!block.pinned) {
    __asan_poison_memory_region(reinterpret_cast<void *>(at), std::min(block.bytes, SHUT_BYTES));
  }
}
void open(uintptr_t at, const Block &block) {
  if (!block.pinned) {
    __asan_unpoison_memory_region(reinterpret_cast<void *>(at), std::min(block.bytes, SHUT_BYTES));
  }
}

/* Device blocks that a call touches are open for as long as an Opened lives. */
struct Opened {
  const std::pair<const uintptr_t, Block> *block;
  explicit Opened(const void *at) : block(on_device(at) && !open_to_all ? block_of(at) : NULL) {
    if (block != NULL) {
      open(block->first, block->second);
    }
  }
  ~Opened() {
    if (block != NULL) {
      shut(block->first, block->second);
    }
  }
  Opened(const Opened &) = delete;
  Opened &operator=(const Opened &) = delete;
};

void complete(CUstream_st *stream, uint64_t until);

void complete_one(Pending *pending) {
  if (pending->other != NULL) {
    if (streams.count(pending->other) != 0) {
      complete(pending->other, pending->until);
    }
  } else if (pending->to_host) {
    memcpy(pending->host, pending->bytes.data(), pending->bytes.size());
  } else if (memcmp(pending->host, pending->bytes.data(), pending->bytes.size()) != 0) {
    av_emulate_fail(
        "pinned memory (%zu bytes) was changed before its cudaMemcpyAsync to the "
        "device was waited for",
        pending->bytes.size());
  }
}

/* The host has waited for the stream's work up to a ticket. */
void complete(CUstream_st *stream, uint64_t until) {
  std::vector<Pending> taken;
  taken.swap(stream->pending);
  for (Pending &pending : taken) {
    if (pending.to_host) {
      __asan_unpoison_memory_region(pending.host, pending.bytes.size());
    }
  }
  for (Pending &pending : taken) {
    if (pending.ticket <= until) {
      complete_one(&pending);
    } else {
      if (pending.to_host) {
        __asan_poison_memory_region(pending.host, pending.bytes.size());
      }
      stream->pending.push_back(std::move(pending));
    }
  }
}

void complete_all() {
  for (CUstream_st *stream : streams) {
    complete(stream, UINT64_MAX);
  }
}
/* What a call without a stream waits for. */
void complete_default() {
  for (CUstream_st *stream : streams) {
    if ((stream->flags & cudaStreamNonBlocking) == 0) {
      complete(stream, UINT64_MAX);
    }
  }
}

/* Sent or to arrive by itself: only where the host's memory is pinned; copies of pageable memory
 * are over when the call returns. */
void postpone(CUstream_st *stream, char *host, bool to_host, const void *bytes, size_t n) {
  const char *first = static_cast<const char *>(bytes);
  stream->pending.push_back(
      {++tickets, host, to_host, std::vector<char>(first, first + n), NULL, 0});
  if (to_host) {
    __asan_poison_memory_region(host, n);
  }
}

cudaError_t check_direction(const void *to, const void *from, cudaMemcpyKind kind) {
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  const bool wrong =
      kind != cudaMemcpyDefault && (on_device(to) != to_device || on_device(from) != from_device);
  return wrong ? cudaErrorInvalidValue : cudaSuccess;
}

cudaError_t copy(void *to, const void *from, size_t n, cudaMemcpyKind kind, CUstream_st *stream) {
  if (n == 0) {
    return cudaSuccess;
  }
  AV_TRY_CUDA(check_direction(to, from, kind));
  if (av_emulated_watcher != NULL) {
    av_emulated_watcher->moved(to, from, n);
  }
  const Opened open_to(to);
  const Opened open_from(from);
  if (stream != NULL && on_device(to) && is_pinned(from)) {
    memcpy(to, from, n);
    postpone(stream, static_cast<char *>(const_cast<void *>(from)), false, from, n);
  } else if (stream != NULL && is_pinned(to) && on_device(from)) {
    av_emulated_check("cudaMemcpyAsync", to, n);
    postpone(stream, static_cast<char *>(to), true, from, n);
  } else {
    memmove(to, from, n);
  }
  return cudaSuccess;
}

bool is_pageable(const void *at) { return block_of(at) == NULL; }

/* The same in the stream's turn: at once, or whenever the graph that it captures is launched. */
cudaError_t queue_copy(void *to, const void *from, size_t n, cudaMemcpyKind kind,
                       cudaStream_t stream) {
  if (!av_emulated_captures(stream_of(stream)->captured)) {
    cudaError_t error = cudaSuccess;
    waits += !av_emulated_works && (is_pageable(to) || is_pageable(from));
    AV_TRY_CUDA(av_emulated_queue(
        stream, [&](cudaStream_t on) { error = copy(to, from, n, kind, stream_of(on)); }));
    return error;
  }
  AV_TRY_CUDA(check_direction(to, from, kind));
  if (n == 0 || is_pageable(to) || is_pageable(from)) {
    return answer(av_emulated_forbidden());
  }
  return answer(av_emulated_queue(stream, [=](cudaStream_t on) {
    av_emulated_open_memory(); /* it may have been freed since */
    av_emulated_check("cudaMemcpyAsync of a graph", to, n);
    av_emulated_check("cudaMemcpyAsync of a graph", from, n);
    av_emulated_close_memory();
    copy(to, from, n, kind, stream_of(on));
  }));
}

cudaError_t fill(void *memory, int byte, size_t bytes) {
  if (!on_device(memory)) {
    return answer(cudaErrorInvalidValue);
  }
  if (av_emulated_watcher != NULL) {
    av_emulated_watcher->moved(memory, NULL, bytes);
  }
  const Opened open(memory);
  memset(memory, byte, bytes);
  return cudaSuccess;
}

cudaError_t allocate(void **memory, size_t bytes, bool pinned) {
  *memory = NULL;
  AV_TRY_CUDA(av_emulated_unsafe());
  if (devices == 0) {
    return answer(cudaErrorNoDevice);
  }
  if (bytes == 0) {
    return cudaSuccess;
  }
  const size_t room = total_bytes - std::min(total_bytes, used_bytes);
  if ((!pinned && bytes > room) || posix_memalign(memory, 256, bytes) != 0) {
    *memory = NULL;
    return answer(cudaErrorMemoryAllocation);
  }
  memset(*memory, 0xff, bytes);
  blocks[reinterpret_cast<uintptr_t>(*memory)] = {bytes, pinned};
  if (!pinned) {
    used_bytes += bytes;
    if (av_emulated_watcher != NULL) {
      av_emulated_watcher->memory(*memory, bytes, true);
    }
  }
  shut(reinterpret_cast<uintptr_t>(*memory), {bytes, pinned});
  return cudaSuccess;
}

cudaError_t release(void *memory, bool pinned) {
  AV_TRY_CUDA(av_emulated_unsafe());
  if (memory == NULL) {
    return cudaSuccess;
  }
  complete_all();
  ++waits;
  const auto found = blocks.find(reinterpret_cast<uintptr_t>(memory));
  if (found == blocks.end() || found->second.pinned != pinned) {
    return answer(cudaErrorInvalidValue);
  }
  if (!pinned) {
    used_bytes -= found->second.bytes;
    if (av_emulated_watcher != NULL) {
      av_emulated_watcher->memory(memory, found->second.bytes, false);
    }
  }
  open(found->first, found->second);
  blocks.erase(found);
  free(memory);
  return cudaSuccess;
}

void report() {
  const av_emulated_counts counts = av_emulate_counts();
  fprintf(stderr,
          "emulation: %lld launches of kernels, %lld of graphs; the host waited %lld times, for "
          "new events %lld times, for the last work %lld times; rank %s\n",
          static_cast<long long>(counts.launches), static_cast<long long>(counts.played),
          static_cast<long long>(counts.waits), static_cast<long long>(counts.new_waits),
          static_cast<long long>(counts.idle_waits), rank_text());
}

void at_exit(int status, void *) {
  if (getenv("AV_EMULATED_REPORT") != NULL) {
    report();
  }
  const int64_t n = av_emulated_live();
  if (n > 0 && status == 0) {
    fflush(NULL);
    fprintf(stderr, "emulation: %lld blocks of device or pinned memory were never freed\n",
            static_cast<long long>(n));
    _exit(1);
  }
  if (av_emulated_graphs() > 0 && status == 0) {
    fflush(NULL);
    fprintf(stderr, "emulation: %lld graphs were never destroyed\n",
            static_cast<long long>(av_emulated_graphs()));
    _exit(1);
  }
}
__attribute__((constructor)) void watch_exit() { on_exit(at_exit, NULL); }

}  // namespace

/* For the other files. */

void av_emulated_open_memory() {
  open_to_all = true;
  for (const auto &block : blocks) {
    open(block.first, block.second);
  }
}

void av_emulated_close_memory() {
  open_to_all = false;
  for (const auto &block : blocks) {
    shut(block.first, block.second);
  }
}

void av_emulated_check(const char *what, const void *at, size_t bytes) {
  void *bad = bytes == 0 ? NULL : __asan_region_is_poisoned(const_cast<void *>(at), bytes);
  if (bad != NULL) {
    int here = 0;
    fprintf(stderr, "emulation: %s touches %zu bytes from %p on\n", what, bytes, at);
    __asan_report_error(__builtin_return_address(0), __builtin_frame_address(0), &here, bad, 0, 1);
    abort();
  }
}

void av_emulated_set_error(cudaError_t error) { last_error = error; }
Captured &av_emulated_captured(cudaStream_t stream) { return stream_of(stream)->captured; }
void av_emulated_count_waits(av_emulated_counts *counts) {
  counts->waits = waits;
  counts->new_waits = new_waits;
  counts->idle_waits = idle_waits;
}

int64_t av_emulated_live() { return static_cast<int64_t>(blocks.size()); }
int av_emulated_most_shared() { return most_shared; }
void av_emulate_memory(size_t bytes) { total_bytes = bytes; }
void av_emulate_devices(int n) { devices = n; }

/* Errors. */

const char *cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorNoDevice:
      return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorNotReady:
      return "cudaErrorNotReady";
    case cudaErrorNotSupported:
      return "cudaErrorNotSupported";
    case cudaErrorStreamCaptureUnsupported:
      return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureInvalidated:
      return "cudaErrorStreamCaptureInvalidated";
    case cudaErrorStreamCaptureUnmatched:
      return "cudaErrorStreamCaptureUnmatched";
    case cudaErrorStreamCaptureUnjoined:
      return "cudaErrorStreamCaptureUnjoined";
    case cudaErrorStreamCaptureIsolation:
      return "cudaErrorStreamCaptureIsolation";
    case cudaErrorStreamCaptureImplicit:
      return "cudaErrorStreamCaptureImplicit";
    case cudaErrorCapturedEvent:
      return "cudaErrorCapturedEvent";
    case cudaErrorIllegalAddress:
      return "cudaErrorIllegalAddress";
    default:
      return "cudaErrorUnknown";
  }
}
const char *cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }
cudaError_t cudaPeekAtLastError(void) { return last_error; }
cudaError_t cudaGetLastError(void) {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error != cudaSuccess ? error : health();
}

/* Devices. */

cudaError_t cudaGetDeviceCount(int *count) {
  *count = devices;
  return answer(devices > 0 ? cudaSuccess : cudaErrorNoDevice);
}
cudaError_t cudaSetDevice(int device) {
  return answer(device >= 0 && device < devices ? cudaSuccess : cudaErrorInvalidDevice);
}
cudaError_t cudaGetDevice(int *device) {
  *device = 0;
  return answer(devices > 0 ? cudaSuccess : cudaErrorNoDevice);
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device) {
  AV_TRY_CUDA(cudaSetDevice(device));
  memset(properties, 0, sizeof *properties);
  strcpy(properties->name, "emulated device");
  properties->uuid.bytes[0] = static_cast<char>(device);
  properties->totalGlobalMem = total_bytes;
  properties->sharedMemPerBlock = 48 * 1024;
  properties->sharedMemPerBlockOptin = 227 * 1024;
  properties->sharedMemPerMultiprocessor = 228 * 1024;
  properties->multiProcessorCount = 132;
  properties->major = capability;
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = 1024;
  properties->l2CacheSize = 50 << 20;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp properties;
  AV_TRY_CUDA(cudaGetDeviceProperties(&properties, device));
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      *value = properties.maxThreadsPerBlock;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = static_cast<int>(properties.sharedMemPerBlock);
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(properties.sharedMemPerBlockOptin);
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = static_cast<int>(properties.sharedMemPerMultiprocessor);
      return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
      *value = properties.multiProcessorCount;
      return cudaSuccess;
    case cudaDevAttrL2CacheSize:
      *value = properties.l2CacheSize;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = properties.major;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = properties.minor;
      return cudaSuccess;
    default:
      return answer(cudaErrorInvalidValue);
  }
}
cudaError_t cudaDeviceGetPCIBusId(char *text, int length, int device) {
  AV_TRY_CUDA(cudaSetDevice(device));
  snprintf(text, static_cast<size_t>(length), "0000:%02x:00.0", static_cast<unsigned>(device));
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize(void) {
  AV_TRY_CUDA(av_emulated_forbidden());
  ++waits;
  complete_all();
  return cudaSuccess;
}
cudaError_t cudaDeviceReset(void) { return cudaDeviceSynchronize(); }
cudaError_t cudaSetDeviceFlags(unsigned int) { return cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int *version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int *version) { return cudaRuntimeGetVersion(version); }

/* Streams and events. */

cudaError_t cudaStreamCreate(cudaStream_t *stream) {
  return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned int flags) {
  *stream = NULL;
  if (devices == 0) {
    return answer(cudaErrorNoDevice);
  }
  *stream = new CUstream_st();
  (*stream)->flags = flags;
  streams.insert(*stream);
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned int flags, int) {
  return cudaStreamCreateWithFlags(stream, flags);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (stream == NULL) {
    return answer(cudaErrorInvalidResourceHandle);
  }
  if (av_emulated_captures(stream_of(stream)->captured)) {
    return answer(av_emulated_forbidden());
  }
  complete(stream_of(stream), UINT64_MAX);
  streams.erase(stream);
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  AV_TRY_CUDA(av_emulated_wait_stream(stream_of(stream)->captured));
  ++waits;
  complete(stream_of(stream), UINT64_MAX);
  return health();
}
cudaError_t cudaStreamQuery(cudaStream_t stream) { return cudaStreamSynchronize(stream); }
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int) {
  bool captured = false;
  AV_TRY_CUDA(av_emulated_wait(stream, event->captured, event->recorded, &captured));
  if (event->recorded && !captured) {
    stream_of(stream)->pending.push_back(
        {++tickets, NULL, false, {}, event->stream, event->ticket});
  }
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *event) {
  return cudaEventCreateWithFlags(event, cudaEventDefault);
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned int flags) {
  *event = new CUevent_st();
  (*event)->timed = (flags & cudaEventDisableTiming) == 0;
  events.insert(*event);
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  if (events.erase(event) == 0) {
    return answer(cudaErrorInvalidResourceHandle);
  }
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  AV_TRY_CUDA(av_emulated_record(stream, &event->captured));
  event->stream = stream_of(stream);
  event->ticket = tickets;
  event->recorded = event->captured.capture == 0;
  event->asked = false;
  event->done = false;
  event->now = av_emulated_clock;
  event->played = av_emulated_played();
  return health();
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  AV_TRY_CUDA(av_emulated_wait_event(event->captured));
  new_waits += event->recorded && av_emulated_played() - event->played < LONG_AGO;
  idle_waits += event->recorded && event->now == av_emulated_clock;
  if (event->recorded && streams.count(event->stream) != 0) {
    complete(event->stream, event->ticket);
  }
  event->asked = true;
  event->done = true;
  return health();
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  AV_TRY_CUDA(av_emulated_wait_event(event->captured));
  if (event->recorded && !event->asked) {
    event->asked = true;
    return cudaErrorNotReady;
  }
  return cudaEventSynchronize(event);
}
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end) {
  const float us = static_cast<float>(end->now - start->now);
  *milliseconds = backwards ? 1e3f / us : 1e-3f * us;
  if (!start->timed || !end->timed || !start->recorded || !end->recorded) {
    return answer(cudaErrorInvalidResourceHandle);
  }
  return answer(end->done ? cudaSuccess : cudaErrorNotReady);
}

/* Memory. */

cudaError_t cudaMalloc(void **memory, size_t bytes) { return allocate(memory, bytes, false); }
cudaError_t cudaMallocAsync(void **memory, size_t bytes, cudaStream_t) {
  return allocate(memory, bytes, false);
}
cudaError_t cudaFree(void *memory) { return release(memory, false); }
cudaError_t cudaFreeAsync(void *memory, cudaStream_t) { return release(memory, false); }
cudaError_t cudaMallocHost(void **memory, size_t bytes) { return allocate(memory, bytes, true); }
cudaError_t cudaHostAlloc(void **memory, size_t bytes, unsigned int) {
  return allocate(memory, bytes, true);
}
cudaError_t cudaFreeHost(void *memory) { return release(memory, true); }
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *all_bytes) {
  *all_bytes = total_bytes;
  *free_bytes = total_bytes - std::min(total_bytes, used_bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind) {
  AV_TRY_CUDA(av_emulated_unsafe());
  ++waits;
  complete_default();
  return copy(to, from, bytes, kind, NULL);
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  AV_TRY_CUDA(queue_copy(to, from, bytes, kind, stream));
  return health();
}
cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t height, cudaMemcpyKind kind,
                              cudaStream_t stream) {
  if (width > to_pitch || width > from_pitch) {
    return answer(cudaErrorInvalidPitchValue);
  }
  for (size_t row = 0; row < height; ++row) {
    AV_TRY_CUDA(cudaMemcpyAsync(static_cast<char *>(to) + row * to_pitch,
                                static_cast<const char *>(from) + row * from_pitch, width, kind,
                                stream));
  }
  return cudaSuccess;
}
cudaError_t cudaMemcpy2D(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                         size_t width, size_t height, cudaMemcpyKind kind) {
  AV_TRY_CUDA(av_emulated_unsafe());
  ++waits;
  complete_default();
  AV_TRY_CUDA(cudaMemcpy2DAsync(to, to_pitch, from, from_pitch, width, height, kind, NULL));
  complete_default();
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *memory, int byte, size_t bytes, cudaStream_t stream) {
  const bool captures = av_emulated_captures(stream_of(stream)->captured);
  if (bytes == 0) {
    return captures ? answer(av_emulated_forbidden()) : cudaSuccess;
  }
  if (!on_device(memory)) {
    return answer(cudaErrorInvalidValue);
  }
  return answer(av_emulated_queue(stream, [=](cudaStream_t) {
    if (captures) {
      av_emulated_open_memory(); /* it may have been freed since */
      av_emulated_check("cudaMemsetAsync of a graph", memory, bytes);
      av_emulated_close_memory();
    }
    fill(memory, byte, bytes);
  }));
}
cudaError_t cudaMemset(void *memory, int byte, size_t bytes) {
  AV_TRY_CUDA(av_emulated_unsafe());
  complete_default();
  return cudaMemsetAsync(memory, byte, bytes, NULL);
}

/* Functions. */

cudaError_t cudaFuncSetAttribute(const void *, cudaFuncAttribute attribute, int value) {
  if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) {
    if (value < 0 || value > 227 * 1024) {
      return answer(cudaErrorInvalidValue);
    }
    most_shared = std::max(most_shared, value);
  }
  return cudaSuccess;
}
