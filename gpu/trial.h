/* Which way a decoder goes that may or may not write rows of its gradients (backend/gpu_decode.h):
 * measured, not guessed. What is faster depends on the sizes of the model and the minibatch, on the
 * device and on what else a step does; so the first training steps of a batch go each way in turn,
 * and their time on the device, of whole steps, decides:
 *
 *   3 steps a way      kernel by kernel, recorded as a graph, played for the first time
 *   16 steps a way     between two events
 *   16 steps           without rows, while the events arrive: nobody waits
 *   the others         a way with rows if its median is less than that of the one without by a
 *                      hundredth; of several, the fastest
 *
 * Full minibatches only: others take less time, and go without rows until that is decided. All of
 * these steps train. The ranks take the slowest rank's medians, and go the same way. Until then, in
 * runs that do not train so long, and where nothing is measured (be->gpu_rows, or be->same_bits, as
 * time varies from run to run), it is the first of av_gpu_decode_ways; with AV_GPU_ROWS_ALWAYS the
 * last. Ways differ in the last bits of their sums.
 *
 * The log has an event "decoder_way" for each way that was timed. */
#ifndef AV_GPU_TRIAL_H
#define AV_GPU_TRIAL_H

#include "backend/backend.h"
#include "backend/gpu_decode.h"

typedef struct av_gpu_trial av_gpu_trial; /* of a batch, whose steps it times; goes with it */

/* The way where nothing was measured. */
int av_gpu_trial_untried(const av_backend *be);
/* Of a batch, still to begin; NULL where nothing is to be measured. */
av_status av_gpu_trial_create(const av_backend *be, av_gpu_trial **trial);
void av_gpu_trial_free(av_gpu_trial *trial);

/* A pass of this kind over `batch` begins: sets av_gpu.way, and in a trial's step av_gpu.trial.
 * Collective when a trial ends, which is at the same pass of all ranks. Ends the run if it fails,
 * as the others do. n_cells: of the minibatch, of all ranks. */
void av_gpu_trial_pass(av_backend *be, const av_batch *batch, av_pass_kind kind, int64_t n_cells);
/* Before and after all that the stream gets for the pass. */
void av_gpu_trial_start(av_backend *be);
void av_gpu_trial_stop(av_backend *be);
/* The pass has ended: av_gpu.way is again the one that is taken. */
void av_gpu_trial_leave(av_backend *be);

/* Way of a decoder of these sizes, in a pass or outside: av_gpu.way, if it has that one. With
 * `gradients`, in a trial's first step, its ways are those to be tried. */
int av_gpu_trial_way(av_backend *be, const av_gpu_decode_sizes *of, bool gradients);

/* Which of n ways is taken for these medians, ns; the first is the one without rows. */
int av_gpu_trial_best(const int64_t *medians, int n);

#endif
