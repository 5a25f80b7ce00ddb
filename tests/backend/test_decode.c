/* Decoder and likelihood of the cpu backend against the reference: narrow and wide inputs, every
 * likelihood and dispersion, and numbers at the ends of their range against long double. */
#include "backend/twin.h"

#include "backend/latent.h"
#include "base/memory.h"
#include "config/config.h"

#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TOLERANCE 1e-5

typedef struct av_test_kind {
  int likelihood;
  int64_t n_in;
  bool onehot, by_batch; /* one-hot input; dispersion gene-batch */
} av_test_kind;

/* Everything a decoder call takes and gives, on both backends. */
typedef struct arrays {
  av_pair x, l, w[2], c[2], px_r, dw[2], dc[2], dpx_r, dx, dl, losses;
} arrays;

static arrays arrays_make(av_twin *twin, const av_test_kind *kind, source *from) {
  const int64_t genes = twin->dataset.n_genes;
  const int64_t batches = twin->dataset.batch.levels.n;
  const int64_t width = kind->n_in + (kind->onehot ? batches : 0);
  const int64_t rows = kind->by_batch ? batches : 1;
  arrays made = {.x = pair_normals(twin, AV_REAL, twin->n * kind->n_in, from, 0, 1),
                 .l = pair_normals(twin, AV_REAL, twin->n, from, 7, 1),
                 .px_r = pair_normals(twin, AV_REAL, rows * genes, from, 0, 1.5),
                 .dpx_r = pair_zeros(twin, AV_GRAD, rows * genes),
                 .dx = pair_normals(twin, AV_REAL, twin->n * kind->n_in, from, 0, 1),
                 .dl = pair_normals(twin, AV_REAL, twin->n, from, 0, 1),
                 .losses = pair_zeros(twin, AV_SUM, AV_LOSSES)};
  for (int h = 0; h < 2; ++h) {
    made.w[h] = pair_normals(twin, AV_REAL, width * genes, from, 0, 1 / sqrt((double)kind->n_in));
    made.c[h] = pair_normals(twin, AV_REAL, genes, from, h == 0 ? 0 : -1, 2);
    made.dw[h] = pair_zeros(twin, AV_GRAD, width * genes);
    made.dc[h] = pair_zeros(twin, AV_GRAD, genes);
  }
  return made;
}

static void arrays_free(arrays *arrays_) {
  av_pair *all[] = {&arrays_->x,     &arrays_->l,     &arrays_->w[0],  &arrays_->w[1],
                    &arrays_->c[0],  &arrays_->c[1],  &arrays_->px_r,  &arrays_->dw[0],
                    &arrays_->dw[1], &arrays_->dc[0], &arrays_->dc[1], &arrays_->dpx_r,
                    &arrays_->dx,    &arrays_->dl,    &arrays_->losses};
  for (size_t i = 0; i < sizeof all / sizeof *all; ++i) {
    pair_free(all[i]);
  }
}

static av_head head_of(const arrays *a, int h, int t, bool gradients) {
  return (av_head){.w = a->w[h].at[t],
                   .c = a->c[h].at[t],
                   .dw = gradients ? a->dw[h].at[t] : NULL,
                   .dc = gradients ? a->dc[h].at[t] : NULL};
}

static av_decode decode_of(const av_twin *twin, const av_test_kind *kind, const arrays *a, int t,
                           bool gradients) {
  const int64_t batches = twin->dataset.batch.levels.n;
  const bool poisson = kind->likelihood == AV_LIKELIHOOD_POISSON;
  return (av_decode){.likelihood = kind->likelihood,
                     .n_genes = twin->dataset.n_genes,
                     .n_in = kind->n_in,
                     .n_onehot = kind->onehot ? batches : 0,
                     .n_dispersion = kind->by_batch ? batches : 1,
                     .scale = head_of(a, 0, t, gradients),
                     .dropout = kind->likelihood == AV_LIKELIHOOD_ZINB ? head_of(a, 1, t, gradients)
                                                                       : (av_head){0},
                     .px_r = poisson ? NULL : a->px_r.at[t],
                     .dpx_r = gradients && !poisson ? a->dpx_r.at[t] : NULL};
}

static void zero_gradients(av_twin *twin, arrays *a) {
  av_pair *all[] = {&a->dw[0], &a->dw[1], &a->dc[0], &a->dc[1], &a->dpx_r};
  for (size_t i = 0; i < sizeof all / sizeof *all; ++i) {
    BOTH(twin, zero(be, AV_GRAD, all[i]->at[t], all[i]->n));
  }
  BOTH(twin, zero(be, AV_SUM, a->losses.at[t], AV_LOSSES));
}

