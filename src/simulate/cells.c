#include "simulate/cells.h"

#include "base/memory.h"
#include "math/rng.h"
#include "math/sample.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

/* Means below this are drawn by inversion (about mu steps), others as Poisson of a gamma. */
static const double LARGEST_INVERTED = 12;
static const double LARGEST_COUNT = 16777216; /* 2^24 */

av_status av_sim_block_create(av_sim_block *block, const av_sim_settings *settings,
                              int64_t capacity) {
  const size_t cells = (size_t)capacity;
  const size_t genes = (size_t)settings->genes;
  const size_t factors = (size_t)settings->factors;
  *block =
      (av_sim_block){.capacity = capacity, .genes = settings->genes, .factors = settings->factors};
  block->batch = av_malloc(cells, sizeof *block->batch);
  block->label = av_malloc(cells, sizeof *block->label);
  block->z = av_malloc(cells * factors, sizeof *block->z);
  block->library = av_malloc(cells, sizeof *block->library);
  block->indptr = av_calloc(cells + 1, sizeof *block->indptr);
  /* Not av_malloc: a debug build would touch all of it. */
  block->indices = malloc(cells * genes * sizeof *block->indices);
  block->data = malloc(cells * genes * sizeof *block->data);
  if (block->batch == NULL || block->label == NULL || block->z == NULL || block->library == NULL ||
      block->indptr == NULL || block->indices == NULL || block->data == NULL) {
    av_sim_block_free(block);
    return av_fail(AV_NOMEM, "out of memory (simulate: a block of %lld cells x %lld genes)",
                   (long long)capacity, (long long)settings->genes);
  }
  return AV_OK;
}

void av_sim_block_free(av_sim_block *block) {
  free(block->batch);
  free(block->label);
  free(block->z);
  free(block->library);
  free(block->indptr);
  free(block->indices);
  free(block->data);
  *block = (av_sim_block){0};
}

/* Label, batch, z and library size of one cell. */
static void draw_latent(av_sim_block *block, int64_t i, const av_sim_settings *settings,
                        const av_sim_truth *truth) {
  const uint64_t seed = (uint64_t)settings->seed;
  const uint64_t cell = (uint64_t)(block->first + i);
  uint32_t words[4];
  av_random4(words, seed, AV_DRAW_SIMULATE_CELL, cell, 0, 0);
  /* the high half of word * n: uniform on 0 .. n - 1 to 2^-32 n */
  const int32_t label = (int32_t)(((uint64_t)words[0] * (uint64_t)truth->labels) >> 32);
  const int32_t batch = (int32_t)(((uint64_t)words[1] * (uint64_t)truth->batches) >> 32);
  double pair[2];
  av_random_normal2(pair, seed, AV_DRAW_SIMULATE_CELL, cell, 0, 1);
  block->label[i] = label;
  block->batch[i] = batch;
  block->library[i] = exp(truth->library_mean[batch] + settings->library_sd * pair[0]);
  for (int64_t k = 0; k < truth->factors; ++k) {
    if (k % 2 == 0) {
      av_random_normal2(pair, seed, AV_DRAW_SIMULATE_CELL, cell, 1, (uint32_t)(k / 2));
    }
    block->z[i * truth->factors + k] =
        (float)(truth->centres[label * truth->factors + k] + truth->spread[k] * pair[k % 2]);
  }
}

/* mu_g = library * softmax_g(intercept + offset of the batch + z . loadings), by gene. */
static void rates(const av_sim_block *block, int64_t i, const av_sim_truth *truth,
                  const double *by_factor, double *mu) {
  const int64_t genes = truth->genes;
  const float *offset = truth->batch_offsets + block->batch[i];
  for (int64_t g = 0; g < genes; ++g) {
    mu[g] = (double)truth->intercept[g] + (double)offset[g * truth->batches];
  }
  for (int64_t k = 0; k < truth->factors; ++k) {
    const double z = (double)block->z[i * truth->factors + k];
    const double *loading = by_factor + k * genes;
    for (int64_t g = 0; g < genes; ++g) {
      mu[g] += z * loading[g];
    }
  }
  double largest = mu[0];
  for (int64_t g = 1; g < genes; ++g) {
    largest = mu[g] > largest ? mu[g] : largest;
  }
  double sum = 0;
  for (int64_t g = 0; g < genes; ++g) {
    mu[g] = exp(mu[g] - largest);
    sum += mu[g];
  }
  const double scale = block->library[i] / sum;
  for (int64_t g = 0; g < genes; ++g) {
    mu[g] *= scale;
  }
}

/* A count whose first word did not already say zero. `word` is the high part of the uniform, the
 * low part comes from the stream, so that tails are not cut at 2^-32. */
