#include "cuda_host.h"

#include "cuda_host_graphs.h"

#include <cublas_v2.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct task {
  const av_stream_work *work;
  void *context;
  struct task *next;
} task;

struct CUstream_st {
  task *first, *last;
  struct CUstream_st *older, *younger;
  captured captured;
};

struct CUevent_st {
  uint64_t recorded; /* calls of cudaEventRecord */
  uint64_t reached;  /* how many of them a stream has come to */
  captured captured;
};

bool cuda_host_youngest_first;
cudaError_t cuda_host_broken;

static cudaStream_t oldest, youngest;
static int n_live;
static int n_devices = 1;
static const char *const default_address = "0000:01:00.0";
static const char *const *device_addresses = &default_address;
static cudaError_t last_error;

cudaError_t answer(cudaError_t code) {
  if (code != cudaSuccess) {
    last_error = code; /* "not ready" too, as CUDA does */
  }
  return code;
}

cudaError_t cudaGetLastError(void) {
  const cudaError_t code = last_error;
  last_error = cudaSuccess;
  return code;
}

const char *cudaGetErrorName(cudaError_t code) {
  return code == cudaErrorIllegalAddress ? "cudaErrorIllegalAddress" : "another error";
}
const char *cudaGetErrorString(cudaError_t code) {
  switch (code) {
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorInsufficientDriver:
      return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorIllegalAddress:
      return "an illegal memory access was encountered";
    default:
      return "another error";
  }
}

int cuda_host_live(void) { return n_live + graphs_live(); }

/* gpu/check.c names cuBLAS's errors, too; there is nothing else of it here. */
const char *cublasGetStatusName(cublasStatus_t status) {
  return status == CUBLAS_STATUS_ALLOC_FAILED ? "CUBLAS_STATUS_ALLOC_FAILED" : "another status";
}
const char *cublasGetStatusString(cublasStatus_t status) {
  return status == CUBLAS_STATUS_ALLOC_FAILED ? "the resource allocation failed" : "another status";
}

/* --- streams -------------------------------------------------------------------------------- */

static void drain(cudaStream_t stream) {
  while (stream->first != NULL && stream->first->work->run(stream->first->context)) {
    task *done = stream->first;
    stream->first = done->next;
    free(done->context);
    free(done);
  }
}

void cuda_host_step(void) {
  cudaStream_t stream = cuda_host_youngest_first ? youngest : oldest;
  while (stream != NULL) {
    drain(stream);
    stream = cuda_host_youngest_first ? stream->older : stream->younger;
  }
}

captured *captured_of(cudaStream_t stream) { return &stream->captured; }

void append_work(cudaStream_t stream, const av_stream_work *work, const void *context,
                 size_t bytes) {
  task *made = calloc(1, sizeof *made);
  made->work = work;
  made->context = malloc(bytes + 1);
  memcpy(made->context, context, bytes);
  if (work->enter != NULL) {
    work->enter(made->context);
  }
  if (stream->first == NULL) {
    stream->first = made;
  } else {
    stream->last->next = made;
  }
  stream->last = made;
}

cudaError_t av_stream_queue(cudaStream_t stream, const av_stream_work *work, const void *context,
                            size_t bytes) {
  if (captures(&stream->captured)) {
    return answer(record_work(&stream->captured, work, context, bytes));
  }
  append_work(stream, work, context, bytes);
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned int flags) {
  (void)flags;
  cudaStream_t made = calloc(1, sizeof *made);
  made->older = youngest;
  *(youngest == NULL ? &oldest : &youngest->younger) = made;
  youngest = made;
  ++n_live;
  *stream = made;
  return cudaSuccess;
}

/* False: a capture is open that forbids it, and *code says so. */
static bool may(cudaError_t *code, cudaError_t objection) {
  *code = answer(objection);
  return objection == cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  (void)cudaStreamSynchronize(stream);
  *(stream->older == NULL ? &oldest : &stream->older->younger) = stream->younger;
  *(stream->younger == NULL ? &youngest : &stream->younger->older) = stream->older;
  free(stream);
  --n_live;
  return cudaSuccess;
}

/* Works first: who asks once sees the state of before. */
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  cudaError_t code = cudaSuccess;
  if (!may(&code, wait_stream(&stream->captured))) {
    return code;
  }
  const bool busy = stream->first != NULL;
  cuda_host_step();
  if (cuda_host_broken != cudaSuccess) {
    return answer(cuda_host_broken);
  }
  return answer(busy ? cudaErrorNotReady : cudaSuccess);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  cudaError_t code = cudaSuccess;
  if (!may(&code, wait_stream(&stream->captured))) {
    return code;
  }
  while (stream->first != NULL) {
    cuda_host_step();
    sched_yield();
  }
  return answer(cuda_host_broken);
}

/* --- events --------------------------------------------------------------------------------- */

typedef struct mark {
  cudaEvent_t event;
  uint64_t number;
} mark;

static bool reach(void *context) {
  const mark *at = context;
  at->event->reached = at->number;
  return true;
}

