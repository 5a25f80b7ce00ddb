/* The list of backends in this build, and opening one. */
#include "backend/backend.h"

#include "backend/cpu/cpu.h"
#include "backend/cuda_module.h"
#include "backend/reference/reference.h"
#include "config/config.h"

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
  *be = (av_backend){0};
}

void av_backend_no_pass_begin(av_backend *be, const av_batch *batch, av_pass_kind kind,
                              const av_pass_values *values) {
  (void)be, (void)batch, (void)kind, (void)values;
}

void av_backend_no_pass_end(av_backend *be) { (void)be; }

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
