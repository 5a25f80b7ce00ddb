/* What the machine can do, measured: bench_machine [threads [genes [nonzeros a cell [seconds]]]].
 *
 * One JSON object:
 *   bandwidth   GB/s that `threads` threads reach together, each on its own share of `bytes`: load
 *               (sum of an array), copy, triad (a = b + s c); reads and writes counted once each
 *   sgemm       GFLOP/s of a product m x k times k x n, n divided over the threads, each calling
 *               OpenBLAS with one thread
 *   likelihood  nanoseconds of wall time, all threads at work: `term` a gene of softmax, loss and
 *               gradient of one cell by the program's own kernels (and a copy of the logits, which
 *               they overwrite), `count` a non-zero
 * Every figure is the best of some repetitions; each repetition lasts `seconds` (default 0.02). */
#include "backend/cpu/state.h"
#include "base/clock.h"
#include "base/memory.h"
#include "config/config.h"

#include <cblas.h>
#include <math.h>
#include <mpi.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REPETITIONS = 5, HIDDEN = 128, LATENT = 10 };

typedef struct bench {
  int threads;
  int64_t genes, nonzeros;
  double seconds;
  const av_kernels *kernels;
} bench;

static void *take(int64_t n, size_t size) {
  const size_t bytes = ((size_t)n * size + 63) / 64 * 64;
  void *made = aligned_alloc(64, bytes);
  if (made == NULL) {
    fprintf(stderr, "bench_machine: out of memory (%zu bytes)\n", bytes);
    exit(1);
  }
  memset(made, 0, bytes);
  return made;
}

/* A piece of work that one thread does `rounds` times over its own arrays. */
typedef struct job {
  int64_t n; /* elements of each array of a thread */
  float *a, *b, *c;
  const bench *of;
  const void *more;
} job;
typedef void (*work)(const job *at, int64_t rounds);

/* Least seconds of one round, by all threads at once. */
static double best_round(const bench *b, job *jobs, work run) {
  int64_t rounds = 1;
  double best = INFINITY;
  int measured = 0;
  while (measured < REPETITIONS) {
    double began = 0.0;
    double ended = 0.0;
#pragma omp parallel num_threads(b->threads)
    {
#pragma omp barrier
#pragma omp master
      began = av_clock();
      run(&jobs[omp_get_thread_num()], rounds);
#pragma omp barrier
#pragma omp master
      ended = av_clock();
    }
    best = fmin(best, (ended - began) / (double)rounds);
    if (best * (double)rounds < 0.7 * b->seconds) {
      rounds *= 2; /* still finding out how many fill the time; an interruption misleads once */
      measured = 0;
    } else {
      ++measured;
    }
  }
  return best;
}

/* ---- bandwidth ---- */

/* The compiler may neither merge rounds nor drop them. */
static void keep(const void *array) { __asm__ volatile("" : : "r"(array) : "memory"); }

/* Independent sums of whole vectors: bound by loads, not by the latency of additions. */
typedef float vector __attribute__((vector_size(64)));
enum { SUMS = 8, LANES = sizeof(vector) / sizeof(float) };

static void load(const job *at, int64_t rounds) {
  for (int64_t r = 0; r < rounds; ++r) {
    vector sum[SUMS] = {0};
    const vector *from = (const vector *)at->a;
    for (int64_t i = 0; i + SUMS <= at->n / LANES; i += SUMS) {
#pragma GCC unroll 8
      for (int j = 0; j < SUMS; ++j) {
        sum[j] += from[i + j];
      }
    }
    keep(sum);
  }
}

static void copy(const job *at, int64_t rounds) {
  for (int64_t r = 0; r < rounds; ++r) {
    memcpy(at->a, at->b, (size_t)at->n * sizeof *at->a);
    keep(at->a);
  }
}

static void triad(const job *at, int64_t rounds) {
  for (int64_t r = 0; r < rounds; ++r) {
    float *restrict a = at->a;
#pragma omp simd
    for (int64_t i = 0; i < at->n; ++i) {
      a[i] = at->b[i] + 0.5f * at->c[i];
    }
    keep(a);
  }
}

static double rate(const bench *b, int64_t bytes, int arrays, work run) {
  job *jobs = take(b->threads, sizeof *jobs);
  const int64_t n = bytes / b->threads / arrays / (int64_t)sizeof(float) / 128 * 128;
  for (int t = 0; t < b->threads; ++t) {
    jobs[t] = (job){.n = n, .of = b};
  }
#pragma omp parallel num_threads(b->threads) /* each thread touches its own first */
  {
    job *mine = &jobs[omp_get_thread_num()];
    mine->a = take(n, sizeof(float));
    mine->b = arrays > 1 ? take(n, sizeof(float)) : NULL;
    mine->c = arrays > 2 ? take(n, sizeof(float)) : NULL;
  }
  const double seconds = best_round(b, jobs, run);
  for (int t = 0; t < b->threads; ++t) {
    free(jobs[t].a);
    free(jobs[t].b);
    free(jobs[t].c);
  }
  free(jobs);
  return (double)(n * arrays * (int64_t)sizeof(float) * b->threads) / seconds * 1e-9;
}

