/* What the limits of control groups leave, in small trees like /sys/fs/cgroup; and of this machine.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/cgroup.h"
#include "base/memory.h"
#include "base/cgroup_tree.h"

#include <unistd.h>

static void version_2(void **unused) {
  (void)unused;
  assert_int_equal(av_cgroup_memory(tree_root, "0::/job/step\n"), -1); /* no such files */
  tree_put("job/step", "memory.max", "max\n");
  tree_put("job/step", "memory.current", "100\n");
  assert_int_equal(av_cgroup_memory(tree_root, "0::/job/step\n"), -1);
  tree_put("job", "memory.max", "5000\n");
  tree_put("job", "memory.current", "1200\n");
  assert_int_equal(av_cgroup_memory(tree_root, "0::/job/step\n"), 3800); /* from above */
  assert_int_equal(av_cgroup_memory(tree_root, "0::/\n"), -1);
  tree_put("job", "memory.stat", "anon 200\ninactive_file_like 5\ninactive_file 900\n");
  assert_int_equal(av_cgroup_memory(tree_root, "0::/job/step\n"), 4700); /* cache goes first */
  tree_put("job/step", "memory.max", "1000\n");
  assert_int_equal(av_cgroup_memory(tree_root, "0::/job/step\n"), 900); /* the tighter one */
  tree_put("job/step", "memory.current", "1001\n");
  assert_int_equal(av_cgroup_memory(tree_root, "0::/job/step\n"), 0);
  tree_put("", "memory.max", "700\n"); /* a container's own root */
  tree_put("", "memory.current", "0\n");
  assert_int_equal(av_cgroup_memory(tree_root, "0::/not/seen/from/here\n"), 700);
}

static void version_1(void **unused) {
  (void)unused;
  const char *text = "3:cpuset:/docker\n2:memory:/slurm/job\n0::/\n";
  tree_put("memory/slurm/job", "memory.limit_in_bytes", "8000\n");
  tree_put("memory/slurm/job", "memory.usage_in_bytes", "3000\n");
  tree_put("memory/slurm/job", "memory.stat", "inactive_file 1\ntotal_inactive_file 500\n");
  tree_put("memory", "memory.limit_in_bytes", "9223372036854771712\n"); /* none */
  tree_put("memory", "memory.usage_in_bytes", "4000\n");
  tree_put("cpuset/docker", "memory.limit_in_bytes", "1\n"); /* not the memory controller's */
  tree_put("cpuset/docker", "memory.usage_in_bytes", "0\n");
  assert_int_equal(av_cgroup_memory(tree_root, text), 5500);
  assert_int_equal(av_cgroup_memory(tree_root, "3:cpuset:/docker\n"), -1);
}

static void of_this_machine(void **unused) {
  (void)unused;
  const int64_t all = (int64_t)sysconf(_SC_PHYS_PAGES) * (int64_t)sysconf(_SC_PAGESIZE);
  const int64_t available = av_memory_available();
  assert_true(available > 0 && available <= all);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(version_2, tree_begin, tree_end),
      cmocka_unit_test_setup_teardown(version_1, tree_begin, tree_end),
      cmocka_unit_test(of_this_machine),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
