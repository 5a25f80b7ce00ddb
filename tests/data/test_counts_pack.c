/* Rows packed from their stored types against av_builder_add_row of the same rows as doubles. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "data/pack/kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 300, MOST = 80000 };

static const av_number value_kinds[] = {AV_NUMBER_F32, AV_NUMBER_F64, AV_NUMBER_I8,  AV_NUMBER_U8,
                                        AV_NUMBER_I16, AV_NUMBER_U16, AV_NUMBER_I32, AV_NUMBER_U32,
                                        AV_NUMBER_I64, AV_NUMBER_U64};
static const av_number index_kinds[] = {AV_NUMBER_I32, AV_NUMBER_U32, AV_NUMBER_I64, AV_NUMBER_U64};
enum { VALUE_KINDS = 10, INDEX_KINDS = 4 };

static uint64_t draw(uint64_t *state) {
  *state = *state * 6364136223846793005u + 1442695040888963407u;
  return *state >> 33;
}

/* The largest value that `kind` holds exactly and the packing takes. */
static double top_of(av_number kind) {
  const double top[] = {
      [AV_NUMBER_F32] = 0x1p24, [AV_NUMBER_F64] = 0x1p30, [AV_NUMBER_I8] = 127,
      [AV_NUMBER_U8] = 255,     [AV_NUMBER_I16] = 32767,  [AV_NUMBER_U16] = 65535,
      [AV_NUMBER_I32] = 0x1p30, [AV_NUMBER_U32] = 0x1p30, [AV_NUMBER_I64] = 0x1p30,
      [AV_NUMBER_U64] = 0x1p30};
  return top[kind];
}

static void store(av_number kind, void *at, int64_t i, double value) {
  switch (kind) {
    case AV_NUMBER_F32:
      ((float *)at)[i] = (float)value;
      break;
    case AV_NUMBER_F64:
      ((double *)at)[i] = value;
      break;
    default: { /* little-endian: the low bytes */
      const int64_t whole = (int64_t)value;
      memcpy((char *)at + (size_t)i * av_number_size(kind), &whole, av_number_size(kind));
      break;
    }
  }
}

/* Rows of plain counts in both forms. */
typedef struct rows {
  int64_t pointer[ROWS + 1];
  int32_t gene[MOST];
  double value[MOST];
  int64_t raw_value[MOST], raw_index[MOST];
  av_raw_rows raw;
} rows;

static void fill(rows *r, av_number value_kind, av_number index_kind, int64_t n_genes, int large) {
  uint64_t state = 7;
  int64_t n = 0;
  r->pointer[0] = 1000; /* entries of rows before these */
  for (int64_t row = 0; row < ROWS; ++row) {
    const int64_t step = n_genes / 200;
    const int64_t wanted = row % 50 == 3 ? 0 : (int64_t)(draw(&state) % 200);
    int64_t gene = (int64_t)(draw(&state) % (uint64_t)step);
    for (int64_t i = 0; i < wanted && gene < n_genes; ++i, ++n) {
      const uint64_t kind = draw(&state) % 100;
      const double top = top_of(value_kind);
      const double value = kind < (uint64_t)large ? fmin(top, 200 + (double)(draw(&state) % 70000))
                           : kind == 99           ? top
                                                  : 1 + (double)(draw(&state) % 9);
      r->gene[n] = (int32_t)gene;
      r->value[n] = value;
      store(value_kind, r->raw_value, n, value);
      store(index_kind, r->raw_index, n, (double)gene);
      gene += 1 + (int64_t)(draw(&state) % (uint64_t)step);
    }
    r->pointer[row + 1] = r->pointer[0] + n;
  }
  r->raw = (av_raw_rows){.n_rows = ROWS,
                         .pointer = r->pointer,
                         .value_kind = value_kind,
                         .index_kind = index_kind,
                         .value = r->raw_value,
                         .index = r->raw_index};
}

static void add_rows(av_counts_builder *builder, const rows *r) {
  for (int64_t row = 0; row < ROWS; ++row) {
    const int64_t first = r->pointer[row] - r->pointer[0];
    assert_int_equal(av_builder_add_row(builder, r->pointer[row + 1] - r->pointer[row],
                                        r->gene + first, r->value + first),
                     AV_OK);
  }
}

