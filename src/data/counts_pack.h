/* Rows of a sparse matrix in the types they were stored in, packed a block at a time into a
 * builder's codes. Internal to src/data and src/io.
 *
 * Bound: a pass over the stored entries (8 bytes each, from cache) and over 3 bytes of codes.
 * The twin it is tested against is av_builder_add_row.
 */
#ifndef AV_DATA_COUNTS_PACK_H
#define AV_DATA_COUNTS_PACK_H

#include "data/counts.h"

typedef enum av_number {
  AV_NUMBER_NONE, /* not one of those below */
  AV_NUMBER_F32,
  AV_NUMBER_F64,
  AV_NUMBER_I8,
  AV_NUMBER_U8,
  AV_NUMBER_I16,
  AV_NUMBER_U16,
  AV_NUMBER_I32,
  AV_NUMBER_U32,
  AV_NUMBER_I64,
  AV_NUMBER_U64
} av_number;

size_t av_number_size(av_number kind);

/* Rows with entries pointer[0] .. pointer[n_rows] of a matrix. */
typedef struct av_raw_rows {
  int64_t n_rows;
  const int64_t *pointer; /* (n_rows + 1) */
  av_number value_kind;
  av_number index_kind;
  const void *value; /* (pointer[n_rows] - pointer[0]) in native byte order */
  const void *index; /* likewise; I32, U32, I64 or U64 */
} av_raw_rows;

/* Adds the rows if each has its genes in increasing order, all below the builder's n_genes, and all
 * values are whole numbers in 1 .. largest; else adds nothing: *added tells. Never for a builder of
 * fractions. AV_NOMEM. */
av_status av_builder_add_raw(av_counts_builder *builder, const av_raw_rows *rows, double largest,
                             bool *added);

/* One row as av_builder_add_row takes it: the entries whose column has a position >= 0, into gene
 * and value (room for `n`); returns their number, or -1 - i if entry i is not a column. `first`:
 * entries before the row. */
int64_t av_raw_expand(const av_raw_rows *rows, int64_t first, int64_t n, int64_t n_columns,
                      const int32_t *position, int32_t *gene, double *value);

/* --- kernels, over n entries ---------------------------------------------------------------- */

/* Codes of values, the escape code where a value is at least that; false if any value is not a
 * whole number in 1 .. largest (the codes are then worth nothing). *escapes: some are. */
bool av_pack_values(av_number kind, int64_t n, const void *value, double largest,
                    av_count_kind codes, void *code, bool *escapes);
/* Gene numbers; false if any is outside [0, n_genes). *descents: entries not above the one before
 * them. */
bool av_pack_genes(av_number kind, int64_t n, const void *index, int64_t n_genes, bool wide,
                   void *gene, int64_t *descents);
/* One number of any kind as a double; 64-bit ones are rounded. */
double av_number_at(av_number kind, const void *at, int64_t i);

#endif