static bool await(void *context) {
  const mark *at = context;
  return at->event->reached >= at->number;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned int flags) {
  (void)flags;
  *event = calloc(1, sizeof **event);
  ++n_live;
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  (void)cudaEventSynchronize(event);
  for (cudaStream_t stream = oldest; stream != NULL; stream = stream->younger) {
    (void)cudaStreamSynchronize(stream); /* it may be waited for */
  }
  free(event);
  --n_live;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  static const av_stream_work work = {.run = reach};
  if (captures(&stream->captured)) {
    event->captured = stream->captured;
    return cudaSuccess;
  }
  event->captured = (captured){0};
  ++event->recorded;
  return av_stream_queue(stream, &work, &(mark){event, event->recorded}, sizeof(mark));
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int flags) {
  (void)flags;
  static const av_stream_work work = {.run = await};
  if (captures(&stream->captured) || event->captured.capture != 0) {
    return answer(wait_captured(&stream->captured, &event->captured, event->recorded > 0));
  }
  return av_stream_queue(stream, &work, &(mark){event, event->recorded}, sizeof(mark));
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  cudaError_t code = cudaSuccess;
  if (!may(&code, wait_event(&event->captured))) {
    return code;
  }
  const bool there = event->reached >= event->recorded;
  cuda_host_step();
  if (cuda_host_broken != cudaSuccess) {
    return answer(cuda_host_broken);
  }
  return answer(there ? cudaSuccess : cudaErrorNotReady);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  cudaError_t code = cudaSuccess;
  if (!may(&code, wait_event(&event->captured))) {
    return code;
  }
  while (event->reached < event->recorded) {
    cuda_host_step();
    sched_yield();
  }
  return answer(cuda_host_broken);
}

/* --- memory --------------------------------------------------------------------------------- */

typedef struct move {
  void *to;
  const void *from; /* NULL: fill */
  int byte;
  size_t n;
  bool from_host;
} move;

static int64_t n_copies;

int64_t cuda_host_copies(void) { return n_copies; }

static bool run_move(void *context) {
  move *at = context;
  if (at->from != NULL) {
    memmove(at->to, at->from, at->n);
  } else {
    memset(at->to, at->byte, at->n);
  }
  n_copies += at->from_host ? 1 : 0;
  return true;
}

static cudaError_t queue_move(cudaStream_t stream, move asked) {
  static const av_stream_work work = {.run = run_move};
  if (asked.n == 0 && captures(&stream->captured)) {
    return answer(forbidden()); /* whether CUDA takes it is not said anywhere */
  }
  return av_stream_queue(stream, &work, &asked, sizeof asked);
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return queue_move(
      stream,
      (move){.to = to, .from = from, .n = bytes, .from_host = kind == cudaMemcpyHostToDevice});
}

cudaError_t cudaMemsetAsync(void *memory, int byte, size_t bytes, cudaStream_t stream) {
  return queue_move(stream, (move){.to = memory, .byte = byte, .n = bytes});
}

static cudaError_t allocate(void **memory, size_t bytes) {
  cudaError_t code = cudaSuccess;
  if (!may(&code, unsafe())) {
    return code;
  }
  *memory = malloc(bytes > 0 ? bytes : 1);
  if (*memory == NULL) {
    return answer(cudaErrorMemoryAllocation);
  }
  memset(*memory, 0xff, bytes);
  ++n_live;
  return cudaSuccess;
}

static cudaError_t release(void *memory) {
  cudaError_t code = cudaSuccess;
  if (!may(&code, unsafe())) {
    return code;
  }
  for (cudaStream_t stream = oldest; stream != NULL; stream = stream->younger) {
    (void)cudaStreamSynchronize(stream);
  }
  n_live -= memory != NULL ? 1 : 0;
  free(memory);
  return cudaSuccess;
}

cudaError_t cudaMalloc(void **memory, size_t bytes) { return allocate(memory, bytes); }
cudaError_t cudaMallocHost(void **memory, size_t bytes) { return allocate(memory, bytes); }
cudaError_t cudaFree(void *memory) { return release(memory); }
cudaError_t cudaFreeHost(void *memory) { return release(memory); }

/* --- devices -------------------------------------------------------------------------------- */

void cuda_host_devices(int n, const char *const *addresses) {
  n_devices = n;
  device_addresses = addresses;
}

cudaError_t cudaGetDeviceCount(int *n) {
  *n = n_devices > 0 ? n_devices : 0;
  return answer(n_devices > 0    ? cudaSuccess
                : n_devices == 0 ? cudaErrorNoDevice
                                 : cudaErrorInsufficientDriver);
}

cudaError_t cudaDeviceGetPCIBusId(char *text, int length, int device) {
  if (device < 0 || device >= n_devices) {
    return answer(cudaErrorInvalidDevice);
  }
  const char *address = device_addresses[device];
  snprintf(text, (size_t)length, "%.*s", (int)strcspn(address, "/"), address);
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device) {
  if (device < 0 || device >= n_devices) {
    return answer(cudaErrorInvalidDevice);
  }
  *properties = (cudaDeviceProp){.name = "of the host"};
  const char *address = device_addresses[device];
  memcpy(properties->uuid.bytes, address, strnlen(address, sizeof properties->uuid.bytes));
  return cudaSuccess;
}
