/* Reading the file on rank 0: every rank gets the same settings, or the same faults. */
#include "config_test.h"

#include "base/comm.h"

static av_comm comm;

/* The status, which must be the same on all ranks, as must be the error text. */
static av_status read_config(av_config *c, const char *path, int n, const char *const *overrides) {
  av_error_clear();
  return av_config_read(c, &comm, path, n, (char *const *)overrides);
}

static void write_on_rank_0(const char *path, const char *bytes, size_t n) {
  if (comm.rank == 0) {
    write_file(path, bytes, n);
  }
}

static void remove_on_rank_0(const char *path) {
  if (comm.rank == 0) {
    assert_int_equal(unlink(path), 0);
  }
}

static void settings(void **state) {
  (void)state;
  static const char text[] =
      "[data]\ninput = in.h5ad\nsubset_genes = @genes.txt\n[model]\nlinear_decoder = yes\n"
      "[train]\ntrain_size = 0.5\nvalidation_size = 100\nlr = 0.25\n[output]\npath = out.h5ad\n";
  static const char *const overrides[] = {"model.n_latent=7", "data.counts=raw/X"};
  write_on_rank_0("run.ini", text, sizeof text - 1);
  write_on_rank_0("genes.txt", "A\nB\nC\n", 6);
  av_config c;
  const av_status status = read_config(&c, "run.ini", 2, overrides);
  assert_string_equal(av_error_text(), "");
  assert_int_equal(status, AV_OK);
  assert_string_equal(c.path, "run.ini");
  assert_string_equal(c.data.input, "in.h5ad");
  assert_string_equal(c.data.counts, "raw/X");
  assert_null(c.data.batch_key);
  assert_int_equal(c.data.subset_genes.n, 3);
  assert_string_equal(c.data.subset_genes.at[2], "C");
  assert_true(c.model.linear_decoder && c.model.linear_decoder_given);
  assert_int_equal(c.model.n_latent, 7);
  assert_false(c.model.n_hidden_given);
  assert_int_equal(c.model.gene_likelihood, AV_LIKELIHOOD_NB);
  assert_true(c.train.train_size.is_fraction && c.train.train_size.fraction == 0.5);
  assert_true(!c.train.validation_size.is_fraction && c.train.validation_size.count == 100);
  assert_true(c.train.lr == 0.25);
  assert_string_equal(c.output.model, "out.model.h5");
  assert_string_equal(av_config_where(&c, "train", "lr"), "run.ini:9: [train] lr");
  assert_string_equal(av_config_where(&c, "model", "n_latent"), "command line: [model] n_latent");
  char *written = av_config_text(&c);
  assert_non_null(written);
  assert_non_null(strstr(written, "use_observed_lib_size = no ; chosen\n"));
  free(written);
  av_config_free(&c);
  remove_on_rank_0("run.ini");
  remove_on_rank_0("genes.txt");
}

static void expect_refused(const char *text, size_t length, av_status code, const char *error) {
  write_on_rank_0("run.ini", text, length);
  av_config c;
  const av_status status = read_config(&c, "run.ini", 0, NULL);
  assert_string_equal(av_error_text(), error);
  assert_int_equal(status, code);
  av_error_clear();
  av_config_free(&c);
  remove_on_rank_0("run.ini");
}

static void faults(void **state) {
  (void)state;
  static const char both[] =
      "[data]\ninput = a\n[model]\nn_latnt = 4\n[train]\nmin_kl_weight = 3\n";
  expect_refused(both, sizeof both - 1, AV_CONFIG,
                 "run.ini:4: [model] n_latnt: unknown key; did you mean n_latent?\n"
                 "run.ini:6: [train] min_kl_weight: 3 is above max_kl_weight, 1 by default");
  static const char nul[] = "[data]\ninput = a\n\0[model]\n";
  expect_refused(nul, sizeof nul - 1, AV_CONFIG, "run.ini:3: NUL byte; this is not a text file");
  expect_refused(
      "\x89HDF\r\n\x1a\nanything", 16, AV_CONFIG,
      "run.ini is an HDF5 file, not text; the INI file comes first (to look into this one: "
      "atlasvi inspect FILE)");
  expect_refused("", 0, AV_CONFIG,
                 "run.ini: [data] input: missing; name the .h5ad file with the counts\n"
                 "run.ini: [output] path: missing; name the .h5ad file to write");
}

static void unreadable(void **state) {
  (void)state;
  av_config c;
  assert_int_equal(read_config(&c, "absent.ini", 0, NULL), AV_NOINPUT);
  assert_string_equal(av_error_text(), "cannot open absent.ini: No such file or directory");
  av_config_free(&c);
  assert_int_equal(read_config(&c, ".", 0, NULL), AV_NOINPUT);
  assert_string_equal(av_error_text(), ". is a directory, not a file");
  av_error_clear();
  av_config_free(&c);
}

int main(int argc, char **argv) {
  if (av_comm_create(&comm, &argc, &argv) != AV_OK) {
    av_error_print();
    return 1;
  }
  const struct CMUnitTest tests[] = {cmocka_unit_test(settings), cmocka_unit_test(faults),
                                     cmocka_unit_test(unreadable)};
  const int failed = cmocka_run_group_tests(tests, enter_folder, leave_folder);
  av_comm_free(&comm);
  return failed;
}
