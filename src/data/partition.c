#include "data/partition.h"

#include "base/memory.h"

#include <stdlib.h>

int64_t av_shard_count(int64_t n_cells) { return n_cells < AV_SHARDS ? n_cells : AV_SHARDS; }

int64_t av_shard_first(const av_partition *partition, int64_t shard) {
  if (partition->n_shards == 0) {
    return 0;
  }
  /* N v / V without the product, which could overflow. */
  const int64_t whole = partition->n_cells / partition->n_shards;
  const int64_t rest = partition->n_cells % partition->n_shards;
  return whole * shard + rest * shard / partition->n_shards;
}

int64_t av_rank_first(const av_partition *partition, int rank) {
  return av_shard_first(partition, partition->first_shard[rank]);
}

/* prefix[v] = weight of the shards before v. Without usable weights a shard weighs its cells. */
static void sum_weights(const av_partition *partition, const double *weight, double *prefix) {
  prefix[0] = 0;
  for (int64_t v = 0; v < partition->n_shards; ++v) {
    prefix[v + 1] = prefix[v] + (weight != NULL && weight[v] > 0 ? weight[v] : 0);
  }
  if (!(prefix[partition->n_shards] > 0)) {
    for (int64_t v = 0; v <= partition->n_shards; ++v) {
      prefix[v] = (double)av_shard_first(partition, v);
    }
  }
}

av_status av_partition_create(av_partition *partition, int64_t n_cells, int n_ranks,
                              const double *weight) {
  av_partition made = {.n_cells = n_cells, .n_shards = av_shard_count(n_cells), .n_ranks = n_ranks};
  made.first_shard = av_calloc((size_t)n_ranks + 1, sizeof *made.first_shard);
  double *prefix = av_calloc((size_t)made.n_shards + 1, sizeof *prefix);
  if (made.first_shard == NULL || prefix == NULL) {
    free(prefix);
    av_partition_free(&made);
    return av_fail(AV_NOMEM, "out of memory (partition over %d ranks)", n_ranks);
  }
  sum_weights(&made, weight, prefix);
  const double total = prefix[made.n_shards];
  int64_t v = 0;
  for (int r = 1; r < n_ranks; ++r) {
    /* The boundary between shards nearest to an r / R share of the weight. */
    const double target = total * ((double)r / n_ranks);
    while (v < made.n_shards && prefix[v + 1] <= target) {
      ++v;
    }
    int64_t cut = v;
    if (v < made.n_shards && prefix[v + 1] - target < target - prefix[v]) {
      cut = v + 1;
    }
    const int64_t before = made.first_shard[r - 1];
    made.first_shard[r] = cut > before ? cut : before;
  }
  made.first_shard[n_ranks] = made.n_shards;
  free(prefix);
  *partition = made;
  return AV_OK;
}

void av_partition_free(av_partition *partition) {
  free(partition->first_shard);
  *partition = (av_partition){0};
}
