/* Kernels by themselves, on every instruction set of this machine: random draws against the scalar
 * generator, also for cell numbers above 2^32; a cell's results wherever it lies; products of all
 * small shapes against plain loops, with nothing written beside the result. */
#include "backend/tested.h"
#include "backend/twin.h"

#include "backend/cpu/cpu.h"
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/state.h"
#include "backend/draws.h"
#include "backend/latent.h"
#include "config/config.h"

#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Runs `check` with the kernels of each instruction set. */
static void on_all_kernels(void (*check)(const av_kernels *)) {
  av_comm comm;
  av_backend be;
  av_comm_self(&comm);
  require(open_tested(&be, &comm, 1, false));
  for (int set = 0; use_way(&be, set); ++set) {
    check(av_cpu_of(&be)->kernels);
  }
  av_backend_close(&be);
}

static const int64_t cells[] = {0, 1, 77, 0xffffffffLL, 0x100000000LL, 0x123456789abcLL};
enum { CELLS = sizeof cells / sizeof *cells, UNITS = 521, GUARD = 32 };

/* A kept unit is its input (1 here) times the scale, a dropped one 0; nothing behind is touched. */
static void check_dropout_row(const av_kernels *kernels, int64_t n, int64_t cell, double rate) {
  const av_dropout_plan plan = {.drops = true,
                                .threshold = av_dropout_threshold(rate),
                                .scale = (float)av_dropout_scale(rate),
                                .seed = 0x1f123456789abcu,
                                .epoch = 0xfffffffeu,
                                .layer = 3};
  float one[UNITS];
  float zero[UNITS] = {0};
  float acted[UNITS + GUARD];
  float normed[UNITS + GUARD];
  for (int i = 0; i < UNITS; ++i) {
    one[i] = 1.0f;
  }
  for (int i = 0; i < UNITS + GUARD; ++i) {
    acted[i] = normed[i] = 5.0f;
  }
  const av_norm_columns columns = {.mean = zero, .inv_sigma = one, .gamma = one, .beta = zero};
  kernels->act_row(n, true, &plan, cell, one, acted);
  kernels->norm_row(n, &columns, false, &plan, cell, one, normed);
  for (int64_t u = 0; u < n; ++u) {
    uint32_t words[4];
    av_random4(words, plan.seed, AV_DRAW_DROPOUT, (uint64_t)cell, plan.epoch,
               av_dropout_index(plan.layer, u));
    const float expected = av_dropout_drops(words, u, plan.threshold) ? 0.0f : plan.scale;
    assert_true(acted[u] == expected && normed[u] == expected);
  }
  for (int64_t u = n; u < UNITS + GUARD; ++u) {
    assert_true(acted[u] == 5.0f && normed[u] == 5.0f);
  }
}

static void check_dropout(const av_kernels *kernels) {
  const int64_t widths[] = {1, 7, 8, 63, 64, 65, 128, 129, 256, 300, UNITS};
  for (size_t w = 0; w < sizeof widths / sizeof *widths; ++w) {
    for (int c = 0; c < CELLS; ++c) {
      check_dropout_row(kernels, widths[w], cells[c], c % 2 == 0 ? 0.1 : 0.83);
    }
  }
}

enum { LATENT = 38, STRIDE = LATENT + 3, MANY = 150 };

/* Mean 0 and variance 1 make z the noise itself. */
static void check_normals(const av_kernels *kernels) {
  const uint64_t seed = 0x1f123456789abcu;
  const av_latent_plan plan = {.n_latent = LATENT,
                               .stride = STRIDE,
                               .sample = true,
                               .key = seed + ((uint64_t)AV_DRAW_POSTERIOR << 54),
                               .epoch = 0xfffffffeu};
  float head[CELLS * 2 * LATENT] = {0};
  float library_head[CELLS * 2] = {0};
  float z[CELLS * STRIDE] = {0};
  float l[CELLS];
  double kl[CELLS * 2];
  const int32_t code[CELLS] = {0};
  const double prior[2] = {0.0, 1.0};
  const float unit = logf(1.0f - (float)AV_VARIANCE_FLOOR);
  for (int c = 0; c < CELLS; ++c) {
    library_head[2 * c + 1] = unit;
    for (int k = 0; k < LATENT; ++k) {
      head[(2 * c + 1) * LATENT + k] = unit;
    }
  }
  kernels->latent_draw(&plan, CELLS, cells, head, z, kl);
  kernels->library_draw(&plan, CELLS, cells, code, library_head, prior, l, kl);
  for (int c = 0; c < CELLS; ++c) {
    uint32_t words[4];
    double normals[4];
    for (int k = 0; k < LATENT; ++k) {
      av_random4(words, seed, AV_DRAW_POSTERIOR, (uint64_t)cells[c], plan.epoch, (uint32_t)(k / 4));
      av_normals4(words, normals);
      assert_true(fabs((double)z[c * STRIDE + k] - normals[k % 4]) < 1e-6);
    }
    av_random4(words, seed, AV_DRAW_POSTERIOR, (uint64_t)cells[c], plan.epoch, AV_INDEX_LIBRARY);
    av_normals4(words, normals);
    assert_true(fabs((double)l[c] - normals[0]) < 1e-6);
    assert_true(fabs(kl[2 * c]) < 1e-10 && fabs(kl[2 * c + 1]) < 1e-10);
    for (int k = LATENT; k < STRIDE; ++k) {
      assert_true(z[c * STRIDE + k] == 0.0f);
    }
  }
}

