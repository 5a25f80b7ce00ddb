/* Minibatches packed for their way to a GPU: they hold the slab's rows, in any order, whatever
 * counts are stored as and however many of a row's are too large for that. Expected are the rows
 * that the slab was made of. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "packing.h"

#include <stdlib.h>
#include <string.h>

enum { CELLS = 37, GENES = 1100, MOST = 40 * CELLS, THREADS = 2 };

/* Row by row: longer and shorter ones, none, and all genes; `large` of 8 counts. */
static int64_t length_of(int64_t row) { return row % 9 == 4 ? 0 : (row * 389) % (GENES + 1); }
static double value_of(int64_t row, int64_t i, int64_t large, double step) {
  const bool is_large = row % 5 == 1 ? large > 0 : (row + 3 * i) % 8 < large;
  return is_large ? 70000.0 + (double)(row + i) : step * (1.0 + (double)((row * i) % 200));
}

static av_dataset make_dataset(av_count_kind kind) {
  av_dataset made = {.n_cells = CELLS, .n_local = CELLS, .n_genes = GENES};
  av_counts_builder *builder = NULL;
  int32_t gene[GENES];
  double value[GENES];
  const double step = kind == AV_COUNT_F32 ? 0.5 : 1.0;
  assert_int_equal(av_builder_create(&builder, GENES, CELLS, 100, kind == AV_COUNT_F32), AV_OK);
  for (int64_t row = 0; row < CELLS; ++row) {
    const int64_t n = length_of(row);
    for (int32_t i = 0; i < n; ++i) {
      gene[i] = i;
      value[i] = value_of(row, i, kind == AV_COUNT_U16 ? 2 : 0, step);
    }
    assert_int_equal(av_builder_add_row(builder, n, gene, value), AV_OK);
  }
  assert_int_equal(av_builder_finish(builder, &made.counts), AV_OK);
  av_builder_free(&builder);
  assert_int_equal(made.counts.kind, kind);
  return made;
}

/* Every count of some rows is made an escape: more in a row than a byte counts. */
static void escape_rows(av_counts *counts) {
  enum { EVERY = 3 };
  int64_t n = 0;
  uint8_t *code = counts->value;
  assert_int_equal(counts->n_escaped, 0);
  free(counts->escaped_at);
  free(counts->escaped_value);
  counts->escaped_at = malloc((size_t)counts->n_nonzero * sizeof *counts->escaped_at);
  counts->escaped_value = malloc((size_t)counts->n_nonzero * sizeof *counts->escaped_value);
  assert_true(counts->escaped_at != NULL && counts->escaped_value != NULL);
  for (int64_t row = 0; row < CELLS; row += EVERY) {
    for (int64_t at = counts->row_start[row]; at < counts->row_start[row + 1]; ++at) {
      code[at] = UINT8_MAX;
      counts->escaped_at[n] = at;
      counts->escaped_value[n++] = 300.0 + (double)at;
    }
  }
  counts->n_escaped = n;
}

static double found_value(av_count_kind kind, const char *host, const av_gpu_packing *packed,
                          int64_t at, int64_t *escape) {
  const char *values = host + packed->at[AV_GPU_VALUES];
  const int64_t *head = (const int64_t *)(const void *)host;
  double found = 0.0;
  if (kind == AV_COUNT_F32) {
    return (double)((const float *)(const void *)values)[at];
  }
  if (kind == AV_COUNT_U8) {
    found = ((const uint8_t *)values)[at];
  } else {
    found = ((const uint16_t *)(const void *)values)[at];
  }
  if (found < (kind == AV_COUNT_U8 ? UINT8_MAX : UINT16_MAX)) {
    return found;
  }
  const char *places = host + packed->at[AV_GPU_ESCAPED_AT];
  const char *escaped = host + packed->at[AV_GPU_ESCAPED_VALUES];
  assert_true(*escape < head[0]);
  assert_int_equal(((const int64_t *)(const void *)places)[*escape], at);
  return (double)((const float *)(const void *)escaped)[(*escape)++];
}

