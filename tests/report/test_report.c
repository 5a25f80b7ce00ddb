/* The blocks of text that open and close a run; run on 1, 2 and 3 ranks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/log.h"
#include "base/memory.h"
#include "cli/figures.h"
#include "cli/report.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <regex.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CELLS = 10, GENES = 4, FILE_GENES = 6 };

static av_comm comm;
static char folder[64];
static char log_path[128];

/* What was printed to `file` (rank 0; "" elsewhere); closes it, the caller frees. */
static char *taken(FILE *file) {
  char *text = calloc(1, 1 << 16);
  assert_non_null(text);
  rewind(file);
  text[fread(text, 1, (1 << 16) - 1, file)] = '\0';
  fclose(file);
  if (comm.rank != 0) {
    assert_string_equal(text, "");
  }
  return text;
}

/* The value printed after `name`; fails if the line is not there. */
static void assert_fact(const char *text, const char *name, const char *want) {
  char start[64];
  snprintf(start, sizeof start, "\n  %-14s", name);
  const char *line = strstr(text, start);
  if (line == NULL) {
    fail_msg("no line \"%s\" in %s", name, text);
    return;
  }
  line += strlen(start);
  char value[400];
  snprintf(value, sizeof value, "%.*s", (int)strcspn(line, "\n"), line);
  assert_string_equal(value, want);
}

/* The log's record of `event`, the last there is; NULL if none. */
static cJSON *event_of(const char *event) {
  FILE *file = fopen(log_path, "r");
  assert_non_null(file);
  char line[4000];
  cJSON *found = NULL;
  while (fgets(line, sizeof line, file) != NULL) {
    cJSON *record = cJSON_Parse(line);
    assert_non_null(record);
    if (strcmp(cJSON_GetObjectItem(record, "event")->valuestring, event) == 0) {
      cJSON_Delete(found);
      found = record;
    } else {
      cJSON_Delete(record);
    }
  }
  fclose(file);
  return found;
}

static double number_of(const cJSON *record, const char *name) {
  const cJSON *item = cJSON_GetObjectItem(record, name);
  assert_true(cJSON_IsNumber(item));
  return item->valuedouble;
}

/* Ten cells, three of batch a and seven of batch b, one without a label; cell i has a count of 1 in
 * gene 0, and even cells 300 in gene 2 as well. */
static void make_dataset(av_dataset *dataset) {
  static const char *const batches[] = {"a", "b"};
  static const char *const labels[] = {"B cell", "T cell", "NK"};
  static char input[] = "/data/kang\033[31m.h5ad";
  *dataset = (av_dataset){.n_cells = CELLS,
                          .n_file_genes = FILE_GENES,
                          .n_genes = GENES,
                          .n_nonzero = 15,
                          .has_batch = true,
                          .n_empty_genes = 2,
                          .input_bytes = 3 << 20};
  dataset->input_path = av_strdup(input);
  assert_int_equal(av_names_copy(&dataset->batch.levels, 2, batches), AV_OK);
  assert_int_equal(av_names_copy(&dataset->label.levels, 3, labels), AV_OK);
  assert_int_equal(av_partition_create(&dataset->partition, CELLS, comm.size, NULL), AV_OK);
  dataset->first = av_rank_first(&dataset->partition, comm.rank);
  dataset->n_local = av_rank_first(&dataset->partition, comm.rank + 1) - dataset->first;
  dataset->batch.code = av_calloc(CELLS, sizeof *dataset->batch.code);
  dataset->label.code = av_calloc(CELLS, sizeof *dataset->label.code);
  av_counts_builder *builder = NULL;
  assert_int_equal(av_builder_create(&builder, GENES, dataset->n_local, 20, false), AV_OK);
  for (int64_t i = 0; i < dataset->n_local; ++i) {
    const int64_t cell = dataset->first + i;
    const int32_t gene[2] = {0, 2};
    const double value[2] = {1, 300};
    dataset->batch.code[i] = cell < 3 ? 0 : 1;
    dataset->label.code[i] = cell == 9 ? -1 : (int32_t)(cell % 3);
    assert_int_equal(av_builder_add_row(builder, cell % 2 == 0 ? 2 : 1, gene, value), AV_OK);
  }
  assert_int_equal(av_builder_finish(builder, &dataset->counts), AV_OK);
  av_builder_free(&builder);
}

