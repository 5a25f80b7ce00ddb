#include "data/counts_pack.h"

#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

enum {
  NARROW_GENES = 65536,    /* most genes that 16 bits number */
  ESCAPE_SHARE = 64,       /* widen when more than one entry in this many is an escape ... */
  ENTRIES_TO_JUDGE = 65536 /* ... but not on the word of the first few rows */
};

struct av_counts_builder {
  av_counts counts;       /* n_rows rows so far */
  int64_t row_capacity;   /* of row_start, less one */
  int64_t entry_capacity; /* of gene and value */
  int64_t escape_capacity;
  bool part;      /* rows on their way to another builder, which judges the width of codes */
  double *sum;    /* (n_genes) zero between rows: merges repeated genes, puts them in order */
  uint64_t *seen; /* one bit a gene, zero between rows */
};

static size_t gene_size(const av_counts *counts) {
  return counts->wide_genes ? sizeof(uint32_t) : sizeof(uint16_t);
}
static size_t value_size(const av_counts *counts) {
  return counts->kind == AV_COUNT_U8    ? sizeof(uint8_t)
         : counts->kind == AV_COUNT_U16 ? sizeof(uint16_t)
                                        : sizeof(float);
}

static av_status resize(void **array, int64_t n, size_t size) {
  void *grown = av_realloc(*array, (size_t)n, size);
  if (grown == NULL) {
    return av_fail(AV_NOMEM, "out of memory (%lld entries of the counts of this rank)",
                   (long long)n);
  }
  *array = grown;
  return AV_OK;
}

/* Half as much again: large blocks are moved by the kernel's page tables, and pages never written
 * to take no memory. */
static int64_t grown_capacity(int64_t old, int64_t needed) {
  const int64_t grown = old + old / 2 + 1024;
  return grown > needed ? grown : needed;
}

static av_status reserve_entries(av_counts_builder *builder, int64_t needed) {
  av_counts *counts = &builder->counts;
  if (needed <= builder->entry_capacity) {
    return AV_OK;
  }
  const int64_t capacity = grown_capacity(builder->entry_capacity, needed);
  AV_TRY(resize(&counts->gene, capacity, gene_size(counts)));
  AV_TRY(resize(&counts->value, capacity, value_size(counts)));
  builder->entry_capacity = capacity;
  return AV_OK;
}

static av_status resize_escapes(av_counts *counts, int64_t capacity) {
  void *at = counts->escaped_at;
  void *value = counts->escaped_value;
  av_status status = resize(&at, capacity, sizeof *counts->escaped_at);
  counts->escaped_at = at;
  if (status == AV_OK) {
    status = resize(&value, capacity, sizeof *counts->escaped_value);
    counts->escaped_value = value;
  }
  return status;
}

static av_status add_escape(av_counts_builder *builder, int64_t at, double value) {
  av_counts *counts = &builder->counts;
  if (counts->n_escaped == builder->escape_capacity) {
    const int64_t capacity = grown_capacity(builder->escape_capacity, counts->n_escaped + 1);
    AV_TRY(resize_escapes(counts, capacity));
    builder->escape_capacity = capacity;
  }
  counts->escaped_at[counts->n_escaped] = at;
  counts->escaped_value[counts->n_escaped++] = value;
  return AV_OK;
}

static av_status resize_row_start(av_counts_builder *builder, int64_t n_rows) {
  void *start = builder->counts.row_start;
  AV_TRY(resize(&start, n_rows + 1, sizeof *builder->counts.row_start));
  builder->counts.row_start = start;
  builder->row_capacity = n_rows;
  return AV_OK;
}

av_status av_builder_create(av_counts_builder **builder, int64_t n_genes, int64_t n_rows_expected,
                            int64_t n_nonzero_expected, bool fractions) {
  *builder = NULL;
  av_counts_builder *made = av_calloc(1, sizeof *made);
  AV_TRY_ALLOC(made);
  made->counts.n_genes = n_genes;
  made->counts.wide_genes = n_genes > NARROW_GENES;
  made->counts.kind = fractions ? AV_COUNT_F32 : AV_COUNT_U8;
  made->sum = av_calloc((size_t)n_genes, sizeof *made->sum);
  made->seen = av_calloc((size_t)(n_genes / 64 + 1), sizeof *made->seen);
  av_status status = AV_OK;
  if (made->sum == NULL || made->seen == NULL) {
    status = av_fail(AV_NOMEM, "out of memory (sums over %lld genes)", (long long)n_genes);
  }
  if (status == AV_OK) {
    status = resize_row_start(made, n_rows_expected);
  }
  if (status == AV_OK) {
    made->counts.row_start[0] = 0;
    status = reserve_entries(made, n_nonzero_expected);
  }
  if (status != AV_OK) {
    av_builder_free(&made);
    return status;
  }
  *builder = made;
  return AV_OK;
}

