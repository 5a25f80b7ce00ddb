/* Pairing of factors against all permutations, and likeness against cases known beforehand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "math/rng.h"
#include "posterior/stability.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

enum { MOST = 7 };

static double uniform(uint64_t i) {
  return (double)(av_random64(11, AV_DRAW_SHUFFLE, i, 0, 0) >> 11) * 0x1p-53;
}

/* The largest sum over all pairings of rows `row` on with the columns not yet taken. */
static double best_sum(int64_t n, const double *value, int64_t row, bool taken[MOST]) {
  if (row == n) {
    return 0.0;
  }
  double best = -INFINITY;
  for (int64_t j = 0; j < n; ++j) {
    if (!taken[j]) {
      taken[j] = true;
      best = fmax(best, value[row * n + j] + best_sum(n, value, row + 1, taken));
      taken[j] = false;
    }
  }
  return best;
}

static double sum_of(int64_t n, const double *value, const int64_t *partner) {
  bool taken[64] = {false};
  double sum = 0.0;
  for (int64_t i = 0; i < n; ++i) {
    assert_in_range(partner[i], 0, n - 1);
    assert_false(taken[partner[i]]);
    taken[partner[i]] = true;
    sum += value[i * n + partner[i]];
  }
  return sum;
}

static void all_permutations(void **state) {
  (void)state;
  uint64_t draw = 0;
  for (int64_t n = 1; n <= MOST; ++n) {
    for (int round = 0; round < 20; ++round) {
      double value[MOST * MOST];
      int64_t partner[MOST];
      bool taken[MOST] = {false};
      for (int64_t i = 0; i < n * n; ++i) {
        value[i] = uniform(draw++);
        /* coarse values: many ties */
        value[i] = round % 2 == 0 ? value[i] : floor(3.0 * value[i]);
      }
      assert_int_equal(av_best_pairing(n, value, partner), AV_OK);
      const double best = best_sum(n, value, 0, taken);
      const double found = sum_of(n, value, partner);
      if (!(fabs(found - best) < 1e-12)) {
        fail_msg("%lld factors, round %d: sum %.15g, best %.15g", (long long)n, round, found, best);
      }
    }
  }
}

/* The best first, row by row, is not the best in total. */
static void not_greedy(void **state) {
  (void)state;
  static const double value[] = {0.9, 0.8, 0.8, 0.1};
  int64_t partner[2];
  assert_int_equal(av_best_pairing(2, value, partner), AV_OK);
  assert_int_equal(partner[0], 1);
  assert_int_equal(partner[1], 0);
}

enum { GENES = 200, FACTORS = 40 };

/* Factor k of the second fit is factor (7 k + 3) mod 40 of the first, scaled, moved and turned. */
static void same_factors(void **state) {
  (void)state;
  double *first = calloc(GENES * FACTORS, sizeof *first);
  double *second = calloc(GENES * FACTORS, sizeof *second);
  double *mine = calloc(GENES * FACTORS, sizeof *mine);
  double *other = calloc(GENES * FACTORS, sizeof *other);
  assert_true(first != NULL && second != NULL && mine != NULL && other != NULL);
  for (int64_t i = 0; i < GENES * FACTORS; ++i) {
    first[i] = uniform((uint64_t)(100000 + i)) - 0.5;
  }
  for (int64_t g = 0; g < GENES; ++g) {
    for (int64_t k = 0; k < FACTORS; ++k) {
      const double from = first[g * FACTORS + (7 * k + 3) % FACTORS];
      second[g * FACTORS + k] = (k % 2 == 0 ? 3.0 : -0.01) * from + (double)k;
    }
  }
  av_factor_directions(GENES, FACTORS, first, mine);
  av_factor_directions(GENES, FACTORS, second, other);
  for (int64_t k = 0; k < FACTORS; ++k) {
    double sum = 0.0;
    double squares = 0.0;
    for (int64_t g = 0; g < GENES; ++g) {
      sum += mine[k * GENES + g];
      squares += mine[k * GENES + g] * mine[k * GENES + g];
    }
    assert_true(fabs(sum) < 1e-12 && fabs(squares - 1.0) < 1e-12);
  }
  double likeness[FACTORS] = {0.0};
  assert_int_equal(av_factor_likeness(GENES, FACTORS, mine, other, likeness), AV_OK);
  for (int64_t k = 0; k < FACTORS; ++k) {
    assert_true(fabs(likeness[k] - 1.0) < 1e-9);
  }
  /* it is added to what is there; unrelated factors are not alike */
  for (int64_t i = 0; i < GENES * FACTORS; ++i) {
    second[i] = uniform((uint64_t)(900000 + i));
  }
  av_factor_directions(GENES, FACTORS, second, other);
  assert_int_equal(av_factor_likeness(GENES, FACTORS, mine, other, likeness), AV_OK);
  for (int64_t k = 0; k < FACTORS; ++k) {
    assert_true(likeness[k] >= 1.0 - 1e-9 && likeness[k] < 1.5);
  }
  free(first);
  free(second);
  free(mine);
  free(other);
}

/* A constant factor has no direction: it is like none, not even itself. One gene has none at all.
 */
static void no_direction(void **state) {
  (void)state;
  static const double loadings[] = {1, 0.1, 2, 0.1, 4, 0.1};
  double directions[6];
  double likeness[2] = {0.0, 0.0};
  av_factor_directions(3, 2, loadings, directions);
  for (int g = 0; g < 3; ++g) {
    assert_true(directions[3 + g] == 0.0);
  }
  assert_int_equal(av_factor_likeness(3, 2, directions, directions, likeness), AV_OK);
  assert_true(fabs(likeness[0] - 1.0) < 1e-12 && likeness[1] == 0.0);
  double one[2];
  av_factor_directions(1, 2, loadings, one);
  assert_true(one[0] == 0.0 && one[1] == 0.0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(all_permutations),
      cmocka_unit_test(not_greedy),
      cmocka_unit_test(same_factors),
      cmocka_unit_test(no_direction),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
