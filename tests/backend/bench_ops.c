/* Microseconds of wall time a cell for each operation of the cpu backend, as one training step of
 * LDVAE and scVI calls them: bench_ops [threads [genes [strict]]]. Not a test. */
#include "backend/tested.h"
#include "backend/twin.h"

#include "backend/cpu/cpu.h"
#include "backend/latent.h"
#include "base/memory.h"
#include "config/config.h"
#include "math/rng.h"

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { HIDDEN = 128, LATENT = 10, BATCHES = 2, CELLS = 4000 };

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef struct bench {
  av_backend be;
  av_batch *batch;
  const av_design *design;
  int64_t rows, genes;
  double *fastest; /* seconds, by line */
  const char **name;
  int lines, line;
} bench;

static void stop(const char *what) {
  av_error_print();
  fprintf(stderr, "bench_ops: %s failed\n", what);
  exit(1);
}

static void *array(bench *b, av_kind kind, int64_t n, double shift, double scale) {
  static uint64_t item = 1;
  void *made = NULL;
  double *values = av_calloc((size_t)n, sizeof *values);
  if (values == NULL || b->be.ops->alloc(&b->be, kind, n, &made) != AV_OK) {
    stop("allocation");
  }
  source from = {.item = ++item << 30};
  for (int64_t i = 0; i < n; ++i) {
    values[i] = scale == 0.0 ? shift : shift + scale * source_normal(&from);
  }
  if (b->be.ops->write(&b->be, kind, made, n, values) != AV_OK) {
    stop("write");
  }
  free(values);
  return made;
}

/* Keeps the fastest time of the line that `call` is; the first round makes the lines. */
#define TIME(b, label, call)                                                   \
  do {                                                                         \
    const double begin_ = now();                                               \
    (b)->be.ops->call;                                                         \
    const double took_ = now() - begin_;                                       \
    const int at_ = (b)->line++;                                               \
    if (at_ == (b)->lines) {                                                   \
      (b)->name[(b)->lines++] = (label);                                       \
      (b)->fastest[at_] = took_;                                               \
    }                                                                          \
    (b)->fastest[at_] = took_ < (b)->fastest[at_] ? took_ : (b)->fastest[at_]; \
  } while (0)

static void print_lines(bench *b, const char *title) {
  double sum = 0.0;
  printf("%s, minibatch %lld\n", title, (long long)b->rows);
  for (int i = 0; i < b->lines; ++i) {
    const double us = b->fastest[i] / (double)b->rows * 1e6;
    sum += us;
    printf("  %-34s %8.3f us a cell\n", b->name[i], us);
  }
  printf("  %-34s %8.3f us a cell, %.0f cells/s\n", "together", sum, 1e6 / sum);
  b->lines = 0;
}

/* Rounds for about a second. */
static int rounds_for(const bench *b) { return (int)(40000 / b->rows) + 5; }

