/* Kernels with a fault each, and right twins: what the emulation must see. */
#ifndef AV_TESTS_GPU_PLANTED_H
#define AV_TESTS_GPU_PLANTED_H

#include <cuda_runtime_api.h>
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* out (n) = in (n) shifted by one: the faulty kernel reads in[n]. */
cudaError_t planted_read_outside(cudaStream_t stream, int n, const float *in, float *out);
/* One element too many of static shared memory, where the compiler sees the array's size or through
 * a pointer; of dynamic shared memory. */
cudaError_t planted_static_outside(cudaStream_t stream, bool in_place, float *out);
cudaError_t planted_dynamic_outside(cudaStream_t stream, float *out);
/* out (blocks * 256): each block's numbers, rotated through shared memory; faulty without barrier.
 */
cudaError_t planted_rotate(cudaStream_t stream, bool faulty, unsigned blocks, float *out);
/* out (blocks): sums over a block's 256 threads by halving; faulty: one barrier, before the last
 * halvings within a warp, is not there. */
cudaError_t planted_halving(cudaStream_t stream, bool faulty, unsigned blocks, float *out);
/* out (n): each block adds what its neighbour has written: only the order of blocks shows it. */
cudaError_t planted_between_blocks(cudaStream_t stream, unsigned blocks, float *out);
/* A barrier that half of the block does not reach: because it ends, because it waits in another. */
cudaError_t planted_divergent_end(cudaStream_t stream, float *out);
cudaError_t planted_divergent_barrier(cudaStream_t stream, float *out);
/* A warp operation that a lane of its mask does not reach. */
cudaError_t planted_divergent_warp(cudaStream_t stream, int *out);
/* out (1): the sum of numbers that nobody wrote to shared memory. */
cudaError_t planted_unwritten(cudaStream_t stream, float *out);

#ifdef __cplusplus
}
#endif

#endif
