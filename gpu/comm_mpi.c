#include "comm_mpi.h"

#include "base/clock.h"
#include "base/memory.h"
#include "comm.h"
#include "state.h"

#include <stdlib.h>
#include <string.h>

/* Sums to all ranks go through the host in pieces of this size: pinned memory is dear. */
enum { PIECE_BYTES = 16 << 20 };

void av_gpu_staged_free(av_gpu_staged *staged) {
  if (staged->pinned != NULL) {
    (void)cudaFreeHost(staged->pinned);
  }
  free(staged->received);
  free(staged->counts);
  *staged = (av_gpu_staged){0};
}

/* --- memory and copies ---------------------------------------------------------------------- */

/* The stream has to be idle where the old block may still be read: av_gpu_wait was called. */
static av_status need_pinned(av_gpu_staged *staged, size_t bytes) {
  if (bytes <= staged->pinned_bytes) {
    return AV_OK;
  }
  if (staged->pinned != NULL) {
    AV_TRY(AV_CUDA(cudaFreeHost(staged->pinned)));
  }
  staged->pinned = NULL;
  staged->pinned_bytes = 0;
  AV_TRY(AV_CUDA(cudaMallocHost(&staged->pinned, bytes)));
  staged->pinned_bytes = bytes;
  return AV_OK;
}

static av_status need_received(av_gpu_staged *staged, size_t bytes) {
  if (bytes <= staged->received_bytes) {
    return AV_OK;
  }
  free(staged->received);
  staged->received_bytes = 0;
  staged->received = av_malloc(bytes, 1);
  AV_TRY_ALLOC(staged->received);
  staged->received_bytes = bytes;
  return AV_OK;
}

static av_status need_counts(av_gpu_staged *staged, int ranks) {
  if (staged->counts == NULL) {
    staged->counts = av_calloc(4 * (size_t)ranks, sizeof *staged->counts);
    AV_TRY_ALLOC(staged->counts);
  }
  return AV_OK;
}

static av_status down(av_backend *be, void *host, const void *device, size_t bytes) {
  AV_TRY(
      AV_CUDA(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, av_gpu_of(be)->stream)));
  return av_gpu_wait(be, "a sum over ranks: from the GPU");
}

/* Queued: whoever writes to `host` next waits first, by down(). */
static av_status up(av_backend *be, void *device, const void *host, size_t bytes) {
  return AV_CUDA(
      cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, av_gpu_of(be)->stream));
}

static MPI_Datatype type_of(const av_gpu_array *array) {
  return array->wide ? MPI_DOUBLE : MPI_FLOAT;
}

/* --- sum to all ----------------------------------------------------------------------------- */

static av_status sum_piece(av_backend *be, av_gpu_staged *staged, const av_gpu_array *piece) {
  av_comm quiet = *be->comm; /* the whole is counted, not its pieces */
  quiet.traffic = NULL;
  const size_t bytes = (size_t)piece->n * av_gpu_element(piece);
  AV_TRY(down(be, staged->pinned, piece->at, bytes));
  AV_TRY(piece->wide ? av_sum_f64(&quiet, staged->pinned, piece->n)
                     : av_sum_f32(&quiet, staged->pinned, piece->n));
  return up(be, piece->at, staged->pinned, bytes);
}

av_status av_gpu_staged_sum(av_backend *be, av_gpu_staged *staged, const av_gpu_array *array) {
  const size_t element = av_gpu_element(array);
  const int64_t most = (int64_t)(PIECE_BYTES / element);
  AV_TRY(av_gpu_wait(be, "what a sum over ranks is of"));
  const double began = av_clock();
  AV_TRY(need_pinned(staged, (size_t)(array->n < most ? array->n : most) * element));
  for (int64_t first = 0; first < array->n; first += most) {
    av_gpu_array piece = *array;
    piece.at = (char *)array->at + (size_t)first * element;
    piece.n = array->n - first < most ? array->n - first : most;
    AV_TRY(sum_piece(be, staged, &piece));
  }
  av_traffic_add(be->comm, av_traffic_sum(be->comm, array->n, element), began);
  return AV_OK;
}

/* --- by shares ------------------------------------------------------------------------------ */

