/* Shards and slabs: every small case, with equal and with random weights. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "data/partition.h"

#include <stdlib.h>

/* What must hold for any split; returns the heaviest rank. */
static double check(int64_t n_cells, int n_ranks, const double *weight) {
  av_partition p = {0};
  assert_int_equal(av_partition_create(&p, n_cells, n_ranks, weight), AV_OK);
  assert_int_equal(p.n_shards, n_cells < AV_SHARDS ? n_cells : AV_SHARDS);
  assert_int_equal(av_shard_first(&p, 0), 0);
  assert_int_equal(av_shard_first(&p, p.n_shards), n_cells);
  double total = 0;
  double largest = 0;
  for (int64_t v = 0; v < p.n_shards; ++v) {
    const int64_t n = av_shard_first(&p, v + 1) - av_shard_first(&p, v);
    assert_true(n >= 1 && n >= n_cells / p.n_shards && n <= n_cells / p.n_shards + 1);
    const double w = weight != NULL ? weight[v] : (double)n;
    total += w;
    largest = w > largest ? w : largest;
  }
  assert_int_equal(av_rank_first(&p, 0), 0);
  assert_int_equal(av_rank_first(&p, n_ranks), n_cells);
  double heaviest = 0;
  for (int r = 0; r < n_ranks; ++r) {
    assert_true(p.first_shard[r] <= p.first_shard[r + 1]);
    assert_int_equal(av_rank_first(&p, r), av_shard_first(&p, p.first_shard[r]));
    double load = 0;
    for (int64_t v = p.first_shard[r]; v < p.first_shard[r + 1]; ++v) {
      load +=
          weight != NULL ? weight[v] : (double)(av_shard_first(&p, v + 1) - av_shard_first(&p, v));
    }
    heaviest = load > heaviest ? load : heaviest;
  }
  /* Each boundary is at most half a shard from its ideal place. */
  assert_true(heaviest <= total / n_ranks + largest * (1 + 1e-12));
  av_partition_free(&p);
  return heaviest;
}

static void every_small_case(void **state) {
  (void)state;
  for (int64_t n_cells = 0; n_cells <= 40; ++n_cells) {
    for (int n_ranks = 1; n_ranks <= 45; ++n_ranks) {
      check(n_cells, n_ranks, NULL);
      uint64_t seed = (uint64_t)(n_cells * 64 + n_ranks);
      double weight[40];
      for (int64_t v = 0; v < n_cells; ++v) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        weight[v] = (double)(seed >> 60) + 1;
      }
      check(n_cells, n_ranks, weight);
    }
  }
}

static void many_cells(void **state) {
  (void)state;
  const int64_t sizes[] = {1023,
                           1024,
                           1025,
                           2047,
                           1000003,
                           INT64_C(100000000),
                           INT64_C(1) << 40,
                           (INT64_C(1) << 55) + 12345};
  const int ranks[] = {1, 2, 3, 7, 64, 1000, 1024, 1500};
  for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; ++i) {
    for (size_t j = 0; j < sizeof ranks / sizeof ranks[0]; ++j) {
      check(sizes[i], ranks[j], NULL);
    }
  }
}

/* Known answers: equal shards fall evenly; a heavy first shard gets a rank to itself. */
static void known_answers(void **state) {
  (void)state;
  av_partition p = {0};
  assert_int_equal(av_partition_create(&p, 6, 3, NULL), AV_OK);
  assert_int_equal(p.first_shard[1], 2);
  assert_int_equal(p.first_shard[2], 4);
  av_partition_free(&p);

  const double weight[6] = {10, 1, 1, 1, 1, 1};
  assert_int_equal(av_partition_create(&p, 6, 2, weight), AV_OK);
  assert_int_equal(p.first_shard[1], 1);
  av_partition_free(&p);

  const double none[4] = {0, 0, 0, 0}; /* no weights to go by: cells */
  assert_int_equal(av_partition_create(&p, 4, 2, none), AV_OK);
  assert_int_equal(p.first_shard[1], 2);
  av_partition_free(&p);

  assert_int_equal(av_partition_create(&p, 2, 5, NULL), AV_OK); /* more ranks than cells */
  int n_owners = 0;
  for (int r = 0; r < 5; ++r) {
    n_owners += p.first_shard[r + 1] > p.first_shard[r];
  }
  assert_int_equal(n_owners, 2);
  av_partition_free(&p);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_small_case),
      cmocka_unit_test(many_cells),
      cmocka_unit_test(known_answers),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
