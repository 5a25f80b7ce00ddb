/* Decoders of an odd number of inputs write no rows of gradients where there is room to do without,
 * whatever is faster: so that tests of decoders see each way at all their sizes. The linker puts
 * this in the place of av_gpu_decode_cut_of (--wrap). */
#include "backend/gpu_decode.h"

av_gpu_decode_cut __real_av_gpu_decode_cut_of(const av_gpu_decode_sizes *of);
av_gpu_decode_cut __wrap_av_gpu_decode_cut_of(const av_gpu_decode_sizes *of);
av_gpu_decode_cut __wrap_av_gpu_decode_cut_of(const av_gpu_decode_sizes *of) {
  av_gpu_decode_sizes asked = *of;
  asked.way = of->n_in % 2 != 0 ? AV_GPU_DECODE_NO_ROWS : AV_GPU_DECODE_CHOSEN;
  return __real_av_gpu_decode_cut_of(&asked);
}
