/* Minibatches: every training cell once an epoch, exact sizes, the same cells on any number of
 * ranks, about equal shares of every rank, other company in other epochs. Run on 1, 2, 3 and 5
 * ranks; each also walks the sampler of a single process and compares, and compares with all keys
 * sorted at once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "math/rng.h"
#include "train/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static av_comm comm;
static av_comm self;

/* Which cells train, and how unevenly the slabs are cut. */
typedef struct plan {
  int64_t n_cells, batch_size;
  int64_t train_every; /* 1: all cells; 2: every second; 0: all but a stretch in the middle */
  bool uneven;         /* the first shards weigh ten times as much */
} plan;

static bool trains(const plan *p, int64_t cell) {
  return p->train_every > 0 ? cell % p->train_every == 0
                            : cell < p->n_cells / 3 || cell >= p->n_cells / 2;
}

typedef struct walker {
  av_dataset dataset;
  av_split split;
  av_sampler *sampler;
} walker;

static walker walker_of(const av_comm *over, const plan *p, uint64_t seed) {
  walker w = {.dataset = {.n_cells = p->n_cells}};
  double weight[AV_SHARDS];
  for (int64_t v = 0; v < AV_SHARDS; ++v) {
    weight[v] = p->uneven && v < av_shard_count(p->n_cells) / 4 ? 10.0 : 1.0;
  }
  assert_int_equal(av_partition_create(&w.dataset.partition, p->n_cells, over->size, weight),
                   AV_OK);
  w.dataset.first = av_rank_first(&w.dataset.partition, over->rank);
  w.dataset.n_local = av_rank_first(&w.dataset.partition, over->rank + 1) - w.dataset.first;
  w.split.of = av_calloc((size_t)w.dataset.n_local, 1);
  for (int64_t i = 0; i < w.dataset.n_local; ++i) {
    w.split.of[i] = trains(p, w.dataset.first + i) ? AV_SPLIT_TRAIN : AV_SPLIT_VALIDATION;
  }
  for (int64_t cell = 0; cell < p->n_cells; ++cell) {
    *(trains(p, cell) ? &w.split.n_train : &w.split.n_validation) += 1;
  }
  assert_int_equal(av_sampler_create(&w.sampler, over, &w.dataset, &w.split, p->batch_size, seed,
                                     over == &self ? 1 : 3),
                   AV_OK);
  return w;
}

static void walker_free(walker *w) {
  av_sampler_free(&w->sampler);
  assert_null(w->sampler);
  av_dataset_free(&w->dataset);
  av_split_free(&w->split);
}

/* The epoch's minibatches on one process: step of every cell, -1 if it takes no part. */
static int64_t *steps_of(walker *alone, uint32_t epoch) {
  int64_t *step_of = malloc((size_t)(alone->dataset.n_cells + 1) * sizeof *step_of);
  assert_non_null(step_of);
  for (int64_t i = 0; i < alone->dataset.n_cells; ++i) {
    step_of[i] = -1;
  }
  const int64_t *rows = NULL;
  int64_t n_rows = 0;
  int64_t n_cells = 0;
  av_sampler_begin(alone->sampler, epoch);
  for (int64_t step = 0; av_sampler_next(alone->sampler, &rows, &n_rows, &n_cells); ++step) {
    assert_int_equal(n_rows, n_cells);
    for (int64_t i = 0; i < n_rows; ++i) {
      assert_in_range(rows[i], 0, alone->dataset.n_cells - 1);
      assert_int_equal(step_of[rows[i]], -1);
      step_of[rows[i]] = step;
    }
  }
  return step_of;
}

/* ---- the definition ---- */

/* A training cell's turn in an epoch. */
typedef struct turn {
  double key;
  int64_t shard, cell;
} turn;

static int compare(const void *left, const void *right) {
  const turn *a = left;
  const turn *b = right;
  if (a->key != b->key) {
    return a->key < b->key ? -1 : 1;
  }
  return a->shard < b->shard ? -1 : a->shard > b->shard;
}

