/* Reading the input of a run: metadata, then this rank's slab. */
#include "io/h5ad_read.h"

#include "base/log.h"
#include "base/memory.h"
#include "io/read_slab.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { LISTED = 5, TAG_CELLS = 111, BYTES_A_MESSAGE = 1 << 27 };

/* --- per-cell facts: from rank 0, which has all, to the owners of the cells
 * --------------------------- */

/* Cells of `size` bytes that go in one message. */
static int64_t cells_a_message(size_t size) {
  return size < BYTES_A_MESSAGE ? (int64_t)(BYTES_A_MESSAGE / size) : 1;
}

static av_status send_cells(const av_comm *comm, const av_partition *partition, const char *all,
                            size_t size) {
  const int64_t most = cells_a_message(size);
  for (int r = 1; r < comm->size; ++r) {
    const int64_t end = av_rank_first(partition, r + 1);
    for (int64_t at = av_rank_first(partition, r); at < end; at += most) {
      const int64_t n = end - at < most ? end - at : most;
      AV_TRY(AV_MPI(MPI_Send(all + (size_t)at * size, (int)((size_t)n * size), MPI_BYTE, r,
                             TAG_CELLS, comm->mpi)));
    }
  }
  return AV_OK;
}

static av_status receive_cells(const av_comm *comm, int64_t n_local, char *mine, size_t size) {
  const int64_t most = cells_a_message(size);
  for (int64_t at = 0; at < n_local; at += most) {
    const int64_t n = n_local - at < most ? n_local - at : most;
    AV_TRY(AV_MPI(MPI_Recv(mine + (size_t)at * size, (int)((size_t)n * size), MPI_BYTE, 0,
                           TAG_CELLS, comm->mpi, MPI_STATUS_IGNORE)));
  }
  return AV_OK;
}

/* *array: all cells on rank 0, or NULL there if the fact is not known; this rank's cells
 * afterwards. */
static av_status scatter_cells(const av_comm *comm, const av_dataset *dataset, void **array,
                               size_t size) {
  int32_t known = *array != NULL;
  AV_TRY(av_bcast(comm, &known, (int64_t)sizeof known));
  if (!known) {
    return AV_OK;
  }
  av_status status = AV_OK;
  if (comm->rank != 0) {
    *array = av_malloc((size_t)dataset->n_local, size);
    if (*array == NULL) {
      status = av_fail(AV_NOMEM, "out of memory (%" PRId64 " cells)", dataset->n_local);
    }
  }
  AV_TRY(av_agree(comm, status));
  if (comm->rank != 0) {
    return receive_cells(comm, dataset->n_local, *array, size);
  }
  AV_TRY(send_cells(comm, &dataset->partition, *array, size));
  void *mine = av_realloc(*array, (size_t)dataset->n_local, size); /* rank 0 owns the first cells */
  *array = mine != NULL ? mine : *array;
  return AV_OK;
}

static av_status scatter_factor(const av_comm *comm, const av_dataset *dataset, av_factor *factor) {
  void *code = factor->code;
  const av_status status = scatter_cells(comm, dataset, &code, sizeof *factor->code);
  factor->code = code;
  return status;
}

static av_status distribute_cells(const av_comm *comm, av_dataset *dataset,
                                  const av_input_plan *plan) {
  AV_TRY(av_agree(comm, av_partition_create(&dataset->partition, dataset->n_cells, comm->size,
                                            plan->shard_weight)));
  dataset->first = av_rank_first(&dataset->partition, comm->rank);
  dataset->n_local = av_rank_first(&dataset->partition, comm->rank + 1) - dataset->first;
  AV_TRY(scatter_factor(comm, dataset, &dataset->batch));
  AV_TRY(scatter_factor(comm, dataset, &dataset->label));
  for (int64_t c = 0; c < dataset->n_categorical; ++c) {
    AV_TRY(scatter_factor(comm, dataset, &dataset->categorical[c]));
  }
  void *continuous = dataset->continuous;
  void *size_factor = dataset->size_factor;
  void *split = dataset->split;
  av_status status = scatter_cells(comm, dataset, &continuous,
                                   (size_t)dataset->n_continuous * sizeof *dataset->continuous);
  if (status == AV_OK) {
    status = scatter_cells(comm, dataset, &size_factor, sizeof *dataset->size_factor);
  }
  if (status == AV_OK) {
    status = scatter_cells(comm, dataset, &split, sizeof *dataset->split);
  }
  dataset->continuous = continuous;
  dataset->size_factor = size_factor;
  dataset->split = split;
  return status;
}

