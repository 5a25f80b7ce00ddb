#include "data/counts.h"

#include <stdlib.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

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

int64_t av_counts_escape_from(const av_counts *counts, int64_t at) {
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
  for (int64_t e = av_counts_escape_from(counts, first);
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

/* Rows are short: in the vector form the last few codes cost one step as well, loaded together with
 * those before them, which are masked out. */
#ifdef __SSE2__
static int64_t sum_of_u8(const uint8_t *code, int64_t n) {
  enum { STEP = 16 };
  static const uint8_t last[2 * STEP] = {[STEP] = 255, 255, 255, 255, 255, 255, 255, 255,
                                         255,          255, 255, 255, 255, 255, 255, 255};
  const __m128i zero = _mm_setzero_si128();
  __m128i sums = zero;
  int64_t i = 0;
  for (; i + STEP <= n; i += STEP) {
    const __m128i codes = _mm_loadu_si128((const __m128i *)(const void *)(code + i));
    sums = _mm_add_epi64(sums, _mm_sad_epu8(codes, zero));
  }
  if (n >= STEP) {
    const __m128i codes = _mm_loadu_si128((const __m128i *)(const void *)(code + n - STEP));
    const __m128i kept = _mm_loadu_si128((const __m128i *)(const void *)(last + (n - i)));
    sums = _mm_add_epi64(sums, _mm_sad_epu8(_mm_and_si128(codes, kept), zero));
    i = n;
  }
  int64_t total = _mm_cvtsi128_si64(sums) + _mm_cvtsi128_si64(_mm_srli_si128(sums, 8));
  for (; i < n; ++i) {
    total += code[i];
  }
  return total;
}
#else
static int64_t sum_of_u8(const uint8_t *code, int64_t n) {
  int64_t total = 0;
  for (int64_t i = 0; i < n; ++i) {
    total += code[i];
  }
  return total;
}
#endif

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
  int64_t e = av_counts_escape_from(counts, counts->row_start[first]);
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
