#include "backend/twin.h"

#include "backend/tested.h"
#include "base/memory.h"
#include "config/config.h"
#include "math/rng.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

double source_uniform(source *from, double low, double high) {
  const uint64_t word = av_random64(7, AV_DRAW_TEST, from->item++, 0, 0);
  return low + (high - low) * av_uniform(word);
}

double source_normal(source *from) {
  double out[2];
  av_random_normal2(out, 7, AV_DRAW_TEST, from->item++, 1, 0);
  return out[0];
}

void require(av_status status) {
  if (status != AV_OK) {
    av_error_print();
  }
  assert_int_equal(status, AV_OK);
}

/* Small counts mostly, now and then a large one. */
static double random_count(source *from, int64_t cell, const twin_shape *shape) {
  const double u = source_uniform(from, 0, 1);
  double count = 1.0 + floor(-2.0 * log(1.0 - 0.999 * u));
  if (u > 0.98) {
    count = floor(40.0 + 200.0 * source_uniform(from, 0, 1));
  }
  if (cell == 2 && u > 0.5) {
    count = floor(300.0 + 5000.0 * u);
  }
  if (shape->fractions) {
    count = (double)(float)(count - 0.7 * source_uniform(from, 0, 1));
  }
  return shape->times > 0.0 ? count * shape->times : count;
}

/* Codes of n cells, any of `levels`. */
static av_factor random_factor(source *from, int64_t n, int64_t levels) {
  av_factor made = {.levels.n = levels, .code = av_calloc((size_t)n, sizeof *made.code)};
  assert_non_null(made.code);
  for (int64_t i = 0; i < n; ++i) {
    made.code[i] = (int32_t)source_uniform(from, 0, (double)levels);
  }
  return made;
}

/* Everything known of the cells besides counts. */
static void describe_cells(av_dataset *dataset, const twin_shape *shape, source *from) {
  static const int64_t levels[] = {3, 1, 5};
  const int64_t n = shape->cells;
  const int64_t continuous = shape->continuous;
  dataset->batch = random_factor(from, n, shape->batches);
  dataset->has_batch = shape->batches > 1;
  dataset->n_categorical = shape->categorical;
  dataset->categorical = av_calloc((size_t)shape->categorical, sizeof *dataset->categorical);
  dataset->n_continuous = continuous;
  dataset->continuous = av_calloc((size_t)(n * continuous), sizeof *dataset->continuous);
  assert_true(dataset->categorical && dataset->continuous);
  for (int64_t c = 0; c < shape->categorical; ++c) {
    const int64_t some = shape->categories > 0 ? shape->categories : levels[c % 3];
    dataset->categorical[c] = random_factor(from, n, some);
  }
  for (int64_t i = 0; i < n * continuous; ++i) {
    const int64_t c = i % continuous;
    const double normal = (double)(float)source_normal(from);
    dataset->continuous[i] = c == 0 ? 30.0 * normal : c == 1 ? 0.7 : normal;
  }
  if (shape->labels > 0) {
    dataset->label = random_factor(from, n, shape->labels);
  }
  if (shape->size_factors) {
    dataset->size_factor = av_calloc((size_t)n, sizeof *dataset->size_factor);
    assert_non_null(dataset->size_factor);
    for (int64_t i = 0; i < n; ++i) {
      dataset->size_factor[i] = exp(source_normal(from));
    }
  }
  require(av_dataset_design(dataset));
}

static void fill_counts(av_dataset *dataset, const twin_shape *shape, source *from) {
  const int64_t genes = shape->genes;
  const double share = shape->filled / (double)genes;
  const double skip = log1p(-fmin(share, 0.999));
  av_counts_builder *builder = NULL;
  require(av_builder_create(&builder, genes, shape->cells,
                            (int64_t)(shape->filled * (double)shape->cells), shape->fractions));
  int32_t *gene = av_calloc((size_t)genes, sizeof *gene);
  double *value = av_calloc((size_t)genes, sizeof *value);
  dataset->library = av_calloc((size_t)shape->cells, sizeof *dataset->library);
  assert_true(gene && value && dataset->library);
  for (int64_t i = 0; i < shape->cells; ++i) {
    int64_t n = 0;
    /* skip ahead by geometric gaps: fast for many genes */
    int64_t g = (int64_t)(log(source_uniform(from, 1e-300, 1)) / skip);
    while (i != 1 && g < genes) {
      gene[n] = (int32_t)g;
      value[n] = random_count(from, i, shape);
      dataset->library[i] += value[n++];
      g += 1 + (int64_t)(log(source_uniform(from, 1e-300, 1)) / skip);
    }
    require(av_builder_add_row(builder, n, gene, value));
    dataset->library[i] = dataset->library[i] > 0.0 ? dataset->library[i] : 1.0;
  }
  require(av_builder_finish(builder, &dataset->counts));
  av_builder_free(&builder);
  free(gene);
  free(value);
}