/* KL(z) in long double from the head. */
static long double kl_truth(int64_t n, const float *head) {
  long double sum = 0;
  for (int64_t k = 0; k < n; ++k) {
    const long double variance = expl((long double)head[n + k]) + (long double)AV_VARIANCE_FLOOR;
    const long double off = variance - 1.0L;
    sum += off - (fabsl(off) < 0.5L ? log1pl(off) : logl(variance)) +
           (long double)head[k] * (long double)head[k];
  }
  return sum / 2;
}

/* All of a batch's results are those that each cell gets alone, bit by bit; KL is right also where
 * q(z) lies near its prior, from 1e-8 on. */
static void check_places(const av_kernels *kernels, int64_t n, double spread) {
  source from = {.item = 77};
  const av_latent_plan plan = {
      .n_latent = n, .stride = n, .sample = true, .kl_weight = 0.7f, .key = 5, .epoch = 1};
  int64_t numbers[MANY];
  static float head[MANY * 2 * LATENT], z[MANY * LATENT], dhead[MANY * 2 * LATENT];
  double kl[2 * MANY];
  float alone_z[LATENT], alone_dhead[2 * LATENT];
  double alone_kl[2];
  for (int64_t i = 0; i < MANY; ++i) {
    numbers[i] = 1000 + 3 * i;
    for (int64_t k = 0; k < 2 * n; ++k) {
      head[i * 2 * n + k] = (float)(spread * source_normal(&from));
    }
  }
  kernels->latent_draw(&plan, MANY, numbers, head, z, kl);
  kernels->latent_grad(&plan, MANY, numbers, head, z, z, dhead);
  for (int64_t i = 0; i < MANY; ++i) {
    const float *own = head + i * 2 * n;
    kernels->latent_draw(&plan, 1, numbers + i, own, alone_z, alone_kl);
    kernels->latent_grad(&plan, 1, numbers + i, own, alone_z, alone_z, alone_dhead);
    assert_memory_equal(alone_z, z + i * n, (size_t)n * sizeof *z);
    assert_memory_equal(alone_dhead, dhead + i * 2 * n, (size_t)(2 * n) * sizeof *dhead);
    assert_true(alone_kl[0] == kl[2 * i]);
    const double truth = (double)kl_truth(n, own);
    /* exp in float is off by 1e-7, which moves the variance; 1e-4 is the floor's effect */
    const double slack = 3e-7 * truth + 3e-7 * (spread + AV_VARIANCE_FLOOR) * (double)n;
    if (!(fabs(kl[2 * i] - truth) <= slack)) {
      fail_msg("KL %.9g, true %.9g, slack %.3g", kl[2 * i], truth, slack);
    }
  }
}

static void check_latent(const av_kernels *kernels) {
  const int64_t widths[] = {1, 3, 4, 5, 10, 16, LATENT};
  for (size_t w = 0; w < sizeof widths / sizeof *widths; ++w) {
    check_places(kernels, widths[w], 1.0);
    check_places(kernels, widths[w], 1e-3);
  }
}

enum { ROWS = 300, MOST = 140, SPACE = MOST * MOST + GUARD };

/* Fails unless got (rows, n; row stride) is `expected` (rows, n) and all else in it still `other`.
 */
static void same_block(const char *what, int64_t rows, int64_t n, const float *got, int64_t stride,
                       const double *expected, int64_t space, float other, double slack) {
  for (int64_t i = 0; i < space; ++i) {
    const int64_t row = i / stride;
    const int64_t column = i % stride;
    const bool inside = row < rows && column < n;
    if (inside ? !(fabs((double)got[i] - expected[row * n + column]) <= slack) : got[i] != other) {
      fail_msg("%s (%lld, %lld)[%lld, %lld] = %.9g", what, (long long)rows, (long long)n,
               (long long)row, (long long)column, (double)got[i]);
    }
  }
}

