#include "cli/report.h"

#include "base/log.h"
#include "base/memory.h"
#include "cli/figures.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* "  cells           24,673": one fact a line, the values aligned. */
static void fact(FILE *out, const char *name, const char *format, ...) AV_PRINTF(3, 4);
static void fact(FILE *out, const char *name, const char *format, ...) {
  va_list args;
  va_start(args, format);
  char *value = NULL;
  if (vasprintf(&value, format, args) < 0) {
    value = NULL;
  }
  va_end(args);
  char *shown = value == NULL ? NULL : av_printable(value);
  fprintf(out, "  %-14s%s\n", name, shown == NULL ? "(out of memory)" : shown);
  free(shown);
  free(value);
}

/* "3" or, over the ranks, "2 to 3". */
static const char *range_text(av_figure *figure, const av_spread *spread) {
  av_figure low;
  av_figure high;
  const int64_t min = llround(spread->min);
  const int64_t max = llround(spread->max);
  if (min == max) {
    return av_count_text(figure, min);
  }
  snprintf(figure->text, sizeof figure->text, "%.28s to %.28s", av_count_text(&low, min),
           av_count_text(&high, max));
  return figure->text;
}

static const char *plural(int64_t n) { return n == 1 ? "" : "s"; }

/* 50.3 %; more digits for what is small. */
static const char *share_text(av_figure *figure, double part, double whole) {
  const double percent = whole > 0 ? 100 * part / whole : 0;
  snprintf(figure->text, sizeof figure->text, percent < 1 ? "%.3f %%" : "%.1f %%", percent);
  return figure->text;
}

av_status av_report_banner(const av_comm *comm, const av_banner *banner, FILE *out) {
  int64_t n_nodes = comm->local_rank == 0;
  av_spread threads;
  AV_TRY(av_sum_i64(comm, &n_nodes, 1));
  AV_TRY(av_spread_over(comm, banner->threads, &threads));
  if (comm->rank != 0) {
    return AV_OK;
  }
  av_figure range;
  range_text(&range, &threads);
  fprintf(out, "atlasvi %s", banner->version);
  if (banner->revision != NULL && banner->revision[0] != '\0') {
    fprintf(out, " (%s)", banner->revision);
  }
  fputc('\n', out);
  if (banner->build != NULL && banner->build[0] != '\0') {
    fact(out, "build", "%s", banner->build);
  }
  if (banner->settings != NULL) {
    fact(out, "settings", "%s", banner->settings);
  }
  fact(out, "ranks", "%d on %" PRId64 " node%s", comm->size, n_nodes, plural(n_nodes));
  fact(out, "threads", "%s a rank%s%s%s", range.text, banner->threads_from == NULL ? "" : " (",
       banner->threads_from == NULL ? "" : banner->threads_from,
       banner->threads_from == NULL ? "" : ")");
  fact(out, "backend", "%s, reproducible = %s", banner->backend, banner->reproducible);
  fflush(out);
  av_log_event("start", "version", "s", banner->version, "revision", "s", banner->revision, "build",
               "s", banner->build, "settings", "s", banner->settings, "ranks", "i",
               (int64_t)comm->size, "nodes", "i", n_nodes, "threads_min", "i", llround(threads.min),
               "threads_max", "i", llround(threads.max), "threads_from", "s", banner->threads_from,
               "backend", "s", banner->backend, "reproducible", "s", banner->reproducible, NULL);
  return AV_OK;
}

/* What the ranks together know of the input. */
typedef struct av_input_facts {
  av_spread cells;
  av_spread bytes; /* of counts */
  int64_t idle;    /* ranks without cells */
  int64_t unlabelled;
  int64_t smallest_batch, largest_batch;
} av_input_facts;

