/* Hidden layers: linear, BatchNorm over the global minibatch, ReLU, dropout; and back. */
#include "model/vae_parts.h"

static av_norm norm_of(const av_pass *p, const av_layer *layer, uint32_t number, double dropout) {
  return (av_norm){.n = layer->n_out,
                   .training = p->training,
                   .relu = true,
                   .dropout = dropout,
                   .layer = number,
                   .draw = p->draw,
                   .n_cells = p->n_cells};
}

/* BatchNorm, ReLU, dropout of arrays->pre into arrays->act. */
void av_activate(av_vae *vae, const av_pass *p, const av_layer *layer, const av_hidden *arrays,
                 uint32_t number, double dropout) {
  av_backend *be = vae->be;
  const av_norm norm = norm_of(p, layer, number, dropout);
  if (p->training) {
    be->ops->moments(be, p->batch, layer->n_out, arrays->pre, arrays->moments);
    av_backend_allreduce(be, AV_SUM, arrays->moments, 2 * layer->n_out);
  }
  be->ops->norm_act(be, p->batch, &norm, arrays->pre, arrays->moments, av_param(vae, layer->gamma),
                    av_param(vae, layer->beta), av_running_at(vae, layer->running), arrays->act);
}

/* The way back: gradient on arrays->act in `d` becomes that on arrays->pre. */
void av_activate_grad(av_vae *vae, const av_pass *p, const av_layer *layer, const av_hidden *arrays,
                      uint32_t number, double dropout, av_real *d) {
  av_backend *be = vae->be;
  const av_norm norm = norm_of(p, layer, number, dropout);
  be->ops->norm_act_sums(be, p->batch, &norm, arrays->pre, arrays->moments,
                         av_param(vae, layer->gamma), arrays->act, d, arrays->back,
                         av_grad_at(vae, layer->gamma), av_grad_at(vae, layer->beta));
  av_backend_allreduce(be, AV_SUM, arrays->back, 2 * layer->n_out);
  be->ops->norm_act_grad(be, p->batch, &norm, arrays->pre, arrays->moments,
                         av_param(vae, layer->gamma), arrays->act, d, arrays->back, d);
}

void av_layer_forward(av_vae *vae, const av_pass *p, const av_layer *layer, const av_real *x,
                      int64_t x_stride, const av_hidden *arrays, uint32_t number, double dropout) {
  vae->be->ops->linear(vae->be, p->batch, layer->n_in, layer->n_onehot, layer->n_out, x, x_stride,
                       av_param(vae, layer->w), av_param(vae, layer->b), arrays->pre);
  av_activate(vae, p, layer, arrays, number, dropout);
}

/* d holds the gradient on arrays->act on entry; dx receives that on the layer's input. */
void av_layer_backward(av_vae *vae, const av_pass *p, const av_layer *layer, const av_real *x,
                       int64_t x_stride, const av_hidden *arrays, uint32_t number, double dropout,
                       av_real *d, av_real *dx, int64_t dx_stride) {
  av_activate_grad(vae, p, layer, arrays, number, dropout, d);
  vae->be->ops->linear_grad(vae->be, p->batch, layer->n_in, layer->n_onehot, layer->n_out, x,
                            x_stride, av_param(vae, layer->w), d, dx, dx_stride,
                            av_grad_at(vae, layer->w), av_grad_at(vae, layer->b));
}
