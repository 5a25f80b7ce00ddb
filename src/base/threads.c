#include "base/threads.h"

#include "base/cgroup.h"
#include "base/launcher.h"
#include "base/log.h"
#include "base/memory.h"

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int64_t count(const av_cpus *cpus) {
  int64_t n = 0;
  for (int i = 0; i < AV_CPU_WORDS; ++i) {
    n += __builtin_popcountll(cpus->word[i]);
  }
  return n;
}

static bool overlap(const av_cpus *a, const av_cpus *b) {
  for (int i = 0; i < AV_CPU_WORDS; ++i) {
    if ((a->word[i] & b->word[i]) != 0) {
      return true;
    }
  }
  return false;
}

/* The ranks linked to `me` by overlapping cores, and all their cores together: every one of them
 * gets the same two numbers. */
static void share(const av_thread_facts *facts, int64_t *cores, int64_t *sharing) {
  av_cpus all = facts->cpus[facts->me];
  *sharing = 0;
  int64_t before = -1;
  while (*sharing != before) { /* each round can link further ranks */
    before = *sharing;
    *sharing = 0;
    for (int r = 0; r < facts->n_ranks; ++r) {
      if (r == facts->me || overlap(&all, &facts->cpus[r])) {
        ++*sharing;
        for (int i = 0; i < AV_CPU_WORDS; ++i) {
          all.word[i] |= facts->cpus[r].word[i];
        }
      }
    }
  }
  *cores = count(&all);
}

static int64_t at_least_one(int64_t n) { return n < 1 ? 1 : n; }

/* A number of threads from the environment: the first of a list ("4,2"); 0 if it is not one. */
static int64_t number_of(const char *text) {
  char *end = NULL;
  errno = 0;
  const long long value = strtoll(text, &end, 10);
  const char *rest = end + strspn(end, " ");
  const bool is_number = end != text && errno == 0 && (*rest == '\0' || *rest == ',');
  return is_number && value >= 1 && value <= AV_MOST_THREADS ? (int64_t)value : 0;
}

/* What the user asked for; 0 if nothing usable (then choice->warning may say why). */
static int64_t asked_for(const av_thread_facts *facts, av_thread_choice *choice) {
  const struct {
    const char *name, *text;
  } variables[] = {{"SLURM_CPUS_PER_TASK", facts->slurm}, {"OMP_NUM_THREADS", facts->omp}};
  if (facts->wanted > 0) {
    choice->source = "runtime.threads";
    return facts->wanted;
  }
  for (int i = 0; i < 2; ++i) {
    if (variables[i].text == NULL || variables[i].text[0] == '\0') {
      continue;
    }
    const int64_t number = number_of(variables[i].text);
    if (number > 0) {
      choice->source = variables[i].name;
      return number;
    }
    snprintf(choice->warning, sizeof choice->warning,
             "%s = %.40s is not a number of threads from 1 to %d: ignored", variables[i].name,
             variables[i].text, (int)AV_MOST_THREADS);
  }
  return 0;
}

static const char *plural(int64_t n) { return n == 1 ? "" : "s"; }

/* Fewer cores than the threads asked for: bound too tightly, or simply not there. */
static void check_asked(const av_thread_facts *facts, int64_t asked, int64_t room,
                        av_thread_choice *choice) {
  char *text = choice->warning;
  const size_t size = sizeof choice->warning;
  const long long own = (long long)count(&facts->cpus[facts->me]);
  const bool bound =
      facts->by_mpirun && (facts->launcher_cores == 0 || own < facts->launcher_cores);
  if (asked > own && bound) {
    snprintf(text, size,
             "mpirun has bound this rank to %lld core%s but %lld threads were asked for (%s): use "
             "mpirun --bind-to none or --map-by socket:PE=%lld",
             own, plural(own), (long long)asked, choice->source, (long long)asked);
  } else if (asked > own) {
    snprintf(
        text, size,
        "this process may use %lld core%s but %lld threads were asked for (%s): ask for fewer, "
        "or give it more cores (taskset, srun --cpus-per-task)",
        own, plural(own), (long long)asked, choice->source);
  } else if (asked > room) {
    const int64_t ranks = choice->sharing;
    snprintf(
        text, size,
        "%lld rank%s x %lld threads (%s) on %lld core%s will be slow: ask for %lld thread%s, or "
        "start fewer ranks",
        (long long)ranks, plural(ranks), (long long)asked, choice->source, (long long)choice->cores,
        plural(choice->cores), (long long)room, plural(room));
  }
}