/* The offsets of an epoch: a golden-ratio sequence from a random start, shuffled in blocks of 32.
 */
static void define_offsets(double *offset, int64_t n_shards, uint64_t seed, uint32_t epoch) {
  uint32_t words[4];
  av_random4(words, seed, AV_DRAW_SHUFFLE, UINT64_MAX, epoch, 0);
  for (int64_t v = 0; v < n_shards; ++v) {
    const double value =
        ((double)words[0] + 0.5) / 4294967296.0 + (double)v * 0.61803398874989484820;
    offset[v] = value - floor(value);
  }
  for (int64_t v = 0; v < n_shards; ++v) {
    const uint64_t word = av_random64(seed, AV_DRAW_SHUFFLE, UINT64_MAX - 1, epoch, (uint32_t)v);
    const int64_t other = v / 32 * 32 + (int64_t)(word % (uint64_t)(v % 32 + 1));
    const double kept = offset[v];
    offset[v] = offset[other];
    offset[other] = kept;
  }
}

/* The training cells in the order of the epoch: every shard shuffled, then all turns sorted. */
static turn *define_epoch(const plan *p, uint64_t seed, uint32_t epoch, int64_t *n_turns) {
  const av_partition one = {.n_cells = p->n_cells, .n_shards = av_shard_count(p->n_cells)};
  turn *turns = av_calloc((size_t)p->n_cells, sizeof *turns);
  double offset[AV_SHARDS];
  define_offsets(offset, one.n_shards, seed, epoch);
  int64_t n = 0;
  for (int64_t v = 0; v < one.n_shards; ++v) {
    turn *mine = turns + n;
    int64_t count = 0;
    for (int64_t cell = av_shard_first(&one, v); cell < av_shard_first(&one, v + 1); ++cell) {
      if (trains(p, cell)) {
        mine[count++].cell = cell;
      }
    }
    for (int64_t i = count - 1; i > 0; --i) {
      const uint64_t word = av_random64(seed, AV_DRAW_SHUFFLE, (uint64_t)v, epoch, (uint32_t)i);
      const int64_t j = (int64_t)(word % (uint64_t)(i + 1));
      const int64_t kept = mine[i].cell;
      mine[i].cell = mine[j].cell;
      mine[j].cell = kept;
    }
    for (int64_t j = 0; j < count; ++j) {
      mine[j].key = ((double)j + offset[v]) / (double)count;
      mine[j].shard = v;
    }
    n += count;
  }
  qsort(turns, (size_t)n, sizeof *turns, compare);
  *n_turns = n;
  return turns;
}

/* Every minibatch holds the next cells of that order, and this rank's of them in that order. */
static void check_definition(walker *ours, const plan *p, uint64_t seed, uint32_t epoch) {
  int64_t n_turns = 0;
  turn *turns = define_epoch(p, seed, epoch, &n_turns);
  assert_int_equal(n_turns, ours->split.n_train);
  const int64_t *rows = NULL;
  int64_t n_rows = 0;
  int64_t n_cells = 0;
  int64_t at = 0;
  av_sampler_begin(ours->sampler, epoch);
  while (av_sampler_next(ours->sampler, &rows, &n_rows, &n_cells)) {
    int64_t expected = 0;
    assert_true(at + n_cells <= n_turns);
    for (int64_t i = at; i < at + n_cells; ++i) {
      const int64_t row = turns[i].cell - ours->dataset.first;
      if (row >= 0 && row < ours->dataset.n_local) {
        assert_true(expected < n_rows);
        assert_int_equal(rows[expected], row);
        ++expected;
      }
    }
    assert_int_equal(n_rows, expected);
    at += n_cells;
  }
  assert_int_equal(at, av_sampler_cells(ours->sampler));
  assert_true(n_turns - at < 3);
  free(turns);
}

