/* exp, log and log1p in float, without branches or tables, so that compilers vectorise loops over
 * them. Plain C: the same source gives SSE, AVX2 and AVX-512 code.
 *
 * Errors against the true value (tests/backend/test_vector_math.c measures them over all
 * exponents): below 2 ulp. NaN in, NaN out. Nothing is raised or stored in errno.
 *
 *   av_expf     above 88.72 infinity; below -86.9 zero (results that small are not kept as
 *               subnormals, so that no slow path of the processor is entered)
 *   av_logf     0 gives -infinity, negative NaN, infinity itself; subnormals are right
 *   av_log1pf   for x >= 0 (or NaN); infinity gives infinity
 *   av_excessf  x - 1 - log(x) for normal x > 0 (or NaN): nothing cancels near 1; below 4 ulp
 *
 * Of a random word w (all 2^32 of them), for Box-Muller; the words at the ends count as well as the
 * others, since u and 1 - u are both made from w itself:
 *
 *   av_minus_log_uniformf   -log(u), u = (w + 1/2) / 2^32; below 2 ulp
 *   av_turnf                cos and sin of 2 pi (w + 1/2) / 2^32; below 3 ulp
 *
 * Polynomials: minimax on the reduced range, coefficients of S. Moshier's Cephes (expf, logf).
 */
#ifndef AV_MATH_VECTOR_MATH_H
#define AV_MATH_VECTOR_MATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