static void check_gradients(av_twin *twin, const av_test_kind *kind, arrays *a, double size) {
  zero_gradients(twin, a);
  av_decode decode[TWINS];
  for (int t = 0; t < TWINS; ++t) {
    decode[t] = decode_of(twin, kind, a, t, true);
  }
  BOTH(twin, decode_nll(be, batch, &decode[t], a->x.at[t], a->l.at[t], a->losses.at[t], a->dx.at[t],
                        a->dl.at[t]));
  same_beside("losses", &a->losses, TOLERANCE, twin->be[CPU].strict ? (double)twin->n : 0.0);
  same_beside("dx", &a->dx, TOLERANCE, size);
  same_beside("dl", &a->dl, TOLERANCE, size);
  same_beside("dw", &a->dw[0], TOLERANCE, size);
  same_beside("dc", &a->dc[0], TOLERANCE, size);
  same_beside("dropout dw", &a->dw[1], TOLERANCE, size);
  same_beside("dropout dc", &a->dc[1], TOLERANCE, size);
  same_beside("dpx_r", &a->dpx_r, TOLERANCE, size);
}

/* The same numbers without gradients, by cell, and rho and mu. */
static void check_values(av_twin *twin, const av_test_kind *kind, arrays *a) {
  const size_t cells = (size_t)twin->n;
  const size_t genes = (size_t)twin->dataset.n_genes;
  double *nll = av_calloc(cells, TWINS * sizeof *nll);
  float *out = av_calloc(cells * genes, 2 * TWINS * sizeof *out);
  double *numbers = av_calloc(cells * genes, TWINS * sizeof *numbers);
  assert_true(nll && out && numbers);
  double *before = pair_read(&a->losses, CPU);
  zero_gradients(twin, a);
  av_decode decode[TWINS];
  for (int t = 0; t < TWINS; ++t) {
    decode[t] = decode_of(twin, kind, a, t, false);
    av_backend *be = &twin->be[t];
    float *rho = out + (size_t)(2 * t) * cells * genes;
    assert_int_equal(be->ops->decode_cells(be, twin->batch[t], &decode[t], a->x.at[t], a->l.at[t],
                                           nll + (size_t)t * cells),
                     AV_OK);
    assert_int_equal(be->ops->decode_output(be, twin->batch[t], &decode[t], a->x.at[t], a->l.at[t],
                                            rho, rho + cells * genes),
                     AV_OK);
    assert_int_equal(
        be->ops->decode_output(be, twin->batch[t], &decode[t], a->x.at[t], a->l.at[t], NULL, NULL),
        AV_OK);
  }
  same_numbers("nll", twin->n, nll + cells, nll, TOLERANCE, 0.0);
  for (int what = 0; what < 2; ++what) {
    for (int t = 0; t < TWINS; ++t) {
      for (size_t i = 0; i < cells * genes; ++i) {
        numbers[(size_t)t * cells * genes + i] =
            (double)out[((size_t)(2 * t + what)) * cells * genes + i];
      }
    }
    same_numbers(what == 0 ? "rho" : "mu", (int64_t)(cells * genes), numbers + cells * genes,
                 numbers, TOLERANCE, 0.0);
  }
  BOTH(twin,
       decode_nll(be, batch, &decode[t], a->x.at[t], a->l.at[t], a->losses.at[t], NULL, NULL));
  double *after = pair_read(&a->losses, CPU);
  assert_true(before[AV_LOSS_NLL] == after[AV_LOSS_NLL]);
  free(before);
  free(after);
  free(nll);
  free(out);
  free(numbers);
}

static const twin_shape shapes[] = {
    {.cells = 40, .genes = 1, .batches = 1, .rows = 5, .filled = 0.7, .threads = 1},
    {.cells = 40, .genes = 33, .batches = 3, .rows = 0, .filled = 9, .threads = 2},
    {.cells = 40, .genes = 33, .batches = 3, .rows = 1, .filled = 9, .threads = 2},
    {.cells = 50, .genes = 257, .batches = 2, .rows = 2, .filled = 30, .threads = 2},
    {.cells = 200, .genes = 500, .batches = 90, .rows = 130, .filled = 40, .threads = 2},
    {.cells = 60,
     .genes = 300,
     .batches = 4,
     .rows = 37,
     .filled = 60,
     .threads = 3,
     .fractions = true},
    {.cells = 30, .genes = 66000, .batches = 2, .rows = 7, .filled = 200, .threads = 2}};

