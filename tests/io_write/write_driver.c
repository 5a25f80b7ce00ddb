/* Writes an output as a run would, with values that a script can predict:
 *
 *   write_driver ACTION section.key=value ... [name=value ...]
 *
 * ACTION: preflight, results (everything) or model. Further names:
 *   bytes=N              runs the preflight first, for N bytes
 *   genes=all|some|raw   genes used: all of var; every third, backwards; all of raw/var
 *   wide=N               also obsm/X_wide with N columns, so that there are several rounds
 *   fail_rank=R fail_row=I  the fill of X_wide fails on rank R at its local row I, ...
 *   fail_begin=1         ... when it is begun, not when it is ended
 *   slow=MS              writes beside the main thread take so much longer; a dataset closed
 *                        meanwhile aborts
 *   limit=BYTES          longest file that may be written (set after MPI has made its own)
 *   discard=1            discards in place of committing
 * Values: X_scvi[n, k] = n + k / 16; denoised[n, g] = n + g / 256, NaN where (n + g) % 97 = 0;
 * sample_rate = -denoised; loadings[g, k] = g - k; intercept[g] = g / 4; wide[n, j] = n * 1000 + j.
 */
#include "base/log.h"
#include "base/memory.h"
#include "io/dataframe.h"
#include "io/h5ad_keys.h"
#include "io/h5ad_write.h"
#include "io/model_file.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { N_LATENT = 3, N_BATCHES = 4, N_EPOCHS = 2 };

typedef struct driver {
  const char *action, *genes;
  int64_t bytes, wide, fail_rank, fail_row, limit;
  bool discard, fail_begin;
  av_comm comm;
  av_config config;
  av_dataset dataset;
} driver;

/* ---- the library's calls, watched: HDF5 and a thread may not use a file at once ---------------
 */

static struct {
  int64_t slow; /* ms; 0: nothing is watched */
  pthread_t main;
  atomic_int writing;
} watched;

ssize_t __real_pwrite(int descriptor, const void *data, size_t bytes, off_t at);
ssize_t __wrap_pwrite(int descriptor, const void *data, size_t bytes, off_t at);
herr_t __real_H5Dclose(hid_t dataset);
herr_t __wrap_H5Dclose(hid_t dataset);

ssize_t __wrap_pwrite(int descriptor, const void *data, size_t bytes, off_t at) {
  if (watched.slow == 0 || pthread_equal(pthread_self(), watched.main)) {
    return __real_pwrite(descriptor, data, bytes, at);
  }
  const struct timespec pause = {.tv_nsec = (long)watched.slow * 1000000};
  atomic_fetch_add(&watched.writing, 1);
  nanosleep(&pause, NULL);
  const ssize_t n = __real_pwrite(descriptor, data, bytes, at);
  atomic_fetch_sub(&watched.writing, 1);
  return n;
}

herr_t __wrap_H5Dclose(hid_t dataset) {
  if (atomic_load(&watched.writing) > 0) {
    fputs("a dataset is closed while a thread writes to its file\n", stderr);
    abort();
  }
  return __real_H5Dclose(dataset);
}

/* The value of NAME=VALUE if `argument` is that; else NULL. */
static const char *value_of(const char *argument, const char *name) {
  const size_t n = strlen(name);
  return strncmp(argument, name, n) == 0 && argument[n] == '=' ? argument + n + 1 : NULL;
}

static int64_t number_of(const char *argument, const char *name, int64_t otherwise) {
  const char *value = value_of(argument, name);
  return value == NULL ? otherwise : strtoll(value, NULL, 10);
}

static av_status read_arguments(driver *d, int argc, char **argv) {
  char **overrides = av_calloc((size_t)argc, sizeof *overrides);
  AV_TRY_ALLOC(overrides);
  int n = 0;
  d->action = argc > 1 ? argv[1] : "";
  d->genes = "all";
  d->fail_rank = -1;
  for (int i = 2; i < argc; ++i) {
    d->genes = value_of(argv[i], "genes") != NULL ? value_of(argv[i], "genes") : d->genes;
    d->bytes = number_of(argv[i], "bytes", d->bytes);
    d->wide = number_of(argv[i], "wide", d->wide);
    d->fail_rank = number_of(argv[i], "fail_rank", d->fail_rank);
    d->fail_row = number_of(argv[i], "fail_row", d->fail_row);
    d->fail_begin = number_of(argv[i], "fail_begin", d->fail_begin) != 0;
    d->limit = number_of(argv[i], "limit", d->limit);
    watched.slow = number_of(argv[i], "slow", watched.slow);
    d->discard = number_of(argv[i], "discard", d->discard) != 0;
    if (strchr(argv[i], '.') != NULL && strcspn(argv[i], ".") < strcspn(argv[i], "=")) {
      overrides[n++] = argv[i];
    }
  }
  av_status status = av_config_defaults(&d->config);
  if (status == AV_OK) {
    status = av_config_parse(&d->config, NULL, "", n, overrides);
  }
  free(overrides);
  return status;
}

