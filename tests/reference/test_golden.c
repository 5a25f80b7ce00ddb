/* The model against scvi-tools 1.4.2 number for number: golden.json, made by make_golden.py in
 * float64, for the models of golden_grid.py.
 *
 * usage: test_golden reference|cpu|strict GOLDEN.json; on any number of ranks, which must not show:
 * the minibatch is scvi-tools' on one process, so BatchNorm over the global minibatch (scvi-tools'
 * is over each rank's cells: a deliberate difference) is held to it too.
 *
 * Per tensor max|a-b| <= tolerance * max|b|, with 1e-10 for the reference backend and 1e-5 for the
 * cpu backend in float, off and strict. What is held to something else, and why:
 * - rho and mu: 2e-7 in the reference backend as well; outputs are float. (That the decoder is
 * right to 1e-10 is seen from the losses, pi and theta, and a linear decoder's logits.)
 * - gradients of the bias of a Linear before BatchNorm are 0 but for rounding, in both programs:
 *   they are held to the size of the gradient of the same layer's weight.
 * - changes of values by training, besides the values themselves: 1e-10 of the tensor's largest
 *   change (cpu 1e-4), plus a few units in the last place of the value; the bias before BatchNorm
 * to that of its weight, plus what Adam makes of the gradient's rounding: lr / eps of it each step.
 * - losses in strict: each cell's is rounded to 2^-16.
 * Deliberate differences from scvi-tools, each seen here:
 * - px_r with a Poisson likelihood enters nothing. scvi-tools' Adam skips it; ours decays it like
 *   any parameter: at most lr * weight_decay / eps of its size a step.
 * - the prior of the library: scvi-tools rounds it to float32.
 * - dropout: our masks, and the scale 1 / (1 - p) with p a multiple of 1/65536, in both programs
 *   (torch's masks have no counters).
 * - the one-hot codes that choose a batch's or label's dispersion and the library's prior are
 *   float32 in scvi-tools, which rounds those to it; make_golden.py has them in float64.
 *
 * What scvi-tools cannot run has another oracle, the independent dense form of tests/model/direct.c
 * with finite differences (test_direct.c, test_gradients.c). With a linear decoder: gene-cell
 * dispersion, size factors, categorical and continuous covariates, encode_covariates,
 * deeply_inject_covariates = no, use_layer_norm in the encoders.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "backend/latent.h"
#include "math/rng.h"
#include "model/library_prior.h"
#include "reference/intermediates.h"
#include "reference/outputs.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FLOAT_OUTPUT 2e-7

static av_comm comm;
static rig_kind kind;
static cJSON *file;
static double tolerance;        /* relative to the tensor's largest value */
static double change_tolerance; /* the same for changes by Adam */
static double last_place;       /* rounding of a stored parameter, relative */

/* ---- training ---- */

static void check_losses(const bench *b, const char *key) {
  double found[AV_LOSSES];
  double *wanted = golden_values(b->golden, key, AV_LOSSES);
  assert_int_equal(av_vae_take_losses(b->vae, found), AV_OK);
  for (int64_t i = 0; i < AV_LOSSES; ++i) {
    static const char *const names[] = {"-log p(x)", "KL(z)", "KL(l)"};
    const double rounding = kind.strict ? STRICT_LOSS * (double)b->n : 0.0;
    bench_within(b, 1, &found[i], &wanted[i], b->tolerance * fabs(wanted[i]) + rounding, key,
                 names[i]);
  }
  free(wanted);
}

/* The weight of the layer whose Linear has the bias `tensor`, with BatchNorm after it: NAME.0.bias
 * of NAME.0.weight with NAME.1.weight. False if it is no such bias. */
static bool before_norm(const bench *b, const av_tensor *tensor, char weight[sizeof tensor->name]) {
  static const char end[] = ".0.bias";
  const size_t n = strlen(tensor->name);
  if (n < strlen(end) || strcmp(tensor->name + n - strlen(end), end) != 0) {
    return false;
  }
  const int stem = (int)(n - strlen(end));
  snprintf(weight, sizeof tensor->name, "%.*s.1.weight", stem, tensor->name);
  const bool has_norm = golden_has(golden_member(b->golden, "start"), weight);
  snprintf(weight, sizeof tensor->name, "%.*s.0.weight", stem, tensor->name);
  return has_norm;
}

/* What a tensor's rounding is held against: its own largest value; for the bias of a Linear before
 * BatchNorm, where only rounding is left, that of the layer's weight. */
