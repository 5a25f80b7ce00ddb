/* The settings as text come back as the same settings; help, Markdown, and the committed examples.
 */
#include "config_test.h"

#include "config/config_table.h"

#include <dirent.h>
#include <math.h>

static const char *config_folder; /* argv[1] */

static bool same_value(const av_config_key *key, const void *a, const void *b) {
  switch (key->type) {
    case AV_TYPE_BOOL:
      return *(const bool *)a == *(const bool *)b;
    case AV_TYPE_INT:
      return *(const int64_t *)a == *(const int64_t *)b;
    case AV_TYPE_REAL:
      return *(const double *)a == *(const double *)b ||
             (isnan(*(const double *)a) && isnan(*(const double *)b)); /* not given */
    case AV_TYPE_CHOICE:
      return *(const int *)a == *(const int *)b;
    case AV_TYPE_TEXT: {
      const char *x = *(char *const *)a;
      const char *y = *(char *const *)b;
      return x == NULL || y == NULL ? x == y : strcmp(x, y) == 0;
    }
    case AV_TYPE_AMOUNT: {
      const av_amount *x = a;
      const av_amount *y = b;
      return x->is_fraction == y->is_fraction &&
             (x->is_fraction ? x->fraction == y->fraction : x->count == y->count);
    }
    case AV_TYPE_LIST: {
      const av_name_list *x = a;
      const av_name_list *y = b;
      bool same = x->n == y->n;
      for (int64_t i = 0; same && i < x->n; ++i) {
        same = strcmp(x->at[i], y->at[i]) == 0;
      }
      return same;
    }
  }
  return false;
}

static void expect_same(const av_config *a, const av_config *b) {
  for (int i = 0; i < AV_N_KEYS; ++i) {
    const av_config_key *key = &av_config_keys[i];
    if (!same_value(key, av_config_value(a, key), av_config_value(b, key))) {
      fail_msg("[%s] %s differs", key->section, key->name);
    }
  }
}

/* Text to settings to text to settings, before and after av_config_resolve. */
static void round_trip(const char *text, bool resolvable) {
  for (int resolve = 0; resolve <= resolvable; ++resolve) {
    av_config a;
    av_config b;
    parse_ok(&a, text);
    if (resolve) {
      assert_int_equal(av_config_resolve(&a), AV_OK);
    }
    char *written = av_config_text(&a);
    assert_non_null(written);
    parse_ok(&b, written);
    if (resolve) {
      const av_status status = av_config_resolve(&b);
      assert_string_equal(av_error_text(), "");
      assert_int_equal(status, AV_OK);
    }
    expect_same(&a, &b);
    free(written);
    av_config_free(&a);
    av_config_free(&b);
  }
}

static const char files[] = "[data]\ninput = in.h5ad\n[output]\npath = out.h5ad\n";

static void round_trips(void **state) {
  (void)state;
  char text[2048];
  round_trip("", false);
  round_trip(files, true);
  static const char *const more[] = {
      "[model]\nlinear_decoder = yes\n",
      "[model]\nlinear_decoder = yes\ngene_likelihood = poisson\nuse_observed_lib_size = yes\n",
      "[train]\nn_steps_kl_warmup = 100\nlr = 0.1\neps = 1e-30\nweight_decay = "
      "0.30000000000000004\n",
      "[train]\nsplit_key = fold\n",
      "[train]\ntrain_size = 1.0\nmax_epochs = 0\nseed = 9007199254740992\n"
      "[model]\nload = m.h5\n",
      "[train]\ngradient_clip_val = 0.1\noptimizer = adamw\nn_restarts = 3\n"
      "[data]\ncategorical_covariate_keys = a, \"b,c\"\n",
      "[train]\ntrain_size = 300\nvalidation_size = 0.1\n[runtime]\nthreads = 4\n",
      "[data]\ncounts =;x\nbatch_key = a # b;c\nsubset_genes = \"a,b\",\"@c\",\"\"\"\",\" "
      "d\",\";e\", f g\n",
      "mode = copy\nn_samples = 25\nlatent = off\n[data]\nempty_cells = nan\n"};
  for (size_t i = 0; i < sizeof more / sizeof *more; ++i) {
    snprintf(text, sizeof text, "%s%s", files, more[i]);
    round_trip(text, true);
  }
}

