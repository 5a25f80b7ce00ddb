#include "trial.h"

#include "base/log.h"
#include "base/memory.h"
#include "comm.h"
#include "config/config.h"
#include "state.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { UNTIMED = 3, TIMED = 16, LATER = 2 * AV_GPU_ROW_BUFFERS };

typedef struct step_time {
  cudaEvent_t start, stop;
} step_time;

struct av_gpu_trial {
  int ways[AV_GPU_DECODE_WAYS];
  int n;           /* of them; 0: not known before the first decoder */
  int64_t n_cells; /* of a full minibatch, as far as there was one */
  int64_t step;    /* with so many, from 0 */
  int taken;       /* outside of the trial's steps, and after them */
  step_time *time; /* of the pass that is under way; NULL: it is not timed */
  step_time times[AV_GPU_DECODE_WAYS][TIMED];
};

/* --- life ------------------------------------------------------------------------------------- */

int av_gpu_trial_untried(const av_backend *be) {
  return be->gpu_rows == AV_GPU_ROWS_ALWAYS ? AV_GPU_DECODE_WIDE : AV_GPU_DECODE_NO_ROWS;
}

av_status av_gpu_trial_create(const av_backend *be, av_gpu_trial **trial) {
  *trial = NULL;
  if (be->gpu_rows != AV_GPU_ROWS_MEASURED || be->same_bits) {
    return AV_OK;
  }
  *trial = av_calloc(1, sizeof **trial);
  AV_TRY_ALLOC(*trial);
  (*trial)->taken = av_gpu_trial_untried(be);
  return AV_OK;
}

static void make_events(const av_backend *be, av_gpu_trial *trial) {
  for (int e = 0; e < trial->n * TIMED; ++e) {
    step_time *time = &trial->times[e / TIMED][e % TIMED];
    AV_GPU_MUST(be, cudaEventCreate(&time->start));
    AV_GPU_MUST(be, cudaEventCreate(&time->stop));
  }
}

static void free_events(av_gpu_trial *trial) {
  for (int e = 0; e < AV_GPU_DECODE_WAYS * TIMED; ++e) {
    step_time *time = &trial->times[e / TIMED][e % TIMED];
    if (time->start != NULL) {
      (void)cudaEventDestroy(time->start);
    }
    if (time->stop != NULL) {
      (void)cudaEventDestroy(time->stop);
    }
    *time = (step_time){NULL, NULL};
  }
}

void av_gpu_trial_free(av_gpu_trial *trial) {
  if (trial != NULL) {
    free_events(trial);
  }
  free(trial);
}

/* --- the end ---------------------------------------------------------------------------------- */

int av_gpu_trial_best(const int64_t *medians, int n) {
  int best = 0;
  for (int w = 1; w < n; ++w) {
    const double least = best == 0 ? 0.99 * (double)medians[0] : (double)medians[best];
    best = (double)medians[w] < least ? w : best;
  }
  return best;
}

static int by_time(const void *a, const void *b) {
  const float x = *(const float *)a;
  const float y = *(const float *)b;
  return x < y ? -1 : x > y ? 1 : 0;
}

/* Nanoseconds. */
static av_status median_of(av_backend *be, const step_time *times, int64_t *median) {
  float ms[TIMED];
  for (int s = 0; s < TIMED; ++s) {
    AV_TRY(av_gpu_wait_event(be, times[s].stop, "the first steps' times")); /* they are there */
    AV_TRY(AV_CUDA(cudaEventElapsedTime(&ms[s], times[s].start, times[s].stop)));
  }
  qsort(ms, TIMED, sizeof *ms, by_time);
  *median = (int64_t)llrint(1e6 * 0.5 * ((double)ms[TIMED / 2 - 1] + (double)ms[TIMED / 2]));
  return AV_OK;
}

static void log_ways(const av_gpu_trial *trial, const int64_t *medians, int best) {
  static const char *const names[AV_GPU_DECODE_WAYS] = {"no rows", "rows for one-hot columns",
                                                        "rows"};
  for (int w = 0; w < trial->n; ++w) {
    av_log_event("decoder_way", "way", "s", names[trial->ways[w]], "step_ms", "d",
                 1e-6 * (double)medians[w], "taken", "b", (int)(w == best), NULL);
  }
}

