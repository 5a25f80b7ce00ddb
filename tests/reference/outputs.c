#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "reference/outputs.h"

#include "backend/latent.h"
#include "model/vae_parts.h"
#include "posterior/factors.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char OUTPUTS[] = "outputs";

static void check_encoded(const bench *b) {
  const int64_t k = b->spec.n_latent;
  double *mean = bench_zeros(b->mine * k);
  double *variance = bench_zeros(b->mine * k);
  assert_int_equal(av_vae_encode(b->vae, b->batch, b->mine, mean, variance), AV_OK);
  bench_rows(b, OUTPUTS, "z_mean", k, mean, 0.0);
  bench_rows(b, OUTPUTS, "z_variance", k, variance, 0.0);
  free(mean);
  free(variance);
}

static void check_library(const bench *b) {
  double *head = bench_read(b, b->vae->l_head, b->mine * 2);
  double *mean = bench_zeros(b->mine);
  double *variance = bench_zeros(b->mine);
  for (int64_t i = 0; i < b->mine; ++i) {
    mean[i] = head[2 * i];
    variance[i] = exp(head[2 * i + 1]) + AV_VARIANCE_FLOOR;
  }
  bench_rows(b, OUTPUTS, "l_mean", 1, mean, 0.0);
  bench_rows(b, OUTPUTS, "l_variance", 1, variance, 0.0);
  free(head);
  free(mean);
  free(variance);
}

static void check_decoded(const bench *b, double float_output) {
  const int64_t size = b->mine * b->spec.n_genes;
  float *floats = calloc((size_t)(2 * size) + 1, sizeof *floats);
  double *doubles = bench_zeros(2 * size);
  assert_non_null(floats);
  assert_int_equal(
      av_vae_decode_begin(b->vae, b->batch, NULL, (av_average){.n = 1}, floats, floats + size),
      AV_OK);
  assert_int_equal(av_vae_decode_end(b->vae), AV_OK);
  for (int64_t i = 0; i < 2 * size; ++i) {
    doubles[i] = (double)floats[i];
  }
  bench_rows(b, OUTPUTS, "rho", b->spec.n_genes, doubles, float_output);
  bench_rows(b, OUTPUTS, "mu", b->spec.n_genes, doubles + size, float_output);
  free(floats);
  free(doubles);
}

/* sigmoid of the zero-inflation logits; after check_decoded. */
static void check_inflation(const bench *b) {
  const av_decode decode = av_decode_of(b->vae, false);
  double *pi = bench_head(b, &decode, &decode.dropout);
  for (int64_t i = 0; i < b->mine * b->spec.n_genes; ++i) {
    pi[i] = 1.0 / (1.0 + exp(-pi[i]));
  }
  bench_rows(b, OUTPUTS, "pi", b->spec.n_genes, pi, 0.0);
  free(pi);
}

/* log theta of the minibatch (mine, G), of its batches or labels or from its head; free(). */
static double *log_theta(const bench *b) {
  const int64_t genes = b->spec.n_genes;
  if (av_spec_cell_dispersion(&b->spec)) {
    const av_decode decode = av_decode_of(b->vae, false);
    return bench_head(b, &decode, &decode.px_r_head);
  }
  const bool by_label = b->spec.dispersion == AV_DISPERSION_GENE_LABEL;
  const int32_t *code = by_label ? b->dataset.label.code : b->dataset.batch.code;
  double *values = bench_zeros(b->mine * genes);
  for (int64_t i = 0; i < b->mine; ++i) {
    memcpy(values + i * genes, b->params + b->layout->px_r + code[b->row[i]] * genes,
           (size_t)genes * sizeof *values);
  }
  return values;
}

static void check_dispersion(const bench *b) {
  const int64_t genes = b->spec.n_genes;
  const bool one = b->spec.dispersion == AV_DISPERSION_GENE;
  double *theta = one ? bench_zeros(genes) : log_theta(b);
  if (one) {
    memcpy(theta, b->params + b->layout->px_r, (size_t)genes * sizeof *theta);
  }
  for (int64_t i = 0; i < (one ? 1 : b->mine) * genes; ++i) {
    theta[i] = exp(theta[i]);
  }
  if (one) {
    double *wanted = golden_tensor(golden_member(b->golden, OUTPUTS), "theta", genes);
    bench_within(b, genes, theta, wanted, b->tolerance * bench_largest(genes, wanted), OUTPUTS,
                 "theta");
    free(wanted);
  } else {
    bench_rows(b, OUTPUTS, "theta", genes, theta, 0.0);
  }
  free(theta);
}

static void check_loadings(const bench *b) {
  const int64_t genes = b->spec.n_genes;
  const int64_t k = b->spec.n_latent;
  double *weight = bench_zeros(genes);
  double *variance = bench_zeros(k);
  for (int64_t i = 0; i < genes + k; ++i) {
    *(i < genes ? &weight[i] : &variance[i - genes]) = i < genes ? 1.0 / (double)genes : 1.0;
  }
  av_factors factors;
  assert_int_equal(av_factors_create(&factors, b->layout, b->params, b->running, weight, variance),
                   AV_OK);
  double *wanted = golden_tensor(golden_member(b->golden, OUTPUTS), "loadings", genes * k);
  bench_within(b, genes * k, factors.loadings, wanted,
               b->tolerance * bench_largest(genes * k, wanted), OUTPUTS, "loadings");
  free(wanted);
  free(weight);
  free(variance);
  av_factors_free(&factors);
}

void check_outputs(const bench *b, double float_output) {
  int n_outputs = 4;
  check_encoded(b);
  if (b->spec.latent_library) {
    check_library(b);
    n_outputs += 2;
  }
  check_decoded(b, float_output);
  if (av_spec_inflated(&b->spec)) {
    check_inflation(b);
    n_outputs += 1;
  }
  if (b->spec.likelihood != AV_LIKELIHOOD_POISSON) {
    check_dispersion(b);
    n_outputs += 1;
  }
  if (b->spec.linear) {
    check_loadings(b);
    n_outputs += 1;
  }
  assert_int_equal(cJSON_GetArraySize(golden_member(b->golden, OUTPUTS)), n_outputs);
}
