#include "io/row_bins.h"

#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

/* Rows are grouped in bands; each band is a list of pages of packed entries:
 *   row in band (2 bytes), gene (2 or 4), value (1; the escape is followed by a double). */
enum {
  PAGE_BYTES = 16384,
  LONGEST_ENTRY = 2 + 4 + 1 + 8,
  MOST_ROWS = 65536, /* of a band */
  FEWEST_BANDS = 64, /* so that one band, unpacked, is a small part of the slab */
  ESCAPE = 255
};

typedef struct page {
  struct page *next;
  int32_t used;
  unsigned char bytes[PAGE_BYTES];
} page;

typedef struct band {
  page *first, *last;
  int64_t n;
} band;

struct av_row_bins {
  int64_t n_rows, rows_per_band, n_bands;
  bool wide_genes;
  int64_t n;
  band *bands;
};

av_status av_row_bins_create(av_row_bins **bins, int64_t n_rows, int64_t n_genes) {
  *bins = NULL;
  av_row_bins *made = av_calloc(1, sizeof *made);
  AV_TRY_ALLOC(made);
  made->n_rows = n_rows;
  made->rows_per_band = n_rows / FEWEST_BANDS + 1;
  if (made->rows_per_band > MOST_ROWS) {
    made->rows_per_band = MOST_ROWS;
  }
  made->n_bands = (n_rows + made->rows_per_band - 1) / made->rows_per_band;
  made->wide_genes = n_genes > UINT16_MAX + 1;
  made->bands = av_calloc((size_t)made->n_bands, sizeof *made->bands);
  if (made->bands == NULL) {
    av_row_bins_free(&made);
    return av_fail(AV_NOMEM, "out of memory (%lld rows)", (long long)n_rows);
  }
  *bins = made;
  return AV_OK;
}

int64_t av_row_bins_size(const av_row_bins *bins) { return bins->n; }

/* An empty page at the end of a band; NULL when out of memory. */
static page *new_page(band *at) {
  page *added = malloc(sizeof *added);
  if (added == NULL) {
    return NULL;
  }
  added->next = NULL;
  added->used = 0;
  if (at->last == NULL) {
    at->first = added;
  } else {
    at->last->next = added;
  }
  at->last = added;
  return added;
}

static unsigned char *put(unsigned char *to, const void *from, size_t size) {
  memcpy(to, from, size);
  return to + size;
}

av_status av_row_bins_add(av_row_bins *bins, int64_t row, int32_t gene, double value) {
  if (value == 0) {
    return AV_OK;
  }
  band *at = &bins->bands[row / bins->rows_per_band];
  page *to = at->last;
  if (to == NULL || to->used > PAGE_BYTES - LONGEST_ENTRY) {
    to = new_page(at);
  }
  if (to == NULL) {
    return av_fail(AV_NOMEM, "out of memory (%lld entries of this rank, being sorted by row)",
                   (long long)bins->n);
  }
  const uint16_t row_in_band = (uint16_t)(row % bins->rows_per_band);
  const uint16_t narrow = (uint16_t)gene;
  const bool escaped = !(value > 0 && value < ESCAPE && value == (double)(int)value);
  const unsigned char code = escaped ? ESCAPE : (unsigned char)value;
  unsigned char *start = to->bytes + to->used;
  unsigned char *end = put(start, &row_in_band, sizeof row_in_band);
  end = bins->wide_genes ? put(end, &gene, sizeof gene) : put(end, &narrow, sizeof narrow);
  end = put(end, &code, sizeof code);
  end = escaped ? put(end, &value, sizeof value) : end;
  to->used += (int32_t)(end - start);
  at->n += 1;
  bins->n += 1;
  return AV_OK;
}

typedef struct entry {
  uint16_t row;
  int32_t gene;
  double value;
} entry;

static const unsigned char *take(const unsigned char *from, bool wide, entry *out) {
  uint16_t narrow = 0;
  memcpy(&out->row, from, sizeof out->row);
  from += sizeof out->row;
  if (wide) {
    memcpy(&out->gene, from, sizeof out->gene);
    from += sizeof out->gene;
  } else {
    memcpy(&narrow, from, sizeof narrow);
    out->gene = narrow;
    from += sizeof narrow;
  }
  out->value = *from++;
  if (out->value == ESCAPE) {
    memcpy(&out->value, from, sizeof out->value);
    from += sizeof out->value;
  }
  return from;
}

static void free_band(band *at) {
  while (at->first != NULL) {
    page *next = at->first->next;
    free(at->first);
    at->first = next;
  }
  *at = (band){0};
}

/* Counting sort of one band by row: start (rows + 1), gene and value (band's entries). */
static void sort_band(const av_row_bins *bins, const band *at, int64_t *start, int32_t *gene,
                      double *value) {
  entry next = {0};
  memset(start, 0, (size_t)(bins->rows_per_band + 1) * sizeof *start);
  for (const page *p = at->first; p != NULL; p = p->next) {
    for (const unsigned char *c = p->bytes; c < p->bytes + p->used;) {
      c = take(c, bins->wide_genes, &next);
      start[next.row + 1] += 1;
    }
  }
  for (int64_t i = 0; i < bins->rows_per_band; ++i) {
    start[i + 1] += start[i];
  }
  for (const page *p = at->first; p != NULL; p = p->next) {
    for (const unsigned char *c = p->bytes; c < p->bytes + p->used;) {
      c = take(c, bins->wide_genes, &next);
      const int64_t to = start[next.row]++;
      gene[to] = next.gene;
      value[to] = next.value;
    }
  }
  /* start[i] is now the end of row i, which is the beginning of row i + 1. */
  memmove(start + 1, start, (size_t)bins->rows_per_band * sizeof *start);
  start[0] = 0;
}

av_status av_row_bins_flush(av_row_bins *bins, av_counts_builder *builder) {
  int64_t most = 0;
  for (int64_t b = 0; b < bins->n_bands; ++b) {
    most = bins->bands[b].n > most ? bins->bands[b].n : most;
  }
  int64_t *start = av_malloc((size_t)bins->rows_per_band + 1, sizeof *start);
  int32_t *gene = av_malloc((size_t)most, sizeof *gene);
  double *value = av_malloc((size_t)most, sizeof *value);
  if (start == NULL || gene == NULL || value == NULL) {
    free(start);
    free(gene);
    free(value);
    return av_fail(AV_NOMEM, "out of memory (sorting %lld entries by row)", (long long)most);
  }
  av_status status = AV_OK;
  for (int64_t b = 0; b < bins->n_bands && status == AV_OK; ++b) {
    sort_band(bins, &bins->bands[b], start, gene, value);
    free_band(&bins->bands[b]);
    const int64_t first = b * bins->rows_per_band;
    const int64_t rest = bins->n_rows - first;
    const int64_t n = rest < bins->rows_per_band ? rest : bins->rows_per_band;
    for (int64_t i = 0; i < n && status == AV_OK; ++i) {
      status =
          av_builder_add_row(builder, start[i + 1] - start[i], gene + start[i], value + start[i]);
    }
  }
  bins->n = 0;
  free(start);
  free(gene);
  free(value);
  return status;
}

void av_row_bins_free(av_row_bins **bins) {
  if (*bins != NULL) {
    for (int64_t b = 0; (*bins)->bands != NULL && b < (*bins)->n_bands; ++b) {
      free_band(&(*bins)->bands[b]);
    }
    free((*bins)->bands);
    free(*bins);
    *bins = NULL;
  }
}