/* --- counts
 * ---------------------------------------------------------------------------------------- */

av_status av_slab_builder(const av_slab *slab, int64_t n_stored, av_counts_builder **builder) {
  const int64_t most =
      1 << 26; /* beyond, grow as entries come: the file's numbers are not trusted */
  const double used = (double)slab->dataset->n_genes / (double)(slab->matrix->n_columns + 1);
  const double guess = used < 0.5 ? 1.5 * used * (double)n_stored : (double)n_stored;
  const int64_t expected = guess < (double)most ? (int64_t)guess : most;
  return av_builder_create(builder, slab->dataset->n_genes, slab->dataset->n_local, expected,
                           slab->check.allow_fractions);
}

static av_status prepare_slab(av_slab *slab) {
  const av_matrix *matrix = slab->matrix;
  const av_dataset *dataset = slab->dataset;
  if (matrix->n_rows != dataset->n_cells || matrix->n_columns != dataset->n_file_genes) {
    return av_fail(AV_IOERR, "%s: changed while it was being read", matrix->what);
  }
  slab->position = av_malloc((size_t)matrix->n_columns, sizeof *slab->position);
  if (slab->position == NULL) {
    return av_fail(AV_NOMEM, "out of memory (%" PRId64 " genes)", matrix->n_columns);
  }
  for (int64_t c = 0; c < matrix->n_columns; ++c) {
    slab->position[c] = -1;
  }
  for (int64_t g = 0; g < dataset->n_genes; ++g) {
    slab->position[dataset->gene_column[g]] = (int32_t)g;
  }
  return AV_OK;
}

/* Reads the slab from an open matrix and judges its values. Collective. */
static av_status read_matrix(av_slab *slab, const av_config *config, hid_t file) {
  const av_comm *comm = slab->comm;
  /* Integers have no fractions to keep: they stay compact and exact. */
  const bool allow = config->data.allow_non_counts && !slab->matrix->integer_type;
  av_status status = av_stored_open(&slab->stored, comm, slab->matrix, &slab->limits);
  av_value_check_begin(&slab->check, &slab->stored, slab->dataset, allow);
  if (status == AV_OK) {
    status = prepare_slab(slab);
  }
  AV_TRY(av_agree(comm, status));
  switch (slab->matrix->layout) {
    case AV_MATRIX_CSR:
      status = av_read_csr(slab, AV_OK);
      break;
    case AV_MATRIX_DENSE:
      status = av_read_dense(slab, AV_OK);
      break;
    case AV_MATRIX_CSC:
      status = av_read_csc(slab);
      break;
  }
  AV_TRY(av_agree(comm, status));
  return av_value_check_finish(&slab->check, comm, slab->matrix, file, config->data.input,
                               config->data.counts, slab->dataset);
}

static av_status read_counts(const av_comm *comm, const av_config *config, av_dataset *dataset,
                             const av_read_limits *limits) {
  hid_t file = -1;
  av_matrix matrix = {.data = -1, .indices = -1, .indptr = -1};
  AV_TRY(av_agree(comm, av_h5_open_parallel(&file, comm, config->data.input)));
  av_slab slab = {.comm = comm, .matrix = &matrix, .dataset = dataset, .limits = *limits};
  av_status status =
      av_agree(comm, av_matrix_open(&matrix, file, config->data.input, config->data.counts));
  if (status == AV_OK) {
    status = read_matrix(&slab, config, file);
  }
  free(slab.position);
  av_matrix_close(&matrix);
  av_h5_close(&file);
  return status;
}

/* --- what the counts say
 * ---------------------------------------------------------------------------- */

