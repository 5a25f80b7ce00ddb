/* Starting values: bounds and moments of scvi-tools' ones, the formulas of those from the data
 * worked out again over dense counts; the same bits on any number of ranks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "model/direct.h"
#include "model/init.h"
#include "model/rig.h"
#include "model/toy.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static av_comm comm;
static av_comm self;

#define N(array) (sizeof(array) / sizeof *(array))

typedef struct values {
  av_layout layout;
  double *params, *running;
} values;

static values start(av_model_spec spec, uint64_t seed) {
  values v;
  assert_int_equal(av_layout_create(&v.layout, &spec), AV_OK);
  v.params = av_malloc((size_t)v.layout.n_params, sizeof *v.params);
  v.running = av_malloc((size_t)v.layout.n_running, sizeof *v.running);
  memset(v.params, 0xff, (size_t)v.layout.n_params * sizeof *v.params); /* NaN where forgotten */
  memset(v.running, 0xff, (size_t)v.layout.n_running * sizeof *v.running);
  av_init_values(&v.layout, seed, v.params, v.running);
  return v;
}

static void values_free(values *v) {
  free(v->params);
  free(v->running);
  av_layout_free(&v->layout);
}

/* ---- scvi-tools' starting values ---- */

typedef struct bound {
  const char *name;
  double fan_in; /* U(+-1/sqrt(fan_in)); 0: N(0, 1); -1: all one; -2: all zero */
} bound;

static void check_tensor(const values *v, const bound *b) {
  int64_t rows = 0;
  int64_t columns = 0;
  double *x = direct_tensor(&v->layout, v->params, v->running, b->name, &rows, &columns);
  if (x == NULL) {
    fail_msg("no tensor %s", b->name);
    return;
  }
  const int64_t n = rows * columns;
  double sum = 0.0;
  double squares = 0.0;
  double largest = 0.0;
  for (int64_t i = 0; i < n; ++i) {
    sum += x[i];
    squares += x[i] * x[i];
    largest = fmax(largest, fabs(x[i]));
    if (b->fan_in < 0.0 && !(x[i] == (b->fan_in > -1.5 ? 1.0 : 0.0))) {
      fail_msg("%s: starts with %g", b->name, x[i]);
    }
  }
  free(x);
  if (b->fan_in < 0.0) {
    return;
  }
  const double limit = b->fan_in > 0.0 ? 1.0 / sqrt(b->fan_in) : 6.0;
  const double variance = b->fan_in > 0.0 ? 1.0 / (3.0 * b->fan_in) : 1.0;
  const double kurtosis = b->fan_in > 0.0 ? 1.8 : 3.0;
  const double mean = sum / (double)n;
  const double spread = squares / (double)n;
  /* five standard deviations of mean and of mean square */
  if (!(largest <= limit) || !(fabs(mean) <= 5.0 * sqrt(variance / (double)n)) ||
      !(fabs(spread - variance) <= 5.0 * variance * sqrt((kurtosis - 1.0) / (double)n)) ||
      (b->fan_in > 0.0 && n >= 200 && !(largest > 0.97 * limit))) {
    fail_msg("%s: mean %g, mean square %g, largest %g; expected 0, %g, at most %g", b->name, mean,
             spread, largest, variance, limit);
  }
}

/* Linear of fan_in and its BatchNorm. */
#define LAYER(prefix, fan)                                                      \
  {prefix ".0.weight", fan}, {prefix ".0.bias", fan}, {prefix ".1.weight", -1}, \
      {prefix ".1.bias", -2}, {prefix ".1.running_mean", -2}, {                 \
    prefix ".1.running_var", -1                                                 \
  }
#define LINEAR(prefix, fan) \
  {prefix ".weight", fan}, { prefix ".bias", fan }

