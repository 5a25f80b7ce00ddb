#include "train/sampler.h"

#include "base/memory.h"
#include "math/rng.h"
#include "train/schedule.h"

#include <stdlib.h>

#define GOLDEN_RATIO 0.61803398874989484820

/* Neighbouring shards whose offsets are shuffled among them in every epoch: few, so that every
 * stretch of the data keeps evenly spread offsets; enough that minibatches are others in every
 * epoch even when a shard is one cell. */
enum { SHARDS_PER_BLOCK = 32 };

/* A shard's place in the order: the key of its next cell. */
typedef struct turn {
  double key;
  int64_t shard;
} turn;

struct av_sampler {
  uint64_t seed;
  int64_t batch_size;
  int64_t n_cells; /* training cells over all ranks */
  int64_t n_steps;
  int64_t n_shards;
  int64_t *shard_cells; /* (n_shards) training cells of each */
  int64_t first_shard;  /* this rank's shards: [first_shard, first_shard + n_own) */
  int64_t n_own;
  int64_t *own_start; /* (n_own + 1) into own_rows */
  int64_t *own_rows;  /* local rows of the training cells, shard after shard */
  int64_t n_own_rows;
  /* the epoch under way */
  double *offset; /* (n_shards) u_v */
  int64_t *taken; /* (n_shards) cells already dealt out */
  turn *heap;     /* (n_shards) smallest key first */
  int64_t heap_size;
  int64_t step;
  int64_t *batch_rows; /* (max rows) */
};

void av_sampler_free(av_sampler **sampler) {
  if (*sampler == NULL) {
    return;
  }
  free((*sampler)->shard_cells);
  free((*sampler)->own_start);
  free((*sampler)->own_rows);
  free((*sampler)->offset);
  free((*sampler)->taken);
  free((*sampler)->heap);
  free((*sampler)->batch_rows);
  free(*sampler);
  *sampler = NULL;
}

int64_t av_sampler_max_rows(const av_sampler *sampler) {
  return sampler->n_own_rows < sampler->batch_size ? sampler->n_own_rows : sampler->batch_size;
}

int64_t av_sampler_steps(const av_sampler *sampler) { return sampler->n_steps; }

int64_t av_sampler_cells(const av_sampler *sampler) {
  const int64_t all = sampler->n_steps * sampler->batch_size;
  return all < sampler->n_cells ? all : sampler->n_cells;
}

static av_status allocate(av_sampler *sampler, const av_dataset *dataset) {
  const size_t shards = (size_t)sampler->n_shards;
  sampler->shard_cells = av_calloc(shards, sizeof *sampler->shard_cells);
  sampler->offset = av_calloc(shards, sizeof *sampler->offset);
  sampler->taken = av_calloc(shards, sizeof *sampler->taken);
  sampler->heap = av_calloc(shards, sizeof *sampler->heap);
  sampler->own_start = av_calloc((size_t)sampler->n_own + 1, sizeof *sampler->own_start);
  sampler->own_rows = av_calloc((size_t)dataset->n_local, sizeof *sampler->own_rows);
  if (sampler->shard_cells == NULL || sampler->offset == NULL || sampler->taken == NULL ||
      sampler->heap == NULL || sampler->own_start == NULL || sampler->own_rows == NULL) {
    return av_fail(AV_NOMEM, "out of memory (order of %lld cells)", (long long)dataset->n_local);
  }
  return AV_OK;
}

/* Lists this rank's training rows by shard and counts them. */
static void list_rows(av_sampler *sampler, const av_dataset *dataset, const av_split *split) {
  for (int64_t v = 0; v < sampler->n_own; ++v) {
    const int64_t shard = sampler->first_shard + v;
    const int64_t begin = av_shard_first(&dataset->partition, shard) - dataset->first;
    const int64_t end = av_shard_first(&dataset->partition, shard + 1) - dataset->first;
    sampler->own_start[v] = sampler->n_own_rows;
    for (int64_t row = begin; row < end; ++row) {
      if (split->of[row] == AV_SPLIT_TRAIN) {
        sampler->own_rows[sampler->n_own_rows++] = row;
      }
    }
    sampler->shard_cells[shard] = sampler->n_own_rows - sampler->own_start[v];
  }
  sampler->own_start[sampler->n_own] = sampler->n_own_rows;
}