static void banner(void **unused) {
  (void)unused;
  FILE *file = tmpfile();
  assert_non_null(file);
  const av_banner facts = {.version = "0.1.0",
                           .revision = "1a2b3c4",
                           .build = "gcc 12.2, Open MPI 4.1.4",
                           .backend = "cpu",
                           .reproducible = "strict",
                           .settings = "run.ini",
                           .threads = comm.rank + 2,
                           .threads_from = "cores / ranks"};
  assert_int_equal(av_report_banner(&comm, &facts, file), AV_OK);
  char *text = taken(file);
  if (comm.rank == 0) {
    static const char *const threads[] = {"2 a rank (cores / ranks)",
                                          "2 to 3 a rank (cores / ranks)",
                                          "2 to 4 a rank (cores / ranks)"};
    char ranks[32];
    snprintf(ranks, sizeof ranks, "%d on 1 node", comm.size);
    assert_int_equal(strncmp(text, "atlasvi 0.1.0 (1a2b3c4)\n", 24), 0);
    assert_fact(text, "build", "gcc 12.2, Open MPI 4.1.4");
    assert_fact(text, "settings", "run.ini");
    assert_fact(text, "ranks", ranks);
    assert_fact(text, "threads", threads[comm.size - 1]);
    assert_fact(text, "backend", "cpu, reproducible = strict");
    cJSON *record = event_of("start");
    assert_true(number_of(record, "ranks") == comm.size && number_of(record, "nodes") == 1);
    assert_true(number_of(record, "threads_max") == comm.size + 1);
    assert_string_equal(cJSON_GetObjectItem(record, "revision")->valuestring, "1a2b3c4");
    cJSON_Delete(record);
  }
  free(text);
}

/* What is not known is left out of the text and null in the log. */
static void banner_without(void **unused) {
  (void)unused;
  FILE *file = tmpfile();
  assert_non_null(file);
  const av_banner facts = {
      .version = "0.1.0", .backend = "cpu", .reproducible = "off", .threads = 1};
  assert_int_equal(av_report_banner(&comm, &facts, file), AV_OK);
  char *text = taken(file);
  if (comm.rank == 0) {
    assert_int_equal(strncmp(text, "atlasvi 0.1.0\n  ranks ", 22), 0);
    assert_fact(text, "threads", "1 a rank");
    cJSON *record = event_of("start");
    assert_true(cJSON_IsNull(cJSON_GetObjectItem(record, "revision")));
    cJSON_Delete(record);
  }
  free(text);
}

static void set_text(char **field, const char *text) {
  free(*field);
  *field = av_strdup(text);
}

static void input(void **unused) {
  (void)unused;
  const int64_t split[3] = {8, 1, 1};
  av_config config = {0};
  av_dataset dataset;
  assert_int_equal(av_config_defaults(&config), AV_OK);
  set_text(&config.data.batch_key, "donor");
  set_text(&config.data.labels_key, "cell_type");
  make_dataset(&dataset);
  FILE *file = tmpfile();
  assert_non_null(file);
  assert_int_equal(av_report_input(&comm, &config, &dataset, split, file), AV_OK);
  char *text = taken(file);
  int64_t bytes = av_counts_bytes(&dataset.counts);
  int64_t most = bytes;
  assert_int_equal(av_sum_i64(&comm, &bytes, 1), AV_OK);
  assert_int_equal(av_max_i64(&comm, &most, 1), AV_OK);
  if (comm.rank == 0) {
    static const char *const shards[] = {"10; 10 cells a rank", "10; 5 cells a rank",
                                         "10; 3 to 4 cells a rank"};
    char memory[200];
    snprintf(memory, sizeof memory,
             "%lld bytes of counts, %.2f bytes a non-zero; at most %lld bytes a rank",
             (long long)bytes, (double)bytes / 15, (long long)most);
    assert_fact(text, "file", "/data/kang?[31m.h5ad (3.0 MiB), counts from X");
    assert_fact(text, "cells", "10");
    assert_fact(text, "genes", "4 used of 6 in the file (highly_variable)");
    assert_fact(text, "non-zeros", "15 (37.5 % of cells x genes), 1.5 a cell");
    assert_fact(text, "empty genes", "2 without a count in any cell (kept)");
    assert_null(strstr(text, "empty cells"));
    assert_null(strstr(text, "covariate"));
    assert_null(strstr(text, "size factors"));
    assert_fact(text, "batches", "2 in obs[donor], of 3 to 7 cells");
    assert_fact(text, "labels",
                "3 in obs[cell_type]; 1 cells without one (labels are not used to train)");
    assert_fact(text, "split", "8 cells to train, 1 to validate, 1 to test");
    assert_fact(text, "memory", memory);
    assert_fact(text, "shards", shards[comm.size - 1]);
    cJSON *record = event_of("input");
    assert_true(number_of(record, "nonzeros") == 15 && number_of(record, "unlabelled") == 1);
    assert_true(number_of(record, "smallest_batch") == 3 &&
                number_of(record, "largest_batch") == 7);
    assert_true(number_of(record, "count_bytes") == (double)bytes);
    assert_true(number_of(record, "train_cells") == 8 && number_of(record, "shards") == 10);
    assert_string_equal(cJSON_GetObjectItem(record, "path")->valuestring,
                        "/data/kang\033[31m.h5ad");
    cJSON_Delete(record);
  }
  free(text);
  av_dataset_free(&dataset);
  av_config_free(&config);
}

