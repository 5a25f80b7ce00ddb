/* Every gradient of the model on the reference backend against central differences of the direct
 * form's loss (direct.h): a sample of each tensor's elements, and all of them together along random
 * directions.
 *
 * Draws are counters, so the loss is a smooth function of the parameters (but for ReLU corners,
 * which a step of 1e-6 practically never crosses). On any number of ranks: each checks a part of
 * the elements.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "math/rng.h"
#include "model/direct.h"
#include "model/rig.h"
#include "model/toy.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KL_WEIGHT 0.7

enum { CELLS = 13, SAMPLE = 9, DIRECTIONS = 2 };

static av_comm comm;
static av_comm self;

static const av_draw train_draw = {.seed = 3, .epoch = 1, .purpose = AV_DRAW_LATENT};

typedef struct bench {
  const char *name;
  rig r;
  av_dataset alone; /* the data on one process */
  av_split split;
  bool frozen;
  int64_t cells[CELLS];
  double *values, *grads; /* (n_params); gradients of all ranks' cells */
  double noise;           /* of a difference: rounding of the loss, divided by the step */
  int64_t checked, failed;
} bench;

static void bench_create(bench *b, const char *name, const av_model_spec *spec,
                         const toy_extras *extras, bool frozen) {
  const rig_kind kind = rig_kind_of("reference");
  *b = (bench){.name = name, .frozen = frozen};
  rig_open_with(&b->r, &kind, &comm, *spec, extras, CELLS);
  toy_create(&b->alone, &b->split, &self, CELLS, spec->n_genes, spec->n_batches);
  toy_add(&b->alone, extras);
  for (int64_t i = 0; i < CELLS; ++i) {
    b->cells[i] = i;
  }
  rig_select(&b->r, CELLS, b->cells);
  const size_t n = (size_t)b->r.layout->n_params;
  b->values = av_calloc(n, sizeof *b->values);
  b->grads = av_calloc(n, sizeof *b->grads);
  memcpy(b->values, b->r.params, n * sizeof *b->values);
  if (frozen) {
    av_vae_freeze_encoder(b->r.vae);
  }
  av_vae_step(b->r.vae, b->r.batch, CELLS, train_draw, KL_WEIGHT);
  assert_int_equal(av_vae_get_gradients(b->r.vae, b->grads), AV_OK);
  assert_int_equal(av_sum_f64(&comm, b->grads, b->r.layout->n_params), AV_OK);
}

static void bench_free(bench *b) {
  free(b->values);
  free(b->grads);
  toy_free(&b->alone, &b->split);
  rig_close(&b->r);
}

/* The loss as trained on, at b->values. */
static double loss_at(const bench *b) {
  const direct_input in = {.layout = b->r.layout,
                           .params = b->values,
                           .running = b->r.running,
                           .prior = b->r.prior,
                           .dataset = &b->alone,
                           .n = CELLS,
                           .cells = b->cells,
                           .training = true,
                           .frozen = b->frozen,
                           .sample = true,
                           .draw = train_draw};
  direct_output out = direct_pass(&in);
  const double loss = out.nll + KL_WEIGHT * out.kl_z + out.kl_l;
  direct_free(&out);
  return loss;
}

static void compare(bench *b, const char *what, double found, double expected, double scale) {
  ++b->checked;
  if (!(fabs(found - expected) <= 1e-5 * scale + b->noise)) {
    ++b->failed;
    print_error("%s, %s: gradient %.10g, by differences %.10g (largest %g)\n", b->name, what, found,
                expected, scale);
  }
}

static double largest_of(const bench *b, const av_tensor *tensor) {
  double largest = 0.0;
  for (int64_t i = 0; i < tensor->rows; ++i) {
    for (int64_t j = 0; j < tensor->columns; ++j) {
      largest = fmax(largest, fabs(b->grads[tensor->at + i * tensor->stride + j]));
    }
  }
  return largest;
}

/* Up to SAMPLE elements spread over the tensor, the last one included; this rank's share of them.
 */
static void check_tensor(bench *b, const av_tensor *tensor) {
  const int64_t n = tensor->rows * tensor->columns;
  const int64_t taken = n < SAMPLE ? n : SAMPLE;
  const double largest = largest_of(b, tensor);
  for (int64_t s = comm.rank; s < taken; s += comm.size) {
    const int64_t element = taken > 1 ? s * (n - 1) / (taken - 1) : 0;
    const int64_t at =
        tensor->at + element / tensor->columns * tensor->stride + element % tensor->columns;
    const double kept = b->values[at];
    const double step = 1e-6 * (1.0 + fabs(kept));
    b->values[at] = kept + step;
    const double up = loss_at(b);
    b->values[at] = kept - step;
    const double down = loss_at(b);
    b->values[at] = kept;
    compare(b, tensor->name, b->grads[at], (up - down) / (2.0 * step), largest);
  }
}

static bool is_trained(const bench *b, const av_tensor *tensor) {
  return !tensor->in_running && (!b->frozen || strncmp(tensor->name, "decoder.", 8) == 0 ||
                                 strcmp(tensor->name, "px_r") == 0);
}

