/* Launching kernels: one macro, so that a .cu file is also C++ (tests/gpu/emulation runs it so).
 *
 *   AV_LAUNCH((kernel<4>), grid, block, shared_bytes, stream, arguments...)
 *
 * in a function that returns cudaError_t; grid and block are unsigned or dim3. An empty grid is no
 * launch. Launchers end with `return cudaGetLastError()`. */
#ifndef AV_GPU_KERNELS_LAUNCH_H
#define AV_GPU_KERNELS_LAUNCH_H

#include <cuda_runtime.h>

#ifdef AV_EMULATED
#define AV_LAUNCH(kernel, grid, block, shared, stream, ...)                                      \
  do {                                                                                           \
    const dim3 av_grid_ = (grid);                                                                \
    if (av_grid_.x > 0 && av_grid_.y > 0) {                                                      \
      av_emulate<kernel>(#kernel, av_grid_, (block), (shared), (stream), kernel, ##__VA_ARGS__); \
    }                                                                                            \
  } while (0)
#else
#define AV_LAUNCH(kernel, grid, block, shared, stream, ...)               \
  do {                                                                    \
    const dim3 av_grid_ = (grid);                                         \
    if (av_grid_.x > 0 && av_grid_.y > 0) {                               \
      auto av_kernel_ = kernel;                                           \
      av_kernel_<<<av_grid_, (block), (shared), (stream)>>>(__VA_ARGS__); \
    }                                                                     \
  } while (0)
#endif

/* Dynamic shared memory of a kernel, as an array of `type`. */
#ifdef AV_EMULATED
#define AV_SHARED_ARRAY(type, name) type *const name = (type *)av_emulated_shared()
#else
#define AV_SHARED_ARRAY(type, name)                           \
  extern __shared__ __align__(16) unsigned char av_shared_[]; \
  type *const name = reinterpret_cast<type *>(av_shared_)
#endif

/* Lets blocks of a kernel have `shared` bytes of dynamic shared memory: more than 48 KB have to be
 * asked for. */
template <typename Kernel>
static inline cudaError_t av_let_have(Kernel *kernel, size_t shared) {
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
}

/* Blocks of `per` that cover n. */
static inline unsigned av_blocks(int64_t n, int64_t per) { return (unsigned)((n + per - 1) / per); }

#endif