/* Covariates, size factors, and labels that the model uses. */
static void input_with_covariates(void **unused) {
  (void)unused;
  static const char *const names[] = {"sex", "site"};
  static const char *const numbers[] = {"age"};
  static const char *const levels[] = {"f", "m"};
  const int64_t split[3] = {8, 1, 1};
  av_config config = {0};
  av_dataset dataset;
  assert_int_equal(av_config_defaults(&config), AV_OK);
  set_text(&config.data.labels_key, "cell_type");
  set_text(&config.data.size_factor_key, "sizes");
  config.model.dispersion = AV_DISPERSION_GENE_LABEL;
  make_dataset(&dataset);
  dataset.n_categorical = 2;
  dataset.n_continuous = 1;
  dataset.categorical = av_calloc(2, sizeof *dataset.categorical);
  dataset.size_factor = av_calloc(CELLS, sizeof *dataset.size_factor);
  assert_int_equal(av_names_copy(&dataset.categorical_names, 2, names), AV_OK);
  assert_int_equal(av_names_copy(&dataset.continuous_names, 1, numbers), AV_OK);
  assert_int_equal(av_names_copy(&dataset.categorical[0].levels, 2, levels), AV_OK);
  assert_int_equal(av_names_copy(&dataset.categorical[1].levels, 1, levels), AV_OK);
  FILE *file = tmpfile();
  assert_non_null(file);
  assert_int_equal(av_report_input(&comm, &config, &dataset, split, file), AV_OK);
  char *text = taken(file);
  if (comm.rank == 0) {
    assert_non_null(strstr(text,
                           "\n  covariate     obs[sex], 2 categories"
                           "\n  covariate     obs[site], 1 category: the same as none"
                           "\n  covariate     obs[age], continuous\n"));
    assert_fact(text, "size factors", "obs[sizes]");
    assert_fact(text, "labels",
                "3 in obs[cell_type]; 1 cells without one (dispersion = gene-label uses them)");
  }
  free(text);
  av_dataset_free(&dataset);
  av_config_free(&config);
}

/* One cell and no batch: ranks beyond it are told of. */
static void input_of_one_cell(void **unused) {
  (void)unused;
  const int64_t split[3] = {1, 0, 0};
  av_config config = {0};
  av_dataset dataset = {.n_cells = 1, .n_file_genes = 1, .n_genes = 1};
  assert_int_equal(av_config_defaults(&config), AV_OK);
  assert_int_equal(av_partition_create(&dataset.partition, 1, comm.size, NULL), AV_OK);
  dataset.n_local = av_rank_first(&dataset.partition, comm.rank + 1) -
                    av_rank_first(&dataset.partition, comm.rank);
  FILE *file = tmpfile();
  assert_non_null(file);
  assert_int_equal(av_report_input(&comm, &config, &dataset, split, file), AV_OK);
  char *text = taken(file);
  if (comm.rank == 0) {
    assert_fact(text, "genes", "1 used of 1 in the file (all)");
    assert_fact(text, "non-zeros", "0 (0.000 % of cells x genes), 0.0 a cell");
    assert_fact(text, "batches", "none ([data] batch_key is not set)");
    assert_null(strstr(text, "labels"));
    cJSON *record = event_of("warning");
    if (comm.size == 1) {
      assert_null(record);
    } else {
      char want[100];
      snprintf(want, sizeof want, "%d of %d ranks own no cells (1 shards): fewer ranks would do",
               comm.size - 1, comm.size);
      assert_string_equal(cJSON_GetObjectItem(record, "text")->valuestring, want);
    }
    cJSON_Delete(record);
  }
  free(text);
  av_dataset_free(&dataset);
  av_config_free(&config);
}

