#include "place.h"

#include "base/memory.h"
#include "check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { UUID = 16, BUS_ID = 32, HOST_NAME = 65 };

/* What a rank tells the others of its node. */
typedef struct av_place {
  uint64_t visible; /* stands for the devices that it sees */
  char uuid[UUID];  /* the device that it has chosen: a GPU, or a slice of one (MIG) */
  char gpu[BUS_ID]; /* where that GPU is plugged in */
} av_place;

/* Of two ranks of a node. */
typedef bool (*av_alike)(const av_place *a, const av_place *b);
static bool same_device(const av_place *a, const av_place *b) {
  return memcmp(a->uuid, b->uuid, UUID) == 0;
}
static bool same_gpu(const av_place *a, const av_place *b) { return strcmp(a->gpu, b->gpu) == 0; }

static const char *host_name(char name[HOST_NAME]) {
  if (gethostname(name, HOST_NAME) != 0) {
    snprintf(name, HOST_NAME, "%s", "unknown");
  }
  name[HOST_NAME - 1] = '\0';
  return name;
}

/* FNV-1a, continued from `hash`. */
static uint64_t hash_bytes(uint64_t hash, const char *bytes, int n) {
  for (int i = 0; i < n; ++i) {
    hash = (hash ^ (unsigned char)bytes[i]) * UINT64_C(1099511628211);
  }
  return hash;
}

static av_status none(const av_comm *comm, cudaError_t code) {
  char name[HOST_NAME];
  const char *visible = getenv("CUDA_VISIBLE_DEVICES");
  return av_fail(AV_NODEVICE,
                 "[runtime] backend = cuda: rank %d finds no GPU on node %s: %s "
                 "(CUDA_VISIBLE_DEVICES %s%s)%s",
                 comm->rank, host_name(name),
                 code == cudaSuccess ? "none is visible" : cudaGetErrorString(code),
                 visible == NULL ? "is not set" : "= ", visible == NULL ? "" : visible,
                 av_cuda_advice(code == cudaSuccess ? cudaErrorNoDevice : code));
}

/* Slices of a GPU have UUIDs of their own. */
static av_status identify(int device, av_place *place) {
  struct cudaDeviceProp properties;
  AV_TRY(AV_CUDA(cudaGetDeviceProperties(&properties, device)));
  memcpy(place->uuid, properties.uuid.bytes, UUID);
  return AV_CUDA(cudaDeviceGetPCIBusId(place->gpu, BUS_ID, device));
}

/* The devices that this rank sees. */
static av_status look(const av_comm *comm, int *n, uint64_t *visible) {
  *n = 0;
  *visible = UINT64_C(14695981039346656037);
  const cudaError_t code = cudaGetDeviceCount(n);
  if (code != cudaSuccess || *n == 0) {
    return none(comm, code);
  }
  for (int i = 0; i < *n; ++i) {
    av_place place = {0};
    AV_TRY(identify(i, &place));
    *visible = hash_bytes(*visible, place.uuid, UUID);
  }
  return AV_OK;
}

/* What the ranks have chosen: how many different ones. */
static int count_different(const av_place *places, int ranks, av_alike alike) {
  int n = 0;
  for (int r = 0; r < ranks; ++r) {
    int earlier = 0;
    while (earlier < r && !alike(&places[earlier], &places[r])) {
      ++earlier;
    }
    n += earlier == r ? 1 : 0;
  }
  return n;
}

static av_status too_few(int ranks, int gpus) {
  char name[HOST_NAME];
  return av_fail(
      AV_NODEVICE,
      "[runtime] backend = cuda: the %d ranks on node %s have %d GPU%s between them, and "
      "NCCL needs one for each: start %d rank%s a node, or set [runtime] gpu_sums = mpi "
      "(ranks share GPUs, and sum through the host)",
      ranks, host_name(name), gpus, gpus == 1 ? "" : "s", gpus, gpus == 1 ? "" : "s");
}

