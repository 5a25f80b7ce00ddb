/* Entries that arrive out of row order, kept at about 5 bytes each until all are there: for
 * matrices stored by columns, and dense ones cut into column tiles. Internal to src/io.
 */
#ifndef AV_IO_ROW_BINS_H
#define AV_IO_ROW_BINS_H

#include "base/status.h"
#include "data/counts.h"

typedef struct av_row_bins av_row_bins;

av_status av_row_bins_create(av_row_bins **bins, int64_t n_rows, int64_t n_genes);
/* Zeros are dropped. */
av_status av_row_bins_add(av_row_bins *bins, int64_t row, int32_t gene, double value);
/* Entries kept. */
int64_t av_row_bins_size(const av_row_bins *bins);
/* Adds all rows to the builder, in order; within a row, entries keep the order of their arrival.
 * Frees as it goes; the bins are empty afterwards and can be filled again. */
av_status av_row_bins_flush(av_row_bins *bins, av_counts_builder *builder);
void av_row_bins_free(av_row_bins **bins);

#endif
