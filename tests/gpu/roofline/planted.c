/* The planted kernels, counted, or played and counted: test_count.py says what must come out. */
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

/* first, first + step, ..., again from the start after `period`. */
static float *ramp(size_t n, float first, float step, size_t period) {
  float values[PLANTED_N];
  for (size_t i = 0; i < n; ++i) {
    values[i] = first + step * (float)(i % period);
  }
  float *memory = numbers(n);
  must(cudaMemcpy(memory, values, n * sizeof(float), cudaMemcpyHostToDevice));
  return memory;
}

static double sum_of(const float *device) {
  float values[PLANTED_N];
  double sum = 0.0;
  must(cudaMemcpy(values, device, sizeof values, cudaMemcpyDeviceToHost));
  for (int i = 0; i < PLANTED_N; ++i) {
    sum += (double)values[i];
  }
  return sum;
}

int main(void) {
  enum { MORE = (60 << 20) / (int)sizeof(float) }; /* than the cache holds */
  cudaStream_t stream = NULL;
  count_begin(true);
  must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  float *a = ramp(PLANTED_N, -1.0f, 0.25f, 9);
  float *b = ramp(PLANTED_N, 1.0f, 0.5f, 7);
  float *s = ramp(1, 2.0f, 0.0f, 1);
  float *c = numbers(PLANTED_N);
  float *d = numbers(PLANTED_N);
  float *e = numbers(PLANTED_N);
  float *other = numbers(MORE);
  count_cold();
  count_again();
  must(planted_axpy(stream, a, b, s, c));
  must(planted_axpy(stream, a, b, s, c));
  must(cudaMemsetAsync(other, 0, MORE * sizeof(float), stream));
  must(planted_exp(stream, a, b, c));
  must(planted_rounds(stream, a, s, d));
  must(planted_axpy(stream, a, b, s, e));
  must(cudaStreamSynchronize(stream));
  count_write(stdout);
  printf("{\"results\": [%.9g, %.9g, %.9g]}\n", sum_of(c), sum_of(d), sum_of(e));
  must(cudaFree(a));
  must(cudaFree(b));
  must(cudaFree(s));
  must(cudaFree(c));
  must(cudaFree(d));
  must(cudaFree(e));
  must(cudaFree(other));
  must(cudaStreamDestroy(stream));
  return 0;
}
