/* Every operation of the cpu backend but the decoders', against the reference backend on the same
 * numbers: max |difference| <= 1e-5 of the largest entry of each array. */
#include "backend/twin.h"

#include "backend/latent.h"
#include "base/memory.h"
#include "config/config.h"
#include "math/rng.h"

#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

static void check_memory(av_twin *twin) {
  source from = {.item = 11};
  av_pair values = pair_normals(twin, AV_REAL, 100, &from, 0, 1);
  double *read = pair_read(&values, TESTED);
  double *expected = pair_read(&values, REFERENCE);
  for (int i = 0; i < 100; ++i) {
    assert_true(read[i] == expected[i]);
  }
  BOTH(twin, zero(be, AV_REAL, av_backend_at(be, AV_REAL, values.at[t], 10), 50));
  free(read);
  read = pair_read(&values, TESTED);
  for (int i = 0; i < 100; ++i) {
    assert_true(read[i] == (i >= 10 && i < 60 ? 0.0 : expected[i]));
  }
  free(read);
  free(expected);
  pair_free(&values);
}

/* More rounds than backends have room for reads under way, of other lengths each. */
static void check_reads(av_twin *twin) {
  enum { LONGEST = 3000, ROUNDS = 9 };
  source from = {.item = 12};
  av_backend *be = &twin->be[TESTED];
  static const av_kind kinds[ROUNDS] = {AV_REAL, AV_SUM,  AV_REAL, AV_REAL, AV_SUM,
                                        AV_GRAD, AV_REAL, AV_SUM,  AV_REAL};
  int64_t n[ROUNDS];
  double *expected[ROUNDS];
  double *read = av_calloc(LONGEST, sizeof *read);
  assert_non_null(read);
  for (int round = 0; round < ROUNDS; ++round) {
    n[round] = 1 + (round * 1234567) % LONGEST;
    av_pair array = pair_normals(twin, kinds[round], n[round], &from, 0, 1);
    expected[round] = pair_read(&array, TESTED);
    require(be->ops->read_begin(be, kinds[round], array.at[TESTED], n[round]));
    be->ops->zero(be, kinds[round], array.at[TESTED], n[round]); /* too late to be seen */
    pair_free(&array);
    const int oldest = round - (AV_READS - 1);
    if (oldest >= 0) {
      require(be->ops->read_end(be, kinds[oldest], n[oldest], read));
      assert_memory_equal(read, expected[oldest], (size_t)n[oldest] * sizeof *read);
    }
  }
  for (int left = ROUNDS - AV_READS + 1; left < ROUNDS; ++left) {
    require(be->ops->read_end(be, kinds[left], n[left], read));
    assert_memory_equal(read, expected[left], (size_t)n[left] * sizeof *read);
  }
  assert_int_equal(be->ops->read_end(be, AV_REAL, 1, read), AV_BUG);
  av_error_clear();
  for (int round = 0; round < ROUNDS; ++round) {
    free(expected[round]);
  }
  free(read);
}

/* One more than a block of threads has, and none. */
static void check_add(av_twin *twin) {
  source from = {.item = 13};
  av_pair sums = pair_normals(twin, AV_SUM, 257, &from, 0, 1);
  av_pair more = pair_normals(twin, AV_SUM, 257, &from, 0, 1e-3);
  BOTH(twin, add(be, 257, sums.at[t], more.at[t]));
  BOTH(twin, add(be, 0, sums.at[t], more.at[t]));
  same("sums", &sums, 0);
  pair_free(&sums);
  pair_free(&more);
}

