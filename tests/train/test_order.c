/* The order of the cells in an epoch against the definition: all (key, shard, cell) of the epoch
 * sorted by qsort. Many shapes of shards, offsets with and without ties, ranks with and without
 * shards, minibatches smaller and larger than a window of the key axis. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "math/rng.h"
#include "train/order.h"

#include <stdbool.h>
#include <stdlib.h>

enum { MAX_RANKS = 5 };

/* ---- the definition ---- */

typedef struct cell {
  double key;
  int64_t shard;
  int64_t index; /* among all cells, shard after shard */
} cell;

static int compare(const void *left, const void *right) {
  const cell *a = left;
  const cell *b = right;
  if (a->key != b->key) {
    return a->key < b->key ? -1 : 1;
  }
  return a->index < b->index ? -1 : a->index > b->index; /* by shard */
}

typedef struct epoch {
  int64_t n_shards, n_cells;
  int64_t *shard_cells;
  int64_t *start; /* (n_shards + 1) cells of the shards before */
  double *offset;
  cell *sorted;    /* (n_cells) */
  int64_t *labels; /* (n_cells) what the cells are called */
} epoch;

static void epoch_free(epoch *e) {
  free(e->shard_cells);
  free(e->start);
  free(e->offset);
  free(e->sorted);
  free(e->labels);
}

static void sort_epoch(epoch *e) {
  e->start = av_calloc((size_t)e->n_shards + 1, sizeof *e->start);
  for (int64_t v = 0; v < e->n_shards; ++v) {
    e->start[v + 1] = e->start[v] + e->shard_cells[v];
  }
  e->n_cells = e->start[e->n_shards];
  e->sorted = av_calloc((size_t)e->n_cells, sizeof *e->sorted);
  e->labels = av_calloc((size_t)e->n_cells, sizeof *e->labels);
  for (int64_t v = 0; v < e->n_shards; ++v) {
    for (int64_t j = 0; j < e->shard_cells[v]; ++j) {
      const int64_t i = e->start[v] + j;
      e->sorted[i] = (cell){
          .key = ((double)j + e->offset[v]) / (double)e->shard_cells[v], .shard = v, .index = i};
      e->labels[i] = (i * 7 + 3) % 1000003; /* 1000003 is prime: all differ */
    }
  }
  qsort(e->sorted, (size_t)e->n_cells, sizeof *e->sorted, compare);
}

/* Most cells of own shards in any n that follow one another. */
static int64_t most_own(const epoch *e, int64_t first_own, int64_t end_own, int64_t n) {
  int64_t now = 0;
  int64_t most = 0;
  for (int64_t i = 0; i < e->n_cells; ++i) {
    const int64_t in = e->sorted[i].shard;
    now += in >= first_own && in < end_own;
    if (i >= n) {
      const int64_t out = e->sorted[i - n].shard;
      now -= out >= first_own && out < end_own;
    }
    most = now > most ? now : most;
  }
  return most;
}

/* ---- a rank's walk ---- */

static void check_rank(const epoch *e, int64_t first_own, int64_t end_own, int64_t batch_size) {
  av_order *order = NULL;
  const int64_t n_own = end_own - first_own;
  assert_int_equal(av_order_create(&order, e->n_cells, e->n_shards, first_own, n_own), AV_OK);
  int64_t *own_start = av_calloc((size_t)n_own, sizeof *own_start);
  for (int64_t v = 0; v < n_own; ++v) {
    own_start[v] = e->start[first_own + v] - e->start[first_own];
  }
  const av_order_epoch now = {.shard_cells = e->shard_cells,
                              .offset = e->offset,
                              .own_start = own_start,
                              .own_rows = e->labels + e->start[first_own]};
  const int64_t own_cells = e->start[end_own] - e->start[first_own];
  const int64_t most = av_order_most_own(order, e->shard_cells, batch_size);
  assert_true(most >= most_own(e, first_own, end_own, batch_size));
  assert_true(most <= own_cells && most <= batch_size);
  int64_t *rows = malloc((size_t)(most + 1) * sizeof *rows); /* no more: a sanitizer would tell */
  assert_non_null(rows);
  for (int round = 0; round < 2; ++round) { /* the second after one that was broken off */
    const int64_t stop = round == 0 ? e->n_cells / 3 : e->n_cells;
    av_order_begin(order, &now);
    int64_t at = 0;
    while (at < stop) {
      int64_t n_rows = -1;
      const int64_t left = e->n_cells - at;
      const int64_t n = av_order_take(order, batch_size, rows, &n_rows);
      assert_int_equal(n, left < batch_size ? left : batch_size);
      int64_t expected = 0;
      for (int64_t i = at; i < at + n; ++i) {
        const cell *c = &e->sorted[i];
        if (c->shard >= first_own && c->shard < end_own) {
          assert_true(expected < n_rows);
          assert_int_equal(rows[expected], e->labels[c->index]);
          ++expected;
        }
      }
      assert_int_equal(n_rows, expected);
      at += n;
    }
    if (round == 1) {
      int64_t n_rows = -1;
      assert_int_equal(av_order_take(order, batch_size, rows, &n_rows), 0);
      assert_int_equal(n_rows, 0);
    }
  }
  free(rows);
  free(own_start);
  av_order_free(&order);
  assert_null(order);
}