static void model(void **unused) {
  (void)unused;
  av_config config = {0};
  assert_int_equal(av_config_defaults(&config), AV_OK);
  config.model.linear_decoder = true;
  config.model.gene_likelihood = AV_LIKELIHOOD_NB;
  config.model.use_observed_lib_size = false;
  const av_model_facts facts = {.n_genes = 2000,
                                .n_batches = 2,
                                .n_parameters = 1234567,
                                .bytes = 15 << 20,
                                .n_epochs = 400,
                                .n_steps = 97};
  FILE *file = tmpfile();
  assert_non_null(file);
  assert_int_equal(av_report_model(&comm, &config, &facts, file), AV_OK);
  char *text = taken(file);
  if (comm.rank == 0) {
    assert_fact(text, "model",
                "LDVAE: 2,000 genes, 128 hidden x 1 layer, 10 latent, linear decoder");
    assert_fact(text, "counts", "nb, gene dispersion, latent library size, 2 batches");
    assert_null(strstr(text, "restarts"));
    assert_fact(text, "parameters", "1,234,567 (15.0 MiB a rank with gradients and optimizer)");
    assert_fact(text, "fit",
                "400 epochs of 97 steps with 128 cells, lr 0.001, KL warm-up 400 epochs, seed 0");
    cJSON *record = event_of("model");
    assert_true(number_of(record, "parameters") == 1234567 && number_of(record, "lr") == 0.001);
    assert_string_equal(cJSON_GetObjectItem(record, "gene_likelihood")->valuestring, "nb");
    cJSON_Delete(record);
  }
  free(text);
  av_config_free(&config);
}

/* Restarts, size factors, and a loaded model whose encoders stay. */
static void model_of_restarts(void **unused) {
  (void)unused;
  av_config config = {0};
  assert_int_equal(av_config_defaults(&config), AV_OK);
  config.model.gene_likelihood = AV_LIKELIHOOD_ZINB;
  config.model.dispersion = AV_DISPERSION_GENE_CELL;
  config.train.n_restarts = 5;
  config.train.seed = 11;
  config.train.update_only_decoder = true;
  set_text(&config.data.size_factor_key, "sizes");
  const av_model_facts facts = {.n_genes = 10, .n_batches = 1, .n_epochs = 1, .n_steps = 1};
  FILE *file = tmpfile();
  assert_non_null(file);
  assert_int_equal(av_report_model(&comm, &config, &facts, file), AV_OK);
  char *text = taken(file);
  if (comm.rank == 0) {
    assert_fact(text, "counts", "zinb, gene-cell dispersion, given size factors, 1 batch");
    assert_fact(text, "fit",
                "1 epoch of 1 step with 128 cells, lr 0.001, KL warm-up 400 epochs, seed 11, the "
                "decoder only");
    assert_fact(text, "restarts",
                "5 fits, seeds 11 to 15; the one with the least negative ELBO is kept");
    cJSON *record = event_of("model");
    assert_true(number_of(record, "restarts") == 5 && number_of(record, "seed") == 11);
    assert_string_equal(cJSON_GetObjectItem(record, "library")->valuestring, "given");
    cJSON_Delete(record);
  }
  free(text);
  av_config_free(&config);
}

static void outputs(void **unused) {
  (void)unused;
  char there[160];
  char missing[160];
  snprintf(there, sizeof there, "%s/out.h5ad", folder);
  snprintf(missing, sizeof missing, "%s/gone.h5", folder);
  if (comm.rank == 0) {
    FILE *written = fopen(there, "w");
    assert_true(written != NULL && fputs("12345", written) >= 0 && fclose(written) == 0);
  }
  const av_output_file files[2] = {{"results", there}, {"model", missing}};
  FILE *file = tmpfile();
  assert_non_null(file);
  assert_int_equal(av_report_outputs(&comm, 2, files, file), AV_OK);
  char *text = taken(file);
  if (comm.rank == 0) {
    char want[200];
    snprintf(want, sizeof want, "%s (5 bytes)", there);
    assert_fact(text, "results", want);
    snprintf(want, sizeof want, "%s (size unknown)", missing);
    assert_fact(text, "model", want);
    unlink(there);
  }
  free(text);
}

