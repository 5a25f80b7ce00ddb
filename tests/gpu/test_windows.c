/* Linear decoders that write no rows of gradients on logits, however many inputs and one-hot
 * columns they have and whosever rows px_r has: beside the reference, in as many passes as that
 * takes. */
#include "backend/twin.h"

#include "backend/gpu_decode.h"
#include "backend/latent.h"
#include "backend/tested.h"
#include "config/config.h"

#include <math.h>
#include <mpi.h>
#include <stdlib.h>
#include <string.h>

#ifdef AV_EMULATED
extern size_t tested_scratch; /* tested_cuda.c */
#endif

enum {
  NB = AV_LIKELIHOOD_NB,
  ZINB = AV_LIKELIHOOD_ZINB,
  POISSON = AV_LIKELIHOOD_POISSON,
  GENE = AV_DISPERSION_GENE,
  BATCH = AV_DISPERSION_GENE_BATCH,
  LABEL = AV_DISPERSION_GENE_LABEL,
  CELL = AV_DISPERSION_GENE_CELL,
  LABELS = 7
};

typedef struct av_test_model {
  int likelihood, dispersion;
  bool softplus, no_c;
  int64_t n_in, batches, covariates,
      categories; /* covariates of so many each; 1 batch: no columns */
  int passes;     /* worked out by hand, for 39 inputs a pass */
} av_test_model;

/* By what there is too much of for one pass; the last few are not. */
static const av_test_model models[] = {
    /* inputs */
    {NB, GENE, false, false, 40, 1, 0, 0, 2},
    {ZINB, GENE, true, true, 64, 1, 0, 0, 2},
    {POISSON, GENE, false, false, 78, 1, 0, 0, 2},
    {NB, CELL, true, false, 79, 1, 0, 0, 3},
    {ZINB, CELL, false, false, 100, 1, 0, 0, 3},
    /* columns */
    {NB, GENE, false, false, 10, 36, 1, 36, 2},
    {ZINB, CELL, false, true, 10, 36, 2, 20, 3},
    {POISSON, GENE, true, false, 10, 36, 2, 36, 3},
    {NB, GENE, false, false, 39, 4, 9, 2, 10},
    /* rows of px_r: beside a large factor, or with the first of two */
    {NB, LABEL, false, false, 10, 60, 0, 0, 2},
    {ZINB, LABEL, false, false, 12, 36, 1, 36, 3},
    {NB, BATCH, false, true, 10, 36, 1, 36, 2},
    {ZINB, BATCH, true, false, 38, 3, 1, 2, 2},
    /* and inputs, of more passes or of fewer */
    {NB, GENE, false, false, 40, 36, 0, 0, 2},
    {NB, BATCH, false, false, 100, 36, 1, 5, 3},
    {ZINB, LABEL, false, false, 40, 5, 2, 4, 4},
    {NB, LABEL, true, false, 64, 1, 0, 0, 2},
    {ZINB, BATCH, false, false, 41, 5, 0, 0, 2},
    /* nothing */
    {NB, GENE, false, false, 39, 60, 0, 0, 1},
    {ZINB, LABEL, false, false, 39, 1, 0, 0, 1},
    {NB, BATCH, false, false, 10, 36, 1, 29, 1}};

enum { SCALE, DROPOUT, PX_R, HEADS };

static int64_t dispersions_of(const av_test_model *of) {
  return of->dispersion == BATCH ? of->batches : of->dispersion == LABEL ? (int64_t)LABELS : 1;
}
static bool by_cell(const av_test_model *of) {
  return of->likelihood != POISSON && of->dispersion == CELL;
}
static bool has_head(const av_test_model *of, int h) {
  return h == SCALE || (h == DROPOUT ? of->likelihood == ZINB : by_cell(of));
}