static uint64_t number(uint64_t which, uint32_t index) {
  return av_random64(4, AV_DRAW_TEST, which, 0, index);
}

/* Cuts the shards at random among 1 to 5 ranks: some have none. */
static void check_ranks(const epoch *e, int64_t batch_size) {
  for (int n_ranks = 1; n_ranks <= MAX_RANKS; ++n_ranks) {
    int64_t first = 0;
    for (int r = 0; r < n_ranks; ++r) {
      const uint64_t word = number(77, (uint32_t)(n_ranks * MAX_RANKS + r));
      const int64_t left = e->n_shards - first;
      const int64_t share = (int64_t)(word % (uint64_t)(2 * e->n_shards / n_ranks + 1));
      const int64_t end = r == n_ranks - 1 || share > left ? e->n_shards : first + share;
      check_rank(e, first, end, batch_size);
      first = end;
    }
  }
}

/* ---- shapes ---- */

typedef int64_t size_rule(int64_t shard, int64_t mean);

static int64_t equal(int64_t shard, int64_t mean) {
  (void)shard;
  return mean;
}
static int64_t about(int64_t shard, int64_t mean) { return mean + shard % 2; }
static int64_t wild(int64_t shard, int64_t mean) {
  return (int64_t)(number(1, (uint32_t)shard) % (uint64_t)(2 * mean + 1));
}
static int64_t gaps(int64_t shard, int64_t mean) { return shard % 5 < 2 ? 0 : mean; }
static int64_t singles(int64_t shard, int64_t mean) { return shard % 3 == 0 ? mean : 1; }
static int64_t one_giant(int64_t shard, int64_t mean) { return shard == 1 ? 30000 : mean / 9; }

typedef double offset_rule(int64_t shard);

static double golden(int64_t shard) {
  const double value = 0.3 + (double)shard * 0.61803398874989484820;
  return value - (double)(int64_t)value;
}
static double drawn(int64_t shard) { return av_uniform(number(2, (uint32_t)shard)); }
static double ties(int64_t shard) { return 0.25 * (double)(shard % 2); }
static double zero(int64_t shard) {
  (void)shard;
  return 0.0;
}
/* Keys round up to 1, where there is no window any more. */
static double nearly_one(int64_t shard) {
  (void)shard;
  return 1.0 - 0x1p-53;
}

static double two_groups(int64_t shard) { return shard < 128 ? 0.25 : 0.75; }

static epoch epoch_of(int64_t n_shards, int64_t mean, size_rule *size, offset_rule *offset) {
  epoch e = {.n_shards = n_shards};
  e.shard_cells = av_calloc((size_t)n_shards, sizeof *e.shard_cells);
  e.offset = av_calloc((size_t)n_shards, sizeof *e.offset);
  for (int64_t v = 0; v < n_shards; ++v) {
    e.shard_cells[v] = size(v, mean);
    e.offset[v] = offset(v);
  }
  sort_epoch(&e);
  return e;
}

static void test_shapes(void **state) {
  (void)state;
  static const struct {
    int64_t n_shards, mean, batch_size;
  } shapes[] = {{3, 1, 3},       {2, 1, 128},       {40, 3, 7},         {500, 1, 128},
                {1024, 1, 3},    {1024, 19, 128},   {1024, 37, 5000},   {1024, 20, 16384},
                {1, 40000, 128}, {17, 2300, 20000}, {1500, 20, 1 << 30}};
  static size_rule *const sizes[] = {equal, about, wild, gaps, singles, one_giant};
  static offset_rule *const offsets[] = {golden, drawn, ties, zero, nearly_one};
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; ++i) {
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; ++s) {
      /* each offset rule meets each shape and each size rule */
      offset_rule *offset = offsets[(i + s) % (sizeof offsets / sizeof *offsets)];
      epoch e = epoch_of(shapes[i].n_shards, shapes[i].mean, sizes[s], offset);
      check_ranks(&e, shapes[i].batch_size);
      epoch_free(&e);
    }
  }
}

/* Every key belongs to all shards: their order decides. */
static void test_ties(void **state) {
  (void)state;
  epoch e = epoch_of(200, 100, equal, zero);
  for (int64_t i = 0; i < e.n_cells; ++i) { /* the definition says so itself */
    assert_int_equal(e.sorted[i].shard, i % 200);
  }
  check_ranks(&e, 128);
  check_ranks(&e, 19000);
  epoch_free(&e);
}

/* Keys on the ends of the window and of the axis; windows fuller than the average by a cell of
 * every shard. A sanitizer would tell of a place that is missing. */
