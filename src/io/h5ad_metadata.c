/* Everything about an input but its counts: read once, by rank 0, and shared. */
#include "base/log.h"
#include "base/memory.h"
#include "io/cell_columns.h"
#include "io/dataframe.h"
#include "io/genes.h"
#include "io/h5ad_keys.h"
#include "io/h5ad_read.h"
#include "io/stored.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Work per cell beyond its non-zeros, in non-zeros: library, batch, decoding. */
static const double weight_of_cell = 16;

void av_input_plan_free(av_input_plan *plan) {
  free(plan->shard_weight);
  *plan = (av_input_plan){0};
}

static uint64_t hash_names(uint64_t hash, const av_names *names) {
  for (int64_t i = 0; i < names->n; ++i) {
    const unsigned char *c = (const unsigned char *)names->at[i];
    do { /* with the ending NUL, so that ("ab", "c") and ("a", "bc") differ */
      hash = (hash ^ *c) * 1099511628211u;
    } while (*c++ != 0);
  }
  return hash;
}

static av_status warn_repeats(const av_frame *obs, const av_names *names) {
  av_name_index *index = NULL;
  AV_TRY(av_name_index_create(&index, names));
  const char *twice = av_name_index_duplicate(index);
  if (twice != NULL) {
    av_warn("%s: cell names repeat (first: \"%s\")", obs->what, twice);
  }
  av_name_index_free(&index);
  return AV_OK;
}

/* Adds the non-zeros of each row, and its constant, to its shard. */
static av_status weigh_rows(const av_matrix *matrix, const av_partition *shards, double *weight) {
  enum { BLOCK = 1 << 20 };
  int64_t *pointer = av_malloc(BLOCK + 1, sizeof *pointer);
  AV_TRY_ALLOC(pointer);
  int64_t shard = 0;
  av_status status = AV_OK;
  for (int64_t first = 0; first < matrix->n_rows && status == AV_OK; first += BLOCK) {
    const int64_t n = matrix->n_rows - first < BLOCK ? matrix->n_rows - first : BLOCK;
    status = av_read_pointers(matrix, first, n, "row", pointer);
    for (int64_t i = 0; i < n && status == AV_OK; ++i) {
      while (av_shard_first(shards, shard + 1) <= first + i) {
        ++shard;
      }
      weight[shard] += (double)(pointer[i + 1] - pointer[i]) + weight_of_cell;
    }
  }
  free(pointer);
  return status;
}

/* Work of each virtual shard; left NULL unless the rows of the matrix are its major axis. */
static av_status weigh_shards(const av_matrix *matrix, av_input_plan *plan) {
  if (matrix->layout != AV_MATRIX_CSR) {
    return AV_OK;
  }
  const av_partition shards = {.n_cells = matrix->n_rows,
                               .n_shards = av_shard_count(matrix->n_rows)};
  plan->shard_weight = av_calloc((size_t)shards.n_shards, sizeof *plan->shard_weight);
  AV_TRY_ALLOC(plan->shard_weight);
  return weigh_rows(matrix, &shards, plan->shard_weight);
}

static int64_t bytes_stored(hid_t dataset) {
  return dataset < 0 ? 0 : (int64_t)H5Dget_storage_size(dataset);
}

static av_status read_matrix_plan(hid_t file, const av_config *config, av_dataset *dataset,
                                  av_input_plan *plan) {
  av_matrix matrix;
  AV_TRY(av_matrix_open(&matrix, file, config->data.input, config->data.counts));
  plan->layout = matrix.layout;
  plan->n_cells = matrix.n_rows;
  plan->n_file_genes = matrix.n_columns;
  plan->n_stored = matrix.n_stored;
  plan->stored_bytes =
      bytes_stored(matrix.data) + bytes_stored(matrix.indices) + bytes_stored(matrix.indptr);
  dataset->n_cells = matrix.n_rows;
  dataset->n_file_genes = matrix.n_columns;
  av_status status = AV_OK;
  if (matrix.n_rows == 0) {
    status = av_fail(AV_BADDATA, "%s: has no cells", matrix.what);
  }
  if (status == AV_OK) {
    status = weigh_shards(&matrix, plan);
  }
  av_matrix_close(&matrix);
  return status;
}

static av_status read_cells(hid_t file, const av_config *config, av_dataset *dataset) {
  av_frame obs;
  av_names cells = {0};
  AV_TRY(av_frame_open(&obs, file, config->data.input, AV_H5AD_OBS));
  av_status status = AV_OK;
  if (obs.n_rows != dataset->n_cells) {
    AV_GO(status,
          av_fail(AV_BADDATA, "%s: %s has %" PRId64 " rows where obs has %" PRId64,
                  config->data.input, config->data.counts, dataset->n_cells, obs.n_rows),
          done);
  }
  AV_GO(status, av_frame_names(&obs, &cells), done);
  AV_GO(status, warn_repeats(&obs, &cells), done);
  AV_GO(status, av_cell_columns_read(&obs, config, &cells, dataset), done);
  const uint64_t offset = 14695981039346656037u;
  dataset->names_checksum = hash_names(hash_names(offset, &cells), &dataset->genes);
  dataset->n_local = dataset->n_cells;
done:
  av_names_free(&cells);
  av_frame_close(&obs);
  return status;
}

/* "layers/" opens as a group, so it has to be refused by its name. */
static av_status check_counts_name(const av_config *config) {
  if (strcmp(config->data.counts, AV_H5AD_LAYERS "/") != 0) {
    return AV_OK;
  }
  return av_fail(AV_CONFIG, "%s: \"%s\" names no layer; say layers/NAME",
                 av_config_where(config, "data", "counts"), config->data.counts);
}

