/* How many threads a rank should use.
 *
 * In this order: what the user asked for (runtime.threads, SLURM_CPUS_PER_TASK, OMP_NUM_THREADS),
 * else the cores this process may use divided by the ranks that share them. Ranks that mpirun has
 * bound to cores of their own share with nobody. A control group's share of time (a container's or
 * a job's) counts as that many cores for the ranks of the node together.
 *
 * "Core" means what the kernel schedules on: with hyper-threading, one of the two.
 */
#ifndef AV_BASE_THREADS_H
#define AV_BASE_THREADS_H

#include "base/comm.h"

#include <stdbool.h>
#include <stdint.h>

enum { AV_CPU_WORDS = 128, AV_MOST_THREADS = 4096 };

/* A set of cores: bit c % 64 of word c / 64. */
typedef struct av_cpus {
  uint64_t word[AV_CPU_WORDS];
} av_cpus;

/* Chooses this rank's number of threads, at least 1; `wanted` is runtime.threads, 0 if not given.
 * It sets nothing: the backend uses the number. *source (may be NULL) receives who decided, for the
 * banner: "runtime.threads", "SLURM_CPUS_PER_TASK", "OMP_NUM_THREADS" or "cores / ranks". Warns,
 * with the remedy, when ranks are bound to fewer cores than threads asked for, when more threads
 * than cores were asked for, when mpirun's binding leaves cores unused, and when Slurm has more
 * tasks than there are ranks. Collective. */
av_status av_threads_choose(const av_comm *comm, int64_t wanted, int *threads, const char **source);

/* Lets OpenMP's threads spin only briefly before they sleep while they wait for each other.
 * libgomp's own default, milliseconds, makes a run ten times slower once anybody else uses one of
 * its cores, and gains nothing when nobody does (measured: LDVAE, 2 threads of 2 cores). libgomp
 * reads its settings from the environment before main begins, so this starts the program anew,
 * once, with GOMP_SPINCOUNT set, unless the user has set that or OMP_WAIT_POLICY. To be called
 * first in main. Does nothing if the program cannot be started anew. */
void av_threads_spin_briefly(char *const *argv);

/* What the choice depends on. */
typedef struct av_thread_facts {
  int64_t wanted;         /* runtime.threads; 0: not given */
  const char *slurm;      /* SLURM_CPUS_PER_TASK, NULL if unset */
  const char *omp;        /* OMP_NUM_THREADS, NULL if unset */
  int n_ranks;            /* ranks on this node */
  int me;                 /* this rank's number among them */
  const av_cpus *cpus;    /* (n_ranks) cores each may use */
  int64_t quota;          /* cores' worth of time of the control group; 0: no limit */
  bool by_mpirun;         /* an Open MPI launcher started the rank */
  int64_t launcher_cores; /* cores the launcher itself may use; 0: unknown */
} av_thread_facts;

typedef struct av_thread_choice {
  int threads;
  const char *source;
  int64_t cores;     /* usable by this rank */
  int64_t sharing;   /* ranks, this one included, whose cores overlap with its own */
  char warning[256]; /* "" if all is well */
} av_thread_choice;

/* The choice itself, without looking at the machine. */
void av_thread_decide(const av_thread_facts *facts, av_thread_choice *choice);

/* The warning of too few ranks for Slurm's tasks ("" if all is well); `ntasks` is SLURM_NTASKS,
 * NULL if unset. */
void av_thread_check_tasks(const char *ntasks, int n_ranks, char warning[256]);

/* Cores' worth of time that the control group described by `membership` (the text of
 * /proc/self/cgroup) grants, rounded up; 0 if there is no limit. `mount` is /sys/fs/cgroup. Reads
 * cpu.max (version 2) and cpu.cfs_quota_us (version 1) from the group upwards; the smallest holds.
 */
int64_t av_cgroup_cores(const char *mount, const char *membership);

#endif
