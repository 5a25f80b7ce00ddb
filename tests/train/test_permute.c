/* The computed permutation is one, and any element goes anywhere equally often. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "data/permute.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static void check_bijection(int64_t n, uint64_t seed) {
  bool *seen = calloc((size_t)n, sizeof *seen);
  assert_non_null(seen);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t image = av_permute(i, n, seed, AV_DRAW_TEST);
    assert_in_range(image, 0, n - 1);
    assert_false(seen[image]);
    seen[image] = true;
  }
  free(seen);
}

static void test_bijection(void **state) {
  (void)state;
  static const int64_t large[] = {1000, 1023, 1024, 1025, 4095, 4096, 4097, 65535, 65536, 65537};
  for (int64_t n = 1; n <= 300; ++n) {
    for (uint64_t seed = 0; seed < 3; ++seed) {
      check_bijection(n, seed);
    }
  }
  for (size_t i = 0; i < sizeof large / sizeof *large; ++i) {
    check_bijection(large[i], (uint64_t)1 << 53);
  }
}

/* Too many to visit: images of a stretch lie inside and differ (n is just above a power of four).
 */
static void test_huge(void **state) {
  (void)state;
  const int64_t n = ((int64_t)1 << 40) + 3;
  int64_t image[200];
  for (int64_t i = 0; i < 200; ++i) {
    image[i] = av_permute(n - 1 - i, n, 9, AV_DRAW_TEST);
    assert_in_range(image[i], 0, n - 1);
    for (int64_t j = 0; j < i; ++j) {
      assert_int_not_equal(image[i], image[j]);
    }
  }
}

/* Chi-square of where i = `at` goes, over many seeds. */
static double spread_of(int64_t at, int64_t n, int64_t seeds) {
  double *count = calloc((size_t)n, sizeof *count);
  assert_non_null(count);
  for (int64_t seed = 0; seed < seeds; ++seed) {
    count[av_permute(at, n, (uint64_t)seed, AV_DRAW_TEST)] += 1.0;
  }
  const double expected = (double)seeds / (double)n;
  double chi = 0.0;
  for (int64_t i = 0; i < n; ++i) {
    chi += (count[i] - expected) * (count[i] - expected) / expected;
  }
  free(count);
  return chi;
}

/* The mean of chi-square is its degrees of freedom f, its variance 2 f: five deviations are
 * allowed. */
static void test_uniform(void **state) {
  (void)state;
  static const int64_t sizes[] = {2, 3, 4, 5, 7, 10, 16, 17, 50};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; ++i) {
    const int64_t n = sizes[i];
    for (int64_t at = 0; at < n; at += 3) {
      const double excess = spread_of(at, n, 4000) - (double)(n - 1);
      if (!(excess * excess < 25.0 * 2.0 * (double)(n - 1))) {
        fail_msg("n = %lld: images of %lld are uneven: chi-square is %g from its mean",
                 (long long)n, (long long)at, excess);
      }
    }
  }
}

/* All 24 orders of four elements come, about equally often. */
static void test_orders(void **state) {
  (void)state;
  double count[4][4][4] = {{{0}}};
  enum { SEEDS = 24000 };
  for (uint64_t seed = 0; seed < SEEDS; ++seed) {
    count[av_permute(0, 4, seed, AV_DRAW_TEST)][av_permute(1, 4, seed, AV_DRAW_TEST)]
         [av_permute(2, 4, seed, AV_DRAW_TEST)] += 1.0;
  }
  double chi = 0.0;
  for (int a = 0; a < 4; ++a) {
    for (int b = 0; b < 4; ++b) {
      for (int c = 0; c < 4; ++c) {
        if (a != b && a != c && b != c) {
          chi += (count[a][b][c] - 1000.0) * (count[a][b][c] - 1000.0) / 1000.0;
        }
      }
    }
  }
  /* A Feistel network of single bits reaches every order, if not quite evenly. */
  assert_true(chi < 24000.0 * 0.05);
}

/* Neighbours and seeds: no order is left over. */
static void test_independence(void **state) {
  (void)state;
  enum { N = 1000 };
  int64_t together = 0;
  int64_t same = 0;
  double correlation = 0.0;
  for (int64_t i = 0; i < N; ++i) {
    const int64_t here = av_permute(i, N, 5, AV_DRAW_TEST);
    const int64_t next = av_permute((i + 1) % N, N, 5, AV_DRAW_TEST);
    together += llabs(here - next) == 1;
    same += here == av_permute(i, N, 6, AV_DRAW_TEST);
    same += here == av_permute(i, N, 5, AV_DRAW_TEST + 1);
    correlation += ((double)here - 499.5) * ((double)i - 499.5) / (N * 83333.25);
  }
  assert_in_range(together, 0, 12);                       /* 2 expected */
  assert_in_range(same, 0, 12);                           /* 2 expected */
  assert_true(correlation < 0.16 && correlation > -0.16); /* 5 of 1/sqrt(N) */
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_bijection),    cmocka_unit_test(test_huge),
      cmocka_unit_test(test_uniform),      cmocka_unit_test(test_orders),
      cmocka_unit_test(test_independence),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
