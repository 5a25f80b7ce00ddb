#include "backend/twin.h"

#include "backend/cpu/cpu.h"
#include "backend/cpu/state.h"
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

static void require(av_status status) {
  if (status != AV_OK) {
    av_error_print();
  }
  assert_int_equal(status, AV_OK);
}

/* Small counts mostly, now and then a large one. */
static double random_count(source *from, int64_t cell, bool fractions) {
  const double u = source_uniform(from, 0, 1);
  double count = 1.0 + floor(-2.0 * log(1.0 - 0.999 * u));
  if (u > 0.98) {
    count = floor(40.0 + 200.0 * source_uniform(from, 0, 1));
  }
  if (cell == 2 && u > 0.5) {
    count = floor(300.0 + 5000.0 * u);
  }
  return fractions ? (double)(float)(count - 0.7 * source_uniform(from, 0, 1)) : count;
}

void make_dataset(av_dataset *dataset, int64_t cells, int64_t genes, int64_t batches, double filled,
                  bool fractions, uint64_t seed) {
  source from = {.item = seed << 32};
  *dataset = (av_dataset){.n_cells = cells, .n_genes = genes, .n_local = cells, .first = 0};
  av_counts_builder *builder = NULL;
  require(av_builder_create(&builder, genes, cells, (int64_t)(filled * (double)cells), fractions));
  int32_t *gene = av_calloc((size_t)genes, sizeof *gene);
  double *value = av_calloc((size_t)genes, sizeof *value);
  dataset->library = av_calloc((size_t)cells, sizeof *dataset->library);
  dataset->batch.code = av_calloc((size_t)cells, sizeof *dataset->batch.code);
  assert_true(gene && value && dataset->library && dataset->batch.code);
  dataset->batch.levels.n = batches;
  dataset->has_batch = batches > 1;
  for (int64_t i = 0; i < cells; ++i) {
    int64_t n = 0;
    const double share = filled / (double)genes;
    /* skip ahead by geometric gaps: fast for many genes */
    int64_t g = (int64_t)(log(source_uniform(&from, 1e-300, 1)) / log1p(-fmin(share, 0.999)));
    while (i != 1 && g < genes) {
      gene[n] = (int32_t)g;
      value[n] = random_count(&from, i, fractions);
      dataset->library[i] += value[n++];
      g += 1 + (int64_t)(log(source_uniform(&from, 1e-300, 1)) / log1p(-fmin(share, 0.999)));
    }
    require(av_builder_add_row(builder, n, gene, value));
    dataset->library[i] = dataset->library[i] > 0.0 ? dataset->library[i] : 1.0;
    dataset->batch.code[i] = (int32_t)source_uniform(&from, 0, (double)batches);
  }
  require(av_builder_finish(builder, &dataset->counts));
  av_builder_free(&builder);
  free(gene);
  free(value);
}

void twin_open(av_twin *twin, const twin_shape *shape) {
  static const int choice[TWINS] = {[REFERENCE] = AV_BACKEND_REFERENCE, [CPU] = AV_BACKEND_CPU};
  *twin = (av_twin){.n = shape->rows};
  av_comm_self(&twin->comm);
  make_dataset(&twin->dataset, shape->cells, shape->genes, shape->batches, shape->filled,
               shape->fractions, 1);
  int64_t *rows = av_calloc((size_t)shape->rows, sizeof *rows);
  assert_non_null(rows);
  for (int64_t i = 0; i < shape->rows; ++i) {
    rows[i] = (i * 7 + 2) % shape->cells; /* the cells with escapes and without counts are early */
  }
  for (int t = 0; t < TWINS; ++t) {
    av_backend *be = &twin->be[t];
    require(av_backend_open(be, choice[t], &twin->comm, shape->threads, shape->strict));
    require(be->ops->data_load(be, &twin->dataset, &twin->data[t]));
    require(be->ops->batch_create(be, twin->data[t], shape->rows, &twin->batch[t]));
    be->ops->batch_select(be, twin->batch[t], shape->rows, rows);
  }
  free(rows);
}

void free_dataset(av_dataset *dataset) {
  av_counts_free(&dataset->counts);
  free(dataset->library);
  free(dataset->batch.code);
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

bool use_instructions(av_backend *be, int i) {
  const av_kernels *sets[] = {
#ifdef AV_KERNELS_X86
      __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
              __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")
          ? &av_kernels_avx512
          : NULL,
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &av_kernels_avx2 : NULL,
#endif
      &av_kernels_baseline};
  int found = 0;
  for (size_t s = 0; s < sizeof sets / sizeof *sets; ++s) {
    if (sets[s] != NULL && found++ == i) {
      av_cpu_of(be)->kernels = sets[s];
      return true;
    }
  }
  return false;
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

void same_numbers(const char *what, int64_t n, const double *cpu, const double *reference,
                  double tolerance, double size) {
  double largest = size;
  for (int64_t i = 0; i < n; ++i) {
    largest = fmax(largest, fabs(reference[i]));
  }
  for (int64_t i = 0; i < n; ++i) {
    const double off = fabs(cpu[i] - reference[i]);
    if (!(off <= tolerance * largest)) {
      fail_msg("%s[%lld of %lld]: cpu %.9g, reference %.9g, off by %.2g of the largest, %.6g", what,
               (long long)i, (long long)n, cpu[i], reference[i], off / largest, largest);
    }
  }
}

void same_beside(const char *what, const av_pair *pair, double tolerance, double size) {
  double *reference = pair_read(pair, REFERENCE);
  double *cpu = pair_read(pair, CPU);
  same_numbers(what, pair->n, cpu, reference, tolerance, size);
  free(reference);
  free(cpu);
}

void same(const char *what, const av_pair *pair, double tolerance) {
  same_beside(what, pair, tolerance, 0.0);
}