static void shown(void **state) {
  (void)state;
  av_config c;
  char text[256];
  snprintf(text, sizeof text, "%s[train]\nn_steps_kl_warmup = 7\nmax_epochs = 3\n", files);
  parse_ok(&c, text);
  assert_int_equal(av_config_resolve(&c), AV_OK);
  char *written = av_config_text(&c);
  assert_non_null(written);
  static const char *const lines[] = {
      "[data]\ninput = in.h5ad\ncounts = X ; default\nbatch_key =\n",
      "\n\n[model]\nlinear_decoder = no ; default\n",
      "\ngene_likelihood = zinb ; chosen\n",
      "\n[train]\nmax_epochs = 3\nlr = 0.001 ; default\n",
      "\n; n_epochs_kl_warmup: n_steps_kl_warmup counts instead\nn_steps_kl_warmup = 7\n",
      "\nmodel = out.model.h5 ; chosen\n",
      "\ntrain_size = 0.9 ; default\nvalidation_size =\n"};
  for (size_t i = 0; i < sizeof lines / sizeof *lines; ++i) {
    if (strstr(written, lines[i]) == NULL) {
      fail_msg("no <%s> in:\n%s", lines[i], written);
    }
  }
  free(written);
  av_config_free(&c);
}

/* What a printer of the table writes. */
static char *printed(void (*print)(FILE *), const char *key, av_status expected) {
  char *text = NULL;
  size_t length = 0;
  FILE *out = open_memstream(&text, &length);
  assert_non_null(out);
  if (print != NULL) {
    print(out);
  } else {
    assert_int_equal(av_config_help(out, key), expected);
  }
  assert_int_equal(fclose(out), 0);
  return text;
}

static void expect_help(const char *key, const char *expected) {
  char *text = printed(NULL, key, AV_OK);
  assert_string_equal(text, expected);
  free(text);
}

static void help(void **state) {
  (void)state;
  expect_help("n_latent",
              "[model] n_latent\n  dimensions of the latent space\n"
              "  value    whole number, 1 to 4096\n  default  10\n");
  expect_help(
      "train.max_epochs",
      "[train] max_epochs\n  passes over the training cells; empty: min(400, round(400 * 20000 "
      "/ cells)), at least 1\n  value    whole number, 0 to 10000000\n  default  none\n"
      "  also     n_epochs\n");
  expect_help(
      "gene_likelihood",
      "[model] gene_likelihood\n  distribution of the counts; empty: zinb, or nb with a linear "
      "decoder\n  value    zinb, nb, poisson\n  default  none\n");
  char *all = printed(NULL, NULL, AV_OK);
  for (int i = 0; i < AV_N_KEYS; ++i) {
    char start[64];
    snprintf(start, sizeof start, "\n  %s =", av_config_keys[i].name);
    assert_non_null(strstr(all, start));
  }
  assert_non_null(strstr(all,
                         "\n\n[model]  the model to fit\n"
                         "  linear_decoder = no                   yes: LDVAE, a linear decoder "
                         "with loadings; no: scVI\n"));
  assert_non_null(strstr(all,
                         "\n  seed = 0                              seed of every random draw "
                         "(whole number, 0 to\n"
                         "                                        9007199254740992)\n"));
  for (const char *line = all; *line != '\0'; line += strcspn(line, "\n") + 1) {
    assert_true(strcspn(line, "\n") <= 100);
  }
  free(all);

  static const struct {
    const char *key;
    const char *error;
  } unknown[] = {
      {"n_latnt", "help n_latnt: no such key; did you mean model.n_latent?"},
      {"train.n_latnt", "help train.n_latnt: no such key; did you mean model.n_latent?"},
      {"runtme", "help runtme: no such key; did you mean runtime?"},
      {"zzzzzzzzzzzz", "help zzzzzzzzzzzz: no such key; \"atlasvi help\" lists them all"}};
  for (int i = 0; i < 4; ++i) {
    av_error_clear();
    char *text = printed(NULL, unknown[i].key, AV_USAGE);
    assert_string_equal(text, "");
    assert_string_equal(av_error_text(), unknown[i].error);
    free(text);
  }
  av_error_clear();
}

static void markdown(void **state) {
  (void)state;
  char *text = printed(av_config_help_markdown, NULL, AV_OK);
  int rows = 0;
  int tables = 0;
  for (const char *line = text; *line != '\0'; line += strcspn(line, "\n") + 1) {
    int bars = 0;
    for (const char *c = line; *c != '\n'; ++c) {
      bars += *c == '|';
    }
    rows += strncmp(line, "| `", 3) == 0;
    tables += strncmp(line, "|---", 4) == 0;
    assert_true(bars == 0 || bars == 5); /* four cells: no choice list breaks a row */
  }
  assert_int_equal(rows, AV_N_KEYS);
  assert_int_equal(tables, AV_N_SECTIONS);
  assert_non_null(strstr(text,
                         "| `n_latent` | `10` | whole number, 1 to 4096 | dimensions of the "
                         "latent space |\n"));
  free(text);
}