static void put_gene(av_counts *counts, int64_t at, int32_t gene) {
  if (counts->wide_genes) {
    ((uint32_t *)counts->gene)[at] = (uint32_t)gene;
  } else {
    ((uint16_t *)counts->gene)[at] = (uint16_t)gene;
  }
}

/* True and the code if `value` is a whole number below the escape code. */
static bool code_of(double value, int64_t escape, int64_t *code) {
  if (!(value >= 0 && value < (double)escape)) {
    return false;
  }
  *code = (int64_t)value;
  return (double)*code == value;
}

/* Appends one entry of the current row; room for it is reserved. Zeros are dropped. */
static av_status put(av_counts_builder *builder, int32_t gene, double value) {
  av_counts *counts = &builder->counts;
  const int64_t at = counts->n_nonzero;
  if (counts->kind == AV_COUNT_F32) {
    const float rounded = (float)value;
    if (rounded == 0.0F) {
      return AV_OK;
    }
    ((float *)counts->value)[at] = rounded;
  } else {
    if (value == 0) {
      return AV_OK;
    }
    const int64_t escape = counts->kind == AV_COUNT_U8 ? UINT8_MAX : UINT16_MAX;
    int64_t code = escape;
    if (!code_of(value, escape, &code)) {
      code = escape;
      AV_TRY(add_escape(builder, at, value));
    }
    if (counts->kind == AV_COUNT_U8) {
      ((uint8_t *)counts->value)[at] = (uint8_t)code;
    } else {
      ((uint16_t *)counts->value)[at] = (uint16_t)code;
    }
  }
  put_gene(counts, at, gene);
  counts->n_nonzero = at + 1;
  return AV_OK;
}

/* 8-bit codes become 16-bit ones within the same, enlarged block; escapes that fit now are
 * resolved. */
static av_status widen(av_counts_builder *builder) {
  av_counts *counts = &builder->counts;
  AV_TRY(resize(&counts->value, builder->entry_capacity, sizeof(uint16_t)));
  counts->kind = AV_COUNT_U16;
  const uint8_t *narrow = counts->value;
  uint16_t *wide = counts->value;
  for (int64_t i = counts->n_nonzero - 1; i >= 0; --i) {
    wide[i] = narrow[i];
  }
  int64_t kept = 0;
  for (int64_t e = 0; e < counts->n_escaped; ++e) {
    const int64_t at = counts->escaped_at[e];
    const double value = counts->escaped_value[e];
    int64_t code = UINT16_MAX;
    if (!code_of(value, UINT16_MAX, &code)) {
      code = UINT16_MAX;
      counts->escaped_at[kept] = at;
      counts->escaped_value[kept++] = value;
    }
    wide[at] = (uint16_t)code;
  }
  counts->n_escaped = kept;
  return AV_OK;
}

static bool too_narrow(const av_counts *counts) {
  return counts->kind == AV_COUNT_U8 && counts->n_escaped > counts->n_nonzero / ESCAPE_SHARE;
}

/* After rows have come: wider codes if these turn out too narrow. */
static av_status judge(av_counts_builder *builder) {
  const av_counts *counts = &builder->counts;
  const bool widens = !builder->part && counts->n_nonzero >= ENTRIES_TO_JUDGE && too_narrow(counts);
  return widens ? widen(builder) : AV_OK;
}

static av_status reserve_rows(av_counts_builder *builder, int64_t needed) {
  return needed <= builder->row_capacity
             ? AV_OK
             : resize_row_start(builder, grown_capacity(builder->row_capacity, needed));
}

static bool strictly_increasing(int64_t n, const int32_t *gene) {
  for (int64_t i = 1; i < n; ++i) {
    if (gene[i] <= gene[i - 1]) {
      return false;
    }
  }
  return true;
}

