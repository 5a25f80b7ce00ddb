/* The decoder's scratch, as planned (backend/gpu_decode.h) and as taken, over all the ways in which
 * it adds up gradients; and which ways there are. */
#include "backend/twin.h"

#include "backend/gpu_decode.h"
#include "backend/latent.h"
#include "backend/tested.h"
#include "config/config.h"
#include "state.h"

#include <mpi.h>

extern size_t tested_scratch; /* tested_cuda.c */

enum {
  GENE = AV_DISPERSION_GENE,
  BATCH = AV_DISPERSION_GENE_BATCH,
  LABEL = AV_DISPERSION_GENE_LABEL
};

typedef struct av_test_call {
  int64_t batches, categorical; /* of 3, 1, 5 categories */
  int64_t n_in;
  bool onehot, zinb;
  int dispersion;             /* 7 labels */
  av_gpu_decode_cut expected; /* without rows, but for sizes; by hand, from gpu_decode.h's rules */
} av_test_call;

#define NONE .walk = AV_GPU_WALK_NONE
#define PX_R .walk = AV_GPU_WALK_PX_R, .px_r_runs = true
static const av_test_call calls[] = {
    {1, 0, 10, false, false, GENE, {.spread = true, .width = 11, NONE}},
    {9, 0, 10, true, false, GENE, {.spread = true, .width = 20, NONE}},
    {10, 0, 10, true, false, GENE, {.spread = true, .width = 11, .walk = 0}},
    {60, 0, 10, true, true, GENE, {.spread = true, .width = 11, .walk = 0}},
    {4, 3, 10, true, false, GENE, {.spread = true, .width = 18, .walk = 2}}, /* 4, 3, 5 */
    {60, 3, 10, true, false, GENE, {.spread = true, .width = 19, .walk = 0}},
    {60, 3, 10, true, true, BATCH, {.spread = true, .width = 19, .walk = 0, .px_r_runs = true}},
    {60, 3, 10, true, false, LABEL, {.n_passes = 4, .width = 11, .walk = 0, .px_r_runs = true}},
    {2, 0, 10, true, false, BATCH, {.spread = true, .width = 13, PX_R}},
    {6, 3, 10, true, false, LABEL, {.spread = true, .width = 25, PX_R}},
    {7, 3, 10, true, false, LABEL, {.spread = true, .width = 26, PX_R}},
    {12, 0, 12, false, true, LABEL, {.spread = true, .width = 13, PX_R}},
    {48, 3, 20, true, false, GENE, {.spread = true, .width = 29, .walk = 0}},
    {48, 3, 20, true, false, BATCH, {.spread = true, .width = 29, .walk = 0, .px_r_runs = true}},
    {48, 0, 24, true, false, GENE, {.spread = true, .width = 25, .walk = 0}},
    {1, 0, 24, false, true, GENE, {.spread = true, .width = 25, NONE}},
    {48, 0, 25, true, false, BATCH, {.spread = true, .width = 26, .walk = 0, .px_r_runs = true}},
    {48, 0, 40, true, false, GENE, {.n_passes = 2, .width = 40, .walk = 0}},
};

static av_gpu_decode_sizes sizes_of(const av_twin *twin, const av_test_call *of) {
  const bool one = of->dispersion == GENE;
  return (av_gpu_decode_sizes){.max_rows = twin->n + twin->spare,
                               .n_genes = twin->dataset.n_genes,
                               .n_heads = of->zinb ? 2 : 1,
                               .n_in = of->n_in,
                               .n_onehot = of->onehot ? twin->columns : 0,
                               .n_factors = of->onehot ? twin->dataset.design.n_factors : 0,
                               .first = twin->dataset.design.first,
                               .px_r = one                       ? AV_GPU_PX_R_ONE
                                       : of->dispersion == BATCH ? AV_GPU_PX_R_BATCH
                                                                 : AV_GPU_PX_R_LABEL,
                               .linear = true,
                               .n_px_r = one                       ? 1
                                         : of->dispersion == BATCH ? of->batches
                                                                   : 7};
}

/* Sums of rho over cells need two numbers a cell. */
static void check_sums(av_twin *twin, const av_decode *call, const av_pair *x, const av_pair *l) {
  const size_t before = tested_scratch;
  av_backend *be = &twin->be[TESTED];
  av_pair sums = pair_zeros(twin, AV_SUM, 2 * call->n_genes);
  assert_int_equal(be->ops->decode_sums(be, twin->batch[TESTED], call, x->at[TESTED], l->at[TESTED],
                                        0x1p30, sums.at[TESTED]),
                   AV_OK);
  const size_t needed = (size_t)(twin->n + twin->spare) * 2 * sizeof(float);
  assert_in_range(tested_scratch, needed, needed + 256);
  tested_scratch = before;
  pair_free(&sums);
}

