/* Training steps of the model on the emulated GPU, and what the device does in one of them, as
 * JSON lines: count.h. With counts, and without (a list of launches).
 *
 *   gpu_roofline MODEL LIKELIHOOD BATCHES MINIBATCH GENES PERCENT LATENTS
 *                [SITES [WAY [DISPERSION]]]
 *   gpu_roofline LDVAE nb 1 128 2000 7 10
 *
 * Counts are drawn so that PERCENT of them are not zero, gene by gene with frequencies that span
 * orders of magnitude; everything else is as by default, as if trained by `atlasvi`. The line that
 * comes first says what it was. The step that is counted is the second, of other cells than that
 * before it: by then memory is allocated. SITES: categories of a covariate beside the batch. WAY:
 * whether a linear decoder writes rows (gpu_decode.h), one of WAYS; without, as it chooses. */
#include "cuda_backend.h"

#include "backend/gpu_decode.h"
#include "base/memory.h"
#include "config/config.h"
#include "data/dataset.h"
#include "math/rng.h"
#include "model/init.h"
#include "model/library_prior.h"
#include "model/vae.h"
#include "roofline/count.h"
#include "train/trainer.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS = 2, MOST_LEVELS = 64 };

typedef struct run {
  av_comm comm;
  av_config config;
  av_backend be;
  av_dataset dataset;
  int8_t *split; /* all train */
  av_data *data;
  av_batch *batch;
  av_vae *vae;
  int64_t minibatch;
  double share; /* of counts that are not zero */
  double prior[2 * MOST_LEVELS];
} run;

/* ---- the decoder's way ---- */

static const char *const WAYS[] = {"none", "kept", "wide"}; /* by av_gpu_decode_way */
static int way = AV_GPU_DECODE_WAYS;                        /* that: the program's own */

static bool find_way(const char *name) {
  for (way = 0; way < AV_GPU_DECODE_WAYS; ++way) {
    if (strcmp(WAYS[way], name) == 0) {
      return true;
    }
  }
  return strcmp(name, "any") == 0;
}

/* The linker puts the second in the place of the first. */
av_gpu_decode_cut __real_av_gpu_decode_cut_of(const av_gpu_decode_sizes *of);
av_gpu_decode_cut __wrap_av_gpu_decode_cut_of(const av_gpu_decode_sizes *of);
av_gpu_decode_cut __wrap_av_gpu_decode_cut_of(const av_gpu_decode_sizes *of) {
  av_gpu_decode_sizes asked = *of;
  asked.way = way < AV_GPU_DECODE_WAYS ? way : asked.way;
  return __real_av_gpu_decode_cut_of(&asked);
}

static void must(av_status status) {
  if (status != AV_OK) {
    av_error_print();
    exit(1);
  }
}

static void *must_have(void *memory) {
  if (memory == NULL) {
    fprintf(stderr, "gpu_roofline: out of memory\n");
    exit(1);
  }
  return memory;
}

static double uniform(uint64_t item, uint32_t index) {
  uint32_t words[4];
  av_random4(words, 17, AV_DRAW_TEST, item, 0, index);
  return ((double)words[0] + 0.5) * 0x1p-32;
}

/* ---- counts ---- */

/* mean (genes): e^(1.5 times a normal number), times what makes the share of counts >= 1 that
 * asked for: 1 + mean is the inverse of a geometric count's chance of 0. */
static void gene_means(int64_t genes, double share, double *mean) {
  double factor = 1.0;
  for (int64_t g = 0; g < genes; ++g) {
    const double radius = sqrt(-2.0 * log(uniform((uint64_t)g, 1000001)));
    mean[g] = exp(1.5 * radius * cos(6.283185307179586 * uniform((uint64_t)g, 1000002)));
  }
  for (int round = 0; round < 200; ++round) {
    double sum = 0.0;
    for (int64_t g = 0; g < genes; ++g) {
      sum += factor * mean[g] / (1.0 + factor * mean[g]);
    }
    factor *= share * (double)genes / sum;
  }
  for (int64_t g = 0; g < genes; ++g) {
    mean[g] *= factor;
  }
}

