/* What the GPU did during a run, as CUPTI's activity records say: every kernel, copy and memset
 * with its begin and end, every piece of memory taken and given back.
 *
 * libatlasvi_activity.so is loaded into a program by CUDA itself: CUDA_INJECTION64_PATH names the
 * library, ATLASVI_ACTIVITY the file to write. tests/gpu/machine/activity.py reads it. Where
 * something fails the program goes on without records, and a line on stderr says so. */
#ifndef ATLASVI_TESTS_GPU_ACTIVITY_H
#define ATLASVI_TESTS_GPU_ACTIVITY_H

#include <stdint.h>

/* The file is these, one after another, in the order in which CUPTI hands them out. */
typedef enum activity_kind {
  ACTIVITY_NAME = 1, /* bytes: length of the kernel's mangled name, which follows, padded to 32 */
  ACTIVITY_KERNEL,
  ACTIVITY_COPY,  /* bytes; detail: CUpti_ActivityMemcpyKind */
  ACTIVITY_SET,   /* bytes */
  ACTIVITY_TAKEN, /* bytes at address `end`, at time `begin` */
  ACTIVITY_RETURNED,
  ACTIVITY_LOST /* bytes: how many records CUPTI has dropped */
} activity_kind;

typedef struct activity_record {
  uint32_t kind;
  uint32_t detail; /* of a name and of a kernel: number of the name */
  uint64_t begin;  /* ns */
  uint64_t end;
  uint64_t bytes;
} activity_record;

/* CUDA calls it once, before its first work. */
int InitializeInjection(void);

#endif
