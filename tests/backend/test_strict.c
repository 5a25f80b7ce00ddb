/* Order-free mode: one minibatch split in different ways over the ranks of this run and over 1 or 2
 * threads gives the bits that one rank with one thread gets; the plain mode gives the same bits
 * when it runs again. Every rank holds all cells and takes its share of the rows. */
#include "backend/tested.h"
#include "backend/strict_run.h"

#include "backend/latent.h"
#include "config/config.h"
#include "math/rng.h"

#include <string.h>

enum { WIDTH = 38, LATENT = 6, CONTINUOUS = 2, INPUTS = LATENT + CONTINUOUS };

static av_comm world;
static av_comm self;
static av_dataset dataset;

static void layers(run *r, bool covariates) {
  av_backend *be = &r->be;
  const av_backend_ops *ops = be->ops;
  const int64_t inputs = r->genes + (covariates ? CONTINUOUS + r->onehot : 0);
  void *w = numbers(r, AV_REAL, 0, inputs * WIDTH, 1, 0, 0.1);
  void *bias = numbers(r, AV_REAL, 0, WIDTH, 2, 0, 1);
  void *y = array(r, AV_REAL, r->n * WIDTH);
  void *dy = numbers(r, AV_REAL, 1, WIDTH, 3, 0, 1);
  void *dw = array(r, AV_GRAD, inputs * WIDTH);
  void *dbias = array(r, AV_GRAD, WIDTH);
  ops->sparse_linear(be, r->batch, true, covariates, WIDTH, w, bias, y);
  note_cells(r, y, WIDTH);
  ops->sparse_linear_grad(be, r->batch, true, covariates, WIDTH, dy, dw, dbias);
  note_sum(r, AV_GRAD, dw, inputs * WIDTH);
  note_sum(r, AV_GRAD, dbias, WIDTH);
  const int64_t m = 45;
  const int64_t n_onehot = covariates ? r->onehot : 0;
  void *x = numbers(r, AV_REAL, 1, m, 4, 0, 1);
  void *v = numbers(r, AV_REAL, 0, (m + n_onehot) * WIDTH, 5, 0, 1);
  void *dv = array(r, AV_GRAD, (m + n_onehot) * WIDTH);
  void *dx = array(r, AV_REAL, r->n * m);
  ops->zero(be, AV_GRAD, dbias, WIDTH);
  ops->linear(be, r->batch, m, n_onehot, WIDTH, x, m, v, bias, y);
  note_cells(r, y, WIDTH);
  ops->linear_grad(be, r->batch, m, n_onehot, WIDTH, x, m, v, dy, dx, m, dv, dbias);
  note_cells(r, dx, m);
  note_sum(r, AV_GRAD, dv, (m + n_onehot) * WIDTH);
  note_sum(r, AV_GRAD, dbias, WIDTH);
  void *all[] = {w, bias, y, dy, dw, dbias, x, v, dv, dx};
  release(r, all, sizeof all / sizeof *all);
}

