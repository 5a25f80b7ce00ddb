/* `atlasvi check`: everything but reading counts and fitting. */
#include "backend/backend.h"
#include "base/log.h"
#include "base/memory.h"
#include "cli/figures.h"
#include "io/h5ad_read.h"
#include "io/h5ad_write.h"
#include "model/saved.h"
#include "run/gpu_plan.h"
#include "run/results.h"
#include "run/run.h"
#include "train/schedule.h"
#include "train/split.h"
#include "train/stopping.h"
#include "train/trainer.h"

#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

/* Beside the counts: blocks while reading. */
#define READ_BUFFERS (192LL << 20)

typedef struct plan {
  int64_t n_ranks;
  int64_t n_train, n_validation, n_test;
  int64_t largest_cells, smallest_cells; /* of a rank */
  int64_t counts_bytes;                  /* of the rank with most */
  int64_t model_bytes;                   /* parameters, moments, activations on each rank */
  int64_t rank_bytes;                    /* in all, of the rank with most */
  int64_t all_bytes;                     /* of all ranks together */
  int64_t output_bytes, free_bytes;
  int64_t memory_here; /* available on this machine; -1 unknown */
  av_gpu_need gpu;     /* of the rank with most */
} plan;

/* Free space where the output goes; -1 if unknown. */
static int64_t free_space(const char *path) {
  char *copy = av_strdup(path);
  struct statvfs info;
  const int failed = copy == NULL || statvfs(dirname(copy), &info) != 0;
  free(copy);
  return failed ? -1 : (int64_t)info.f_bavail * (int64_t)info.f_frsize;
}

/* The split as a run draws it, if no cell is empty. Rank 0, which holds the metadata of all cells.
 */
static av_status plan_split(const av_config *config, av_dataset *dataset, av_split *split) {
  av_comm self;
  av_comm_self(&self);
  dataset->library = av_malloc((size_t)dataset->n_cells, sizeof *dataset->library);
  AV_TRY_ALLOC(dataset->library);
  for (int64_t i = 0; i < dataset->n_cells; ++i) {
    dataset->library[i] = 1.0;
  }
  const av_status status = av_split_create(split, &self, config, dataset);
  free(dataset->library);
  dataset->library = NULL;
  return status;
}

/* Weight of the shards of one rank as a share of all. */
static double heaviest_share(const av_partition *partition, const double *weight) {
  double all = 0.0;
  double most = 0.0;
  for (int rank = 0; rank < partition->n_ranks; ++rank) {
    double mine = 0.0;
    for (int64_t v = partition->first_shard[rank]; v < partition->first_shard[rank + 1]; ++v) {
      mine += weight != NULL
                  ? weight[v]
                  : (double)(av_shard_first(partition, v + 1) - av_shard_first(partition, v));
    }
    all += mine;
    most = mine > most ? mine : most;
  }
  return all > 0.0 ? most / all : 0.0;
}

/* ---- memory ---- */

/* Of each cell beside its counts: library, codes, split, row pointers and order, and covariates
 * (their columns, and as the model sees them). */
static int64_t cell_bytes(const av_dataset *dataset) {
  return 40 + 4 * (dataset->n_categorical + dataset->design.n_factors) +
         16 * dataset->n_continuous + (dataset->size_factor != NULL ? 8 : 0);
}

/* Rank 0 reads the columns of all cells, and their names, before it gives them away. */
static int64_t reading_bytes(const av_dataset *dataset) {
  const int64_t name = 64; /* text, pointer, two places in the look-up */
  return dataset->n_cells * (cell_bytes(dataset) + name);
}

typedef struct widths {
  int64_t real, grad; /* bytes of a number */
} widths;

static widths widths_of(const av_config *config) {
  const bool reference = config->runtime.backend == AV_BACKEND_REFERENCE;
  const bool strict = config->runtime.reproducible == AV_REPRODUCIBLE_STRICT;
  return (widths){.real = reference ? 8 : 4, .grad = reference || strict ? 8 : 4};
}