/* Nothing was asked for, and Open MPI's binding (to a core by default, up to two ranks) leaves
 * cores without work. */
static void check_binding(const av_thread_facts *facts, int64_t room, av_thread_choice *choice) {
  const int64_t ranks = at_least_one(facts->n_ranks);
  int64_t unbound = facts->launcher_cores / ranks;
  if (facts->quota > 0 && facts->quota / ranks < unbound) {
    unbound = facts->quota / ranks;
  }
  if (facts->by_mpirun && unbound > room) {
    const long long own = (long long)count(&facts->cpus[facts->me]);
    snprintf(
        choice->warning, sizeof choice->warning,
        "mpirun has bound this rank to %lld of %lld cores: with mpirun --bind-to none it would "
        "use %lld threads instead of %lld",
        own, (long long)facts->launcher_cores, (long long)unbound, (long long)room);
  }
}

void av_thread_decide(const av_thread_facts *facts, av_thread_choice *choice) {
  *choice = (av_thread_choice){.threads = 1, .source = "cores / ranks"};
  int64_t cores = 0;
  int64_t sharing = 0;
  share(facts, &cores, &sharing);
  int64_t room = at_least_one(cores / at_least_one(sharing));
  if (facts->quota > 0 && at_least_one(facts->quota / facts->n_ranks) < room) {
    room = at_least_one(facts->quota / facts->n_ranks);
    cores = facts->quota;
    sharing = facts->n_ranks;
  }
  choice->cores = cores;
  choice->sharing = sharing;
  const int64_t asked = asked_for(facts, choice);
  if (asked > 0) {
    choice->threads = (int)asked;
    check_asked(facts, asked, room, choice);
  } else {
    choice->threads = room > AV_MOST_THREADS ? AV_MOST_THREADS : (int)room;
    if (choice->warning[0] == '\0') {
      check_binding(facts, room, choice);
    }
  }
}

void av_thread_check_tasks(const char *ntasks, int n_ranks, char warning[256]) {
  warning[0] = '\0';
  if (ntasks == NULL) {
    return;
  }
  char *end = NULL;
  const long long tasks = strtoll(ntasks, &end, 10);
  if (end != ntasks && *end == '\0' && tasks > n_ranks) {
    snprintf(
        warning, 256,
        "Slurm gave this job %lld tasks but MPI found %d rank%s: start the program with mpirun, or "
        "srun --mpi=pmix",
        tasks, n_ranks, plural(n_ranks));
  }
}

/* Cores a process may use (pid 0: this one). */
static void cpus_of(pid_t pid, av_cpus *cpus) {
  cpu_set_t *set = CPU_ALLOC(64 * AV_CPU_WORDS);
  const size_t size = CPU_ALLOC_SIZE(64 * AV_CPU_WORDS);
  *cpus = (av_cpus){{0}};
  if (set != NULL && sched_getaffinity(pid, size, set) == 0) {
    for (size_t c = 0; c < 64 * AV_CPU_WORDS; ++c) {
      if (CPU_ISSET_S(c, size, set)) {
        cpus->word[c / 64] |= UINT64_C(1) << (c % 64);
      }
    }
  }
  if (set != NULL) {
    CPU_FREE(set);
  }
}

/* The same for this process, which surely runs somewhere. */
static void own_cpus(av_cpus *cpus) {
  cpus_of(0, cpus);
  const long online = sysconf(_SC_NPROCESSORS_ONLN);
  for (long c = 0; count(cpus) == 0 && (c == 0 || c < online); ++c) {
    cpus->word[c / 64 % AV_CPU_WORDS] |= UINT64_C(1) << (c % 64);
  }
}