/* G = 300, H = 60, K = 7, S = 4. */
static void test_start(void **state) {
  (void)state;
  static const bound encoders[] = {LAYER("z_encoder.encoder.fc_layers.Layer 0", 300),
                                   LAYER("z_encoder.encoder.fc_layers.Layer 1", 60),
                                   LINEAR("z_encoder.mean_encoder", 60),
                                   LINEAR("z_encoder.var_encoder", 60),
                                   LAYER("l_encoder.encoder.fc_layers.Layer 0", 300),
                                   LINEAR("l_encoder.mean_encoder", 60),
                                   LINEAR("l_encoder.var_encoder", 60),
                                   {"px_r", 0}};
  static const bound linear[] = {{"decoder.factor_regressor.fc_layers.Layer 0.0.weight", 11},
                                 {"decoder.factor_regressor.fc_layers.Layer 0.1.weight", -1},
                                 {"decoder.factor_regressor.fc_layers.Layer 0.1.bias", -2},
                                 {"decoder.factor_regressor.fc_layers.Layer 0.1.running_mean", -2},
                                 {"decoder.factor_regressor.fc_layers.Layer 0.1.running_var", -1},
                                 {"decoder.px_dropout_decoder.fc_layers.Layer 0.0.weight", 11},
                                 {"decoder.px_dropout_decoder.fc_layers.Layer 0.1.weight", -1}};
  static const bound dense[] = {LAYER("decoder.px_decoder.fc_layers.Layer 0", 11),
                                LAYER("decoder.px_decoder.fc_layers.Layer 1", 64),
                                LINEAR("decoder.px_scale_decoder.0", 60),
                                LINEAR("decoder.px_dropout_decoder", 60)};
  for (int is_linear = 0; is_linear < 2; ++is_linear) {
    av_model_spec spec =
        rig_spec(is_linear != 0, AV_LIKELIHOOD_ZINB, AV_DISPERSION_GENE_BATCH, true, 2, 4);
    spec.n_genes = 300;
    spec.n_hidden = 60;
    spec.n_latent = 7;
    values v = start(spec, 12);
    for (size_t i = 0; i < N(encoders); ++i) {
      check_tensor(&v, &encoders[i]);
    }
    for (size_t i = 0; i < (is_linear ? N(linear) : N(dense)); ++i) {
      check_tensor(&v, is_linear ? &linear[i] : &dense[i]);
    }
    values_free(&v);
  }
}

/* No value is drawn twice: neither within a tensor nor in two of them (up to scale). */
static int compare(const void *a, const void *b) {
  const double x = *(const double *)a;
  const double y = *(const double *)b;
  return (x > y) - (x < y);
}

static void test_no_repeats(void **state) {
  (void)state;
  values v = start(rig_spec(false, AV_LIKELIHOOD_ZINB, AV_DISPERSION_GENE_BATCH, true, 3, 4), 0);
  double *all = av_calloc((size_t)v.layout.n_params, sizeof *all);
  int64_t n = 0;
  for (int64_t t = 0; t < v.layout.n_tensors; ++t) {
    const av_tensor *tensor = &v.layout.tensors[t];
    for (int64_t i = 0; tensor->role == AV_ROLE_UNIFORM && i < tensor->rows; ++i) {
      for (int64_t j = 0; j < tensor->columns; ++j) {
        const double value = v.params[tensor->at + i * tensor->stride + j];
        all[n++] = rint(value * sqrt((double)tensor->fan_in) * 0x1p32); /* the word drawn */
      }
    }
  }
  qsort(all, (size_t)n, sizeof *all, compare);
  for (int64_t i = 1; i < n; ++i) {
    assert_true(all[i] > all[i - 1]);
  }
  assert_true(n > 300);
  free(all);
  values_free(&v);
}

static void test_seed(void **state) {
  (void)state;
  const av_model_spec spec = rig_spec(true, AV_LIKELIHOOD_NB, AV_DISPERSION_GENE, true, 1, 2);
  values a = start(spec, 4);
  values b = start(spec, 4);
  values c = start(spec, 5);
  const size_t bytes = (size_t)a.layout.n_params * sizeof *a.params;
  assert_memory_equal(a.params, b.params, bytes);
  int64_t same = 0;
  for (int64_t t = 0; t < a.layout.n_tensors; ++t) {
    const av_tensor *tensor = &a.layout.tensors[t];
    same += (tensor->role == AV_ROLE_UNIFORM || tensor->role == AV_ROLE_NORMAL) &&
            a.params[tensor->at] == c.params[tensor->at];
  }
  assert_int_equal(same, 0);
  values_free(&a);
  values_free(&b);
  values_free(&c);
}

/* ---- values from the data ---- */

enum { CELLS = 61 };

static void near(double found, double expected, const char *what) {
  if (!(fabs(found - expected) <= 1e-8 * (1.0 + fabs(expected)))) {
    fail_msg("%s: %.12g, expected %.12g", what, found, expected);
  }
}

/* Frequency f and dispersion of every gene in cells of sizes s, by the formulas of model.md section
 * 7, in two passes; the dispersion then on its way to 3 times the root. Returns whether one is
 * within its limits. */
