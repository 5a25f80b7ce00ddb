/* The model on a backend: forward, backward, evaluation and inference for scVI and LDVAE.
 *
 * Everything here is collective in the sense of backend.h: all ranks call the same functions in the
 * same order, with their own part of the minibatch, which may be empty.
 */
#ifndef AV_MODEL_VAE_H
#define AV_MODEL_VAE_H

#include "backend/backend.h"
#include "model/layout.h"

typedef struct av_vae av_vae;

/* AV_CONFIG, with what to do, if a linear decoder's BatchNorm over this design would exchange more
 * than 256 MB a step: it needs the cells of each pair of categories of two covariates; or if it has
 * more factors than the backend (AV_BACKEND_*) takes. Looks at the design's sizes alone. Not
 * collective. */
av_status av_vae_possible(const av_model_spec *spec, const av_design *design, int backend);

/* Allocates the model for minibatches of up to max_rows local rows. `design` is that of the data
 * (borrowed: it must outlive the model). `prior` (S, 2): mean and variance of log library per
 * batch. Values are zero until av_vae_set_values. Collective. */
av_status av_vae_create(av_vae **vae, av_backend *be, const av_model_spec *spec,
                        const av_design *design, const double *prior, int64_t max_rows);
void av_vae_free(av_vae **vae);

/* The layout of the values (borrowed). */
const av_layout *av_vae_layout(const av_vae *vae);

/* Host copies of params (layout->n_params) and running (layout->n_running). Same on all ranks. */
av_status av_vae_set_values(av_vae *vae, const double *params, const double *running);
av_status av_vae_get_values(av_vae *vae, double *params, double *running);
/* Gradients of the sum over this rank's cells, as the last backward pass left them, for tests. */
av_status av_vae_get_gradients(av_vae *vae, double *grads);

/* From now on only the decoder is trained: av_vae_step runs the encoders in evaluation mode
 * (running statistics, no dropout) and leaves their gradients alone, av_vae_update leaves their
 * values. Before the first update only: ranks keep Adam's moments of their shares. */
void av_vae_freeze_encoder(av_vae *vae);

/* Forward and backward for the minibatch of n_cells cells (all ranks') whose local part is `batch`.
 * Adds the local losses (nll, KL(z), KL(l); unweighted sums) to the epoch's and the local gradients
 * of nll + kl_weight KL(z) + KL(l) to the gradient buffer; moves running statistics. */
void av_vae_step(av_vae *vae, const av_batch *batch, int64_t n_cells, av_draw draw,
                 double kl_weight);
/* The same as av_vae_step; each part of the gradient (decoder, encoder) starts on its way to the
 * other ranks as soon as it is complete, and holds up no other sum. Nothing but av_vae_update with
 * the same `adam` may follow that touches the model; what does not, e.g. selecting the next
 * minibatch, runs beside. A rank that is alone may update the first layer's weights here, and leave
 * their gradients out: no gradients of other steps may be waiting. */
void av_vae_train_step(av_vae *vae, const av_batch *batch, int64_t n_cells, av_draw draw,
                       double kl_weight, const av_adam *adam);
/* A decoder's or encoder's gradient of fewer than n numbers travels with the other's. Before the
 * first update only. */
void av_vae_set_least_part(av_vae *vae, int64_t n);
/* Makes the gradients global and takes one step of Adam: each rank for its share of the parameters,
 * with its share of Adam's moments, after which all ranks have all parameters. */
void av_vae_update(av_vae *vae, const av_adam *adam);

/* Evaluation with running statistics and without dropout. After the values have changed call
 * av_vae_begin_inference once; then: */
void av_vae_begin_inference(av_vae *vae);
/* Adds the local losses of the batch, with one draw of z and l, to the epoch's. */
void av_vae_evaluate(av_vae *vae, const av_batch *batch, av_draw draw);
/* Encoder: means and variances of q(z) of the batch's n_rows rows to host (n_rows, K); either may
 * be NULL. */
av_status av_vae_encode(av_vae *vae, const av_batch *batch, int64_t n_rows, double *z_mean,
                        double *z_variance);
/* The same in two halves: other batches may be encoded, and this one decoded, before its codes are
 * asked for. Up to AV_READS (backend.h) of n_rows > 0 begun, ended in their order. */
av_status av_vae_encode_begin(av_vae *vae, const av_batch *batch, int64_t n_rows);
av_status av_vae_encode_end(av_vae *vae, int64_t n_rows, double *z_mean, double *z_variance);
/* Latent codes (n_rows, K) in two such halves: means of q(z), or where z is on a simplex those of
 * n_samples softmaxed draws of each cell (backend/simplex.h), for one batch always as many with the
 * same seed. */
av_status av_vae_codes_begin(av_vae *vae, const av_batch *batch, int64_t n_rows, uint64_t seed,
                             int64_t n_samples);
av_status av_vae_codes_end(av_vae *vae, int64_t n_rows, double *codes);
/* Of the batch last encoded: one draw of z and l, or their means (draw = NULL), decoded to host
 * rho and mu (n_rows, G), which are whole after their av_vae_decode_end and lent until then; either
 * may be NULL. `average` as in the backend's decode_output, {0, 1} for this one alone. Draws of one
 * batch differ in their epoch alone. */
av_status av_vae_decode_begin(av_vae *vae, const av_batch *batch, const av_draw *draw,
                              av_average average, float *rho, float *mu);
/* Of the oldest that was begun; one for all draws of an average. */
av_status av_vae_decode_end(av_vae *vae);

/* Of the batch last encoded: for each gene the sum over its cells of scale * rho, from the means of
 * z and l, added to `sums` as the backend's decode_sums does. For one batch always the same
 * array and scale. */
av_status av_vae_sum_rho(av_vae *vae, const av_batch *batch, double scale, av_sum *sums);

/* Population statistics in place of BatchNorm's running averages. Layers that have BatchNorm come
 * in the order 0 .. av_vae_norm_layers - 1, each seeing those before it as they are by then: for
 * each, av_vae_norm_begin, then av_vae_norm_pass over all minibatches of training cells (evaluation
 * mode, one draw of z), through a batch that has been through no other layer's (its passes are
 * kept), then av_vae_norm_finish, which replaces its statistics by those of the cells seen.
 * Collective. */
int64_t av_vae_norm_layers(const av_vae *vae);
av_status av_vae_norm_begin(av_vae *vae, int64_t which);
void av_vae_norm_pass(av_vae *vae, int64_t which, const av_batch *batch, int64_t n_cells,
                      av_draw draw);
av_status av_vae_norm_finish(av_vae *vae, int64_t which);

/* Reads the epoch's losses of this rank (AV_LOSSES of backend/latent.h), sums them over ranks and
 * sets them to zero. Collective. */
av_status av_vae_take_losses(av_vae *vae, double losses[3]);

#endif