/* Sizes of the smallest and the largest batch. Collective. */
static av_status size_batches(const av_comm *comm, const av_dataset *dataset,
                              av_input_facts *facts) {
  const int64_t n = dataset->batch.levels.n;
  int64_t *cells = av_calloc((size_t)n, sizeof *cells);
  av_status status = AV_OK;
  if (cells == NULL) {
    status = av_fail(AV_NOMEM, "out of memory (%lld batches)", (long long)n);
  }
  AV_GO(status, av_agree(comm, status), done);
  if (cells == NULL) {
    goto done; /* agreed on above */
  }
  for (int64_t i = 0; i < dataset->n_local; ++i) {
    const int32_t code = dataset->batch.code[i];
    if (code >= 0 && code < n) {
      ++cells[code];
    }
  }
  AV_GO(status, av_sum_i64(comm, cells, n), done);
  facts->smallest_batch = cells[0];
  facts->largest_batch = cells[0];
  for (int64_t s = 1; s < n; ++s) {
    facts->smallest_batch = cells[s] < facts->smallest_batch ? cells[s] : facts->smallest_batch;
    facts->largest_batch = cells[s] > facts->largest_batch ? cells[s] : facts->largest_batch;
  }
done:
  free(cells);
  return status;
}

static av_status gather_input(const av_comm *comm, const av_dataset *dataset,
                              av_input_facts *facts) {
  int64_t sums[2] = {dataset->n_local == 0, 0};
  for (int64_t i = 0; dataset->label.code != NULL && i < dataset->n_local; ++i) {
    sums[1] += dataset->label.code[i] < 0;
  }
  AV_TRY(av_sum_i64(comm, sums, 2));
  facts->idle = sums[0];
  facts->unlabelled = sums[1];
  AV_TRY(av_spread_over(comm, (double)dataset->n_local, &facts->cells));
  AV_TRY(av_spread_over(comm, (double)av_counts_bytes(&dataset->counts), &facts->bytes));
  return dataset->has_batch ? size_batches(comm, dataset, facts) : AV_OK;
}

static const char *genes_from(const av_config *config, const av_dataset *dataset) {
  if (config->data.subset_genes.n > 0) {
    return "subset_genes";
  }
  return dataset->n_genes == dataset->n_file_genes ? "all" : config->data.highly_variable_key;
}

/* What the model sees of each cell beside counts and batch. */
static void print_covariates(const av_config *config, const av_dataset *dataset, FILE *out) {
  av_figure a;
  for (int64_t c = 0; c < dataset->n_categorical; ++c) {
    const int64_t n = dataset->categorical[c].levels.n;
    fact(out, "covariate", "obs[%s], %s categor%s%s", dataset->categorical_names.at[c],
         av_count_text(&a, n), n == 1 ? "y" : "ies", n == 1 ? ": the same as none" : "");
  }
  for (int64_t c = 0; c < dataset->n_continuous; ++c) {
    fact(out, "covariate", "obs[%s], continuous", dataset->continuous_names.at[c]);
  }
  if (dataset->size_factor != NULL) {
    fact(out, "size factors", "obs[%s]",
         config->data.size_factor_key == NULL ? "" : config->data.size_factor_key);
  }
}

static void print_names(const av_config *config, const av_dataset *dataset,
                        const av_input_facts *facts, FILE *out) {
  av_figure a;
  av_figure b;
  av_figure c;
  const char *batch_key = config->data.batch_key;
  const char *labels_key = config->data.labels_key;
  if (dataset->has_batch) {
    fact(out, "batches", "%s in obs[%s], of %s to %s cells",
         av_count_text(&a, dataset->batch.levels.n), batch_key == NULL ? "" : batch_key,
         av_count_text(&b, facts->smallest_batch), av_count_text(&c, facts->largest_batch));
  } else if (batch_key != NULL) {
    fact(out, "batches", "1 in obs[%s]: the same as none", batch_key);
  } else {
    fact(out, "batches", "none ([data] batch_key is not set)");
  }
  print_covariates(config, dataset, out);
  if (labels_key != NULL && dataset->label.levels.n > 0) {
    const bool used = config->model.dispersion == AV_DISPERSION_GENE_LABEL;
    fact(out, "labels", "%s in obs[%s]; %s cells without one (%s)",
         av_count_text(&a, dataset->label.levels.n), labels_key,
         av_count_text(&b, facts->unlabelled),
         used ? "dispersion = gene-label uses them" : "labels are not used to train");
  }
}