static bool gene_facts(int64_t n, int64_t genes, const double *x, const double *s, double *f,
                       double *theta) {
  const double way = (double)n / ((double)n + 200.0);
  bool inner = false;
  double total = 0.0;
  double counts = 0.0;
  for (int64_t i = 0; i < n; ++i) {
    total += s[i];
    for (int64_t g = 0; g < genes; ++g) {
      counts += x[i * genes + g];
    }
  }
  for (int64_t g = 0; g < genes; ++g) {
    double count = 0.0;
    for (int64_t i = 0; i < n; ++i) {
      count += x[i * genes + g];
    }
    f[g] = (count + 0.5) / (counts + 0.5 * (double)genes) * counts / total;
    double mean = 0.0;
    double mean_square = 0.0;
    double spread = 0.0;
    for (int64_t i = 0; i < n; ++i) {
      const double mu = s[i] * f[g];
      mean += mu / (double)n;
      mean_square += mu * mu / (double)n;
      spread += (x[i * genes + g] - mu) * (x[i * genes + g] - mu) / (double)n;
    }
    theta[g] = mean_square / fmax(spread - mean, 1e-3 * mean_square);
    inner = inner || (theta[g] > 0.011 && theta[g] < 99.0);
    theta[g] = fmin(fmax(theta[g], 0.01), 100.0);
    theta[g] = pow(theta[g], 1.0 - way) * pow(3.0 * sqrt(theta[g]), way);
  }
  return inner;
}

/* f becomes its logarithm with mean 0. */
static void centred_logs(int64_t genes, double *f) {
  double middle = 0.0;
  for (int64_t g = 0; g < genes; ++g) {
    f[g] = log(f[g]);
    middle += f[g] / (double)genes;
  }
  for (int64_t g = 0; g < genes; ++g) {
    f[g] -= middle;
  }
}

/* Tensor `name` of `after` against `before` (NULL: zero) + shift (NULL: none), times factor. */
static void check_change(const values *after, const values *before, const char *name, double factor,
                         const double *shift) {
  int64_t rows = 0;
  int64_t columns = 0;
  double *now = direct_tensor(&after->layout, after->params, after->running, name, &rows, &columns);
  double *was =
      direct_tensor(&before->layout, before->params, before->running, name, &rows, &columns);
  assert_non_null(now);
  for (int64_t i = 0; i < rows * columns; ++i) {
    near(now[i], factor * was[i] + (shift == NULL ? 0.0 : shift[i]), name);
  }
  free(now);
  free(was);
}

/* A linear decoder's weights: small for z, none for batches. */
static void check_linear_weights(const values *after, const values *before) {
  const av_layout *layout = &after->layout;
  const int64_t of_z = layout->scale.n_in * layout->spec.n_genes;
  const int64_t of_all = of_z + layout->scale.n_onehot * layout->spec.n_genes;
  for (int64_t i = 0; i < of_all; ++i) {
    near(after->params[layout->scale.w + i],
         i < of_z ? 0.6 * before->params[layout->scale.w + i] : 0.0, "weights of a linear decoder");
  }
}

