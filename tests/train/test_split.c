/* Sizes, membership and faults of the split into training, validation and test cells. Every rank
 * builds its part of the data set; what comes out is compared with the same on one process. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "train/split.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static av_comm comm;
static av_comm self;

/* n_cells cells of which every `empty_every`-th (0: none) has no counts. */
static av_dataset cells_of(const av_comm *over, int64_t n_cells, int64_t empty_every) {
  av_dataset dataset = {.n_cells = n_cells, .input_path = av_strdup("cells.h5ad")};
  assert_int_equal(av_partition_create(&dataset.partition, n_cells, over->size, NULL), AV_OK);
  dataset.first = av_rank_first(&dataset.partition, over->rank);
  dataset.n_local = av_rank_first(&dataset.partition, over->rank + 1) - dataset.first;
  dataset.library = av_calloc((size_t)dataset.n_local, sizeof *dataset.library);
  for (int64_t i = 0; i < dataset.n_local; ++i) {
    const int64_t cell = dataset.first + i;
    dataset.library[i] = empty_every > 0 && cell % empty_every == 1 ? 0.0 : 5.0;
  }
  return dataset;
}

static av_config settings(int n, char *const *overrides) {
  av_config config;
  assert_int_equal(av_config_defaults(&config), AV_OK);
  assert_int_equal(av_config_parse(&config, NULL, "", n, overrides), AV_OK);
  return config;
}

/* The split of every cell, on every rank; rank r's stretch from rank r. */
static int *gather(const av_dataset *dataset, const av_split *split) {
  int *of = calloc((size_t)dataset->n_cells + 1, sizeof *of);
  assert_non_null(of);
  for (int64_t i = 0; i < dataset->n_local; ++i) {
    of[dataset->first + i] = split->of[i];
  }
  assert_int_equal(
      MPI_Allreduce(MPI_IN_PLACE, of, (int)dataset->n_cells, MPI_INT, MPI_SUM, comm.mpi),
      MPI_SUCCESS);
  return of;
}

static int64_t count(const int *of, int64_t n, int which) {
  int64_t found = 0;
  for (int64_t i = 0; i < n; ++i) {
    found += of[i] == which;
  }
  return found;
}

/* Makes the split on all ranks and on one process; both must agree with n. */
static void check_sizes(int64_t n_cells, int64_t empty_every, int n_overrides,
                        char *const *overrides, const int64_t n[4]) {
  av_config config = settings(n_overrides, overrides);
  av_dataset ours = cells_of(&comm, n_cells, empty_every);
  av_dataset alone = cells_of(&self, n_cells, empty_every);
  av_split split, one;
  assert_int_equal(av_split_create(&split, &comm, &config, &ours), AV_OK);
  assert_int_equal(av_split_create(&one, &self, &config, &alone), AV_OK);
  int *of = gather(&ours, &split);
  for (int64_t i = 0; i < n_cells; ++i) {
    assert_int_equal(of[i], one.of[i]);
    assert_int_equal(of[i] == AV_SPLIT_EMPTY, alone.library[i] <= 0.0);
  }
  assert_int_equal(count(of, n_cells, AV_SPLIT_TRAIN), n[0]);
  assert_int_equal(count(of, n_cells, AV_SPLIT_VALIDATION), n[1]);
  assert_int_equal(count(of, n_cells, AV_SPLIT_TEST), n[2]);
  const av_split *const both[] = {&split, &one};
  for (int i = 0; i < 2; ++i) {
    assert_int_equal(both[i]->n_train, n[0]);
    assert_int_equal(both[i]->n_validation, n[1]);
    assert_int_equal(both[i]->n_test, n[2]);
    assert_int_equal(both[i]->n_empty, n[3]);
  }
  free(of);
  av_split_free(&split);
  av_split_free(&one);
  av_dataset_free(&ours);
  av_dataset_free(&alone);
  av_config_free(&config);
}

