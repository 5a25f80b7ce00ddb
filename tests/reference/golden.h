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
/* The configuration called `name`, and its choices (sizes of `dataset` included). */
const cJSON *golden_find(const cJSON *file, const char *name);
av_model_spec golden_spec(const cJSON *configuration, const av_dataset *dataset);

double golden_number(const cJSON *object, const char *key);
const char *golden_text(const cJSON *object, const char *key);
const cJSON *golden_member(const cJSON *object, const char *key);
bool golden_has(const cJSON *object, const char *key);
/* The n numbers of a plain array; free() them. */
double *golden_values(const cJSON *object, const char *key, int64_t n);
/* The n values of a tensor (integers behind a number of decimal places); free() them. */
double *golden_tensor(const cJSON *object, const char *key, int64_t n);
/* How many values a tensor has. */
int64_t golden_tensor_size(const cJSON *object, const char *key);

/* The file's cells split over comm's ranks, with the facts about them that a configuration uses.
 * Without one (NULL): counts and n_batches batches. */
void golden_dataset(const cJSON *file, const cJSON *configuration, const av_comm *comm,
                    int64_t n_batches, av_dataset *dataset);

/* A tensor of ours in scvi-tools' order, and back; `values` (rows * columns). */
void golden_gather(const av_tensor *tensor, const double *params, const double *running,
                   double *values);
void golden_scatter(const av_tensor *tensor, const double *values, double *params, double *running);

#endif
