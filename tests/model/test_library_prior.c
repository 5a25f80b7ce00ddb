/* The prior of the library size: means and variances by batch, what batches without a variance of
 * their own take, and who is warned about; the same bits on any number of ranks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "math/rng.h"
#include "model/library_prior.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static av_comm comm;
static av_comm self;

static void near(double found, double expected, const char *what) {
  if (!(fabs(found - expected) <= 1e-8 * (1.0 + fabs(expected)))) {
    fail_msg("%s: %.12g, expected %.12g", what, found, expected);
  }
}

/* Cells of given totals and batches, split over `over`. */
static av_dataset totals(const av_comm *over, int64_t n, const double *library,
                         const int32_t *batch, int64_t n_batches) {
  static const char *const names[] = {"p", "q", "r", "t", "u", "v", "w", "x"};
  av_dataset dataset = {.n_cells = n, .has_batch = n_batches > 1};
  assert_int_equal(av_partition_create(&dataset.partition, n, over->size, NULL), AV_OK);
  dataset.first = av_rank_first(&dataset.partition, over->rank);
  dataset.n_local = av_rank_first(&dataset.partition, over->rank + 1) - dataset.first;
  assert_int_equal(av_names_copy(&dataset.batch.levels, n_batches, names), AV_OK);
  dataset.library = av_calloc((size_t)dataset.n_local, sizeof *dataset.library);
  dataset.batch.code = av_calloc((size_t)dataset.n_local, sizeof *dataset.batch.code);
  for (int64_t i = 0; i < dataset.n_local; ++i) {
    dataset.library[i] = library[dataset.first + i];
    dataset.batch.code[i] = batch == NULL ? 0 : batch[dataset.first + i];
  }
  return dataset;
}

/* What av_library_prior prints meanwhile. */
static void prior_of(const av_comm *over, av_dataset *dataset, bool warn, double *prior, char *text,
                     size_t size) {
  FILE *file = tmpfile();
  assert_non_null(file);
  fflush(stderr);
  const int saved = dup(2);
  assert_true(saved >= 0 && dup2(fileno(file), 2) == 2);
  const av_status status = av_library_prior(over, dataset, warn, prior);
  fflush(stderr);
  assert_true(dup2(saved, 2) == 2);
  close(saved);
  rewind(file);
  text[fread(text, 1, size - 1, file)] = '\0';
  fclose(file);
  assert_int_equal(status, AV_OK);
}

/* Expected priors to 1e-8, the same bits on one process, and the batches that are warned about. */
static void check_prior(int64_t n, const double *library, const int32_t *batch, int64_t n_batches,
                        const double *expected, const char *warned) {
  av_dataset ours = totals(&comm, n, library, batch, n_batches);
  av_dataset alone = totals(&self, n, library, batch, n_batches);
  double prior[8];
  double single[8];
  char text[1000];
  prior_of(&self, &alone, true, single, text, sizeof text);
  for (char name[] = "\"p\""; name[1] <= 't'; ++name[1]) {
    assert_int_equal(strstr(text, name) != NULL, strchr(warned, name[1]) != NULL);
  }
  prior_of(&comm, &ours, true, prior, text, sizeof text);
  assert_memory_equal(prior, single, (size_t)(2 * n_batches) * sizeof *prior);
  for (int64_t i = 0; i < 2 * n_batches; ++i) {
    near(prior[i], expected[i], "prior");
  }
  av_dataset_free(&ours);
  av_dataset_free(&alone);
}

