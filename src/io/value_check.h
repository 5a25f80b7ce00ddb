/* Are these values counts? Looks at every value of the genes used; the verdict is collective.
 * Internal to src/io.
 */
#ifndef AV_IO_VALUE_CHECK_H
#define AV_IO_VALUE_CHECK_H

#include "data/dataset.h"
#include "io/stored.h"

/* A value that is not a count. */
typedef struct av_bad_value {
  int64_t row;    /* cell in the file */
  int64_t column; /* gene in the matrix */
  int64_t gene;   /* the same among the genes used */
  double value;
} av_bad_value;

typedef struct av_value_check {
  bool allow_fractions; /* data.allow_non_counts: negative, NaN and infinite stay errors */
  double largest;       /* see av_stored */
  double unrounded;
  const int64_t *gene_column;
  int64_t n_checked, n_bad, n_fractions, n_rounded; /* of this rank; zeros may be left out */
  av_bad_value first;                               /* lowest (row, column); row = -1: none */
} av_value_check;

void av_value_check_begin(av_value_check *check, const av_stored *stored, const av_dataset *dataset,
                          bool allow_fractions);

/* Values of one cell: gene (n) positions among the genes used. */
void av_check_values(av_value_check *check, int64_t row, int64_t n, const int32_t *gene,
                     const double *value);

/* Adds what another check of the same matrix has seen. */
void av_value_check_merge(av_value_check *check, const av_value_check *other);

/* Adds up over the ranks. If any value is bad: AV_BADDATA, one line naming the first in row order,
 * how many there are and what to do: another matrix of the file that holds counts, or
 * allow_non_counts. Collective; the line is the same for any number of ranks. */
av_status av_value_check_finish(av_value_check *check, const av_comm *comm, const av_matrix *matrix,
                                hid_t file, const char *path, const char *counts,
                                const av_dataset *dataset);

/* Whether a matrix of the file holds counts, judged by a sample of at most about a million stored
 * values spread over it: whole numbers >= 0, not all of them 0. Not collective. */
av_status av_matrix_holds_counts(hid_t file, const char *path, const char *counts, bool *holds);

/* Name of one cell, read alone; NULL if that cannot be done simply (old compound tables). Owned. */
char *av_cell_name(hid_t file, int64_t row);

#endif
