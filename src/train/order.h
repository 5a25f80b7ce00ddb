/* The order of the training cells in an epoch: by key, and by shard where keys are equal.
 *
 * Cell j of shard v has the key (j + u_v) / n_v (train/sampler.h). Keys grow within a shard and
 * every stretch of [0, 1) holds the same part of each shard, to within a cell, so the order is made
 * window by window of the key axis: memory for a window of some 16,384 cells, whatever the number
 * of cells. Each rank needs its own cells only, with those of the others counted, but for windows
 * in which a minibatch ends.
 *
 * Cost: 6 to 8 ns a cell of a sorted window (a division, a pass of counting sort, one of insertion
 * sort); of a window that falls into one minibatch as much a cell of this rank, and 0.3 ns a cell
 * of the job. A heap over the shards takes 60 to 130 ns a cell.
 */
#ifndef AV_TRAIN_ORDER_H
#define AV_TRAIN_ORDER_H

#include "base/status.h"

#include <stdint.h>

typedef struct av_order av_order;

/* Of n_cells cells in n_shards shards, of which the n_own from first_own on are this rank's.
 * AV_NOMEM. Not collective. */
av_status av_order_create(av_order **order, int64_t n_cells, int64_t n_shards, int64_t first_own,
                          int64_t n_own);
void av_order_free(av_order **order);

/* One epoch. All is borrowed until the next call. */
typedef struct av_order_epoch {
  const int64_t *shard_cells; /* (n_shards) n_v >= 0, n_cells together */
  const double *offset;       /* (n_shards) u_v in [0, 1) */
  const int64_t *own_start;   /* (n_own) place in own_rows of the first cell of each own shard */
  const int64_t *own_rows;    /* what to call the cells of the own shards, >= 0 */
} av_order_epoch;

/* Back to the first cell. */
void av_order_begin(av_order *order, const av_order_epoch *epoch);

/* The next n cells of the order, or as many as are left; returns their number. Those of this rank
 * are written to `rows`, which needs room for one more than can come, and counted in *n_rows. */
int64_t av_order_take(av_order *order, int64_t n, int64_t *rows, int64_t *n_rows);

/* A bound from above: no n cells that follow one another in the order, of whatever offsets, hold
 * more of the own shards. With part p of the cells, in s shards, about p n + s at most; n where all
 * shards are own. shard_cells: (n_shards) as above. */
int64_t av_order_most_own(const av_order *order, const int64_t *shard_cells, int64_t n);

#endif
