#include "model/layout.h"

#include "base/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 16 }; /* elements: ranges start on 64 bytes in float */

av_model_spec av_model_spec_from(const av_config *config, int64_t n_genes, int64_t n_batches) {
  return (av_model_spec){.linear = config->model.linear_decoder,
                         .likelihood = config->model.gene_likelihood,
                         .dispersion = config->model.dispersion,
                         .latent_library = !config->model.use_observed_lib_size,
                         .log1p = config->model.log_variational,
                         .n_genes = n_genes,
                         .n_hidden = config->model.n_hidden,
                         .n_latent = config->model.n_latent,
                         .n_layers = config->model.n_layers,
                         .n_batches = n_batches,
                         .dropout = config->model.dropout_rate};
}

static int64_t take(int64_t *next, int64_t n) {
  const int64_t at = *next;
  *next += (n + ALIGN - 1) / ALIGN * ALIGN;
  return at;
}

static av_layer take_layer(av_layout *layout, int64_t n_in, int64_t n_onehot, int64_t n_out) {
  av_layer layer = {.n_in = n_in, .n_onehot = n_onehot, .n_out = n_out};
  layer.w = take(&layout->n_params, (n_in + n_onehot) * n_out);
  layer.b = take(&layout->n_params, n_out);
  layer.gamma = take(&layout->n_params, n_out);
  layer.beta = take(&layout->n_params, n_out);
  layer.running = take(&layout->n_running, 2 * n_out);
  return layer;
}

static av_gene_head take_head(av_layout *layout, int64_t n_in, int64_t n_onehot) {
  const int64_t genes = layout->spec.n_genes;
  av_gene_head head = {
      .n_in = n_in, .n_onehot = n_onehot, .b = -1, .gamma = -1, .beta = -1, .running = -1};
  head.w = take(&layout->n_params, (n_in + n_onehot) * genes);
  if (layout->spec.linear) {
    head.gamma = take(&layout->n_params, genes);
    head.beta = take(&layout->n_params, genes);
    head.running = take(&layout->n_running, 2 * genes);
  } else {
    head.b = take(&layout->n_params, genes);
  }
  return head;
}

static void take_all(av_layout *layout) {
  const av_model_spec *spec = &layout->spec;
  const int64_t onehot = av_spec_onehot(spec);
  const int64_t hidden = spec->n_hidden;
  layout->first = take_layer(layout, spec->n_genes, 0, hidden * (spec->latent_library ? 2 : 1));
  for (int64_t i = 0; i + 1 < spec->n_layers; ++i) {
    layout->encoder[i] = take_layer(layout, hidden, 0, hidden);
  }
  layout->z_w = take(&layout->n_params, hidden * 2 * spec->n_latent);
  layout->z_b = take(&layout->n_params, 2 * spec->n_latent);
  layout->l_w = spec->latent_library ? take(&layout->n_params, hidden * 2) : -1;
  layout->l_b = spec->latent_library ? take(&layout->n_params, 2) : -1;
  int64_t width = spec->n_latent;
  if (!spec->linear) {
    for (int64_t i = 0; i < spec->n_layers; ++i) {
      layout->decoder[i] = take_layer(layout, width, onehot, hidden);
      width = hidden;
    }
  }
  layout->scale = take_head(layout, width, spec->linear ? onehot : 0);
  layout->dropout = (av_gene_head){.w = -1};
  if (av_spec_inflated(spec)) {
    layout->dropout = take_head(layout, width, spec->linear ? onehot : 0);
  }
  layout->px_r = take(&layout->n_params, av_spec_dispersions(spec) * spec->n_genes);
}

/* Adds a tensor; `prefix` and `name` are joined by a dot. */
static void add(av_layout *layout, const char *prefix, const char *name, av_tensor tensor) {
  if (prefix[0] == '\0') {
    snprintf(tensor.name, sizeof tensor.name, "%s", name);
  } else {
    snprintf(tensor.name, sizeof tensor.name, "%s.%s", prefix, name);
  }
  layout->tensors[layout->n_tensors++] = tensor;
  if (!tensor.in_running) {
    layout->n_trained += tensor.rows * tensor.columns;
  }
}

static av_tensor vector(int64_t at, int64_t n, av_tensor_role role, int64_t fan_in) {
  return (av_tensor){
      .at = at, .rows = 1, .columns = n, .stride = n, .n_dims = 1, .role = role, .fan_in = fan_in};
}

static av_tensor weight(int64_t at, int64_t n_in, int64_t n_out, int64_t stride) {
  return (av_tensor){.at = at,
                     .rows = n_in,
                     .columns = n_out,
                     .stride = stride,
                     .transposed = true,
                     .n_dims = 2,
                     .role = AV_ROLE_UNIFORM,
                     .fan_in = n_in};
}

static void add_norm(av_layout *layout, const char *prefix, int64_t gamma, int64_t beta,
                     int64_t running, int64_t total, int64_t first, int64_t n) {
  av_tensor mean = vector(running + first, n, AV_ROLE_ZERO, 0);
  av_tensor variance = vector(running + total + first, n, AV_ROLE_ONE, 0);
  mean.in_running = true;
  variance.in_running = true;
  add(layout, prefix, "weight", vector(gamma + first, n, AV_ROLE_ONE, 0));
  add(layout, prefix, "bias", vector(beta + first, n, AV_ROLE_ZERO, 0));
  add(layout, prefix, "running_mean", mean);
  add(layout, prefix, "running_var", variance);
}