static void print_input(const av_comm *comm, const av_config *config, const av_dataset *dataset,
                        const av_input_facts *facts, const int64_t split[3], FILE *out) {
  av_figure a;
  av_figure b;
  av_figure c;
  const double cells = (double)dataset->n_cells;
  const double nonzero = (double)dataset->n_nonzero;
  const double bytes = facts->bytes.mean * comm->size;
  fprintf(out, "\nInput\n");
  fact(out, "file", "%s (%s), counts from %s",
       dataset->input_path == NULL ? "?" : dataset->input_path,
       av_bytes_text(&a, (double)dataset->input_bytes), config->data.counts);
  fact(out, "cells", "%s", av_count_text(&a, dataset->n_cells));
  fact(out, "genes", "%s used of %s in the file (%s)", av_count_text(&a, dataset->n_genes),
       av_count_text(&b, dataset->n_file_genes), genes_from(config, dataset));
  fact(out, "non-zeros", "%s (%s of cells x genes), %.1f a cell",
       av_count_text(&a, dataset->n_nonzero),
       share_text(&b, nonzero, cells * (double)dataset->n_genes), cells > 0 ? nonzero / cells : 0);
  if (dataset->n_empty_genes > 0) {
    fact(out, "empty genes", "%s without a count in any cell (kept)",
         av_count_text(&a, dataset->n_empty_genes));
  }
  if (dataset->n_empty_cells > 0) {
    fact(out, "empty cells", "%s without counts (their results will be NaN)",
         av_count_text(&a, dataset->n_empty_cells));
  }
  print_names(config, dataset, facts, out);
  fact(out, "split", "%s cells to train, %s to validate, %s to test", av_count_text(&a, split[0]),
       av_count_text(&b, split[1]), av_count_text(&c, split[2]));
  fact(out, "memory", "%s of counts, %.2f bytes a non-zero; at most %s a rank",
       av_bytes_text(&a, bytes), nonzero > 0 ? bytes / nonzero : 0,
       av_bytes_text(&b, facts->bytes.max));
  fact(out, "shards", "%s; %s cells a rank", av_count_text(&a, dataset->partition.n_shards),
       range_text(&b, &facts->cells));
  fflush(out);
}

av_status av_report_input(const av_comm *comm, const av_config *config, const av_dataset *dataset,
                          const int64_t split[3], FILE *out) {
  av_input_facts facts = {.smallest_batch = dataset->n_cells, .largest_batch = dataset->n_cells};
  AV_TRY(gather_input(comm, dataset, &facts));
  if (comm->rank != 0) {
    return AV_OK;
  }
  print_input(comm, config, dataset, &facts, split, out);
  if (facts.idle > 0) {
    av_warn("%lld of %d ranks own no cells (%lld shards): fewer ranks would do",
            (long long)facts.idle, comm->size, (long long)dataset->partition.n_shards);
  }
  av_log_event(
      "input", "path", "s", dataset->input_path, "bytes", "i", dataset->input_bytes, "counts", "s",
      config->data.counts, "cells", "i", dataset->n_cells, "file_genes", "i", dataset->n_file_genes,
      "genes", "i", dataset->n_genes, "genes_from", "s", genes_from(config, dataset), "nonzeros",
      "i", dataset->n_nonzero, "empty_genes", "i", dataset->n_empty_genes, "empty_cells", "i",
      dataset->n_empty_cells, "batch_key", "s", config->data.batch_key, "batches", "i",
      dataset->has_batch ? dataset->batch.levels.n : (int64_t)1, "smallest_batch", "i",
      facts.smallest_batch, "largest_batch", "i", facts.largest_batch, "labels_key", "s",
      config->data.labels_key, "labels", "i", dataset->label.levels.n, "unlabelled", "i",
      facts.unlabelled, "train_cells", "i", split[0], "validation_cells", "i", split[1],
      "test_cells", "i", split[2], "count_bytes", "i", llround(facts.bytes.mean * comm->size),
      "count_bytes_rank_max", "i", llround(facts.bytes.max), "shards", "i",
      dataset->partition.n_shards, "rank_cells_min", "i", llround(facts.cells.min),
      "rank_cells_max", "i", llround(facts.cells.max), NULL);
  return AV_OK;
}

