/* `atlasvi simulate`: an .h5ad of counts drawn from the model, with everything they were drawn
 * from. */
#ifndef AV_SIMULATE_SIMULATE_H
#define AV_SIMULATE_SIMULATE_H

#include "base/status.h"
#include "simulate/settings.h"

#include <stdio.h>

/* Writes `path` by n settings "key=value" (av_sim_settings_help lists them) and reports one line on
 * `out`: cells, genes, non-zeros, share, seconds, file. One process, OpenMP threads; HDF5 must be
 * initialised (av_h5_init). Faults of settings: AV_USAGE; `path` exists or cannot be made:
 * AV_CANTCREATE; writing fails: AV_IOERR, and nothing remains. */
av_status av_simulate(const char *path, int n, char *const *settings, FILE *out);

/* The same with settings made by the caller and `block_cells` cells at a time (0: what fits 64 MB):
 * the file does not depend on it. */
av_status av_simulate_file(const char *path, const av_sim_settings *settings, int64_t block_cells,
                           FILE *out);

#endif
