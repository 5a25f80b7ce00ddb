#include "ending.h"

#include "base/clock.h"

enum { TAG_ENDS = 1, TAG_LEFT };

av_status av_gpu_ending_open(const av_comm *comm, av_gpu_ending *ending) {
  *ending = (av_gpu_ending){.told_by = -1};
  AV_TRY(AV_MPI(MPI_Comm_dup(comm->mpi, &ending->mpi)));
  ending->comm = comm;
  return AV_OK;
}

/* --- messages ------------------------------------------------------------------------------- */

/* The first probe may only take in what has arrived; the second then finds it. */
static av_status look(const av_gpu_ending *ending, int tag, MPI_Status *found, int *there) {
  AV_TRY(AV_MPI(MPI_Iprobe(MPI_ANY_SOURCE, tag, ending->mpi, there, found)));
  return *there != 0 ? AV_OK : AV_MPI(MPI_Iprobe(MPI_ANY_SOURCE, tag, ending->mpi, there, found));
}

/* Takes a message with `tag`: *from is -1 if none has come. */
static av_status take(const av_gpu_ending *ending, int tag, int *from, int *code) {
  int there = 0;
  MPI_Status found;
  *from = -1;
  AV_TRY(look(ending, tag, &found, &there));
  if (there != 0) {
    *from = found.MPI_SOURCE;
    return AV_MPI(MPI_Recv(code, 1, MPI_INT, *from, tag, ending->mpi, MPI_STATUS_IGNORE));
  }
  return AV_OK;
}

/* To a rank that may never take it. */
static void send(av_gpu_ending *ending, int to, int tag) {
  MPI_Request request = MPI_REQUEST_NULL;
  if (AV_MPI(MPI_Isend(&ending->code, 1, MPI_INT, to, tag, ending->mpi, &request)) == AV_OK) {
    (void)AV_MPI(MPI_Request_free(&request));
  }
}

/* --- an end --------------------------------------------------------------------------------- */

bool av_gpu_ending_heard(av_gpu_ending *ending, av_status *status) {
  int code = AV_OK;
  const av_status asked = take(ending, TAG_ENDS, &ending->told_by, &code);
  if (asked != AV_OK) {
    av_comm_abort(ending->comm, asked);
  }
  *status = (av_status)code;
  return ending->told_by >= 0;
}

void av_gpu_ending_tell(av_gpu_ending *ending, av_status status) {
  ending->code = (int)status;
  ending->tells = true;
  for (int rank = 0; rank < ending->comm->size; ++rank) {
    if (rank != ending->comm->rank) {
      send(ending, rank, TAG_ENDS);
    }
  }
}

void av_gpu_ending_go_on(const av_gpu_ending *ending) {
  MPI_Status found;
  int there = 0;
  (void)look(ending, TAG_LEFT, &found, &there);
}

void av_gpu_ending_left(av_gpu_ending *ending, double seconds) {
  const double began = av_clock();
  do {
    int from = -1;
    int code = AV_OK;
    if (ending->told_by >= 0) {
      send(ending, ending->told_by, TAG_LEFT);
    }
    (void)take(ending, TAG_ENDS, &ending->told_by, &code);
    (void)take(ending, TAG_LEFT, &from, &code);
    ending->n_answers += from >= 0 ? 1 : 0;
    if (from < 0 && ending->told_by < 0) {
      av_rest(1e-4);
    }
  } while (av_clock() - began < seconds &&
           !(ending->tells && ending->n_answers == ending->comm->size - 1));
  av_error_clear();
}

/* A message of a rank that ends the run in its own close may still be there: that rank ends all. */
void av_gpu_ending_close(av_gpu_ending *ending) {
  if (ending->comm != NULL) {
    (void)AV_MPI(MPI_Comm_free(&ending->mpi));
    ending->comm = NULL;
  }
}
