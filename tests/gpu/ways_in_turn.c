/* The decoder goes each of its ways (backend/gpu_decode.h) in turn, by the number of its inputs: so
 * that tests of decoders see all of them. The linker puts this in the place of av_gpu_decode_cut_of
 * (--wrap). */
#include "backend/gpu_decode.h"

av_gpu_decode_cut __real_av_gpu_decode_cut_of(const av_gpu_decode_sizes *of);
av_gpu_decode_cut __wrap_av_gpu_decode_cut_of(const av_gpu_decode_sizes *of);
av_gpu_decode_cut __wrap_av_gpu_decode_cut_of(const av_gpu_decode_sizes *of) {
  av_gpu_decode_sizes asked = *of;
  int ways[AV_GPU_DECODE_WAYS];
  asked.way = ways[of->n_in % av_gpu_decode_ways(of, ways)];
  return __real_av_gpu_decode_cut_of(&asked);
}