/* Python: ceil(train_size * n), floor(validation_size * n) or the rest, the rest. */
static void test_sizes(void **state) {
  (void)state;
  static const struct {
    int64_t cells;
    char *train, *validation;
    int64_t n[4];
  } table[] = {{10, "train.train_size=0.9", NULL, {9, 1, 0, 0}},
               {11, "train.train_size=0.9", NULL, {10, 1, 0, 0}},
               {7, "train.train_size=0.5", NULL, {4, 3, 0, 0}},
               {11, "train.train_size=0.5", "train.validation_size=0.25", {6, 2, 3, 0}},
               {100, "train.train_size=0.07", NULL, {8, 92, 0, 0}},
               {1000, "train.train_size=0.9", "train.validation_size=0.1", {900, 100, 0, 0}},
               {13, "train.train_size=1.0", NULL, {13, 0, 0, 0}},
               {9, "train.train_size=0.35", "train.validation_size=0.3", {4, 2, 3, 0}},
               {1001, "train.train_size=0.8", "train.validation_size=0.1", {801, 100, 100, 0}},
               {3, "train.train_size=0.9", NULL, {3, 0, 0, 0}},
               {5000, "train.train_size=3", NULL, {3, 4997, 0, 0}},
               {50, "train.train_size=20", "train.validation_size=7", {20, 7, 23, 0}},
               {50, "train.train_size=50", NULL, {50, 0, 0, 0}},
               {50, "train.train_size=0.5", "train.validation_size=25", {25, 25, 0, 0}},
               /* all cells in both, although ceil(0.55 * 100) = 56 and floor(0.45 * 100) = 45 */
               {100, "train.train_size=0.55", "train.validation_size=0.45", {56, 44, 0, 0}}};
  for (size_t i = 0; i < sizeof table / sizeof *table; ++i) {
    char *const overrides[] = {table[i].train, table[i].validation};
    check_sizes(table[i].cells, 0, table[i].validation == NULL ? 1 : 2, overrides, table[i].n);
  }
  check_sizes(10, 0, 0, NULL, (int64_t[]){9, 1, 0, 0}); /* the default */
}

/* Cells 1, 6, 11, ... are empty: shares are of the others, none of them is used. */
static void test_empty_cells(void **state) {
  (void)state;
  char *const half[] = {"train.train_size=0.5", "train.validation_size=0.2"};
  check_sizes(100, 5, 2, half, (int64_t[]){40, 16, 24, 20});
  check_sizes(2001, 3, 0, NULL, (int64_t[]){1201, 133, 0, 667});
}

/* Seeds give other splits, every cell trains about as often as every other, whatever its place. */
static void test_random(void **state) {
  (void)state;
  enum { CELLS = 40, SEEDS = 400 };
  av_dataset dataset = cells_of(&comm, CELLS, 0);
  int64_t trained[CELLS] = {0};
  int64_t pairs = 0;
  for (int seed = 0; seed < SEEDS; ++seed) {
    char text[64];
    snprintf(text, sizeof text, "train.seed=%d", seed);
    char *const overrides[] = {"train.train_size=0.25", text};
    av_config config = settings(2, overrides);
    av_split split;
    assert_int_equal(av_split_create(&split, &comm, &config, &dataset), AV_OK);
    int *of = gather(&dataset, &split);
    for (int i = 0; i < CELLS; ++i) {
      trained[i] += of[i] == AV_SPLIT_TRAIN;
    }
    pairs += of[0] == AV_SPLIT_TRAIN && of[1] == AV_SPLIT_TRAIN;
    free(of);
    av_split_free(&split);
    av_config_free(&config);
  }
  /* binomial: mean 100, deviation 8.7; of pairs 400 * 10/40 * 9/39 = 23.1, deviation 4.7 */
  for (int i = 0; i < CELLS; ++i) {
    assert_in_range(trained[i], 100 - 39, 100 + 39);
  }
  assert_in_range(pairs, 5, 44);
  av_dataset_free(&dataset);
}

