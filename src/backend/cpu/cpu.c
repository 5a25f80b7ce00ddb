/* Life and memory of the cpu backend, and its table of operations. */
#include "backend/cpu/cpu.h"

#include "backend/cpu/state.h"
#include "base/memory.h"

#include <cblas.h>
#include <stdlib.h>
#include <string.h>

/* Kernels for the best instruction set that this processor has. */
static const av_kernels *choose_kernels(void) {
#ifdef AV_KERNELS_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  if (avx2 && avx512) {
    return &av_kernels_avx512;
  }
  if (avx2) {
    return &av_kernels_avx2;
  }
#endif
  return &av_kernels_baseline;
}

static av_status cpu_open(av_backend *be) {
  av_cpu *cpu = av_calloc(1, sizeof *cpu);
  AV_TRY_ALLOC(cpu);
  cpu->kernels = choose_kernels();
  be->state = cpu;
  be->bytes[AV_REAL] = sizeof(float);
  be->bytes[AV_GRAD] = be->strict ? sizeof(double) : sizeof(float);
  be->bytes[AV_SUM] = sizeof(double);
  be->threads = be->threads > 0 ? be->threads : 1;
  openblas_set_num_threads(1); /* work is divided here, each thread calls BLAS by itself */
  return AV_OK;
}

static void cpu_close(av_backend *be) {
  av_cpu *cpu = av_cpu_of(be);
  if (cpu == NULL) {
    return;
  }
  for (int slot = 0; slot < AV_SLOTS; ++slot) {
    free(cpu->scratch[slot]);
  }
  av_cpu_comm_free(cpu);
  free(cpu);
  be->state = NULL;
}

const char *av_cpu_instructions(const av_backend *be) { return av_kernels_of(be)->instructions; }

void av_cpu_require(const av_backend *be, av_status status) {
  if (status != AV_OK) {
    av_comm_abort(be->comm, status);
  }
}

void *av_scratch(av_backend *be, av_slot slot, int64_t n, size_t size) {
  av_cpu *cpu = av_cpu_of(be);
  const size_t bytes = (size_t)n * size;
  if (bytes > cpu->scratch_bytes[slot] || cpu->scratch[slot] == NULL) {
    free(cpu->scratch[slot]);
    cpu->scratch[slot] = av_malloc(bytes, 1);
    cpu->scratch_bytes[slot] = bytes;
    if (cpu->scratch[slot] == NULL) {
      av_cpu_require(
          be, av_fail(AV_NOMEM, "out of memory (%lld bytes of working space)", (long long)bytes));
    }
  }
  return cpu->scratch[slot];
}

static av_status cpu_alloc(av_backend *be, av_kind kind, int64_t n, void **array) {
  *array = av_calloc((size_t)n, be->bytes[kind]);
  return *array == NULL ? av_fail(AV_NOMEM, "out of memory (%lld numbers of %zu bytes)",
                                  (long long)n, be->bytes[kind])
                        : AV_OK;
}

static void cpu_release(av_backend *be, void *array) {
  (void)be;
  free(array);
}

static av_status cpu_write(av_backend *be, av_kind kind, void *array, int64_t n,
                           const double *values) {
  if (be->bytes[kind] == sizeof(double)) {
    memcpy(array, values, (size_t)n * sizeof *values);
    return AV_OK;
  }
  float *to = av_floats(array);
  for (int64_t i = 0; i < n; ++i) {
    to[i] = (float)values[i];
  }
  return AV_OK;
}

static av_status cpu_read(av_backend *be, av_kind kind, const void *array, int64_t n,
                          double *values) {
  if (be->bytes[kind] == sizeof(double)) {
    memcpy(values, array, (size_t)n * sizeof *values);
    return AV_OK;
  }
  const float *from = av_const_floats(array);
  for (int64_t i = 0; i < n; ++i) {
    values[i] = (double)from[i];
  }
  return AV_OK;
}

static void cpu_zero(av_backend *be, av_kind kind, void *array, int64_t n) {
  if (n > 0) {
    memset(array, 0, (size_t)n * be->bytes[kind]);
  }
}

static void cpu_add(av_backend *be, int64_t n, av_sum *sums, const av_sum *more) {
  double *to = av_doubles(sums);
  const double *from = av_const_doubles(more);
#pragma omp parallel for schedule(static) num_threads(be->threads)
  for (int64_t i = 0; i < n; ++i) {
    to[i] += from[i];
  }
}

void av_pack_panels(const av_backend *be, int64_t depth, int64_t n, const float *w, float *packed) {
#pragma omp parallel for schedule(static) num_threads(be->threads)
  for (int part = 0; part < be->threads; ++part) {
    int64_t begin = 0;
    int64_t end = 0;
    av_slice(depth, 1, part, be->threads, &begin, &end);
    av_kernels_of(be)->layer_pack(depth, n, begin, end, w, n, 1, packed);
  }
}

const av_backend_ops av_backend_cpu = {.name = "cpu",
                                       .open = cpu_open,
                                       .close = cpu_close,
                                       .alloc = cpu_alloc,
                                       .release = cpu_release,
                                       .write = cpu_write,
                                       .read = cpu_read,
                                       .read_begin = av_backend_read_begin,
                                       .read_end = av_backend_read_end,
                                       .zero = cpu_zero,
                                       .add = cpu_add,
                                       .output_end = av_backend_no_output_end,
                                       .pass_begin = av_backend_no_pass_begin,
                                       .pass_end = av_backend_no_pass_end,
                                       AV_TABLE_OPERATIONS(av_cpu_)};