static char *read_example(const char *name) {
  char path[4096];
  char *text = NULL;
  char *why = NULL;
  size_t length = 0;
  snprintf(path, sizeof path, "%s/%s", config_folder, name);
  const av_status status = av_config_slurp(path, &text, &length, &why);
  if (status != AV_OK) {
    fail_msg("%s", why);
  }
  return text;
}

/* Takes the ; away from every key; returns their number. */
static int uncomment(char *text) {
  int keys = 0;
  char *to = text;
  for (const char *from = text; *from != '\0'; ++from) {
    if (from[0] == ';' && from[1] != ' ' && from > text && from[-1] == '\n') {
      ++keys;
    } else {
      *to++ = *from;
    }
  }
  *to = '\0';
  return keys;
}

/* config/default.ini is what `atlasvi help --ini` prints, and every line of it is legal and is
 * the default. */
static void default_ini(void **state) {
  (void)state;
  char *committed = read_example("default.ini");
  char *text = printed(av_config_help_ini, NULL, AV_OK);
  assert_string_equal(committed, text);
  free(committed);
  av_config a;
  av_config b;
  assert_int_equal(av_config_defaults(&a), AV_OK);
  parse_ok(&b, text);
  expect_same(&a, &b);
  av_config_free(&b);
  const int keys = uncomment(text);
  assert_int_equal(keys, AV_N_KEYS);
  parse_ok(&b, text);
  expect_same(&a, &b);
  assert_true(b.model.n_latent_given);
  av_config_free(&a);
  av_config_free(&b);
  free(text);
}

static void examples(void **state) {
  (void)state;
  DIR *folder = opendir(config_folder);
  assert_non_null(folder);
  int n = 0;
  for (const struct dirent *entry = readdir(folder); entry != NULL; entry = readdir(folder)) {
    const char *dot = strrchr(entry->d_name, '.');
    if (dot == NULL || strcmp(dot, ".ini") != 0) {
      continue;
    }
    char *text = read_example(entry->d_name);
    av_config c;
    parse_ok(&c, text);
    if (strcmp(entry->d_name, "default.ini") != 0) {
      const av_status status = av_config_resolve(&c);
      assert_string_equal(av_error_text(), "");
      assert_int_equal(status, AV_OK);
    }
    av_config_free(&c);
    free(text);
    ++n;
  }
  closedir(folder);
  assert_true(n >= 5);
}

/* scanpy 1.7.2's signature of pp.scvi and what its body passes on. */
static void scanpy_external(void **state) {
  (void)state;
  char *text = read_example("scanpy_external.ini");
  av_config c;
  parse_ok(&c, text);
  assert_int_equal(av_config_resolve(&c), AV_OK);
  assert_int_equal(c.model.n_hidden, 128);
  assert_int_equal(c.model.n_latent, 10);
  assert_int_equal(c.model.n_layers, 1);
  assert_int_equal(c.model.dispersion, AV_DISPERSION_GENE);
  assert_int_equal(c.train.max_epochs, 400);
  assert_int_equal(c.train.n_epochs_kl_warmup, 400);
  assert_true(c.train.lr == 1e-3);
  assert_true(c.train.train_size.is_fraction && c.train.train_size.fraction == 1.0);
  assert_true(c.data.use_highly_variable_genes);
  assert_null(c.data.batch_key);
  assert_int_equal(c.data.subset_genes.n, 0);
  assert_false(c.model.linear_decoder);
  assert_int_equal(c.model.gene_likelihood, AV_LIKELIHOOD_ZINB);
  assert_false(c.model.use_observed_lib_size);
  assert_int_equal(c.output.n_samples, 1);
  av_config_free(&c);
  free(text);
}

int main(int argc, char **argv) {
  if (argc != 2) {
    fprintf(stderr, "usage: test_config_text CONFIG_FOLDER\n");
    return 64;
  }
  config_folder = argv[1];
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(round_trips),     cmocka_unit_test(shown),       cmocka_unit_test(help),
      cmocka_unit_test(markdown),        cmocka_unit_test(default_ini), cmocka_unit_test(examples),
      cmocka_unit_test(scanpy_external),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
