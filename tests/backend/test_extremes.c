/* Decoder and likelihood of the cpu backend on numbers at the ends of their range: losses against
 * long double, gradients against the reference. */
#include "backend/tested.h"
#include "backend/twin.h"

#include "backend/latent.h"
#include "config/config.h"

#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <string.h>

enum { SCALE, DROPOUT, PX_R, HEADS };

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

/* Two genes with a count in the first, one cell, numbers at the ends. */
typedef struct extreme {
  int likelihood;
  bool softplus, by_cell; /* by_cell: px_r is a head's intercept */
  double count, l, logit, px_r, p;
} extreme;

/* Gradients of an extreme: on the intercepts of the heads, or of
 * px_r itself, then on l. */
enum { DL = HEADS, GRADS };

static const char *grad_names[GRADS] = {"logits", "zero inflation", "px_r", "l"};

/* Loss and gradients by a backend. */
static double run_extreme(const extreme *e, const av_dataset *dataset, av_backend *be,
                          double grads[GRADS][2]) {
  av_data *data = NULL;
  av_batch *batch = NULL;
  assert_int_equal(be->ops->data_load(be, dataset, &data), AV_OK);
  assert_int_equal(be->ops->batch_create(be, data, 1, &batch), AV_OK);
  const int64_t row = 0;
  be->ops->batch_select(be, batch, 1, &row);
  const double starts[HEADS][2] = {{e->logit, 0}, {e->p, e->p}, {e->px_r, e->px_r}};
  const double l = e->l;
  void *x = NULL;
  void *log_size = NULL;
  void *w = NULL;
  void *losses = NULL;
  void *dx = NULL;
  void *dl = NULL;
  void *c[HEADS];
  void *dw[HEADS];
  void *dc[HEADS];
  av_head head[HEADS];
  assert_int_equal(be->ops->alloc(be, AV_REAL, 1, &x), AV_OK);
  assert_int_equal(be->ops->alloc(be, AV_REAL, 1, &log_size), AV_OK);
  assert_int_equal(be->ops->alloc(be, AV_REAL, 2, &w), AV_OK);
  assert_int_equal(be->ops->alloc(be, AV_SUM, AV_LOSSES, &losses), AV_OK);
  assert_int_equal(be->ops->alloc(be, AV_REAL, 1, &dx), AV_OK);
  assert_int_equal(be->ops->alloc(be, AV_REAL, 1, &dl), AV_OK);
  assert_int_equal(be->ops->write(be, AV_REAL, log_size, 1, &l), AV_OK);
  for (int h = 0; h < HEADS; ++h) {
    assert_int_equal(be->ops->alloc(be, AV_REAL, 2, &c[h]), AV_OK);
    assert_int_equal(be->ops->alloc(be, AV_GRAD, 2, &dw[h]), AV_OK);
    assert_int_equal(be->ops->alloc(be, AV_GRAD, 2, &dc[h]), AV_OK);
    assert_int_equal(be->ops->write(be, AV_REAL, c[h], 2, starts[h]), AV_OK);
    head[h] = (av_head){.w = w, .c = c[h], .dw = dw[h], .dc = dc[h]};
  }
  const av_decode decode = {.likelihood = e->likelihood,
                            .dispersion = e->by_cell ? AV_DISPERSION_GENE_CELL : AV_DISPERSION_GENE,
                            .softplus = e->softplus,
                            .n_genes = 2,
                            .n_in = 1,
                            .n_dispersion = 1,
                            .scale = head[SCALE],
                            .dropout = head[DROPOUT],
                            .px_r_head = e->by_cell ? head[PX_R] : (av_head){0},
                            .px_r = e->by_cell ? NULL : c[PX_R],
                            .dpx_r = e->by_cell ? NULL : dc[PX_R]};
  be->ops->decode_nll(be, batch, &decode, x, log_size, losses, dx, dl);
  double sums[AV_LOSSES];
  assert_int_equal(be->ops->read(be, AV_SUM, losses, AV_LOSSES, sums), AV_OK);
  memset(grads[DL], 0, sizeof grads[DL]);
  assert_int_equal(be->ops->read(be, AV_REAL, dl, 1, grads[DL]), AV_OK);
  for (int h = 0; h < HEADS; ++h) {
    assert_int_equal(be->ops->read(be, AV_GRAD, dc[h], 2, grads[h]), AV_OK);
    be->ops->release(be, c[h]);
    be->ops->release(be, dw[h]);
    be->ops->release(be, dc[h]);
  }
  void *all[] = {x, log_size, w, losses, dx, dl};
  for (size_t i = 0; i < sizeof all / sizeof *all; ++i) {
    be->ops->release(be, all[i]);
  }
  be->ops->batch_free(be, batch);
  be->ops->data_free(be, data);
  return sums[AV_LOSS_NLL];
}