/* The closing table: a phase of known seconds on each rank. */
static void phases_table(void **unused) {
  (void)unused;
  av_phases phases;
  av_phases_begin(&phases);
  phases.began -= 10;
  av_phase_start(&phases, "train");
  av_phase_start(&phases, "first layer");
  av_phase_stop(&phases, "first layer");
  av_phase_stop(&phases, "train");
  phases.phase[0].seconds = 2 + comm.rank;
  phases.phase[0].peak = (int64_t)(comm.rank + 1) << 30;
  phases.phase[1].seconds = 1;
  phases.phase[1].peak = 1 << 20;
  FILE *file = tmpfile();
  assert_non_null(file);
  assert_int_equal(av_report_phases(&comm, &phases, file), AV_OK);
  char *text = taken(file);
  if (comm.rank == 0) {
    const double n = comm.size;
    char pattern[400];
    snprintf(pattern, sizeof pattern,
             "\n  train +2\\.00 +%.2f +%.2f +[0-9]{2}\\.[0-9] +1024\\.0 +%.1f +%.1f\n"
             "    first layer +1\\.00 +1\\.00 +1\\.00 +[0-9]+\\.[0-9] +1\\.0 +1\\.0 +1\\.0\n"
             "  other .*\n  all .* 100\\.0 .*\n$",
             1.5 + n / 2, 1 + n, 512 * (n + 1), 1024 * n);
    regex_t regex;
    assert_int_equal(regcomp(&regex, pattern, REG_EXTENDED | REG_NOSUB), 0);
    if (regexec(&regex, text, 0, NULL, 0) != 0) {
      fail_msg("%s\ndoes not match %s", text, pattern);
    }
    regfree(&regex);
    /* columns line up: every row of the table with memory is as wide as its heading */
    const char *heading = strstr(text, "\n  phase ");
    const char *row = strstr(text, "\n  train ");
    assert_true(heading != NULL && row != NULL);
    assert_int_equal(strcspn(heading + 1, "\n"), strcspn(row + 1, "\n"));
    cJSON *record = event_of("phase"); /* the last */
    assert_string_equal(cJSON_GetObjectItem(record, "name")->valuestring, "first layer");
    assert_true(number_of(record, "seconds_mean") == 1 && number_of(record, "depth") == 1);
    cJSON_Delete(record);
    record = event_of("end");
    assert_true(number_of(record, "seconds") >= 10 && number_of(record, "seconds") < 15);
    cJSON_Delete(record);
  }
  free(text);
}

static void figures(void **unused) {
  (void)unused;
  static const struct {
    int64_t n;
    const char *text;
  } counts[] = {{0, "0"},        {999, "999"},
                {1000, "1,000"}, {-1234567, "-1,234,567"},
                {-123, "-123"},  {INT64_MAX, "9,223,372,036,854,775,807"}};
  static const struct {
    double n;
    const char *text;
  } bytes[] = {{0, "0 bytes"},    {1023, "1023 bytes"}, {1024, "1.0 KiB"},
               {1536, "1.5 KiB"}, {1048575, "1.0 MiB"}, {1e15, "909.5 TiB"}},
    clocks[] = {{0, "0:00:00"}, {59.6, "0:01:00"},  {3725, "1:02:05"},      {360000, "100:00:00"},
                {-1, "?"},      {(double)NAN, "?"}, {(double)INFINITY, "?"}};
  static const struct {
    const char *name, *text;
  } names[] = {{"caf\xc3\xa9", "caf\xc3\xa9"},
               {"a\tb\nc\x7f", "a?b?c?"},
               {"\xc2\x9b"
                "31m",
                "??31m"},
               {"\xc2\xb5", "\xc2\xb5"}};
  av_figure figure;
  for (size_t i = 0; i < sizeof counts / sizeof counts[0]; ++i) {
    assert_string_equal(av_count_text(&figure, counts[i].n), counts[i].text);
  }
  for (size_t i = 0; i < sizeof bytes / sizeof bytes[0]; ++i) {
    assert_string_equal(av_bytes_text(&figure, bytes[i].n), bytes[i].text);
  }
  for (size_t i = 0; i < sizeof clocks / sizeof clocks[0]; ++i) {
    assert_string_equal(av_clock_text(&figure, clocks[i].n), clocks[i].text);
  }
  for (size_t i = 0; i < sizeof names / sizeof names[0]; ++i) {
    char *name = av_printable(names[i].name);
    assert_string_equal(name, names[i].text);
    free(name);
  }
}

