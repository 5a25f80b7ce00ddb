#include "simulate/truth.h"

#include "base/memory.h"
#include "math/rng.h"

#include <math.h>
#include <stdlib.h>

/* The kinds of parameter: the `epoch` of their draws. */
enum {
  DRAW_INTERCEPT,
  DRAW_DISPERSION,
  DRAW_MARKER,
  DRAW_LOADING,
  DRAW_OFFSET,
  DRAW_LIBRARY,
  DRAW_CENTRE
};

static double normal(const av_sim_settings *settings, int64_t item, uint32_t kind, int64_t index) {
  double pair[2];
  av_random_normal2(pair, (uint64_t)settings->seed, AV_DRAW_SIMULATE, (uint64_t)item, kind,
                    (uint32_t)index);
  return pair[0];
}

/* Subtracts from each column of a row-major matrix its mean over rows. */
static void centre_columns(double *matrix, int64_t rows, int64_t columns) {
  for (int64_t j = 0; j < columns; ++j) {
    double sum = 0;
    for (int64_t i = 0; i < rows; ++i) {
      sum += matrix[i * columns + j];
    }
    for (int64_t i = 0; i < rows; ++i) {
      matrix[i * columns + j] -= sum / (double)rows;
    }
  }
}

static void round_to(float *out, const double *in, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    out[i] = (float)in[i];
  }
}

/* Markers: N(0, factor_strength); every gene: N(0, loading_noise) besides. */
static void draw_loadings(const av_sim_settings *settings, double *loadings) {
  const int64_t factors = settings->factors;
  for (int64_t g = 0; g < settings->genes; ++g) {
    for (int64_t k = 0; k < factors; ++k) {
      double pair[2];
      av_random_normal2(pair, (uint64_t)settings->seed, AV_DRAW_SIMULATE, (uint64_t)g, DRAW_LOADING,
                        (uint32_t)k);
      const double u = av_uniform(av_random64((uint64_t)settings->seed, AV_DRAW_SIMULATE,
                                              (uint64_t)g, DRAW_MARKER, (uint32_t)k));
      const bool marker = u < settings->marker_fraction;
      loadings[g * factors + k] =
          (marker ? settings->factor_strength * pair[0] : 0) + settings->loading_noise * pair[1];
    }
  }
  centre_columns(loadings, settings->genes, factors);
}

/* Centred over batches too, so that the intercept is the mean over batches. */
static void draw_offsets(const av_sim_settings *settings, double *offsets) {
  const int64_t batches = settings->batches;
  for (int64_t g = 0; g < settings->genes; ++g) {
    double sum = 0;
    for (int64_t s = 0; s < batches; ++s) {
      offsets[g * batches + s] = settings->batch_strength * normal(settings, g, DRAW_OFFSET, s);
      sum += offsets[g * batches + s];
    }
    for (int64_t s = 0; s < batches; ++s) {
      offsets[g * batches + s] -= sum / (double)batches;
    }
  }
  centre_columns(offsets, settings->genes, batches);
}

/* m_s such that the mean library size of batch s, exp(m_s + v / 2), is library_mean times a factor
 * of the batch whose logarithms have mean 0. */
static void draw_library(const av_sim_settings *settings, double *means) {
  const int64_t batches = settings->batches;
  for (int64_t s = 0; s < batches; ++s) {
    means[s] = settings->library_batch_sd * normal(settings, s, DRAW_LIBRARY, 0);
  }
  centre_columns(means, batches, 1);
  const double variance = settings->library_sd * settings->library_sd;
  for (int64_t s = 0; s < batches; ++s) {
    means[s] += log(settings->library_mean) - variance / 2;
  }
}

/* Centres: random columns made orthogonal to each other and to the constant (Gram-Schmidt), of
 * which there are at most labels - 1; scaled so that their mean square over cell types is
 * label_strength^2. Factors beyond keep all their variance within the cell types. */
