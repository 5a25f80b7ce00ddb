/* A configuration of the golden values on a backend. Every function ends the test when it fails. */
#ifndef AV_TESTS_REFERENCE_BENCH_H
#define AV_TESTS_REFERENCE_BENCH_H

#include "model/rig.h"
#include "reference/golden.h"

typedef struct bench {
  const char *name;
  const cJSON *file, *golden; /* all; this configuration */
  double tolerance;           /* relative to a tensor's largest value */
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
                const av_comm *comm, double tolerance);
void bench_close(bench *b);
/* Points the batch at this rank's part of the minibatch again. */
void bench_select(bench *b);

/* Mean and variance of log library in each batch (n_batches, 2) as scvi-tools registers them;
 * free(). */
double *bench_prior(const cJSON *file, int64_t n_batches);
/* n zeros; free(). */
double *bench_zeros(int64_t n);
/* A backend's array on the host; free(). */
double *bench_read(const bench *b, const av_real *array, int64_t n);

double bench_largest(int64_t n, const double *values);
/* |found - wanted| <= allowed for all n, or the test ends and says where not. */
void bench_within(const bench *b, int64_t n, const double *found, const double *wanted,
                  double allowed, const char *what, const char *name);
/* This rank's rows (mine, width) against those of a recorded table ("intermediates", "outputs"),
 * to the larger of `tolerance` and b's. */
void bench_rows(const bench *b, const char *table, const char *name, int64_t width,
                const double *found, double tolerance);

/* What the decoder's heads see, after a pass through the decoder's hidden layers. */
const av_real *bench_decoder_input(const bench *b);
/* [x, one-hot] w + c of a head (mine, G) with what the backend decodes with; free(). */
double *bench_head(const bench *b, const struct av_decode *decode, const struct av_head *head);

#endif
