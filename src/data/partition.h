/* Which cells belong to which rank, by way of virtual shards.
 *
 * The N cells are cut into V contiguous virtual shards, V = min(N, AV_SHARDS), whatever the number
 * of ranks: shard v holds cells [N v / V, N (v + 1) / V). Whole, consecutive shards go to ranks, so
 * a rank owns one contiguous slab of rows. Minibatches are defined by shards (train/sampler.h),
 * hence the answer does not depend on the split over ranks.
 */
#ifndef AV_DATA_PARTITION_H
#define AV_DATA_PARTITION_H

#include "base/comm.h"
#include "base/status.h"

#include <stdint.h>

enum { AV_SHARDS = 1024 };

typedef struct av_partition {
  int64_t n_cells;
  int64_t n_shards;
  int n_ranks;
  int64_t *first_shard; /* (n_ranks + 1): rank r owns shards [first_shard[r], first_shard[r+1]) */
} av_partition;

/* First cell of shard v, 0 <= v <= n_shards (v = n_shards gives N). */
int64_t av_shard_first(const av_partition *partition, int64_t shard);
/* First cell of rank r, 0 <= r <= n_ranks. */
int64_t av_rank_first(const av_partition *partition, int rank);

/* Splits so that ranks hold about equal numbers of non-zeros: `weight` (n_shards) is the work of
 * each shard (its non-zeros plus a constant per cell), or NULL for equal cells. Every rank must
 * pass the same weights; not collective. n_shards for N cells: av_shard_count(N). */
int64_t av_shard_count(int64_t n_cells);
av_status av_partition_create(av_partition *partition, int64_t n_cells, int n_ranks,
                              const double *weight);
void av_partition_free(av_partition *partition);

#endif
