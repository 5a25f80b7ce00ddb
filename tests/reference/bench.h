/* A configuration of the golden values on a backend. Every function ends the test when it fails. */
#ifndef AV_TESTS_REFERENCE_BENCH_H
#define AV_TESTS_REFERENCE_BENCH_H

#include "model/rig.h"
#include "reference/golden.h"

typedef struct bench {
  const char *name;
  const cJSON *file, *golden; /* all; this configuration */
  av_model_spec spec;
  av_backend be;
  av_dataset dataset;
  av_data *data;
  av_batch *batch;
  av_vae *vae;
  const av_layout *layout;
  int64_t n, mine;                      /* cells of the minibatch: all, this rank's */
  int64_t *position;                    /* (mine) place in the minibatch */
  int64_t *row;                         /* (mine) local row */
  double *params, *running;             /* working copies */
  double *start_params, *start_running; /* scvi-tools' starting values */
} bench;

/* The model with scvi-tools' starting values, the batch pointing at this rank's part of the
 * minibatch. `file` and `name` are borrowed. Collective. */
void bench_open(bench *b, const cJSON *file, const char *name, const rig_kind *kind,
                const av_comm *comm);
void bench_close(bench *b);

/* Mean and variance of log library in each batch (n_batches, 2) as scvi-tools registers them;
 * free(). */
double *bench_prior(const cJSON *file, int64_t n_batches);
/* n zeros; free(). */
double *bench_zeros(int64_t n);

#endif
