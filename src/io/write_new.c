/* A new file (results mode): obs and var from the input in today's encodings, and empty mappings.
 */
#include "base/log.h"
#include "base/memory.h"
#include "io/h5ad_keys.h"
#include "io/h5ad_put.h"
#include "io/held_column.h"
#include "io/writer.h"

#include <stdio.h>
#include <string.h>

/* Which rows of the input's table become rows of ours, and under which names. */
typedef struct row_choice {
  int64_t n;
  const int64_t *row;    /* NULL: all, as they are */
  const av_names *names; /* NULL: the table's own */
} row_choice;

/* Columns that could not be taken over, for one warning. */
typedef struct left_out {
  int64_t n;
  char text[2048];
} left_out;

/* Takes the recorded error as the reason why a column is left out. */
static void leave_out(left_out *list) {
  const size_t used = strlen(list->text);
  const int length = (int)strcspn(av_error_text(), "\n");
  snprintf(list->text + used, sizeof list->text - used, "%s%.*s", list->n == 0 ? "" : "; ", length,
           av_error_text());
  list->n += 1;
  av_error_clear();
}

/* Fails if HDF5 could not make a link of this name inside the group of a table. */
static av_status check_link(const av_frame *frame, const char *name) {
  const size_t stem = strcspn(name, "/");
  bool clash = false; /* "a/b" beside "a" */
  for (int64_t i = 0; i < frame->columns.n; ++i) {
    clash = clash || (name[stem] == '/' && strlen(frame->columns.at[i]) == stem &&
                      strncmp(frame->columns.at[i], name, stem) == 0);
  }
  if (stem == 0 || strcmp(name, ".") == 0 || strcmp(name, AV_H5AD_INDEX) == 0 || clash) {
    return av_fail(AV_BADDATA, "%s: \"%s\" cannot be the name of a column", frame->what, name);
  }
  return AV_OK;
}

/* Reads one column; AV_OK with *taken = false if it has to be left out. */
static av_status hold_column(av_held *held, const av_frame *frame, const char *name,
                             const row_choice *rows, left_out *list, bool *taken) {
  av_column column;
  *held = (av_held){.type = -1};
  av_status status = check_link(frame, name);
  if (status == AV_OK) {
    status = av_column_open(&column, frame, name);
  }
  if (status == AV_OK) {
    status = av_held_read(held, &column);
    av_column_close(&column);
  }
  *taken = status == AV_OK;
  if (status == AV_BADDATA || status == AV_IOERR) {
    leave_out(list);
    status = AV_OK;
  }
  if (*taken && rows->row != NULL) {
    status = av_held_select(held, rows->n, rows->row);
  }
  if (status != AV_OK || !*taken) {
    av_held_free(held);
  }
  return status;
}

static av_status remember_link(av_writer *writer, const char *frame, const char *link) {
  char *path = av_format("%s/%s", frame, link);
  AV_TRY_ALLOC(path);
  const av_written entry = {.link = path, .n_dims = -1};
  const av_status status = av_writer_remember(writer, &entry);
  free(path);
  return status;
}

/* Columns are first written into a group without their list, since only then it is known which
 * could be read; `kept` receives their names (borrowed from the frame). */
static av_status copy_columns(av_writer *writer, const av_frame *frame, hid_t group,
                              const char *index, const row_choice *rows, const char **kept,
                              int64_t *n_kept) {
  left_out list = {0};
  av_status status = AV_OK;
  for (int64_t i = 0; i < frame->columns.n && status == AV_OK; ++i) {
    const char *name = frame->columns.at[i];
    if (strcmp(name, index) == 0) {
      kept[(*n_kept)++] = name; /* the row names, listed as a column too: written already */
      continue;
    }
    av_held held;
    bool taken = false;
    status = hold_column(&held, frame, name, rows, &list, &taken);
    if (status != AV_OK || !taken) {
      continue;
    }
    char *what = av_format("%s: %s/%s", writer->file.path, frame->link, name);
    status = what == NULL ? av_fail(AV_NOMEM, "out of memory (%s)", name)
                          : av_held_write(&held, group, name, what);
    free(what);
    av_held_free(&held);
    if (status == AV_OK) {
      kept[(*n_kept)++] = name;
      status = remember_link(writer, frame->link, name);
    }
    status = av_safe_file_failed(&writer->file, status);
  }
  if (list.n > 0) {
    av_warn("%s: columns of %s left out of the output: %s", writer->file.path, frame->link,
            list.text);
  }
  return status;
}

