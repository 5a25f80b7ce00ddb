/* Writing the output .h5ad: encodings that anndata 0.7 to 0.13 read (h5ad keys: io/h5ad_keys.h).
 *
 * The file is always written whole: a temporary beside it, every return code checked, closed,
 * fsynced, reopened and verified, renamed. After an error nothing of it remains. Only rank 0
 * touches the file; matrices of cells arrive from all ranks in bounded blocks.
 */
#ifndef AV_IO_H5AD_WRITE_H
#define AV_IO_H5AD_WRITE_H

#include "base/comm.h"
#include "config/config.h"
#include "data/dataset.h"

/* A named table of doubles or floats to write as a dataframe or array. */
typedef struct av_table {
  int64_t n_rows, n_columns;
  const char *const *row_names;    /* (n_rows), NULL for 0, 1, 2, ... */
  const char *const *column_names; /* (n_columns) */
  const double *values;            /* (n_columns, n_rows): column after column */
  bool as_float32;                 /* stored width */
} av_table;

typedef struct av_writer av_writer;

/* Checks before training that the output can be made: directory exists and is writable, file absent
 * or overwrite, enough free space for `bytes_needed` (the results; the size of the input that
 * append and copy copy is added here), the model's file likewise, append/copy allowed for this
 * input (not for files of 0.6 and older), keys of ours absent in it or overwrite. Rank 0 checks,
 * all ranks get the same status. Changes nothing. Collective. */
av_status av_writer_preflight(const av_comm *comm, const av_config *config, int64_t bytes_needed);

/* Creates the temporary file with obs and var of the input (results: obs columns, var columns of
 * the genes used; copy, append: a byte copy of the input), the empty mappings and tags. Collective.
 */
av_status av_writer_create(av_writer **writer, const av_comm *comm, const av_config *config,
                           const av_dataset *dataset);

enum { AV_ROW_CALLS = 2 }; /* under way at a time */

/* Where rows of an N x n_columns matrix come from. `begin` begins rows [first_row, first_row +
 * n_rows) of this rank's slab (local numbering), which are whole in out (n_rows, n_columns) when
 * `end` has returned for them. Rows come in increasing order; up to AV_ROW_CALLS are under way, and
 * ended in their order, so that what makes rows has work while others are written. Either may be
 * expensive (decode on the backend), and fail: nothing is ended then, and out is not written to any
 * more. Not collective. */
typedef struct av_row_source {
  void *context;
  av_status (*begin)(void *context, int64_t first_row, int64_t n_rows, void *out);
  av_status (*end)(void *context); /* NULL: rows are whole when begin has returned */
} av_row_source;

/* Writes a cells x n_columns float32 matrix, e.g. "obsm/X_scvi", gathered in bounded blocks.
 * Collective. */
av_status av_writer_cell_matrix(av_writer *writer, const char *link, int64_t n_columns,
                                const av_row_source *source);
/* Two matrices filled by one call (out (n_rows, n_columns) of the first, then of the second, back
 * to back), so that work shared between them is done once. Either link may be NULL. Collective. */
av_status av_writer_cell_matrix_pair(av_writer *writer, const char *link_a, const char *link_b,
                                     int64_t n_columns, const av_row_source *source);

/* Bytes of blocks that these take at most for `n_columns`, on rank 0 or on any other. */
int64_t av_writer_buffers(bool first_rank, int64_t n_columns);

/* Small things; collective, the content is rank 0's. `link` such as "uns/ldvae_loadings";
 * intermediate groups are made as tagged dicts. */
av_status av_writer_table(av_writer *writer, const char *link, const av_table *table);
av_status av_writer_array(av_writer *writer, const char *link, int64_t n_rows, int64_t n_columns,
                          const double *values, bool as_float32); /* n_columns = 0: 1-D */
av_status av_writer_text(av_writer *writer, const char *link, const char *text);
av_status av_writer_number(av_writer *writer, const char *link, double value);
av_status av_writer_integer(av_writer *writer, const char *link, int64_t value);
av_status av_writer_strings(av_writer *writer, const char *link, const av_names *names);
/* Rows for all n_var genes of the output's var (copy, append: NaN where a gene is not used):
 * values (G, n_columns) row-major for the genes used. */
av_status av_writer_varm(av_writer *writer, const char *link, int64_t n_columns,
                         const double *values);
/* One byte a cell of this rank, written as a categorical-free int8 array, e.g. the split. */
av_status av_writer_cell_bytes(av_writer *writer, const char *link, const int8_t *values);

/* Closes the file and waits until its disk has it: commit's first part, for who times it by itself.
 * Nothing can be written any more. Collective. */
av_status av_writer_store(av_writer *writer);
/* Closes, fsyncs, reopens, verifies (every dataset written is there with its shape, and the
 * checksum of the float matrices read back) and renames; on failure removes the temporary.
 * Collective. */
av_status av_writer_commit(av_writer **writer);
/* Removes the temporary and frees; accepts NULL. Collective (each rank frees its part). */
void av_writer_discard(av_writer **writer);

#endif
