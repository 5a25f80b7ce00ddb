/* What a training step tells other ranks: how much, and that the same model comes out however the
 * gradient travels.
 *
 * usage: test_traffic reference|cpu|strict; on any number of ranks.
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
static const av_draw train_draw = {.seed = 3, .epoch = 2, .purpose = AV_DRAW_LATENT};

static av_comm comm;
static rig_kind kind;
static bool counts_known; /* the cpu's are worked out here */

static av_adam adam_of(int64_t step, double clip) {
  return (av_adam){.lr = 0.02,
                   .beta1 = 0.9,
                   .beta2 = 0.999,
                   .eps = 0.01,
                   .weight_decay = 1e-6,
                   .clip = clip,
                   .scale = 1.0 / PICKED,
                   .step = step};
}

/* ---- sums by shares ---- */

static double term(int64_t i, int rank, int64_t array) {
  return (double)((i * 7 + array) % 13) + 20.0 * rank;
}

static double term_sum(int64_t i, int64_t array) {
  double sum = 0.0;
  for (int r = 0; r < comm.size; ++r) {
    sum += term(i, r, array);
  }
  return sum;
}

/* Some sums under way, a blocking one in between, their shares, and all of them everywhere. */
static void check_shares(av_backend *be, int64_t n) {
  enum { ARRAYS = 9 };
  void *array[ARRAYS] = {NULL};
  double *values = av_calloc((size_t)n, sizeof *values);
  for (int64_t a = 0; a < ARRAYS; ++a) {
    for (int64_t i = 0; i < n; ++i) {
      values[i] = term(i, comm.rank, a);
    }
    assert_int_equal(be->ops->alloc(be, AV_GRAD, n, &array[a]), AV_OK);
    assert_int_equal(be->ops->write(be, AV_GRAD, array[a], n, values), AV_OK);
    be->ops->share_begin(be, AV_GRAD, array[a], n);
  }
  void *small = NULL;
  double one = comm.rank + 1.0;
  assert_int_equal(be->ops->alloc(be, AV_SUM, 1, &small), AV_OK);
  assert_int_equal(be->ops->write(be, AV_SUM, small, 1, &one), AV_OK);
  be->ops->allreduce(be, AV_SUM, small, 1);
  assert_int_equal(be->ops->read(be, AV_SUM, small, 1, &one), AV_OK);
  assert_true(one == comm.size * (comm.size + 1) / 2.0);
  be->ops->share_end(be);
  const int64_t first = av_share_first(&comm, n, comm.rank);
  const int64_t end = av_share_first(&comm, n, comm.rank + 1);
  assert_true(first % 16 == 0 || first == n);
  for (int64_t a = 0; a < ARRAYS; ++a) {
    assert_int_equal(be->ops->read(be, AV_GRAD, array[a], n, values), AV_OK);
    for (int64_t i = 0; i < n; ++i) {
      assert_true(values[i] == (i >= first && i < end ? term_sum(i, a) : 0.0));
    }
    be->ops->gather_begin(be, AV_GRAD, array[a], n);
  }
  be->ops->gather_end(be);
  for (int64_t a = 0; a < ARRAYS; ++a) {
    assert_int_equal(be->ops->read(be, AV_GRAD, array[a], n, values), AV_OK);
    for (int64_t i = 0; i < n; ++i) {
      assert_true(values[i] == term_sum(i, a));
    }
    be->ops->release(be, array[a]);
  }
  be->ops->release(be, small);
  free(values);
}

static void test_shares(void **state) {
  (void)state;
  av_backend be = {.ops = kind.ops, .comm = &comm, .threads = 2, .strict = kind.strict};
  assert_int_equal(kind.ops->open(&be), AV_OK);
  const int64_t sizes[] = {1, 16, 53, 100003, 0, 1024};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; ++i) {
    check_shares(&be, sizes[i]);
  }
  av_backend_close(&be);
}

