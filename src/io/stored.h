/* Pieces of a matrix's stored values, as exact doubles, by whichever rank touches the file.
 *
 * Normally every rank reads its own pieces. A file that keeps everything in one or two giant chunks
 * (as R writes them) would make every rank hold and decompress all of it: then rank 0 alone reads,
 * and serves the pieces that the others ask for ("relay").
 *
 *   av_stored_open          every rank
 *   av_stored_begin         rank 0 of a relay serves the others here, until all are done
 *   av_stored_entries/_tile any number of times, each rank at its own pace
 *   av_stored_end           always, also after a failure
 * Internal to src/io.
 */
#ifndef AV_IO_STORED_H
#define AV_IO_STORED_H

#include "io/matrix.h"

/* Sizes that bound memory; tests make them tiny. */
typedef struct av_read_limits {
  int64_t block_bytes;       /* values and indices expanded at a time, per rank */
  int64_t round_bytes;       /* entries received in one round of a redistribution, per rank */
  int64_t giant_chunk_bytes; /* one or two chunks above this size are read by rank 0 only */
  int threads;               /* of a rank, that read, decompress and add up */
} av_read_limits;
av_read_limits av_read_limits_default(void);

typedef enum av_stored_kind {
  AV_STORED_FLOAT,
  AV_STORED_DOUBLE,
  AV_STORED_SIGNED,
  AV_STORED_UNSIGNED,
  AV_STORED_BOOL
} av_stored_kind;

typedef struct av_stored {
  const av_comm *comm;
  const av_matrix *matrix;
  av_stored_kind kind;
  int64_t true_code;  /* BOOL: the code named TRUE */
  double largest;     /* whole numbers up to here are exact in the stored type and in a double */
  double unrounded;   /* half precision: whole numbers up to here are exact, else INFINITY */
  int64_t max_values; /* most values one call may ask for */
  bool relay;
} av_stored;

/* Not collective, but every rank gets the same `relay`. */
av_status av_stored_open(av_stored *stored, const av_comm *comm, const av_matrix *matrix,
                         const av_read_limits *limits);

/* `status`: this rank's success so far; returns it, or the failure to serve. A rank that brings a
 * failure to rank 0 of a relay makes the others' reads fail instead of waiting. */
av_status av_stored_begin(av_stored *stored, av_status status);
/* Tells rank 0 of a relay that this rank needs no more. Returns `status`, or the failure to say so.
 */
av_status av_stored_end(av_stored *stored, av_status status);

/* Entries [first, first + n) of a sparse matrix, n <= max_values. Indices beyond 32 bits arrive as
 * INT32_MAX or INT32_MIN. */
av_status av_stored_entries(av_stored *stored, int64_t first, int64_t n, double *value,
                            int32_t *index);
/* Rows [row, row + n_rows) x columns [column, column + n_columns) of a dense matrix, row-major. */
av_status av_stored_tile(av_stored *stored, int64_t row, int64_t n_rows, int64_t column,
                         int64_t n_columns, double *value);

/* indptr[first .. first + n], n + 1 numbers, checked: starts at 0 (first = 0), never decreases,
 * stays within and (at the end) reaches the stored values. `major`: "row" or "column", for
 * messages. Every rank reads the file. */
av_status av_read_pointers(const av_matrix *matrix, int64_t first, int64_t n, const char *major,
                           int64_t *pointer);
/* One index in full width, for messages; -1 if it cannot be read. */
int64_t av_read_index(const av_matrix *matrix, int64_t at);

#endif
