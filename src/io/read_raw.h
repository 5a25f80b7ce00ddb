/* The rows of a CSR slab by all threads of a rank: each takes the next rows, reads and decompresses
 * their entries, checks and packs them, and appends them when its turn comes. Internal to src/io.
 *
 * Bound: a bare H5Dread of data, indices and indptr by as many ranks; where chunks are compressed,
 * that divided by the threads (tests/bench/reading.py).
 */
#ifndef AV_IO_READ_RAW_H
#define AV_IO_READ_RAW_H

#include "io/read_slab.h"

/* Rows [first, first + n) of the slab the general way: through HDF5, into the builder, with the
 * errors that name what is wrong. */
typedef av_status (*av_read_rows_fn)(av_slab *slab, const int64_t *pointer, int64_t first,
                                     int64_t n, av_counts_builder *builder);

/* All rows of the slab; `pointer` (n_local + 1) is checked already. *done = false, and nothing has
 * been added, if the matrix is stored in a way that only `general` reads; single stretches of rows
 * that turn out odd are given to it. Rows read without it are added to dataset->n_read_raw.
 * AV_IOERR if a chunk is damaged, the file cannot be read, or it has become shorter. Memory: the
 * slab's block_bytes, for all threads together. Not collective; call from one thread, with the file
 * opened by HDF5's default driver: HDF5 is called from other threads, one at a time. */
av_status av_read_raw(av_slab *slab, const int64_t *pointer, av_counts_builder *builder,
                      av_read_rows_fn general, bool *done);

#endif
