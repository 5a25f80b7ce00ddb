#include "train/sampler.h"

#include "base/memory.h"
#include "math/rng.h"
#include "train/order.h"
#include "train/schedule.h"

#include <stdlib.h>

#define GOLDEN_RATIO 0.61803398874989484820

/* Neighbouring shards whose offsets are shuffled among them in every epoch: few, so that every
 * stretch of the data keeps evenly spread offsets; enough that minibatches are others in every
 * epoch even when a shard is one cell. */
enum { SHARDS_PER_BLOCK = 32 };

struct av_sampler {
  uint64_t seed;
  int threads;
  int64_t batch_size;
  int64_t n_cells; /* training cells over all ranks */
  int64_t n_steps;
  int64_t n_shards;
  int64_t *shard_cells; /* (n_shards) training cells of each */
  int64_t first_shard;  /* this rank's shards: [first_shard, first_shard + n_own) */
  int64_t n_own;
  int64_t *own_first; /* (n_own + 1) first local row of each */
  const int8_t *of;   /* of each local row: the split's, borrowed */
  int64_t *own_start; /* (n_own + 1) into own_rows */
  int64_t *own_rows;  /* local rows of the training cells, shard after shard */
  int64_t max_rows;   /* of a minibatch */
  /* the epoch under way */
  double *offset; /* (n_shards) u_v */
  av_order *order;
  int64_t step;
  int64_t *batch_rows; /* (max_rows + 1) */
};

void av_sampler_free(av_sampler **sampler) {
  if (*sampler == NULL) {
    return;
  }
  free((*sampler)->shard_cells);
  free((*sampler)->own_first);
  free((*sampler)->own_start);
  free((*sampler)->own_rows);
  free((*sampler)->offset);
  av_order_free(&(*sampler)->order);
  free((*sampler)->batch_rows);
  free(*sampler);
  *sampler = NULL;
}

int64_t av_sampler_max_rows(const av_sampler *sampler) { return sampler->max_rows; }

int64_t av_sampler_steps(const av_sampler *sampler) { return sampler->n_steps; }

int64_t av_sampler_cells(const av_sampler *sampler) {
  const int64_t all = sampler->n_steps * sampler->batch_size;
  return all < sampler->n_cells ? all : sampler->n_cells;
}

static av_status allocate(av_sampler *sampler, const av_dataset *dataset) {
  const size_t shards = (size_t)sampler->n_shards;
  sampler->shard_cells = av_calloc(shards, sizeof *sampler->shard_cells);
  sampler->offset = av_calloc(shards, sizeof *sampler->offset);
  sampler->own_first = av_calloc((size_t)sampler->n_own + 1, sizeof *sampler->own_first);
  sampler->own_start = av_calloc((size_t)sampler->n_own + 1, sizeof *sampler->own_start);
  sampler->own_rows = av_calloc((size_t)dataset->n_local, sizeof *sampler->own_rows);
  if (sampler->shard_cells == NULL || sampler->offset == NULL || sampler->own_first == NULL ||
      sampler->own_start == NULL || sampler->own_rows == NULL) {
    return av_fail(AV_NOMEM, "out of memory (order of %lld cells)", (long long)dataset->n_local);
  }
  return AV_OK;
}

/* Lists the training rows of this rank's shard v in row order, from place `at` on; returns the next
 * place. */
static int64_t list_shard(const av_sampler *sampler, int64_t v, int64_t at) {
  for (int64_t row = sampler->own_first[v]; row < sampler->own_first[v + 1]; ++row) {
    if (sampler->of[row] == AV_SPLIT_TRAIN) {
      sampler->own_rows[at++] = row;
    }
  }
  return at;
}

/* Lists this rank's training rows by shard and counts them. */
static void list_rows(av_sampler *sampler, const av_dataset *dataset, const av_split *split) {
  int64_t at = 0;
  sampler->of = split->of;
  for (int64_t v = 0; v <= sampler->n_own; ++v) {
    sampler->own_first[v] =
        av_shard_first(&dataset->partition, sampler->first_shard + v) - dataset->first;
  }
  for (int64_t v = 0; v < sampler->n_own; ++v) {
    sampler->own_start[v] = at;
    at = list_shard(sampler, v, at);
    sampler->shard_cells[sampler->first_shard + v] = at - sampler->own_start[v];
  }
  sampler->own_start[sampler->n_own] = at;
}

/* Room for a minibatch's rows; all shards' cells are known. */
static av_status take_rows(av_sampler *sampler) {
  sampler->max_rows = av_order_most_own(sampler->order, sampler->shard_cells, sampler->batch_size);
  sampler->batch_rows = av_calloc((size_t)sampler->max_rows + 1, sizeof *sampler->batch_rows);
  return sampler->batch_rows != NULL ? AV_OK : av_fail(AV_NOMEM, "out of memory (minibatch)");
}

