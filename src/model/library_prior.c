#include "model/library_prior.h"

#include "base/exact.h"
#include "base/log.h"
#include "base/memory.h"

#include <math.h>
#include <stdlib.h>

#define SMALLEST_VARIANCE 1e-4

/* Sums over the non-empty cells by batch: count and fixed-point sum of f(log library). */
typedef struct batch_sums {
  int64_t *cells; /* (S) */
  int64_t *sum;   /* (S) */
} batch_sums;

/* sum[s] = sum of log library (center = NULL) or of its squared distance to center[s]. */
static void add_cells(const av_dataset *dataset, const double *center, batch_sums *sums) {
  for (int64_t i = 0; i < dataset->n_local; ++i) {
    if (dataset->library[i] <= 0.0) {
      continue;
    }
    const int32_t s = dataset->batch.code[i];
    const double value = log(dataset->library[i]);
    sums->cells[s] += 1;
    sums->sum[s] += av_to_fixed(center == NULL ? value : (value - center[s]) * (value - center[s]));
  }
}

static av_status global_sums(const av_comm *comm, const av_dataset *dataset, const double *center,
                             batch_sums *sums) {
  const int64_t batches = dataset->batch.levels.n;
  for (int64_t s = 0; s < batches; ++s) {
    sums->cells[s] = 0;
    sums->sum[s] = 0;
  }
  add_cells(dataset, center, sums);
  AV_TRY(av_sum_i64(comm, sums->cells, batches));
  return av_sum_i64(comm, sums->sum, batches);
}

/* The first few batches by name, the others by their number. */
static void warn_of(const av_dataset *dataset, int64_t warned, int64_t s, int64_t cells,
                    double pooled) {
  enum { NAMED = 5 };
  const char *name = dataset->has_batch ? dataset->batch.levels.at[s] : "all";
  if (warned < NAMED) {
    av_warn(
        "%s%s%s, %lld cell%s with counts: the variance of log library size cannot be "
        "estimated from them and is taken to be %.3g",
        dataset->has_batch ? "batch \"" : "", name, dataset->has_batch ? "\"" : " cells",
        (long long)cells, cells == 1 ? "" : "s", pooled);
  } else if (warned == NAMED) {
    av_warn("further batches like these are not named");
  }
}

static av_status fill_prior(const av_comm *comm, const av_dataset *dataset, batch_sums *sums,
                            bool warn, double *mean, double *prior) {
  const int64_t batches = dataset->batch.levels.n;
  int64_t cells = 0;
  int64_t total = 0;
  AV_TRY(global_sums(comm, dataset, NULL, sums));
  for (int64_t s = 0; s < batches; ++s) {
    cells += sums->cells[s];
    total += sums->sum[s];
  }
  const double overall = cells > 0 ? av_from_fixed(total) / (double)cells : 0.0;
  for (int64_t s = 0; s < batches; ++s) {
    mean[s] = sums->cells[s] > 0 ? av_from_fixed(sums->sum[s]) / (double)sums->cells[s] : overall;
  }
  AV_TRY(global_sums(comm, dataset, mean, sums));
  int64_t within = 0;
  for (int64_t s = 0; s < batches; ++s) {
    within += sums->sum[s];
  }
  double pooled = cells > 0 ? av_from_fixed(within) / (double)cells : 0.0;
  if (pooled < SMALLEST_VARIANCE) {
    pooled = 1.0;
  }
  int64_t warned = 0;
  for (int64_t s = 0; s < batches; ++s) {
    const double variance =
        sums->cells[s] > 0 ? av_from_fixed(sums->sum[s]) / (double)sums->cells[s] : 0.0;
    prior[2 * s] = mean[s];
    prior[2 * s + 1] = variance;
    if (sums->cells[s] < 2 || variance < SMALLEST_VARIANCE) {
      prior[2 * s + 1] = pooled;
      if (warn) {
        warn_of(dataset, warned++, s, sums->cells[s], pooled);
      }
    }
  }
  return AV_OK;
}

av_status av_library_prior(const av_comm *comm, const av_dataset *dataset, bool warn,
                           double *prior) {
  const size_t batches = (size_t)dataset->batch.levels.n;
  batch_sums sums = {.cells = av_calloc(batches, sizeof *sums.cells),
                     .sum = av_calloc(batches, sizeof *sums.sum)};
  double *mean = av_calloc(batches, sizeof *mean);
  av_status status = AV_OK;
  if (sums.cells == NULL || sums.sum == NULL || mean == NULL) {
    status = av_fail(AV_NOMEM, "out of memory (library prior of %zu batches)", batches);
  }
  status = av_agree(comm, status);
  if (status == AV_OK) {
    status = fill_prior(comm, dataset, &sums, warn, mean, prior);
  }
  free(sums.cells);
  free(sums.sum);
  free(mean);
  return status;
}
