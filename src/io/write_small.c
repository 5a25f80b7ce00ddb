/* Small elements of the output: their content is rank 0's. */
#include "base/log.h"
#include "base/memory.h"
#include "io/h5.h"
#include "io/h5ad_keys.h"
#include "io/h5ad_put.h"
#include "io/writer.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Every call ends here: the HDF5 status of rank 0, or the driver's, becomes everybody's. */
static av_status finish(av_writer *writer, av_status status) {
  return av_agree(writer->comm,
                  writer->comm->rank == 0 ? av_safe_file_failed(&writer->file, status) : AV_OK);
}

/* Writes doubles as float32 or float64, remembered with their checksum; n_columns = 0 is one
 * dimension. `values` is row-major. */
static av_status put_doubles(av_writer *writer, const char *link, int64_t n_rows, int64_t n_columns,
                             const double *values, bool as_float32) {
  const hsize_t dims[2] = {(hsize_t)n_rows, (hsize_t)n_columns};
  const int n_dims = n_columns == 0 ? 1 : 2;
  const int64_t n = n_rows * (n_columns == 0 ? 1 : n_columns);
  const size_t width = as_float32 ? sizeof(float) : sizeof(double);
  av_status status = AV_OK;
  float *narrow = NULL;
  char *what = av_writer_what(writer, link);
  AV_TRY_ALLOC(what);
  if (as_float32) {
    narrow = av_calloc((size_t)n, sizeof *narrow);
    if (narrow == NULL) {
      AV_GO(status, av_fail(AV_NOMEM, "out of memory (%s)", what), done);
    }
    for (int64_t i = 0; i < n; ++i) {
      narrow[i] = (float)values[i];
    }
  }
  const void *stored = as_float32 ? (const void *)narrow : values;
  AV_GO(status,
        av_put_numbers(writer->h5, link, n_dims, dims, as_float32 ? H5T_IEEE_F32LE : H5T_IEEE_F64LE,
                       as_float32 ? H5T_NATIVE_FLOAT : H5T_NATIVE_DOUBLE, stored, what),
        done);
  const int64_t row_bytes = (n_columns == 0 ? 1 : n_columns) * (int64_t)width;
  const av_written entry = {.link = (char *)(uintptr_t)link,
                            .n_dims = n_dims,
                            .dims = {dims[0], dims[1]},
                            .checksummed = true,
                            .checksum = av_checksum(0, stored, n * (int64_t)width),
                            .block_rows = av_block_rows(row_bytes, 1)};
  status = av_writer_remember(writer, &entry);

done:
  free(narrow);
  free(what);
  return status;
}

static av_status remember_shape(av_writer *writer, const char *link, int n_dims, int64_t n) {
  const av_written entry = {
      .link = (char *)(uintptr_t)link, .n_dims = n_dims, .dims = {(hsize_t)n}};
  return av_writer_remember(writer, &entry);
}

/* ---- tables -----------------------------------------------------------------------------------
 */

static bool is_among(const char *name, int64_t n, const char *const *names) {
  for (int64_t i = 0; i < n; ++i) {
    if (strcmp(names[i], name) == 0) {
      return true;
    }
  }
  return false;
}

static bool is_legal(const char *name) {
  return name[0] != '\0' && strchr(name, '/') == NULL && strcmp(name, ".") != 0 &&
         strcmp(name, AV_H5AD_INDEX) != 0;
}

/* A name that HDF5 can link for column i: no '/', not "", "." or "_index", none twice. Names that
 * are well stay. Owned; NULL when out of memory. */
static char *link_name(const av_table *table, int64_t i) {
  const char *name = table->column_names[i];
  if (is_legal(name) && !is_among(name, i, table->column_names)) {
    return av_strdup(name);
  }
  char *stem = av_strdup(name[0] == '\0' || strcmp(name, ".") == 0 ? "_" : name);
  for (char *c = stem; c != NULL && *c != '\0'; ++c) {
    *c = *c == '/' ? '_' : *c;
  }
  return stem;
}