static double scale_of(const bench *b, const cJSON *arrays, const av_tensor *tensor,
                       const double *wanted) {
  char weight[sizeof tensor->name];
  if (!before_norm(b, tensor, weight)) {
    return bench_largest(tensor->rows * tensor->columns, wanted);
  }
  const int64_t n = golden_tensor_size(arrays, weight);
  double *values = golden_tensor(arrays, weight, n);
  const double scale = bench_largest(n, values);
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
    double *wanted = golden_tensor(gradients, tensor->name, n);
    double *found = bench_zeros(n);
    golden_gather(tensor, b->params, NULL, found);
    bench_within(b, n, found, wanted, b->tolerance * scale_of(b, gradients, tensor, wanted),
                 "gradient of", tensor->name);
    free(wanted);
    free(found);
    ++checked;
  }
  assert_int_equal(checked, cJSON_GetArraySize(gradients));
}

/* How far scvi-tools' px_r may be from ours, relative, after `steps` steps: see the top. */
static double decay_of_unused(const bench *b, const av_tensor *tensor, double steps) {
  if (b->spec.likelihood != AV_LIKELIHOOD_POISSON || strcmp(tensor->name, "px_r") != 0) {
    return 0.0;
  }
  return 1.001 * steps * golden_number(b->golden, "lr") * golden_number(b->golden, "weight_decay") /
         golden_number(b->golden, "eps");
}

/* What Adam, whose steps are lr / eps of a small gradient, makes of rounding alone. */
static double rounding_steps(const bench *b, const av_tensor *tensor, double steps) {
  char weight[sizeof tensor->name];
  if (!before_norm(b, tensor, weight)) {
    return 0.0;
  }
  const double gradient =
      scale_of(b, golden_member(b->golden, "gradients"), tensor, NULL) / (double)b->n;
  return steps * golden_number(b->golden, "lr") / golden_number(b->golden, "eps") * b->tolerance *
         gradient;
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
  const double size = bench_largest(n, wanted);
  const double decayed = decay_of_unused(b, tensor, steps) * size;
  const double rounded = rounding_steps(b, tensor, steps);
  const double scale = scale_of(b, golden_member(b->golden, key), tensor, change);
  assert_true(decayed == 0.0 || bench_largest(n, change) == 0.0);
  bench_within(b, n, found, wanted, b->tolerance * size + decayed + rounded, key, tensor->name);
  for (int64_t i = 0; i < n; ++i) {
    found[i] -= start[i];
  }
  bench_within(b, n, found, change,
               change_tolerance * scale + last_place * size + decayed + rounded, key, tensor->name);
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
    double *change = golden_tensor(changes, tensor->name, tensor->rows * tensor->columns);
    check_tensor(b, tensor, change, key, steps);
    free(change);
  }
}

static av_adam adam_of(const bench *b) {
  const char *optimizer = golden_text(b->golden, "optimizer");
  assert_true(strcmp(optimizer, "adam") == 0 || strcmp(optimizer, "adamw") == 0);
  return (av_adam){.lr = golden_number(b->golden, "lr"),
                   .beta1 = 0.9,
                   .beta2 = 0.999,
                   .eps = golden_number(b->golden, "eps"),
                   .weight_decay = golden_number(b->golden, "weight_decay"),
                   .decoupled = strcmp(optimizer, "adamw") == 0,
                   .clip = golden_number(b->golden, "clip"),
                   .scale = 1.0 / (double)b->n};
}

