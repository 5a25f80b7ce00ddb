/* Looks at the stored values of a matrix to say whether they are counts. Internal to src/io. */
#ifndef AV_IO_INSPECT_VALUES_H
#define AV_IO_INSPECT_VALUES_H

#include "io/matrix.h"

typedef struct av_value_summary {
  int64_t n_looked; /* stored values seen */
  bool all;         /* that is all of them; else evenly spread blocks */
  bool nonzero;     /* one of them is not 0 */
  int64_t n_bad;    /* negative, with a fraction, NaN or infinite */
  double first_bad;
  double largest;
} av_value_summary;

/* All values up to 2^25 stored ones, else a sample of 2^22. Not collective. */
av_status av_summarise_values(const av_matrix *matrix, av_value_summary *summary);

#endif