static void decode(av_twin *twin, const av_test_call *of, const av_gpu_decode_sizes *sizes) {
  source from = {.item = 50};
  const int64_t rows = sizes->max_rows;
  const int64_t w_size = (of->n_in + sizes->n_onehot) * sizes->n_genes;
  av_pair x = pair_normals(twin, AV_REAL, rows * of->n_in, &from, 0, 0.1);
  av_pair l = pair_normals(twin, AV_REAL, rows, &from, 3, 1);
  av_pair w = pair_zeros(twin, AV_REAL, w_size);
  av_pair dw = pair_zeros(twin, AV_GRAD, w_size);
  av_pair px_r = pair_normals(twin, AV_REAL, sizes->n_px_r * sizes->n_genes, &from, 0, 1);
  av_pair dpx_r = pair_zeros(twin, AV_GRAD, sizes->n_px_r * sizes->n_genes);
  av_pair losses = pair_zeros(twin, AV_SUM, AV_LOSSES);
  av_pair dx = pair_zeros(twin, AV_REAL, rows * of->n_in);
  av_pair dl = pair_zeros(twin, AV_REAL, rows);
  const av_head head = {.w = w.at[TESTED], .dw = dw.at[TESTED]};
  const av_decode call = {.likelihood = of->zinb ? AV_LIKELIHOOD_ZINB : AV_LIKELIHOOD_NB,
                          .dispersion = of->dispersion,
                          .n_genes = sizes->n_genes,
                          .n_in = of->n_in,
                          .linear = true,
                          .n_onehot = sizes->n_onehot,
                          .n_dispersion = sizes->n_px_r,
                          .scale = head,
                          .dropout = of->zinb ? head : (av_head){0},
                          .px_r = px_r.at[TESTED],
                          .dpx_r = dpx_r.at[TESTED]};
  av_backend *be = &twin->be[TESTED];
  be->ops->decode_nll(be, twin->batch[TESTED], &call, x.at[TESTED], l.at[TESTED], losses.at[TESTED],
                      dx.at[TESTED], dl.at[TESTED]);
  check_sums(twin, &call, &x, &l);
  av_pair *all[] = {&x, &l, &w, &dw, &px_r, &dpx_r, &losses, &dx, &dl};
  for (size_t i = 0; i < sizeof all / sizeof *all; ++i) {
    pair_free(all[i]);
  }
}

/* Whatever way it goes. */
static void check_scratch(av_twin *twin, const av_test_call *of, const av_gpu_decode_sizes *sizes) {
  int ways[AV_GPU_DECODE_WAYS];
  const int n = av_gpu_decode_ways(sizes, ways);
  int64_t most = 0;
  assert_in_range(n, 2, AV_GPU_DECODE_WAYS);
  for (int w = 0; w < n; ++w) {
    av_gpu_decode_sizes taken = *sizes;
    taken.way = ways[w];
    av_gpu_of(&twin->be[TESTED])->way = ways[w];
    decode(twin, of, sizes);
    const int64_t plan = av_gpu_decode_bytes(&taken);
    assert_in_range(tested_scratch, 1, plan);
    assert_in_range(plan, 1, (int64_t)tested_scratch * 5 / 4 + 20000); /* and not much more */
    most = plan > most ? plan : most;
  }
  assert_int_equal(av_gpu_decode_most_bytes(sizes), most);
}

static void planned(void **state) {
  (void)state;
  static const int64_t genes[] = {1, 33, 700};
  static const int64_t spares[] = {0, 1, 100};
  for (size_t c = 0; c < sizeof calls / sizeof *calls; ++c) {
    for (size_t s = 0; s < sizeof genes / sizeof *genes; ++s) {
      const twin_shape shape = {.cells = 20,
                                .genes = genes[s],
                                .batches = calls[c].batches,
                                .rows = 3,
                                .spare = spares[s],
                                .filled = 1,
                                .threads = 1,
                                .labels = 7,
                                .categorical = calls[c].categorical};
      av_twin twin;
      twin_open(&twin, &shape);
      const av_gpu_decode_sizes sizes = sizes_of(&twin, &calls[c]);
      const av_gpu_decode_cut cut = av_gpu_decode_cut_of(&sizes);
      const av_gpu_decode_cut *expected = &calls[c].expected;
      assert_false(cut.wide || cut.kept || cut.w_rows);
      assert_int_equal(cut.n_passes, expected->n_passes > 0 ? expected->n_passes : 1);
      assert_int_equal(cut.spread, expected->spread);
      assert_int_equal(cut.walk, expected->walk);
      assert_int_equal(cut.px_r_runs, expected->px_r_runs);
      assert_int_equal(cut.width, expected->width);
      check_scratch(&twin, &calls[c], &sizes);
      twin_close(&twin);
    }
  }
}