static void check_training(bench *b) {
  const int64_t steps = (int64_t)golden_number(file, "steps");
  const double kl_weight = golden_number(file, "kl_weight");
  av_draw draw = {.seed = (uint64_t)golden_number(file, "seed"),
                  .epoch = (uint32_t)golden_number(file, "train_epoch"),
                  .purpose = AV_DRAW_LATENT};
  av_adam adam = adam_of(b);
  for (int64_t step = 1; step <= steps; ++step, ++draw.epoch) {
    av_vae_step(b->vae, b->batch, b->n, draw, kl_weight);
    if (step == 1) {
      check_losses(b, "losses");
      check_intermediates(b, draw, kl_weight, FLOAT_OUTPUT);
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

/* Each cell of the minibatch as a batch of its own. */
static void check_each_cell(bench *b, av_draw draw) {
  double *wanted = golden_tensor(b->golden, "evaluation_cells", b->n * AV_LOSSES);
  const double allowed =
      b->tolerance * bench_largest(b->n * AV_LOSSES, wanted) + (kind.strict ? STRICT_LOSS : 0.0);
  int64_t next = 0;
  for (int64_t i = 0; i < b->n; ++i) {
    double found[AV_LOSSES];
    const bool ours = next < b->mine && b->position[next] == i;
    b->be.ops->batch_select(&b->be, b->batch, ours, &b->row[ours ? next : 0]);
    next += ours;
    av_vae_evaluate(b->vae, b->batch, draw);
    assert_int_equal(av_vae_take_losses(b->vae, found), AV_OK);
    bench_within(b, AV_LOSSES, found, wanted + i * AV_LOSSES, allowed, "evaluation of", "a cell");
  }
  bench_select(b);
  free(wanted);
}

static void check_evaluation(bench *b) {
  const av_draw draw = {.seed = (uint64_t)golden_number(file, "seed"),
                        .epoch = (uint32_t)golden_number(file, "evaluation_epoch"),
                        .purpose = AV_DRAW_POSTERIOR};
  av_vae_begin_inference(b->vae);
  av_vae_evaluate(b->vae, b->batch, draw);
  check_losses(b, "evaluation");
  check_each_cell(b, draw);
  check_outputs(b, FLOAT_OUTPUT);
}

/* ---- tests ---- */

static void test_configuration(void **state) {
  bench b;
  bench_open(&b, file, *state, &kind, &comm, tolerance);
  check_training(&b);
  check_evaluation(&b);
  bench_close(&b);
}

/* Draws of the file are those of the program's purposes. */
static void test_facts(void **state) {
  const int64_t *n_listed = *state;
  assert_int_equal(golden_number(file, "dropout_purpose"), AV_DRAW_DROPOUT);
  assert_int_equal(golden_number(file, "train_purpose"), AV_DRAW_LATENT);
  assert_int_equal(golden_number(file, "evaluation_purpose"), AV_DRAW_POSTERIOR);
  assert_int_equal(golden_number(file, "steps"), 5);
  assert_int_equal(cJSON_GetArraySize(golden_member(file, "configurations")), *n_listed);
}

/* What LinearSCVI.setup_anndata and its model register, over all cells; float32 there. */
static void test_library_prior(void **state) {
  (void)state;
  const bench b = {.name = "all"};
  for (int64_t n_batches = 1; n_batches <= 3; n_batches += 2) {
    av_dataset dataset;
    double found[6];
    double *wanted = bench_prior(file, n_batches);
    golden_dataset(file, NULL, &comm, n_batches, &dataset);
    assert_int_equal(av_library_prior(&comm, &dataset, true, found), AV_OK);
    for (int64_t i = 0; i < 2 * n_batches; ++i) {
      bench_within(&b, 1, &found[i], &wanted[i], 1e-6 * fabs(wanted[i]), "library prior", "");
    }
    free(wanted);
    av_dataset_free(&dataset);
  }
}

#define CASE(configuration) \
  { configuration, test_configuration, NULL, NULL, (void *)(uintptr_t)(configuration) }

int main(int argc, char **argv) {
  static int64_t n_cases; /* every configuration of the file is a case here */
  const struct CMUnitTest tests[] = {
      CASE("ldvae_default"),
      CASE("ldvae_zinb_gene_batch"),
      CASE("ldvae_poisson"),
      CASE("ldvae_nb_gene_batch"),
      CASE("ldvae_zinb_one_batch"),
      CASE("ldvae_gene_label"),
      CASE("ldvae_zinb_gene_label"),
      CASE("ldvae_bias"),
      CASE("ldvae_zinb_bias"),
      CASE("ldvae_no_norm"),
      CASE("ldvae_no_norm_bias"),
      CASE("ldvae_no_norm_one_batch"),
      CASE("ldvae_ln"),
      CASE("ldvae_ln_no_norm"),
      CASE("ldvae_one_factor"),
      CASE("ldvae_narrow"),
      CASE("ldvae_dropout"),
      CASE("ldvae_adamw_clip"),
      CASE("ldvae_decoder_only"),
      CASE("scvi_default"),
      CASE("scvi_zinb_gene_batch"),
      CASE("scvi_nb_gene_batch"),
      CASE("scvi_poisson"),
      CASE("scvi_nb_one_batch"),
      CASE("scvi_gene_label"),
      CASE("scvi_nb_gene_label"),
      CASE("scvi_gene_cell"),
      CASE("scvi_nb_gene_cell"),
      CASE("scvi_poisson_gene_cell"),
      CASE("scvi_ln"),
      CASE("scvi_nb_ln"),
      CASE("scvi_size_factor"),
      CASE("scvi_nb_size_factor"),
      CASE("scvi_poisson_size_factor"),
      CASE("scvi_covariates"),
      CASE("scvi_shallow"),
      CASE("scvi_encode_deep"),
      CASE("scvi_encode_shallow"),
      CASE("scvi_encode_one_batch"),
      CASE("scvi_encode_continuous"),
      CASE("scvi_norm_encoder"),
      CASE("scvi_norm_decoder"),
      CASE("scvi_norm_none"),
      CASE("scvi_layer_norm"),
      CASE("scvi_both_norms"),
      CASE("scvi_mixed_norms"),
      CASE("scvi_one_latent"),
      CASE("scvi_narrow"),
      CASE("scvi_dropout"),
      CASE("scvi_dropout_layer_norm"),
      CASE("scvi_adamw"),
      CASE("scvi_weight_decay"),
      CASE("scvi_clip"),
      CASE("scvi_clip_unreached"),
      CASE("scvi_decoder_only"),
      cmocka_unit_test_prestate(test_facts, &n_cases),
      cmocka_unit_test(test_library_prior),
  };
  n_cases = (int64_t)(sizeof tests / sizeof *tests) - 2;
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
