/* Reading an .h5ad: metadata once by rank 0, this rank's slab of counts by every rank.
 *
 * Layouts: h5ad as written by anndata 0.5 to 0.13, R and Julia. X, layers/NAME or raw/X; CSR, CSC
 * (redistributed, file read once), dense; every numeric type.
 */
#ifndef AV_IO_H5AD_READ_H
#define AV_IO_H5AD_READ_H

#include "base/comm.h"
#include "config/config.h"
#include "data/dataset.h"

typedef enum av_matrix_layout { AV_MATRIX_CSR, AV_MATRIX_CSC, AV_MATRIX_DENSE } av_matrix_layout;

/* The shape of the input, known before any count is read. */
typedef struct av_input_plan {
  av_matrix_layout layout;
  int64_t n_cells, n_file_genes, n_genes;
  int64_t n_stored;     /* stored values of the matrix (dense: cells x genes) */
  int64_t stored_bytes; /* on disk, of the matrix's arrays */
  double *shard_weight; /* (av_shard_count(n_cells)) or NULL if unknown (CSC, dense) */
} av_input_plan;
void av_input_plan_free(av_input_plan *plan);

/* Reads metadata (names, columns, gene selection) for `atlasvi check` and as the first half of
 * av_h5ad_read: fills everything in `dataset` except partition, counts, library, design and the
 * per-cell arrays' local parts, which hold ALL cells on rank 0 (first = 0, n_local = n_cells there)
 * and nothing elsewhere. Errors: a name that the file lacks is AV_CONFIG (with av_config_where and
 * the nearest name); wrong content is AV_BADDATA. Collective. */
av_status av_h5ad_read_metadata(const av_comm *comm, const av_config *config, av_dataset *dataset,
                                av_input_plan *plan);

/* After that, reads this rank's part: partition by weight, distribution of the per-cell facts,
 * counts in blocks of bounded size by `threads` threads of each rank, value checks over ALL values
 * read of the genes used. Warnings (empty genes, duplicate names, ...) are logged by rank 0.
 * Collective. */
av_status av_h5ad_read_counts(const av_comm *comm, const av_config *config, int threads,
                              av_dataset *dataset, const av_input_plan *plan);

/* Both. Collective. */
av_status av_h5ad_read(const av_comm *comm, const av_config *config, int threads,
                       av_dataset *dataset);

/* Whether the matrix to read holds counts, judged by a sample of at most about a million stored
 * values over all genes: for `atlasvi check`. Collective. */
av_status av_h5ad_sample_counts(const av_comm *comm, const av_config *config, bool *counts);

/* `atlasvi inspect`: prints what the file holds: matrices (layout, type, shape, stored values,
 * filters, whether they hold counts, found by looking at all values of small ones and a stated
 * sample of large ones), obs and var columns with kind, number of categories and first values,
 * obsm, varm, uns keys, and a suggested [data] section. Not collective: rank 0. */
av_status av_h5ad_inspect(const char *path, FILE *out);

#endif
