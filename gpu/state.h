/* What the cuda backend keeps behind the opaque handles. Internal to this folder.
 *
 * av_real and av_grad arrays are floats on the device, av_sum arrays doubles on the device. All
 * work goes to one stream in the order of the calls; an operation returns when its work is queued,
 * and only read, read_end, decode_cells, output_end, sums over ranks through MPI, and decode_output
 * where pieces under way, its own too, fill their ring wait for it (and who is far ahead of the
 * device: ahead.c).
 *
 * Passes that come again (pass.h) are played from a CUDA graph. Operations are called then as ever,
 * and queue nothing: all that they queue goes through AV_GPU_RUN. */
#ifndef AV_GPU_STATE_H
#define AV_GPU_STATE_H

#include "backend/gpu_memory.h"
#include "backend/operations.h"
#include "check.h"
#include "kernels/view.h"

enum { AV_GPU_ROW_BUFFERS = 8, AV_GPU_MARKS = 3 };

/* What becomes of an operation's work. */
typedef enum av_gpu_mode {
  AV_GPU_QUEUES,  /* it is queued */
  AV_GPU_RECORDS, /* the stream adds it to a graph */
  AV_GPU_PLAYS    /* it is in a graph already */
} av_gpu_mode;

/* How far the host is ahead of the device (ahead.c). */
typedef struct av_gpu_ahead {
  int runs; /* operations' work queued since the last mark */
  int next;
  cudaEvent_t mark[AV_GPU_MARKS];
} av_gpu_ahead;

typedef struct av_gpu_fetch av_gpu_fetch; /* fetch.h */

/* Decoded matrices on their way to the host (outputs.h). */
typedef struct av_gpu_piece {
  float *rho, *mu; /* where it goes; NULL: not asked for */
  int64_t numbers; /* of each */
  int64_t of;      /* which output it is of: 0, 1, ... */
} av_gpu_piece;
typedef struct av_gpu_outputs {
  av_gpu_fetch *ring;                     /* decode_cells has it, too; NULL: none yet */
  av_gpu_piece piece[AV_GPU_FETCH_SLOTS]; /* under way, the oldest first */
  int64_t complete, ended;                /* outputs: all pieces sent; all in their place */
} av_gpu_outputs;

typedef struct av_gpu {
  int device;
  int sharing; /* ranks that have this device, with this one */
  int multiprocessors;
  int shared_most; /* bytes of shared memory that a block may ask for */
  size_t room;     /* bytes of it that were free for this rank when it opened */
  cudaStream_t stream;
  cublasHandle_t blas;
  void *blas_work;
  struct av_gpu_ranks *ranks; /* comm.h */
  av_gpu_step step;           /* what the next operations are to see ... */
  av_gpu_step sent;           /* ... and what the device has */
  av_gpu_step *on_device;
  void *work; /* scratch of one operation at a time */
  size_t work_bytes;
  struct av_gpu_outgrown *outgrown; /* scratch of before, which graphs still use */
  bool recorded;                    /* there have been graphs */
  av_gpu_mode mode;
  struct av_gpu_graph *graph; /* that is recorded; NULL: none is */
  struct av_batch *selected;  /* in an open pass, for the next one */
  int way;                    /* AV_GPU_DECODE_*, of decoders that have it */
  struct av_gpu_trial *trial; /* whose step is under way (trial.h); NULL: none is */
  bool in_pass;               /* one whose work is not queued yet: selecting is for after it */
  av_gpu_ahead ahead;
  av_gpu_outputs outputs;
  av_gpu_fetch *reads; /* of read_begin; NULL: none yet */
} av_gpu;

typedef struct av_gpu_source av_gpu_source; /* stage.h */
typedef struct av_gpu_stage av_gpu_stage;

struct av_data {
  const av_dataset *dataset; /* borrowed */
  av_gpu_data on_device;
  av_gpu_source *source; /* counts that are streamed; NULL: they are resident */
  void *memory[12];      /* to free */
  int n_memory;
};

struct av_batch {
  const av_data *data;
  av_gpu_rows view;
  int64_t n;                         /* B, as the host knows it */
  int32_t *on_device;                /* (1 + max_rows) n and the rows */
  int32_t *host[AV_GPU_ROW_BUFFERS]; /* pinned copies on their way */
  cudaEvent_t arrived[AV_GPU_ROW_BUFFERS];
  int next;
  struct av_gpu_graph *graphs; /* (AV_GPU_DECODE_WAYS, AV_PASSES) pass.h */
  struct av_gpu_trial *trial;  /* trial.h; NULL: nothing is measured */
  av_gpu_stage *stage;         /* NULL: counts are resident */
};

static inline av_gpu *av_gpu_of(const av_backend *be) { return (av_gpu *)be->state; }

static inline float *floats(void *array) { return (float *)array; }
static inline const float *const_floats(const void *array) { return (const float *)array; }
static inline double *doubles(void *array) { return (double *)array; }
static inline const double *const_doubles(const void *array) { return (const double *)array; }

/* Ends the run, on every rank, unless `status` is AV_OK: for operations, which return nothing
 * (comm.c). */
void av_gpu_must(const av_backend *be, av_status status);
/* Checks a call's cudaError_t, and ends the run. */
#define AV_GPU_MUST(be, call) av_gpu_must((be), AV_CUDA(call))
/* The same for what operations queue: nothing where it is played from a graph. */
#define AV_GPU_RUN(be, call)                   \
  do {                                         \
    if (av_gpu_of(be)->mode != AV_GPU_PLAYS) { \
      AV_GPU_MUST(be, call);                   \
      av_gpu_ran(be);                          \
    }                                          \
  } while (0)

/* An operation has queued work: waits where the host is too far ahead. */
void av_gpu_ran(av_backend *be);
av_status av_gpu_ahead_open(av_gpu *gpu);
void av_gpu_ahead_close(av_gpu *gpu);

/* The step's values on the device, once be's `step` has been set: sends them if they have changed,
 * which they must not within a pass that is kept. */
const av_gpu_step *av_gpu_send_step(av_backend *be);

/* This step's numbers of the optimiser, from double as late as possible: kept on the device, so
 * that the optimiser's pass is the same in every step. */
void av_gpu_adam_rates(const av_adam *adam, av_gpu_step *step);

/* Device scratch of at least `bytes`, until the next call; ends the run without memory. */
void *av_gpu_work(av_backend *be, size_t bytes);

/* The operations, in files that are named after them. */
AV_DECLARE_OPERATIONS(av_gpu_)

/* Of selecting, what goes to the device: at once, or after the pass that is open. */
void av_gpu_batch_send(av_backend *be, av_batch *batch);
void av_gpu_pass_begin(av_backend *be, const av_batch *batch, av_pass_kind kind,
                       const av_pass_values *values);
void av_gpu_pass_end(av_backend *be);
void av_gpu_add(av_backend *be, int64_t n, av_sum *sums, const av_sum *more);
av_status av_gpu_read_begin(av_backend *be, av_kind kind, const void *array, int64_t n);
av_status av_gpu_read_end(av_backend *be, av_kind kind, int64_t n, double *values);

#endif
