/* In the place of CUDA's header in tests: what kernels are written with, as C++17. */
#ifndef AV_EMULATED_CUDA_RUNTIME_H
#define AV_EMULATED_CUDA_RUNTIME_H

#include "cuda_runtime_api.h"

#ifdef __cplusplus

#include <math.h>
#include <memory>
#include <string.h>
#include <tuple>
#include <typeinfo>

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
/* One copy for the running block, which starts from 0xff bytes in each: statics.cpp. gcc ignores
 * section() in templates. */
#ifdef __clang__
#define __shared__ static __attribute__((section(".noinit")))
#else
#define __shared__ static __attribute__((noinit))
#endif

/* The running thread's. */
extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;
enum { warpSize = 32 };

/* Runs `body` once for every thread of the grid. */
void av_emulate_grid(const char *name, dim3 grid, dim3 block, size_t shared_bytes,
                     void (*body)(void *), void *argument);
/* The same, or a node of the graph that the stream captures. */
void av_emulate_launch(const char *name, dim3 grid, dim3 block, size_t shared_bytes,
                       cudaStream_t stream, void (*body)(void *), std::shared_ptr<void> argument);
/* What runs in the place of a kernel, if anything: is told where the arguments are. The program may
 * have the function that answers, roofline/played.cpp does. */
typedef void (*av_emulated_play)(void *const *arguments);
__attribute__((weak)) av_emulated_play av_emulated_instead(void (*kernel)());
/* A kernel that launches of the program name, one for each instance of a template, known before
 * main: whether a thread has run it (AV_EMULATED_RAN, emulate.h). */
struct av_emulated_instance {
  const char *file, *type; /* what was compiled, and the mangled name of its av_emulated_known */
  bool ran;
  const av_emulated_instance *before;
  av_emulated_instance(const char *of_file, const char *known_as);
};
template <auto KERNEL>
struct av_emulated_known {
  static av_emulated_instance instance;
};
template <auto KERNEL>
av_emulated_instance av_emulated_known<KERNEL>::instance(__BASE_FILE__,
                                                         typeid(av_emulated_known).name());
/* A kernel with its arguments as they are now: what the caller has is another copy. */
template <typename... P>
struct av_emulated_kernel {
  void (*kernel)(P...);
  av_emulated_instance *instance;
  av_emulated_play instead;
  std::tuple<P...> arguments;
  static void body(void *self) {
    av_emulated_kernel *mine = static_cast<av_emulated_kernel *>(self);
    if (mine->instead != NULL) {
      std::apply(
          [mine](P &...argument) {
            void *const places[] = {&argument..., NULL};
            mine->instead(places);
          },
          mine->arguments);
    } else {
      mine->instance->ran = true;
      std::apply(mine->kernel, mine->arguments);
    }
  }
};
template <typename T>
struct av_as_it_is {
  typedef T type;
};
template <auto KERNEL, typename... P>
static inline void av_emulate(const char *name, dim3 grid, dim3 block, size_t shared_bytes,
                              cudaStream_t stream, void (*kernel)(P...),
                              typename av_as_it_is<P>::type... arguments) {
  typedef av_emulated_kernel<P...> Kernel;
  const av_emulated_play instead = av_emulated_instead == NULL
                                       ? NULL
                                       : av_emulated_instead(reinterpret_cast<void (*)()>(kernel));
  const auto kept = std::make_shared<Kernel>(Kernel{kernel, &av_emulated_known<KERNEL>::instance,
                                                    instead, std::tuple<P...>(arguments...)});
  av_emulate_launch(name, grid, block, shared_bytes, stream, Kernel::body, kept);
}
void *av_emulated_shared(void);

/* Barriers. `file`, `line`: of the call. */
void av_emulated_barrier(const char *file, int line);
static inline void __syncthreads(const char *file = __builtin_FILE(), int line = __builtin_LINE()) {
  av_emulated_barrier(file, line);
}
static inline void __threadfence() {}
static inline void __threadfence_block() {}
static inline void __threadfence_system() {}

/* Warp operations: every lane of the mask arrives with a word and the lane whose word it wants,
 * and leaves with that. */
enum av_emulated_warp { AV_WARP_SYNC, AV_WARP_SHUFFLE, AV_WARP_VOTE };
typedef struct av_emulated_call {
  av_emulated_warp kind;
  const char *name, *file;
  int line;
} av_emulated_call;
int av_emulated_lane(void);
uint64_t av_emulated_warp_meet(const av_emulated_call *call, unsigned mask, uint64_t word,
                               int from);

#define AV_PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()

static inline void __syncwarp(unsigned mask = 0xffffffffu, AV_PLACE) {
  const av_emulated_call call = {AV_WARP_SYNC, "__syncwarp", file, line};
  av_emulated_warp_meet(&call, mask, 0, 0);
}

