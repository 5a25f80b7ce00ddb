/* Passes that come again and again, played from CUDA graphs.
 *
 * A training step is some dozens of kernels of a few microseconds each: to queue them one by one
 * costs the host more than they take. So the first pass of a kind over a batch is queued kernel by
 * kernel, which makes everything grow that grows on first use (scratch, cuBLAS's and NCCL's own);
 * the second is recorded into a graph, and played from it; each later one costs the host one call,
 * at its beginning, so that the host selects the next minibatch while the GPU works. Sums over
 * ranks by NCCL are part of the graph; through MPI the host takes part in them, and nothing is
 * kept.
 *
 * What differs from pass to pass is read on the device: av_gpu_step, sent before the graph, and the
 * minibatch's rows, at an address that stays. All other arguments are the graph's, as backend.h
 * demands of a pass, and the scratch, which stays where it is while there are graphs. For NCCL an
 * operation is recorded by all ranks or by none, and each plays what all have recorded together:
 * so nothing that one rank alone knows of decides whether a pass is queued, recorded or played.
 *
 * The operations are called in every pass, also when nothing is left to queue: so the model knows
 * nothing of graphs, and sums over ranks are counted as ever. */
#ifndef AV_GPU_PASS_H
#define AV_GPU_PASS_H

#include "base/status.h"

struct av_gpu_graph;

/* (AV_GPU_DECODE_WAYS, AV_PASSES) graphs of a batch, still to be made: the same pass is another
 * graph where its decoder goes another way (trial.h). They go with the batch. */
av_status av_gpu_graphs_create(struct av_gpu_graph **graphs);
void av_gpu_graphs_free(struct av_gpu_graph *graphs);

#endif
