/* Looking at a few values of a matrix, and at the name of one cell: for messages. */
#include "base/memory.h"
#include "io/h5.h"
#include "io/h5ad_keys.h"
#include "io/h5ad_read.h"
#include "io/value_check.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { N_PIECES = 16, PIECE_VALUES = 65536 };

typedef struct sample {
  bool bad;     /* a value that is no count */
  bool nonzero; /* a value that is not 0 */
} sample;

static void look(sample *seen, int64_t n, const double *value) {
  for (int64_t i = 0; i < n; ++i) {
    seen->bad = seen->bad || !(value[i] >= 0 && value[i] <= DBL_MAX && value[i] == floor(value[i]));
    seen->nonzero = seen->nonzero || value[i] != 0;
  }
}

/* Position of piece p out of N_PIECES of size `piece` in [0, total): evenly spread, 0 first. */
static int64_t piece_at(int64_t p, int64_t total, int64_t piece) {
  return total <= piece ? 0 : (int64_t)((double)(total - piece) / (N_PIECES - 1) * (double)p);
}

static av_status sample_sparse(av_stored *stored, double *value, int32_t *index, sample *seen) {
  const int64_t total = stored->matrix->n_stored;
  const int64_t n = total < PIECE_VALUES ? total : PIECE_VALUES;
  for (int64_t p = 0; p < N_PIECES && !seen->bad && (p == 0 || n < total); ++p) {
    AV_TRY(av_stored_entries(stored, piece_at(p, total, n), n, value, index));
    look(seen, n, value);
  }
  return AV_OK;
}

static av_status sample_dense(av_stored *stored, double *value, sample *seen) {
  const av_matrix *matrix = stored->matrix;
  if (matrix->n_stored == 0) {
    return AV_OK;
  }
  const int64_t columns = matrix->n_columns < PIECE_VALUES ? matrix->n_columns : PIECE_VALUES;
  int64_t rows = PIECE_VALUES / columns;
  rows = rows < matrix->n_rows ? rows : matrix->n_rows;
  for (int64_t p = 0; p < N_PIECES && !seen->bad && (p == 0 || rows < matrix->n_rows); ++p) {
    AV_TRY(av_stored_tile(stored, piece_at(p, matrix->n_rows, rows), rows, 0, columns, value));
    look(seen, rows * columns, value);
  }
  return AV_OK;
}

av_status av_matrix_holds_counts(hid_t file, const char *path, const char *counts, bool *holds) {
  *holds = false;
  av_comm self;
  av_comm_self(&self);
  av_matrix matrix;
  av_stored stored;
  sample seen = {false, false};
  av_read_limits limits = av_read_limits_default();
  limits.block_bytes = (int64_t)PIECE_VALUES * 16;
  AV_TRY(av_matrix_open(&matrix, file, path, counts));
  double *value = av_malloc(PIECE_VALUES, sizeof *value);
  int32_t *index = av_malloc(PIECE_VALUES, sizeof *index);
  av_status status = AV_OK;
  if (value == NULL || index == NULL) {
    status = av_fail(AV_NOMEM, "out of memory (sample of %s)", counts);
    goto done;
  }
  AV_GO(status, av_stored_open(&stored, &self, &matrix, &limits), done);
  if (matrix.layout == AV_MATRIX_DENSE) {
    AV_GO(status, sample_dense(&stored, value, &seen), done);
  } else {
    AV_GO(status, sample_sparse(&stored, value, index, &seen), done);
  }
  *holds = seen.nonzero && !seen.bad;
done:
  free(value);
  free(index);
  av_matrix_close(&matrix);
  return status;
}

av_status av_h5ad_sample_counts(const av_comm *comm, const av_config *config, bool *counts) {
  *counts = true;
  hid_t file = -1;
  av_status status = AV_OK;
  if (comm->rank == 0) {
    status = av_h5_open_input(&file, config->data.input);
  }
  if (comm->rank == 0 && status == AV_OK) {
    status = av_matrix_holds_counts(file, config->data.input, config->data.counts, counts);
  }
  av_h5_close(&file);
  return av_agree(comm, status);
}

/* Element `row` of a one-dimensional dataset of strings; NULL if it is anything else. */
static char *string_at(hid_t dataset, int64_t row) {
  const hsize_t at = (hsize_t)row;
  const hsize_t one = 1;
  hsize_t extent = 0;
  char *text = NULL;
  char *buffer = NULL; /* (width) fixed string */
  char *variable = NULL;
  const hid_t type = H5Dget_type(dataset);
  const hid_t space = H5Dget_space(dataset);
  const hid_t memory = H5Screate_simple(1, &one, NULL);
  if (type < 0 || space < 0 || memory < 0 || H5Tget_class(type) != H5T_STRING ||
      H5Sget_simple_extent_ndims(space) != 1 ||
      H5Sget_simple_extent_dims(space, &extent, NULL) < 0 || at >= extent ||
      H5Sselect_hyperslab(space, H5S_SELECT_SET, &at, NULL, &one, NULL) < 0) {
    goto done;
  }
  if (H5Tis_variable_str(type) > 0) {
    if (H5Dread(dataset, type, memory, space, H5P_DEFAULT, &variable) >= 0 && variable != NULL) {
      text = av_strdup(variable);
      H5Dvlen_reclaim(type, memory, H5P_DEFAULT, &variable);
    }
    goto done;
  }
  buffer = av_calloc(H5Tget_size(type) + 1, 1);
  if (buffer != NULL && H5Dread(dataset, type, memory, space, H5P_DEFAULT, buffer) >= 0) {
    for (size_t n = strlen(buffer); n > 0 && buffer[n - 1] == ' '; --n) {
      buffer[n - 1] = '\0';
    }
    text = av_strdup(buffer);
  }
done:
  free(buffer);
  hid_t ids[3] = {type, space, memory};
  for (int i = 0; i < 3; ++i) {
    av_h5_close(&ids[i]);
  }
  return text;
}

char *av_cell_name(hid_t file, int64_t row) {
  hid_t obs = -1;
  hid_t names = -1;
  hid_t values = -1;
  char *link = NULL;
  char *text = NULL;
  bool exists = false;
  if (av_h5_exists(file, AV_H5AD_OBS, &exists) != AV_OK || !exists ||
      av_h5_open_object(&obs, file, AV_H5AD_OBS, AV_H5AD_OBS) != AV_OK ||
      H5Iget_type(obs) != H5I_GROUP || av_h5_attribute_text(obs, AV_H5AD_INDEX, &link) != AV_OK ||
      link == NULL || av_h5_open_object(&names, obs, link, link) != AV_OK) {
    goto done;
  }
  if (H5Iget_type(names) == H5I_DATASET) {
    text = string_at(names, row);
  } else if (av_h5_exists(names, AV_H5AD_VALUES, &exists) == AV_OK && exists &&
             av_h5_open_object(&values, names, AV_H5AD_VALUES, link) == AV_OK &&
             H5Iget_type(values) == H5I_DATASET) {
    text = string_at(values, row);
  }
done:
  free(link);
  av_h5_close(&values);
  av_h5_close(&names);
  av_h5_close(&obs);
  return text;
}
