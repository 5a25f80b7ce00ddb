/* The model against scvi-tools 1.4.2 number for number: golden.json, made by make_golden.py in
 * float64.
 *
 * usage: test_golden reference|cpu|strict GOLDEN.json; on any number of ranks, which must not show:
 * the minibatch is scvi-tools' on one process, so BatchNorm over the global minibatch is held to it
 * too.
 *
 * Per tensor max|a-b| <= tolerance * max|b|, with 1e-10 for the reference backend and 1e-5 for the
 * cpu backend in float, off and strict. What is held to something else, and why: rho, mu      2e-7
 * in the reference backend as well: outputs are float. (That the decoder is right to 1e-10 is seen
 * from the losses, pi and theta in evaluation mode.) gradients of the bias of a Linear before
 * BatchNorm are 0 but for rounding, in both programs: they are held to the size of the gradient of
 * the same layer's weight. changes of values by training, besides the values themselves: 1e-10 of
 * the tensor's largest change (cpu 1e-4), plus a few units in the last place of the value; before
 * BatchNorm as above. losses in strict: each cell's is rounded to 2^-16. px_r with a Poisson
 * likelihood enters nothing. scvi-tools' Adam skips it; ours decays it like any parameter: at most
 * lr * weight_decay / eps of its size a step. the prior of the library: scvi-tools rounds it to
 * float32.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "backend/latent.h"
#include "math/rng.h"
#include "model/library_prior.h"
#include "model/vae_parts.h"
#include "posterior/factors.h"
#include "reference/bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FLOAT_OUTPUT 2e-7
#define STRICT_LOSS 0x1p-17

static av_comm comm;
static rig_kind kind;
static cJSON *file;
static double tolerance;        /* relative to the tensor's largest value */
static double change_tolerance; /* the same for changes by Adam */
static double last_place;       /* rounding of a stored parameter, relative */

/* ---- comparing ---- */

static double largest(int64_t n, const double *values) {
  double most = 0.0;
  for (int64_t i = 0; i < n; ++i) {
    most = fmax(most, fabs(values[i]));
  }
  return most;
}

static void check_within(int64_t n, const double *found, const double *wanted, double allowed,
                         const char *configuration, const char *what, const char *name) {
  for (int64_t i = 0; i < n; ++i) {
    if (!(fabs(found[i] - wanted[i]) <= allowed)) {
      fail_msg("%s: %s %s[%lld] is %.15g, in scvi-tools %.15g; allowed is a difference of %.3g",
               configuration, what, name, (long long)i, found[i], wanted[i], allowed);
    }
  }
}

/* ---- training ---- */

static void check_losses(const bench *b, const char *key) {
  double found[AV_LOSSES];
  double *wanted = golden_values(b->golden, key, AV_LOSSES);
  assert_int_equal(av_vae_take_losses(b->vae, found), AV_OK);
  for (int64_t i = 0; i < AV_LOSSES; ++i) {
    static const char *const names[] = {"-log p(x)", "KL(z)", "KL(l)"};
    const double rounding = kind.strict ? STRICT_LOSS * (double)b->n : 0.0;
    check_within(1, &found[i], &wanted[i], tolerance * fabs(wanted[i]) + rounding, b->name, key,
                 names[i]);
  }
  free(wanted);
}

static bool ends_with(const char *text, const char *end) {
  const size_t n = strlen(text);
  return n >= strlen(end) && strcmp(text + n - strlen(end), end) == 0;
}

/* The bias of a Linear that BatchNorm follows. */
static bool before_norm(const av_tensor *tensor) {
  return strstr(tensor->name, ".fc_layers.Layer ") != NULL && ends_with(tensor->name, ".0.bias");
}

/* What a tensor's rounding is held against: its own largest value; for the
 * bias of a Linear before BatchNorm, where only rounding is left, that of the layer's weight. */
static double scale_of(const cJSON *arrays, const av_tensor *tensor, const double *wanted) {
  if (!before_norm(tensor)) {
    return largest(tensor->rows * tensor->columns, wanted);
  }
  char weight[sizeof tensor->name + 8];
  snprintf(weight, sizeof weight, "%.*sweight", (int)(strlen(tensor->name) - strlen("bias")),
           tensor->name);
  const int64_t n = cJSON_GetArraySize(golden_member(arrays, weight));
  double *values = golden_values(arrays, weight, n);
  const double scale = largest(n, values);
  free(values);
  return scale;
}

