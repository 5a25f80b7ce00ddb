/* Every gradient of the model on the reference backend against central differences of its own loss.
 *
 * The reference's forward pass is the definition; its values are checked elsewhere against direct forms.
 * Draws are counters, so the loss is a smooth function of the parameters (but for ReLU corners, which a
 * step of 1e-6 practically never crosses).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "backend/latent.h"
#include "backend/reference/reference.h"
#include "base/memory.h"
#include "math/rng.h"
#include "model/init.h"
#include "model/library_prior.h"
#include "model/toy.h"
#include "model/vae.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define KL_WEIGHT 0.7

enum { CELLS = 13, GENES = 11 };

typedef struct bench {
  av_comm comm;
  av_backend be;
  av_dataset dataset;
  av_split split;
  av_data *data;
  av_batch *batch;
  av_vae *vae;
  double *params, *running, *grads;
} bench;

static void bench_create(bench *b, av_model_spec spec) {
  *b = (bench){0};
  av_comm_self(&b->comm);
  b->be = (av_backend){.ops = &av_backend_reference, .comm = &b->comm, .threads = 1};
  assert_int_equal(b->be.ops->open(&b->be), AV_OK);
  toy_create(&b->dataset, &b->split, &b->comm, CELLS, GENES, spec.n_batches);
  spec.n_genes = GENES;
  double prior[2 * 8];
  assert_int_equal(av_library_prior(&b->comm, &b->dataset, prior), AV_OK);
  assert_int_equal(av_vae_create(&b->vae, &b->be, &spec, prior, CELLS), AV_OK);
  assert_int_equal(b->be.ops->data_load(&b->be, &b->dataset, &b->data), AV_OK);
  assert_int_equal(b->be.ops->batch_create(&b->be, b->data, CELLS, &b->batch), AV_OK);
  int64_t rows[CELLS];
  for (int64_t i = 0; i < CELLS; ++i) {
    rows[i] = i;
  }
  b->be.ops->batch_select(&b->be, b->batch, CELLS, rows);
  const av_layout *layout = av_vae_layout(b->vae);
  b->params = av_calloc((size_t)layout->n_params, sizeof *b->params);
  b->grads = av_calloc((size_t)layout->n_params, sizeof *b->grads);
  b->running = av_calloc((size_t)layout->n_running, sizeof *b->running);
  av_init_values(layout, 5, b->params, b->running);
}

static void bench_free(bench *b) {
  free(b->params);
  free(b->grads);
  free(b->running);
  av_vae_free(&b->vae);
  b->be.ops->batch_free(&b->be, b->batch);
  b->be.ops->data_free(&b->be, b->data);
  toy_free(&b->dataset, &b->split);
}

/* The loss as trained on; a fresh model each time, since gradients accumulate. */
static double loss_at(bench *b) {
  const av_draw draw = {.seed = 3, .epoch = 1, .purpose = AV_DRAW_LATENT};
  double losses[AV_LOSSES];
  assert_int_equal(av_vae_set_values(b->vae, b->params, b->running), AV_OK);
  av_vae_step(b->vae, b->batch, CELLS, CELLS, draw, KL_WEIGHT);
  assert_int_equal(av_vae_take_losses(b->vae, losses), AV_OK);
  return losses[AV_LOSS_NLL] + KL_WEIGHT * losses[AV_LOSS_KL_Z] + losses[AV_LOSS_KL_L];
}

static void check_tensor(bench *b, const av_tensor *tensor) {
  double largest = 0.0;
  double worst = 0.0;
  for (int64_t i = 0; i < tensor->rows; ++i) {
    for (int64_t j = 0; j < tensor->columns; ++j) {
      double *value = &b->params[tensor->at + i * tensor->stride + j];
      const double gradient = b->grads[tensor->at + i * tensor->stride + j];
      const double kept = *value;
      const double step = 1e-6 * (1.0 + fabs(kept));
      *value = kept + step;
      const double up = loss_at(b);
      *value = kept - step;
      const double down = loss_at(b);
      *value = kept;
      const double difference = fabs((up - down) / (2.0 * step) - gradient);
      worst = difference > worst ? difference : worst;
      largest = fabs(gradient) > largest ? fabs(gradient) : largest;
    }
  }
  if (!(worst <= 1e-5 * (largest + 1e-2))) {
    fail_msg("%s: largest gradient %g, off by %g", tensor->name, largest, worst);
  }
}

static void check_model(av_model_spec spec) {
  bench b;
  bench_create(&b, spec);
  loss_at(&b);
  assert_int_equal(av_vae_get_gradients(b.vae, b.grads), AV_OK);
  const av_layout *layout = av_vae_layout(b.vae);
  int64_t tested = 0;
  for (int64_t t = 0; t < layout->n_tensors; ++t) {
    if (!layout->tensors[t].in_running) {
      check_tensor(&b, &layout->tensors[t]);
      ++tested;
    }
  }
  assert_true(tested >= 10);
  bench_free(&b);
}

static av_model_spec base(bool linear, int likelihood, int dispersion, bool latent_library,
                          int64_t n_layers, int64_t n_batches) {
  return (av_model_spec){.linear = linear, .likelihood = likelihood, .dispersion = dispersion,
                         .latent_library = latent_library, .log1p = true, .n_hidden = 5,
                         .n_latent = 3, .n_layers = n_layers, .n_batches = n_batches,
                         .dropout = 0.2};
}

/* Each option at least twice, in both decoders. */
static void test_linear(void **state) {
  (void)state;
  check_model(base(true, AV_LIKELIHOOD_NB, AV_DISPERSION_GENE, true, 1, 1));
  check_model(base(true, AV_LIKELIHOOD_ZINB, AV_DISPERSION_GENE_BATCH, true, 2, 3));
  check_model(base(true, AV_LIKELIHOOD_POISSON, AV_DISPERSION_GENE, false, 1, 2));
  check_model(base(true, AV_LIKELIHOOD_NB, AV_DISPERSION_GENE_BATCH, false, 3, 4));
}

static void test_dense(void **state) {
  (void)state;
  check_model(base(false, AV_LIKELIHOOD_ZINB, AV_DISPERSION_GENE, false, 1, 1));
  check_model(base(false, AV_LIKELIHOOD_NB, AV_DISPERSION_GENE_BATCH, true, 2, 3));
  check_model(base(false, AV_LIKELIHOOD_POISSON, AV_DISPERSION_GENE, true, 1, 2));
  check_model(base(false, AV_LIKELIHOOD_ZINB, AV_DISPERSION_GENE_BATCH, false, 3, 2));
}

static void test_identity_input(void **state) {
  (void)state;
  av_model_spec spec = base(true, AV_LIKELIHOOD_NB, AV_DISPERSION_GENE, true, 1, 2);
  spec.log1p = false;
  spec.dropout = 0.0;
  check_model(spec);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_linear),
      cmocka_unit_test(test_dense),
      cmocka_unit_test(test_identity_input),
  };
  MPI_Init(NULL, NULL);
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  MPI_Finalize();
  return failed;
}
