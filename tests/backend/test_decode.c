/* Decoder and likelihood of the cpu backend against the reference: narrow and wide inputs, every
 * likelihood, dispersion and scale, and numbers at the ends of their range, losses against long
 * double, gradients against the reference. */
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
  int likelihood, dispersion;
  int64_t n_in;
  bool onehot, softplus, no_c; /* one-hot input; rho = softplus; heads without c */
} av_test_kind;

enum { SCALE, DROPOUT, PX_R, HEADS };

/* Everything a decoder call takes and gives, on both backends. */
typedef struct arrays {
  av_pair x, l, w[HEADS], c[HEADS], px_r, dw[HEADS], dc[HEADS], dpx_r, dx, dl, losses;
} arrays;

static int64_t dispersions_of(const av_twin *twin, const av_test_kind *kind) {
  switch (kind->dispersion) {
    case AV_DISPERSION_GENE_BATCH:
      return twin->dataset.batch.levels.n;
    case AV_DISPERSION_GENE_LABEL:
      return twin->dataset.label.levels.n;
    default:
      return 1;
  }
}

static arrays arrays_make(av_twin *twin, const av_test_kind *kind, source *from) {
  const int64_t genes = twin->dataset.n_genes;
  const int64_t width = kind->n_in + (kind->onehot ? twin->columns : 0);
  const int64_t rows = dispersions_of(twin, kind);
  /* log library, or log size factor beside logits that a softplus leaves of the order 1 */
  const double l = kind->softplus ? 1 : 7;
  arrays made = {.x = pair_normals(twin, AV_REAL, twin->n * kind->n_in, from, 0, 1),
                 .l = pair_normals(twin, AV_REAL, twin->n, from, l, 1),
                 .px_r = pair_normals(twin, AV_REAL, rows * genes, from, 0, 1.5),
                 .dpx_r = pair_zeros(twin, AV_GRAD, rows * genes),
                 .dx = pair_normals(twin, AV_REAL, twin->n * kind->n_in, from, 0, 1),
                 .dl = pair_normals(twin, AV_REAL, twin->n, from, 0, 1),
                 .losses = pair_zeros(twin, AV_SUM, AV_LOSSES)};
  for (int h = 0; h < HEADS; ++h) {
    made.w[h] = pair_normals(twin, AV_REAL, width * genes, from, 0, 1 / sqrt((double)kind->n_in));
    made.c[h] = pair_normals(twin, AV_REAL, genes, from, h == DROPOUT ? -1 : 0, 2);
    made.dw[h] = pair_zeros(twin, AV_GRAD, width * genes);
    made.dc[h] = pair_zeros(twin, AV_GRAD, genes);
  }
  return made;
}

static void arrays_free(arrays *arrays_) {
  av_pair *all[] = {&arrays_->x,  &arrays_->l,  &arrays_->px_r,  &arrays_->dpx_r,
                    &arrays_->dx, &arrays_->dl, &arrays_->losses};
  for (size_t i = 0; i < sizeof all / sizeof *all; ++i) {
    pair_free(all[i]);
  }
  for (int h = 0; h < HEADS; ++h) {
    pair_free(&arrays_->w[h]);
    pair_free(&arrays_->c[h]);
    pair_free(&arrays_->dw[h]);
    pair_free(&arrays_->dc[h]);
  }
}

static av_head head_of(const av_test_kind *kind, const arrays *a, int h, int t, bool gradients) {
  return (av_head){.w = a->w[h].at[t],
                   .c = kind->no_c ? NULL : a->c[h].at[t],
                   .dw = gradients ? a->dw[h].at[t] : NULL,
                   .dc = gradients && !kind->no_c ? a->dc[h].at[t] : NULL};
}

