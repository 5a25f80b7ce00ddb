#include "io/matrix.h"

#include "base/memory.h"
#include "io/h5ad_keys.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MIB = 1 << 20, LARGEST_CACHE = 512 * MIB };

void av_matrix_close(av_matrix *matrix) {
  av_h5_close(&matrix->data);
  av_h5_close(&matrix->indices);
  av_h5_close(&matrix->indptr);
  free(matrix->what);
  *matrix = (av_matrix){.data = -1, .indices = -1, .indptr = -1};
}

/* Fails if `link` or a group on the way to it is a link into another file: following one through
 * MPI-IO would be a collective open. */
static av_status refuse_external(hid_t location, const char *link, const char *what) {
  char *path = av_strdup(link + strspn(link, "/"));
  AV_TRY_ALLOC(path);
  av_status status = AV_OK;
  for (char *end = path; status == AV_OK && end != NULL; *end++ = '/') {
    end = strchr(end, '/');
    if (end != NULL) {
      *end = '\0';
    }
    H5L_info_t info;
    status = AV_H5(H5Lget_info(location, path, &info, H5P_DEFAULT), what);
    if (status == AV_OK && info.type == H5L_TYPE_EXTERNAL) {
      status = av_fail(AV_BADDATA,
                       "%s: \"%s\" is a link into another file; write a file that holds its own "
                       "values: anndata.read_h5ad(...).write_h5ad(...)",
                       what, path);
    }
    if (end == NULL) {
      break;
    }
  }
  free(path);
  return status;
}

/* Opens `link` if it exists and is neither a null dataset nor an external link; otherwise *object =
 * -1. */
static av_status open_if_there(hid_t *object, hid_t file, const char *link, const char *what) {
  *object = -1;
  bool exists = false;
  AV_TRY(av_h5_exists(file, link, &exists));
  if (!exists) {
    return AV_OK;
  }
  AV_TRY(refuse_external(file, link, what));
  AV_TRY(av_h5_open_object(object, file, link, what));
  if (H5Iget_type(*object) == H5I_DATASET) {
    hid_t space = -1;
    av_status status = AV_H5_ID(space, H5Dget_space(*object), what);
    if (status != AV_OK || H5Sget_simple_extent_type(space) == H5S_NULL) {
      av_h5_close(object);
    }
    av_h5_close(&space);
    return status;
  }
  return AV_OK;
}

typedef struct link_list {
  av_status status;
  int64_t n;
  char **at;
} link_list;

static void add_link(link_list *list, const char *folder, const char *name) {
  char **grown = av_realloc(list->at, (size_t)list->n + 1, sizeof *grown);
  char *text = av_format("%s%s", folder, name);
  if (grown != NULL) {
    list->at = grown;
  }
  if (grown == NULL || text == NULL) {
    free(text);
    list->status = av_fail(AV_NOMEM, "out of memory (list of matrices)");
    return;
  }
  list->at[list->n++] = text;
}

static herr_t add_layer(hid_t group, const char *name, const H5L_info_t *info, void *list) {
  (void)group;
  (void)info;
  add_link(list, AV_H5AD_LAYERS "/", name);
  return ((link_list *)list)->status == AV_OK ? 0 : 1;
}

/* Adds `link` under the name users give it, if it holds a matrix. */
static void add_if_there(link_list *list, hid_t file, const char *link, const char *name,
                         const char *path) {
  hid_t object = -1;
  if (list->status == AV_OK) {
    list->status = open_if_there(&object, file, link, path);
  }
  if (object >= 0) {
    add_link(list, "", name);
  }
  av_h5_close(&object);
}

