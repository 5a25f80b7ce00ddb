#include "io/genes.h"

#include "base/log.h"
#include "base/memory.h"
#include "io/dataframe.h"
#include "io/h5ad_keys.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* A table of genes, its names and how to find them. */
typedef struct gene_table {
  av_frame frame;
  av_names names;
  av_name_index *index;
  unsigned char *repeats; /* (names.n) nonzero at the first of several equal names */
} gene_table;

static gene_table no_table(void) { return (gene_table){.frame = {.file = -1, .object = -1}}; }

static void close_table(gene_table *table) {
  free(table->repeats);
  av_name_index_free(&table->index);
  av_names_free(&table->names);
  av_frame_close(&table->frame);
}

static av_status open_table(gene_table *table, hid_t file, const char *path, const char *link) {
  AV_TRY(av_frame_open(&table->frame, file, path, link));
  AV_TRY(av_frame_names(&table->frame, &table->names));
  AV_TRY(av_name_index_create(&table->index, &table->names));
  table->repeats = av_calloc((size_t)table->names.n, 1);
  AV_TRY_ALLOC(table->repeats);
  int64_t n_repeats = 0;
  for (int64_t i = 0; i < table->names.n; ++i) {
    const int64_t first = av_name_index_find(table->index, table->names.at[i]);
    if (first != i) {
      table->repeats[first] = 1;
      ++n_repeats;
    }
  }
  if (n_repeats > 0) {
    av_warn("%s: %" PRId64 " of %" PRId64
            " gene names repeat an earlier one (first: \"%s\"); "
            "names that repeat cannot be used to choose genes",
            table->frame.what, n_repeats, table->names.n, av_name_index_duplicate(table->index));
  }
  return AV_OK;
}

static av_status check_unique(const gene_table *table, int64_t position, const char *what) {
  if (table->repeats[position] == 0) {
    return AV_OK;
  }
  return av_fail(AV_BADDATA,
                 "%s: gene \"%s\" occurs more than once in %s, so its name does not say which one; "
                 "make the names unique (anndata: var_names_make_unique) or give 0-based indices",
                 what, table->names.at[position], table->frame.what);
}

/* The rows chosen from a table, in order. */
typedef struct choice {
  int64_t n;
  int64_t *row;
} choice;

static bool parse_index(const char *text, int64_t *value) {
  char *end = NULL;
  if (text[0] == '\0' || strspn(text, "+-0123456789") != strlen(text)) {
    return false;
  }
  errno = 0;
  *value = strtoll(text, &end, 10);
  return errno == 0 && *end == '\0' && end != text;
}

/* Every entry is an integer and none is the name of a gene. */
static bool are_indices(const av_name_list *list, const gene_table *table) {
  for (int64_t i = 0; i < list->n; ++i) {
    int64_t value = 0;
    if (!parse_index(list->at[i], &value) || av_name_index_find(table->index, list->at[i]) >= 0) {
      return false;
    }
  }
  return true;
}

/* The gene meant by a name that is not there: equal but for case, or near. */
static const char *nearest_gene(const gene_table *table, const char *name) {
  for (int64_t i = 0; i < table->names.n; ++i) {
    if (strcasecmp(table->names.at[i], name) == 0) {
      return table->names.at[i];
    }
  }
  return av_nearest(name, table->names.n, (const char *const *)table->names.at);
}

/* One line that lists the entries of `list` that are not genes. */
static av_status fail_absent(const av_name_list *list, const gene_table *table, const char *where) {
  enum { LISTED = 20 };
  char text[2048] = "";
  size_t used = 0;
  int64_t n_absent = 0;
  const char *first = NULL;
  for (int64_t i = 0; i < list->n; ++i) {
    if (av_name_index_find(table->index, list->at[i]) >= 0) {
      continue;
    }
    first = first == NULL ? list->at[i] : first;
    if (n_absent++ < LISTED && used < sizeof text) {
      used += (size_t)snprintf(text + used, sizeof text - used, "%s%s", used == 0 ? "" : ", ",
                               list->at[i]);
    }
  }
  char more[64] = "";
  if (n_absent > LISTED) {
    snprintf(more, sizeof more, " and %" PRId64 " more", n_absent - LISTED);
  }
  char hint[512] = "";
  const char *near = nearest_gene(table, first);
  if (near != NULL) {
    snprintf(hint, sizeof hint, "; did you mean \"%s\" for \"%s\"?", near, first);
  } else if (table->names.n > 0) {
    snprintf(hint, sizeof hint, "; its names look like \"%s\"", table->names.at[0]);
  }
  return av_fail(AV_CONFIG, "%s: %" PRId64 " of %" PRId64 " genes are not in %s: %s%s%s", where,
                 n_absent, list->n, table->frame.what, text, more, hint);
}

