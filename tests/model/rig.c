#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "backend/cpu/cpu.h"
#include "backend/reference/reference.h"
#include "base/memory.h"
#include "math/rng.h"
#include "model/library_prior.h"
#include "model/rig.h"
#include "model/toy.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

rig_kind rig_kind_of(const char *name) {
  if (strcmp(name, "reference") == 0) {
    return (rig_kind){.ops = &av_backend_reference, .tolerance = 1e-10};
  }
  return (rig_kind){
      .ops = &av_backend_cpu, .strict = strcmp(name, "strict") == 0, .tolerance = 1e-4};
}

av_model_spec rig_spec(bool linear, int likelihood, int dispersion, bool latent_library,
                       int64_t n_layers, int64_t n_batches) {
  return (av_model_spec){.linear = linear,
                         .likelihood = likelihood,
                         .dispersion = dispersion,
                         .latent_library = latent_library,
                         .log1p = true,
                         .deep_covariates = true,
                         .encoder_batch_norm = true,
                         .decoder_batch_norm = true,
                         .n_genes = 11,
                         .n_hidden = 5,
                         .n_latent = 3,
                         .n_layers = n_layers,
                         .n_batches = n_batches,
                         .n_onehot = n_batches > 1 ? n_batches : 0,
                         .dropout = 0.2};
}

av_model_spec rig_spec_with(av_model_spec spec, const toy_extras *extras) {
  spec.n_onehot = spec.n_batches > 1 ? spec.n_batches : 0;
  for (int c = 0; c < 2; ++c) {
    spec.n_onehot += extras->levels[c] > 1 ? extras->levels[c] : 0;
  }
  spec.n_continuous = extras->n_continuous;
  spec.n_labels = spec.dispersion == AV_DISPERSION_GENE_LABEL ? extras->n_labels : 0;
  spec.size_factor = extras->size_factor;
  spec.latent_library = spec.latent_library && !extras->size_factor;
  return spec;
}

/* Uniform in (low, high). */
static double between(double low, double high, uint64_t seed, int64_t tensor, int64_t element) {
  uint32_t words[4];
  av_random4(words, seed, AV_DRAW_TEST, (uint64_t)element, (uint32_t)tensor, 77);
  return low + (high - low) * av_uniform_open32(words[0]);
}

void rig_scatter(const av_layout *layout, uint64_t seed, double *params, double *running) {
  for (int64_t t = 0; t < layout->n_tensors; ++t) {
    const av_tensor *tensor = &layout->tensors[t];
    double *values = (tensor->in_running ? running : params) + tensor->at;
    const bool positive = tensor->role == AV_ROLE_ONE;
    const double width = tensor->role == AV_ROLE_UNIFORM ? 1.2 / sqrt((double)tensor->fan_in) : 0.7;
    for (int64_t i = 0; i < tensor->rows; ++i) {
      for (int64_t j = 0; j < tensor->columns; ++j) {
        values[i * tensor->stride + j] = between(positive ? 0.5 : -width, positive ? 1.5 : width,
                                                 seed, t, i * tensor->columns + j);
      }
    }
  }
}

void rig_open(rig *r, const rig_kind *kind, const av_comm *comm, av_model_spec spec,
              int64_t n_cells) {
  const toy_extras none = {.levels = {0}};
  rig_open_with(r, kind, comm, spec, &none, n_cells);
}

void rig_open_with(rig *r, const rig_kind *kind, const av_comm *comm, av_model_spec spec,
                   const toy_extras *extras, int64_t n_cells) {
  *r = (rig){.comm = comm};
  const av_backend_ops *ops = kind->ops;
  r->be = (av_backend){.ops = ops,
                       .comm = comm,
                       .threads = comm->size > 1 ? 1 : 2,
                       .strict = kind->strict,
                       .same_bits = kind->same_bits,
                       .sums_by_mpi = kind->sums_by_mpi,
                       .keeps_passes = kind->keeps_passes,
                       .gpu_rows = kind->gpu_rows};
  assert_int_equal(ops->open(&r->be), AV_OK);
  r->be.sums = kind->sums != AV_SUMS_BESIDE ? kind->sums : r->be.sums;
  toy_create(&r->dataset, &r->split, comm, n_cells, spec.n_genes, spec.n_batches);
  toy_add(&r->dataset, extras);
  spec = rig_spec_with(spec, extras);
  assert_int_equal(av_library_prior(comm, &r->dataset, true, r->prior), AV_OK);
  assert_int_equal(
      av_vae_create(&r->vae, &r->be, &spec, &r->dataset.design, r->prior, r->dataset.n_local),
      AV_OK);
  assert_int_equal(ops->data_load(&r->be, &r->dataset, &r->data), AV_OK);
  assert_int_equal(ops->batch_create(&r->be, r->data, r->dataset.n_local, &r->batch), AV_OK);
  r->layout = av_vae_layout(r->vae);
  r->params = av_calloc((size_t)r->layout->n_params, sizeof *r->params);
  r->running = av_calloc((size_t)r->layout->n_running, sizeof *r->running);
  r->rows = av_calloc((size_t)r->dataset.n_local, sizeof *r->rows);
  rig_scatter(r->layout, 5, r->params, r->running);
  assert_int_equal(av_vae_set_values(r->vae, r->params, r->running), AV_OK);
}

void rig_close(rig *r) {
  free(r->params);
  free(r->running);
  free(r->rows);
  av_vae_free(&r->vae);
  r->be.ops->batch_free(&r->be, r->batch);
  r->be.ops->data_free(&r->be, r->data);
  toy_free(&r->dataset, &r->split);
  av_backend_close(&r->be);
}

int64_t rig_select(rig *r, int64_t n, const int64_t *cells) {
  int64_t mine = 0;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t row = cells[i] - r->dataset.first;
    if (row >= 0 && row < r->dataset.n_local) {
      r->rows[mine++] = row;
    }
  }
  r->be.ops->batch_select(&r->be, r->batch, mine, r->rows);
  return mine;
}