/* Adds the entries up by gene, then emits the genes seen in increasing order. */
static av_status put_unsorted(av_counts_builder *builder, int64_t n, const int32_t *gene,
                              const double *value) {
  for (int64_t i = 0; i < n; ++i) {
    builder->sum[gene[i]] += value[i];
    builder->seen[gene[i] / 64] |= UINT64_C(1) << (gene[i] % 64);
  }
  av_status status = AV_OK;
  const int64_t n_words = builder->counts.n_genes / 64 + 1;
  for (int64_t word = 0; word < n_words; ++word) {
    for (uint64_t bits = builder->seen[word]; bits != 0; bits &= bits - 1) {
      const int32_t g = (int32_t)(word * 64 + __builtin_ctzll(bits));
      if (status == AV_OK) {
        status = put(builder, g, builder->sum[g]);
      }
      builder->sum[g] = 0;
    }
    builder->seen[word] = 0;
  }
  return status;
}

av_status av_builder_add_row(av_counts_builder *builder, int64_t n, const int32_t *gene,
                             const double *value) {
  av_counts *counts = &builder->counts;
  AV_TRY(reserve_entries(builder, counts->n_nonzero + n));
  AV_TRY(reserve_rows(builder, counts->n_rows + 1));
  if (strictly_increasing(n, gene)) {
    for (int64_t i = 0; i < n; ++i) {
      AV_TRY(put(builder, gene[i], value[i]));
    }
  } else {
    AV_TRY(put_unsorted(builder, n, gene, value));
  }
  counts->row_start[++counts->n_rows] = counts->n_nonzero;
  return judge(builder);
}

/* --- rows as they were stored ------------------------------------------------------------- */

static uint32_t gene_at(const av_counts *counts, int64_t i) {
  return counts->wide_genes ? ((const uint32_t *)counts->gene)[i]
                            : ((const uint16_t *)counts->gene)[i];
}

/* How many rows begin at or below the gene that the row before them ends with. */
static int64_t descents_between(const av_counts *counts, int64_t at, const av_raw_rows *rows) {
  int64_t n = 0;
  for (int64_t r = 1; r < rows->n_rows; ++r) {
    const int64_t start = rows->pointer[r] - rows->pointer[0];
    if (start > 0 && rows->pointer[r + 1] > rows->pointer[r]) {
      n += gene_at(counts, at + start) <= gene_at(counts, at + start - 1);
    }
  }
  return n;
}

/* Position of the first escape in [at, end), or end. */
static int64_t find_escape(const av_counts *counts, int64_t at, int64_t end) {
  if (counts->kind == AV_COUNT_U8) {
    const uint8_t *code = counts->value;
    const uint8_t *found = memchr(code + at, UINT8_MAX, (size_t)(end - at));
    return found != NULL ? found - code : end;
  }
  const uint16_t *code = counts->value;
  while (at < end && code[at] != UINT16_MAX) {
    ++at;
  }
  return at;
}

/* Lists the escapes among n codes put at `at`. */
static av_status list_escapes(av_counts_builder *builder, const av_raw_rows *rows, int64_t at,
                              int64_t n) {
  const int64_t end = at + n;
  for (int64_t i = find_escape(&builder->counts, at, end); i < end;
       i = find_escape(&builder->counts, i + 1, end)) {
    AV_TRY(add_escape(builder, i, av_number_at(rows->value_kind, rows->value, i - at)));
  }
  return AV_OK;
}

av_status av_builder_add_raw(av_counts_builder *builder, const av_raw_rows *rows, double largest,
                             bool *added) {
  av_counts *counts = &builder->counts;
  const int64_t n = rows->pointer[rows->n_rows] - rows->pointer[0];
  const int64_t at = counts->n_nonzero;
  bool escapes = false;
  int64_t descents = 0;
  *added = false;
  if (counts->kind == AV_COUNT_F32) {
    return AV_OK;
  }
  AV_TRY(reserve_entries(builder, at + n));
  AV_TRY(reserve_rows(builder, counts->n_rows + rows->n_rows));
  char *code = (char *)counts->value + (size_t)at * value_size(counts);
  char *gene = (char *)counts->gene + (size_t)at * gene_size(counts);
  if (!av_pack_values(rows->value_kind, n, rows->value, largest, counts->kind, code, &escapes) ||
      !av_pack_genes(rows->index_kind, n, rows->index, counts->n_genes, counts->wide_genes, gene,
                     &descents) ||
      descents != descents_between(counts, at, rows)) {
    return AV_OK;
  }
  if (escapes) {
    AV_TRY(list_escapes(builder, rows, at, n));
  }
  for (int64_t r = 1; r <= rows->n_rows; ++r) {
    counts->row_start[counts->n_rows + r] = at + rows->pointer[r] - rows->pointer[0];
  }
  counts->n_rows += rows->n_rows;
  counts->n_nonzero = at + n;
  *added = true;
  return judge(builder);
}

