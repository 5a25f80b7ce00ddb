/* The variational autoencoder as a sequence of backend operations (model.md section 1): its life, a
 * training step, evaluation and inference. */
#include "backend/draws.h"
#include "backend/latent.h"
#include "base/memory.h"
#include "config/config.h"
#include "model/vae_parts.h"

#include <math.h>
#include <stdlib.h>

/* ---- life ---- */

static av_status take(av_vae *vae, av_kind kind, int64_t n, void *array) {
  return vae->be->ops->alloc(vae->be, kind, n, (void **)array);
}

static av_status take_hidden(av_vae *vae, av_hidden *arrays, int64_t n) {
  AV_TRY(take(vae, AV_REAL, vae->max_rows * n, &arrays->pre));
  AV_TRY(take(vae, AV_REAL, vae->max_rows * n, &arrays->act));
  AV_TRY(take(vae, AV_SUM, 2 * n, &arrays->moments));
  return take(vae, AV_SUM, 2 * n, &arrays->back);
}

static av_status take_folded(av_vae *vae, av_folded *arrays, const av_gene_head *head) {
  const int64_t genes = vae->layout.spec.n_genes;
  const int64_t width = head->n_in + head->n_onehot;
  if (head->w < 0) {
    return AV_OK;
  }
  AV_TRY(take(vae, AV_REAL, width * genes, &arrays->a));
  AV_TRY(take(vae, AV_REAL, genes, &arrays->c));
  AV_TRY(take(vae, AV_REAL, genes, &arrays->inv_sigma));
  AV_TRY(take(vae, AV_GRAD, (width + 1) * genes, &arrays->p));
  arrays->s = av_backend_at(vae->be, AV_GRAD, arrays->p, width * genes);
  return AV_OK;
}

static int64_t back_size(const av_gene_head *head) {
  return head->w < 0 ? 0 : head->n_in * (1 + head->n_in + head->n_onehot);
}

/* One array for all heads, which travels in one message. */
static av_status take_fold_back(av_vae *vae) {
  const av_layout *layout = &vae->layout;
  const av_gene_head *heads[] = {&layout->scale, &layout->dropout, &layout->px_r_head};
  av_folded *arrays[] = {&vae->scale, &vae->dropout, &vae->px_r_head};
  for (int h = 0; h < 3; ++h) {
    vae->n_fold_back += back_size(heads[h]);
  }
  AV_TRY(take(vae, AV_SUM, vae->n_fold_back, &vae->fold_back));
  int64_t at = 0;
  for (int h = 0; h < 3; ++h) {
    arrays[h]->back = av_backend_at(vae->be, AV_SUM, vae->fold_back, at);
    at += back_size(heads[h]);
  }
  return AV_OK;
}

static av_status take_layers(av_vae *vae) {
  const av_layout *layout = &vae->layout;
  const av_model_spec *spec = &layout->spec;
  AV_TRY(take_hidden(vae, &vae->first, layout->first.n_out));
  for (int64_t i = 0; i + 1 < spec->n_layers; ++i) {
    AV_TRY(take_hidden(vae, &vae->encoder[i], spec->n_hidden));
  }
  for (int64_t i = 0; i < av_decoder_depth(vae); ++i) {
    AV_TRY(take_hidden(vae, &vae->decoder[i], spec->n_hidden));
  }
  if (!av_is_folded(vae)) {
    return AV_OK;
  }
  vae->n_fold_stats = av_fold_stats_size(vae->design, layout->scale.n_in, layout->scale.n_onehot);
  AV_TRY(take(vae, AV_SUM, vae->n_fold_stats, &vae->fold_stats));
  AV_TRY(take_folded(vae, &vae->scale, &layout->scale));
  AV_TRY(take_folded(vae, &vae->dropout, &layout->dropout));
  AV_TRY(take_folded(vae, &vae->px_r_head, &layout->px_r_head));
  return take_fold_back(vae);
}

