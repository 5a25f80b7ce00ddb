/* sparse_linear_step of the cpu backend against what it stands for: sparse_linear_grad, then adam
 * on the rows of counts, to the bit. Those two are held against the reference in test_ops. */
#include "backend/cpu/by_gene.h"
#include "backend/twin.h"

#include <stdlib.h>

enum { GRAD_FIRST, AT_ONCE, WAYS };

/* The same start for both ways. */
typedef struct arrays {
  void *w, *m, *v, *dw, *dbias;
} arrays;

static void *filled(av_backend *be, av_kind kind, int64_t n, uint64_t item, double shift,
                    double scale) {
  source from = {.item = item};
  void *array = NULL;
  double *values = calloc((size_t)(n > 0 ? n : 1), sizeof *values);
  assert_non_null(values);
  for (int64_t i = 0; i < n; ++i) {
    values[i] = shift + scale * (double)(float)source_normal(&from);
    values[i] = shift > 0.0 && values[i] < 0.0 ? -values[i] : values[i];
  }
  require(be->ops->alloc(be, kind, n, &array));
  require(be->ops->write(be, kind, array, n, values));
  free(values);
  return array;
}

/* 0 for the rows of counts; those of covariates are added to. */
static void *gradients(av_backend *be, int64_t inputs, int64_t genes, int64_t n) {
  void *made = filled(be, AV_GRAD, inputs * n, 4, 0, 1);
  be->ops->zero(be, AV_GRAD, made, genes * n);
  return made;
}

static arrays make(av_backend *be, int64_t inputs, int64_t genes, int64_t n) {
  return (arrays){.w = filled(be, AV_REAL, inputs * n, 1, 0, 0.1),
                  .m = filled(be, AV_REAL, inputs * n, 2, 0, 0.01),
                  .v = filled(be, AV_REAL, inputs * n, 3, 0.001, 0.0002),
                  .dw = gradients(be, inputs, genes, n),
                  .dbias = filled(be, AV_GRAD, n, 5, 0, 1)};
}

static void release(av_backend *be, arrays *a) {
  void *const all[] = {a->w, a->m, a->v, a->dw, a->dbias};
  for (size_t i = 0; i < sizeof all / sizeof *all; ++i) {
    be->ops->release(be, all[i]);
  }
}

static void identical(av_backend *be, const char *what, av_kind kind, int64_t n, const void *a,
                      const void *b) {
  double *left = calloc((size_t)(n > 0 ? n : 1), sizeof *left);
  double *right = calloc((size_t)(n > 0 ? n : 1), sizeof *right);
  assert_true(left != NULL && right != NULL);
  require(be->ops->read(be, kind, a, n, left));
  require(be->ops->read(be, kind, b, n, right));
  for (int64_t i = 0; i < n; ++i) {
    if (left[i] != right[i]) {
      fail_msg("%s[%lld]: %.17g apart, %.17g at once", what, (long long)i, left[i], right[i]);
    }
  }
  free(left);
  free(right);
}

static void check_width(av_twin *twin, int64_t n, bool covariates) {
  av_backend *be = &twin->be[TESTED];
  const av_batch *batch = twin->batch[TESTED];
  const av_design *design = &twin->dataset.design;
  const int64_t genes = twin->dataset.n_genes;
  const int64_t inputs = genes + (covariates ? design->n_continuous + design->n_onehot : 0);
  const av_adam adam = {.lr = 0.01,
                        .beta1 = 0.9,
                        .beta2 = 0.999,
                        .eps = 0.01,
                        .weight_decay = 1e-3,
                        .decoupled = n % 2 == 0,
                        .scale = 1.0 / 7,
                        .step = 3};
  arrays way[WAYS] = {make(be, inputs, genes, n), make(be, inputs, genes, n)};
  void *before = filled(be, AV_REAL, inputs * n, 1, 0, 0.1);
  void *dy = filled(be, AV_REAL, twin->n * n, 6, 0, 1);
  const arrays *apart = &way[GRAD_FIRST];
  const arrays *once = &way[AT_ONCE];
  const bool done = be->ops->sparse_linear_step(be, batch, true, covariates, n, dy, &adam, once->w,
                                                once->m, once->v, once->dw, once->dbias);
  assert_true(done == (!be->strict && twin->n <= AV_TILE_ROWS && n <= 1024));
  if (done) {
    be->ops->sparse_linear_grad(be, batch, true, covariates, n, dy, apart->dw, apart->dbias);
    be->ops->adam(be, &adam, genes * n, apart->w, apart->dw, apart->m, apart->v);
  } else { /* nothing may have happened */
    identical(be, "weights", AV_REAL, inputs * n, before, once->w);
  }
  identical(be, "weights", AV_REAL, inputs * n, apart->w, once->w);
  identical(be, "first moments", AV_REAL, inputs * n, apart->m, once->m);
  identical(be, "second moments", AV_REAL, inputs * n, apart->v, once->v);
  identical(be, "gradients of covariates", AV_GRAD, inputs * n, apart->dw, once->dw);
  identical(be, "bias gradients", AV_GRAD, n, apart->dbias, once->dbias);
  be->ops->release(be, before);
  be->ops->release(be, dy);
  release(be, &way[GRAD_FIRST]);
  release(be, &way[AT_ONCE]);
}

static void check(av_twin *twin) {
  const int64_t widths[] = {1, 37, 128, 256, 1025};
  const bool many = twin->dataset.n_genes > 10000;
  for (size_t i = 0; i < (many ? 1 : sizeof widths / sizeof *widths); ++i) {
    check_width(twin, widths[i], false);
    check_width(twin, widths[i], true);
  }
}

static void at_once(void **state) {
  (void)state;
  on_all_shapes(check);
}

int main(int argc, char **argv) {
  if (MPI_Init(&argc, &argv) != MPI_SUCCESS) {
    return 1;
  }
  const struct CMUnitTest tests[] = {cmocka_unit_test(at_once)};
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  MPI_Finalize();
  return failed;
}
