/* Checks between keys, each of which records all it finds. Private to src/config. */
#ifndef AV_CONFIG_CONFIG_CHECK_H
#define AV_CONFIG_CONFIG_CHECK_H

#include "config/config_table.h"

typedef struct av_checker {
  const av_config *config;
  bool failed;
} av_checker;

/* Records "run.ini:12: [section] key: message"; a key that is not in the file has no line. */
void av_check_fault(av_checker *c, int key, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* "on line 12", where a key was set: for messages about another key. Returns `room`. */
const char *av_check_place(const av_config *config, int key, char room[48]);
/* False for a key whose text could not be used: nothing can be said about its value. */
static inline bool av_check_usable(const av_config *config, int key) {
  return !config->origin->faulty[key];
}
/* A key that does nothing because a switch is off by default; switched off on purpose is fine. */
void av_check_needs_switch(av_checker *c, int key, bool works, const char *switch_text);

void av_check_files(av_checker *c);      /* input, outputs and the INI file are different files */
void av_check_covariates(av_checker *c); /* a column has one part to play */
void av_check_model(av_checker *c);      /* [model], and what of [output] only some models have */
void av_check_training(av_checker *c);   /* split, warm-up, stopping, restarts, backend */

#endif
