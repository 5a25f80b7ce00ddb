/* Text of every kind that the format has, as lists of names. */
#include "base/log.h"
#include "base/memory.h"
#include "base/utf8.h"
#include "io/h5_element.h"
#include "io/h5ad_keys.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Strings one after the other, each ended by NUL, while they are read. */
typedef struct text_list {
  char *text;
  size_t used, room;
  int64_t n;
  int64_t n_not_utf8;
  int64_t first_not_utf8;
} text_list;

static av_status add_text(text_list *list, const char *text, size_t length) {
  if (list->room - list->used < length + 1) {
    const size_t room = 2 * list->room + length + 4096;
    char *grown = av_realloc(list->text, room, 1);
    AV_TRY_ALLOC(grown);
    list->text = grown;
    list->room = room;
  }
  if (length > 0) {
    memcpy(list->text + list->used, text, length);
  }
  list->text[list->used + length] = '\0';
  list->used += length + 1;
  if (!av_is_utf8(text, length)) {
    list->first_not_utf8 = list->n_not_utf8 == 0 ? list->n : list->first_not_utf8;
    list->n_not_utf8 += 1;
  }
  list->n += 1;
  return AV_OK;
}

/* Hands the strings over as names; the list is empty afterwards. */
static av_status finish_list(text_list *list, const char *what, av_names *names) {
  if (list->n_not_utf8 > 0) {
    av_warn("%s: %" PRId64 " of %" PRId64 " strings are not UTF-8 (first: row %" PRId64
            "); their bytes are kept as they are",
            what, list->n_not_utf8, list->n, list->first_not_utf8);
  }
  av_names made = {.n = list->n, .at = av_calloc((size_t)list->n, sizeof *made.at)};
  made.text = list->text == NULL ? av_calloc(1, 1) : av_realloc(list->text, list->used, 1);
  if (made.at == NULL || made.text == NULL) {
    if (made.text != NULL) {
      list->text = NULL;
    }
    av_names_free(&made);
    return av_fail(AV_NOMEM, "out of memory (%s: %" PRId64 " strings)", what, list->n);
  }
  *list = (text_list){0};
  char *next = made.text;
  for (int64_t i = 0; i < made.n; ++i) {
    made.at[i] = next;
    next += strlen(next) + 1;
  }
  *names = made;
  return AV_OK;
}

/* Length of a string of fixed width without its padding. */
static size_t fixed_length(const char *text, size_t width, H5T_str_t padding) {
  size_t length = strnlen(text, width);
  while (padding == H5T_STR_SPACEPAD && length > 0 && text[length - 1] == ' ') {
    --length;
  }
  return length;
}

/* Adds n values that HDF5 read into `buffer` as `type`, a string type. */
static av_status add_strings(text_list *list, hid_t type, int64_t n, const void *buffer) {
  const bool variable = H5Tis_variable_str(type) > 0;
  const size_t width = H5Tget_size(type);
  const H5T_str_t padding = H5Tget_strpad(type);
  for (int64_t i = 0; i < n; ++i) {
    const char *text =
        variable ? ((const char *const *)buffer)[i] : (const char *)buffer + (size_t)i * width;
    const size_t length = text == NULL ? 0 /* never written */
                          : variable   ? strlen(text)
                                       : fixed_length(text, width, padding);
    AV_TRY(add_text(list, text, length));
  }
  return AV_OK;
}

static void free_variable(hid_t type, int64_t n, void *buffer) {
  for (int64_t i = 0; H5Tis_variable_str(type) > 0 && i < n; ++i) {
    H5free_memory(((void **)buffer)[i]);
  }
}

