/* A model on a backend over the toy data, with values that none of its formulas leaves out. */
#ifndef AV_TESTS_MODEL_RIG_H
#define AV_TESTS_MODEL_RIG_H

#include "backend/backend.h"
#include "data/dataset.h"
#include "model/toy.h"
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
  av_sums sums;                              /* what the model is told of them; cpu, reference */
  bool keeps_passes, same_bits, sums_by_mpi; /* cuda */
  int gpu_rows;                              /* cuda */
  double tolerance;                          /* relative error allowed */
} rig_kind;
rig_kind rig_kind_of(const char *name);

/* spec.n_genes and n_batches say how large; n_cells in all. Ends the test if anything fails.
 * Collective. */
void rig_open(rig *r, const rig_kind *kind, const av_comm *comm, av_model_spec spec,
              int64_t n_cells);
/* The same over data that has covariates, labels or size factors as well. */
void rig_open_with(rig *r, const rig_kind *kind, const av_comm *comm, av_model_spec spec,
                   const toy_extras *extras, int64_t n_cells);
void rig_close(rig *r);

/* Points the batch at those of the n cells (global numbers) that are this rank's; returns their
 * number. */
int64_t rig_select(rig *r, int64_t n, const int64_t *cells);

/* Random weights, and other values than 1 and 0 for BatchNorm and its running statistics. */
void rig_scatter(const av_layout *layout, uint64_t seed, double *params, double *running);

/* A small specification, for data without covariates or labels. */
av_model_spec rig_spec(bool linear, int likelihood, int dispersion, bool latent_library,
                       int64_t n_layers, int64_t n_batches);

/* One of the models that tests go through: what differs from ZINB, dispersion by gene, latent
 * library, one layer, one batch. */
typedef struct rig_case {
  const char *name;
  bool linear_only, dense_only;
  int likelihood, dispersion;
  bool observed; /* library */
  bool ln, raw_counts, encode, shallow, bias;
  bool plain_encoder, plain_decoder; /* no BatchNorm; a linear decoder's encoders keep it */
  bool layer_norm_encoder, layer_norm_decoder; /* decoder: scVI's */
  int64_t n_layers, n_batches;                 /* 0: 1 */
  toy_extras extras;
} rig_case;

/* Every option in both decoders, where both have it. */
const rig_case *rig_cases(int64_t *n);
bool rig_case_has(const rig_case *c, bool linear);
av_model_spec rig_case_spec(const rig_case *c, bool linear);
/* The specification with the sizes of data with these extras. */
av_model_spec rig_spec_with(av_model_spec spec, const toy_extras *extras);

#endif