av_status av_matrix_list(av_names *links, hid_t file, const char *path) {
  link_list list = {0};
  add_if_there(&list, file, AV_H5AD_X, AV_H5AD_X, path);
  hid_t layers = -1;
  if (list.status == AV_OK) {
    list.status = open_if_there(&layers, file, AV_H5AD_LAYERS, path);
  }
  if (layers >= 0 && H5Iget_type(layers) == H5I_GROUP) {
    hsize_t at = 0;
    const herr_t done = H5Literate(layers, H5_INDEX_NAME, H5_ITER_INC, &at, add_layer, &list);
    if (list.status == AV_OK) {
      list.status = AV_H5(done, path);
    }
  }
  av_h5_close(&layers);
  const int64_t n_before = list.n;
  add_if_there(&list, file, AV_H5AD_RAW_X, AV_H5AD_RAW_X, path);
  if (list.n == n_before) {
    add_if_there(&list, file, AV_H5AD_OLD_RAW_X, AV_H5AD_RAW_X, path);
  }
  if (list.status == AV_OK) {
    list.status = av_names_copy(links, list.n, (const char *const *)list.at);
  }
  for (int64_t i = 0; i < list.n; ++i) {
    free(list.at[i]);
  }
  free(list.at);
  return list.status;
}

static av_status fail_absent(hid_t file, const char *path, const char *counts) {
  av_names links = {0};
  AV_TRY(av_matrix_list(&links, file, path));
  char *all = av_strdup("");
  for (int64_t i = 0; i < links.n && all != NULL; ++i) {
    char *longer = av_format("%s%s%s", all, i == 0 ? "" : ", ", links.at[i]);
    free(all);
    all = longer;
  }
  av_status status = AV_NOMEM;
  if (all == NULL) {
    av_fail(AV_NOMEM, "out of memory (list of matrices)");
  } else {
    status = av_fail(AV_CONFIG, "%s: no %s; the file has %s ([data] counts)", path, counts,
                     links.n == 0 ? "no matrix at all" : all);
  }
  free(all);
  av_names_free(&links);
  return status;
}

av_status av_matrix_chunk(hid_t dataset, const char *what, int n_dims, hsize_t *chunk,
                          int64_t *bytes) {
  *bytes = 0;
  hid_t properties = -1;
  AV_TRY(AV_H5_ID(properties, H5Dget_create_plist(dataset), what));
  hid_t type = -1;
  av_status status = AV_OK;
  if (H5Pget_layout(properties) == H5D_CHUNKED) {
    AV_GO(status, AV_H5(H5Pget_chunk(properties, n_dims, chunk), what), done);
    AV_GO(status, AV_H5_ID(type, H5Dget_type(dataset), what), done);
    double product = (double)H5Tget_size(type); /* HDF5 keeps chunks below 4 GiB */
    for (int i = 0; i < n_dims; ++i) {
      product *= (double)chunk[i];
    }
    *bytes = (int64_t)product;
  }
done:
  av_h5_close(&type);
  av_h5_close(&properties);
  return status;
}

static bool has_no_filters(hid_t dataset) {
  hid_t properties = H5Dget_create_plist(dataset);
  const bool none = properties >= 0 && H5Pget_nfilters(properties) == 0;
  av_h5_close(&properties);
  return none;
}

/* Replaces `dataset` by the same one with a chunk cache of two chunks: neighbouring blocks share a
 * chunk, and one that holds everything (R) is decompressed once. At most 512 MiB, or one chunk if
 * that is larger (HDF5 has it in memory whole anyway while it decompresses). Values in a row
 * without filters get no cache: HDF5 then reads just what is asked for, where otherwise it takes
 * the size of a chunk from a record beside it, and reads past its memory if a damaged file has it
 * too small. */