static av_status put_names(av_writer *writer, const av_frame *frame, hid_t group, const char *index,
                           const row_choice *rows) {
  av_names own = {0};
  if (rows->names == NULL) {
    AV_TRY(av_frame_names(frame, &own));
  }
  const av_names *names = rows->names == NULL ? &own : rows->names;
  char *what = av_format("%s: %s/%s", writer->file.path, frame->link, index);
  av_status status =
      what == NULL ? av_fail(AV_NOMEM, "out of memory (%s)", index)
                   : av_put_strings(group, index, names->n, (const char *const *)names->at, what);
  free(what);
  if (status == AV_OK) {
    char *link = av_format("%s/%s", frame->link, index);
    const av_written entry = {.link = link, .n_dims = 1, .dims = {(hsize_t)rows->n}};
    status = link == NULL ? av_fail(AV_NOMEM, "out of memory (%s)", index)
                          : av_writer_remember(writer, &entry);
    free(link);
  }
  av_names_free(&own);
  return status;
}

/* Are the rows that were chosen when the input was read still there? */
static av_status check_rows(const av_frame *frame, const row_choice *rows) {
  bool same = rows->row != NULL || frame->n_rows == rows->n;
  for (int64_t i = 0; rows->row != NULL && i < rows->n; ++i) {
    same = same && rows->row[i] < frame->n_rows;
  }
  return same ? AV_OK
              : av_fail(AV_IOERR, "%s: has %lld rows now: the file was changed during the run",
                        frame->what, (long long)frame->n_rows);
}

static av_status copy_frame(av_writer *writer, hid_t input, const char *link,
                            const row_choice *rows) {
  av_frame frame;
  AV_TRY(av_frame_open(&frame, input, writer->dataset->input_path, link));
  hid_t group = -1;
  int64_t n_kept = 0;
  /* compound tables name their index member anyhow: anndata would take that for the index's name */
  const char *index = frame.compound ? AV_H5AD_INDEX : frame.index;
  const char **kept = av_calloc((size_t)frame.columns.n, sizeof *kept);
  av_status status = AV_OK;
  if (kept == NULL) {
    AV_GO(status, av_fail(AV_NOMEM, "out of memory (%s)", frame.what), done);
  }
  AV_GO(status, check_rows(&frame, rows), done);
  AV_GO(status, av_put_frame_group(&group, writer->h5, link, frame.columns.n, frame.what), done);
  AV_GO(status, put_names(writer, &frame, group, index, rows), done);
  AV_GO(status, copy_columns(writer, &frame, group, index, rows, kept, &n_kept), done);
  AV_GO(status, av_put_frame_tags(group, index, n_kept, kept, frame.what), done);

done:
  av_h5_close(&group);
  free(kept);
  av_frame_close(&frame);
  return status;
}

static av_status put_dict(av_writer *writer, const char *link) {
  hid_t group = -1;
  const av_status status =
      av_put_group(&group, writer->h5, link, AV_H5AD_ENC_DICT, AV_H5AD_VERSION_1, link);
  av_h5_close(&group);
  return status;
}

av_status av_writer_new_content(av_writer *writer) {
  static const char *const mappings[] = {AV_H5AD_OBSM, AV_H5AD_VARM,   AV_H5AD_OBSP,
                                         AV_H5AD_VARP, AV_H5AD_LAYERS, AV_H5AD_UNS};
  const av_dataset *dataset = writer->dataset;
  const row_choice cells = {.n = dataset->n_cells};
  const row_choice genes = {
      .n = dataset->n_genes, .row = dataset->gene_var, .names = &dataset->genes};
  hid_t input = -1;
  AV_TRY(av_h5_open_input(&input, dataset->input_path));
  av_status status = AV_OK;
  AV_GO(status, av_put_tags(writer->h5, AV_H5AD_ENC_ANNDATA, AV_H5AD_VERSION_1, writer->file.path),
        done);
  AV_GO(status, copy_frame(writer, input, AV_H5AD_OBS, &cells), done);
  AV_GO(status, copy_frame(writer, input, AV_H5AD_VAR, &genes), done);
  for (size_t i = 0; i < sizeof mappings / sizeof mappings[0]; ++i) {
    AV_GO(status, put_dict(writer, mappings[i]), done);
  }
  writer->n_var = dataset->n_genes;

done:
  av_h5_close(&input);
  return status;
}
