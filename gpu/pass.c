#include "pass.h"

#include "base/memory.h"
#include "state.h"
#include "trial.h"

#include <stdlib.h>

struct av_gpu_graph {
  bool met; /* a pass was queued kernel by kernel: all that grows has grown */
  cudaGraphExec_t ready;
};

enum { GRAPHS = AV_GPU_DECODE_WAYS * AV_PASSES };

/* --- graphs of a batch ---------------------------------------------------------------------- */

av_status av_gpu_graphs_create(struct av_gpu_graph **graphs) {
  *graphs = av_calloc(GRAPHS, sizeof **graphs);
  AV_TRY_ALLOC(*graphs);
  return AV_OK;
}

void av_gpu_graphs_free(struct av_gpu_graph *graphs) {
  for (int k = 0; graphs != NULL && k < GRAPHS; ++k) {
    if (graphs[k].ready != NULL) {
      (void)cudaGraphExecDestroy(graphs[k].ready);
    }
  }
  free(graphs);
}

/* --- passes --------------------------------------------------------------------------------- */

/* All that operations of the pass will ask for. */
static void send_values(av_backend *be, const av_pass_values *values) {
  av_gpu_step *step = &av_gpu_of(be)->step;
  step->n_cells = values->n_cells;
  step->epoch = values->epoch;
  step->kl_weight = (float)values->kl_weight;
  if (values->adam != NULL) {
    av_gpu_adam_rates(values->adam, step);
  }
  (void)av_gpu_send_step(be);
}

void av_gpu_pass_begin(av_backend *be, const av_batch *batch, av_pass_kind kind,
                       const av_pass_values *values) {
  av_gpu *gpu = av_gpu_of(be);
  av_gpu_trial_pass(be, batch, kind, values->n_cells);
  struct av_gpu_graph *graph = &batch->graphs[gpu->way * AV_PASSES + (int)kind];
  av_gpu_trial_start(be);
  send_values(be, values);
  gpu->in_pass = true;
  if (!be->keeps_passes || (be->comm->size > 1 && be->sums_by_mpi)) {
    return;
  }
  if (graph->ready != NULL) { /* now: the host selects the next minibatch meanwhile */
    AV_GPU_MUST(be, cudaGraphLaunch(graph->ready, gpu->stream));
    av_gpu_trial_stop(be);
    gpu->mode = AV_GPU_PLAYS;
    gpu->in_pass = false;
  } else if (graph->met) {
    /* relaxed: the next minibatch is selected meanwhile, which asks for an event outside the graph
     */
    AV_GPU_MUST(be, cudaStreamBeginCapture(gpu->stream, cudaStreamCaptureModeRelaxed));
    gpu->mode = AV_GPU_RECORDS;
    gpu->graph = graph;
  }
  graph->met = true;
}

static void finish_recording(av_backend *be) {
  av_gpu *gpu = av_gpu_of(be);
  cudaGraph_t recorded = NULL;
  AV_GPU_MUST(be, cudaStreamEndCapture(gpu->stream, &recorded));
  AV_GPU_MUST(be, cudaGraphInstantiate(&gpu->graph->ready, recorded, 0));
  AV_GPU_MUST(be, cudaGraphDestroy(recorded));
  gpu->recorded = true;
}

void av_gpu_pass_end(av_backend *be) {
  av_gpu *gpu = av_gpu_of(be);
  if (gpu->mode == AV_GPU_RECORDS) {
    finish_recording(be);
    AV_GPU_MUST(be, cudaGraphLaunch(gpu->graph->ready, gpu->stream));
  }
  av_gpu_trial_leave(be);
  gpu->mode = AV_GPU_QUEUES;
  gpu->graph = NULL;
  gpu->in_pass = false;
  if (gpu->selected != NULL) {
    av_gpu_batch_send(be, gpu->selected);
    gpu->selected = NULL;
  }
}