static av_status widen_cache(hid_t *dataset, int n_dims, hid_t location, const char *link,
                             const char *what) {
  hsize_t chunk[2];
  int64_t bytes = 0;
  AV_TRY(av_matrix_chunk(*dataset, what, n_dims, chunk, &bytes));
  const bool direct = n_dims == 1 && bytes > 0 && has_no_filters(*dataset);
  if (!direct && 2 * bytes <= MIB) { /* HDF5's own cache is 1 MiB */
    return AV_OK;
  }
  int64_t cache = 2 * bytes < LARGEST_CACHE ? 2 * bytes : LARGEST_CACHE;
  cache = direct ? 0 : cache < bytes ? bytes : cache;
  hid_t access = -1;
  AV_TRY(AV_H5_ID(access, H5Pcreate(H5P_DATASET_ACCESS), what));
  av_status status = AV_H5(H5Pset_chunk_cache(access, 521, (size_t)cache, 1.0), what);
  if (status == AV_OK) {
    av_h5_close(dataset);
    status = AV_H5_ID(*dataset, H5Dopen2(location, link, access), what);
  }
  av_h5_close(&access);
  return status;
}

/* Extents of a dataset of n_dims dimensions; a null dataspace counts as empty. */
static av_status read_extents(hid_t dataset, int n_dims, int64_t *extents, const char *what) {
  hid_t space = -1;
  hsize_t size[H5S_MAX_RANK] = {0};
  AV_TRY(AV_H5_ID(space, H5Dget_space(dataset), what));
  const bool null = H5Sget_simple_extent_type(space) == H5S_NULL;
  const int found = null ? n_dims : H5Sget_simple_extent_ndims(space);
  av_status status = AV_OK;
  if (found != n_dims) {
    status = av_fail(AV_BADDATA, "%s: has %d dimensions where %d are needed", what, found, n_dims);
  } else if (!null) {
    status = AV_H5(H5Sget_simple_extent_dims(space, size, NULL), what);
  }
  for (int i = 0; i < n_dims; ++i) {
    extents[i] = (int64_t)size[i];
  }
  av_h5_close(&space);
  return status;
}

static bool is_bool(hid_t type) {
  return H5Tget_class(type) == H5T_ENUM && H5Tget_nmembers(type) == 2;
}

/* Fails unless the dataset holds numbers; `whole`: integers only. */
static av_status check_type(hid_t dataset, bool whole, bool *integer_type, const char *what) {
  hid_t type = -1;
  AV_TRY(AV_H5_ID(type, H5Dget_type(dataset), what));
  const H5T_class_t class = H5Tget_class(type);
  const bool integer = class == H5T_INTEGER || (!whole && is_bool(type));
  const bool fine = integer || (!whole && class == H5T_FLOAT);
  av_h5_close(&type);
  if (integer_type != NULL) {
    *integer_type = integer;
  }
  return fine ? AV_OK
              : av_fail(AV_BADDATA, "%s: holds no %s: not a matrix this program can read", what,
                        whole ? "integers" : "numbers");
}

static av_status check_storage(hid_t dataset, const char *what) {
  AV_TRY(av_h5_check_storage(dataset, what));
  return av_h5_check_filters(dataset, what);
}

static av_status open_dense(av_matrix *matrix, hid_t file, const char *link) {
  matrix->layout = AV_MATRIX_DENSE;
  int64_t extents[2] = {0, 0};
  AV_TRY(check_storage(matrix->data, matrix->what));
  AV_TRY(read_extents(matrix->data, 2, extents, matrix->what));
  AV_TRY(check_type(matrix->data, false, &matrix->integer_type, matrix->what));
  AV_TRY(widen_cache(&matrix->data, 2, file, link, matrix->what));
  matrix->n_rows = extents[0];
  matrix->n_columns = extents[1];
  if (__builtin_mul_overflow(extents[0], extents[1], &matrix->n_stored)) {
    return av_fail(AV_BADDATA, "%s: impossible shape %lld x %lld", matrix->what,
                   (long long)extents[0], (long long)extents[1]);
  }
  return AV_OK;
}