/* ---- a data set without counts ----------------------------------------------------------------
 */

static av_status choose_genes(driver *d, hid_t file, av_names *var) {
  av_dataset *data = &d->dataset;
  av_names raw = {0};
  av_frame frame;
  const bool use_raw = strcmp(d->genes, "raw") == 0;
  if (use_raw) {
    AV_TRY(av_frame_open(&frame, file, d->config.data.input, AV_H5AD_RAW_VAR));
    AV_TRY(av_frame_names(&frame, &raw));
    av_frame_close(&frame);
  }
  const av_names *all = use_raw ? &raw : var;
  const bool some = strcmp(d->genes, "some") == 0;
  data->n_genes = some ? (all->n + 2) / 3 : all->n;
  const char **names = av_calloc((size_t)data->n_genes, sizeof *names);
  data->gene_var = av_calloc((size_t)data->n_genes, sizeof *data->gene_var);
  av_name_index *index = NULL;
  AV_TRY_ALLOC(names);
  AV_TRY_ALLOC(data->gene_var);
  AV_TRY(av_name_index_create(&index, var));
  for (int64_t g = 0; g < data->n_genes; ++g) {
    names[g] = all->at[some ? 3 * (data->n_genes - 1 - g) : g];
    data->gene_var[g] = av_name_index_find(index, names[g]);
  }
  av_name_index_free(&index);
  const av_status status = av_names_copy(&data->genes, data->n_genes, names);
  free(names);
  av_names_free(&raw);
  return status;
}

/* Every rank opens the file by itself: this is a test. */
static av_status make_dataset(driver *d) {
  av_dataset *data = &d->dataset;
  hid_t file = -1;
  av_frame frame;
  av_names var = {0};
  struct stat facts;
  AV_TRY(av_h5_open_input(&file, d->config.data.input));
  AV_TRY(av_frame_open(&frame, file, d->config.data.input, AV_H5AD_OBS));
  data->n_cells = frame.n_rows;
  av_frame_close(&frame);
  AV_TRY(av_frame_open(&frame, file, d->config.data.input, AV_H5AD_VAR));
  AV_TRY(av_frame_names(&frame, &var));
  av_frame_close(&frame);
  AV_TRY(choose_genes(d, file, &var));
  av_names_free(&var);
  av_h5_close(&file);
  if (stat(d->config.data.input, &facts) != 0) {
    return AV_NOINPUT;
  }
  data->input_path = av_strdup(d->config.data.input);
  data->input_bytes = (int64_t)facts.st_size;
  AV_TRY(av_partition_create(&data->partition, data->n_cells, d->comm.size, NULL));
  data->first = av_rank_first(&data->partition, d->comm.rank);
  data->n_local = av_rank_first(&data->partition, d->comm.rank + 1) - data->first;
  return AV_OK;
}

/* ---- contents ---------------------------------------------------------------------------------
 */

static av_status fill_latent(void *context, int64_t first, int64_t n, void *to) {
  const driver *d = context;
  float *out = to;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t k = 0; k < N_LATENT; ++k) {
      out[i * N_LATENT + k] = (float)(d->dataset.first + first + i) + (float)k / 16;
    }
  }
  return AV_OK;
}

/* One half of the rows or the other: 0, 2, ... or 1, 3, ... */
static void fill_pair(const driver *d, int64_t first, int64_t n, int64_t half, float *out) {
  const int64_t n_genes = d->dataset.n_genes;
  for (int64_t i = half; i < n; i += 2) {
    const int64_t cell = d->dataset.first + first + i;
    for (int64_t g = 0; g < n_genes; ++g) {
      const float value = (cell + g) % 97 == 0 ? NAN : (float)cell + (float)g / 256;
      out[i * n_genes + g] = value;
      out[(n + i) * n_genes + g] = -value;
    }
  }
}

static void fill_wide(const driver *d, int64_t first, int64_t n, int64_t half, float *out) {
  for (int64_t i = half; i < n; i += 2) {
    for (int64_t j = 0; j < d->wide; ++j) {
      out[i * d->wide + j] = (float)((d->dataset.first + first + i) * 1000 + j);
    }
  }
}

