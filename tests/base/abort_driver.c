/* One rank fails: abort_driver HOW RANK CODE [FILE]; alone, it leaves FILE unfinished. "alone":
 * only that rank knows, the others wait in a collective; "agreed": the failure is agreed on, and
 * every rank ends MPI in order. */
#include "base/comm.h"
#include "base/unfinished.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv) {
  av_comm comm;
  if (av_comm_create(&comm, &argc, &argv) != AV_OK || argc < 4) {
    return AV_USAGE;
  }
  const int failing = atoi(argv[2]);
  const av_status code = (av_status)atoi(argv[3]);
  av_status status = AV_OK;
  if (comm.rank == failing) {
    status = av_fail(code, "rank %d cannot read its part", comm.rank);
  }
  if (strcmp(argv[1], "alone") == 0) {
    if (status != AV_OK) {
      FILE *file = argc > 4 ? fopen(argv[4], "w") : NULL;
      if (file != NULL) {
        fclose(file);
        av_unfinished_add(argv[4]);
      }
      av_comm_abort(&comm, status);
    }
    MPI_Barrier(comm.mpi); /* never completes */
    return AV_OK;
  }
  status = av_agree(&comm, status);
  if (comm.rank == 0) {
    av_error_print();
  }
  av_error_clear();
  av_comm_free(&comm);
  return (int)status;
}