static void check_sparse_size(av_twin *twin, int64_t n, bool log1p_input, bool covariates) {
  const av_design *design = &twin->dataset.design;
  const int64_t extra = covariates ? design->n_continuous + design->n_onehot : 0;
  const int64_t inputs = twin->dataset.n_genes + extra;
  source from = {.item = 100};
  av_pair weight = pair_normals(twin, AV_REAL, inputs * n, &from, 0, 0.1);
  av_pair bias = pair_normals(twin, AV_REAL, n, &from, 0, 1);
  av_pair y = pair_zeros(twin, AV_REAL, twin->n * n);
  av_pair dy = pair_normals(twin, AV_REAL, twin->n * n, &from, 0, 1);
  av_pair dw = pair_zeros(twin, AV_GRAD, inputs * n);
  av_pair dbias = pair_zeros(twin, AV_GRAD, n);
  BOTH(twin,
       sparse_linear(be, batch, log1p_input, covariates, n, weight.at[t], bias.at[t], y.at[t]));
  same("sparse_linear y", &y, TOLERANCE);
  BOTH(twin, zero(be, AV_GRAD, dw.at[t], dw.n));
  BOTH(twin, zero(be, AV_GRAD, dbias.at[t], dbias.n));
  BOTH(twin,
       sparse_linear_grad(be, batch, log1p_input, covariates, n, dy.at[t], dw.at[t], dbias.at[t]));
  same("sparse_linear_grad dw", &dw, TOLERANCE);
  same("sparse_linear_grad dbias", &dbias, TOLERANCE);
  same_part("sparse_linear_grad covariates", &dw, inputs - extra, n, TOLERANCE);
  av_pair *all[] = {&weight, &bias, &y, &dy, &dw, &dbias};
  for (size_t i = 0; i < sizeof all / sizeof *all; ++i) {
    pair_free(all[i]);
  }
}

static void check_sparse(av_twin *twin) {
  const int64_t widths[] = {1, 10, 37, 128, 256, 12};
  for (size_t w = 0; w < sizeof widths / sizeof *widths; ++w) {
    if (twin->dataset.n_genes > 10000 && widths[w] > 40) {
      continue;
    }
    check_sparse_size(twin, widths[w], w % 2 == 0, false);
    check_sparse_size(twin, widths[w], w % 2 != 0, true);
  }
}

static void check_linear_size(av_twin *twin, int64_t m, int64_t n, bool onehot, bool bias_wanted) {
  source from = {.item = 200};
  const int64_t batches = onehot ? twin->columns : 0;
  const int64_t x_stride = m + 3;
  const int64_t dx_stride = m + 1;
  av_pair x = pair_normals(twin, AV_REAL, twin->n * x_stride, &from, 0.2, 1);
  av_pair weight = pair_normals(twin, AV_REAL, (m + batches) * n, &from, 0, 0.3);
  av_pair bias = pair_normals(twin, AV_REAL, n, &from, 0, 1);
  av_pair y = pair_zeros(twin, AV_REAL, twin->n * n);
  av_pair dy = pair_normals(twin, AV_REAL, twin->n * n, &from, 0, 1);
  av_pair dx = pair_normals(twin, AV_REAL, twin->n * dx_stride, &from, 0, 1);
  av_pair dw = pair_zeros(twin, AV_GRAD, (m + batches) * n);
  av_pair dbias = pair_zeros(twin, AV_GRAD, n);
  BOTH(twin, linear(be, batch, m, batches, n, x.at[t], x_stride, weight.at[t],
                    bias_wanted ? bias.at[t] : NULL, y.at[t]));
  same("linear y", &y, TOLERANCE);
  BOTH(twin, linear_grad(be, batch, m, batches, n, x.at[t], x_stride, weight.at[t], dy.at[t],
                         dx.at[t], dx_stride, dw.at[t], bias_wanted ? dbias.at[t] : NULL));
  same("linear_grad dx", &dx, TOLERANCE);
  same("linear_grad dw", &dw, TOLERANCE);
  same("linear_grad dbias", &dbias, TOLERANCE);
  BOTH(twin, zero(be, AV_GRAD, dw.at[t], dw.n));
  BOTH(twin, linear_grad(be, batch, m, batches, n, x.at[t], x_stride, weight.at[t], dy.at[t], NULL,
                         0, dw.at[t], NULL));
  same("linear_grad dw without dx", &dw, TOLERANCE);
  pair_free(&x);
  pair_free(&weight);
  pair_free(&bias);
  pair_free(&y);
  pair_free(&dy);
  pair_free(&dx);
  pair_free(&dw);
  pair_free(&dbias);
}