static void print_bandwidth(const bench *b) {
  static const int64_t kib[] = {32, 256, 1024, 4096, 16384, 65536, 262144};
  const size_t n = sizeof kib / sizeof *kib;
  printf("\"bandwidth\": [");
  for (size_t i = 0; i < n; ++i) {
    const int64_t bytes = kib[i] * 1024 * (i < 2 ? b->threads : 1); /* first-level: a thread's */
    printf("%s{\"bytes\": %lld, \"load\": %.5g, \"copy\": %.5g, \"triad\": %.5g}",
           i == 0 ? "" : ", ", (long long)bytes, rate(b, bytes, 1, load), rate(b, bytes, 2, copy),
           rate(b, bytes, 3, triad));
  }
  printf("]");
}

/* ---- SGEMM ---- */

typedef struct product {
  const char *name;
  int64_t m, n, k;
} product;

static void multiply(const job *at, int64_t rounds) {
  const product *p = at->more;
  for (int64_t r = 0; r < rounds; ++r) {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)p->m, (blasint)at->n,
                (blasint)p->k, 1.0f, at->a, (blasint)p->k, at->b, (blasint)at->n, 0.0f, at->c,
                (blasint)at->n);
  }
}

static double sgemm(const bench *b, const product *p) {
  job *jobs = take(b->threads, sizeof *jobs);
  int64_t done = 0;
  for (int t = 0; t < b->threads; ++t) {
    int64_t begin = 0;
    int64_t end = 0;
    av_slice(p->n, 16, t, b->threads, &begin, &end);
    const int64_t n = end > begin ? end - begin : 1;
    done += n;
    jobs[t] = (job){.n = n,
                    .a = take(p->m * p->k, sizeof(float)),
                    .b = take(p->k * n, sizeof(float)),
                    .c = take(p->m * n, sizeof(float)),
                    .more = p};
  }
  const double seconds = best_round(b, jobs, multiply);
  for (int t = 0; t < b->threads; ++t) {
    free(jobs[t].a);
    free(jobs[t].b);
    free(jobs[t].c);
  }
  free(jobs);
  return 2.0 * (double)(p->m * p->k * done) / seconds * 1e-9;
}

static void print_sgemm(const bench *b) {
  const product products[] = {
      {"logits, minibatch 128", 128, b->genes, HIDDEN},
      {"logits, minibatch 1024", 1024, b->genes, HIDDEN},
      {"weight gradient, minibatch 128", HIDDEN, b->genes, 128},
      {"weight gradient, minibatch 1024", HIDDEN, b->genes, 1024},
      {"input gradient, minibatch 128", HIDDEN, 128, b->genes},
      {"input gradient, minibatch 1024", HIDDEN, 1024, b->genes},
      {"linear decoder, minibatch 1024", 1024, b->genes, LATENT},
  };
  printf("\"sgemm\": [");
  for (size_t i = 0; i < sizeof products / sizeof *products; ++i) {
    const product *p = &products[i];
    printf("%s{\"name\": \"%s\", \"m\": %lld, \"n\": %lld, \"k\": %lld, \"gflops\": %.5g}",
           i == 0 ? "" : ", ", p->name, (long long)p->m, (long long)p->n, (long long)p->k,
           sgemm(b, p));
  }
  printf("]");
}

/* ---- likelihood ---- */

/* One thread's cell: logits and what the kernels write. */
typedef struct cell {
  int64_t stride;
  bool zinb, every; /* every: all genes; else the non-zeros */
  float *logit, *drop, *e, *p, *q, *w, *theta, *inverse, *px_r, *dq, *dw, *dp;
  av_cell_counts counts;
} cell;

static void likelihood(const job *at, int64_t rounds) {
  const cell *c = at->more;
  const av_kernels *kernels = at->of->kernels;
  const av_theta theta = {.theta = c->theta, .inverse = c->inverse, .log_theta = c->px_r};
  const size_t bytes = (size_t)c->stride * sizeof(float);
  for (int64_t r = 0; r < rounds; ++r) {
    if (!c->every) {
      if (c->zinb) {
        kernels->zinb_counts(&c->counts, c->logit, 0.1f, &theta, c->drop, c->dq, c->dw, c->dp);
      } else {
        kernels->nb_counts(&c->counts, c->logit, 0.1f, &theta, c->dq, c->dw);
      }
      continue;
    }
    memcpy(c->e, c->logit, bytes);
    const float top = kernels->row_max(c->stride, c->e);
    const double sum = kernels->row_exp(c->stride, top, c->e);
    const float scale = (float)(250.0 / sum);
    av_cell_sums sums;
    if (c->zinb) {
      memcpy(c->p, c->drop, bytes);
      sums = kernels->zinb_row(c->stride, c->e, scale, &theta, c->p, c->q, c->w);
    } else {
      sums = kernels->nb_row(c->stride, c->e, scale, &theta, c->q, c->w);
    }
    kernels->softmax_grad(c->stride, (float)(sums.q / sum), c->q, c->e);
  }
}

