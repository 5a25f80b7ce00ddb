/* Values of a column as a factor. */
#include "base/memory.h"
#include "io/dataframe.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What older anndata wrote for NaN in a column of strings. */
static bool is_missing_text(const char *text) { return strcmp(text, "nan") == 0; }

static int compare_text(const void *a, const void *b) {
  return strcmp(**(const char *const *const *)a, **(const char *const *const *)b);
}

static int compare_reals(const void *a, const void *b) {
  const double x = *(const double *)a;
  const double y = *(const double *)b;
  return (x > y) - (x < y);
}

static int compare_integers(const void *a, const void *b) {
  const int64_t x = *(const int64_t *)a;
  const int64_t y = *(const int64_t *)b;
  return (x > y) - (x < y);
}

/* Drops levels that no code uses, keeping their order. */
static av_status drop_unused(av_factor *factor, int64_t n) {
  const int64_t n_levels = factor->levels.n;
  int32_t *renamed = av_calloc((size_t)n_levels, sizeof *renamed);
  const char **kept = av_calloc((size_t)n_levels, sizeof *kept);
  av_status status = AV_OK;
  if (renamed == NULL || kept == NULL) {
    AV_GO(status, av_fail(AV_NOMEM, "out of memory (%" PRId64 " categories)", n_levels), done);
  }
  for (int64_t i = 0; i < n; ++i) {
    if (factor->code[i] >= 0) {
      renamed[factor->code[i]] = 1;
    }
  }
  int32_t n_kept = 0;
  for (int64_t level = 0; level < n_levels; ++level) {
    if (renamed[level] != 0) {
      kept[n_kept] = factor->levels.at[level];
      renamed[level] = n_kept++;
    }
  }
  for (int64_t i = 0; i < n; ++i) {
    if (factor->code[i] >= 0) {
      factor->code[i] = renamed[factor->code[i]];
    }
  }
  av_names levels = {0};
  AV_GO(status, av_names_copy(&levels, n_kept, kept), done);
  av_names_free(&factor->levels);
  factor->levels = levels;
done:
  free(kept);
  free(renamed);
  return status;
}

av_status av_column_mask(const av_column *column, unsigned char **masked) {
  *masked = NULL;
  return column->kind == AV_COLUMN_NULLABLE ? av_element_flags(&column->mask, masked) : AV_OK;
}

static av_status factor_of_codes(const av_column *column, av_factor *factor) {
  const int64_t n = column->values.n;
  int64_t *codes = NULL;
  unsigned char *missing = NULL;
  av_name_index *index = NULL;
  av_status status = AV_OK;
  AV_GO(status, av_object_names(column->categories, column->what, &factor->levels, &missing), done);
  const int64_t n_levels = factor->levels.n;
  AV_GO(status, av_name_index_create(&index, &factor->levels), done);
  const char *twice = av_name_index_duplicate(index);
  if (twice != NULL) {
    AV_GO(status, av_fail(AV_BADDATA, "%s: category \"%s\" occurs twice", column->what, twice),
          done);
  }
  if (n_levels > INT32_MAX) {
    AV_GO(status, av_fail(AV_BADDATA, "%s: more categories than 2^31", column->what), done);
  }
  AV_GO(status, av_element_integers(&column->values, &codes), done);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t code = codes[i];
    if (code < -1 || code >= n_levels) {
      AV_GO(
          status,
          av_fail(AV_BADDATA,
                  "%s: code %" PRId64 " in row %" PRId64 " has no category (there are %" PRId64 ")",
                  column->what, code, i, n_levels),
          done);
    }
    const bool absent = code < 0 || missing[code] != 0 || is_missing_text(factor->levels.at[code]);
    factor->code[i] = absent ? -1 : (int32_t)code;
  }
  status = drop_unused(factor, n);
done:
  av_name_index_free(&index);
  free(missing);
  free(codes);
  return status;
}

/* Sorts the distinct strings by bytes: `first` holds, for each row, the row where its string occurs
 * first, or -1; n_distinct of them. */
