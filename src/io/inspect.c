/* `atlasvi inspect`: what a file holds, and a [data] section to start from. */
#include "base/memory.h"
#include "io/dataframe.h"
#include "io/h5ad_keys.h"
#include "io/h5ad_read.h"
#include "io/inspect_values.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* What the suggestion needs. */
typedef struct column_note {
  char *name;
  int64_t n_levels;
  int batch_rank; /* position in the list of usual names; -1: none of them, or not usable */
  bool usable;    /* none missing, and 2 to N/10 categories (with a usual name: to N/3) */
  bool label;
} column_note;

typedef struct findings {
  int64_t n_cells;
  char *counts; /* the first matrix that holds counts */
  bool sampled; /* ... as far as a sample shows */
  int64_t n_columns;
  column_note *column;
} findings;

/* Names that batch columns and label columns usually have, likeliest first. */
static const char *const batch_words[] = {
    "batch", "sample", "donor", "patient", "library", "replicate", "orig.ident", "chip",
    "lane",  "plate",  "run",   "dataset", "study",   "subject",   "individual", "experiment"};
static const char *const label_words[] = {"cell_type", "celltype", "cell.type",
                                          "cell type", "label",    "annot",
                                          "cluster",   "leiden",   "louvain"};

/* Position of the first word that occurs in `name` in any case; -1 if none does. */
static int find_word(const char *name, const char *const *words, size_t n) {
  for (size_t i = 0; i < n; ++i) {
    if (strcasestr(name, words[i]) != NULL) {
      return (int)i;
    }
  }
  return -1;
}

/* Prints the recorded error as a remark on one line and clears it. */
static void print_remark(FILE *out, const char *before) {
  char *text = av_strdup(av_error_text());
  if (text != NULL) {
    text[strcspn(text, "\n")] = '\0';
  }
  fprintf(out, "%s%s\n", before, text == NULL ? "" : text);
  free(text);
  av_error_clear();
}

static const char *layout_name(av_matrix_layout layout) {
  static const char *const names[] = {"CSR", "CSC", "dense"};
  return names[layout];
}

static void print_verdict(FILE *out, const av_value_summary *seen) {
  char share[64] = "";
  if (!seen->all) {
    snprintf(share, sizeof share, " (in a sample of %" PRId64 " values)", seen->n_looked);
  }
  if (seen->n_bad > 0) {
    fprintf(out, "not counts: holds %.6g%s\n", seen->first_bad, share);
  } else if (!seen->nonzero) {
    fprintf(out, "only zeros%s\n", share);
  } else {
    fprintf(out, "counts, largest %.15g%s\n", seen->largest, share);
  }
}

static av_status print_matrix(FILE *out, hid_t file, const char *path, const char *link,
                              int name_width, findings *found) {
  av_matrix matrix;
  if (av_matrix_open(&matrix, file, path, link) != AV_OK) {
    fprintf(out, "  %-*s  ", name_width, link);
    print_remark(out, "cannot be read: ");
    return AV_OK;
  }
  char filters[64];
  char shape[64];
  char stored[96];
  hid_t type = H5Dget_type(matrix.data);
  av_h5_filters_text(matrix.data, filters, sizeof filters);
  snprintf(shape, sizeof shape, "%" PRId64 " x %" PRId64, matrix.n_rows, matrix.n_columns);
  const double cells = (double)matrix.n_rows * (double)matrix.n_columns;
  snprintf(stored, sizeof stored, "%" PRId64 " values", matrix.n_stored);
  if (matrix.layout != AV_MATRIX_DENSE && cells > 0) {
    const size_t used = strlen(stored);
    snprintf(stored + used, sizeof stored - used, " (%.1f %%)",
             100 * (double)matrix.n_stored / cells);
  }
  fprintf(out, "  %-*s  %-5s  %-7s  %-14s  %-24s  %-14s  ", name_width, link,
          layout_name(matrix.layout), av_h5_type_name(type), shape, stored, filters);
  av_h5_close(&type);
  av_value_summary seen;
  av_status status = AV_OK;
  if (av_summarise_values(&matrix, &seen) != AV_OK) {
    print_remark(out, "cannot be read: ");
  } else {
    print_verdict(out, &seen);
    if (found->counts == NULL && seen.nonzero && seen.n_bad == 0) {
      found->counts = av_strdup(link);
      found->sampled = !seen.all;
      status = found->counts == NULL ? av_fail(AV_NOMEM, "out of memory") : AV_OK;
    }
  }
  av_matrix_close(&matrix);
  return status;
}