/* Parameters with gradients and moments, copies on the host, activations of `rows` cells. */
static int64_t model_bytes(const av_config *config, const av_layout *layout,
                           const av_design *design, int64_t rows) {
  const widths w = widths_of(config);
  const int64_t copies =
      1 + (config->train.keep == AV_KEEP_BEST ? 1 : 0) + (config->train.n_restarts > 1 ? 1 : 0);
  return av_model_bytes(layout, design, rows, w.real, w.grad) +
         copies * 8 * (layout->n_params + layout->n_running);
}

/* The slab of the rank with most, if its values take the widest form that they can. */
static av_gpu_slab largest_slab(const av_config *config, const av_dataset *dataset, int64_t n_cells,
                                int64_t n_nonzero) {
  av_gpu_slab slab = av_gpu_slab_of(dataset);
  slab.n_cells = n_cells;
  slab.n_nonzero = n_nonzero;
  slab.gene_bytes = dataset->n_genes > 65536 ? 4 : 2;
  slab.value_bytes = config->data.allow_non_counts ? 4 : 2;
  return slab;
}

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

static void plan_ranks(const av_partition *partition, plan *made) {
  for (int rank = 0; rank < partition->n_ranks; ++rank) {
    const int64_t cells = av_rank_first(partition, rank + 1) - av_rank_first(partition, rank);
    made->largest_cells = larger(cells, made->largest_cells);
    made->smallest_cells = cells < made->smallest_cells ? cells : made->smallest_cells;
  }
}

/* On the host, of what is on its way to a GPU that does not hold the counts, and back from it. */
static int64_t pinned_bytes(const av_config *config, const av_layout *layout, int64_t rows,
                            const av_gpu_need *need) {
  const int64_t limit = av_gpu_limit(config);
  if (config->runtime.backend != AV_BACKEND_CUDA) {
    return 0;
  }
  const bool streamed = limit > 0 && av_gpu_size_needed(need, false, 1) > limit;
  return (streamed ? need->staging : 0) +
         av_gpu_fetch_bytes(rows, layout->spec.n_genes, layout->spec.n_latent);
}

static void plan_bytes(const av_config *config, const av_dataset *dataset,
                       const av_input_plan *input, const av_layout *layout,
                       const av_partition *partition, plan *made) {
  const double share = heaviest_share(partition, input->shard_weight);
  const int64_t rows = av_trainer_rows(config, dataset->n_genes, made->largest_cells);
  const av_gpu_slab largest = largest_slab(config, dataset, made->largest_cells,
                                           (int64_t)(share * (double)input->n_stored));
  made->gpu = av_gpu_plan(&largest, layout, &dataset->design, rows);
  made->counts_bytes = largest.n_nonzero * (largest.gene_bytes + largest.value_bytes) +
                       made->largest_cells * cell_bytes(dataset);
  made->model_bytes = model_bytes(config, layout, &dataset->design, rows);
  const int64_t slab = made->counts_bytes + made->model_bytes + READ_BUFFERS +
                       pinned_bytes(config, layout, rows, &made->gpu);
  made->rank_bytes = larger(slab + av_writer_buffers(true, dataset->n_genes),
                            reading_bytes(dataset) + READ_BUFFERS);
  made->all_bytes =
      made->rank_bytes + (made->n_ranks - 1) * (slab + av_writer_buffers(false, dataset->n_genes));
  made->output_bytes = av_results_bytes(config, dataset->n_cells, dataset->n_genes) +
                       4 * layout->n_params +
                       (config->output.mode == AV_OUTPUT_RESULTS ? 0 : dataset->input_bytes);
  made->free_bytes = free_space(av_results_path(config));
  made->memory_here = av_memory_available();
}

