#include "model/toy.h"

#include "base/memory.h"
#include "math/rng.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static const char *const level_names[] = {"b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7"};

static double uniform(uint64_t item, uint32_t index) {
  uint32_t words[4];
  av_random4(words, 17, AV_DRAW_TEST, item, 0, index);
  return ((double)words[0] + 0.5) * 0x1p-32;
}

/* A count with mean `mean`, geometric: enough spread for a test. */
static double count_of(double mean, double u) { return floor(log(u) / log(mean / (1.0 + mean))); }

static void must(av_status status) {
  if (status != AV_OK) {
    av_error_print();
    abort();
  }
}

static void fill_counts(av_dataset *dataset) {
  av_counts_builder *builder = NULL;
  const int64_t genes = dataset->n_genes;
  int32_t *gene = av_malloc((size_t)genes, sizeof *gene);
  double *value = av_malloc((size_t)genes, sizeof *value);
  if (gene == NULL || value == NULL) {
    abort();
  }
  must(av_builder_create(&builder, genes, dataset->n_local, 16, false));
  for (int64_t i = 0; i < dataset->n_local; ++i) {
    const int64_t cell = dataset->first + i;
    for (int64_t g = 0; g < genes; ++g) {
      const double level = 0.2 + 3.0 * uniform((uint64_t)g, 1000000) *
                                     (g % 3 == cell % 3 ? 2.0 : 0.3) *
                                     (0.3 + uniform((uint64_t)cell, 2000000));
      gene[g] = (int32_t)g;
      value[g] = count_of(level, uniform((uint64_t)cell, (uint32_t)g)) + (g == cell % genes);
    }
    must(av_builder_add_row(builder, genes, gene, value));
    dataset->batch.code[i] = (int32_t)(cell % dataset->batch.levels.n);
  }
  must(av_builder_finish(builder, &dataset->counts));
  av_builder_free(&builder);
  free(gene);
  free(value);
}

void toy_create(av_dataset *dataset, av_split *split, const av_comm *comm, int64_t n_cells,
                int64_t n_genes, int64_t n_batches) {
  *dataset = (av_dataset){.n_cells = n_cells,
                          .n_genes = n_genes,
                          .n_file_genes = n_genes,
                          .has_batch = n_batches > 1,
                          .input_path = av_strdup("toy")};
  must(av_partition_create(&dataset->partition, n_cells, comm->size, NULL));
  dataset->first = av_rank_first(&dataset->partition, comm->rank);
  dataset->n_local = av_rank_first(&dataset->partition, comm->rank + 1) - dataset->first;
  must(av_names_copy(&dataset->batch.levels, n_batches, level_names));
  const size_t n = (size_t)dataset->n_local;
  dataset->batch.code = av_calloc(n, sizeof *dataset->batch.code);
  dataset->library = av_calloc(n, sizeof *dataset->library);
  *split = (av_split){.of = av_calloc(n, 1)};
  fill_counts(dataset);
  av_counts_sum_rows(&dataset->counts, 0, dataset->n_local, dataset->library);
  for (int64_t i = 0; i < dataset->n_local; ++i) {
    split->of[i] = (dataset->first + i) % 7 == 3 ? AV_SPLIT_VALIDATION : AV_SPLIT_TRAIN;
  }
  for (int64_t cell = 0; cell < n_cells; ++cell) {
    *(cell % 7 == 3 ? &split->n_validation : &split->n_train) += 1;
  }
  must(av_dataset_design(dataset));
}

/* Categories drawn at random, so that factors overlap in any way; `number` tells factors apart. */
static void fill_factor(const av_dataset *dataset, av_factor *factor, int64_t n_levels,
                        uint32_t number) {
  must(av_names_copy(&factor->levels, n_levels, level_names));
  factor->code = av_calloc((size_t)dataset->n_local, sizeof *factor->code);
  for (int64_t i = 0; i < dataset->n_local; ++i) {
    const double u = uniform((uint64_t)(dataset->first + i), 3000000 + number);
    factor->code[i] = (int32_t)(u * (double)n_levels);
  }
}

void toy_add(av_dataset *dataset, const toy_extras *extras) {
  enum { MOST = 3 };
  static const char *const names[MOST] = {"c0", "c1", "c2"};
  const int64_t n_continuous = extras->n_continuous;
  dataset->n_categorical = (extras->levels[0] > 0) + (extras->levels[1] > 0);
  dataset->n_continuous = n_continuous;
  if (dataset->n_categorical > 0) {
    must(av_names_copy(&dataset->categorical_names, dataset->n_categorical, names));
    dataset->categorical = av_calloc((size_t)dataset->n_categorical, sizeof *dataset->categorical);
    for (int64_t c = 0; c < dataset->n_categorical; ++c) {
      fill_factor(dataset, &dataset->categorical[c], extras->levels[c], (uint32_t)c);
    }
  }
  if (n_continuous > 0) {
    must(av_names_copy(&dataset->continuous_names, n_continuous, names));
    dataset->continuous =
        av_calloc((size_t)(dataset->n_local * n_continuous), sizeof *dataset->continuous);
  }
  if (extras->n_labels > 0) {
    fill_factor(dataset, &dataset->label, extras->n_labels, 9);
  }
  if (extras->size_factor) {
    dataset->size_factor = av_calloc((size_t)dataset->n_local, sizeof *dataset->size_factor);
  }
  for (int64_t i = 0; i < dataset->n_local; ++i) {
    const uint64_t cell = (uint64_t)(dataset->first + i);
    for (int64_t c = 0; c < n_continuous; ++c) {
      dataset->continuous[i * n_continuous + c] = 2.0 * uniform(cell, 4000000 + (uint32_t)c) - 0.6;
    }
    if (extras->size_factor) {
      dataset->size_factor[i] = 0.3 + 4.0 * uniform(cell, 5000000);
    }
  }
  must(av_dataset_design(dataset));
}

int64_t toy_dense_counts(const av_dataset *dataset, const av_split *split, double *x, double *s) {
  const int64_t genes = dataset->n_genes;
  int64_t n = 0;
  int32_t *gene = av_calloc((size_t)genes, sizeof *gene);
  float *value = av_calloc((size_t)genes, sizeof *value);
  for (int64_t i = 0; i < dataset->n_local; ++i) {
    if (split->of[i] != AV_SPLIT_TRAIN) {
      continue;
    }
    s[n] = 0.0;
    for (int64_t g = 0; g < genes; ++g) {
      x[n * genes + g] = 0.0;
    }
    const int64_t entries = av_counts_row(&dataset->counts, i, gene, value);
    for (int64_t e = 0; e < entries; ++e) {
      x[n * genes + gene[e]] = (double)value[e];
      s[n] += (double)value[e];
    }
    ++n;
  }
  free(gene);
  free(value);
  return n;
}

void toy_free(av_dataset *dataset, av_split *split) {
  av_dataset_free(dataset);
  av_split_free(split);
}