static av_status number_strings(const av_names *names, const int64_t *first, int64_t n_distinct,
                                av_factor *factor) {
  char ***order = av_calloc((size_t)n_distinct, sizeof *order);
  const char **level = av_calloc((size_t)n_distinct, sizeof *level);
  int32_t *rank = av_calloc((size_t)names->n, sizeof *rank);
  av_status status = AV_OK;
  if (order == NULL || level == NULL || rank == NULL) {
    AV_GO(status, av_fail(AV_NOMEM, "out of memory (%" PRId64 " categories)", n_distinct), done);
  }
  int64_t n = 0;
  for (int64_t i = 0; i < names->n; ++i) {
    if (first[i] == i) {
      order[n++] = &names->at[i];
    }
  }
  qsort(order, (size_t)n, sizeof *order, compare_text);
  for (int64_t i = 0; i < n; ++i) {
    level[i] = *order[i];
    rank[order[i] - names->at] = (int32_t)i;
  }
  for (int64_t i = 0; i < names->n; ++i) {
    factor->code[i] = first[i] < 0 ? -1 : rank[first[i]];
  }
  status = av_names_copy(&factor->levels, n, level);
done:
  free(rank);
  free(level);
  free(order);
  return status;
}

static av_status factor_of_text(const av_column *column, const unsigned char *masked,
                                av_factor *factor) {
  av_names names = {0};
  av_name_index *index = NULL;
  int64_t *first = NULL;
  int64_t n_distinct = 0;
  av_status status = AV_OK;
  AV_GO(status, av_element_names(&column->values, &names, NULL), done);
  AV_GO(status, av_name_index_create(&index, &names), done);
  first = av_malloc((size_t)names.n, sizeof *first);
  if (first == NULL) {
    AV_GO(status, av_fail(AV_NOMEM, "out of memory (%s)", column->what), done);
  }
  for (int64_t i = 0; i < names.n; ++i) {
    const bool absent =
        (masked != NULL && masked[i] != AV_FLAG_FALSE) || is_missing_text(names.at[i]);
    first[i] = absent ? -1 : av_name_index_find(index, names.at[i]);
  }
  /* A masked row may hold the first copy of a string: its first unmasked row then stands for it. */
  for (int64_t i = 0; i < names.n; ++i) {
    if (first[i] >= 0 && first[i] < i && first[first[i]] == -1) {
      first[first[i]] = -2 - i;
    }
    if (first[i] >= 0 && first[first[i]] < -1) {
      first[i] = -2 - first[first[i]];
    }
    n_distinct += first[i] == i;
  }
  status = number_strings(&names, first, n_distinct, factor);
done:
  free(first);
  av_name_index_free(&index);
  av_names_free(&names);
  return status;
}

/* Position of `key` in n sorted distinct values. */
static int32_t find_integer(int64_t key, const int64_t *sorted, int64_t n) {
  const int64_t *at = bsearch(&key, sorted, (size_t)n, sizeof key, compare_integers);
  return at == NULL ? -1 : (int32_t)(at - sorted);
}

static int32_t find_real(double key, const double *sorted, int64_t n) {
  const double *at = bsearch(&key, sorted, (size_t)n, sizeof key, compare_reals);
  return at == NULL ? -1 : (int32_t)(at - sorted);
}

/* Levels of a number column: n sorted distinct values, as text. */
static av_status name_numbers(const av_column *column, const int64_t *integers, const double *reals,
                              int64_t n, av_factor *factor) {
  enum { WIDTH = 32 };
  char *text = av_calloc((size_t)n, WIDTH);
  const char **level = av_calloc((size_t)n, sizeof *level);
  av_status status = AV_OK;
  if (text == NULL || level == NULL) {
    AV_GO(status, av_fail(AV_NOMEM, "out of memory (%s)", column->what), done);
  }
  const bool single = H5Tget_size(column->values.type) <= 4;
  for (int64_t i = 0; i < n; ++i) {
    char *at = text + i * WIDTH;
    level[i] = at;
    if (reals != NULL) {
      av_real_text(reals[i], single, at);
    } else if (column->values.kind == AV_ELEMENT_BOOL) {
      snprintf(at, WIDTH, "%s", integers[i] == AV_FLAG_TRUE ? "True" : "False");
    } else {
      snprintf(at, WIDTH, "%" PRId64, integers[i]);
    }
  }
  status = av_names_copy(&factor->levels, n, level);
done:
  free(level);
  free(text);
  return status;
}

