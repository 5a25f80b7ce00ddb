#include "io/h5ad_put.h"

#include "base/log.h"
#include "base/memory.h"
#include "base/utf8.h"
#include "io/h5.h"
#include "io/h5ad_keys.h"

#include <stdlib.h>
#include <string.h>

/* From here on attributes of a group go to its heap: the header holds at most 64 KiB, and a string
 * in it takes 16 bytes. */
enum { MANY_COLUMNS = 1000 };

av_status av_put_text_type(hid_t *type) {
  AV_TRY(AV_H5_ID(*type, H5Tcopy(H5T_C_S1), "string type"));
  AV_TRY(AV_H5(H5Tset_size(*type, H5T_VARIABLE), "string type"));
  return AV_H5(H5Tset_cset(*type, H5T_CSET_UTF8), "string type");
}

av_status av_put_bool_type(hid_t *type) {
  const int8_t no = 0;
  const int8_t yes = 1;
  AV_TRY(AV_H5_ID(*type, H5Tenum_create(H5T_STD_I8LE), "boolean type"));
  AV_TRY(AV_H5(H5Tenum_insert(*type, "FALSE", &no), "boolean type"));
  return AV_H5(H5Tenum_insert(*type, "TRUE", &yes), "boolean type");
}

/* n < 0 makes a scalar. */
static av_status put_attribute(hid_t object, const char *name, hid_t type, int64_t n,
                               const void *value, const char *what) {
  hid_t space = -1;
  hid_t attribute = -1;
  const hsize_t extent = n < 0 ? 0 : (hsize_t)n;
  av_status status = AV_OK;
  AV_GO(status,
        AV_H5_ID(space, n < 0 ? H5Screate(H5S_SCALAR) : H5Screate_simple(1, &extent, NULL), what),
        done);
  AV_GO(status,
        AV_H5_ID(attribute, H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT), what),
        done);
  if (n != 0) {
    AV_GO(status, AV_H5(H5Awrite(attribute, type, value), what), done);
  }

done:
  av_h5_close(&attribute);
  av_h5_close(&space);
  return status;
}

av_status av_put_text_attribute(hid_t object, const char *name, const char *text,
                                const char *what) {
  hid_t type = -1;
  av_status status = av_put_text_type(&type);
  if (status == AV_OK) {
    status = put_attribute(object, name, type, -1, &text, what);
  }
  av_h5_close(&type);
  return status;
}

av_status av_put_bool_attribute(hid_t object, const char *name, bool value, const char *what) {
  const int8_t byte = value;
  hid_t type = -1;
  av_status status = av_put_bool_type(&type);
  if (status == AV_OK) {
    status = put_attribute(object, name, type, -1, &byte, what);
  }
  av_h5_close(&type);
  return status;
}

av_status av_put_tags(hid_t object, const char *type, const char *version, const char *what) {
  AV_TRY(av_put_text_attribute(object, AV_H5AD_ENCODING_TYPE, type, what));
  return av_put_text_attribute(object, AV_H5AD_ENCODING_VERSION, version, what);
}

/* For links such as "a/b": the groups on the way are made. */
static av_status link_properties(hid_t *properties, const char *what) {
  AV_TRY(AV_H5_ID(*properties, H5Pcreate(H5P_LINK_CREATE), what));
  return AV_H5(H5Pset_create_intermediate_group(*properties, 1), what);
}

static av_status create_group(hid_t *group, hid_t location, const char *link, bool many_attributes,
                              const char *what) {
  hid_t way = -1;
  hid_t creation = -1;
  av_status status = AV_OK;
  AV_GO(status, link_properties(&way, what), done);
  AV_GO(status, AV_H5_ID(creation, H5Pcreate(H5P_GROUP_CREATE), what), done);
  if (many_attributes) {
    AV_GO(status, AV_H5(H5Pset_attr_creation_order(creation, H5P_CRT_ORDER_TRACKED), what), done);
  }
  AV_GO(status, AV_H5_ID(*group, H5Gcreate2(location, link, way, creation, H5P_DEFAULT), what),
        done);

done:
  av_h5_close(&creation);
  av_h5_close(&way);
  return status;
}