static int64_t quota_now(void) {
  char text[8192];
  av_cgroup_membership(text, sizeof text);
  return av_cgroup_cores("/sys/fs/cgroup", text);
}

/* Shows the lowest rank's warning, with the number of ranks that have one. Collective. */
static av_status warn_together(const av_comm *comm, const char *warning) {
  int64_t concerned = warning[0] != '\0';
  int mine = concerned != 0 ? comm->rank : INT_MAX;
  int first = INT_MAX;
  char text[256];
  snprintf(text, sizeof text, "%s", warning);
  AV_TRY(av_sum_i64(comm, &concerned, 1));
  AV_TRY(AV_MPI(MPI_Allreduce(&mine, &first, 1, MPI_INT, MPI_MIN, comm->mpi)));
  if (concerned == 0) {
    return AV_OK;
  }
  AV_TRY(AV_MPI(MPI_Bcast(text, (int)sizeof text, MPI_CHAR, first, comm->mpi)));
  if (comm->size == 1) {
    av_warn("%s", text);
  } else if (concerned == 1) {
    av_warn("rank %d: %s", first, text);
  } else {
    av_warn("rank %d (and %lld more): %s", first, (long long)(concerned - 1), text);
  }
  return AV_OK;
}

/* Gathers the cores of the ranks of this node: *cpus (facts->n_ranks), to be freed. Collective. */
static av_status gather(const av_comm *comm, av_thread_facts *facts, av_cpus **cpus) {
  MPI_Comm node = MPI_COMM_NULL;
  AV_TRY(AV_MPI(
      MPI_Comm_split_type(comm->mpi, MPI_COMM_TYPE_SHARED, comm->rank, MPI_INFO_NULL, &node)));
  av_status status = AV_OK;
  AV_GO(status, AV_MPI(MPI_Comm_rank(node, &facts->me)), done);
  AV_GO(status, AV_MPI(MPI_Comm_size(node, &facts->n_ranks)), done);
  *cpus = av_calloc((size_t)facts->n_ranks, sizeof **cpus);
  if (*cpus == NULL) {
    status = av_fail(AV_NOMEM, "out of memory (cores of %d ranks)", facts->n_ranks);
  }
  AV_GO(status, av_agree(comm, status), done);
  av_cpus mine;
  own_cpus(&mine);
  AV_GO(status,
        AV_MPI(MPI_Allgather(&mine, AV_CPU_WORDS, MPI_UINT64_T, *cpus, AV_CPU_WORDS, MPI_UINT64_T,
                             node)),
        done);
  facts->cpus = *cpus;
done:
  if (node != MPI_COMM_NULL) {
    MPI_Comm_free(&node);
  }
  return status;
}

av_status av_threads_choose(const av_comm *comm, int64_t wanted, int *threads,
                            const char **source) {
  av_thread_facts facts = {.wanted = wanted,
                           .slurm = getenv("SLURM_CPUS_PER_TASK"),
                           .omp = getenv("OMP_NUM_THREADS"),
                           .quota = quota_now()};
  const pid_t launcher = av_launcher();
  if (launcher != 0) {
    av_cpus cpus;
    cpus_of(launcher, &cpus);
    facts.by_mpirun = true;
    facts.launcher_cores = count(&cpus);
  }
  av_cpus *cpus = NULL;
  av_thread_choice choice = {.threads = 1};
  av_status status = gather(comm, &facts, &cpus);
  if (status == AV_OK) {
    av_thread_decide(&facts, &choice);
    *threads = choice.threads;
    if (source != NULL) {
      *source = choice.source;
    }
    status = warn_together(comm, choice.warning);
  }
  free(cpus);
  AV_TRY(status);
  char warning[256];
  av_thread_check_tasks(getenv("SLURM_NTASKS"), comm->size, warning);
  return warn_together(comm, comm->rank == 0 ? warning : "");
}

void av_threads_spin_briefly(char *const *argv) {
  static const char name[] = "GOMP_SPINCOUNT";
  if (getenv(name) == NULL && getenv("OMP_WAIT_POLICY") == NULL && setenv(name, "1000", 0) == 0) {
    execv("/proc/self/exe", argv); /* returns only if it fails */
  }
}