/* Text is read in blocks, so that variable strings are not all held twice. */
static av_status read_text(const av_element *element, text_list *list) {
  enum { BLOCK_BYTES = 8 << 20, WIDEST = 64 << 20 };
  const size_t width = H5Tget_size(element->type);
  if (width == 0 || width > WIDEST) {
    return av_fail(AV_BADDATA, "%s: damaged: strings of %zu bytes each", element->what, width);
  }
  int64_t block = width > BLOCK_BYTES ? 1 : (int64_t)(BLOCK_BYTES / width);
  block = block < element->n ? block : element->n;
  char *buffer = av_calloc((size_t)block, width);
  AV_TRY_ALLOC(buffer);
  av_status status = AV_OK;
  for (int64_t first = 0; first < element->n && status == AV_OK; first += block) {
    const int64_t n = element->n - first < block ? element->n - first : block;
    status = av_element_read(element, element->type, first, n, buffer);
    if (status == AV_OK) {
      status = add_strings(list, element->type, n, buffer);
      free_variable(element->type, n, buffer);
    }
  }
  free(buffer);
  return status;
}

void av_real_text(double value, bool single, char text[32]) {
  if (fabs(value) < 1e16 && value == trunc(value)) {
    snprintf(text, 32, "%.1f", value);
    return;
  }
  const int most = single ? FLT_DECIMAL_DIG : DBL_DECIMAL_DIG;
  for (int digits = 1; digits <= most; ++digits) {
    snprintf(text, 32, "%.*g", digits, value);
    const double back = strtod(text, NULL);
    if (single ? (float)back == (float)value : back == value) {
      break;
    }
  }
}

static av_status add_numbers(const av_element *element, text_list *list, unsigned char *missing) {
  int64_t *integers = NULL;
  double *reals = NULL;
  unsigned char *flags = NULL;
  av_status status = AV_OK;
  if (element->kind == AV_ELEMENT_INTEGER) {
    AV_TRY(av_element_integers(element, &integers));
  } else if (element->kind == AV_ELEMENT_BOOL) {
    AV_TRY(av_element_flags(element, &flags));
  } else {
    AV_TRY(av_element_reals(element, &reals));
  }
  const bool single = H5Tget_size(element->type) <= 4;
  for (int64_t i = 0; i < element->n && status == AV_OK; ++i) {
    char text[32];
    if (element->kind == AV_ELEMENT_INTEGER) {
      snprintf(text, sizeof text, "%" PRId64, integers[i]);
    } else if (element->kind == AV_ELEMENT_BOOL) {
      snprintf(text, sizeof text, "%s", flags[i] == AV_FLAG_TRUE ? "True" : "False");
      missing[i] = flags[i] == AV_FLAG_MISSING;
    } else {
      if (isnan(reals[i])) {
        missing[i] = 1;
      }
      av_real_text(reals[i], single, text);
    }
    status = add_text(list, text, strlen(text));
  }
  free(integers);
  free(reals);
  free(flags);
  return status;
}

av_status av_element_names(const av_element *element, av_names *names, unsigned char **missing) {
  *names = (av_names){0};
  text_list list = {0};
  unsigned char *absent = av_calloc((size_t)element->n, 1);
  AV_TRY_ALLOC(absent);
  av_status status = AV_OK;
  if (element->kind == AV_ELEMENT_TEXT) {
    status = read_text(element, &list);
  } else if (element->kind == AV_ELEMENT_OTHER) {
    status = av_fail(AV_BADDATA, "%s: holds %s where text or numbers are needed", element->what,
                     av_element_type_name(element));
  } else {
    status = add_numbers(element, &list, absent);
  }
  if (status == AV_OK) {
    status = finish_list(&list, element->what, names);
  }
  free(list.text);
  if (status == AV_OK && missing != NULL) {
    *missing = absent;
  } else {
    free(absent);
  }
  return status;
}