static av_status sum_cells(av_dataset *dataset, int threads, int64_t *n_empty,
                           int64_t *first_empty) {
  dataset->library = av_malloc((size_t)dataset->n_local, sizeof *dataset->library);
  AV_TRY_ALLOC(dataset->library);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int t = 0; t < threads; ++t) {
    const int64_t begin = dataset->n_local * t / threads;
    const int64_t end = dataset->n_local * (t + 1) / threads;
    av_counts_sum_rows(&dataset->counts, begin, end - begin, dataset->library + begin);
  }
  const double largest = dataset->counts.kind == AV_COUNT_F32 ? HUGE_VAL : 0x1p53;
  for (int64_t i = 0; i < dataset->n_local; ++i) {
    const double sum = dataset->library[i];
    if (!(sum < largest)) {
      return av_fail(AV_BADDATA, "%s: the values of row %" PRId64 " add up to %g: too large",
                     dataset->input_path, dataset->first + i, sum);
    }
    if (sum == 0) {
      if (*n_empty < LISTED) {
        first_empty[*n_empty] = dataset->first + i;
      }
      *n_empty += 1;
    }
  }
  return AV_OK;
}

/* The error about empty cells: the first rows of all ranks together, in order. */
static av_status fail_empty_cells(const av_comm *comm, const av_config *config,
                                  const av_dataset *dataset, int64_t n_mine, const int64_t *mine) {
  int64_t record[1 + LISTED] = {n_mine};
  for (int i = 0; i < LISTED; ++i) {
    record[1 + i] = mine[i];
  }
  int64_t *all = av_calloc((size_t)comm->size, sizeof record);
  AV_TRY(av_agree(comm, all != NULL ? AV_OK : av_fail(AV_NOMEM, "out of memory")));
  const av_status gathered = AV_MPI(
      MPI_Allgather(record, 1 + LISTED, MPI_INT64_T, all, 1 + LISTED, MPI_INT64_T, comm->mpi));
  char list[LISTED * 24] = "";
  int used = 0;
  int n_listed = 0;
  for (int r = 0; r < comm->size && gathered == AV_OK; ++r) {
    const int64_t *from = all + (int64_t)r * (1 + LISTED);
    for (int64_t i = 0; i < from[0] && i < LISTED && n_listed < LISTED; ++i, ++n_listed) {
      used += snprintf(list + used, sizeof list - (size_t)used, "%s%" PRId64,
                       n_listed == 0 ? "" : ", ", from[1 + i]);
    }
  }
  free(all);
  AV_TRY(gathered);
  return av_fail(AV_BADDATA,
                 "%s: %s: %" PRId64 " of %" PRId64 " cells have no counts over the %" PRId64
                 " genes used (row%s %s%s); remove them, or set [data] empty_cells = nan to keep "
                 "them with NaN results",
                 config->data.input, config->data.counts, dataset->n_empty_cells, dataset->n_cells,
                 dataset->n_genes, dataset->n_empty_cells == 1 ? "" : "s", list,
                 dataset->n_empty_cells > LISTED ? ", ..." : "");
}

/* seen (n_genes) = 1 for the genes of entries [begin, end), until all are seen. */
static void mark_genes(const av_counts *counts, int64_t begin, int64_t end, uint8_t *seen) {
  enum { AT_ONCE = 1 << 16 };
  const uint16_t *narrow = counts->gene;
  const uint32_t *wide = counts->gene;
  int64_t unseen = 0; /* those before have been seen */
  for (int64_t at = begin; at < end && unseen < counts->n_genes; at += AT_ONCE) {
    const int64_t last = at + AT_ONCE < end ? at + AT_ONCE : end;
    for (int64_t i = at; i < last; ++i) {
      seen[counts->wide_genes ? wide[i] : narrow[i]] = 1;
    }
    while (unseen < counts->n_genes && seen[unseen] != 0) {
      ++unseen;
    }
  }
}

/* seen (n_genes) = 1 for the genes that any cell of this rank has. */
static av_status find_genes(const av_counts *counts, int threads, int64_t *seen) {
  const int64_t genes = counts->n_genes;
  uint8_t *of_thread = av_calloc((size_t)threads, (size_t)genes);
  AV_TRY_ALLOC(of_thread);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int t = 0; t < threads; ++t) {
    mark_genes(counts, counts->n_nonzero * t / threads, counts->n_nonzero * (t + 1) / threads,
               of_thread + t * genes);
  }
  for (int t = 0; t < threads; ++t) {
    for (int64_t g = 0; g < genes; ++g) {
      seen[g] |= of_thread[t * genes + g];
    }
  }
  free(of_thread);
  return AV_OK;
}