static void fill_counts(run *r) {
  av_dataset *dataset = &r->dataset;
  const int64_t genes = dataset->n_genes;
  av_counts_builder *builder = NULL;
  double *mean = must_have(av_malloc((size_t)genes, sizeof *mean));
  int32_t *gene = must_have(av_malloc((size_t)genes, sizeof *gene));
  double *value = must_have(av_malloc((size_t)genes, sizeof *value));
  gene_means(genes, r->share, mean);
  must(av_builder_create(&builder, genes, dataset->n_local, 16, false));
  for (int64_t i = 0; i < dataset->n_local; ++i) {
    int64_t n = 0;
    uint32_t words[4] = {0};
    for (int64_t g = 0; g < genes; ++g) {
      if (g % 4 == 0) {
        av_random4(words, 18, AV_DRAW_TEST, (uint64_t)i, 0, (uint32_t)(g / 4));
      }
      const double u = ((double)words[g % 4] + 0.5) * 0x1p-32;
      const double more = mean[g] / (1.0 + mean[g]);
      if (u < more || (n == 0 && g == genes - 1)) {
        gene[n] = (int32_t)g;
        value[n++] = u < more ? floor(log(u) / log(more)) : 1.0;
      }
    }
    must(av_builder_add_row(builder, n, gene, value));
  }
  must(av_builder_finish(builder, &dataset->counts));
  av_builder_free(&builder);
  free(mean);
  free(gene);
  free(value);
}

/* Categories take turns, those of the batch every cell, another factor's after so many cells: each
 * meets each. */
static void make_factor(av_factor *factor, int64_t levels, int64_t cells, int64_t turn) {
  char text[MOST_LEVELS][8];
  const char *names[MOST_LEVELS];
  for (int b = 0; b < levels && b < MOST_LEVELS; ++b) {
    snprintf(text[b], sizeof text[b], "b%d", b);
    names[b] = text[b];
  }
  must(av_names_copy(&factor->levels, levels, names));
  factor->code = must_have(av_calloc((size_t)cells, sizeof *factor->code));
  for (int64_t i = 0; i < cells; ++i) {
    factor->code[i] = (int32_t)(i / turn % levels);
  }
}

static void make_data(run *r, int64_t genes, int64_t n_batches, int64_t n_sites) {
  av_dataset *dataset = &r->dataset;
  const int64_t cells = STEPS * r->minibatch;
  *dataset = (av_dataset){.n_cells = cells,
                          .n_genes = genes,
                          .n_file_genes = genes,
                          .n_local = cells,
                          .has_batch = n_batches > 1,
                          .input_path = av_strdup("drawn")};
  must(av_partition_create(&dataset->partition, cells, 1, NULL));
  make_factor(&dataset->batch, n_batches, cells, 1);
  if (n_sites > 1) {
    static const char *const named = "site";
    must(av_names_copy(&dataset->categorical_names, 1, &named));
    dataset->categorical = must_have(av_calloc(1, sizeof *dataset->categorical));
    dataset->n_categorical = 1;
    make_factor(dataset->categorical, n_sites, cells, STEPS * n_batches);
  }
  dataset->library = must_have(av_calloc((size_t)cells, sizeof *dataset->library));
  r->split = must_have(av_calloc((size_t)cells, sizeof *r->split));
  fill_counts(r);
  av_counts_sum_rows(&dataset->counts, 0, cells, dataset->library);
  must(av_dataset_design(dataset));
}

/* ---- model ---- */

static void read_settings(run *r, const char *model, const char *likelihood, const char *latents,
                          const char *dispersion) {
  char n_latent[64];
  char by[64];
  char linear[64];
  char wanted[64];
  char size[64];
  snprintf(linear, sizeof linear, "model.linear_decoder=%s",
           strcmp(model, "LDVAE") == 0 ? "yes" : "no");
  snprintf(wanted, sizeof wanted, "model.gene_likelihood=%s", likelihood);
  snprintf(size, sizeof size, "train.batch_size=%" PRId64, r->minibatch);
  snprintf(n_latent, sizeof n_latent, "model.n_latent=%s", latents);
  snprintf(by, sizeof by, "model.dispersion=%s", dispersion);
  char *const settings[] = {linear,
                            by,
                            wanted,
                            size,
                            n_latent,
                            "runtime.backend=cuda",
                            "data.input=drawn",
                            "output.path=none.h5ad"};
  must(av_config_defaults(&r->config));
  must(av_config_parse(&r->config, "defaults", "", 8, settings));
  must(av_config_resolve(&r->config));
}

