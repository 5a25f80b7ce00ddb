/* Products of cuBLAS by OpenBLAS. */
#include "cublas_v2.h"

#include "graphs.h"
#include "memory.h"

#include <algorithm>
#include <cblas.h>
#include <stdlib.h>
#include <string.h>
#include <vector>

struct cublasContext {
  cudaStream_t stream;
  bool own_workspace; /* given by the caller */
};

namespace {

CBLAS_TRANSPOSE cblas_of(cublasOperation_t operation) {
  return operation == CUBLAS_OP_N ? CblasNoTrans : CblasTrans;
}

/* OpenBLAS is not built with the sanitizer: every column that it will touch is looked at here. */
void check_matrix(const char *what, const float *at, int rows, int columns, int stride) {
  for (int j = 0; j < columns; ++j) {
    av_emulated_check(what, at + static_cast<size_t>(j) * static_cast<size_t>(stride),
                      static_cast<size_t>(rows) * sizeof(float));
  }
}

struct OpenMemory {
  OpenMemory() { av_emulated_open_memory(); }
  ~OpenMemory() { av_emulated_close_memory(); }
};

/* A factor as tensor cores see it. TF32 keeps 10 bits behind the point, and whether the others are
 * rounded or cut off is not said: cut off, the worse of both. BF16 keeps 7, to the nearest. */
float seen(float value, cublasComputeType_t how) {
  uint32_t bits = 0;
  memcpy(&bits, &value, sizeof bits);
  if (how == CUBLAS_COMPUTE_32F_FAST_TF32) {
    bits &= ~((1u << 13) - 1);
  } else if (how == CUBLAS_COMPUTE_32F_FAST_16BF) {
    bits = (bits + 0x7fffu + ((bits >> 16) & 1u)) & ~((1u << 16) - 1);
  }
  memcpy(&value, &bits, sizeof bits);
  return value;
}

/* A matrix as a product sees it: itself, or its columns side by side in `room`. */
const float *seen(const float *at, int rows, int columns, int *stride, cublasComputeType_t how,
                  std::vector<float> *room) {
  if (how == CUBLAS_COMPUTE_32F) {
    return at;
  }
  room->reserve(static_cast<size_t>(rows) * static_cast<size_t>(columns));
  for (int j = 0; j < columns; ++j) {
    const float *column = at + static_cast<size_t>(j) * static_cast<size_t>(*stride);
    for (int i = 0; i < rows; ++i) {
      room->push_back(seen(column[i], how));
    }
  }
  *stride = rows;
  return room->data();
}

void multiply(cublasComputeType_t how, cublasOperation_t transpose_a, cublasOperation_t transpose_b,
              int m, int n, int k, float alpha, const float *a, int lda, const float *b, int ldb,
              float beta, float *c, int ldc) {
  ++av_emulated_clock;
  const bool plain_a = transpose_a == CUBLAS_OP_N;
  const bool plain_b = transpose_b == CUBLAS_OP_N;
  const int a_rows = plain_a ? m : k;
  const int b_rows = plain_b ? k : n;
  std::vector<float> a_room;
  std::vector<float> b_room;
  check_matrix("A of cublasSgemm", a, a_rows, plain_a ? k : m, lda);
  check_matrix("B of cublasSgemm", b, b_rows, plain_b ? n : k, ldb);
  check_matrix("C of cublasSgemm", c, m, n, ldc);
  if (av_emulated_watcher != NULL &&
      !av_emulated_watcher->multiplied({a, a_rows, plain_a ? k : m, lda},
                                       {b, b_rows, plain_b ? n : k, ldb}, {c, m, n, ldc},
                                       k, beta != 0.0f)) {
    return;
  }
  a = seen(a, a_rows, plain_a ? k : m, &lda, how, &a_room);
  b = seen(b, b_rows, plain_b ? n : k, &ldb, how, &b_room);
  cblas_sgemm(CblasColMajor, cblas_of(transpose_a), cblas_of(transpose_b), m, n, k, alpha, a, lda,
              b, ldb, beta, c, ldc);
}

/* In a graph cuBLAS's own workspace would be allocated by a node of the graph. */
cublasStatus_t queue(cublasHandle_t handle, Work work) {
  if (!handle->own_workspace && av_emulated_captures(av_emulated_captured(handle->stream))) {
    av_emulate_fail("cuBLAS is captured without cublasSetWorkspace since cublasSetStream");
  }
  return av_emulated_queue(handle->stream, std::move(work)) == cudaSuccess
             ? CUBLAS_STATUS_SUCCESS
             : CUBLAS_STATUS_EXECUTION_FAILED;
}

bool wrong(cublasOperation_t transpose_a, cublasOperation_t transpose_b, int m, int n, int k,
           int lda, int ldb, int ldc) {
  return m < 0 || n < 0 || k < 0 || lda < std::max(1, transpose_a == CUBLAS_OP_N ? m : k) ||
         ldb < std::max(1, transpose_b == CUBLAS_OP_N ? k : n) || ldc < std::max(1, m);
}

}  // namespace