/* Rows of which one half is made when they are begun, and the other as late as it may be: when they
 * are ended. */
typedef struct late {
  const driver *d;
  void (*fill)(const driver *d, int64_t first, int64_t n, int64_t half, float *out);
  bool fails;
  int64_t next; /* row */
  int begun;
  struct {
    int64_t first, n;
    float *out;
  } rows[AV_ROW_CALLS];
} late;

static av_status fill_failed(const late *of, int64_t end) {
  const driver *d = of->d;
  return of->fails && d->comm.rank == d->fail_rank && end > d->fail_row
             ? av_fail(AV_NUMERIC, "fill failed on rank %d at row %lld", d->comm.rank,
                       (long long)d->fail_row)
             : AV_OK;
}

static av_status begin_late(void *context, int64_t first, int64_t n, void *out) {
  late *of = context;
  if (of->begun == AV_ROW_CALLS || first != of->next || n <= 0) {
    return AV_FAIL_BUG("rows %lld, beside %d calls", (long long)first, of->begun);
  }
  AV_TRY(of->d->fail_begin ? fill_failed(of, first + n) : AV_OK);
  of->next = first + n;
  of->rows[of->begun].first = first;
  of->rows[of->begun].n = n;
  of->rows[of->begun].out = out;
  ++of->begun;
  of->fill(of->d, first, n, 0, out);
  return AV_OK;
}

static av_status end_late(void *context) {
  late *of = context;
  const int64_t end = of->rows[0].first + of->rows[0].n;
  const bool last = end == of->d->dataset.n_local;
  if (of->begun != (last ? 1 : AV_ROW_CALLS)) { /* the rows after these have been begun */
    return AV_FAIL_BUG("rows to %lld end beside %d calls", (long long)end, of->begun);
  }
  AV_TRY(fill_failed(of, end));
  of->fill(of->d, of->rows[0].first, of->rows[0].n, 1, of->rows[0].out);
  of->rows[0] = of->rows[1];
  --of->begun;
  return AV_OK;
}

static av_status write_loadings(const driver *d, av_writer *writer) {
  static const char *const factors[N_LATENT] = {"Z_0", "Z_1", "Z_2"};
  static const char *const batches[N_BATCHES] = {"ctrl/1", "ctrl_1", "stim", ""};
  const int64_t n = d->dataset.n_genes;
  double *by_column = av_calloc((size_t)n, N_BATCHES * sizeof *by_column);
  double *by_row = av_calloc((size_t)n, N_LATENT * sizeof *by_row);
  double *intercept = av_calloc((size_t)n, sizeof *intercept);
  AV_TRY_ALLOC(by_column);
  AV_TRY_ALLOC(by_row);
  AV_TRY_ALLOC(intercept);
  for (int64_t g = 0; g < n; ++g) {
    intercept[g] = (double)g / 4;
    for (int64_t k = 0; k < N_BATCHES; ++k) {
      by_column[k * n + g] = (double)(g - k);
    }
    for (int64_t k = 0; k < N_LATENT; ++k) {
      by_row[g * N_LATENT + k] = (double)(g - k);
    }
  }
  av_table table = {.n_rows = n,
                    .n_columns = N_LATENT,
                    .row_names = (const char *const *)d->dataset.genes.at,
                    .column_names = factors,
                    .values = by_column,
                    .as_float32 = true};
  AV_TRY(av_writer_table(writer, AV_H5AD_LOADINGS, &table));
  table.n_columns = N_BATCHES;
  table.column_names = batches;
  AV_TRY(av_writer_table(writer, AV_H5AD_BATCH_OFFSETS, &table));
  AV_TRY(av_writer_array(writer, AV_H5AD_INTERCEPT, n, 0, intercept, false));
  AV_TRY(av_writer_varm(writer, AV_H5AD_LOADINGS_VARM, N_LATENT, by_row));
  AV_TRY(av_writer_array(writer, "uns/ldvae_square", n, N_LATENT, by_row, true));
  free(by_column);
  free(by_row);
  free(intercept);
  return AV_OK;
}