static void test_definition(void **state) {
  (void)state;
  static const int64_t sizes[] = {3, 4, 31, 500, 1023, 1030, 4099, 20000, 50001};
  static const int64_t batch_sizes[] = {3, 7, 128, 5000, 60000, 1 << 30};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; ++i) {
    for (size_t b = 0; b < sizeof batch_sizes / sizeof *batch_sizes; ++b) {
      const plan p = {.n_cells = sizes[i],
                      .batch_size = batch_sizes[b],
                      .train_every = sizes[i] < 31 ? 1 : (int64_t)(i + b) % 4,
                      .uneven = b % 2 == 1};
      walker ours = walker_of(&comm, &p, 21);
      for (uint32_t epoch = 0; epoch < 2; ++epoch) {
        check_definition(&ours, &p, 21, epoch);
      }
      walker_free(&ours);
    }
  }
}

/* ---- one epoch ---- */

/* Walks an epoch on all ranks; checks each minibatch against the one process. */
static void check_epoch(walker *ours, walker *alone, const plan *p, uint32_t epoch) {
  const int64_t n_train = ours->split.n_train;
  const int64_t rest = n_train % p->batch_size;
  const int64_t steps = n_train / p->batch_size + (rest >= 3);
  int64_t *step_of = steps_of(alone, epoch);
  int64_t dealt = 0;
  int64_t step = 0;
  const int64_t *rows = NULL;
  int64_t n_rows = 0;
  int64_t n_cells = 0;
  av_sampler_begin(ours->sampler, epoch);
  while (av_sampler_next(ours->sampler, &rows, &n_rows, &n_cells)) {
    assert_true(step < steps);
    assert_int_equal(n_cells, step + 1 < steps || rest < 3 ? p->batch_size : rest);
    assert_true(n_rows <= av_sampler_max_rows(ours->sampler));
    int64_t over_ranks = n_rows;
    assert_int_equal(av_sum_i64(&comm, &over_ranks, 1), AV_OK);
    assert_int_equal(over_ranks, n_cells);
    for (int64_t i = 0; i < n_rows; ++i) {
      assert_in_range(rows[i], 0, ours->dataset.n_local - 1);
      int64_t *at = &step_of[ours->dataset.first + rows[i]];
      assert_int_equal(*at, step); /* once, and where the one process has it */
      *at = -2;
    }
    dealt += n_rows;
    ++step;
  }
  assert_int_equal(step, steps);
  assert_int_equal(av_sampler_steps(ours->sampler), steps);
  assert_int_equal(av_sum_i64(&comm, &dealt, 1), AV_OK);
  assert_int_equal(dealt, rest == 1 || rest == 2 ? n_train - rest : n_train);
  assert_int_equal(av_sampler_cells(ours->sampler), dealt);
  for (int64_t i = 0; i < ours->dataset.n_local; ++i) {
    /* nothing of this rank's slab is left that one process would have used, and only training cells
     * were */
    assert_true(step_of[ours->dataset.first + i] < 0);
    if (step_of[ours->dataset.first + i] == -2) {
      assert_true(trains(p, ours->dataset.first + i));
    }
  }
  free(step_of);
}

