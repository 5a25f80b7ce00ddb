/* One column of a table: how it is stored in each version, and its values as a factor. */
#include "base/memory.h"
#include "io/dataframe.h"
#include "io/h5ad_keys.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void av_column_close(av_column *column) {
  av_element_close(&column->values);
  av_element_close(&column->mask);
  av_h5_close(&column->categories);
  free(column->what);
  *column = (av_column){.values = AV_ELEMENT_NONE, .mask = AV_ELEMENT_NONE, .categories = -1};
}

static av_status fail_encoding(const av_column *column, const char *encoding) {
  return av_fail(AV_BADDATA,
                 "%s: stored as \"%s\", which cannot be used as a column here; store it as text, "
                 "numbers or a categorical",
                 column->what, encoding);
}

/* The object of a scalar (or one-element) reference attribute; -1 if there is none or it is null.
 */
static hid_t follow_reference(hid_t dataset, const char *name) {
  if (H5Aexists(dataset, name) <= 0) {
    return -1;
  }
  hid_t target = -1;
  hid_t attribute = H5Aopen(dataset, name, H5P_DEFAULT);
  hid_t type = attribute < 0 ? -1 : H5Aget_type(attribute);
  hid_t space = attribute < 0 ? -1 : H5Aget_space(attribute);
  hobj_ref_t reference = 0;
  if (type >= 0 && space >= 0 && H5Tequal(type, H5T_STD_REF_OBJ) > 0 &&
      H5Sget_simple_extent_npoints(space) == 1 &&
      H5Aread(attribute, H5T_STD_REF_OBJ, &reference) >= 0 && reference != 0) {
    target = H5Rdereference2(attribute, H5P_DEFAULT, H5R_OBJECT, &reference);
  }
  av_h5_close(&space);
  av_h5_close(&type);
  av_h5_close(&attribute);
  return target;
}

/* The attribute `ordered`, a bool or number, of a categorical. */
static bool read_ordered(hid_t object) {
  signed char ordered = 0;
  if (H5Aexists(object, AV_H5AD_ORDERED) > 0) {
    hid_t attribute = H5Aopen(object, AV_H5AD_ORDERED, H5P_DEFAULT);
    hid_t space = attribute < 0 ? -1 : H5Aget_space(attribute);
    if (space < 0 || H5Sget_simple_extent_npoints(space) != 1 ||
        H5Aread(attribute, H5T_NATIVE_SCHAR, &ordered) < 0) {
      ordered = 0;
    }
    av_h5_close(&space);
    av_h5_close(&attribute);
  }
  return ordered != 0;
}

/* A dataset column: categories of 0.7 hang on it by reference, or lie in __categories. */
static av_status open_dataset(av_column *column, const av_frame *frame, const char *name,
                              hid_t dataset, const char *encoding) {
  AV_TRY(av_element_adopt(&column->values, dataset, column->what));
  const bool known = encoding == NULL || strcmp(encoding, AV_H5AD_ENC_ARRAY) == 0 ||
                     strcmp(encoding, AV_H5AD_ENC_STRING_ARRAY) == 0 ||
                     strcmp(encoding, AV_H5AD_ENC_CATEGORICAL) == 0;
  if (!known || column->values.kind == AV_ELEMENT_OTHER) {
    return fail_encoding(column, known ? av_element_type_name(&column->values) : encoding);
  }
  if (column->values.kind != AV_ELEMENT_INTEGER) {
    return AV_OK;
  }
  column->categories = follow_reference(dataset, AV_H5AD_CATEGORIES);
  char *path = av_format("%s/%s", AV_H5AD_OLD_CATEGORIES, name);
  AV_TRY_ALLOC(path);
  bool by_path = false;
  av_status status = column->categories >= 0 ? AV_OK : av_h5_exists(frame->object, path, &by_path);
  if (status == AV_OK && by_path) {
    status = av_h5_open_object(&column->categories, frame->object, path, column->what);
  }
  free(path);
  AV_TRY(status);
  if (column->categories >= 0) {
    column->kind = AV_COLUMN_CATEGORICAL;
    column->ordered = read_ordered(column->categories);
  }
  return AV_OK;
}

