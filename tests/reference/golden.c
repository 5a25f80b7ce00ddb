#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "reference/golden.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- values ---- */

cJSON *golden_read(const char *path) {
  FILE *file = fopen(path, "rb");
  if (file == NULL) {
    fprintf(stderr, "%s: cannot be opened\n", path);
    exit(1);
  }
  size_t n = 0;
  size_t room = 1u << 20;
  char *text = malloc(room);
  while (text != NULL) {
    n += fread(text + n, 1, room - 1 - n, file);
    if (n < room - 1) {
      break;
    }
    room *= 2;
    char *longer = realloc(text, room);
    if (longer == NULL) {
      free(text);
    }
    text = longer;
  }
  fclose(file);
  if (text == NULL) {
    abort();
  }
  text[n] = '\0';
  cJSON *root = cJSON_Parse(text);
  free(text);
  if (root == NULL) {
    fprintf(stderr, "%s: is not JSON\n", path);
    exit(1);
  }
  return root;
}

const cJSON *golden_member(const cJSON *object, const char *key) {
  const cJSON *member = cJSON_GetObjectItemCaseSensitive(object, key);
  if (member == NULL) {
    fail_msg("golden values: no \"%s\"", key);
  }
  return member;
}

bool golden_has(const cJSON *object, const char *key) {
  return cJSON_GetObjectItemCaseSensitive(object, key) != NULL;
}

double golden_number(const cJSON *object, const char *key) {
  const cJSON *member = golden_member(object, key);
  if (!cJSON_IsNumber(member)) {
    fail_msg("golden values: \"%s\" is not a number", key);
  }
  return member->valuedouble;
}

const char *golden_text(const cJSON *object, const char *key) {
  const char *text = cJSON_GetStringValue(golden_member(object, key));
  if (text == NULL) {
    fail_msg("golden values: \"%s\" is not a string", key);
  }
  return text;
}

double *golden_values(const cJSON *object, const char *key, int64_t n) {
  const cJSON *array = golden_member(object, key);
  if (!cJSON_IsArray(array) || cJSON_GetArraySize(array) != n) {
    fail_msg("golden values: \"%s\" does not hold %lld numbers", key, (long long)n);
  }
  double *values = calloc((size_t)n + 1, sizeof *values);
  if (values == NULL) {
    abort();
  }
  int64_t at = 0;
  const cJSON *item = NULL;
  cJSON_ArrayForEach(item, array) {
    assert_true(cJSON_IsNumber(item));
    values[at++] = item->valuedouble;
  }
  return values;
}

int64_t golden_tensor_size(const cJSON *object, const char *key) {
  return cJSON_GetArraySize(golden_member(object, key)) - 1;
}

double *golden_tensor(const cJSON *object, const char *key, int64_t n) {
  double *values = golden_values(object, key, n + 1);
  const double scale = pow(10.0, values[0]);
  for (int64_t i = 0; i < n; ++i) {
    values[i] = values[i + 1] / scale;
  }
  return values;
}

/* ---- configurations ---- */

const cJSON *golden_find(const cJSON *file, const char *name) {
  const cJSON *item = NULL;
  cJSON_ArrayForEach(item, golden_member(file, "configurations")) {
    if (strcmp(golden_member(item, "name")->valuestring, name) == 0) {
      return item;
    }
  }
  fail_msg("golden values: no configuration %s", name);
  return NULL;
}

/* Position of the member's text in `words`. */
static int choice(const cJSON *object, const char *key, int n, const char *const *words) {
  const char *found = golden_text(object, key);
  for (int i = 0; i < n; ++i) {
    if (strcmp(found, words[i]) == 0) {
      return i;
    }
  }
  fail_msg("golden values: \"%s\" is none of the known words", key);
  return -1;
}

static bool truth(const cJSON *object, const char *key) {
  return cJSON_IsTrue(golden_member(object, key)) != 0;
}

/* Whether use_batch_norm or use_layer_norm says so for the encoder or decoder. */
static bool where(const cJSON *configuration, const char *key, const char *part) {
  const char *found = golden_text(configuration, key);
  return strcmp(found, "both") == 0 || strcmp(found, part) == 0;
}