static void check_gradients(const bench *b) {
  const cJSON *gradients = golden_member(b->golden, "gradients");
  assert_int_equal(av_vae_get_gradients(b->vae, b->params), AV_OK);
  assert_int_equal(av_sum_f64(&comm, b->params, b->layout->n_params), AV_OK);
  int64_t checked = 0;
  for (int64_t t = 0; t < b->layout->n_tensors; ++t) {
    const av_tensor *tensor = &b->layout->tensors[t];
    if (tensor->in_running) {
      continue;
    }
    const int64_t n = tensor->rows * tensor->columns;
    double *wanted = golden_values(gradients, tensor->name, n);
    double *found = bench_zeros(n);
    golden_gather(tensor, b->params, NULL, found);
    check_within(n, found, wanted, tolerance * scale_of(gradients, tensor, wanted), b->name,
                 "gradient of", tensor->name);
    free(wanted);
    free(found);
    ++checked;
  }
  assert_int_equal(checked, cJSON_GetArraySize(gradients));
}

/* Values after `steps` steps, and how far they moved. */
static void check_tensor(const bench *b, const av_tensor *tensor, const double *change,
                         const char *key, double steps) {
  const int64_t n = tensor->rows * tensor->columns;
  double *found = bench_zeros(n);
  double *start = bench_zeros(n);
  double *wanted = bench_zeros(n);
  golden_gather(tensor, b->params, b->running, found);
  golden_gather(tensor, b->start_params, b->start_running, start);
  for (int64_t i = 0; i < n; ++i) {
    wanted[i] = start[i] + change[i];
  }
  const double size = largest(n, wanted);
  double allowed = tolerance * size;
  double allowed_change =
      change_tolerance * scale_of(golden_member(b->golden, key), tensor, change) +
      last_place * size;
  if (b->spec.likelihood == AV_LIKELIHOOD_POISSON && strcmp(tensor->name, "px_r") == 0) {
    assert_true(largest(n, change) == 0.0);
    const double decay = golden_number(file, "lr") * golden_number(file, "weight_decay") /
                         golden_number(file, "eps");
    allowed += 1.001 * steps * decay * size;
    allowed_change += 1.001 * steps * decay * size;
  }
  check_within(n, found, wanted, allowed, b->name, key, tensor->name);
  for (int64_t i = 0; i < n; ++i) {
    found[i] -= start[i];
  }
  check_within(n, found, change, allowed_change, b->name, key, tensor->name);
  free(found);
  free(start);
  free(wanted);
}

static void check_values(bench *b, const char *key, double steps) {
  const cJSON *changes = golden_member(b->golden, key);
  assert_int_equal(cJSON_GetArraySize(changes), b->layout->n_tensors);
  assert_int_equal(av_vae_get_values(b->vae, b->params, b->running), AV_OK);
  for (int64_t t = 0; t < b->layout->n_tensors; ++t) {
    const av_tensor *tensor = &b->layout->tensors[t];
    double *change = golden_values(changes, tensor->name, tensor->rows * tensor->columns);
    check_tensor(b, tensor, change, key, steps);
    free(change);
  }
}

static void check_training(bench *b) {
  const int64_t steps = (int64_t)golden_number(file, "steps");
  av_draw draw = {.seed = (uint64_t)golden_number(file, "seed"),
                  .epoch = (uint32_t)golden_number(file, "train_epoch"),
                  .purpose = AV_DRAW_LATENT};
  av_adam adam = {.lr = golden_number(file, "lr"),
                  .beta1 = 0.9,
                  .beta2 = 0.999,
                  .eps = golden_number(file, "eps"),
                  .weight_decay = golden_number(file, "weight_decay"),
                  .scale = 1.0 / (double)b->n};
  for (int64_t step = 1; step <= steps; ++step, ++draw.epoch) {
    av_vae_step(b->vae, b->batch, b->mine, b->n, draw, golden_number(file, "kl_weight"));
    if (step == 1) {
      check_losses(b, "losses");
      check_gradients(b);
    }
    adam.step = step;
    av_vae_update(b->vae, &adam);
    if (step == 1) {
      check_values(b, "change_1", 1.0);
    }
  }
  check_values(b, "change_5", (double)steps);
  double losses[AV_LOSSES];
  assert_int_equal(av_vae_take_losses(b->vae, losses), AV_OK); /* of the other steps */
}

/* ---- evaluation ---- */

/* This rank's rows of an output (n, width); tol 0: the ordinary tolerance. */
static void check_rows(const bench *b, const char *what, int64_t width, const double *found,
                       double tol) {
  double *wanted = golden_values(golden_member(b->golden, "outputs"), what, b->n * width);
  const double allowed = fmax(tol, tolerance) * largest(b->n * width, wanted);
  for (int64_t i = 0; i < b->mine; ++i) {
    check_within(width, found + i * width, wanted + b->position[i] * width, allowed, b->name,
                 "output", what);
  }
  free(wanted);
}

