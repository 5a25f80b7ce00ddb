/* A signal in the middle of writing ends the process by that signal, and neither it nor an abort
 * leaves a temporary; without the watch it would stay (the last test shows that the check can
 * fail). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/unfinished.h"
#include "io/safe_file.h"

static int files_in(const char *folder) {
  DIR *directory = opendir(folder);
  assert_non_null(directory);
  int n = 0;
  for (const struct dirent *entry = readdir(directory); entry != NULL; entry = readdir(directory)) {
    n += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
  }
  closedir(directory);
  return n;
}

/* In a child: begins a file in `folder`, then sends itself `number`, or if it is 0 does what
 * av_comm_abort does; `watched` = false takes the watch away first. Returns the signal that ended
 * it, 0 if none did. */
static int child_ends_by(const char *folder, int number, int watched) {
  const pid_t child = fork();
  if (child == 0) {
    char path[256];
    av_safe_file file;
    snprintf(path, sizeof path, "%s/out.h5ad", folder);
    if (av_safe_file_begin(&file, path, false) != AV_OK || files_in(folder) != 1) {
      _exit(1);
    }
    if (!watched) {
      av_unfinished_drop(file.temporary);
    }
    if (number == 0) {
      av_unfinished_remove();
    } else {
      raise(number);
    }
    _exit(2);
  }
  int status = 0;
  assert_int_equal(waitpid(child, &status, 0), child);
  return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void signals_remove_it(void **unused) {
  (void)unused;
  static const int numbers[] = {SIGINT, SIGTERM, SIGHUP, 0};
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; ++i) {
    char folder[] = "/tmp/atlasvi-unfinished-XXXXXX";
    assert_non_null(mkdtemp(folder));
    assert_int_equal(child_ends_by(folder, numbers[i], 1), numbers[i]);
    assert_int_equal(files_in(folder), 0);
    assert_int_equal(rmdir(folder), 0);
  }
}

static void unwatched_it_stays(void **unused) {
  (void)unused;
  char folder[] = "/tmp/atlasvi-unfinished-XXXXXX";
  char command[128];
  assert_non_null(mkdtemp(folder));
  assert_int_equal(child_ends_by(folder, SIGTERM, 0), SIGTERM);
  assert_int_equal(files_in(folder), 1);
  snprintf(command, sizeof command, "rm -r %s", folder);
  assert_int_equal(system(command), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(signals_remove_it),
      cmocka_unit_test(unwatched_it_stays),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