static void check_linear(av_twin *twin) {
  check_linear_size(twin, 1, 1, false, true);
  check_linear_size(twin, 10, 128, true, true);
  check_linear_size(twin, 128, 128, true, false);
  check_linear_size(twin, 128, 20, false, true);
  check_linear_size(twin, 33, 47, true, true);
}

/* Arrays of a norm_act and its way back. */
typedef struct norm_arrays {
  av_pair x, gamma, beta, running, y, dy, dx, moments, back, dgamma, dbeta;
} norm_arrays;

static void norm_forward(av_twin *twin, const av_norm *norm, norm_arrays *a, bool affine) {
  BOTH(twin, norm_act(be, batch, norm, a->x.at[t], affine ? a->moments.at[t] : NULL,
                      affine ? a->gamma.at[t] : NULL, affine ? a->beta.at[t] : NULL,
                      affine ? a->running.at[t] : NULL, a->y.at[t]));
}

/* From dy to dx as the model does it. */
static void norm_back(av_twin *twin, const av_norm *norm, norm_arrays *a) {
  av_norm rest = *norm;
  if (norm->layer_norm) {
    BOTH(twin,
         layer_norm_grad(be, batch, norm, a->x.at[t], norm->batch_norm ? a->moments.at[t] : NULL,
                         norm->batch_norm ? a->gamma.at[t] : NULL,
                         norm->batch_norm ? a->beta.at[t] : NULL, a->y.at[t], a->dy.at[t]));
    same("layer_norm_grad d", &a->dy, TOLERANCE);
    rest.relu = false;
    rest.dropout = 0;
  }
  if (norm->batch_norm) {
    BOTH(twin,
         norm_act_sums(be, batch, &rest, a->x.at[t], a->moments.at[t], a->gamma.at[t], a->y.at[t],
                       a->dy.at[t], a->back.at[t], a->dgamma.at[t], a->dbeta.at[t]));
    /* LayerNorm leaves sums over cells that may cancel: beside the cells' terms of about 1 */
    const double size = norm->layer_norm ? (double)twin->n : 0.0;
    same_beside("norm_act_sums back", &a->back, TOLERANCE, size);
    same_beside("norm_act_sums dgamma", &a->dgamma, TOLERANCE, size);
    same_beside("norm_act_sums dbeta", &a->dbeta, TOLERANCE, size);
  }
  /* of one or two cells nothing but rounding is left of the terms, gamma dy / sigma, of about 30 */
  const double terms = twin->n <= 2 && norm->batch_norm ? 30.0 : 0.0;
  for (int in_place = 0; in_place < 2; ++in_place) {
    BOTH(twin,
         norm_act_grad(be, batch, &rest, a->x.at[t], norm->batch_norm ? a->moments.at[t] : NULL,
                       norm->batch_norm ? a->gamma.at[t] : NULL, a->y.at[t], a->dy.at[t],
                       norm->batch_norm ? a->back.at[t] : NULL,
                       in_place != 0 ? a->dy.at[t] : a->dx.at[t]));
    same_beside(in_place != 0 ? "norm_act_grad in place" : "norm_act_grad dx",
                in_place != 0 ? &a->dy : &a->dx, TOLERANCE, terms);
  }
}

