/* The decoder's scratch, as planned (backend/gpu_decode.h) and as taken, over all the ways in which
 * it adds up gradients; and which way that is. */
#include "backend/twin.h"

#include "backend/gpu_decode.h"
#include "backend/latent.h"
#include "backend/tested.h"
#include "config/config.h"

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
  av_gpu_decode_cut expected; /* but for sizes; worked out by hand from gpu_decode.h's rules */
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
    {60, 3, 10, true, false, LABEL, {.spread = true, .width = 19, .walk = 0, .w_rows = true}},
    {2, 0, 10, true, false, BATCH, {.spread = true, .width = 13, PX_R}},
    {6, 3, 10, true, false, LABEL, {.spread = true, .width = 25, PX_R}},
    {7, 3, 10, true, false, LABEL, {.spread = true, .width = 19, .walk = 0, .w_rows = true}},
    {12, 0, 12, false, true, LABEL, {.spread = true, .width = 13, PX_R}},
    {48, 3, 20, true, false, GENE, {.kept = true, .width = 21, NONE}},
    {48, 3, 20, true, false, BATCH, {.kept = true, .width = 21, PX_R}},
    {48, 0, 24, true, false, GENE, {.spread = true, .width = 25, .walk = 0}},
    {1, 0, 24, false, true, GENE, {.spread = true, .width = 25, NONE}},
    {48, 0, 25, true, false, BATCH, {.wide = true, .kept = true, .w_rows = true, .width = 1, NONE}},
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
                               .n_px_r = one                       ? 1
                                         : of->dispersion == BATCH ? of->batches
                                                                   : 7};
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
                          .n_onehot = sizes->n_onehot,
                          .n_dispersion = sizes->n_px_r,
                          .scale = head,
                          .dropout = of->zinb ? head : (av_head){0},
                          .px_r = px_r.at[TESTED],
                          .dpx_r = dpx_r.at[TESTED]};
  av_backend *be = &twin->be[TESTED];
  be->ops->decode_nll(be, twin->batch[TESTED], &call, x.at[TESTED], l.at[TESTED], losses.at[TESTED],
                      dx.at[TESTED], dl.at[TESTED]);
  av_pair *all[] = {&x, &l, &w, &dw, &px_r, &dpx_r, &losses, &dx, &dl};
  for (size_t i = 0; i < sizeof all / sizeof *all; ++i) {
    pair_free(all[i]);
  }
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
      assert_int_equal(cut.wide, expected->wide);
      assert_int_equal(cut.spread, expected->spread);
      assert_int_equal(cut.kept, expected->kept);
      assert_int_equal(cut.w_rows, expected->w_rows);
      assert_int_equal(cut.walk, expected->walk);
      assert_int_equal(cut.px_r_runs, expected->px_r_runs);
      assert_int_equal(cut.width, expected->width);
      decode(&twin, &calls[c], &sizes);
      const int64_t plan = av_gpu_decode_bytes(&sizes);
      assert_in_range(tested_scratch, 1, plan);
      assert_in_range(plan, 1, (int64_t)tested_scratch * 5 / 4 + 20000); /* and not much more */
      twin_close(&twin);
    }
  }
}

typedef struct av_test_way {
  int64_t rows, genes, n_in, one, other; /* categories of two factors; 1: no columns */
  int px_r, asked, expected;             /* av_gpu_decode_way */
} av_test_way;

/* Rows are written where that is faster by tests/bench/ways.md: on either side of where the ways
 * meet; and as asked where somebody asks. */