static av_status take_arrays(av_vae *vae, const double *prior) {
  const av_layout *layout = &vae->layout;
  const av_model_spec *spec = &layout->spec;
  const int64_t rows = vae->max_rows;
  const int64_t decoder_input = rows * av_spec_decoder_input(spec);
  vae->encoder = av_calloc((size_t)spec->n_layers, sizeof *vae->encoder);
  vae->decoder = av_calloc((size_t)spec->n_layers, sizeof *vae->decoder);
  AV_TRY_ALLOC(vae->encoder);
  AV_TRY_ALLOC(vae->decoder);
  AV_TRY(take(vae, AV_REAL, layout->n_params, &vae->params));
  AV_TRY(take(vae, AV_REAL, layout->n_params, &vae->m));
  AV_TRY(take(vae, AV_REAL, layout->n_params, &vae->v));
  AV_TRY(take(vae, AV_GRAD, layout->n_params, &vae->grads));
  AV_TRY(take(vae, AV_REAL, layout->n_running, &vae->running));
  AV_TRY(take(vae, AV_SUM, AV_LOSSES, &vae->losses));
  AV_TRY(take(vae, AV_SUM, 2 * spec->n_batches, &vae->prior));
  AV_TRY(vae->be->ops->write(vae->be, AV_SUM, vae->prior, 2 * spec->n_batches, prior));
  AV_TRY(av_take_parts(vae));
  AV_TRY(take_layers(vae));
  AV_TRY(take(vae, AV_REAL, rows * 2 * spec->n_latent, &vae->z_head));
  AV_TRY(take(vae, AV_REAL, rows * 2 * spec->n_latent, &vae->dz_head));
  if (spec->simplex) {
    AV_TRY(take(vae, AV_SUM, rows * spec->n_latent, &vae->codes));
  }
  AV_TRY(take(vae, AV_REAL, decoder_input, &vae->z));
  AV_TRY(take(vae, AV_REAL, decoder_input, &vae->dz));
  AV_TRY(take(vae, AV_REAL, rows, &vae->l));
  AV_TRY(take(vae, AV_REAL, rows, &vae->dl));
  if (spec->latent_library) {
    AV_TRY(take(vae, AV_REAL, rows * 2, &vae->l_head));
    AV_TRY(take(vae, AV_REAL, rows * 2, &vae->dl_head));
  }
  AV_TRY(take(vae, AV_REAL, rows * layout->first.n_out, &vae->dfirst));
  for (int i = 0; i < 2; ++i) {
    AV_TRY(take(vae, AV_REAL, rows * spec->n_hidden, &vae->dhidden[i]));
  }
  return AV_OK;
}

av_status av_vae_possible(const av_model_spec *spec, const av_design *design, int backend) {
  enum { MOST_BYTES = 256 << 20 };
  if (!spec->linear || !spec->decoder_batch_norm) {
    return AV_OK;
  }
  if (backend == AV_BACKEND_CUDA && design->n_factors > AV_CUDA_FOLD_FACTORS) {
    return av_fail(
        AV_CONFIG,
        "[data] categorical_covariate_keys: with backend = cuda a linear decoder with "
        "BatchNorm takes up to %d columns, batch_key among them; here are %lld with more "
        "than one category: leave some out, or say [runtime] backend = cpu or [model] "
        "use_batch_norm = encoder",
        AV_CUDA_FOLD_FACTORS, (long long)design->n_factors);
  }
  const int64_t n = av_fold_stats_size(design, av_spec_decoder_input(spec), design->n_onehot);
  if (n <= MOST_BYTES / (int64_t)sizeof(double)) {
    return AV_OK;
  }
  return av_fail(
      AV_CONFIG,
      "[data] categorical_covariate_keys: the pairs of categories of batch and covariates "
      "(%lld columns in all) take %lld MB a step in a linear decoder with BatchNorm; leave "
      "the finest column out, or say [model] use_batch_norm = encoder",
      (long long)design->n_onehot, (long long)(n * (int64_t)sizeof(double) >> 20));
}

av_status av_vae_create(av_vae **vae, av_backend *be, const av_model_spec *spec,
                        const av_design *design, const double *prior, int64_t max_rows) {
  av_vae *made = av_calloc(1, sizeof *made);
  av_status status = AV_OK;
  if (made == NULL) {
    status = av_fail(AV_NOMEM, "out of memory (model)");
  } else {
    made->be = be;
    made->design = design;
    made->max_rows = max_rows > 0 ? max_rows : 1;
    status = av_layout_create(&made->layout, spec);
    if (status == AV_OK) {
      status = take_arrays(made, prior);
    }
  }
  status = av_agree(be->comm, status);
  if (status != AV_OK) {
    av_vae_free(&made);
    return status;
  }
  *vae = made;
  return AV_OK;
}

