#include "gemm.h"

#include "base/log.h"
#include "config/config.h"
#include "state.h"

#include <inttypes.h>

/* Compute capability of the first GPUs with tf32 and bf16. cuBLAS may compute in float32 on those
 * before, or refuse. */
enum { ROUNDS_FROM = 8 };

av_status av_gpu_settle_precision(av_backend *be) {
  int major = 0;
  if (be->precision == AV_PRECISION_FLOAT32) {
    return AV_OK;
  }
  const int device = av_gpu_of(be)->device;
  AV_TRY(av_agree(be->comm, AV_CUDA(cudaDeviceGetAttribute(
                                &major, cudaDevAttrComputeCapabilityMajor, device))));
  int64_t older = major < ROUNDS_FROM ? 1 : 0;
  AV_TRY(av_sum_i64(be->comm, &older, 1));
  if (older > 0) {
    av_warn(
        "[runtime] precision = %s has no effect: it needs GPUs of compute capability %d.0 or "
        "later, and %" PRId64 " of %d ranks have an older one; all compute in float32",
        av_config_choice("runtime", "precision", be->precision), ROUNDS_FROM, older,
        be->comm->size);
    be->precision = AV_PRECISION_FLOAT32;
  }
  return AV_OK;
}

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
void av_gpu_gemm(av_backend *be, int precision, int64_t m, int64_t n, int64_t k, av_gpu_factor a,
                 av_gpu_factor b, float beta, float *c, int64_t c_stride) {
  const float one = 1.0F;
  if (m == 0 || n == 0 || k == 0 || av_gpu_of(be)->mode == AV_GPU_PLAYS) {
    return;
  }
  av_gpu_must(be, AV_CUBLAS(cublasGemmEx(
                      av_gpu_of(be)->blas, operation_of(b), operation_of(a), (int)n, (int)m, (int)k,
                      &one, b.at, CUDA_R_32F, (int)b.stride, a.at, CUDA_R_32F, (int)a.stride, &beta,
                      c, CUDA_R_32F, (int)c_stride, compute_of(precision), CUBLAS_GEMM_DEFAULT)));
  av_gpu_ran(be);
}
