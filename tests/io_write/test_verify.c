/* Reading back before the rename: a lost or changed dataset is found, and nothing is left behind.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/log.h"
#include "base/memory.h"
#include "io/h5.h"
#include "io/h5ad_put.h"
#include "io/writer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CELLS = 50, GENES = 4, WIDTH = 3 };

typedef struct scene {
  char folder[40];
  char *input, *output;
  av_comm comm;
  av_config config;
  av_dataset dataset;
  av_writer *writer;
} scene;

static const char *const NAMES[CELLS] = {"a", "b", "c", "d"}; /* NULL counts as "" */

static void put_frame(hid_t file, const char *link, int64_t n) {
  av_names names = {0};
  hid_t group = -1;
  assert_int_equal(av_names_copy(&names, n, NAMES), AV_OK);
  assert_int_equal(av_put_frame_group(&group, file, link, 0, link), AV_OK);
  assert_int_equal(av_put_strings(group, "_index", n, (const char *const *)names.at, link), AV_OK);
  assert_int_equal(av_put_frame_tags(group, "_index", 0, NULL, link), AV_OK);
  av_h5_close(&group);
  av_names_free(&names);
}

static av_status fill(void *context, int64_t first, int64_t n, void *to) {
  (void)context;
  float *out = to;
  for (int64_t i = 0; i < n * WIDTH; ++i) {
    out[i] = (float)(first * WIDTH + i);
  }
  return AV_OK;
}

/* A folder with an input, and a writer that has written obsm/X_scvi. */
static int set_up(void **state) {
  scene *s = av_calloc(1, sizeof *s);
  assert_non_null(s);
  *state = s;
  snprintf(s->folder, sizeof s->folder, "/tmp/atlasvi-verify-XXXXXX");
  assert_non_null(mkdtemp(s->folder));
  s->input = av_format("%s/in.h5ad", s->folder);
  s->output = av_format("%s/out.h5ad", s->folder);
  hid_t file = H5Fcreate(s->input, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  assert_true(file >= 0);
  put_frame(file, "obs", CELLS);
  put_frame(file, "var", GENES);
  av_h5_close(&file);

  av_comm_self(&s->comm);
  assert_int_equal(av_config_defaults(&s->config), AV_OK);
  s->config.output.path = av_strdup(s->output);
  s->dataset.n_cells = s->dataset.n_local = CELLS;
  s->dataset.n_genes = GENES;
  s->dataset.input_path = av_strdup(s->input);
  assert_int_equal(av_names_copy(&s->dataset.genes, GENES, NAMES), AV_OK);
  s->dataset.gene_var = av_calloc(GENES, sizeof *s->dataset.gene_var);
  for (int64_t g = 0; g < GENES; ++g) {
    s->dataset.gene_var[g] = g;
  }
  assert_int_equal(av_partition_create(&s->dataset.partition, CELLS, 1, NULL), AV_OK);
  assert_int_equal(av_writer_create(&s->writer, &s->comm, &s->config, &s->dataset), AV_OK);
  const av_row_source source = {.begin = fill};
  assert_int_equal(av_writer_cell_matrix(s->writer, "obsm/X_scvi", WIDTH, &source), AV_OK);
  return 0;
}

/* Fails if anything but the input (and what the test removed) is left. */
static int tear_down(void **state) {
  scene *s = *state;
  av_writer_discard(&s->writer);
  unlink(s->input);
  const int left = rmdir(s->folder);
  av_dataset_free(&s->dataset);
  av_config_free(&s->config);
  free(s->input);
  free(s->output);
  free(s);
  av_error_clear();
  return left;
}

/* Adds one to the first value of X_scvi, or removes it. */
static void change(scene *s, bool remove) {
  float values[CELLS * WIDTH];
  const hid_t dataset = H5Dopen2(s->writer->h5, "obsm/X_scvi", H5P_DEFAULT);
  assert_true(dataset >= 0);
  assert_true(H5Dread(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0);
  values[0] += 1;
  assert_true(H5Dwrite(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0);
  assert_true(H5Dclose(dataset) >= 0);
  if (remove) {
    assert_true(H5Ldelete(s->writer->h5, "obsm/X_scvi", H5P_DEFAULT) >= 0);
  }
}

static void refuses(scene *s, const char *message) {
  const av_status status = av_writer_commit(&s->writer);
  assert_true(status == AV_IOERR || status == AV_BADDATA);
  if (strstr(av_error_text(), message) == NULL) {
    fail_msg("message: %s", av_error_text());
  }
  assert_null(s->writer);
  assert_int_not_equal(access(s->output, F_OK), 0);
}

static void what_is_well_is_kept(void **state) {
  scene *s = *state;
  assert_int_equal(av_writer_commit(&s->writer), AV_OK);
  assert_int_equal(access(s->output, F_OK), 0);
  assert_int_equal(unlink(s->output), 0);
}

static void a_changed_value_is_found(void **state) {
  scene *s = *state;
  change(s, false);
  refuses(s, "obsm/X_scvi: read back with other values than written");
}

static void a_lost_dataset_is_found(void **state) {
  scene *s = *state;
  change(s, true);
  refuses(s, "obsm/X_scvi");
}

static void another_shape_is_found(void **state) {
  scene *s = *state;
  s->writer->written[s->writer->n_written - 1].dims[0] -= 1;
  refuses(s, "obsm/X_scvi: read back with another shape than written");
}

static void a_name_taken_meanwhile_is_respected(void **state) {
  scene *s = *state;
  FILE *file = fopen(s->output, "w");
  assert_non_null(file);
  assert_int_equal(fclose(file), 0);
  assert_int_equal(av_writer_commit(&s->writer), AV_CANTCREATE);
  assert_non_null(strstr(av_error_text(), "exists already: it was made during this run"));
  assert_int_equal(unlink(s->output), 0);
}

/* append: another program writes to the input while its copy is worked on. */
static void a_changed_input_is_not_replaced(void **state) {
  scene *s = *state;
  av_writer_discard(&s->writer);
  s->config.output.mode = AV_OUTPUT_APPEND;
  assert_int_equal(av_writer_create(&s->writer, &s->comm, &s->config, &s->dataset), AV_OK);
  FILE *file = fopen(s->input, "ab");
  assert_non_null(file);
  assert_int_equal(fputc(0, file), 0);
  assert_int_equal(fclose(file), 0);
  assert_int_equal(av_writer_commit(&s->writer), AV_IOERR);
  assert_non_null(strstr(av_error_text(), "was changed by another program during the run"));
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(what_is_well_is_kept, set_up, tear_down),
      cmocka_unit_test_setup_teardown(a_changed_value_is_found, set_up, tear_down),
      cmocka_unit_test_setup_teardown(a_lost_dataset_is_found, set_up, tear_down),
      cmocka_unit_test_setup_teardown(another_shape_is_found, set_up, tear_down),
      cmocka_unit_test_setup_teardown(a_name_taken_meanwhile_is_respected, set_up, tear_down),
      cmocka_unit_test_setup_teardown(a_changed_input_is_not_replaced, set_up, tear_down),
  };
  av_comm comm;
  if (av_comm_create(&comm, &argc, &argv) != AV_OK || av_h5_init() != AV_OK ||
      av_log_open(&comm, NULL) != AV_OK) {
    av_error_print();
    return 1;
  }
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  av_log_close();
  av_comm_free(&comm);
  return failed;
}
