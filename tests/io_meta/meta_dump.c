/* Reads commands from standard input, one a line, words separated by tabs; prints one JSON line
 * each:
 *
 *   meta KEY=VALUE ...    av_h5ad_read_metadata with these settings
 *   read KEY=VALUE ...    av_h5ad_read; "ranks": what each rank holds of the cells
 *   names FILE LINK       av_h5_read_strings
 *   factor FILE FRAME COLUMN, flags FILE FRAME COLUMN, numbers FILE FRAME COLUMN
 *   exists FILE LINK, parallel FILE, inspect FILE
 *
 * {"status": code, "error": text, "warnings": text, ...}. Every rank runs each command; rank 0
 * prints.
 */
#include "base/memory.h"
#include "config/config.h"
#include "io/dataframe.h"
#include "io/h5ad_read.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST_WORDS = 32 };

static cJSON *strings_json(const av_names *names) {
  cJSON *list = cJSON_CreateArray();
  for (int64_t i = 0; i < names->n; ++i) {
    cJSON_AddItemToArray(list, cJSON_CreateString(names->at[i]));
  }
  return list;
}

/* One number for each of n values of `size` bytes; null without values. */
#define NUMBERS_JSON(values, n) numbers_json((values), (int64_t)(n), sizeof *(values))
static cJSON *numbers_json(const void *values, int64_t n, size_t size) {
  if (values == NULL) {
    return cJSON_CreateNull();
  }
  cJSON *list = cJSON_CreateArray();
  for (int64_t i = 0; i < n; ++i) {
    double value = 0;
    if (size == 1) {
      value = ((const int8_t *)values)[i];
    } else if (size == 4) {
      value = ((const int32_t *)values)[i];
    } else {
      value = (double)((const int64_t *)values)[i];
    }
    cJSON_AddItemToArray(list, cJSON_CreateNumber(value));
  }
  return list;
}

static cJSON *doubles_json(const double *values, int64_t n) {
  if (values == NULL) {
    return cJSON_CreateNull();
  }
  cJSON *list = cJSON_CreateArray();
  for (int64_t i = 0; i < n; ++i) { /* NaN becomes null */
    cJSON_AddItemToArray(list, cJSON_CreateNumber(values[i]));
  }
  return list;
}

/* Covariates and size factors of the cells that this rank holds. */
static void add_covariates(cJSON *out, const av_dataset *d) {
  cJSON_AddItemToObject(out, "categorical_names", strings_json(&d->categorical_names));
  cJSON_AddItemToObject(out, "continuous_names", strings_json(&d->continuous_names));
  cJSON *levels = cJSON_AddArrayToObject(out, "categorical_levels");
  cJSON *codes = cJSON_AddArrayToObject(out, "categorical");
  for (int64_t c = 0; c < d->n_categorical; ++c) {
    cJSON_AddItemToArray(levels, strings_json(&d->categorical[c].levels));
    cJSON_AddItemToArray(codes, NUMBERS_JSON(d->categorical[c].code, d->n_local));
  }
  cJSON_AddItemToObject(out, "continuous",
                        doubles_json(d->continuous, d->n_local * d->n_continuous));
  cJSON_AddItemToObject(out, "size_factor", doubles_json(d->size_factor, d->n_local));
}

