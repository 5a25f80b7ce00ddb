/* The commands that fit: `atlasvi RUN.ini` and `atlasvi check RUN.ini`. */
#ifndef AV_RUN_RUN_H
#define AV_RUN_RUN_H

#include "base/comm.h"

/* Reads settings and data, fits or applies the model, writes model and results. Collective. */
av_status av_run(const av_comm *comm, const char *path, int n_settings, char *const *settings);

/* Validates everything that can be validated without reading counts, and prints the resolved
 * settings, the input's shape and the plan for `n_ranks` ranks (0: those of this run). Changes
 * nothing. Collective. */
av_status av_check(const av_comm *comm, const char *path, int64_t n_ranks, int n_settings,
                   char *const *settings);

#endif
