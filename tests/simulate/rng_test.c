/* math/rng.h against Random123's published answers (its kat_vectors file), and the moments of every
 * distribution of math/sample.h. Fixed seeds: the bounds are 5 standard errors, crossed once or
 * never. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "math/rng.h"
#include "math/sample.h"

#include <math.h>
#include <string.h>

static void expect_words(const uint32_t counter[4], const uint32_t key[2], const uint32_t want[4]) {
  uint32_t out[4];
  const uint64_t joined = av_join(key[1], key[0]);
  const uint64_t seed = joined & ((1ull << 54) - 1); /* the key as rng.h says it is made */
  av_random4(out, seed, (uint32_t)(joined >> 54), av_join(counter[1], counter[0]), counter[2],
             counter[3]);
  assert_memory_equal(out, want, sizeof out);
}

static void known_answers(void **state) {
  (void)state;
  expect_words((const uint32_t[4]){0, 0, 0, 0}, (const uint32_t[2]){0, 0},
               (const uint32_t[4]){0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  expect_words((const uint32_t[4]){0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
               (const uint32_t[2]){0xffffffff, 0xffffffff},
               (const uint32_t[4]){0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  expect_words((const uint32_t[4]){0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
               (const uint32_t[2]){0xa4093822, 0x299f31d0},
               (const uint32_t[4]){0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

/* Every argument matters, and the extreme seeds and purposes share no stream. */
static void streams_differ(void **state) {
  (void)state;
  const uint64_t seeds[] = {0, 1, 2, 1ull << 32, (1ull << 53) - 1, 1ull << 53};
  enum { SEEDS = 6, PURPOSES = AV_DRAW_TEST + 1, N = SEEDS * PURPOSES + 4 };
  uint64_t seen[N];
  int n = 0;
  for (int s = 0; s < SEEDS; ++s) {
    for (uint32_t purpose = 0; purpose < PURPOSES; ++purpose) {
      seen[n++] = av_random64(seeds[s], purpose, 7, 0, 0);
    }
  }
  seen[n++] = av_random64(0, 0, 8, 0, 0);
  seen[n++] = av_random64(0, 0, 7 + (1ull << 32), 0, 0);
  seen[n++] = av_random64(0, 0, 7, 1, 0);
  seen[n++] = av_random64(0, 0, 7, 0, 1);
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < i; ++j) {
      assert_true(seen[i] != seen[j]);
    }
  }
}

static void uniforms_stay_inside(void **state) {
  (void)state;
  assert_true(av_uniform_f(0) == 0 && av_uniform_f(UINT32_MAX) < 1);
  assert_true(av_uniform_open_f(0) > 0 && av_uniform_open_f(UINT32_MAX) < 1);
  assert_true(av_uniform(0) == 0 && av_uniform(UINT64_MAX) < 1);
  assert_true(av_uniform_open(0) > 0 && av_uniform_open(UINT64_MAX) < 1);
  assert_true(av_uniform_open32(0) > 0 && av_uniform_open32(UINT32_MAX) < 1);
  double pair[2];
  float pair_f[2];
  av_normal2(pair, 0, UINT64_MAX);
  av_normal2_f(pair_f, 0, UINT32_MAX);
  assert_true(isfinite(pair[0]) && fabs(pair[0]) < 8.6 && isfinite(pair_f[0]) && pair_f[0] < 5.8f);
}

typedef struct moments {
  double n, sum, square, cube;
} moments;

static void add(moments *m, double x) {
  m->n += 1;
  m->sum += x;
  m->square += x * x;
  m->cube += x * x * x;
}

/* Mean and variance within 5 standard errors, the latter from the excess kurtosis given. */
static void expect_moments(const moments *m, double mean, double variance, double kurtosis) {
  const double got = m->sum / m->n;
  const double got_variance = m->square / m->n - got * got;
  if (fabs(got - mean) > 5 * sqrt(variance / m->n) ||
      fabs(got_variance - variance) > 5 * variance * sqrt((2 + kurtosis) / m->n)) {
    fail_msg("mean %.6f, expected %.6f; variance %.6f, expected %.6f", got, mean, got_variance,
             variance);
  }
}

enum { DRAWS = 200000 };

static void uniforms_and_normals(void **state) {
  (void)state;
  moments uniform = {0};
  moments normal = {0};
  moments normal_f = {0};
  double product = 0;
  for (uint64_t i = 0; i < DRAWS / 2; ++i) {
    double pair[2];
    float pair_f[2];
    uint32_t words[4];
    av_random_normal2(pair, 1, AV_DRAW_TEST, i, 0, 0);
    av_random4(words, 1, AV_DRAW_TEST, i, 1, 0);
    av_normal2_f(pair_f, words[0], words[1]);
    add(&uniform, (double)av_uniform_f(words[2]));
    add(&uniform, av_uniform_open32(words[3]));
    product += pair[0] * pair[1];
    for (int k = 0; k < 2; ++k) {
      add(&normal, pair[k]);
      add(&normal_f, (double)pair_f[k]);
    }
  }
  expect_moments(&uniform, 0.5, 1.0 / 12, -1.2);
  expect_moments(&normal, 0, 1, 0);
  expect_moments(&normal_f, 0, 1, 0);
  assert_true(fabs(normal.cube / normal.n) < 5 * sqrt(15 / normal.n));
  assert_true(fabs(product) < 5 * sqrt(DRAWS / 2));
}

static void gammas(void **state) {
  (void)state;
  const double shapes[] = {0.05, 0.5, 1, 3, 200};
  for (uint32_t s = 0; s < 5; ++s) {
    moments m = {0};
    for (uint64_t i = 0; i < DRAWS; ++i) {
      av_stream stream = av_stream_of(2, AV_DRAW_TEST, i, s);
      add(&m, av_sample_gamma(&stream, shapes[s]));
    }
    expect_moments(&m, shapes[s], shapes[s], 6 / shapes[s]);
  }
}

static void poissons(void **state) {
  (void)state;
  const double means[] = {0, 0.02, 3, 9.99, 10.01, 40, 3000};
  for (uint32_t s = 0; s < 7; ++s) {
    moments m = {0};
    double zeros = 0;
    for (uint64_t i = 0; i < DRAWS; ++i) {
      av_stream stream = av_stream_of(3, AV_DRAW_TEST, i, s);
      const double x = av_sample_poisson(&stream, means[s]);
      assert_true(x >= 0 && x == floor(x));
      zeros += x == 0;
      add(&m, x);
    }
    const double p0 = exp(-means[s]);
    expect_moments(&m, means[s], means[s], means[s] > 0 ? 1 / means[s] : 0);
    assert_true(fabs(zeros - DRAWS * p0) <= 5 * sqrt(DRAWS * p0 * (1 - p0)) + 1e-9);
  }
}

static void negative_binomials_by_inversion(void **state) {
  (void)state;
  const double mu[] = {0.01, 0.7, 8};
  const double theta[] = {0.3, 2, 50};
  for (uint32_t a = 0; a < 3; ++a) {
    for (uint32_t b = 0; b < 3; ++b) {
      moments m = {0};
      for (uint64_t i = 0; i < DRAWS; ++i) {
        av_stream stream = av_stream_of(4, AV_DRAW_TEST, i, 3 * a + b);
        add(&m, av_count_by_inversion(av_stream_uniform(&stream), av_count_p0(mu[a], theta[b]),
                                      mu[a], theta[b]));
      }
      const double variance = mu[a] + mu[a] * mu[a] / theta[b];
      expect_moments(&m, mu[a], variance, 6 / theta[b] + 1 / variance);
    }
  }
  /* The last uniform below 1 ends, and reaches far into the tail. */
  const double far = av_count_by_inversion(1 - 0x1p-53, av_count_p0(1, 2), 1, 2);
  assert_true(far > 20 && far < 1000);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(known_answers),
      cmocka_unit_test(streams_differ),
      cmocka_unit_test(uniforms_stay_inside),
      cmocka_unit_test(uniforms_and_normals),
      cmocka_unit_test(gammas),
      cmocka_unit_test(poissons),
      cmocka_unit_test(negative_binomials_by_inversion),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
