/* One matrix of counts inside an .h5ad: where it is, how it is laid out, and reading slabs of it.
 * Internal to src/io.
 */
#ifndef AV_IO_MATRIX_H
#define AV_IO_MATRIX_H

#include "io/h5.h"
#include "io/h5ad_read.h"

typedef struct av_matrix {
  av_matrix_layout layout;
  int64_t n_rows, n_columns;   /* cells, genes of this matrix */
  int64_t n_stored;            /* len(data); dense: n_rows * n_columns */
  bool integer_type;           /* stored as an integer or bool: exact at any size */
  char *what;                  /* "pbmc.h5ad: layers/counts", for messages */
  hid_t data, indices, indptr; /* datasets; dense: data only, the others -1 */
} av_matrix;

/* Opens X, layers/NAME or raw/X (`counts`), or a matrix by link path, and checks what can be
 * checked without reading values: encodings of all anndata versions, `shape`/`h5sparse_shape`,
 * lengths, ranks, numeric types, filters available, no virtual or external storage that is missing.
 * A matrix that is absent or null: AV_CONFIG naming those that exist. Not collective. */
av_status av_matrix_open(av_matrix *matrix, hid_t file, const char *path, const char *counts);
void av_matrix_close(av_matrix *matrix);

/* The matrices of the file by the names users give them, present and not null: X, layers/...,
 * raw/X. Not collective; free with av_names_free. */
av_status av_matrix_list(av_names *links, hid_t file, const char *path);

/* Chunk shape (n_dims) and the bytes of one chunk; bytes = 0 if the dataset is not chunked. */
av_status av_matrix_chunk(hid_t dataset, const char *what, int n_dims, hsize_t *chunk,
                          int64_t *bytes);

#endif