static av_gpu_decode_sizes sizes_of(const av_twin *twin, const av_test_model *of) {
  av_gpu_decode_sizes sizes = {.max_rows = twin->n + twin->spare,
                               .n_genes = twin->dataset.n_genes,
                               .n_in = of->n_in,
                               .n_onehot = twin->columns,
                               .n_factors = twin->columns > 0 ? twin->dataset.design.n_factors : 0,
                               .first = twin->dataset.design.first,
                               .px_r = av_gpu_px_r_of(of->likelihood, of->dispersion),
                               .n_px_r = dispersions_of(of),
                               .linear = true};
  for (int h = 0; h < HEADS; ++h) {
    sizes.n_heads += has_head(of, h) ? 1 : 0;
  }
  return sizes;
}

/* The linker puts the second in the place of the first. Chunks are of at most `cells` cells, where
 * that is not 0, and two slabs. */
static int64_t cells;
static int n_asked;
av_gpu_decode_cut __real_av_gpu_decode_cut_of(const av_gpu_decode_sizes *of);
av_gpu_decode_cut __wrap_av_gpu_decode_cut_of(const av_gpu_decode_sizes *of);
av_gpu_decode_cut __wrap_av_gpu_decode_cut_of(const av_gpu_decode_sizes *of) {
  av_gpu_decode_cut cut = __real_av_gpu_decode_cut_of(of);
  assert_int_equal(of->way, AV_GPU_DECODE_NO_ROWS);
  ++n_asked;
  if (cells > 0 && cells < cut.chunk) {
    cut.chunk = cells;
    cut.slab = cells / 2;
    cut.n_slabs = 2;
  }
  return cut;
}

/* ---- the plan ---- */

/* Every input, factor and row of px_r is in one pass. */
static void check_passes(const av_gpu_decode_sizes *of, const av_gpu_decode_cut *cut, int passes) {
  int64_t next = 0;
  int64_t walks = 0; /* a bit a factor */
  int px_r = 0;
  assert_false(cut->wide || cut->kept || cut->w_rows);
  assert_int_equal(cut->n_passes, passes);
  assert_int_equal(cut->spread, passes == 1);
  for (int p = 0; p < passes; ++p) {
    const av_gpu_decode_pass pass = av_gpu_decode_pass_of(of, cut, p);
    assert_int_equal(pass.from, passes == 1 ? 0 : next);
    next += pass.own;
    assert_in_range(pass.width, pass.own + 1, AV_GPU_DECODE_WIDTH);
    assert_in_range(pass.width, 1, cut->width);
    assert_in_range(pass.n_partial, pass.width, cut->n_partial);
    assert_in_range(pass.n_runs, pass.walk != AV_GPU_WALK_NONE, cut->n_runs);
    assert_true(pass.walk < 0 || (walks & INT64_C(1) << pass.walk) == 0);
    walks |= pass.walk < 0 ? 0 : INT64_C(1) << pass.walk;
    px_r += pass.px_r_runs ? 1 : 0;
  }
  assert_int_equal(next, of->n_in);
  assert_true(passes == 1 || walks == (INT64_C(1) << of->n_factors) - 1);
  assert_int_equal(px_r, of->px_r == AV_GPU_PX_R_BATCH || of->px_r == AV_GPU_PX_R_LABEL);
}

/* Beside parts of dx, scratch of many cells is far less than their rows of gradients. */
static void check_bytes(const av_gpu_decode_sizes *of) {
  av_gpu_decode_sizes many = *of;
  many.max_rows = 4096;
  many.n_genes = 2000;
  const av_gpu_decode_cut cut = av_gpu_decode_cut_of(&many);
  const int64_t row = cut.stride * (int64_t)sizeof(float);
  const int64_t inputs = many.n_in < AV_GPU_DECODE_WIDTH ? many.n_in : AV_GPU_DECODE_WIDTH - 1;
  const int64_t dx = cut.chunk * inputs * row / AV_GPU_DECODE_TILE;
  assert_int_equal(cut.chunk, many.max_rows);
  assert_in_range(av_gpu_decode_bytes(&many) - dx, 1, many.n_heads * cut.chunk * row / 2);
}

