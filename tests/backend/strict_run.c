#include "backend/tested.h"
#include "backend/strict_run.h"

#include "base/memory.h"
#include "config/config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void run_open(run *r, const av_comm *comm, const av_dataset *dataset, int threads, bool strict,
              int64_t first, int64_t n) {
  *r = (run){.dataset = dataset,
             .first = first,
             .n = n,
             .genes = dataset->n_genes,
             .batches = dataset->batch.levels.n,
             .labels = dataset->label.levels.n,
             .onehot = dataset->design.n_onehot,
             .most_cells = ROWS * MOST};
  require(open_tested(&r->be, comm, threads, strict));
  require(r->be.ops->data_load(&r->be, dataset, &r->data));
  require(r->be.ops->batch_create(&r->be, r->data, ROWS, &r->batch));
  int64_t rows[ROWS];
  for (int64_t i = 0; i < n; ++i) {
    rows[i] = ((first + i) * 7 + 2) % CELLS;
  }
  r->be.ops->batch_select(&r->be, r->batch, n, rows);
  r->sums = av_calloc(256, sizeof *r->sums);
  r->cells = av_calloc((size_t)r->most_cells, sizeof *r->cells);
  assert_true(r->sums && r->cells);
}

void run_close(run *r) {
  r->be.ops->batch_free(&r->be, r->batch);
  r->be.ops->data_free(&r->be, r->data);
  av_backend_close(&r->be);
  free(r->sums);
  free(r->cells);
}

void *array(run *r, av_kind kind, int64_t n) {
  void *made = NULL;
  require(r->be.ops->alloc(&r->be, kind, n, &made));
  return made;
}

void *numbers(run *r, av_kind kind, int64_t rows_of, int64_t n, uint64_t item, double shift,
              double scale) {
  const int64_t rows = rows_of > 0 ? r->n : 1;
  void *made = array(r, kind, rows * n);
  double *values = av_calloc((size_t)(rows * n), sizeof *values);
  assert_non_null(values);
  source from = {.item = (item << 24) + (rows_of > 0 ? (uint64_t)(r->first * n) : 0)};
  for (int64_t i = 0; i < rows * n; ++i) {
    const double x = source_normal(&from);
    values[i] = (double)(float)(shift + scale * x * fabs(x) * fabs(x)); /* heavy tails */
  }
  require(r->be.ops->write(&r->be, kind, made, rows * n, values));
  free(values);
  return made;
}

void note_shared(run *r, av_kind kind, const void *at, int64_t n) {
  double *values = av_calloc((size_t)n, sizeof *values);
  assert_non_null(values);
  require(r->be.ops->read(&r->be, kind, at, n, values));
  uint64_t sum = 14695981039346656037u;
  for (int64_t i = 0; i < n; ++i) {
    uint64_t bits = 0;
    const double value = values[i] + 0.0; /* -0 is 0 */
    assert_true(isfinite(value));
    memcpy(&bits, &value, sizeof bits);
    sum = (sum ^ bits) * 1099511628211u;
    sum ^= sum >> 29;
  }
  assert_true(r->n_sums < 256);
  r->sums[r->n_sums++] = sum;
  free(values);
}

void note_sum(run *r, av_kind kind, void *at, int64_t n) {
  av_backend_allreduce(&r->be, kind, at, n);
  note_shared(r, kind, at, n);
}

void note_cells(run *r, const void *at, int64_t n) {
  assert_true(r->n_cells + r->n * n <= r->most_cells && r->n_blocks < BLOCKS);
  r->width[r->n_blocks++] = n;
  require(r->be.ops->read(&r->be, AV_REAL, at, r->n * n, r->cells + r->n_cells));
  r->n_cells += r->n * n;
}

void release(run *r, void **arrays, size_t n) {
  for (size_t i = 0; i < n; ++i) {
    r->be.ops->release(&r->be, arrays[i]);
  }
}