static void test_epochs(void **state) {
  (void)state;
  static const plan plans[] = {
      {.n_cells = 3, .batch_size = 128, .train_every = 1}, /* more ranks than cells */
      {.n_cells = 4, .batch_size = 3, .train_every = 1},   /* one cell left out */
      {.n_cells = 100, .batch_size = 10, .train_every = 1},
      {.n_cells = 101, .batch_size = 33, .train_every = 1}, /* two left out */
      {.n_cells = 103, .batch_size = 25, .train_every = 1}, /* three make a minibatch */
      {.n_cells = 50, .batch_size = 7, .train_every = 2},
      {.n_cells = 1024, .batch_size = 100, .train_every = 0, .uneven = true},
      {.n_cells = 1025, .batch_size = 128, .train_every = 1, .uneven = true},
      {.n_cells = 5003, .batch_size = 128, .train_every = 0},
      {.n_cells = 20000, .batch_size = 999, .train_every = 3, .uneven = true}};
  for (size_t i = 0; i < sizeof plans / sizeof *plans; ++i) {
    walker ours = walker_of(&comm, &plans[i], 11);
    walker alone = walker_of(&self, &plans[i], 11);
    for (uint32_t epoch = 0; epoch < 3; ++epoch) {
      check_epoch(&ours, &alone, &plans[i], epoch);
    }
    check_epoch(&ours, &alone, &plans[i], 0); /* back to an earlier one: nothing is remembered */
    walker_free(&ours);
    walker_free(&alone);
  }
}

/* An epoch that was broken off leaves nothing behind. */
static void test_broken_off(void **state) {
  (void)state;
  const plan p = {.n_cells = 300, .batch_size = 30, .train_every = 1};
  walker ours = walker_of(&comm, &p, 2);
  walker alone = walker_of(&self, &p, 2);
  const int64_t *rows = NULL;
  int64_t n_rows = 0;
  int64_t n_cells = 0;
  av_sampler_begin(ours.sampler, 8);
  assert_true(av_sampler_next(ours.sampler, &rows, &n_rows, &n_cells));
  check_epoch(&ours, &alone, &p, 9);
  walker_free(&ours);
  walker_free(&alone);
}

/* ---- shares of the ranks ---- */

/* Largest difference, over minibatches and ranks, between a rank's rows and its part of the
 * training cells times the minibatch, relative to the root of the minibatch. */
static double worst_share(const plan *p) {
  walker ours = walker_of(&comm, p, 5);
  int64_t mine = 0;
  for (int64_t i = 0; i < ours.dataset.n_local; ++i) {
    mine += ours.split.of[i] == AV_SPLIT_TRAIN;
  }
  const double part = (double)mine / (double)ours.split.n_train;
  double worst = 0.0;
  for (uint32_t epoch = 0; epoch < 3; ++epoch) {
    const int64_t *rows = NULL;
    int64_t n_rows = 0;
    int64_t n_cells = 0;
    av_sampler_begin(ours.sampler, epoch);
    while (av_sampler_next(ours.sampler, &rows, &n_rows, &n_cells)) {
      const double off = fabs((double)n_rows - part * (double)n_cells);
      worst = fmax(worst, off / sqrt((double)n_cells));
    }
  }
  assert_int_equal(av_max_f64(&comm, &worst, 1), AV_OK);
  walker_free(&ours);
  return worst;
}

/* Drawn at random, a share of half would be off by 0.5 root(minibatch) on average, and by about 2
 * at worst of so many minibatches. Equal stretches of the data do better: bound 1.2. */
static void test_shares(void **state) {
  (void)state;
  static const plan plans[] = {
      {.n_cells = 10000, .batch_size = 128, .train_every = 1},
      {.n_cells = 30011, .batch_size = 512, .train_every = 1},
      {.n_cells = 30011, .batch_size = 512, .train_every = 1, .uneven = true},
      {.n_cells = 60000, .batch_size = 4096, .train_every = 1}};
  for (size_t i = 0; i < sizeof plans / sizeof *plans; ++i) {
    const double worst = worst_share(&plans[i]);
    if (!(worst <= 1.2)) {
      fail_msg("plan %zu: a rank's share is off by %.2f root(minibatch)", i, worst);
    }
  }
}

/* ---- chance ---- */

/* How often two cells that share a minibatch in epoch a share one in epoch b, over what chance
 * would give. */