/* --- parts -------------------------------------------------------------------------------- */

av_status av_builder_part(av_counts_builder *part, const av_counts_builder *whole) {
  av_counts *counts = &part->counts;
  part->part = true;
  counts->n_rows = counts->n_nonzero = counts->n_escaped = 0;
  if (counts->kind != whole->counts.kind) {
    counts->kind = whole->counts.kind;
    AV_TRY(resize(&counts->value, part->entry_capacity, value_size(counts)));
  }
  if (part->escape_capacity < part->entry_capacity) {
    AV_TRY(resize_escapes(counts, part->entry_capacity));
    part->escape_capacity = part->entry_capacity;
  }
  return AV_OK;
}

/* 8-bit codes become the 16-bit ones of `to`, from its end on. */
static av_status append_widened(av_counts_builder *builder, const av_counts *from) {
  av_counts *to = &builder->counts;
  const uint8_t *narrow = from->value;
  uint16_t *wide = (uint16_t *)to->value + to->n_nonzero;
  for (int64_t i = 0; i < from->n_nonzero; ++i) {
    wide[i] = narrow[i];
  }
  for (int64_t e = 0; e < from->n_escaped; ++e) {
    const int64_t at = from->escaped_at[e];
    int64_t code = UINT16_MAX;
    if (!code_of(from->escaped_value[e], UINT16_MAX, &code)) {
      code = UINT16_MAX;
      AV_TRY(add_escape(builder, to->n_nonzero + at, from->escaped_value[e]));
    }
    wide[at] = (uint16_t)code;
  }
  return AV_OK;
}

static void copy_entries(void *to, int64_t at, const void *from, int64_t n, size_t size) {
  if (n > 0) { /* without entries there may be no arrays */
    memcpy((char *)to + (size_t)at * size, from, (size_t)n * size);
  }
}

av_status av_builder_append(av_counts_builder *builder, const av_counts_builder *part) {
  av_counts *to = &builder->counts;
  const av_counts *from = &part->counts;
  const int64_t at = to->n_nonzero;
  AV_TRY(reserve_entries(builder, at + from->n_nonzero));
  AV_TRY(reserve_rows(builder, to->n_rows + from->n_rows));
  copy_entries(to->gene, at, from->gene, from->n_nonzero, gene_size(to));
  if (to->kind == from->kind) {
    copy_entries(to->value, at, from->value, from->n_nonzero, value_size(to));
    for (int64_t e = 0; e < from->n_escaped; ++e) {
      AV_TRY(add_escape(builder, at + from->escaped_at[e], from->escaped_value[e]));
    }
  } else {
    AV_TRY(append_widened(builder, from));
  }
  for (int64_t r = 1; r <= from->n_rows; ++r) {
    to->row_start[to->n_rows + r] = at + from->row_start[r];
  }
  to->n_rows += from->n_rows;
  to->n_nonzero = at + from->n_nonzero;
  return judge(builder);
}

int64_t av_builder_n_rows(const av_counts_builder *builder) { return builder->counts.n_rows; }

void av_builder_cut(av_counts_builder *builder, int64_t n_rows) {
  av_counts *counts = &builder->counts;
  counts->n_rows = n_rows;
  counts->n_nonzero = counts->row_start[n_rows];
  while (counts->n_escaped > 0 && counts->escaped_at[counts->n_escaped - 1] >= counts->n_nonzero) {
    counts->n_escaped -= 1;
  }
}

av_status av_builder_finish(av_counts_builder *builder, av_counts *counts) {
  av_counts *built = &builder->counts;
  if (too_narrow(built)) {
    AV_TRY(widen(builder));
  }
  AV_TRY(resize_row_start(builder, built->n_rows));
  AV_TRY(resize(&built->gene, built->n_nonzero, gene_size(built)));
  AV_TRY(resize(&built->value, built->n_nonzero, value_size(built)));
  builder->entry_capacity = built->n_nonzero;
  AV_TRY(resize_escapes(built, built->n_escaped));
  builder->escape_capacity = built->n_escaped;
  *counts = *built;
  *built = (av_counts){0};
  free(builder->sum);
  free(builder->seen);
  *builder = (av_counts_builder){0};
  return AV_OK;
}

void av_builder_free(av_counts_builder **builder) {
  if (*builder != NULL) {
    av_counts_free(&(*builder)->counts);
    free((*builder)->sum);
    free((*builder)->seen);
    free(*builder);
    *builder = NULL;
  }
}