static void print_fit(const av_config *config, const av_model_facts *facts, FILE *out) {
  av_figure a;
  av_figure b;
  char warmup[80];
  if (config->train.n_steps_kl_warmup_given) {
    snprintf(warmup, sizeof warmup, "%s steps", av_count_text(&a, config->train.n_steps_kl_warmup));
  } else {
    snprintf(warmup, sizeof warmup, "%s epochs",
             av_count_text(&a, config->train.n_epochs_kl_warmup));
  }
  if (facts->n_epochs == 0) {
    fact(out, "fit", "none (max_epochs = 0): the model is applied as it is");
    return;
  }
  fact(out, "fit",
       "%s epoch%s of %s step%s with %" PRId64 " cells, lr %g, KL warm-up %s, seed %" PRId64 "%s",
       av_count_text(&a, facts->n_epochs), plural(facts->n_epochs),
       av_count_text(&b, facts->n_steps), plural(facts->n_steps), config->train.batch_size,
       config->train.lr, warmup, config->train.seed,
       config->train.update_only_decoder ? ", the decoder only" : "");
  if (config->train.n_restarts > 1) {
    fact(out, "restarts",
         "%s fits, seeds %" PRId64 " to %" PRId64 "; the one with the least negative ELBO is kept",
         av_count_text(&a, config->train.n_restarts), config->train.seed,
         config->train.seed + config->train.n_restarts - 1);
  }
}

av_status av_report_model(const av_comm *comm, const av_config *config, const av_model_facts *facts,
                          FILE *out) {
  if (comm->rank != 0) {
    return AV_OK;
  }
  av_figure a;
  av_figure b;
  const bool linear = config->model.linear_decoder;
  const char *kind = linear ? "LDVAE" : "scVI";
  const char *likelihood =
      av_config_choice("model", "gene_likelihood", config->model.gene_likelihood);
  const char *dispersion = av_config_choice("model", "dispersion", config->model.dispersion);
  const char *library = config->data.size_factor_key != NULL  ? "given"
                        : config->model.use_observed_lib_size ? "observed"
                                                              : "latent";
  fprintf(out, "\nModel\n");
  fact(out, "model", "%s: %s genes, %" PRId64 " hidden x %" PRId64 " layer%s, %" PRId64 " latent%s",
       kind, av_count_text(&a, facts->n_genes), config->model.n_hidden, config->model.n_layers,
       plural(config->model.n_layers), config->model.n_latent, linear ? ", linear decoder" : "");
  fact(out, "counts", "%s, %s dispersion, %s %s, %s batch%s", likelihood, dispersion, library,
       config->data.size_factor_key != NULL ? "size factors" : "library size",
       av_count_text(&a, facts->n_batches), facts->n_batches == 1 ? "" : "es");
  if (facts->bytes > 0) {
    fact(out, "parameters", "%s (%s a rank with gradients and optimizer)",
         av_count_text(&a, facts->n_parameters), av_bytes_text(&b, (double)facts->bytes));
  } else {
    fact(out, "parameters", "%s", av_count_text(&a, facts->n_parameters));
  }
  if (facts->gpu != NULL) {
    fact(out, "on GPUs", "%s", facts->gpu);
  }
  print_fit(config, facts, out);
  if (facts->output != NULL) {
    char *path = av_printable(facts->output);
    fact(out, "output", "%s of matrices to %s", av_bytes_text(&a, (double)facts->output_bytes),
         path == NULL ? "" : path);
    free(path);
  }
  fputc('\n', out);
  fflush(out);
  av_log_event("model", "model", "s", kind, "genes", "i", facts->n_genes, "batches", "i",
               facts->n_batches, "n_hidden", "i", config->model.n_hidden, "n_layers", "i",
               config->model.n_layers, "n_latent", "i", config->model.n_latent, "gene_likelihood",
               "s", likelihood, "dispersion", "s", dispersion, "library", "s", library,
               "parameters", "i", facts->n_parameters, "bytes", "i", facts->bytes, "epochs", "i",
               facts->n_epochs, "output_bytes", "i", facts->output_bytes, "steps", "i",
               facts->n_steps, "batch_size", "i", config->train.batch_size, "lr", "d",
               config->train.lr, "seed", "i", config->train.seed, "restarts", "i",
               config->train.n_restarts, NULL);
  return AV_OK;
}

