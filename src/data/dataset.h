/* What a run knows of its input: names, this rank's counts and the facts about its cells. */
#ifndef AV_DATA_DATASET_H
#define AV_DATA_DATASET_H

#include "base/comm.h"
#include "data/counts.h"
#include "data/design.h"
#include "data/names.h"
#include "data/partition.h"

#include <math.h>

enum { AV_SPLIT_TRAIN = 0, AV_SPLIT_VALIDATION = 1, AV_SPLIT_TEST = 2 };

/* A categorical column over this rank's cells. Levels are on every rank. */
typedef struct av_factor {
  av_names levels; /* in category order, unused ones removed */
  int32_t *code;   /* (n_local) index into levels; -1 = missing (allowed for labels only) */
} av_factor;

typedef struct av_dataset {
  int64_t n_cells;      /* N, cells in the file */
  int64_t n_file_genes; /* columns of the matrix read */
  int64_t n_genes;      /* G, genes used */
  int64_t n_nonzero;    /* over all ranks and genes used */
  av_names genes;       /* (G) names, in the order used; on every rank */
  int64_t *gene_column; /* (G) column of each in the matrix read */
  int64_t *gene_var;    /* (G) row of each in /var, -1 if it is not there (raw/X has more genes) */
  av_partition partition;
  int64_t first; /* global number of this rank's first cell */
  int64_t n_local;
  av_counts counts;      /* (n_local x G) */
  av_factor batch;       /* levels.n = S; one level "" and all codes 0 without batch_key */
  bool has_batch;        /* batch_key given and more than one category */
  av_factor label;       /* code NULL without labels_key */
  int64_t n_categorical; /* categorical covariates, and their obs columns' names and contents */
  av_names categorical_names;
  av_factor *categorical; /* (n_categorical) */
  int64_t n_continuous;   /* continuous covariates likewise */
  av_names continuous_names;
  double *continuous;    /* (n_local, n_continuous) finite; NULL without */
  double *size_factor;   /* (n_local) positive; NULL without size_factor_key */
  av_design design;      /* batch and covariates as the model sees them: av_dataset_design */
  int8_t *split;         /* (n_local) from split_key, or NULL: the run draws it */
  double *library;       /* (n_local) total count over the genes used */
  int64_t n_empty_cells; /* over all ranks; 0 unless empty_cells = nan */
  int64_t n_empty_genes; /* genes without a count in any cell */
  int64_t n_read_raw;    /* cells of this rank read past HDF5's own read */
  char *input_path;
  int64_t input_bytes;
  uint64_t names_checksum; /* FNV-1a over obs names and genes used: identifies the input */
} av_dataset;

void av_dataset_free(av_dataset *dataset);

/* Makes dataset->design anew from batch and covariates: when they are read, and again when a loaded
 * model has renumbered them. Not collective. */
av_status av_dataset_design(av_dataset *dataset);

/* Its sizes alone, without the columns of each cell: before counts are read. Not collective. */
av_status av_dataset_size_design(av_dataset *dataset);

/* What scales cell i's expression: its size factor, or its total count; and the log of that. */
static inline double av_size(const av_dataset *dataset, int64_t i) {
  return dataset->size_factor != NULL ? dataset->size_factor[i] : dataset->library[i];
}
static inline double av_log_size(const av_dataset *dataset, int64_t i) {
  return log(av_size(dataset, i));
}

#endif