static void free_hidden(av_vae *vae, av_hidden *arrays) {
  void (*const release)(av_backend *, void *) = vae->be->ops->release;
  release(vae->be, arrays->pre);
  release(vae->be, arrays->act);
  release(vae->be, arrays->moments);
  release(vae->be, arrays->back);
}

static void free_folded(av_vae *vae, av_folded *arrays) {
  void (*const release)(av_backend *, void *) = vae->be->ops->release;
  release(vae->be, arrays->a);
  release(vae->be, arrays->c);
  release(vae->be, arrays->inv_sigma);
  release(vae->be, arrays->p);
}

void av_vae_free(av_vae **vae_pointer) {
  av_vae *vae = *vae_pointer;
  if (vae == NULL) {
    return;
  }
  void *const arrays[] = {
      vae->params,     vae->m,          vae->v,         vae->grads,   vae->running, vae->losses,
      vae->prior,      vae->fold_stats, vae->z_head,    vae->dz_head, vae->z,       vae->dz,
      vae->l,          vae->dl,         vae->l_head,    vae->dl_head, vae->dfirst,  vae->dhidden[0],
      vae->dhidden[1], vae->fold_back,  vae->norm_sums, vae->codes};
  for (size_t i = 0; i < sizeof arrays / sizeof *arrays; ++i) {
    vae->be->ops->release(vae->be, arrays[i]);
  }
  free_hidden(vae, &vae->first);
  for (int64_t i = 0; i < vae->layout.spec.n_layers; ++i) {
    if (vae->encoder != NULL) {
      free_hidden(vae, &vae->encoder[i]);
    }
    if (vae->decoder != NULL) {
      free_hidden(vae, &vae->decoder[i]);
    }
  }
  free_folded(vae, &vae->scale);
  free_folded(vae, &vae->dropout);
  free_folded(vae, &vae->px_r_head);
  free(vae->part);
  free(vae->encoder);
  free(vae->decoder);
  av_layout_free(&vae->layout);
  free(vae);
  *vae_pointer = NULL;
}

const av_layout *av_vae_layout(const av_vae *vae) { return &vae->layout; }

av_status av_vae_set_values(av_vae *vae, const double *params, const double *running) {
  av_backend *be = vae->be;
  AV_TRY(be->ops->write(be, AV_REAL, vae->params, vae->layout.n_params, params));
  return be->ops->write(be, AV_REAL, vae->running, vae->layout.n_running, running);
}

av_status av_vae_get_values(av_vae *vae, double *params, double *running) {
  av_backend *be = vae->be;
  AV_TRY(be->ops->read(be, AV_REAL, vae->params, vae->layout.n_params, params));
  return be->ops->read(be, AV_REAL, vae->running, vae->layout.n_running, running);
}

av_status av_vae_get_gradients(av_vae *vae, double *grads) {
  return vae->be->ops->read(vae->be, AV_GRAD, vae->grads, vae->layout.n_params, grads);
}

av_latent av_latent_of(const av_vae *vae, const av_pass *p, bool sample) {
  const av_model_spec *spec = &vae->layout.spec;
  return (av_latent){.n_latent = spec->n_latent,
                     .stride = av_spec_decoder_input(spec),
                     .simplex = spec->simplex,
                     .latent_library = spec->latent_library,
                     .sample = sample,
                     .kl_weight = p->kl_weight,
                     .draw = p->draw};
}

/* ---- training ---- */

