#include "base/phases.h"

#include "base/clock.h"
#include "base/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void av_phases_begin(av_phases *phases) {
  memset(phases, 0, sizeof *phases);
  phases->began = av_clock();
}

static void fault(av_phases *phases, const char *name, const char *what) {
  if (phases->fault[0] == '\0') {
    snprintf(phases->fault, sizeof phases->fault, "phase %.38s: %s", name, what);
  }
}

static av_phase *find(av_phases *phases, const char *name) {
  for (int i = 0; i < phases->n; ++i) {
    if (strcmp(phases->phase[i].name, name) == 0) {
      return &phases->phase[i];
    }
  }
  return NULL;
}

void av_phase_start(av_phases *phases, const char *name) {
  av_phase *phase = find(phases, name);
  if (phase == NULL) {
    if (phases->n == AV_MOST_PHASES || strlen(name) >= AV_PHASE_NAME) {
      fault(phases, name, "one too many, or name too long");
      return;
    }
    phase = &phases->phase[phases->n++];
    snprintf(phase->name, sizeof phase->name, "%s", name);
    phase->depth = phases->depth;
  }
  ++phase->calls;
  ++phases->depth;
  if (phase->running++ == 0) {
    phase->started = av_clock();
  }
}

void av_phase_stop(av_phases *phases, const char *name) {
  av_phase *phase = find(phases, name);
  if (phase == NULL || phase->running == 0) {
    fault(phases, name, "stopped but not started");
    return;
  }
  --phases->depth;
  if (--phase->running == 0) {
    phase->seconds += av_clock() - phase->started;
    phase->peak = av_memory_peak();
  }
}

av_status av_spread_over(const av_comm *comm, double value, av_spread *spread) {
  *spread = (av_spread){value, value, value};
  AV_TRY(av_min_f64(comm, &spread->min, 1));
  AV_TRY(av_sum_f64(comm, &spread->mean, 1));
  AV_TRY(av_max_f64(comm, &spread->max, 1));
  spread->mean /= comm->size;
  return AV_OK;
}

/* A rank's phases up to now, and the seconds that none of them covers. */
static av_phases up_to_now(const av_phases *phases, double now, double *other) {
  av_phases copy = *phases;
  *other = now - phases->began;
  for (int i = 0; i < copy.n; ++i) {
    av_phase *phase = &copy.phase[i];
    if (phase->running > 0) {
      phase->seconds += now - phase->started;
      phase->peak = av_memory_peak();
    }
    if (phase->depth == 0) {
      *other -= phase->seconds;
    }
  }
  *other = *other < 0 ? 0 : *other;
  return copy;
}

static void widen(av_spread *spread, double value, bool first) {
  spread->min = first || value < spread->min ? value : spread->min;
  spread->max = first || value > spread->max ? value : spread->max;
  spread->mean += value;
}

/* Adds what one rank has of its phase to the report; n_ranks counts those that have it. */
static bool merge(av_phases_report *report, int64_t *n_ranks, const av_phase *phase) {
  int at = 0;
  while (at < report->n && strcmp(report->line[at].name, phase->name) != 0) {
    ++at;
  }
  if (at == AV_MOST_PHASES) {
    return false;
  }
  av_phase_line *line = &report->line[at];
  if (at == report->n) {
    ++report->n;
    memcpy(line->name, phase->name, sizeof line->name);
    line->depth = phase->depth;
  }
  const bool first = n_ranks[at]++ == 0;
  line->calls = phase->calls > line->calls ? phase->calls : line->calls;
  widen(&line->seconds, phase->seconds, first);
  widen(&line->peak, (double)phase->peak, first);
  return true;
}

static av_status merge_all(const av_comm *comm, const av_phases *all, av_phases_report *report) {
  int64_t n_ranks[AV_MOST_PHASES] = {0};
  for (int r = 0; r < comm->size; ++r) {
    for (int i = 0; i < all[r].n; ++i) {
      if (!merge(report, n_ranks, &all[r].phase[i])) {
        return AV_FAIL_BUG("more than %d phases over all ranks", (int)AV_MOST_PHASES);
      }
    }
  }
  for (int i = 0; i < report->n; ++i) {
    av_phase_line *line = &report->line[i];
    line->peak.mean /= (double)n_ranks[i];
    line->seconds.mean /= comm->size;
    if (n_ranks[i] < comm->size) {
      line->seconds.min = 0;
    }
  }
  return AV_OK;
}

av_status av_phases_report_make(const av_comm *comm, const av_phases *phases,
                                av_phases_report *report) {
  memset(report, 0, sizeof *report);
  const double now = av_clock();
  double other = 0;
  const av_phases mine = up_to_now(phases, now, &other);
  av_status status = AV_OK;
  if (mine.fault[0] != '\0') {
    status = AV_FAIL_BUG("%s", mine.fault);
  }
  av_phases *all = NULL;
  if (comm->rank == 0) {
    all = av_calloc((size_t)comm->size, sizeof *all);
    if (all == NULL) {
      status = av_fail(AV_NOMEM, "out of memory (phases of %d ranks)", comm->size);
    }
  }
  AV_GO(status, av_agree(comm, status), done);
  const int bytes = (int)sizeof mine;
  AV_GO(status, AV_MPI(MPI_Gather(&mine, bytes, MPI_BYTE, all, bytes, MPI_BYTE, 0, comm->mpi)),
        done);
  AV_GO(status, av_spread_over(comm, now - phases->began, &report->total), done);
  AV_GO(status, av_spread_over(comm, other, &report->other), done);
  /* the kernel's count is approximate: it may have been a little higher at the end of a phase */
  int64_t peak = av_memory_peak();
  for (int i = 0; i < phases->n; ++i) {
    peak = phases->phase[i].peak > peak ? phases->phase[i].peak : peak;
  }
  AV_GO(status, av_spread_over(comm, (double)peak, &report->peak), done);
  status = all != NULL ? merge_all(comm, all, report) : AV_OK;
  AV_GO(status, av_agree(comm, status), done);
  status = av_bcast(comm, report, (int64_t)sizeof *report);
done:
  free(all);
  return status;
}
