/* The tables obs, var and raw/var of every anndata version: which columns, the row names, and a
 * column as a factor, as numbers, as flags or as a split. Internal to src/io; nothing here is
 * collective.
 */
#ifndef AV_IO_DATAFRAME_H
#define AV_IO_DATAFRAME_H

#include "data/dataset.h"
#include "io/h5_element.h"

typedef struct av_frame {
  hid_t file;   /* borrowed */
  hid_t object; /* a group, or a compound dataset (0.6 and older) */
  bool compound;
  char *link;       /* "obs" */
  char *what;       /* "pbmc.h5ad: obs" */
  char *path;       /* the file's */
  char *index;      /* link, or member, of the row names */
  av_names columns; /* without the index */
  int64_t n_rows;
} av_frame;

/* Opens the table at `link` of an open file. AV_BADDATA if it is none. */
av_status av_frame_open(av_frame *frame, hid_t file, const char *path, const char *link);
void av_frame_close(av_frame *frame);
/* The link of raw's var ("raw/var", "raw.var"), NULL if there is none. Borrowed. */
av_status av_frame_raw_var(hid_t file, const char **link);

/* The row names. */
av_status av_frame_names(const av_frame *frame, av_names *names);
bool av_frame_has(const av_frame *frame, const char *column);
/* Fails with AV_CONFIG: `where` (av_config_where) asks for a column that is not there; names the
 * nearest and the columns that exist. `advice` ends the line. */
av_status av_frame_fail_missing(const av_frame *frame, const char *where, const char *column,
                                const char *advice);

/* How one column is stored. */
typedef enum av_column_kind {
  AV_COLUMN_PLAIN,
  AV_COLUMN_CATEGORICAL,
  AV_COLUMN_NULLABLE
} av_column_kind;
typedef struct av_column {
  av_column_kind kind;
  av_element values; /* codes of a categorical */
  av_element mask;   /* of a nullable array, else none */
  hid_t categories;  /* of a categorical, else -1 */
  bool ordered;
  char *what; /* "pbmc.h5ad: obs/batch" */
} av_column;
/* AV_BADDATA, naming the encoding, for what is neither of these kinds. */
av_status av_column_open(av_column *column, const av_frame *frame, const char *name);
void av_column_close(av_column *column);
/* AV_FLAG_* for each row, not FALSE where a nullable column is missing; NULL for the other kinds.
 * Owned. */
av_status av_column_mask(const av_column *column, unsigned char **masked);

/* A column as a factor: a categorical keeps its category order, without unused ones; text is sorted
 * by bytes; numbers are sorted as numbers and printed in decimal; False before True. Missing (code
 * -1): code -1, mask, NaN, and the text "nan", as which older anndata stored NaN among strings. */
av_status av_column_factor(const av_column *column, av_factor *factor);
/* The same for a column by name, which must exist. */
av_status av_frame_factor(const av_frame *frame, const char *name, av_factor *factor);
/* 0 or 1 for each row: bool by member name, 0/1 numbers, text or categories True/False. A missing
 * value or any other one is AV_BADDATA. */
av_status av_frame_flags(const av_frame *frame, const char *name, unsigned char **flags);
/* A number for each row, NaN where it is missing; False is 0 and True 1. Text and categoricals are
 * AV_BADDATA, of numbers too. */
av_status av_frame_numbers(const av_frame *frame, const char *name, double **values);
/* AV_SPLIT_* for each row from the words train, validation (val, valid) and test. Other words, and
 * missing values, are AV_BADDATA. */
av_status av_frame_split(const av_frame *frame, const char *name, int8_t **split);

#endif
