/* The saved model: an HDF5 file of named arrays and settings, written like every output (temporary,
 * verified, renamed). Rank 0 reads and writes; contents are broadcast. What the arrays mean is
 * model/params.h's business: this file knows names, shapes and numbers only.
 */
#ifndef AV_IO_MODEL_FILE_H
#define AV_IO_MODEL_FILE_H

#include "base/comm.h"
#include "data/names.h"

/* One array: scvi-tools' parameter name and shape (row-major). */
typedef struct av_named_array {
  char *name;
  int n_dims; /* 0 to 2 */
  int64_t shape[2];
  double *values; /* owned by whoever made it; stored as float64 when `exact`, else float32 */
} av_named_array;

static inline int64_t av_array_elements(const av_named_array *array) {
  int64_t n = 1;
  for (int i = 0; i < array->n_dims; ++i) {
    n *= array->shape[i];
  }
  return n;
}

typedef struct av_model_file {
  int64_t n_arrays;
  av_named_array *arrays;
  av_names genes; /* names in model order */
  av_names batches;
  av_names labels; /* of dispersion = gene-label, in the order of px_r's columns; else none */
  int64_t n_categorical;
  av_names categorical_names; /* obs columns of the categorical covariates, in model order */
  av_names *categories;       /* (n_categorical) of each */
  av_names continuous_names;  /* obs columns of the continuous covariates */
  char *settings; /* INI text of the [model] section and all that is needed to apply it */
  bool exact;     /* float64 (reference backend) */
} av_model_file;

/* Collective; `path` is replaced only when complete. overwrite = false and the file exists:
 * AV_CANTCREATE. */
av_status av_model_file_write(const av_comm *comm, const char *path, bool overwrite,
                              const av_model_file *model);
/* Collective; every rank receives everything. Free with av_model_file_free. */
av_status av_model_file_read(const av_comm *comm, const char *path, av_model_file *model);
void av_model_file_free(av_model_file *model);

/* The second half of reading: rank 0's model to the others, whose structs are zeroed. Collective;
 * after a failure `model` is to be freed. */
av_status av_model_file_share(const av_comm *comm, av_model_file *model);

#endif