/* Means and variances of a posterior from its heads (mine, 2 * width). */
static void check_posterior(const bench *b, const av_real *heads, int64_t width, const char *mean,
                            const char *variance) {
  double *head = bench_zeros(b->mine * 2 * width);
  double *means = bench_zeros(b->mine * width);
  double *variances = bench_zeros(b->mine * width);
  if (b->mine > 0) {
    assert_int_equal(kind.ops->read(b->vae->be, AV_REAL, heads, b->mine * 2 * width, head), AV_OK);
  }
  for (int64_t i = 0; i < b->mine; ++i) {
    for (int64_t k = 0; k < width; ++k) {
      means[i * width + k] = head[i * 2 * width + k];
      variances[i * width + k] = exp(head[i * 2 * width + width + k]) + AV_VARIANCE_FLOOR;
    }
  }
  check_rows(b, mean, width, means, 0.0);
  check_rows(b, variance, width, variances, 0.0);
  free(head);
  free(means);
  free(variances);
}

static void check_decoded(bench *b) {
  const int64_t size = b->mine * b->spec.n_genes;
  float *floats = calloc((size_t)(2 * size) + 1, sizeof *floats);
  double *doubles = bench_zeros(2 * size);
  assert_non_null(floats);
  assert_int_equal(av_vae_decode(b->vae, b->batch, b->mine, NULL, floats, floats + size), AV_OK);
  for (int64_t i = 0; i < 2 * size; ++i) {
    doubles[i] = (double)floats[i];
  }
  check_rows(b, "rho", b->spec.n_genes, doubles, FLOAT_OUTPUT);
  check_rows(b, "mu", b->spec.n_genes, doubles + size, FLOAT_OUTPUT);
  free(floats);
  free(doubles);
}

/* sigmoid([x, one-hot] w + c) with the head as the backend decodes with it; after check_decoded. */
static void check_inflation(bench *b) {
  const int64_t genes = b->spec.n_genes;
  av_backend *be = &b->be;
  const av_decode decode = av_decode_of(b->vae, false);
  const av_real *x_there = b->spec.linear ? b->vae->z : b->vae->decoder[b->spec.n_layers - 1].act;
  const int64_t width = decode.n_in + decode.n_onehot;
  double *x = bench_zeros(b->mine * decode.n_in);
  double *w = bench_zeros(width * genes);
  double *c = bench_zeros(genes);
  double *pi = bench_zeros(b->mine * genes);
  if (b->mine > 0) {
    assert_int_equal(kind.ops->read(be, AV_REAL, x_there, b->mine * decode.n_in, x), AV_OK);
  }
  assert_int_equal(kind.ops->read(be, AV_REAL, decode.dropout.w, width * genes, w), AV_OK);
  assert_int_equal(kind.ops->read(be, AV_REAL, decode.dropout.c, genes, c), AV_OK);
  for (int64_t i = 0; i < b->mine; ++i) {
    for (int64_t g = 0; g < genes; ++g) {
      double logit = c[g];
      for (int64_t k = 0; k < decode.n_in; ++k) {
        logit += x[i * decode.n_in + k] * w[k * genes + g];
      }
      if (decode.n_onehot > 0) {
        logit += w[(decode.n_in + b->dataset.batch.code[b->row[i]]) * genes + g];
      }
      pi[i * genes + g] = 1.0 / (1.0 + exp(-logit));
    }
  }
  check_rows(b, "pi", genes, pi, 0.0);
  free(x);
  free(w);
  free(c);
  free(pi);
}

/* theta of each cell's batch, or of all. */
static void check_dispersion(const bench *b) {
  const int64_t genes = b->spec.n_genes;
  const bool by_batch = b->spec.dispersion == AV_DISPERSION_GENE_BATCH;
  const int64_t rows = by_batch ? b->mine : 1;
  double *theta = bench_zeros(rows * genes);
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t s = by_batch ? b->dataset.batch.code[b->row[i]] : 0;
    for (int64_t g = 0; g < genes; ++g) {
      theta[i * genes + g] = exp(b->params[b->layout->px_r + s * genes + g]);
    }
  }
  if (by_batch) {
    check_rows(b, "theta", genes, theta, 0.0);
  } else {
    double *wanted = golden_values(golden_member(b->golden, "outputs"), "theta", genes);
    check_within(genes, theta, wanted, tolerance * largest(genes, wanted), b->name, "output",
                 "theta");
    free(wanted);
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
  double *wanted = golden_values(golden_member(b->golden, "outputs"), "loadings", genes * k);
  check_within(genes * k, factors.loadings, wanted, tolerance * largest(genes * k, wanted), b->name,
               "output", "loadings");
  free(wanted);
  free(weight);
  free(variance);
  av_factors_free(&factors);
}

