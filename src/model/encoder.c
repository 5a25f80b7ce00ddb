/* The encoders of z and l: one pass over the counts for both. */
#include "model/vae_parts.h"

/* Numbers that tell the layers' dropout draws apart: the first layer is 0. */
static uint32_t encoder_number(int64_t i) { return (uint32_t)(i + 1); }

/* The z encoder's last activations and their row stride. */
static const av_real *encoder_top(const av_vae *vae, int64_t *stride) {
  const int64_t layers = vae->layout.spec.n_layers;
  *stride = layers > 1 ? vae->layout.spec.n_hidden : vae->layout.first.n_out;
  return layers > 1 ? vae->encoder[layers - 2].act : vae->first.act;
}

void av_encode(av_vae *vae, const av_pass *p) {
  av_backend *be = vae->be;
  const av_layout *layout = &vae->layout;
  const av_model_spec *spec = &layout->spec;
  be->ops->sparse_linear(be, p->batch, spec->log1p, spec->encode_covariates, layout->first.n_out,
                         av_param(vae, layout->first.w), av_param(vae, layout->first.b),
                         vae->first.pre);
  av_activate(vae, p, &layout->first, av_encoder_stack(vae, &layout->first), &vae->first, 0);
  const av_real *x = vae->first.act;
  int64_t stride = layout->first.n_out;
  for (int64_t i = 0; i + 1 < spec->n_layers; ++i) {
    const av_layer *layer = &layout->encoder[i];
    av_layer_forward(vae, p, layer, av_encoder_stack(vae, layer), x, stride, &vae->encoder[i],
                     encoder_number(i));
    x = vae->encoder[i].act;
    stride = spec->n_hidden;
  }
  be->ops->linear(be, p->batch, spec->n_hidden, 0, 2 * spec->n_latent, x, stride,
                  av_param(vae, layout->z_w), av_param(vae, layout->z_b), vae->z_head);
  if (spec->latent_library) {
    const av_real *l_act = av_backend_at(be, AV_REAL, vae->first.act, spec->n_hidden);
    be->ops->linear(be, p->batch, spec->n_hidden, 0, 2, l_act, layout->first.n_out,
                    av_param(vae, layout->l_w), av_param(vae, layout->l_b), vae->l_head);
  }
}

/* The first layer's gradients; or, where its weights may be updated at once and the backend does,
 * that update and what is left of the gradients. */
static void first_layer_grad(av_vae *vae, const av_pass *p) {
  av_backend *be = vae->be;
  const av_model_spec *spec = &vae->layout.spec;
  const int64_t n = vae->layout.first.n_out;
  const int64_t w = vae->layout.first.w;
  av_grad *dw = av_grad_at(vae, w);
  av_grad *dbias = av_grad_at(vae, vae->layout.first.b);
  vae->first_updated =
      p->adam != NULL && be->ops->sparse_linear_step(
                             be, p->batch, spec->log1p, spec->encode_covariates, n, vae->dfirst,
                             p->adam, av_param(vae, w), av_backend_at(be, AV_REAL, vae->m, w),
                             av_backend_at(be, AV_REAL, vae->v, w), dw, dbias);
  if (!vae->first_updated) {
    be->ops->sparse_linear_grad(be, p->batch, spec->log1p, spec->encode_covariates, n, vae->dfirst,
                                dw, dbias);
  }
}

/* From dz_head and dl_head to every encoder gradient. */
void av_encode_grad(av_vae *vae, const av_pass *p) {
  av_backend *be = vae->be;
  const av_layout *layout = &vae->layout;
  const av_model_spec *spec = &layout->spec;
  const int64_t hidden_width = spec->n_hidden;
  const int64_t first_width = layout->first.n_out;
  const bool deep = spec->n_layers > 1;
  av_real *d = vae->dhidden[0];
  av_real *dx = vae->dhidden[1];
  int64_t top_stride = 0;
  const av_real *top = encoder_top(vae, &top_stride);
  be->ops->linear_grad(be, p->batch, hidden_width, 0, 2 * spec->n_latent, top, top_stride,
                       av_param(vae, layout->z_w), vae->dz_head, deep ? d : vae->dfirst,
                       deep ? hidden_width : first_width, av_grad_at(vae, layout->z_w),
                       av_grad_at(vae, layout->z_b));
  for (int64_t i = spec->n_layers - 2; i >= 0; --i) {
    const bool lowest = i == 0;
    const int64_t width = lowest ? first_width : hidden_width;
    const av_layer *layer = &layout->encoder[i];
    av_layer_backward(vae, p, layer, av_encoder_stack(vae, layer),
                      lowest ? vae->first.act : vae->encoder[i - 1].act, width, &vae->encoder[i],
                      encoder_number(i), d, lowest ? vae->dfirst : dx, width);
    av_real *const spare = d;
    d = dx;
    dx = spare;
  }
  if (spec->latent_library) {
    const av_real *l_act = av_backend_at(be, AV_REAL, vae->first.act, hidden_width);
    av_real *dl_act = av_backend_at(be, AV_REAL, vae->dfirst, hidden_width);
    be->ops->linear_grad(be, p->batch, hidden_width, 0, 2, l_act, first_width,
                         av_param(vae, layout->l_w), vae->dl_head, dl_act, first_width,
                         av_grad_at(vae, layout->l_w), av_grad_at(vae, layout->l_b));
  }
  av_activate_grad(vae, p, &layout->first, av_encoder_stack(vae, &layout->first), &vae->first, 0,
                   vae->dfirst);
  av_begin_parts(vae, p->n_early); /* no sum is to come that would wait for them */
  first_layer_grad(vae, p);
}
