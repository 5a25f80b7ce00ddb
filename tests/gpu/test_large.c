/* Dense layers, latent draws, their means and the optimiser on minibatches and widths beyond those
 * of tests/backend, where kernels cut their sums in pieces, and on minibatches that are not full.
 * All of it takes less than 64 MB of the device. */
#include "backend/twin.h"

#include "backend/latent.h"
#include "backend/tested.h"
#include "base/memory.h"
#include "check.h"
#include "kernels/norm.h"
#include "math/rng.h"

#include <math.h>
#include <mpi.h>
#include <stdlib.h>
#include <string.h>

/* The bits of each result: the same in every way. */
static uint64_t seen[1000];
static int n_seen, way_now;

static void same_bits(const char *what, const av_pair *pair) {
  double *tested = pair_read(pair, TESTED);
  uint64_t hash = 1469598103934665603u;
  for (int64_t i = 0; i < pair->n; ++i) {
    const union {
      double d;
      uint64_t u;
    } word = {.d = tested[i]};
    hash = (hash ^ word.u) * 1099511628211u;
  }
  if (way_now == 0) {
    seen[n_seen] = hash;
  } else if (seen[n_seen] != hash) {
    fail_msg("%s: other bits in way %d", what, way_now);
  }
  ++n_seen;
  free(tested);
}

/* Rows of (max_rows, stride) from `used` on become 0. */
static void clear_beyond(av_pair *pair, int64_t used, int64_t stride) {
  double *values = pair_read(pair, REFERENCE);
  for (int64_t i = used * stride; i < pair->n; ++i) {
    values[i] = 0.0;
  }
  pair_set(pair, values);
  free(values);
}

/* Rows < used agree in all columns; rows beyond are 0 in columns < width, and elsewhere as before.
 */
static void same_rows(const char *what, const av_pair *pair, int64_t used, int64_t stride,
                      int64_t width) {
  double *reference = pair_read(pair, REFERENCE);
  double *tested = pair_read(pair, TESTED);
  same_numbers(what, used * stride, tested, reference, TOLERANCE, 0.0);
  for (int64_t i = used * stride; i < pair->n; ++i) {
    const double expected = i % stride < width ? 0.0 : reference[i];
    if (!(tested[i] == expected)) {
      fail_msg("%s: row %lld beyond the minibatch has %g", what, (long long)(i / stride),
               tested[i]);
    }
  }
  free(reference);
  free(tested);
}

static void check_linear(av_twin *twin, int64_t used, int64_t m, int64_t n, bool onehot,
                         bool bias_wanted) {
  source from = {.item = 200};
  const int64_t rows = twin->n;
  const int64_t columns = onehot ? twin->columns : 0;
  const int64_t x_stride = m % 4 == 0 ? m : m + 3;
  const int64_t dx_stride = m + 1;
  av_pair x = pair_normals(twin, AV_REAL, rows * x_stride, &from, 0.2, 1);
  av_pair weight = pair_normals(twin, AV_REAL, (m + columns) * n, &from, 0, 0.3);
  av_pair bias = pair_normals(twin, AV_REAL, n, &from, 0, 1);
  av_pair y = pair_normals(twin, AV_REAL, rows * n, &from, 0, 1);
  av_pair dy = pair_normals(twin, AV_REAL, rows * n, &from, 0, 1);
  av_pair dx = pair_normals(twin, AV_REAL, rows * dx_stride, &from, 0, 1);
  av_pair dw = pair_normals(twin, AV_GRAD, (m + columns) * n, &from, 0, 1);
  av_pair dbias = pair_normals(twin, AV_GRAD, n, &from, 0, 1);
  clear_beyond(&x, used, x_stride);
  clear_beyond(&dy, used, n);
  BOTH(twin, linear(be, batch, m, columns, n, x.at[t], x_stride, weight.at[t],
                    bias_wanted ? bias.at[t] : NULL, y.at[t]));
  same_rows("y", &y, used, n, n);
  BOTH(twin, linear_grad(be, batch, m, columns, n, x.at[t], x_stride, weight.at[t], dy.at[t],
                         dx.at[t], dx_stride, dw.at[t], bias_wanted ? dbias.at[t] : NULL));
  same_rows("dx", &dx, used, dx_stride, m);
  same("dw", &dw, TOLERANCE);
  same_part("dw of one-hot columns", &dw, m, n, TOLERANCE);
  same("dbias", &dbias, TOLERANCE);
  same_bits("y", &y);
  same_bits("dx", &dx);
  same_bits("dw", &dw);
  same_bits("dbias", &dbias);
  av_pair *all[] = {&x, &weight, &bias, &y, &dy, &dx, &dw, &dbias};
  for (size_t i = 0; i < sizeof all / sizeof *all; ++i) {
    pair_free(all[i]);
  }
}

