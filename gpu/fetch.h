/* Results on their way to the host.
 *
 * A ring of slots, each a block of device memory with pinned memory of its size. Kernels write a
 * piece of a result into the next slot; a stream of its own copies it while kernels work on the
 * next piece; when the host gets there it waits for that copy alone, by its event, and takes the
 * numbers out of the pinned memory while the pieces behind travel. A slot is written again when the
 * host has taken what it held: nothing on the device has to wait for that.
 *
 * Copies to pageable memory would do none of this: CUDA stages them itself, one after the other,
 * and the kernels' stream stands still meanwhile. */
#ifndef AV_GPU_FETCH_H
#define AV_GPU_FETCH_H

#include "state.h"

#include "backend/gpu_memory.h"

/* Memory of the device for the next slot, at least `bytes` long: it is made anew, and waits for the
 * device, where the slot is shorter. For what is queued on be's stream from here on. *fetch NULL:
 * the ring is made. At most AV_GPU_FETCH_SLOTS are under way. Until it is sent the same slot comes
 * again, with what it holds if it is asked for no more bytes. */
av_status av_gpu_fetch_room(av_backend *be, av_gpu_fetch **fetch, size_t bytes, void **device);
/* Its first `bytes` are on their way when all is done that be's stream has been given for it. */
av_status av_gpu_fetch_send(av_backend *be, av_gpu_fetch *fetch, size_t bytes);
/* The oldest that is under way, when it has arrived: good until that slot's turn comes again.
 * `phase` is for the error text. */
av_status av_gpu_fetch_take(av_backend *be, av_gpu_fetch *fetch, const char *phase,
                            const void **values);

/* Slots under way. */
int av_gpu_fetch_pending(const av_gpu_fetch *fetch);
/* After all that is queued for it. NULL is nothing to free. */
void av_gpu_fetch_free(av_backend *be, av_gpu_fetch *fetch);

/* A copy by the host's threads: one alone is slower than the way from the device. */
void av_gpu_fetch_copy(const av_backend *be, void *to, const void *from, size_t bytes);

#endif