/* NCCL, 2.28 at least, knows a GPU by where it is plugged in, and refuses two slices of it. */
static av_status only_slices(int ranks, int devices, int gpus) {
  char name[HOST_NAME];
  return av_fail(
      AV_NODEVICE,
      "[runtime] backend = cuda: the %d ranks on node %s have %d slices (MIG) of %d GPU%s, and "
      "NCCL needs a GPU for each rank, not a slice: set [runtime] gpu_sums = mpi (ranks sum "
      "through the host), or start %d rank%s a node",
      ranks, host_name(name), devices, gpus, gpus == 1 ? "" : "s", gpus, gpus == 1 ? "" : "s");
}

/* Whether NCCL can serve the ranks of a node. */
static av_status enough(const av_place *places, int ranks) {
  const int gpus = count_different(places, ranks, same_gpu);
  const int devices = count_different(places, ranks, same_device);
  if (gpus == ranks) {
    return AV_OK;
  }
  return devices > gpus ? only_slices(ranks, devices, gpus) : too_few(ranks, gpus);
}

/* With those who see the same devices this rank takes turns. `mine` and `places` (ranks of the
 * node) are filled here. */
static av_status choose(MPI_Comm node, int n_visible, av_place *mine, av_place *places,
                        int *device) {
  int rank = 0;
  AV_TRY(AV_MPI(MPI_Comm_rank(node, &rank)));
  const int bytes = (int)sizeof *mine;
  AV_TRY(AV_MPI(MPI_Allgather(mine, bytes, MPI_BYTE, places, bytes, MPI_BYTE, node)));
  int before = 0;
  for (int r = 0; r < rank; ++r) {
    before += places[r].visible == mine->visible ? 1 : 0;
  }
  *device = before % n_visible;
  return identify(*device, mine);
}

static int count_ranks(const av_place *places, int ranks, const av_place *mine) {
  int n = 0;
  for (int r = 0; r < ranks; ++r) {
    n += same_device(&places[r], mine) ? 1 : 0;
  }
  return n;
}

/* Among the ranks of this node, which all see GPUs. Every rank takes part in every exchange: what
 * fails on one of them waits for the next agreement. */
static av_status place_on(const av_comm *comm, MPI_Comm node, int n_visible, uint64_t visible,
                          bool may_share, int *device, int *sharing) {
  av_place mine = {.visible = visible};
  const int ranks = comm->local_size;
  av_place *places = av_calloc((size_t)ranks, sizeof *places);
  av_status status =
      places != NULL ? AV_OK : av_fail(AV_NOMEM, "out of memory (%d ranks of a node)", ranks);
  AV_GO(status, av_agree(comm, status), done);
  AV_GO(status, av_agree(comm, choose(node, n_visible, &mine, places, device)), done);
  const int bytes = (int)sizeof mine;
  status = AV_MPI(MPI_Allgather(&mine, bytes, MPI_BYTE, places, bytes, MPI_BYTE, node));
  *sharing = count_ranks(places, ranks, &mine);
  if (status == AV_OK && !may_share) {
    status = enough(places, ranks);
  }
  status = av_agree(comm, status);
done:
  free(places);
  return status;
}

av_status av_gpu_place(const av_comm *comm, bool may_share, int *device, int *sharing) {
  int n_visible = 0;
  uint64_t visible = 0;
  *device = 0;
  *sharing = 1;
  AV_TRY(av_agree(comm, look(comm, &n_visible, &visible)));
  if (comm->size == 1) {
    return AV_OK;
  }
  MPI_Comm node = MPI_COMM_NULL;
  AV_TRY(av_agree(comm, AV_MPI(MPI_Comm_split_type(comm->mpi, MPI_COMM_TYPE_SHARED, comm->rank,
                                                   MPI_INFO_NULL, &node))));
  const av_status status = place_on(comm, node, n_visible, visible, may_share, device, sharing);
  const av_status freed = AV_MPI(MPI_Comm_free(&node));
  return status != AV_OK ? status : freed;
}
