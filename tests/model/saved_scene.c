#include "model/saved_scene.h"

#include "base/memory.h"
#include "model/rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

av_comm ranks;
static char folder[64] = "/tmp/atlasvi-saved-XXXXXX"; /* the same on all ranks */

const char *path_of(const char *name) {
  static char path[128];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  return path;
}

av_config settings(const char *model, int n, char *const *more) {
  av_config config;
  char text[400];
  snprintf(text, sizeof text,
           "[data]\ninput = in.h5ad\n[output]\npath = out.h5ad\nmodel = %s\n"
           "overwrite = yes\n",
           path_of(model));
  assert_int_equal(av_config_defaults(&config), AV_OK);
  assert_int_equal(av_config_parse(&config, "run.ini", text, n, more), AV_OK);
  if (av_config_resolve(&config) != AV_OK) {
    fail_msg("%s", av_error_text());
  }
  return config;
}

av_dataset data_of(int64_t n_genes, int64_t n_batches, const char *const *batches) {
  av_dataset dataset = {.n_cells = n_batches,
                        .n_genes = n_genes,
                        .n_local = n_batches,
                        .has_batch = n_batches > 1,
                        .input_path = av_strdup("in.h5ad")};
  char texts[64][16];
  const char *names[64];
  for (int i = 0; i < 64; ++i) {
    snprintf(texts[i], sizeof texts[i], "gene%d", i);
    names[i] = texts[i];
  }
  assert_int_equal(av_names_copy(&dataset.genes, n_genes, names), AV_OK);
  assert_int_equal(av_names_copy(&dataset.batch.levels, n_batches, batches), AV_OK);
  dataset.batch.code = av_calloc((size_t)n_batches, sizeof *dataset.batch.code);
  for (int64_t i = 0; i < n_batches; ++i) {
    dataset.batch.code[i] = (int32_t)i;
  }
  return dataset;
}

const char *const none[1] = {""};
const char *const abc[3] = {"a", "b", "c"};
const char *const keys[2] = {"sex", "site"};
const char *const numbers[2] = {"age", "days"};
const char *const sexes[2] = {"f", "m"};
const char *const here[1] = {"here"};
const char *const states[4] = {"T", "B", "NK", "DC"};

void set_factor(av_factor *factor, int64_t n_local, int64_t n, const char *const *levels) {
  assert_int_equal(av_names_copy(&factor->levels, n, levels), AV_OK);
  factor->code = av_calloc((size_t)n_local, sizeof *factor->code);
  assert_non_null(factor->code);
  for (int64_t i = 0; i < n_local; ++i) {
    factor->code[i] = (int32_t)(i % n);
  }
}

void add_covariates(av_dataset *dataset, int64_t n_sexes, const char *const *sexes_of,
                    int64_t n_sites, const char *const *sites) {
  const int64_t n = dataset->n_local;
  dataset->n_categorical = 2;
  dataset->n_continuous = 2;
  dataset->categorical = av_calloc(2, sizeof *dataset->categorical);
  assert_non_null(dataset->categorical);
  assert_int_equal(av_names_copy(&dataset->categorical_names, 2, keys), AV_OK);
  assert_int_equal(av_names_copy(&dataset->continuous_names, 2, numbers), AV_OK);
  set_factor(&dataset->categorical[0], n, n_sexes, sexes_of);
  set_factor(&dataset->categorical[1], n, n_sites, sites);
  dataset->continuous = av_calloc((size_t)(2 * n), sizeof *dataset->continuous);
  for (int64_t i = 0; i < 2 * n; ++i) {
    dataset->continuous[i] = (double)i / 8;
  }
}

/* Numbers for a model of the scene's data, in its file. */
static void save(scene *s, const av_model_spec *spec, uint64_t seed, bool exact) {
  assert_int_equal(av_layout_create(&s->layout, spec), AV_OK);
  assert_int_equal(av_values_create(&s->values, &s->layout), AV_OK);
  rig_scatter(&s->layout, seed, s->values.params, s->values.running);
  for (int64_t i = 0; i < 2 * spec->n_batches; ++i) {
    s->values.prior[i] = 6.1 + (double)i / 7.0;
  }
  assert_int_equal(av_saved_write(&ranks, &s->config, &s->dataset, &s->layout, &s->values, exact),
                   AV_OK);
}

scene scene_of(const char *name, av_model_spec spec, bool exact, int n, char *const *more) {
  scene s = {.config = settings(name, n, more),
             .dataset = data_of(spec.n_genes, spec.n_batches, spec.n_batches > 1 ? abc : none)};
  save(&s, &spec, 21, exact);
  return s;
}

void scene_free(scene *s) {
  av_values_free(&s->values);
  av_layout_free(&s->layout);
  av_dataset_free(&s->dataset);
  av_config_free(&s->config);
}

av_model_file read_model(const char *name) {
  av_model_file file;
  assert_int_equal(av_model_file_read(&ranks, path_of(name), &file), AV_OK);
  return file;
}

av_named_array *array_of(av_model_file *file, const char *name) {
  for (int64_t i = 0; i < file->n_arrays; ++i) {
    if (strcmp(file->arrays[i].name, name) == 0) {
      return &file->arrays[i];
    }
  }
  return NULL;
}

static av_model_spec full_spec(void) {
  av_model_spec spec = rig_spec(true, AV_LIKELIHOOD_NB, AV_DISPERSION_GENE_LABEL, true, 1, 3);
  spec.n_onehot = 3 + 2;
  spec.n_continuous = 2;
  spec.n_labels = 4;
  spec.encode_covariates = true;
  spec.bias = true;
  return spec;
}

scene full_scene(const char *name, int n, char *const *more) {
  const av_model_spec spec = full_spec();
  scene s = {.config = settings(name, n, more), .dataset = data_of(spec.n_genes, 3, abc)};
  add_covariates(&s.dataset, 2, sexes, 1, here);
  set_factor(&s.dataset.label, s.dataset.n_local, 4, states);
  save(&s, &spec, 22, true);
  return s;
}

void check_names(const av_names *names, int64_t n, const char *const *wanted) {
  assert_int_equal(names->n, n);
  for (int64_t i = 0; i < n; ++i) {
    assert_string_equal(names->at[i], wanted[i]);
  }
}

int saved_open(int *argc, char ***argv) {
  if (av_comm_create(&ranks, argc, argv) != AV_OK) {
    return 1;
  }
  return (ranks.rank == 0 && mkdtemp(folder) == NULL) ||
         av_bcast(&ranks, folder, sizeof folder) != AV_OK;
}

int saved_close(void) {
  int failed = 0;
  if (ranks.rank == 0) {
    static const char *const made[] = {"shapes.h5", "first.h5", "broken.h5", "kept.h5", "full.h5"};
    for (size_t i = 0; i < N(made); ++i) {
      unlink(path_of(made[i]));
    }
    failed = rmdir(folder) != 0; /* nothing else is left */
  }
  av_comm_free(&ranks);
  return failed;
}
