#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "reference/intermediates.h"

#include "backend/latent.h"
#include "model/vae_parts.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char TABLE[] = "intermediates";

/* Columns [first, first + n) of a layer's arrays under scvi-tools' name. */
typedef struct part {
  const char *stack;
  int64_t number;
  const av_layer *layer;
  const av_hidden *arrays;
  int64_t first, n;
  bool training; /* else it has running statistics and no dropout */
} part;

static void name_of(const part *p, const char *kind, size_t size, char *name) {
  snprintf(name, size, "%s.fc_layers.Layer %lld.%s", p->stack, (long long)p->number, kind);
}

/* Compares those columns of an array (mine, n_out); returns 1. */
static int check_columns(const bench *b, const part *p, const char *kind, const double *values) {
  char name[96];
  double *columns = bench_zeros(b->mine * p->n);
  for (int64_t i = 0; i < b->mine; ++i) {
    memcpy(columns + i * p->n, values + i * p->layer->n_out + p->first,
           (size_t)p->n * sizeof *columns);
  }
  name_of(p, kind, sizeof name, name);
  bench_rows(b, TABLE, name, p->n, columns, 0.0);
  free(columns);
  return 1;
}

/* The layer's BatchNorm, and LayerNorm if `norm` says so, without what follows; free(). */
static double *normalised(bench *b, const part *p, av_norm norm) {
  const av_backend_ops *ops = b->be.ops;
  const int64_t n = p->layer->n_out;
  void *out = NULL;
  void *scratch = NULL; /* training moves running statistics a second time */
  assert_int_equal(ops->alloc(&b->be, AV_REAL, b->mine * n + 1, &out), AV_OK);
  assert_int_equal(ops->alloc(&b->be, AV_REAL, 2 * n, &scratch), AV_OK);
  const bool has = norm.batch_norm;
  av_real *running = has && !norm.training ? av_running_at(b->vae, p->layer->running) : scratch;
  ops->norm_act(&b->be, b->batch, &norm, p->arrays->pre, p->arrays->moments,
                has ? av_param(b->vae, p->layer->gamma) : NULL,
                has ? av_param(b->vae, p->layer->beta) : NULL, has ? running : NULL, out);
  double *values = bench_read(b, out, b->mine * n);
  ops->release(&b->be, out);
  ops->release(&b->be, scratch);
  return values;
}

/* The layer's last output: what Dropout gave, or the ReLU of what is recorded last. */
static void check_end(bench *b, const part *p, const char *last) {
  char name[96];
  const int64_t n = p->n;
  double *act = bench_read(b, p->arrays->act, b->mine * p->layer->n_out);
  name_of(p, "dropout", sizeof name, name);
  if (golden_has(golden_member(b->golden, TABLE), name)) {
    check_columns(b, p, "dropout", act);
  } else {
    name_of(p, last, sizeof name, name);
    double *wanted = golden_tensor(golden_member(b->golden, TABLE), name, b->n * n);
    const double allowed = b->tolerance * bench_largest(b->n * n, wanted);
    for (int64_t i = 0; i < b->mine; ++i) {
      double *row = wanted + b->position[i] * n;
      for (int64_t j = 0; j < n; ++j) {
        row[j] = fmax(row[j], 0.0);
      }
      bench_within(b, n, act + i * p->layer->n_out + p->first, row, allowed, "ReLU of", name);
    }
    free(wanted);
  }
  free(act);
}

/* One hidden layer; returns how many recorded arrays were compared. */
static int check_layer(bench *b, const part *p, av_stack stack) {
  const bool has_norm = p->layer->gamma >= 0;
  av_norm norm = {.n = p->layer->n_out,
                  .training = p->training,
                  .batch_norm = has_norm,
                  .blocks = stack.blocks,
                  .n_cells = b->n};
  const char *last = "linear";
  double *pre = bench_read(b, p->arrays->pre, b->mine * p->layer->n_out);
  int checked = check_columns(b, p, last, pre);
  free(pre);
  if (has_norm) {
    last = "batch_norm";
    double *values = normalised(b, p, norm);
    checked += check_columns(b, p, last, values);
    free(values);
  }
  if (stack.layer_norm) {
    last = "layer_norm";
    norm.layer_norm = true;
    double *values = normalised(b, p, norm);
    checked += check_columns(b, p, last, values);
    free(values);
  }
  check_end(b, p, last);
  return checked + (stack.dropout > 0.0 ? 1 : 0);
}