static void check_norm_case(av_twin *twin, av_norm norm) {
  source from = {.item = 300};
  const int64_t n = norm.n;
  norm_arrays a = {
      .x = pair_normals(twin, AV_REAL, twin->n * n, &from, 2, 3),
      .gamma = pair_normals(twin, AV_REAL, n, &from, 1, 0.3),
      .beta = pair_normals(twin, AV_REAL, n, &from, 0, 0.5),
      .running = pair_normals(twin, AV_REAL, 2 * n, &from, 1, 0.1),
      .y = pair_zeros(twin, AV_REAL, twin->n * n),
      .dy = pair_normals(twin, AV_REAL, twin->n * n, &from, 0, 1),
      .dx = pair_zeros(twin, AV_REAL, twin->n * n),
      .moments = pair_normals(twin, AV_SUM, 2 * n, &from, 0, 1), /* to be overwritten */
      .back = pair_normals(twin, AV_SUM, 2 * n, &from, 0, 1),
      .dgamma = pair_zeros(twin, AV_GRAD, n),
      .dbeta = pair_zeros(twin, AV_GRAD, n)};
  norm.layer = 5;
  norm.draw = (av_draw){.seed = 123, .epoch = 4, .purpose = AV_DRAW_LATENT};
  norm.n_cells = twin->n > 0 ? twin->n : 3;
  norm_forward(twin, &norm, &a, norm.batch_norm);
  same("norm_act y, running", &a.y, TOLERANCE);
  if (norm.batch_norm) {
    BOTH(twin, moments(be, batch, n, a.x.at[t], a.moments.at[t]));
    same("moments", &a.moments, TOLERANCE);
  }
  norm.training = true;
  norm_forward(twin, &norm, &a, norm.batch_norm);
  same("norm_act y", &a.y, TOLERANCE);
  same("norm_act running", &a.running, TOLERANCE);
  norm_back(twin, &norm, &a);
  av_pair *all[] = {&a.x,  &a.gamma,   &a.beta, &a.running, &a.y,    &a.dy,
                    &a.dx, &a.moments, &a.back, &a.dgamma,  &a.dbeta};
  for (size_t i = 0; i < sizeof all / sizeof *all; ++i) {
    pair_free(all[i]);
  }
}

static void check_norm(av_twin *twin) {
  const av_norm cases[] = {
      {.n = 1, .batch_norm = true, .relu = true},
      {.n = 37, .batch_norm = true},
      {.n = 128, .batch_norm = true, .relu = true, .dropout = 0.1},
      {.n = 300, .batch_norm = true, .relu = true, .dropout = 0.6},
      {.n = 300, .relu = true, .dropout = 0.4},
      {.n = 37},
      {.n = 129, .layer_norm = true, .blocks = 1, .relu = true},
      {.n = 70, .layer_norm = true, .blocks = 2, .relu = true, .dropout = 0.3},
      {.n = 256, .batch_norm = true, .layer_norm = true, .blocks = 2, .relu = true, .dropout = 0.2},
      {.n = 41, .batch_norm = true, .layer_norm = true, .blocks = 1}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; ++i) {
    check_norm_case(twin, cases[i]);
  }
}

/* Latent coordinates on the simplex add up to 1; the covariates follow them. */
static void check_z(av_twin *twin, const av_latent *latent, const av_pair *z) {
  const av_design *design = &twin->dataset.design;
  const int64_t k = latent->n_latent;
  double *values = pair_read(z, TESTED);
  for (int64_t i = 0; i < twin->n; ++i) {
    const int64_t row = twin_row(twin, i);
    double sum = 0.0;
    for (int64_t j = 0; j < k; ++j) {
      sum += values[i * latent->stride + j];
    }
    assert_true(!latent->simplex || fabs(sum - 1.0) < 1e-5);
    for (int64_t c = 0; c < design->n_continuous; ++c) {
      assert_true(values[i * latent->stride + k + c] ==
                  (double)(float)design->continuous[row * design->n_continuous + c]);
    }
  }
  free(values);
}

