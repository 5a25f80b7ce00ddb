/* The INI syntax, event by event. What is legal follows inih's published baseline of its default
 * options; what inih skips must be a fault with its line. */
#include "config_test.h"

#include "config/ini.h"

static char events[4096];

static void add(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void add(const char *format, ...) {
  const size_t n = strlen(events);
  va_list args;
  va_start(args, format);
  vsnprintf(events + n, sizeof events - n, format, args);
  va_end(args);
}

static void on_section(void *user, int64_t line, const char *name) {
  (void)user;
  add("%lld [%s]\n", (long long)line, name);
}

static void on_entry(void *user, int64_t line, const char *section, const char *key, char *value) {
  (void)user;
  for (char *c = value; *c != '\0'; ++c) {
    *c = *c == '\n' ? '|' : *c;
  }
  add("%lld %s.%s=<%s>\n", (long long)line, section, key, value);
}

static void on_fault(void *user, int64_t line, const char *message) {
  (void)user;
  add("%lld ! %s\n", (long long)line, message);
}

static const av_ini_handler handler = {.section = on_section, .entry = on_entry, .fault = on_fault};

static void expect_bytes(const char *text, size_t length, const char *expected) {
  events[0] = '\0';
  assert_int_equal(av_ini_parse(text, length, &handler), AV_OK);
  assert_string_equal(events, expected);
}

static void expect(const char *text, const char *expected) {
  expect_bytes(text, strlen(text), expected);
}

static void sections_and_keys(void **state) {
  (void)state;
  expect("", "");
  expect("; only a comment\n\n   # and another\n", "");
  expect("[one]\na=b\nc  =  d e \n[ two ]\n\tf :g\nh =\n",
         "1 [one]\n2 one.a=<b>\n3 one.c=<d e>\n4 [two]\n5 two.f=<g>\n6 two.h=<>\n");
  expect("[one]\na=b", "1 [one]\n2 one.a=<b>\n");
  expect("[one]\n[one]\n[]\n", "1 [one]\n2 [one]\n3 []\n");
  /* the first = or : separates */
  expect("[s]\na = b = c\nd = e : f\ng : h = i\nj : k : l\n",
         "1 [s]\n2 s.a=<b = c>\n3 s.d=<e : f>\n4 s.g=<h = i>\n5 s.j=<k : l>\n");
}

static void comments(void **state) {
  (void)state;
  expect(
      "[s] ; why\n[t]# why\na = 1 ; one\nb = 1;2;3 ;x ;y\nc = 1 # one\nd = ;x\ne =;x\n"
      "  ; indented\n# f = 3\ng;h = 2\n",
      "1 [s]\n2 [t]\n3 t.a=<1>\n4 t.b=<1;2;3>\n5 t.c=<1 # one>\n6 t.d=<>\n7 t.e=<;x>\n"
      "10 t.g;h=<2>\n");
}

static void continuation(void **state) {
  (void)state;
  expect("[s]\na = this is a\n    longer value ; comment\nb = 1\n",
         "1 [s]\n2 s.a=<this is a|longer value>\n4 s.b=<1>\n");
  expect("[s]\na =\n\tx\n\ty\n\n ; comment\n\tz\n[t]\n  b = 2\n  c = 3\n",
         "1 [s]\n2 s.a=<|x|y|||z>\n8 [t]\n9 t.b=<2|c = 3>\n");
  /* an indented header after a key is part of the value, as in inih */
  expect("[s]\na = 1\n [t]\n", "1 [s]\n2 s.a=<1|[t]>\n");
}

static void encodings(void **state) {
  (void)state;
  expect("\xef\xbb\xbf[s]\r\na = \xc3\xa9\r\n  b\r\n", "1 [s]\n2 s.a=<\xc3\xa9|b>\n");
  expect("\xef\xbb\xbf", "");
  expect_bytes("\xff\xfe[\0s\0]\0", 8, "1 ! the text is UTF-16; save it as UTF-8\n");
  expect_bytes("\xfe\xff\0[\0s\0]", 8, "1 ! the text is UTF-16; save it as UTF-8\n");
}

static void bad_lines(void **state) {
  (void)state;
  expect("[s]\nsomething\n= 3\n : 3\n[t\na = 1\nkey ; = 1\n",
         "1 [s]\n2 ! neither [section] nor key = value\n3 ! no key before the = or :\n"
         "4 ! no key before the = or :\n5 ! section without ]\n5 [t]\n6 t.a=<1>\n"
         "7 ! neither [section] nor key = value\n");
  expect("a = 1\nb = 2\n[s]\n",
         "1 ! key before the first [section]\n2 ! key before the first [section]\n3 [s]\n");
  expect(
      "[s] a = 1\nb = 2\n",
      "1 ! text after the ] of a section; a key begins on a line of its own\n1 [s]\n2 s.b=<2>\n");
  /* what follows a NUL is not looked at; what precedes it is */
  expect_bytes("[s]\na = 1\nb\0 = 2\nc\n", 19,
               "1 [s]\n2 s.a=<1>\n3 ! NUL byte; this is not a text file\n");
}

/* Lines far longer than any buffer: 5 MB in a value, and in a continuation. */
static int64_t long_length;
static void on_long_entry(void *user, int64_t line, const char *section, const char *key,
                          char *value) {
  (void)user;
  (void)line;
  (void)section;
  (void)key;
  long_length = (int64_t)strlen(value);
}

static void long_lines(void **state) {
  (void)state;
  const size_t n = 5000000;
  char *text = malloc(2 * n + 64);
  assert_non_null(text);
  strcpy(text, "[s]\nkey = ");
  memset(text + 10, 'x', n);
  strcpy(text + 10 + n, "\n ");
  memset(text + 12 + n, 'y', n);
  text[12 + 2 * n] = '\0';
  const av_ini_handler measure = {.section = on_section, .entry = on_long_entry, .fault = on_fault};
  events[0] = '\0';
  assert_int_equal(av_ini_parse(text, strlen(text), &measure), AV_OK);
  assert_string_equal(events, "1 [s]\n");
  assert_int_equal(long_length, 2 * n + 1);
  free(text);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(sections_and_keys), cmocka_unit_test(comments),
      cmocka_unit_test(continuation),      cmocka_unit_test(encodings),
      cmocka_unit_test(bad_lines),         cmocka_unit_test(long_lines)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
