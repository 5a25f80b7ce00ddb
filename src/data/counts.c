#include "data/counts.h"

#include <stdlib.h>

void av_counts_free(av_counts *counts) {
  free(counts->row_start);
  free(counts->gene);
  free(counts->value);
  free(counts->escaped_at);
  free(counts->escaped_value);
  *counts = (av_counts){0};
}

static int64_t gene_bytes(const av_counts *counts) { return counts->wide_genes ? 4 : 2; }

static int64_t value_bytes(av_count_kind kind) {
  return kind == AV_COUNT_U8 ? 1 : kind == AV_COUNT_U16 ? 2 : (int64_t)sizeof(float);
}

int64_t av_counts_bytes(const av_counts *counts) {
  if (counts->row_start == NULL) {
    return 0;
  }
  const int64_t entry = gene_bytes(counts) + value_bytes(counts->kind);
  return (counts->n_rows + 1) * (int64_t)sizeof(int64_t) + counts->n_nonzero * entry +
         counts->n_escaped * (int64_t)(sizeof(int64_t) + sizeof(double));
}

void av_counts_fetch(const av_counts *counts, int64_t row) {
  enum { LINE = 64 };
  const int64_t begin = counts->row_start[row];
  const int64_t end = counts->row_start[row + 1];
  const int64_t of_gene = gene_bytes(counts);
  const int64_t of_value = value_bytes(counts->kind);
  for (int64_t at = begin * of_gene; at < end * of_gene; at += LINE) {
    __builtin_prefetch((const char *)counts->gene + at);
  }
  for (int64_t at = begin * of_value; at < end * of_value; at += LINE) {
    __builtin_prefetch((const char *)counts->value + at);
  }
}

/* First escape at or after position `at`. */
static int64_t escape_from(const av_counts *counts, int64_t at) {
  int64_t low = 0;
  int64_t high = counts->n_escaped;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (counts->escaped_at[middle] < at) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

static void copy_genes(const av_counts *counts, int64_t first, int64_t n, int32_t *gene) {
  if (counts->wide_genes) {
    const uint32_t *from = (const uint32_t *)counts->gene + first;
    for (int64_t i = 0; i < n; ++i) {
      gene[i] = (int32_t)from[i];
    }
  } else {
    const uint16_t *from = (const uint16_t *)counts->gene + first;
    for (int64_t i = 0; i < n; ++i) {
      gene[i] = from[i];
    }
  }
}

int64_t av_counts_row(const av_counts *counts, int64_t row, int32_t *gene, float *value) {
  const int64_t first = counts->row_start[row];
  const int64_t n = counts->row_start[row + 1] - first;
  copy_genes(counts, first, n, gene);
  if (counts->kind == AV_COUNT_F32) {
    const float *from = (const float *)counts->value + first;
    for (int64_t i = 0; i < n; ++i) {
      value[i] = from[i];
    }
    return n;
  }
  if (counts->kind == AV_COUNT_U8) {
    const uint8_t *from = (const uint8_t *)counts->value + first;
    for (int64_t i = 0; i < n; ++i) {
      value[i] = from[i];
    }
  } else {
    const uint16_t *from = (const uint16_t *)counts->value + first;
    for (int64_t i = 0; i < n; ++i) {
      value[i] = from[i];
    }
  }
  for (int64_t e = escape_from(counts, first);
       e < counts->n_escaped && counts->escaped_at[e] < first + n; ++e) {
    value[counts->escaped_at[e] - first] = (float)counts->escaped_value[e];
  }
  return n;
}

int64_t av_counts_longest_row(const av_counts *counts) {
  int64_t longest = 0;
  for (int64_t row = 0; row < counts->n_rows; ++row) {
    const int64_t n = counts->row_start[row + 1] - counts->row_start[row];
    longest = n > longest ? n : longest;
  }
  return longest;
}

/* Sum of n codes, in pieces whose sum 32 bits hold: additions of narrow numbers, many at a time. */
#define SUM_OF_CODES(name, type)                                 \
  static int64_t name(const type *code, int64_t n) {             \
    enum { PIECE = 1 << 15 };                                    \
    int64_t total = 0;                                           \
    for (int64_t begin = 0; begin < n; begin += PIECE) {         \
      const int64_t end = begin + PIECE < n ? begin + PIECE : n; \
      uint32_t sum = 0;                                          \
      for (int64_t i = begin; i < end; ++i) {                    \
        sum += code[i];                                          \
      }                                                          \
      total += sum;                                              \
    }                                                            \
    return total;                                                \
  }
SUM_OF_CODES(sum_of_u8, uint8_t)
SUM_OF_CODES(sum_of_u16, uint16_t)

double av_counts_row_sum(const av_counts *counts, int64_t row) {
  const int64_t first = counts->row_start[row];
  const int64_t end = counts->row_start[row + 1];
  double sum = 0;
  if (counts->kind == AV_COUNT_F32) {
    for (int64_t i = first; i < end; ++i) {
      sum += (double)((const float *)counts->value)[i];
    }
    return sum;
  }
  int64_t total = counts->kind == AV_COUNT_U8
                      ? sum_of_u8((const uint8_t *)counts->value + first, end - first)
                      : sum_of_u16((const uint16_t *)counts->value + first, end - first);
  /* codes of escapes are in it */
  const int64_t code = counts->kind == AV_COUNT_U8 ? UINT8_MAX : UINT16_MAX;
  for (int64_t e = escape_from(counts, first); e < counts->n_escaped && counts->escaped_at[e] < end;
       ++e) {
    total -= code;
    sum += counts->escaped_value[e];
  }
  return sum + (double)total;
}