static int check_layers(bench *b) {
  const av_vae *vae = b->vae;
  const av_layout *layout = b->layout;
  const int64_t hidden = b->spec.n_hidden;
  const bool training = !vae->frozen_encoder;
  const part first = {.stack = "z_encoder.encoder",
                      .layer = &layout->first,
                      .arrays = &vae->first,
                      .n = hidden,
                      .training = training};
  int checked = check_layer(b, &first, av_encoder_stack(vae, first.layer));
  if (b->spec.latent_library) {
    part library = first;
    library.stack = "l_encoder.encoder";
    library.first = hidden;
    checked += check_layer(b, &library, av_encoder_stack(vae, first.layer));
  }
  for (int64_t i = 0; i + 1 < b->spec.n_layers; ++i) {
    const part p = {.stack = "z_encoder.encoder",
                    .number = i + 1,
                    .layer = &layout->encoder[i],
                    .arrays = &vae->encoder[i],
                    .n = hidden,
                    .training = training};
    checked += check_layer(b, &p, av_encoder_stack(vae, p.layer));
  }
  for (int64_t i = 0; !b->spec.linear && i < b->spec.n_layers; ++i) {
    const part p = {.stack = "decoder.px_decoder",
                    .number = i,
                    .layer = &layout->decoder[i],
                    .arrays = &vae->decoder[i],
                    .n = hidden,
                    .training = true};
    checked += check_layer(b, &p, av_decoder_stack(vae));
  }
  return checked;
}

/* A linear decoder's head: before BatchNorm from its weights, after it from what the backend
 * decodes with, folded. */
static int check_linear_head(const bench *b, const char *stack, const av_gene_head *place,
                             const av_decode *decode, const av_head *head) {
  char name[96];
  const bool has_norm = b->spec.decoder_batch_norm;
  double *logits = bench_head(b, decode, head);
  snprintf(name, sizeof name, "decoder.%s.fc_layers.Layer 0.%s", stack,
           has_norm ? "batch_norm" : "linear");
  bench_rows(b, TABLE, name, b->spec.n_genes, logits, 0.0);
  free(logits);
  if (!has_norm) {
    return 1;
  }
  const av_head plain = {.w = av_param(b->vae, place->w),
                         .c = place->b < 0 ? NULL : av_param(b->vae, place->b)};
  double *values = bench_head(b, decode, &plain);
  snprintf(name, sizeof name, "decoder.%s.fc_layers.Layer 0.linear", stack);
  bench_rows(b, TABLE, name, b->spec.n_genes, values, 0.0);
  free(values);
  return 2;
}

static void check_posterior(const bench *b, const av_real *heads, int64_t width, const char *mean,
                            const char *variance) {
  double *head = bench_read(b, heads, b->mine * 2 * width);
  double *means = bench_zeros(b->mine * width);
  double *variances = bench_zeros(b->mine * width);
  for (int64_t i = 0; i < b->mine; ++i) {
    for (int64_t k = 0; k < width; ++k) {
      means[i * width + k] = head[i * 2 * width + k];
      variances[i * width + k] = exp(head[i * 2 * width + width + k]) + AV_VARIANCE_FLOOR;
    }
  }
  bench_rows(b, TABLE, mean, width, means, 0.0);
  bench_rows(b, TABLE, variance, width, variances, 0.0);
  free(head);
  free(means);
  free(variances);
}

static int check_latent(const bench *b) {
  const int64_t k = b->spec.n_latent;
  const int64_t stride = av_spec_decoder_input(&b->spec);
  double *x = bench_read(b, b->vae->z, b->mine * stride);
  double *l = bench_read(b, b->vae->l, b->mine);
  double *z = bench_zeros(b->mine * k);
  for (int64_t i = 0; i < b->mine; ++i) {
    memcpy(z + i * k, x + i * stride, (size_t)k * sizeof *z);
  }
  bench_rows(b, TABLE, "z", k, z, 0.0);
  bench_rows(b, TABLE, "l", 1, l, 0.0);
  free(x);
  free(l);
  free(z);
  check_posterior(b, b->vae->z_head, k, "z_mean", "z_variance");
  if (b->spec.latent_library) {
    check_posterior(b, b->vae->l_head, 1, "l_mean", "l_variance");
    return 6;
  }
  return 4;
}

