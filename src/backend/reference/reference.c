/* Life, memory, data, optimiser and ranks of the reference backend, and its table of operations. */
#include "backend/reference/reference.h"

#include "backend/reference/state.h"
#include "base/memory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

double *scratch(const av_backend *be, int64_t n, const char *what) {
  double *values = av_calloc((size_t)n, sizeof *values);
  if (values == NULL) {
    av_comm_abort(be->comm, av_fail(AV_NOMEM, "out of memory (%s)", what));
  }
  return values;
}

static av_status ref_open(av_backend *be) {
  for (int kind = 0; kind < AV_KINDS; ++kind) {
    be->bytes[kind] = sizeof(double);
  }
  return AV_OK;
}

static void ref_close(av_backend *be) { be->state = NULL; }

static av_status ref_alloc(av_backend *be, av_kind kind, int64_t n, void **array) {
  (void)be;
  (void)kind;
  *array = av_calloc((size_t)n, sizeof(double));
  return *array == NULL ? av_fail(AV_NOMEM, "out of memory (%lld doubles)", (long long)n) : AV_OK;
}

static void ref_release(av_backend *be, void *array) {
  (void)be;
  free(array);
}

static av_status ref_write(av_backend *be, av_kind kind, void *array, int64_t n,
                           const double *values) {
  (void)be;
  (void)kind;
  memcpy(array, values, (size_t)n * sizeof(double));
  return AV_OK;
}

static av_status ref_read(av_backend *be, av_kind kind, const void *array, int64_t n,
                          double *values) {
  (void)be;
  (void)kind;
  memcpy(values, array, (size_t)n * sizeof(double));
  return AV_OK;
}

static void ref_zero(av_backend *be, av_kind kind, void *array, int64_t n) {
  (void)be;
  (void)kind;
  memset(array, 0, (size_t)n * sizeof(double));
}

static void ref_add(av_backend *be, int64_t n, av_sum *sums, const av_sum *more) {
  (void)be;
  double *to = (void *)sums;
  const double *from = (const void *)more;
  for (int64_t i = 0; i < n; ++i) {
    to[i] += from[i];
  }
}

av_status ref_data_load(av_backend *be, const av_dataset *dataset, av_data **data) {
  (void)be;
  av_data *made = av_calloc(1, sizeof *made);
  AV_TRY_ALLOC(made);
  made->dataset = dataset;
  *data = made;
  return AV_OK;
}

void ref_data_free(av_backend *be, av_data *data) {
  (void)be;
  free(data);
}

void ref_batch_free(av_backend *be, av_batch *batch) {
  (void)be;
  if (batch != NULL) {
    free(batch->row);
    free(batch->gene);
    free(batch->value);
    free(batch);
  }
}

av_status ref_batch_create(av_backend *be, av_data *data, int64_t max_rows, av_batch **batch) {
  av_batch *made = av_calloc(1, sizeof *made);
  AV_TRY_ALLOC(made);
  const size_t longest = (size_t)av_counts_longest_row(&data->dataset->counts);
  made->dataset = data->dataset;
  made->max_rows = max_rows;
  made->row = av_calloc((size_t)max_rows, sizeof *made->row);
  made->gene = av_calloc(longest, sizeof *made->gene);
  made->value = av_calloc(longest, sizeof *made->value);
  if (made->row == NULL || made->gene == NULL || made->value == NULL) {
    ref_batch_free(be, made);
    return av_fail(AV_NOMEM, "out of memory (minibatch of %lld rows)", (long long)max_rows);
  }
  *batch = made;
  return AV_OK;
}

void ref_batch_select(av_backend *be, av_batch *batch, int64_t n, const int64_t *rows) {
  (void)be;
  batch->n = n;
  if (n > 0) {
    memcpy(batch->row, rows, (size_t)n * sizeof *rows);
  }
}

/* What gradients are multiplied by: scale, and less where the scaled gradient is longer than clip.
 */
static double gradient_factor(const av_adam *adam, int64_t n, const double *g) {
  double squares = 0.0;
  for (int64_t i = 0; adam->clip > 0.0 && i < n; ++i) {
    squares += adam->scale * g[i] * adam->scale * g[i];
  }
  const double coefficient = adam->clip / (sqrt(squares) + 1e-6);
  return adam->clip > 0.0 && coefficient < 1.0 ? adam->scale * coefficient : adam->scale;
}

void ref_adam(av_backend *be, const av_adam *adam, int64_t n, av_real *params, av_grad *grads,
              av_real *m, av_real *v) {
  (void)be;
  double *p = doubles(params);
  double *g = doubles(grads);
  double *m1 = doubles(m);
  double *m2 = doubles(v);
  const double correction1 = 1.0 - pow(adam->beta1, (double)adam->step);
  const double correction2 = sqrt(1.0 - pow(adam->beta2, (double)adam->step));
  const double factor = gradient_factor(adam, n, g);
  for (int64_t i = 0; i < n; ++i) {
    double gradient = factor * g[i];
    if (adam->decoupled) {
      p[i] *= 1.0 - adam->lr * adam->weight_decay;
    } else {
      gradient += adam->weight_decay * p[i];
    }
    m1[i] = adam->beta1 * m1[i] + (1.0 - adam->beta1) * gradient;
    m2[i] = adam->beta2 * m2[i] + (1.0 - adam->beta2) * gradient * gradient;
    p[i] -= adam->lr / correction1 * m1[i] / (sqrt(m2[i]) / correction2 + adam->eps);
    g[i] = 0.0;
  }
}

void ref_allreduce(av_backend *be, av_kind kind, void *array, int64_t n) {
  (void)kind;
  const av_status status = av_sum_f64(be->comm, doubles(array), n);
  if (status != AV_OK) {
    av_comm_abort(be->comm, status);
  }
}

/* Shares by way of sums of everything: the reference has nothing to overlap with. */
static void keep_own_share(av_backend *be, double *array, int64_t n) {
  const int rank = be->comm->rank;
  for (int64_t i = 0; i < n; ++i) {
    if (i < av_share_first(be->comm, n, rank) || i >= av_share_first(be->comm, n, rank + 1)) {
      array[i] = 0.0;
    }
  }
}

void ref_share_begin(av_backend *be, av_kind kind, void *array, int64_t n) {
  ref_allreduce(be, kind, array, n);
  keep_own_share(be, array, n);
}

void ref_share_end(av_backend *be) { (void)be; }

void ref_gather_begin(av_backend *be, av_kind kind, void *array, int64_t n) {
  keep_own_share(be, array, n);
  ref_allreduce(be, kind, array, n);
}

void ref_gather_end(av_backend *be) { (void)be; }

const av_backend_ops av_backend_reference = {.name = "reference",
                                             .open = ref_open,
                                             .close = ref_close,
                                             .alloc = ref_alloc,
                                             .release = ref_release,
                                             .write = ref_write,
                                             .read = ref_read,
                                             .read_begin = av_backend_read_begin,
                                             .read_end = av_backend_read_end,
                                             .zero = ref_zero,
                                             .add = ref_add,
                                             .output_end = av_backend_no_output_end,
                                             .pass_begin = av_backend_no_pass_begin,
                                             .pass_end = av_backend_no_pass_end,
                                             AV_TABLE_OPERATIONS(ref_)};
