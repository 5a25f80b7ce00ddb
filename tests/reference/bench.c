#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/vae_parts.h"
#include "reference/bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

double *bench_zeros(int64_t n) {
  double *values = calloc((size_t)n + 1, sizeof *values);
  assert_non_null(values);
  return values;
}

static void take_start(bench *b) {
  const cJSON *start = golden_member(b->golden, "start");
  b->start_params = bench_zeros(b->layout->n_params);
  b->start_running = bench_zeros(b->layout->n_running);
  b->params = bench_zeros(b->layout->n_params);
  b->running = bench_zeros(b->layout->n_running);
  assert_int_equal(cJSON_GetArraySize(start), b->layout->n_tensors); /* the same tensors */
  for (int64_t t = 0; t < b->layout->n_tensors; ++t) {
    const av_tensor *tensor = &b->layout->tensors[t];
    double *values = golden_tensor(start, tensor->name, tensor->rows * tensor->columns);
    golden_scatter(tensor, values, b->start_params, b->start_running);
    free(values);
  }
  assert_int_equal(av_vae_set_values(b->vae, b->start_params, b->start_running), AV_OK);
}

static void take_minibatch(bench *b) {
  b->n = cJSON_GetArraySize(golden_member(b->file, "minibatch"));
  double *cells = golden_values(b->file, "minibatch", b->n);
  b->position = calloc((size_t)b->n, sizeof *b->position);
  b->row = calloc((size_t)b->n, sizeof *b->row);
  if (b->position == NULL || b->row == NULL) {
    abort();
  }
  for (int64_t i = 0; i < b->n; ++i) {
    const int64_t row = (int64_t)cells[i] - b->dataset.first;
    if (row >= 0 && row < b->dataset.n_local) {
      b->position[b->mine] = i;
      b->row[b->mine++] = row;
    }
  }
  bench_select(b);
  free(cells);
}

double *bench_prior(const cJSON *file, int64_t n_batches) {
  char key[32];
  snprintf(key, sizeof key, "prior_%lld", (long long)n_batches);
  return golden_values(file, key, 2 * n_batches);
}

double bench_largest(int64_t n, const double *values) {
  double most = 0.0;
  for (int64_t i = 0; i < n; ++i) {
    most = fmax(most, fabs(values[i]));
  }
  return most;
}

void bench_within(const bench *b, int64_t n, const double *found, const double *wanted,
                  double allowed, const char *what, const char *name) {
  for (int64_t i = 0; i < n; ++i) {
    if (!(fabs(found[i] - wanted[i]) <= allowed)) {
      fail_msg("%s: %s %s[%lld] is %.15g, in scvi-tools %.15g; allowed is a difference of %.3g",
               b->name, what, name, (long long)i, found[i], wanted[i], allowed);
    }
  }
}

void bench_rows(const bench *b, const char *table, const char *name, int64_t width,
                const double *found, double tolerance) {
  double *wanted = golden_tensor(golden_member(b->golden, table), name, b->n * width);
  const double allowed = fmax(tolerance, b->tolerance) * bench_largest(b->n * width, wanted);
  for (int64_t i = 0; i < b->mine; ++i) {
    bench_within(b, width, found + i * width, wanted + b->position[i] * width, allowed, table,
                 name);
  }
  free(wanted);
}

double *bench_read(const bench *b, const av_real *array, int64_t n) {
  double *values = bench_zeros(n);
  if (n > 0) {
    assert_int_equal(b->be.ops->read((av_backend *)(uintptr_t)&b->be, AV_REAL, array, n, values),
                     AV_OK);
  }
  return values;
}

double *bench_head(const bench *b, const av_decode *decode, const av_head *head) {
  const int64_t genes = b->spec.n_genes;
  const av_design *design = &b->dataset.design;
  const int64_t width = decode->n_in + decode->n_onehot;
  double *x = bench_read(b, bench_decoder_input(b), b->mine * decode->n_in);
  double *w = bench_read(b, head->w, width * genes);
  double *c = head->c == NULL ? bench_zeros(genes) : bench_read(b, head->c, genes);
  double *logits = bench_zeros(b->mine * genes);
  for (int64_t i = 0; i < b->mine; ++i) {
    for (int64_t g = 0; g < genes; ++g) {
      double sum = c[g];
      for (int64_t k = 0; k < decode->n_in; ++k) {
        sum += x[i * decode->n_in + k] * w[k * genes + g];
      }
      for (int64_t f = 0; decode->n_onehot > 0 && f < design->n_factors; ++f) {
        const int64_t column = design->column[b->row[i] * design->n_factors + f];
        sum += w[(decode->n_in + column) * genes + g];
      }
      logits[i * genes + g] = sum;
    }
  }
  free(x);
  free(w);
  free(c);
  return logits;
}

const av_real *bench_decoder_input(const bench *b) {
  return b->spec.linear ? b->vae->z : b->vae->decoder[b->spec.n_layers - 1].act;
}

void bench_select(bench *b) { b->be.ops->batch_select(&b->be, b->batch, b->mine, b->row); }

void bench_open(bench *b, const cJSON *file, const char *name, const rig_kind *kind,
                const av_comm *comm, double tolerance) {
  *b = (bench){
      .name = name, .file = file, .golden = golden_find(file, name), .tolerance = tolerance};
  const int64_t n_batches = (int64_t)golden_number(b->golden, "n_batches");
  b->be = (av_backend){
      .ops = kind->ops, .comm = comm, .threads = comm->size > 1 ? 1 : 2, .strict = kind->strict};
  assert_int_equal(kind->ops->open(&b->be), AV_OK);
  golden_dataset(file, b->golden, comm, n_batches, &b->dataset);
  b->spec = golden_spec(b->golden, &b->dataset);
  double *prior = bench_prior(b->file, n_batches);
  assert_int_equal(
      av_vae_create(&b->vae, &b->be, &b->spec, &b->dataset.design, prior, b->dataset.n_local),
      AV_OK);
  free(prior);
  assert_int_equal(kind->ops->data_load(&b->be, &b->dataset, &b->data), AV_OK);
  assert_int_equal(kind->ops->batch_create(&b->be, b->data, b->dataset.n_local, &b->batch), AV_OK);
  if (cJSON_IsTrue(golden_member(b->golden, "update_only_decoder"))) {
    av_vae_freeze_encoder(b->vae);
  }
  b->layout = av_vae_layout(b->vae);
  take_start(b);
  take_minibatch(b);
}

void bench_close(bench *b) {
  free(b->position);
  free(b->row);
  free(b->params);
  free(b->running);
  free(b->start_params);
  free(b->start_running);
  av_vae_free(&b->vae);
  b->be.ops->batch_free(&b->be, b->batch);
  b->be.ops->data_free(&b->be, b->data);
  av_dataset_free(&b->dataset);
  av_backend_close(&b->be);
}