static void check_from_data(av_model_spec spec) {
  av_dataset ours, alone;
  av_split split, one;
  toy_create(&ours, &split, &comm, CELLS, spec.n_genes, spec.n_batches);
  toy_create(&alone, &one, &self, CELLS, spec.n_genes, spec.n_batches);
  values before = start(spec, 2);
  values after = start(spec, 2);
  values single = start(spec, 2);
  assert_int_equal(av_init_from_data(&comm, &ours, split.of, &after.layout, after.params), AV_OK);
  assert_int_equal(av_init_from_data(&self, &alone, one.of, &single.layout, single.params), AV_OK);
  assert_memory_equal(after.params, single.params,
                      (size_t)after.layout.n_params * sizeof *after.params);

  const int64_t genes = spec.n_genes;
  double *x = av_calloc((size_t)(CELLS * genes), sizeof *x);
  double *s = av_calloc(CELLS, sizeof *s);
  double *shift = av_calloc((size_t)genes, sizeof *shift);
  double *theta = av_calloc((size_t)genes, sizeof *theta);
  double *px_r = av_calloc((size_t)(genes * spec.n_batches), sizeof *px_r);
  const int64_t n = toy_dense_counts(&alone, &one, x, s);
  assert_int_equal(n, one.n_train);
  assert_true(gene_facts(n, genes, x, s, shift, theta)); /* or px_r says nothing of moments */
  centred_logs(genes, shift);
  const int64_t repeats = spec.dispersion == AV_DISPERSION_GENE ? 1 : spec.n_batches;
  for (int64_t i = 0; i < genes * repeats; ++i) {
    px_r[i] = log(theta[i / repeats]);
  }
  check_change(&after, &before, "px_r", 0.0, px_r);
  double constant[32];
  for (int i = 0; i < 32; ++i) {
    constant[i] = -1.5;
  }
  const bool inflated = spec.likelihood == AV_LIKELIHOOD_ZINB;
  if (spec.linear) {
    check_change(&after, &before, "decoder.factor_regressor.fc_layers.Layer 0.1.bias", 0.0, shift);
    check_change(&after, &before, "decoder.factor_regressor.fc_layers.Layer 0.1.weight", 0.3, NULL);
    check_linear_weights(&after, &before);
    if (inflated) {
      check_change(&after, &before, "decoder.px_dropout_decoder.fc_layers.Layer 0.1.bias", 0.0,
                   constant);
    }
  } else {
    check_change(&after, &before, "decoder.px_scale_decoder.0.bias", 1.0, shift);
    check_change(&after, &before, "decoder.px_scale_decoder.0.weight", 0.3, NULL);
    if (inflated) {
      check_change(&after, &before, "decoder.px_dropout_decoder.bias", 0.0, constant);
    }
  }
  check_change(&after, &before, "z_encoder.mean_encoder.weight", 1.0, NULL);
  check_change(&after, &before, "z_encoder.encoder.fc_layers.Layer 0.0.weight", 1.0, NULL);
  if (spec.latent_library) {
    double mean = 0.0;
    double variance = 0.0;
    for (int64_t i = 0; i < n; ++i) {
      mean += log(s[i]) / (double)n;
    }
    for (int64_t i = 0; i < n; ++i) {
      variance += (log(s[i]) - mean) * (log(s[i]) - mean) / (double)n;
    }
    check_change(&after, &before, "l_encoder.mean_encoder.weight", 0.1, NULL);
    check_change(&after, &before, "l_encoder.var_encoder.weight", 0.1, NULL);
    check_change(&after, &before, "l_encoder.mean_encoder.bias", 0.0, &mean);
    const double head = log(fmax(0.1 * variance, 1e-4));
    double *found = direct_tensor(&after.layout, after.params, after.running,
                                  "l_encoder.var_encoder.bias", &(int64_t){0}, &(int64_t){0});
    assert_true(fabs(found[0] - head) < 1e-5); /* moments are kept to 30 bits */
    free(found);
  }
  free(x);
  free(s);
  free(shift);
  free(theta);
  free(px_r);
  values_free(&before);
  values_free(&after);
  values_free(&single);
  toy_free(&ours, &split);
  toy_free(&alone, &one);
}

static void test_from_data(void **state) {
  (void)state;
  check_from_data(rig_spec(true, AV_LIKELIHOOD_NB, AV_DISPERSION_GENE, true, 1, 1));
  check_from_data(rig_spec(true, AV_LIKELIHOOD_ZINB, AV_DISPERSION_GENE_BATCH, false, 2, 3));
  check_from_data(rig_spec(false, AV_LIKELIHOOD_ZINB, AV_DISPERSION_GENE, false, 1, 2));
  check_from_data(rig_spec(false, AV_LIKELIHOOD_POISSON, AV_DISPERSION_GENE_BATCH, true, 2, 4));
}

/* Where the intercepts are in models of other shapes; NULL: there is none, nothing is set. */
typedef struct variant {
  const char *what;
  bool linear, size_factor, plain_decoder, bias;
  int dispersion;
  const char *scale, *px_r;
  double scale_kept; /* share of the scale intercept's random value that stays */
  double factors;    /* what size factors are multiplied by; 0: 1 */
} variant;

/* Inverse of softplus. */
static double softplus_inverse(double y) { return y > 1.0 ? y + log1p(-exp(-y)) : log(expm1(y)); }