void make_dataset(av_dataset *dataset, const twin_shape *shape, uint64_t seed) {
  source from = {.item = seed << 32};
  *dataset = (av_dataset){
      .n_cells = shape->cells, .n_genes = shape->genes, .n_local = shape->cells, .first = 0};
  fill_counts(dataset, shape, &from);
  describe_cells(dataset, shape, &from);
}

int64_t twin_row(const av_twin *twin, int64_t i) {
  /* different ones; a cell with escapes is the first */
  return (i * 11 + 2) % twin->dataset.n_cells;
}

void twin_open(av_twin *twin, const twin_shape *shape) {
  const av_backend_options reference = {.choice = AV_BACKEND_REFERENCE, .threads = 1};
  *twin = (av_twin){.n = shape->rows, .spare = shape->spare};
  av_comm_self(&twin->comm);
  make_dataset(&twin->dataset, shape, 1);
  twin->columns = twin->dataset.design.n_onehot;
  int64_t *rows = av_calloc((size_t)shape->rows, sizeof *rows);
  assert_non_null(rows);
  for (int64_t i = 0; i < shape->rows; ++i) {
    rows[i] = twin_row(twin, i);
  }
  require(av_backend_open(&twin->be[REFERENCE], &reference, &twin->comm));
  require(open_tested(&twin->be[TESTED], &twin->comm, shape->threads, shape->strict));
  for (int t = 0; t < TWINS; ++t) {
    av_backend *be = &twin->be[t];
    require(be->ops->data_load(be, &twin->dataset, &twin->data[t]));
    require(be->ops->batch_create(be, twin->data[t], shape->rows + shape->spare, &twin->batch[t]));
    be->ops->batch_select(be, twin->batch[t], shape->rows, rows);
  }
  free(rows);
}

void free_dataset(av_dataset *dataset) {
  av_counts_free(&dataset->counts);
  free(dataset->library);
  free(dataset->batch.code);
  free(dataset->label.code);
  for (int64_t c = 0; c < dataset->n_categorical; ++c) {
    free(dataset->categorical[c].code);
  }
  free(dataset->categorical);
  free(dataset->continuous);
  free(dataset->size_factor);
  av_design_free(&dataset->design);
}

void twin_close(av_twin *twin) {
  for (int t = 0; t < TWINS; ++t) {
    av_backend *be = &twin->be[t];
    be->ops->batch_free(be, twin->batch[t]);
    be->ops->data_free(be, twin->data[t]);
    av_backend_close(be);
  }
  free_dataset(&twin->dataset);
}

av_pair pair_zeros(av_twin *twin, av_kind kind, int64_t n) {
  av_pair made = {.twin = twin, .kind = kind, .n = n};
  for (int t = 0; t < TWINS; ++t) {
    require(twin->be[t].ops->alloc(&twin->be[t], kind, n, &made.at[t]));
  }
  return made;
}

void pair_set(av_pair *pair, const double *values) {
  for (int t = 0; t < TWINS; ++t) {
    av_backend *be = &pair->twin->be[t];
    require(be->ops->write(be, pair->kind, pair->at[t], pair->n, values));
  }
}

av_pair pair_values(av_twin *twin, av_kind kind, int64_t n, const double *values) {
  av_pair made = pair_zeros(twin, kind, n);
  pair_set(&made, values);
  return made;
}

av_pair pair_normals(av_twin *twin, av_kind kind, int64_t n, source *from, double shift,
                     double scale) {
  double *values = av_calloc((size_t)n, sizeof *values);
  assert_non_null(values);
  for (int64_t i = 0; i < n; ++i) {
    values[i] = (double)(float)(shift + scale * source_normal(from));
  }
  av_pair made = pair_values(twin, kind, n, values);
  free(values);
  return made;
}

void pair_free(av_pair *pair) {
  for (int t = 0; t < TWINS; ++t) {
    pair->twin->be[t].ops->release(&pair->twin->be[t], pair->at[t]);
  }
}

