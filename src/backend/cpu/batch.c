/* Minibatches: chosen rows of the compact counts, expanded once by all threads. */
#include "backend/cpu/state.h"
#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

enum { ROWS_AHEAD = 12 };

void av_cpu_batch_free(av_backend *be, av_batch *batch) {
  (void)be;
  if (batch == NULL) {
    return;
  }
  free(batch->row_start);
  free(batch->gene);
  free(batch->value);
  free(batch->log1p);
  free(batch->cell);
  free(batch->code);
  free(batch->label);
  free(batch->column);
  free(batch->continuous);
  free(batch->counting);
  free(batch->log_size);
  free(batch->constant);
  free(batch->total);
  free(batch->largest);
  free(batch);
}

/* Sum of the max_rows longest rows: no minibatch has more non-zeros. Returns -1 without memory. */
static int64_t most_entries(const av_counts *counts, int64_t max_rows) {
  const int64_t longest = av_counts_longest_row(counts);
  int64_t *rows_of_length = av_calloc((size_t)longest + 1, sizeof *rows_of_length);
  if (rows_of_length == NULL) {
    return -1;
  }
  for (int64_t row = 0; row < counts->n_rows; ++row) {
    rows_of_length[counts->row_start[row + 1] - counts->row_start[row]] += 1;
  }
  int64_t entries = 0;
  int64_t left = max_rows;
  for (int64_t length = longest; length > 0 && left > 0; --length) {
    const int64_t rows = rows_of_length[length] < left ? rows_of_length[length] : left;
    entries += rows * length;
    left -= rows;
  }
  free(rows_of_length);
  return entries;
}

/* Room for what is known of each cell besides its counts. */
static bool allocate_facts(av_batch *batch, size_t rows) {
  const av_design *design = &batch->dataset->design;
  batch->n_factors = design->n_factors;
  batch->n_continuous = design->n_continuous;
  const size_t continuous = (size_t)design->n_continuous;
  const bool labels = batch->dataset->label.code != NULL;
  batch->cell = av_calloc(rows, sizeof *batch->cell);
  batch->code = av_calloc(rows, sizeof *batch->code);
  batch->label = labels ? av_calloc(rows, sizeof *batch->label) : NULL;
  batch->column = av_calloc(rows * (size_t)design->n_factors, sizeof *batch->column);
  batch->continuous = av_calloc(rows * continuous, sizeof *batch->continuous);
  batch->counting = av_calloc(continuous, sizeof *batch->counting);
  batch->log_size = av_calloc(rows, sizeof *batch->log_size);
  batch->constant = av_calloc(rows, sizeof *batch->constant);
  batch->total = av_calloc(rows, sizeof *batch->total);
  batch->largest = av_calloc(rows, sizeof *batch->largest);
  if (!(batch->cell && batch->code && (batch->label || !labels) && batch->column &&
        batch->continuous && batch->counting && batch->log_size && batch->constant &&
        batch->total && batch->largest)) {
    return false;
  }
  for (size_t c = 0; c < continuous; ++c) {
    batch->counting[c] = (int32_t)c;
  }
  return true;
}

av_status av_cpu_batch_create(av_backend *be, av_data *data, int64_t max_rows, av_batch **batch) {
  av_batch *made = av_calloc(1, sizeof *made);
  AV_TRY_ALLOC(made);
  made->dataset = data->dataset;
  made->data = data;
  made->max_rows = max_rows;
  const int64_t entries = most_entries(&data->dataset->counts, max_rows);
  const size_t n_entries = entries < 0 ? 0 : (size_t)entries;
  const size_t rows = (size_t)max_rows;
  made->row_start = av_calloc(rows + 1, sizeof *made->row_start);
  made->gene = av_calloc(n_entries, sizeof *made->gene);
  made->value = av_calloc(n_entries, sizeof *made->value);
  made->log1p = av_calloc(n_entries, sizeof *made->log1p);
  const bool complete = entries >= 0 && made->row_start && made->gene && made->value &&
                        made->log1p && allocate_facts(made, rows);
  if (!complete) {
    av_cpu_batch_free(be, made);
    return av_fail(AV_NOMEM, "out of memory (minibatch of %lld rows)", (long long)max_rows);
  }
  *batch = made;
  return AV_OK;
}

/* What the design says of cell i of the minibatch, row `row` of the slab. */
static void describe(av_batch *batch, int64_t i, int64_t row) {
  const av_dataset *dataset = batch->dataset;
  const av_design *design = &dataset->design;
  const int64_t factors = batch->n_factors;
  const int64_t continuous = batch->n_continuous;
  batch->cell[i] = dataset->first + row;
  if (batch->label != NULL) {
    batch->label[i] = dataset->label.code[row];
  }
  for (int64_t f = 0; f < factors; ++f) {
    batch->column[i * factors + f] = design->column[row * factors + f];
  }
  for (int64_t c = 0; c < continuous; ++c) {
    batch->continuous[i * continuous + c] = (float)design->continuous[row * continuous + c];
  }
  const av_cell_facts *facts = &batch->data->cell[row];
  batch->log_size[i] = facts->log_size;
  batch->constant[i] = facts->constant;
  batch->total[i] = facts->total;
  batch->largest[i] = facts->largest;
  batch->code[i] = facts->code;
}

/* Asks for what expand will read: rows lie anywhere in memory. */
static void fetch(const av_batch *batch, int64_t row) {
  av_counts_fetch(&batch->dataset->counts, row);
  __builtin_prefetch(&batch->data->cell[row]);
  __builtin_prefetch(batch->dataset->design.column + row * batch->n_factors);
}

static void expand(const av_kernels *kernels, av_batch *batch, int64_t i, int64_t row) {
  describe(batch, i, row);
  const av_counts *counts = &batch->dataset->counts;
  const int64_t first = batch->row_start[i];
  int32_t *gene = batch->gene + first;
  float *value = batch->value + first;
  const int64_t from = counts->row_start[row];
  const int64_t n = counts->row_start[row + 1] - from;
  if (counts->kind == AV_COUNT_U8 && !counts->wide_genes && batch->largest[i] < (float)UINT8_MAX) {
    kernels->expand_row(n, (const uint16_t *)counts->gene + from,
                        (const uint8_t *)counts->value + from, gene, value);
  } else {
    (void)av_counts_row(counts, row, gene, value);
  }
  kernels->log1p_row(n, value, batch->log1p + first);
}

void av_cpu_batch_select(av_backend *be, av_batch *batch, int64_t n, const int64_t *rows) {
  const int64_t *row_start = batch->dataset->counts.row_start;
  batch->n = n;
  for (int64_t i = 0; i < n; ++i) {
    batch->row_start[i + 1] = batch->row_start[i] + row_start[rows[i] + 1] - row_start[rows[i]];
  }
  const av_kernels *kernels = av_kernels_of(be);
#pragma omp parallel for schedule(static) num_threads(be->threads)
  for (int part = 0; part < be->threads; ++part) {
    int64_t begin = 0;
    int64_t end = 0;
    av_slice(n, 1, part, be->threads, &begin, &end);
    for (int64_t i = begin; i < end; ++i) {
      if (i + ROWS_AHEAD < end) {
        fetch(batch, rows[i + ROWS_AHEAD]);
      }
      expand(kernels, batch, i, rows[i]);
    }
  }
}