static void add_dataset(cJSON *out, const av_dataset *d, const av_input_plan *plan) {
  char checksum[32];
  snprintf(checksum, sizeof checksum, "%016llx", (unsigned long long)d->names_checksum);
  cJSON_AddNumberToObject(out, "layout", plan->layout);
  cJSON_AddNumberToObject(out, "n_cells", (double)d->n_cells);
  cJSON_AddNumberToObject(out, "n_file_genes", (double)d->n_file_genes);
  cJSON_AddNumberToObject(out, "n_genes", (double)d->n_genes);
  cJSON_AddNumberToObject(out, "n_stored", (double)plan->n_stored);
  cJSON_AddNumberToObject(out, "stored_bytes", (double)plan->stored_bytes);
  cJSON_AddNumberToObject(out, "n_local", (double)d->n_local);
  cJSON_AddNumberToObject(out, "input_bytes", (double)d->input_bytes);
  cJSON_AddStringToObject(out, "input_path", d->input_path);
  cJSON_AddStringToObject(out, "checksum", checksum);
  cJSON_AddBoolToObject(out, "has_batch", d->has_batch);
  cJSON_AddItemToObject(out, "genes", strings_json(&d->genes));
  cJSON_AddItemToObject(out, "gene_column", NUMBERS_JSON(d->gene_column, d->n_genes));
  cJSON_AddItemToObject(out, "gene_var", NUMBERS_JSON(d->gene_var, d->n_genes));
  cJSON_AddItemToObject(out, "batch_levels", strings_json(&d->batch.levels));
  cJSON_AddItemToObject(out, "batch", NUMBERS_JSON(d->batch.code, d->n_local));
  cJSON_AddItemToObject(out, "label_levels", strings_json(&d->label.levels));
  cJSON_AddItemToObject(out, "label", NUMBERS_JSON(d->label.code, d->n_local));
  cJSON_AddItemToObject(out, "split", NUMBERS_JSON(d->split, d->n_local));
  add_covariates(out, d);
  cJSON *weights = cJSON_AddArrayToObject(out, "weights");
  const int64_t n_shards = plan->shard_weight == NULL ? 0 : av_shard_count(d->n_cells);
  for (int64_t i = 0; i < n_shards; ++i) {
    cJSON_AddItemToArray(weights, cJSON_CreateNumber(plan->shard_weight[i]));
  }
}

/* What rank 0 holds, and under "last" what the last rank holds. */
static av_status run_meta(const av_comm *comm, int n, char **words, cJSON *out) {
  av_config config = {0};
  av_dataset dataset = {0};
  av_input_plan plan = {0};
  av_status status = AV_OK;
  AV_GO(status, av_config_defaults(&config), done);
  AV_GO(status, av_config_parse(&config, NULL, "", n, words), done);
  AV_GO(status, av_h5ad_read_metadata(comm, &config, &dataset, &plan), done);
  add_dataset(out, &dataset, &plan);
  if (comm->size > 1) {
    char *text = cJSON_PrintUnformatted(out);
    int length = (int)strlen(text) + 1;
    const int last = comm->size - 1;
    if (comm->rank == last) {
      MPI_Send(text, length, MPI_CHAR, 0, 0, comm->mpi);
    } else if (comm->rank == 0) {
      MPI_Status probe;
      MPI_Probe(last, 0, comm->mpi, &probe);
      MPI_Get_count(&probe, MPI_CHAR, &length);
      char *other = av_calloc((size_t)length, 1);
      MPI_Recv(other, length, MPI_CHAR, last, 0, comm->mpi, MPI_STATUS_IGNORE);
      cJSON_AddItemToObject(out, "last", cJSON_Parse(other));
      free(other);
    }
    cJSON_free(text);
  }
done:
  av_dataset_free(&dataset);
  av_input_plan_free(&plan);
  av_config_free(&config);
  return status;
}