static int widest(const av_names *names) {
  size_t width = 8;
  for (int64_t i = 0; i < names->n; ++i) {
    const size_t length = strlen(names->at[i]);
    width = length > width ? length : width;
  }
  return width < 40 ? (int)width : 40;
}

static av_status print_matrices(FILE *out, hid_t file, const char *path, findings *found) {
  av_names links = {0};
  AV_TRY(av_matrix_list(&links, file, path));
  fprintf(out, "\nmatrices%s\n", links.n == 0 ? ": none" : "");
  av_status status = AV_OK;
  for (int64_t i = 0; i < links.n && status == AV_OK; ++i) {
    status = print_matrix(out, file, path, links.at[i], widest(&links), found);
  }
  av_names_free(&links);
  return status;
}

/* The first few names: at most six, and no more of them than fit about a line. */
static void print_first(FILE *out, const av_names *names) {
  enum { SHOWN = 6, ROOM = 60, LONGEST = 40 };
  int64_t i = 0;
  for (int room = ROOM; i < names->n && i < SHOWN && room > 0; ++i) {
    const int length = (int)strnlen(names->at[i], LONGEST + 1);
    fprintf(out, "%s%.*s%s", i == 0 ? "" : ", ", LONGEST, names->at[i],
            length > LONGEST ? "..." : "");
    room -= length + 2;
  }
  fputs(i < names->n ? ", ..." : "", out);
}

static av_status print_reals(FILE *out, const av_column *column) {
  double *values = NULL;
  AV_TRY(av_element_reals(&column->values, &values));
  double low = INFINITY;
  double high = -INFINITY;
  int64_t n_missing = 0;
  for (int64_t i = 0; i < column->values.n; ++i) {
    low = values[i] < low ? values[i] : low;
    high = values[i] > high ? values[i] : high;
    n_missing += isnan(values[i]) ? 1 : 0;
  }
  free(values);
  fprintf(out, "%-12s ", av_element_type_name(&column->values));
  if (low <= high) {
    fprintf(out, "%.6g to %.6g", low, high);
  }
  if (n_missing > 0) {
    fprintf(out, "%s%" PRId64 " missing", low <= high ? "; " : "", n_missing);
  }
  fputc('\n', out);
  return AV_OK;
}

static av_status print_levels(FILE *out, const av_column *column, column_note *note) {
  av_factor factor;
  AV_TRY(av_column_factor(column, &factor));
  int64_t n_missing = 0;
  for (int64_t i = 0; i < column->values.n; ++i) {
    n_missing += factor.code[i] < 0 ? 1 : 0;
  }
  const bool categorical = column->kind == AV_COLUMN_CATEGORICAL;
  fprintf(out, "%-12s ",
          categorical ? column->ordered ? "ordered" : "categorical"
                      : av_element_type_name(&column->values));
  fprintf(out, "%" PRId64 " %s", factor.levels.n,
          !categorical           ? "different"
          : factor.levels.n == 1 ? "category"
                                 : "categories");
  if (factor.levels.n > 0) {
    fputs(": ", out);
    print_first(out, &factor.levels);
  }
  if (n_missing > 0) {
    fprintf(out, "; %" PRId64 " missing", n_missing);
  }
  fputc('\n', out);
  note->n_levels = factor.levels.n;
  note->usable = n_missing == 0 && factor.levels.n >= 2 &&
                 factor.levels.n <= column->values.n / (note->batch_rank < 0 ? 10 : 3);
  av_names_free(&factor.levels);
  free(factor.code);
  return AV_OK;
}

/* One line for a column; what cannot be read is said there, and is no error of the file. */
static void print_column(FILE *out, const av_frame *frame, const char *name, int width,
                         column_note *note) {
  fprintf(out, "  %-*s  ", width, name);
  av_column column;
  if (av_column_open(&column, frame, name) != AV_OK) {
    print_remark(out, "cannot be used: ");
    return;
  }
  const bool reals = column.kind != AV_COLUMN_CATEGORICAL && column.values.kind == AV_ELEMENT_REAL;
  if ((reals ? print_reals(out, &column) : print_levels(out, &column, note)) != AV_OK) {
    print_remark(out, "cannot be used: ");
  }
  av_column_close(&column);
}

static av_status note_name(column_note *note, const char *name) {
  note->label = find_word(name, label_words, sizeof label_words / sizeof *label_words) >= 0;
  note->batch_rank =
      note->label ? -1 : find_word(name, batch_words, sizeof batch_words / sizeof *batch_words);
  note->name = av_strdup(name);
  return note->name == NULL ? av_fail(AV_NOMEM, "out of memory (column %s)", name) : AV_OK;
}

