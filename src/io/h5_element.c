#include "io/h5_element.h"

#include "base/memory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Value of member i of an enumeration. */
static av_status enum_value(hid_t type, unsigned i, const char *what, int64_t *value) {
  unsigned char bytes[16] = {0};
  hid_t base = -1;
  AV_TRY(AV_H5_ID(base, H5Tget_super(type), what));
  av_status status = AV_OK;
  if (H5Tget_size(base) > 8) {
    status =
        av_fail(AV_BADDATA, "%s: an enumeration of %zu-byte integers", what, H5Tget_size(base));
  }
  if (status == AV_OK) {
    status = AV_H5(H5Tget_member_value(type, i, bytes), what);
  }
  if (status == AV_OK) {
    status = AV_H5(H5Tconvert(base, H5T_NATIVE_INT64, 1, bytes, NULL, H5P_DEFAULT), what);
  }
  av_h5_close(&base);
  memcpy(value, bytes, sizeof *value);
  return status;
}

/* AV_FLAG_* that a member's name stands for; -1 if none. */
static int flag_of_name(const char *name) {
  if (strcasecmp(name, "FALSE") == 0) {
    return AV_FLAG_FALSE;
  }
  if (strcasecmp(name, "TRUE") == 0) {
    return AV_FLAG_TRUE;
  }
  return strcasecmp(name, "NA") == 0 ? AV_FLAG_MISSING : -1;
}

static int flag_of_member(hid_t type, unsigned i) {
  char *name = H5Tget_member_name(type, i);
  const int flag = name == NULL ? -1 : flag_of_name(name);
  H5free_memory(name);
  return flag;
}

static bool is_bool(hid_t type) {
  const int n = H5Tget_nmembers(type);
  bool all = n >= 1 && n <= 3;
  for (int i = 0; i < n && all; ++i) {
    all = flag_of_member(type, (unsigned)i) >= 0;
  }
  return all;
}

av_element_kind av_element_kind_of(hid_t type) {
  const size_t size = H5Tget_size(type);
  switch (H5Tget_class(type)) {
    case H5T_STRING:
      return AV_ELEMENT_TEXT;
    case H5T_INTEGER:
      return size <= 8 ? AV_ELEMENT_INTEGER : AV_ELEMENT_OTHER;
    case H5T_FLOAT:
      return AV_ELEMENT_REAL;
    case H5T_ENUM:
      return is_bool(type) ? AV_ELEMENT_BOOL : AV_ELEMENT_OTHER;
    default:
      return AV_ELEMENT_OTHER;
  }
}

const char *av_h5_type_name(hid_t type) {
  static const char *const integers[2][4] = {{"uint8", "uint16", "uint32", "uint64"},
                                             {"int8", "int16", "int32", "int64"}};
  const size_t size = H5Tget_size(type);
  switch (H5Tget_class(type)) {
    case H5T_STRING:
      return "text";
    case H5T_INTEGER:
      for (int i = 0; i < 4; ++i) {
        if (size == (size_t)1 << i) {
          return integers[H5Tget_sign(type) == H5T_SGN_2][i];
        }
      }
      return "integer";
    case H5T_FLOAT:
      return size == 2 ? "float16" : size == 4 ? "float32" : size == 8 ? "float64" : "long double";
    case H5T_ENUM:
      return is_bool(type) ? "bool" : "enumeration";
    case H5T_COMPOUND:
      return "compound";
    case H5T_REFERENCE:
      return "reference";
    case H5T_VLEN:
      return "variable-length array";
    case H5T_ARRAY:
      return "array";
    case H5T_TIME:
      return "time";
    case H5T_BITFIELD:
      return "bitfield";
    default:
      return "opaque";
  }
}

const char *av_element_type_name(const av_element *element) {
  return av_h5_type_name(element->type);
}

/* Number of values of a dataset with at most one dimension. */
static av_status count_values(hid_t dataset, const char *what, int64_t *n) {
  hid_t space = -1;
  AV_TRY(AV_H5_ID(space, H5Dget_space(dataset), what));
  const H5S_class_t class = H5Sget_simple_extent_type(space);
  const int n_dims = H5Sget_simple_extent_ndims(space);
  const hssize_t n_points = H5Sget_simple_extent_npoints(space);
  av_h5_close(&space);
  if (class == H5S_NULL) {
    *n = 0;
    return AV_OK;
  }
  if (n_dims < 0 || n_points < 0) {
    return av_fail(AV_IOERR, "%s: its shape cannot be read", what);
  }
  if (n_dims > 1) {
    return av_fail(AV_BADDATA, "%s: has %d dimensions where a list of values is needed", what,
                   n_dims);
  }
  *n = n_points;
  return AV_OK;
}