/* Ten steps in which rank r counts r + 1 times as much; means over the ranks, by hand. Returns what
 * was printed. */
static char *communicate(bool queued, const char *timed) {
  const double mean = (comm.size + 1) / 2.0;
  const int64_t times = comm.rank + 1;
  const av_traffic traffic = {.operations = 20 * times,
                              .bytes = 10240 * times,
                              .seconds = 0.01 * (double)times,
                              .ahead = queued ? 0 : 0.03 * (double)times,
                              .waited = queued ? 0 : 0.01 * (double)times,
                              .queued = queued};
  FILE *out = tmpfile();
  assert_int_equal(av_report_communication(&comm, 10, 0.1, &traffic, out), AV_OK);
  if (comm.rank == 0) {
    cJSON *record = event_of("communication");
    assert_string_equal(cJSON_GetObjectItem(record, "timed")->valuestring, timed);
    assert_true(fabs(number_of(record, "seconds_mean") - 1e-3 * mean) < 1e-9);
    assert_int_equal(cJSON_IsNull(cJSON_GetObjectItem(record, "ahead_seconds")), queued);
    assert_int_equal(cJSON_IsNull(cJSON_GetObjectItem(record, "waited_seconds")), queued);
    cJSON_Delete(record);
  }
  char *text = taken(out);
  assert_int_equal(text[0] != '\0', comm.rank == 0 && comm.size > 1);
  return text;
}

static void communication(void **unused) {
  (void)unused;
  char *text = communicate(false, "operations");
  if (text[0] != '\0') {
    assert_non_null(strstr(text, ": 75.0 % overlapped\n"));
    assert_null(strstr(text, "queueing"));
  }
  free(text);
}

/* Nothing is said of what was not measured. */
static void communication_queued(void **unused) {
  (void)unused;
  char *text = communicate(true, "queueing");
  if (text[0] != '\0') {
    char want[128];
    snprintf(want, sizeof want, "%.3g ms of the host; what the GPUs take is not measured",
             (comm.size + 1) / 2.0);
    assert_fact(text, "queueing", want);
    assert_null(strchr(text, '%'));
    assert_null(strstr(text, "overlapped"));
  }
  free(text);
}

static int fresh_log(void **unused) {
  (void)unused;
  if (comm.rank == 0) {
    unlink(log_path);
  }
  return av_log_open(&comm, log_path) != AV_OK;
}

int main(int argc, char **argv) {
  if (av_comm_create(&comm, &argc, &argv) != AV_OK) {
    return 1;
  }
  snprintf(folder, sizeof folder, "/tmp/atlasvi_report_XXXXXX");
  if ((comm.rank == 0 && mkdtemp(folder) == NULL) ||
      av_bcast(&comm, folder, sizeof folder) != AV_OK) {
    return 1;
  }
  snprintf(log_path, sizeof log_path, "%s/run.jsonl", folder);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(banner, fresh_log),
      cmocka_unit_test_setup(banner_without, fresh_log),
      cmocka_unit_test_setup(input, fresh_log),
      cmocka_unit_test_setup(input_with_covariates, fresh_log),
      cmocka_unit_test_setup(input_of_one_cell, fresh_log),
      cmocka_unit_test_setup(model, fresh_log),
      cmocka_unit_test_setup(model_of_restarts, fresh_log),
      cmocka_unit_test_setup(outputs, fresh_log),
      cmocka_unit_test_setup(communication, fresh_log),
      cmocka_unit_test_setup(communication_queued, fresh_log),
      cmocka_unit_test_setup(phases_table, fresh_log),
      cmocka_unit_test(figures),
  };
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  av_log_close();
  MPI_Barrier(comm.mpi);
  if (comm.rank == 0) {
    unlink(log_path);
    rmdir(folder);
  }
  av_comm_free(&comm);
  return failed;
}
