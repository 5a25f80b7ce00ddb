#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "reference/bench.h"

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
    double *values = golden_values(start, tensor->name, tensor->rows * tensor->columns);
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
  assert_true(b->position != NULL && b->row != NULL);
  for (int64_t i = 0; i < b->n; ++i) {
    const int64_t row = (int64_t)cells[i] - b->dataset.first;
    if (row >= 0 && row < b->dataset.n_local) {
      b->position[b->mine] = i;
      b->row[b->mine++] = row;
    }
  }
  b->be.ops->batch_select(&b->be, b->batch, b->mine, b->row);
  free(cells);
}

double *bench_prior(const cJSON *file, int64_t n_batches) {
  char key[32];
  snprintf(key, sizeof key, "prior_%lld", (long long)n_batches);
  return golden_values(file, key, 2 * n_batches);
}

void bench_open(bench *b, const cJSON *file, const char *name, const rig_kind *kind,
                const av_comm *comm) {
  *b = (bench){.name = name, .file = file, .golden = golden_find(file, name)};
  b->spec = golden_spec(file, b->golden);
  b->be = (av_backend){
      .ops = kind->ops, .comm = comm, .threads = comm->size > 1 ? 1 : 2, .strict = kind->strict};
  assert_int_equal(kind->ops->open(&b->be), AV_OK);
  golden_dataset(file, comm, b->spec.n_batches, &b->dataset);
  double *prior = bench_prior(b->file, b->spec.n_batches);
  assert_int_equal(av_vae_create(&b->vae, &b->be, &b->spec, prior, b->dataset.n_local), AV_OK);
  free(prior);
  assert_int_equal(kind->ops->data_load(&b->be, &b->dataset, &b->data), AV_OK);
  assert_int_equal(kind->ops->batch_create(&b->be, b->data, b->dataset.n_local, &b->batch), AV_OK);
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
