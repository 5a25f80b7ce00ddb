/* Models of small data sets, saved and read again: what tests of the saved model share. */
#ifndef AV_TESTS_MODEL_SAVED_SCENE_H
#define AV_TESTS_MODEL_SAVED_SCENE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/saved.h"

#define N(array) (sizeof(array) / sizeof *(array))

extern av_comm ranks; /* of the test */

/* Levels and names of columns. */
extern const char *const none[1], *const abc[3]; /* batches */
extern const char *const keys[2], *const sexes[2], *const here[1];
extern const char *const numbers[2];
extern const char *const states[4]; /* labels */

/* Makes the ranks and a folder for them; removes both. Not 0: failed. */
int saved_open(int *argc, char ***argv);
int saved_close(void);
/* A file of that folder, until the next call. */
const char *path_of(const char *name);

/* Settings as a run has them, saved model in `model`. */
av_config settings(const char *model, int n, char *const *more);

/* A data set of names alone: one cell of each batch. */
av_dataset data_of(int64_t n_genes, int64_t n_batches, const char *const *batches);
/* Levels, one after another in the cells. */
void set_factor(av_factor *factor, int64_t n_local, int64_t n, const char *const *levels);
/* Two categorical covariates with these levels, two continuous ones. */
void add_covariates(av_dataset *dataset, int64_t n_sexes, const char *const *sexes_of,
                    int64_t n_sites, const char *const *sites);

typedef struct scene {
  av_config config;
  av_layout layout;
  av_values values;
  av_dataset dataset;
} scene;

/* A model of `spec` with scattered values, saved under `name`. */
scene scene_of(const char *name, av_model_spec spec, bool exact, int n, char *const *more);
/* The same of LDVAE over 3 batches, 2 sexes, one site and 2 numbers, dispersion by 4 labels. */
scene full_scene(const char *name, int n, char *const *more);
void scene_free(scene *s);

av_model_file read_model(const char *name);
av_named_array *array_of(av_model_file *file, const char *name); /* NULL: it has none */
void check_names(const av_names *names, int64_t n, const char *const *wanted);

#endif
