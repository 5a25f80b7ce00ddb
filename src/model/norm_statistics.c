/* BatchNorm's statistics over all training cells in place of averages that ran along.
 *
 * Sums are taken minibatch by minibatch on the backend, made global, and added on the host in the
 * order of the minibatches: what comes out does not depend on the ranks. */
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

static av_status add_sums(av_vae *vae, const av_sum *sums, int64_t n) {
  if (vae->norm_sums == NULL) {
    vae->norm_sums = av_calloc((size_t)n, sizeof *vae->norm_sums);
    vae->norm_cells = 0;
  }
  double *now = av_malloc((size_t)n, sizeof *now);
  av_status status = now == NULL || vae->norm_sums == NULL
                         ? av_fail(AV_NOMEM, "out of memory (BatchNorm's statistics)")
                         : vae->be->ops->read(vae->be, AV_SUM, sums, n, now);
  for (int64_t i = 0; status == AV_OK && i < n; ++i) {
    vae->norm_sums[i] += now[i];
  }
  free(now);
  return av_agree(vae->be->comm, status);
}

av_status av_vae_norm_pass(av_vae *vae, int64_t which, const av_batch *batch, int64_t n_cells,
                           av_draw draw) {
  av_backend *be = vae->be;
  const av_pass p = {.batch = batch, .draw = draw};
  const av_gene_head *scale = &vae->layout.scale;
  av_hidden *arrays = NULL;
  const av_layer *layer = layer_of(vae, which, &arrays);
  av_encode(vae, &p);
  if (which >= encoder_norms(vae)) {
    const av_latent latent = av_latent_of(vae, &p, true);
    be->ops->latent_draw(be, batch, &latent, vae->z_head, vae->l_head, vae->prior, vae->z, vae->l,
                         vae->losses);
    be->ops->zero(be, AV_SUM, vae->losses, AV_LOSSES); /* nobody asked for the KL terms */
    av_decoder_layers(vae, &p);
  }
  if (layer != NULL) {
    be->ops->moments(be, batch, layer->n_out, arrays->pre, arrays->moments);
    av_backend_allreduce(be, AV_SUM, arrays->moments, 2 * layer->n_out);
    AV_TRY(add_sums(vae, arrays->moments, 2 * layer->n_out));
  } else {
    be->ops->fold_sums(be, batch, scale->n_in, scale->n_onehot, vae->z, vae->fold_stats);
    av_backend_allreduce(be, AV_SUM, vae->fold_stats, vae->n_fold_stats);
    AV_TRY(add_sums(vae, vae->fold_stats, vae->n_fold_stats));
  }
  vae->norm_cells += n_cells;
  return AV_OK;
}

static av_status replace_hidden(av_vae *vae, const av_layer *layer) {
  const int64_t n = layer->n_out;
  double *running = av_malloc((size_t)(2 * n), sizeof *running);
  AV_TRY_ALLOC(running);
  for (int64_t j = 0; j < n; ++j) {
    double variance = 0.0;
    av_batch_moments(vae->norm_sums, n, j, vae->norm_cells, &running[j], &variance);
    running[n + j] = av_unbiased(variance, vae->norm_cells);
  }
  const av_status status =
      vae->be->ops->write(vae->be, AV_REAL, av_running_at(vae, layer->running), 2 * n, running);
  free(running);
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
  be->ops->fold(be, fold, vae->fold_stats);
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
    status = be->ops->write(be, AV_SUM, vae->fold_stats, vae->n_fold_stats, vae->norm_sums);
    for (int h = 0; status == AV_OK && h < folds.n; ++h) {
      status = replace_head(vae, &folds.fold[h]);
    }
  }
  free(vae->norm_sums);
  vae->norm_sums = NULL;
  vae->norm_cells = 0;
  return av_agree(be->comm, status);
}