static long double log_softplus_truth(long double a) {
  return a < -40 ? a : logl(softplus_truth(a));
}

/* The loss in long double, from the floats that the parameters are. */
static long double extreme_truth(const extreme *e) {
  const long double logits[2] = {(long double)(float)e->logit, 0};
  const long double log_sum =
      logits[0] > 0 ? logits[0] + log1pl(expl(-logits[0])) : log1pl(expl(logits[0]));
  const long double px_r = (long double)(float)e->px_r;
  long double truth = 0;
  for (int g = 0; g < 2; ++g) {
    const long double log_rho = e->softplus ? log_softplus_truth(logits[g]) : logits[g] - log_sum;
    const long double log_mu = (long double)(float)e->l + log_rho;
    const long double count = g == 0 ? (long double)e->count : 0;
    truth += e->likelihood == AV_LIKELIHOOD_NB ? nb_truth(count, log_mu, px_r)
             : e->likelihood == AV_LIKELIHOOD_ZINB
                 ? zinb_truth(count, log_mu, px_r, (long double)(float)e->p)
                 : expl(log_mu) - count * log_mu + lgammal(count + 1);
  }
  return truth;
}

/* The cpu backend's floats stop at about 1e36. */
static double bounded(double x) { return x > 1e35 ? 1e35 : x < -1e35 ? -1e35 : x; }

typedef struct backends {
  av_comm comm;
  av_backend reference, tested[2]; /* the second: order-free */
} backends;

static void open_backends(backends *b) {
  const av_backend_options reference = {.choice = AV_BACKEND_REFERENCE, .threads = 1};
  av_comm_self(&b->comm);
  assert_int_equal(av_backend_open(&b->reference, &reference, &b->comm), AV_OK);
  for (int strict = 0; strict <= (int)tested_is_order_free; ++strict) {
    assert_int_equal(open_tested(&b->tested[strict], &b->comm, 1, strict != 0), AV_OK);
  }
}

static void close_backends(backends *b) {
  av_backend_close(&b->reference);
  for (int strict = 0; strict <= (int)tested_is_order_free; ++strict) {
    av_backend_close(&b->tested[strict]);
  }
}

