#include "activity.h"

#include <cupti.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Fields that are read here lie where they did in these versions of the records in all later ones.
 */
typedef CUpti_ActivityKernel9 kernel_record;
typedef CUpti_ActivityMemcpy5 copy_record;
typedef CUpti_ActivityMemset4 set_record;
typedef CUpti_ActivityMemory3 memory_record;

enum { BUFFER_BYTES = 8 << 20, ALIGNMENT = 8, MAX_NAMES = 4096 };

static FILE *out = NULL;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of what follows, and of `out` */
static char *names[MAX_NAMES];
static uint32_t n_names = 0;
static bool failed = false;

static void fail(const char *what, const char *why) {
  if (!failed) {
    fprintf(stderr, "activity: %s: %s; records end here\n", what, why);
  }
  failed = true;
}

static bool holds(CUptiResult code, const char *call) {
  if (code == CUPTI_SUCCESS) {
    return true;
  }
  const char *text = NULL;
  (void)cuptiGetResultString(code, &text);
  fail(call, text != NULL ? text : "unknown error");
  return false;
}
#define CUPTI(call) holds((call), #call)

static void put(const void *data, size_t bytes) {
  if (!failed && fwrite(data, 1, bytes, out) != bytes) {
    fail("ATLASVI_ACTIVITY", "cannot be written");
  }
}

static void put_record(activity_kind kind, uint32_t detail, uint64_t begin, uint64_t end,
                       uint64_t bytes) {
  const activity_record record = {(uint32_t)kind, detail, begin, end, bytes};
  put(&record, sizeof record);
}

/* Its number; written out when it is new. CUPTI's own text may be gone later. */
static uint32_t number_of(const char *name) {
  static const char padding[sizeof(activity_record)] = "";
  uint32_t i = 0;
  while (i < n_names && strcmp(names[i], name) != 0) {
    ++i;
  }
  if (i == n_names) {
    names[i] = i < MAX_NAMES - 1 ? strdup(name) : NULL;
    if (names[i] == NULL) {
      fail("names of kernels", "too many, or no memory");
      return 0;
    }
    ++n_names;
    const size_t length = strlen(name);
    put_record(ACTIVITY_NAME, i, 0, 0, length);
    put(name, length);
    put(padding, (sizeof padding - length % sizeof padding) % sizeof padding);
  }
  return i;
}

static void put_memory(const memory_record *memory) {
  const bool taken = memory->memoryOperationType == CUPTI_ACTIVITY_MEMORY_OPERATION_TYPE_ALLOCATION;
  const bool given = memory->memoryOperationType == CUPTI_ACTIVITY_MEMORY_OPERATION_TYPE_RELEASE;
  if (memory->memoryKind == CUPTI_ACTIVITY_MEMORY_KIND_DEVICE && (taken || given)) {
    put_record(taken ? ACTIVITY_TAKEN : ACTIVITY_RETURNED, 0, memory->timestamp, memory->address,
               memory->bytes);
  }
}

static void put_activity(const CUpti_Activity *activity) {
  switch (activity->kind) {
    case CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL: {
      const kernel_record *kernel = (const kernel_record *)activity;
      put_record(ACTIVITY_KERNEL, number_of(kernel->name != NULL ? kernel->name : "unknown"),
                 kernel->start, kernel->end, 0);
      break;
    }
    case CUPTI_ACTIVITY_KIND_MEMCPY: {
      const copy_record *copy = (const copy_record *)activity;
      put_record(ACTIVITY_COPY, copy->copyKind, copy->start, copy->end, copy->bytes);
      break;
    }
    case CUPTI_ACTIVITY_KIND_MEMSET: {
      const set_record *set = (const set_record *)activity;
      put_record(ACTIVITY_SET, 0, set->start, set->end, set->bytes);
      break;
    }
    case CUPTI_ACTIVITY_KIND_MEMORY2:
      put_memory((const memory_record *)activity);
      break;
    default:
      break;
  }
}

static void CUPTIAPI give_buffer(uint8_t **buffer, size_t *size, size_t *max_records) {
  *buffer = aligned_alloc(ALIGNMENT, BUFFER_BYTES);
  *size = *buffer != NULL ? BUFFER_BYTES : 0;
  *max_records = 0; /* as many as fit */
}

static void CUPTIAPI take_buffer(CUcontext context, uint32_t stream, uint8_t *buffer, size_t size,
                                 size_t valid) {
  (void)size;
  pthread_mutex_lock(&lock);
  CUpti_Activity *activity = NULL;
  CUptiResult code = CUPTI_SUCCESS;
  while (valid > 0 && !failed &&
         (code = cuptiActivityGetNextRecord(buffer, valid, &activity)) == CUPTI_SUCCESS) {
    put_activity(activity);
  }
  if (code != CUPTI_ERROR_MAX_LIMIT_REACHED) {
    (void)CUPTI(code);
  }
  size_t lost = 0;
  if (CUPTI(cuptiActivityGetNumDroppedRecords(context, stream, &lost)) && lost > 0) {
    put_record(ACTIVITY_LOST, 0, 0, 0, lost);
  }
  pthread_mutex_unlock(&lock);
  free(buffer);
}

static void finish(void) {
  (void)CUPTI(cuptiActivityFlushAll(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED));
  pthread_mutex_lock(&lock);
  if (fclose(out) != 0) {
    fail("ATLASVI_ACTIVITY", "cannot be written");
  }
  failed = true; /* what comes later has nowhere to go */
  pthread_mutex_unlock(&lock);
}

int InitializeInjection(void) {
  const char *path = getenv("ATLASVI_ACTIVITY");
  if (path == NULL || out != NULL) {
    return 1;
  }
  out = fopen(path, "wb");
  if (out == NULL) {
    fail(path, "cannot be opened");
    return 1;
  }
  static const CUpti_ActivityKind kinds[] = {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL,
                                             CUPTI_ACTIVITY_KIND_MEMCPY, CUPTI_ACTIVITY_KIND_MEMSET,
                                             CUPTI_ACTIVITY_KIND_MEMORY2};
  bool enabled = CUPTI(cuptiActivityRegisterCallbacks(give_buffer, take_buffer));
  for (size_t i = 0; enabled && i < sizeof kinds / sizeof *kinds; ++i) {
    enabled = CUPTI(cuptiActivityEnable(kinds[i]));
  }
  if (enabled && atexit(finish) != 0) {
    fail("atexit", "no room");
  }
  return 1;
}