static void draw_centres(const av_sim_settings *settings, double *centres, double *spread) {
  const int64_t labels = settings->labels;
  const int64_t factors = settings->factors;
  for (int64_t k = 0; k < factors; ++k) {
    spread[k] = 1;
    if (k >= labels - 1) {
      continue;
    }
    for (int64_t c = 0; c < labels; ++c) {
      centres[c * factors + k] = normal(settings, c, DRAW_CENTRE, k);
    }
    for (int pass = 0; pass < 2; ++pass) { /* twice: orthogonal to rounding */
      for (int64_t j = -1; j < k; ++j) {
        double dot = 0;
        double square = 0;
        for (int64_t c = 0; c < labels; ++c) {
          const double other = j < 0 ? 1 : centres[c * factors + j];
          dot += other * centres[c * factors + k];
          square += other * other;
        }
        for (int64_t c = 0; c < labels && square > 0; ++c) {
          const double other = j < 0 ? 1 : centres[c * factors + j];
          centres[c * factors + k] -= dot / square * other;
        }
      }
    }
    double square = 0;
    for (int64_t c = 0; c < labels; ++c) {
      square += centres[c * factors + k] * centres[c * factors + k];
    }
    const double scale = settings->label_strength * sqrt((double)labels / square);
    for (int64_t c = 0; c < labels; ++c) {
      centres[c * factors + k] *= scale;
    }
    spread[k] = sqrt(1 - settings->label_strength * settings->label_strength);
  }
}

static av_status allocate(av_sim_truth *truth, const av_sim_settings *settings) {
  const size_t genes = (size_t)truth->genes;
  const size_t factors = (size_t)truth->factors;
  const size_t batches = (size_t)truth->batches;
  const size_t labels = (size_t)truth->labels;
  AV_TRY_ALLOC(truth->loadings = av_calloc(genes * factors, sizeof(float)));
  AV_TRY_ALLOC(truth->batch_offsets = av_calloc(genes * batches, sizeof(float)));
  AV_TRY_ALLOC(truth->intercept = av_calloc(genes, sizeof(float)));
  if (settings->likelihood != AV_SIM_POISSON) {
    AV_TRY_ALLOC(truth->dispersion = av_calloc(genes, sizeof(float)));
  }
  AV_TRY_ALLOC(truth->library_mean = av_calloc(batches, sizeof(double)));
  AV_TRY_ALLOC(truth->centres = av_calloc(labels * factors, sizeof(double)));
  AV_TRY_ALLOC(truth->spread = av_calloc(factors, sizeof(double)));
  return AV_OK;
}

av_status av_sim_truth_create(av_sim_truth *truth, const av_sim_settings *settings) {
  *truth = (av_sim_truth){.genes = settings->genes,
                          .factors = settings->factors,
                          .batches = settings->batches,
                          .labels = settings->labels};
  const int64_t widest =
      settings->factors > settings->batches ? settings->factors : settings->batches;
  double *work = av_calloc((size_t)settings->genes * (size_t)widest, sizeof *work);
  if (work == NULL) {
    return av_fail(AV_NOMEM, "out of memory (simulate: %lld genes x %lld)",
                   (long long)settings->genes, (long long)widest);
  }
  const av_status status = allocate(truth, settings);
  if (status != AV_OK) {
    free(work);
    av_sim_truth_free(truth);
    return status;
  }
  for (int64_t g = 0; g < settings->genes; ++g) {
    work[g] = settings->gene_mean_sd * normal(settings, g, DRAW_INTERCEPT, 0);
  }
  centre_columns(work, settings->genes, 1);
  round_to(truth->intercept, work, settings->genes);
  draw_loadings(settings, work);
  round_to(truth->loadings, work, settings->genes * settings->factors);
  draw_offsets(settings, work);
  round_to(truth->batch_offsets, work, settings->genes * settings->batches);
  for (int64_t g = 0; truth->dispersion != NULL && g < settings->genes; ++g) {
    truth->dispersion[g] =
        (float)(settings->dispersion *
                exp(settings->dispersion_sd * normal(settings, g, DRAW_DISPERSION, 0)));
  }
  free(work);
  draw_library(settings, truth->library_mean);
  draw_centres(settings, truth->centres, truth->spread);
  return AV_OK;
}

void av_sim_truth_free(av_sim_truth *truth) {
  free(truth->loadings);
  free(truth->batch_offsets);
  free(truth->intercept);
  free(truth->dispersion);
  free(truth->library_mean);
  free(truth->centres);
  free(truth->spread);
  *truth = (av_sim_truth){0};
}