static av_status print_frame(FILE *out, hid_t file, const char *path, const char *link,
                             findings *found) {
  av_frame frame;
  av_names names = {0};
  AV_TRY(av_frame_open(&frame, file, path, link));
  av_status status = AV_OK;
  AV_GO(status, av_frame_names(&frame, &names), done);
  fprintf(out, "\n%s: %" PRId64 " rows (", link, frame.n_rows);
  print_first(out, &names);
  fprintf(out, "), %" PRId64 " column%s\n", frame.columns.n, frame.columns.n == 1 ? "" : "s");
  column_note unused = {0};
  if (found != NULL) {
    found->n_cells = frame.n_rows;
    found->column = av_calloc((size_t)frame.columns.n, sizeof *found->column);
    if (found->column == NULL) {
      AV_GO(status, av_fail(AV_NOMEM, "out of memory (%s)", frame.what), done);
    }
  }
  for (int64_t i = 0; i < frame.columns.n; ++i) {
    const char *name = frame.columns.at[i];
    column_note *note = found == NULL ? &unused : &found->column[i];
    if (found != NULL) {
      AV_GO(status, note_name(note, name), done);
      found->n_columns = i + 1;
    }
    print_column(out, &frame, name, widest(&frame.columns), note);
  }
done:
  av_names_free(&names);
  av_frame_close(&frame);
  return status;
}

/* The shape of a dataset as "1000 x 50"; "" for anything else. */
static void shape_text(hid_t group, const char *name, char *text, size_t room) {
  text[0] = '\0';
  hid_t object = H5Oopen(group, name, H5P_DEFAULT);
  hid_t space = object >= 0 && H5Iget_type(object) == H5I_DATASET ? H5Dget_space(object) : -1;
  hsize_t size[H5S_MAX_RANK] = {0};
  const int n = space < 0 ? 0 : H5Sget_simple_extent_dims(space, size, NULL);
  size_t used = 0;
  for (int i = 0; i < n && used < room; ++i) {
    used += (size_t)snprintf(text + used, room - used, "%s%" PRIu64, i == 0 ? " (" : " x ",
                             (uint64_t)size[i]);
  }
  if (n > 0 && used < room) {
    snprintf(text + used, room - used, ")");
  }
  av_h5_close(&space);
  av_h5_close(&object);
}

typedef struct list_printer {
  FILE *out;
  bool shapes;
  int64_t n;
} list_printer;

static herr_t print_member(hid_t group, const char *name, const H5L_info_t *info, void *context) {
  (void)info;
  list_printer *list = context;
  char shape[128] = "";
  if (list->shapes) {
    shape_text(group, name, shape, sizeof shape);
  }
  fprintf(list->out, "%s%s%s", list->n++ == 0 ? "" : ", ", name, shape);
  return 0;
}

/* One line with the members of a mapping (or of an old compound table). */
static av_status print_mapping(FILE *out, hid_t file, const char *link, bool shapes) {
  bool exists = false;
  AV_TRY(av_h5_exists(file, link, &exists));
  if (!exists) {
    return AV_OK;
  }
  hid_t object = -1;
  fprintf(out, "%-5s ", link);
  if (av_h5_open_object(&object, file, link, link) != AV_OK) {
    print_remark(out, "cannot be read: ");
    return AV_OK;
  }
  list_printer list = {.out = out, .shapes = shapes};
  if (H5Iget_type(object) == H5I_GROUP) {
    hsize_t at = 0;
    const herr_t done = H5Literate(object, H5_INDEX_NAME, H5_ITER_INC, &at, print_member, &list);
    fprintf(out, "%s\n", done < 0 ? " (cannot be listed)" : list.n == 0 ? "empty" : "");
  } else {
    hid_t type = H5Dget_type(object);
    const int n = type >= 0 && H5Tget_class(type) == H5T_COMPOUND ? H5Tget_nmembers(type) : 0;
    for (int i = 0; i < n; ++i) {
      char *name = H5Tget_member_name(type, (unsigned)i);
      fprintf(out, "%s%s", i == 0 ? "" : ", ", name == NULL ? "?" : name);
      H5free_memory(name);
    }
    fprintf(out, "%s\n", n == 0 ? "empty" : " (one table, as anndata 0.6 and older wrote)");
    av_h5_close(&type);
  }
  av_h5_close(&object);
  return AV_OK;
}

