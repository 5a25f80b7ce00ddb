#include "io/chunk_filters.h"

#include "base/memory.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#ifdef AV_LIBDEFLATE
#include <libdeflate.h>
#endif
#if __has_include(<liblzf/lzf.h>)
#include <liblzf/lzf.h>
#else
#include <lzf.h>
#endif

enum { FILTER_LZF = 32000 };

const char *const av_undo_no_memory = "out of memory (a chunk)";

bool av_chunk_filters_read(av_chunk_filters *filters, hid_t properties) {
  *filters = (av_chunk_filters){0};
  const int n = H5Pget_nfilters(properties);
  bool known = n >= 0 && n <= AV_MOST_FILTERS;
  for (int i = 0; known && i < n; ++i) {
    unsigned flags = 0;
    unsigned value[8] = {0};
    size_t n_values = sizeof value / sizeof value[0];
    const H5Z_filter_t id =
        H5Pget_filter2(properties, (unsigned)i, &flags, &n_values, value, 0, NULL, NULL);
    switch (id) {
      case H5Z_FILTER_SHUFFLE:
        filters->filter[i] = AV_UNDO_SHUFFLE;
        filters->element = value[0];
        known = i == 0 && n_values >= 1 && value[0] > 0; /* before the compression */
        break;
      case H5Z_FILTER_DEFLATE:
        filters->filter[i] = AV_UNDO_DEFLATE;
        known = i == n - 1;
        break;
      case FILTER_LZF:
        filters->filter[i] = AV_UNDO_LZF;
        known = i == n - 1;
        break;
      default:
        known = false;
        break;
    }
    filters->n = i + 1;
  }
  return known;
}

void av_undoer_free(av_undoer *undoer) {
#ifdef AV_LIBDEFLATE
  if (undoer->inflate != NULL) {
    libdeflate_free_decompressor(undoer->inflate);
  }
#endif
  free(undoer->space);
  *undoer = (av_undoer){0};
}

static const char *undo_deflate(av_undoer *undoer, const unsigned char *packed, size_t n_packed,
                                unsigned char *plain, size_t n_plain) {
  static const char *const damaged = "inflate() failed";
#ifdef AV_LIBDEFLATE
  if (undoer->inflate == NULL) {
    undoer->inflate = libdeflate_alloc_decompressor();
  }
  if (undoer->inflate == NULL) {
    return av_undo_no_memory;
  }
  return libdeflate_zlib_decompress(undoer->inflate, packed, n_packed, plain, n_plain, NULL) ==
                 LIBDEFLATE_SUCCESS
             ? NULL
             : damaged;
#else
  (void)undoer;
  uLongf made = n_plain;
  const int result = uncompress(plain, &made, packed, n_packed);
  return result == Z_MEM_ERROR               ? av_undo_no_memory
         : result == Z_OK && made == n_plain ? NULL
                                             : damaged;
#endif
}

static const char *undo_lzf(const unsigned char *packed, size_t n_packed, unsigned char *plain,
                            size_t n_plain) {
  const bool fine = n_packed <= UINT32_MAX && n_plain <= UINT32_MAX &&
                    lzf_decompress(packed, (unsigned)n_packed, plain, (unsigned)n_plain) == n_plain;
  return fine ? NULL : "damaged lzf data";
}

/* Byte b of element i lies at b * n + i. */
static void unshuffle(size_t element, const unsigned char *restrict from, size_t n_bytes,
                      unsigned char *restrict to) {
  const size_t n = n_bytes / element;
  if (element == 4) {
    for (size_t i = 0; i < n; ++i) {
      const uint32_t word = (uint32_t)from[i] | (uint32_t)from[n + i] << 8 |
                            (uint32_t)from[2 * n + i] << 16 | (uint32_t)from[3 * n + i] << 24;
      memcpy(to + 4 * i, &word, sizeof word);
    }
  } else {
    for (size_t b = 0; b < element; ++b) {
      for (size_t i = 0; i < n; ++i) {
        to[i * element + b] = from[b * n + i];
      }
    }
  }
  memcpy(to + n * element, from + n * element, n_bytes - n * element);
}

static bool reserve(av_undoer *undoer, size_t room) {
  if (room > undoer->room) {
    free(undoer->space);
    undoer->space = av_malloc(room, 1);
    undoer->room = undoer->space != NULL ? room : 0;
  }
  return undoer->space != NULL;
}

const char *av_chunk_undo(const av_chunk_filters *filters, av_undoer *undoer, uint32_t mask,
                          const unsigned char *packed, size_t n_packed, unsigned char *plain,
                          size_t n_plain) {
  bool shuffled = false;
  bool packing = false;
  av_undo how = AV_UNDO_DEFLATE;
  for (int i = 0; i < filters->n; ++i) {
    if ((mask >> i & 1) == 0) {
      shuffled = shuffled || filters->filter[i] == AV_UNDO_SHUFFLE;
      packing = packing || filters->filter[i] != AV_UNDO_SHUFFLE;
      how = filters->filter[i] != AV_UNDO_SHUFFLE ? filters->filter[i] : how;
    }
  }
  if (!packing && n_packed != n_plain) {
    return "damaged: a chunk of the wrong size";
  }
  if (shuffled && packing && !reserve(undoer, n_plain)) {
    return av_undo_no_memory;
  }
  const unsigned char *bytes = packed;
  if (packing) {
    unsigned char *to = shuffled ? undoer->space : plain;
    const char *wrong = how == AV_UNDO_LZF ? undo_lzf(packed, n_packed, to, n_plain)
                                           : undo_deflate(undoer, packed, n_packed, to, n_plain);
    if (wrong != NULL) {
      return wrong;
    }
    bytes = to;
  }
  if (shuffled) {
    unshuffle(filters->element, bytes, n_plain, plain);
  } else if (bytes != plain) {
    memcpy(plain, bytes, n_plain);
  }
  return NULL;
}