enum { FREE = AV_GPU_DECODE_NO_ROWS, KEPT = AV_GPU_DECODE_KEPT, WIDE = AV_GPU_DECODE_WIDE };

typedef struct av_test_way {
  int64_t n_in, columns;
  bool linear;
  int n, ways[AV_GPU_DECODE_WAYS];
} av_test_way;

/* A linear decoder can do without rows, whatever its size, and takes them as it is told; one after
 * hidden layers is products, unless these are few. */
static void ways(void **state) {
  (void)state;
  static const av_test_way cases[] = {{10, 0, true, 2, {FREE, WIDE}},
                                      {10, 9, true, 2, {FREE, WIDE}},
                                      {10, 10, true, 3, {FREE, KEPT, WIDE}},
                                      {10, 800, true, 3, {FREE, KEPT, WIDE}},
                                      {39, 0, true, 2, {FREE, WIDE}},
                                      {39, 1, true, 3, {FREE, KEPT, WIDE}},
                                      {40, 0, true, 2, {FREE, WIDE}},
                                      {40, 800, true, 2, {FREE, WIDE}},
                                      {300, 5, true, 2, {FREE, WIDE}},
                                      {39, 10, false, 3, {FREE, KEPT, WIDE}},
                                      {40, 0, false, 1, {WIDE}},
                                      {128, 800, false, 1, {WIDE}}};
  for (size_t c = 0; c < sizeof cases / sizeof *cases; ++c) {
    const int64_t first[] = {0, cases[c].columns};
    av_gpu_decode_sizes sizes = {.max_rows = 128,
                                 .n_genes = 2000,
                                 .n_heads = 1,
                                 .n_in = cases[c].n_in,
                                 .n_onehot = cases[c].columns,
                                 .n_factors = cases[c].columns > 0 ? 1 : 0,
                                 .first = first,
                                 .px_r = AV_GPU_PX_R_ONE,
                                 .n_px_r = 1,
                                 .linear = cases[c].linear};
    int found[AV_GPU_DECODE_WAYS];
    assert_int_equal(av_gpu_decode_ways(&sizes, found), cases[c].n);
    for (int w = 0; w < cases[c].n; ++w) {
      assert_int_equal(found[w], cases[c].ways[w]);
      sizes.way = found[w];
      const av_gpu_decode_cut cut = av_gpu_decode_cut_of(&sizes);
      assert_int_equal(cut.wide, found[w] == WIDE);
      assert_int_equal(cut.kept, found[w] != FREE && cases[c].columns > 0);
      assert_in_range(cut.width, 1, AV_GPU_DECODE_WIDTH);
    }
  }
}

/* What a linear decoder keeps instead of rows are parts of dx: with the latents and minibatch that
 * are usual less than half a (cells, genes) matrix. */
static void less_than_rows(void **state) {
  (void)state;
  av_gpu_decode_sizes sizes = {.max_rows = 4096,
                               .n_genes = 2000,
                               .n_heads = 1,
                               .n_in = 10,
                               .px_r = AV_GPU_PX_R_ONE,
                               .n_px_r = 1,
                               .linear = true,
                               .way = FREE};
  const int64_t rows = sizes.max_rows * sizes.n_genes * (int64_t)sizeof(float);
  assert_in_range(av_gpu_decode_bytes(&sizes), 1, rows / 2);
  sizes.max_rows = 128;
  assert_in_range(av_gpu_decode_bytes(&sizes), 1, rows / 32 * 9 / 10);
}

/* Rows that are written stay in a second-level cache, whatever the minibatch. */
static void rows_are_few(void **state) {
  (void)state;
  int64_t first[] = {0, 400, 800};
  const av_gpu_decode_sizes sizes = {.max_rows = 1 << 20,
                                     .n_genes = 2000,
                                     .n_heads = 2,
                                     .n_in = 10,
                                     .n_onehot = 800,
                                     .n_factors = 2,
                                     .first = first,
                                     .px_r = AV_GPU_PX_R_ONE,
                                     .n_px_r = 1,
                                     .way = KEPT};
  const av_gpu_decode_cut cut = av_gpu_decode_cut_of(&sizes);
  assert_true(cut.kept);
  assert_in_range(cut.chunk * 2 * 2016 * 4, 16 << 20, 32 << 20);
}

int main(int argc, char **argv) {
  if (MPI_Init(&argc, &argv) != MPI_SUCCESS) {
    return 1;
  }
  const struct CMUnitTest tests[] = {cmocka_unit_test(planned), cmocka_unit_test(ways),
                                     cmocka_unit_test(less_than_rows),
                                     cmocka_unit_test(rows_are_few)};
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  MPI_Finalize();
  return failed;
}
