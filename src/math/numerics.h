/* Scalar functions in double that the C library lacks or gets wrong at the ends. */
#ifndef AV_MATH_NUMERICS_H
#define AV_MATH_NUMERICS_H

#include "math/host_device.h"

#include <math.h>
#include <stdint.h>

/* lgamma without libm's global sign; x > 0. */
static inline AV_HOST_DEVICE double av_lgamma(double x) {
#ifdef __CUDA_ARCH__
  return lgamma(x);
#else
  int sign = 0;
  return lgamma_r(x, &sign);
#endif
}

/* log(1 + e^x), no overflow. */
static inline AV_HOST_DEVICE double av_softplus(double x) {
  return x > 0.0 ? x + log1p(exp(-x)) : log1p(exp(x));
}

/* log of softplus: x itself far below 0, where softplus(x) = e^x (1 - e^x / 2 + ...) underflows. */
static inline AV_HOST_DEVICE double av_log_softplus(double x) {
  return x < -40.0 ? x : log(av_softplus(x));
}

/* 1 / (1 + e^-x), no overflow. */
static inline AV_HOST_DEVICE double av_sigmoid(double x) {
  if (x >= 0.0) {
    return 1.0 / (1.0 + exp(-x));
  }
  const double e = exp(x);
  return e / (1.0 + e);
}

/* d log softplus(x) / dx = sigmoid(x) / softplus(x), 1 far below 0. */
static inline AV_HOST_DEVICE double av_log_softplus_slope(double x) {
  return x < -40.0 ? 1.0 : av_sigmoid(x) / av_softplus(x);
}

/* x (n >= 1) becomes its softmax. */
static inline void av_softmax(int64_t n, double *x) {
  double top = x[0];
  for (int64_t k = 1; k < n; ++k) {
    top = x[k] > top ? x[k] : top;
  }
  double sum = 0.0;
  for (int64_t k = 0; k < n; ++k) {
    x[k] = exp(x[k] - top);
    sum += x[k];
  }
  for (int64_t k = 0; k < n; ++k) {
    x[k] /= sum;
  }
}

#endif