/* Each element of every tensor moves by a random amount. */
static void check_direction(bench *b, uint32_t number) {
  const av_layout *layout = b->r.layout;
  double *kept = av_calloc((size_t)layout->n_params, sizeof *kept);
  double *direction = av_calloc((size_t)layout->n_params, sizeof *direction);
  double slope = 0.0;
  double length = 0.0;
  memcpy(kept, b->values, (size_t)layout->n_params * sizeof *kept);
  for (int64_t t = 0; t < layout->n_tensors; ++t) {
    const av_tensor *tensor = &layout->tensors[t];
    for (int64_t i = 0; is_trained(b, tensor) && i < tensor->rows; ++i) {
      for (int64_t j = 0; j < tensor->columns; ++j) {
        const int64_t at = tensor->at + i * tensor->stride + j;
        uint32_t words[4];
        av_random4(words, 23, AV_DRAW_TEST, (uint64_t)at, number, 0);
        direction[at] = 2.0 * av_uniform_open32(words[0]) - 1.0;
        slope += direction[at] * b->grads[at];
        length = hypot(length, b->grads[at]);
      }
    }
  }
  double loss[2];
  for (int side = 0; side < 2; ++side) {
    for (int64_t i = 0; i < layout->n_params; ++i) {
      b->values[i] = kept[i] + (side == 0 ? 1e-6 : -1e-6) * direction[i];
    }
    loss[side] = loss_at(b);
  }
  memcpy(b->values, kept, (size_t)layout->n_params * sizeof *kept);
  compare(b, "all parameters", slope, (loss[0] - loss[1]) / 2e-6, length);
  free(kept);
  free(direction);
}

static void check_model(const char *name, const av_model_spec *spec, const toy_extras *extras,
                        bool frozen) {
  bench b;
  bench_create(&b, name, spec, extras, frozen);
  b.noise = 1e-7 + 1e-9 * fabs(loss_at(&b));
  for (int64_t t = 0; t < b.r.layout->n_tensors; ++t) {
    const av_tensor *tensor = &b.r.layout->tensors[t];
    if (is_trained(&b, tensor)) {
      check_tensor(&b, tensor);
    } else if (!tensor->in_running && largest_of(&b, tensor) != 0.0) {
      ++b.failed;
      print_error("%s: %s is not trained and has a gradient\n", name, tensor->name);
    }
  }
  for (uint32_t d = 0; d < DIRECTIONS; ++d) {
    check_direction(&b, d);
  }
  double counts[2] = {(double)b.checked, (double)b.failed};
  assert_int_equal(av_sum_f64(&comm, counts, 2), AV_OK);
  bench_free(&b);
  assert_true(counts[0] >= 20.0);
  assert_true(counts[1] == 0.0);
}

/* Likelihoods, dispersions and libraries, each at least twice in both decoders. */
static const rig_case plain[] = {
    {"nb", .likelihood = AV_LIKELIHOOD_NB},
    {"gene-batch, two layers", .dispersion = AV_DISPERSION_GENE_BATCH, .n_layers = 2,
     .n_batches = 3},
    {"poisson, observed", .likelihood = AV_LIKELIHOOD_POISSON, .observed = true, .n_batches = 2},
    {"nb, gene-batch, observed", .likelihood = AV_LIKELIHOOD_NB,
     .dispersion = AV_DISPERSION_GENE_BATCH, .observed = true, .n_layers = 3, .n_batches = 4},
    {"observed", .observed = true},
    {"poisson", .likelihood = AV_LIKELIHOOD_POISSON, .n_batches = 2},
    {"raw counts", .likelihood = AV_LIKELIHOOD_NB, .raw_counts = true, .n_batches = 2},
};

static void check_cases(const rig_case *cases, int64_t n, bool linear) {
  for (int64_t i = 0; i < n; ++i) {
    if (rig_case_has(&cases[i], linear)) {
      const av_model_spec spec = rig_case_spec(&cases[i], linear);
      check_model(cases[i].name, &spec, &cases[i].extras, false);
    }
  }
}

static void check_decoder(bool linear) {
  int64_t n = 0;
  const rig_case *cases = rig_cases(&n);
  check_cases(plain, (int64_t)(sizeof plain / sizeof *plain), linear);
  check_cases(cases, n, linear);
}

static void test_linear(void **state) {
  (void)state;
  check_decoder(true);
}

static void test_dense(void **state) {
  (void)state;
  check_decoder(false);
}

/* The decoder alone is trained. */
static void test_frozen(void **state) {
  (void)state;
  for (int linear = 0; linear < 2; ++linear) {
    const toy_extras extras = {.levels = {3, 0}, .n_continuous = 1};
    av_model_spec spec =
        rig_spec(linear != 0, AV_LIKELIHOOD_ZINB, AV_DISPERSION_GENE_CELL, true, 2, 2);
    spec.simplex = true;
    spec = rig_spec_with(spec, &extras);
    check_model("frozen", &spec, &extras, true);
  }
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_linear),
      cmocka_unit_test(test_dense),
      cmocka_unit_test(test_frozen),
  };
  if (av_comm_create(&comm, &argc, &argv) != AV_OK) {
    return 1;
  }
  av_comm_self(&self);
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  av_comm_free(&comm);
  return failed;
}