/* Every rank's part of the cells, in rank order, to rank 0. */
static av_status run_read(const av_comm *comm, int n, char **words, cJSON *out) {
  av_config config = {0};
  av_dataset d = {0};
  av_status status = AV_OK;
  AV_GO(status, av_config_defaults(&config), done);
  AV_GO(status, av_config_parse(&config, NULL, "", n, words), done);
  AV_GO(status, av_h5ad_read(comm, &config, 1, &d), done);
  cJSON *mine = cJSON_CreateObject();
  cJSON_AddNumberToObject(mine, "first", (double)d.first);
  cJSON_AddNumberToObject(mine, "n_local", (double)d.n_local);
  cJSON_AddItemToObject(mine, "batch", NUMBERS_JSON(d.batch.code, d.n_local));
  cJSON_AddItemToObject(mine, "label", NUMBERS_JSON(d.label.code, d.n_local));
  add_covariates(mine, &d);
  const av_design *design = &d.design;
  cJSON_AddItemToObject(mine, "design_first", NUMBERS_JSON(design->first, design->n_factors + 1));
  cJSON_AddItemToObject(mine, "design_column",
                        NUMBERS_JSON(design->column, d.n_local * design->n_factors));
  cJSON_AddItemToObject(mine, "design_continuous",
                        doubles_json(design->continuous, d.n_local * design->n_continuous));
  if (comm->rank == 0) {
    cJSON *all = cJSON_AddArrayToObject(out, "ranks");
    cJSON_AddItemToArray(all, mine);
    for (int rank = 1; rank < comm->size; ++rank) {
      MPI_Status probe;
      int length = 0;
      MPI_Probe(rank, 1, comm->mpi, &probe);
      MPI_Get_count(&probe, MPI_CHAR, &length);
      char *text = av_calloc((size_t)length, 1);
      MPI_Recv(text, length, MPI_CHAR, rank, 1, comm->mpi, MPI_STATUS_IGNORE);
      cJSON_AddItemToArray(all, cJSON_Parse(text));
      free(text);
    }
  } else {
    char *text = cJSON_PrintUnformatted(mine);
    MPI_Send(text, (int)strlen(text) + 1, MPI_CHAR, 0, 1, comm->mpi);
    cJSON_free(text);
    cJSON_Delete(mine);
  }
done:
  av_dataset_free(&d);
  av_config_free(&config);
  return status;
}

static av_status run_names(hid_t file, char **words, cJSON *out) {
  av_names names = {0};
  unsigned char *missing = NULL;
  AV_TRY(av_h5_read_strings(file, words[1], words[1], &names, &missing));
  cJSON_AddItemToObject(out, "names", strings_json(&names));
  cJSON_AddItemToObject(out, "missing", NUMBERS_JSON(missing, names.n));
  av_names_free(&names);
  free(missing);
  return AV_OK;
}

static av_status run_column(hid_t file, const char *command, char **words, cJSON *out) {
  av_frame frame;
  av_factor factor = {0};
  unsigned char *flags = NULL;
  double *numbers = NULL;
  AV_TRY(av_frame_open(&frame, file, words[0], words[1]));
  av_status status = AV_OK;
  if (strcmp(command, "factor") == 0) {
    status = av_frame_factor(&frame, words[2], &factor);
  } else if (strcmp(command, "numbers") == 0) {
    status = av_frame_numbers(&frame, words[2], &numbers);
  } else {
    status = av_frame_flags(&frame, words[2], &flags);
  }
  if (status == AV_OK) {
    cJSON_AddItemToObject(out, "columns", strings_json(&frame.columns));
    cJSON_AddItemToObject(out, "levels", strings_json(&factor.levels));
    cJSON_AddItemToObject(out, "codes", NUMBERS_JSON(factor.code, frame.n_rows));
    cJSON_AddItemToObject(out, "flags", NUMBERS_JSON(flags, frame.n_rows));
    cJSON_AddItemToObject(out, "numbers", doubles_json(numbers, frame.n_rows));
  }
  free(numbers);
  free(flags);
  free(factor.code);
  av_names_free(&factor.levels);
  av_frame_close(&frame);
  return status;
}

static av_status run_exists(hid_t file, char **words, cJSON *out) {
  bool exists = false;
  AV_TRY(av_h5_exists(file, words[1], &exists));
  cJSON_AddBoolToObject(out, "exists", exists);
  return AV_OK;
}

static av_status run_inspect(const char *path, cJSON *out) {
  char *text = NULL;
  size_t size = 0;
  FILE *stream = open_memstream(&text, &size);
  const av_status status =
      stream == NULL ? av_fail(AV_NOMEM, "no stream") : av_h5ad_inspect(path, stream);
  if (stream != NULL) {
    fclose(stream);
  }
  if (text != NULL) {
    cJSON_AddStringToObject(out, "text", text);
  }
  free(text);
  return status;
}

