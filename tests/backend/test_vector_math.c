/* Vector functions against long double over all exponents; differences of lgamma and digamma. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "math/gamma_difference.h"
#include "math/vector_math.h"

#include <stdio.h>

/* Error of y in units of the last place of the true value. */
static double ulps(float y, long double truth) {
  const float rounded = (float)truth;
  if (isnan(rounded) || isinf(rounded)) {
    return (isnan(rounded) && isnan(y)) || y == rounded ? 0.0 : 1e9;
  }
  int exponent = 0;
  (void)frexpf(rounded, &exponent);
  const int lowest = -125;
  const double ulp = ldexp(1.0, (exponent < lowest ? lowest : exponent) - 24);
  return fabs((double)((long double)y - truth)) / ulp;
}

enum { STEP = 4801 }; /* of the bit patterns: 900,000 floats of all signs and exponents, NaNs too */

typedef struct function {
  const char *name;
  float (*ours)(float);
  long double (*truth)(long double);
  float low; /* smallest argument looked at */
} function;

static void check_function(const function *f) {
  for (uint64_t bits = 0; bits < 0x100000000u; bits += STEP) {
    const float x = av_float_of_bits((int32_t)(uint32_t)bits);
    if (x < f->low) {
      continue;
    }
    const double error = ulps(f->ours(x), f->truth((long double)x));
    if (!(error <= 2.0)) {
      fail_msg("%s(%.9g) = %.9g, off by %.3g ulp", f->name, (double)x, (double)f->ours(x), error);
    }
  }
}

static float exp_of(float x) { return av_expf(x); }
static float log_of(float x) { return av_logf(x); }
static float log1p_of(float x) { return av_log1pf(x); }

static void accuracy(void **state) {
  (void)state;
  const function functions[] = {{"av_expf", exp_of, expl, -86.9f},
                                {"av_logf", log_of, logl, -INFINITY},
                                {"av_log1pf", log1p_of, log1pl, 0.0f}};
  for (size_t i = 0; i < sizeof functions / sizeof *functions; ++i) {
    check_function(&functions[i]);
  }
}

/* x - 1 - log x; by log1p near 1, where long double too would cancel. */
static long double excess_truth(long double x) {
  const long double f = x - 1.0L;
  return fabsl(f) < 0.5L ? f - log1pl(f) : f - logl(x);
}

static void excess(void **state) {
  (void)state;
  for (uint64_t bits = 0x00800000u; bits < 0x7f800000u; bits += STEP / 8) {
    const float x = av_float_of_bits((int32_t)(uint32_t)bits);
    const double error = ulps(av_excessf(x), excess_truth((long double)x));
    if (!(error <= 4.0)) {
      fail_msg("av_excessf(%.9g) = %.9g, off by %.3g ulp", (double)x, (double)av_excessf(x), error);
    }
  }
  for (int i = -3000; i <= 3000; ++i) { /* the floats around 1 */
    const float x = av_float_of_bits(av_bits_of_float(1.0f) + i);
    assert_true(ulps(av_excessf(x), excess_truth((long double)x)) <= 4.0);
  }
  assert_true(av_excessf(1.0f) == 0.0f && isinf(av_excessf(INFINITY)) && isnan(av_excessf(NAN)));
}

/* -log u, cos and sin of a turn for one word. */
static void check_word(uint32_t word) {
  const long double u = ((long double)word + 0.5L) / 4294967296.0L;
  const long double angle = 6.283185307179586476925286766559L * u;
  float cosine = 0.0f;
  float sine = 0.0f;
  av_turnf(word, &cosine, &sine);
  const double off[3] = {ulps(av_minus_log_uniformf(word), -logl(u)), ulps(cosine, cosl(angle)),
                         ulps(sine, sinl(angle))};
  for (int i = 0; i < 3; ++i) {
    if (!(off[i] <= (i == 0 ? 2.0 : 3.0))) {
      static const char *const name[3] = {"-log u", "cosine", "sine"};
      fail_msg("%s of word %08x off by %.3g ulp", name[i], (unsigned)word, off[i]);
    }
  }
}

