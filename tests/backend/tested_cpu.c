#include "backend/tested.h"

#include "backend/cpu/cpu.h"
#include "backend/cpu/state.h"
#include "config/config.h"

const bool tested_is_order_free = true;
const bool tested_clears_spare = false;
const bool tested_keeps_bits = false;
const bool tested_is_slow = false;

av_status open_tested(av_backend *be, const av_comm *comm, int threads, bool strict) {
  const av_backend_options options = {
      .choice = AV_BACKEND_CPU, .threads = threads, .strict = strict};
  return av_backend_open(be, &options, comm);
}

bool use_way(av_backend *be, int i) {
  const av_kernels *sets[] = {
#ifdef AV_KERNELS_X86
      __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
              __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")
          ? &av_kernels_avx512
          : NULL,
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &av_kernels_avx2 : NULL,
#endif
      &av_kernels_baseline};
  int found = 0;
  for (size_t s = 0; s < sizeof sets / sizeof *sets; ++s) {
    if (sets[s] != NULL && found++ == i) {
      av_cpu_of(be)->kernels = sets[s];
      return true;
    }
  }
  return false;
}
