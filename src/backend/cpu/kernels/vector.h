/* Vectors of floats as wide as the instruction set, by the compiler's vector extension: for kernels
 * whose sums must stay in registers. Elsewhere plain loops are vectorised by the compiler. */
#ifndef AV_BACKEND_CPU_VECTOR_H
#define AV_BACKEND_CPU_VECTOR_H

#include <string.h>

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

/* Doubles made of half as many floats. */
enum { AV_DOUBLES = AV_LANES / 2 };
typedef double av_dvec __attribute__((vector_size(AV_LANES / 2 * 8)));
typedef float av_half __attribute__((vector_size(AV_LANES / 2 * 4)));

static inline __attribute__((always_inline)) av_dvec av_dvec_load(const double *at) {
  av_dvec x;
  memcpy(&x, at, sizeof x);
  return x;
}

static inline __attribute__((always_inline)) av_dvec av_dvec_of_floats(const float *at) {
  av_half x;
  memcpy(&x, at, sizeof x);
  return __builtin_convertvector(x, av_dvec);
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

#endif