av_model_spec golden_spec(const cJSON *configuration, const av_dataset *dataset) {
  static const char *const likelihoods[] = {[AV_LIKELIHOOD_ZINB] = "zinb",
                                            [AV_LIKELIHOOD_NB] = "nb",
                                            [AV_LIKELIHOOD_POISSON] = "poisson"};
  static const char *const dispersions[] = {[AV_DISPERSION_GENE] = "gene",
                                            [AV_DISPERSION_GENE_BATCH] = "gene-batch",
                                            [AV_DISPERSION_GENE_LABEL] = "gene-label",
                                            [AV_DISPERSION_GENE_CELL] = "gene-cell"};
  static const char *const distributions[] = {"normal", "ln"};
  static const char *const libraries[] = {"observed", "latent", "size_factor"};
  const int library = choice(configuration, "library", 3, libraries);
  return (av_model_spec){
      .linear = truth(configuration, "linear"),
      .likelihood = choice(configuration, "likelihood", 3, likelihoods),
      .dispersion = choice(configuration, "dispersion", 4, dispersions),
      .simplex = choice(configuration, "latent_distribution", 2, distributions) == 1,
      .latent_library = library == 1,
      .size_factor = library == 2,
      .log1p = truth(configuration, "log_variational"),
      .encode_covariates = truth(configuration, "encode_covariates"),
      .deep_covariates = truth(configuration, "deeply_inject_covariates"),
      .encoder_batch_norm = where(configuration, "use_batch_norm", "encoder"),
      .decoder_batch_norm = where(configuration, "use_batch_norm", "decoder"),
      .encoder_layer_norm = where(configuration, "use_layer_norm", "encoder"),
      .decoder_layer_norm = where(configuration, "use_layer_norm", "decoder"),
      .bias = truth(configuration, "bias"),
      .n_genes = dataset->n_genes,
      .n_hidden = (int64_t)golden_number(configuration, "n_hidden"),
      .n_latent = (int64_t)golden_number(configuration, "n_latent"),
      .n_layers = (int64_t)golden_number(configuration, "n_layers"),
      .n_batches = dataset->batch.levels.n,
      .n_labels = (int64_t)golden_number(configuration, "n_labels"),
      .n_onehot = dataset->design.n_onehot,
      .n_continuous = dataset->n_continuous,
      .dropout = golden_number(configuration, "dropout_rate")};
}

/* ---- data ---- */

static void must(av_status status) {
  if (status != AV_OK) {
    av_error_print();
    abort();
  }
}

static void *room(int64_t n, size_t size) {
  void *block = calloc((size_t)n + 1, size);
  if (block == NULL) {
    abort();
  }
  return block;
}

/* A factor of n categories whose codes are code(cell) of the file, or cell % n without a key. */
static void fill_factor(const cJSON *file, const char *key, int64_t n, const av_dataset *dataset,
                        av_factor *factor) {
  static const char *const names[] = {"b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7"};
  double *codes = key == NULL ? NULL : golden_values(file, key, dataset->n_cells);
  assert_true(n <= (int64_t)(sizeof names / sizeof *names));
  must(av_names_copy(&factor->levels, n, names));
  factor->code = room(dataset->n_local, sizeof *factor->code);
  for (int64_t i = 0; i < dataset->n_local; ++i) {
    const int64_t cell = dataset->first + i;
    factor->code[i] = (int32_t)(codes == NULL ? cell % n : (int64_t)codes[cell]);
  }
  free(codes);
}

/* This rank's rows of a table (n_cells, width), its first `used` columns; free(). */
static double *part_of(const cJSON *file, const char *key, int64_t width, int64_t used,
                       const av_dataset *dataset) {
  double *all = golden_values(file, key, dataset->n_cells * width);
  double *part = room(dataset->n_local * used, sizeof *part);
  for (int64_t i = 0; i < dataset->n_local; ++i) {
    for (int64_t j = 0; j < used; ++j) {
      part[i * used + j] = all[(dataset->first + i) * width + j];
    }
  }
  free(all);
  return part;
}