/* Loss beside the truth, gradients beside the reference's. */
static void check_extreme(backends *b, const extreme *e) {
  int32_t gene[1] = {0};
  double value[1] = {e->count};
  double library = e->count + 1;
  int32_t code = 0;
  av_counts_builder *builder = NULL;
  av_dataset dataset = {
      .n_cells = 1, .n_genes = 2, .n_local = 1, .library = &library, .batch.levels.n = 1};
  dataset.batch.code = &code;
  assert_int_equal(av_builder_create(&builder, 2, 1, 1, false), AV_OK);
  assert_int_equal(av_builder_add_row(builder, e->count > 0 ? 1 : 0, gene, value), AV_OK);
  assert_int_equal(av_builder_finish(builder, &dataset.counts), AV_OK);
  assert_int_equal(av_dataset_design(&dataset), AV_OK);
  av_builder_free(&builder);
  char about[160];
  snprintf(about, sizeof about,
           "likelihood %d%s%s, count %g, l %g, logit %g, px_r %g, p %g: ", e->likelihood,
           e->softplus ? ", softplus" : "", e->by_cell ? ", gene-cell" : "", e->count, e->l,
           e->logit, e->px_r, e->p);
  const double truth = (double)extreme_truth(e);
  /* beside the terms that cancel: x log x of lgamma(x + 1) */
  const double size = 1 + fabs(truth) + e->count * log1p(e->count);
  /* the probability of an extra zero is a sigmoid of p + u, of which float knows |p| / 10^7 */
  const double tolerance = e->likelihood == AV_LIKELIHOOD_ZINB ? 1e-4 + 2.5e-7 * fabs(e->p) : 1e-4;
  double expected[GRADS][2];
  (void)run_extreme(e, &dataset, &b->reference, expected);
  for (int strict = 0; strict <= (int)tested_is_order_free; ++strict) {
    double grads[GRADS][2];
    const double loss = run_extreme(e, &dataset, &b->tested[strict], grads);
    if (!(fabs(loss - truth) <= 1e-5 * size)) {
      fail_msg("%sloss %.9g, true %.9g", about, loss, truth);
    }
    for (int k = 0; k < GRADS; ++k) {
      for (int g = 0; g < 2; ++g) {
        const double right = bounded(expected[k][g]);
        /* beside the terms that cancel: the count, and the mean */
        const double terms = 1 + fabs(right) + e->count + fabs(expected[DL][0]);
        if (!(fabs(bounded(grads[k][g]) - right) <= tolerance * terms)) {
          fail_msg("%sgradient of %s %d is %.9g, the reference's %.9g", about, grad_names[k], g,
                   grads[k][g], right);
        }
      }
    }
  }
  av_counts_free(&dataset.counts);
  av_design_free(&dataset.design);
}

/* Every likelihood on one set of numbers; `turn` chooses scale, place of px_r and inflation. */
static void check_likelihoods(backends *b, extreme e, size_t turn) {
  static const double inflation[] = {-1e4, -300, -20, 0, 300};
  e.softplus = turn % 2 != 0;
  e.likelihood = AV_LIKELIHOOD_POISSON;
  check_extreme(b, &e);
  e.by_cell = turn / 2 % 2 != 0;
  e.likelihood = AV_LIKELIHOOD_NB;
  check_extreme(b, &e);
  e.likelihood = AV_LIKELIHOOD_ZINB;
  for (size_t i = 0; i < 2; ++i) {
    e.p = inflation[(2 * turn + i) % (sizeof inflation / sizeof *inflation)];
    check_extreme(b, &e);
  }
}

/* A quarter of the grid for each scale and place of px_r, so that any two numbers meet in each. */
static void extremes(void **state) {
  (void)state;
  const double counts[] = {0, 1, 3, 40, 70000, 1e9};
  const double libraries[] = {-100, 0, 8, 50, 61, 88, 300};
  const double logits[] = {-1e4, -200, -60, 0, 90, 1e4};
  const double dispersions[] = {-1e4, -200, -50, -20, 0, 20, 50, 200};
  backends all;
  open_backends(&all);
  for (size_t a = 0; a < sizeof counts / sizeof *counts; ++a) {
    for (size_t b = 0; b < sizeof libraries / sizeof *libraries; ++b) {
      for (size_t c = 0; c < sizeof logits / sizeof *logits; ++c) {
        for (size_t d = 0; d < sizeof dispersions / sizeof *dispersions; ++d) {
          const extreme e = {
              .count = counts[a], .l = libraries[b], .logit = logits[c], .px_r = dispersions[d]};
          check_likelihoods(&all, e, a + b + c + d);
        }
      }
    }
  }
  close_backends(&all);
}

int main(int argc, char **argv) {
  if (MPI_Init(&argc, &argv) != MPI_SUCCESS) {
    return 1;
  }
  const struct CMUnitTest tests[] = {cmocka_unit_test(extremes)};
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  MPI_Finalize();
  return failed;
}