static float left[ROWS * (MOST + 5)], right[ROWS * (MOST + 5)];

static void check_outer(const av_kernels *kernels, int64_t rows, int64_t m, int64_t n) {
  static float dw[SPACE + 3 * MOST];
  static double expected[MOST * MOST];
  const int64_t x_stride = m + 5;
  const int64_t stride = n + 3;
  const int64_t space = m * stride + GUARD;
  for (int64_t i = 0; i < space; ++i) {
    dw[i] = 0.5f;
  }
  for (int64_t k = 0; k < m; ++k) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0.5;
      for (int64_t r = 0; r < rows; ++r) {
        sum += (double)left[r * x_stride + k] * (double)right[r * n + j];
      }
      expected[k * n + j] = sum;
    }
  }
  kernels->layer_outer(rows, m, left, x_stride, n, right, n, dw, stride);
  same_block("layer_outer", m, n, dw, stride, expected, space, 0.5f, 3e-5);
}

static void check_product(const av_kernels *kernels, int64_t rows, int64_t depth, int64_t n,
                          bool transposed) {
  static float packed[MOST * (MOST + 2 * AV_PANEL)];
  static float y[ROWS * (MOST + 5) + GUARD];
  static double expected[ROWS * MOST];
  const float *bias = n % 2 == 0 ? right + 11 : NULL;
  const int64_t x_stride = depth + 5;
  const int64_t stride = n + 3;
  const int64_t space = rows * stride + GUARD;
  const int64_t depth_stride = transposed ? 1 : n;
  const int64_t column_stride = transposed ? depth : 1;
  const float *w = right;
  for (int64_t i = 0; i < space; ++i) {
    y[i] = 0.5f;
  }
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = bias == NULL ? 0.0 : (double)bias[j];
      for (int64_t k = 0; k < depth; ++k) {
        sum += (double)left[r * x_stride + k] * (double)w[k * depth_stride + j * column_stride];
      }
      expected[r * n + j] = sum;
    }
  }
  for (int64_t i = 0; i < (int64_t)(sizeof packed / sizeof *packed); ++i) {
    packed[i] = NAN;
  }
  kernels->layer_pack(depth, n, 0, depth / 2, w, depth_stride, column_stride, packed);
  kernels->layer_pack(depth, n, depth / 2, depth, w, depth_stride, column_stride, packed);
  for (int64_t i = 0; i < av_panels(n) * AV_PANEL * depth; ++i) {
    assert_true(isnan(packed[i]) == 0); /* padding is written too */
  }
  kernels->layer_product(rows, depth, left, x_stride, n, packed, bias, y, stride);
  same_block("layer_product", rows, n, y, stride, expected, space, 0.5f, 3e-5);
}

static void check_layers(const av_kernels *kernels) {
  const int64_t sizes[] = {1, 2, 3, 5, 8, 10, 15, 16, 17, 20, 31, 32, 33, 48, 65, 128, 131};
  const int64_t counts[] = {0, 1, 3, 13, 270};
  source from = {.item = 900};
  for (size_t i = 0; i < sizeof left / sizeof *left; ++i) {
    left[i] = (float)source_uniform(&from, -1, 1);
    right[i] = (float)source_uniform(&from, -1, 1);
  }
  const size_t n_sizes = sizeof sizes / sizeof *sizes;
  for (size_t a = 0; a < n_sizes; ++a) {
    for (size_t b = 0; b < n_sizes; ++b) {
      const int64_t rows = counts[(a + b) % (sizeof counts / sizeof *counts)];
      check_outer(kernels, rows, sizes[a], sizes[b]);
      check_product(kernels, rows, sizes[a], sizes[b], (a + b) % 2 == 0);
    }
  }
}

static void dropout(void **state) {
  (void)state;
  on_all_kernels(check_dropout);
}
static void normals(void **state) {
  (void)state;
  on_all_kernels(check_normals);
}
static void latent(void **state) {
  (void)state;
  on_all_kernels(check_latent);
}
static void layers(void **state) {
  (void)state;
  on_all_kernels(check_layers);
}

int main(int argc, char **argv) {
  if (MPI_Init(&argc, &argv) != MPI_SUCCESS) {
    return 1;
  }
  const struct CMUnitTest tests[] = {cmocka_unit_test(dropout), cmocka_unit_test(normals),
                                     cmocka_unit_test(latent), cmocka_unit_test(layers)};
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  MPI_Finalize();
  return failed;
}