/* Each rank sends every other one its share. */
static av_status exchange(const av_comm *comm, av_gpu_staged *staged, const av_gpu_array *array) {
  const int64_t own = av_gpu_array_share_size(array, comm, comm->rank);
  int *const send = staged->counts;
  int *const send_at = send + comm->size;
  int *const receive = send_at + comm->size;
  int *const receive_at = receive + comm->size;
  for (int r = 0; r < comm->size; ++r) {
    send[r] = r == comm->rank ? 0 : (int)av_gpu_array_share_size(array, comm, r);
    send_at[r] = (int)av_gpu_array_share_first(array, comm, r);
    receive[r] = r == comm->rank ? 0 : (int)own;
    receive_at[r] = (int)(own * (r - (r > comm->rank)));
  }
  const MPI_Datatype type = type_of(array);
  return AV_MPI(MPI_Alltoallv(staged->pinned, send, send_at, type, staged->received, receive,
                              receive_at, type, comm->mpi));
}

/* `own` becomes the sum over ranks, in their order. */
static void add_doubles(int ranks, int rank, int64_t n, const double *others, double *own) {
  for (int64_t i = 0; i < n; ++i) {
    double sum = 0;
    for (int r = 0; r < ranks; ++r) {
      sum += r == rank ? own[i] : others[(r - (r > rank)) * n + i];
    }
    own[i] = sum;
  }
}

static void add_floats(int ranks, int rank, int64_t n, const float *others, float *own) {
  for (int64_t i = 0; i < n; ++i) {
    float sum = 0;
    for (int r = 0; r < ranks; ++r) {
      sum += r == rank ? own[i] : others[(r - (r > rank)) * n + i];
    }
    own[i] = sum;
  }
}

av_status av_gpu_staged_sum_shares(av_backend *be, av_gpu_staged *staged,
                                   const av_gpu_array *array) {
  const av_comm *comm = be->comm;
  const size_t element = av_gpu_element(array);
  const int64_t own = av_gpu_array_share_size(array, comm, comm->rank);
  AV_TRY(av_gpu_wait(be, "what a sum over ranks is of"));
  const double began = av_clock();
  AV_TRY(need_pinned(staged, (size_t)array->n * element));
  AV_TRY(need_received(staged, (size_t)own * (size_t)(comm->size - 1) * element + 1));
  AV_TRY(need_counts(staged, comm->size));
  AV_TRY(down(be, staged->pinned, array->at, (size_t)array->n * element));
  AV_TRY(exchange(comm, staged, array));
  const size_t at = (size_t)av_gpu_array_share_first(array, comm, comm->rank) * element;
  void *const mine = (char *)staged->pinned + at;
  if (array->wide) {
    add_doubles(comm->size, comm->rank, own, staged->received, mine);
  } else {
    add_floats(comm->size, comm->rank, own, staged->received, mine);
  }
  AV_TRY(up(be, (char *)array->at + at, mine, (size_t)own * element));
  av_traffic_add(comm, (array->n - own) * (int64_t)element, began);
  if (comm->traffic != NULL) {
    comm->traffic->waited += av_clock() - began;
  }
  return AV_OK;
}

av_status av_gpu_staged_gather(av_backend *be, av_gpu_staged *staged, const av_gpu_array *array) {
  const av_comm *comm = be->comm;
  const size_t element = av_gpu_element(array);
  const size_t own = (size_t)av_gpu_array_share_size(array, comm, comm->rank) * element;
  const size_t at = (size_t)av_gpu_array_share_first(array, comm, comm->rank) * element;
  AV_TRY(av_gpu_wait(be, "what is gathered from the ranks"));
  const double began = av_clock();
  AV_TRY(need_pinned(staged, (size_t)array->n * element));
  AV_TRY(need_counts(staged, comm->size));
  int *const counts = staged->counts;
  int *const offsets = counts + comm->size;
  for (int r = 0; r < comm->size; ++r) {
    counts[r] = (int)av_gpu_array_share_size(array, comm, r);
    offsets[r] = (int)av_gpu_array_share_first(array, comm, r);
  }
  AV_TRY(down(be, (char *)staged->pinned + at, (char *)array->at + at, own));
  AV_TRY(AV_MPI(MPI_Allgatherv(MPI_IN_PLACE, 0, type_of(array), staged->pinned, counts, offsets,
                               type_of(array), comm->mpi)));
  AV_TRY(up(be, array->at, staged->pinned, (size_t)array->n * element));
  av_traffic_add(comm, (comm->size - 1) * (int64_t)own, began);
  return AV_OK;
}