/* LayerNorm over `blocks` blocks; 0: none. */
static void norms(run *r, bool batch_norm, int64_t blocks) {
  av_backend *be = &r->be;
  const av_backend_ops *ops = be->ops;
  void *x = numbers(r, AV_REAL, 1, WIDTH, 10, 3, 1);
  void *gamma = numbers(r, AV_REAL, 0, WIDTH, 11, 1, 0.1);
  void *beta = numbers(r, AV_REAL, 0, WIDTH, 12, 0, 1);
  void *running = numbers(r, AV_REAL, 0, 2 * WIDTH, 13, 9, 0.1);
  void *y = array(r, AV_REAL, r->n * WIDTH);
  void *dy = numbers(r, AV_REAL, 1, WIDTH, 14, 0, 1);
  void *moments = array(r, AV_SUM, 2 * WIDTH);
  void *back = array(r, AV_SUM, 2 * WIDTH);
  void *dgamma = array(r, AV_GRAD, WIDTH);
  void *dbeta = array(r, AV_GRAD, WIDTH);
  av_norm norm = {.n = WIDTH,
                  .training = true,
                  .batch_norm = batch_norm,
                  .layer_norm = blocks > 0,
                  .blocks = blocks,
                  .relu = true,
                  .dropout = 0.3,
                  .layer = 2,
                  .draw = {.seed = 3, .epoch = 1},
                  .n_cells = ROWS};
  if (batch_norm) {
    ops->moments(be, r->batch, WIDTH, x, moments);
    note_sum(r, AV_SUM, moments, 2 * WIDTH);
  }
  ops->norm_act(be, r->batch, &norm, x, moments, gamma, beta, running, y);
  note_cells(r, y, WIDTH);
  note_shared(r, AV_REAL, running, 2 * WIDTH);
  if (blocks > 0) {
    ops->layer_norm_grad(be, r->batch, &norm, x, moments, gamma, beta, y, dy);
    note_cells(r, dy, WIDTH);
    norm.relu = false;
    norm.dropout = 0;
  }
  if (batch_norm) {
    ops->norm_act_sums(be, r->batch, &norm, x, moments, gamma, y, dy, back, dgamma, dbeta);
    note_sum(r, AV_SUM, back, 2 * WIDTH);
    note_sum(r, AV_GRAD, dgamma, WIDTH);
    note_sum(r, AV_GRAD, dbeta, WIDTH);
  }
  ops->norm_act_grad(be, r->batch, &norm, x, moments, gamma, y, dy, back, dy);
  note_cells(r, dy, WIDTH);
  void *all[] = {x, gamma, beta, running, y, dy, moments, back, dgamma, dbeta};
  release(r, all, sizeof all / sizeof *all);
}

static void latents(run *r, bool simplex) {
  av_backend *be = &r->be;
  const av_backend_ops *ops = be->ops;
  void *prior = numbers(r, AV_SUM, 0, 2 * r->batches, 20, 5, 0.1);
  void *z_head = numbers(r, AV_REAL, 1, 2 * LATENT, 21, 0, 0.3);
  void *l_head = numbers(r, AV_REAL, 1, 2, 22, 0, 0.3);
  void *z = array(r, AV_REAL, r->n * INPUTS);
  void *dz = numbers(r, AV_REAL, 1, INPUTS, 23, 0, 1);
  void *l = array(r, AV_REAL, r->n);
  void *losses = array(r, AV_SUM, AV_LOSSES);
  const av_latent latent = {.n_latent = LATENT,
                            .stride = INPUTS,
                            .simplex = simplex,
                            .latent_library = !simplex,
                            .sample = true,
                            .kl_weight = 1,
                            .draw = {.seed = 5, .purpose = AV_DRAW_LATENT}};
  for (int step = 0; step < 3; ++step) { /* losses collect */
    ops->latent_draw(be, r->batch, &latent, z_head, l_head, prior, z, l, losses);
  }
  note_cells(r, z, INPUTS);
  note_cells(r, l, 1);
  note_sum(r, AV_SUM, losses, AV_LOSSES);
  ops->latent_grad(be, r->batch, &latent, z_head, l_head, prior, z, dz, l, z_head, l_head);
  note_cells(r, z_head, 2 * LATENT);
  void *all[] = {prior, z_head, l_head, z, dz, l, losses};
  release(r, all, sizeof all / sizeof *all);
}

