/* BatchNorm's statistics over all training cells in place of averages that ran along.
 *
 * Sums are taken minibatch by minibatch, made global, and added in the order of the minibatches,
 * all of it on the backend: what comes out does not depend on the ranks, and nobody waits for a
 * minibatch. */
#include "backend/latent.h"
#include "backend/norm.h"
#include "base/memory.h"
#include "model/vae_parts.h"

#include <stdlib.h>

static int64_t encoder_norms(const av_vae *vae) {
  const av_model_spec *spec = &vae->layout.spec;
  return spec->encoder_batch_norm ? spec->n_layers : 0;
}

int64_t av_vae_norm_layers(const av_vae *vae) {
  const av_model_spec *spec = &vae->layout.spec;
  const int64_t decoder = spec->linear ? 1 : spec->n_layers;
  return encoder_norms(vae) + (spec->decoder_batch_norm ? decoder : 0);
}

/* A hidden layer with its arrays; NULL for the heads of a linear decoder. */
static const av_layer *layer_of(av_vae *vae, int64_t which, av_hidden **arrays) {
  const av_layout *layout = &vae->layout;
  const int64_t above = which - encoder_norms(vae);
  if (above < 0) {
    *arrays = which == 0 ? &vae->first : &vae->encoder[which - 1];
    return which == 0 ? &layout->first : &layout->encoder[which - 1];
  }
  if (layout->spec.linear) {
    return NULL;
  }
  *arrays = &vae->decoder[above];
  return &layout->decoder[above];
}

/* Where a minibatch's sums are, and how many. */
static av_sum *sums_of(av_vae *vae, int64_t which, int64_t *n) {
  av_hidden *arrays = NULL;
  const av_layer *layer = layer_of(vae, which, &arrays);
  *n = layer != NULL ? 2 * layer->n_out : vae->n_fold_stats;
  return layer != NULL ? arrays->moments : vae->fold_stats;
}

av_status av_vae_norm_begin(av_vae *vae, int64_t which) {
  av_backend *be = vae->be;
  int64_t n = 0;
  (void)sums_of(vae, which, &n);
  vae->norm_cells = 0;
  return av_agree(be->comm, be->ops->alloc(be, AV_SUM, n, (void **)&vae->norm_sums));
}

/* The model as far as the layer, and the sums that its statistics are made of. */
static void sum_batch(av_vae *vae, int64_t which, const av_pass *p) {
  av_backend *be = vae->be;
  const av_gene_head *scale = &vae->layout.scale;
  av_hidden *arrays = NULL;
  const av_layer *layer = layer_of(vae, which, &arrays);
  av_encode(vae, p);
  if (which >= encoder_norms(vae)) {
    const av_latent latent = av_latent_of(vae, p, true);
    be->ops->latent_draw(be, p->batch, &latent, vae->z_head, vae->l_head, vae->prior, vae->z,
                         vae->l, vae->losses);
    be->ops->zero(be, AV_SUM, vae->losses, AV_LOSSES); /* nobody asked for the KL terms */
    av_decoder_layers(vae, p);
  }
  if (layer != NULL) {
    be->ops->moments(be, p->batch, layer->n_out, arrays->pre, arrays->moments);
  } else {
    be->ops->fold_sums(be, p->batch, scale->n_in, scale->n_onehot, vae->z, vae->fold_stats);
  }
}

void av_vae_norm_pass(av_vae *vae, int64_t which, const av_batch *batch, int64_t n_cells,
                      av_draw draw) {
  av_backend *be = vae->be;
  const av_pass p = {.batch = batch, .draw = draw};
  const av_pass_values values = {.epoch = draw.epoch};
  int64_t n = 0;
  av_sum *sums = sums_of(vae, which, &n);
  be->ops->pass_begin(be, batch, AV_PASS_STATISTICS, &values);
  sum_batch(vae, which, &p);
  av_backend_allreduce(be, AV_SUM, sums, n);
  be->ops->add(be, n, vae->norm_sums, sums);
  be->ops->pass_end(be);
  vae->norm_cells += n_cells;
}

static av_status replace_hidden(av_vae *vae, const av_layer *layer) {
  av_backend *be = vae->be;
  const int64_t n = layer->n_out;
  double *sums = av_malloc((size_t)(4 * n), sizeof *sums);
  AV_TRY_ALLOC(sums);
  double *running = sums + 2 * n;
  av_status status = be->ops->read(be, AV_SUM, vae->norm_sums, 2 * n, sums);
  for (int64_t j = 0; status == AV_OK && j < n; ++j) {
    double variance = 0.0;
    av_batch_moments(sums, n, j, vae->norm_cells, &running[j], &variance);
    running[n + j] = av_unbiased(variance, vae->norm_cells);
  }
  if (status == AV_OK) {
    status = be->ops->write(be, AV_REAL, av_running_at(vae, layer->running), 2 * n, running);
  }
  free(sums);
  return status;
}

/* Folding moves running statistics by a share towards the minibatch's: from 0, the whole is that
 * divided by the share. */
static av_status replace_head(av_vae *vae, const av_fold *fold) {
  av_backend *be = vae->be;
  const int64_t n = 2 * fold->n_genes;
  double *running = av_calloc((size_t)n, sizeof *running);
  AV_TRY_ALLOC(running);
  be->ops->zero(be, AV_REAL, fold->running, n);
  be->ops->fold(be, fold, vae->norm_sums);
  av_status status = be->ops->read(be, AV_REAL, fold->running, n, running);
  for (int64_t i = 0; i < n; ++i) {
    running[i] /= AV_NORM_MOMENTUM;
  }
  if (status == AV_OK) {
    status = be->ops->write(be, AV_REAL, fold->running, n, running);
  }
  free(running);
  return status;
}

av_status av_vae_norm_finish(av_vae *vae, int64_t which) {
  av_backend *be = vae->be;
  av_hidden *arrays = NULL;
  const av_layer *layer = layer_of(vae, which, &arrays);
  av_status status = AV_OK;
  if (vae->norm_cells > 0 && layer != NULL) {
    status = replace_hidden(vae, layer);
  } else if (vae->norm_cells > 0) {
    const av_pass p = {.training = true, .n_cells = vae->norm_cells};
    const av_folds folds = av_folds_of(vae, &p);
    for (int h = 0; status == AV_OK && h < folds.n; ++h) {
      status = replace_head(vae, &folds.fold[h]);
    }
  }
  be->ops->release(be, vae->norm_sums);
  vae->norm_sums = NULL;
  vae->norm_cells = 0;
  return av_agree(be->comm, status);
}