static void encoder(bench *b, int64_t width) {
  av_backend *be = &b->be;
  void *w = array(b, AV_REAL, b->genes * width, 0, 0.02);
  void *bias = array(b, AV_REAL, width, 0, 0.1);
  void *x = array(b, AV_REAL, b->rows * width, 0, 0);
  void *y = array(b, AV_REAL, b->rows * width, 0, 0);
  void *dy = array(b, AV_REAL, b->rows * width, 0, 1);
  void *dx = array(b, AV_REAL, b->rows * width, 0, 1);
  void *dw = array(b, AV_GRAD, b->genes * width, 0, 0);
  void *dbias = array(b, AV_GRAD, width, 0, 0);
  void *moments = array(b, AV_SUM, 2 * width, 0, 0);
  void *back = array(b, AV_SUM, 2 * width, 0, 0);
  void *gamma = array(b, AV_REAL, width, 1, 0);
  void *beta = array(b, AV_REAL, width, 0, 0);
  void *running = array(b, AV_REAL, 2 * width, 1, 0);
  void *dgamma = array(b, AV_GRAD, width, 0, 0);
  void *dbeta = array(b, AV_GRAD, width, 0, 0);
  void *head = array(b, AV_REAL, HIDDEN * 2 * LATENT, 0, 0.05);
  void *dhead = array(b, AV_GRAD, HIDDEN * 2 * LATENT, 0, 0);
  void *z_head = array(b, AV_REAL, b->rows * 2 * LATENT, 0, 1);
  void *l_head = array(b, AV_REAL, b->rows * 2, 0, 1);
  void *z = array(b, AV_REAL, b->rows * LATENT, 0, 1);
  void *l = array(b, AV_REAL, b->rows, 0, 1);
  void *prior = array(b, AV_SUM, 2 * BATCHES, 1, 0);
  void *losses = array(b, AV_SUM, AV_LOSSES, 0, 0);
  int64_t *rows = av_calloc((size_t)b->rows, sizeof *rows);
  const av_norm norm = {.n = width,
                        .training = true,
                        .batch_norm = true,
                        .relu = true,
                        .dropout = 0.1,
                        .n_cells = b->rows};
  const av_latent latent = {.n_latent = LATENT,
                            .stride = LATENT,
                            .latent_library = true,
                            .sample = true,
                            .kl_weight = 1,
                            .draw = {.purpose = AV_DRAW_LATENT}};
  for (int round = 0; round < rounds_for(b); ++round) {
    b->line = 0;
    for (int64_t i = 0; i < b->rows; ++i) {
      rows[i] = (i * 31 + round * 977) % CELLS;
    }
    TIME(b, "batch_select", batch_select(be, b->batch, b->rows, rows));
    TIME(b, "sparse_linear", sparse_linear(be, b->batch, true, false, width, w, bias, x));
    TIME(b, "moments", moments(be, b->batch, width, x, moments));
    TIME(b, "norm_act", norm_act(be, b->batch, &norm, x, moments, gamma, beta, running, y));
    TIME(b, "linear 128 -> 20",
         linear(be, b->batch, HIDDEN, 0, 2 * LATENT, y, width, head, NULL, z_head));
    TIME(b, "latent_draw", latent_draw(be, b->batch, &latent, z_head, l_head, prior, z, l, losses));
    TIME(b, "latent_grad",
         latent_grad(be, b->batch, &latent, z_head, l_head, prior, z, z, l, z_head, l_head));
    TIME(b, "linear_grad 128 -> 20",
         linear_grad(be, b->batch, HIDDEN, 0, 2 * LATENT, y, width, head, z_head, dx, width, dhead,
                     NULL));
    TIME(b, "norm_act_sums",
         norm_act_sums(be, b->batch, &norm, x, moments, gamma, y, dy, back, dgamma, dbeta));
    TIME(b, "norm_act_grad",
         norm_act_grad(be, b->batch, &norm, x, moments, gamma, y, dy, back, dx));
    TIME(b, "sparse_linear_grad",
         sparse_linear_grad(be, b->batch, true, false, width, dx, dw, dbias));
    TIME(b, "zero", zero(be, AV_GRAD, dw, b->genes * width));
    TIME(b, "zero", zero(be, AV_GRAD, dbias, width));
    TIME(b, "zero", zero(be, AV_GRAD, dhead, HIDDEN * 2 * LATENT));
    TIME(b, "zero", zero(be, AV_GRAD, dgamma, width));
    TIME(b, "zero", zero(be, AV_GRAD, dbeta, width));
  }
  free(rows);
  print_lines(b, width == 2 * HIDDEN ? "both encoders (LDVAE)" : "one encoder (scVI)");
}