static void check_latent(av_twin *twin, int64_t used, int64_t k, bool library, bool simplex) {
  source from = {.item = 400};
  const int64_t rows = twin->n;
  const int64_t batches = twin->dataset.batch.levels.n;
  const int64_t stride = k + twin->dataset.design.n_continuous;
  double *priors = av_calloc((size_t)(2 * batches), sizeof *priors);
  for (int64_t s = 0; s < batches; ++s) {
    priors[2 * s] = 7.0 + source_normal(&from);
    priors[2 * s + 1] = source_uniform(&from, 0.05, 1);
  }
  av_pair prior = pair_values(twin, AV_SUM, 2 * batches, priors);
  av_pair z_head = pair_normals(twin, AV_REAL, rows * 2 * k, &from, -0.5, 1);
  av_pair l_head = pair_normals(twin, AV_REAL, rows * 2, &from, 1, 1);
  av_pair z = pair_normals(twin, AV_REAL, rows * stride, &from, 0, 1);
  av_pair l = pair_normals(twin, AV_REAL, rows, &from, 0, 1);
  av_pair losses = pair_normals(twin, AV_SUM, AV_LOSSES, &from, 0, 1);
  av_pair dz = pair_normals(twin, AV_REAL, rows * stride, &from, 0, 1);
  av_pair dl = pair_normals(twin, AV_REAL, rows, &from, 0, 1);
  av_pair dz_head = pair_normals(twin, AV_REAL, rows * 2 * k, &from, 0, 1);
  av_pair dl_head = pair_normals(twin, AV_REAL, rows * 2, &from, 0, 1);
  const av_latent latent = {.n_latent = k,
                            .stride = stride,
                            .simplex = simplex,
                            .latent_library = library,
                            .sample = true,
                            .kl_weight = 0.3,
                            .draw = {.seed = 9, .epoch = 2, .purpose = AV_DRAW_POSTERIOR}};
  BOTH(twin, latent_draw(be, batch, &latent, z_head.at[t], library ? l_head.at[t] : NULL,
                         prior.at[t], z.at[t], l.at[t], losses.at[t]));
  same_rows("z", &z, used, stride, stride);
  same_rows("l", &l, used, 1, 1);
  same("losses", &losses, 1e-12);
  BOTH(twin, latent_grad(be, batch, &latent, z_head.at[t], library ? l_head.at[t] : NULL,
                         prior.at[t], z.at[t], dz.at[t], library ? dl.at[t] : NULL, dz_head.at[t],
                         library ? dl_head.at[t] : NULL));
  same_rows("dz_head", &dz_head, used, 2 * k, 2 * k);
  same_rows("dl_head", &dl_head, used, 2, library ? 2 : 0);
  same_bits("z", &z);
  same_bits("l", &l);
  same_bits("losses", &losses);
  same_bits("dz_head", &dz_head);
  same_bits("dl_head", &dl_head);
  av_pair *all[] = {&prior, &z_head, &l_head, &z, &l, &losses, &dz, &dl, &dz_head, &dl_head};
  for (size_t i = 0; i < sizeof all / sizeof *all; ++i) {
    pair_free(all[i]);
  }
  free(priors);
}

/* More draws than there are lanes for, or fewer; sums of one part, and of several fours a lane. */
static void check_simplex(av_twin *twin, int64_t used, int64_t k, int64_t n_samples) {
  source from = {.item = 500};
  av_pair z_head = pair_normals(twin, AV_REAL, twin->n * 2 * k, &from, -0.5, 1);
  av_pair codes = pair_normals(twin, AV_SUM, twin->n * k, &from, 0, 1);
  BOTH(twin, simplex_means(be, batch, k, 9, n_samples, z_head.at[t], codes.at[t]));
  same_rows("codes", &codes, used, k, k);
  same_bits("codes", &codes);
  double *reference = pair_read(&codes, REFERENCE);
  double *tested = pair_read(&codes, TESTED);
  same_numbers("codes", used * k, tested, reference, 1e-13, 0.0);
  free(reference);
  free(tested);
  pair_free(&z_head);
  pair_free(&codes);
}