av_status av_report_outputs(const av_comm *comm, int n, const av_output_file *files, FILE *out) {
  if (comm->rank != 0 || n == 0) {
    return AV_OK;
  }
  av_figure size;
  fprintf(out, "\nWritten\n");
  for (int i = 0; i < n; ++i) {
    struct stat info;
    const bool there = stat(files[i].path, &info) == 0;
    const int64_t bytes = there ? (int64_t)info.st_size : 0;
    fact(out, files[i].what, "%s (%s)", files[i].path,
         there ? av_bytes_text(&size, (double)bytes) : "size unknown");
    av_log_event("output", "what", "s", files[i].what, "path", "s", files[i].path, "bytes", "i",
                 bytes, NULL);
  }
  fflush(out);
  return AV_OK;
}

/* Of a step, over the ranks. */
typedef struct av_step_traffic {
  av_spread operations, bytes, seconds, ahead, waited;
} av_step_traffic;

static void print_communication(const av_step_traffic *step, double seconds, bool queued,
                                FILE *out) {
  av_figure a;
  av_figure b;
  const double under_way = step->ahead.mean + step->waited.mean;
  fprintf(out, "\nCommunication, a step of training and rank\n");
  fact(out, "operations", "%.2f collective ones; at least %s to send", step->operations.mean,
       av_bytes_text(&a, step->bytes.mean));
  if (queued) {
    fact(out, "queueing", "%.3g ms of the host; what the GPUs take is not measured",
         1e3 * step->seconds.mean);
    fflush(out);
    return;
  }
  fact(out, "seconds", "%.3g ms of %.3g (%s); least %.3g, most %.3g ms", 1e3 * step->seconds.mean,
       1e3 * seconds, share_text(&b, step->seconds.mean, seconds), 1e3 * step->seconds.min,
       1e3 * step->seconds.max);
  fact(out, "gradients",
       "%.3g ms under way beside computation, then waited for %.3g ms: %s overlapped",
       1e3 * step->ahead.mean, 1e3 * step->waited.mean,
       share_text(&a, step->ahead.mean, under_way));
  fflush(out);
}