static void test_edges(void **state) {
  (void)state;
  epoch full = epoch_of(1024, 32, equal, nearly_one); /* two windows: 15 and 17 of each shard */
  check_ranks(&full, 128);
  epoch_free(&full);
  epoch few = epoch_of(5, 3, equal, nearly_one);
  assert_true(few.sorted[14].key == 1.0);
  check_ranks(&few, 7);
  epoch_free(&few);
}

static void test_no_cells(void **state) {
  (void)state;
  epoch e = epoch_of(4, 0, equal, golden);
  assert_int_equal(e.n_cells, 0);
  check_ranks(&e, 128);
  epoch_free(&e);
}

/* A job of very many cells, of which this rank has a shard: memory for a window and for these. */
static void test_many_cells(void **state) {
  (void)state;
  enum { SHARDS = 1024, EACH = 40000, OWN = 700, BATCH = 131072 };
  const int64_t n_cells = (int64_t)SHARDS * EACH;
  int64_t shard_cells[SHARDS];
  double offset[SHARDS];
  for (int64_t v = 0; v < SHARDS; ++v) {
    shard_cells[v] = EACH;
    offset[v] = golden(v);
  }
  int64_t *own_rows = av_calloc(EACH, sizeof *own_rows);
  int64_t *rows = av_calloc(EACH + 1, sizeof *rows);
  for (int64_t j = 0; j < EACH; ++j) {
    own_rows[j] = j;
  }
  const int64_t start = 0;
  av_order *order = NULL;
  assert_int_equal(av_order_create(&order, n_cells, SHARDS, OWN, 1), AV_OK);
  av_order_begin(
      order,
      &(av_order_epoch){
          .shard_cells = shard_cells, .offset = offset, .own_start = &start, .own_rows = own_rows});
  int64_t before = 0; /* shards whose cell j comes before ours */
  for (int64_t v = 0; v < SHARDS; ++v) {
    before += offset[v] < offset[OWN];
  }
  int64_t seen = 0;
  int64_t taken = 0;
  while (taken < n_cells) {
    int64_t n_rows = 0;
    taken += av_order_take(order, BATCH, rows, &n_rows);
    for (int64_t i = 0; i < n_rows; ++i) {
      assert_int_equal(rows[i], seen + i);
    }
    seen += n_rows;
    /* cell j of the shard is number j * SHARDS + before */
    assert_int_equal(seen, (taken - before - 1) / SHARDS + 1);
  }
  assert_int_equal(taken, n_cells);
  assert_int_equal(seen, EACH);
  free(own_rows);
  free(rows);
  av_order_free(&order);
}

static int64_t bound_of(const int64_t *shard_cells, int64_t n_shards, int64_t first_own,
                        int64_t n_own, int64_t n) {
  av_order *order = NULL;
  assert_int_equal(av_order_create(&order, 1, n_shards, first_own, n_own), AV_OK);
  const int64_t bound = av_order_most_own(order, shard_cells, n);
  av_order_free(&order);
  return bound;
}

/* Little more than a rank's part of large minibatches: by a cell of each of its shards. One offset
 * for the own shards and one for the others do that. */
static void test_bound(void **state) {
  (void)state;
  enum { SHARDS = 1024, EACH = 977 };
  int64_t shard_cells[SHARDS];
  for (int64_t v = 0; v < SHARDS; ++v) {
    shard_cells[v] = EACH;
  }
  assert_in_range(bound_of(shard_cells, SHARDS, 128, 128, 4096), 512, 640);
  assert_in_range(bound_of(shard_cells, SHARDS, 0, 512, 4096), 2048, 2560);
  assert_in_range(bound_of(shard_cells, SHARDS, 896, 128, 16384), 2048, 2176);
  assert_in_range(bound_of(shard_cells, SHARDS, 0, 512, 16384), 8192, 8704);
  assert_int_equal(bound_of(shard_cells, SHARDS, 0, SHARDS, 4096), 4096);
  assert_int_equal(bound_of(shard_cells, SHARDS, 5, 0, 4096), 0);
  assert_int_equal(bound_of(shard_cells, SHARDS, 5, 1, 1 << 30), EACH);

  enum { OWN = 128, OTHERS = SHARDS - OWN, TURNS = 3 };
  epoch e = epoch_of(SHARDS, 50, equal, two_groups);
  const int64_t n = TURNS * OTHERS + (TURNS + 1) * OWN; /* own ones first and last */
  assert_int_equal(most_own(&e, 0, OWN, n), (TURNS + 1) * OWN);
  assert_int_equal(bound_of(e.shard_cells, SHARDS, 0, OWN, n), (TURNS + 1) * OWN);
  epoch_free(&e);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_shapes),     cmocka_unit_test(test_ties),
      cmocka_unit_test(test_edges),      cmocka_unit_test(test_no_cells),
      cmocka_unit_test(test_many_cells), cmocka_unit_test(test_bound),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
