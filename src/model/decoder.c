/* The decoders: scVI's hidden layers and heads, LDVAE's linear heads, with BatchNorm folded into
 * them (model.md section 5). */
#include "model/vae_parts.h"

static const av_real *param_or_null(const av_vae *vae, int64_t at) {
  return at < 0 ? NULL : av_param(vae, at);
}

static void add_fold(const av_vae *vae, const av_pass *p, const av_gene_head *head,
                     const av_folded *arrays, av_folds *folds) {
  if (head->w < 0) {
    return;
  }
  folds->fold[folds->n] = (av_fold){.design = vae->design,
                                    .n_genes = vae->layout.spec.n_genes,
                                    .n_in = head->n_in,
                                    .n_onehot = head->n_onehot,
                                    .training = p->training,
                                    .n_cells = p->n_cells,
                                    .w = av_param(vae, head->w),
                                    .bias = param_or_null(vae, head->b),
                                    .gamma = av_param(vae, head->gamma),
                                    .beta = av_param(vae, head->beta),
                                    .running = av_running_at(vae, head->running),
                                    .a = arrays->a,
                                    .c = arrays->c,
                                    .inv_sigma = arrays->inv_sigma};
  folds->head[folds->n] = head;
  folds->arrays[folds->n++] = arrays;
}

av_folds av_folds_of(const av_vae *vae, const av_pass *p) {
  av_folds folds = {0};
  add_fold(vae, p, &vae->layout.scale, &vae->scale, &folds);
  add_fold(vae, p, &vae->layout.dropout, &vae->dropout, &folds);
  add_fold(vae, p, &vae->layout.px_r_head, &vae->px_r_head, &folds);
  return folds;
}

static av_head head_of(const av_vae *vae, const av_gene_head *head, const av_folded *arrays,
                       bool gradients) {
  if (head->w < 0) {
    return (av_head){0};
  }
  if (av_is_folded(vae)) {
    return (av_head){.w = arrays->a,
                     .c = arrays->c,
                     .dw = gradients ? arrays->p : NULL,
                     .dc = gradients ? arrays->s : NULL};
  }
  return (av_head){.w = av_param(vae, head->w),
                   .c = param_or_null(vae, head->b),
                   .dw = gradients ? av_grad_at(vae, head->w) : NULL,
                   .dc = gradients && head->b >= 0 ? av_grad_at(vae, head->b) : NULL};
}

av_decode av_decode_of(const av_vae *vae, bool gradients) {
  const av_layout *layout = &vae->layout;
  const bool table = layout->px_r >= 0;
  return (av_decode){.likelihood = layout->spec.likelihood,
                     .dispersion = layout->spec.dispersion,
                     .softplus = layout->spec.size_factor,
                     .n_genes = layout->spec.n_genes,
                     .n_in = layout->scale.n_in,
                     .linear = layout->spec.linear,
                     .n_onehot = layout->scale.n_onehot,
                     .n_dispersion = av_spec_dispersions(&layout->spec),
                     .scale = head_of(vae, &layout->scale, &vae->scale, gradients),
                     .dropout = head_of(vae, &layout->dropout, &vae->dropout, gradients),
                     .px_r_head = head_of(vae, &layout->px_r_head, &vae->px_r_head, gradients),
                     .px_r = table ? av_param(vae, layout->px_r) : NULL,
                     .dpx_r = table && gradients ? av_grad_at(vae, layout->px_r) : NULL};
}

void av_fold_heads(av_vae *vae, const av_pass *p) {
  av_backend *be = vae->be;
  const av_gene_head *scale = &vae->layout.scale;
  if (p->training) {
    be->ops->fold_sums(be, p->batch, scale->n_in, scale->n_onehot, vae->z, vae->fold_stats);
    av_backend_allreduce(be, AV_SUM, vae->fold_stats, vae->n_fold_stats);
  }
  const av_folds folds = av_folds_of(vae, p);
  for (int h = 0; h < folds.n; ++h) {
    be->ops->fold(be, &folds.fold[h], vae->fold_stats);
  }
}

/* Gradients of the folded heads, and their corrections to dz. */
static void fold_heads_grad(av_vae *vae, const av_pass *p) {
  av_backend *be = vae->be;
  const av_folds folds = av_folds_of(vae, p);
  for (int h = 0; h < folds.n; ++h) {
    const av_gene_head *head = folds.head[h];
    const av_folded *arrays = folds.arrays[h];
    be->ops->fold_grad(be, &folds.fold[h], vae->fold_stats, arrays->p, arrays->s,
                       av_grad_at(vae, head->w), av_grad_at(vae, head->gamma),
                       av_grad_at(vae, head->beta), arrays->back);
  }
  av_backend_allreduce(be, AV_SUM, vae->fold_back, vae->n_fold_back);
  for (int h = 0; h < folds.n; ++h) {
    const av_gene_head *head = folds.head[h];
    const av_folded *arrays = folds.arrays[h];
    const int64_t genes = folds.fold[h].n_genes;
    be->ops->fold_correct(be, p->batch, &folds.fold[h], vae->fold_stats, arrays->back, vae->z,
                          vae->dz);
    be->ops->zero(be, AV_GRAD, arrays->p, (head->n_in + head->n_onehot + 1) * genes); /* and s */
  }
}

const av_real *av_decoder_layers(av_vae *vae, const av_pass *p) {
  const av_layout *layout = &vae->layout;
  const av_real *x = vae->z;
  int64_t stride = av_spec_decoder_input(&layout->spec);
  for (int64_t i = 0; i < av_decoder_depth(vae); ++i) {
    av_layer_forward(vae, p, &layout->decoder[i], av_decoder_stack(vae), x, stride,
                     &vae->decoder[i], 0);
    x = vae->decoder[i].act;
    stride = layout->spec.n_hidden;
  }
  return x;
}

static void decode_train_folded(av_vae *vae, const av_pass *p) {
  av_backend *be = vae->be;
  av_fold_heads(vae, p);
  const av_decode decode = av_decode_of(vae, true);
  be->ops->decode_nll(be, p->batch, &decode, vae->z, vae->l, vae->losses, vae->dz, vae->dl);
  fold_heads_grad(vae, p);
}

/* Through any number of hidden layers, none in a linear decoder. */
static void decode_train_dense(av_vae *vae, const av_pass *p) {
  av_backend *be = vae->be;
  const av_layout *layout = &vae->layout;
  const int64_t depth = av_decoder_depth(vae);
  const av_real *top = av_decoder_layers(vae, p);
  const av_decode decode = av_decode_of(vae, true);
  av_real *d = depth > 0 ? vae->dhidden[0] : vae->dz;
  av_real *dx = vae->dhidden[1];
  be->ops->decode_nll(be, p->batch, &decode, top, vae->l, vae->losses, d, vae->dl);
  for (int64_t i = depth - 1; i >= 0; --i) {
    const bool lowest = i == 0;
    const av_real *x = lowest ? vae->z : vae->decoder[i - 1].act;
    const int64_t width = lowest ? av_spec_decoder_input(&layout->spec) : layout->spec.n_hidden;
    av_layer_backward(vae, p, &layout->decoder[i], av_decoder_stack(vae), x, width,
                      &vae->decoder[i], 0, d, lowest ? vae->dz : dx, width);
    av_real *const spare = d;
    d = dx;
    dx = spare;
  }
}

void av_decode_train(av_vae *vae, const av_pass *p) {
  if (av_is_folded(vae)) {
    decode_train_folded(vae, p);
  } else {
    decode_train_dense(vae, p);
  }
}