/* Rows of the listed names or indices in the matrix's table. */
static av_status choose_listed(const av_name_list *list, const gene_table *table, const char *where,
                               choice *chosen) {
  const bool indices = are_indices(list, table);
  unsigned char *taken = av_calloc((size_t)table->names.n, 1);
  chosen->row = av_malloc((size_t)list->n, sizeof *chosen->row);
  chosen->n = list->n;
  av_status status = taken == NULL || chosen->row == NULL
                         ? av_fail(AV_NOMEM, "out of memory (%" PRId64 " genes)", list->n)
                         : AV_OK;
  for (int64_t i = 0; i < list->n && status == AV_OK; ++i) {
    int64_t row = -1;
    if (!indices) {
      row = av_name_index_find(table->index, list->at[i]);
      status = row < 0 ? fail_absent(list, table, where) : check_unique(table, row, where);
    } else if (!parse_index(list->at[i], &row) || row < 0 || row >= table->names.n) {
      status = av_fail(AV_CONFIG, "%s: index %s is outside 0 to %" PRId64 ", the genes of %s",
                       where, list->at[i], table->names.n - 1, table->frame.what);
    }
    if (status == AV_OK && taken[row] != 0) {
      status = av_fail(AV_CONFIG, "%s: gene \"%s\" is listed twice", where, list->at[i]);
    }
    if (status == AV_OK) {
      taken[row] = 1;
      chosen->row[i] = row;
    }
  }
  free(taken);
  return status;
}

static av_status choose_all(const gene_table *table, choice *chosen) {
  chosen->n = table->names.n;
  chosen->row = av_malloc((size_t)chosen->n, sizeof *chosen->row);
  AV_TRY_ALLOC(chosen->row);
  for (int64_t i = 0; i < chosen->n; ++i) {
    chosen->row[i] = i;
  }
  return AV_OK;
}

static av_status choose_flagged(const gene_table *table, const char *key, choice *chosen) {
  unsigned char *flags = NULL;
  AV_TRY(av_frame_flags(&table->frame, key, &flags));
  chosen->row = av_malloc((size_t)table->names.n, sizeof *chosen->row);
  if (chosen->row == NULL) {
    free(flags);
    return av_fail(AV_NOMEM, "out of memory (%s)", table->frame.what);
  }
  for (int64_t i = 0; i < table->names.n; ++i) {
    if (flags[i] == AV_FLAG_TRUE) {
      chosen->row[chosen->n++] = i;
    }
  }
  free(flags);
  if (chosen->n == 0) {
    return av_fail(AV_BADDATA,
                   "%s/%s: flags none of the %" PRId64
                   " genes; set use_highly_variable_genes = no "
                   "to use all",
                   table->frame.what, key, table->names.n);
  }
  return AV_OK;
}

/* Genes of `from` (rows `rows`) to rows of `to`, by name; all must be there, once in both. */
static av_status map_by_name(const gene_table *from, const choice *rows, const gene_table *to,
                             int64_t *mapped) {
  for (int64_t i = 0; i < rows->n; ++i) {
    const char *name = from->names.at[rows->row[i]];
    const int64_t row = av_name_index_find(to->index, name);
    if (row < 0) {
      return av_fail(AV_BADDATA, "%s: gene \"%s\", flagged in %s, is not in it", to->frame.what,
                     name, from->frame.what);
    }
    AV_TRY(check_unique(from, av_name_index_find(from->index, name), to->frame.what));
    AV_TRY(check_unique(to, row, to->frame.what));
    mapped[i] = row;
  }
  return AV_OK;
}

static bool same_names(const av_names *a, const av_names *b) {
  bool same = a->n == b->n;
  for (int64_t i = 0; same && i < a->n; ++i) {
    same = strcmp(a->at[i], b->at[i]) == 0;
  }
  return same;
}

/* Row of each gene of raw/var in /var, -1 where there is none or its name does not say which. */
static void find_in_var(const gene_table *raw, const gene_table *var, const choice *columns,
                        int64_t *rows) {
  const bool same = same_names(&raw->names, &var->names);
  for (int64_t i = 0; i < columns->n; ++i) {
    const int64_t column = columns->row[i];
    const char *name = raw->names.at[column];
    const int64_t row = av_name_index_find(var->index, name);
    const bool clear = row >= 0 && var->repeats[row] == 0 &&
                       raw->repeats[av_name_index_find(raw->index, name)] == 0;
    rows[i] = same ? column : clear ? row : -1;
  }
}

/* Was a flag column asked for by a name of the user's own? (Settings that a run wrote down give the
 * default's name as well.) */
static av_status flag_demanded(const av_config *config, bool *demanded) {
  av_config defaults = {0};
  const av_status status = av_config_defaults(&defaults);
  *demanded = status == AV_OK && config->data.highly_variable_key_given &&
              strcmp(config->data.highly_variable_key, defaults.data.highly_variable_key) != 0;
  av_config_free(&defaults);
  return status;
}