static av_decode decode_of(const av_twin *twin, const av_test_kind *kind, const arrays *a, int t,
                           bool gradients) {
  const bool zinb = kind->likelihood == AV_LIKELIHOOD_ZINB;
  const bool dispersed = kind->likelihood != AV_LIKELIHOOD_POISSON;
  const bool by_cell = dispersed && kind->dispersion == AV_DISPERSION_GENE_CELL;
  const bool table = dispersed && !by_cell;
  return (av_decode){.likelihood = kind->likelihood,
                     .dispersion = kind->dispersion,
                     .softplus = kind->softplus,
                     .n_genes = twin->dataset.n_genes,
                     .n_in = kind->n_in,
                     .n_onehot = kind->onehot ? twin->columns : 0,
                     .n_dispersion = dispersions_of(twin, kind),
                     .scale = head_of(kind, a, SCALE, t, gradients),
                     .dropout = zinb ? head_of(kind, a, DROPOUT, t, gradients) : (av_head){0},
                     .px_r_head = by_cell ? head_of(kind, a, PX_R, t, gradients) : (av_head){0},
                     .px_r = table ? a->px_r.at[t] : NULL,
                     .dpx_r = gradients && table ? a->dpx_r.at[t] : NULL};
}

static void zero_gradients(av_twin *twin, arrays *a) {
  av_pair *all[] = {&a->dw[0], &a->dw[1], &a->dw[2], &a->dc[0], &a->dc[1], &a->dc[2], &a->dpx_r};
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
  same_beside("px_r dw", &a->dw[2], TOLERANCE, size);
  same_beside("px_r dc", &a->dc[2], TOLERANCE, size);
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
    {.cells = 40, .genes = 1, .batches = 1, .rows = 5, .filled = 0.7, .threads = 1, .labels = 2},
    {.cells = 40,
     .genes = 33,
     .batches = 3,
     .rows = 0,
     .filled = 9,
     .threads = 2,
     .labels = 3,
     .categorical = 1},
    {.cells = 40,
     .genes = 33,
     .batches = 3,
     .rows = 1,
     .filled = 9,
     .threads = 2,
     .labels = 1,
     .categorical = 3},
    {.cells = 50, .genes = 257, .batches = 2, .rows = 2, .filled = 30, .threads = 2, .labels = 4},
    {.cells = 200,
     .genes = 500,
     .batches = 90,
     .rows = 130,
     .filled = 40,
     .threads = 2,
     .labels = 17,
     .categorical = 3},
    {.cells = 60,
     .genes = 300,
     .batches = 4,
     .rows = 37,
     .filled = 60,
     .threads = 3,
     .fractions = true,
     .labels = 6,
     .categorical = 1},
    {.cells = 30, .genes = 66000, .batches = 2, .rows = 7, .filled = 200, .threads = 2}};

enum {
  GENE = AV_DISPERSION_GENE,
  BATCH = AV_DISPERSION_GENE_BATCH,
  LABEL = AV_DISPERSION_GENE_LABEL,
  CELL = AV_DISPERSION_GENE_CELL
};

static const av_test_kind kinds[] = {{AV_LIKELIHOOD_NB, GENE, 10, true, false, false},
                                     {AV_LIKELIHOOD_NB, BATCH, 128, false, false, false},
                                     {AV_LIKELIHOOD_NB, GENE, 1, false, false, true},
                                     {AV_LIKELIHOOD_NB, LABEL, 12, true, true, false},
                                     {AV_LIKELIHOOD_NB, CELL, 12, true, false, true},
                                     {AV_LIKELIHOOD_NB, CELL, 64, false, true, false},
                                     {AV_LIKELIHOOD_ZINB, BATCH, 10, true, false, false},
                                     {AV_LIKELIHOOD_ZINB, GENE, 70, true, false, false},
                                     {AV_LIKELIHOOD_ZINB, LABEL, 11, false, false, true},
                                     {AV_LIKELIHOOD_ZINB, CELL, 10, true, true, false},
                                     {AV_LIKELIHOOD_ZINB, CELL, 65, false, false, false},
                                     {AV_LIKELIHOOD_POISSON, GENE, 12, true, false, false},
                                     {AV_LIKELIHOOD_POISSON, CELL, 128, false, false, false},
                                     {AV_LIKELIHOOD_POISSON, GENE, 9, true, true, true}};