static double draw_count(const av_sim_settings *settings, av_stream *stream, uint32_t word,
                         double mu, double theta) {
  double count = 0;
  if (mu < LARGEST_INVERTED) {
    const double p0 = av_count_p0(mu, theta);
    if ((double)word + 1 <= p0 * 0x1p32) {
      return 0;
    }
    const double u = ((double)word + av_stream_uniform(stream)) * 0x1p-32;
    count = av_count_by_inversion(u, p0, mu, theta);
  } else {
    const double rate = isinf(theta) ? mu : av_sample_gamma(stream, theta) * (mu / theta);
    count = av_sample_poisson(stream, rate);
  }
  if (count > 0 && settings->likelihood == AV_SIM_ZINB &&
      av_stream_uniform(stream) < settings->dropout) {
    return 0;
  }
  return count;
}

/* The counts of one cell into its own stretch of indices and data. Most are zero, and most of those
 * are known from one word: P(X = 0) >= exp(-mu) >= 1 - mu. Returns how many are not, or -1 - gene
 * when one is too large. */
static int64_t draw_counts(av_sim_block *block, int64_t i, const av_sim_settings *settings,
                           const av_sim_truth *truth, const double *mu) {
  const uint64_t cell = (uint64_t)(block->first + i);
  int32_t *indices = block->indices + i * block->genes;
  float *data = block->data + i * block->genes;
  uint32_t words[4] = {0, 0, 0, 0};
  int64_t n = 0;
  for (int64_t g = 0; g < block->genes; ++g) {
    if (g % 4 == 0) {
      av_random4(words, (uint64_t)settings->seed, AV_DRAW_SIMULATE_WORD, cell, 0,
                 (uint32_t)(g / 4));
    }
    if ((double)words[g % 4] + 1 <= (1 - mu[g]) * 0x1p32) {
      continue;
    }
    av_stream stream =
        av_stream_of((uint64_t)settings->seed, AV_DRAW_SIMULATE_COUNT, cell, (uint32_t)g);
    const double theta =
        truth->dispersion == NULL ? (double)INFINITY : (double)truth->dispersion[g];
    const double count = draw_count(settings, &stream, words[g % 4], mu[g], theta);
    if (count > LARGEST_COUNT) {
      return -1 - g;
    }
    if (count > 0) {
      indices[n] = (int32_t)g;
      data[n] = (float)count;
      n += 1;
    }
  }
  return n;
}

/* Moves the cells' stretches together: indptr[i + 1] holds the number of cell i on entry. */
static void pack(av_sim_block *block) {
  for (int64_t i = 0; i < block->n; ++i) {
    const int64_t at = block->indptr[i];
    const size_t n = (size_t)block->indptr[i + 1];
    memmove(block->indices + at, block->indices + i * block->genes, n * sizeof *block->indices);
    memmove(block->data + at, block->data + i * block->genes, n * sizeof *block->data);
    block->indptr[i + 1] += at;
  }
}

av_status av_sim_block_draw(av_sim_block *block, const av_sim_settings *settings,
                            const av_sim_truth *truth, int64_t first, int64_t n) {
  const int64_t genes = truth->genes;
  const int64_t factors = truth->factors;
  double *by_factor = av_malloc((size_t)(genes * factors), sizeof *by_factor);
  double *work = av_malloc((size_t)genes * (size_t)omp_get_max_threads(), sizeof *work);
  if (by_factor == NULL || work == NULL) {
    free(by_factor);
    free(work);
    return av_fail(AV_NOMEM, "out of memory (simulate: %lld genes)", (long long)genes);
  }
  for (int64_t g = 0; g < genes; ++g) {
    for (int64_t k = 0; k < factors; ++k) {
      by_factor[k * genes + g] = (double)truth->loadings[g * factors + k];
    }
  }
  block->first = first;
  block->n = n;
  block->indptr[0] = 0;
  int64_t bad = -1;
#pragma omp parallel for schedule(dynamic, 16) reduction(max : bad)
  for (int64_t i = 0; i < n; ++i) {
    double *mu = work + genes * omp_get_thread_num();
    draw_latent(block, i, settings, truth);
    rates(block, i, truth, by_factor, mu);
    const int64_t count = draw_counts(block, i, settings, truth, mu);
    block->indptr[i + 1] = count < 0 ? 0 : count;
    bad = count < 0 ? first + i : bad;
  }
  free(by_factor);
  free(work);
  if (bad >= 0) {
    return av_fail(AV_USAGE,
                   "simulate: a count of cell %lld exceeds 2^24, the largest that float32 holds "
                   "exactly: lower library_mean or library_sd",
                   (long long)bad);
  }
  pack(block);
  return AV_OK;
}