av_status av_element_adopt(av_element *element, hid_t dataset, const char *what) {
  *element = (av_element){.dataset = dataset, .type = -1, .what = av_strdup(what)};
  av_status status = AV_OK;
  if (element->what == NULL) {
    AV_GO(status, av_fail(AV_NOMEM, "out of memory (%s)", what), failed);
  }
  if (H5Iget_type(dataset) != H5I_DATASET) {
    AV_GO(status, av_fail(AV_BADDATA, "%s: a group where a list of values is needed", what),
          failed);
  }
  AV_GO(status, av_h5_check_storage(dataset, what), failed);
  AV_GO(status, av_h5_check_filters(dataset, what), failed);
  AV_GO(status, AV_H5_ID(element->type, H5Dget_type(dataset), what), failed);
  AV_GO(status, count_values(dataset, what, &element->n), failed);
  element->kind = av_element_kind_of(element->type);
  return AV_OK;
failed:
  av_element_close(element);
  return status;
}

av_status av_element_open(av_element *element, hid_t location, const char *link, const char *what) {
  *element = AV_ELEMENT_NONE;
  hid_t object = -1;
  AV_TRY(av_h5_open_object(&object, location, link, what));
  return av_element_adopt(element, object, what);
}

av_status av_element_open_member(av_element *element, hid_t dataset, const char *member,
                                 const char *what) {
  *element = AV_ELEMENT_NONE;
  AV_TRY(AV_H5(H5Iinc_ref(dataset), what));
  AV_TRY(av_element_adopt(element, dataset, what));
  const int i = H5Tget_member_index(element->type, member);
  hid_t type = -1;
  av_status status = AV_H5(i, what);
  if (status == AV_OK) {
    status = AV_H5_ID(type, H5Tget_member_type(element->type, (unsigned)i), what);
  }
  element->member = av_strdup(member);
  if (status == AV_OK && element->member == NULL) {
    status = av_fail(AV_NOMEM, "out of memory (%s)", what);
  }
  if (status != AV_OK) {
    av_h5_close(&type);
    av_element_close(element);
    return status;
  }
  av_h5_close(&element->type);
  element->type = type;
  element->kind = av_element_kind_of(type);
  return AV_OK;
}

void av_element_close(av_element *element) {
  av_h5_close(&element->type);
  av_h5_close(&element->dataset);
  free(element->member);
  free(element->what);
  *element = AV_ELEMENT_NONE;
}

/* memory_type, or a compound of only the wanted member in it. */
static av_status memory_type_of(const av_element *element, hid_t memory_type, hid_t *type) {
  if (element->member == NULL) {
    return AV_H5_ID(*type, H5Tcopy(memory_type), element->what);
  }
  AV_TRY(AV_H5_ID(*type, H5Tcreate(H5T_COMPOUND, H5Tget_size(memory_type)), element->what));
  return AV_H5(H5Tinsert(*type, element->member, 0, memory_type), element->what);
}

av_status av_element_read(const av_element *element, hid_t memory_type, int64_t first,
                          int64_t count, void *values) {
  if (count == 0) {
    return AV_OK;
  }
  hid_t type = -1;
  hid_t file_space = -1;
  hid_t memory_space = -1;
  const hsize_t start = (hsize_t)first;
  const hsize_t size = (hsize_t)count;
  const char *what = element->what;
  av_status status = AV_OK;
  AV_GO(status, memory_type_of(element, memory_type, &type), done);
  AV_GO(status, AV_H5_ID(file_space, H5Dget_space(element->dataset), what), done);
  AV_GO(status, AV_H5_ID(memory_space, H5Screate_simple(1, &size, NULL), what), done);
  if (H5Sget_simple_extent_ndims(file_space) > 0) {
    AV_GO(status,
          AV_H5(H5Sselect_hyperslab(file_space, H5S_SELECT_SET, &start, NULL, &size, NULL), what),
          done);
  }
  status =
      AV_H5(H5Dread(element->dataset, type, memory_space, file_space, H5P_DEFAULT, values), what);
done:
  av_h5_close(&memory_space);
  av_h5_close(&file_space);
  av_h5_close(&type);
  return status;
}

