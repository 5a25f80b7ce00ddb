/* What the limits of control groups leave, in small trees like /sys/fs/cgroup; and of this machine.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/cgroup.h"
#include "base/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char mount_point[64];

static void put(const char *folder, const char *name, const char *text) {
  char path[512];
  snprintf(path, sizeof path, "%s", mount_point);
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

static int new_mount(void **unused) {
  (void)unused;
  snprintf(mount_point, sizeof mount_point, "/tmp/atlasvi_memory_XXXXXX");
  return mkdtemp(mount_point) == NULL;
}

static int remove_mount(void **unused) {
  (void)unused;
  char command[128];
  snprintf(command, sizeof command, "rm -r '%s'", mount_point);
  return system(command);
}

static void version_2(void **unused) {
  (void)unused;
  assert_int_equal(av_cgroup_memory(mount_point, "0::/job/step\n"), -1); /* no such files */
  put("job/step", "memory.max", "max\n");
  put("job/step", "memory.current", "100\n");
  assert_int_equal(av_cgroup_memory(mount_point, "0::/job/step\n"), -1);
  put("job", "memory.max", "5000\n");
  put("job", "memory.current", "1200\n");
  assert_int_equal(av_cgroup_memory(mount_point, "0::/job/step\n"), 3800); /* from above */
  assert_int_equal(av_cgroup_memory(mount_point, "0::/\n"), -1);
  put("job", "memory.stat", "anon 200\ninactive_file_like 5\ninactive_file 900\n");
  assert_int_equal(av_cgroup_memory(mount_point, "0::/job/step\n"), 4700); /* cache goes first */
  put("job/step", "memory.max", "1000\n");
  assert_int_equal(av_cgroup_memory(mount_point, "0::/job/step\n"), 900); /* the tighter one */
  put("job/step", "memory.current", "1001\n");
  assert_int_equal(av_cgroup_memory(mount_point, "0::/job/step\n"), 0);
  put("", "memory.max", "700\n"); /* a container's own root */
  put("", "memory.current", "0\n");
  assert_int_equal(av_cgroup_memory(mount_point, "0::/not/seen/from/here\n"), 700);
}

static void version_1(void **unused) {
  (void)unused;
  const char *text = "3:cpuset:/docker\n2:memory:/slurm/job\n0::/\n";
  put("memory/slurm/job", "memory.limit_in_bytes", "8000\n");
  put("memory/slurm/job", "memory.usage_in_bytes", "3000\n");
  put("memory/slurm/job", "memory.stat", "inactive_file 1\ntotal_inactive_file 500\n");
  put("memory", "memory.limit_in_bytes", "9223372036854771712\n"); /* none */
  put("memory", "memory.usage_in_bytes", "4000\n");
  put("cpuset/docker", "memory.limit_in_bytes", "1\n"); /* not the memory controller's */
  put("cpuset/docker", "memory.usage_in_bytes", "0\n");
  assert_int_equal(av_cgroup_memory(mount_point, text), 5500);
  assert_int_equal(av_cgroup_memory(mount_point, "3:cpuset:/docker\n"), -1);
}

static void of_this_machine(void **unused) {
  (void)unused;
  const int64_t all = (int64_t)sysconf(_SC_PHYS_PAGES) * (int64_t)sysconf(_SC_PAGESIZE);
  const int64_t available = av_memory_available();
  assert_true(available > 0 && available <= all);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(version_2, new_mount, remove_mount),
      cmocka_unit_test_setup_teardown(version_1, new_mount, remove_mount),
      cmocka_unit_test(of_this_machine),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
