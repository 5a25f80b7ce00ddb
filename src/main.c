/* atlasvi: scVI and LDVAE for single-cell counts. What to do with the command line. */
#include "base/comm.h"
#include "base/log.h"
#include "base/threads.h"
#include "cli/cli.h"
#include "cli/version.h"
#include "config/config.h"
#include "io/h5.h"
#include "io/h5ad_read.h"
#include "run/run.h"
#include "simulate/simulate.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

static av_status print_help(const av_cli *cli) {
  switch (cli->help_form) {
    case AV_HELP_MARKDOWN:
      av_config_help_markdown(stdout);
      return AV_OK;
    case AV_HELP_INI:
      av_config_help_ini(stdout);
      return AV_OK;
    default:
      if (cli->key != NULL && strcmp(cli->key, "simulate") == 0) {
        av_sim_settings_help(stdout);
        return AV_OK;
      }
      return av_config_help(stdout, cli->key);
  }
}

/* Commands that one process does; the other ranks wait for its result. */
static av_status alone(const av_cli *cli) {
  switch (cli->command) {
    case AV_COMMAND_NONE:
      av_cli_usage(stderr);
      return AV_USAGE;
    case AV_COMMAND_USAGE:
      av_cli_usage(stdout);
      return AV_OK;
    case AV_COMMAND_HELP:
      return print_help(cli);
    case AV_COMMAND_VERSION:
      av_print_version(stdout);
      return AV_OK;
    case AV_COMMAND_INSPECT:
      return av_h5ad_inspect(cli->path, stdout);
    case AV_COMMAND_SIMULATE:
      return av_simulate(cli->path, cli->n_settings, cli->settings, stdout);
    default:
      return AV_FAIL_BUG("no such command: %d", (int)cli->command);
  }
}

/* What these commands are run for is what they print: a full disk behind it is an error. */
static av_status printed(av_status status) {
  if (status != AV_OK || (fflush(stdout) == 0 && ferror(stdout) == 0)) {
    return status;
  }
  return av_fail(AV_IOERR, "standard output: %s", strerror(errno));
}

static av_status dispatch(const av_comm *comm, const av_cli *cli) {
  switch (cli->command) {
    case AV_COMMAND_RUN:
      return av_run(comm, cli->path, cli->n_settings, cli->settings);
    case AV_COMMAND_CHECK:
      return av_agree(
          comm, printed(av_check(comm, cli->path, cli->ranks, cli->n_settings, cli->settings)));
    default:
      return av_agree(comm, comm->rank == 0 ? printed(alone(cli)) : AV_OK);
  }
}

int main(int argc, char **argv) {
  av_threads_spin_briefly(argv);
  av_comm comm;
  av_cli cli = {0};
  signal(SIGXFSZ, SIG_IGN); /* a file-size limit is an error to report, not a reason to die */
  av_status status = av_comm_create(&comm, &argc, &argv);
  if (status == AV_OK) {
    status = av_log_open(&comm, NULL);
  }
  if (status == AV_OK) {
    status = av_agree(&comm, av_h5_init());
  }
  if (status == AV_OK) {
    status = av_agree(&comm, av_cli_parse(&cli, argc, argv));
  }
  if (status == AV_OK) {
    status = dispatch(&comm, &cli);
  }
  av_cli_free(&cli);
  if (comm.rank == 0) {
    av_error_print();
  }
  av_comm_free(&comm);
  return (int)status;
}
