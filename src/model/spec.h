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
  bool simplex;        /* latent_distribution = ln: the decoder sees softmax(z) */
  bool latent_library; /* l from its own encoder; else the observed total or the size factor */
  bool size_factor;    /* the decoder ends in a softplus */
  bool log1p;          /* the encoder sees log(1 + count) */
  bool encode_covariates;
  bool deep_covariates; /* hidden layers after the first see the one-hot block */
  bool encoder_batch_norm, decoder_batch_norm;
  bool encoder_layer_norm, decoder_layer_norm; /* decoder: scVI only */
  bool bias;                                   /* of the linear decoder */
  int64_t n_genes;                             /* G */
  int64_t n_hidden;                            /* H */
  int64_t n_latent;                            /* K */
  int64_t n_layers;
  int64_t n_batches;    /* S >= 1: of the library prior and of gene-batch dispersion */
  int64_t n_labels;     /* of gene-label dispersion; 0 otherwise */
  int64_t n_onehot;     /* O: columns of the design's one-hot block */
  int64_t n_continuous; /* C */
  double dropout;
} av_model_spec;

/* From resolved settings and the data's sizes. */
av_model_spec av_model_spec_from(const av_config *config, const av_dataset *dataset);

/* Width of the decoder's dense input: z and the continuous covariates. */
static inline int64_t av_spec_decoder_input(const av_model_spec *spec) {
  return spec->n_latent + spec->n_continuous;
}
/* Rows of px_r; 0 when it is an output of the decoder. */
static inline int64_t av_spec_dispersions(const av_model_spec *spec) {
  switch (spec->dispersion) {
    case AV_DISPERSION_GENE_BATCH:
      return spec->n_batches;
    case AV_DISPERSION_GENE_LABEL:
      return spec->n_labels;
    case AV_DISPERSION_GENE_CELL:
      return 0;
    default:
      return 1;
  }
}
static inline bool av_spec_inflated(const av_model_spec *spec) {
  return spec->likelihood == AV_LIKELIHOOD_ZINB;
}
/* px_r comes from a head of the decoder. */
static inline bool av_spec_cell_dispersion(const av_model_spec *spec) {
  return spec->dispersion == AV_DISPERSION_GENE_CELL && spec->likelihood != AV_LIKELIHOOD_POISSON;
}

#endif
