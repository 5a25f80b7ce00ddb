/* Order-free sums over cells (runtime.reproducible = strict).
 *
 * Floating-point addition depends on order only through rounding. If all terms are multiples of one
 * power of two, the quantum, and their sum stays below 2^52 quanta, every addition in double is
 * exact and any grouping over cells, tiles, threads and ranks gives the same bits. So:
 *
 * Sums of n terms, |term| <= top: quantum = 2^(e - bits) with 2^e > top and bits = 50 - log2(n); a
 * term is rounded to it by adding and subtracting magic = 1.5 * 2^52 * quantum.
 *
 * Products x^T d over n cells: the operands themselves are rounded, to p = (52 - log2(n)) / 2 bits
 * below the largest in their column (22 bits at 128 cells, against 24 of a float). Then every
 * product and every partial sum is exact in double, so a DGEMM may order them as it likes.
 *
 * `top` and n are those of all ranks (av_strict_maxima, av_strict_cells: collective), hence so are
 * quanta. A column with an infinity or NaN gets an infinite top and becomes NaN: nothing is hidden.
 *
 * An array that receives such sums must not receive others before it is zeroed: two quanta do not
 * mix. The model adds to each range of gradients once a step. Losses, which collect over an epoch,
 * have one fixed quantum, 2^-16: exact up to 2^37, i.e. 100 million cells of loss 1,000.
 */
#ifndef AV_BACKEND_CPU_STRICT_H
#define AV_BACKEND_CPU_STRICT_H

#include "backend/cpu/state.h"

/* top[j] becomes the maximum over ranks. Collective. */
void av_strict_maxima(av_backend *be, float *top, int64_t n);
/* Cells of the minibatch on all ranks. Collective. */
int64_t av_strict_cells(av_backend *be, int64_t n);

/* Bits kept below the largest term, for sums and for the operands of products. */
int av_strict_sum_bits(int64_t cells);
int av_strict_product_bits(int64_t cells);
/* The number whose addition and subtraction rounds |x| <= top to `bits` bits. */
double av_strict_magic(double top, int bits);
void av_strict_magics(int64_t n, const float *top, int bits, double *magic);

/* A loss rounded to the fixed quantum. */
static inline double av_strict_loss(double loss) {
  const double magic = 1.5 * 0x1p36; /* 1.5 * 2^52 * 2^-16 */
  const double shifted = loss + magic;
  return shifted - magic;
}

/* Largest |x| of each column of x (rows, n; row stride), into top (n). All threads; no
 * communication. */
void av_strict_tops(av_backend *be, int64_t rows, int64_t n, const float *x, int64_t stride,
                    float *top);

/* sums (n) += column sums of rounded d (rows, n; row stride). With `places`, row i is added to the
 * rows of sums (., n) that it belongs to instead. All threads. */
void av_strict_add_columns(av_backend *be, int64_t rows, int64_t n, const float *d, int64_t stride,
                           const double *magic, const av_places *places, double *sums);

/* dw (m, n) += x^T d, of operands rounded with x_magic (m) and d_magic (n). All threads. */
void av_strict_outer(av_backend *be, int64_t rows, int64_t m, int64_t n, const float *x,
                     int64_t x_stride, const float *d, int64_t d_stride, const double *x_magic,
                     const double *d_magic, double *dw);

#endif
