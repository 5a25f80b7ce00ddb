#include "simulate/simulate.h"

#include "base/clock.h"
#include "base/log.h"
#include "io/simulate_write.h"
#include "simulate/cells.h"
#include "simulate/truth.h"

/* Reserved for the counts of a block when all are non-zero, and most cells of a block. */
enum { BLOCK_BYTES = 1 << 26, MOST_CELLS = 4096, SAMPLE_CELLS = 1024 };

static int64_t cells_a_block(const av_sim_settings *settings, int64_t wanted) {
  int64_t cells = wanted > 0 ? wanted : BLOCK_BYTES / (8 * settings->genes);
  cells = wanted <= 0 && cells > MOST_CELLS ? MOST_CELLS : cells;
  cells = cells < 1 ? 1 : cells;
  return cells < settings->cells ? cells : settings->cells;
}

/* Non-zeros of the whole file, from its first cells (a fixed number, whatever the block size). */
static av_status expect_nonzeros(double *expected, av_sim_block *block,
                                 const av_sim_settings *settings, const av_sim_truth *truth) {
  const int64_t sample = settings->cells < SAMPLE_CELLS ? settings->cells : SAMPLE_CELLS;
  double sum = 0;
  for (int64_t first = 0; first < sample; first += block->n) {
    const int64_t left = sample - first;
    AV_TRY(av_sim_block_draw(block, settings, truth, first,
                             left < block->capacity ? left : block->capacity));
    sum += (double)block->indptr[block->n];
  }
  *expected = sum / (double)sample * (double)settings->cells;
  return AV_OK;
}

static av_status write_truth(av_sim_file *file, const av_sim_settings *settings,
                             const av_sim_truth *truth) {
  AV_TRY(av_sim_file_gene_column(file, "true_intercept", truth->intercept));
  if (truth->dispersion != NULL) {
    AV_TRY(av_sim_file_gene_column(file, "true_dispersion", truth->dispersion));
  }
  AV_TRY(av_sim_file_gene_matrix(file, "true_loadings", truth->factors, truth->loadings));
  AV_TRY(av_sim_file_gene_matrix(file, "true_batch_offsets", truth->batches, truth->batch_offsets));
  av_sim_value value;
  for (int i = 0; av_sim_settings_value(settings, i, &value); ++i) {
    switch (value.kind) {
      case AV_SIM_INTEGER:
        AV_TRY(av_sim_file_integer(file, value.name, value.integer));
        break;
      case AV_SIM_REAL:
        AV_TRY(av_sim_file_real(file, value.name, value.real));
        break;
      case AV_SIM_TEXT:
        AV_TRY(av_sim_file_text(file, value.name, value.text));
        break;
    }
  }
  return AV_OK;
}

static av_status write_cells(av_sim_file *file, av_sim_block *block,
                             const av_sim_settings *settings, const av_sim_truth *truth,
                             int64_t *nonzeros, int64_t *empty) {
  for (int64_t first = 0; first < settings->cells; first += block->n) {
    const int64_t left = settings->cells - first;
    AV_TRY(av_sim_block_draw(block, settings, truth, first,
                             left < block->capacity ? left : block->capacity));
    for (int64_t i = 0; i < block->n; ++i) {
      *empty += block->indptr[i] == block->indptr[i + 1];
    }
    *nonzeros += block->indptr[block->n];
    AV_TRY(av_sim_file_append(file, block->n, block->batch, block->label, block->z, block->library,
                              block->indptr, block->indices, block->data));
  }
  return AV_OK;
}

av_status av_simulate_file(const char *path, const av_sim_settings *settings, int64_t block_cells,
                           FILE *out) {
  const double start = av_clock();
  av_sim_shape shape = {.cells = settings->cells,
                        .genes = settings->genes,
                        .factors = settings->factors,
                        .batches = settings->batches,
                        .labels = settings->labels,
                        .compression = (int)settings->compression};
  av_sim_truth truth = {0};
  av_sim_block block = {0};
  av_sim_file *file = NULL;
  int64_t nonzeros = 0;
  int64_t empty = 0;
  av_status status = AV_OK;
  AV_GO(status, av_sim_file_check(path, settings->overwrite, 0), done); /* before any work */
  AV_GO(status, av_sim_truth_create(&truth, settings), done);
  AV_GO(status, av_sim_block_create(&block, settings, cells_a_block(settings, block_cells)), done);
  AV_GO(status, expect_nonzeros(&shape.nonzeros_expected, &block, settings, &truth), done);
  if (settings->compression == 0) {
    AV_GO(status, av_sim_file_check(path, settings->overwrite, 8 * shape.nonzeros_expected), done);
  }
  AV_GO(status, av_sim_file_create(&file, path, settings->overwrite, &shape), done);
  AV_GO(status, write_truth(file, settings, &truth), done);
  AV_GO(status, write_cells(file, &block, settings, &truth, &nonzeros, &empty), done);
  AV_GO(status, av_sim_file_commit(&file), done);
  if (empty > 0) {
    av_warn("%s: %lld of %lld cells have no counts; a larger library_mean avoids that", path,
            (long long)empty, (long long)settings->cells);
  }
  fprintf(out, "atlasvi: simulated %lld cells x %lld genes, %lld non-zeros (%.2f %%), %.1f s: %s\n",
          (long long)settings->cells, (long long)settings->genes, (long long)nonzeros,
          100 * (double)nonzeros / ((double)settings->cells * (double)settings->genes),
          av_clock() - start, path);
done:
  av_sim_file_discard(&file);
  av_sim_block_free(&block);
  av_sim_truth_free(&truth);
  return status;
}

av_status av_simulate(const char *path, int n, char *const *settings, FILE *out) {
  av_sim_settings parsed;
  AV_TRY(av_sim_settings_parse(&parsed, n, settings));
  return av_simulate_file(path, &parsed, 0, out);
}
