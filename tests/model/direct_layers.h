/* Layers of the direct form of the model (direct.h): matrices are (B, width), new ones are the
 * caller's to free. What the model lacks and a layer needs ends the test. Internal to direct*.c.
 */
#ifndef AV_TESTS_MODEL_DIRECT_LAYERS_H
#define AV_TESTS_MODEL_DIRECT_LAYERS_H

#include "model/direct.h"

/* The pass at work. */
typedef struct direct_work {
  const direct_input *in;
  double *running;
  bool training; /* of the part at work: encoder or decoder */
} direct_work;

double *direct_zeros(int64_t n);

/* Tensor "prefix.name". */
double *direct_weights(const direct_work *w, const char *prefix, const char *name, int64_t *rows,
                       int64_t *columns);

/* x W^T + b of the Linear called `prefix`; `bias` false where scvi-tools has none. */
double *direct_linear(const direct_work *w, const char *prefix, bool bias, const double *x,
                      int64_t n_in, int64_t *n_out);

/* torch.nn.BatchNorm1d(eps=1e-3, momentum=0.01) in place. */
void direct_batch_norm(direct_work *w, const char *prefix, double *x, int64_t width);

/* [x, one-hot(batch), one-hot of each categorical covariate]; x is freed. */
double *direct_with_onehot(const direct_work *w, double *x, int64_t *width);
/* [x, continuous covariates]; x is kept. */
double *direct_with_continuous(const direct_work *w, const double *x, int64_t *width);

typedef struct direct_stack {
  const char *prefix; /* scvi-tools' FCLayers */
  int64_t n_layers;
  bool covariates; /* continuous into the first layer, one-hot into it and, if deep, the others */
  bool batch_norm, layer_norm, dropout;
  int64_t first_unit; /* of the first layer's dropout draws */
} direct_stack;

/* FCLayers: Linear, BatchNorm, LayerNorm, ReLU, dropout, as often as there are layers. */
double *direct_fully_connected(direct_work *w, const direct_stack *s, const double *input,
                               int64_t *width);

#endif
