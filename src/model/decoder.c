/* The decoders: scVI's hidden layers and heads, LDVAE's folded linear heads (model.md section 5).
 */
#include "model/vae_parts.h"

static av_fold fold_of(const av_vae *vae, const av_pass *p, const av_gene_head *head,
                       const av_folded *arrays) {
  return (av_fold){.n_genes = vae->layout.spec.n_genes,
                   .n_in = head->n_in,
                   .n_onehot = head->n_onehot,
                   .training = p->training,
                   .n_cells = p->n_cells,
                   .w = av_param(vae, head->w),
                   .gamma = av_param(vae, head->gamma),
                   .beta = av_param(vae, head->beta),
                   .running = av_running_at(vae, head->running),
                   .a = arrays->a,
                   .c = arrays->c,
                   .inv_sigma = arrays->inv_sigma};
}

static av_head head_of(const av_vae *vae, const av_gene_head *head, const av_folded *arrays,
                       bool gradients) {
  if (vae->layout.spec.linear) {
    return (av_head){.w = arrays->a,
                     .c = arrays->c,
                     .dw = gradients ? arrays->p : NULL,
                     .dc = gradients ? arrays->s : NULL};
  }
  return (av_head){.w = av_param(vae, head->w),
                   .c = av_param(vae, head->b),
                   .dw = gradients ? av_grad_at(vae, head->w) : NULL,
                   .dc = gradients ? av_grad_at(vae, head->b) : NULL};
}

av_decode av_decode_of(const av_vae *vae, bool gradients) {
  const av_layout *layout = &vae->layout;
  av_decode decode = {.likelihood = layout->spec.likelihood,
                      .n_genes = layout->spec.n_genes,
                      .n_in = layout->scale.n_in,
                      .n_onehot = layout->scale.n_onehot,
                      .n_dispersion = av_spec_dispersions(&layout->spec),
                      .scale = head_of(vae, &layout->scale, &vae->scale, gradients),
                      .px_r = av_param(vae, layout->px_r),
                      .dpx_r = gradients ? av_grad_at(vae, layout->px_r) : NULL};
  if (av_spec_inflated(&layout->spec)) {
    decode.dropout = head_of(vae, &layout->dropout, &vae->dropout, gradients);
  }
  return decode;
}

/* Folds the linear decoder's BatchNorm for this pass. */
void av_fold_heads(av_vae *vae, const av_pass *p) {
  av_backend *be = vae->be;
  const av_layout *layout = &vae->layout;
  const int64_t k = layout->spec.n_latent;
  if (p->training) {
    be->ops->fold_sums(be, p->batch, k, layout->scale.n_onehot, vae->z, vae->fold_stats);
    av_backend_allreduce(be, AV_SUM, vae->fold_stats, layout->spec.n_batches * (1 + k) + k * k);
  }
  const av_fold scale = fold_of(vae, p, &layout->scale, &vae->scale);
  be->ops->fold(be, &scale, vae->fold_stats);
  if (av_spec_inflated(&layout->spec)) {
    const av_fold dropout = fold_of(vae, p, &layout->dropout, &vae->dropout);
    be->ops->fold(be, &dropout, vae->fold_stats);
  }
}

/* Gradients of one folded head, and its correction to dz. */
static void fold_head_grad(av_vae *vae, const av_pass *p, const av_gene_head *head,
                           const av_folded *arrays) {
  av_backend *be = vae->be;
  const int64_t genes = vae->layout.spec.n_genes;
  const int64_t width = head->n_in + head->n_onehot;
  const int64_t n_back = head->n_in * (1 + width);
  const av_fold fold = fold_of(vae, p, head, arrays);
  be->ops->zero(be, AV_SUM, arrays->back, n_back);
  be->ops->fold_grad(be, &fold, vae->fold_stats, arrays->p, arrays->s, av_grad_at(vae, head->w),
                     av_grad_at(vae, head->gamma), av_grad_at(vae, head->beta), arrays->back);
  av_backend_allreduce(be, AV_SUM, arrays->back, n_back);
  be->ops->fold_correct(be, p->batch, &fold, vae->fold_stats, arrays->back, vae->z, vae->dz);
  be->ops->zero(be, AV_GRAD, arrays->p, width * genes);
  be->ops->zero(be, AV_GRAD, arrays->s, genes);
}

/* scVI's hidden layers; returns the input of the gene heads. */
const av_real *av_decoder_layers(av_vae *vae, const av_pass *p) {
  const av_layout *layout = &vae->layout;
  const av_real *x = vae->z;
  int64_t stride = layout->spec.n_latent;
  for (int64_t i = 0; !layout->spec.linear && i < layout->spec.n_layers; ++i) {
    av_layer_forward(vae, p, &layout->decoder[i], x, stride, &vae->decoder[i], 0, 0.0);
    x = vae->decoder[i].act;
    stride = layout->spec.n_hidden;
  }
  return x;
}

static void decode_train_linear(av_vae *vae, const av_pass *p) {
  av_backend *be = vae->be;
  av_fold_heads(vae, p);
  const av_decode decode = av_decode_of(vae, true);
  be->ops->decode_nll(be, p->batch, &decode, vae->z, vae->l, vae->losses, vae->dz, vae->dl);
  fold_head_grad(vae, p, &vae->layout.scale, &vae->scale);
  if (av_spec_inflated(&vae->layout.spec)) {
    fold_head_grad(vae, p, &vae->layout.dropout, &vae->dropout);
  }
}

static void decode_train_dense(av_vae *vae, const av_pass *p) {
  av_backend *be = vae->be;
  const av_layout *layout = &vae->layout;
  const av_real *top = av_decoder_layers(vae, p);
  const av_decode decode = av_decode_of(vae, true);
  av_real *d = vae->dhidden[0];
  av_real *dx = vae->dhidden[1];
  be->ops->decode_nll(be, p->batch, &decode, top, vae->l, vae->losses, d, vae->dl);
  for (int64_t i = layout->spec.n_layers - 1; i >= 0; --i) {
    const bool lowest = i == 0;
    const av_real *x = lowest ? vae->z : vae->decoder[i - 1].act;
    const int64_t width = lowest ? layout->spec.n_latent : layout->spec.n_hidden;
    av_layer_backward(vae, p, &layout->decoder[i], x, width, &vae->decoder[i], 0, 0.0, d,
                      lowest ? vae->dz : dx, width);
    av_real *const spare = d;
    d = dx;
    dx = spare;
  }
}

void av_decode_train(av_vae *vae, const av_pass *p) {
  if (vae->layout.spec.linear) {
    decode_train_linear(vae, p);
  } else {
    decode_train_dense(vae, p);
  }
}
