/* The command line, and what --version says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/status.h"
#include "cli/cli.h"
#include "cli/version.h"

#include <stdlib.h>
#include <string.h>

enum { MOST = 8 };

/* Parses "atlasvi" and these words, NULL-terminated. */
static av_status parse(av_cli *cli, const char *const words[MOST]) {
  const char *argv[MOST + 1] = {"atlasvi"};
  int argc = 1;
  for (; words[argc - 1] != NULL; ++argc) {
    argv[argc] = words[argc - 1];
  }
  av_error_clear();
  return av_cli_parse(cli, argc, (char *const *)argv);
}

#define PARSE_OK(cli, ...)                          \
  do {                                              \
    const char *const words_[MOST] = {__VA_ARGS__}; \
    const av_status status_ = parse((cli), words_); \
    assert_string_equal(av_error_text(), "");       \
    assert_int_equal(status_, AV_OK);               \
  } while (0)

#define EXPECT_USAGE(message, ...)                   \
  do {                                               \
    const char *const words_[MOST] = {__VA_ARGS__};  \
    av_cli cli_;                                     \
    const av_status status_ = parse(&cli_, words_);  \
    assert_string_equal(av_error_text(), (message)); \
    assert_int_equal(status_, AV_USAGE);             \
    av_error_clear();                                \
    av_cli_free(&cli_);                              \
  } while (0)

static void runs(void **state) {
  (void)state;
  av_cli cli;
  PARSE_OK(&cli, "run.ini");
  assert_int_equal(cli.command, AV_COMMAND_RUN);
  assert_string_equal(cli.path, "run.ini");
  assert_int_equal(cli.n_settings, 0);
  av_cli_free(&cli);
  PARSE_OK(&cli, "dir/a=b.ini", "model.n_latent=5", "data.input=x=y");
  assert_string_equal(cli.path, "dir/a=b.ini");
  assert_int_equal(cli.n_settings, 2);
  assert_string_equal(cli.settings[0], "model.n_latent=5");
  assert_string_equal(cli.settings[1], "data.input=x=y");
  av_cli_free(&cli);
  /* files that are called like a command, or have no ending */
  PARSE_OK(&cli, "./check");
  assert_int_equal(cli.command, AV_COMMAND_RUN);
  assert_string_equal(cli.path, "./check");
  av_cli_free(&cli);
  PARSE_OK(&cli, "settings");
  assert_int_equal(cli.command, AV_COMMAND_RUN);
  av_cli_free(&cli);
  PARSE_OK(&cli, "check.ini");
  assert_int_equal(cli.command, AV_COMMAND_RUN);
  av_cli_free(&cli);
}

static void checks(void **state) {
  (void)state;
  av_cli cli;
  PARSE_OK(&cli, "check", "run.ini");
  assert_int_equal(cli.command, AV_COMMAND_CHECK);
  assert_string_equal(cli.path, "run.ini");
  assert_int_equal(cli.ranks, 0);
  av_cli_free(&cli);
  PARSE_OK(&cli, "check", "run.ini", "--ranks", "64", "train.seed=3");
  assert_int_equal(cli.ranks, 64);
  assert_int_equal(cli.n_settings, 1);
  av_cli_free(&cli);
  PARSE_OK(&cli, "check", "--ranks=2", "check");
  assert_int_equal(cli.ranks, 2);
  assert_string_equal(cli.path, "check");
  av_cli_free(&cli);
}

static void other_commands(void **state) {
  (void)state;
  av_cli cli;
  PARSE_OK(&cli, "inspect", "a.h5ad");
  assert_int_equal(cli.command, AV_COMMAND_INSPECT);
  assert_string_equal(cli.path, "a.h5ad");
  av_cli_free(&cli);
  PARSE_OK(&cli, "simulate", "a.h5ad", "cells=100", "genes=20");
  assert_int_equal(cli.command, AV_COMMAND_SIMULATE);
  assert_int_equal(cli.n_settings, 2);
  assert_string_equal(cli.settings[1], "genes=20");
  av_cli_free(&cli);
  PARSE_OK(&cli, "help");
  assert_int_equal(cli.command, AV_COMMAND_HELP);
  assert_null(cli.key);
  assert_int_equal(cli.help_form, AV_HELP_TEXT);
  av_cli_free(&cli);
  PARSE_OK(&cli, "help", "model.n_latent");
  assert_string_equal(cli.key, "model.n_latent");
  av_cli_free(&cli);
  PARSE_OK(&cli, "help", "--markdown");
  assert_int_equal(cli.help_form, AV_HELP_MARKDOWN);
  av_cli_free(&cli);
  PARSE_OK(&cli, "help", "--ini");
  assert_int_equal(cli.help_form, AV_HELP_INI);
  av_cli_free(&cli);
  PARSE_OK(&cli, NULL);
  assert_int_equal(cli.command, AV_COMMAND_NONE);
  av_cli_free(&cli);
  static const char *const usage[][2] = {
      {"--help"}, {"-h"}, {"check", "--help"}, {"run.ini", "-h"}};
  for (int i = 0; i < 4; ++i) {
    PARSE_OK(&cli, usage[i][0], usage[i][1]);
    assert_int_equal(cli.command, AV_COMMAND_USAGE);
    av_cli_free(&cli);
  }
  static const char *const version[] = {"--version", "version"};
  for (int i = 0; i < 2; ++i) {
    PARSE_OK(&cli, version[i]);
    assert_int_equal(cli.command, AV_COMMAND_VERSION);
    av_cli_free(&cli);
  }
}