static void check_adam(av_twin *twin, int64_t n, int64_t offset[4], double clip) {
  source from = {.item = 600};
  av_pair a[4];
  for (int i = 0; i < 4; ++i) {
    const double scales[] = {1, 100, 0.1, 0};
    a[i] = pair_normals(twin, i == 1 ? AV_GRAD : AV_REAL, n + 8, &from, 0, scales[i]);
  }
  av_adam adam = {.lr = 1e-3,
                  .beta1 = 0.9,
                  .beta2 = 0.999,
                  .eps = 0.01,
                  .weight_decay = 1e-2,
                  .decoupled = clip > 1,
                  .clip = clip,
                  .scale = 1.0 / 128,
                  .step = 7};
  BOTH(twin, adam(be, &adam, n, av_backend_at(be, AV_REAL, a[0].at[t], offset[0]),
                  av_backend_at(be, AV_GRAD, a[1].at[t], offset[1]),
                  av_backend_at(be, AV_REAL, a[2].at[t], offset[2]),
                  av_backend_at(be, AV_REAL, a[3].at[t], offset[3])));
  for (int i = 0; i < 4; ++i) {
    same("adam", &a[i], 1e-6);
    pair_free(&a[i]);
  }
}

static void on_shape(twin_shape shape, int64_t used) {
  av_twin twin;
  twin_open(&twin, &shape);
  int64_t *rows = av_calloc((size_t)shape.rows, sizeof *rows);
  for (int64_t i = 0; i < shape.rows; ++i) {
    rows[i] = twin_row(&twin, i);
  }
  for (int t = 0; t < TWINS; ++t) {
    twin.be[t].ops->batch_select(&twin.be[t], twin.batch[t], used, rows);
  }
  for (int way = 0; use_way(&twin.be[TESTED], way); ++way) {
    way_now = way;
    n_seen = 0;
    check_linear(&twin, used, 128, 20, false, true);
    check_linear(&twin, used, 128, 2, false, true);
    check_linear(&twin, used, 10, 128, true, true);
    check_linear(&twin, used, 128, 128, true, true); /* cuBLAS above 1,024 rows */
    check_linear(&twin, used, 132, 130, false, false);
    check_linear(&twin, used, 37, 51, true, true);
    check_linear(&twin, used, 1, 1, true, true);
    check_latent(&twin, used, 10, true, false);
    check_latent(&twin, used, 256, true, true);
    check_latent(&twin, used, 125, false, true);
    check_latent(&twin, used, 124, true, true);
    check_latent(&twin, used, 300, true, false);
    check_latent(&twin, used, 3, false, false);
    check_latent(&twin, used, 5, true, true);
    check_simplex(&twin, used, 128, 3);
    if (shape.rows > 1000) {
      check_simplex(&twin, used, 10, 250);
      check_simplex(&twin, used, 300, 15);
      check_simplex(&twin, used, 2000, 3);
    }
  }
  check_adam(&twin, 100000, (int64_t[4]){0, 0, 0, 0}, 0.5);
  check_adam(&twin, 100001, (int64_t[4]){4, 4, 4, 4}, 0);
  check_adam(&twin, 9999, (int64_t[4]){1, 1, 1, 1}, 0);
  check_adam(&twin, 9999, (int64_t[4]){1, 3, 0, 1}, 2.5);
  check_adam(&twin, 3, (int64_t[4]){0, 1, 0, 0}, 0.5);
  check_adam(&twin, 0, (int64_t[4]){0, 0, 0, 0}, 0.5);
  free(rows);
  twin_close(&twin);
}

static void large(void **state) {
  (void)state;
  const twin_shape few = {.cells = 300,
                          .genes = 20,
                          .batches = 2,
                          .rows = 40,
                          .filled = 5,
                          .threads = 1,
                          .categorical = 3,
                          .continuous = 2};
  on_shape(few, 33);
  on_shape(few, 0);
  on_shape((twin_shape){.cells = 900,
                        .genes = 20,
                        .batches = 50,
                        .rows = 600,
                        .filled = 5,
                        .threads = 1,
                        .categorical = 1},
           450);
  on_shape((twin_shape){.cells = 1500,
                        .genes = 20,
                        .batches = 2,
                        .rows = 1100,
                        .filled = 5,
                        .threads = 1,
                        .categorical = 5,
                        .continuous = 1},
           1099);
  on_shape(
      (twin_shape){
          .cells = 1500, .genes = 20, .batches = 700, .rows = 1030, .filled = 5, .threads = 1},
      200);
}

