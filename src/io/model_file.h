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

typedef struct av_model_file {
  int64_t n_arrays;
  av_named_array *arrays;
  av_names genes; /* names in model order */
  av_names batches;
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

#endif
