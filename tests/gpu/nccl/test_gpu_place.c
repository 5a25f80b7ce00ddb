/* Who gets which GPU, and what is said where there are too few, or one fails. Run on 1, 2 and 3
 * ranks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "check.h"
#include "cuda_host.h"
#include "place.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static av_comm comm;

static const char *const gpus[] = {"0000:01:00.0", "0000:02:00.0", "0000:81:00.0", "0000:82:00.0"};

static void refused(bool may_share, const char *part) {
  int device = -1;
  int sharing = -1;
  assert_int_equal(av_gpu_place(&comm, may_share, &device, &sharing), AV_NODEVICE);
  if (strstr(av_error_text(), part) == NULL || strchr(av_error_text(), '\n') != NULL) {
    fail_msg("\"%s\" is not in, or not the only line of: %s", part, av_error_text());
  }
  av_error_clear();
}

static void given(bool may_share, int expected, int ranks) {
  int device = -1;
  int sharing = -1;
  assert_int_equal(av_gpu_place(&comm, may_share, &device, &sharing), AV_OK);
  assert_int_equal(device, expected);
  assert_int_equal(sharing, ranks);
}

static void placed(int expected) { given(false, expected, 1); }
static void shared(int expected, int ranks) { given(true, expected, ranks); }

/* All ranks see all GPUs. */
static void enough(void **unused) {
  (void)unused;
  cuda_host_devices(4, gpus);
  placed(comm.rank);
  cuda_host_devices(comm.size, gpus);
  placed(comm.rank);
}

/* The launcher has given each rank one. */
static void one_each(void **unused) {
  (void)unused;
  cuda_host_devices(1, gpus + comm.rank);
  placed(0);
}

/* Rank 1 sees others than ranks 0 and 2, which take turns. */
static void in_groups(void **unused) {
  (void)unused;
  cuda_host_devices(2, gpus + (comm.rank == 1 ? 2 : 0));
  placed(comm.rank == 2 ? 1 : 0);
}

static void too_few(void **unused) {
  (void)unused;
  cuda_host_devices(1, gpus);
  if (comm.size == 1) {
    placed(0);
    return;
  }
  char text[100];
  snprintf(text, sizeof text, "the %d ranks on node ", comm.size);
  refused(false, text);
  refused(false, " have 1 GPU between them");
  refused(false, "start 1 rank a node, or set [runtime] gpu_sums = mpi");
  shared(0, comm.size);
  if (comm.size == 3) {
    cuda_host_devices(2, gpus);
    refused(false, " have 2 GPUs between them");
    shared(comm.rank % 2, comm.rank == 1 ? 1 : 2);
  }
}

/* Each rank has been given a slice of a GPU (MIG): devices with memory of their own, and UUIDs, but
 * one GPU, or two, to NCCL. */
static void slices(void **unused) {
  (void)unused;
  static const char *const one[] = {"0000:01:00.0/1", "0000:01:00.0/2", "0000:01:00.0/7"};
  static const char *const two[] = {"0000:01:00.0/1", "0000:81:00.0/1", "0000:81:00.0/2"};
  char text[150];
  cuda_host_devices(1, one + comm.rank);
  shared(0, 1);
  if (comm.size > 1) {
    snprintf(text, sizeof text, " have %d slices (MIG) of 1 GPU, and NCCL needs a GPU", comm.size);
    refused(false, text);
    refused(false, "set [runtime] gpu_sums = mpi (ranks sum through the host), or start 1 rank a ");
  }
  cuda_host_devices(1, two + comm.rank);
  shared(0, 1);
  if (comm.size == 3) {
    refused(false, " have 3 slices (MIG) of 2 GPUs, and NCCL needs ");
  } else {
    placed(0);
  }
  cuda_host_devices(1, one); /* the same slice for all */
  shared(0, comm.size);
}

/* Only the last rank sees none: all are told why. */
static void none(void **unused) {
  (void)unused;
  const bool last = comm.rank == comm.size - 1;
  char text[100];
  snprintf(text, sizeof text, "rank %d finds no GPU on node ", comm.size - 1);
  setenv("CUDA_VISIBLE_DEVICES", "", 1);
  cuda_host_devices(last ? 0 : 4, gpus);
  refused(true, text);
  refused(false,
          "no CUDA-capable device is detected (CUDA_VISIBLE_DEVICES = ); ask the scheduler "
          "for GPUs (Slurm: --gpus-per-task=1), give them to a container (docker --gpus all, ");
  unsetenv("CUDA_VISIBLE_DEVICES");
  cuda_host_devices(last ? -1 : 4, gpus);
  refused(false, "driver version is insufficient for CUDA runtime version");
  refused(false, "(CUDA_VISIBLE_DEVICES is not set); install a driver for this version of CUDA");
}

static void says(av_status status, av_status expected, const char *text) {
  assert_int_equal(status, expected);
  assert_string_equal(av_error_text(), text);
  av_error_clear();
}

/* What is the user's to mend is no internal error, and has its advice; the rest has a place. */
static void errors(void **unused) {
  (void)unused;
  says(av_cuda_check(cudaErrorMemoryAllocation, "cudaMalloc(&a, 8)", "f.c", 7), AV_NOMEM,
       "CUDA: out of memory (another error, cudaMalloc(&a, 8), f.c:7); the GPU's memory is full: "
       "nvidia-smi says who else is on it; use more ranks with a GPU each, or a smaller [train] "
       "batch_size");
  says(av_cuda_check(cudaErrorMemoryAllocation, "cudaMallocHost(&a, 8)", "f.c", 7), AV_NOMEM,
       "CUDA: out of memory (another error, cudaMallocHost(&a, 8), f.c:7); it is the host's memory "
       "that is short, pinned for copies: use fewer ranks a node, or a smaller [train] batch_size");
  says(av_cuda_check(cudaErrorIllegalAddress, "k()", "f.c", 7), AV_BUG,
       "internal error at f.c:7: k(): an illegal memory access was encountered "
       "(cudaErrorIllegalAddress)");
  says(av_cublas_check(CUBLAS_STATUS_ALLOC_FAILED, "c()", "f.c", 7), AV_NOMEM,
       "cuBLAS: the resource allocation failed (CUBLAS_STATUS_ALLOC_FAILED, c(), f.c:7); the GPU's "
       "memory is full: nvidia-smi says who else is on it; use more ranks with a GPU each, or a "
       "smaller [train] batch_size");
  says(av_cublas_check(CUBLAS_STATUS_INVALID_VALUE, "c()", "f.c", 7), AV_BUG,
       "internal error at f.c:7: c(): cuBLAS: another status (another status)");
}

int main(int argc, char **argv) {
  if (av_comm_create(&comm, &argc, &argv) != AV_OK) {
    return 1;
  }
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(enough),  cmocka_unit_test(one_each), cmocka_unit_test(in_groups),
      cmocka_unit_test(too_few), cmocka_unit_test(slices),   cmocka_unit_test(none),
      cmocka_unit_test(errors),
  };
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  av_comm_free(&comm);
  return failed;
}