static void words(void **state) {
  (void)state;
  for (uint64_t word = 0; word < 0x100000000u; word += STEP) {
    check_word((uint32_t)word);
  }
  /* eighths of a turn, 1/2 and 1 - sqrt(1/2) of u: where cases meet, and the ends */
  for (uint32_t eighth = 0; eighth < 8; ++eighth) {
    for (uint32_t i = 0; i < 2000; ++i) {
      check_word((eighth << 29) + i - 1000u);
      check_word(0xffffffffu - 1257966796u + i - 1000u);
    }
  }
}

static void ends(void **state) {
  (void)state;
  assert_true(av_expf(-INFINITY) == 0.0f && av_expf(-1e30f) == 0.0f && av_expf(-87.0f) == 0.0f);
  assert_true(isinf(av_expf(88.73f)) && isinf(av_expf(INFINITY)) && av_expf(88.72f) < INFINITY);
  assert_true(av_expf(0.0f) == 1.0f && isnan(av_expf(NAN)) && isnan(av_expf(-NAN)));
  assert_true(av_logf(0.0f) == -INFINITY && av_logf(-0.0f) == -INFINITY);
  assert_true(isnan(av_logf(-1.0f)) && isnan(av_logf(NAN)) && av_logf(INFINITY) == INFINITY);
  assert_true(av_log1pf(0.0f) == 0.0f && av_log1pf(1e-30f) == 1e-30f && isnan(av_log1pf(NAN)) &&
              isinf(av_log1pf(INFINITY)));
}

/* Sums of logarithms and reciprocals in long double are the truth for whole x. */
static void gamma_of_whole_counts(void **state) {
  (void)state;
  const double thetas[] = {1e-30, 1e-6, 0.01, 0.7, 3.9999, 4.0, 9.5, 50.0, 1e4, 1e9, 1e15};
  const int counts[] = {1, 2, 3, 10, 31, 64, 65, 1000, 100000};
  for (size_t t = 0; t < sizeof thetas / sizeof *thetas; ++t) {
    for (size_t c = 0; c < sizeof counts / sizeof *counts; ++c) {
      long double logs = 0.0L;
      long double reciprocals = 0.0L;
      for (int k = 0; k < counts[c]; ++k) {
        logs += logl((long double)thetas[t] + k);
        reciprocals += (long double)thetas[t] / ((long double)thetas[t] + k);
      }
      const double got = av_lgamma_difference(counts[c], thetas[t], log(thetas[t]));
      const double slope = av_scaled_digamma_difference(counts[c], thetas[t]);
      const double scale = 1.0 + fabs((double)logs);
      assert_true(fabs(got - (double)logs) <= 2e-13 * scale);
      assert_true(fabs(slope - (double)reciprocals) <= 1e-13 * (1.0 + (double)reciprocals));
    }
  }
}

static void gamma_of_fractions(void **state) {
  (void)state;
  const double thetas[] = {1e-3, 0.3, 2.5, 8.0, 30.0};
  const double counts[] = {0.25, 0.5, 1.75, 6.3, 250.5};
  for (size_t t = 0; t < sizeof thetas / sizeof *thetas; ++t) {
    for (size_t c = 0; c < sizeof counts / sizeof *counts; ++c) {
      const long double truth = lgammal((long double)thetas[t] + counts[c]) - lgammal(thetas[t]);
      const double got = av_lgamma_difference(counts[c], thetas[t], log(thetas[t]));
      assert_true(fabs(got - (double)truth) <= 1e-13 * (1.0 + fabs((double)truth)));
      /* slope by a central difference of the truth */
      const long double h = 1e-5L * thetas[t];
      const long double above =
          lgammal(thetas[t] + h + counts[c]) - lgammal((long double)thetas[t] + h);
      const long double below =
          lgammal(thetas[t] - h + counts[c]) - lgammal((long double)thetas[t] - h);
      const double slope = (double)((above - below) / (2 * h) * thetas[t]);
      assert_true(fabs(av_scaled_digamma_difference(counts[c], thetas[t]) - slope) <=
                  1e-8 * (1.0 + fabs(slope)));
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(accuracy),
                                     cmocka_unit_test(excess),
                                     cmocka_unit_test(words),
                                     cmocka_unit_test(ends),
                                     cmocka_unit_test(gamma_of_whole_counts),
                                     cmocka_unit_test(gamma_of_fractions)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
