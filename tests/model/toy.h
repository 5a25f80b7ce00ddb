/* A small data set made in memory, the same on any number of ranks. */
#ifndef AV_TESTS_MODEL_TOY_H
#define AV_TESTS_MODEL_TOY_H

#include "data/dataset.h"
#include "train/split.h"

#include <stdbool.h>

/* n_cells x n_genes counts of a few factors, n_batches batches in turn; every 7th cell validates.
 * Cells are split over comm's ranks. Aborts the test when out of memory. */
void toy_create(av_dataset *dataset, av_split *split, const av_comm *comm, int64_t n_cells,
                int64_t n_genes, int64_t n_batches);

/* What a cell may have besides: nothing by default. */
typedef struct toy_extras {
  int64_t levels[2];    /* categories of up to two categorical covariates; 0: no such covariate */
  int64_t n_continuous; /* continuous covariates, at most 3 */
  int64_t n_labels;     /* categories of the labels; 0: none */
  bool size_factor;
} toy_extras;

/* Adds them, once, and makes dataset->design anew. */
void toy_add(av_dataset *dataset, const toy_extras *extras);
void toy_free(av_dataset *dataset, av_split *split);

/* Dense counts x (n, G) and total counts s (n) of this rank's training cells; returns their number
 * n. */
int64_t toy_dense_counts(const av_dataset *dataset, const av_split *split, double *x, double *s);

#endif
