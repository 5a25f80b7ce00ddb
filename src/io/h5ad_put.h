/* The elements of an .h5ad, each with the tags that anndata asks for. Internal to src/io; rank 0
 * only.
 *
 * `what` names the element for messages, e.g. "out.h5ad: uns/ldvae_loadings".
 */
#ifndef AV_IO_H5AD_PUT_H
#define AV_IO_H5AD_PUT_H

#include "base/status.h"

#include <hdf5.h>
#include <stdbool.h>
#include <stdint.h>

/* New types, to be closed: variable-length UTF-8; HDF5's way of a boolean in h5py (int8 enum). */
av_status av_put_text_type(hid_t *type);
av_status av_put_bool_type(hid_t *type);

av_status av_put_tags(hid_t object, const char *type, const char *version, const char *what);
av_status av_put_text_attribute(hid_t object, const char *name, const char *text, const char *what);
av_status av_put_bool_attribute(hid_t object, const char *name, bool value, const char *what);

/* A tagged group. Missing groups on the way are made, untagged. */
av_status av_put_group(hid_t *group, hid_t location, const char *link, const char *type,
                       const char *version, const char *what);
/* Makes every group on the way to `link` that is missing, tagged as dict; the last part of `link`
 * is not made. `path` names the file. */
av_status av_put_parents(hid_t file, const char *link, const char *path);

/* A dataframe in two steps: its group, made fit for n_columns names; and, when its datasets are in
 * it, its tags: the link of the row names and the columns in order. */
av_status av_put_frame_group(hid_t *group, hid_t location, const char *link, int64_t n_columns,
                             const char *what);
av_status av_put_frame_tags(hid_t group, const char *index, int64_t n_columns,
                            const char *const *columns, const char *what);

/* n strings. Bytes that are not UTF-8 are taken as Latin-1, with a warning: anndata reads no
 * others. */
av_status av_put_strings(hid_t location, const char *link, int64_t n, const char *const *strings,
                         const char *what);
/* The same byte for byte and without tags: not for anndata. */
av_status av_put_plain_strings(hid_t location, const char *link, int64_t n,
                               const char *const *strings, const char *what);
av_status av_put_text(hid_t location, const char *link, const char *text, const char *what);
/* n_dims = 0 gives a numeric scalar, else an array; `memory` is the type of `values`. */
av_status av_put_numbers(hid_t location, const char *link, int n_dims, const hsize_t *dims,
                         hid_t stored, hid_t memory, const void *values, const char *what);
/* n bytes, each 0 or 1. */
av_status av_put_booleans(hid_t location, const char *link, int64_t n, const unsigned char *values,
                          const char *what);
/* An array whose values come later, in slabs of rows: contiguous, or gzipped (level > 0) in chunks
 * of chunk_rows rows. The dataset stays open. */
av_status av_put_matrix(hid_t *dataset, hid_t location, const char *link, int n_dims,
                        const hsize_t *dims, hid_t stored, int64_t chunk_rows, int level,
                        const char *what);

#endif
