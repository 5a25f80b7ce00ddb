#include "train/split.h"

#include "base/memory.h"
#include "data/permute.h"

#include <math.h>
#include <stdlib.h>

void av_split_free(av_split *split) {
  free(split->of);
  *split = (av_split){0};
}

/* Number of cells that an amount means among n; `up` rounds a fraction up, as scvi-tools does for
 * training cells. */
static int64_t cells_of(const av_amount *amount, int64_t n, bool up) {
  if (!amount->is_fraction) {
    return amount->count;
  }
  const double cells = amount->fraction * (double)n;
  return (int64_t)(up ? ceil(cells) : floor(cells));
}

static av_status sizes(const av_config *config, int64_t n, int64_t *n_train,
                       int64_t *n_validation) {
  *n_train = cells_of(&config->train.train_size, n, true);
  if (*n_train > n) {
    return av_fail(AV_CONFIG, "%s: %lld training cells asked for, but only %lld cells have counts",
                   av_config_where(config, "train", "train_size"), (long long)*n_train,
                   (long long)n);
  }
  *n_validation = n - *n_train;
  if (config->train.validation_size_given) {
    *n_validation = cells_of(&config->train.validation_size, n, false);
    if (config->train.train_size.is_fraction && config->train.validation_size.is_fraction &&
        *n_validation > n - *n_train) {
      *n_validation = n - *n_train; /* 0.55 and 0.45 of 100: 0.55 * 100 is rounded up to 56 */
    }
    if (*n_train + *n_validation > n) {
      return av_fail(AV_CONFIG,
                     "%s: %lld training and %lld validation cells are more than the %lld "
                     "cells with counts",
                     av_config_where(config, "train", "validation_size"), (long long)*n_train,
                     (long long)*n_validation, (long long)n);
    }
  }
  return AV_OK;
}

/* Draws the split of the non-empty cells; `before` of them lie on lower ranks, `n` in all. */
static av_status draw(const av_config *config, const av_dataset *dataset, int64_t before, int64_t n,
                      int8_t *of) {
  int64_t n_train = 0;
  int64_t n_validation = 0;
  AV_TRY(sizes(config, n, &n_train, &n_validation));
  int64_t ordinal = before;
  for (int64_t i = 0; i < dataset->n_local; ++i) {
    if (dataset->library[i] <= 0.0) {
      continue;
    }
    const int64_t place = av_permute(ordinal, n, (uint64_t)config->train.seed, AV_DRAW_SPLIT);
    of[i] = place < n_train                  ? AV_SPLIT_TRAIN
            : place < n_train + n_validation ? AV_SPLIT_VALIDATION
                                             : AV_SPLIT_TEST;
    ++ordinal;
  }
  return AV_OK;
}

static av_status fill(av_split *split, const av_comm *comm, const av_config *config,
                      const av_dataset *dataset) {
  int64_t filled = 0;
  for (int64_t i = 0; i < dataset->n_local; ++i) {
    const bool empty = dataset->library[i] <= 0.0;
    filled += !empty;
    split->of[i] = AV_SPLIT_EMPTY;
    if (!empty && dataset->split != NULL) {
      split->of[i] = dataset->split[i];
    }
  }
  if (dataset->split != NULL) {
    return AV_OK;
  }
  int64_t before = 0;
  int64_t all = filled;
  AV_TRY(AV_MPI(MPI_Exscan(&filled, &before, 1, MPI_INT64_T, MPI_SUM, comm->mpi)));
  AV_TRY(av_sum_i64(comm, &all, 1));
  return draw(config, dataset, comm->rank == 0 ? 0 : before, all, split->of);
}

av_status av_split_create(av_split *split, const av_comm *comm, const av_config *config,
                          const av_dataset *dataset) {
  *split = (av_split){.of = av_malloc((size_t)dataset->n_local, sizeof *split->of)};
  av_status status =
      split->of == NULL ? av_fail(AV_NOMEM, "out of memory (split of the cells)") : AV_OK;
  AV_TRY(av_agree(comm, status));
  status = av_agree(comm, fill(split, comm, config, dataset));
  if (status != AV_OK) {
    av_split_free(split);
    return status;
  }
  int64_t n[4] = {0};
  for (int64_t i = 0; i < dataset->n_local; ++i) {
    n[split->of[i] == AV_SPLIT_EMPTY ? 3 : split->of[i]] += 1;
  }
  AV_TRY(av_sum_i64(comm, n, 4));
  split->n_train = n[AV_SPLIT_TRAIN];
  split->n_validation = n[AV_SPLIT_VALIDATION];
  split->n_test = n[AV_SPLIT_TEST];
  split->n_empty = n[3];
  const bool trains = !config->train.max_epochs_given || config->train.max_epochs > 0;
  if (trains && split->n_train < 3) {
    av_split_free(split);
    return av_fail(AV_BADDATA, "%s: %lld training cells; at least 3 are needed",
                   dataset->input_path, (long long)n[AV_SPLIT_TRAIN]);
  }
  return AV_OK;
}