/* Shares cover an array once, in the order of the ranks, and differ by no more than a grain. */
static void test_cuts(void **state) {
  (void)state;
  for (int size = 1; size <= 40; size += 3) {
    const av_comm many = {.size = size};
    for (int64_t n = 0; n < 2000; n += 37) {
      assert_int_equal(av_share_first(&many, n, 0), 0);
      assert_int_equal(av_share_first(&many, n, size), n);
      for (int r = 0; r < size; ++r) {
        const int64_t share = av_share_first(&many, n, r + 1) - av_share_first(&many, n, r);
        assert_true(share >= 0 && share <= n / size + 16);
      }
    }
  }
}

/* ---- the same model however the gradient travels ---- */

static void train(const av_model_spec *spec, const toy_extras *extras, bool early, int64_t least,
                  double clip, double *params) {
  rig r;
  rig_open_with(&r, &kind, &comm, *spec, extras, CELLS);
  av_vae_set_least_part(r.vae, least);
  rig_select(&r, PICKED, picked);
  for (int64_t step = 1; step <= 3; ++step) {
    const av_adam adam = adam_of(step, clip);
    if (early) {
      av_vae_train_step(r.vae, r.batch, PICKED, train_draw, 0.7, &adam);
    } else {
      av_vae_step(r.vae, r.batch, PICKED, train_draw, 0.7);
    }
    rig_select(&r, PICKED, picked); /* beside the exchange */
    av_vae_update(r.vae, &adam);
  }
  assert_int_equal(av_vae_get_values(r.vae, params, r.running), AV_OK);
  rig_close(&r);
}

static void check_ways(const av_model_spec *spec, const toy_extras *extras) {
  enum { MOST = 1 << 14 };
  static double wanted[MOST];
  static double found[MOST];
  rig r;
  rig_open_with(&r, &kind, &comm, *spec, extras, CELLS);
  const int64_t n = r.layout->n_params;
  assert_true(n <= MOST);
  memcpy(found, r.params, (size_t)n * sizeof *found);
  rig_close(&r);
  train(spec, extras, false, INT64_MAX, 0.0, wanted);
  double moved = 0.0;
  for (int64_t i = 0; i < n; ++i) {
    moved = fmax(moved, fabs(wanted[i] - found[i]));
  }
  assert_true(moved > 0.01);
  const struct {
    bool early;
    int64_t least;
    double clip;
  } ways[] = {{true, INT64_MAX, 0.0}, {false, 0, 0.0}, {true, 0, 0.0}, {true, 0, 1e30}};
  /* three floats may be added in another order, elsewhere nothing differs */
  const bool exact = kind.strict || comm.size < 3;
  for (size_t w = 0; w < sizeof ways / sizeof *ways; ++w) {
    train(spec, extras, ways[w].early, ways[w].least, ways[w].clip, found);
    for (int64_t i = 0; i < n; ++i) {
      const double off = fabs(found[i] - wanted[i]);
      if (!(exact ? off == 0.0 : off <= kind.tolerance * (fabs(wanted[i]) + 1e-2))) {
        fail_msg("way %zu, parameter %lld: %.17g, expected %.17g", w, (long long)i, found[i],
                 wanted[i]);
      }
    }
  }
}

static void test_ways(void **state) {
  (void)state;
  const av_model_spec linear = rig_spec(true, AV_LIKELIHOOD_ZINB, AV_DISPERSION_GENE, true, 1, 3);
  const av_model_spec deep = rig_spec(false, AV_LIKELIHOOD_NB, AV_DISPERSION_GENE, false, 2, 1);
  const toy_extras none = {.levels = {0}};
  check_ways(&linear, &none);
  check_ways(&deep, &none);
  int64_t n = 0;
  const rig_case *cases = rig_cases(&n);
  for (int64_t i = 0; i < n; ++i) {
    if (cases[i].encode && rig_case_has(&cases[i], true)) {
      const av_model_spec encoded = rig_case_spec(&cases[i], true);
      check_ways(&encoded, &cases[i].extras);
    }
  }
}

/* ---- when ---- */

/* Operations of a step: a sum to all ranks, one by shares, the first layer's gradient. */
static char order_of[64];
static const av_backend_ops *spied;