static void check_latent_case(av_twin *twin, int64_t k, bool latent_library, bool sample,
                              bool simplex) {
  source from = {.item = 400};
  const int64_t batches = twin->dataset.batch.levels.n;
  const int64_t stride = k + twin->dataset.design.n_continuous;
  double *priors = av_calloc((size_t)(2 * batches), sizeof *priors);
  assert_non_null(priors);
  for (int64_t s = 0; s < batches; ++s) {
    priors[2 * s] = 7.0 + source_normal(&from);
    priors[2 * s + 1] = source_uniform(&from, 0.05, 1);
  }
  av_pair prior = pair_values(twin, AV_SUM, 2 * batches, priors);
  av_pair z_head = pair_normals(twin, AV_REAL, twin->n * 2 * k, &from, -0.5, 1);
  av_pair l_head = pair_normals(twin, AV_REAL, twin->n * 2, &from, 1, 1);
  av_pair z = pair_zeros(twin, AV_REAL, twin->n * stride);
  av_pair l = pair_zeros(twin, AV_REAL, twin->n);
  av_pair losses = pair_zeros(twin, AV_SUM, AV_LOSSES);
  av_pair dz = pair_normals(twin, AV_REAL, twin->n * stride, &from, 0, 1);
  av_pair dl = pair_normals(twin, AV_REAL, twin->n, &from, 0, 1);
  av_pair dz_head = pair_zeros(twin, AV_REAL, twin->n * 2 * k);
  av_pair dl_head = pair_zeros(twin, AV_REAL, twin->n * 2);
  const av_latent latent = {.n_latent = k,
                            .stride = stride,
                            .simplex = simplex,
                            .latent_library = latent_library,
                            .sample = sample,
                            .kl_weight = 0.3,
                            .draw = {.seed = 9, .epoch = 2, .purpose = AV_DRAW_POSTERIOR}};
  BOTH(twin, latent_draw(be, batch, &latent, z_head.at[t], latent_library ? l_head.at[t] : NULL,
                         prior.at[t], z.at[t], l.at[t], losses.at[t]));
  same("latent_draw z", &z, TOLERANCE);
  check_z(twin, &latent, &z);
  same("latent_draw l", &l, TOLERANCE);
  /* order-free losses are rounded to 2^-16, 7.6e-6 at most off for each of two terms a cell */
  same_beside("latent_draw losses", &losses, TOLERANCE,
              twin->be[TESTED].strict ? 0.8 * (double)twin->n : 0.0);
  BOTH(twin, latent_grad(be, batch, &latent, z_head.at[t], latent_library ? l_head.at[t] : NULL,
                         prior.at[t], z.at[t], dz.at[t], dl.at[t], dz_head.at[t], dl_head.at[t]));
  same("latent_grad dz_head", &dz_head, TOLERANCE);
  same("latent_grad dl_head", &dl_head, TOLERANCE);
  av_pair *all[] = {&prior, &z_head, &l_head, &z, &l, &losses, &dz, &dl, &dz_head, &dl_head};
  for (size_t i = 0; i < sizeof all / sizeof *all; ++i) {
    pair_free(all[i]);
  }
  free(priors);
}

static void check_latent(av_twin *twin) {
  check_latent_case(twin, 10, true, true, false);
  check_latent_case(twin, 1, false, true, false);
  check_latent_case(twin, 7, true, false, false);
  check_latent_case(twin, 10, false, true, true);
  check_latent_case(twin, 1, true, true, true);
  check_latent_case(twin, 6, true, false, true);
}

/* The draws are the same: their means differ by rounding alone. */
static void check_simplex_case(av_twin *twin, int64_t k, int64_t n_samples) {
  source from = {.item = 500};
  av_pair z_head = pair_normals(twin, AV_REAL, twin->n * 2 * k, &from, -0.5, 1);
  av_pair codes = pair_zeros(twin, AV_SUM, twin->n * k);
  BOTH(twin, simplex_means(be, batch, k, 9, n_samples, z_head.at[t], codes.at[t]));
  same("simplex_means", &codes, 1e-13);
  double *values = pair_read(&codes, TESTED);
  for (int64_t i = 0; i < twin->n; ++i) {
    double sum = 0.0;
    for (int64_t j = 0; j < k; ++j) {
      sum += values[i * k + j];
    }
    assert_true(fabs(sum - 1.0) < 1e-12);
  }
  free(values);
  pair_free(&z_head);
  pair_free(&codes);
}

static void check_simplex(av_twin *twin) {
  check_simplex_case(twin, 10, 7);
  check_simplex_case(twin, 3, 2);
  check_simplex_case(twin, 1, 3);
  check_simplex_case(twin, 4, 1);
  check_simplex_case(twin, 131, 5);
}