/* Columns [first, first + n) of a layer, under scvi-tools' name of layer number `number`. */
static void add_layer(av_layout *layout, const char *stack, int64_t number, const av_layer *layer,
                      int64_t first, int64_t n) {
  char prefix[64];
  const int64_t n_in = layer->n_in + layer->n_onehot;
  snprintf(prefix, sizeof prefix, "%s.fc_layers.Layer %lld.0", stack, (long long)number);
  add(layout, prefix, "weight", weight(layer->w + first, n_in, n, layer->n_out));
  add(layout, prefix, "bias", vector(layer->b + first, n, AV_ROLE_UNIFORM, n_in));
  snprintf(prefix, sizeof prefix, "%s.fc_layers.Layer %lld.1", stack, (long long)number);
  add_norm(layout, prefix, layer->gamma, layer->beta, layer->running, layer->n_out, first, n);
}

/* Mean and variance heads, fused as columns [mean | variance]. */
static void add_posterior(av_layout *layout, const char *encoder, int64_t w, int64_t b, int64_t n) {
  static const char *const head[] = {"mean_encoder", "var_encoder"};
  const int64_t hidden = layout->spec.n_hidden;
  for (int64_t i = 0; i < 2; ++i) {
    char prefix[64];
    snprintf(prefix, sizeof prefix, "%s.%s", encoder, head[i]);
    add(layout, prefix, "weight", weight(w + i * n, hidden, n, 2 * n));
    add(layout, prefix, "bias", vector(b + i * n, n, AV_ROLE_UNIFORM, hidden));
  }
}

static void add_head(av_layout *layout, const char *linear, const char *dense,
                     const av_gene_head *head) {
  const int64_t genes = layout->spec.n_genes;
  const int64_t n_in = head->n_in + head->n_onehot;
  if (layout->spec.linear) {
    char prefix[64];
    snprintf(prefix, sizeof prefix, "%s.fc_layers.Layer 0.0", linear);
    add(layout, prefix, "weight", weight(head->w, n_in, genes, genes));
    snprintf(prefix, sizeof prefix, "%s.fc_layers.Layer 0.1", linear);
    add_norm(layout, prefix, head->gamma, head->beta, head->running, genes, 0, genes);
  } else {
    add(layout, dense, "weight", weight(head->w, n_in, genes, genes));
    add(layout, dense, "bias", vector(head->b, genes, AV_ROLE_UNIFORM, n_in));
  }
}

static void add_all(av_layout *layout) {
  const av_model_spec *spec = &layout->spec;
  const int64_t hidden = spec->n_hidden;
  add_layer(layout, "z_encoder.encoder", 0, &layout->first, 0, hidden);
  for (int64_t i = 0; i + 1 < spec->n_layers; ++i) {
    add_layer(layout, "z_encoder.encoder", i + 1, &layout->encoder[i], 0, hidden);
  }
  add_posterior(layout, "z_encoder", layout->z_w, layout->z_b, spec->n_latent);
  if (spec->latent_library) {
    add_layer(layout, "l_encoder.encoder", 0, &layout->first, hidden, hidden);
    add_posterior(layout, "l_encoder", layout->l_w, layout->l_b, 1);
  }
  for (int64_t i = 0; !spec->linear && i < spec->n_layers; ++i) {
    add_layer(layout, "decoder.px_decoder", i, &layout->decoder[i], 0, hidden);
  }
  add_head(layout, "decoder.factor_regressor", "decoder.px_scale_decoder.0", &layout->scale);
  if (av_spec_inflated(spec)) {
    add_head(layout, "decoder.px_dropout_decoder", "decoder.px_dropout_decoder", &layout->dropout);
  }
  const bool by_batch = spec->dispersion == AV_DISPERSION_GENE_BATCH; /* (G, S), also with S = 1 */
  av_tensor px_r = {.at = layout->px_r,
                    .rows = av_spec_dispersions(spec),
                    .columns = spec->n_genes,
                    .stride = spec->n_genes,
                    .transposed = by_batch,
                    .n_dims = by_batch ? 2 : 1,
                    .role = AV_ROLE_NORMAL};
  add(layout, "", "px_r", px_r);
}

av_status av_layout_create(av_layout *layout, const av_model_spec *spec) {
  enum { PER_LAYER = 6, OTHERS = 32 };
  *layout = (av_layout){.spec = *spec};
  const size_t layers = (size_t)spec->n_layers;
  layout->encoder = av_calloc(layers, sizeof *layout->encoder);
  layout->decoder = av_calloc(layers, sizeof *layout->decoder);
  layout->tensors = av_calloc(2 * PER_LAYER * layers + OTHERS, sizeof *layout->tensors);
  if (layout->encoder == NULL || layout->decoder == NULL || layout->tensors == NULL) {
    av_layout_free(layout);
    return av_fail(AV_NOMEM, "out of memory (layout of the model)");
  }
  take_all(layout);
  add_all(layout);
  return AV_OK;
}

void av_layout_free(av_layout *layout) {
  free(layout->encoder);
  free(layout->decoder);
  free(layout->tensors);
  *layout = (av_layout){0};
}