static av_status count_empty_genes(const av_comm *comm, const av_config *config,
                                   av_dataset *dataset, int threads) {
  int64_t *seen = av_calloc((size_t)dataset->n_genes, sizeof *seen);
  av_status status = seen == NULL ? av_fail(AV_NOMEM, "out of memory (genes)")
                                  : find_genes(&dataset->counts, threads, seen);
  status = av_agree(comm, status);
  if (status == AV_OK) {
    status = av_max_i64(comm, seen, dataset->n_genes);
  }
  int64_t first = -1;
  for (int64_t g = 0; g < dataset->n_genes && status == AV_OK; ++g) {
    first = first < 0 && seen[g] == 0 ? g : first;
    dataset->n_empty_genes += seen[g] == 0;
  }
  free(seen);
  if (dataset->n_empty_genes > 0 && comm->rank == 0) {
    av_warn("%s: %s: %" PRId64 " of %" PRId64
            " genes have no count in any cell (first: %s); they "
            "are kept",
            config->data.input, config->data.counts, dataset->n_empty_genes, dataset->n_genes,
            dataset->genes.at[first]);
  }
  return status;
}

/* Library sizes, empty cells and genes, the total of non-zeros. Collective. */
static av_status summarize(const av_comm *comm, const av_config *config, av_dataset *dataset,
                           int threads) {
  int64_t n_empty = 0;
  int64_t first_empty[LISTED] = {0};
  AV_TRY(av_agree(comm, sum_cells(dataset, threads, &n_empty, first_empty)));
  int64_t sums[2] = {n_empty, dataset->counts.n_nonzero};
  AV_TRY(av_sum_i64(comm, sums, 2));
  dataset->n_empty_cells = sums[0];
  dataset->n_nonzero = sums[1];
  if (sums[0] > 0 && config->data.empty_cells == AV_EMPTY_CELLS_ERROR) {
    return fail_empty_cells(comm, config, dataset, n_empty, first_empty);
  }
  if (sums[0] > 0 && comm->rank == 0) {
    av_warn("%s: %s: %" PRId64 " cells have no counts over the genes used; their results are NaN",
            config->data.input, config->data.counts, sums[0]);
  }
  return count_empty_genes(comm, config, dataset, threads);
}

av_status av_h5ad_read_slabs(const av_comm *comm, const av_config *config, av_dataset *dataset,
                             const av_input_plan *plan, const av_read_limits *limits) {
  av_status status = distribute_cells(comm, dataset, plan);
  if (status == AV_OK) {
    status = read_counts(comm, config, dataset, limits);
  }
  if (status == AV_OK) {
    status = summarize(comm, config, dataset, limits->threads > 1 ? limits->threads : 1);
  }
  if (status == AV_OK) {
    status = av_agree(comm, av_dataset_design(dataset));
  }
  return status;
}

av_status av_h5ad_read_limited(const av_comm *comm, const av_config *config, av_dataset *dataset,
                               const av_read_limits *limits) {
  av_input_plan plan = {0};
  *dataset = (av_dataset){0};
  AV_TRY(av_h5ad_read_metadata(comm, config, dataset, &plan));
  const av_status status = av_h5ad_read_slabs(comm, config, dataset, &plan, limits);
  av_input_plan_free(&plan);
  if (status != AV_OK) {
    av_dataset_free(dataset);
  }
  return status;
}

av_status av_h5ad_read_counts(const av_comm *comm, const av_config *config, int threads,
                              av_dataset *dataset, const av_input_plan *plan) {
  av_read_limits limits = av_read_limits_default();
  limits.threads = threads;
  return av_h5ad_read_slabs(comm, config, dataset, plan, &limits);
}

av_status av_h5ad_read(const av_comm *comm, const av_config *config, int threads,
                       av_dataset *dataset) {
  av_read_limits limits = av_read_limits_default();
  limits.threads = threads;
  return av_h5ad_read_limited(comm, config, dataset, &limits);
}