template <typename T>
static inline T av_emulated_shuffle(const char *name, unsigned mask, T value, int from,
                                    const char *file, int line) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
  const av_emulated_call call = {AV_WARP_SHUFFLE, name, file, line};
  uint64_t word = 0;
  memcpy(&word, &value, sizeof value);
  word = av_emulated_warp_meet(&call, mask, word, from);
  memcpy(&value, &word, sizeof value);
  return value;
}
/* As CUDA defines them: a segment's first lane is a multiple of width, a power of 2. */
template <typename T>
static inline T __shfl_sync(unsigned mask, T value, int from, int width = warpSize, AV_PLACE) {
  const int lane = av_emulated_lane();
  const int source = (lane & ~(width - 1)) | (from & (width - 1));
  return av_emulated_shuffle("__shfl_sync", mask, value, source, file, line);
}
template <typename T>
static inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = warpSize, AV_PLACE) {
  const int lane = av_emulated_lane();
  const int source = lane ^ bits;
  const bool inside = source < (lane & ~(width - 1)) + width;
  return av_emulated_shuffle("__shfl_xor_sync", mask, value, inside ? source : lane, file, line);
}
template <typename T>
static inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                                 AV_PLACE) {
  const int lane = av_emulated_lane();
  const int source = lane + static_cast<int>(delta);
  const bool inside = source < (lane & ~(width - 1)) + width;
  return av_emulated_shuffle("__shfl_down_sync", mask, value, inside ? source : lane, file, line);
}
template <typename T>
static inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                               AV_PLACE) {
  const int lane = av_emulated_lane();
  const int source = lane - static_cast<int>(delta);
  const bool inside = source >= (lane & ~(width - 1));
  return av_emulated_shuffle("__shfl_up_sync", mask, value, inside ? source : lane, file, line);
}

static inline unsigned __ballot_sync(unsigned mask, int predicate, AV_PLACE) {
  const av_emulated_call call = {AV_WARP_VOTE, "__ballot_sync", file, line};
  return static_cast<unsigned>(av_emulated_warp_meet(&call, mask, predicate != 0, 0));
}
static inline int __any_sync(unsigned mask, int predicate, AV_PLACE) {
  const av_emulated_call call = {AV_WARP_VOTE, "__any_sync", file, line};
  return av_emulated_warp_meet(&call, mask, predicate != 0, 0) != 0;
}
static inline int __all_sync(unsigned mask, int predicate, AV_PLACE) {
  const av_emulated_call call = {AV_WARP_VOTE, "__all_sync", file, line};
  return static_cast<unsigned>(av_emulated_warp_meet(&call, mask, predicate != 0, 0)) == mask;
}
#undef AV_PLACE

/* Atomics of integers; of floats there are none, on purpose: sums would depend on scheduling. */
#define AV_ATOMIC(name, type, new_value)          \
  static inline type name(type *at, type value) { \
    const type old = *at;                         \
    *at = new_value;                              \
    return old;                                   \
  }
#define AV_ATOMICS(type)                                              \
  AV_ATOMIC(atomicAdd, type, static_cast<type>(old + value))          \
  AV_ATOMIC(atomicMax, type, old > value ? old : value)               \
  AV_ATOMIC(atomicMin, type, old < value ? old : value)               \
  AV_ATOMIC(atomicOr, type, static_cast<type>(old | value))           \
  AV_ATOMIC(atomicAnd, type, static_cast<type>(old & value))          \
  AV_ATOMIC(atomicExch, type, value)                                  \
  static inline type atomicCAS(type *at, type expected, type value) { \
    const type old = *at;                                             \
    *at = old == expected ? value : old;                              \
    return old;                                                       \
  }
AV_ATOMICS(int)
AV_ATOMICS(unsigned int)
AV_ATOMICS(unsigned long long)
AV_ATOMIC(atomicMax, long long, old > value ? old : value)
AV_ATOMIC(atomicMin, long long, old < value ? old : value)
#undef AV_ATOMICS
#undef AV_ATOMIC
float atomicAdd(float *, float) = delete;
double atomicAdd(double *, double) = delete;

/* Loads and bits. */
template <typename T>
static inline T __ldg(const T *at) {
  return *at;
}
static inline int __popc(unsigned value) { return __builtin_popcount(value); }
static inline int __popcll(unsigned long long value) { return __builtin_popcountll(value); }
static inline int __ffs(int value) { return __builtin_ffs(value); }
static inline int __ffsll(long long value) { return __builtin_ffsll(value); }
static inline int __clz(int value) {
  return value == 0 ? 32 : __builtin_clz(static_cast<unsigned>(value));
}
static inline int __clzll(long long value) {
  return value == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(value));
}
static inline float __int_as_float(int bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}
static inline int __float_as_int(float value) {
  int bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}
static inline unsigned __float_as_uint(float value) {
  return static_cast<unsigned>(__float_as_int(value));
}
static inline float __uint_as_float(unsigned bits) {
  return __int_as_float(static_cast<int>(bits));
}

/* Arithmetic that <math.h> lacks. */
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
#define AV_MIN_MAX(type)                                           \
  static inline type min(type a, type b) { return b < a ? b : a; } \
  static inline type max(type a, type b) { return a < b ? b : a; }
AV_MIN_MAX(int)
AV_MIN_MAX(unsigned int)
AV_MIN_MAX(long)
AV_MIN_MAX(unsigned long)
AV_MIN_MAX(long long)
AV_MIN_MAX(unsigned long long)
#undef AV_MIN_MAX
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }
static inline double min(float a, double b) { return fmin(static_cast<double>(a), b); }
static inline double min(double a, float b) { return fmin(a, static_cast<double>(b)); }
static inline double max(float a, double b) { return fmax(static_cast<double>(a), b); }
static inline double max(double a, float b) { return fmax(a, static_cast<double>(b)); }

#endif
#endif