av_status av_put_group(hid_t *group, hid_t location, const char *link, const char *type,
                       const char *version, const char *what) {
  AV_TRY(create_group(group, location, link, false, what));
  return av_put_tags(*group, type, version, what);
}

/* The group at `link`, made if nothing is there. */
static av_status ensure_dict(hid_t file, const char *link, const char *path) {
  bool exists = false;
  AV_TRY(av_h5_exists(file, link, &exists));
  char *what = av_format("%s: %s", path, link);
  AV_TRY_ALLOC(what);
  hid_t object = -1;
  av_status status = AV_OK;
  if (!exists) {
    status = av_put_group(&object, file, link, AV_H5AD_ENC_DICT, AV_H5AD_VERSION_1, what);
  } else {
    status = av_h5_open_object(&object, file, link, what);
    if (status == AV_OK && H5Iget_type(object) != H5I_GROUP) {
      status = av_fail(AV_CANTCREATE, "%s: nothing can be added to it: it is not a group", what);
    }
  }
  av_h5_close(&object);
  free(what);
  return status;
}

av_status av_put_parents(hid_t file, const char *link, const char *path) {
  char *part = av_strdup(link);
  AV_TRY_ALLOC(part);
  av_status status = AV_OK;
  for (char *slash = strchr(part, '/'); slash != NULL && status == AV_OK;
       slash = strchr(slash + 1, '/')) {
    *slash = '\0';
    status = ensure_dict(file, part, path);
    *slash = '/';
  }
  free(part);
  return status;
}

av_status av_put_frame_group(hid_t *group, hid_t location, const char *link, int64_t n_columns,
                             const char *what) {
  return create_group(group, location, link, n_columns >= MANY_COLUMNS, what);
}

av_status av_put_frame_tags(hid_t group, const char *index, int64_t n_columns,
                            const char *const *columns, const char *what) {
  AV_TRY(av_put_tags(group, AV_H5AD_ENC_DATAFRAME, AV_H5AD_VERSION_2, what));
  AV_TRY(av_put_text_attribute(group, AV_H5AD_INDEX, index, what));
  hid_t type = -1;
  av_status status = av_put_text_type(&type);
  if (status == AV_OK) {
    status = put_attribute(group, AV_H5AD_COLUMN_ORDER, type, n_columns, columns, what);
  }
  av_h5_close(&type);
  return status;
}

static bool is_utf8(const char *text) { return av_is_utf8(text, strlen(text)); }

static char *from_latin1(const char *text) {
  char *copy = av_calloc(2 * strlen(text) + 1, 1);
  char *to = copy;
  for (const unsigned char *c = (const unsigned char *)text; copy != NULL && *c != 0; ++c) {
    if (*c < 0x80) {
      *to++ = (char)*c;
    } else {
      *to++ = (char)(0xc0 | (*c >> 6));
      *to++ = (char)(0x80 | (*c & 0x3f));
    }
  }
  return copy;
}

/* The same strings with those that are not UTF-8 replaced. `changed` receives the n_changed new
 * ones, to be freed by free_changed; both stay NULL where all are well. */
static av_status make_utf8(int64_t n, const char *const *strings, const char ***clean,
                           char ***changed, int64_t *n_changed) {
  *n_changed = 0;
  for (int64_t i = 0; i < n; ++i) {
    *n_changed += !is_utf8(strings[i]);
  }
  if (*n_changed == 0) {
    return AV_OK;
  }
  *clean = av_calloc((size_t)n, sizeof **clean);
  *changed = av_calloc((size_t)*n_changed, sizeof **changed);
  AV_TRY_ALLOC(*clean);
  AV_TRY_ALLOC(*changed);
  int64_t next = 0;
  for (int64_t i = 0; i < n; ++i) {
    (*clean)[i] = strings[i];
    if (!is_utf8(strings[i])) {
      (*clean)[i] = (*changed)[next] = from_latin1(strings[i]);
      AV_TRY_ALLOC((*changed)[next]);
      ++next;
    }
  }
  return AV_OK;
}

