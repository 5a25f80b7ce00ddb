/* The blocks of text that open and close a run, and the same facts in the JSON-lines log.
 *
 * All are collective: they gather what the ranks know; rank 0 prints to `out` (stdout in the
 * program). Names and paths are printed as they are but for control characters.
 */
#ifndef AV_CLI_REPORT_H
#define AV_CLI_REPORT_H

#include "base/comm.h"
#include "base/phases.h"
#include "config/config.h"
#include "data/dataset.h"

#include <stdint.h>
#include <stdio.h>

/* Who is running: log event "start". Strings are borrowed; those marked * may be NULL (not known).
 */
typedef struct av_banner {
  const char *version;
  const char *revision; /* * git revision */
  const char *build;    /* * compiler and libraries, one line */
  const char *backend;
  const char *reproducible; /* off, run, strict */
  const char *settings;     /* * path of the INI file */
  int threads;              /* of this rank */
  const char *threads_from; /* * who decided, from av_threads_choose */
} av_banner;
av_status av_report_banner(const av_comm *comm, const av_banner *banner, FILE *out);

/* What was read: log event "input". `split` holds the global numbers of training, validation and
 * test cells. Warns when ranks own no cells. */
av_status av_report_input(const av_comm *comm, const av_config *config, const av_dataset *dataset,
                          const int64_t split[3], FILE *out);

/* The model and how it will be fitted: log event "model". `config` is resolved. */
typedef struct av_model_facts {
  int64_t n_genes;
  int64_t n_batches;
  int64_t n_parameters; /* trained numbers */
  int64_t bytes;        /* of parameters, gradients and optimizer on each rank; 0: not known */
  int64_t n_epochs;
  int64_t n_steps;      /* minibatches an epoch */
  int64_t output_bytes; /* of the large matrices that will be written */
  const char *output;   /* where they go */
  const char *gpu;      /* where the counts are, with GPUs; else NULL */
} av_model_facts;
av_status av_report_model(const av_comm *comm, const av_config *config, const av_model_facts *facts,
                          FILE *out);

/* Files that the run has written, with their sizes (read here by rank 0): one log event "output"
 * each. */
typedef struct av_output_file {
  const char *what; /* "results", "model" */
  const char *path;
} av_output_file;
av_status av_report_outputs(const av_comm *comm, int n, const av_output_file *files, FILE *out);

/* What the ranks have told each other in n_steps steps of training that took `seconds`; `traffic`
 * is this rank's. One log event "communication", figures of a step and rank; printed where there
 * are several ranks. Nothing if n_steps = 0. The event's `timed` says what its seconds are of:
 * "operations", or, where traffic->queued, "queueing"; then its overlap is null. */
av_status av_report_communication(const av_comm *comm, int64_t n_steps, double seconds,
                                  const av_traffic *traffic, FILE *out);

/* Time and memory by phase, least, mean and most over the ranks: one log event "phase" each, and
 * "end". */
av_status av_report_phases(const av_comm *comm, const av_phases *phases, FILE *out);

#endif
