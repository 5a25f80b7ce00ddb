/* Undoing the filters of a chunk with our own calls, so that several threads can do it at once:
 * HDF5 lets one thread in at a time. Internal to src/io.
 *
 * Bound: the decompressor's own rate (libdeflate where it was built in, else zlib; liblzf).
 */
#ifndef AV_IO_CHUNK_FILTERS_H
#define AV_IO_CHUNK_FILTERS_H

#include "io/h5.h"

enum { AV_MOST_FILTERS = 2 };

typedef enum av_undo { AV_UNDO_SHUFFLE, AV_UNDO_DEFLATE, AV_UNDO_LZF } av_undo;

/* In the order in which they were applied to the chunk. */
typedef struct av_chunk_filters {
  int n;
  av_undo filter[AV_MOST_FILTERS];
  size_t element; /* bytes that shuffle takes apart */
} av_chunk_filters;

/* The filters of a dataset from its creation properties; false if any is not one of those above:
 * such chunks go through HDF5. */
bool av_chunk_filters_read(av_chunk_filters *filters, hid_t properties);

/* What one thread needs to undo them. Zeros are a valid beginning. */
typedef struct av_undoer {
  void *inflate; /* libdeflate's state */
  size_t room;
  unsigned char *space; /* (room) */
} av_undoer;
void av_undoer_free(av_undoer *undoer);

/* Why a chunk could not be unpacked, in the words that HDF5's own read has for it; borrowed. */
extern const char *const av_undo_no_memory;

/* Chunk bytes `packed` (n_packed) into `plain` (n_plain, all of them). `mask`: bit i set where
 * filter i was left out when this chunk was written. NULL if all went well; else what is wrong: the
 * chunk is damaged, or not of that size, or (av_undo_no_memory) memory is short. Thread-safe, each
 * with an undoer of its own. */
const char *av_chunk_undo(const av_chunk_filters *filters, av_undoer *undoer, uint32_t mask,
                          const unsigned char *packed, size_t n_packed, unsigned char *plain,
                          size_t n_plain);

#endif
