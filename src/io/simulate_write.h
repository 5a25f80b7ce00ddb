/* The simulated .h5ad, written block by block: memory does not grow with the number of cells.
 *
 * One process writes, through io/safe_file.h: a temporary beside the final name, closed, fsynced,
 * reopened and verified, renamed by commit; discard removes it. Layout: h5ad-format, as anndata 0.8
 * writes it. X is CSR with float32 data; indices and indptr have the same type: int32 when the
 * expected number of non-zeros is well below 2^31, else int64.
 */
#ifndef AV_IO_SIMULATE_WRITE_H
#define AV_IO_SIMULATE_WRITE_H

#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct av_sim_shape {
  int64_t cells, genes, factors, batches, labels;
  int compression;          /* gzip level of X, 0 for none */
  double nonzeros_expected; /* chooses index width and chunk size */
} av_sim_shape;

typedef struct av_sim_file av_sim_file;

/* Fails with AV_CANTCREATE when `path` exists (and not overwrite), is a directory, or its directory
 * is absent or not writable; with AV_IOERR when less than bytes_needed can be written there.
 * Changes nothing. */
av_status av_sim_file_check(const char *path, bool overwrite, double bytes_needed);

/* Creates the temporary file and everything whose size is known. */
av_status av_sim_file_create(av_sim_file **file, const char *path, bool overwrite,
                             const av_sim_shape *shape);

/* The next n cells. batch, label (n): codes; z (n, factors); library (n); indptr (n + 1) from 0;
 * indices, data (indptr[n]). */
av_status av_sim_file_append(av_sim_file *file, int64_t n, const int32_t *batch,
                             const int32_t *label, const float *z, const double *library,
                             const int64_t *indptr, const int32_t *indices, const float *data);

/* A float32 column of var (genes), and a float32 matrix of varm (genes, n_columns). */
av_status av_sim_file_gene_column(av_sim_file *file, const char *name, const float *values);
av_status av_sim_file_gene_matrix(av_sim_file *file, const char *name, int64_t n_columns,
                                  const float *values);

/* uns/simulation/NAME. */
av_status av_sim_file_integer(av_sim_file *file, const char *name, int64_t value);
av_status av_sim_file_real(av_sim_file *file, const char *name, double value);
av_status av_sim_file_text(av_sim_file *file, const char *name, const char *value);

/* Completes, verifies and renames; frees. On failure nothing remains. AV_FAIL_BUG when cells are
 * missing. */
av_status av_sim_file_commit(av_sim_file **file);
/* Removes the temporary and frees; accepts NULL. */
void av_sim_file_discard(av_sim_file **file);

#endif