/* A layer by itself, forward and back. */
static void layer(bench *b, int64_t m, int64_t n) {
  void *x = array(b, AV_REAL, b->rows * m, 0, 1);
  void *w = array(b, AV_REAL, m * n, 0, 0.1);
  void *bias = array(b, AV_REAL, n, 0, 1);
  void *y = array(b, AV_REAL, b->rows * n, 0, 1);
  void *dx = array(b, AV_REAL, b->rows * m, 0, 0);
  void *dw = array(b, AV_GRAD, m * n, 0, 0);
  void *dbias = array(b, AV_GRAD, n, 0, 0);
  av_backend *be = &b->be;
  char title[64];
  for (int round = 0; round < rounds_for(b); ++round) {
    b->line = 0;
    TIME(b, "linear", linear(be, b->batch, m, 0, n, x, m, w, bias, y));
    TIME(b, "linear_grad", linear_grad(be, b->batch, m, 0, n, x, m, w, y, dx, m, dw, dbias));
    be->ops->zero(be, AV_GRAD, dw, m * n);
  }
  snprintf(title, sizeof title, "layer %lld -> %lld", (long long)m, (long long)n);
  print_lines(b, title);
}

static void decoder(bench *b, int likelihood, int64_t n_in, const char *title) {
  av_backend *be = &b->be;
  const bool narrow = n_in == LATENT;
  const int64_t onehot = narrow ? BATCHES : 0;
  const int64_t weights = (n_in + onehot) * b->genes;
  const int64_t n_stats = BATCHES * (1 + LATENT) + LATENT * LATENT;
  void *x = array(b, AV_REAL, b->rows * n_in, 0, 0.5);
  void *l = array(b, AV_REAL, b->rows, 7, 0.3);
  void *dx = array(b, AV_REAL, b->rows * n_in, 0, 0);
  void *dl = array(b, AV_REAL, b->rows, 0, 0);
  void *px_r = array(b, AV_REAL, b->genes, 0, 1);
  void *dpx_r = array(b, AV_GRAD, b->genes, 0, 0);
  void *losses = array(b, AV_SUM, AV_LOSSES, 0, 0);
  void *stats = array(b, AV_SUM, n_stats, 0, 0);
  void *gamma = array(b, AV_REAL, b->genes, 1, 0);
  void *running = array(b, AV_REAL, 2 * b->genes, 1, 0);
  void *w = array(b, AV_REAL, weights, 0, 0.1);
  void *inv_sigma = array(b, AV_REAL, b->genes, 1, 0);
  void *grads = array(b, AV_GRAD, weights, 0, 0);
  void *dgamma = array(b, AV_GRAD, b->genes, 0, 0);
  void *dbeta = array(b, AV_GRAD, b->genes, 0, 0);
  void *back = array(b, AV_SUM, LATENT * (1 + LATENT + BATCHES), 0, 0);
  void *m = array(b, AV_REAL, weights, 0, 0);
  void *v = array(b, AV_REAL, weights, 0, 0);
  av_head head[2];
  for (int h = 0; h < 2; ++h) {
    head[h] = (av_head){.w = array(b, AV_REAL, weights, 0, 0.1),
                        .c = array(b, AV_REAL, b->genes, 0, 1),
                        .dw = array(b, AV_GRAD, weights, 0, 0),
                        .dc = array(b, AV_GRAD, b->genes, 0, 0)};
  }
  const av_decode decode = {.likelihood = likelihood,
                            .n_genes = b->genes,
                            .n_in = n_in,
                            .n_onehot = onehot,
                            .n_dispersion = 1,
                            .scale = head[0],
                            .dropout = head[1],
                            .px_r = px_r,
                            .dpx_r = dpx_r};
  av_decode forward = decode;
  forward.scale.dw = NULL;
  const av_fold fold = {.design = b->design,
                        .n_genes = b->genes,
                        .n_in = LATENT,
                        .n_onehot = BATCHES,
                        .training = true,
                        .n_cells = b->rows,
                        .w = w,
                        .gamma = gamma,
                        .beta = gamma,
                        .running = running,
                        .a = (av_real *)head[0].w,
                        .c = (av_real *)head[0].c,
                        .inv_sigma = inv_sigma};
  const av_adam adam = {
      .lr = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .eps = 0.01, .scale = 0.01, .step = 1};
  for (int round = 0; round < rounds_for(b); ++round) {
    b->line = 0;
    if (narrow) {
      TIME(b, "fold_sums", fold_sums(be, b->batch, LATENT, BATCHES, x, stats));
      TIME(b, "fold", fold(be, &fold, stats));
    }
    TIME(b, "decode_nll", decode_nll(be, b->batch, &decode, x, l, losses, dx, dl));
    if (narrow) {
      TIME(b, "fold_grad",
           fold_grad(be, &fold, stats, head[0].dw, head[0].dc, grads, dgamma, dbeta, back));
      TIME(b, "fold_correct", fold_correct(be, b->batch, &fold, stats, back, x, dx));
    }
    be->ops->zero(be, AV_GRAD, head[0].dw, weights);
    be->ops->zero(be, AV_GRAD, head[1].dw, weights);
    be->ops->zero(be, AV_GRAD, dpx_r, b->genes);
    be->ops->zero(be, AV_SUM, back, LATENT * (1 + LATENT + BATCHES));
    be->ops->zero(be, AV_GRAD, dgamma, b->genes);
    TIME(b, "adam of the decoder", adam(be, &adam, weights, w, grads, m, v));
  }
  print_lines(b, title);
  for (int round = 0; round < rounds_for(b); ++round) {
    b->line = 0;
    TIME(b, "decode_nll, loss only", decode_nll(be, b->batch, &forward, x, l, losses, NULL, NULL));
  }
  print_lines(b, title);
}

