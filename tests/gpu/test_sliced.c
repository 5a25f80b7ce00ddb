/* The first layer of large minibatches, with slices of its weights in shared memory, beside the
 * reference: every width of a slice, minibatches that are not full, and where slices end. */
#include "backend/twin.h"

#include "base/memory.h"
#include "kernels/sparse_linear.h"

#include <mpi.h>
#include <stdlib.h>

/* One of 132 multiprocessors, a block of which may ask for 227 KB. */
enum { MULTIPROCESSORS = 132, SHARED_MOST = 227 << 10, ROWS = 600 };

/* y is set before, so that rows beyond the minibatch show that they were written. */
static void check_layer(av_twin *twin, int64_t used, int64_t n, bool log1p_input, bool covariates) {
  const av_design *design = &twin->dataset.design;
  const int64_t extra = covariates ? design->n_continuous + design->n_onehot : 0;
  source from = {.item = 700};
  av_pair w = pair_normals(twin, AV_REAL, (twin->dataset.n_genes + extra) * n, &from, 0, 0.1);
  av_pair bias = pair_normals(twin, AV_REAL, n, &from, 0, 1);
  av_pair y = pair_normals(twin, AV_REAL, twin->n * n, &from, 0, 1);
  BOTH(twin, sparse_linear(be, batch, log1p_input, covariates, n, w.at[t], bias.at[t], y.at[t]));
  double *reference = pair_read(&y, REFERENCE);
  double *tested = pair_read(&y, TESTED);
  same_numbers("y", used * n, tested, reference, TOLERANCE, 0.0);
  for (int64_t i = used * n; i < y.n; ++i) {
    if (!(tested[i] == 0.0)) {
      fail_msg("row %lld beyond the minibatch has %g", (long long)(i / n), tested[i]);
    }
  }
  free(reference);
  free(tested);
  pair_free(&w);
  pair_free(&bias);
  pair_free(&y);
}

static void select_rows(av_twin *twin, int64_t used) {
  int64_t *rows = av_calloc(ROWS, sizeof *rows);
  for (int64_t i = 0; i < used; ++i) {
    rows[i] = twin_row(twin, i);
  }
  for (int t = 0; t < TWINS; ++t) {
    twin->be[t].ops->batch_select(&twin->be[t], twin->batch[t], used, rows);
  }
  free(rows);
}

static void on_genes(int64_t genes, int columns, bool covariates, av_count_kind stored) {
  av_twin twin;
  const twin_shape shape = {.cells = 900,
                            .times = stored == AV_COUNT_U16 ? 300 : 1,
                            .fractions = stored == AV_COUNT_F32,
                            .genes = genes,
                            .batches = covariates ? 40 : 1,
                            .rows = ROWS,
                            .filled = 45,
                            .threads = 1,
                            .categorical = covariates ? 2 : 0,
                            .continuous = covariates ? 3 : 0};
  const av_gpu_sparse_slices slices =
      av_gpu_sparse_slices_of(ROWS, genes, 36, SHARED_MOST, MULTIPROCESSORS);
  assert_int_equal(slices.columns, columns);
  twin_open(&twin, &shape);
  assert_int_equal(twin.dataset.counts.kind, stored);
  const int64_t used[] = {ROWS, 450, 0};
  for (size_t u = 0; u < sizeof used / sizeof *used; ++u) {
    select_rows(&twin, used[u]);
    check_layer(&twin, used[u], 36, u % 2 == 0,
                covariates); /* the last slice has columns to spare */
    check_layer(&twin, used[u], 8, u % 2 != 0, false);
    check_layer(&twin, used[u], 4, u % 2 == 0, false); /* one slice of all columns */
    check_layer(&twin, used[u], 200, true, false); /* groups have more cells than a block warps */
    check_layer(&twin, used[u], 9, true, covariates); /* no slices: rows do not lie on 16 bytes */
  }
  twin_close(&twin);
}

static void widest(void **state) {
  (void)state;
  on_genes(60, 32, true, AV_COUNT_U8);
  on_genes(60, 32, false, AV_COUNT_F32);
}
static void half(void **state) {
  (void)state;
  on_genes(1900, 16, true, AV_COUNT_U8);
  on_genes(1900, 16, false, AV_COUNT_U16);
}
static void quarter(void **state) {
  (void)state;
  on_genes(3700, 8, true, AV_COUNT_U8);
}
static void narrowest(void **state) {
  (void)state;
  on_genes(7300, 4, true, AV_COUNT_U8);
}
static void too_many_genes(void **state) {
  (void)state;
  on_genes(14600, 0, true, AV_COUNT_U8);
}

/* Blocks for each multiprocessor at most once, but no slice without a block. */
static void groups(void **state) {
  (void)state;
  for (int64_t rows = 512; rows <= INT64_C(1) << 24; rows *= 2) {
    for (int64_t n = 4; n <= 8192; n += n / 2 + 4) {
      const av_gpu_sparse_slices slices =
          av_gpu_sparse_slices_of(rows, 2000, n, SHARED_MOST, MULTIPROCESSORS);
      const int columns = n > 8 ? 16 : n > 4 ? 8 : 4; /* no more than there are */
      const int64_t of_columns = (n + columns - 1) / columns;
      assert_int_equal(slices.columns, columns);
      assert_in_range(slices.groups, 1, 65535);
      assert_true(slices.groups * of_columns <= MULTIPROCESSORS || slices.groups == 1);
      assert_true((slices.groups - 1) * 32 < rows);
    }
  }
  assert_int_equal(av_gpu_sparse_slices_of(511, 20, 128, SHARED_MOST, 132).columns, 0);
  assert_int_equal(av_gpu_sparse_slices_of(512, 2000, 128, 64 << 10, 68).columns, 8);
}

int main(int argc, char **argv) {
  if (MPI_Init(&argc, &argv) != MPI_SUCCESS) {
    return 1;
  }
  const struct CMUnitTest tests[] = {cmocka_unit_test(widest),         cmocka_unit_test(half),
                                     cmocka_unit_test(quarter),        cmocka_unit_test(narrowest),
                                     cmocka_unit_test(too_many_genes), cmocka_unit_test(groups)};
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  MPI_Finalize();
  return failed;
}
