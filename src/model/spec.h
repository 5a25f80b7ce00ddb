/* What defines a model: its sizes and choices, nothing of its values. */
#ifndef AV_MODEL_SPEC_H
#define AV_MODEL_SPEC_H

#include "config/config.h"
#include "data/dataset.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct av_model_spec {
  bool linear;         /* LDVAE; else scVI */
  int likelihood;      /* AV_LIKELIHOOD_* */
  int dispersion;      /* AV_DISPERSION_* */
  bool latent_library; /* l from its own encoder; else observed */
  bool log1p;          /* the encoder sees log(1 + count) */
  int64_t n_genes;     /* G */
  int64_t n_hidden;    /* H */
  int64_t n_latent;    /* K */
  int64_t n_layers;
  int64_t n_batches; /* S >= 1 */
  double dropout;
} av_model_spec;

/* From resolved settings and the data's sizes. */
av_model_spec av_model_spec_from(const av_config *config, int64_t n_genes, int64_t n_batches);

/* Width of the decoder's one-hot part: S, or 0 with one batch. */
static inline int64_t av_spec_onehot(const av_model_spec *spec) {
  return spec->n_batches > 1 ? spec->n_batches : 0;
}
static inline int64_t av_spec_dispersions(const av_model_spec *spec) {
  return spec->dispersion == AV_DISPERSION_GENE_BATCH ? spec->n_batches : 1;
}
static inline bool av_spec_inflated(const av_model_spec *spec) {
  return spec->likelihood == AV_LIKELIHOOD_ZINB;
}

#endif