static void check_variant(const variant *v) {
  toy_extras extras = {.size_factor = v->size_factor};
  extras.n_labels = v->dispersion == AV_DISPERSION_GENE_LABEL ? 3 : 0;
  av_model_spec spec = rig_spec(v->linear, AV_LIKELIHOOD_NB, v->dispersion, false, 1, 2);
  spec = rig_spec_with(spec, &extras);
  spec.size_factor = v->size_factor;
  spec.decoder_batch_norm = !v->plain_decoder;
  spec.bias = v->bias;
  av_dataset data;
  av_split split;
  toy_create(&data, &split, &self, CELLS, spec.n_genes, spec.n_batches);
  toy_add(&data, &extras);
  for (int64_t i = 0; v->factors > 0.0 && i < data.n_local; ++i) {
    data.size_factor[i] *= v->factors;
  }
  values before = start(spec, 2);
  values after = start(spec, 2);
  assert_int_equal(av_init_from_data(&self, &data, split.of, &after.layout, after.params), AV_OK);
  const int64_t genes = spec.n_genes;
  double *x = av_calloc((size_t)(CELLS * genes), sizeof *x);
  double *s = av_calloc(CELLS, sizeof *s);
  double *f = av_calloc((size_t)genes, sizeof *f);
  double *theta = av_calloc((size_t)(3 * genes), sizeof *theta);
  const int64_t n = toy_dense_counts(&data, &split, x, s);
  int64_t at = 0;
  for (int64_t i = 0; v->size_factor && i < data.n_local; ++i) {
    if (split.of[i] == AV_SPLIT_TRAIN) {
      s[at++] = data.size_factor[i];
    }
  }
  assert_true(gene_facts(n, genes, x, s, f, theta));
  if (v->size_factor) {
    for (int64_t g = 0; g < genes; ++g) {
      f[g] = softplus_inverse(f[g]);
    }
  } else {
    centred_logs(genes, f);
  }
  const int64_t repeats = extras.n_labels > 0 ? extras.n_labels : 1; /* px_r is (G, labels) there */
  for (int64_t i = genes * repeats - 1; i >= 0; --i) {
    theta[i] = log(theta[i / repeats]);
  }
  if (v->scale != NULL) {
    check_change(&after, &before, v->scale, v->scale_kept, f);
  }
  if (v->px_r != NULL) {
    check_change(&after, &before, v->px_r, 0.0, theta);
  }
  free(x);
  free(s);
  free(f);
  free(theta);
  values_free(&before);
  values_free(&after);
  toy_free(&data, &split);
}

static void test_variants(void **state) {
  (void)state;
  static const variant variants[] = {
      {.what = "size factors",
       .linear = true,
       .size_factor = true,
       .scale = "decoder.factor_regressor.fc_layers.Layer 0.1.bias",
       .px_r = "px_r"},
      {.what = "large size factors",
       .linear = true,
       .size_factor = true,
       .scale = "decoder.factor_regressor.fc_layers.Layer 0.1.bias",
       .px_r = "px_r",
       .factors = 1e37},
      {.what = "small size factors",
       .linear = true,
       .size_factor = true,
       .scale = "decoder.factor_regressor.fc_layers.Layer 0.1.bias",
       .px_r = "px_r",
       .factors = 1e-20},
      {.what = "size factors, scVI",
       .size_factor = true,
       .scale = "decoder.px_scale_decoder.0.bias",
       .px_r = "px_r",
       .scale_kept = 1.0},
      {.what = "bias for BatchNorm",
       .linear = true,
       .plain_decoder = true,
       .bias = true,
       .scale = "decoder.factor_regressor.fc_layers.Layer 0.0.bias",
       .px_r = "px_r",
       .scale_kept = 1.0},
      {.what = "no intercept", .linear = true, .plain_decoder = true, .px_r = "px_r"},
      {.what = "by cell",
       .linear = true,
       .dispersion = AV_DISPERSION_GENE_CELL,
       .scale = "decoder.factor_regressor.fc_layers.Layer 0.1.bias",
       .px_r = "decoder.px_r_decoder.fc_layers.Layer 0.1.bias"},
      {.what = "by cell, scVI",
       .dispersion = AV_DISPERSION_GENE_CELL,
       .scale = "decoder.px_scale_decoder.0.bias",
       .px_r = "decoder.px_r_decoder.bias",
       .scale_kept = 1.0},
      {.what = "by label",
       .linear = true,
       .dispersion = AV_DISPERSION_GENE_LABEL,
       .scale = "decoder.factor_regressor.fc_layers.Layer 0.1.bias",
       .px_r = "px_r"}};
  for (size_t i = 0; i < sizeof variants / sizeof *variants; ++i) {
    print_message("%s\n", variants[i].what);
    check_variant(&variants[i]);
  }
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_start),    cmocka_unit_test(test_no_repeats),
      cmocka_unit_test(test_seed),     cmocka_unit_test(test_from_data),
      cmocka_unit_test(test_variants),
  };
  if (av_comm_create(&comm, &argc, &argv) != AV_OK) {
    return 1;
  }
  av_comm_self(&self);
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  av_comm_free(&comm);
  return failed;
}
