/* Small kernels on which the emulation itself is tested; they compile with nvcc too. */
#ifndef AV_TESTS_GPU_UNIT_H
#define AV_TESTS_GPU_UNIT_H

#include <cuda_runtime_api.h>

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { UNIT_WARP_RESULTS = 14 };

/* out (blocks * threads, UNIT_WARP_RESULTS): what each warp operation answers a thread. */
cudaError_t unit_warp(cudaStream_t stream, unsigned blocks, unsigned threads, int *out);
/* out (blocks * threads): sums over the block of device.h, of float, double and int; largest. */
cudaError_t unit_block_sum(cudaStream_t stream, unsigned blocks, unsigned threads, float *of_float,
                           double *of_double, int *of_int, float *largest);
/* out (rows, columns) = 1000 * row + column, by a grid and blocks of 2 dimensions. */
cudaError_t unit_plane(cudaStream_t stream, int rows, int columns, int *out);
/* out (n): in, backwards within each block of 64, through dynamic shared memory. */
cudaError_t unit_reverse(cudaStream_t stream, int n, const int *in, int *out);
/* out (blocks): what shared memory holds at the start of each block, if all words agree. */
cudaError_t unit_shared_start(cudaStream_t stream, unsigned blocks, uint32_t *of_static,
                              uint32_t *of_dynamic);
/* count (1) += numbers 0 .. n - 1 that 3 divides; largest (1): the largest; first (1): set once. */
cudaError_t unit_atomics(cudaStream_t stream, int n, unsigned *count, int *largest,
                         unsigned long long *sum, int *first);
/* turn (n): the position at which each thread ran. */
cudaError_t unit_turns(cudaStream_t stream, unsigned blocks, unsigned threads, int *counter,
                       int *turn);
/* Nothing, with a grid as asked for. */
cudaError_t unit_empty(cudaStream_t stream, unsigned blocks, unsigned threads, unsigned shared);
cudaError_t unit_allow_shared(int bytes);
/* out (n) = factor * in (n) + term; its arguments by value, some of them in a struct. */
typedef struct unit_line {
  int factor;
  double term;
} unit_line;
cudaError_t unit_scale(cudaStream_t stream, int n, unit_line line, const int *in, int *out);

#ifdef __cplusplus
}
#endif

#endif
