/* Compact CSR of a rank's slab of counts: 3-4 bytes a non-zero.
 *
 * Gene numbers take 16 bits while G <= 65,536, else 32. Counts take 8 or 16 bits; the largest code
 * (255 or 65,535) is an escape whose true value sits in a side list. Values with fractions
 * (data.allow_non_counts) are kept as float. Rows hold genes in increasing order, no duplicates, no
 * zeros. Appended row by row by the readers through av_counts_builder.
 */
#ifndef AV_DATA_COUNTS_H
#define AV_DATA_COUNTS_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum av_count_kind { AV_COUNT_U8, AV_COUNT_U16, AV_COUNT_F32 } av_count_kind;

typedef struct av_counts {
  int64_t n_rows;
  int64_t n_genes;
  int64_t n_nonzero;
  int64_t *row_start; /* (n_rows + 1) */
  bool wide_genes;    /* gene is uint32_t, not uint16_t */
  void *gene;         /* (n_nonzero) uint16_t or uint32_t: position among the genes used */
  av_count_kind kind;
  void *value; /* (n_nonzero) uint8_t, uint16_t or float */
  int64_t n_escaped;
  int64_t *escaped_at;   /* (n_escaped) positions in value, increasing */
  double *escaped_value; /* (n_escaped) */
} av_counts;

void av_counts_free(av_counts *counts);

/* Bytes held by `counts`. */
int64_t av_counts_bytes(const av_counts *counts);

/* Expands one row: gene (>= the row's length) and value receive its entries; returns their number.
 * Thread-safe. */
int64_t av_counts_row(const av_counts *counts, int64_t row, int32_t *gene, float *value);
/* Asks for the row's memory, for an av_counts_row soon after. */
void av_counts_fetch(const av_counts *counts, int64_t row);
/* Number of the first escape at or after position `at`; n_escaped if there is none. */
int64_t av_counts_escape_from(const av_counts *counts, int64_t at);
/* Longest row. */
int64_t av_counts_longest_row(const av_counts *counts);
/* sum (n_rows): of the values of each of n_rows rows from `first` on, exact while below 2^53. */
void av_counts_sum_rows(const av_counts *counts, int64_t first, int64_t n_rows, double *sum);

/* Building: begin, then add rows in order, then finish. The storage kind widens by itself (u8 to
 * u16 when more than one entry in 64 would be an escape) with a bounded copy; `fractions` selects
 * F32. av_builder_finish trims the arrays into `counts`; after it, or av_builder_free, the builder
 * is empty. All fail with AV_NOMEM only. */
typedef struct av_counts_builder av_counts_builder;
av_status av_builder_create(av_counts_builder **builder, int64_t n_genes, int64_t n_rows_expected,
                            int64_t n_nonzero_expected, bool fractions);
/* Entries may be unsorted and repeat a gene (values are added); zeros are dropped. */
av_status av_builder_add_row(av_counts_builder *builder, int64_t n, const int32_t *gene,
                             const double *value);
/* Rows built elsewhere, e.g. by another thread: av_builder_part empties `part`, whose codes then
 * are as wide as those of `whole` (nobody may add to `whole` meanwhile), and which needs no memory,
 * and so cannot fail, while it holds no more rows and entries than it was created for.
 * av_builder_append adds the rows of a part of that builder. */
av_status av_builder_part(av_counts_builder *part, const av_counts_builder *whole);
av_status av_builder_append(av_counts_builder *builder, const av_counts_builder *part);
/* Rows so far; and taking back all but the first n_rows of them. */
int64_t av_builder_n_rows(const av_counts_builder *builder);
void av_builder_cut(av_counts_builder *builder, int64_t n_rows);
av_status av_builder_finish(av_counts_builder *builder, av_counts *counts);
void av_builder_free(av_counts_builder **builder);

#endif