static void test_prior(void **state) {
  (void)state;
  const double e1 = exp(1.0);
  const double e2 = exp(2.0);
  const double e3 = exp(3.0);
  const double e5 = exp(5.0);
  /* one batch, an empty cell: population variance of 1, 2, 3, 5 */
  check_prior(5, (const double[]){e1, e2, 0.0, e3, e5}, NULL, 1, (const double[]){2.75, 2.1875},
              "");
  /* two batches */
  check_prior(6, (const double[]){e1, e2, e3, e5, e2, 0.0}, (const int32_t[]){0, 1, 0, 1, 0, 1}, 2,
              (const double[]){2.0, 2.0 / 3.0, 3.5, 2.25}, "");
  /* q has one cell, r none with counts, t no spread: they take the pooled variance within batches,
   * (1 + 1 + 0 + 0 + 0) / 5; r takes the mean of all */
  check_prior(6, (const double[]){e1, e3, e5, 0.0, e2, e2}, (const int32_t[]){0, 0, 1, 2, 3, 3}, 4,
              (const double[]){2.0, 1.0, 5.0, 0.4, 2.6, 0.4, 2.0, 0.4}, "qrt");
  /* no spread anywhere: 1 */
  check_prior(4, (const double[]){e2, e2, e3, e3}, (const int32_t[]){0, 0, 1, 1}, 2,
              (const double[]){2.0, 1.0, 3.0, 1.0}, "pq");
  /* just over and just under a variance of 1e-4 */
  const double up = exp(2.0 + 0.0101);
  const double down = exp(2.0 - 0.0101);
  const double up_less = exp(3.0 + 0.0099);
  const double down_less = exp(3.0 - 0.0099);
  const double pooled = (0.0101 * 0.0101 + 0.0099 * 0.0099) / 2.0;
  check_prior(4, (const double[]){up, down, up_less, down_less}, (const int32_t[]){0, 0, 1, 1}, 2,
              (const double[]){2.0, 0.0101 * 0.0101, 3.0, pooled > 1e-4 ? pooled : 1.0}, "q");
}

/* Many batches of one cell: five are named, and none where the library is observed. */
static void test_few_warnings(void **state) {
  (void)state;
  enum { BATCHES = 8 };
  double library[BATCHES];
  int32_t batch[BATCHES];
  for (int i = 0; i < BATCHES; ++i) {
    library[i] = 10.0 + i;
    batch[i] = i;
  }
  double prior[2 * BATCHES];
  char text[2000];
  av_dataset alone = totals(&self, BATCHES, library, batch, BATCHES);
  prior_of(&self, &alone, true, prior, text, sizeof text);
  int lines = 0;
  for (const char *at = text; (at = strstr(at, "cannot be estimated")) != NULL; ++at) {
    ++lines;
  }
  assert_int_equal(lines, 5);
  assert_non_null(strstr(text, "further batches like these are not named"));
  prior_of(&self, &alone, false, prior, text, sizeof text);
  assert_string_equal(text, "");
  av_dataset_free(&alone);
}

/* Many cells, so that sums in floating point would depend on their order. */
static void test_prior_many(void **state) {
  (void)state;
  enum { MANY = 3000 };
  static double library[MANY];
  static int32_t batch[MANY];
  double expected[6] = {0};
  double cells[3] = {0};
  for (int i = 0; i < MANY; ++i) {
    library[i] = exp(3.0 + 4.0 * av_uniform(av_random64(8, AV_DRAW_TEST, (uint64_t)i, 0, 0)));
    batch[i] = (i * 7 + i / 11) % 3;
    cells[batch[i]] += 1.0;
    expected[2 * batch[i]] += log(library[i]);
  }
  for (int s = 0; s < 3; ++s) {
    expected[2 * s] /= cells[s];
  }
  for (int i = 0; i < MANY; ++i) {
    const double off = log(library[i]) - expected[2 * batch[i]];
    expected[2 * batch[i] + 1] += off * off / cells[batch[i]];
  }
  check_prior(MANY, library, batch, 3, expected, "");
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_prior),
                                     cmocka_unit_test(test_few_warnings),
                                     cmocka_unit_test(test_prior_many)};
  if (av_comm_create(&comm, &argc, &argv) != AV_OK) {
    return 1;
  }
  av_comm_self(&self);
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  av_comm_free(&comm);
  return failed;
}
