/* CSR: each rank reads the stored entries of its own rows, block by block. */
#include "io/read_raw.h"

#include "base/memory.h"

#include <stdlib.h>

/* The row being put together: its entries of genes used. */
typedef struct row_buffer {
  int64_t n, capacity;
  int32_t *gene;
  double *value;
} row_buffer;

/* Makes room for `more` entries; false when out of memory. */
static bool reserve(row_buffer *row, int64_t more) {
  if (row->gene != NULL && row->value != NULL && row->n + more <= row->capacity) {
    return true;
  }
  const int64_t capacity = 2 * (row->n + more) + 256;
  int32_t *gene = av_realloc(row->gene, (size_t)capacity, sizeof *gene);
  if (gene == NULL) {
    return false;
  }
  row->gene = gene;
  double *value = av_realloc(row->value, (size_t)capacity, sizeof *value);
  if (value == NULL) {
    return false;
  }
  row->value = value;
  row->capacity = capacity;
  return true;
}

/* Appends entries [first, first + n) of the file, which all belong to row `cell`. */
static av_status append(const av_slab *slab, row_buffer *row, int64_t cell, int64_t first,
                        int64_t n, const int32_t *index, const double *value) {
  const av_matrix *matrix = slab->matrix;
  if (!reserve(row, n)) {
    return av_fail(AV_NOMEM, "%s: out of memory (row %lld)", matrix->what, (long long)cell);
  }
  int64_t filled = row->n;
  for (int64_t i = 0; i < n; ++i) {
    if (index[i] < 0 || index[i] >= matrix->n_columns) {
      return av_fail(AV_BADDATA,
                     "%s: damaged: row %lld refers to gene number %lld, but there are %lld genes",
                     matrix->what, (long long)cell, (long long)av_read_index(matrix, first + i),
                     (long long)matrix->n_columns);
    }
    const int32_t gene = slab->position[index[i]];
    row->gene[filled] = gene;
    row->value[filled] = value[i];
    filled += gene >= 0;
  }
  row->n = filled;
  return AV_OK;
}

static av_status finish_row(av_slab *slab, row_buffer *row, int64_t cell,
                            av_counts_builder *builder) {
  av_check_values(&slab->check, cell, row->n, row->gene, row->value);
  const av_status status = av_builder_add_row(builder, row->n, row->gene, row->value);
  row->n = 0;
  return status;
}

/* Rows [first, last) of the slab, a block at a time. */
static av_status read_blocks(av_slab *slab, const int64_t *pointer, int64_t first, int64_t last,
                             row_buffer *row, av_counts_builder *builder, int32_t *index,
                             double *value) {
  const int64_t first_cell = slab->dataset->first;
  int64_t at = pointer[first];
  int64_t r = first;
  while (r < last) {
    const int64_t rest = pointer[last] - at;
    const int64_t n = rest < slab->stored.max_values ? rest : slab->stored.max_values;
    AV_TRY(av_stored_entries(&slab->stored, at, n, value, index));
    const int64_t end = at + n;
    for (int64_t from = at; r < last; ++r) {
      const int64_t to = pointer[r + 1] < end ? pointer[r + 1] : end;
      AV_TRY(append(slab, row, first_cell + r, from, to - from, index + (from - at),
                    value + (from - at)));
      from = to;
      if (pointer[r + 1] > end) {
        break; /* goes on in the next block */
      }
      AV_TRY(finish_row(slab, row, first_cell + r, builder));
    }
    at = end;
  }
  return AV_OK;
}

/* Rows [first, first + n) of the slab through HDF5. */
static av_status read_rows(av_slab *slab, const int64_t *pointer, int64_t first, int64_t n,
                           av_counts_builder *builder) {
  const int64_t n_stored = pointer[first + n] - pointer[first];
  const int64_t block = n_stored < slab->stored.max_values ? n_stored : slab->stored.max_values;
  row_buffer row = {0};
  int32_t *index = av_malloc((size_t)block, sizeof *index);
  double *value = av_malloc((size_t)block, sizeof *value);
  av_status status = AV_OK;
  if (index == NULL || value == NULL) {
    status = av_fail(AV_NOMEM, "%s: out of memory (block of %lld values)", slab->matrix->what,
                     (long long)block);
  } else {
    status = read_blocks(slab, pointer, first, first + n, &row, builder, index, value);
  }
  free(row.gene);
  free(row.value);
  free(index);
  free(value);
  return status;
}

static av_status read_slab(av_slab *slab) {
  const int64_t n_rows = slab->dataset->n_local;
  av_counts_builder *builder = NULL;
  bool read = false;
  av_status status = AV_OK;
  int64_t *pointer = av_malloc((size_t)n_rows + 1, sizeof *pointer);
  if (pointer == NULL) {
    return av_fail(AV_NOMEM, "%s: out of memory (%lld rows)", slab->matrix->what,
                   (long long)n_rows);
  }
  pointer[0] = 0;
  if (n_rows > 0) {
    AV_GO(status, av_read_pointers(slab->matrix, slab->dataset->first, n_rows, "row", pointer),
          done);
  }
  const int64_t n_stored = n_rows > 0 ? pointer[n_rows] - pointer[0] : 0;
  AV_GO(status, av_slab_builder(slab, n_stored, &builder), done);
  AV_GO(status, av_read_raw(slab, pointer, builder, read_rows, &read), done);
  if (!read) {
    AV_GO(status, read_rows(slab, pointer, 0, n_rows, builder), done);
  }
  AV_GO(status, av_builder_finish(builder, &slab->dataset->counts), done);
done:
  av_builder_free(&builder);
  free(pointer);
  return status;
}

av_status av_read_csr(av_slab *slab, av_status status) {
  status = av_stored_begin(&slab->stored, status);
  if (status == AV_OK) {
    status = read_slab(slab);
  }
  return av_stored_end(&slab->stored, status);
}
