/* Dense products by cuBLAS. */
#ifndef AV_GPU_GEMM_H
#define AV_GPU_GEMM_H

#include "backend/backend.h"

/* Makes be->precision float32, with a warning, where a GPU of any rank cannot round factors in its
 * tensor cores: all ranks compute alike. AV_BUG, AV_NODEVICE. Collective. */
av_status av_gpu_settle_precision(av_backend *be);

/* A matrix of floats on the device, row-major, rows `stride` apart; transposed: its transpose is
 * meant. */
typedef struct av_gpu_factor {
  const float *at;
  int64_t stride;
  bool transposed;
} av_gpu_factor;

/* c (m, n; row stride c_stride) = a (m, k) b (k, n) + beta c, in `precision`, be's or a better one.
 * Queued on be's stream; ends the run on an error. Nothing for m, n or k of 0, but for beta = 0
 * without k, which nobody asks for. cuBLAS gives the same bits in every run on the same device and
 * version: one stream, a workspace of its own, no atomics (its defaults otherwise). */
void av_gpu_gemm(av_backend *be, int precision, int64_t m, int64_t n, int64_t k, av_gpu_factor a,
                 av_gpu_factor b, float beta, float *c, int64_t c_stride);

#endif
