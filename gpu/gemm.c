#include "gemm.h"

#include "config/config.h"
#include "state.h"

static cublasComputeType_t compute_of(int precision) {
  switch (precision) {
    case AV_PRECISION_TF32:
      return CUBLAS_COMPUTE_32F_FAST_TF32;
    case AV_PRECISION_BF16:
      return CUBLAS_COMPUTE_32F_FAST_16BF;
    default:
      return CUBLAS_COMPUTE_32F;
  }
}

static cublasOperation_t operation_of(av_gpu_factor factor) {
  return factor.transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
}

/* cuBLAS stores by column: there, c's transpose = b's times a's. */
void av_gpu_gemm(av_backend *be, int64_t m, int64_t n, int64_t k, av_gpu_factor a, av_gpu_factor b,
                 float beta, float *c, int64_t c_stride) {
  const float one = 1.0F;
  if (m == 0 || n == 0 || k == 0 || av_gpu_of(be)->mode == AV_GPU_PLAYS) {
    return;
  }
  av_gpu_must(be,
              AV_CUBLAS(cublasGemmEx(av_gpu_of(be)->blas, operation_of(b), operation_of(a), (int)n,
                                     (int)m, (int)k, &one, b.at, CUDA_R_32F, (int)b.stride, a.at,
                                     CUDA_R_32F, (int)a.stride, &beta, c, CUDA_R_32F, (int)c_stride,
                                     compute_of(be->precision), CUBLAS_GEMM_DEFAULT)));
}
