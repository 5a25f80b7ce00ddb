/* Compact counts against a dense matrix of doubles filled beside them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "data/counts.h"

#include <stdlib.h>
#include <string.h>

/* A small linear congruential generator: the test is the same everywhere. */
static uint64_t draw(uint64_t *state) {
  *state = *state * 6364136223846793005u + 1442695040888963407u;
  return *state >> 33;
}

typedef struct truth {
  int64_t n_rows, n_genes;
  double *dense; /* (n_rows, n_genes) */
} truth;

static av_counts_builder *new_builder(int64_t n_genes, bool fractions) {
  av_counts_builder *builder = NULL;
  assert_int_equal(av_builder_create(&builder, n_genes, 0, 0, fractions), AV_OK);
  return builder;
}

/* Sum of one row, taken alone. */
static double row_sum(const av_counts *counts, int64_t row) {
  double sum = -1;
  av_counts_sum_rows(counts, row, 1, &sum);
  return sum;
}

/* Compares every accessor of `counts` with the dense truth. */
static void check(const av_counts *counts, const truth *expected) {
  assert_int_equal(counts->n_rows, expected->n_rows);
  assert_int_equal(counts->n_genes, expected->n_genes);
  int64_t longest = 0;
  int64_t n_nonzero = 0;
  const int64_t room = av_counts_longest_row(counts);
  int32_t *gene = av_malloc((size_t)room, sizeof *gene);
  float *value = av_malloc((size_t)room, sizeof *value);
  double *sums = av_malloc((size_t)expected->n_rows, sizeof *sums);
  av_counts_sum_rows(counts, 0, expected->n_rows, sums);
  for (int64_t row = 0; row < expected->n_rows; ++row) {
    const double *dense = expected->dense + row * expected->n_genes;
    const int64_t n = av_counts_row(counts, row, gene, value);
    int64_t at = 0;
    double sum = 0;
    for (int64_t g = 0; g < expected->n_genes; ++g) {
      sum += dense[g];
      if (dense[g] != 0) {
        assert_true(at < n);
        assert_int_equal(gene[at], g);
        assert_true(value[at] == (float)dense[g]);
        ++at;
      }
    }
    assert_int_equal(at, n);
    assert_true(row_sum(counts, row) == sum && sums[row] == sum);
    n_nonzero += n;
    longest = n > longest ? n : longest;
  }
  assert_int_equal(n_nonzero, counts->n_nonzero);
  assert_int_equal(longest, room);
  for (int64_t e = 1; e < counts->n_escaped; ++e) {
    assert_true(counts->escaped_at[e - 1] < counts->escaped_at[e]);
  }
  free(gene);
  free(sums);
  free(value);
}

/* Random rows: unsorted, with repeats, explicit zeros and empty rows; values below 2^bits. */
static void fill(av_counts_builder *builder, truth *expected, uint64_t seed, int bits, int one_in) {
  uint64_t state = seed;
  for (int64_t row = 0; row < expected->n_rows; ++row) {
    int32_t gene[64];
    double value[64];
    const int64_t n = row % 5 == 0 ? 0 : (int64_t)(draw(&state) % 64);
    double *dense = expected->dense + row * expected->n_genes;
    for (int64_t i = 0; i < n; ++i) {
      gene[i] = (int32_t)(draw(&state) % (uint64_t)expected->n_genes);
      const uint64_t wide = draw(&state) << 31 | draw(&state);
      const bool large = draw(&state) % (uint64_t)one_in == 0;
      value[i] = (double)(large ? wide % (UINT64_C(1) << bits) : wide % 4);
      dense[gene[i]] += value[i];
    }
    assert_int_equal(av_builder_add_row(builder, n, gene, value), AV_OK);
  }
}

static void random_case(int64_t n_rows, int64_t n_genes, int bits, int one_in, av_count_kind kind) {
  truth expected = {n_rows, n_genes, av_calloc((size_t)(n_rows * n_genes), sizeof(double))};
  av_counts_builder *builder = new_builder(n_genes, false);
  av_counts counts = {0};
  fill(builder, &expected, (uint64_t)(n_rows + bits), bits, one_in);
  assert_int_equal(av_builder_finish(builder, &counts), AV_OK);
  av_builder_free(&builder);
  assert_int_equal(counts.kind, kind);
  assert_int_equal(counts.wide_genes, n_genes > 65536);
  check(&counts, &expected);
  av_counts_free(&counts);
  free(expected.dense);
}

static void small_counts_take_one_byte(void **state) {
  (void)state;
  random_case(40, 300, 6, 4, AV_COUNT_U8);
  random_case(40, 300, 40, 200, AV_COUNT_U8); /* a few escapes */
}

static void large_counts_widen(void **state) {
  (void)state;
  random_case(40, 300, 15, 3, AV_COUNT_U16);
  random_case(40, 300, 40, 3, AV_COUNT_U16);   /* most of them still escapes */
  random_case(6000, 40, 12, 20, AV_COUNT_U16); /* widens on the way */
}

static void many_genes_take_four_bytes(void **state) {
  (void)state;
  random_case(9, 65536, 6, 4, AV_COUNT_U8);
  random_case(9, 65537, 6, 4, AV_COUNT_U8);
  random_case(9, 70001, 40, 2, AV_COUNT_U16);
}

/* Every power of two and its neighbours up to 2^40, the escape codes themselves, and `padding`
 * ones. */
