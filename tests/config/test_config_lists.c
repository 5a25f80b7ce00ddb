/* Lists: on one line, over lines, in a file. */
#include "config_test.h"

static void expect_list(const char *text, int64_t n, const char *const *expected) {
  av_config c;
  parse_ok(&c, text);
  assert_int_equal(c.data.subset_genes.n, n);
  for (int64_t i = 0; i < n; ++i) {
    assert_string_equal(c.data.subset_genes.at[i], expected[i]);
  }
  assert_true(c.data.subset_genes_given);
  av_config_free(&c);
}

static void on_lines(void **state) {
  (void)state;
  static const char *const abc[] = {"CD3D", "HLA-DRA", "MT ND1"};
  expect_list("[data]\nsubset_genes = CD3D,HLA-DRA ,  MT ND1 ; three\n", 3, abc);
  expect_list("[data]\nsubset_genes = CD3D, HLA-DRA,\n  ; comment\n\n  MT ND1,\n", 3, abc);
  expect_list("[data]\nsubset_genes =\n  CD3D\n  HLA-DRA\n  MT ND1\n", 3, abc);
  static const char *const odd[] = {"a,b", "c\"d", "@e", "f\"g"};
  expect_list("[data]\nsubset_genes = \"a,b\" , \"c\"\"d\",\"@e\", f\"g\n", 4, odd);
  static const char *const indices[] = {"0", "17", "4"};
  expect_list("[data]\nsubset_genes = 0,17,4\n", 3, indices);
}

static void faults(void **state) {
  (void)state;
  expect_faults("[data]\nsubset_genes = A,,B\n",
                "run.ini:2: [data] subset_genes: entry 2 of the list is empty");
  expect_faults("[data]\nsubset_genes = ,A\n",
                "run.ini:2: [data] subset_genes: entry 1 of the list is empty");
  expect_faults("[data]\nsubset_genes = A,B, C,B\n",
                "run.ini:2: [data] subset_genes: B is listed twice");
  expect_faults("[data]\nsubset_genes = A, \"B, C\n",
                "run.ini:2: [data] subset_genes: no closing quote after \"B, C");
  expect_faults("[data]\nsubset_genes = \"A\" B\n",
                "run.ini:2: [data] subset_genes: no comma after \"A\"");
  expect_faults("[data]\nsubset_genes = A,\n  B\n  batch_key = donor\n  n = 1\n",
                "run.ini:4: [data] batch_key: an indented line continues the value above it "
                "(subset_genes); begin the key in the first column");
}

/* n names "G0".."G<n-1>" separated by `separator`. */
static char *many_names(const char *before, int n, const char *separator) {
  char *text = malloc(strlen(before) + (size_t)n * 12 + 2);
  assert_non_null(text);
  char *end = stpcpy(text, before);
  for (int i = 0; i < n; ++i) {
    end += sprintf(end, "%sG%d", i == 0 ? "" : separator, i);
  }
  strcpy(end, "\n");
  return text;
}

static void check_many(const av_config *c, int n) {
  char name[16];
  assert_int_equal(c->data.subset_genes.n, n);
  for (int i = 0; i < n; ++i) {
    snprintf(name, sizeof name, "G%d", i);
    assert_string_equal(c->data.subset_genes.at[i], name);
  }
}

static void two_thousand_on_one_line(void **state) {
  (void)state;
  av_config c;
  char *text = many_names("[data]\nsubset_genes = ", 2000, ", ");
  parse_ok(&c, text);
  check_many(&c, 2000);
  free(text);
  av_config_free(&c);
}

/* 5 MB on one line. */
static void half_a_million_on_one_line(void **state) {
  (void)state;
  av_config c;
  char *text = many_names("[data]\nsubset_genes = ", 600000, ", ");
  assert_true(strlen(text) > 5000000);
  parse_ok(&c, text);
  check_many(&c, 600000);
  free(text);
  av_config_free(&c);
}

static void from_file(void **state) {
  (void)state;
  av_config c;
  static const char lines[] =
      "\xef\xbb\xbf"
      "CD3D\r\n\r\n  HLA,DRA \r\nlast";
  write_file("genes.txt", lines, sizeof lines - 1);
  parse_ok(&c, "[data]\nsubset_genes = @genes.txt\n");
  assert_int_equal(c.data.subset_genes.n, 3);
  assert_string_equal(c.data.subset_genes.at[0], "CD3D");
  assert_string_equal(c.data.subset_genes.at[1], "HLA,DRA");
  assert_string_equal(c.data.subset_genes.at[2], "last");
  av_config_free(&c);

  char *many = many_names("", 2000, "\n");
  write_file("genes.txt", many, strlen(many));
  free(many);
  parse_ok(&c, "[data]\nsubset_genes = @ genes.txt\n");
  check_many(&c, 2000);
  av_config_free(&c);
  assert_int_equal(unlink("genes.txt"), 0);
}

static void bad_files(void **state) {
  (void)state;
  expect_faults(
      "[data]\nsubset_genes = @absent.txt\n",
      "run.ini:2: [data] subset_genes: cannot open absent.txt: No such file or directory");
  expect_faults("[data]\nsubset_genes = @.\n",
                "run.ini:2: [data] subset_genes: . is a directory, not a file");
  write_file("genes.txt", "\n \n", 3);
  expect_faults("[data]\nsubset_genes = @genes.txt\n",
                "run.ini:2: [data] subset_genes: genes.txt has no entries");
  write_file("genes.txt", "a\nb\na\n", 6);
  expect_faults("[data]\nsubset_genes = @genes.txt\n",
                "run.ini:2: [data] subset_genes: a is listed twice");
  write_file("genes.txt", "a\nb\0c\n", 6);
  expect_faults("[data]\nsubset_genes = @genes.txt\n",
                "run.ini:2: [data] subset_genes: genes.txt: NUL byte; this is not a text file");
  write_file("genes.txt", "\x89HDF\r\n\x1a\n????????", 16);
  expect_faults("[data]\nsubset_genes = @genes.txt\n",
                "run.ini:2: [data] subset_genes: genes.txt is an HDF5 file, not text");
  write_file("genes.txt", "a\nb ;c\n", 7);
  expect_faults(
      "[data]\nsubset_genes = @genes.txt\n",
      "run.ini:2: [data] subset_genes: genes.txt:2: a name may not hold a ; after a blank");
  assert_int_equal(unlink("genes.txt"), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(on_lines),
      cmocka_unit_test(faults),
      cmocka_unit_test(two_thousand_on_one_line),
      cmocka_unit_test(half_a_million_on_one_line),
      cmocka_unit_test(from_file),
      cmocka_unit_test(bad_files),
  };
  return cmocka_run_group_tests(tests, enter_folder, leave_folder);
}
