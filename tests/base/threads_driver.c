/* Prints what av_threads_choose chooses here: "rank 0: 2 threads from OMP_NUM_THREADS". */
#include "base/comm.h"
#include "base/log.h"
#include "base/threads.h"

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
  av_comm comm;
  int threads = 0;
  const char *source = "";
  if (av_comm_create(&comm, &argc, &argv) != AV_OK || av_log_open(&comm, NULL) != AV_OK) {
    return AV_BUG;
  }
  const av_status status =
      av_threads_choose(&comm, argc > 1 ? atoi(argv[1]) : 0, &threads, &source);
  printf("rank %d: %d threads from %s\n", comm.rank, threads, source);
  av_comm_free(&comm);
  return (int)status;
}
