/* golden.json as C values: what scvi-tools computed for small models (make_golden.py says how).
 * Every function ends the test when the file is not as it should be.
 */
#ifndef AV_TESTS_REFERENCE_GOLDEN_H
#define AV_TESTS_REFERENCE_GOLDEN_H

#include "data/dataset.h"
#include "model/layout.h"

#include <cjson/cJSON.h>

/* The whole file; cJSON_Delete it. */
cJSON *golden_read(const char *path);
/* The configuration called `name`, and its choices; dropout is 0. */
const cJSON *golden_find(const cJSON *file, const char *name);
av_model_spec golden_spec(const cJSON *file, const cJSON *configuration);

double golden_number(const cJSON *object, const char *key);
const cJSON *golden_member(const cJSON *object, const char *key);
/* The n numbers of an array; free() them. */
double *golden_values(const cJSON *object, const char *key, int64_t n);

/* The counts of the file split over comm's ranks; cell i is in batch i % n_batches. */
void golden_dataset(const cJSON *file, const av_comm *comm, int64_t n_batches, av_dataset *dataset);

/* A tensor of ours in scvi-tools' order, and back; `values` (rows * columns). */
void golden_gather(const av_tensor *tensor, const double *params, const double *running,
                   double *values);
void golden_scatter(const av_tensor *tensor, const double *values, double *params, double *running);

#endif
