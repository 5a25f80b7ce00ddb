/* The memory of models, and of GPUs: what `check` plans and a run then does. */
#ifndef AV_RUN_GPU_PLAN_H
#define AV_RUN_GPU_PLAN_H

#include "backend/backend.h"
#include "config/config.h"
#include "model/layout.h"

#include <stdio.h>

/* Bytes on a backend of parameters with gradients and moments, and of activations of `rows` cells;
 * of a number, and of a gradient, so many. */
int64_t av_model_bytes(const av_layout *layout, const av_design *design, int64_t rows, int64_t real,
                       int64_t grad);
/* The most that one operation on a GPU needs beside them; and all of it there, with this and with
 * results on their way to the host. */
int64_t av_model_gpu_scratch(const av_layout *layout, const av_design *design, int64_t rows);
int64_t av_model_gpu_bytes(const av_layout *layout, const av_design *design, int64_t rows);

/* runtime.gpu_memory in bytes; 0: not given. */
int64_t av_gpu_limit(const av_config *config);

/* What a rank with this slab, whose values and row lengths need not be known, puts on its GPU at
 * most, in batches of up to max_rows rows. */
av_gpu_need av_gpu_plan(const av_gpu_slab *slab, const av_layout *layout, const av_design *design,
                        int64_t max_rows);

/* Prints the plan of each GPU, a rank on each: which size holds it, and for `limit` (bytes; 0: not
 * given) whether the counts are resident or streamed there. */
void av_gpu_plan_print(const av_gpu_need *need, int64_t limit, FILE *out);

/* Which it has become, when the data are loaded, of the ranks with most: one log event
 * "gpu_memory", and a line for people in *text, the caller's, on rank 0. AV_NOMEM. Collective. */
av_status av_gpu_plan_report(const av_comm *comm, const av_gpu_use *use, char **text);

#endif