static void make_model(run *r) {
  const av_model_spec spec = av_model_spec_from(&r->config, &r->dataset);
  const av_backend_options options = {.choice = AV_BACKEND_CUDA,
                                      .threads = 1,
                                      .precision = r->config.runtime.precision,
                                      .sums_by_mpi = true};
  must(av_backend_open_ops(&r->be, &av_backend_cuda, &options, &r->comm));
  must(av_library_prior(&r->comm, &r->dataset, false, r->prior));
  must(av_vae_create(&r->vae, &r->be, &spec, &r->dataset.design, r->prior,
                     av_trainer_rows(&r->config, r->dataset.n_genes, r->dataset.n_local)));
  const av_layout *layout = av_vae_layout(r->vae);
  double *params = must_have(av_calloc((size_t)layout->n_params, sizeof *params));
  double *running = must_have(av_calloc((size_t)layout->n_running, sizeof *running));
  av_init_values(layout, 0, params, running);
  must(av_init_from_data(&r->comm, &r->dataset, r->split, layout, params));
  must(av_vae_set_values(r->vae, params, running));
  free(params);
  free(running);
  must(r->be.ops->data_load(&r->be, &r->dataset, &r->data));
  must(r->be.ops->batch_create(&r->be, r->data, r->minibatch, &r->batch));
}

/* Every STEPS-th cell is in the same step. */
static int64_t select_cells(run *r, int64_t step) {
  int64_t *rows = must_have(av_malloc((size_t)r->minibatch, sizeof *rows));
  int64_t nonzeros = 0;
  for (int64_t i = 0; i < r->minibatch; ++i) {
    rows[i] = i * STEPS + step;
    const int64_t *start = r->dataset.counts.row_start + rows[i];
    nonzeros += start[1] - start[0];
  }
  r->be.ops->batch_select(&r->be, r->batch, r->minibatch, rows);
  free(rows);
  return nonzeros;
}

static void train_step(run *r, int64_t step) {
  const av_draw draw = {.seed = 3, .epoch = 0, .purpose = AV_DRAW_LATENT};
  const av_adam adam = {.lr = r->config.train.lr,
                        .beta1 = 0.9,
                        .beta2 = 0.999,
                        .eps = r->config.train.eps,
                        .weight_decay = r->config.train.weight_decay,
                        .scale = 1.0 / (double)r->minibatch,
                        .step = step + 1};
  av_vae_train_step(r->vae, r->batch, r->minibatch, draw, 1.0, &adam);
  av_vae_update(r->vae, &adam);
}

/* What the steps have computed: losses, and the length of the vector of parameters. */
static void write_results(run *r) {
  const av_layout *layout = av_vae_layout(r->vae);
  double *params = must_have(av_calloc((size_t)layout->n_params, sizeof *params));
  double *running = must_have(av_calloc((size_t)layout->n_running, sizeof *running));
  double losses[3] = {0.0};
  double squares = 0.0;
  must(av_vae_get_values(r->vae, params, running));
  must(av_vae_take_losses(r->vae, losses));
  for (int64_t i = 0; i < layout->n_params; ++i) {
    squares += params[i] * params[i];
  }
  free(params);
  free(running);
  printf("{\"results\": [%.9g, %.9g, %.9g, %.9g]}\n", losses[0], losses[1], losses[2],
         sqrt(squares));
}

static void close_run(run *r) {
  av_vae_free(&r->vae);
  r->be.ops->batch_free(&r->be, r->batch);
  r->be.ops->data_free(&r->be, r->data);
  av_backend_close(&r->be);
  av_dataset_free(&r->dataset);
  free(r->split);
  av_config_free(&r->config);
  av_comm_free(&r->comm);
}

int main(int argc, char **argv) {
  run r = {.minibatch = 0};
  must(av_comm_create(&r.comm, &argc, &argv));
  const int64_t n_sites = argc > 8 ? atoll(argv[8]) : 1;
  if (argc < 8 || argc > 11 || atoll(argv[3]) > MOST_LEVELS || n_sites > MOST_LEVELS ||
      (argc > 9 && !find_way(argv[9]))) {
    fprintf(stderr,
            "usage: gpu_roofline LDVAE|scVI nb|zinb BATCHES MINIBATCH GENES PERCENT "
            "LATENTS [SITES [none|kept|wide|any [DISPERSION]]]\n");
    return 64;
  }
  r.minibatch = atoll(argv[4]);
  r.share = atof(argv[6]) / 100.0;
  count_begin(ROOFLINE_RUNS);
  make_data(&r, atoll(argv[5]), atoll(argv[3]), n_sites);
  read_settings(&r, argv[1], argv[2], argv[7], argc > 10 ? argv[10] : "gene");
  make_model(&r);
  int64_t nonzeros = 0;
  count_cold();
  for (int64_t step = 0; step < STEPS; ++step) {
    count_again();
    nonzeros = select_cells(&r, step);
    train_step(&r, step);
  }
  printf("{\"parameters\": %" PRId64 ", \"nonzeros\": %" PRId64 "}\n",
         av_vae_layout(r.vae)->n_params, nonzeros);
  count_write(stdout);
  if (ROOFLINE_RUNS) {
    write_results(&r);
  }
  close_run(&r);
  return 0;
}
