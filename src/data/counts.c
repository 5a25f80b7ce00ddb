#include "data/counts.h"

#include <stdlib.h>
#include <string.h>

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

/* Sum of at most 1,024 codes: eight at a time in four lanes of 16 bits. Rows are short: the last
 * few codes cost one step as well, with those before them shifted out. */
static int64_t sum_of_few(const uint8_t *code, int64_t n) {
  const uint64_t bytes = UINT64_C(0x00ff00ff00ff00ff);
  const uint64_t pairs = UINT64_C(0x0000ffff0000ffff);
  uint64_t eight = 0;
  uint64_t lanes = 0;
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    memcpy(&eight, code + i, sizeof eight);
    lanes += (eight & bytes) + ((eight >> 8) & bytes);
  }
  if (i < n && n >= 8) {
    memcpy(&eight, code + n - 8, sizeof eight);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    eight >>= 8 * (8 - (n - i));
#else
    eight <<= 8 * (8 - (n - i));
#endif
    lanes += (eight & bytes) + ((eight >> 8) & bytes);
    i = n;
  }
  lanes = (lanes & pairs) + ((lanes >> 16) & pairs);
  int64_t total = (int64_t)(lanes & UINT32_MAX) + (int64_t)(lanes >> 32);
  for (; i < n; ++i) {
    total += code[i];
  }
  return total;
}

static int64_t sum_of_u8(const uint8_t *code, int64_t n) {
  enum { FEW = 1024 };
  int64_t total = 0;
  for (int64_t i = 0; i < n; i += FEW) {
    total += sum_of_few(code + i, n - i < FEW ? n - i : FEW);
  }
  return total;
}

static int64_t sum_of_u16(const uint16_t *code, int64_t n) {
  int64_t total = 0;
  for (int64_t i = 0; i < n; ++i) {
    total += code[i];
  }
  return total;
}

static double sum_of_floats(const float *value, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    sum += (double)value[i];
  }
  return sum;
}

void av_counts_sum_rows(const av_counts *counts, int64_t first, int64_t n_rows, double *sum) {
  int64_t e = escape_from(counts, counts->row_start[first]);
  for (int64_t r = 0; r < n_rows; ++r) {
    const int64_t begin = counts->row_start[first + r];
    const int64_t end = counts->row_start[first + r + 1];
    if (counts->kind == AV_COUNT_F32) {
      sum[r] = sum_of_floats((const float *)counts->value + begin, end - begin);
      continue;
    }
    const bool narrow = counts->kind == AV_COUNT_U8;
    int64_t total = narrow ? sum_of_u8((const uint8_t *)counts->value + begin, end - begin)
                           : sum_of_u16((const uint16_t *)counts->value + begin, end - begin);
    double escaped = 0;
    for (; e < counts->n_escaped && counts->escaped_at[e] < end; ++e) {
      total -= narrow ? UINT8_MAX : UINT16_MAX; /* its code */
      escaped += counts->escaped_value[e];
    }
    sum[r] = escaped + (double)total;
  }
}
