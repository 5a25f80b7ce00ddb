#include "io/held_column.h"

#include "base/memory.h"
#include "io/h5ad_keys.h"
#include "io/h5ad_put.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- rows -------------------------------------------------------------------------------------
 */

/* n elements of `width` bytes out of `old`; those of row -1 stay zero. NULL when out of memory. */
static void *gather(const void *old, size_t width, int64_t n, const int64_t *row) {
  unsigned char *chosen = av_calloc((size_t)n, width);
  for (int64_t i = 0; chosen != NULL && i < n; ++i) {
    if (row[i] >= 0) {
      memcpy(chosen + (size_t)i * width, (const unsigned char *)old + (size_t)row[i] * width,
             width);
    }
  }
  return chosen;
}

static bool any_missing(int64_t n, const int64_t *row) {
  for (int64_t i = 0; i < n; ++i) {
    if (row[i] < 0) {
      return true;
    }
  }
  return false;
}

static av_status select_missing(av_held *held, int64_t n, const int64_t *row) {
  if (held->missing == NULL && !any_missing(n, row)) {
    return AV_OK;
  }
  unsigned char *missing = av_calloc((size_t)n, 1);
  AV_TRY_ALLOC(missing);
  for (int64_t i = 0; i < n; ++i) {
    missing[i] = row[i] < 0 || (held->missing != NULL && held->missing[row[i]] != 0);
  }
  free(held->missing);
  held->missing = missing;
  return AV_OK;
}

static av_status select_text(av_held *held, int64_t n, const int64_t *row) {
  const char **text = av_calloc((size_t)n, sizeof *text);
  AV_TRY_ALLOC(text);
  for (int64_t i = 0; i < n; ++i) {
    text[i] = row[i] < 0 ? "" : held->text.at[row[i]];
  }
  av_names chosen = {0};
  const av_status status = av_names_copy(&chosen, n, text);
  free(text);
  AV_TRY(status);
  av_names_free(&held->text);
  held->text = chosen;
  return AV_OK;
}

static av_status replace(void *field, void *chosen) {
  AV_TRY_ALLOC(chosen);
  void **old = field;
  free(*old);
  *old = chosen;
  return AV_OK;
}

av_status av_held_select(av_held *held, int64_t n, const int64_t *row) {
  switch (held->kind) {
    case AV_HELD_NUMBERS:
      AV_TRY(replace(&held->values, gather(held->values, H5Tget_size(held->type), n, row)));
      AV_TRY(select_missing(held, n, row));
      break;
    case AV_HELD_BOOLEANS:
      AV_TRY(replace(&held->boolean, gather(held->boolean, 1, n, row)));
      AV_TRY(select_missing(held, n, row));
      break;
    case AV_HELD_TEXT:
      AV_TRY(select_text(held, n, row));
      AV_TRY(select_missing(held, n, row));
      break;
    case AV_HELD_CATEGORICAL:
    default:
      AV_TRY(replace(&held->code, gather(held->code, sizeof *held->code, n, row)));
      for (int64_t i = 0; i < n; ++i) {
        held->code[i] = row[i] < 0 ? -1 : held->code[i];
      }
      break;
  }
  held->n = n;
  return AV_OK;
}

/* ---- writing ----------------------------------------------------------------------------------
 */

static bool is_real(const av_held *held) { return H5Tget_class(held->type) == H5T_FLOAT; }

/* Reals have NaN for what is missing, and no mask. */
static av_status write_reals_with_gaps(const av_held *held, hid_t frame, const char *link,
                                       const char *what) {
  const hsize_t n = (hsize_t)held->n;
  const size_t width = H5Tget_size(held->type);
  const size_t room = width > sizeof(double) ? width : sizeof(double);
  double *values = av_calloc((size_t)n, room);
  AV_TRY_ALLOC(values);
  memcpy(values, held->values, (size_t)n * width);
  av_status status =
      AV_H5(H5Tconvert(held->type, H5T_NATIVE_DOUBLE, (size_t)n, values, NULL, H5P_DEFAULT), what);
  for (hsize_t i = 0; i < n; ++i) {
    values[i] = held->missing[i] != 0 ? (double)NAN : values[i];
  }
  if (status == AV_OK) {
    status = av_put_numbers(frame, link, 1, &n, width <= 4 ? H5T_IEEE_F32LE : H5T_IEEE_F64LE,
                            H5T_NATIVE_DOUBLE, values, what);
  }
  free(values);
  return status;
}

static av_status write_values(const av_held *held, hid_t location, const char *link,
                              const char *what) {
  const hsize_t n = (hsize_t)held->n;
  return held->kind == AV_HELD_BOOLEANS
             ? av_put_booleans(location, link, held->n, held->boolean, what)
             : av_put_numbers(location, link, 1, &n, held->type, held->type, held->values, what);
}

