/* Arrays on the device, in tests. */
#ifndef AV_TESTS_GPU_DEVICE_ARRAY_H
#define AV_TESTS_GPU_DEVICE_ARRAY_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <cuda_runtime_api.h>

static inline void must(cudaError_t code) {
  if (code != cudaSuccess) {
    fail_msg("%s", cudaGetErrorName(code));
  }
}
static inline void *device_new(size_t bytes) {
  void *made = NULL;
  must(cudaMalloc(&made, bytes));
  return made;
}
static inline void device_get(const void *from, void *to, size_t bytes) {
  must(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost));
}
static inline void device_set(void *to, const void *from, size_t bytes) {
  must(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice));
}

#endif