static void check_evaluation(bench *b) {
  const av_draw draw = {.seed = (uint64_t)golden_number(file, "seed"),
                        .epoch = (uint32_t)golden_number(file, "evaluation_epoch"),
                        .purpose = AV_DRAW_POSTERIOR};
  const int64_t k = b->spec.n_latent;
  double *z_mean = bench_zeros(b->mine * k);
  int n_outputs = 4;
  av_vae_begin_inference(b->vae);
  av_vae_evaluate(b->vae, b->batch, b->mine, draw);
  check_losses(b, "evaluation");
  assert_int_equal(av_vae_encode(b->vae, b->batch, b->mine, z_mean), AV_OK);
  check_rows(b, "z_mean", k, z_mean, 0.0);
  free(z_mean);
  check_posterior(b, b->vae->z_head, k, "z_mean", "z_variance");
  if (b->spec.latent_library) {
    check_posterior(b, b->vae->l_head, 1, "l_mean", "l_variance");
    n_outputs += 2;
  }
  check_decoded(b);
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
  assert_int_equal(cJSON_GetArraySize(golden_member(b->golden, "outputs")), n_outputs);
}

/* ---- tests ---- */

static void test_configuration(void **state) {
  bench b;
  bench_open(&b, file, *state, &kind, &comm);
  check_training(&b);
  check_evaluation(&b);
  bench_close(&b);
}

/* Draws of the file are those of the program's purposes. */
static void test_facts(void **state) {
  const int64_t *n_listed = *state;
  assert_int_equal(golden_number(file, "train_purpose"), AV_DRAW_LATENT);
  assert_int_equal(golden_number(file, "evaluation_purpose"), AV_DRAW_POSTERIOR);
  assert_int_equal(golden_number(file, "steps"), 5);
  assert_int_equal(cJSON_GetArraySize(golden_member(file, "configurations")), *n_listed);
}

/* What LinearSCVI.setup_anndata and its model register, over all cells; float32 there. */
static void test_library_prior(void **state) {
  (void)state;
  for (int64_t n_batches = 1; n_batches <= 3; n_batches += 2) {
    av_dataset dataset;
    double found[6];
    double *wanted = bench_prior(file, n_batches);
    golden_dataset(file, &comm, n_batches, &dataset);
    assert_int_equal(av_library_prior(&comm, &dataset, found), AV_OK);
    for (int64_t i = 0; i < 2 * n_batches; ++i) {
      check_within(1, &found[i], &wanted[i], 1e-6 * fabs(wanted[i]), "all", "library prior", "");
    }
    free(wanted);
    av_dataset_free(&dataset);
  }
}

#define CASE(configuration) \
  { configuration, test_configuration, NULL, NULL, (void *)(uintptr_t)(configuration) }

int main(int argc, char **argv) {
  static int64_t n_cases = 10;
  const struct CMUnitTest tests[] = {
      CASE("ldvae_default"),
      CASE("ldvae_zinb_gene_batch"),
      CASE("ldvae_poisson"),
      CASE("ldvae_nb_gene_batch"),
      CASE("ldvae_zinb_one_batch"),
      CASE("scvi_default"),
      CASE("scvi_zinb_gene_batch"),
      CASE("scvi_nb_gene_batch"),
      CASE("scvi_poisson"),
      CASE("scvi_nb_one_batch"),
      cmocka_unit_test_prestate(test_facts, &n_cases),
      cmocka_unit_test(test_library_prior),
  };
  if (argc != 3) {
    fprintf(stderr, "usage: %s reference|cpu|strict GOLDEN.json\n", argv[0]);
    return 1;
  }
  if (av_comm_create(&comm, &argc, &argv) != AV_OK) {
    return 1;
  }
  const bool reference = strcmp(argv[1], "reference") == 0;
  kind = rig_kind_of(argv[1]);
  tolerance = reference ? 1e-10 : 1e-5;
  change_tolerance = reference ? 1e-10 : 1e-4;
  last_place = reference ? 1e-15 : 3e-7;
  file = golden_read(argv[2]);
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  cJSON_Delete(file);
  av_comm_free(&comm);
  return failed;
}
