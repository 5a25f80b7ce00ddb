#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "reference/golden.h"

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

double golden_number(const cJSON *object, const char *key) {
  const cJSON *member = golden_member(object, key);
  if (!cJSON_IsNumber(member)) {
    fail_msg("golden values: \"%s\" is not a number", key);
  }
  return member->valuedouble;
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
  const char *found = golden_member(object, key)->valuestring;
  for (int i = 0; found != NULL && i < n; ++i) {
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

av_model_spec golden_spec(const cJSON *file, const cJSON *configuration) {
  static const char *const likelihoods[] = {[AV_LIKELIHOOD_ZINB] = "zinb",
                                            [AV_LIKELIHOOD_NB] = "nb",
                                            [AV_LIKELIHOOD_POISSON] = "poisson"};
  static const char *const dispersions[] = {
      [AV_DISPERSION_GENE] = "gene", [AV_DISPERSION_GENE_BATCH] = "gene-batch"};
  return (av_model_spec){.linear = truth(configuration, "linear"),
                         .likelihood = choice(configuration, "likelihood", 3, likelihoods),
                         .dispersion = choice(configuration, "dispersion", 2, dispersions),
                         .latent_library = truth(configuration, "latent_library"),
                         .log1p = truth(configuration, "log_variational"),
                         .n_genes = (int64_t)golden_number(file, "n_genes"),
                         .n_hidden = (int64_t)golden_number(file, "n_hidden"),
                         .n_latent = (int64_t)golden_number(file, "n_latent"),
                         .n_layers = (int64_t)golden_number(configuration, "n_layers"),
                         .n_batches = (int64_t)golden_number(configuration, "n_batches"),
                         .dropout = 0.0};
}

/* ---- data ---- */

static void must(av_status status) {
  if (status != AV_OK) {
    av_error_print();
    abort();
  }
}

static void fill(const double *counts, av_dataset *dataset) {
  av_counts_builder *builder = NULL;
  const int64_t genes = dataset->n_genes;
  int32_t *gene = calloc((size_t)genes, sizeof *gene);
  if (gene == NULL) {
    abort();
  }
  for (int64_t g = 0; g < genes; ++g) {
    gene[g] = (int32_t)g;
  }
  must(av_builder_create(&builder, genes, dataset->n_local, 16, false));
  for (int64_t i = 0; i < dataset->n_local; ++i) {
    const int64_t cell = dataset->first + i;
    must(av_builder_add_row(builder, genes, gene, counts + cell * genes));
    dataset->batch.code[i] = (int32_t)(cell % dataset->batch.levels.n);
  }
  must(av_builder_finish(builder, &dataset->counts));
  av_builder_free(&builder);
  free(gene);
}

void golden_dataset(const cJSON *file, const av_comm *comm, int64_t n_batches,
                    av_dataset *dataset) {
  static const char *const names[] = {"b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7"};
  const int64_t cells = (int64_t)golden_number(file, "n_cells");
  const int64_t genes = (int64_t)golden_number(file, "n_genes");
  double *counts = golden_values(file, "counts", cells * genes);
  assert_true(n_batches <= (int64_t)(sizeof names / sizeof *names));
  *dataset = (av_dataset){
      .n_cells = cells, .n_genes = genes, .n_file_genes = genes, .has_batch = n_batches > 1};
  must(av_partition_create(&dataset->partition, cells, comm->size, NULL));
  dataset->first = av_rank_first(&dataset->partition, comm->rank);
  dataset->n_local = av_rank_first(&dataset->partition, comm->rank + 1) - dataset->first;
  must(av_names_copy(&dataset->batch.levels, n_batches, names));
  dataset->batch.code = calloc((size_t)dataset->n_local + 1, sizeof *dataset->batch.code);
  dataset->library = calloc((size_t)dataset->n_local + 1, sizeof *dataset->library);
  if (dataset->batch.code == NULL || dataset->library == NULL) {
    abort();
  }
  fill(counts, dataset);
  for (int64_t i = 0; i < dataset->n_local; ++i) {
    dataset->library[i] = av_counts_row_sum(&dataset->counts, i);
  }
  free(counts);
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