static void same_counts(const av_counts *a, const av_counts *b) {
  assert_int_equal(a->n_rows, b->n_rows);
  assert_int_equal(a->n_nonzero, b->n_nonzero);
  assert_int_equal(a->kind, b->kind);
  assert_int_equal(a->n_escaped, b->n_escaped);
  const size_t n = (size_t)a->n_nonzero;
  assert_memory_equal(a->row_start, b->row_start, ((size_t)a->n_rows + 1) * sizeof *a->row_start);
  assert_memory_equal(a->gene, b->gene, n * (a->wide_genes ? 4 : 2));
  assert_memory_equal(a->value, b->value, n * (a->kind == AV_COUNT_U8 ? 1 : 2));
  for (int64_t e = 0; e < a->n_escaped; ++e) {
    assert_int_equal(a->escaped_at[e], b->escaped_at[e]);
    assert_true(a->escaped_value[e] == b->escaped_value[e]);
  }
}

static av_counts_builder *new_builder(int64_t n_genes, int64_t n) {
  av_counts_builder *builder = NULL;
  assert_int_equal(av_builder_create(&builder, n_genes, n > 0 ? 3 * ROWS : 0, n, false), AV_OK);
  return builder;
}

/* The rows twice: straight, then through a part. */
static void compare(rows *r, int64_t n_genes) {
  av_counts expected = {0};
  av_counts made = {0};
  av_counts_builder *slow = new_builder(n_genes, 0);
  av_counts_builder *fast = new_builder(n_genes, 0);
  av_counts_builder *part = new_builder(n_genes, MOST);
  bool added = false;
  add_rows(slow, r);
  add_rows(slow, r);
  assert_int_equal(av_builder_add_raw(fast, &r->raw, 0x1p53, &added), AV_OK);
  assert_true(added);
  for (int i = 0; i < 2; ++i) { /* emptied once in between */
    assert_int_equal(av_builder_part(part, fast), AV_OK);
    assert_int_equal(av_builder_add_raw(part, &r->raw, 0x1p53, &added), AV_OK);
    assert_true(added);
  }
  assert_int_equal(av_builder_append(fast, part), AV_OK);
  assert_int_equal(av_builder_finish(slow, &expected), AV_OK);
  assert_int_equal(av_builder_finish(fast, &made), AV_OK);
  same_counts(&made, &expected);
  av_counts_free(&expected);
  av_counts_free(&made);
  av_builder_free(&slow);
  av_builder_free(&fast);
  av_builder_free(&part);
}

static void all_types(void **state) {
  (void)state;
  rows *r = av_calloc(1, sizeof *r);
  for (int v = 0; v < VALUE_KINDS; ++v) {
    for (int i = 0; i < INDEX_KINDS; ++i) {
      for (int large = 0; large <= 10; large += 5) { /* a share of which makes codes 16 bits wide */
        fill(r, value_kinds[v], index_kinds[i], 2000, large);
        compare(r, 2000);
      }
      fill(r, value_kinds[v], index_kinds[i], 70000, 0);
      compare(r, 70000);
    }
  }
  free(r);
}

/* A part of 8-bit codes after the whole has become wider. */
static void wider_meanwhile(void **state) {
  (void)state;
  rows *r = av_calloc(1, sizeof *r);
  rows *high = av_calloc(1, sizeof *high);
  fill(r, AV_NUMBER_I32, AV_NUMBER_I32, 2000, 0);
  fill(high, AV_NUMBER_I32, AV_NUMBER_I32, 2000, 50);
  av_counts expected = {0};
  av_counts made = {0};
  av_counts_builder *slow = new_builder(2000, 0);
  av_counts_builder *fast = new_builder(2000, 0);
  av_counts_builder *part = new_builder(2000, MOST);
  bool added = false;
  assert_int_equal(av_builder_part(part, fast), AV_OK);
  assert_int_equal(av_builder_add_raw(part, &r->raw, 0x1p53, &added), AV_OK);
  for (int i = 0; i < 4; ++i) {
    add_rows(slow, high);
    assert_int_equal(av_builder_add_raw(fast, &high->raw, 0x1p53, &added), AV_OK);
  }
  add_rows(slow, r);
  assert_int_equal(av_builder_append(fast, part), AV_OK);
  assert_int_equal(av_builder_finish(slow, &expected), AV_OK);
  assert_int_equal(av_builder_finish(fast, &made), AV_OK);
  assert_int_equal(made.kind, AV_COUNT_U16);
  same_counts(&made, &expected);
  av_counts_free(&expected);
  av_counts_free(&made);
  av_builder_free(&slow);
  av_builder_free(&fast);
  av_builder_free(&part);
  free(r);
  free(high);
}

