/* The list of backends in this build, and opening one. */
#include "backend/backend.h"

#include "backend/cpu/cpu.h"
#include "backend/cuda_module.h"
#include "backend/gpu_memory.h"
#include "backend/reference/reference.h"
#include "base/exact.h"
#include "base/memory.h"
#include "config/config.h"

#include <stdlib.h>
#include <string.h>

/* A compiler checks the signatures in an operations table but not that it is complete. */
static av_status check_complete(const av_backend_ops *ops) {
  const char *first = (const char *)&ops->open;
  const char *last = (const char *)(ops + 1);
  for (const char *at = first; at < last; at += sizeof(void (*)(void))) {
    void (*operation)(void) = NULL;
    memcpy(&operation, at, sizeof operation);
    if (operation == NULL) {
      return AV_FAIL_BUG("backend %s lacks operation number %d", ops->name,
                         (int)((at - first) / (int)sizeof operation));
    }
  }
  return AV_OK;
}

/* The operations of a backend; NULL, and why, if there are none here. */
static const av_backend_ops *find(int choice, const char **reason) {
  const av_cuda_module *module = NULL;
  switch (choice) {
    case AV_BACKEND_REFERENCE:
      return &av_backend_reference;
    case AV_BACKEND_CUDA:
      module = av_cuda_module_load(reason);
      return module != NULL ? module->ops : NULL;
    default:
      return &av_backend_cpu;
  }
}

av_status av_backend_available(int choice) {
  const char *reason = NULL;
  if (find(choice, &reason) != NULL) {
    return AV_OK;
  }
  return av_fail(AV_NODEVICE, "[runtime] backend = cuda: %s; cpu and reference are there", reason);
}

av_status av_backend_open_ops(av_backend *be, const av_backend_ops *ops,
                              const av_backend_options *options, const av_comm *comm) {
  AV_TRY(check_complete(ops));
  *be = (av_backend){.ops = ops,
                     .comm = comm,
                     .threads = options->threads,
                     .strict = options->strict,
                     .precision = options->precision,
                     .same_bits = options->same_bits,
                     .sums_by_mpi = options->sums_by_mpi,
                     .keeps_passes = options->keeps_passes,
                     .gpu_rows = options->gpu_rows,
                     .gpu_timeout = options->gpu_timeout,
                     .gpu.limit = options->gpu_memory};
  return av_agree(comm, ops->open(be));
}

av_status av_backend_open(av_backend *be, const av_backend_options *options, const av_comm *comm) {
  AV_TRY(av_backend_available(options->choice));
  const char *reason = NULL;
  return av_backend_open_ops(be, find(options->choice, &reason), options, comm);
}

void av_backend_close(av_backend *be) {
  if (be->ops != NULL) {
    be->ops->close(be);
  }
  for (int i = 0; i < AV_READS; ++i) {
    free(be->reads[i]);
  }
  *be = (av_backend){0};
}

/* --- what backends have in common whose operations are over when they return ------------------ */

void av_backend_no_pass_begin(av_backend *be, const av_batch *batch, av_pass_kind kind,
                              const av_pass_values *values) {
  (void)be, (void)batch, (void)kind, (void)values;
}

void av_backend_no_pass_end(av_backend *be) { (void)be; }

av_status av_backend_no_output_end(av_backend *be) {
  (void)be;
  return AV_OK;
}

av_status av_backend_read_begin(av_backend *be, av_kind kind, const void *array, int64_t n) {
  const int at = be->reads[0] == NULL ? 0 : 1;
  if (be->reads[at] != NULL) {
    return AV_FAIL_BUG("more than %d reads under way", AV_READS);
  }
  be->reads[at] = av_malloc((size_t)n, sizeof *be->reads[at]);
  AV_TRY_ALLOC(be->reads[at]);
  return be->ops->read(be, kind, array, n, be->reads[at]);
}

av_status av_backend_read_end(av_backend *be, av_kind kind, int64_t n, double *values) {
  (void)kind;
  if (be->reads[0] == NULL) {
    return AV_FAIL_BUG("no read under way");
  }
  if (n > 0) {
    memcpy(values, be->reads[0], (size_t)n * sizeof *values);
  }
  free(be->reads[0]);
  be->reads[0] = be->reads[1];
  be->reads[1] = NULL;
  return AV_OK;
}

/* Each thread has its genes. */
static void add_rho(int threads, int64_t n, int64_t n_genes, const float *rho, double scale,
                    av_wide *sums) {
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int part = 0; part < threads; ++part) {
    const int64_t begin = n_genes * part / threads;
    const int64_t end = n_genes * (part + 1) / threads;
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t g = begin; g < end; ++g) {
        av_wide_add(&sums[g], scale * (double)rho[i * n_genes + g]);
      }
    }
  }
}

av_status av_backend_sum_rho(av_backend *be, const av_batch *batch, int64_t n,
                             const av_decode *decode, const av_real *x, const av_real *l,
                             double scale, av_sum *sums) {
  const int threads = be->threads > 0 ? be->threads : 1;
  float *rho = av_malloc((size_t)(n * decode->n_genes), sizeof *rho);
  AV_TRY_ALLOC(rho);
  av_status status =
      be->ops->decode_output(be, batch, decode, x, l, (av_average){.n = 1}, rho, NULL);
  status = status == AV_OK ? be->ops->output_end(be) : status;
  if (status == AV_OK) {
    add_rho(threads, n, decode->n_genes, rho, scale, (av_wide *)(void *)sums);
  }
  free(rho);
  return status;
}

/* One piece of what travels from a GPU, where they are added up. */
int64_t av_backend_average_rows(const av_backend *be, int64_t n_genes) {
  if (!be->queues) {
    return INT64_MAX;
  }
  const int64_t rows = AV_GPU_FETCH_BYTES / (2 * n_genes * (int64_t)sizeof(float));
  return rows > AV_GPU_FETCH_CELLS ? rows : AV_GPU_FETCH_CELLS;
}

int64_t av_fold_stats_size(const av_design *design, int64_t n_in, int64_t n_onehot) {
  const int64_t columns = n_onehot > 0 ? n_onehot : 1;
  int64_t size = columns * (1 + n_in) + n_in * n_in;
  for (int64_t f = 0; n_onehot > 0 && f < design->n_factors; ++f) {
    for (int64_t other = f + 1; other < design->n_factors; ++other) {
      size += (design->first[f + 1] - design->first[f]) *
              (design->first[other + 1] - design->first[other]);
    }
  }
  return size;
}