static void mistakes(void **state) {
  (void)state;
  EXPECT_USAGE("chek: no such command; did you mean check? (a file of this name: ./chek)", "chek",
               "run.ini");
  EXPECT_USAGE("simulat: no such command; did you mean simulate? (a file of this name: ./simulat)",
               "simulat");
  EXPECT_USAGE(
      "model.n_latent=5: the INI file comes first; expected: atlasvi RUN.ini "
      "[section.key=value ...]",
      "model.n_latent=5", "run.ini");
  EXPECT_USAGE(
      "other.ini: not of the form section.key=value; expected: atlasvi RUN.ini "
      "[section.key=value ...]",
      "run.ini", "other.ini");
  EXPECT_USAGE(
      "=5: not of the form section.key=value; expected: atlasvi RUN.ini "
      "[section.key=value ...]",
      "run.ini", "=5");
  EXPECT_USAGE("--verson: no such option; did you mean --version?", "--verson");
  EXPECT_USAGE("--ranks: not an option here; expected: atlasvi RUN.ini [section.key=value ...]",
               "run.ini", "--ranks", "4");
  EXPECT_USAGE("--frobnicate: no such option; expected: atlasvi RUN.ini [section.key=value ...]",
               "--frobnicate");
  EXPECT_USAGE(
      "check: no file; expected: atlasvi check RUN.ini [--ranks N] [section.key=value ...]",
      "check");
  EXPECT_USAGE(
      "train.seed=1: the file comes first; expected: atlasvi check RUN.ini [--ranks N] "
      "[section.key=value ...]",
      "check", "train.seed=1");
  static const char *const bad_ranks[] = {"0", "-2", "four", "4x", "", "99999999999"};
  for (int i = 0; i < 6; ++i) {
    char expected[128];
    snprintf(expected, sizeof expected,
             "--ranks %s: not a number of ranks; expected: atlasvi check RUN.ini [--ranks N] "
             "[section.key=value ...]",
             bad_ranks[i]);
    EXPECT_USAGE(expected, "check", "run.ini", "--ranks", bad_ranks[i]);
  }
  EXPECT_USAGE(
      "--ranks : not a number of ranks; expected: atlasvi check RUN.ini [--ranks N] "
      "[section.key=value ...]",
      "check", "run.ini", "--ranks");
  EXPECT_USAGE("--rank: no such option; did you mean --ranks?", "check", "run.ini", "--rank", "3");
  EXPECT_USAGE("inspect: no file; expected: atlasvi inspect FILE.h5ad", "inspect");
  EXPECT_USAGE("b.h5ad: one argument too many; expected: atlasvi inspect FILE.h5ad", "inspect",
               "a.h5ad", "b.h5ad");
  EXPECT_USAGE("cells=3: the file comes first; expected: atlasvi simulate OUT.h5ad [key=value ...]",
               "simulate", "cells=3");
  EXPECT_USAGE("3: not of the form key=value; expected: atlasvi simulate OUT.h5ad [key=value ...]",
               "simulate", "a.h5ad", "3");
  EXPECT_USAGE("lr: one argument too many; expected: atlasvi help [KEY] [--markdown | --ini]",
               "help", "seed", "lr");
  EXPECT_USAGE("x: one argument too many; expected: atlasvi --version", "--version", "x");
}

static void usage_text(void **state) {
  (void)state;
  char *text = NULL;
  size_t length = 0;
  FILE *out = open_memstream(&text, &length);
  assert_non_null(out);
  av_cli_usage(out);
  assert_int_equal(fclose(out), 0);
  static const char *const words[] = {"RUN.ini",   "check ", "inspect ",
                                      "simulate ", "help ",  "--version"};
  for (int i = 0; i < 6; ++i) {
    assert_non_null(strstr(text, words[i]));
  }
  free(text);
}

static void version_text(void **state) {
  (void)state;
  char *text = NULL;
  size_t length = 0;
  FILE *out = open_memstream(&text, &length);
  assert_non_null(out);
  av_print_version(out);
  assert_int_equal(fclose(out), 0);
  static const char *const starts[] = {"atlasvi   ",           "\nrevision  ",
                                       "\ncompiler  ",         "\nbuild     ",
                                       "\nMPI       ",         "\nHDF5      1.",
                                       "\nBLAS      OpenBLAS", "\nCUDA      ",
                                       "\nNCCL      ",         "\nbackends  cpu, reference\n"};
  const char *at = text;
  for (int i = 0; i < 10; ++i) {
    at = strstr(at, starts[i]);
    assert_non_null(at);
    assert_true(at[strlen(starts[i])] != '\n' && (at[strlen(starts[i])] != '\0' || i == 9));
  }
  assert_true(strlen(av_version()) > 0 && strlen(av_revision()) > 0);
  free(text);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(runs),     cmocka_unit_test(checks),     cmocka_unit_test(other_commands),
      cmocka_unit_test(mistakes), cmocka_unit_test(usage_text), cmocka_unit_test(version_text)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
