/* The model once more, written straight from its formulas (model.md sections 1 to 3) and
 * scvi-tools' tensors: dense (B, G) arrays in double, BatchNorm in two passes over them, lgamma
 * itself, no operation of a backend, no folding. Only the random counters are shared. What the
 * program computes is held against it.
 */
#ifndef AV_TESTS_MODEL_DIRECT_H
#define AV_TESTS_MODEL_DIRECT_H

#include "backend/backend.h"
#include "model/layout.h"

typedef struct direct_input {
  const av_layout *layout; /* where scvi-tools' tensors lie */
  const double *params, *running;
  const double *prior;       /* (S, 2) */
  const av_dataset *dataset; /* all cells on one process */
  int64_t n;                 /* B */
  const int64_t *cells;      /* (B) */
  bool training;             /* minibatch moments and dropout; else running statistics */
  bool frozen;               /* training of the decoder alone: encoders as in evaluation */
  bool population;           /* BatchNorm by mean and unbiased variance of these cells, which become
                                the running statistics; no dropout */
  bool sample;               /* draw z and l; else their means */
  av_draw draw;
} direct_input;

typedef struct direct_output {
  double nll, kl_z, kl_l;      /* sums over the cells */
  double *running;             /* (n_running) after the pass */
  double *z_mean, *z_variance; /* (B, K) of q(z) */
  double *rho, *mu;            /* (B, G) */
} direct_output;

/* Memory is the caller's, by direct_free. */
direct_output direct_pass(const direct_input *in);
void direct_free(direct_output *out);

/* A tensor in scvi-tools' shape and order, NULL if the model has none of that name. Free with
 * free(). */
double *direct_tensor(const av_layout *layout, const double *params, const double *running,
                      const char *name, int64_t *rows, int64_t *columns);

#endif
