/* The obs columns that the settings name: batch, covariates, labels, size factors, split. Internal
 * to src/io; not collective.
 */
#ifndef AV_IO_CELL_COLUMNS_H
#define AV_IO_CELL_COLUMNS_H

#include "config/config.h"
#include "io/dataframe.h"

/* Reads them for all cells (their names: `cells`) into batch, label, categorical, continuous,
 * size_factor and split of `dataset`. Columns that are absent are AV_CONFIG, one line each; cells
 * without a value that the model needs are AV_BADDATA, with their number and first names. Warns of
 * covariates that are the same in all cells. */
av_status av_cell_columns_read(const av_frame *obs, const av_config *config, const av_names *cells,
                               av_dataset *dataset);

#endif