static void check_adam_case(av_twin *twin, int64_t n, bool decoupled, double clip) {
  source from = {.item = 600};
  av_pair p = pair_normals(twin, AV_REAL, n, &from, 0, 1);
  av_pair g = pair_normals(twin, AV_GRAD, n, &from, 0, 100);
  av_pair m = pair_normals(twin, AV_REAL, n, &from, 0, 0.1);
  av_pair v = pair_zeros(twin, AV_REAL, n);
  av_adam adam = {.lr = 1e-3,
                  .beta1 = 0.9,
                  .beta2 = 0.999,
                  .eps = 0.01,
                  .weight_decay = 1e-2,
                  .decoupled = decoupled,
                  .clip = clip,
                  .scale = 1.0 / 128};
  for (adam.step = 1; adam.step <= 3; ++adam.step) {
    BOTH(twin, adam(be, &adam, n, p.at[t], g.at[t], m.at[t], v.at[t]));
    same("adam parameters", &p, 1e-6);
    same("adam m", &m, 1e-6);
    same("adam v", &v, 1e-6);
    same("adam gradients", &g, 0.0);
    double *values = pair_read(&g, REFERENCE);
    for (int64_t i = 0; i < n; ++i) {
      assert_true(values[i] == 0.0);
      values[i] = (double)(float)(50 * source_normal(&from));
    }
    pair_set(&g, values);
    free(values);
  }
  pair_free(&p);
  pair_free(&g);
  pair_free(&m);
  pair_free(&v);
}

/* A decay of a fraction of what tells two floats near 1 apart, 6e-8, is not lost where the
 * parameter moves by more than that: what is rounded, here and there, comes to 0 on average, within
 * 3e-10. */
static void check_small_decay(av_twin *twin) {
  enum { N = 4099 };
  source from = {.item = 650};
  const av_adam adam = {.lr = 1e-4,
                        .beta1 = 0.9,
                        .beta2 = 0.999,
                        .eps = 0.01,
                        .weight_decay = 2e-4,
                        .decoupled = true,
                        .scale = 1,
                        .step = 1};
  double *start = av_malloc(N, sizeof *start);
  assert_non_null(start);
  for (int64_t i = 0; i < N; ++i) {
    start[i] = (double)(float)source_uniform(&from, 0.5, 1);
  }
  av_pair p = pair_values(twin, AV_REAL, N, start);
  av_pair g = pair_normals(twin, AV_GRAD, N, &from, 0, 1);
  av_pair m = pair_zeros(twin, AV_REAL, N);
  av_pair v = pair_zeros(twin, AV_REAL, N);
  BOTH(twin, adam(be, &adam, N, p.at[t], g.at[t], m.at[t], v.at[t]));
  double *expected = pair_read(&p, REFERENCE);
  double *tested = pair_read(&p, TESTED);
  double more = 0;
  for (int64_t i = 0; i < N; ++i) {
    more += (tested[i] - expected[i]) / N;
  }
  if (!(fabs(more) < 2e-9)) { /* without the decay 1.5e-8 */
    fail_msg("parameters are %g too large on average", more);
  }
  free(start);
  free(expected);
  free(tested);
  av_pair *all[] = {&p, &g, &m, &v};
  for (size_t i = 0; i < sizeof all / sizeof *all; ++i) {
    pair_free(all[i]);
  }
}

/* |g| is about 100 / 128 sqrt(n): 25 for 1,003. */
static void check_adam(av_twin *twin) {
  check_adam_case(twin, 1003, false, 0);
  check_adam_case(twin, 1003, true, 0);
  check_adam_case(twin, 1003, false, 3);
  check_adam_case(twin, 1003, true, 1000);
  check_adam_case(twin, 4097, true, 0.5);
  check_adam_case(twin, 1, false, 1e-3);
  check_small_decay(twin);
}