static av_status make_plan(const av_config *config, av_dataset *dataset, const av_input_plan *input,
                           int64_t n_ranks, plan *made) {
  av_split split = {0};
  AV_TRY(plan_split(config, dataset, &split));
  *made = (plan){.n_ranks = n_ranks,
                 .n_train = split.n_train,
                 .n_validation = split.n_validation,
                 .n_test = split.n_test,
                 .smallest_cells = dataset->n_cells};
  av_split_free(&split);
  AV_TRY(av_stopping_possible(config, made->n_validation));
  AV_TRY(av_dataset_size_design(dataset));
  const av_model_spec spec = av_model_spec_from(config, dataset);
  AV_TRY(av_vae_possible(&spec, &dataset->design, config->runtime.backend));
  av_layout layout = {0};
  av_partition partition = {0};
  AV_TRY(av_layout_create(&layout, &spec));
  const av_status status =
      av_partition_create(&partition, dataset->n_cells, (int)n_ranks, input->shard_weight);
  if (status == AV_OK) {
    plan_ranks(&partition, made);
    plan_bytes(config, dataset, input, &layout, &partition, made);
  }
  av_partition_free(&partition);
  av_layout_free(&layout);
  return status;
}

/* ---- what is shown ---- */

static const char *layout_name(av_matrix_layout layout) {
  return layout == AV_MATRIX_CSR ? "CSR" : layout == AV_MATRIX_CSC ? "CSC" : "dense";
}

/* What the model sees of each cell beside counts and batch. */
static void print_covariates(const av_config *config, const av_dataset *dataset) {
  av_figure a;
  for (int64_t c = 0; c < dataset->n_categorical; ++c) {
    printf("  covariate         obs[%s], %s categories\n", dataset->categorical_names.at[c],
           av_count_text(&a, dataset->categorical[c].levels.n));
  }
  for (int64_t c = 0; c < dataset->n_continuous; ++c) {
    printf("  covariate         obs[%s], continuous\n", dataset->continuous_names.at[c]);
  }
  if (dataset->size_factor != NULL) {
    printf("  size factors      obs[%s]\n", config->data.size_factor_key);
  }
}

static void print_plan(const av_config *config, const av_dataset *dataset,
                       const av_input_plan *input, const plan *p) {
  av_figure a, b, c;
  printf("\nInput\n");
  printf("  file              %s\n", config->data.input);
  printf("  counts            %s, %s, %s stored values, %s on disk\n", config->data.counts,
         layout_name(input->layout), av_count_text(&a, input->n_stored),
         av_bytes_text(&b, (double)input->stored_bytes));
  printf("  cells             %s\n", av_count_text(&a, dataset->n_cells));
  printf("  genes used        %s of %s\n", av_count_text(&a, dataset->n_genes),
         av_count_text(&b, dataset->n_file_genes));
  printf("  batches           %s\n", av_count_text(&a, dataset->batch.levels.n));
  print_covariates(config, dataset);
  printf("  split             %s to train, %s to validate, %s to test, if no cell is empty\n",
         av_count_text(&a, p->n_train), av_count_text(&b, p->n_validation),
         av_count_text(&c, p->n_test));
  printf("\nPlan for %lld rank%s\n", (long long)p->n_ranks, p->n_ranks == 1 ? "" : "s");
  printf("  virtual shards    %s\n", av_count_text(&a, av_shard_count(dataset->n_cells)));
  printf("  cells per rank    %s to %s\n", av_count_text(&a, p->smallest_cells),
         av_count_text(&b, p->largest_cells));
  printf("  memory per rank   at most %s: counts %s, model %s, the rest buffers\n",
         av_bytes_text(&a, (double)p->rank_bytes), av_bytes_text(&b, (double)p->counts_bytes),
         av_bytes_text(&c, (double)p->model_bytes));
  if (p->memory_here >= 0) {
    printf("  memory here       %s available; %s\n", av_bytes_text(&a, (double)p->memory_here),
           p->all_bytes <= p->memory_here ? "all ranks fit on this machine"
                                          : "all ranks together do NOT fit on this machine");
  }
  printf("  epochs            %lld\n", (long long)config->train.max_epochs);
  printf("  to be written     %s to %s\n", av_bytes_text(&a, (double)p->output_bytes),
         av_results_path(config));
  if (p->free_bytes >= 0) {
    printf("  free there        %s; %s\n", av_bytes_text(&a, (double)p->free_bytes),
           p->output_bytes <= p->free_bytes ? "it fits" : "it does NOT fit");
  }
}

