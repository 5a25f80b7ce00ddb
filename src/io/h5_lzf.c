#include "io/h5_lzf.h"

#include "io/h5.h"

#include <errno.h>
#include <stdlib.h>
#if __has_include(<liblzf/lzf.h>)
#include <liblzf/lzf.h>
#else
#include <lzf.h>
#endif

enum { FILTER_LZF = 32000 };

/* Parameters that h5py stores with each dataset: filter version, library version, bytes of a chunk.
 * The last is absent from the very first version of the filter. */
enum { PARAMETER_CHUNK_BYTES = 2 };

static size_t refuse(const char *why) {
  H5Epush2(H5E_DEFAULT, __FILE__, __func__, __LINE__, H5E_ERR_CLS, H5E_PLINE, H5E_CANTFILTER, "%s",
           why);
  return 0;
}

/* Undoes one chunk; HDF5's contract: returns the bytes now in *buffer, 0 on failure. */
static size_t lzf_filter(unsigned flags, size_t n_parameters, const unsigned parameters[],
                         size_t n_bytes, size_t *buffer_size, void **buffer) {
  if ((flags & H5Z_FLAG_REVERSE) == 0) {
    return refuse("lzf is read, never written, by this program");
  }
  if (n_bytes > UINT32_MAX) {
    return refuse("lzf chunk over 4 GiB");
  }
  size_t room = *buffer_size;
  if (n_parameters > PARAMETER_CHUNK_BYTES && parameters[PARAMETER_CHUNK_BYTES] != 0) {
    room = parameters[PARAMETER_CHUNK_BYTES];
  }
  /* A chunk that shuffle or fletcher32 made a little larger than recorded: try again with more. */
  for (int attempt = 0; attempt < 8 && room <= UINT32_MAX; ++attempt, room *= 2) {
    void *plain = H5allocate_memory(room, false);
    if (plain == NULL) {
      return refuse("out of memory for an lzf chunk");
    }
    const unsigned n_plain = lzf_decompress(*buffer, (unsigned)n_bytes, plain, (unsigned)room);
    if (n_plain > 0) {
      H5free_memory(*buffer);
      *buffer = plain;
      *buffer_size = room;
      return n_plain;
    }
    const int reason = errno;
    H5free_memory(plain);
    if (reason != E2BIG) {
      break;
    }
  }
  return refuse("damaged lzf data");
}

av_status av_h5_register_lzf(void) {
  static const H5Z_class2_t lzf = {.version = H5Z_CLASS_T_VERS,
                                   .id = FILTER_LZF,
                                   .encoder_present = 0,
                                   .decoder_present = 1,
                                   .name = "lzf",
                                   .filter = lzf_filter};
  return AV_H5(H5Zregister(&lzf), "the lzf filter");
}