/* ---- calls ---- */

typedef struct arrays {
  av_pair x, l, w[HEADS], c[HEADS], px_r, dw[HEADS], dc[HEADS], dpx_r, dx, dl, losses;
} arrays;

static arrays arrays_make(av_twin *twin, const av_test_model *of) {
  source from = {.item = 6000};
  const int64_t genes = twin->dataset.n_genes;
  const int64_t rows = twin->n + twin->spare;
  const int64_t width = of->n_in + twin->columns;
  const int64_t table = dispersions_of(of) * genes;
  double *x = calloc((size_t)(rows * of->n_in), sizeof *x);
  assert_non_null(x);
  for (int64_t i = 0; i < twin->n * of->n_in; ++i) { /* 0 in rows to spare */
    x[i] = (double)(float)source_normal(&from);
  }
  arrays a = {.x = pair_values(twin, AV_REAL, rows * of->n_in, x),
              .l = pair_normals(twin, AV_REAL, rows, &from, of->softplus ? 1 : 7, 1),
              .px_r = pair_normals(twin, AV_REAL, table, &from, 0, 1.5),
              .dpx_r = pair_zeros(twin, AV_GRAD, table),
              .dx = pair_zeros(twin, AV_REAL, rows * of->n_in),
              .dl = pair_zeros(twin, AV_REAL, rows),
              .losses = pair_zeros(twin, AV_SUM, AV_LOSSES)};
  for (int h = 0; h < HEADS; ++h) {
    const double scale = 1 / sqrt((double)of->n_in);
    a.w[h] = pair_normals(twin, AV_REAL, width * genes, &from, 0, scale);
    a.c[h] = pair_normals(twin, AV_REAL, genes, &from, h == DROPOUT ? -1 : 0, 2);
    a.dw[h] = pair_zeros(twin, AV_GRAD, width * genes);
    a.dc[h] = pair_zeros(twin, AV_GRAD, genes);
  }
  free(x);
  return a;
}

static void arrays_free(arrays *a) {
  av_pair *all[] = {&a->x, &a->l, &a->px_r, &a->dpx_r, &a->dx, &a->dl, &a->losses};
  for (size_t i = 0; i < sizeof all / sizeof *all; ++i) {
    pair_free(all[i]);
  }
  for (int h = 0; h < HEADS; ++h) {
    pair_free(&a->w[h]);
    pair_free(&a->c[h]);
    pair_free(&a->dw[h]);
    pair_free(&a->dc[h]);
  }
}

static av_head head_of(const av_test_model *of, const arrays *a, int h, int t, bool gradients) {
  if (!has_head(of, h)) {
    return (av_head){0};
  }
  return (av_head){.w = a->w[h].at[t],
                   .c = of->no_c ? NULL : a->c[h].at[t],
                   .dw = gradients ? a->dw[h].at[t] : NULL,
                   .dc = gradients && !of->no_c ? a->dc[h].at[t] : NULL};
}

static av_decode decode_of(const av_twin *twin, const av_test_model *of, const arrays *a, int t,
                           bool gradients) {
  const bool table = of->likelihood != POISSON && !by_cell(of);
  return (av_decode){.likelihood = of->likelihood,
                     .dispersion = of->dispersion,
                     .softplus = of->softplus,
                     .n_genes = twin->dataset.n_genes,
                     .n_in = of->n_in,
                     .linear = true,
                     .n_onehot = twin->columns,
                     .n_dispersion = dispersions_of(of),
                     .scale = head_of(of, a, SCALE, t, gradients),
                     .dropout = head_of(of, a, DROPOUT, t, gradients),
                     .px_r_head = head_of(of, a, PX_R, t, gradients),
                     .px_r = table ? a->px_r.at[t] : NULL,
                     .dpx_r = gradients && table ? a->dpx_r.at[t] : NULL};
}