static av_status fail_kind(const av_element *element, const char *wanted) {
  return av_fail(AV_BADDATA, "%s: holds %s where %s are needed", element->what,
                 av_element_type_name(element), wanted);
}

av_status av_element_integers(const av_element *element, int64_t **values) {
  *values = NULL;
  if (element->kind != AV_ELEMENT_INTEGER && element->kind != AV_ELEMENT_BOOL) {
    return fail_kind(element, "integers");
  }
  int64_t *read = av_malloc((size_t)element->n, sizeof *read);
  AV_TRY_ALLOC(read);
  const bool wide_unsigned = element->kind == AV_ELEMENT_INTEGER &&
                             H5Tget_size(element->type) == 8 &&
                             H5Tget_sign(element->type) == H5T_SGN_NONE;
  av_status status = av_element_read(element, wide_unsigned ? H5T_NATIVE_UINT64 : H5T_NATIVE_INT64,
                                     0, element->n, read);
  for (int64_t i = 0; wide_unsigned && status == AV_OK && i < element->n; ++i) {
    if (read[i] < 0) { /* HDF5 would have clipped it */
      status = av_fail(AV_BADDATA, "%s: value %llu in row %lld is too large", element->what,
                       (unsigned long long)read[i], (long long)i);
    }
  }
  if (status != AV_OK) {
    free(read);
    return status;
  }
  *values = read;
  return AV_OK;
}

av_status av_element_reals(const av_element *element, double **values) {
  *values = NULL;
  if (element->kind == AV_ELEMENT_TEXT || element->kind == AV_ELEMENT_OTHER) {
    return fail_kind(element, "numbers");
  }
  double *read = av_malloc((size_t)element->n, sizeof *read);
  AV_TRY_ALLOC(read);
  const av_status status = av_element_read(element, H5T_NATIVE_DOUBLE, 0, element->n, read);
  if (status != AV_OK) {
    free(read);
    return status;
  }
  *values = read;
  return AV_OK;
}

/* Integers of a bool enumeration to AV_FLAG_*, by the names of its members. */
static av_status map_members(const av_element *element, const int64_t *stored,
                             unsigned char *flags) {
  int64_t value[3] = {0};
  int flag[3] = {0};
  const int n = H5Tget_nmembers(element->type);
  for (int m = 0; m < n; ++m) {
    AV_TRY(enum_value(element->type, (unsigned)m, element->what, &value[m]));
    flag[m] = flag_of_member(element->type, (unsigned)m);
  }
  for (int64_t i = 0; i < element->n; ++i) {
    int m = 0;
    while (m < n && value[m] != stored[i]) {
      ++m;
    }
    if (m == n) {
      return av_fail(AV_BADDATA, "%s: value %lld in row %lld is neither false nor true",
                     element->what, (long long)stored[i], (long long)i);
    }
    flags[i] = (unsigned char)flag[m];
  }
  return AV_OK;
}

static av_status map_numbers(const av_element *element, const double *stored,
                             unsigned char *flags) {
  for (int64_t i = 0; i < element->n; ++i) {
    if (isnan(stored[i])) {
      flags[i] = AV_FLAG_MISSING;
    } else if (stored[i] == 0 || stored[i] == 1) {
      flags[i] = stored[i] == 1 ? AV_FLAG_TRUE : AV_FLAG_FALSE;
    } else {
      return av_fail(AV_BADDATA, "%s: value %g in row %lld is neither 0 nor 1", element->what,
                     stored[i], (long long)i);
    }
  }
  return AV_OK;
}

av_status av_element_flags(const av_element *element, unsigned char **values) {
  *values = NULL;
  unsigned char *flags = av_malloc((size_t)element->n, 1);
  AV_TRY_ALLOC(flags);
  int64_t *integers = NULL;
  double *reals = NULL;
  av_status status = AV_OK;
  if (element->kind == AV_ELEMENT_BOOL) {
    AV_GO(status, av_element_integers(element, &integers), done);
    status = map_members(element, integers, flags);
  } else {
    AV_GO(status, av_element_reals(element, &reals), done);
    status = map_numbers(element, reals, flags);
  }
done:
  free(integers);
  free(reals);
  if (status == AV_OK) {
    *values = flags;
  } else {
    free(flags);
  }
  return status;
}
