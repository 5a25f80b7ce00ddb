#include "model/layout.h"

#include "base/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 16 }; /* elements: ranges start on 64 bytes in float */

static bool in_encoder(int where) { return where == AV_WHERE_BOTH || where == AV_WHERE_ENCODER; }
static bool in_decoder(int where) { return where == AV_WHERE_BOTH || where == AV_WHERE_DECODER; }

av_model_spec av_model_spec_from(const av_config *config, const av_dataset *dataset) {
  const bool linear = config->model.linear_decoder;
  const bool by_label = config->model.dispersion == AV_DISPERSION_GENE_LABEL;
  const bool size_factor = config->data.size_factor_key != NULL;
  return (av_model_spec){.linear = linear,
                         .likelihood = config->model.gene_likelihood,
                         .dispersion = config->model.dispersion,
                         .simplex = config->model.latent_distribution == AV_LATENT_LN,
                         .latent_library = !config->model.use_observed_lib_size && !size_factor,
                         .size_factor = size_factor,
                         .log1p = config->model.log_variational,
                         .encode_covariates = config->model.encode_covariates,
                         .deep_covariates = config->model.deeply_inject_covariates,
                         .encoder_batch_norm = linear || in_encoder(config->model.use_batch_norm),
                         .decoder_batch_norm = in_decoder(config->model.use_batch_norm),
                         .encoder_layer_norm = in_encoder(config->model.use_layer_norm),
                         .decoder_layer_norm = !linear && in_decoder(config->model.use_layer_norm),
                         .bias = linear && config->model.bias,
                         .n_genes = dataset->n_genes,
                         .n_hidden = config->model.n_hidden,
                         .n_latent = config->model.n_latent,
                         .n_layers = config->model.n_layers,
                         .n_batches = dataset->batch.levels.n,
                         .n_labels = by_label ? dataset->label.levels.n : 0,
                         .n_onehot = dataset->design.n_onehot,
                         .n_continuous = dataset->design.n_continuous,
                         .dropout = config->model.dropout_rate};
}

static int64_t take(int64_t *next, int64_t n) {
  const int64_t at = *next;
  *next += (n + ALIGN - 1) / ALIGN * ALIGN;
  return at;
}

static av_layer take_layer(av_layout *layout, int64_t n_in, int64_t n_continuous, int64_t n_onehot,
                           int64_t n_out, bool batch_norm) {
  av_layer layer = {.n_in = n_in,
                    .n_continuous = n_continuous,
                    .n_onehot = n_onehot,
                    .n_out = n_out,
                    .gamma = -1,
                    .beta = -1,
                    .running = -1};
  layer.w = take(&layout->n_params, (n_in + n_continuous + n_onehot) * n_out);
  layer.b = take(&layout->n_params, n_out);
  if (batch_norm) {
    layer.gamma = take(&layout->n_params, n_out);
    layer.beta = take(&layout->n_params, n_out);
    layer.running = take(&layout->n_running, 2 * n_out);
  }
  return layer;
}

static const av_gene_head no_head = {.w = -1, .b = -1, .gamma = -1, .beta = -1, .running = -1};

static av_gene_head take_head(av_layout *layout, int64_t n_in) {
  const av_model_spec *spec = &layout->spec;
  const int64_t genes = spec->n_genes;
  av_gene_head head = no_head;
  head.n_in = n_in;
  head.n_onehot = spec->linear ? spec->n_onehot : 0;
  head.w = take(&layout->n_params, (n_in + head.n_onehot) * genes);
  if (!spec->linear || spec->bias) {
    head.b = take(&layout->n_params, genes);
  }
  if (spec->linear && spec->decoder_batch_norm) {
    head.gamma = take(&layout->n_params, genes);
    head.beta = take(&layout->n_params, genes);
    head.running = take(&layout->n_running, 2 * genes);
  }
  return head;
}

static void take_encoder(av_layout *layout) {
  const av_model_spec *spec = &layout->spec;
  const int64_t hidden = spec->n_hidden;
  const bool covariates = spec->encode_covariates;
  layout->first = take_layer(layout, spec->n_genes, covariates ? spec->n_continuous : 0,
                             covariates ? spec->n_onehot : 0,
                             hidden * (spec->latent_library ? 2 : 1), spec->encoder_batch_norm);
  for (int64_t i = 0; i + 1 < spec->n_layers; ++i) {
    layout->encoder[i] =
        take_layer(layout, hidden, 0, covariates && spec->deep_covariates ? spec->n_onehot : 0,
                   hidden, spec->encoder_batch_norm);
  }
  layout->z_w = take(&layout->n_params, hidden * 2 * spec->n_latent);
  layout->z_b = take(&layout->n_params, 2 * spec->n_latent);
  layout->l_w = spec->latent_library ? take(&layout->n_params, hidden * 2) : -1;
  layout->l_b = spec->latent_library ? take(&layout->n_params, 2) : -1;
}