av_status av_sampler_create(av_sampler **sampler, const av_comm *comm, const av_dataset *dataset,
                            const av_split *split, int64_t batch_size, uint64_t seed, int threads) {
  av_sampler *made = av_calloc(1, sizeof *made);
  av_status status = made == NULL ? av_fail(AV_NOMEM, "out of memory (sampler)") : AV_OK;
  if (status == AV_OK) {
    const av_partition *partition = &dataset->partition;
    made->seed = seed;
    made->threads = threads;
    made->batch_size = batch_size;
    made->n_cells = split->n_train;
    made->n_steps = av_steps_per_epoch(split->n_train, batch_size);
    made->n_shards = partition->n_shards;
    made->first_shard = partition->first_shard[comm->rank];
    made->n_own = partition->first_shard[comm->rank + 1] - made->first_shard;
    status = allocate(made, dataset);
  }
  if (status == AV_OK) {
    list_rows(made, dataset, split);
    status = av_order_create(&made->order, made->n_cells, made->n_shards, made->first_shard,
                             made->n_own);
  }
  status = av_agree(comm, status);
  if (status == AV_OK) {
    status = av_sum_i64(comm, made->shard_cells, made->n_shards);
  }
  if (status == AV_OK) {
    status = av_agree(comm, take_rows(made));
  }
  if (status != AV_OK) {
    av_sampler_free(&made);
    return status;
  }
  *sampler = made;
  return AV_OK;
}

/* u_v of every shard: golden-ratio steps from a random start, shuffled block by block. */
static void draw_offsets(av_sampler *sampler, uint32_t epoch) {
  double *offset = sampler->offset;
  uint32_t words[4];
  av_random4(words, sampler->seed, AV_DRAW_SHUFFLE, UINT64_MAX, epoch, 0);
  const double start = ((double)words[0] + 0.5) * 0x1p-32;
  for (int64_t shard = 0; shard < sampler->n_shards; ++shard) {
    const double value = start + (double)shard * GOLDEN_RATIO;
    offset[shard] = value - (double)(int64_t)value;
  }
  for (int64_t shard = 0; shard < sampler->n_shards; ++shard) {
    const int64_t in_block = shard % SHARDS_PER_BLOCK;
    const uint64_t word =
        av_random64(sampler->seed, AV_DRAW_SHUFFLE, UINT64_MAX - 1, epoch, (uint32_t)shard);
    const int64_t other = shard - in_block + (int64_t)(word % (uint64_t)(in_block + 1));
    const double spare = offset[shard];
    offset[shard] = offset[other];
    offset[other] = spare;
  }
}

/* Fisher-Yates over the shard's rows, starting from row order so that epochs are independent. */
static void shuffle_shard(av_sampler *sampler, int64_t v, uint32_t epoch) {
  int64_t *rows = sampler->own_rows + sampler->own_start[v];
  const int64_t n = sampler->own_start[v + 1] - sampler->own_start[v];
  const uint64_t shard = (uint64_t)(sampler->first_shard + v);
  for (int64_t i = n - 1; i > 0; --i) {
    const uint64_t word = av_random64(sampler->seed, AV_DRAW_SHUFFLE, shard, epoch, (uint32_t)i);
    const int64_t j = (int64_t)(word % (uint64_t)(i + 1));
    const int64_t spare = rows[i];
    rows[i] = rows[j];
    rows[j] = spare;
  }
}

void av_sampler_begin(av_sampler *sampler, uint32_t epoch) {
#pragma omp parallel for schedule(static) num_threads(sampler->threads)
  for (int64_t v = 0; v < sampler->n_own; ++v) {
    list_shard(sampler, v, sampler->own_start[v]);
    shuffle_shard(sampler, v, epoch);
  }
  draw_offsets(sampler, epoch);
  av_order_begin(sampler->order, &(av_order_epoch){.shard_cells = sampler->shard_cells,
                                                   .offset = sampler->offset,
                                                   .own_start = sampler->own_start,
                                                   .own_rows = sampler->own_rows});
  sampler->step = 0;
}

bool av_sampler_next(av_sampler *sampler, const int64_t **rows, int64_t *n_rows, int64_t *n_cells) {
  if (sampler->step == sampler->n_steps) {
    return false;
  }
  ++sampler->step;
  *n_cells = av_order_take(sampler->order, sampler->batch_size, sampler->batch_rows, n_rows);
  *rows = sampler->batch_rows;
  return true;
}
