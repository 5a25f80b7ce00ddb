/* The cpu backend's folded BatchNorm of a linear decoder against the reference backend's. */
#include "backend/twin.h"

#include <mpi.h>
#include <stdlib.h>

/* M has no meaning for columns without cells (the backends differ): there 0 on both sides. */
static void same_back(av_pair *back, int64_t k, int64_t batches, const double *cells) {
  double *values[TWINS] = {pair_read(back, REFERENCE), pair_read(back, TESTED)};
  for (int64_t s = 0; s < batches; ++s) {
    for (int64_t a = 0; a < k && cells[s] == 0.0; ++a) {
      values[REFERENCE][k + a * (k + batches) + k + s] = 0.0;
      values[TESTED][k + a * (k + batches) + k + s] = 0.0;
    }
  }
  same_numbers("fold_grad back", back->n, values[TESTED], values[REFERENCE], TOLERANCE, 0.0);
  free(values[REFERENCE]);
  free(values[TESTED]);
}

static void check_fold_case(av_twin *twin, int64_t k, bool onehot, bool biased) {
  source from = {.item = 500};
  const int64_t genes = twin->dataset.n_genes;
  const int64_t batches = onehot ? twin->columns : 0;
  const int64_t width = k + batches;
  if (width * genes > 1000000) {
    return; /* the reference builds the whole covariance for every gene */
  }
  av_pair z = pair_normals(twin, AV_REAL, twin->n * k, &from, 0.5, 1);
  av_pair w = pair_normals(twin, AV_REAL, width * genes, &from, 0, 0.5);
  av_pair gamma = pair_normals(twin, AV_REAL, genes, &from, 1, 0.2);
  av_pair beta = pair_normals(twin, AV_REAL, genes, &from, 0, 1);
  av_pair running = pair_normals(twin, AV_REAL, 2 * genes, &from, 1, 0.1);
  av_pair bias = pair_normals(twin, AV_REAL, genes, &from, 0.5, 1);
  av_pair a = pair_zeros(twin, AV_REAL, width * genes);
  av_pair c = pair_zeros(twin, AV_REAL, genes);
  av_pair inv_sigma = pair_zeros(twin, AV_REAL, genes);
  av_pair stats = pair_normals(twin, AV_SUM, av_fold_stats_size(&twin->dataset.design, k, batches),
                               &from, 0, 1);
  av_pair p = pair_normals(twin, AV_GRAD, width * genes, &from, 0, 1);
  av_pair s = pair_normals(twin, AV_GRAD, genes, &from, 0, 1);
  av_pair dw = pair_zeros(twin, AV_GRAD, width * genes);
  av_pair dgamma = pair_zeros(twin, AV_GRAD, genes);
  av_pair dbeta = pair_zeros(twin, AV_GRAD, genes);
  av_pair back = pair_normals(twin, AV_SUM, k + k * width, &from, 0, 1); /* overwritten */
  av_pair dz = pair_normals(twin, AV_REAL, twin->n * k, &from, 0, 1);
  av_fold fold[TWINS];
  for (int training = 0; training < 2; ++training) {
    for (int t = 0; t < TWINS; ++t) {
      fold[t] = (av_fold){.design = &twin->dataset.design,
                          .n_genes = genes,
                          .n_in = k,
                          .n_onehot = batches,
                          .training = training != 0,
                          .n_cells = twin->n,
                          .w = w.at[t],
                          .bias = biased ? bias.at[t] : NULL,
                          .gamma = gamma.at[t],
                          .beta = beta.at[t],
                          .running = running.at[t],
                          .a = a.at[t],
                          .c = c.at[t],
                          .inv_sigma = inv_sigma.at[t]};
    }
    if (training != 0 && twin->n == 0) {
      break; /* no global minibatch is empty */
    }
    BOTH(twin, fold_sums(be, batch, k, batches, z.at[t], stats.at[t]));
    same("fold_sums", &stats, TOLERANCE);
    BOTH(twin, fold(be, &fold[t], stats.at[t]));
    same("fold a", &a, TOLERANCE);
    same("fold c", &c, TOLERANCE);
    same("fold inv_sigma", &inv_sigma, TOLERANCE);
    same("fold running", &running, TOLERANCE);
  }
  if (twin->n > 0) {
    /* a row of p without cells is zero, as a decoder would leave it */
    double *values = pair_read(&p, REFERENCE);
    double *counts = pair_read(&stats, REFERENCE);
    for (int64_t d = 0; d < batches; ++d) {
      for (int64_t g = 0; g < genes && counts[d] == 0.0; ++g) {
        values[(k + d) * genes + g] = 0.0;
      }
    }
    pair_set(&p, values);
    BOTH(twin, fold_grad(be, &fold[t], stats.at[t], p.at[t], s.at[t], dw.at[t], dgamma.at[t],
                         dbeta.at[t], back.at[t]));
    same("fold_grad dw", &dw, TOLERANCE);
    same("fold_grad dgamma", &dgamma, TOLERANCE);
    same("fold_grad dbeta", &dbeta, TOLERANCE);
    same_back(&back, k, batches, counts);
    BOTH(twin, fold_correct(be, batch, &fold[t], stats.at[t], back.at[t], z.at[t], dz.at[t]));
    same("fold_correct dz", &dz, TOLERANCE);
    free(values);
    free(counts);
  }
  av_pair *all[] = {&z, &w,  &gamma,  &beta,  &running, &a,  &c,     &inv_sigma, &p,
                    &s, &dw, &dgamma, &dbeta, &back,    &dz, &stats, &bias};
  for (size_t i = 0; i < sizeof all / sizeof *all; ++i) {
    pair_free(all[i]);
  }
}

static void check_fold(av_twin *twin) {
  check_fold_case(twin, 10, true, false);
  check_fold_case(twin, 3, false, true);
  check_fold_case(twin, 5, true, true);
}

static void fold(void **state) {
  (void)state;
  on_all_shapes(check_fold);
}

int main(int argc, char **argv) {
  if (MPI_Init(&argc, &argv) != MPI_SUCCESS) {
    return 1;
  }
  const struct CMUnitTest tests[] = {cmocka_unit_test(fold)};
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  MPI_Finalize();
  return failed;
}