static cell make_cell(const bench *b) {
  const int64_t stride = av_panels(b->genes) * AV_PANEL;
  cell c = {.stride = stride};
  float **arrays[] = {&c.logit, &c.drop,    &c.e,    &c.p,  &c.q,  &c.w,
                      &c.theta, &c.inverse, &c.px_r, &c.dq, &c.dw, &c.dp};
  for (size_t i = 0; i < sizeof arrays / sizeof *arrays; ++i) {
    *arrays[i] = take(stride, sizeof(float));
  }
  int32_t *gene = take(b->nonzeros, sizeof *gene);
  float *value = take(b->nonzeros, sizeof *value);
  for (int64_t g = 0; g < stride; ++g) {
    c.logit[g] = (float)sin((double)(g * g)) * 2.0f + 1.0f;
    c.drop[g] = (float)cos((double)(3 * g));
    c.px_r[g] = (float)sin((double)(7 * g));
  }
  for (int64_t j = 0; j < b->nonzeros; ++j) {
    gene[j] = (int32_t)(j * b->genes / b->nonzeros);
    value[j] = (float)(1 + j % 7 * (j % 3 == 0));
  }
  c.counts = (av_cell_counts){.n = b->nonzeros, .gene = gene, .value = value};
  b->kernels->theta_row(stride, c.px_r, c.theta, c.inverse);
  for (int64_t g = 0; g < stride; ++g) {
    c.logit[g] = fabsf(c.logit[g]) + 0.01f; /* as e, of which the non-zeros' kernels take logs */
  }
  return c;
}

/* Nanoseconds of wall time a gene or non-zero, all threads at work. */
static double likelihood_cost(const bench *b, cell *cells, bool zinb, bool every) {
  job *jobs = take(b->threads, sizeof *jobs);
  for (int t = 0; t < b->threads; ++t) {
    cells[t].zinb = zinb;
    cells[t].every = every;
    jobs[t] = (job){.of = b, .more = &cells[t]};
  }
  const double seconds = best_round(b, jobs, likelihood);
  free(jobs);
  return seconds * 1e9 / (double)(every ? b->genes : b->nonzeros) / b->threads;
}

static void print_likelihood(const bench *b) {
  cell *cells = take(b->threads, sizeof *cells); /* small, and the process ends soon: not freed */
  for (int t = 0; t < b->threads; ++t) {
    cells[t] = make_cell(b);
  }
  printf("\"likelihood\": {");
  for (int zinb = 0; zinb < 2; ++zinb) {
    printf("%s\"%s\": {\"term\": %.5g, \"count\": %.5g}", zinb ? ", " : "", zinb ? "zinb" : "nb",
           likelihood_cost(b, cells, zinb, true), likelihood_cost(b, cells, zinb, false));
  }
  printf("}");
}

static double argument(int argc, char **argv, int i, double fallback) {
  if (argc <= i) {
    return fallback;
  }
  char *end = NULL;
  const double value = strtod(argv[i], &end);
  if (end == argv[i] || *end != '\0' || !(value > 0)) {
    fprintf(stderr, "usage: bench_machine [threads [genes [nonzeros a cell [seconds]]]]\n");
    exit(2);
  }
  return value;
}

int main(int argc, char **argv) {
  if (MPI_Init(&argc, &argv) != MPI_SUCCESS) {
    return 1;
  }
  bench b = {.threads = (int)argument(argc, argv, 1, 2),
             .genes = (int64_t)argument(argc, argv, 2, 2000),
             .nonzeros = (int64_t)argument(argc, argv, 3, 140),
             .seconds = argument(argc, argv, 4, 0.02)};
  av_comm comm;
  av_backend be;
  av_comm_self(&comm);
  if (av_backend_open(&be, &(av_backend_options){.choice = AV_BACKEND_CPU, .threads = b.threads},
                      &comm) != AV_OK) {
    av_error_print();
    return 1;
  }
  b.kernels = av_kernels_of(&be);
  openblas_set_num_threads(1);
  printf("{\"threads\": %d, \"genes\": %lld, \"nonzeros\": %lld, \"instructions\": \"%s\", ",
         b.threads, (long long)b.genes, (long long)b.nonzeros, b.kernels->instructions);
  print_bandwidth(&b);
  printf(", ");
  print_sgemm(&b);
  printf(", ");
  print_likelihood(&b);
  printf("}\n");
  av_backend_close(&be);
  return MPI_Finalize() == MPI_SUCCESS ? 0 : 1;
}
