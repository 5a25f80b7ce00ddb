/* Which GPU a rank computes on. */
#ifndef AV_GPU_PLACE_H
#define AV_GPU_PLACE_H

#include "base/comm.h"

#include <stdbool.h>

/* Each rank of a node gets a device of its own, in the order of the ranks, from those that it sees:
 * CUDA_VISIBLE_DEVICES is obeyed, whether all ranks of the node see the same GPUs or each has been
 * given its own by the launcher. A slice of a GPU (MIG) is a device with memory of its own. *device
 * is CUDA's number for it, 0 for a rank alone; *sharing the ranks that have it, with this one.
 *
 * AV_NODEVICE, with what there is and what to do: a rank that sees no GPU; a node with fewer GPUs
 * than ranks, unless `may_share`: then they share devices evenly. (NCCL cannot have two ranks on
 * one GPU, be they on slices of it.) All ranks get the same status. Collective. */
av_status av_gpu_place(const av_comm *comm, bool may_share, int *device, int *sharing);

#endif