static av_status write_nullable(const av_held *held, hid_t frame, const char *link,
                                const char *what) {
  unsigned char *none = NULL;
  if (held->missing == NULL) {
    none = av_calloc((size_t)held->n, 1);
    AV_TRY_ALLOC(none);
  }
  hid_t group = -1;
  av_status status = av_put_group(
      &group, frame, link,
      held->kind == AV_HELD_BOOLEANS ? AV_H5AD_ENC_NULLABLE_BOOLEAN : AV_H5AD_ENC_NULLABLE_INTEGER,
      AV_H5AD_VERSION_1, what);
  if (status == AV_OK) {
    status = write_values(held, group, AV_H5AD_VALUES, what);
  }
  if (status == AV_OK) {
    status =
        av_put_booleans(group, AV_H5AD_MASK, held->n, none != NULL ? none : held->missing, what);
  }
  av_h5_close(&group);
  free(none);
  return status;
}

/* Codes in the width that pandas would take. */
static av_status write_codes(hid_t group, int64_t n, const int32_t *code, int64_t n_categories,
                             const char *what) {
  const hsize_t extent = (hsize_t)n;
  const hid_t stored = n_categories <= INT8_MAX    ? H5T_STD_I8LE
                       : n_categories <= INT16_MAX ? H5T_STD_I16LE
                                                   : H5T_STD_I32LE;
  return av_put_numbers(group, AV_H5AD_CODES, 1, &extent, stored, H5T_NATIVE_INT32, code, what);
}

static av_status open_categorical(hid_t *group, hid_t frame, const char *link, bool ordered,
                                  const char *what) {
  AV_TRY(av_put_group(group, frame, link, AV_H5AD_ENC_CATEGORICAL, AV_H5AD_VERSION_2, what));
  return av_put_bool_attribute(*group, AV_H5AD_ORDERED, ordered, what);
}

static av_status write_categorical(const av_held *held, hid_t frame, const char *link,
                                   const char *what) {
  hid_t group = -1;
  av_status status = open_categorical(&group, frame, link, held->ordered, what);
  if (status == AV_OK) {
    status = write_codes(group, held->n, held->code, held->categories->n, what);
  }
  if (status == AV_OK) {
    av_held plain = *held->categories; /* categories are never missing: no mask */
    plain.nullable = false;
    status = av_held_write(&plain, group, AV_H5AD_CATEGORIES, what);
  }
  av_h5_close(&group);
  return status;
}

static int by_text(const void *a, const void *b) {
  return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The different strings among those present, sorted. Owned array of borrowed strings. */
static av_status distinct_text(const av_held *held, const char ***levels, int64_t *n_levels) {
  const char **list = av_calloc((size_t)held->n, sizeof *list);
  AV_TRY_ALLOC(list);
  int64_t n = 0;
  for (int64_t i = 0; i < held->n; ++i) {
    if (held->missing[i] == 0) {
      list[n++] = held->text.at[i];
    }
  }
  qsort(list, (size_t)n, sizeof *list, by_text);
  int64_t kept = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (kept == 0 || strcmp(list[kept - 1], list[i]) != 0) {
      list[kept++] = list[i];
    }
  }
  *levels = list;
  *n_levels = kept;
  return AV_OK;
}

/* Text with gaps becomes a categorical: every anndata reads it, and the gaps stay gaps. */
static av_status write_text_with_gaps(const av_held *held, hid_t frame, const char *link,
                                      const char *what) {
  const char **levels = NULL;
  int64_t n_levels = 0;
  AV_TRY(distinct_text(held, &levels, &n_levels));
  hid_t group = -1;
  av_status status = AV_OK;
  int32_t *code = av_calloc((size_t)held->n, sizeof *code);
  if (code == NULL) {
    AV_GO(status, av_fail(AV_NOMEM, "out of memory (%s)", what), done);
  }
  for (int64_t i = 0; i < held->n; ++i) {
    const char *text = held->text.at[i];
    const char **found = held->missing[i] != 0
                             ? NULL
                             : bsearch(&text, levels, (size_t)n_levels, sizeof *levels, by_text);
    code[i] = found == NULL ? -1 : (int32_t)(found - levels);
  }
  AV_GO(status, open_categorical(&group, frame, link, false, what), done);
  AV_GO(status, write_codes(group, held->n, code, n_levels, what), done);
  AV_GO(status, av_put_strings(group, AV_H5AD_CATEGORIES, n_levels, levels, what), done);

done:
  av_h5_close(&group);
  free(code);
  free(levels);
  return status;
}

av_status av_held_write(const av_held *held, hid_t frame, const char *link, const char *what) {
  switch (held->kind) {
    case AV_HELD_NUMBERS:
      if (held->missing != NULL && is_real(held)) {
        return write_reals_with_gaps(held, frame, link, what);
      }
      if ((held->missing != NULL || held->nullable) && !is_real(held)) {
        return write_nullable(held, frame, link, what);
      }
      return write_values(held, frame, link, what);
    case AV_HELD_BOOLEANS:
      return held->missing != NULL || held->nullable ? write_nullable(held, frame, link, what)
                                                     : write_values(held, frame, link, what);
    case AV_HELD_TEXT:
      return held->missing != NULL
                 ? write_text_with_gaps(held, frame, link, what)
                 : av_put_strings(frame, link, held->n, (const char *const *)held->text.at, what);
    case AV_HELD_CATEGORICAL:
    default:
      return write_categorical(held, frame, link, what);
  }
}
