/* Decoded matrices on their way to the host: pieces in a ring (fetch.h), each with the place that
 * it is for. Pieces of an output travel while those behind are made, and the last ones while what
 * follows is queued, which may be the next output: whoever needs room in the ring, or has asked for
 * an output's end, puts the oldest pieces where they go. */
#ifndef AV_GPU_OUTPUTS_H
#define AV_GPU_OUTPUTS_H

#include "state.h"

/* Memory of the device for the next piece, of at most `bytes` (av_gpu_fetch_room). */
av_status av_gpu_outputs_room(av_backend *be, size_t bytes, void **device);
/* The piece is made when all is done that be's stream has been given for it. For to->rho, if it is
 * not NULL, and then for to->mu, likewise: `numbers` each, host memory that is lent until the
 * output's end. */
av_status av_gpu_outputs_send(av_backend *be, const av_gpu_piece *to);
/* No piece of the output follows. */
void av_gpu_outputs_complete(av_backend *be);
/* Are there outputs that have not been ended? */
bool av_gpu_outputs_under_way(const av_backend *be);
/* The backend's output_end. */
av_status av_gpu_output_end(av_backend *be);

#endif