double *pair_read(const av_pair *pair, int which) {
  double *values = av_calloc((size_t)pair->n, sizeof *values);
  assert_non_null(values);
  av_backend *be = &pair->twin->be[which];
  require(be->ops->read(be, pair->kind, pair->at[which], pair->n, values));
  return values;
}

void same_numbers(const char *what, int64_t n, const double *tested, const double *reference,
                  double tolerance, double size) {
  double largest = size;
  for (int64_t i = 0; i < n; ++i) {
    largest = fmax(largest, fabs(reference[i]));
  }
  for (int64_t i = 0; i < n; ++i) {
    const double off = fabs(tested[i] - reference[i]);
    if (!(off <= tolerance * largest)) {
      fail_msg("%s[%lld of %lld]: tested %.9g, reference %.9g, off by %.2g of the largest, %.6g",
               what, (long long)i, (long long)n, tested[i], reference[i], off / largest, largest);
    }
  }
}

void same_beside(const char *what, const av_pair *pair, double tolerance, double size) {
  double *reference = pair_read(pair, REFERENCE);
  double *tested = pair_read(pair, TESTED);
  same_numbers(what, pair->n, tested, reference, tolerance, size);
  free(reference);
  free(tested);
}

void same_part(const char *what, const av_pair *pair, int64_t row, int64_t n, double tolerance) {
  double *reference = pair_read(pair, REFERENCE);
  double *tested = pair_read(pair, TESTED);
  same_numbers(what, pair->n - row * n, tested + row * n, reference + row * n, tolerance, 0.0);
  free(reference);
  free(tested);
}

void same(const char *what, const av_pair *pair, double tolerance) {
  same_beside(what, pair, tolerance, 0.0);
}

/* Shapes every test runs on: odd and large, empty and single minibatches, 1 and 2 threads. */
static const twin_shape shapes[] = {
    {.cells = 40, .genes = 1, .batches = 1, .rows = 5, .filled = 0.7, .threads = 1},
    {.cells = 40,
     .genes = 33,
     .batches = 3,
     .rows = 0,
     .filled = 9,
     .threads = 2,
     .categorical = 2,
     .continuous = 3},
    {.cells = 40,
     .genes = 33,
     .batches = 3,
     .rows = 1,
     .filled = 9,
     .threads = 2,
     .categorical = 3,
     .continuous = 1},
    {.cells = 50, .genes = 257, .batches = 2, .rows = 2, .filled = 30, .threads = 2},
    {.cells = 200, .genes = 500, .batches = 1, .rows = 130, .filled = 40, .threads = 1},
    {.cells = 150, .genes = 300, .batches = 3, .rows = 128, .filled = 40, .threads = 2},
    {.cells = 30, .genes = 2, .batches = 2, .rows = 20, .filled = 2, .threads = 3},
    {.cells = 200, .genes = 500, .batches = 90, .rows = 130, .filled = 40, .threads = 2},
    {.cells = 60,
     .genes = 300,
     .batches = 4,
     .rows = 37,
     .filled = 60,
     .threads = 3,
     .fractions = true,
     .categorical = 5,
     .continuous = 4,
     .size_factors = true},
    {.cells = 90,
     .genes = 140,
     .batches = 1,
     .rows = 77,
     .filled = 30,
     .threads = 2,
     .categorical = 1,
     .continuous = 2,
     .size_factors = true},
    {.cells = 700,
     .genes = 60,
     .batches = 640,
     .rows = 600,
     .filled = 6,
     .threads = 2,
     .categorical = 5},
    /* gradients of a first layer go by chunks of 32 genes on a GPU, of 16 and 64 elsewhere */
    {.cells = 30, .genes = 13000, .batches = 2, .rows = 6, .filled = 100, .threads = 2},
    {.cells = 30, .genes = 66000, .batches = 2, .rows = 17, .filled = 200, .threads = 2}};

void on_all_shapes(void (*check)(av_twin *)) {
  for (size_t s = 0; s < sizeof shapes / sizeof *shapes; ++s) {
    for (int strict = 0; strict <= (int)tested_is_order_free; ++strict) {
      twin_shape shape = shapes[s];
      shape.strict = strict != 0;
      av_twin twin;
      twin_open(&twin, &shape);
      for (int way = 0; use_way(&twin.be[TESTED], way); ++way) {
        check(&twin);
      }
      twin_close(&twin);
    }
  }
}
