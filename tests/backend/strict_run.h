/* One way of running the operations on a minibatch: a cpu backend with some of the rows, and notes
 * of what came out, to be compared with those of another way. */
#ifndef AV_TESTS_STRICT_RUN_H
#define AV_TESTS_STRICT_RUN_H

#include "backend/twin.h"

enum { CELLS = 90, ROWS = 61, BLOCKS = 64, MOST = 4096 };

/* One backend with its rows [first, first + n) of the minibatch, and the results so far. */
typedef struct run {
  av_backend be;
  av_data *data;
  av_batch *batch;
  const av_dataset *dataset;
  int64_t first, n;
  int64_t genes, batches, labels;
  int64_t onehot; /* O: batches and two covariates */
  uint64_t *sums; /* checksums of results that all ranks share */
  int n_sums;
  double *cells; /* results of this rank's cells, one block after another */
  int64_t n_cells, most_cells;
  int64_t width[BLOCKS]; /* numbers a row of each block */
  int n_blocks;
} run;

/* `dataset` (CELLS cells) is borrowed. Fails the test if anything fails, as all below. */
void run_open(run *r, const av_comm *comm, const av_dataset *dataset, int threads, bool strict,
              int64_t first, int64_t n);
void run_close(run *r);

/* Zeros. */
void *array(run *r, av_kind kind, int64_t n);
/* The same numbers on every rank; `rows_of` > 0: this rank's part of n for each row. */
void *numbers(run *r, av_kind kind, int64_t rows_of, int64_t n, uint64_t item, double shift,
              double scale);
void release(run *r, void **arrays, size_t n);

/* Notes a checksum of an array that all ranks have in common. */
void note_shared(run *r, av_kind kind, const void *at, int64_t n);
/* The same of an array that is made global first. */
void note_sum(run *r, av_kind kind, void *at, int64_t n);
/* Notes n numbers for each of this rank's rows. */
void note_cells(run *r, const void *at, int64_t n);

#endif