/* Whether rows with one entry changed are still taken. */
static bool taken(rows *r, int64_t row, int64_t entry, double value, int64_t gene, double largest) {
  const int64_t at = r->pointer[row] - r->pointer[0] + entry;
  int64_t values[2] = {r->raw_value[0], r->raw_value[0]};
  const size_t size = av_number_size(r->raw.value_kind);
  const size_t width = av_number_size(r->raw.index_kind);
  char *value_at = (char *)r->raw_value + (size_t)at * size;
  char *index_at = (char *)r->raw_index + (size_t)at * width;
  memcpy(&values[0], value_at, size);
  memcpy(&values[1], index_at, width);
  store(r->raw.value_kind, r->raw_value, at, value);
  store(r->raw.index_kind, r->raw_index, at, (double)gene);
  av_counts_builder *builder = new_builder(2000, 0);
  bool added = false;
  assert_int_equal(av_builder_add_raw(builder, &r->raw, largest, &added), AV_OK);
  av_counts made = {0};
  assert_int_equal(av_builder_finish(builder, &made), AV_OK);
  assert_int_equal(made.n_rows, added ? ROWS : 0); /* all or nothing */
  assert_true(added || made.n_nonzero == 0);
  av_counts_free(&made);
  av_builder_free(&builder);
  memcpy(value_at, &values[0], size);
  memcpy(index_at, &values[1], width);
  return added;
}

static void refused(void **state) {
  (void)state;
  rows *r = av_calloc(1, sizeof *r);
  for (int v = 0; v < VALUE_KINDS; ++v) {
    const av_number kind = value_kinds[v];
    const bool is_float = kind == AV_NUMBER_F32 || kind == AV_NUMBER_F64;
    const bool is_signed = is_float || kind == AV_NUMBER_I8 || kind == AV_NUMBER_I16 ||
                           kind == AV_NUMBER_I32 || kind == AV_NUMBER_I64;
    for (int i = 0; i < INDEX_KINDS; ++i) {
      fill(r, kind, index_kinds[i], 2000, 0);
      int64_t n_tried = 0;
      for (int64_t row = 1; row < ROWS && n_tried < 3; row += 60) { /* entry 2 of each */
        const int64_t first = r->pointer[row] - r->pointer[0];
        const int64_t gene = r->gene[first + 2];
        if (r->pointer[row + 1] - r->pointer[row] < 4) {
          continue;
        }
        n_tried += 1;
        assert_true(taken(r, row, 2, 3, gene, 0x1p53));
        assert_false(taken(r, row, 2, 0, gene, 0x1p53));
        assert_false(taken(r, row, 2, 101, gene, 100));
        assert_false(taken(r, row, 2, 3, r->gene[first + 1], 0x1p53));
        assert_false(taken(r, row, 2, 3, 0, 0x1p53));
        assert_false(taken(r, row, 2, 3, 2000, 0x1p53));
        assert_false(taken(r, row, 2, 3, -1, 0x1p53));
        if (is_signed) {
          assert_false(taken(r, row, 2, -1, gene, 0x1p53));
        }
        if (is_float) {
          assert_false(taken(r, row, 2, 1.5, gene, 0x1p53));
          assert_false(taken(r, row, 2, (double)NAN, gene, 0x1p53));
          assert_false(taken(r, row, 2, (double)INFINITY, gene, 0x1p53));
          assert_false(taken(r, row, 2, 0x1p40, gene, 0x1p53)); /* left to the slow path */
        }
      }
      assert_int_equal(n_tried, 3);
    }
  }
  free(r);
}

typedef struct instruction_set {
  bool (*values)(av_number, int64_t, const void *, double, av_count_kind, void *, bool *);
  bool (*genes)(av_number, int64_t, const void *, int64_t, bool, void *, int64_t *);
} instruction_set;

/* Those that this machine has: `sets` has room for four. */
static int list_sets(instruction_set *sets) {
  int n = 0;
  sets[n++] = (instruction_set){av_pack_values, av_pack_genes}; /* the one chosen */
#ifdef __x86_64__
  if (__builtin_cpu_supports("avx2")) {
    sets[n++] = (instruction_set){av_pack_values_avx2, av_pack_genes_avx2};
  }
  if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    sets[n++] = (instruction_set){av_pack_values_avx512, av_pack_genes_avx512};
  }
