#include "packing.h"

#include <string.h>

enum {
  AHEAD = 8,       /* rows whose memory is asked for before they are copied */
  ROWS_EACH = 512, /* that are worth a thread of their own: some 30 us of work */
};

static int64_t at_most(int64_t n, int64_t most) { return n < most ? n : most; }

/* ---- sections ---- */

void av_gpu_pack_sizes(const av_gpu_slab *slab, int64_t n, int64_t entries, int64_t escapes,
                       size_t bytes[AV_GPU_SECTIONS]) {
  bytes[AV_GPU_HEAD] = (size_t)(n + 2) * sizeof(int64_t);
  bytes[AV_GPU_GENES] = (size_t)(entries * slab->gene_bytes);
  bytes[AV_GPU_VALUES] = (size_t)(entries * slab->value_bytes);
  bytes[AV_GPU_ESCAPED_AT] = (size_t)escapes * sizeof(int64_t);
  bytes[AV_GPU_ESCAPED_VALUES] = (size_t)escapes * sizeof(float);
}

/* The sections [from, to), behind those before. */
static av_status place(av_gpu_packing *made, int from, int to, const size_t *capacity) {
  for (int s = from; s < to; ++s) {
    if (made->bytes[s] > capacity[s]) {
      return AV_FAIL_BUG("a minibatch of more entries than different rows can have");
    }
    made->at[s] = made->used;
    made->used += (made->bytes[s] + AV_GPU_STAGE_ALIGNMENT - 1) / AV_GPU_STAGE_ALIGNMENT *
                  AV_GPU_STAGE_ALIGNMENT;
  }
  return AV_OK;
}

/* ---- rows ---- */

/* Codes that stand for an escape among n values from number `first` on. Blocks are short enough for
 * their sums to be as narrow as codes, so that the compiler adds many at a time. */
static int64_t count_escapes(const av_counts *counts, int64_t first, int64_t n) {
  enum { BLOCK = UINT8_MAX };
  int64_t found = 0;
  for (int64_t at = 0; at < n; at += BLOCK) {
    const int64_t end = at_most(n, at + BLOCK);
    if (counts->kind == AV_COUNT_U8) {
      const uint8_t *code = (const uint8_t *)counts->value + first;
      uint8_t some = 0;
      for (int64_t i = at; i < end; ++i) {
        some = (uint8_t)(some + (code[i] == UINT8_MAX ? 1 : 0));
      }
      found += some;
    } else if (counts->kind == AV_COUNT_U16) {
      const uint16_t *code = (const uint16_t *)counts->value + first;
      uint16_t some = 0;
      for (int64_t i = at; i < end; ++i) {
        some = (uint16_t)(some + (code[i] == UINT16_MAX ? 1 : 0));
      }
      found += some;
    }
  }
  return found;
}

/* Entries of row i, and how many of them are escapes. */
static void copy_row(const av_counts *counts, const av_gpu_slab *slab, int64_t row, int64_t i,
                     const av_gpu_packing *to, char *host, int64_t *escapes) {
  const size_t of_gene = (size_t)slab->gene_bytes;
  const size_t of_value = (size_t)slab->value_bytes;
  const size_t from = (size_t)counts->row_start[row];
  const size_t n = (size_t)counts->row_start[row + 1] - from;
  const size_t start = (size_t)((const int64_t *)(const void *)host)[1 + i];
  if (n > 0) {
    memcpy(host + to->at[AV_GPU_GENES] + start * of_gene,
           (const char *)counts->gene + from * of_gene, n * of_gene);
    memcpy(host + to->at[AV_GPU_VALUES] + start * of_value,
           (const char *)counts->value + from * of_value, n * of_value);
  }
  escapes[i] = counts->n_escaped > 0 ? count_escapes(counts, (int64_t)from, (int64_t)n) : 0;
}

/* The n escapes of row i, as numbers `at` and on; they follow each other in the slab's list too. */
static void copy_escapes(const av_counts *counts, int64_t row, int64_t i, const av_gpu_packing *to,
                         char *host, int64_t at, int64_t n) {
  const int64_t from = counts->row_start[row];
  const int64_t start = ((const int64_t *)(const void *)host)[1 + i];
  int64_t *places = (int64_t *)(void *)(host + to->at[AV_GPU_ESCAPED_AT]) + at;
  float *values = (float *)(void *)(host + to->at[AV_GPU_ESCAPED_VALUES]) + at;
  const int64_t first = n > 0 ? av_counts_escape_from(counts, from) : 0;
  for (int64_t k = 0; k < n; ++k) {
    places[k] = counts->escaped_at[first + k] - from + start;
    values[k] = (float)counts->escaped_value[first + k];
  }
}

/* Numbers become the sums of those before; returns the sum of all n. */
static int64_t add_up(int64_t *numbers, int64_t n) {
  int64_t sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t own = numbers[i];
    numbers[i] = sum;
    sum += own;
  }
  numbers[n] = sum;
  return sum;
}

/* ---- a minibatch ---- */

av_status av_gpu_pack(const av_counts *counts, const av_gpu_slab *slab, int threads,
                      const size_t capacity[AV_GPU_SECTIONS], int64_t n, const int64_t *rows,
                      int64_t *escapes, char *host, av_gpu_packing *made) {
  const int64_t *row_start = counts->row_start;
  const int team = (int)(n < 2 * ROWS_EACH ? 1 : at_most(threads, n / ROWS_EACH));
  int64_t *head = (int64_t *)(void *)host;
  made->used = 0;
#pragma omp parallel for schedule(static) num_threads(team) if (team > 1)
  for (int64_t i = 0; i < n; ++i) {
    head[1 + i] = row_start[rows[i] + 1] - row_start[rows[i]];
  }
  const int64_t entries = add_up(head + 1, n);
  av_gpu_pack_sizes(slab, n, entries, 0, made->bytes);
  AV_TRY(place(made, AV_GPU_HEAD, AV_GPU_ESCAPED_AT, capacity));
#pragma omp parallel for schedule(static) num_threads(team) if (team > 1)
  for (int64_t i = 0; i < n; ++i) {
    av_counts_fetch(counts, rows[at_most(n - 1, i + AHEAD)]);
    copy_row(counts, slab, rows[i], i, made, host, escapes);
  }
  head[0] = add_up(escapes, n);
  av_gpu_pack_sizes(slab, n, entries, head[0], made->bytes);
  AV_TRY(place(made, AV_GPU_ESCAPED_AT, AV_GPU_SECTIONS, capacity));
  if (head[0] > 0) {
#pragma omp parallel for schedule(static) num_threads(team) if (team > 1)
    for (int64_t i = 0; i < n; ++i) {
      copy_escapes(counts, rows[i], i, made, host, escapes[i], escapes[i + 1] - escapes[i]);
    }
  }
  return AV_OK;
}
