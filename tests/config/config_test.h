/* What the tests of src/config share. */
#ifndef CONFIG_TEST_H
#define CONFIG_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/status.h"
#include "config/config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Parses onto defaults, as "run.ini". */
static inline av_status parse(av_config *config, const char *text) {
  av_error_clear();
  assert_int_equal(av_config_defaults(config), AV_OK);
  return av_config_parse(config, "run.ini", text, 0, NULL);
}

/* The text has no fault. */
static inline void parse_ok(av_config *config, const char *text) {
  const av_status status = parse(config, text);
  assert_string_equal(av_error_text(), "");
  assert_int_equal(status, AV_OK);
}

/* The text has exactly these faults, one line each. */
static inline void expect_faults(const char *text, const char *faults) {
  av_config config;
  const av_status status = parse(&config, text);
  assert_string_equal(av_error_text(), faults);
  assert_int_equal(status, AV_CONFIG);
  av_error_clear();
  av_config_free(&config);
}

/* What every run needs; for tests of what follows from other keys. */
static const char two_files[] __attribute__((unused)) =
    "[data]\ninput = in.h5ad\n[output]\npath = out.h5ad\n";

/* `two_files` (4 lines) and then `text` resolve without a fault. */
static inline void resolve_ok(av_config *c, const char *text) {
  char whole[1024];
  snprintf(whole, sizeof whole, "%s%s", two_files, text);
  parse_ok(c, whole);
  const av_status status = av_config_resolve(c);
  assert_string_equal(av_error_text(), "");
  assert_int_equal(status, AV_OK);
}

/* This whole text parses but has these faults between its keys. */
static inline void expect_clash(const char *text, const char *faults) {
  av_config c;
  parse_ok(&c, text);
  const av_status status = av_config_resolve(&c);
  assert_string_equal(av_error_text(), faults);
  assert_int_equal(status, AV_CONFIG);
  av_error_clear();
  av_config_free(&c);
}

/* The same for `two_files` (4 lines) and then `text`. */
static inline void expect_clash_after_files(const char *text, const char *faults) {
  char whole[1024];
  snprintf(whole, sizeof whole, "%s%s", two_files, text);
  expect_clash(whole, faults);
}

static inline void write_file(const char *path, const char *bytes, size_t n) {
  FILE *file = fopen(path, "wb");
  assert_non_null(file);
  assert_int_equal(fwrite(bytes, 1, n, file), n);
  assert_int_equal(fclose(file), 0);
}

/* Group fixtures: an empty working folder, removed again by name. */
static inline int enter_folder(void **state) {
  char *folder = strdup("/tmp/atlasvi_config_XXXXXX");
  *state = folder;
  return folder != NULL && mkdtemp(folder) != NULL && chdir(folder) == 0 ? 0 : -1;
}

static inline int leave_folder(void **state) {
  char *folder = *state;
  const int failed = chdir("/") != 0 || rmdir(folder) != 0; /* fails if a test left a file */
  free(folder);
  return failed ? -1 : 0;
}

#endif
