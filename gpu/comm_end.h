/* Ranks that end a run together: who fails alone tells the others, and ends the run (MPI_Abort ends
 * their processes) when each has left what it waits in, or does not answer. Messages of a
 * communicator of their own, which nobody waits for: a rank hears when it asks.
 *
 * What fails here is not reported: the run ends because of something worse. */
#ifndef AV_GPU_COMM_END_H
#define AV_GPU_COMM_END_H

#include "base/comm.h"

typedef struct av_gpu_end {
  const av_comm *comm; /* borrowed; NULL: not open */
  MPI_Comm mpi;
  int code; /* that is told */
} av_gpu_end;

/* `end`, zeroed, must stay where it is until it is closed. Both collective. */
av_status av_gpu_end_open(const av_comm *comm, av_gpu_end *end);
void av_gpu_end_close(av_gpu_end *end);

/* Whether another rank has told that it ends the run, and with which *status. */
bool av_gpu_end_heard(const av_gpu_end *end, av_status *status);
/* Tells all others. */
void av_gpu_end_tell(av_gpu_end *end, av_status status);
/* Tells all others that this rank has left, and waits until they have, but no longer than
 * `seconds`. */
void av_gpu_end_leave(av_gpu_end *end, double seconds);

#endif
