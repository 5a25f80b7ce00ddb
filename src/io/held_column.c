#include "io/held_column.h"

#include "base/memory.h"
#include "io/h5ad_keys.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

void av_held_free(av_held *held) {
  if (held->categories != NULL) {
    av_held_free(held->categories);
    free(held->categories);
  }
  av_h5_close(&held->type);
  free(held->values);
  free(held->boolean);
  av_names_free(&held->text);
  free(held->code);
  free(held->missing);
  *held = (av_held){.type = -1};
}

/* Drops a mask that masks nothing. */
static void trim_missing(av_held *held) {
  if (held->missing != NULL &&
      (held->n == 0 || memchr(held->missing, 1, (size_t)held->n) == NULL)) {
    free(held->missing);
    held->missing = NULL;
  }
}

/* HDF5 would widen half precision: that one is kept as it is stored. */
static av_status memory_type(hid_t *type, const av_element *element) {
  const bool half = element->kind == AV_ELEMENT_REAL && H5Tget_size(element->type) < 4;
  return AV_H5_ID(*type,
                  half ? H5Tcopy(element->type) : H5Tget_native_type(element->type, H5T_DIR_ASCEND),
                  element->what);
}

static av_status read_numbers(av_held *held, const av_element *element) {
  held->kind = AV_HELD_NUMBERS;
  AV_TRY(memory_type(&held->type, element));
  held->values = av_calloc((size_t)element->n, H5Tget_size(held->type));
  AV_TRY_ALLOC(held->values);
  return av_element_read(element, held->type, 0, element->n, held->values);
}

static av_status read_booleans(av_held *held, const av_element *element) {
  held->kind = AV_HELD_BOOLEANS;
  AV_TRY(av_element_flags(element, &held->boolean));
  held->missing = av_calloc((size_t)element->n, 1);
  AV_TRY_ALLOC(held->missing);
  for (int64_t i = 0; i < element->n; ++i) {
    if (held->boolean[i] == AV_FLAG_MISSING) {
      held->missing[i] = 1;
      held->boolean[i] = 0;
    }
  }
  trim_missing(held);
  return AV_OK;
}

static av_status read_values(av_held *held, const av_element *element) {
  *held = (av_held){.type = -1, .n = element->n};
  switch (element->kind) {
    case AV_ELEMENT_TEXT:
      held->kind = AV_HELD_TEXT;
      AV_TRY(av_element_names(element, &held->text, &held->missing));
      trim_missing(held);
      return AV_OK;
    case AV_ELEMENT_INTEGER:
    case AV_ELEMENT_REAL:
      return read_numbers(held, element);
    case AV_ELEMENT_BOOL:
      return read_booleans(held, element);
    case AV_ELEMENT_OTHER:
    default:
      return av_fail(AV_BADDATA, "%s: holds %s", element->what, av_element_type_name(element));
  }
}

static av_status read_mask(av_held *held, const av_element *mask) {
  unsigned char *masked = NULL;
  AV_TRY(av_element_flags(mask, &masked));
  for (int64_t i = 0; i < held->n; ++i) {
    masked[i] = masked[i] != AV_FLAG_FALSE || (held->missing != NULL && held->missing[i] != 0);
  }
  free(held->missing);
  held->missing = masked;
  held->nullable = true;
  trim_missing(held);
  return AV_OK;
}

/* The labels: a dataset, or (text of pandas 3) values with a mask that masks nothing. */
static av_status read_categories(av_held *held, hid_t categories, const char *what) {
  av_element values = AV_ELEMENT_NONE;
  av_element mask = AV_ELEMENT_NONE;
  av_status status = AV_OK;
  if (H5Iget_type(categories) == H5I_DATASET) {
    AV_GO(status, AV_H5(H5Iinc_ref(categories), what), done);
    AV_GO(status, av_element_adopt(&values, categories, what), done);
    AV_GO(status, read_values(held, &values), done);
  } else {
    AV_GO(status, av_element_open(&values, categories, AV_H5AD_VALUES, what), done);
    AV_GO(status, av_element_open(&mask, categories, AV_H5AD_MASK, what), done);
    AV_GO(status, read_values(held, &values), done);
    if (mask.n != values.n) {
      AV_GO(status,
            av_fail(AV_BADDATA, "%s: %" PRId64 " categories but %" PRId64 " in their mask", what,
                    values.n, mask.n),
            done);
    }
    AV_GO(status, read_mask(held, &mask), done);
    held->nullable = false;
  }
  if (held->missing != NULL) {
    status = av_fail(AV_BADDATA, "%s: a category is a missing value", what);
  }

done:
  av_element_close(&mask);
  av_element_close(&values);
  return status;
}

static av_status read_categorical(av_held *held, const av_column *column) {
  const int64_t n = column->values.n;
  int64_t *code = NULL;
  *held = (av_held){.type = -1, .kind = AV_HELD_CATEGORICAL, .n = n, .ordered = column->ordered};
  held->code = av_calloc((size_t)n, sizeof *held->code);
  held->categories = av_calloc(1, sizeof *held->categories);
  AV_TRY_ALLOC(held->code);
  AV_TRY_ALLOC(held->categories);
  held->categories->type = -1;
  AV_TRY(read_categories(held->categories, column->categories, column->what));
  AV_TRY(av_element_integers(&column->values, &code));
  av_status status = AV_OK;
  for (int64_t i = 0; i < n && status == AV_OK; ++i) {
    if (code[i] < -1 || code[i] >= held->categories->n || code[i] > INT32_MAX) {
      status = av_fail(AV_BADDATA, "%s: code %" PRId64 " in row %" PRId64 " has no category",
                       column->what, code[i], i);
    }
    held->code[i] = (int32_t)code[i];
  }
  free(code);
  return status;
}

av_status av_held_read(av_held *held, const av_column *column) {
  *held = (av_held){.type = -1};
  if (column->kind == AV_COLUMN_CATEGORICAL) {
    return read_categorical(held, column);
  }
  AV_TRY(read_values(held, &column->values));
  return column->kind == AV_COLUMN_NULLABLE ? read_mask(held, &column->mask) : AV_OK;
}