av_status av_report_communication(const av_comm *comm, int64_t n_steps, double seconds,
                                  const av_traffic *traffic, FILE *out) {
  if (n_steps == 0) {
    return AV_OK;
  }
  const double steps = (double)n_steps;
  av_step_traffic step;
  AV_TRY(av_spread_over(comm, (double)traffic->operations / steps, &step.operations));
  AV_TRY(av_spread_over(comm, (double)traffic->bytes / steps, &step.bytes));
  AV_TRY(av_spread_over(comm, traffic->seconds / steps, &step.seconds));
  AV_TRY(av_spread_over(comm, traffic->ahead / steps, &step.ahead));
  AV_TRY(av_spread_over(comm, traffic->waited / steps, &step.waited));
  if (comm->rank != 0) {
    return AV_OK;
  }
  if (comm->size > 1) {
    print_communication(&step, seconds / steps, traffic->queued, out);
  }
  av_log_event("communication", "ranks", "i", (int64_t)comm->size, "steps", "i", n_steps,
               "step_seconds", "d", seconds / steps, "operations", "d", step.operations.mean,
               "bytes_min", "d", step.bytes.min, "bytes_mean", "d", step.bytes.mean, "bytes_max",
               "d", step.bytes.max, "seconds_min", "d", step.seconds.min, "seconds_mean", "d",
               step.seconds.mean, "seconds_max", "d", step.seconds.max, "timed", "s",
               traffic->queued ? "queueing" : "operations", "ahead_seconds", "d",
               traffic->queued ? NAN : step.ahead.mean, "waited_seconds", "d",
               traffic->queued ? NAN : step.waited.mean, NULL);
  return AV_OK;
}

static void print_row(FILE *out, int64_t depth, const char *name, const av_spread *seconds,
                      double whole, const av_spread *peak) {
  const double mib = 1024.0 * 1024.0;
  const int indent = (int)(depth > 4 ? 8 : 2 * depth);
  fprintf(out, "  %*s%-*s %10.2f %10.2f %10.2f %6.1f", indent, "", 24 - indent, name, seconds->min,
          seconds->mean, seconds->max, whole > 0 ? 100 * seconds->mean / whole : 0);
  if (peak != NULL) {
    fprintf(out, " %10.1f %10.1f %10.1f", peak->min / mib, peak->mean / mib, peak->max / mib);
  }
  fputc('\n', out);
}

static void print_phases(const av_comm *comm, const av_phases_report *report, FILE *out) {
  const double whole = report->total.mean;
  fprintf(out, "\nTime and memory over %d rank%s; memory: largest so far when the phase ended\n",
          comm->size, plural(comm->size));
  fprintf(out, "  %-24s %32s %6s %32s\n", "", "seconds", "", "MiB");
  fprintf(out, "  %-24s %10s %10s %10s %6s %10s %10s %10s\n", "phase", "min", "mean", "max", "%",
          "min", "mean", "max");
  for (int i = 0; i < report->n; ++i) {
    const av_phase_line *line = &report->line[i];
    print_row(out, line->depth, line->name, &line->seconds, whole, &line->peak);
  }
  print_row(out, 0, "other", &report->other, whole, NULL);
  print_row(out, 0, "all", &report->total, whole, &report->peak);
  fflush(out);
}

av_status av_report_phases(const av_comm *comm, const av_phases *phases, FILE *out) {
  av_phases_report report;
  AV_TRY(av_phases_report_make(comm, phases, &report));
  if (comm->rank != 0) {
    return AV_OK;
  }
  print_phases(comm, &report, out);
  for (int i = 0; i < report.n; ++i) {
    const av_phase_line *line = &report.line[i];
    av_log_event("phase", "name", "s", line->name, "depth", "i", line->depth, "calls", "i",
                 line->calls, "seconds_min", "d", line->seconds.min, "seconds_mean", "d",
                 line->seconds.mean, "seconds_max", "d", line->seconds.max, "peak_bytes_min", "i",
                 llround(line->peak.min), "peak_bytes_mean", "i", llround(line->peak.mean),
                 "peak_bytes_max", "i", llround(line->peak.max), NULL);
  }
  av_log_event("end", "seconds", "d", report.total.max, "other_seconds_mean", "d",
               report.other.mean, "peak_bytes_min", "i", llround(report.peak.min),
               "peak_bytes_mean", "i", llround(report.peak.mean), "peak_bytes_max", "i",
               llround(report.peak.max), NULL);
  return AV_OK;
}
