#include "run/gpu_plan.h"

#include "base/log.h"
#include "base/memory.h"

#include <inttypes.h>
#include <math.h>

/* ---- the model ---- */

static int heads_of(const av_layout *layout, const av_gene_head *heads[3]) {
  const av_gene_head *all[] = {&layout->scale, &layout->dropout, &layout->px_r_head};
  int n = 0;
  for (int h = 0; h < 3; ++h) {
    if (all[h]->w >= 0) {
      heads[n++] = all[h];
    }
  }
  return n;
}

/* A linear decoder's heads, folded with their BatchNorm. */
static int64_t fold_bytes(const av_layout *layout, const av_design *design, int64_t numbers) {
  const av_model_spec *spec = &layout->spec;
  if (!spec->linear || !spec->decoder_batch_norm) {
    return 0;
  }
  const av_gene_head *heads[3];
  const int n = heads_of(layout, heads);
  /* of a minibatch, and of all when statistics are made of them */
  int64_t bytes = 2 * 8 * av_fold_stats_size(design, layout->scale.n_in, layout->scale.n_onehot);
  for (int h = 0; h < n; ++h) {
    bytes += spec->n_genes * (heads[h]->n_in + heads[h]->n_onehot + 2) * numbers;
  }
  return bytes;
}

int64_t av_model_bytes(const av_layout *layout, const av_design *design, int64_t rows, int64_t real,
                       int64_t grad) {
  const av_model_spec *spec = &layout->spec;
  const int64_t hidden = spec->n_layers * (spec->linear ? 1 : 2) * spec->n_hidden;
  const int64_t row = 3 * layout->first.n_out + 2 * hidden + 4 * spec->n_latent +
                      2 * av_spec_decoder_input(spec) + 6;
  const int64_t codes = spec->simplex ? 8 * spec->n_latent : 0;
  return layout->n_params * (3 * real + grad) + fold_bytes(layout, design, real + grad) +
         rows * (real * row + codes);
}

int64_t av_model_gpu_scratch(const av_layout *layout, const av_design *design, int64_t rows) {
  const av_gene_head *heads[3];
  const av_gpu_scratch scratch = {
      .decode = {.max_rows = rows,
                 .n_genes = layout->spec.n_genes,
                 .n_heads = heads_of(layout, heads),
                 .n_in = layout->scale.n_in,
                 .n_onehot = layout->scale.n_onehot,
                 .n_factors = layout->scale.n_onehot > 0 ? design->n_factors : 0,
                 .first = design->first,
                 .px_r = av_gpu_px_r_of(layout->spec.likelihood, layout->spec.dispersion),
                 .n_px_r = av_spec_dispersions(&layout->spec),
                 .linear = layout->spec.linear},
      .n_first = layout->first.n_out,
      .n_first_in = layout->spec.n_genes + design->n_onehot + design->n_continuous};
  return av_gpu_scratch_bytes(&scratch);
}

int64_t av_model_gpu_bytes(const av_layout *layout, const av_design *design, int64_t rows) {
  return av_model_bytes(layout, design, rows, sizeof(float), sizeof(float)) +
         av_model_gpu_scratch(layout, design, rows) +
         av_gpu_fetch_bytes(rows, layout->spec.n_genes, layout->spec.n_latent);
}

/* ---- a GPU ---- */

/* GPUs are sold in such units. */
#define GIGABYTE 1e9
static double gigabytes(int64_t bytes) { return (double)bytes / GIGABYTE; }

int64_t av_gpu_limit(const av_config *config) {
  return (int64_t)(config->runtime.gpu_memory * GIGABYTE);
}

av_gpu_need av_gpu_plan(const av_gpu_slab *slab, const av_layout *layout, const av_design *design,
                        int64_t max_rows) {
  const int64_t entries = max_rows * layout->spec.n_genes;
  const int64_t slot = av_gpu_slot_bytes(
      slab, max_rows, entries < slab->n_nonzero ? entries : slab->n_nonzero, slab->n_escaped);
  return (av_gpu_need){.counts = av_gpu_counts_bytes(slab),
                       .cells = av_gpu_cells_bytes(slab),
                       .staging = av_gpu_staging_bytes(slot),
                       .model = av_model_gpu_bytes(layout, design, max_rows)};
}

static const char *answer(const av_gpu_need *need, int64_t limit) {
  if (av_gpu_size_needed(need, false, 1) <= limit) {
    return "the counts stay there";
  }
  return av_gpu_size_needed(need, true, 1) <= limit
             ? "the counts are streamed from the host's memory"
             : "NOT enough even if the counts are streamed: more ranks, or a smaller "
               "train.batch_size";
}

void av_gpu_plan_print(const av_gpu_need *need, int64_t limit, FILE *out) {
  const int64_t whole = av_gpu_size_needed(need, false, 1);
  const int64_t least = av_gpu_size_needed(need, true, 1);
  const int64_t held = need->counts + need->cells + need->model;
  fprintf(out, "\nEach GPU, with one rank\n");
  fprintf(out, "  counts            at most %.3f GB\n", gigabytes(need->counts));
  fprintf(out, "  facts of cells    %.3f GB\n", gigabytes(need->cells));
  fprintf(out, "  model             %.3f GB, with activations and scratch\n",
          gigabytes(need->model));
  fprintf(out, "  CUDA and NCCL     %.3f GB, allowed for\n", gigabytes(whole - held));
  fprintf(out, "  in all            at most %.3f GB; %.3f if the counts are streamed\n",
          gigabytes(whole), gigabytes(least));
  if (limit > 0) {
    fprintf(out, "  its memory        %.6g GB; %s\n", gigabytes(limit), answer(need, limit));
  } else {
    fprintf(out, "  smallest GPU      %.0f GB; for another, say runtime.gpu_memory\n",
            ceil(gigabytes(whole)));
  }
}

/* ---- a run ---- */

av_status av_gpu_plan_report(const av_comm *comm, const av_gpu_use *use, char **text) {
  enum { COUNTS, CELLS, STAGING, MODEL, N };
  int64_t most[N] = {use->need.counts, use->need.cells, use->need.staging, use->need.model};
  int64_t streamed = use->streamed ? 1 : 0;
  *text = NULL;
  AV_TRY(av_max_i64(comm, most, N));
  AV_TRY(av_sum_i64(comm, &streamed, 1));
  if (comm->rank != 0) {
    return AV_OK;
  }
  av_log_event("gpu_memory", "streamed_ranks", "i", streamed, "ranks", "i", (int64_t)comm->size,
               "counts", "i", most[COUNTS], "cells", "i", most[CELLS], "staging", "i",
               most[STAGING], "model", "i", most[MODEL], "limit", "i", use->limit, NULL);
  if (streamed == 0) {
    *text = av_format("counts resident, %.3f GB a rank", gigabytes(most[COUNTS]));
  } else {
    *text = av_format("counts streamed from the host on %" PRId64 " of %d ranks, %.3f GB a rank",
                      streamed, comm->size, gigabytes(most[COUNTS]));
  }
  AV_TRY_ALLOC(*text);
  return AV_OK;
}
