/* The choice of threads, case by case, without looking at this machine. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/threads.h"
#include "base/cgroup_tree.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_RANKS = 8 };

/* "0-3", "0,2", "4-5,300": a set of cores as the kernel writes it. */
static av_cpus cores(const char *list) {
  av_cpus cpus = {{0}};
  while (*list != '\0') {
    char *end = NULL;
    long first = strtol(list, &end, 10);
    long last = first;
    if (*end == '-') {
      last = strtol(end + 1, &end, 10);
    }
    for (long c = first; c <= last; ++c) {
      cpus.word[c / 64] |= UINT64_C(1) << (c % 64);
    }
    list = *end == ',' ? end + 1 : end;
  }
  return cpus;
}

typedef struct thread_case {
  const char *what;
  int n_ranks, me;
  const char *cores[MOST_RANKS]; /* of each rank; those left out have rank 0's */
  int64_t wanted;
  const char *slurm, *omp;
  int64_t quota;
  int64_t launcher; /* cores of mpirun, 0: not started by it */
  int threads;
  const char *source;
  const char *warning; /* whole text */
} thread_case;

#define SHARED "cores / ranks"

static const thread_case cases[] = {
    /* what, ranks, me, cores, wanted, slurm, omp, quota, mpirun -> threads, source, warning */
    {"laptop", 1, 0, {"0-7"}, 0, NULL, NULL, 0, 0, 8, SHARED, ""},
    {"one core", 1, 0, {"0"}, 0, NULL, NULL, 0, 0, 1, SHARED, ""},
    {"unbound ranks share", 4, 2, {"0-15"}, 0, NULL, NULL, 0, 16, 4, SHARED, ""},
    {"uneven share is rounded down", 3, 0, {"0-7"}, 0, NULL, NULL, 0, 8, 2, SHARED, ""},
    {"more ranks than cores", 3, 1, {"0-1"}, 0, NULL, NULL, 0, 2, 1, SHARED, ""},
    {"bound to sockets", 2, 1, {"0-7", "8-15"}, 0, NULL, NULL, 0, 16, 8, SHARED, ""},
    {"two ranks a socket",
     4,
     3,
     {"0-7", "0-7", "8-15", "8-15"},
     0,
     NULL,
     NULL,
     0,
     16,
     4,
     SHARED,
     ""},
    {"three on one socket, one on the other: first",
     4,
     0,
     {"0-5", "0-5", "0-5", "6-11"},
     0,
     NULL,
     NULL,
     0,
     12,
     2,
     SHARED,
     "mpirun has bound this rank to 6 of 12 cores: with mpirun --bind-to none it would use 3 "
     "threads instead of 2"},
    {"three on one socket, one on the other: last",
     4,
     3,
     {"0-5", "0-5", "0-5", "6-11"},
     0,
     NULL,
     NULL,
     0,
     12,
     6,
     SHARED,
     ""},
    {"overlapping in a chain", 3, 0, {"0-3", "2-5", "4-8"}, 0, NULL, NULL, 0, 0, 3, SHARED, ""},
    {"linked by a later rank", 3, 0, {"0-1", "4-5", "1-4"}, 0, NULL, NULL, 0, 0, 2, SHARED, ""},
    {"cores beyond 64", 2, 1, {"0-3", "100-127,8191"}, 0, NULL, NULL, 0, 0, 29, SHARED, ""},
    {"bound to a core each, more free",
     2,
     0,
     {"0", "1"},
     0,
     NULL,
     NULL,
     0,
     64,
     1,
     SHARED,
     "mpirun has bound this rank to 1 of 64 cores: with mpirun --bind-to none it would use 32 "
     "threads instead of 1"},
    {"bound to a core each, no more there", 2, 0, {"0", "1"}, 0, NULL, NULL, 0, 2, 1, SHARED, ""},
    {"bound to a core each, container grants no more",
     2,
     0,
     {"0", "1"},
     0,
     NULL,
     NULL,
     2,
     64,
     1,
     SHARED,
     ""},
    {"container", 1, 0, {"0-63"}, 0, NULL, NULL, 4, 0, 4, SHARED, ""},
    {"container shared", 2, 0, {"0-63"}, 0, NULL, NULL, 5, 0, 2, SHARED, ""},
    {"container smaller than the ranks", 4, 0, {"0-63"}, 0, NULL, NULL, 2, 0, 1, SHARED, ""},
    {"container larger than the cores", 1, 0, {"0-1"}, 0, NULL, NULL, 8, 0, 2, SHARED, ""},
    {"INI before all", 1, 0, {"0-7"}, 3, "4", "5", 0, 0, 3, "runtime.threads", ""},
    {"Slurm before OpenMP", 1, 0, {"0-7"}, 0, "4", "5", 0, 0, 4, "SLURM_CPUS_PER_TASK", ""},
    {"OpenMP", 1, 0, {"0-7"}, 0, NULL, "5", 0, 0, 5, "OMP_NUM_THREADS", ""},
    {"OpenMP list", 1, 0, {"0-7"}, 0, NULL, "4,2", 0, 0, 4, "OMP_NUM_THREADS", ""},
    {"empty variables", 1, 0, {"0-7"}, 0, "", "", 0, 0, 8, SHARED, ""},
    {"OpenMP is no number",
     1,
     0,
     {"0-7"},
     0,
     NULL,
     "many",
     0,
     0,
     8,
     SHARED,
     "OMP_NUM_THREADS = many is not a number of threads from 1 to 4096: ignored"},
    {"OpenMP zero",
     1,
     0,
     {"0-7"},
     0,
     NULL,
     "0",
     0,
     0,
     8,
     SHARED,
     "OMP_NUM_THREADS = 0 is not a number of threads from 1 to 4096: ignored"},
    {"Slurm is no number, OpenMP is",
     1,
     0,
     {"0-7"},
     0,
     "4x",
     "2",
     0,
     0,
     2,
     "OMP_NUM_THREADS",
     "SLURM_CPUS_PER_TASK = 4x is not a number of threads from 1 to 4096: ignored"},
    {"huge",
     1,
     0,
     {"0-7"},
     0,
     NULL,
     "99999999999999999999",
     0,
     0,
     8,
     SHARED,
     "OMP_NUM_THREADS = 99999999999999999999 is not a number of threads from 1 to 4096: ignored"},
    {"bound to a core, two asked for",
     2,
     1,
     {"0", "1"},
     2,
     NULL,
     NULL,
     0,
     8,
     2,
     "runtime.threads",
     "mpirun has bound this rank to 1 core but 2 threads were asked for (runtime.threads): use "
     "mpirun --bind-to none or "
     "--map-by socket:PE=2"},
    {"bound to two cores, four asked for",
     2,
     1,
     {"0-1", "2-3"},
     0,
     NULL,
     "4",
     0,
     8,
     4,
     "OMP_NUM_THREADS",
     "mpirun has bound this rank to 2 cores but 4 threads were asked for (OMP_NUM_THREADS): use "
     "mpirun --bind-to none or "
     "--map-by socket:PE=4"},
    {"as many as bound to", 2, 1, {"0-1", "2-3"}, 2, NULL, NULL, 0, 8, 2, "runtime.threads", ""},
    {"not bound, not there",
     1,
     0,
     {"0-1"},
     0,
     "4",
     NULL,
     0,
     2,
     4,
     "SLURM_CPUS_PER_TASK",
     "this process may use 2 cores but 4 threads were asked for (SLURM_CPUS_PER_TASK): ask for "
     "fewer, or give it more "
     "cores (taskset, srun --cpus-per-task)"},
    {"no mpirun",
     1,
     0,
     {"5"},
     2,
     NULL,
     NULL,
     0,
     0,
     2,
     "runtime.threads",
     "this process may use 1 core but 2 threads were asked for (runtime.threads): ask for fewer, "
     "or give it more "
     "cores (taskset, srun --cpus-per-task)"},
    {"together too many",
     2,
     0,
     {"0-3"},
     4,
     NULL,
     NULL,
     0,
     4,
     4,
     "runtime.threads",
     "2 ranks x 4 threads (runtime.threads) on 4 cores will be slow: ask for 2 threads, or start "
     "fewer ranks"},
    {"together too many for the container",
     2,
     0,
     {"0-63"},
     4,
     NULL,
     NULL,
     2,
     64,
     4,
     "runtime.threads",
     "2 ranks x 4 threads (runtime.threads) on 2 cores will be slow: ask for 1 thread, or start "
     "fewer ranks"},
};