/* The two numbers of a `shape` attribute of any numeric type; *found = false if it is not there. */
static av_status read_shape(hid_t group, const char *name, int64_t *shape, bool *found,
                            const char *what) {
  const htri_t exists = H5Aexists(group, name);
  AV_TRY(AV_H5(exists, what));
  *found = exists > 0;
  if (!*found) {
    return AV_OK;
  }
  hid_t attribute = -1;
  hid_t space = -1;
  hid_t type = -1;
  av_status status = AV_OK;
  double values[2] = {-1, -1};
  AV_GO(status, AV_H5_ID(attribute, H5Aopen(group, name, H5P_DEFAULT), what), done);
  AV_GO(status, AV_H5_ID(space, H5Aget_space(attribute), what), done);
  AV_GO(status, AV_H5_ID(type, H5Aget_type(attribute), what), done);
  const H5T_class_t class = H5Tget_class(type);
  if ((class == H5T_INTEGER || class == H5T_FLOAT) && H5Sget_simple_extent_npoints(space) == 2) {
    AV_GO(status, AV_H5(H5Aread(attribute, H5T_NATIVE_DOUBLE, values), what), done);
  }
  for (int i = 0; i < 2; ++i) {
    if (!(values[i] >= 0 && values[i] <= 0x1p53 && floor(values[i]) == values[i])) {
      status = av_fail(AV_BADDATA, "%s: attribute \"%s\" is not two whole numbers", what, name);
      goto done;
    }
    shape[i] = (int64_t)values[i];
  }
done:
  av_h5_close(&type);
  av_h5_close(&space);
  av_h5_close(&attribute);
  return status;
}

/* CSR or CSC, from the marks of anndata 0.7 and later or of the h5sparse era. */
static av_status read_layout(av_matrix *matrix, hid_t group) {
  char *encoding = NULL;
  char *format = NULL;
  AV_TRY(av_h5_attribute_text(group, AV_H5AD_ENCODING_TYPE, &encoding));
  av_status status = av_h5_attribute_text(group, AV_H5AD_OLD_SPARSE_FORMAT, &format);
  if (status == AV_OK) {
    const char *mark = encoding != NULL ? encoding : format != NULL ? format : "";
    if (strcmp(mark, AV_H5AD_ENC_CSR) == 0 || strcmp(mark, "csr") == 0) {
      matrix->layout = AV_MATRIX_CSR;
    } else if (strcmp(mark, AV_H5AD_ENC_CSC) == 0 || strcmp(mark, "csc") == 0) {
      matrix->layout = AV_MATRIX_CSC;
    } else if (mark[0] == '\0') {
      status =
          av_fail(AV_BADDATA, "%s: a group without \"encoding-type\": not a matrix", matrix->what);
    } else {
      status =
          av_fail(AV_BADDATA, "%s: encoding \"%s\" is not one of csr_matrix, csc_matrix, array",
                  matrix->what, mark);
    }
  }
  free(encoding);
  free(format);
  return status;
}

/* One of data, indices, indptr: checked, with its length. */
static av_status open_part(hid_t *dataset, int64_t *length, hid_t group, const char *name,
                           av_matrix *matrix) {
  char *what = av_format("%s/%s", matrix->what, name);
  AV_TRY_ALLOC(what);
  bool exists = false;
  av_status status = AV_OK;
  AV_GO(status, av_h5_exists(group, name, &exists), done);
  if (!exists) {
    status = av_fail(AV_BADDATA, "%s: missing: the sparse matrix is incomplete", what);
    goto done;
  }
  AV_GO(status, refuse_external(group, name, what), done);
  AV_GO(status, av_h5_open_object(dataset, group, name, what), done);
  if (H5Iget_type(*dataset) != H5I_DATASET) {
    status = av_fail(AV_BADDATA, "%s: not a dataset", what);
    goto done;
  }
  const bool values = strcmp(name, AV_H5AD_DATA) == 0;
  AV_GO(status, check_storage(*dataset, what), done);
  AV_GO(status, read_extents(*dataset, 1, length, what), done);
  AV_GO(status, check_type(*dataset, !values, values ? &matrix->integer_type : NULL, what), done);
  AV_GO(status, widen_cache(dataset, 1, group, name, what), done);
done:
  free(what);
  return status;
}

