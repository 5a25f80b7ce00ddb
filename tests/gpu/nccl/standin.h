/* What tests do to NCCL's stand-in, and what it has seen. Zeroed: everything goes well, at once.
 * Where the environment names a folder, AV_STANDIN_ABORTS, the other ranks meet ncclRemoteError
 * when one has called ncclCommAbort; on the emulated device their operations end then, undone. */
#ifndef AV_TESTS_GPU_NCCL_STANDIN_H
#define AV_TESTS_GPU_NCCL_STANDIN_H

#include <nccl.h>
#include <stdbool.h>

typedef struct av_standin {
  int polls;           /* a call is through only when it has been asked for as often */
  bool no_id;          /* ncclGetUniqueId fails */
  bool absent;         /* this rank never joins the communicator; also that of AV_STANDIN_ABSENT */
  ncclResult_t start;  /* what joining ends with on this rank */
  int fail_at;         /* the operation that fails on this rank, from 1; 0: none ... */
  ncclResult_t error;  /* ... and how */
  bool hanging_abort;  /* ncclCommAbort does not return */
  int slow_abort;      /* it takes so many seconds */
  int operations;      /* begun so far */
  int groups;          /* queued so far */
  int communicators;   /* there now */
  int aborts;          /* calls of ncclCommAbort */
  const char *misused; /* the call that should not have been made then; NULL: none */
} av_standin;

extern av_standin standin;

#endif
