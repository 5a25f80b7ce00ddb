/* CUDA's streams, events, graphs and devices for tests of what several ranks do with them: memory
 * of the host, and streams that do nothing until somebody asks how far they are. Then they, and the
 * branches of graphs, run in one of two orders, so that a wait that is missing between two of them
 * shows. (../emulation runs kernels, at once.) What captures forbid is refused as in ../emulation.
 *
 * Work is put on streams by av_stream_queue. */
#ifndef AV_TESTS_GPU_NCCL_CUDA_HOST_H
#define AV_TESTS_GPU_NCCL_CUDA_HOST_H

#include "stream_work.h"

#include <cuda_runtime_api.h>
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Each stream runs what it can: the oldest first, or the youngest. Weak: nccl_mpi.c also works on
 * the streams of ../emulation. */
__attribute__((weak)) void cuda_host_step(void);
extern bool cuda_host_youngest_first;

/* What the next call of cudaGetDeviceCount and others see: n devices of these PCI addresses, which
 * "/" and a number follow where the device is a slice of a GPU; n = -1: no driver. */
void cuda_host_devices(int n, const char *const *addresses);
/* Streams that have not been destroyed, events, blocks of memory. */
int cuda_host_live(void);
/* Copies from the host, which cudaMemcpyAsync was given for streams, that have been made. */
int64_t cuda_host_copies(void);
/* What every later query of a stream or event answers; cudaSuccess: the truth. */
extern cudaError_t cuda_host_broken;

#ifdef __cplusplus
}
#endif

#endif