/* A NaN reaches every result that depends on it, in both modes and at once. */
static void check_nan(av_twin *twin) {
  if (twin->n < 2) {
    return;
  }
  const int64_t n = 48;
  source from = {.item = 700};
  av_pair x = pair_normals(twin, AV_REAL, twin->n * n, &from, 0, 1);
  av_pair moments = pair_zeros(twin, AV_SUM, 2 * n);
  av_pair w = pair_normals(twin, AV_REAL, n * n, &from, 0, 1);
  av_pair dw = pair_zeros(twin, AV_GRAD, n * n);
  double *values = pair_read(&x, REFERENCE);
  values[n + 5] = NAN;
  pair_set(&x, values);
  av_backend *be = &twin->be[TESTED];
  be->ops->moments(be, twin->batch[TESTED], n, x.at[TESTED], moments.at[TESTED]);
  be->ops->linear_grad(be, twin->batch[TESTED], n, 0, n, x.at[TESTED], n, w.at[TESTED],
                       x.at[TESTED], NULL, 0, dw.at[TESTED], NULL);
  free(values);
  values = pair_read(&moments, TESTED);
  for (int64_t j = 0; j < n; ++j) {
    assert_int_equal(isnan(values[j]) != 0, j == 5);
    assert_int_equal(isnan(values[n + j]) != 0, j == 5);
  }
  free(values);
  values = pair_read(&dw, TESTED);
  for (int64_t j = 0; j < n; ++j) {
    assert_true(isnan(values[5 * n + j]) && isnan(values[j * n + 5]));
  }
  free(values);
  pair_free(&x);
  pair_free(&moments);
  pair_free(&w);
  pair_free(&dw);
}

/* Numbers that are not finite stay in the codes of their cell, all of them. */
static void check_nan_codes(av_twin *twin) {
  const int64_t k = 10;
  source from = {.item = 700};
  static const double wrong[] = {NAN, INFINITY, -INFINITY};
  av_pair z_head = pair_normals(twin, AV_REAL, twin->n * 2 * k, &from, 0, 1);
  av_pair codes = pair_zeros(twin, AV_SUM, twin->n * k);
  double *heads = pair_read(&z_head, REFERENCE);
  for (int64_t i = 0; i < twin->n && i < 3; ++i) {
    heads[i * 2 * k + 3] = wrong[i];
  }
  pair_set(&z_head, heads);
  BOTH(twin, simplex_means(be, batch, k, 9, 4, z_head.at[t], codes.at[t]));
  double *reference = pair_read(&codes, REFERENCE);
  double *tested = pair_read(&codes, TESTED);
  for (int64_t i = 0; i < twin->n * k; ++i) {
    assert_int_equal(isnan(reference[i]) != 0, i / k < 2);
    assert_int_equal(isnan(tested[i]) != 0, i / k < 2);
    assert_true(i / k != 2 || i % k != 3 || tested[i] == 0.0);
  }
  free(heads);
  free(reference);
  free(tested);
  pair_free(&z_head);
  pair_free(&codes);
}

static void memory(void **state) {
  (void)state;
  on_all_shapes(check_memory);
}
static void reads(void **state) {
  (void)state;
  on_all_shapes(check_reads);
}
static void add(void **state) {
  (void)state;
  on_all_shapes(check_add);
}
static void sparse(void **state) {
  (void)state;
  on_all_shapes(check_sparse);
}
static void linear(void **state) {
  (void)state;
  on_all_shapes(check_linear);
}
static void norm(void **state) {
  (void)state;
  on_all_shapes(check_norm);
}
static void latent(void **state) {
  (void)state;
  on_all_shapes(check_latent);
}
static void simplex(void **state) {
  (void)state;
  on_all_shapes(check_simplex);
}
static void adam(void **state) {
  (void)state;
  on_all_shapes(check_adam);
}
static void nan_stays(void **state) {
  (void)state;
  on_all_shapes(check_nan);
  on_all_shapes(check_nan_codes);
}

int main(int argc, char **argv) {
  if (MPI_Init(&argc, &argv) != MPI_SUCCESS) {
    return 1;
  }
  const struct CMUnitTest tests[] = {cmocka_unit_test(memory), cmocka_unit_test(reads),
                                     cmocka_unit_test(add),    cmocka_unit_test(sparse),
                                     cmocka_unit_test(linear), cmocka_unit_test(norm),
                                     cmocka_unit_test(latent), cmocka_unit_test(simplex),
                                     cmocka_unit_test(adam),   cmocka_unit_test(nan_stays)};
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  MPI_Finalize();
  return failed;
}
