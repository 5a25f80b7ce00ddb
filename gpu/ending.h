/* How ranks end a run together. One that fails alone tells the others; each that hears of it leaves
 * what it waits in, and answers. When all have answered, or after some seconds, the first ends all
 * processes (av_comm_abort). The messages have a communicator of their own, and nobody waits for
 * them: a rank hears when it asks.
 *
 * Nothing else is done for ranks that hang: they are ended with the rest. */
#ifndef AV_GPU_ENDING_H
#define AV_GPU_ENDING_H

#include "base/comm.h"

typedef struct av_gpu_ending {
  const av_comm *comm; /* borrowed; NULL: not open */
  MPI_Comm mpi;
  int code;      /* the status that is told, */
  bool tells;    /* by this rank, */
  int told_by;   /* or to it by that one, which has no answer yet; -1: by none */
  int n_answers; /* of others, to this rank */
} av_gpu_ending;

/* `ending` stays where it is until it is closed: messages on their way read it. Both collective; a
 * failure to open is this rank's own, to be agreed upon. */
av_status av_gpu_ending_open(const av_comm *comm, av_gpu_ending *ending);
void av_gpu_ending_close(av_gpu_ending *ending);

/* Whether another rank has told that it ends the run, and with which *status. MPI's own failure
 * ends the run. */
bool av_gpu_ending_heard(av_gpu_ending *ending, av_status *status);
/* Tells all others. What fails from here on is not reported: the run ends because of something
 * worse. */
void av_gpu_ending_tell(av_gpu_ending *ending, av_status status);
/* Lets messages travel, which some only do while their sender is in MPI. */
void av_gpu_ending_go_on(const av_gpu_ending *ending);
/* This rank has left: answers each rank that has told it so, for `seconds`. One that has told the
 * others returns earlier, when all have answered. */
void av_gpu_ending_left(av_gpu_ending *ending, double seconds);

#endif
