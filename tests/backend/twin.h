/* A small data set and a pair of backends on it, the reference and the one tested, with pairs of
 * arrays that hold the same numbers: what the tests of this folder stand on. */
#ifndef AV_TESTS_TWIN_H
#define AV_TESTS_TWIN_H

#include "backend/backend.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

/* Entries may differ by this share of the largest of their array. */
#define TOLERANCE 1e-5

/* Fails the test, with the error's text, unless `status` is AV_OK. */
void require(av_status status);

/* Random numbers of the tests: the same on every rank. */
typedef struct source {
  uint64_t item;
} source;
double source_uniform(source *from, double low, double high);
double source_normal(source *from);

typedef struct twin_shape {
  int64_t cells, genes, batches, rows; /* rows: of the minibatch, spread over the cells */
  int64_t spare;                       /* rows that it could hold beyond those */
  double filled;
  double times; /* that counts are as large; 0: 1 */
  bool fractions;
  int64_t categorical; /* covariates, of 3, 1, 5, 3, 1, ... categories ... */
  int64_t categories;  /* ... but if this is not 0, of so many each */
  int64_t continuous;  /* covariates, one large, one constant, the others normal */
  int64_t labels;      /* categories of labels; 0: none */
  bool size_factors;
  int threads;
  bool strict;
} twin_shape;

/* Cells x genes of counts, `filled` non-zeros a cell on average (cell 1 has none, cell 2 counts
 * that need an escape, fractions if asked), batches, covariates, labels and size factors at random.
 * Fails the test without memory. */
void make_dataset(av_dataset *dataset, const twin_shape *shape, uint64_t seed);

void free_dataset(av_dataset *dataset);

enum { REFERENCE, TESTED, TWINS };

typedef struct av_twin {
  av_dataset dataset;
  av_comm comm;
  av_backend be[TWINS];
  av_data *data[TWINS];
  av_batch *batch[TWINS];
  int64_t n;       /* rows selected */
  int64_t spare;   /* rows of the batch beyond those */
  int64_t columns; /* O of the dataset's design */
} av_twin;

void twin_open(av_twin *twin, const twin_shape *shape);
/* Local row of the minibatch's row i. */
int64_t twin_row(const av_twin *twin, int64_t i);
void twin_close(av_twin *twin);

/* Runs `check` on shapes of every kind, order-free or not, and in every way (tested.h). */
void on_all_shapes(void (*check)(av_twin *));

/* An array on both backends. */
typedef struct av_pair {
  av_twin *twin;
  av_kind kind;
  int64_t n;
  void *at[TWINS];
} av_pair;

av_pair pair_zeros(av_twin *twin, av_kind kind, int64_t n);
/* Normal deviates times `scale`, plus `shift`, rounded to float. */
av_pair pair_normals(av_twin *twin, av_kind kind, int64_t n, source *from, double shift,
                     double scale);
av_pair pair_values(av_twin *twin, av_kind kind, int64_t n, const double *values);
void pair_set(av_pair *pair, const double *values);
void pair_free(av_pair *pair);
double *pair_read(const av_pair *pair, int which); /* to free */

/* Fails unless max |tested - reference| <= tolerance * max |reference|. */
void same(const char *what, const av_pair *pair, double tolerance);
/* The same for the entries from row `row` of n on alone, if there are such. */
void same_part(const char *what, const av_pair *pair, int64_t row, int64_t n, double tolerance);
/* The same where results cancel: relative to `size` if that is larger than the largest entry. */
void same_beside(const char *what, const av_pair *pair, double tolerance, double size);
void same_numbers(const char *what, int64_t n, const double *tested, const double *reference,
                  double tolerance, double size);

/* Calls operation `op` on both backends; arguments in terms of `t` (TWINS index). */
#define BOTH(twin_, call)                        \
  do {                                           \
    for (int t = 0; t < TWINS; ++t) {            \
      av_backend *be = &(twin_)->be[t];          \
      const av_batch *batch = (twin_)->batch[t]; \
      (void)batch;                               \
      be->ops->call;                             \
    }                                            \
  } while (0)

#endif