static int check_decoder(bench *b, const av_decode *decode, double float_output) {
  const int64_t size = b->mine * b->spec.n_genes;
  float *floats = calloc((size_t)size + 1, sizeof *floats);
  double *rho = bench_zeros(size);
  int checked = 1;
  assert_non_null(floats);
  assert_int_equal(b->be.ops->decode_output(&b->be, b->batch, decode, bench_decoder_input(b),
                                            b->vae->l, (av_average){.n = 1}, floats, NULL),
                   AV_OK);
  assert_int_equal(b->be.ops->output_end(&b->be), AV_OK);
  for (int64_t i = 0; i < size; ++i) {
    rho[i] = (double)floats[i];
  }
  bench_rows(b, TABLE, "rho", b->spec.n_genes, rho, float_output);
  free(floats);
  free(rho);
  if (b->spec.linear) {
    checked += check_linear_head(b, "factor_regressor", &b->layout->scale, decode, &decode->scale);
    if (av_spec_inflated(&b->spec)) {
      checked +=
          check_linear_head(b, "px_dropout_decoder", &b->layout->dropout, decode, &decode->dropout);
    }
  }
  return checked;
}

/* KL(z) and KL(l) of one cell of the minibatch: the operation on a batch of that cell alone. */
static void cell_terms(bench *b, const av_latent *latent, int64_t i, void *scratch, void *sums,
                       double *losses) {
  av_backend *be = &b->be;
  be->ops->zero(be, AV_SUM, sums, AV_LOSSES);
  be->ops->batch_select(be, b->batch, 1, &b->row[i]);
  const av_real *l_head =
      b->spec.latent_library ? av_backend_at(be, AV_REAL, b->vae->l_head, 2 * i) : NULL;
  be->ops->latent_draw(
      be, b->batch, latent, av_backend_at(be, AV_REAL, b->vae->z_head, 2 * b->spec.n_latent * i),
      l_head, b->vae->prior, scratch, av_backend_at(be, AV_REAL, scratch, latent->stride), sums);
  assert_int_equal(be->ops->read(be, AV_SUM, sums, AV_LOSSES, losses), AV_OK);
}

static int check_cells(bench *b, const av_decode *decode, av_draw draw, double kl_weight) {
  enum { TERMS = 3 };
  const av_pass p = {.batch = b->batch, .training = true, .draw = draw, .kl_weight = kl_weight};
  const av_latent latent = av_latent_of(b->vae, &p, true);
  double *nll = bench_zeros(b->mine);
  double *wanted = golden_tensor(golden_member(b->golden, TABLE), "cells", b->n * TERMS);
  const double allowed =
      b->tolerance * bench_largest(b->n * TERMS, wanted) + (b->be.strict ? STRICT_LOSS : 0.0);
  void *scratch = NULL;
  void *sums = NULL;
  assert_int_equal(b->be.ops->alloc(&b->be, AV_REAL, latent.stride + 1, &scratch), AV_OK);
  assert_int_equal(b->be.ops->alloc(&b->be, AV_SUM, AV_LOSSES, &sums), AV_OK);
  assert_int_equal(
      b->be.ops->decode_cells(&b->be, b->batch, decode, bench_decoder_input(b), b->vae->l, nll),
      AV_OK);
  for (int64_t i = 0; i < b->mine; ++i) {
    double found[AV_LOSSES];
    cell_terms(b, &latent, i, scratch, sums, found);
    found[0] = nll[i];
    bench_within(b, TERMS, found, wanted + b->position[i] * TERMS, allowed, "loss of", "a cell");
  }
  bench_select(b);
  b->be.ops->release(&b->be, scratch);
  b->be.ops->release(&b->be, sums);
  free(nll);
  free(wanted);
  return 1;
}

void check_intermediates(bench *b, av_draw draw, double kl_weight, double float_output) {
  const av_decode decode = av_decode_of(b->vae, false);
  int checked = check_layers(b) + check_latent(b) + check_decoder(b, &decode, float_output) +
                check_cells(b, &decode, draw, kl_weight);
  assert_int_equal(checked, cJSON_GetArraySize(golden_member(b->golden, TABLE)));
}
