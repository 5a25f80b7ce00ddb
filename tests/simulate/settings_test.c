/* Settings of `simulate`: defaults, values, every kind of fault with its message; and blocks of
 * cells that do not depend on how they are cut. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "simulate/cells.h"
#include "simulate/settings.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static av_status parse(av_sim_settings *settings, int n, const char *const *texts) {
  char *copies[8];
  for (int i = 0; i < n; ++i) {
    copies[i] = strdup(texts[i]);
  }
  av_error_clear();
  const av_status status = av_sim_settings_parse(settings, n, copies);
  for (int i = 0; i < n; ++i) {
    free(copies[i]);
  }
  return status;
}

static void values(void **state) {
  (void)state;
  av_sim_settings settings;
  assert_int_equal(parse(&settings, 0, NULL), AV_OK);
  assert_int_equal(settings.cells, 5000);
  assert_int_equal(settings.genes, 2000);
  assert_int_equal(settings.likelihood, AV_SIM_NB);
  assert_false(settings.overwrite);
  const char *texts[] = {"cells=7",      "library_mean=12.5", "likelihood=zinb",
                         "dropout=0.25", "overwrite=yes",     "seed=9007199254740992"};
  assert_int_equal(parse(&settings, 6, texts), AV_OK);
  assert_int_equal(settings.cells, 7);
  assert_true(settings.library_mean == 12.5);
  assert_int_equal(settings.likelihood, AV_SIM_ZINB);
  assert_true(settings.dropout == 0.25);
  assert_true(settings.overwrite);
  assert_true(settings.seed == 9007199254740992);
}

static void expect_fault(const char *text, const char *message) {
  av_sim_settings settings;
  assert_int_equal(parse(&settings, 1, &text), AV_USAGE);
  assert_string_equal(av_error_text(), message);
}

static void faults(void **state) {
  (void)state;
  expect_fault("cels=7", "simulate: cels: unknown setting; did you mean cells?");
  expect_fault("qqqqqqqq=7",
               "simulate: qqqqqqqq: unknown setting; `atlasvi help simulate` lists them");
  expect_fault("cells", "simulate: cells: settings have the form key=value");
  expect_fault("cells=0", "simulate: cells=0: must be a whole number from 1 to 1000000000");
  expect_fault("cells=7.5", "simulate: cells=7.5: must be a whole number from 1 to 1000000000");
  expect_fault("cells=", "simulate: cells=: must be a whole number from 1 to 1000000000");
  expect_fault("cells=99999999999999999999",
               "simulate: cells=99999999999999999999: must be a whole number from 1 to 1000000000");
  expect_fault("library_sd=nan", "simulate: library_sd=nan: must be a number from 0 to 2");
  expect_fault("library_sd=2.1", "simulate: library_sd=2.1: must be a number from 0 to 2");
  expect_fault("likelihood=n", "simulate: likelihood=n: must be one of nb|zinb|poisson");
  expect_fault("overwrite=maybe", "simulate: overwrite=maybe: must be yes or no");
  expect_fault("dropout=0.2", "simulate: dropout: only with likelihood=zinb");
  const char *several[] = {"cells=-1", "seed=0", "seed=1"};
  av_sim_settings settings;
  assert_int_equal(parse(&settings, 3, several), AV_USAGE);
  assert_string_equal(av_error_text(),
                      "simulate: cells=-1: must be a whole number from 1 to 1000000000\n"
                      "simulate: seed: given twice");
}

/* z over cell types: mean 0 and mean square, with the spread, exactly 1, for any numbers of both.
 */
static void latent_has_unit_covariance(void **state) {
  (void)state;
  const int64_t shapes[][2] = {{5, 5}, {3, 8}, {12, 2}, {1, 3}}; /* labels, factors */
  for (int s = 0; s < 4; ++s) {
    av_sim_settings settings;
    assert_int_equal(parse(&settings, 0, NULL), AV_OK);
    settings.genes = 10;
    settings.labels = shapes[s][0];
    settings.factors = shapes[s][1];
    av_sim_truth truth;
    assert_int_equal(av_sim_truth_create(&truth, &settings), AV_OK);
    for (int64_t j = 0; j < truth.factors; ++j) {
      for (int64_t k = 0; k < truth.factors; ++k) {
        double mean = 0;
        double second = j == k ? truth.spread[k] * truth.spread[k] : 0;
        for (int64_t c = 0; c < truth.labels; ++c) {
          mean += truth.centres[c * truth.factors + k] / (double)truth.labels;
          second += truth.centres[c * truth.factors + j] * truth.centres[c * truth.factors + k] /
                    (double)truth.labels;
        }
        assert_true(fabs(mean) < 1e-12);
        assert_true(fabs(second - (j == k)) < 1e-12);
      }
    }
    av_sim_truth_free(&truth);
  }
}

/* Cells 0 .. 99 at once, and in blocks of 7: the same. */
static void blocks_do_not_matter(void **state) {
  (void)state;
  enum { CELLS = 100, PIECE = 7 };
  av_sim_settings settings;
  assert_int_equal(parse(&settings, 0, NULL), AV_OK);
  settings.genes = 301;
  av_sim_truth truth;
  av_sim_block whole;
  av_sim_block piece;
  assert_int_equal(av_sim_truth_create(&truth, &settings), AV_OK);
  assert_int_equal(av_sim_block_create(&whole, &settings, CELLS), AV_OK);
  assert_int_equal(av_sim_block_create(&piece, &settings, PIECE), AV_OK);
  assert_int_equal(av_sim_block_draw(&whole, &settings, &truth, 0, CELLS), AV_OK);
  assert_true(whole.indptr[CELLS] > 1000);
  for (int64_t first = 0; first < CELLS; first += PIECE) {
    const int64_t n = CELLS - first < PIECE ? CELLS - first : PIECE;
    assert_int_equal(av_sim_block_draw(&piece, &settings, &truth, first, n), AV_OK);
    for (int64_t i = 0; i < n; ++i) {
      assert_int_equal(piece.label[i], whole.label[first + i]);
      assert_int_equal(piece.batch[i], whole.batch[first + i]);
      assert_true(piece.library[i] == whole.library[first + i]);
      assert_memory_equal(piece.z + i * truth.factors, whole.z + (first + i) * truth.factors,
                          (size_t)truth.factors * sizeof(float));
      const int64_t count = piece.indptr[i + 1] - piece.indptr[i];
      const int64_t at = whole.indptr[first + i];
      assert_int_equal(count, whole.indptr[first + i + 1] - at);
      assert_memory_equal(piece.indices + piece.indptr[i], whole.indices + at,
                          (size_t)count * sizeof(int32_t));
      assert_memory_equal(piece.data + piece.indptr[i], whole.data + at,
                          (size_t)count * sizeof(float));
    }
  }
  av_sim_block_free(&piece);
  av_sim_block_free(&whole);
  av_sim_truth_free(&truth);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(values),
      cmocka_unit_test(faults),
      cmocka_unit_test(latent_has_unit_covariance),
      cmocka_unit_test(blocks_do_not_matter),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
