/* A fit of 3 epochs that does nothing, to be watched under mpirun: progress_driver
 * [auto|bar|lines|none] */
#include "base/clock.h"
#include "base/comm.h"
#include "base/log.h"
#include "cli/progress.h"
#include "config/config.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

int main(int argc, char **argv) {
  static const char *const names[] = {"auto", "bar", "lines", "none"};
  av_comm comm;
  int mode = AV_PROGRESS_AUTO;
  if (av_comm_create(&comm, &argc, &argv) != AV_OK || av_log_open(&comm, NULL) != AV_OK) {
    return AV_BUG;
  }
  for (int i = 0; i < 4 && argc > 1; ++i) {
    mode = strcmp(argv[1], names[i]) == 0 ? i : mode;
  }
  av_progress *progress = NULL;
  if (av_progress_begin(&progress, &comm, mode, 1, 3, stdout) != AV_OK) {
    return AV_BUG;
  }
  for (int64_t e = 1; e <= 3; ++e) {
    const struct timespec pause = {.tv_nsec = 120000000};
    nanosleep(&pause, NULL);
    av_progress_step(progress, 1, 2);
    const av_epoch_line line = {e, 12.5, 13.5, 1, 0.1, 1000};
    av_progress_epoch(progress, &line);
  }
  av_progress_end(&progress);
  av_comm_free(&comm);
  return 0;
}