av_status av_sampler_create(av_sampler **sampler, const av_comm *comm, const av_dataset *dataset,
                            const av_split *split, int64_t batch_size, uint64_t seed) {
  av_sampler *made = av_calloc(1, sizeof *made);
  av_status status = made == NULL ? av_fail(AV_NOMEM, "out of memory (sampler)") : AV_OK;
  if (status == AV_OK) {
    const av_partition *partition = &dataset->partition;
    made->seed = seed;
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
    made->batch_rows = av_calloc((size_t)av_sampler_max_rows(made), sizeof *made->batch_rows);
    if (made->batch_rows == NULL) {
      status = av_fail(AV_NOMEM, "out of memory (minibatch)");
    }
  }
  status = av_agree(comm, status);
  if (status == AV_OK) {
    status = av_sum_i64(comm, made->shard_cells, made->n_shards);
  }
  if (status != AV_OK) {
    av_sampler_free(&made);
    return status;
  }
  *sampler = made;
  return AV_OK;
}

static bool before(const turn *a, const turn *b) {
  return a->key < b->key || (a->key == b->key && a->shard < b->shard);
}

/* Moves the turn at `at` down to its place. */
static void sift_down(av_sampler *sampler, int64_t at) {
  turn *heap = sampler->heap;
  const turn moving = heap[at];
  for (int64_t child = 2 * at + 1; child < sampler->heap_size; child = 2 * at + 1) {
    if (child + 1 < sampler->heap_size && before(&heap[child + 1], &heap[child])) {
      ++child;
    }
    if (!before(&heap[child], &moving)) {
      break;
    }
    heap[at] = heap[child];
    at = child;
  }
  heap[at] = moving;
}

static double key_of(const av_sampler *sampler, int64_t shard) {
  return ((double)sampler->taken[shard] + sampler->offset[shard]) /
         (double)sampler->shard_cells[shard];
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

static int compare_rows(const void *a, const void *b) {
  const int64_t x = *(const int64_t *)a;
  const int64_t y = *(const int64_t *)b;
  return (x > y) - (x < y);
}

void av_sampler_begin(av_sampler *sampler, uint32_t epoch) {
  for (int64_t v = 0; v < sampler->n_own; ++v) {
    const int64_t begin = sampler->own_start[v];
    qsort(sampler->own_rows + begin, (size_t)(sampler->own_start[v + 1] - begin), sizeof(int64_t),
          compare_rows);
    shuffle_shard(sampler, v, epoch);
  }
  draw_offsets(sampler, epoch);
  sampler->step = 0;
  sampler->heap_size = 0;
  for (int64_t shard = 0; shard < sampler->n_shards; ++shard) {
    sampler->taken[shard] = 0;
    if (sampler->shard_cells[shard] > 0) {
      sampler->heap[sampler->heap_size++] = (turn){.key = key_of(sampler, shard), .shard = shard};
    }
  }
  for (int64_t at = sampler->heap_size / 2 - 1; at >= 0; --at) {
    sift_down(sampler, at);
  }
}

bool av_sampler_next(av_sampler *sampler, const int64_t **rows, int64_t *n_rows, int64_t *n_cells) {
  if (sampler->step == sampler->n_steps) {
    return false;
  }
  ++sampler->step;
  *n_rows = 0;
  *n_cells = 0;
  *rows = sampler->batch_rows;
  while (*n_cells < sampler->batch_size && sampler->heap_size > 0) {
    turn *next = &sampler->heap[0];
    const int64_t shard = next->shard;
    const int64_t v = shard - sampler->first_shard;
    if (v >= 0 && v < sampler->n_own) {
      sampler->batch_rows[(*n_rows)++] =
          sampler->own_rows[sampler->own_start[v] + sampler->taken[shard]];
    }
    ++*n_cells;
    ++sampler->taken[shard];
    if (sampler->taken[shard] < sampler->shard_cells[shard]) {
      next->key = key_of(sampler, shard);
    } else {
      sampler->heap[0] = sampler->heap[--sampler->heap_size];
    }
    sift_down(sampler, 0);
  }
  return true;
}
