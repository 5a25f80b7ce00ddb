#include "io/inspect_values.h"

#include "base/memory.h"
#include "io/stored.h"

#include <math.h>
#include <stdlib.h>

enum { LOOK_AT_ALL = 1 << 25, N_BLOCKS = 64, BLOCK_VALUES = 1 << 16 };

static void look(av_value_summary *summary, int64_t n, const double *value) {
  for (int64_t i = 0; i < n; ++i) {
    const double x = value[i];
    if (!(x >= 0 && isfinite(x) && x == floor(x))) {
      summary->first_bad = summary->n_bad++ == 0 ? x : summary->first_bad;
    }
    summary->nonzero = summary->nonzero || x != 0;
    summary->largest = x > summary->largest ? x : summary->largest;
  }
  summary->n_looked += n;
}

/* Where block b begins among `total` units, read in blocks of `size`: one after the other if all
 * are looked at, else evenly spread. */
static int64_t block_start(const av_value_summary *summary, int64_t b, int64_t total,
                           int64_t size) {
  return summary->all ? b * size
                      : (int64_t)((double)(total - size) * (double)b / (double)(N_BLOCKS - 1));
}

static av_status look_at_entries(av_stored *stored, double *value, int32_t *index,
                                 av_value_summary *summary) {
  const int64_t total = stored->matrix->n_stored;
  const int64_t n_blocks = summary->all ? (total + BLOCK_VALUES - 1) / BLOCK_VALUES : N_BLOCKS;
  for (int64_t b = 0; b < n_blocks; ++b) {
    const int64_t first = block_start(summary, b, total, BLOCK_VALUES);
    const int64_t n = total - first < BLOCK_VALUES ? total - first : BLOCK_VALUES;
    AV_TRY(av_stored_entries(stored, first, n, value, index));
    look(summary, n, value);
  }
  return AV_OK;
}

/* Whole rows, or the first columns of one row where a row is longer than a block. */
static av_status look_at_tiles(av_stored *stored, double *value, av_value_summary *summary) {
  const av_matrix *matrix = stored->matrix;
  const int64_t columns = matrix->n_columns < BLOCK_VALUES ? matrix->n_columns : BLOCK_VALUES;
  const int64_t rows = BLOCK_VALUES / columns;
  const int64_t size = rows < matrix->n_rows ? rows : matrix->n_rows;
  summary->all = summary->all && columns == matrix->n_columns;
  const int64_t n_blocks =
      summary->all || size == matrix->n_rows ? (matrix->n_rows + size - 1) / size : N_BLOCKS;
  for (int64_t b = 0; b < n_blocks; ++b) {
    const int64_t first = block_start(summary, b, matrix->n_rows, size);
    const int64_t n = matrix->n_rows - first < size ? matrix->n_rows - first : size;
    AV_TRY(av_stored_tile(stored, first, n, 0, columns, value));
    look(summary, n * columns, value);
  }
  return AV_OK;
}

av_status av_summarise_values(const av_matrix *matrix, av_value_summary *summary) {
  *summary = (av_value_summary){.all = matrix->n_stored <= LOOK_AT_ALL};
  if (matrix->n_stored == 0) {
    return AV_OK;
  }
  av_comm self;
  av_comm_self(&self);
  av_stored stored;
  av_read_limits limits = av_read_limits_default();
  AV_TRY(av_stored_open(&stored, &self, matrix, &limits));
  double *value = av_malloc(BLOCK_VALUES, sizeof *value);
  int32_t *index = av_malloc(BLOCK_VALUES, sizeof *index);
  av_status status = value == NULL || index == NULL
                         ? av_fail(AV_NOMEM, "out of memory (%s)", matrix->what)
                         : AV_OK;
  if (status == AV_OK && matrix->layout == AV_MATRIX_DENSE) {
    status = look_at_tiles(&stored, value, summary);
  } else if (status == AV_OK) {
    status = look_at_entries(&stored, value, index, summary);
  }
  free(index);
  free(value);
  return status;
}
