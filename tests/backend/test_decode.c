/* Decoder and likelihood of the cpu backend against the reference: narrow and wide inputs, every
 * likelihood, dispersion and scale. (Numbers at the ends of their range: test_extremes.c.) */
#include "backend/tested.h"
#include "backend/twin.h"

#include "backend/latent.h"
#include "base/exact.h"
#include "base/memory.h"
#include "config/config.h"

#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

/* `value` in the spare rows of (rows, width), of the backends from `first` on. */
static void set_spare(const av_pair *pair, int64_t used, int first, double value) {
  for (int t = first; t < TWINS && used < pair->n; ++t) {
    av_backend *be = &pair->twin->be[t];
    double *values = pair_read(pair, t);
    for (int64_t i = used; i < pair->n; ++i) {
      values[i] = value;
    }
    require(be->ops->write(be, pair->kind, pair->at[t], pair->n, values));
    free(values);
  }
}

static arrays arrays_make(av_twin *twin, const av_test_kind *kind, source *from) {
  const int64_t genes = twin->dataset.n_genes;
  const int64_t width = kind->n_in + (kind->onehot ? twin->columns : 0);
  const int64_t rows = dispersions_of(twin, kind);
  const int64_t cells = twin->n + twin->spare;
  /* log library, or log size factor beside logits that a softplus leaves of the order 1 */
  const double l = kind->softplus ? 1 : 7;
  arrays made = {.x = pair_normals(twin, AV_REAL, cells * kind->n_in, from, 0, 1),
                 .l = pair_normals(twin, AV_REAL, cells, from, l, 1),
                 .px_r = pair_normals(twin, AV_REAL, rows * genes, from, 0, 1.5),
                 .dpx_r = pair_zeros(twin, AV_GRAD, rows * genes),
                 .dx = pair_normals(twin, AV_REAL, cells * kind->n_in, from, 0, 1),
                 .dl = pair_normals(twin, AV_REAL, cells, from, 0, 1),
                 .losses = pair_zeros(twin, AV_SUM, AV_LOSSES)};
  for (int h = 0; h < HEADS; ++h) {
    made.w[h] = pair_normals(twin, AV_REAL, width * genes, from, 0, 1 / sqrt((double)kind->n_in));
    made.c[h] = pair_normals(twin, AV_REAL, genes, from, h == DROPOUT ? -1 : 0, 2);
    made.dw[h] = pair_zeros(twin, AV_GRAD, width * genes);
    made.dc[h] = pair_zeros(twin, AV_GRAD, genes);
  }
  set_spare(&made.x, twin->n * kind->n_in, REFERENCE, 0.0);
  set_spare(&made.dx, twin->n * kind->n_in, REFERENCE, 0.0);
  set_spare(&made.dl, twin->n, REFERENCE, 0.0);
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

/* The bits of each gradient are those of way 0. */
static void same_bits(arrays *a, int way) {
  static uint64_t seen[HEADS * 2 + 3];
  const av_pair *all[] = {&a->dw[0], &a->dw[1], &a->dw[2], &a->dc[0], &a->dc[1],
                          &a->dc[2], &a->dpx_r, &a->dx,    &a->dl};
  for (size_t i = 0; tested_keeps_bits && i < sizeof all / sizeof *all; ++i) {
    double *values = pair_read(all[i], TESTED);
    uint64_t hash = 0;
    for (int64_t j = 0; j < all[i]->n; ++j) {
      uint64_t word;
      memcpy(&word, &values[j], sizeof word);
      hash = (hash ^ word) * 1099511628211u;
    }
    free(values);
    if (way > 0 && seen[i] != hash) {
      fail_msg("array %zu of the gradients has other bits in way %d", i, way);
    }
    seen[i] = hash;
  }
}

static void check_gradients(av_twin *twin, const av_test_kind *kind, arrays *a, double size) {
  zero_gradients(twin, a);
  if (tested_clears_spare) {
    set_spare(&a->dx, twin->n * kind->n_in, TESTED, 7.0);
    set_spare(&a->dl, twin->n, TESTED, 7.0);
  }
  av_decode decode[TWINS];
  for (int t = 0; t < TWINS; ++t) {
    decode[t] = decode_of(twin, kind, a, t, true);
  }
  BOTH(twin, decode_nll(be, batch, &decode[t], a->x.at[t], a->l.at[t], a->losses.at[t], a->dx.at[t],
                        a->dl.at[t]));
  same_beside("losses", &a->losses, TOLERANCE, twin->be[TESTED].strict ? (double)twin->n : 0.0);
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

static const av_average alone = {.n = 1};

/* An output of one side's batch, begun; and ended. */
static av_status begin_output(const av_twin *twin, int t, const av_decode *decode, const arrays *a,
                              av_average average, float *rho, float *mu) {
  av_backend *be = (av_backend *)(uintptr_t)&twin->be[t];
  return be->ops->decode_output(be, twin->batch[t], decode, a->x.at[t], a->l.at[t], average, rho,
                                mu);
}
static void end_output(const av_twin *twin, int t) {
  av_backend *be = (av_backend *)(uintptr_t)&twin->be[t];
  assert_int_equal(be->ops->output_end(be), AV_OK);
}
static void make_output(const av_twin *twin, int t, const av_decode *decode, const arrays *a,
                        float *rho, float *mu) {
  assert_int_equal(begin_output(twin, t, decode, a, alone, rho, mu), AV_OK);
  end_output(twin, t);
}

/* Results of products of other sizes may be rounded otherwise. */
static bool has_products(const av_decode *decode) { return decode->n_in >= 20; }

/* The sums of the rho (n, G) that decode_output gave, on top of what is there: exactly, where no
 * product is in it. */
static void check_sums(av_twin *twin, const av_decode *decode, const arrays *a, const float *rho) {
  const double scale = 0x1p30;
  const int64_t genes = decode->n_genes;
  av_backend *be = &twin->be[TESTED];
  av_pair words = pair_zeros(twin, AV_SUM, 2 * genes);
  for (int twice = 0; twice < 2; ++twice) {
    assert_int_equal(be->ops->decode_sums(be, twin->batch[TESTED], decode, a->x.at[TESTED],
                                          a->l.at[TESTED], scale, words.at[TESTED]),
                     AV_OK);
  }
  double *read = pair_read(&words, TESTED);
  for (int64_t g = 0; g < genes; ++g) {
    av_wide expected = {0};
    av_wide found;
    for (int64_t i = 0; i < 2 * twin->n; ++i) {
      av_wide_add(&expected, scale * (double)rho[(i / 2) * genes + g]);
    }
    memcpy(&found, read + 2 * g, sizeof found);
    const double wanted = av_wide_value(&expected);
    if (has_products(decode)) {
      assert_true(fabs(av_wide_value(&found) - wanted) <= TOLERANCE * wanted);
    } else {
      assert_memory_equal(&found, &expected, sizeof expected);
    }
  }
  free(read);
  pair_free(&words);
}

/* Three times the outputs, rho and then mu (n, G), of as many cells as can be averaged: their sums
 * of thirds. */
static void check_average(av_twin *twin, const av_decode *decode, const arrays *a,
                          const float *outputs) {
  const av_backend *be = &twin->be[TESTED];
  const int64_t n = twin->n * decode->n_genes;
  if (twin->n > av_backend_average_rows(be, decode->n_genes)) {
    return;
  }
  float *made = av_calloc((size_t)n, 2 * sizeof *made);
  assert_non_null(made);
  for (av_average average = {.n = 3}; average.at < average.n; ++average.at) {
    assert_int_equal(begin_output(twin, TESTED, decode, a, average, made, made + n), AV_OK);
  }
  end_output(twin, TESTED);
  for (int64_t i = 0; i < 2 * n; ++i) {
    const float third = outputs[i] / 3.0F;
    assert_true(made[i] == third + third + third);
  }
  free(made);
}

/* The same numbers without gradients, by cell, and rho and mu. */
static void check_values(av_twin *twin, const av_test_kind *kind, arrays *a) {
  const size_t cells = (size_t)twin->n;
  const size_t genes = (size_t)twin->dataset.n_genes;
  double *nll = av_calloc(cells, TWINS * sizeof *nll);
  float *out = av_calloc(cells * genes, 2 * TWINS * sizeof *out);
  double *numbers = av_calloc(cells * genes, TWINS * sizeof *numbers);
  assert_true(nll && out && numbers);
  double *before = pair_read(&a->losses, TESTED);
  zero_gradients(twin, a);
  av_decode decode[TWINS];
  for (int t = 0; t < TWINS; ++t) {
    decode[t] = decode_of(twin, kind, a, t, false);
    av_backend *be = &twin->be[t];
    float *rho = out + (size_t)(2 * t) * cells * genes;
    assert_int_equal(be->ops->decode_cells(be, twin->batch[t], &decode[t], a->x.at[t], a->l.at[t],
                                           nll + (size_t)t * cells),
                     AV_OK);
    make_output(twin, t, &decode[t], a, rho, rho + cells * genes);
    make_output(twin, t, &decode[t], a, NULL, NULL);
  }
  same_numbers("nll", twin->n, nll + cells, nll, TOLERANCE, 0.0);
  check_sums(twin, &decode[TESTED], a, out + 2 * TESTED * cells * genes);
  check_average(twin, &decode[TESTED], a, out + 2 * TESTED * cells * genes);
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
  double *after = pair_read(&a->losses, TESTED);
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
    {.cells = 30, .genes = 66000, .batches = 2, .rows = 7, .filled = 200, .threads = 2},
    /* as kernels for large minibatches cut them: full but for one cell, nearly empty */
    {.cells = 1100,
     .genes = 40,
     .batches = 50,
     .rows = 1030,
     .spare = 1,
     .filled = 6,
     .threads = 2,
     .labels = 17,
     .categorical = 3},
    {.cells = 60,
     .genes = 870,
     .batches = 40,
     .rows = 6,
     .spare = 1100,
     .filled = 60,
     .threads = 2,
     .labels = 3,
     .categorical = 2},
    /* as few slabs of many cells are cut: a warp's cells are of several steps */
    {.cells = 100,
     .genes = 1100,
     .batches = 12,
     .rows = 70,
     .spare = 930,
     .filled = 60,
     .threads = 2,
     .labels = 9}};

enum {
  GENE = AV_DISPERSION_GENE,
  BATCH = AV_DISPERSION_GENE_BATCH,
  LABEL = AV_DISPERSION_GENE_LABEL,
  CELL = AV_DISPERSION_GENE_CELL
};

/* the first N_KINDS on all shapes */
enum { N_KINDS = 14 };
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
                                     {AV_LIKELIHOOD_POISSON, GENE, 9, true, true, true},
                                     /* about the widths that kernels are made for */
                                     {AV_LIKELIHOOD_NB, LABEL, 19, true, false, false},
                                     {AV_LIKELIHOOD_NB, BATCH, 20, true, false, true},
                                     {AV_LIKELIHOOD_ZINB, GENE, 39, false, false, false},
                                     {AV_LIKELIHOOD_ZINB, CELL, 33, true, false, false},
                                     {AV_LIKELIHOOD_NB, BATCH, 33, true, true, false},
                                     {AV_LIKELIHOOD_NB, GENE, 24, true, false, false},
                                     {AV_LIKELIHOOD_POISSON, GENE, 29, true, false, false},
                                     {AV_LIKELIHOOD_ZINB, BATCH, 40, true, false, true},
                                     {AV_LIKELIHOOD_ZINB, GENE, 18, false, false, false},
                                     {AV_LIKELIHOOD_NB, CELL, 10, true, true, false}};

static void against_reference(void **state) {
  (void)state;
  for (size_t s = 0; s < sizeof shapes / sizeof *shapes; ++s) {
    for (int strict = 0; strict <= (int)tested_is_order_free; ++strict) {
      twin_shape shape = shapes[s];
      if (shape.spare > 0 && !tested_clears_spare) {
        continue; /* others have no cut there; order-free products would keep but 20 bits */
      }
      shape.strict = strict != 0;
      av_twin twin;
      twin_open(&twin, &shape);
      for (size_t k = 0; k < sizeof kinds / sizeof *kinds; ++k) {
        if (shape.genes > 10000 &&
            (kinds[k].n_in > 12 || !kinds[k].onehot || kinds[k].dispersion == LABEL)) {
          continue;
        }
        if (shape.spare > 0 && k % 2 == s % 2) {
          continue; /* half of them, and all of them between the two: time */
        }
        if (shape.rows * shape.genes > 50000 &&
            (k >= N_KINDS || (shape.spare > 0 && kinds[k].n_in > 12))) {
          continue; /* likewise */
        }
        source from = {.item = 1000};
        arrays a = arrays_make(&twin, &kinds[k], &from);
        const bool large = shape.rows > 1000 || shape.genes > 10000;
        for (int set = 0; use_way(&twin.be[TESTED], set); ++set) {
          if (large && set > 0 && tested_is_slow) {
            continue;
          }
          /* one gene: rho = 1 and the gradient on its logit is 0 but for rounding, the logit's too
           */
          const double logits = (double)(300 + 30 * kinds[k].n_in);
          check_gradients(&twin, &kinds[k], &a, shape.genes == 1 ? logits : 0.0);
          same_bits(&a, set);
          check_values(&twin, &kinds[k], &a);
        }
        arrays_free(&a);
      }
      twin_close(&twin);
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
    av_backend *be = &twin.be[TESTED];
    av_decode decode = decode_of(&twin, &kind, &a, TESTED, false);
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
    assert_int_equal(be->ops->batch_create(be, twin.data[TESTED], twin.n, &batch), AV_OK);
    be->ops->batch_select(be, batch, twin.n, rows);
    mu[step] = av_calloc((size_t)(twin.n * shape.genes), sizeof *mu[step]);
    assert_non_null(mu[step]);
    decode.px_r = step == 0 ? decode.px_r : NULL;
    assert_int_equal(be->ops->decode_output(be, batch, &decode, a.x.at[TESTED], a.l.at[TESTED],
                                            alone, NULL, mu[step]),
                     AV_OK);
    assert_int_equal(be->ops->output_end(be), AV_OK);
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

/* Losses by cell are refused while outputs are under way, where these travel. */
static void check_no_losses(const av_twin *twin, const av_decode *decode, const arrays *a) {
  av_backend *be = (av_backend *)(uintptr_t)&twin->be[TESTED];
  if (be->queues) {
    double *nll = av_calloc((size_t)twin->n, sizeof *nll);
    assert_non_null(nll);
    assert_int_equal(be->ops->decode_cells(be, twin->batch[TESTED], decode, a->x.at[TESTED],
                                           a->l.at[TESTED], nll),
                     AV_BUG);
    av_error_clear();
    free(nll);
  }
}

/* Of one of rho and mu the same as of both: to the bit, but for what a product of other sizes
 * rounds otherwise. The second is begun before the first is ended; one of nothing is between them.
 */
static void check_alone(const av_twin *twin, const av_decode *decode, const arrays *a,
                        const float *both) {
  const int64_t n = twin->n * decode->n_genes;
  float *one = av_calloc((size_t)n, 2 * sizeof *one);
  assert_non_null(one);
  require(begin_output(twin, TESTED, decode, a, alone, one, NULL));
  require(begin_output(twin, TESTED, decode, a, alone, NULL, NULL));
  require(begin_output(twin, TESTED, decode, a, alone, NULL, one + n));
  check_no_losses(twin, decode, a);
  for (int64_t i = 0; i < 2 * n; ++i) {
    if (i == 0 || i == n) { /* each is whole after its own end */
      end_output(twin, TESTED);
    }
    if (i == n) {
      end_output(twin, TESTED);
    }
    const double size = has_products(decode) ? TOLERANCE * (double)both[i] : 0.0;
    assert_true(fabs((double)one[i] - (double)both[i]) <= size);
  }
  free(one);
}

/* More cells than can be averaged, where that is bounded. */
static void check_too_many(const av_twin *twin, const av_decode *decode, const arrays *a,
                           float *made) {
  if (twin->n > av_backend_average_rows(&twin->be[TESTED], decode->n_genes)) {
    assert_int_equal(begin_output(twin, TESTED, decode, a, (av_average){.n = 2}, made, NULL),
                     AV_BUG);
    av_error_clear();
  }
}

/* More cells than are on their way to the host at a time, and other pieces of rho and mu than of
 * one of them; outputs beside one another. */
static void output_in_pieces(void **state) {
  (void)state;
  static const av_test_kind kinds_of_pieces[] = {{AV_LIKELIHOOD_NB, GENE, 3, false, false, false},
                                                 {AV_LIKELIHOOD_NB, GENE, 21, false, true, false},
                                                 {AV_LIKELIHOOD_NB, GENE, 44, false, false, false}};
  const twin_shape shape = {
      .cells = 1200, .genes = 2100, .batches = 1, .rows = 1130, .filled = 5, .threads = 2};
  const size_t n = (size_t)(shape.rows * shape.genes);
  av_twin twin;
  twin_open(&twin, &shape);
  float *out = av_calloc(n, 2 * TWINS * sizeof *out);
  double *numbers = av_calloc(n, TWINS * sizeof *numbers);
  assert_true(out && numbers);
  for (int k = 0; k < 3; ++k) {
    source from = {.item = 4000};
    arrays a = arrays_make(&twin, &kinds_of_pieces[k], &from);
    for (int t = 0; t < TWINS; ++t) {
      const av_decode decode = decode_of(&twin, &kinds_of_pieces[k], &a, t, false);
      float *const rho = out + (size_t)(2 * t) * n;
      make_output(&twin, t, &decode, &a, rho, rho + n);
      if (t == TESTED) {
        check_alone(&twin, &decode, &a, rho);
        check_too_many(&twin, &decode, &a, rho);
        check_sums(&twin, &decode, &a, rho);
      }
    }
    for (size_t what = 0; what < 2; ++what) {
      for (size_t i = 0; i < n; ++i) {
        numbers[i] = (double)out[(2 * REFERENCE + what) * n + i];
        numbers[n + i] = (double)out[(2 * TESTED + what) * n + i];
      }
      same_numbers(what == 0 ? "rho" : "mu", (int64_t)n, numbers + n, numbers, TOLERANCE, 0.0);
    }
    arrays_free(&a);
  }
  free(out);
  free(numbers);
  twin_close(&twin);
}

int main(int argc, char **argv) {
  if (MPI_Init(&argc, &argv) != MPI_SUCCESS) {
    return 1;
  }
  const struct CMUnitTest tests[] = {cmocka_unit_test(against_reference),
                                     cmocka_unit_test(output_without_labels),
                                     cmocka_unit_test(output_in_pieces)};
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  MPI_Finalize();
  return failed;
}
