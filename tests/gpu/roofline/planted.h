/* Kernels whose bytes and operations are known by counting on fingers: test_count.py. */
#ifndef AV_TESTS_GPU_ROOFLINE_PLANTED_H
#define AV_TESTS_GPU_ROOFLINE_PLANTED_H

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { PLANTED_N = 1000, PLANTED_THREADS = 128 };

/* c (PLANTED_N) = a s + b, fused; s is one number. */
cudaError_t planted_axpy(cudaStream_t stream, const float *a, const float *b, const float *s,
                         float *c);
/* c = exp(a) / b - a; and each block of a turned round, through shared memory, to c again. */
cudaError_t planted_exp(cudaStream_t stream, const float *a, const float *b, float *c);
/* c: sums of s times 1 to 32 of a, one more with every lane of a warp. */
cudaError_t planted_rounds(cudaStream_t stream, const float *a, const float *s, float *c);

#ifdef __cplusplus
}
#endif

#endif