static const av_test_kind kinds[] = {
    {AV_LIKELIHOOD_NB, 10, true, false},       {AV_LIKELIHOOD_NB, 128, false, true},
    {AV_LIKELIHOOD_NB, 1, false, false},       {AV_LIKELIHOOD_ZINB, 10, true, true},
    {AV_LIKELIHOOD_ZINB, 70, true, false},     {AV_LIKELIHOOD_POISSON, 12, true, false},
    {AV_LIKELIHOOD_POISSON, 128, false, false}};

static void against_reference(void **state) {
  (void)state;
  for (size_t s = 0; s < sizeof shapes / sizeof *shapes; ++s) {
    for (int strict = 0; strict < 2; ++strict) {
      twin_shape shape = shapes[s];
      shape.strict = strict != 0;
      av_twin twin;
      twin_open(&twin, &shape);
      for (size_t k = 0; k < sizeof kinds / sizeof *kinds; ++k) {
        if (shape.genes > 10000 && (kinds[k].n_in > 12 || !kinds[k].onehot)) {
          continue;
        }
        source from = {.item = 1000};
        arrays a = arrays_make(&twin, &kinds[k], &from);
        for (int set = 0; use_instructions(&twin.be[CPU], set); ++set) {
          /* one gene: rho = 1 and the gradient on its logit is 0 but for rounding */
          check_gradients(&twin, &kinds[k], &a, shape.genes == 1 ? 300.0 : 0.0);
          check_values(&twin, &kinds[k], &a);
        }
        arrays_free(&a);
      }
      twin_close(&twin);
    }
  }
}

/* -log NB of one gene in long double, from log mu and log theta, with the definition's 1e-8. */
static long double nb_truth(long double x, long double log_mu, long double log_theta) {
  const long double eps = 1e-8L;
  const long double theta = expl(log_theta);
  const long double mu = expl(log_mu);
  const long double rise = log1pl(mu / (theta + eps)); /* log t - log(theta + e) */
  long double loss = theta * rise;
  if (x > 0) {
    loss += x * (logl(theta + mu + eps) - logl(mu + eps)) + lgammal(x + 1);
    long double gammas = 0;
    if (x < 2000) {
      for (int k = 0; k < (int)x; ++k) {
        gammas += k == 0 ? log_theta : logl(theta + k);
      }
    } else if (theta < 1e6L) {
      gammas = lgammal(x + theta) - lgammal(theta);
    } else { /* Stirling, leading terms: theta is huge */
      gammas = (theta - 0.5L) * log1pl(x / theta) + x * logl(theta + x) - x;
    }
    loss -= gammas;
  }
  return loss;
}

static long double softplus_truth(long double p) {
  return p > 0 ? p + log1pl(expl(-p)) : log1pl(expl(p));
}

static long double zinb_truth(long double x, long double log_mu, long double log_theta,
                              long double p) {
  const long double nb = nb_truth(x, log_mu, log_theta);
  return x > 0 ? nb + softplus_truth(p) : softplus_truth(-p) - softplus_truth(-p - nb);
}

/* Two genes with a count in the first, one cell: loss and finite gradients for numbers at the ends.
 */
typedef struct extreme {
  double count, l, logit, px_r, p;
} extreme;