static void rows_where_faster(void **state) {
  (void)state;
  enum { CHOSEN = AV_GPU_DECODE_CHOSEN, FREE = AV_GPU_DECODE_NO_ROWS };
  enum { KEPT = AV_GPU_DECODE_KEPT, WIDE = AV_GPU_DECODE_WIDE };
  enum { ONE = AV_GPU_PX_R_ONE, BY_LABEL = AV_GPU_PX_R_LABEL };
  static const av_test_way ways[] = {{128, 2000, 24, 1, 1, ONE, CHOSEN, FREE},
                                     {128, 2000, 25, 1, 1, ONE, CHOSEN, WIDE},
                                     {256, 2000, 19, 1, 1, ONE, CHOSEN, FREE},
                                     {256, 2000, 20, 1, 1, ONE, CHOSEN, WIDE},
                                     {512, 2000, 12, 1, 1, ONE, CHOSEN, FREE},
                                     {512, 2000, 13, 1, 1, ONE, CHOSEN, WIDE},
                                     {128, 10000, 12, 1, 1, ONE, CHOSEN, FREE},
                                     {128, 10000, 13, 1, 1, ONE, CHOSEN, WIDE},
                                     {1024, 2000, 13, 1, 1, ONE, CHOSEN, FREE},
                                     {1024, 2000, 14, 1, 1, ONE, CHOSEN, WIDE},
                                     {1024, 2000, 11, 1, 1, BY_LABEL, CHOSEN, FREE},
                                     {1024, 2000, 12, 1, 1, BY_LABEL, CHOSEN, WIDE},
                                     {128, 2000, 10, 36, 14, ONE, CHOSEN, FREE},
                                     {128, 2000, 10, 36, 15, ONE, CHOSEN, KEPT},
                                     {256, 2000, 10, 36, 9, ONE, CHOSEN, FREE},
                                     {256, 2000, 10, 36, 10, ONE, CHOSEN, KEPT},
                                     {1024, 2000, 11, 48, 1, ONE, CHOSEN, FREE},
                                     {1024, 2000, 12, 48, 1, ONE, CHOSEN, WIDE},
                                     {1024, 2000, 14, 5, 1, ONE, CHOSEN, FREE},
                                     {1024, 2000, 14, 6, 1, ONE, CHOSEN, WIDE},
                                     {1024, 2000, 39, 1, 1, ONE, FREE, FREE},
                                     {1024, 2000, 40, 1, 1, ONE, FREE, WIDE},
                                     {1024, 2000, 10, 36, 29, ONE, FREE, FREE},
                                     {1024, 2000, 10, 36, 30, ONE, FREE, KEPT},
                                     {1024, 2000, 10, 4, 1, ONE, KEPT, KEPT},
                                     {1024, 2000, 10, 1, 1, ONE, KEPT, FREE},
                                     {128, 2000, 10, 4, 1, ONE, WIDE, WIDE},
                                     {128, 2000, 10, 1, 1, ONE, WIDE, WIDE}};
  for (size_t w = 0; w < sizeof ways / sizeof *ways; ++w) {
    const av_test_way *of = &ways[w];
    const int64_t one = of->one > 1 ? of->one : 0;
    const int64_t other = of->other > 1 ? of->other : 0;
    const int64_t first[] = {0, one, one + other};
    const av_gpu_decode_sizes sizes = {.max_rows = of->rows,
                                       .n_genes = of->genes,
                                       .n_heads = 1,
                                       .n_in = of->n_in,
                                       .n_onehot = one + other,
                                       .n_factors = (one > 0 ? 1 : 0) + (other > 0 ? 1 : 0),
                                       .first = first,
                                       .px_r = of->px_r,
                                       .n_px_r = of->px_r == BY_LABEL ? 5 : 1,
                                       .way = of->asked};
    const av_gpu_decode_cut cut = av_gpu_decode_cut_of(&sizes);
    assert_int_equal(cut.wide, of->expected == WIDE);
    assert_int_equal(cut.kept, of->expected != FREE && one > 0);
    assert_int_equal(cut.spread, of->expected == FREE);
    assert_true(cut.kept || cut.wide || cut.width <= AV_GPU_DECODE_WIDTH);
  }
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
                                     .n_px_r = 1};
  const av_gpu_decode_cut cut = av_gpu_decode_cut_of(&sizes);
  assert_true(cut.kept);
  assert_in_range(cut.chunk * 2 * 2016 * 4, 16 << 20, 32 << 20);
}

int main(int argc, char **argv) {
  if (MPI_Init(&argc, &argv) != MPI_SUCCESS) {
    return 1;
  }
  const struct CMUnitTest tests[] = {cmocka_unit_test(planned), cmocka_unit_test(rows_where_faster),
                                     cmocka_unit_test(rows_are_few)};
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  MPI_Finalize();
  return failed;
}