static inline float av_float_of_bits(int32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static inline int32_t av_bits_of_float(float value) {
  int32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

#define AV_LN2_HIGH 0.693359375f /* 9 bits: n * this is exact */
#define AV_LN2_LOW (-2.12194440e-4f)

/* exp of -87 <= t <= 89, or NaN. */
static inline float av_exp_core(float t) {
  const float shift = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
  const float shifted = t * 1.44269504088896341f + shift;
  const float n = shifted - shift;
  const float r = (t - n * AV_LN2_HIGH) - n * AV_LN2_LOW;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  /* 2^(n-1), from the low bits of `shifted`; n - 1 = -127 gives zero */
  const uint32_t exponent =
      (uint32_t)av_bits_of_float(shifted) - (uint32_t)av_bits_of_float(shift) + 126u;
  const float scale = av_float_of_bits((int32_t)(exponent << 23));
  return (p + p) * scale;
}

static inline float av_expf(float x) {
  const float below = x > 89.0f ? 89.0f : x; /* a NaN compares false and stays */
  return av_exp_core(below < -87.0f ? -87.0f : below);
}

/* exp(-|x|) */
static inline float av_exp_minus_absf(float x) {
  const float t = -__builtin_fabsf(x);
  return av_exp_core(t < -87.0f ? -87.0f : t);
}

/* (log(1 + f) - f + f^2 / 2) / f^3, -0.3 < f < 0.42 */
static inline float av_log_polynomial(float f) {
  float p = 7.0376836292e-2f;
  p = p * f - 1.1514610310e-1f;
  p = p * f + 1.1676998740e-1f;
  p = p * f - 1.2420140846e-1f;
  p = p * f + 1.4249322787e-1f;
  p = p * f - 1.6668057665e-1f;
  p = p * f + 2.0000714765e-1f;
  p = p * f - 2.4999993993e-1f;
  p = p * f + 3.3333331174e-1f;
  return p;
}

/* log of 2^e * (1 + f), -0.3 < f < 0.42 */
static inline float av_log_core(float f, float e) {
  const float z = f * f;
  float y = av_log_polynomial(f) * f * z;
  y = e * AV_LN2_LOW + y;
  y = y - 0.5f * z;
  return (f + y) + e * AV_LN2_HIGH;
}

/* e with u = 2^e m, m in [sqrt(1/2), sqrt(2)); *m. u positive and normal. */
static inline int32_t av_split_float(float u, float *m) {
  const uint32_t bits = (uint32_t)av_bits_of_float(u);
  const int32_t e = (int32_t)(bits - 0x3f3504f3u) >> 23; /* 0x3f3504f3 = bits of sqrt(1/2) */
  *m = av_float_of_bits((int32_t)(bits - ((uint32_t)e << 23)));
  return e;
}

static inline float av_logf(float x) {
  const int tiny = x < 1.17549435e-38f;
  const float u = tiny ? x * 8388608.0f : x;
  float m;
  const int32_t e = av_split_float(u, &m);
  const float y = av_log_core(m - 1.0f, (float)(tiny ? e - 23 : e));
  const float outside = x == 0.0f ? -INFINITY : NAN;
  const float inside = x < INFINITY ? y : x; /* infinity and NaN return themselves */
  return x <= 0.0f ? (x < 0.0f ? NAN : outside) : inside;
}

/* log of a positive, normal, finite number (or NaN, which stays): half the work of av_logf. */
static inline float av_log_normalf(float x) {
  float m;
  const int32_t e = av_split_float(x, &m);
  return av_log_core(m - 1.0f, (float)e) + (x - x); /* x - x is 0, or NaN */
}

static inline float av_log1pf(float x) {
  const float u = 1.0f + x;
  float m;
  const int32_t e = av_split_float(u, &m);
  /* (1 + x) / 2^e - 1 straight from x keeps what rounding u lost */
  const float scale = av_float_of_bits((int32_t)((uint32_t)(127 - (e < 64 ? e : 64)) << 23));
  const float f = x < 1e18f ? x * scale + (scale - 1.0f) : m - 1.0f;
  const float y = av_log_core(f, (float)e);
  return x < INFINITY ? y : x;
}

/* log(1 + f) - f, -0.3 < f < 0.42: relative to itself as good as av_log_core. */
static inline float av_log1p_rest(float f) { return (av_log_polynomial(f) * f - 0.5f) * (f * f); }

static inline float av_excessf(float x) {
  float m;
  const float e = (float)av_split_float(x, &m);
  const float f = m - 1.0f;
  const float wide = (x - 1.0f) - f; /* exactly 0 where e is */
  return ((wide - e * AV_LN2_HIGH) - e * AV_LN2_LOW) - av_log1p_rest(f);
}

static inline float av_minus_log_uniformf(uint32_t word) {
  const int upper = word >= 0x80000000u;
  /* u or 1 - u, whichever is at most 1/2 */
  const float t = ((float)(int32_t)((upper ? ~word : word) & 0x7fffffffu) + 0.5f) * 0x1p-32f;
  float m;
  const int32_t e = av_split_float(t, &m);
  const int halved = t > 0.29289322f;
  const float f = upper ? (halved ? 1.0f - 2.0f * t : -t) : m - 1.0f;
  return -av_log_core(f, upper ? (halved ? -1.0f : 0.0f) : (float)e);
}

static inline void av_turnf(uint32_t word, float *cosine, float *sine) {
  const uint32_t quarter = (word + 0x20000000u) >> 30; /* nearest quarter turn, 4 of them */
  const int32_t rest = (int32_t)(word - (quarter << 30));
  const float x = ((float)rest + 0.5f) * 1.4629180792671596e-9f; /* 2 pi / 2^32 */
  const float z = x * x;
  float s = -1.9515295891e-4f;
  s = s * z + 8.3321608736e-3f;
  s = s * z - 1.6666654611e-1f;
  s = s * (z * x) + x;
  float c = 2.443315711809948e-5f;
  c = c * z - 1.388731625493765e-3f;
  c = c * z + 4.166664568298827e-2f;
  c = c * (z * z) - 0.5f * z + 1.0f;
  const int odd = (quarter & 1u) != 0;
  const uint32_t cosine_sign = ((quarter + 1u) & 2u) << 30;
  const uint32_t sine_sign = (quarter & 2u) << 30;
  *cosine = av_float_of_bits((int32_t)((uint32_t)av_bits_of_float(odd ? s : c) ^ cosine_sign));
  *sine = av_float_of_bits((int32_t)((uint32_t)av_bits_of_float(odd ? c : s) ^ sine_sign));
}

#endif