static void check_gradients(av_twin *twin, const av_test_model *of, arrays *a) {
  av_pair *added[] = {&a->dw[0], &a->dw[1], &a->dw[2], &a->dc[0], &a->dc[1], &a->dc[2], &a->dpx_r};
  av_decode decode[TWINS];
  for (size_t i = 0; i < sizeof added / sizeof *added; ++i) {
    BOTH(twin, zero(be, AV_GRAD, added[i]->at[t], added[i]->n));
  }
  BOTH(twin, zero(be, AV_SUM, a->losses.at[t], AV_LOSSES));
  for (int t = 0; t < TWINS; ++t) {
    decode[t] = decode_of(twin, of, a, t, true);
  }
  BOTH(twin, decode_nll(be, batch, &decode[t], a->x.at[t], a->l.at[t], a->losses.at[t], a->dx.at[t],
                        a->dl.at[t]));
  same("losses", &a->losses, TOLERANCE);
  same("dx", &a->dx, TOLERANCE);
  same("dl", &a->dl, TOLERANCE);
  for (int h = 0; h < HEADS; ++h) {
    const char *const dw[] = {"dw of scale", "dw of dropout", "dw of px_r"};
    const char *const dc[] = {"dc of scale", "dc of dropout", "dc of px_r"};
    same(dw[h], &a->dw[h], TOLERANCE);
    same_part(dw[h], &a->dw[h], of->n_in, twin->dataset.n_genes, TOLERANCE);
    same(dc[h], &a->dc[h], TOLERANCE);
  }
  same("dpx_r", &a->dpx_r, TOLERANCE);
}

/* The losses without gradients: those with them; and by cell. */
static void check_losses(av_twin *twin, const av_test_model *of, arrays *a) {
  double *before = pair_read(&a->losses, TESTED);
  double *nll = calloc((size_t)twin->n + 1, TWINS * sizeof *nll);
  assert_non_null(nll);
  BOTH(twin, zero(be, AV_SUM, a->losses.at[t], AV_LOSSES));
  for (int t = 0; t < TWINS; ++t) {
    const av_decode decode = decode_of(twin, of, a, t, false);
    av_backend *be = &twin->be[t];
    be->ops->decode_nll(be, twin->batch[t], &decode, a->x.at[t], a->l.at[t], a->losses.at[t], NULL,
                        NULL);
    require(be->ops->decode_cells(be, twin->batch[t], &decode, a->x.at[t], a->l.at[t],
                                  nll + t * twin->n));
  }
  double *after = pair_read(&a->losses, TESTED);
  assert_true(before[AV_LOSS_NLL] == after[AV_LOSS_NLL]);
  same_numbers("nll", twin->n, nll + TESTED * twin->n, nll + REFERENCE * twin->n, TOLERANCE, 0.0);
  free(before);
  free(after);
  free(nll);
}

/* For each gene the sum of rho over cells. */
static void check_sums(av_twin *twin, const av_test_model *of, arrays *a) {
  const int64_t genes = twin->dataset.n_genes;
  av_pair words = pair_zeros(twin, AV_SUM, 2 * genes);
  double *sums = calloc((size_t)genes, TWINS * sizeof *sums);
  assert_non_null(sums);
  for (int t = 0; t < TWINS; ++t) {
    const av_decode decode = decode_of(twin, of, a, t, false);
    av_backend *be = &twin->be[t];
    require(be->ops->decode_sums(be, twin->batch[t], &decode, a->x.at[t], a->l.at[t], 0x1p30,
                                 words.at[t]));
    double *read = pair_read(&words, t);
    for (int64_t g = 0; g < genes; ++g) {
      av_wide sum;
      memcpy(&sum, read + 2 * g, sizeof sum);
      sums[t * genes + g] = av_wide_value(&sum);
    }
    free(read);
  }
  same_numbers("sums of rho", genes, sums + TESTED * genes, sums + REFERENCE * genes, TOLERANCE,
               0.0);
  free(sums);
  pair_free(&words);
}