/* adam: that of the update which follows at once; NULL if none does. */
static void step(av_vae *vae, const av_batch *batch, int64_t n_cells, av_draw draw,
                 double kl_weight, const av_adam *adam) {
  av_backend *be = vae->be;
  const bool exchange = adam != NULL;
  const bool at_once = exchange && be->comm->size == 1 && !(adam->clip > 0.0);
  const av_pass p = {.batch = batch,
                     .n_cells = n_cells,
                     .training = true,
                     .draw = draw,
                     .kl_weight = kl_weight,
                     .adam = at_once ? adam : NULL,
                     .n_early = exchange ? vae->n_early : 0};
  av_pass encoding = p;
  encoding.training = !vae->frozen_encoder;
  const av_latent latent = av_latent_of(vae, &p, true);
  av_encode(vae, &encoding);
  be->ops->latent_draw(be, batch, &latent, vae->z_head, vae->l_head, vae->prior, vae->z, vae->l,
                       vae->losses);
  av_decode_train(vae, &p);
  if (be->sums != AV_SUMS_IN_TURN) {
    av_begin_parts(vae, p.n_early);
  }
  if (!vae->frozen_encoder) {
    be->ops->latent_grad(be, batch, &latent, vae->z_head, vae->l_head, vae->prior, vae->z, vae->dz,
                         vae->dl, vae->dz_head, vae->dl_head);
    av_encode_grad(vae, &p);
  }
  if (exchange) {
    av_begin_parts(vae, vae->n_parts);
  }
}

void av_vae_step(av_vae *vae, const av_batch *batch, int64_t n_cells, av_draw draw,
                 double kl_weight) {
  step(vae, batch, n_cells, draw, kl_weight, NULL);
}

void av_vae_train_step(av_vae *vae, const av_batch *batch, int64_t n_cells, av_draw draw,
                       double kl_weight, const av_adam *adam) {
  const av_pass_values values = {
      .n_cells = n_cells, .epoch = draw.epoch, .kl_weight = kl_weight, .adam = adam};
  vae->be->ops->pass_begin(vae->be, batch, AV_PASS_STEP, &values);
  vae->in_step = true; /* until the update */
  step(vae, batch, n_cells, draw, kl_weight, adam);
}

/* ---- evaluation and inference ---- */

void av_vae_begin_inference(av_vae *vae) {
  if (av_is_folded(vae)) {
    const av_pass p = {.training = false};
    av_fold_heads(vae, &p);
  }
}

void av_vae_evaluate(av_vae *vae, const av_batch *batch, av_draw draw) {
  av_backend *be = vae->be;
  const av_pass p = {.batch = batch, .draw = draw};
  const av_latent latent = av_latent_of(vae, &p, true);
  const av_decode decode = av_decode_of(vae, false);
  const av_pass_values values = {.epoch = draw.epoch};
  be->ops->pass_begin(be, batch, AV_PASS_EVALUATION, &values);
  av_encode(vae, &p);
  be->ops->latent_draw(be, batch, &latent, vae->z_head, vae->l_head, vae->prior, vae->z, vae->l,
                       vae->losses);
  const av_real *x = av_decoder_layers(vae, &p);
  be->ops->decode_nll(be, batch, &decode, x, vae->l, vae->losses, NULL, NULL);
  be->ops->pass_end(be);
}

/* z_head of the batch. */
static void encode(av_vae *vae, const av_batch *batch) {
  av_backend *be = vae->be;
  const av_pass p = {.batch = batch};
  const av_pass_values values = {0};
  be->ops->pass_begin(be, batch, AV_PASS_ENCODING, &values);
  av_encode(vae, &p);
  be->ops->pass_end(be);
}

av_status av_vae_encode_begin(av_vae *vae, const av_batch *batch, int64_t n_rows) {
  av_backend *be = vae->be;
  encode(vae, batch);
  return be->ops->read_begin(be, AV_REAL, vae->z_head, n_rows * 2 * vae->layout.spec.n_latent);
}

av_status av_vae_encode_end(av_vae *vae, int64_t n_rows, double *z_mean, double *z_variance) {
  av_backend *be = vae->be;
  const int64_t k = vae->layout.spec.n_latent;
  double *heads = av_malloc((size_t)(n_rows * 2 * k), sizeof *heads);
  AV_TRY_ALLOC(heads);
  const av_status status = be->ops->read_end(be, AV_REAL, n_rows * 2 * k, heads);
  for (int64_t i = 0; status == AV_OK && i < n_rows; ++i) {
    for (int64_t j = 0; j < k; ++j) {
      if (z_mean != NULL) {
        z_mean[i * k + j] = heads[i * 2 * k + j];
      }
      if (z_variance != NULL) {
        z_variance[i * k + j] = exp(heads[i * 2 * k + k + j]) + AV_VARIANCE_FLOOR;
      }
    }
  }
  free(heads);
  return status;
}