/* A decoder folded after training, with a row of weights for each of half a million categories. */
static void many_categories(void **state) {
  (void)state;
  enum { MANY = 65536 * 8 }; /* a block has 8 rows, and a grid 65,535 blocks all ways but one */
  av_twin twin;
  source from = {.item = 900};
  int64_t first[] = {0, MANY};
  av_design design = {.n_factors = 1, .first = first, .n_onehot = MANY};
  const twin_shape shape = {
      .cells = 9, .genes = 3, .batches = 1, .rows = 3, .filled = 2, .threads = 1};
  twin_open(&twin, &shape);
  av_pair w = pair_normals(&twin, AV_REAL, 1 + MANY, &from, 0, 1);
  av_pair scale = pair_normals(&twin, AV_REAL, 2, &from, 3, 0.1); /* gamma, beta */
  av_pair running = pair_normals(&twin, AV_REAL, 2, &from, 3, 0.1);
  av_pair a = pair_zeros(&twin, AV_REAL, 1 + MANY);
  av_pair c = pair_zeros(&twin, AV_REAL, 2); /* and inv_sigma */
  for (int t = 0; t < TWINS; ++t) {
    const av_fold fold = {.design = &design,
                          .n_genes = 1,
                          .n_in = 1,
                          .n_onehot = MANY,
                          .w = w.at[t],
                          .gamma = scale.at[t],
                          .beta = av_backend_at(&twin.be[t], AV_REAL, scale.at[t], 1),
                          .running = running.at[t],
                          .a = a.at[t],
                          .c = c.at[t],
                          .inv_sigma = av_backend_at(&twin.be[t], AV_REAL, c.at[t], 1)};
    twin.be[t].ops->fold(&twin.be[t], &fold, NULL);
  }
  same("a", &a, TOLERANCE);
  same_part("a of the last category", &a, MANY, 1, TOLERANCE);
  same("c and inv_sigma", &c, TOLERANCE);
  av_pair *all[] = {&w, &scale, &running, &a, &c};
  for (size_t i = 0; i < sizeof all / sizeof *all; ++i) {
    pair_free(all[i]);
  }
  twin_close(&twin);
}

/* Who asked for too much is told, and nobody else. */
static void too_much_memory(void **state) {
  (void)state;
  av_twin twin;
  const twin_shape shape = {
      .cells = 9, .genes = 3, .batches = 1, .rows = 3, .filled = 2, .threads = 1};
  twin_open(&twin, &shape);
  av_backend *tested = &twin.be[TESTED];
  void *array = NULL;
  assert_int_equal(tested->ops->alloc(tested, AV_SUM, INT64_C(1) << 50, &array), AV_NOMEM);
  av_pair x = pair_zeros(&twin, AV_REAL, 3 * 5);
  av_pair moments = pair_zeros(&twin, AV_SUM, 2 * 5);
  BOTH(&twin, moments(be, batch, 5, x.at[t], moments.at[t])); /* ends the run if its launch fails */
  pair_free(&x);
  pair_free(&moments);
  twin_close(&twin);
}

/* A GPU or driver that the build is not for is no fault of the program. */
static void wrong_device(void **state) {
  (void)state;
  const struct {
    cudaError_t code;
    av_status status;
    const char *advice;
  } cases[] = {{cudaErrorNoKernelImageForDevice, AV_NODEVICE, "-DATLASVI_CUDA_ARCHITECTURES"},
               {cudaErrorUnsupportedPtxVersion, AV_NODEVICE, "install a driver"},
               {cudaErrorInsufficientDriver, AV_NODEVICE, "install a driver"},
               {cudaErrorInvalidValue, AV_BUG, "cudaErrorInvalidValue)"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; ++i) {
    av_error_clear();
    assert_int_equal(AV_CUDA(cases[i].code), cases[i].status);
    assert_non_null(strstr(av_error_text(), cases[i].advice));
  }
  av_error_clear();
}

/* Minibatches too large to run here: a grid has at most 65,535 blocks that way. */
static void slabs_fit_a_grid(void **state) {
  (void)state;
  for (int64_t rows = 1; rows <= INT64_C(1) << 30; rows += rows / 3 + 1) {
    const int64_t slabs = av_gpu_norm_slabs(rows);
    assert_in_range(slabs, 1, 65535);
    assert_true(slabs * av_gpu_norm_slab_rows(rows) >= rows);
    assert_true((slabs - 1) * av_gpu_norm_slab_rows(rows) < rows);
  }
}

int main(int argc, char **argv) {
  if (MPI_Init(&argc, &argv) != MPI_SUCCESS) {
    return 1;
  }
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(large), cmocka_unit_test(many_categories), cmocka_unit_test(too_much_memory),
      cmocka_unit_test(slabs_fit_a_grid), cmocka_unit_test(wrong_device)};
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  MPI_Finalize();
  return failed;
}
