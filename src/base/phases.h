/* Where the time of a run goes: named phases with their seconds, calls and memory, one list a run.
 *
 *   av_phases_begin(&phases);
 *   av_phase_start(&phases, "read");  ...  av_phase_stop(&phases, "read");
 *
 * A phase may be entered again (its seconds add up) and may contain others (shown indented; only
 * outermost ones add up to the whole). Calls are cheap, from the main thread only. Ranks need not
 * have the same phases.
 */
#ifndef AV_BASE_PHASES_H
#define AV_BASE_PHASES_H

#include "base/comm.h"

#include <stdbool.h>
#include <stdint.h>

enum { AV_MOST_PHASES = 48, AV_PHASE_NAME = 40 };

typedef struct av_phase {
  char name[AV_PHASE_NAME];
  double seconds;
  double started;  /* av_clock() of the outermost start */
  int64_t running; /* starts that wait for their stop */
  int64_t calls;
  int64_t depth; /* phases around it when it was first started */
  int64_t peak;  /* largest resident size of the process so far when it last stopped, bytes */
} av_phase;

typedef struct av_phases {
  int n;
  av_phase phase[AV_MOST_PHASES];
  double began;
  int64_t depth;
  char fault[2 * AV_PHASE_NAME]; /* first misuse, "" if none */
} av_phases;

void av_phases_begin(av_phases *phases);
/* Misuse (a stop without start, too many or too long names) is reported by av_phases_report_make.
 */
void av_phase_start(av_phases *phases, const char *name);
void av_phase_stop(av_phases *phases, const char *name);

/* Over the ranks: least, mean, most. */
typedef struct av_spread {
  double min, mean, max;
} av_spread;
/* Collective. */
av_status av_spread_over(const av_comm *comm, double value, av_spread *spread);

typedef struct av_phase_line {
  char name[AV_PHASE_NAME];
  int64_t depth;
  int64_t calls;     /* most of any rank */
  av_spread seconds; /* a rank without the phase counts 0 */
  av_spread peak;    /* bytes, over the ranks that have the phase */
} av_phase_line;

typedef struct av_phases_report {
  int n;
  av_phase_line line[AV_MOST_PHASES];
  av_spread total; /* seconds since av_phases_begin */
  av_spread other; /* of them outside every phase */
  av_spread peak;  /* largest resident size of a rank, bytes */
} av_phases_report;

/* Gathers the phases of all ranks, in rank 0's order, then those it lacks; the report is on every
 * rank. Phases still running count up to now. Fails with AV_BUG on misuse. Collective. */
av_status av_phases_report_make(const av_comm *comm, const av_phases *phases,
                                av_phases_report *report);

#endif