/* Appends a number to made[i] until no other column has that name. */
static av_status make_unique(const av_table *table, char **made, int64_t i) {
  const bool changed = strcmp(made[i], table->column_names[i]) != 0;
  char *stem = made[i];
  const char *const *before = (const char *const *)made;
  for (int k = 1;
       made[i] != NULL && (is_among(made[i], i, before) || strcmp(made[i], AV_H5AD_INDEX) == 0 ||
                           (changed && is_among(made[i], table->n_columns, table->column_names)));
       ++k) {
    if (made[i] != stem) {
      free(made[i]);
    }
    made[i] = av_format("%s_%d", stem, k);
  }
  const bool failed = made[i] == NULL;
  if (made[i] != stem) {
    free(stem);
  }
  return failed ? av_fail(AV_NOMEM, "out of memory (column names)") : AV_OK;
}

static void free_list(int64_t n, char **list) {
  for (int64_t i = 0; list != NULL && i < n; ++i) {
    free(list[i]);
  }
  free(list);
}

/* The links of a table's columns; one warning if some names had to be changed. */
static av_status column_links(const av_table *table, const char *what, char ***links) {
  char **made = av_calloc((size_t)table->n_columns, sizeof *made);
  AV_TRY_ALLOC(made);
  int64_t n_changed = 0;
  int64_t first = 0;
  for (int64_t i = 0; i < table->n_columns; ++i) {
    made[i] = link_name(table, i);
    const av_status status = made[i] == NULL ? av_fail(AV_NOMEM, "out of memory (%s)", what)
                                             : make_unique(table, made, i);
    if (status != AV_OK) {
      free_list(table->n_columns, made);
      return status;
    }
    if (strcmp(made[i], table->column_names[i]) != 0) {
      first = n_changed == 0 ? i : first;
      ++n_changed;
    }
  }
  if (n_changed > 0) {
    av_warn(
        "%s: %lld column names changed, since HDF5 cannot hold them as they are: \"%s\" became "
        "\"%s\"",
        what, (long long)n_changed, table->column_names[first], made[first]);
  }
  *links = made;
  return AV_OK;
}

static av_status put_row_names(av_writer *writer, const char *link, const av_table *table) {
  char *what = av_writer_what(writer, link);
  AV_TRY_ALLOC(what);
  const hsize_t n = (hsize_t)table->n_rows;
  av_status status = AV_OK;
  if (table->row_names != NULL) {
    status = av_put_strings(writer->h5, link, table->n_rows, table->row_names, what);
  } else {
    int64_t *number = av_calloc((size_t)n, sizeof *number);
    for (int64_t i = 0; number != NULL && i < table->n_rows; ++i) {
      number[i] = i;
    }
    status = number == NULL ? av_fail(AV_NOMEM, "out of memory (%s)", what)
                            : av_put_numbers(writer->h5, link, 1, &n, H5T_STD_I64LE,
                                             H5T_NATIVE_INT64, number, what);
    free(number);
  }
  free(what);
  AV_TRY(status);
  return remember_shape(writer, link, 1, table->n_rows);
}

static av_status put_columns(av_writer *writer, const char *link, const av_table *table,
                             char *const *names) {
  for (int64_t j = 0; j < table->n_columns; ++j) {
    char *path = av_format("%s/%s", link, names[j]);
    AV_TRY_ALLOC(path);
    const av_status status = put_doubles(writer, path, table->n_rows, 0,
                                         table->values + j * table->n_rows, table->as_float32);
    free(path);
    AV_TRY(status);
  }
  return AV_OK;
}

static av_status put_table(av_writer *writer, const char *link, const av_table *table) {
  hid_t group = -1;
  char **names = NULL;
  av_status status = AV_OK;
  char *what = av_writer_what(writer, link);
  char *index = av_format("%s/%s", link, AV_H5AD_INDEX);
  if (what == NULL || index == NULL) {
    AV_GO(status, av_fail(AV_NOMEM, "out of memory (%s)", link), done);
  }
  AV_GO(status, av_writer_prepare(writer, link), done);
  AV_GO(status, column_links(table, what, &names), done);
  AV_GO(status, av_put_frame_group(&group, writer->h5, link, table->n_columns, what), done);
  AV_GO(status,
        av_put_frame_tags(group, AV_H5AD_INDEX, table->n_columns, (const char *const *)names, what),
        done);
  AV_GO(status, put_row_names(writer, index, table), done);
  AV_GO(status, put_columns(writer, link, table, names), done);

done:
  av_h5_close(&group);
  free_list(table->n_columns, names);
  free(index);
  free(what);
  return status;
}