/* Which GPUs a run will have is not known here. */
static void print_precision(const av_config *config) {
  if (config->runtime.precision != AV_PRECISION_FLOAT32) {
    printf(
        "  dense products    %s, if every GPU is of compute capability 8.0 or later; else "
        "float32\n",
        av_config_choice("runtime", "precision", config->runtime.precision));
  }
}

static av_status print_all(av_config *config, av_dataset *dataset, const av_input_plan *input,
                           int64_t n_ranks) {
  plan p;
  if (!config->train.max_epochs_given) {
    config->train.max_epochs = av_default_epochs(dataset->n_cells);
  }
  AV_TRY(make_plan(config, dataset, input, n_ranks, &p));
  char *text = av_config_text(config);
  AV_TRY_ALLOC(text);
  printf("Settings, resolved\n\n%s", text);
  free(text);
  print_plan(config, dataset, input, &p);
  if (config->runtime.backend == AV_BACKEND_CUDA) {
    av_gpu_plan_print(&p.gpu, av_gpu_limit(config), stdout);
    print_precision(config);
  }
  av_warn_short_warmup(config, config->train.max_epochs, p.n_train);
  printf("\nNothing was changed.\n");
  return AV_OK;
}

/* A run looks at all values; here a sample has to do. */
static av_status warn_values(const av_comm *comm, const av_config *config) {
  bool counts = true;
  if (!config->data.allow_non_counts) {
    AV_TRY(av_h5ad_sample_counts(comm, config, &counts));
  }
  if (!counts) {
    av_warn("%s: %s does not look like counts, so a run will stop there; see \"atlasvi inspect\"",
            config->data.input, config->data.counts);
  }
  return AV_OK;
}

static av_status check_all(const av_comm *comm, av_config *config, av_model_file *loaded,
                           av_dataset *dataset, av_input_plan *input, int64_t n_ranks) {
  if (config->model.load != NULL) {
    AV_TRY(av_model_file_read(comm, config->model.load, loaded));
    AV_TRY(av_agree(comm, av_saved_apply_settings(loaded, config)));
    AV_TRY(av_agree(comm, av_config_check_model(config)));
  }
  AV_TRY(av_writer_preflight(comm, config, 0));
  AV_TRY(av_h5ad_read_metadata(comm, config, dataset, input));
  if (config->model.load != NULL) {
    AV_TRY(av_saved_match(comm, loaded, config, dataset));
  }
  AV_TRY(warn_values(comm, config));
  const int64_t bytes = av_results_bytes(config, dataset->n_cells, dataset->n_genes);
  av_status status = AV_OK;
  if (comm->rank == 0) {
    status = print_all(config, dataset, input, n_ranks > 0 ? n_ranks : comm->size);
  }
  AV_TRY(av_agree(comm, status));
  AV_TRY(av_writer_preflight(comm, config, bytes));
  /* last: where there is no such backend, a run can be planned for a machine that has it */
  return av_agree(comm, av_backend_available(config->runtime.backend));
}

av_status av_check(const av_comm *comm, const char *path, int64_t n_ranks, int n_settings,
                   char *const *settings) {
  av_config config = {0};
  av_model_file loaded = {0};
  av_dataset dataset = {0};
  av_input_plan input = {0};
  av_status status = av_config_read(&config, comm, path, n_settings, settings);
  if (status == AV_OK) {
    status = check_all(comm, &config, &loaded, &dataset, &input, n_ranks);
  }
  av_input_plan_free(&input);
  av_dataset_free(&dataset);
  av_model_file_free(&loaded);
  av_config_free(&config);
  return status;
}