static void take_decoder(av_layout *layout) {
  const av_model_spec *spec = &layout->spec;
  int64_t width = av_spec_decoder_input(spec);
  for (int64_t i = 0; !spec->linear && i < spec->n_layers; ++i) {
    layout->decoder[i] =
        take_layer(layout, width, 0, i == 0 || spec->deep_covariates ? spec->n_onehot : 0,
                   spec->n_hidden, spec->decoder_batch_norm);
    width = spec->n_hidden;
  }
  layout->scale = take_head(layout, width);
  layout->dropout = av_spec_inflated(spec) ? take_head(layout, width) : no_head;
  layout->px_r_head = av_spec_cell_dispersion(spec) ? take_head(layout, width) : no_head;
  layout->px_r = -1;
  if (av_spec_dispersions(spec) > 0) {
    layout->px_r = take(&layout->n_params, av_spec_dispersions(spec) * spec->n_genes);
  }
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
  const int64_t n_in = layer->n_in + layer->n_continuous + layer->n_onehot;
  snprintf(prefix, sizeof prefix, "%s.fc_layers.Layer %lld.0", stack, (long long)number);
  add(layout, prefix, "weight", weight(layer->w + first, n_in, n, layer->n_out));
  add(layout, prefix, "bias", vector(layer->b + first, n, AV_ROLE_UNIFORM, n_in));
  if (layer->gamma >= 0) {
    snprintf(prefix, sizeof prefix, "%s.fc_layers.Layer %lld.1", stack, (long long)number);
    add_norm(layout, prefix, layer->gamma, layer->beta, layer->running, layer->n_out, first, n);
  }
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

/* A head to genes: `stack` as a layer of its own in a linear decoder, `dense` in scVI's. */
static void add_head(av_layout *layout, const char *stack, const char *dense,
                     const av_gene_head *head) {
  const int64_t genes = layout->spec.n_genes;
  const int64_t n_in = head->n_in + head->n_onehot;
  char prefix[64];
  if (head->w < 0) {
    return;
  }
  if (layout->spec.linear) {
    snprintf(prefix, sizeof prefix, "%s.fc_layers.Layer 0.0", stack);
  } else {
    snprintf(prefix, sizeof prefix, "%s", dense);
  }
  add(layout, prefix, "weight", weight(head->w, n_in, genes, genes));
  if (head->b >= 0) {
    add(layout, prefix, "bias", vector(head->b, genes, AV_ROLE_UNIFORM, n_in));
  }
  if (head->gamma >= 0) {
    snprintf(prefix, sizeof prefix, "%s.fc_layers.Layer 0.1", stack);
    add_norm(layout, prefix, head->gamma, head->beta, head->running, genes, 0, genes);
  }
}

/* (G), or (G, batches) and (G, labels) there, also with one of them. */
static void add_dispersion(av_layout *layout) {
  const av_model_spec *spec = &layout->spec;
  if (layout->px_r < 0) {
    return;
  }
  const bool table = spec->dispersion != AV_DISPERSION_GENE;
  const av_tensor px_r = {.at = layout->px_r,
                          .rows = av_spec_dispersions(spec),
                          .columns = spec->n_genes,
                          .stride = spec->n_genes,
                          .transposed = table,
                          .n_dims = table ? 2 : 1,
                          .role = AV_ROLE_NORMAL};
  add(layout, "", "px_r", px_r);
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
  add_head(layout, "decoder.px_dropout_decoder", "decoder.px_dropout_decoder", &layout->dropout);
  add_head(layout, "decoder.px_r_decoder", "decoder.px_r_decoder", &layout->px_r_head);
  add_dispersion(layout);
}

av_status av_layout_create(av_layout *layout, const av_model_spec *spec) {
  enum { PER_LAYER = 6, OTHERS = 48 };
  *layout = (av_layout){.spec = *spec};
  const size_t layers = (size_t)spec->n_layers;
  layout->encoder = av_calloc(layers, sizeof *layout->encoder);
  layout->decoder = av_calloc(layers, sizeof *layout->decoder);
  layout->tensors = av_calloc(2 * PER_LAYER * layers + OTHERS, sizeof *layout->tensors);
  if (layout->encoder == NULL || layout->decoder == NULL || layout->tensors == NULL) {
    av_layout_free(layout);
    return av_fail(AV_NOMEM, "out of memory (layout of the model)");
  }
  take_encoder(layout);
  layout->decoder_begin = layout->n_params;
  take_decoder(layout);
  add_all(layout);
  return AV_OK;
}

void av_layout_free(av_layout *layout) {
  free(layout->encoder);
  free(layout->decoder);
  free(layout->tensors);
  *layout = (av_layout){0};
}
