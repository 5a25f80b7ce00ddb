/* Which genes a run uses, and where they are. Internal to src/io. */
#ifndef AV_IO_GENES_H
#define AV_IO_GENES_H

#include "config/config.h"
#include "data/dataset.h"
#include "io/h5.h"

/* Fills genes, gene_column, gene_var, n_genes of `dataset` for the matrix data.counts with
 * n_columns genes: subset_genes given: those, in that order. Names are looked up in the matrix's
 * own table (raw/X: raw/var); they are 0-based columns if every entry is an integer and none is a
 * gene's name. use_highly_variable_genes and the flag column exists in /var (raw/X: else in
 * raw/var): the flagged ones, in the order of the table; raw/X finds those of /var by name.
 *   otherwise: all.
 * Names, indices or a highly_variable_key that the file lacks: AV_CONFIG. A name needed to find a
 * gene that occurs twice, a flag column that cannot be used, no gene left: AV_BADDATA. Not
 * collective. */
av_status av_genes_select(hid_t file, const char *path, const av_config *config, int64_t n_columns,
                          av_dataset *dataset);

#endif
