#include "comm_end.h"

#include "base/clock.h"

#include <time.h>

enum { TAG_ENDS = 1, TAG_LEFT };

av_status av_gpu_end_open(const av_comm *comm, av_gpu_end *end) {
  AV_TRY(AV_MPI(MPI_Comm_dup(comm->mpi, &end->mpi)));
  end->comm = comm;
  return AV_OK;
}

void av_gpu_end_close(av_gpu_end *end) {
  if (end->comm != NULL) {
    (void)AV_MPI(MPI_Comm_free(&end->mpi));
    end->comm = NULL;
  }
}

/* Takes a message with `tag`, if one has come. */
static bool take(const av_gpu_end *end, int tag, int *code) {
  int there = 0;
  MPI_Status found;
  if (AV_MPI(MPI_Iprobe(MPI_ANY_SOURCE, tag, end->mpi, &there, &found)) != AV_OK || there == 0) {
    return false;
  }
  return AV_MPI(MPI_Recv(code, 1, MPI_INT, found.MPI_SOURCE, tag, end->mpi, MPI_STATUS_IGNORE)) ==
         AV_OK;
}

/* To all others, of whom some may never take it. */
static void send(av_gpu_end *end, int tag) {
  for (int rank = 0; rank < end->comm->size; ++rank) {
    MPI_Request request = MPI_REQUEST_NULL;
    if (rank != end->comm->rank &&
        AV_MPI(MPI_Isend(&end->code, 1, MPI_INT, rank, tag, end->mpi, &request)) == AV_OK) {
      (void)AV_MPI(MPI_Request_free(&request));
    }
  }
}

bool av_gpu_end_heard(const av_gpu_end *end, av_status *status) {
  int code = AV_OK;
  const bool heard = take(end, TAG_ENDS, &code);
  *status = (av_status)code;
  return heard;
}

void av_gpu_end_tell(av_gpu_end *end, av_status status) {
  end->code = (int)status;
  send(end, TAG_ENDS);
}

void av_gpu_end_leave(av_gpu_end *end, double seconds) {
  const double began = av_clock();
  send(end, TAG_LEFT);
  for (int left = 1; left < end->comm->size && av_clock() - began < seconds;) {
    int code = AV_OK;
    if (take(end, TAG_LEFT, &code)) {
      ++left;
    } else {
      (void)nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    }
  }
}