av_status av_writer_table(av_writer *writer, const char *link, const av_table *table) {
  return finish(writer, writer->comm->rank == 0 ? put_table(writer, link, table) : AV_OK);
}

/* ---- arrays, scalars, text --------------------------------------------------------------------
 */

static av_status put_array(av_writer *writer, const char *link, int64_t n_rows, int64_t n_columns,
                           const double *values, bool as_float32) {
  AV_TRY(av_writer_prepare(writer, link));
  return put_doubles(writer, link, n_rows, n_columns, values, as_float32);
}

av_status av_writer_array(av_writer *writer, const char *link, int64_t n_rows, int64_t n_columns,
                          const double *values, bool as_float32) {
  return finish(writer, writer->comm->rank == 0
                            ? put_array(writer, link, n_rows, n_columns, values, as_float32)
                            : AV_OK);
}

static av_status put_scalar(av_writer *writer, const char *link, hid_t stored, hid_t memory,
                            const void *value) {
  AV_TRY(av_writer_prepare(writer, link));
  char *what = av_writer_what(writer, link);
  AV_TRY_ALLOC(what);
  const av_status status = av_put_numbers(writer->h5, link, 0, NULL, stored, memory, value, what);
  free(what);
  AV_TRY(status);
  return remember_shape(writer, link, 0, 0);
}

av_status av_writer_number(av_writer *writer, const char *link, double value) {
  return finish(writer, writer->comm->rank == 0
                            ? put_scalar(writer, link, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, &value)
                            : AV_OK);
}

av_status av_writer_integer(av_writer *writer, const char *link, int64_t value) {
  return finish(writer, writer->comm->rank == 0
                            ? put_scalar(writer, link, H5T_STD_I64LE, H5T_NATIVE_INT64, &value)
                            : AV_OK);
}

static av_status put_text(av_writer *writer, const char *link, const char *text) {
  AV_TRY(av_writer_prepare(writer, link));
  char *what = av_writer_what(writer, link);
  AV_TRY_ALLOC(what);
  const av_status status = av_put_text(writer->h5, link, text, what);
  free(what);
  AV_TRY(status);
  return remember_shape(writer, link, 0, 0);
}

av_status av_writer_text(av_writer *writer, const char *link, const char *text) {
  return finish(writer, writer->comm->rank == 0 ? put_text(writer, link, text) : AV_OK);
}

static av_status put_strings(av_writer *writer, const char *link, const av_names *names) {
  AV_TRY(av_writer_prepare(writer, link));
  char *what = av_writer_what(writer, link);
  AV_TRY_ALLOC(what);
  const av_status status =
      av_put_strings(writer->h5, link, names->n, (const char *const *)names->at, what);
  free(what);
  AV_TRY(status);
  return remember_shape(writer, link, 1, names->n);
}

av_status av_writer_strings(av_writer *writer, const char *link, const av_names *names) {
  return finish(writer, writer->comm->rank == 0 ? put_strings(writer, link, names) : AV_OK);
}

/* ---- varm -------------------------------------------------------------------------------------
 */

static av_status put_varm(av_writer *writer, const char *link, int64_t n_columns,
                          const double *values) {
  const av_dataset *dataset = writer->dataset;
  const bool all_used = writer->config->output.mode == AV_OUTPUT_RESULTS;
  double *rows = av_malloc((size_t)writer->n_var, (size_t)n_columns * sizeof *rows);
  AV_TRY_ALLOC(rows);
  for (int64_t i = 0; i < writer->n_var * n_columns; ++i) {
    rows[i] = (double)NAN;
  }
  for (int64_t g = 0; g < dataset->n_genes; ++g) {
    const int64_t row = all_used ? g : dataset->gene_var[g];
    if (row >= 0) {
      memcpy(rows + row * n_columns, values + g * n_columns, (size_t)n_columns * sizeof *rows);
    }
  }
  const av_status status = put_array(writer, link, writer->n_var, n_columns, rows, true);
  free(rows);
  return status;
}

av_status av_writer_varm(av_writer *writer, const char *link, int64_t n_columns,
                         const double *values) {
  return finish(writer,
                writer->comm->rank == 0 ? put_varm(writer, link, n_columns, values) : AV_OK);
}