static av_status end_trial(av_backend *be, av_gpu_trial *trial) {
  av_comm quiet = *be->comm; /* this is no part of training */
  quiet.traffic = NULL;
  int64_t medians[AV_GPU_DECODE_WAYS] = {0};
  for (int w = 0; w < trial->n; ++w) {
    AV_TRY(median_of(be, trial->times[w], &medians[w]));
  }
  AV_TRY(av_max_i64(&quiet, medians, trial->n));
  const int best = av_gpu_trial_best(medians, trial->n);
  trial->taken = trial->ways[best];
  log_ways(trial, medians, best);
  free_events(trial);
  return AV_OK;
}

/* --- passes ----------------------------------------------------------------------------------- */

/* A step with n_cells cells. */
static void next_step(av_backend *be, av_gpu_trial *trial, int64_t n_cells) {
  const int64_t last = trial->n * (UNTIMED + TIMED) + LATER;
  if (trial->n > 0 && trial->step >= last) { /* it is over, whatever comes */
    return;
  }
  if (n_cells > trial->n_cells) { /* the first of all, as a rule */
    trial->n_cells = n_cells;
    trial->step = -1;
  }
  if (n_cells < trial->n_cells || ++trial->step == 0 || trial->n < 2) {
    return; /* nothing to compare with, or to choose from */
  }
  const int64_t round = trial->step / trial->n;
  if (round < UNTIMED + TIMED) {
    const int w = (int)(trial->step % trial->n);
    av_gpu_of(be)->way = trial->ways[w];
    trial->time = round < UNTIMED ? NULL : &trial->times[w][round - UNTIMED];
  } else if (trial->step == last) {
    av_gpu_must(be, end_trial(be, trial));
    av_gpu_of(be)->way = trial->taken;
  }
}

void av_gpu_trial_pass(av_backend *be, const av_batch *batch, av_pass_kind kind, int64_t n_cells) {
  av_gpu *gpu = av_gpu_of(be);
  gpu->trial = kind == AV_PASS_STEP ? batch->trial : NULL;
  if (gpu->trial != NULL) {
    gpu->trial->time = NULL;
    gpu->way = gpu->trial->taken;
    next_step(be, gpu->trial, n_cells);
  }
}

void av_gpu_trial_start(av_backend *be) {
  av_gpu *gpu = av_gpu_of(be);
  if (gpu->trial != NULL && gpu->trial->time != NULL) {
    AV_GPU_MUST(be, cudaEventRecord(gpu->trial->time->start, gpu->stream));
  }
}

void av_gpu_trial_stop(av_backend *be) {
  av_gpu *gpu = av_gpu_of(be);
  if (gpu->trial != NULL && gpu->trial->time != NULL) {
    AV_GPU_MUST(be, cudaEventRecord(gpu->trial->time->stop, gpu->stream));
    gpu->trial->time = NULL;
  }
}

void av_gpu_trial_leave(av_backend *be) {
  av_gpu *gpu = av_gpu_of(be);
  av_gpu_trial_stop(be);
  if (gpu->trial != NULL) {
    gpu->way = gpu->trial->taken;
    gpu->trial = NULL;
  }
}

int av_gpu_trial_way(av_backend *be, const av_gpu_decode_sizes *of, bool gradients) {
  av_gpu *gpu = av_gpu_of(be);
  int ways[AV_GPU_DECODE_WAYS] = {0};
  const int n = av_gpu_decode_ways(of, ways);
  if (gpu->trial != NULL && gradients && gpu->trial->n == 0) {
    memcpy(gpu->trial->ways, ways, sizeof ways);
    gpu->trial->n = n;
    if (n > 1) {
      make_events(be, gpu->trial);
    }
  }
  for (int w = 0; w < n; ++w) {
    if (ways[w] == gpu->way) {
      return gpu->way;
    }
  }
  return ways[0];
}
