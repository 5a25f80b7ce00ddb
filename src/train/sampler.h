/* Minibatches that do not depend on the number of ranks (design: virtual shards).
 *
 * In every epoch each shard permutes its n_v training cells; the j-th of them gets the key
 * (j + u_v) / n_v with u_v in (0, 1); minibatches are consecutive runs of batch_size cells in key
 * order over all shards. So every training cell comes once an epoch, a minibatch holds exactly
 * batch_size cells but for the last, and takes about equally from equal stretches of the data,
 * hence from the ranks. The offsets u_v follow a golden-ratio sequence from a random start, which
 * keeps neighbouring shards out of step, and are shuffled among neighbours, which gives every epoch
 * other minibatches even when a shard is one cell. Each rank computes the order (train/order.h)
 * and keeps the cells that it owns: no communication.
 */
#ifndef AV_TRAIN_SAMPLER_H
#define AV_TRAIN_SAMPLER_H

#include "data/dataset.h"
#include "train/split.h"

typedef struct av_sampler av_sampler;

/* Collective. `dataset` and `split` are borrowed for the life of the sampler. `threads` shuffle: a
 * GPU may have little work meanwhile. */
av_status av_sampler_create(av_sampler **sampler, const av_comm *comm, const av_dataset *dataset,
                            const av_split *split, int64_t batch_size, uint64_t seed, int threads);
void av_sampler_free(av_sampler **sampler);

/* Minibatches in an epoch. A last one of 1 or 2 cells is left out: BatchNorm needs more. */
int64_t av_sampler_steps(const av_sampler *sampler);
/* Cells trained on in an epoch, over all ranks. */
int64_t av_sampler_cells(const av_sampler *sampler);
/* A bound from above for the rows that a minibatch has on this rank: little more than its part of
 * the cells, of large minibatches (av_order_most_own). What rows a GPU works on is cut by it. */
int64_t av_sampler_max_rows(const av_sampler *sampler);

/* Starts an epoch. Not collective. */
void av_sampler_begin(av_sampler *sampler, uint32_t epoch);
/* The next minibatch: its local rows (borrowed until the next call), their number, and the number
 * of cells over all ranks. False after the last. Not collective. */
bool av_sampler_next(av_sampler *sampler, const int64_t **rows, int64_t *n_rows, int64_t *n_cells);

#endif