/* LDVAE's decoder: sums, fold, likelihood, gradients of the fold, correction. */
static void linear_decoder(run *r, int likelihood, int dispersion, bool biased) {
  av_backend *be = &r->be;
  const av_backend_ops *ops = be->ops;
  const int64_t width = INPUTS + r->onehot;
  const int64_t genes = r->genes;
  const int64_t n_stats = av_fold_stats_size(&r->dataset->design, INPUTS, r->onehot);
  const int64_t rows = dispersion == AV_DISPERSION_GENE_LABEL ? r->labels : r->batches;
  void *z = numbers(r, AV_REAL, 1, INPUTS, 30, 0, 0.5);
  void *l = numbers(r, AV_REAL, 1, 1, 31, 6, 0.1);
  void *w = numbers(r, AV_REAL, 0, width * genes, 32, 0, 0.3);
  void *bias = numbers(r, AV_REAL, 0, genes, 37, 0, 0.3);
  void *gamma = numbers(r, AV_REAL, 0, genes, 33, 1, 0.1);
  void *beta = numbers(r, AV_REAL, 0, genes, 34, 0, 0.5);
  void *running = numbers(r, AV_REAL, 0, 2 * genes, 35, 1, 0);
  void *px_r = numbers(r, AV_REAL, 0, rows * genes, 36, 0, 0.3);
  void *a = array(r, AV_REAL, width * genes);
  void *c = array(r, AV_REAL, genes);
  void *inv_sigma = array(r, AV_REAL, genes);
  void *stats = array(r, AV_SUM, n_stats);
  void *p = array(r, AV_GRAD, width * genes);
  void *s = array(r, AV_GRAD, genes);
  void *dpx_r = array(r, AV_GRAD, rows * genes);
  void *dw = array(r, AV_GRAD, width * genes);
  void *dgamma = array(r, AV_GRAD, genes);
  void *dbeta = array(r, AV_GRAD, genes);
  void *back = array(r, AV_SUM, INPUTS + INPUTS * width);
  void *dz = array(r, AV_REAL, r->n * INPUTS);
  void *dl = array(r, AV_REAL, r->n);
  void *losses = array(r, AV_SUM, AV_LOSSES);
  const av_fold fold = {.design = &r->dataset->design,
                        .n_genes = genes,
                        .n_in = INPUTS,
                        .n_onehot = r->onehot,
                        .training = true,
                        .n_cells = ROWS,
                        .w = w,
                        .bias = biased ? bias : NULL,
                        .gamma = gamma,
                        .beta = beta,
                        .running = running,
                        .a = a,
                        .c = c,
                        .inv_sigma = inv_sigma};
  const av_decode decode = {.likelihood = likelihood,
                            .dispersion = dispersion,
                            .n_genes = genes,
                            .n_in = INPUTS,
                            .n_onehot = r->onehot,
                            .n_dispersion = rows,
                            .scale = {.w = a, .c = c, .dw = p, .dc = s},
                            .px_r = px_r,
                            .dpx_r = dpx_r};
  ops->fold_sums(be, r->batch, INPUTS, r->onehot, z, stats);
  note_sum(r, AV_SUM, stats, n_stats);
  ops->fold(be, &fold, stats);
  note_shared(r, AV_REAL, running, 2 * genes);
  ops->decode_nll(be, r->batch, &decode, z, l, losses, dz, dl);
  note_cells(r, dz, INPUTS);
  note_cells(r, dl, 1);
  ops->fold_grad(be, &fold, stats, p, s, dw, dgamma, dbeta, back);
  note_sum(r, AV_SUM, losses, AV_LOSSES);
  note_sum(r, AV_GRAD, dpx_r, rows * genes);
  note_sum(r, AV_GRAD, dw, width * genes);
  note_sum(r, AV_GRAD, dgamma, genes);
  note_sum(r, AV_GRAD, dbeta, genes);
  note_sum(r, AV_SUM, back, INPUTS + INPUTS * width);
  ops->fold_correct(be, r->batch, &fold, stats, back, z, dz);
  note_cells(r, dz, INPUTS);
  void *all[] = {z,     l, w, bias,  gamma, beta,   running, px_r, a,  c,  inv_sigma,
                 stats, p, s, dpx_r, dw,    dgamma, dbeta,   back, dz, dl, losses};
  release(r, all, sizeof all / sizeof *all);
}