static double company_kept(walker *alone, uint32_t a, uint32_t b) {
  int64_t *first = steps_of(alone, a);
  int64_t *second = steps_of(alone, b);
  const int64_t n = alone->dataset.n_cells;
  int64_t together = 0;
  int64_t again = 0;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = i + 1; j < n; ++j) {
      if (first[i] == first[j] && first[i] >= 0) {
        ++together;
        again += second[i] == second[j];
      }
    }
  }
  int64_t pairs = 0; /* that any epoch puts together, of all pairs: chance */
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = i + 1; j < n; ++j) {
      pairs += second[i] == second[j] && second[i] >= 0;
    }
  }
  const double chance = (double)pairs / (0.5 * (double)n * (double)(n - 1));
  free(first);
  free(second);
  return (double)again / (double)together / chance;
}

/* Epochs differ as random ones do: on small data, where a shard is a cell, as on larger. */
static void test_epochs_differ(void **state) {
  (void)state;
  static const plan plans[] = {{.n_cells = 200, .batch_size = 20, .train_every = 1},
                               {.n_cells = 1000, .batch_size = 50, .train_every = 1},
                               {.n_cells = 2500, .batch_size = 128, .train_every = 1},
                               {.n_cells = 6000, .batch_size = 128, .train_every = 1}};
  for (size_t i = 0; i < sizeof plans / sizeof *plans; ++i) {
    walker alone = walker_of(&self, &plans[i], 3);
    for (uint32_t epoch = 1; epoch < 4; ++epoch) {
      const double kept = company_kept(&alone, 0, epoch);
      if (!(kept < 1.5)) {
        fail_msg(
            "%lld cells: minibatches of epoch 0 meet again in epoch %u %.1f times as often as by "
            "chance",
            (long long)plans[i].n_cells, epoch, kept);
      }
    }
    walker_free(&alone);
  }
}

/* The same minibatch everywhere for the same seed and epoch; another for another seed. */
static void test_seeds(void **state) {
  (void)state;
  const plan p = {.n_cells = 1500, .batch_size = 100, .train_every = 1};
  walker one = walker_of(&self, &p, 1);
  walker same = walker_of(&self, &p, 1);
  walker other = walker_of(&self, &p, 2);
  int64_t *a = steps_of(&one, 4);
  int64_t *b = steps_of(&same, 4);
  int64_t *c = steps_of(&other, 4);
  const size_t bytes = (size_t)p.n_cells * sizeof *a;
  assert_memory_equal(a, b, bytes);
  int64_t equal = 0;
  for (int64_t i = 0; i < p.n_cells; ++i) {
    equal += a[i] == c[i];
  }
  assert_in_range(equal, 30, 200); /* 100 expected of 15 minibatches */
  free(a);
  free(b);
  free(c);
  walker_free(&one);
  walker_free(&same);
  walker_free(&other);
}

/* Over many epochs everybody is left out at times: 2 of 32 cells an epoch. */
static void test_left_out(void **state) {
  (void)state;
  const plan p = {.n_cells = 32, .batch_size = 10, .train_every = 1};
  walker alone = walker_of(&self, &p, 7);
  int64_t missed[32] = {0};
  for (uint32_t epoch = 0; epoch < 800; ++epoch) {
    int64_t *step_of = steps_of(&alone, epoch);
    for (int i = 0; i < 32; ++i) {
      missed[i] += step_of[i] < 0;
    }
    free(step_of);
  }
  for (int i = 0; i < 32; ++i) {
    assert_in_range(missed[i], 15, 85); /* 50 expected, deviation 7 */
  }
  walker_free(&alone);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_definition),    cmocka_unit_test(test_epochs),
      cmocka_unit_test(test_broken_off),    cmocka_unit_test(test_shares),
      cmocka_unit_test(test_epochs_differ), cmocka_unit_test(test_seeds),
      cmocka_unit_test(test_left_out),
  };
  if (av_comm_create(&comm, &argc, &argv) != AV_OK) {
    return 1;
  }
  av_comm_self(&self);
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  av_comm_free(&comm);
  return failed;
}