static void every_case(void **unused) {
  (void)unused;
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; ++i) {
    const thread_case *c = &cases[i];
    av_cpus cpus[MOST_RANKS];
    for (int r = 0; r < c->n_ranks; ++r) {
      cpus[r] = cores(c->cores[r] == NULL ? c->cores[0] : c->cores[r]);
    }
    const av_thread_facts facts = {.wanted = c->wanted,
                                   .slurm = c->slurm,
                                   .omp = c->omp,
                                   .n_ranks = c->n_ranks,
                                   .me = c->me,
                                   .cpus = cpus,
                                   .quota = c->quota,
                                   .by_mpirun = c->launcher > 0,
                                   .launcher_cores = c->launcher};
    av_thread_choice choice;
    av_thread_decide(&facts, &choice);
    if (choice.threads != c->threads || strcmp(choice.source, c->source) != 0 ||
        strcmp(choice.warning, c->warning) != 0) {
      fail_msg("%s: %d threads (want %d) from %s (want %s), warning \"%s\" (want \"%s\")", c->what,
               choice.threads, c->threads, choice.source, c->source, choice.warning, c->warning);
    }
  }
}

static void tasks_and_ranks(void **unused) {
  (void)unused;
  char warning[256];
  av_thread_check_tasks(NULL, 1, warning);
  assert_string_equal(warning, "");
  av_thread_check_tasks("4", 4, warning);
  assert_string_equal(warning, "");
  av_thread_check_tasks("2", 4, warning);
  assert_string_equal(warning, "");
  av_thread_check_tasks("nonsense", 1, warning);
  assert_string_equal(warning, "");
  av_thread_check_tasks("4", 1, warning);
  assert_string_equal(
      warning,
      "Slurm gave this job 4 tasks but MPI found 1 rank: start the program with mpirun, "
      "or srun --mpi=pmix");
}