/* scVI's heads, and one step of Adam on a gradient. */
static void wide_decoder(run *r, int64_t n_in, bool softplus, bool by_cell, double clip) {
  enum { HEADS = 3 };
  av_backend *be = &r->be;
  const av_backend_ops *ops = be->ops;
  const int64_t genes = r->genes;
  const int64_t weights = (n_in + r->onehot) * genes;
  void *x = numbers(r, AV_REAL, 1, n_in, 40, 0, 0.5);
  void *l = numbers(r, AV_REAL, 1, 1, 41, softplus ? 1 : 6, 0.1);
  void *px_r = numbers(r, AV_REAL, 0, genes, 42, 0, 0.3);
  void *dpx_r = array(r, AV_GRAD, genes);
  void *dx = array(r, AV_REAL, r->n * n_in);
  void *dl = array(r, AV_REAL, r->n);
  void *losses = array(r, AV_SUM, AV_LOSSES);
  void *w[HEADS];
  void *c[HEADS];
  void *dw[HEADS];
  void *dc[HEADS];
  av_head head[HEADS];
  for (int h = 0; h < HEADS; ++h) {
    w[h] = numbers(r, AV_REAL, 0, weights, 43 + (uint64_t)h, 0, 0.1);
    c[h] = numbers(r, AV_REAL, 0, genes, 46 + (uint64_t)h, 0, 0.5);
    dw[h] = array(r, AV_GRAD, weights);
    dc[h] = array(r, AV_GRAD, genes);
    head[h] = (av_head){.w = w[h], .c = c[h], .dw = dw[h], .dc = dc[h]};
  }
  const av_decode decode = {.likelihood = AV_LIKELIHOOD_ZINB,
                            .dispersion = by_cell ? AV_DISPERSION_GENE_CELL : AV_DISPERSION_GENE,
                            .softplus = softplus,
                            .n_genes = genes,
                            .n_in = n_in,
                            .n_onehot = r->onehot,
                            .n_dispersion = 1,
                            .scale = head[0],
                            .dropout = head[1],
                            .px_r_head = by_cell ? head[2] : (av_head){0},
                            .px_r = by_cell ? NULL : px_r,
                            .dpx_r = by_cell ? NULL : dpx_r};
  ops->decode_nll(be, r->batch, &decode, x, l, losses, dx, dl);
  note_cells(r, dx, n_in);
  note_cells(r, dl, 1);
  note_sum(r, AV_SUM, losses, AV_LOSSES);
  note_sum(r, AV_GRAD, dpx_r, genes);
  for (int h = 0; h < HEADS; ++h) {
    note_sum(r, AV_GRAD, dw[h], weights);
    note_sum(r, AV_GRAD, dc[h], genes);
  }
  const av_adam adam = {.lr = 1e-3,
                        .beta1 = 0.9,
                        .beta2 = 0.999,
                        .eps = 0.01,
                        .weight_decay = 1e-2,
                        .decoupled = clip > 0,
                        .clip = clip,
                        .scale = 1.0 / ROWS,
                        .step = 1};
  void *m = array(r, AV_REAL, weights);
  void *v = array(r, AV_REAL, weights);
  ops->adam(be, &adam, weights, w[0], dw[0], m, v);
  note_shared(r, AV_REAL, w[0], weights);
  void *all[] = {x, l, px_r, dpx_r, dx, dl, losses, m, v};
  release(r, all, sizeof all / sizeof *all);
  release(r, w, HEADS);
  release(r, c, HEADS);
  release(r, dw, HEADS);
  release(r, dc, HEADS);
}

static void everything(run *r) {
  layers(r, false);
  layers(r, true);
  norms(r, true, 0);
  norms(r, true, 2);
  norms(r, false, 1);
  norms(r, false, 0);
  latents(r, false);
  latents(r, true);
  linear_decoder(r, AV_LIKELIHOOD_NB, AV_DISPERSION_GENE_BATCH, false);
  linear_decoder(r, AV_LIKELIHOOD_NB, AV_DISPERSION_GENE_LABEL, true);
  linear_decoder(r, AV_LIKELIHOOD_POISSON, AV_DISPERSION_GENE, false);
  wide_decoder(r, 10, false, false, 0);
  wide_decoder(r, 70, false, true, 0.01);
  wide_decoder(r, 11, true, true, 1);
  wide_decoder(r, 64, true, false, 0);
}

/* Compares with the same rows of a run that had all of them: results come in blocks of `rows` rows.
 */
static void same_cells(const run *part, const run *whole) {
  assert_int_equal(part->n_cells * whole->n, whole->n_cells * part->n);
  int64_t mine = 0;
  int64_t theirs = 0;
  for (int b = 0; b < whole->n_blocks; ++b) {
    const int64_t width = whole->width[b];
    const int64_t n = part->n * width;
    if (memcmp(part->cells + mine, whole->cells + theirs + part->first * width,
               (size_t)n * sizeof(double)) != 0) {
      fail_msg("rows %lld to %lld: block %d of the results of cells differs",
               (long long)part->first, (long long)(part->first + part->n), b);
    }
    mine += n;
    theirs += whole->n * width;
  }
  assert_int_equal(theirs, whole->n_cells);
}

