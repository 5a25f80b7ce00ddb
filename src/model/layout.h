/* Where each parameter lies in the flat buffers, and under which name scvi-tools knows it.
 *
 * All trainable values are one buffer (params, with gradients and Adam's moments of the same
 * layout); BatchNorm's running statistics are another. Weights are input-major (in, out). The first
 * layers of the z and l encoders are fused: one (G, 2H) weight, columns [z | l]; so are mean and
 * variance heads. The tensor list describes the same values as scvi-tools sees them, for starting
 * values and for saving and loading.
 */
#ifndef AV_MODEL_LAYOUT_H
#define AV_MODEL_LAYOUT_H

#include "model/spec.h"

/* Linear -> BatchNorm -> ReLU: offsets into params and running. The first encoder layer's n_in are
 * the genes; n_continuous and n_onehot follow there with encode_covariates. */
typedef struct av_layer {
  int64_t n_in, n_continuous, n_onehot, n_out;
  int64_t w, b;        /* (n_in + n_continuous + n_onehot, n_out), (n_out) */
  int64_t gamma, beta; /* (n_out); -1 without BatchNorm */
  int64_t running;     /* (2, n_out) in the running buffer; -1 without BatchNorm */
} av_layer;

/* A dense head to genes, or a linear decoder's Linear + BatchNorm: offsets, -1 for what it lacks.
 */
typedef struct av_gene_head {
  int64_t n_in, n_onehot;
  int64_t w;           /* (n_in + n_onehot, G); -1: the model has no such head */
  int64_t b;           /* (G) */
  int64_t gamma, beta; /* (G), linear decoder with BatchNorm */
  int64_t running;     /* (2, G), likewise */
} av_gene_head;

typedef enum av_tensor_role {
  AV_ROLE_UNIFORM, /* +-1/sqrt(fan_in) */
  AV_ROLE_ONE,
  AV_ROLE_ZERO,
  AV_ROLE_NORMAL /* N(0, 1) */
} av_tensor_role;

/* One of scvi-tools' tensors as a block of ours: element (i, j) at `at + i * stride + j`. */
typedef struct av_tensor {
  char name[96];   /* scvi-tools' name */
  bool in_running; /* in the running buffer; else in params */
  int64_t at, rows, columns, stride;
  bool transposed; /* scvi-tools' shape is (columns, rows) */
  int n_dims;      /* there: 1 (rows = 1) or 2 */
  av_tensor_role role;
  int64_t fan_in;
} av_tensor;

typedef struct av_layout {
  av_model_spec spec;
  av_layer first;         /* (genes and covariates, H or 2H) */
  av_layer *encoder;      /* (n_layers - 1) further layers of the z encoder */
  int64_t z_w, z_b;       /* (H, 2K), (2K) */
  int64_t l_w, l_b;       /* (H, 2), (2); -1 without a latent library */
  int64_t decoder_begin;  /* params from here on are the decoder's */
  av_layer *decoder;      /* (n_layers) scVI; none when linear */
  av_gene_head scale;     /* rho */
  av_gene_head dropout;   /* zero-inflation logits: ZINB */
  av_gene_head px_r_head; /* px_r of each cell: gene-cell dispersion */
  int64_t px_r;           /* (dispersions, G); -1 with gene-cell */
  int64_t n_params, n_running;
  int64_t n_trained; /* parameters proper, without alignment gaps */
  int64_t n_tensors;
  av_tensor *tensors;
} av_layout;

av_status av_layout_create(av_layout *layout, const av_model_spec *spec);
void av_layout_free(av_layout *layout);

#endif
