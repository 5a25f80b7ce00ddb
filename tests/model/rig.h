/* A model on a backend over the toy data, with values that none of its formulas leaves out. */
#ifndef AV_TESTS_MODEL_RIG_H
#define AV_TESTS_MODEL_RIG_H

#include "backend/backend.h"
#include "data/dataset.h"
#include "model/vae.h"
#include "train/split.h"

enum { RIG_BATCHES = 8 }; /* at most */

typedef struct rig {
  const av_comm *comm;
  av_backend be;
  av_dataset dataset;
  av_split split;
  av_data *data;
  av_batch *batch;
  av_vae *vae;
  const av_layout *layout; /* of vae */
  double prior[2 * RIG_BATCHES];
  double *params, *running; /* as set; scattered starting values */
  int64_t *rows;            /* of the last rig_select */
} rig;

/* Which arithmetic: reference, cpu or strict (cpu with order-free sums). */
typedef struct rig_kind {
  const av_backend_ops *ops;
  bool strict;
  double tolerance; /* relative error allowed */
} rig_kind;
rig_kind rig_kind_of(const char *name);

/* spec.n_genes and n_batches say how large; n_cells in all. Ends the test if anything fails. Collective. */
void rig_open(rig *r, const rig_kind *kind, const av_comm *comm, av_model_spec spec,
              int64_t n_cells);
void rig_close(rig *r);

/* Points the batch at those of the n cells (global numbers) that are this rank's; returns their number. */
int64_t rig_select(rig *r, int64_t n, const int64_t *cells);

/* Random weights, and other values than 1 and 0 for BatchNorm and its running statistics. */
void rig_scatter(const av_layout *layout, uint64_t seed, double *params, double *running);

/* A small specification. */
av_model_spec rig_spec(bool linear, int likelihood, int dispersion, bool latent_library,
                       int64_t n_layers, int64_t n_batches);

#endif