const char *cublasGetStatusName(cublasStatus_t status) {
  return status == CUBLAS_STATUS_SUCCESS         ? "CUBLAS_STATUS_SUCCESS"
         : status == CUBLAS_STATUS_INVALID_VALUE ? "CUBLAS_STATUS_INVALID_VALUE"
         : status == CUBLAS_STATUS_ALLOC_FAILED  ? "CUBLAS_STATUS_ALLOC_FAILED"
                                                 : "CUBLAS_STATUS_INTERNAL_ERROR";
}
const char *cublasGetStatusString(cublasStatus_t status) { return cublasGetStatusName(status); }

cublasStatus_t cublasCreate(cublasHandle_t *handle) {
  *handle = static_cast<cublasHandle_t>(calloc(1, sizeof **handle));
  return *handle == NULL ? CUBLAS_STATUS_ALLOC_FAILED : CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasDestroy(cublasHandle_t handle) {
  free(handle);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasGetVersion(cublasHandle_t, int *version) {
  *version = 0;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream) {
  handle->stream = stream;
  handle->own_workspace = false; /* cuBLAS goes back to its own */
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetWorkspace(cublasHandle_t handle, void *workspace, size_t bytes) {
  const OpenMemory open;
  av_emulated_check("cublasSetWorkspace", workspace, bytes);
  handle->own_workspace = true;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetMathMode(cublasHandle_t, cublasMath_t) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasSetPointerMode(cublasHandle_t, cublasPointerMode_t mode) {
  return mode == CUBLAS_POINTER_MODE_HOST ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}
cublasStatus_t cublasSetAtomicsMode(cublasHandle_t, cublasAtomicsMode_t) {
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSgemm(cublasHandle_t handle, cublasOperation_t transpose_a,
                           cublasOperation_t transpose_b, int m, int n, int k, const float *alpha,
                           const float *a, int lda, const float *b, int ldb, const float *beta,
                           float *c, int ldc) {
  return cublasSgemmStridedBatched(handle, transpose_a, transpose_b, m, n, k, alpha, a, lda, 0, b,
                                   ldb, 0, beta, c, ldc, 0, 1);
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t transpose_a,
                            cublasOperation_t transpose_b, int m, int n, int k, const void *alpha,
                            const void *a, cudaDataType a_type, int lda, const void *b,
                            cudaDataType b_type, int ldb, const void *beta, void *c,
                            cudaDataType c_type, int ldc, cublasComputeType_t how,
                            cublasGemmAlgo_t) {
  if (a_type != CUDA_R_32F || b_type != CUDA_R_32F || c_type != CUDA_R_32F ||
      how == CUBLAS_COMPUTE_32F_FAST_16F) {
    return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  if (wrong(transpose_a, transpose_b, m, n, k, lda, ldb, ldc)) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  const float *first = static_cast<const float *>(a);
  const float *second = static_cast<const float *>(b);
  return queue(handle, [=, by = *static_cast<const float *>(alpha),
                        old = *static_cast<const float *>(beta)](cudaStream_t) {
    const OpenMemory open;
    if (m > 0 && n > 0) {
      multiply(how, transpose_a, transpose_b, m, n, k, by, first, lda, second, ldb, old,
               static_cast<float *>(c), ldc);
    }
  });
}

cublasStatus_t cublasSgemmStridedBatched(cublasHandle_t handle, cublasOperation_t transpose_a,
                                         cublasOperation_t transpose_b, int m, int n, int k,
                                         const float *alpha, const float *a, int lda,
                                         long long stride_a, const float *b, int ldb,
                                         long long stride_b, const float *beta, float *c, int ldc,
                                         long long stride_c, int n_products) {
  if (n_products < 0 || wrong(transpose_a, transpose_b, m, n, k, lda, ldb, ldc)) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  return queue(handle, [=, by = *alpha, old = *beta](cudaStream_t) {
    const OpenMemory open;
    for (int i = 0; i < n_products && m > 0 && n > 0; ++i) {
      multiply(CUBLAS_COMPUTE_32F, transpose_a, transpose_b, m, n, k, by, a + i * stride_a, lda, b + i * stride_b, ldb,
               old, c + i * stride_c, ldc);
    }
  });
}

cublasStatus_t cublasSgemv(cublasHandle_t handle, cublasOperation_t transpose, int m, int n,
                           const float *alpha, const float *a, int lda, const float *x, int x_step,
                           const float *beta, float *y, int y_step) {
  if (m < 0 || n < 0 || lda < std::max(1, m) || x_step == 0 || y_step == 0) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  if (m == 0 || n == 0) {
    return CUBLAS_STATUS_SUCCESS;
  }
  return queue(handle, [=, by = *alpha, old = *beta](cudaStream_t) {
    const OpenMemory open;
    const bool plain = transpose == CUBLAS_OP_N;
    check_matrix("A of cublasSgemv", a, m, n, lda);
    check_matrix("x of cublasSgemv", x, 1, plain ? n : m, abs(x_step));
    check_matrix("y of cublasSgemv", y, 1, plain ? m : n, abs(y_step));
    cblas_sgemv(CblasColMajor, cblas_of(transpose), m, n, by, a, lda, x, x_step, old, y, y_step);
  });
}