static av_status open_sparse(av_matrix *matrix, hid_t group) {
  int64_t shape[2] = {0, 0};
  bool found = false;
  AV_TRY(read_layout(matrix, group));
  AV_TRY(read_shape(group, AV_H5AD_SHAPE, shape, &found, matrix->what));
  if (!found) {
    AV_TRY(read_shape(group, AV_H5AD_OLD_SPARSE_SHAPE, shape, &found, matrix->what));
  }
  if (!found) {
    return av_fail(AV_BADDATA, "%s: no attribute \"shape\": the sparse matrix is incomplete",
                   matrix->what);
  }
  matrix->n_rows = shape[0];
  matrix->n_columns = shape[1];
  int64_t n_indices = 0;
  int64_t n_pointers = 0;
  AV_TRY(open_part(&matrix->data, &matrix->n_stored, group, AV_H5AD_DATA, matrix));
  AV_TRY(open_part(&matrix->indices, &n_indices, group, AV_H5AD_INDICES, matrix));
  AV_TRY(open_part(&matrix->indptr, &n_pointers, group, AV_H5AD_INDPTR, matrix));
  if (n_indices != matrix->n_stored) {
    return av_fail(AV_BADDATA, "%s: damaged: %lld values in data but %lld in indices", matrix->what,
                   (long long)matrix->n_stored, (long long)n_indices);
  }
  const int64_t n_major = shape[matrix->layout == AV_MATRIX_CSC];
  if (n_pointers - 1 != n_major) {
    return av_fail(AV_BADDATA,
                   "%s: damaged: indptr has %lld values where the shape %lld x %lld "
                   "needs %lld",
                   matrix->what, (long long)n_pointers, (long long)shape[0], (long long)shape[1],
                   (long long)n_major + 1);
  }
  if (matrix->layout == AV_MATRIX_CSC && shape[0] >= INT32_MAX) {
    return av_fail(AV_BADDATA,
                   "%s: stored by columns with %lld rows, of which this program takes "
                   "%d at most; write it as CSR",
                   matrix->what, (long long)shape[0], INT32_MAX - 1);
  }
  return AV_OK;
}

static av_status open_object(av_matrix *matrix, hid_t file, const char *path, const char *counts) {
  hid_t object = -1;
  const char *link = counts;
  AV_TRY(open_if_there(&object, file, link, matrix->what));
  if (object < 0 && strcmp(counts, AV_H5AD_RAW_X) == 0) {
    link = AV_H5AD_OLD_RAW_X;
    AV_TRY(open_if_there(&object, file, link, matrix->what));
  }
  if (object < 0) {
    return fail_absent(file, path, counts);
  }
  if (H5Iget_type(object) == H5I_DATASET) {
    matrix->data = object;
    AV_TRY(open_dense(matrix, file, link));
  } else if (H5Iget_type(object) == H5I_GROUP) {
    const av_status status = open_sparse(matrix, object);
    av_h5_close(&object);
    AV_TRY(status);
  } else {
    av_h5_close(&object);
    return av_fail(AV_BADDATA, "%s: not a matrix", matrix->what);
  }
  if (matrix->n_columns >= INT32_MAX) {
    return av_fail(AV_BADDATA, "%s: %lld columns; this program takes %d genes at most",
                   matrix->what, (long long)matrix->n_columns, INT32_MAX - 1);
  }
  return AV_OK;
}

av_status av_matrix_open(av_matrix *matrix, hid_t file, const char *path, const char *counts) {
  *matrix = (av_matrix){.data = -1, .indices = -1, .indptr = -1};
  matrix->what = av_format("%s: %s", path, counts);
  AV_TRY_ALLOC(matrix->what);
  const av_status status = open_object(matrix, file, path, counts);
  if (status != AV_OK) {
    av_matrix_close(matrix);
  }
  return status;
}