static void exact_values(int padding, av_count_kind kind) {
  const double codes[6] = {254, 255, 256, 65534, 65535, 65536};
  const int n_all = 41 * 3 + 6 + padding;
  int32_t *gene = av_calloc((size_t)n_all, sizeof *gene);
  double *value = av_calloc((size_t)n_all, sizeof *value);
  int n = 0;
  for (int bit = 0; bit <= 40; ++bit) {
    for (int d = -1; d <= 1; ++d) {
      value[n++] = (double)((INT64_C(1) << bit) + d);
    }
  }
  for (int i = 0; i < 6; ++i) {
    value[n++] = codes[i];
  }
  while (n < n_all) {
    value[n++] = 1;
  }
  double sum = 0;
  for (int i = 0; i < n; ++i) {
    gene[i] = i;
    sum += value[i];
  }
  truth expected = {1, n, value};
  av_counts_builder *builder = new_builder(n, false);
  av_counts counts = {0};
  assert_int_equal(av_builder_add_row(builder, n, gene, value), AV_OK);
  assert_int_equal(av_builder_finish(builder, &counts), AV_OK);
  assert_int_equal(counts.kind, kind);
  check(&counts, &expected);
  assert_true(counts.n_escaped > 0);
  for (int64_t e = 0; e < counts.n_escaped; ++e) {
    assert_true(counts.escaped_value[e] >= (kind == AV_COUNT_U8 ? 255 : 65535));
  }
  assert_true(row_sum(&counts, 0) == sum);
  av_builder_free(&builder);
  av_counts_free(&counts);
  free(gene);
  free(value);
}

static void values_are_exact(void **state) {
  (void)state;
  exact_values(0, AV_COUNT_U16);
  exact_values(20000, AV_COUNT_U8);
}

static void repeats_are_added_and_zeros_dropped(void **state) {
  (void)state;
  av_counts_builder *builder = new_builder(5, false);
  const int32_t gene[] = {4, 1, 4, 0, 1, 3};
  const double value[] = {200, 1, 100, 0, 2, 0};
  av_counts counts = {0};
  assert_int_equal(av_builder_add_row(builder, 6, gene, value), AV_OK);
  assert_int_equal(av_builder_finish(builder, &counts), AV_OK);
  int32_t got_gene[5];
  float got[5];
  assert_int_equal(av_counts_row(&counts, 0, got_gene, got), 2);
  assert_int_equal(got_gene[0], 1);
  assert_true(got[0] == 3.0F);
  assert_int_equal(got_gene[1], 4);
  assert_true(got[1] == 300.0F);
  av_builder_free(&builder);
  av_counts_free(&counts);
}

static void fractions_are_floats(void **state) {
  (void)state;
  av_counts_builder *builder = new_builder(4, true);
  const int32_t gene[] = {3, 0, 3, 2, 1};
  const double value[] = {0.25, 1e-300, 0.5, 7, 0.1}; /* the second is 0 as a float: dropped */
  av_counts counts = {0};
  assert_int_equal(av_builder_add_row(builder, 5, gene, value), AV_OK);
  assert_int_equal(av_builder_finish(builder, &counts), AV_OK);
  double dense[] = {0, (double)0.1F, 7, 0.75};
  truth expected = {1, 4, dense};
  assert_int_equal(counts.kind, AV_COUNT_F32);
  check(&counts, &expected);
  av_builder_free(&builder);
  av_counts_free(&counts);
}

static void nothing_at_all(void **state) {
  (void)state;
  av_counts_builder *builder = new_builder(3, false);
  av_counts counts = {0};
  assert_int_equal(av_builder_finish(builder, &counts), AV_OK);
  assert_int_equal(counts.n_rows, 0);
  assert_int_equal(counts.row_start[0], 0);
  assert_int_equal(av_counts_longest_row(&counts), 0);
  av_builder_free(&builder);
  av_counts_free(&counts);

  builder = new_builder(0, false);
  for (int i = 0; i < 3; ++i) {
    assert_int_equal(av_builder_add_row(builder, 0, NULL, NULL), AV_OK);
  }
  assert_int_equal(av_builder_finish(builder, &counts), AV_OK);
  assert_int_equal(counts.n_rows, 3);
  assert_true(row_sum(&counts, 2) == 0);
  av_builder_free(&builder);
  av_counts_free(&counts);
}

/* 3 bytes an entry with few genes and small counts, 4 with larger ones. */
static void memory_is_compact(void **state) {
  (void)state;
  enum { ROWS = 2000, LENGTH = 500 };
  int32_t gene[LENGTH];
  double value[LENGTH];
  for (int large = 0; large <= 1; ++large) {
    for (int i = 0; i < LENGTH; ++i) {
      gene[i] = 3 * i;
      value[i] = large ? 1000 + i : 1 + i % 9;
    }
    av_counts_builder *builder = new_builder(30000, false);
    for (int row = 0; row < ROWS; ++row) {
      assert_int_equal(av_builder_add_row(builder, LENGTH, gene, value), AV_OK);
    }
    av_counts counts = {0};
    assert_int_equal(av_builder_finish(builder, &counts), AV_OK);
    assert_int_equal(counts.n_nonzero, ROWS * LENGTH);
    assert_int_equal(av_counts_bytes(&counts), (ROWS + 1) * 8 + ROWS * LENGTH * (3 + large));
    av_builder_free(&builder);
    av_counts_free(&counts);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(small_counts_take_one_byte),
      cmocka_unit_test(large_counts_widen),
      cmocka_unit_test(many_genes_take_four_bytes),
      cmocka_unit_test(values_are_exact),
      cmocka_unit_test(repeats_are_added_and_zeros_dropped),
      cmocka_unit_test(fractions_are_floats),
      cmocka_unit_test(nothing_at_all),
      cmocka_unit_test(memory_is_compact),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