av_status av_vae_encode(av_vae *vae, const av_batch *batch, int64_t n_rows, double *z_mean,
                        double *z_variance) {
  if (n_rows == 0 || (z_mean == NULL && z_variance == NULL)) {
    encode(vae, batch);
    return AV_OK;
  }
  AV_TRY(av_vae_encode_begin(vae, batch, n_rows));
  return av_vae_encode_end(vae, n_rows, z_mean, z_variance);
}

av_status av_vae_codes_begin(av_vae *vae, const av_batch *batch, int64_t n_rows, uint64_t seed,
                             int64_t n_samples) {
  av_backend *be = vae->be;
  const int64_t k = vae->layout.spec.n_latent;
  const av_pass p = {.batch = batch};
  const av_pass_values values = {0};
  if (!vae->layout.spec.simplex) {
    return av_vae_encode_begin(vae, batch, n_rows);
  }
  be->ops->pass_begin(be, batch, AV_PASS_CODES, &values);
  av_encode(vae, &p);
  be->ops->simplex_means(be, batch, k, seed, n_samples, vae->z_head, vae->codes);
  be->ops->pass_end(be);
  return be->ops->read_begin(be, AV_SUM, vae->codes, n_rows * k);
}

av_status av_vae_codes_end(av_vae *vae, int64_t n_rows, double *codes) {
  const av_model_spec *spec = &vae->layout.spec;
  return spec->simplex ? vae->be->ops->read_end(vae->be, AV_SUM, n_rows * spec->n_latent, codes)
                       : av_vae_encode_end(vae, n_rows, codes, NULL);
}

/* z and l of the batch last encoded, and the decoder up to the input of its heads: a pass is begun.
 */
static const av_real *decode_layers(av_vae *vae, const av_batch *batch, av_pass_kind kind,
                                    const av_draw *draw) {
  av_backend *be = vae->be;
  const av_pass_values values = {.epoch = draw == NULL ? 0 : draw->epoch};
  be->ops->pass_begin(be, batch, kind, &values);
  const av_pass p = {.batch = batch, .draw = draw == NULL ? (av_draw){0} : *draw};
  const av_latent latent = av_latent_of(vae, &p, draw != NULL);
  be->ops->latent_draw(be, batch, &latent, vae->z_head, vae->l_head, vae->prior, vae->z, vae->l,
                       vae->losses);
  be->ops->zero(be, AV_SUM, vae->losses, AV_LOSSES); /* nobody asked for the KL terms */
  return av_decoder_layers(vae, &p);
}

av_status av_vae_decode_begin(av_vae *vae, const av_batch *batch, const av_draw *draw,
                              av_average average, float *rho, float *mu) {
  av_backend *be = vae->be;
  const av_decode decode = av_decode_of(vae, false);
  const av_real *x = decode_layers(vae, batch, draw == NULL ? AV_PASS_MEANS : AV_PASS_DRAWS, draw);
  be->ops->pass_end(be);
  return be->ops->decode_output(be, batch, &decode, x, vae->l, average, rho, mu);
}

av_status av_vae_decode_end(av_vae *vae) { return vae->be->ops->output_end(vae->be); }

av_status av_vae_sum_rho(av_vae *vae, const av_batch *batch, double scale, av_sum *sums) {
  av_backend *be = vae->be;
  const av_decode decode = av_decode_of(vae, false);
  const av_real *x = decode_layers(vae, batch, AV_PASS_SUMS, NULL);
  const av_status status = be->ops->decode_sums(be, batch, &decode, x, vae->l, scale, sums);
  be->ops->pass_end(be);
  return status;
}

av_status av_vae_take_losses(av_vae *vae, double losses[3]) {
  av_backend *be = vae->be;
  av_backend_allreduce(be, AV_SUM, vae->losses, AV_LOSSES);
  AV_TRY(be->ops->read(be, AV_SUM, vae->losses, AV_LOSSES, losses));
  be->ops->zero(be, AV_SUM, vae->losses, AV_LOSSES);
  return AV_OK;
}
