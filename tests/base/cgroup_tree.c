#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cgroup_tree.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

char tree_root[64];

int tree_begin(void **unused) {
  (void)unused;
  snprintf(tree_root, sizeof tree_root, "/tmp/atlasvi_cgroup_XXXXXX");
  return mkdtemp(tree_root) == NULL;
}

int tree_end(void **unused) {
  (void)unused;
  char command[128];
  snprintf(command, sizeof command, "rm -r '%s'", tree_root);
  return system(command);
}

void tree_put(const char *folder, const char *name, const char *text) {
  char path[512];
  snprintf(path, sizeof path, "%s", tree_root);
  char copy[256];
  snprintf(copy, sizeof copy, "%s", folder);
  char *save = NULL;
  for (char *part = strtok_r(copy, "/", &save); part != NULL; part = strtok_r(NULL, "/", &save)) {
    strcat(strcat(path, "/"), part);
    mkdir(path, 0700);
  }
  strcat(strcat(path, "/"), name);
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  fputs(text, file);
  assert_int_equal(fclose(file), 0);
}
