/* Updates of the model on a backend: Adam against its definition, and gradients that stay finite
 * whatever the values are.
 *
 * usage: test_update reference|cpu|strict; on any number of ranks.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "backend/latent.h"
#include "base/memory.h"
#include "math/rng.h"
#include "model/rig.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CELLS = 17, PICKED = 10 };
static const int64_t picked[PICKED] = {16, 3, 0, 7, 11, 5, 2, 14, 9, 1};

static av_comm comm;
static rig_kind kind;

static const av_draw train_draw = {.seed = 3, .epoch = 2, .purpose = AV_DRAW_LATENT};
static const av_draw later_draw = {.seed = 3, .epoch = 5, .purpose = AV_DRAW_POSTERIOR};

static void check_near(double found, double expected, double scale, const char *what) {
  if (!(fabs(found - expected) <= kind.tolerance * (fabs(expected) + scale))) {
    fail_msg("%s: %.15g, expected %.15g", what, found, expected);
  }
}

/* ---- extremes ---- */

/* Sets what the name ends with, element by element in turn to one of the four values. */
static void set_to(rig *r, const char *ending, const double values[4]) {
  for (int64_t t = 0; t < r->layout->n_tensors; ++t) {
    const av_tensor *tensor = &r->layout->tensors[t];
    const size_t length = strlen(tensor->name);
    if (length < strlen(ending) || strcmp(tensor->name + length - strlen(ending), ending) != 0) {
      continue;
    }
    for (int64_t i = 0; i < tensor->rows; ++i) {
      for (int64_t j = 0; j < tensor->columns; ++j) {
        r->params[tensor->at + i * tensor->stride + j] = values[(i + j) % 4];
      }
    }
  }
}

static void check_finite(rig *r, const char *what) {
  double losses[AV_LOSSES];
  double *grads = av_calloc((size_t)r->layout->n_params, sizeof *grads);
  assert_int_equal(av_vae_set_values(r->vae, r->params, r->running), AV_OK);
  av_vae_step(r->vae, r->batch, PICKED, train_draw, 1.0);
  assert_int_equal(av_vae_take_losses(r->vae, losses), AV_OK);
  assert_int_equal(av_vae_get_gradients(r->vae, grads), AV_OK);
  if (!isfinite(losses[AV_LOSS_NLL])) {
    fail_msg("%s: negative log-likelihood %g", what, losses[AV_LOSS_NLL]);
  }
  for (int64_t t = 0; t < r->layout->n_tensors; ++t) {
    const av_tensor *tensor = &r->layout->tensors[t];
    for (int64_t i = 0; !tensor->in_running && i < tensor->rows; ++i) {
      for (int64_t j = 0; j < tensor->columns; ++j) {
        const double g = grads[tensor->at + i * tensor->stride + j];
        if (!isfinite(g)) {
          fail_msg("%s, %s: gradient %g", what, tensor->name, g);
        }
      }
    }
  }
  av_vae_begin_inference(r->vae);
  av_vae_evaluate(r->vae, r->batch, later_draw);
  assert_int_equal(av_vae_take_losses(r->vae, losses), AV_OK);
  assert_true(isfinite(losses[AV_LOSS_NLL]) != 0);
  free(grads);
}

/* Dispersions and logits far beyond what exp can hold: every loss and gradient stays finite. */
static void test_extremes(void **state) {
  (void)state;
  static const double far[4] = {-800.0, 800.0, -50.0, 50.0};
  static const double far_shift[4] = {900.0, -900.0, 300.0, -90.0};
  for (int linear = 0; linear < 2; ++linear) {
    for (int likelihood = 0; likelihood < 3; ++likelihood) {
      for (int dispersion = 0; dispersion < 4; ++dispersion) {
        for (int size_factor = 0; size_factor < 2; ++size_factor) {
          rig r;
          const toy_extras extras = {.n_labels = 3, .size_factor = size_factor != 0};
          char what[96];
          rig_open_with(&r, &kind, &comm, rig_spec(linear != 0, likelihood, dispersion, true, 1, 3),
                        &extras, CELLS);
          rig_select(&r, PICKED, picked);
          snprintf(what, sizeof what, "%s, likelihood %d, dispersion %d%s",
                   linear != 0 ? "linear" : "dense", likelihood, dispersion,
                   size_factor != 0 ? ", size factor" : "");
          set_to(&r, "px_r", far);
          set_to(&r, linear != 0 ? "px_r_decoder.fc_layers.Layer 0.1.bias" : "px_r_decoder.bias",
                 far);
          check_finite(&r, what);
          set_to(
              &r,
              linear != 0 ? "factor_regressor.fc_layers.Layer 0.1.bias" : "px_scale_decoder.0.bias",
              far_shift);
          set_to(&r,
                 linear != 0 ? "px_dropout_decoder.fc_layers.Layer 0.1.bias"
                             : "px_dropout_decoder.bias",
                 far);
          check_finite(&r, what);
          rig_close(&r);
        }
      }
    }
  }
}

