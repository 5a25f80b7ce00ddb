/* Hidden layers: linear, BatchNorm over the global minibatch, LayerNorm, ReLU, dropout; and back.
 */
#include "model/vae_parts.h"

av_stack av_encoder_stack(const av_vae *vae, const av_layer *layer) {
  const av_model_spec *spec = &vae->layout.spec;
  return (av_stack){.layer_norm = spec->encoder_layer_norm,
                    .dropout = spec->dropout,
                    .blocks = layer->n_out / spec->n_hidden};
}

av_stack av_decoder_stack(const av_vae *vae) {
  return (av_stack){.layer_norm = vae->layout.spec.decoder_layer_norm, .blocks = 1};
}

static av_norm norm_of(const av_pass *p, const av_layer *layer, av_stack stack, uint32_t number) {
  return (av_norm){.n = layer->n_out,
                   .training = p->training,
                   .batch_norm = layer->gamma >= 0,
                   .layer_norm = stack.layer_norm,
                   .blocks = stack.blocks,
                   .relu = true,
                   .dropout = stack.dropout,
                   .layer = number,
                   .draw = p->draw,
                   .n_cells = p->n_cells};
}

/* A layer's BatchNorm; NULL where it has none. */
static av_real *param_or_null(const av_vae *vae, int64_t at) {
  return at < 0 ? NULL : av_param(vae, at);
}

void av_activate(av_vae *vae, const av_pass *p, const av_layer *layer, av_stack stack,
                 const av_hidden *arrays, uint32_t number) {
  av_backend *be = vae->be;
  const av_norm norm = norm_of(p, layer, stack, number);
  if (p->training && norm.batch_norm) {
    be->ops->moments(be, p->batch, layer->n_out, arrays->pre, arrays->moments);
    av_backend_allreduce(be, AV_SUM, arrays->moments, 2 * layer->n_out);
  }
  be->ops->norm_act(be, p->batch, &norm, arrays->pre, arrays->moments,
                    param_or_null(vae, layer->gamma), param_or_null(vae, layer->beta),
                    norm.batch_norm ? av_running_at(vae, layer->running) : NULL, arrays->act);
}

void av_activate_grad(av_vae *vae, const av_pass *p, const av_layer *layer, av_stack stack,
                      const av_hidden *arrays, uint32_t number, av_real *d) {
  av_backend *be = vae->be;
  av_norm norm = norm_of(p, layer, stack, number);
  const av_real *gamma = param_or_null(vae, layer->gamma);
  if (norm.layer_norm) {
    be->ops->layer_norm_grad(be, p->batch, &norm, arrays->pre, arrays->moments, gamma,
                             param_or_null(vae, layer->beta), arrays->act, d);
    norm.relu = false; /* d has gone through them */
    norm.dropout = 0.0;
  }
  if (norm.batch_norm) {
    be->ops->norm_act_sums(be, p->batch, &norm, arrays->pre, arrays->moments, gamma, arrays->act, d,
                           arrays->back, av_grad_at(vae, layer->gamma),
                           av_grad_at(vae, layer->beta));
    av_backend_allreduce(be, AV_SUM, arrays->back, 2 * layer->n_out);
  }
  be->ops->norm_act_grad(be, p->batch, &norm, arrays->pre, arrays->moments, gamma, arrays->act, d,
                         arrays->back, d);
}

void av_layer_forward(av_vae *vae, const av_pass *p, const av_layer *layer, av_stack stack,
                      const av_real *x, int64_t x_stride, const av_hidden *arrays,
                      uint32_t number) {
  vae->be->ops->linear(vae->be, p->batch, layer->n_in, layer->n_onehot, layer->n_out, x, x_stride,
                       av_param(vae, layer->w), av_param(vae, layer->b), arrays->pre);
  av_activate(vae, p, layer, stack, arrays, number);
}

void av_layer_backward(av_vae *vae, const av_pass *p, const av_layer *layer, av_stack stack,
                       const av_real *x, int64_t x_stride, const av_hidden *arrays, uint32_t number,
                       av_real *d, av_real *dx, int64_t dx_stride) {
  av_activate_grad(vae, p, layer, stack, arrays, number, d);
  vae->be->ops->linear_grad(vae->be, p->batch, layer->n_in, layer->n_onehot, layer->n_out, x,
                            x_stride, av_param(vae, layer->w), d, dx, dx_stride,
                            av_grad_at(vae, layer->w), av_grad_at(vae, layer->b));
}