int main(int argc, char **argv) {
  if (MPI_Init(&argc, &argv) != MPI_SUCCESS) {
    return 1;
  }
  const int threads = argc > 1 ? (int)strtol(argv[1], NULL, 10) : 2;
  const int64_t genes = argc > 2 ? strtol(argv[2], NULL, 10) : 2000;
  const bool strict = argc > 3;
  av_comm comm;
  av_dataset dataset;
  av_comm_self(&comm);
  make_dataset(
      &dataset,
      &(twin_shape){
          .cells = CELLS, .genes = genes, .batches = BATCHES, .filled = 0.0725 * (double)genes},
      1);
  const int64_t sizes[] = {128, 1024};
  for (size_t s = 0; s < sizeof sizes / sizeof *sizes; ++s) {
    bench b = {.design = &dataset.design, .rows = sizes[s], .genes = genes};
    av_data *data = NULL;
    b.fastest = av_calloc(64, sizeof *b.fastest);
    b.name = av_calloc(64, sizeof *b.name);
    if (open_tested(&b.be, &comm, threads, strict) != AV_OK ||
        b.be.ops->data_load(&b.be, &dataset, &data) != AV_OK ||
        b.be.ops->batch_create(&b.be, data, b.rows, &b.batch) != AV_OK) {
      stop("setting up");
    }
    if (s == 0) {
      printf("%d threads, %lld genes, %s%s\n", threads, (long long)genes,
             av_cpu_instructions(&b.be), strict ? ", order-free" : "");
    }
    encoder(&b, 2 * HIDDEN);
    encoder(&b, HIDDEN);
    layer(&b, HIDDEN, 2);
    layer(&b, LATENT, HIDDEN);
    layer(&b, HIDDEN, HIDDEN);
    decoder(&b, AV_LIKELIHOOD_NB, LATENT, "linear decoder, NB");
    decoder(&b, AV_LIKELIHOOD_NB, HIDDEN, "scVI decoder, NB");
    decoder(&b, AV_LIKELIHOOD_ZINB, HIDDEN, "scVI decoder, ZINB");
  }
  MPI_Finalize();
  return 0;
}