static void note(char what) {
  const size_t n = strlen(order_of);
  assert_true(n + 1 < sizeof order_of);
  order_of[n] = what;
}
static void spy_allreduce(av_backend *be, av_kind which, void *array, int64_t n) {
  note('a');
  spied->allreduce(be, which, array, n);
}
static void spy_share_begin(av_backend *be, av_kind which, void *array, int64_t n) {
  note('s');
  spied->share_begin(be, which, array, n);
}
static void spy_gradient(av_backend *be, const av_batch *batch, bool log1p, bool covariates,
                         int64_t n, const av_real *dy, av_grad *dw, av_grad *dbias) {
  note('g');
  spied->sparse_linear_grad(be, batch, log1p, covariates, n, dy, dw, dbias);
}

/* The order of a step's operations up to the update's. */
static const char *order_of_step(av_model_spec spec, av_sums sums) {
  rig_kind spied_kind = kind;
  spied_kind.sums = sums;
  rig r;
  rig_open(&r, &spied_kind, &comm, spec, CELLS);
  spied = r.be.ops;
  av_backend_ops spy = *spied;
  spy.allreduce = spy_allreduce;
  spy.share_begin = spy_share_begin;
  spy.sparse_linear_grad = spy_gradient;
  r.be.ops = &spy;
  rig_select(&r, PICKED, picked);
  const av_adam adam = adam_of(1, 1e30); /* clipped: one rank makes all of the gradient */
  memset(order_of, 0, sizeof order_of);
  av_vae_train_step(r.vae, r.batch, PICKED, train_draw, 0.7, &adam);
  r.be.ops = spied;
  av_vae_update(r.vae, &adam);
  rig_close(&r);
  return order_of;
}

/* With the sizes that users have if they say nothing. */
static av_model_spec default_spec(bool linear, int64_t n_layers) {
  av_model_spec spec = rig_spec(linear, AV_LIKELIHOOD_NB, AV_DISPERSION_GENE, false, n_layers, 1);
  spec.n_genes = 2000;
  spec.n_hidden = 128;
  spec.n_latent = 10;
  return spec;
}

/* The decoder's part of the gradient is on its way beside as much as can be: the encoder's backward
 * pass; or, where a sum would wait for it, the first layer's gradient. Linear decoders are small:
 * their part travels alone only where that is one operation, not messages. */
static void test_order(void **state) {
  (void)state;
  /* sums of BatchNorm's moments: forward, back through the decoder; back through the encoder's */
  const av_model_spec deep = default_spec(false, 1);
  assert_string_equal(order_of_step(deep, AV_SUMS_BESIDE), "aaasags");
  assert_string_equal(order_of_step(deep, AV_SUMS_IN_TURN), "aaaasgs");
  assert_string_equal(order_of_step(deep, AV_SUMS_AT_ONCE), "aaaags");
  const av_model_spec deeper = default_spec(false, 2);
  assert_string_equal(order_of_step(deeper, AV_SUMS_BESIDE), "aaaaaasaags");
  assert_string_equal(order_of_step(deeper, AV_SUMS_IN_TURN), "aaaaaaaasgs");
  /* the decoder's are of its input, and of the gradient's way back through its head */
  const av_model_spec linear = default_spec(true, 1);
  assert_string_equal(order_of_step(linear, AV_SUMS_BESIDE), "aaaags");
  assert_string_equal(order_of_step(linear, AV_SUMS_IN_TURN), "aaaasgs");
  /* not worth an operation */
  const av_model_spec tiny = rig_spec(true, AV_LIKELIHOOD_NB, AV_DISPERSION_GENE, false, 1, 1);
  assert_string_equal(order_of_step(tiny, AV_SUMS_IN_TURN), "aaaags");
}

/* ---- how much ---- */

/* Operations and bytes that this rank should have counted. */
static av_traffic wanted;

static void expect_sum(int64_t doubles) {
  if (comm.size > 1) {
    ++wanted.operations;
    wanted.bytes += 2 * (comm.size - 1) * doubles * 8 / comm.size;
  }
}

/* n floats of gradient to their owners, and n floats of parameters back. */
static void expect_part(int64_t n) {
  const int64_t units = (n + 15) / 16;
  const int64_t before = 16 * (units * comm.rank / comm.size);
  const int64_t until = 16 * (units * (comm.rank + 1) / comm.size);
  const int64_t own = (until < n ? until : n) - (before < n ? before : n);
  if (comm.size > 1) {
    wanted.operations += 2;
    wanted.bytes += 4 * (n - own) + 4 * own * (comm.size - 1);
  }
}