static av_status run_command(const av_comm *comm, int n, char **words, cJSON *out) {
  const char *command = words[0];
  if (strcmp(command, "meta") == 0) {
    return run_meta(comm, n - 1, words + 1, out);
  }
  if (strcmp(command, "read") == 0) {
    return run_read(comm, n - 1, words + 1, out);
  }
  hid_t file = -1;
  if (strcmp(command, "parallel") == 0 && n == 2) {
    AV_TRY(av_h5_open_parallel(&file, comm, words[1]));
    av_h5_close(&file);
    return AV_OK;
  }
  if (strcmp(command, "inspect") == 0 && n == 2) {
    return run_inspect(words[1], out);
  }
  if (n < 3 || n > 4) {
    return av_fail(AV_USAGE, "unknown command");
  }
  AV_TRY(av_h5_open_input(&file, words[1]));
  av_status status = AV_OK;
  if (strcmp(command, "names") == 0) {
    status = run_names(file, words + 1, out);
  } else if (strcmp(command, "exists") == 0) {
    status = run_exists(file, words + 1, out);
  } else if (n == 4) {
    status = run_column(file, command, words + 1, out);
  } else {
    status = av_fail(AV_USAGE, "unknown command");
  }
  av_h5_close(&file);
  return status;
}

/* Standard error of one command goes to a temporary file and from there into the reply. */
static void add_warnings(FILE *captured, cJSON *out) {
  char text[8192];
  fflush(stderr);
  rewind(captured);
  const size_t n = fread(text, 1, sizeof text - 1, captured);
  text[n] = '\0';
  cJSON_AddStringToObject(out, "warnings", text);
}

/* HDF5 identifiers of all kinds that are open. */
static int64_t count_open(void) {
  static const H5I_type_t kinds[] = {H5I_FILE,    H5I_GROUP, H5I_DATATYPE,   H5I_DATASPACE,
                                     H5I_DATASET, H5I_ATTR,  H5I_GENPROP_LST};
  int64_t n = 0;
  for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; ++i) {
    hsize_t open = 0;
    H5Inmembers(kinds[i], &open);
    n += (int64_t)open;
  }
  return n;
}

static void answer(const av_comm *comm, char *line) {
  char *words[MOST_WORDS];
  int n = 0;
  for (char *word = strtok(line, "\t\n"); word != NULL && n < MOST_WORDS;
       word = strtok(NULL, "\t\n")) {
    words[n++] = word;
  }
  if (n == 0) {
    return;
  }
  cJSON *out = cJSON_CreateObject();
  FILE *captured = tmpfile();
  const int kept = dup(STDERR_FILENO);
  if (captured == NULL || kept < 0 || dup2(fileno(captured), STDERR_FILENO) < 0) {
    av_comm_abort(comm, AV_IOERR);
  }
  const int64_t n_open = count_open();
  const av_status status = run_command(comm, n, words, out);
  cJSON_AddNumberToObject(out, "left_open", (double)(count_open() - n_open));
  add_warnings(captured, out);
  dup2(kept, STDERR_FILENO);
  close(kept);
  fclose(captured);
  cJSON_AddNumberToObject(out, "status", status);
  cJSON_AddStringToObject(out, "error", av_error_text());
  av_error_clear();
  if (comm->rank == 0) {
    char *text = cJSON_PrintUnformatted(out);
    printf("%s\n", text);
    fflush(stdout);
    cJSON_free(text);
  }
  cJSON_Delete(out);
}

int main(int argc, char **argv) {
  av_comm comm;
  if (av_comm_create(&comm, &argc, &argv) != AV_OK || av_h5_init() != AV_OK ||
      av_h5_init() != AV_OK) {
    av_error_print();
    return 1;
  }
  for (;;) {
    char *line = NULL;
    size_t room = 0;
    if (comm.rank == 0 && getline(&line, &room, stdin) < 0) {
      free(line);
      line = NULL;
    }
    if (av_bcast_text(&comm, &line) != AV_OK || line == NULL) {
      break;
    }
    answer(&comm, line);
    free(line);
  }
  H5close();
  av_comm_free(&comm);
  return 0;
}
