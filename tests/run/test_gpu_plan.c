/* The plan of a GPU's memory, where nobody has such data at hand: 100,000,000 cells. Sizes in bytes
 * are counted by hand beside each; the GPUs are those that are sold as 80 and as 141 GB. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "run/gpu_plan.h"

static const int64_t GB = 1000000000;

/* LDVAE or scVI, 128 hidden, 10 latent, two batches, for a slab of 2,000 genes. */
static av_gpu_need plan(bool linear, int64_t cells, int64_t nonzeros_a_cell, int64_t value_bytes,
                        int64_t batch_size) {
  int64_t first[] = {0, 2};
  const av_design design = {.n_factors = 1, .first = first, .n_onehot = 2};
  const av_model_spec spec = {.linear = linear,
                              .encoder_batch_norm = true,
                              .decoder_batch_norm = true,
                              .n_genes = 2000,
                              .n_batches = 2,
                              .n_onehot = 2,
                              .n_hidden = 128,
                              .n_latent = 10,
                              .n_layers = 1,
                              .latent_library = linear};
  const av_gpu_slab slab = {.n_cells = cells,
                            .n_nonzero = cells * nonzeros_a_cell,
                            .gene_bytes = 2,
                            .value_bytes = value_bytes,
                            .n_factors = 1,
                            .batches = true};
  av_layout layout = {0};
  assert_int_equal(av_layout_create(&layout, &spec), AV_OK);
  const av_gpu_need need = av_gpu_plan(&slab, &layout, &design, batch_size);
  av_layout_free(&layout);
  return need;
}

/* In every way that counts can be stored, with either model and large minibatches. */
static void hundred_million_cells(void **state) {
  (void)state;
  for (int linear = 0; linear < 2; ++linear) {
    for (int64_t value_bytes = 1; value_bytes <= 4; value_bytes *= 2) {
      const av_gpu_need one = plan(linear != 0, 100000000, 140, value_bytes, 16384);
      assert_int_equal(one.counts, 14 * GB * (2 + value_bytes) + 8 * 100000001);
      assert_int_equal(one.cells, 3 * 4 * 100000000);
      assert_true(av_gpu_size_needed(&one, false, 1) <= 141 * GB);
      const av_gpu_need eighth = plan(linear != 0, 12500000, 140, value_bytes, 16384);
      assert_true(av_gpu_size_needed(&eighth, false, 1) <= 80 * GB);
    }
  }
  /* 3 bytes a non-zero fit one of 80 as well; 1,000 non-zeros a cell fit none, but stream */
  const av_gpu_need narrow = plan(true, 100000000, 140, 1, 4096);
  assert_true(av_gpu_size_needed(&narrow, false, 1) <= 80 * GB);
  const av_gpu_need dense = plan(true, 100000000, 1000, 2, 4096);
  assert_true(av_gpu_size_needed(&dense, false, 1) > 141 * GB);
  assert_true(av_gpu_size_needed(&dense, true, 1) <= 16 * GB);
}

/* Each of the ranks that share a GPU has its data, 32 MiB of cuBLAS's, a context of 512 MiB, and
 * its part of 1 GiB, but 256 MiB at least. */
static void ranks_that_share(void **state) {
  (void)state;
  const int64_t mib = 1 << 20;
  const av_gpu_need need = {.counts = 5000, .cells = 300, .staging = 70, .model = 2};
  assert_int_equal(av_gpu_size_needed(&need, false, 1), 5302 + (32 + 512 + 1024) * mib);
  assert_int_equal(av_gpu_size_needed(&need, true, 1), 372 + (32 + 512 + 1024) * mib);
  assert_int_equal(av_gpu_size_needed(&need, false, 2), 2 * (5302 + (32 + 512 + 512) * mib));
  assert_int_equal(av_gpu_size_needed(&need, true, 4), 4 * (372 + (32 + 512 + 256) * mib));
  assert_int_equal(av_gpu_size_needed(&need, true, 7), 7 * (372 + (32 + 512 + 256) * mib));
}

/* Two batches, each with 4 minibatches on their way and one that kernels see: of 512 rows of at
 * most 2,000 entries of 4 bytes, where they begin, and how many escapes there are. */
static void what_streaming_takes(void **state) {
  (void)state;
  const av_gpu_need need = plan(true, 1000000, 140, 2, 512);
  const int64_t slot = 512 * 2000 * 4 + (512 + 2) * 8 + 5 * 16;
  assert_int_equal(need.staging, 2 * (4 + 1) * slot);
  /* no more than the slab has */
  const av_gpu_need few = plan(true, 1000, 10, 2, 512);
  assert_int_equal(few.staging, 2 * (4 + 1) * (10000 * 4 + (512 + 2) * 8 + 5 * 16));
}

/* 16 bytes a parameter at least, more with more rows. */
static void what_a_model_takes(void **state) {
  (void)state;
  const int64_t first_layer = (2000 + 1) * 128;
  const int64_t decoder = (10 + 2) * 2000;
  assert_true(plan(true, 1000, 10, 2, 512).model > 16 * (first_layer + decoder));
  assert_true(plan(true, 1000, 10, 2, 4096).model > plan(true, 1000, 10, 2, 512).model);
  assert_true(plan(false, 1000, 10, 2, 16384).model < GB);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(ranks_that_share),
      cmocka_unit_test(hundred_million_cells),
      cmocka_unit_test(what_streaming_takes),
      cmocka_unit_test(what_a_model_takes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
