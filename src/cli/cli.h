/* The command line: argv to what is to be done. Nothing is printed or opened here. */
#ifndef AV_CLI_CLI_H
#define AV_CLI_CLI_H

#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

typedef enum av_command {
  AV_COMMAND_NONE,     /* no arguments: av_cli_usage on stderr, exit status AV_USAGE */
  AV_COMMAND_RUN,      /* RUN.ini [section.key=value ...] */
  AV_COMMAND_CHECK,    /* check RUN.ini [--ranks N] [section.key=value ...] */
  AV_COMMAND_INSPECT,  /* inspect FILE.h5ad */
  AV_COMMAND_SIMULATE, /* simulate OUT.h5ad [key=value ...] */
  AV_COMMAND_HELP,     /* help [KEY] [--markdown | --ini] */
  AV_COMMAND_USAGE,    /* --help: av_cli_usage on stdout */
  AV_COMMAND_VERSION   /* --version */
} av_command;

typedef enum av_help_form { AV_HELP_TEXT, AV_HELP_MARKDOWN, AV_HELP_INI } av_help_form;

/* Strings are argv's own; `settings` is owned (av_cli_free). */
typedef struct av_cli {
  av_command command;
  const char *path; /* the INI file (run, check), the .h5ad (inspect, simulate), else NULL */
  int64_t ranks;    /* check --ranks N; 0: the ranks of this run */
  const char *key;  /* help KEY; NULL: every key */
  av_help_form help_form;
  int n_settings;
  char **settings; /* (n_settings): "section.key=value" (run, check), "key=value" (simulate) */
} av_cli;

/* Fills `cli` from the arguments. A wrong command line: AV_USAGE with one line that says what is
 * expected and names the nearest command or option. A file whose name is that of a command is
 * written with its folder (./check). */
av_status av_cli_parse(av_cli *cli, int argc, char *const *argv);
void av_cli_free(av_cli *cli);

/* How the program is called, one line a command. */
void av_cli_usage(FILE *out);

#endif