static void fill_counts(const cJSON *file, av_dataset *dataset) {
  av_counts_builder *builder = NULL;
  const int64_t genes = dataset->n_genes;
  double *counts = part_of(file, "counts", genes, genes, dataset);
  int32_t *gene = room(genes, sizeof *gene);
  for (int64_t g = 0; g < genes; ++g) {
    gene[g] = (int32_t)g;
  }
  must(av_builder_create(&builder, genes, dataset->n_local, 16, false));
  for (int64_t i = 0; i < dataset->n_local; ++i) {
    must(av_builder_add_row(builder, genes, gene, counts + i * genes));
  }
  must(av_builder_finish(builder, &dataset->counts));
  av_builder_free(&builder);
  dataset->library = room(dataset->n_local, sizeof *dataset->library);
  av_counts_sum_rows(&dataset->counts, 0, dataset->n_local, dataset->library);
  free(gene);
  free(counts);
}

static void fill_covariates(const cJSON *file, const cJSON *configuration, av_dataset *dataset) {
  enum { CONTINUOUS = 2 }; /* in the file */
  char key[32];
  const int64_t n_labels = (int64_t)golden_number(configuration, "n_labels");
  const cJSON *sizes = golden_member(configuration, "categorical");
  const cJSON *size = NULL;
  dataset->n_categorical = cJSON_GetArraySize(sizes);
  dataset->categorical = room(dataset->n_categorical, sizeof *dataset->categorical);
  int64_t at = 0;
  cJSON_ArrayForEach(size, sizes) {
    snprintf(key, sizeof key, "category_%d", size->valueint);
    fill_factor(file, key, size->valueint, dataset, &dataset->categorical[at++]);
  }
  dataset->n_continuous = (int64_t)golden_number(configuration, "n_continuous");
  if (dataset->n_continuous > 0) {
    dataset->continuous = part_of(file, "continuous", CONTINUOUS, dataset->n_continuous, dataset);
  }
  if (n_labels > 0) {
    snprintf(key, sizeof key, "label_%d", (int)n_labels);
    fill_factor(file, key, n_labels, dataset, &dataset->label);
  }
  if (strcmp(golden_text(configuration, "library"), "size_factor") == 0) {
    dataset->size_factor = part_of(file, "size_factor", 1, 1, dataset);
  }
}

void golden_dataset(const cJSON *file, const cJSON *configuration, const av_comm *comm,
                    int64_t n_batches, av_dataset *dataset) {
  const int64_t genes = (int64_t)golden_number(file, "n_genes");
  *dataset = (av_dataset){.n_cells = (int64_t)golden_number(file, "n_cells"),
                          .n_genes = genes,
                          .n_file_genes = genes,
                          .has_batch = n_batches > 1};
  must(av_partition_create(&dataset->partition, dataset->n_cells, comm->size, NULL));
  dataset->first = av_rank_first(&dataset->partition, comm->rank);
  dataset->n_local = av_rank_first(&dataset->partition, comm->rank + 1) - dataset->first;
  fill_factor(NULL, NULL, n_batches, dataset, &dataset->batch);
  fill_counts(file, dataset);
  if (configuration != NULL) {
    fill_covariates(file, configuration, dataset);
  }
  must(av_dataset_design(dataset));
}

/* ---- tensors ---- */

static int64_t place_there(const av_tensor *tensor, int64_t i, int64_t j) {
  return tensor->transposed ? j * tensor->rows + i : i * tensor->columns + j;
}

void golden_gather(const av_tensor *tensor, const double *params, const double *running,
                   double *values) {
  const double *from = (tensor->in_running ? running : params) + tensor->at;
  for (int64_t i = 0; i < tensor->rows; ++i) {
    for (int64_t j = 0; j < tensor->columns; ++j) {
      values[place_there(tensor, i, j)] = from[i * tensor->stride + j];
    }
  }
}

void golden_scatter(const av_tensor *tensor, const double *values, double *params,
                    double *running) {
  double *into = (tensor->in_running ? running : params) + tensor->at;
  for (int64_t i = 0; i < tensor->rows; ++i) {
    for (int64_t j = 0; j < tensor->columns; ++j) {
      into[i * tensor->stride + j] = values[place_there(tensor, i, j)];
    }
  }
}