/* The column that is likeliest to be the batch: a usual name first, then the fewest categories. */
static const column_note *likely_batch(const findings *found) {
  const column_note *best = NULL;
  for (int64_t i = 0; i < found->n_columns; ++i) {
    const column_note *note = &found->column[i];
    if (note->usable && note->batch_rank >= 0 &&
        (best == NULL || note->batch_rank < best->batch_rank)) {
      best = note;
    }
  }
  return best;
}

static void print_suggestion(FILE *out, const char *path, const findings *found) {
  fprintf(out, "\nA [data] section to start from:\n\n[data]\ninput = %s\n", path);
  if (found->counts != NULL) {
    fprintf(out, "%scounts = %s\n",
            found->sampled ? "# judged by a sample; a run looks at every value\n" : "",
            found->counts);
  } else {
    fprintf(out, "# no matrix of this file holds raw counts\n# counts =\n");
  }
  const column_note *batch = likely_batch(found);
  if (batch != NULL) {
    fprintf(out, "batch_key = %s\n", batch->name);
  }
  int64_t n_others = 0;
  for (int64_t i = 0; i < found->n_columns; ++i) {
    const column_note *note = &found->column[i];
    if (note->usable && !note->label && note != batch) {
      fprintf(out, "%s%s (%" PRId64 ")",
              n_others++ > 0  ? ", "
              : batch == NULL ? "# batch_key =      # could be: "
                              : "# other columns that could be the batch: ",
              note->name, note->n_levels);
    }
  }
  if (n_others > 0) {
    fputc('\n', out);
  } else if (batch == NULL) {
    fputs("# batch_key =      # no column looks like one\n", out);
  }
  for (int64_t i = 0; i < found->n_columns; ++i) {
    if (found->column[i].label && found->column[i].n_levels > 1) {
      fprintf(out, "labels_key = %s\n", found->column[i].name);
      break;
    }
  }
}

/* Who wrote it, from the marks of each version. */
static av_status print_head(FILE *out, hid_t file, const char *path) {
  char *encoding = NULL;
  char *encoder = NULL;
  hid_t obs = -1;
  struct stat info = {0};
  av_status status = AV_OK;
  AV_GO(status, av_h5_attribute_text(file, AV_H5AD_ENCODING_TYPE, &encoding), done);
  AV_GO(status, av_h5_attribute_text(file, "encoder", &encoder), done);
  AV_GO(status, av_h5_open_object(&obs, file, AV_H5AD_OBS, path), done);
  const bool old = H5Iget_type(obs) == H5I_DATASET;
  const double bytes = stat(path, &info) == 0 ? (double)info.st_size : 0;
  fprintf(out, "%s: %.1f MB, layout of anndata %s%s%s\n", path, bytes / 1e6,
          encoding != NULL ? "0.8 and later"
          : old            ? "0.6 and older"
                           : "0.7",
          encoder != NULL ? ", written by " : "", encoder != NULL ? encoder : "");
done:
  av_h5_close(&obs);
  free(encoder);
  free(encoding);
  return status;
}

static av_status print_all(FILE *out, hid_t file, const char *path, findings *found) {
  AV_TRY(print_head(out, file, path));
  AV_TRY(print_matrices(out, file, path, found));
  AV_TRY(print_frame(out, file, path, AV_H5AD_OBS, found));
  AV_TRY(print_frame(out, file, path, AV_H5AD_VAR, NULL));
  const char *raw = NULL;
  AV_TRY(av_frame_raw_var(file, &raw));
  if (raw != NULL) {
    AV_TRY(print_frame(out, file, path, raw, NULL));
  }
  fputc('\n', out);
  AV_TRY(print_mapping(out, file, AV_H5AD_OBSM, true));
  AV_TRY(print_mapping(out, file, AV_H5AD_VARM, true));
  AV_TRY(print_mapping(out, file, AV_H5AD_UNS, false));
  print_suggestion(out, path, found);
  return fflush(out) == 0 && !ferror(out) ? AV_OK : av_fail(AV_IOERR, "cannot write the report");
}

av_status av_h5ad_inspect(const char *path, FILE *out) {
  hid_t file = -1;
  findings found = {0};
  AV_TRY(av_h5_open_input(&file, path));
  const av_status status = print_all(out, file, path, &found);
  for (int64_t i = 0; i < found.n_columns; ++i) {
    free(found.column[i].name);
  }
  free(found.column);
  free(found.counts);
  av_h5_close(&file);
  return status;
}
