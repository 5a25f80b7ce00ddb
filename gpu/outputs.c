#include "outputs.h"

#include "fetch.h"

#include <string.h>

/* The oldest piece, to where it goes. */
static av_status take_piece(av_backend *be) {
  av_gpu_outputs *outputs = &av_gpu_of(be)->outputs;
  const void *arrived = NULL;
  AV_TRY(av_gpu_fetch_take(be, outputs->ring, "the decoder's output", &arrived));
  const av_gpu_piece to = outputs->piece[0];
  memmove(outputs->piece, outputs->piece + 1, sizeof outputs->piece - sizeof to);
  const size_t bytes = (size_t)to.numbers * sizeof(float);
  const float *values = arrived;
  if (to.rho != NULL) {
    av_gpu_fetch_copy(be, to.rho, values, bytes);
    values += to.numbers;
  }
  if (to.mu != NULL) {
    av_gpu_fetch_copy(be, to.mu, values, bytes);
  }
  return AV_OK;
}

av_status av_gpu_outputs_room(av_backend *be, size_t bytes, void **device) {
  av_gpu_outputs *outputs = &av_gpu_of(be)->outputs;
  if (av_gpu_fetch_pending(outputs->ring) == AV_GPU_FETCH_SLOTS) {
    AV_TRY(take_piece(be));
  }
  return av_gpu_fetch_room(be, &outputs->ring, bytes, device);
}

av_status av_gpu_outputs_send(av_backend *be, const av_gpu_piece *to) {
  av_gpu_outputs *outputs = &av_gpu_of(be)->outputs;
  const int64_t matrices = (to->rho != NULL ? 1 : 0) + (to->mu != NULL ? 1 : 0);
  AV_TRY(av_gpu_fetch_send(be, outputs->ring, (size_t)(matrices * to->numbers) * sizeof(float)));
  av_gpu_piece *piece = &outputs->piece[av_gpu_fetch_pending(outputs->ring) - 1];
  *piece = *to;
  piece->of = outputs->complete;
  return AV_OK;
}

void av_gpu_outputs_complete(av_backend *be) { ++av_gpu_of(be)->outputs.complete; }

bool av_gpu_outputs_under_way(const av_backend *be) {
  const av_gpu_outputs *outputs = &av_gpu_of(be)->outputs;
  return outputs->ended < outputs->complete;
}

av_status av_gpu_output_end(av_backend *be) {
  av_gpu_outputs *outputs = &av_gpu_of(be)->outputs;
  if (!av_gpu_outputs_under_way(be)) {
    return AV_FAIL_BUG("no output under way");
  }
  ++outputs->ended;
  while (av_gpu_fetch_pending(outputs->ring) > 0 && outputs->piece[0].of < outputs->ended) {
    AV_TRY(take_piece(be));
  }
  return AV_OK;
}
