/* Dense: each rank reads its rows in tiles made of whole chunks where chunks are small enough. */
#include "io/read_slab.h"

#include "io/row_bins.h"
#include "base/memory.h"

#include <stdlib.h>

/* How the slab is cut: bands of rows; each band into tiles of columns; each tile, where even one
 * chunk is larger than a block, into pieces of rows (the chunk stays in HDF5's cache meanwhile). */
typedef struct tiling {
  int64_t chunk_rows; /* bands begin at multiples of it */
  int64_t band_rows;
  int64_t tile_columns;
  int64_t piece_rows;
} tiling;

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t at_least_1(int64_t a) { return a < 1 ? 1 : a; }

static av_status plan_tiles(const av_slab *slab, tiling *tiles) {
  const av_matrix *matrix = slab->matrix;
  const int64_t most = slab->stored.max_values;
  const int64_t n_columns = at_least_1(matrix->n_columns);
  hsize_t chunk[2] = {1, (hsize_t)n_columns};
  int64_t bytes = 0;
  AV_TRY(av_matrix_chunk(matrix->data, matrix->what, 2, chunk, &bytes));
  const int64_t rows = at_least_1(least((int64_t)chunk[0], matrix->n_rows));
  const int64_t columns = at_least_1(least((int64_t)chunk[1], n_columns));
  tiles->chunk_rows = rows;
  if (n_columns <= most / rows) { /* whole rows of whole chunks */
    tiles->band_rows = most / n_columns / rows * rows;
    tiles->tile_columns = n_columns;
    tiles->piece_rows = tiles->band_rows;
  } else {
    tiles->band_rows = rows;
    tiles->tile_columns =
        columns <= most / rows ? most / rows / columns * columns : least(columns, most);
    tiles->piece_rows = at_least_1(least(rows, most / tiles->tile_columns));
  }
  return AV_OK;
}

typedef struct scratch {
  double *value; /* (max_values) the piece read */
  int32_t *gene; /* (n_genes or tile columns) entries of one row that are not 0 */
  double *nonzero;
  int32_t *column; /* (n_genes) matrix column of each gene used */
} scratch;

/* The genes used of a row that lies whole in `value`, in their order. */
static av_status add_whole_row(av_slab *slab, scratch *work, int64_t cell, const double *value,
                               av_counts_builder *builder) {
  int64_t n = 0;
  for (int64_t g = 0; g < slab->dataset->n_genes; ++g) {
    const double v = value[work->column[g]];
    work->gene[n] = (int32_t)g;
    work->nonzero[n] = v;
    n += v != 0; /* a NaN is kept */
  }
  av_check_values(&slab->check, cell, n, work->gene, work->nonzero);
  return av_builder_add_row(builder, n, work->gene, work->nonzero);
}

/* The part of a row that lies in a tile beginning at `column`; row counts from the band's first. */
static av_status add_part_row(av_slab *slab, scratch *work, int64_t cell, int64_t row,
                              int64_t column, int64_t n_columns, const double *value,
                              av_row_bins *bins) {
  int64_t n = 0;
  for (int64_t c = 0; c < n_columns; ++c) {
    const int32_t gene = slab->position[column + c];
    work->gene[n] = gene;
    work->nonzero[n] = value[c];
    n += gene >= 0 && value[c] != 0;
  }
  av_check_values(&slab->check, cell, n, work->gene, work->nonzero);
  for (int64_t i = 0; i < n; ++i) {
    AV_TRY(av_row_bins_add(bins, row, work->gene[i], work->nonzero[i]));
  }
  return AV_OK;
}

static bool any_used(const av_slab *slab, int64_t column, int64_t n_columns) {
  for (int64_t c = column; c < column + n_columns; ++c) {
    if (slab->position[c] >= 0) {
      return true;
    }
  }
  return false;
}

/* Rows [first, first + n_rows): straight into the builder if one tile spans the columns, else
 * through bins. */