static void same_sums(const run *part, const run *whole) {
  assert_int_equal(part->n_sums, whole->n_sums);
  for (int i = 0; i < part->n_sums; ++i) {
    if (part->sums[i] != whole->sums[i]) {
      fail_msg("%d ranks, rank %d with %lld rows: sum %d of %d differs from one rank's", world.size,
               world.rank, (long long)part->n, i, part->n_sums);
    }
  }
}

/* Rows of this rank under split number `split`: even, all on the last rank, uneven. */
static void share(int split, int64_t *first, int64_t *end) {
  const int64_t size = world.size;
  const int64_t rank = world.rank;
  if (split == 0) {
    *first = ROWS * rank / size;
    *end = ROWS * (rank + 1) / size;
  } else if (split == 1) {
    *first = 0;
    *end = rank + 1 == size ? ROWS : 0;
  } else {
    *first = rank == 0 ? 0 : ROWS - 5 + (rank - 1) * 5 / (size - 1);
    *end = rank + 1 == size ? ROWS : ROWS - 5 + rank * 5 / (size > 1 ? size - 1 : 1);
  }
}

static void any_split_gives_the_same_bits(void **state) {
  (void)state;
  for (int set = 0;; ++set) {
    run whole;
    run_open(&whole, &self, &dataset, 1, true, 0, ROWS);
    if (!use_way(&whole.be, set)) {
      run_close(&whole);
      break;
    }
    everything(&whole);
    assert_true(whole.n_sums > 80);
    for (int split = 0; split < 3; ++split) {
      for (int threads = 1; threads <= 2; ++threads) {
        if (set > 0 && (split != 2 || threads != 2)) {
          continue; /* all combinations with one instruction set, one with the others */
        }
        int64_t first = 0;
        int64_t end = 0;
        share(split, &first, &end);
        run part;
        run_open(&part, &world, &dataset, threads, true, first, end - first);
        assert_true(use_way(&part.be, set));
        everything(&part);
        same_sums(&part, &whole);
        same_cells(&part, &whole);
        run_close(&part);
      }
    }
    run_close(&whole);
  }
}

static void plain_mode_repeats(void **state) {
  (void)state;
  int64_t first = 0;
  int64_t end = 0;
  share(0, &first, &end);
  for (int threads = 1; threads <= 2; ++threads) {
    run one;
    run two;
    run_open(&one, &world, &dataset, threads, false, first, end - first);
    run_open(&two, &world, &dataset, threads, false, first, end - first);
    everything(&one);
    everything(&two);
    same_sums(&one, &two);
    assert_memory_equal(one.cells, two.cells, (size_t)one.n_cells * sizeof *one.cells);
    run_close(&one);
    run_close(&two);
  }
}

/* Sums that plain addition would get wrong in the last bits do differ without the mode: the test
 * above can fail. */
static void plain_mode_depends_on_the_split(void **state) {
  (void)state;
  run whole;
  run part;
  int64_t first = 0;
  int64_t end = 0;
  share(0, &first, &end);
  run_open(&whole, &self, &dataset, 1, false, 0, ROWS);
  run_open(&part, &world, &dataset, 1, false, first, end - first);
  everything(&whole);
  everything(&part);
  int differ = 0;
  for (int i = 0; i < whole.n_sums; ++i) {
    differ += whole.sums[i] != part.sums[i];
  }
  assert_true(world.size == 1 ? differ == 0 : differ > 20);
  run_close(&whole);
  run_close(&part);
}

int main(int argc, char **argv) {
  if (av_comm_create(&world, &argc, &argv) != AV_OK) {
    return 1;
  }
  av_comm_self(&self);
  make_dataset(&dataset,
               &(twin_shape){.cells = CELLS,
                             .genes = 301,
                             .batches = 5,
                             .filled = 40,
                             .categorical = 3,
                             .continuous = CONTINUOUS,
                             .labels = 4},
               3);
  const struct CMUnitTest tests[] = {cmocka_unit_test(any_split_gives_the_same_bits),
                                     cmocka_unit_test(plain_mode_repeats),
                                     cmocka_unit_test(plain_mode_depends_on_the_split)};
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  free_dataset(&dataset);
  av_comm_free(&world);
  return failed;
}