/* ---- in a small /sys/fs/cgroup ---- */

static void cgroup_version_2(void **unused) {
  (void)unused;
  tree_put("job/step", "cpu.max", "max 100000\n");
  tree_put("job", "cpu.max", "250000 100000\n");
  tree_put("other", "cpu.max", "100000 100000\n");
  assert_int_equal(av_cgroup_cores(tree_root, "0::/other\n"), 1);
  assert_int_equal(av_cgroup_cores(tree_root, "0::/job\n"), 3);      /* 2.5, rounded up */
  assert_int_equal(av_cgroup_cores(tree_root, "0::/job/step\n"), 3); /* from above */
  assert_int_equal(av_cgroup_cores(tree_root, "0::/\n"), 0);
  assert_int_equal(av_cgroup_cores(tree_root, ""), 0);
  tree_put("", "cpu.max", "50000 100000\n"); /* a container's own root */
  assert_int_equal(av_cgroup_cores(tree_root, "0::/\n"), 1);
  assert_int_equal(av_cgroup_cores(tree_root, "0::/not/seen/from/here\n"), 1);
}

static void cgroup_version_1(void **unused) {
  (void)unused;
  tree_put("cpu/docker", "cpu.cfs_quota_us", "600000\n");
  tree_put("cpu/docker", "cpu.cfs_period_us", "100000\n");
  tree_put("cpu", "cpu.cfs_quota_us", "-1\n");
  tree_put("cpu", "cpu.cfs_period_us", "100000\n");
  tree_put("cpuset/docker", "cpu.cfs_quota_us", "100000\n"); /* not the cpu controller's */
  tree_put("cpuset/docker", "cpu.cfs_period_us", "100000\n");
  const char *text = "3:cpuset:/docker\n2:cpu,cpuacct:/docker\n1:memory:/docker\n0::/\n";
  assert_int_equal(av_cgroup_cores(tree_root, text), 6);
  assert_int_equal(av_cgroup_cores(tree_root, "2:cpu:/\n"), 0);
  tree_put("cpu,cpuacct/docker", "cpu.cfs_quota_us", "150000\n");
  tree_put("cpu,cpuacct/docker", "cpu.cfs_period_us", "100000\n");
  assert_int_equal(av_cgroup_cores(tree_root, text), 2);
  assert_int_equal(av_cgroup_cores(tree_root, "3:cpuset:/docker\n"), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_case),
      cmocka_unit_test(tasks_and_ranks),
      cmocka_unit_test_setup_teardown(cgroup_version_2, tree_begin, tree_end),
      cmocka_unit_test_setup_teardown(cgroup_version_1, tree_begin, tree_end),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
