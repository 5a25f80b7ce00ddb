/* Order-free sums over cells: terms are rounded to a quantum before they are added (strict.h), so
 * that every addition in double is exact. magic[j] = 1.5 * 2^52 * quantum of column j: adding and
 * subtracting it rounds to a multiple of the quantum. Bound: 3 additions in double a term.
 */
#include "backend/cpu/kernels/kernels.h"

/* top[j] = max(top[j], |x[j]|); a NaN makes it infinite, so that the sum becomes a NaN. */
void AV_KERNEL(max_abs_row)(int64_t n, const float *restrict x, float *restrict top) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    const float size = x[j] < 0.0f ? -x[j] : x[j];
    const float known = size == size ? size : __builtin_inff();
    top[j] = known > top[j] ? known : top[j];
  }
}

void AV_KERNEL(add_row_exact)(int64_t n, const float *restrict x, const double *restrict magic,
                              double *restrict y) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    const double term = (double)x[j] + magic[j];
    y[j] += term - magic[j];
  }
}

void AV_KERNEL(add_squares_exact)(int64_t n, const float *restrict x, const double *restrict magic,
                                  double *restrict y) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    const double value = (double)x[j];
    const double term = value * value + magic[j];
    y[j] += term - magic[j];
  }
}

/* y = x rounded. */
void AV_KERNEL(round_row)(int64_t n, const float *restrict x, const double *restrict magic,
                          double *restrict y) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    const double term = (double)x[j] + magic[j];
    y[j] = term - magic[j];
  }
}