static void free_changed(char **changed, int64_t n) {
  for (int64_t i = 0; changed != NULL && i < n; ++i) {
    free(changed[i]);
  }
  free(changed);
}

/* A dataset with all its values; n_dims = 0 is a scalar. It stays open. */
static av_status put_dataset(hid_t *dataset, hid_t location, const char *link, int n_dims,
                             const hsize_t *dims, hid_t stored, hid_t memory, const void *values,
                             const char *what) {
  hid_t space = -1;
  hid_t way = -1;
  hid_t creation = -1;
  av_status status = AV_OK;
  /* no time stamps: the same content is the same bytes */
  AV_GO(status, AV_H5_ID(creation, H5Pcreate(H5P_DATASET_CREATE), what), done);
  AV_GO(status, AV_H5(H5Pset_obj_track_times(creation, false), what), done);
  AV_GO(status,
        AV_H5_ID(space, n_dims == 0 ? H5Screate(H5S_SCALAR) : H5Screate_simple(n_dims, dims, NULL),
                 what),
        done);
  AV_GO(status, link_properties(&way, what), done);
  AV_GO(status,
        AV_H5_ID(*dataset, H5Dcreate2(location, link, stored, space, way, creation, H5P_DEFAULT),
                 what),
        done);
  if (H5Sget_simple_extent_npoints(space) > 0) {
    AV_GO(status, AV_H5(H5Dwrite(*dataset, memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, values), what),
          done);
  }

done:
  av_h5_close(&creation);
  av_h5_close(&way);
  av_h5_close(&space);
  return status;
}

av_status av_put_strings(hid_t location, const char *link, int64_t n, const char *const *strings,
                         const char *what) {
  const hsize_t extent = (hsize_t)n;
  const char **clean = NULL;
  char **changed = NULL;
  int64_t n_changed = 0;
  hid_t type = -1;
  hid_t dataset = -1;
  av_status status = AV_OK;
  AV_GO(status, make_utf8(n, strings, &clean, &changed, &n_changed), done);
  if (n_changed > 0) {
    av_warn("%s: %lld strings are not UTF-8: taken as Latin-1, e.g. \"%s\"", what,
            (long long)n_changed, changed[0]);
  }
  AV_GO(status, av_put_text_type(&type), done);
  AV_GO(status,
        put_dataset(&dataset, location, link, 1, &extent, type, type,
                    clean != NULL ? clean : strings, what),
        done);
  AV_GO(status, av_put_tags(dataset, AV_H5AD_ENC_STRING_ARRAY, AV_H5AD_VERSION_2, what), done);

done:
  av_h5_close(&dataset);
  av_h5_close(&type);
  free_changed(changed, n_changed);
  free(clean);
  return status;
}

av_status av_put_plain_strings(hid_t location, const char *link, int64_t n,
                               const char *const *strings, const char *what) {
  const hsize_t extent = (hsize_t)n;
  hid_t type = -1;
  hid_t dataset = -1;
  av_status status = av_put_text_type(&type);
  if (status == AV_OK) {
    status = put_dataset(&dataset, location, link, 1, &extent, type, type, strings, what);
  }
  av_h5_close(&dataset);
  av_h5_close(&type);
  return status;
}

