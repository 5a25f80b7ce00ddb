/* Vectors of floats as wide as the instruction set, by the compiler's vector extension: for kernels
 * whose sums must stay in registers. Elsewhere plain loops are vectorised by the compiler. */
#ifndef AV_BACKEND_CPU_VECTOR_H
#define AV_BACKEND_CPU_VECTOR_H

#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
enum { AV_LANES = 16 };
typedef float av_vec __attribute__((vector_size(64)));
#elif defined(__AVX__)
enum { AV_LANES = 8 };
typedef float av_vec __attribute__((vector_size(32)));
#else
enum { AV_LANES = 4 };
typedef float av_vec __attribute__((vector_size(16)));
#endif

/* Elements of two vectors of `type`, whose elements are as wide as `index`, numbered through. gcc
 * before 12 knows the first form alone, clang the second. */
#if defined(__clang__) || __GNUC__ >= 12
#define AV_SHUFFLE(index, type, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define AV_SHUFFLE(index, type, a, b, ...) \
  __builtin_shuffle(a, b, (index __attribute__((vector_size(sizeof(type))))){__VA_ARGS__})
#endif

/* Doubles made of half as many floats. */
enum { AV_DOUBLES = AV_LANES / 2 };
typedef double av_dvec __attribute__((vector_size(AV_LANES / 2 * 8)));
typedef float av_half __attribute__((vector_size(AV_LANES / 2 * 4)));

static inline __attribute__((always_inline)) av_dvec av_dvec_load(const double *at) {
  av_dvec x;
  memcpy(&x, at, sizeof x);
  return x;
}

/* (Compilers make two halves of a conversion that they are not told of.) */
static inline __attribute__((always_inline)) av_dvec av_dvec_of_half(av_half x) {
#if defined(__AVX512F__)
  return (av_dvec)_mm512_cvtps_pd((__m256)x);
#elif defined(__AVX__)
  return (av_dvec)_mm256_cvtps_pd((__m128)x);
#else
  return __builtin_convertvector(x, av_dvec);
#endif
}

static inline __attribute__((always_inline)) av_dvec av_dvec_of_floats(const float *at) {
  av_half x;
  memcpy(&x, at, sizeof x);
  return av_dvec_of_half(x);
}

/* Any alignment. */
static inline __attribute__((always_inline)) av_vec av_vec_load(const float *at) {
  av_vec x;
  memcpy(&x, at, sizeof x);
  return x;
}

static inline __attribute__((always_inline)) void av_vec_store(float *at, av_vec x) {
  memcpy(at, &x, sizeof x);
}

static inline __attribute__((always_inline)) av_vec av_vec_all(float x) { return x - (av_vec){0}; }

/* The first n < AV_LANES floats, then zeros; nothing behind them is read. */
static inline __attribute__((always_inline)) av_vec av_vec_load_part(const float *at, int64_t n) {
#if defined(__AVX512F__)
  return (av_vec)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1u), at);
#else
  av_vec x = {0};
  memcpy(&x, at, (size_t)n * sizeof *at);
  return x;
#endif
}

/* The first n < AV_LANES of x; nothing behind them is written. */
static inline __attribute__((always_inline)) void av_vec_store_part(float *at, int64_t n,
                                                                    av_vec x) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(at, (__mmask16)((1u << n) - 1u), (__m512)x);
#else
  memcpy(at, &x, (size_t)n * sizeof *at);
#endif
}

/* x where a > b, else 0 (also where either is NaN). */
static inline __attribute__((always_inline)) av_vec av_vec_where_above(av_vec a, av_vec b,
                                                                       av_vec x) {
#if defined(__AVX512F__)
  return (av_vec)_mm512_maskz_mov_ps(_mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ),
                                     (__m512)x);
#else
  typedef int32_t mask __attribute__((vector_size(sizeof(av_vec))));
  return (av_vec)((mask)(a > b) & (mask)x);
#endif
}

/* The lower and upper half as doubles. */
static inline __attribute__((always_inline)) av_dvec av_dvec_low(av_vec x) {
#if defined(__AVX512F__)
  return av_dvec_of_half((av_half)_mm512_castps512_ps256((__m512)x));
#elif defined(__AVX__)
  return av_dvec_of_half((av_half)_mm256_castps256_ps128((__m256)x));
#else
  return av_dvec_of_half((av_half){x[0], x[1]});
#endif
}
static inline __attribute__((always_inline)) av_dvec av_dvec_high(av_vec x) {
#if defined(__AVX512F__)
  return av_dvec_of_half(
      (av_half)_mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd((__m512)x), 1)));
#elif defined(__AVX__)
  return av_dvec_of_half((av_half)_mm256_extractf128_ps((__m256)x, 1));
#else
  return av_dvec_of_half((av_half){x[2], x[3]});
#endif
}

static inline __attribute__((always_inline)) void av_dvec_store(double *at, av_dvec x) {
  memcpy(at, &x, sizeof x);
}

/* Words of 64 bits, as many as doubles. */
typedef uint64_t av_uvec __attribute__((vector_size(AV_LANES / 2 * 8)));

/* Products of the lower halves; upper halves may hold anything. */
static inline __attribute__((always_inline)) av_uvec av_uvec_mul32(av_uvec a, av_uvec b) {
#if defined(__AVX512F__)
  return (av_uvec)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (av_uvec)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__SSE2__) && !defined(__AVX__)
  return (av_uvec)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
  return (a & 0xffffffffu) * (b & 0xffffffffu);
#endif
}

/* a0 b0 a1 b1 ... of the lower and of the upper halves. */
static inline __attribute__((always_inline)) av_uvec av_uvec_mix_low(av_uvec a, av_uvec b) {
#if defined(__AVX512F__)
  return AV_SHUFFLE(int64_t, av_uvec, a, b, 0, 8, 1, 9, 2, 10, 3, 11);
#elif defined(__AVX__)
  return AV_SHUFFLE(int64_t, av_uvec, a, b, 0, 4, 1, 5);
#else
  return AV_SHUFFLE(int64_t, av_uvec, a, b, 0, 2);
#endif
}
static inline __attribute__((always_inline)) av_uvec av_uvec_mix_high(av_uvec a, av_uvec b) {
#if defined(__AVX512F__)
  return AV_SHUFFLE(int64_t, av_uvec, a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#elif defined(__AVX__)
  return AV_SHUFFLE(int64_t, av_uvec, a, b, 2, 6, 3, 7);
#else
  return AV_SHUFFLE(int64_t, av_uvec, a, b, 1, 3);
#endif
}

#endif
