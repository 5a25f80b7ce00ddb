/* The inside of the model, shared by its files: arrays, one pass's facts, encoder and decoder.
 *
 * Names: pre is a layer's linear output, act the same after BatchNorm, ReLU and dropout; gradients
 * are d + name. Internal to src/model.
 */
#ifndef AV_MODEL_VAE_PARTS_H
#define AV_MODEL_VAE_PARTS_H

#include "model/vae.h"

/* A hidden layer's arrays. */
typedef struct av_hidden {
  av_real *pre, *act;     /* (max_rows, n_out) */
  av_sum *moments, *back; /* (2, n_out) */
} av_hidden;

/* A linear decoder head folded with its BatchNorm; D = decoder input + one-hot. */
typedef struct av_folded {
  av_real *a, *c, *inv_sigma; /* (D, G), (G), (G) */
  av_grad *p, *s;             /* (D, G), and behind it (G) */
  av_sum *back;               /* (n_in + n_in D), in fold_back of the model */
} av_folded;

/* Parameters [first, first + n), whose gradients are summed over the ranks in one go. */
typedef struct av_part {
  int64_t first, n;
} av_part;

struct av_vae {
  av_backend *be;
  av_layout layout;
  const av_design *design; /* borrowed */
  int64_t max_rows;
  bool frozen_encoder;
  av_real *params, *m, *v, *running;
  av_grad *grads;
  av_part *part; /* those trained, in the order in which their gradients are complete */
  int n_parts;
  int n_early;        /* of them complete before the encoder's backward pass */
  int n_begun;        /* of them under way to the other ranks */
  int64_t least_part; /* av_vae_set_least_part */
  bool first_updated; /* this step's update has reached the first layer's weights already */
  bool in_step;       /* a pass of the backend is open, which the update ends */
  av_sum *prior;      /* (S, 2) */
  av_sum *losses;     /* (AV_LOSSES) */
  av_hidden first;
  av_hidden *encoder;                  /* (n_layers - 1) */
  av_hidden *decoder;                  /* (n_layers), scVI */
  av_folded scale, dropout, px_r_head; /* linear with BatchNorm */
  av_sum *fold_stats;
  int64_t n_fold_stats;
  av_sum *fold_back; /* (n_fold_back) of all folded heads, side by side */
  int64_t n_fold_back;
  av_real *z_head, *dz_head; /* (max_rows, 2K) */
  av_sum *codes;             /* (max_rows, K) with a simplex; else NULL */
  av_real *l_head, *dl_head; /* (max_rows, 2) */
  av_real *z, *dz;           /* (max_rows, K + C): the decoder's dense input */
  av_real *l, *dl;           /* (max_rows) */
  av_real *dfirst;           /* (max_rows, width of the first layer) */
  av_real *dhidden[2];       /* (max_rows, H) */
  av_sum *norm_sums;         /* of the layer whose statistics are being made; NULL otherwise */
  int64_t norm_cells;
};

/* What one pass over a minibatch is about. */
typedef struct av_pass {
  const av_batch *batch;
  int64_t n_cells; /* of the global minibatch (training) */
  bool training;
  av_draw draw;
  double kl_weight;
  const av_adam *adam; /* the first layer's weights may be updated with it at once; NULL: not */
  int n_early;         /* parts of the gradient that are to be begun before the first layer's */
} av_pass;

/* Parts of the gradient (update.c): cuts them; starts the sums of the first n that are not under
 * way yet. */
av_status av_take_parts(av_vae *vae);
void av_begin_parts(av_vae *vae, int n);

/* Addresses in the flat buffers. */
static inline av_real *av_param(const av_vae *vae, int64_t at) {
  return av_backend_at(vae->be, AV_REAL, vae->params, at);
}
static inline av_grad *av_grad_at(const av_vae *vae, int64_t at) {
  return av_backend_at(vae->be, AV_GRAD, vae->grads, at);
}
static inline av_real *av_running_at(const av_vae *vae, int64_t at) {
  return av_backend_at(vae->be, AV_REAL, vae->running, at);
}

/* What all layers of a stack share. */
typedef struct av_stack {
  bool layer_norm;
  double dropout;
  int64_t blocks; /* layers side by side in one: 2 in the first of both encoders */
} av_stack;
av_stack av_encoder_stack(const av_vae *vae, const av_layer *layer);
av_stack av_decoder_stack(const av_vae *vae);

/* One hidden layer forward: linear, BatchNorm, LayerNorm, ReLU, dropout; `number` tells dropout
 * draws apart. */
void av_layer_forward(av_vae *vae, const av_pass *p, const av_layer *layer, av_stack stack,
                      const av_real *x, int64_t x_stride, const av_hidden *arrays, uint32_t number);
/* The part after the linear one, arrays->pre into arrays->act, and the way back: the gradient on
 * act in `d` becomes that on pre. */
void av_activate(av_vae *vae, const av_pass *p, const av_layer *layer, av_stack stack,
                 const av_hidden *arrays, uint32_t number);
void av_activate_grad(av_vae *vae, const av_pass *p, const av_layer *layer, av_stack stack,
                      const av_hidden *arrays, uint32_t number, av_real *d);
/* `d` holds the gradient on arrays->act on entry; dx receives that on the layer's input. */
void av_layer_backward(av_vae *vae, const av_pass *p, const av_layer *layer, av_stack stack,
                       const av_real *x, int64_t x_stride, const av_hidden *arrays, uint32_t number,
                       av_real *d, av_real *dx, int64_t dx_stride);

/* Encoder: counts to z_head and l_head; from dz_head and dl_head to every encoder gradient. */
void av_encode(av_vae *vae, const av_pass *p);
void av_encode_grad(av_vae *vae, const av_pass *p);

/* The latent draw of this pass. */
av_latent av_latent_of(const av_vae *vae, const av_pass *p, bool sample);

/* Whether the decoder is linear with BatchNorm, which is then folded into its weights. */
static inline bool av_is_folded(const av_vae *vae) {
  return vae->layout.spec.linear && vae->layout.spec.decoder_batch_norm;
}
/* Hidden layers of the decoder. */
static inline int64_t av_decoder_depth(const av_vae *vae) {
  return vae->layout.spec.linear ? 0 : vae->layout.spec.n_layers;
}
/* The folds of a linear decoder's heads: at most three, those the model has. */
typedef struct av_folds {
  int n;
  av_fold fold[3];
  const av_gene_head *head[3];
  const av_folded *arrays[3];
} av_folds;
av_folds av_folds_of(const av_vae *vae, const av_pass *p);
/* Folds BatchNorm for this pass (inference: once for all batches). */
void av_fold_heads(av_vae *vae, const av_pass *p);
/* Heads and dispersion as decode_nll wants them. */
av_decode av_decode_of(const av_vae *vae, bool gradients);
/* scVI's hidden layers (none when linear); returns the input of the gene heads. */
const av_real *av_decoder_layers(av_vae *vae, const av_pass *p);
/* Training: loss, every decoder gradient, dz and dl. */
void av_decode_train(av_vae *vae, const av_pass *p);

#endif