#endif
  return n;
}

/* Every instruction set against the plain one. */
static void instruction_sets(void **state) {
  (void)state;
  rows *r = av_calloc(1, sizeof *r);
  uint16_t *code[2] = {av_calloc(MOST, 2), av_calloc(MOST, 2)};
  uint32_t *gene[2] = {av_calloc(MOST, 4), av_calloc(MOST, 4)};
  instruction_set sets[4];
  const int n_sets = list_sets(sets);
  for (int at = 0; at < n_sets * VALUE_KINDS * INDEX_KINDS * 2; ++at) {
    const instruction_set *set = &sets[at % n_sets];
    const av_number values = value_kinds[at / n_sets % VALUE_KINDS];
    const av_number indices = index_kinds[at / n_sets / VALUE_KINDS % INDEX_KINDS];
    const bool wide = at / n_sets / VALUE_KINDS / INDEX_KINDS == 1;
    const av_count_kind codes = wide ? AV_COUNT_U16 : AV_COUNT_U8;
    fill(r, values, indices, 2000, 5);
    const int64_t n = r->pointer[ROWS] - r->pointer[0];
    bool escapes[2] = {false};
    int64_t descents[2] = {0};
    assert_true(set->values(values, n, r->raw_value, 0x1p53, codes, code[0], &escapes[0]));
    assert_true(
        av_pack_values_baseline(values, n, r->raw_value, 0x1p53, codes, code[1], &escapes[1]));
    assert_true(set->genes(indices, n, r->raw_index, 2000, wide, gene[0], &descents[0]));
    assert_true(
        av_pack_genes_baseline(indices, n, r->raw_index, 2000, wide, gene[1], &descents[1]));
    assert_int_equal(escapes[0], escapes[1]);
    assert_int_equal(descents[0], descents[1]);
    assert_memory_equal(code[0], code[1], MOST * 2);
    assert_memory_equal(gene[0], gene[1], MOST * 4);
  }
  for (int i = 0; i < 2; ++i) {
    free(code[i]);
    free(gene[i]);
  }
  free(r);
}

/* Rows taken back are as if never added, escapes, wider codes and all. */
static void cut(void **state) {
  (void)state;
  rows *r = av_calloc(1, sizeof *r);
  rows *high = av_calloc(1, sizeof *high);
  fill(r, AV_NUMBER_F32, AV_NUMBER_I32, 2000, 1);
  fill(high, AV_NUMBER_F32, AV_NUMBER_I32, 2000, 50);
  const rows *more[] = {r, high}; /* the second makes codes wider */
  for (int with = 0; with < 2; ++with) {
    av_counts expected = {0};
    av_counts made = {0};
    av_counts_builder *slow = new_builder(2000, 0);
    av_counts_builder *fast = new_builder(2000, 0);
    bool added = false;
    assert_int_equal(av_builder_add_raw(fast, &r->raw, 0x1p53, &added), AV_OK);
    av_builder_cut(fast, av_builder_n_rows(fast)); /* nothing to take back */
    assert_int_equal(av_builder_n_rows(fast), ROWS);
    for (int i = 0; i < 4; ++i) {
      assert_int_equal(av_builder_add_raw(fast, &more[with]->raw, 0x1p53, &added), AV_OK);
    }
    av_builder_cut(fast, ROWS);
    assert_int_equal(av_builder_n_rows(fast), ROWS);
    for (int i = 0; i < 4; ++i) {
      assert_int_equal(av_builder_add_raw(fast, &high->raw, 0x1p53, &added), AV_OK);
    }
    add_rows(slow, r);
    for (int i = 0; i < 4; ++i) {
      add_rows(slow, high);
    }
    assert_int_equal(av_builder_finish(slow, &expected), AV_OK);
    assert_int_equal(av_builder_finish(fast, &made), AV_OK);
    assert_int_equal(made.kind, AV_COUNT_U16);
    assert_true(made.n_escaped > 0);
    same_counts(&made, &expected);
    av_counts_free(&expected);
    av_counts_free(&made);
    av_builder_free(&slow);
    av_builder_free(&fast);
  }
  free(r);
  free(high);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(all_types), cmocka_unit_test(wider_meanwhile),
                                     cmocka_unit_test(refused), cmocka_unit_test(instruction_sets),
                                     cmocka_unit_test(cut)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