static void on_shape(const twin_shape *shape, const av_test_model *of) {
  twin_shape own = *shape;
  own.batches = of->batches;
  own.categorical = of->covariates;
  own.categories = of->categories;
  own.labels = LABELS;
  own.threads = 1;
  av_twin twin;
  twin_open(&twin, &own);
  const av_gpu_decode_sizes sizes = sizes_of(&twin, of);
  const av_gpu_decode_cut cut = av_gpu_decode_cut_of(&sizes);
  check_passes(&sizes, &cut, of->passes);
  arrays a = arrays_make(&twin, of);
  for (int way = 0; use_way(&twin.be[TESTED], way); ++way) {
    n_asked = 0;
    check_gradients(&twin, of, &a);
#ifdef AV_EMULATED
    const int64_t plan = av_gpu_decode_bytes(&sizes);
    assert_in_range(tested_scratch, 1, plan);
    if (cells == 0) {
      assert_in_range(plan, 1, (int64_t)tested_scratch * 5 / 4 + 20000);
    }
#endif
    check_losses(&twin, of, &a);
    assert_true(n_asked >= 2);
  }
  check_sums(&twin, of, &a);
  arrays_free(&a);
  twin_close(&twin);
}

static void planned(void **state) {
  (void)state;
  for (size_t m = 0; m < sizeof models / sizeof *models; ++m) {
    const av_test_model *of = &models[m];
    const twin_shape shape = {.cells = 4,
                              .genes = 33,
                              .batches = of->batches,
                              .rows = 3,
                              .filled = 1,
                              .threads = 1,
                              .labels = LABELS,
                              .categorical = of->covariates,
                              .categories = of->categories};
    av_twin twin;
    twin_open(&twin, &shape);
    const av_gpu_decode_sizes sizes = sizes_of(&twin, of);
    check_bytes(&sizes);
    twin_close(&twin);
  }
}

/* Full minibatches, and some that are not; one chunk and slab, or several. All models on the first
 * shape, each on one of the others. */
static void against_reference(void **state) {
  (void)state;
  static const twin_shape shapes[] = {
      {.cells = 80, .genes = 70, .rows = 69, .filled = 12},
      {.cells = 80, .genes = 33, .rows = 50, .spare = 31, .filled = 9},
      {.cells = 40, .genes = 97, .rows = 1, .spare = 40, .filled = 9},
      {.cells = 40, .genes = 33, .rows = 0, .spare = 3, .filled = 9}};
  static const int64_t chunks[] = {0, 64, 0, 0};
  for (size_t s = 0; s < sizeof shapes / sizeof *shapes; ++s) {
    cells = chunks[s];
    for (size_t m = 0; m < sizeof models / sizeof *models; ++m) {
      if (s == 0 || m % 3 == s - 1) {
        on_shape(&shapes[s], &models[m]);
      }
    }
  }
  cells = 0;
}

/* More inputs than blocks of several cells have shared memory for. */
static void thousands_of_inputs(void **state) {
  (void)state;
  static const twin_shape shape = {.cells = 40, .genes = 9, .rows = 30, .spare = 1000, .filled = 4};
  static const av_test_model model = {NB, GENE, false, false, 2600, 1, 0, 0, 67};
  on_shape(&shape, &model);
}

int main(int argc, char **argv) {
  if (MPI_Init(&argc, &argv) != MPI_SUCCESS) {
    return 1;
  }
  const struct CMUnitTest tests[] = {cmocka_unit_test(planned), cmocka_unit_test(against_reference),
                                     cmocka_unit_test(thousands_of_inputs)};
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  MPI_Finalize();
  return failed;
}