/* ---- Adam ---- */

/* torch.optim.Adam and AdamW after clip_grad_norm_, in double, over all n values. */
static void textbook_adam(const av_adam *adam, int64_t n, const double *gradient, double *p,
                          double *m, double *v) {
  double length = 0.0;
  for (int64_t i = 0; i < n; ++i) {
    length = hypot(length, adam->scale * gradient[i]);
  }
  const double shrink = adam->clip > 0.0 ? fmin(1.0, adam->clip / (length + 1e-6)) : 1.0;
  for (int64_t i = 0; i < n; ++i) {
    double g = shrink * adam->scale * gradient[i];
    if (adam->decoupled) {
      p[i] -= adam->lr * adam->weight_decay * p[i];
    } else {
      g += adam->weight_decay * p[i];
    }
    m[i] = adam->beta1 * m[i] + (1.0 - adam->beta1) * g;
    v[i] = adam->beta2 * v[i] + (1.0 - adam->beta2) * g * g;
    const double m_hat = m[i] / (1.0 - pow(adam->beta1, (double)adam->step));
    const double v_hat = v[i] / (1.0 - pow(adam->beta2, (double)adam->step));
    p[i] -= adam->lr * m_hat / (sqrt(v_hat) + adam->eps);
  }
}

/* Three steps with a decay large enough to see. */
static void check_adam(bool decoupled, double clip) {
  rig r;
  rig_open(&r, &kind, &comm, rig_spec(true, AV_LIKELIHOOD_ZINB, AV_DISPERSION_GENE, true, 1, 3),
           CELLS);
  const int64_t n = r.layout->n_params;
  double *gradient = av_calloc((size_t)n, sizeof *gradient);
  double *params = av_calloc((size_t)n, sizeof *params);
  double *running = av_calloc((size_t)r.layout->n_running, sizeof *running);
  double *p = av_calloc((size_t)n, sizeof *p);
  double *m = av_calloc((size_t)n, sizeof *m);
  double *v = av_calloc((size_t)n, sizeof *v);
  memcpy(p, r.params, (size_t)n * sizeof *p);
  double moved = 0.0;
  rig_select(&r, PICKED, picked);
  for (int64_t step = 1; step <= 3; ++step) {
    const av_adam adam = {.lr = 0.02,
                          .beta1 = 0.9,
                          .beta2 = 0.999,
                          .eps = 0.01,
                          .weight_decay = 0.05,
                          .decoupled = decoupled,
                          .clip = clip,
                          .scale = 1.0 / PICKED,
                          .step = step};
    av_vae_step(r.vae, r.batch, PICKED, train_draw, 1.0);
    assert_int_equal(av_vae_get_gradients(r.vae, gradient), AV_OK);
    assert_int_equal(av_sum_f64(&comm, gradient, n), AV_OK);
    av_vae_update(r.vae, &adam);
    textbook_adam(&adam, n, gradient, p, m, v);
    assert_int_equal(av_vae_get_values(r.vae, params, running), AV_OK);
    for (int64_t i = 0; i < n; ++i) {
      check_near(params[i], p[i], 1e-2, "parameter after Adam");
      moved = fmax(moved, fabs(p[i] - r.params[i]));
    }
    assert_int_equal(av_vae_get_gradients(r.vae, gradient), AV_OK);
    for (int64_t i = 0; i < n; ++i) {
      assert_true(gradient[i] == 0.0); /* ready for the next minibatch */
    }
  }
  assert_true(moved > 0.01);
  free(gradient);
  free(params);
  free(running);
  free(p);
  free(m);
  free(v);
  rig_close(&r);
}

static void test_adam(void **state) {
  (void)state;
  check_adam(false, 0.0);
  check_adam(false, 0.5); /* shorter than the gradient */
  check_adam(true, 0.5);
  check_adam(true, 1e5); /* longer: nothing is clipped */
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_extremes),
      cmocka_unit_test(test_adam),
  };
  if (av_comm_create(&comm, &argc, &argv) != AV_OK) {
    return 1;
  }
  kind = rig_kind_of(argc > 1 ? argv[1] : "reference");
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  av_comm_free(&comm);
  return failed;
}