static av_status factor_of_integers(const av_column *column, const unsigned char *masked,
                                    av_factor *factor) {
  const int64_t n = column->values.n;
  int64_t *values = NULL;
  unsigned char *flags = NULL;
  av_status status = AV_OK;
  const bool integers = column->values.kind == AV_ELEMENT_INTEGER;
  if (integers) {
    AV_TRY(av_element_integers(&column->values, &values));
  } else {
    AV_TRY(av_element_flags(&column->values, &flags));
  }
  int64_t *sorted = av_malloc((size_t)n, sizeof *sorted);
  if (sorted == NULL) {
    AV_GO(status, av_fail(AV_NOMEM, "out of memory (%s)", column->what), done);
  }
  int64_t n_sorted = 0;
  for (int64_t i = 0; i < n; ++i) {
    const bool absent = (masked != NULL && masked[i] != AV_FLAG_FALSE) ||
                        (!integers && flags[i] == AV_FLAG_MISSING);
    factor->code[i] = absent ? -1 : 0;
    if (!absent) {
      sorted[n_sorted++] = integers ? values[i] : flags[i];
    }
  }
  qsort(sorted, (size_t)n_sorted, sizeof *sorted, compare_integers);
  int64_t n_levels = 0;
  for (int64_t i = 0; i < n_sorted; ++i) {
    if (i == 0 || sorted[i] != sorted[n_levels - 1]) {
      sorted[n_levels++] = sorted[i];
    }
  }
  for (int64_t i = 0; i < n; ++i) {
    if (factor->code[i] == 0) {
      factor->code[i] = find_integer(integers ? values[i] : flags[i], sorted, n_levels);
    }
  }
  status = name_numbers(column, sorted, NULL, n_levels, factor);
done:
  free(sorted);
  free(flags);
  free(values);
  return status;
}

static av_status factor_of_reals(const av_column *column, const unsigned char *masked,
                                 av_factor *factor) {
  const int64_t n = column->values.n;
  double *values = NULL;
  AV_TRY(av_element_reals(&column->values, &values));
  double *sorted = av_malloc((size_t)n, sizeof *sorted);
  av_status status = AV_OK;
  if (sorted == NULL) {
    AV_GO(status, av_fail(AV_NOMEM, "out of memory (%s)", column->what), done);
  }
  int64_t n_sorted = 0;
  for (int64_t i = 0; i < n; ++i) {
    const bool absent = isnan(values[i]) || (masked != NULL && masked[i] != AV_FLAG_FALSE);
    factor->code[i] = absent ? -1 : 0;
    if (!absent) {
      sorted[n_sorted++] = values[i];
    }
  }
  qsort(sorted, (size_t)n_sorted, sizeof *sorted, compare_reals);
  int64_t n_levels = 0;
  for (int64_t i = 0; i < n_sorted; ++i) {
    if (i == 0 || sorted[i] != sorted[n_levels - 1]) {
      sorted[n_levels++] = sorted[i];
    }
  }
  for (int64_t i = 0; i < n; ++i) {
    if (factor->code[i] == 0) {
      factor->code[i] = find_real(values[i], sorted, n_levels);
    }
  }
  status = name_numbers(column, NULL, sorted, n_levels, factor);
done:
  free(sorted);
  free(values);
  return status;
}

av_status av_column_factor(const av_column *column, av_factor *factor) {
  *factor = (av_factor){0};
  if (column->values.n > INT32_MAX && column->kind != AV_COLUMN_CATEGORICAL &&
      column->values.kind != AV_ELEMENT_BOOL) {
    return av_fail(AV_BADDATA, "%s: more than 2^31 rows: store this column as a categorical",
                   column->what);
  }
  factor->code = av_calloc((size_t)column->values.n, sizeof *factor->code);
  AV_TRY_ALLOC(factor->code);
  unsigned char *masked = NULL;
  av_status status = av_column_mask(column, &masked);
  if (status == AV_OK && column->kind == AV_COLUMN_CATEGORICAL) {
    status = factor_of_codes(column, factor);
  } else if (status == AV_OK && column->values.kind == AV_ELEMENT_TEXT) {
    status = factor_of_text(column, masked, factor);
  } else if (status == AV_OK && column->values.kind == AV_ELEMENT_REAL) {
    status = factor_of_reals(column, masked, factor);
  } else if (status == AV_OK) {
    status = factor_of_integers(column, masked, factor);
  }
  free(masked);
  if (status != AV_OK) {
    av_names_free(&factor->levels);
    free(factor->code);
    *factor = (av_factor){0};
  }
  return status;
}

av_status av_frame_factor(const av_frame *frame, const char *name, av_factor *factor) {
  *factor = (av_factor){0};
  av_column column;
  AV_TRY(av_column_open(&column, frame, name));
  const av_status status = av_column_factor(&column, factor);
  av_column_close(&column);
  return status;
}