/* values and mask of a nullable array. */
static av_status nullable_names(hid_t group, const char *what, av_names *names,
                                unsigned char **missing) {
  av_element values = AV_ELEMENT_NONE;
  av_element mask = AV_ELEMENT_NONE;
  unsigned char *masked = NULL;
  unsigned char *absent = NULL;
  av_status status = AV_OK;
  AV_GO(status, av_element_open(&values, group, AV_H5AD_VALUES, what), done);
  AV_GO(status, av_element_open(&mask, group, AV_H5AD_MASK, what), done);
  if (values.n != mask.n) {
    AV_GO(status,
          av_fail(AV_BADDATA, "%s: %" PRId64 " values but %" PRId64 " in its mask", what, values.n,
                  mask.n),
          done);
  }
  AV_GO(status, av_element_flags(&mask, &masked), done);
  AV_GO(status, av_element_names(&values, names, &absent), done);
  for (int64_t i = 0; i < values.n; ++i) {
    absent[i] = absent[i] != 0 || masked[i] != AV_FLAG_FALSE;
  }
  if (missing != NULL) {
    *missing = absent;
    absent = NULL;
  }
done:
  free(absent);
  free(masked);
  av_element_close(&mask);
  av_element_close(&values);
  return status;
}

/* One string for each code; a code below 0 is missing. */
static av_status expand_codes(const av_element *codes, const av_names *levels, av_names *names,
                              unsigned char **missing) {
  int64_t *code = NULL;
  AV_TRY(av_element_integers(codes, &code));
  const char **text = av_calloc((size_t)codes->n, sizeof *text);
  unsigned char *absent = av_calloc((size_t)codes->n, 1);
  av_status status =
      text == NULL || absent == NULL ? av_fail(AV_NOMEM, "out of memory (%s)", codes->what) : AV_OK;
  for (int64_t i = 0; i < codes->n && status == AV_OK; ++i) {
    if (code[i] < -1 || code[i] >= levels->n) {
      status =
          av_fail(AV_BADDATA,
                  "%s: code %" PRId64 " in row %" PRId64 " has no category (there are %" PRId64 ")",
                  codes->what, code[i], i, levels->n);
    } else {
      absent[i] = code[i] < 0;
      text[i] = code[i] < 0 ? "" : levels->at[code[i]];
    }
  }
  if (status == AV_OK) {
    status = av_names_copy(names, codes->n, text);
  }
  if (status == AV_OK && missing != NULL) {
    *missing = absent;
    absent = NULL;
  }
  free(absent);
  free(text);
  free(code);
  return status;
}

static av_status categorical_names(hid_t group, const char *what, av_names *names,
                                   unsigned char **missing) {
  av_element codes = AV_ELEMENT_NONE;
  av_names levels = {0};
  hid_t categories = -1;
  av_status status = AV_OK;
  AV_GO(status, av_element_open(&codes, group, AV_H5AD_CODES, what), done);
  AV_GO(status, av_h5_open_object(&categories, group, AV_H5AD_CATEGORIES, what), done);
  AV_GO(status, av_object_names(categories, what, &levels, NULL), done);
  status = expand_codes(&codes, &levels, names, missing);
done:
  av_h5_close(&categories);
  av_names_free(&levels);
  av_element_close(&codes);
  return status;
}

static av_status dataset_names(hid_t dataset, const char *what, av_names *names,
                               unsigned char **missing) {
  AV_TRY(AV_H5(H5Iinc_ref(dataset), what));
  av_element element = AV_ELEMENT_NONE;
  AV_TRY(av_element_adopt(&element, dataset, what));
  const av_status status = av_element_names(&element, names, missing);
  av_element_close(&element);
  return status;
}

av_status av_object_names(hid_t object, const char *what, av_names *names,
                          unsigned char **missing) {
  *names = (av_names){0};
  if (H5Iget_type(object) == H5I_DATASET) {
    return dataset_names(object, what, names, missing);
  }
  bool categorical = false;
  bool nullable = false;
  AV_TRY(av_h5_exists(object, AV_H5AD_CODES, &categorical));
  AV_TRY(av_h5_exists(object, AV_H5AD_VALUES, &nullable));
  if (categorical) {
    return categorical_names(object, what, names, missing);
  }
  if (nullable) {
    return nullable_names(object, what, names, missing);
  }
  char *encoding = NULL;
  AV_TRY(av_h5_attribute_text(object, AV_H5AD_ENCODING_TYPE, &encoding));
  av_fail(AV_BADDATA, "%s: a group of encoding \"%s\" where text is needed", what,
          encoding == NULL ? "" : encoding);
  free(encoding);
  return AV_BADDATA;
}