static void against_reference(void **state) {
  (void)state;
  for (size_t s = 0; s < sizeof shapes / sizeof *shapes; ++s) {
    for (int strict = 0; strict < 2; ++strict) {
      twin_shape shape = shapes[s];
      shape.strict = strict != 0;
      av_twin twin;
      twin_open(&twin, &shape);
      for (size_t k = 0; k < sizeof kinds / sizeof *kinds; ++k) {
        if (shape.genes > 10000 &&
            (kinds[k].n_in > 12 || !kinds[k].onehot || kinds[k].dispersion == LABEL)) {
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

/* Loss and gradients by backend `choice`. */
static double run_extreme(const extreme *e, const av_dataset *dataset, int choice, bool strict,
                          double grads[GRADS][2]) {
  av_comm comm;
  av_backend be;
  av_data *data = NULL;
  av_batch *batch = NULL;
  av_comm_self(&comm);
  assert_int_equal(av_backend_open(&be, choice, &comm, 1, strict), AV_OK);
  assert_int_equal(be.ops->data_load(&be, dataset, &data), AV_OK);
  assert_int_equal(be.ops->batch_create(&be, data, 1, &batch), AV_OK);
  const int64_t row = 0;
  be.ops->batch_select(&be, batch, 1, &row);
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
  assert_int_equal(be.ops->alloc(&be, AV_REAL, 1, &x), AV_OK);
  assert_int_equal(be.ops->alloc(&be, AV_REAL, 1, &log_size), AV_OK);
  assert_int_equal(be.ops->alloc(&be, AV_REAL, 2, &w), AV_OK);
  assert_int_equal(be.ops->alloc(&be, AV_SUM, AV_LOSSES, &losses), AV_OK);
  assert_int_equal(be.ops->alloc(&be, AV_REAL, 1, &dx), AV_OK);
  assert_int_equal(be.ops->alloc(&be, AV_REAL, 1, &dl), AV_OK);
  assert_int_equal(be.ops->write(&be, AV_REAL, log_size, 1, &l), AV_OK);
  for (int h = 0; h < HEADS; ++h) {
    assert_int_equal(be.ops->alloc(&be, AV_REAL, 2, &c[h]), AV_OK);
    assert_int_equal(be.ops->alloc(&be, AV_GRAD, 2, &dw[h]), AV_OK);
    assert_int_equal(be.ops->alloc(&be, AV_GRAD, 2, &dc[h]), AV_OK);
    assert_int_equal(be.ops->write(&be, AV_REAL, c[h], 2, starts[h]), AV_OK);
    head[h] = (av_head){.w = w, .c = c[h], .dw = dw[h], .dc = dc[h]};
  }
  const av_decode decode = {.likelihood = e->likelihood,
                            .dispersion = e->by_cell ? CELL : GENE,
                            .softplus = e->softplus,
                            .n_genes = 2,
                            .n_in = 1,
                            .n_dispersion = 1,
                            .scale = head[SCALE],
                            .dropout = head[DROPOUT],
                            .px_r_head = e->by_cell ? head[PX_R] : (av_head){0},
                            .px_r = e->by_cell ? NULL : c[PX_R],
                            .dpx_r = e->by_cell ? NULL : dc[PX_R]};
  be.ops->decode_nll(&be, batch, &decode, x, log_size, losses, dx, dl);
  double sums[AV_LOSSES];
  assert_int_equal(be.ops->read(&be, AV_SUM, losses, AV_LOSSES, sums), AV_OK);
  memset(grads[DL], 0, sizeof grads[DL]);
  assert_int_equal(be.ops->read(&be, AV_REAL, dl, 1, grads[DL]), AV_OK);
  for (int h = 0; h < HEADS; ++h) {
    assert_int_equal(be.ops->read(&be, AV_GRAD, dc[h], 2, grads[h]), AV_OK);
    be.ops->release(&be, c[h]);
    be.ops->release(&be, dw[h]);
    be.ops->release(&be, dc[h]);
  }
  void *all[] = {x, log_size, w, losses, dx, dl};
  for (size_t i = 0; i < sizeof all / sizeof *all; ++i) {
    be.ops->release(&be, all[i]);
  }
  be.ops->batch_free(&be, batch);
  be.ops->data_free(&be, data);
  av_backend_close(&be);
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

/* Loss beside the truth, gradients beside the reference's. */
static void check_extreme(const extreme *e) {
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
  (void)run_extreme(e, &dataset, AV_BACKEND_REFERENCE, false, expected);
  for (int strict = 0; strict < 2; ++strict) {
    double grads[GRADS][2];
    const double loss = run_extreme(e, &dataset, AV_BACKEND_CPU, strict != 0, grads);
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
static void check_likelihoods(extreme e, size_t turn) {
  static const double inflation[] = {-1e4, -300, -20, 0, 300};
  e.softplus = turn % 2 != 0;
  e.likelihood = AV_LIKELIHOOD_POISSON;
  check_extreme(&e);
  e.by_cell = turn / 2 % 2 != 0;
  e.likelihood = AV_LIKELIHOOD_NB;
  check_extreme(&e);
  e.likelihood = AV_LIKELIHOOD_ZINB;
  for (size_t i = 0; i < 2; ++i) {
    e.p = inflation[(2 * turn + i) % (sizeof inflation / sizeof *inflation)];
    check_extreme(&e);
  }
}

/* A quarter of the grid for each scale and place of px_r, so that any two numbers meet in each. */
static void extremes(void **state) {
  (void)state;
  const double counts[] = {0, 1, 3, 40, 70000, 1e9};
  const double libraries[] = {-100, 0, 8, 50, 61, 88, 300};
  const double logits[] = {-1e4, -200, -60, 0, 90, 1e4};
  const double dispersions[] = {-1e4, -200, -50, -20, 0, 20, 50, 200};
  for (size_t a = 0; a < sizeof counts / sizeof *counts; ++a) {
    for (size_t b = 0; b < sizeof libraries / sizeof *libraries; ++b) {
      for (size_t c = 0; c < sizeof logits / sizeof *logits; ++c) {
        for (size_t d = 0; d < sizeof dispersions / sizeof *dispersions; ++d) {
          const extreme e = {
              .count = counts[a], .l = libraries[b], .logit = logits[c], .px_r = dispersions[d]};
          check_likelihoods(e, a + b + c + d);
        }
      }
    }
  }
}

/* A model that is applied needs no labels: rho and mu come without them. */
static void output_without_labels(void **state) {
  (void)state;
  const twin_shape shape = {
      .cells = 30, .genes = 41, .batches = 2, .rows = 11, .filled = 9, .threads = 2, .labels = 5};
  const av_test_kind kind = {AV_LIKELIHOOD_ZINB, LABEL, 6, true, false, false};
  av_twin twin;
  twin_open(&twin, &shape);
  source from = {.item = 3000};
  arrays a = arrays_make(&twin, &kind, &from);
  float *mu[3];
  for (int step = 0; step < 3; ++step) { /* labels, none known, no labels at all */
    av_backend *be = &twin.be[CPU];
    av_decode decode = decode_of(&twin, &kind, &a, CPU, false);
    if (step == 2) {
      free(twin.dataset.label.code);
      twin.dataset.label.code = NULL;
    }
    for (int64_t i = 0; step == 1 && i < twin.dataset.n_local; ++i) {
      twin.dataset.label.code[i] = -1;
    }
    int64_t rows[11];
    for (int64_t i = 0; i < twin.n; ++i) {
      rows[i] = twin_row(&twin, i);
    }
    av_batch *batch = NULL;
    assert_int_equal(be->ops->batch_create(be, twin.data[CPU], twin.n, &batch), AV_OK);
    be->ops->batch_select(be, batch, twin.n, rows);
    mu[step] = av_calloc((size_t)(twin.n * shape.genes), sizeof *mu[step]);
    assert_non_null(mu[step]);
    decode.px_r = step == 0 ? decode.px_r : NULL;
    assert_int_equal(
        be->ops->decode_output(be, batch, &decode, a.x.at[CPU], a.l.at[CPU], NULL, mu[step]),
        AV_OK);
    assert_memory_equal(mu[step], mu[0], (size_t)(twin.n * shape.genes) * sizeof *mu[step]);
    be->ops->batch_free(be, batch);
  }
  assert_true(mu[0][0] > 0.0f);
  for (int step = 0; step < 3; ++step) {
    free(mu[step]);
  }
  arrays_free(&a);
  twin_close(&twin);
}

int main(int argc, char **argv) {
  if (MPI_Init(&argc, &argv) != MPI_SUCCESS) {
    return 1;
  }
  const struct CMUnitTest tests[] = {cmocka_unit_test(against_reference),
                                     cmocka_unit_test(extremes),
                                     cmocka_unit_test(output_without_labels)};
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  MPI_Finalize();
  return failed;
}
