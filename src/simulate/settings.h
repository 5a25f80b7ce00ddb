/* The settings of `atlasvi simulate`: one table that yields parser, help and the record in the
 * file. */
#ifndef AV_SIMULATE_SETTINGS_H
#define AV_SIMULATE_SETTINGS_H

#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum { AV_SIM_NB, AV_SIM_ZINB, AV_SIM_POISSON };

typedef struct av_sim_settings {
  int64_t cells, genes, factors, batches, labels, seed;
  int64_t likelihood; /* AV_SIM_NB, ... */
  double library_mean, library_sd, gene_mean_sd;
  double dispersion, dispersion_sd, dropout;
  double marker_fraction, factor_strength, loading_noise;
  double label_strength, batch_strength, library_batch_sd;
  int64_t compression;
  bool overwrite;
} av_sim_settings;

/* Fills in the defaults, then n settings "key=value". Every fault is recorded, one line each
 * (unknown key with the nearest one, malformed or out-of-bounds value, the same key twice, dropout
 * without zinb), before AV_USAGE is returned. */
av_status av_sim_settings_parse(av_sim_settings *settings, int n, char *const *texts);

/* Prints the table: key, default, bounds or choices, sentence. */
void av_sim_settings_help(FILE *out);

/* One setting as a value, for the record in the file. */
typedef struct av_sim_value {
  const char *name;
  enum { AV_SIM_INTEGER, AV_SIM_REAL, AV_SIM_TEXT } kind;
  int64_t integer;
  double real;
  const char *text; /* static */
} av_sim_value;

/* The i-th setting that shapes the content (all but `overwrite`, the last); false past the end. */
bool av_sim_settings_value(const av_sim_settings *settings, int i, av_sim_value *value);

#endif