/* All that rank 0 does by itself. */
static av_status read_alone(const av_config *config, av_dataset *dataset, av_input_plan *plan) {
  const char *path = config->data.input;
  if (path == NULL) {
    return av_fail(AV_CONFIG, "%s: the file with the counts is not given",
                   av_config_where(config, "data", "input"));
  }
  AV_TRY(check_counts_name(config));
  hid_t file = -1;
  AV_TRY(av_h5_open_input(&file, path));
  av_status status = AV_OK;
  struct stat info;
  if (stat(path, &info) == 0) {
    dataset->input_bytes = (int64_t)info.st_size;
  }
  dataset->input_path = av_strdup(path);
  if (dataset->input_path == NULL) {
    AV_GO(status, av_fail(AV_NOMEM, "out of memory"), done);
  }
  AV_GO(status, read_matrix_plan(file, config, dataset, plan), done);
  AV_GO(status, av_genes_select(file, path, config, plan->n_file_genes, dataset), done);
  plan->n_genes = dataset->n_genes;
  status = read_cells(file, config, dataset);
done:
  av_h5_close(&file);
  return status;
}

/* The numbers, in one message. */
static av_status share_numbers(const av_comm *comm, av_dataset *dataset, av_input_plan *plan) {
  struct {
    int64_t n_cells, n_file_genes, n_genes, n_stored, stored_bytes, input_bytes;
    int64_t n_categorical, n_continuous;
    uint64_t names_checksum;
    int32_t layout, has_batch, has_weights, unused;
  } all = {dataset->n_cells,
           dataset->n_file_genes,
           dataset->n_genes,
           plan->n_stored,
           plan->stored_bytes,
           dataset->input_bytes,
           dataset->n_categorical,
           dataset->n_continuous,
           dataset->names_checksum,
           (int32_t)plan->layout,
           dataset->has_batch,
           plan->shard_weight != NULL,
           0};
  AV_TRY(av_bcast(comm, &all, (int64_t)sizeof all));
  av_status status = AV_OK;
  if (comm->rank != 0) {
    dataset->n_cells = all.n_cells;
    dataset->n_file_genes = all.n_file_genes;
    dataset->n_genes = all.n_genes;
    dataset->input_bytes = all.input_bytes;
    dataset->n_categorical = all.n_categorical;
    dataset->n_continuous = all.n_continuous;
    dataset->names_checksum = all.names_checksum;
    dataset->has_batch = all.has_batch != 0;
    *plan = (av_input_plan){.layout = (av_matrix_layout)all.layout,
                            .n_cells = all.n_cells,
                            .n_file_genes = all.n_file_genes,
                            .n_genes = all.n_genes,
                            .n_stored = all.n_stored,
                            .stored_bytes = all.stored_bytes};
    const size_t n_genes = (size_t)all.n_genes;
    const size_t n_shards = (size_t)av_shard_count(all.n_cells);
    dataset->gene_column = av_calloc(n_genes, sizeof *dataset->gene_column);
    dataset->gene_var = av_calloc(n_genes, sizeof *dataset->gene_var);
    dataset->categorical = av_calloc((size_t)all.n_categorical, sizeof *dataset->categorical);
    plan->shard_weight = all.has_weights ? av_calloc(n_shards, sizeof *plan->shard_weight) : NULL;
    if (dataset->gene_column == NULL || dataset->gene_var == NULL || dataset->categorical == NULL ||
        (all.has_weights && plan->shard_weight == NULL)) {
      status = av_fail(AV_NOMEM, "out of memory (%" PRId64 " genes)", all.n_genes);
    }
  }
  return av_agree(comm, status);
}

static av_status share(const av_comm *comm, av_dataset *dataset, av_input_plan *plan) {
  AV_TRY(share_numbers(comm, dataset, plan));
  const int64_t gene_bytes = dataset->n_genes * (int64_t)sizeof *dataset->gene_column;
  AV_TRY(av_bcast(comm, dataset->gene_column, gene_bytes));
  AV_TRY(av_bcast(comm, dataset->gene_var, gene_bytes));
  if (plan->shard_weight != NULL) {
    AV_TRY(av_bcast(comm, plan->shard_weight,
                    av_shard_count(plan->n_cells) * (int64_t)sizeof *plan->shard_weight));
  }
  AV_TRY(av_names_bcast(comm, &dataset->genes));
  AV_TRY(av_names_bcast(comm, &dataset->batch.levels));
  AV_TRY(av_names_bcast(comm, &dataset->label.levels));
  AV_TRY(av_names_bcast(comm, &dataset->categorical_names));
  AV_TRY(av_names_bcast(comm, &dataset->continuous_names));
  for (int64_t c = 0; c < dataset->n_categorical; ++c) {
    AV_TRY(av_names_bcast(comm, &dataset->categorical[c].levels));
  }
  return av_bcast_text(comm, &dataset->input_path);
}

av_status av_h5ad_read_metadata(const av_comm *comm, const av_config *config, av_dataset *dataset,
                                av_input_plan *plan) {
  *dataset = (av_dataset){0};
  *plan = (av_input_plan){0};
  av_status status = av_agree(comm, comm->rank == 0 ? read_alone(config, dataset, plan) : AV_OK);
  if (status == AV_OK) {
    status = share(comm, dataset, plan);
  }
  if (status != AV_OK) {
    av_dataset_free(dataset);
    av_input_plan_free(plan);
  }
  return status;
}