static av_status write_facts(const driver *d, av_writer *writer) {
  static const char *const columns[] = {"elbo_train", "kl_weight"};
  static const double history[2 * N_EPOCHS] = {300.5, 250.25, 0, 1};
  const av_table table = {
      .n_rows = N_EPOCHS, .n_columns = 2, .column_names = columns, .values = history};
  AV_TRY(av_writer_table(writer, AV_H5AD_OUR_HISTORY, &table));
  AV_TRY(av_writer_strings(writer, AV_H5AD_OUR_GENES, &d->dataset.genes));
  AV_TRY(av_writer_text(writer, AV_H5AD_OUR_SETTINGS, "[model]\nn_latent = 3 ; naïve\n"));
  AV_TRY(av_writer_text(writer, "uns/atlasvi/input/path", d->config.data.input));
  AV_TRY(av_writer_integer(writer, "uns/atlasvi/input/bytes", d->dataset.input_bytes));
  AV_TRY(av_writer_number(writer, "uns/atlasvi/input/share", 0.25));
  int8_t *split = av_calloc((size_t)d->dataset.n_local, 1);
  AV_TRY_ALLOC(split);
  for (int64_t i = 0; i < d->dataset.n_local; ++i) {
    split[i] = (int8_t)((d->dataset.first + i) % 3);
  }
  const av_status status = av_writer_cell_bytes(writer, AV_H5AD_OUR_SPLIT, split);
  free(split);
  return status;
}

static av_status fill_output(driver *d, av_writer *writer) {
  late pair = {.d = d, .fill = fill_pair};
  late wide = {.d = d, .fill = fill_wide, .fails = true};
  const av_row_source sources[] = {
      {d, fill_latent, NULL}, {&pair, begin_late, end_late}, {&wide, begin_late, end_late}};
  AV_TRY(av_writer_cell_matrix(writer, AV_H5AD_LATENT, N_LATENT, &sources[0]));
  AV_TRY(av_writer_cell_matrix_pair(writer, d->config.output.denoised ? AV_H5AD_DENOISED : NULL,
                                    d->config.output.sample_rate ? AV_H5AD_SAMPLE_RATE : NULL,
                                    d->dataset.n_genes, &sources[1]));
  AV_TRY(write_loadings(d, writer));
  AV_TRY(write_facts(d, writer));
  return d->wide > 0 ? av_writer_cell_matrix(writer, "obsm/X_wide", d->wide, &sources[2]) : AV_OK;
}

static av_status write_results(driver *d) {
  av_writer *writer = NULL;
  AV_TRY(av_writer_create(&writer, &d->comm, &d->config, &d->dataset));
  const av_status status = fill_output(d, writer);
  if (status == AV_OK && !d->discard) {
    return av_writer_commit(&writer);
  }
  av_writer_discard(&writer);
  return status;
}

static av_status write_model(const driver *d) {
  enum { BIG = 300000 };
  double *values = av_calloc(BIG, sizeof *values);
  AV_TRY_ALLOC(values);
  av_named_array array = {
      .name = (char[]){"decoder.weight"}, .n_dims = 2, .shape = {BIG / 3, 3}, .values = values};
  const av_model_file model = {.n_arrays = 1,
                               .arrays = &array,
                               .genes = d->dataset.genes,
                               .settings = (char[]){"[model]\n"},
                               .exact = true};
  const av_status status =
      av_model_file_write(&d->comm, d->config.output.model, d->config.output.overwrite, &model);
  free(values);
  return status;
}

static av_status act(driver *d) {
  const struct rlimit limit = {(rlim_t)d->limit, (rlim_t)d->limit};
  if (d->limit > 0 && setrlimit(RLIMIT_FSIZE, &limit) != 0) {
    return av_fail(AV_BUG, "the file-size limit cannot be set");
  }
  if (d->bytes > 0) {
    AV_TRY(av_writer_preflight(&d->comm, &d->config, d->bytes));
  }
  if (strcmp(d->action, "preflight") == 0) {
    return AV_OK;
  }
  AV_TRY(av_agree(&d->comm, make_dataset(d)));
  if (strcmp(d->action, "model") == 0) {
    return write_model(d);
  }
  return write_results(d);
}

int main(int argc, char **argv) {
  driver d = {0};
  watched.main = pthread_self();
  av_status status = av_comm_create(&d.comm, &argc, &argv);
  if (status == AV_OK) {
    status = av_h5_init();
  }
  if (status == AV_OK) {
    status = av_log_open(&d.comm, NULL);
  }
  if (status == AV_OK) {
    status = av_agree(&d.comm, read_arguments(&d, argc, argv));
  }
  if (status == AV_OK) {
    status = act(&d);
  }
  if (status != AV_OK && d.comm.rank == 0) {
    av_error_print();
  }
  av_dataset_free(&d.dataset);
  av_config_free(&d.config);
  av_log_close();
  av_comm_free(&d.comm);
  return (int)status;
}