static void check_packed(const av_counts *counts, int64_t n, const int64_t *rows, const char *host,
                         const av_gpu_packing *packed) {
  const int64_t *head = (const int64_t *)(const void *)host;
  const uint16_t *genes = (const uint16_t *)(const void *)(host + packed->at[AV_GPU_GENES]);
  int64_t at = 0;
  int64_t escape = 0;
  int32_t gene[GENES];
  float value[GENES];
  for (int64_t i = 0; i < n; ++i) {
    const int64_t length = av_counts_row(counts, rows[i], gene, value);
    assert_int_equal(length, length_of(rows[i]));
    assert_int_equal(head[1 + i], at);
    for (int64_t e = 0; e < length; ++e, ++at) {
      assert_int_equal(genes[at], gene[e]);
      assert_true(found_value(counts->kind, host, packed, at, &escape) == (double)value[e]);
    }
  }
  assert_int_equal(head[1 + n], at);
  assert_int_equal(head[0], escape);
  for (int s = 0; s < AV_GPU_SECTIONS; ++s) {
    assert_int_equal(packed->at[s] % AV_GPU_STAGE_ALIGNMENT, 0);
  }
}

/* Minibatches of no row, one and more, and of so many that threads share them. */
static void check_minibatches(const av_counts *counts, const av_gpu_slab *slab) {
  static const int64_t sizes[] = {0, 1, 2, 14, CELLS, MOST};
  size_t capacity[AV_GPU_SECTIONS];
  size_t room = 0;
  int64_t rows[MOST];
  int64_t escapes[MOST + 1];
  av_gpu_pack_sizes(slab, MOST, MOST / CELLS * counts->n_nonzero, MOST / CELLS * counts->n_escaped,
                    capacity);
  for (int s = 0; s < AV_GPU_SECTIONS; ++s) {
    room += capacity[s] + AV_GPU_STAGE_ALIGNMENT;
  }
  char *host = malloc(room);
  assert_non_null(host);
  for (int k = 0; k < 6; ++k) {
    for (int64_t first = 0; first < CELLS; first += 5) {
      av_gpu_packing packed;
      for (int64_t i = 0; i < sizes[k]; ++i) {
        rows[i] = (first + 7 * i) % CELLS;
      }
      memset(host, 0xff, room);
      assert_int_equal(
          av_gpu_pack(counts, slab, THREADS, capacity, sizes[k], rows, escapes, host, &packed),
          AV_OK);
      assert_true(packed.used <= room);
      check_packed(counts, sizes[k], rows, host, &packed);
    }
  }
  free(host);
}

/* All rows, where there is room for them, and a byte too little for a section. */
static void check_room(const av_counts *counts, const av_gpu_slab *slab) {
  size_t capacity[AV_GPU_SECTIONS];
  size_t room = 0;
  int64_t rows[CELLS];
  int64_t escapes[CELLS + 1];
  av_gpu_packing packed;
  av_gpu_pack_sizes(slab, CELLS, counts->n_nonzero, counts->n_escaped, capacity);
  for (int s = 0; s < AV_GPU_SECTIONS; ++s) {
    room += capacity[s] + AV_GPU_STAGE_ALIGNMENT;
  }
  char *host = malloc(room);
  assert_non_null(host);
  for (int64_t i = 0; i < CELLS; ++i) {
    rows[i] = i;
  }
  for (int s = 0; s <= AV_GPU_SECTIONS; ++s) {
    const bool less = s < AV_GPU_SECTIONS && capacity[s] > 0;
    capacity[less ? s : 0] -= less ? 1 : 0;
    assert_int_equal(
        av_gpu_pack(counts, slab, THREADS, capacity, CELLS, rows, escapes, host, &packed),
        less ? AV_BUG : AV_OK);
    capacity[less ? s : 0] += less ? 1 : 0;
  }
  av_error_clear();
  free(host);
}

static void check(av_count_kind kind, bool escaped) {
  av_dataset dataset = make_dataset(kind);
  if (escaped) {
    escape_rows(&dataset.counts);
  }
  assert_true((dataset.counts.n_escaped > 0) == (escaped || kind == AV_COUNT_U16));
  const av_gpu_slab slab = av_gpu_slab_of(&dataset);
  check_minibatches(&dataset.counts, &slab);
  check_room(&dataset.counts, &slab);
  av_counts_free(&dataset.counts);
}

static void bytes(void **unused) {
  (void)unused;
  check(AV_COUNT_U8, false);
}
static void bytes_escaped(void **unused) {
  (void)unused;
  check(AV_COUNT_U8, true);
}
static void words_escaped(void **unused) {
  (void)unused;
  check(AV_COUNT_U16, false); /* those above 65,534 are */
}
static void fractions(void **unused) {
  (void)unused;
  check(AV_COUNT_F32, false);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(bytes),
      cmocka_unit_test(bytes_escaped),
      cmocka_unit_test(words_escaped),
      cmocka_unit_test(fractions),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