static av_status open_group(av_column *column, hid_t group, const char *encoding) {
  bool codes = false;
  bool values = false;
  const char *what = column->what;
  AV_TRY(av_h5_exists(group, AV_H5AD_CODES, &codes));
  AV_TRY(av_h5_exists(group, AV_H5AD_VALUES, &values));
  const bool nullable = encoding == NULL || strcmp(encoding, AV_H5AD_ENC_NULLABLE_INTEGER) == 0 ||
                        strcmp(encoding, AV_H5AD_ENC_NULLABLE_BOOLEAN) == 0 ||
                        strcmp(encoding, AV_H5AD_ENC_NULLABLE_STRING) == 0;
  if (codes && (encoding == NULL || strcmp(encoding, AV_H5AD_ENC_CATEGORICAL) == 0)) {
    column->kind = AV_COLUMN_CATEGORICAL;
    column->ordered = read_ordered(group);
    AV_TRY(av_element_open(&column->values, group, AV_H5AD_CODES, what));
    return av_h5_open_object(&column->categories, group, AV_H5AD_CATEGORIES, what);
  }
  if (values && nullable) {
    column->kind = AV_COLUMN_NULLABLE;
    AV_TRY(av_element_open(&column->values, group, AV_H5AD_VALUES, what));
    AV_TRY(av_element_open(&column->mask, group, AV_H5AD_MASK, what));
    return column->mask.n == column->values.n
               ? AV_OK
               : av_fail(AV_BADDATA, "%s: %" PRId64 " values but %" PRId64 " in its mask", what,
                         column->values.n, column->mask.n);
  }
  return fail_encoding(column, encoding == NULL ? "group" : encoding);
}

/* 0.6 and older: integers are codes if uns/<column>_categories exists (raw.cat/ for raw.var) and is
 * long enough for all of them: one list served obs and var. */
static av_status find_old_categories(av_column *column, const av_frame *frame, const char *name) {
  if (column->values.kind != AV_ELEMENT_INTEGER) {
    return AV_OK;
  }
  const bool raw = strcmp(frame->link, AV_H5AD_OLD_RAW_VAR) == 0;
  char *path = av_format("%s/%s%s", raw ? AV_H5AD_OLD_RAW_CATEGORIES : AV_H5AD_UNS, name,
                         AV_H5AD_OLD_CATEGORIES_SUFFIX);
  AV_TRY_ALLOC(path);
  bool exists = false;
  av_element categories = AV_ELEMENT_NONE;
  int64_t *codes = NULL;
  av_status status = AV_OK;
  AV_GO(status, av_h5_exists(frame->file, path, &exists), done);
  if (!exists) {
    goto done;
  }
  AV_GO(status, av_element_open(&categories, frame->file, path, column->what), done);
  AV_GO(status, av_element_integers(&column->values, &codes), done);
  bool fits = true;
  for (int64_t i = 0; i < column->values.n && fits; ++i) {
    fits = codes[i] >= -1 && codes[i] < categories.n;
  }
  if (fits) {
    column->kind = AV_COLUMN_CATEGORICAL;
    AV_GO(status, av_h5_open_object(&column->categories, frame->file, path, column->what), done);
  }
done:
  free(codes);
  av_element_close(&categories);
  free(path);
  return status;
}

static av_status open_member(av_column *column, const av_frame *frame, const char *name) {
  AV_TRY(av_element_open_member(&column->values, frame->object, name, column->what));
  if (column->values.kind == AV_ELEMENT_OTHER) {
    return fail_encoding(column, av_element_type_name(&column->values));
  }
  return find_old_categories(column, frame, name);
}

static av_status open_link(av_column *column, const av_frame *frame, const char *name) {
  bool exists = false;
  AV_TRY(av_h5_exists(frame->object, name, &exists));
  if (!exists) {
    return av_fail(AV_BADDATA, "%s: listed in %s but not in the file", column->what,
                   AV_H5AD_COLUMN_ORDER);
  }
  hid_t object = -1;
  AV_TRY(av_h5_open_object(&object, frame->object, name, column->what));
  char *encoding = NULL;
  av_status status = av_h5_attribute_text(object, AV_H5AD_ENCODING_TYPE, &encoding);
  if (status == AV_OK && H5Iget_type(object) == H5I_DATASET) {
    status = open_dataset(column, frame, name, object, encoding);
    object = -1; /* taken over */
  } else if (status == AV_OK) {
    status = open_group(column, object, encoding);
  }
  av_h5_close(&object);
  free(encoding);
  return status;
}

av_status av_column_open(av_column *column, const av_frame *frame, const char *name) {
  *column = (av_column){.values = AV_ELEMENT_NONE,
                        .mask = AV_ELEMENT_NONE,
                        .categories = -1,
                        .what = av_format("%s/%s", frame->what, name)};
  AV_TRY_ALLOC(column->what);
  av_status status =
      frame->compound ? open_member(column, frame, name) : open_link(column, frame, name);
  if (status == AV_OK && column->values.n != frame->n_rows) {
    status = av_fail(AV_BADDATA, "%s: %" PRId64 " values where %s has %" PRId64 " rows",
                     column->what, column->values.n, frame->link, frame->n_rows);
  }
  if (status != AV_OK) {
    av_column_close(column);
  }
  return status;
}