av_status av_h5_read_strings(hid_t location, const char *link, const char *what, av_names *names,
                             unsigned char **missing) {
  *names = (av_names){0};
  hid_t object = -1;
  AV_TRY(av_h5_open_object(&object, location, link, what));
  const av_status status = av_object_names(object, what, names, missing);
  av_h5_close(&object);
  return status;
}

/* The strings of an open attribute. */
static av_status read_attribute(hid_t attribute, const char *what, text_list *list) {
  hid_t type = -1;
  hid_t space = -1;
  char *buffer = NULL;
  av_status status = AV_OK;
  AV_GO(status, AV_H5_ID(type, H5Aget_type(attribute), what), done);
  AV_GO(status, AV_H5_ID(space, H5Aget_space(attribute), what), done);
  const hssize_t n =
      H5Sget_simple_extent_type(space) == H5S_NULL ? 0 : H5Sget_simple_extent_npoints(space);
  AV_GO(status, AV_H5(n, what), done);
  if (n == 0) {
    goto done;
  }
  if (H5Tget_class(type) != H5T_STRING) {
    AV_GO(status,
          av_fail(AV_BADDATA, "%s: holds %s where text is needed", what, av_h5_type_name(type)),
          done);
  }
  buffer = av_calloc((size_t)n, H5Tget_size(type));
  if (buffer == NULL) {
    AV_GO(status, av_fail(AV_NOMEM, "out of memory (%s)", what), done);
  }
  AV_GO(status, AV_H5(H5Aread(attribute, type, buffer), what), done);
  status = add_strings(list, type, n, buffer);
  free_variable(type, n, buffer);
done:
  free(buffer);
  av_h5_close(&space);
  av_h5_close(&type);
  return status;
}

av_status av_attribute_names(hid_t object, const char *name, const char *what, av_names *names) {
  *names = (av_names){0};
  const htri_t exists = H5Aexists(object, name);
  AV_TRY(AV_H5(exists, what));
  text_list list = {0};
  av_status status = AV_OK;
  if (exists > 0) {
    hid_t attribute = -1;
    AV_TRY(AV_H5_ID(attribute, H5Aopen(object, name, H5P_DEFAULT), what));
    status = read_attribute(attribute, what, &list);
    av_h5_close(&attribute);
  }
  if (status == AV_OK) {
    status = finish_list(&list, what, names);
  }
  free(list.text);
  return status;
}

/* "FILE: LINK: attribute NAME"; owned, NULL when out of memory. */
static char *describe_attribute(hid_t object, const char *name) {
  char file[512] = "";
  char link[512] = "";
  if (H5Fget_name(object, file, sizeof file) < 0 || H5Iget_name(object, link, sizeof link) < 0) {
    return av_format("attribute %s", name);
  }
  return av_format("%s: %s: attribute %s", file, link, name);
}

av_status av_h5_attribute_text(hid_t object, const char *name, char **text) {
  *text = NULL;
  char *what = describe_attribute(object, name);
  AV_TRY_ALLOC(what);
  av_names names = {0};
  av_status status = av_attribute_names(object, name, what, &names);
  if (status == AV_OK && names.n > 1) {
    status = av_fail(AV_BADDATA, "%s: holds %" PRId64 " strings, not one", what, names.n);
  }
  if (status == AV_OK && names.n == 1) {
    *text = av_strdup(names.at[0]);
    status = *text == NULL ? av_fail(AV_NOMEM, "out of memory (%s)", what) : AV_OK;
  }
  av_names_free(&names);
  free(what);
  return status;
}
