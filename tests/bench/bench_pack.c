/* Times of packing minibatches for their way to a GPU (gpu/packing.h), as JSON: seconds in which
 * every cell of a slab is packed once, in drawn order, for each size of minibatches and number of
 * threads; where no count is too large for its byte, and where one of every hundredth cell is.
 *
 * usage: bench_pack CELLS NONZEROS ROUNDS THREADS ...
 */
#include "base/clock.h"
#include "base/memory.h"
#include "math/rng.h"
#include "packing.h"

#include <stdio.h>
#include <stdlib.h>

enum { GENES = 2000, RARE = 100, SIZES = 4, MOST_THREADS = 16 };
static const int64_t sizes[SIZES] = {128, 1024, 4096, 16384};

/* A slab, the order of its cells, and room for the largest minibatch. */
typedef struct scene {
  av_dataset dataset;
  av_gpu_slab slab;
  int64_t *order;
  int64_t *escapes;
  char *host;
  size_t capacity[AV_GPU_SECTIONS];
} scene;

static void *need(void *memory) {
  if (memory == NULL) {
    fputs("bench_pack: out of memory\n", stderr);
    exit(1);
  }
  return memory;
}

static void make_order(scene *s, int64_t n) {
  s->order = need(av_malloc((size_t)n, sizeof *s->order));
  for (int64_t i = 0; i < n; ++i) {
    s->order[i] = i;
  }
  for (int64_t i = n - 1; i > 0; --i) {
    const uint64_t word = av_random64(1, AV_DRAW_SHUFFLE, 0, 0, (uint32_t)i);
    const int64_t j = (int64_t)(word % (uint64_t)(i + 1));
    const int64_t moved = s->order[i];
    s->order[i] = s->order[j];
    s->order[j] = moved;
  }
}

static void make(scene *s, int64_t n, int64_t nonzeros, bool large) {
  av_counts *counts = &s->dataset.counts;
  const int64_t all = n * nonzeros;
  *counts = (av_counts){.n_rows = n, .n_genes = GENES, .n_nonzero = all, .kind = AV_COUNT_U8};
  s->dataset.n_cells = n;
  s->dataset.n_local = n;
  counts->row_start = need(av_malloc((size_t)(n + 1), sizeof *counts->row_start));
  uint16_t *gene = counts->gene = need(av_malloc((size_t)all, sizeof *gene));
  uint8_t *value = counts->value = need(av_malloc((size_t)all, sizeof *value));
  counts->escaped_at = need(av_calloc((size_t)n, sizeof *counts->escaped_at));
  counts->escaped_value = need(av_calloc((size_t)n, sizeof *counts->escaped_value));
  for (int64_t i = 0; i < all; ++i) {
    gene[i] = (uint16_t)(i % nonzeros * (GENES / nonzeros));
    value[i] = (uint8_t)(1 + i % 7);
  }
  for (int64_t i = 0; i <= n; ++i) {
    counts->row_start[i] = i * nonzeros;
  }
  for (int64_t i = 0; large && i < n; i += RARE) {
    value[i * nonzeros] = UINT8_MAX;
    counts->escaped_at[counts->n_escaped] = i * nonzeros;
    counts->escaped_value[counts->n_escaped++] = 1000.0;
  }
  s->slab = av_gpu_slab_of(&s->dataset);
  const int64_t most = sizes[SIZES - 1];
  size_t room = 0;
  av_gpu_pack_sizes(&s->slab, most, most * nonzeros, most, s->capacity);
  for (int i = 0; i < AV_GPU_SECTIONS; ++i) {
    room += s->capacity[i] + AV_GPU_STAGE_ALIGNMENT;
  }
  s->host = need(av_calloc(room, 1));
  s->escapes = need(av_calloc((size_t)most + 1, sizeof *s->escapes));
  make_order(s, n);
}

static void release(scene *s) {
  av_counts_free(&s->dataset.counts);
  free(s->order);
  free(s->escapes);
  free(s->host);
}

/* Packs all cells, *bytes in all. */
static double epoch(scene *s, int64_t size, int threads, int64_t *bytes) {
  const int64_t n = s->dataset.n_local;
  const double began = av_clock();
  *bytes = 0;
  for (int64_t first = 0; first < n; first += size) {
    av_gpu_packing packed;
    const int64_t rows = n - first < size ? n - first : size;
    if (av_gpu_pack(&s->dataset.counts, &s->slab, threads, s->capacity, rows, s->order + first,
                    s->escapes, s->host, &packed) != AV_OK) {
      av_error_print();
      exit(1);
    }
    *bytes += (int64_t)packed.used;
  }
  return av_clock() - began;
}

/* Rounds are outermost: other work on the machine disturbs all alike. */
static void measure(scene *s, bool large, int rounds, int n_threads, const int *threads,
                    bool first) {
  static double seconds[SIZES][MOST_THREADS];
  int64_t bytes = 0;
  for (int round = 0; round < rounds; ++round) {
    for (int i = 0; i < SIZES; ++i) {
      for (int t = 0; t < n_threads; ++t) {
        const double took = epoch(s, sizes[i], threads[t], &bytes);
        if (round == 0 || took < seconds[i][t]) {
          seconds[i][t] = took;
        }
      }
    }
  }
  for (int i = 0; i < SIZES; ++i) {
    for (int t = 0; t < n_threads; ++t) {
      printf(
          "%s\n{\"minibatch\": %lld, \"threads\": %d, \"large\": %s, \"bytes\": %lld, "
          "\"seconds\": %.6g}",
          first ? "" : ",", (long long)sizes[i], threads[t], large ? "true" : "false",
          (long long)bytes, seconds[i][t]);
      first = false;
    }
  }
}

int main(int argc, char **argv) {
  const int64_t n = argc > 1 ? atoll(argv[1]) : 0;
  const int64_t nonzeros = argc > 2 ? atoll(argv[2]) : 0;
  const int rounds = argc > 3 ? atoi(argv[3]) : 0;
  const int n_threads = argc - 4;
  int threads[MOST_THREADS];
  if (n < 1 || nonzeros < 1 || nonzeros > GENES || rounds < 1 || n_threads < 1 ||
      n_threads > MOST_THREADS) {
    fputs("usage: bench_pack CELLS NONZEROS ROUNDS THREADS ...\n", stderr);
    return 64;
  }
  for (int t = 0; t < n_threads; ++t) {
    threads[t] = atoi(argv[4 + t]);
    if (threads[t] < 1) {
      fputs("bench_pack: at least one thread\n", stderr);
      return 64;
    }
  }
  printf("[");
  for (int large = 0; large < 2; ++large) {
    scene s = {0};
    make(&s, n, nonzeros, large == 1);
    measure(&s, large == 1, rounds, n_threads, threads, large == 0);
    release(&s);
  }
  printf("]\n");
  return 0;
}