static void fill_key(av_dataset *dataset, int64_t n_train) {
  dataset->split = av_calloc((size_t)dataset->n_local, 1);
  for (int64_t i = 0; i < dataset->n_local; ++i) {
    const int64_t cell = dataset->first + i;
    dataset->split[i] = cell < n_train  ? AV_SPLIT_TRAIN
                        : cell % 2 == 0 ? AV_SPLIT_VALIDATION
                                        : AV_SPLIT_TEST;
  }
}

/* A split of the file is taken as it is, whatever train_size says; empty cells are still left out.
 */
static void test_split_key(void **state) {
  (void)state;
  char *const other[] = {"train.train_size=0.1"};
  av_config config = settings(1, other);
  av_dataset dataset = cells_of(&comm, 30, 10); /* cells 1, 11, 21 are empty */
  fill_key(&dataset, 12);
  av_split split;
  assert_int_equal(av_split_create(&split, &comm, &config, &dataset), AV_OK);
  for (int64_t i = 0; i < dataset.n_local; ++i) {
    assert_int_equal(split.of[i], dataset.library[i] > 0.0 ? dataset.split[i] : AV_SPLIT_EMPTY);
  }
  assert_int_equal(split.n_train, 10);
  assert_int_equal(split.n_validation, 9);
  assert_int_equal(split.n_test, 8);
  assert_int_equal(split.n_empty, 3);
  av_split_free(&split);
  av_dataset_free(&dataset);
  av_config_free(&config);
}

static void check_fault(int64_t n_cells, int64_t empty_every, int64_t n_train_key, int n,
                        char *const *overrides, av_status code, const char *message) {
  av_config config = settings(n, overrides);
  av_dataset dataset = cells_of(&comm, n_cells, empty_every);
  if (n_train_key >= 0) {
    fill_key(&dataset, n_train_key);
  }
  av_split split;
  av_error_clear();
  assert_int_equal(av_split_create(&split, &comm, &config, &dataset), code);
  assert_string_equal(av_error_text(), message);
  assert_null(split.of);
  av_error_clear();
  av_dataset_free(&dataset);
  av_config_free(&config);
}

static void test_faults(void **state) {
  (void)state;
  char *const many[] = {"train.train_size=11"};
  check_fault(
      10, 0, -1, 1, many, AV_CONFIG,
      "command line: [train] train_size: 11 training cells asked for, but only 10 cells have "
      "counts");
  check_fault(
      12, 6, -1, 1, many, AV_CONFIG,
      "command line: [train] train_size: 11 training cells asked for, but only 10 cells have "
      "counts");
  char *const both[] = {"train.train_size=8", "train.validation_size=3"};
  check_fault(
      10, 0, -1, 2, both, AV_CONFIG,
      "command line: [train] validation_size: 8 training and 3 validation cells are more than "
      "the 10 cells with counts");
  check_fault(2, 0, -1, 0, NULL, AV_BADDATA, "cells.h5ad: 2 training cells; at least 3 are needed");
  char *const few[] = {"train.train_size=0.2"};
  check_fault(10, 0, -1, 1, few, AV_BADDATA, "cells.h5ad: 2 training cells; at least 3 are needed");
  check_fault(30, 10, 3, 0, NULL, AV_BADDATA, /* cell 1 of cells 0 to 2 is empty */
              "cells.h5ad: 2 training cells; at least 3 are needed");
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_sizes),  cmocka_unit_test(test_empty_cells),
      cmocka_unit_test(test_random), cmocka_unit_test(test_split_key),
      cmocka_unit_test(test_faults),
  };
  if (av_comm_create(&comm, &argc, &argv) != AV_OK) {
    return 1;
  }
  av_comm_self(&self);
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  av_comm_free(&comm);
  return failed;
}