static av_status read_band(av_slab *slab, const tiling *tiles, scratch *work, int64_t first,
                           int64_t n_rows, av_counts_builder *builder) {
  const int64_t n_columns = slab->matrix->n_columns;
  const bool whole = tiles->tile_columns >= n_columns;
  av_row_bins *bins = NULL;
  av_status status = AV_OK;
  if (!whole) {
    AV_TRY(av_row_bins_create(&bins, n_rows, slab->dataset->n_genes));
  }
  for (int64_t column = 0; column < n_columns; column += tiles->tile_columns) {
    const int64_t width = least(tiles->tile_columns, n_columns - column);
    if (!whole && !any_used(slab, column, width)) {
      continue;
    }
    for (int64_t row = 0; row < n_rows; row += tiles->piece_rows) {
      const int64_t height = least(tiles->piece_rows, n_rows - row);
      AV_GO(status, av_stored_tile(&slab->stored, first + row, height, column, width, work->value),
            done);
      for (int64_t i = 0; i < height; ++i) {
        const double *value = work->value + i * width;
        AV_GO(status,
              whole
                  ? add_whole_row(slab, work, first + row + i, value, builder)
                  : add_part_row(slab, work, first + row + i, row + i, column, width, value, bins),
              done);
      }
    }
  }
  if (!whole) {
    status = av_row_bins_flush(bins, builder);
  }
done:
  av_row_bins_free(&bins);
  return status;
}

static av_status read_bands(av_slab *slab, scratch *work, av_counts_builder *builder) {
  tiling tiles = {0};
  AV_TRY(plan_tiles(slab, &tiles));
  const int64_t end = slab->dataset->first + slab->dataset->n_local;
  int64_t row = slab->dataset->first;
  while (row < end) {
    const int64_t aligned = row / tiles.chunk_rows * tiles.chunk_rows;
    const int64_t next = least(aligned + tiles.band_rows, end);
    AV_TRY(read_band(slab, &tiles, work, row, next - row, builder));
    row = next;
  }
  return AV_OK;
}

static av_status read_slab(av_slab *slab) {
  const av_dataset *dataset = slab->dataset;
  const int64_t n_genes = dataset->n_genes;
  const int64_t widest = n_genes > slab->stored.max_values ? n_genes : slab->stored.max_values;
  const int64_t entries = widest < slab->matrix->n_columns ? widest : slab->matrix->n_columns;
  av_counts_builder *builder = NULL;
  scratch work = {.value = av_malloc((size_t)slab->stored.max_values, sizeof *work.value),
                  .gene = av_malloc((size_t)entries, sizeof *work.gene),
                  .nonzero = av_malloc((size_t)entries, sizeof *work.nonzero),
                  .column = av_malloc((size_t)n_genes, sizeof *work.column)};
  av_status status = AV_OK;
  if (work.value == NULL || work.gene == NULL || work.nonzero == NULL || work.column == NULL) {
    status = av_fail(AV_NOMEM, "%s: out of memory (block of %lld values)", slab->matrix->what,
                     (long long)slab->stored.max_values);
    goto done;
  }
  for (int64_t g = 0; g < n_genes; ++g) {
    work.column[g] = (int32_t)dataset->gene_column[g];
  }
  /* A tenth of the values of counts are not 0, as a rule; the builder grows where more are. */
  AV_GO(status,
        av_slab_builder(slab, dataset->n_local * (slab->matrix->n_columns / 10 + 1), &builder),
        done);
  AV_GO(status, read_bands(slab, &work, builder), done);
  AV_GO(status, av_builder_finish(builder, &slab->dataset->counts), done);
done:
  av_builder_free(&builder);
  free(work.value);
  free(work.gene);
  free(work.nonzero);
  free(work.column);
  return status;
}

av_status av_read_dense(av_slab *slab, av_status status) {
  status = av_stored_begin(&slab->stored, status);
  if (status == AV_OK) {
    status = read_slab(slab);
  }
  return av_stored_end(&slab->stored, status);
}