av_status av_put_text(hid_t location, const char *link, const char *text, const char *what) {
  char *latin = is_utf8(text) ? NULL : from_latin1(text);
  const char *value = latin != NULL ? latin : text;
  hid_t type = -1;
  hid_t dataset = -1;
  av_status status = AV_OK;
  AV_GO(status, av_put_text_type(&type), done);
  AV_GO(status, put_dataset(&dataset, location, link, 0, NULL, type, type, &value, what), done);
  AV_GO(status, av_put_tags(dataset, AV_H5AD_ENC_STRING, AV_H5AD_VERSION_2, what), done);

done:
  av_h5_close(&dataset);
  av_h5_close(&type);
  free(latin);
  return status;
}

av_status av_put_numbers(hid_t location, const char *link, int n_dims, const hsize_t *dims,
                         hid_t stored, hid_t memory, const void *values, const char *what) {
  hid_t dataset = -1;
  av_status status =
      put_dataset(&dataset, location, link, n_dims, dims, stored, memory, values, what);
  if (status == AV_OK) {
    status = av_put_tags(dataset, n_dims == 0 ? AV_H5AD_ENC_NUMBER : AV_H5AD_ENC_ARRAY,
                         AV_H5AD_VERSION_2, what);
  }
  av_h5_close(&dataset);
  return status;
}

av_status av_put_booleans(hid_t location, const char *link, int64_t n, const unsigned char *values,
                          const char *what) {
  const hsize_t extent = (hsize_t)n;
  hid_t type = -1;
  av_status status = av_put_bool_type(&type);
  if (status == AV_OK) {
    status = av_put_numbers(location, link, 1, &extent, type, type, values, what);
  }
  av_h5_close(&type);
  return status;
}

av_status av_put_matrix(hid_t *dataset, hid_t location, const char *link, int n_dims,
                        const hsize_t *dims, hid_t stored, int64_t chunk_rows, int level,
                        const char *what) {
  enum { CACHE_SLOTS = 101 };
  hid_t space = -1;
  hid_t creation = -1;
  hid_t access = -1;
  hsize_t chunk[2] = {(hsize_t)chunk_rows, n_dims > 1 ? dims[1] : 0};
  bool empty = false;
  for (int i = 0; i < n_dims; ++i) {
    empty = empty || dims[i] == 0;
  }
  av_status status = AV_OK;
  AV_GO(status, AV_H5_ID(space, H5Screate_simple(n_dims, dims, NULL), what), done);
  AV_GO(status, AV_H5_ID(creation, H5Pcreate(H5P_DATASET_CREATE), what), done);
  AV_GO(status, AV_H5_ID(access, H5Pcreate(H5P_DATASET_ACCESS), what), done);
  AV_GO(status, AV_H5(H5Pset_fill_time(creation, H5D_FILL_TIME_NEVER), what), done);
  AV_GO(status, AV_H5(H5Pset_obj_track_times(creation, false), what), done);
  if (level > 0 && !empty) {
    chunk[0] = chunk[0] > dims[0] ? dims[0] : chunk[0];
    const size_t chunk_bytes =
        (size_t)chunk[0] * (size_t)(n_dims > 1 ? chunk[1] : 1) * H5Tget_size(stored);
    AV_GO(status, AV_H5(H5Pset_chunk(creation, n_dims, chunk), what), done);
    AV_GO(status, AV_H5(H5Pset_deflate(creation, (unsigned)level), what), done);
    AV_GO(status, AV_H5(H5Pset_chunk_cache(access, CACHE_SLOTS, 4 * chunk_bytes, 1.0), what), done);
  } else {
    AV_GO(status, AV_H5(H5Pset_alloc_time(creation, H5D_ALLOC_TIME_EARLY), what), done);
  }
  AV_GO(status,
        AV_H5_ID(*dataset, H5Dcreate2(location, link, stored, space, H5P_DEFAULT, creation, access),
                 what),
        done);
  AV_GO(status, av_put_tags(*dataset, AV_H5AD_ENC_ARRAY, AV_H5AD_VERSION_2, what), done);

done:
  av_h5_close(&access);
  av_h5_close(&creation);
  av_h5_close(&space);
  return status;
}
