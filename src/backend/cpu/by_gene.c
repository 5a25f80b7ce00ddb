#include "backend/cpu/by_gene.h"

#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

/* Entries of the longest tile. */
static int64_t most_entries(const av_batch *batch) {
  int64_t most = 0;
  for (int64_t i = 0; i < batch->n; i += AV_TILE_ROWS) {
    const int64_t end = i + AV_TILE_ROWS < batch->n ? i + AV_TILE_ROWS : batch->n;
    const int64_t entries = batch->row_start[end] - batch->row_start[i];
    most = entries > most ? entries : most;
  }
  return most;
}

static int64_t whole_lines(int64_t bytes) { return (bytes + 63) / 64 * 64; }

int64_t av_by_gene_bytes(const av_batch *batch) {
  const int64_t entries = most_entries(batch);
  const int64_t genes = batch->dataset->n_genes;
  return whole_lines(entries * (int64_t)sizeof(av_sparse_entry)) +
         whole_lines((genes + 1) * (int64_t)sizeof(av_sparse_run)) +
         whole_lines(genes * (int64_t)sizeof(int32_t));
}

/* First entry of row i whose gene is not below `gene`. */
static int64_t entry_from(const av_batch *batch, int64_t i, int64_t gene) {
  int64_t low = batch->row_start[i];
  int64_t high = batch->row_start[i + 1];
  if (gene <= 0) {
    return low;
  }
  if (gene >= batch->dataset->n_genes) {
    return high;
  }
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (batch->gene[middle] < gene) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

/* A counting sort. */
av_sparse_part av_by_gene(const av_batch *batch, const float *value, int64_t begin, int64_t end,
                          int64_t gene_begin, int64_t gene_end, void *space) {
  int64_t from[AV_TILE_ROWS];
  int64_t to[AV_TILE_ROWS];
  const int64_t genes = batch->dataset->n_genes;
  av_sparse_run *run = space;
  int32_t *next = (void *)((char *)space + whole_lines((genes + 1) * (int64_t)sizeof *run));
  av_sparse_entry *entry = (void *)((char *)next + whole_lines(genes * (int64_t)sizeof *next));
  memset(next + gene_begin, 0, (size_t)(gene_end - gene_begin) * sizeof *next);
  for (int64_t i = begin; i < end; ++i) {
    from[i - begin] = entry_from(batch, i, gene_begin);
    to[i - begin] = entry_from(batch, i, gene_end);
    for (int64_t e = from[i - begin]; e < to[i - begin]; ++e) {
      next[batch->gene[e]] += 1;
    }
  }
  int64_t runs = 0;
  int32_t at = 0;
  for (int64_t g = gene_begin; g < gene_end; ++g) {
    const int32_t count = next[g];
    next[g] = at;
    run[runs] = (av_sparse_run){.gene = (int32_t)g, .first = at};
    runs += count > 0;
    at += count;
  }
  run[runs] = (av_sparse_run){.gene = (int32_t)gene_end, .first = at};
  for (int64_t i = begin; i < end; ++i) {
    for (int64_t e = from[i - begin]; e < to[i - begin]; ++e) {
      entry[next[batch->gene[e]]++] =
          (av_sparse_entry){.value = value[e], .row = (int32_t)(i - begin)};
    }
  }
  return (av_sparse_part){.n_runs = runs, .run = run, .entry = entry};
}

bool av_gene_bounds(const av_counts *counts, int threads, int32_t *bounds) {
  enum { SAMPLE = 4096, ENTRIES = 8 }; /* a tile: what the weights of a gene cost besides */
  const int64_t genes = counts->n_genes;
  const int64_t step = counts->n_rows / SAMPLE + 1;
  const int64_t longest = av_counts_longest_row(counts);
  int64_t *before = av_calloc((size_t)genes + 1, sizeof *before); /* entries of genes below */
  int32_t *gene = av_malloc((size_t)longest, sizeof *gene);
  float *value = av_malloc((size_t)longest, sizeof *value);
  const bool complete = before && gene && value;
  for (int64_t row = 0; complete && row < counts->n_rows; row += step) {
    const int64_t n = av_counts_row(counts, row, gene, value);
    for (int64_t e = 0; e < n; ++e) {
      before[gene[e] + 1] += 1;
    }
  }
  const int64_t sampled = (counts->n_rows + step - 1) / step;
  const int64_t of_weights = 1 + sampled * ENTRIES / AV_TILE_ROWS;
  for (int64_t g = 0; complete && g < genes; ++g) {
    before[g + 1] += before[g] + of_weights;
  }
  int64_t g = 0;
  for (int part = 0; complete && part < threads; ++part) {
    while (before[g] < before[genes] * part / threads) {
      ++g;
    }
    bounds[part] = (int32_t)g;
  }
  bounds[threads] = (int32_t)genes;
  free(before);
  free(gene);
  free(value);
  return complete;
}