static void check_extreme(int likelihood, const extreme *e) {
  int32_t gene[1] = {0};
  double value[1] = {e->count};
  av_counts_builder *builder = NULL;
  av_dataset dataset = {.n_cells = 1, .n_genes = 2, .n_local = 1};
  assert_int_equal(av_builder_create(&builder, 2, 1, 1, false), AV_OK);
  assert_int_equal(av_builder_add_row(builder, e->count > 0 ? 1 : 0, gene, value), AV_OK);
  assert_int_equal(av_builder_finish(builder, &dataset.counts), AV_OK);
  av_builder_free(&builder);
  double library = e->count + 1;
  int32_t code = 0;
  dataset.library = &library;
  dataset.batch.code = &code;
  dataset.batch.levels.n = 1;
  av_comm comm;
  av_comm_self(&comm);
  for (int strict = 0; strict < 2; ++strict) {
    av_backend be;
    av_data *data = NULL;
    av_batch *batch = NULL;
    assert_int_equal(av_backend_open(&be, AV_BACKEND_CPU, &comm, 1, strict != 0), AV_OK);
    assert_int_equal(be.ops->data_load(&be, &dataset, &data), AV_OK);
    assert_int_equal(be.ops->batch_create(&be, data, 1, &batch), AV_OK);
    const int64_t row = 0;
    be.ops->batch_select(&be, batch, 1, &row);
    float x = 0.0f;
    float l = (float)e->l;
    float w[2] = {0, 0};
    float c[2] = {(float)e->logit, 0};
    float p[2] = {(float)e->p, (float)e->p};
    float px_r[2] = {(float)e->px_r, (float)e->px_r};
    double losses[3] = {0};
    double grads[5][2] = {{0}};
    float dx = 0.0f;
    float dl = 0.0f;
    const av_decode decode = {.likelihood = likelihood,
                              .n_genes = 2,
                              .n_in = 1,
                              .n_dispersion = 1,
                              .scale = {.w = (av_real *)w,
                                        .c = (av_real *)c,
                                        .dw = (av_grad *)grads[0],
                                        .dc = (av_grad *)grads[1]},
                              .dropout = {.w = (av_real *)w,
                                          .c = (av_real *)p,
                                          .dw = (av_grad *)grads[2],
                                          .dc = (av_grad *)grads[3]},
                              .px_r = (av_real *)px_r,
                              .dpx_r = (av_grad *)grads[4]};
    be.ops->decode_nll(&be, batch, &decode, (av_real *)&x, (av_real *)&l, (av_sum *)losses,
                       (av_real *)&dx, (av_real *)&dl);
    const long double log_sum =
        e->logit > 0 ? e->logit + log1pl(expl(-e->logit)) : log1pl(expl((long double)e->logit));
    long double truth = 0;
    for (int g = 0; g < 2; ++g) {
      const long double log_mu = l + (g == 0 ? (long double)c[0] : 0) - log_sum;
      const long double count = g == 0 ? e->count : 0;
      truth += likelihood == AV_LIKELIHOOD_NB ? nb_truth(count, log_mu, px_r[g])
               : likelihood == AV_LIKELIHOOD_ZINB
                   ? zinb_truth(count, log_mu, px_r[g], p[g])
                   : expl(log_mu) - count * log_mu + lgammal(count + 1);
    }
    const double off = fabs(losses[0] - (double)truth);
    /* beside the terms that cancel: x log x of lgamma(x + 1) */
    const double size = 1 + fabs((double)truth) + e->count * log1p(e->count);
    if (!(off <= 1e-5 * size)) {
      fail_msg("likelihood %d, count %g, l %g, logit %g, px_r %g, p %g: loss %.9g, true %.9g",
               likelihood, e->count, e->l, e->logit, e->px_r, e->p, losses[0], (double)truth);
    }
    for (int k = 0; k < 5; ++k) {
      for (int g = 0; g < 2; ++g) {
        float narrow = 0.0f;
        memcpy(&narrow, (const char *)grads[k] + (size_t)g * sizeof narrow, sizeof narrow);
        const double grad = strict != 0 ? grads[k][g] : (double)narrow;
        if (!isfinite(grad)) {
          fail_msg("likelihood %d, count %g, l %g, logit %g, px_r %g, p %g: gradient %d is %g",
                   likelihood, e->count, e->l, e->logit, e->px_r, e->p, k, grad);
        }
      }
    }
    be.ops->batch_free(&be, batch);
    be.ops->data_free(&be, data);
    av_backend_close(&be);
  }
  av_counts_free(&dataset.counts);
}

static void extremes(void **state) {
  (void)state;
  const double counts[] = {0, 1, 3, 40, 70000, 1e9};
  const double libraries[] = {-100, 0, 8, 50, 61, 88, 300};
  const double logits[] = {-200, -60, 0, 90};
  const double dispersions[] = {-120, -20, 0, 20, 100};
  const double inflation[] = {-300, -20, 0, 300};
  for (size_t a = 0; a < sizeof counts / sizeof *counts; ++a) {
    for (size_t b = 0; b < sizeof libraries / sizeof *libraries; ++b) {
      for (size_t c = 0; c < sizeof logits / sizeof *logits; ++c) {
        for (size_t d = 0; d < sizeof dispersions / sizeof *dispersions; ++d) {
          extreme e = {
              .count = counts[a], .l = libraries[b], .logit = logits[c], .px_r = dispersions[d]};
          check_extreme(AV_LIKELIHOOD_NB, &e);
          for (size_t p = 0; p < sizeof inflation / sizeof *inflation; ++p) {
            e.p = inflation[p];
            check_extreme(AV_LIKELIHOOD_ZINB, &e);
          }
        }
        const extreme e = {.count = counts[a], .l = libraries[b], .logit = logits[c]};
        check_extreme(AV_LIKELIHOOD_POISSON, &e);
      }
    }
  }
}

int main(int argc, char **argv) {
  if (MPI_Init(&argc, &argv) != MPI_SUCCESS) {
    return 1;
  }
  const struct CMUnitTest tests[] = {cmocka_unit_test(against_reference),
                                     cmocka_unit_test(extremes)};
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  MPI_Finalize();
  return failed;
}