/* The flag column exists neither where it is looked for nor was it asked for by name: all genes. */
static av_status flag_absent(const av_config *config, const gene_table *var,
                             const gene_table *table, choice *columns) {
  bool demanded = false;
  AV_TRY(flag_demanded(config, &demanded));
  if (demanded) {
    return av_frame_fail_missing(
        &var->frame, av_config_where(config, "data", "highly_variable_key"),
        config->data.highly_variable_key, "; or list the genes in subset_genes");
  }
  if (config->data.highly_variable_key_given) {
    av_warn("%s: no column \"%s\": all genes are used", var->frame.what,
            config->data.highly_variable_key);
  }
  return choose_all(table, columns);
}

/* Columns of the matrix, and rows of /var; `raw` is NULL unless the matrix is raw/X. */
static av_status choose(const av_config *config, const gene_table *var, const gene_table *raw,
                        choice *columns, choice *rows) {
  const gene_table *table = raw == NULL ? var : raw;
  const char *key = config->data.highly_variable_key;
  const bool flagged = config->data.use_highly_variable_genes && key != NULL;
  if (config->data.subset_genes.n > 0) {
    const bool of_model = config->model.load != NULL && !config->data.subset_genes_given;
    AV_TRY(choose_listed(&config->data.subset_genes, table,
                         of_model ? av_config_where(config, "model", "load")
                                  : av_config_where(config, "data", "subset_genes"),
                         columns));
  } else if (!flagged) {
    AV_TRY(choose_all(table, columns));
  } else if (raw != NULL && av_frame_has(&var->frame, key)) {
    AV_TRY(choose_flagged(var, key, rows));
    columns->row = av_malloc((size_t)rows->n, sizeof *columns->row);
    AV_TRY_ALLOC(columns->row);
    columns->n = rows->n;
    return map_by_name(var, rows, raw, columns->row);
  } else if (av_frame_has(&table->frame, key)) {
    AV_TRY(choose_flagged(table, key, columns));
  } else {
    AV_TRY(flag_absent(config, var, table, columns));
  }
  rows->n = columns->n;
  rows->row = av_malloc((size_t)rows->n, sizeof *rows->row);
  AV_TRY_ALLOC(rows->row);
  if (raw != NULL) {
    find_in_var(raw, var, columns, rows->row);
  } else if (columns->n > 0) {
    memcpy(rows->row, columns->row, (size_t)columns->n * sizeof *rows->row);
  }
  return AV_OK;
}

static av_status name_chosen(const gene_table *table, const choice *columns, av_names *genes) {
  const char **name = av_calloc((size_t)columns->n, sizeof *name);
  AV_TRY_ALLOC(name);
  for (int64_t i = 0; i < columns->n; ++i) {
    name[i] = table->names.at[columns->row[i]];
  }
  const av_status status = av_names_copy(genes, columns->n, name);
  free(name);
  return status;
}

/* Opens /var, and raw's var if the matrix is raw/X. */
static av_status open_tables(hid_t file, const char *path, bool use_raw, gene_table *var,
                             gene_table *raw) {
  AV_TRY(open_table(var, file, path, AV_H5AD_VAR));
  if (!use_raw) {
    return AV_OK;
  }
  const char *link = NULL;
  AV_TRY(av_frame_raw_var(file, &link));
  if (link == NULL) {
    return av_fail(AV_BADDATA, "%s: has %s but no table of its genes (%s)", path, AV_H5AD_RAW_X,
                   AV_H5AD_RAW_VAR);
  }
  return open_table(raw, file, path, link);
}

av_status av_genes_select(hid_t file, const char *path, const av_config *config, int64_t n_columns,
                          av_dataset *dataset) {
  const bool use_raw = strcmp(config->data.counts, AV_H5AD_RAW_X) == 0;
  gene_table var = no_table();
  gene_table raw = no_table();
  choice columns = {0};
  choice rows = {0};
  av_status status = AV_OK;
  AV_GO(status, open_tables(file, path, use_raw, &var, &raw), done);
  const gene_table *table = use_raw ? &raw : &var;
  if (table->names.n != n_columns) {
    AV_GO(status,
          av_fail(AV_BADDATA, "%s: %s has %" PRId64 " genes where %s has %" PRId64 " rows", path,
                  config->data.counts, n_columns, table->frame.link, table->names.n),
          done);
  }
  AV_GO(status, choose(config, &var, use_raw ? &raw : NULL, &columns, &rows), done);
  if (columns.n == 0) {
    AV_GO(status, av_fail(AV_BADDATA, "%s: %s has no genes", path, config->data.counts), done);
  }
  AV_GO(status, name_chosen(table, &columns, &dataset->genes), done);
  dataset->n_genes = columns.n;
  dataset->gene_column = columns.row;
  dataset->gene_var = rows.row;
  columns.row = NULL;
  rows.row = NULL;
done:
  free(columns.row);
  free(rows.row);
  close_table(&raw);
  close_table(&var);
  return status;
}
