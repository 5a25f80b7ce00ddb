/* The planted kernels, counted: test_count.py says what must come out. */
#include "roofline/planted.h"

#include "roofline/count.h"

#include <stdlib.h>

static void must(cudaError_t error) {
  if (error != cudaSuccess) {
    fprintf(stderr, "planted: %s\n", cudaGetErrorString(error));
    exit(1);
  }
}

static float *numbers(size_t n) {
  void *memory = NULL;
  must(cudaMalloc(&memory, n * sizeof(float)));
  must(cudaMemset(memory, 0, n * sizeof(float)));
  return memory;
}

int main(void) {
  enum { MORE = (60 << 20) / (int)sizeof(float) }; /* than the cache holds */
  cudaStream_t stream = NULL;
  count_begin(true);
  must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  float *a = numbers(PLANTED_N);
  float *b = numbers(PLANTED_N);
  float *s = numbers(1);
  float *c = numbers(PLANTED_N);
  float *other = numbers(MORE);
  count_cold();
  count_again();
  must(planted_axpy(stream, a, b, s, c));
  must(planted_axpy(stream, a, b, s, c));
  must(cudaMemsetAsync(other, 0, MORE * sizeof(float), stream));
  must(planted_exp(stream, a, b, c));
  must(cudaStreamSynchronize(stream));
  count_write(stdout);
  must(cudaFree(a));
  must(cudaFree(b));
  must(cudaFree(s));
  must(cudaFree(c));
  must(cudaFree(other));
  must(cudaStreamDestroy(stream));
  return 0;
}