static void check_count(const char *what, const av_model_spec *spec, int64_t least, bool frozen) {
  av_traffic counted = {0};
  av_comm counting = comm;
  counting.traffic = &counted;
  rig r;
  rig_open(&r, &kind, &counting, *spec, CELLS);
  av_vae_set_least_part(r.vae, least);
  if (frozen) {
    av_vae_freeze_encoder(r.vae);
  }
  rig_select(&r, PICKED, picked);
  const av_adam adam = adam_of(1, 0.0);
  counted = (av_traffic){0};
  av_vae_train_step(r.vae, r.batch, PICKED, train_draw, 0.7, &adam);
  av_vae_update(r.vae, &adam);
  if (comm.size == 1) {
    assert_int_equal(counted.operations, 0);
    assert_true(counted.seconds == 0.0 && counted.ahead == 0.0 && counted.waited == 0.0);
  } else {
    assert_true(counted.seconds > 0.0);
  }
  if (counts_known) {
    if (counted.operations != wanted.operations || counted.bytes != wanted.bytes) {
      fail_msg("%s: %lld operations, %lld bytes; expected %lld, %lld", what,
               (long long)counted.operations, (long long)counted.bytes,
               (long long)wanted.operations, (long long)wanted.bytes);
    }
    assert_true(comm.size == 1 || (counted.ahead > 0.0 && counted.waited >= 0.0));
  } else { /* the reference sums twice to all; strict asks for maxima as well */
    assert_true(counted.operations >= wanted.operations && counted.bytes >= wanted.bytes);
  }
  wanted = (av_traffic){0};
  rig_close(&r);
}

static void test_counts(void **state) {
  (void)state;
  /* 11 genes, 5 hidden units, 3 latent dimensions */
  const av_model_spec linear = rig_spec(true, AV_LIKELIHOOD_ZINB, AV_DISPERSION_GENE, true, 1, 3);
  av_layout layout;
  assert_int_equal(av_layout_create(&layout, &linear), AV_OK);
  const int64_t encoder = layout.decoder_begin;
  const int64_t decoder = layout.n_params - layout.decoder_begin;
  av_layout_free(&layout);
  for (int parts = 1; parts <= 2; ++parts) {
    expect_sum(2 * 10);              /* moments of both encoders */
    expect_sum(3 + 3 * 3 + 9);       /* of the decoder's input: 3 batches, 3 columns */
    expect_sum(2 * 3 * (1 + 3 + 3)); /* back through the BatchNorm of both heads */
    expect_sum(2 * 10);              /* and that of the encoders */
    if (parts == 1) {
      expect_part(encoder + decoder);
    } else {
      expect_part(decoder);
      expect_part(encoder);
    }
    check_count("linear", &linear, parts == 1 ? INT64_MAX : 0, false);
  }
  expect_sum(3 + 3 * 3 + 9);
  expect_sum(2 * 3 * (1 + 3 + 3));
  expect_part(decoder);
  check_count("linear, encoder frozen", &linear, 0, true);

  const av_model_spec deep = rig_spec(false, AV_LIKELIHOOD_NB, AV_DISPERSION_GENE, false, 2, 1);
  assert_int_equal(av_layout_create(&layout, &deep), AV_OK);
  for (int norm = 0; norm < 2 * (2 + 2); ++norm) {
    expect_sum(2 * 5);
  }
  expect_part(layout.n_params - layout.decoder_begin);
  expect_part(layout.decoder_begin);
  av_layout_free(&layout);
  check_count("deep", &deep, 0, false);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_cuts), cmocka_unit_test(test_shares),
                                     cmocka_unit_test(test_ways), cmocka_unit_test(test_order),
                                     cmocka_unit_test(test_counts)};
  if (argc != 2 || av_comm_create(&comm, &argc, &argv) != AV_OK) {
    return 1;
  }
  kind = rig_kind_of(argv[1]);
  counts_known = strcmp(argv[1], "cpu") == 0;
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  av_comm_free(&comm);
  return failed;
}
