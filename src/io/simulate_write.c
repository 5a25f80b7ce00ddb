#include "io/simulate_write.h"

#include "base/memory.h"
#include "io/h5.h"
#include "io/h5ad_keys.h"
#include "io/h5ad_put.h"
#include "io/safe_file.h"

#include <stdio.h>
#include <stdlib.h>

#define SETTINGS "uns/simulation"

enum { NAMES_AT_ONCE = 16384, MAX_GENE_COLUMNS = 8 };

struct av_sim_file {
  av_safe_file safe;
  const char *path; /* of `safe`, for messages */
  av_sim_shape shape;
  int64_t cells_written, nonzeros;
  hid_t file, text_type;
  hid_t names, batch, label, library, z, indptr, indices, data; /* grown by append */
  hid_t var;
  int n_gene_columns;
  char *gene_columns[MAX_GENE_COLUMNS];
};

/* ---- datasets ----------------------------------------------------------------------------------
 */

/* Properties of a dataset without a time stamp: the same settings give the same bytes. */
static av_status dataset_properties(av_sim_file *f, hid_t *properties) {
  AV_TRY(AV_H5_ID(*properties, H5Pcreate(H5P_DATASET_CREATE), f->path));
  return AV_H5(H5Pset_obj_track_times(*properties, false), f->path);
}

/* rows x columns of `type` (columns 0: one-dimensional; rows < 0: a scalar), tagged unless
 * `encoding` is NULL. */
static av_status make_dataset(av_sim_file *f, hid_t *dataset, const char *link, hid_t type,
                              int64_t rows, int64_t columns, const char *encoding) {
  const hsize_t extent[2] = {(hsize_t)rows, (hsize_t)columns};
  hid_t space = -1;
  hid_t properties = -1;
  av_status status = AV_OK;
  AV_GO(status, dataset_properties(f, &properties), done);
  AV_GO(status,
        AV_H5_ID(
            space,
            rows < 0 ? H5Screate(H5S_SCALAR) : H5Screate_simple(columns == 0 ? 1 : 2, extent, NULL),
            f->path),
        done);
  AV_GO(status,
        AV_H5_ID(*dataset,
                 H5Dcreate2(f->file, link, type, space, H5P_DEFAULT, properties, H5P_DEFAULT),
                 f->path),
        done);
  if (encoding != NULL) {
    AV_GO(status, av_put_tags(*dataset, encoding, AV_H5AD_VERSION_2, f->path), done);
  }
done:
  av_h5_close(&properties);
  av_h5_close(&space);
  return status;
}

/* Elements a chunk of 4 bytes each, about what h5py chooses for that many: 32 KiB for 10^6,
 * doubling for every tenfold, at most 1 MiB. */
static hsize_t chunk_elements(double expected) {
  hsize_t elements = 1024;
  for (double n = 1e5; n < expected && elements < (1 << 18); n *= elements < 8192 ? 2.2 : 10) {
    elements *= 2;
  }
  return elements;
}

/* An extendible one-dimensional dataset, as anndata makes them for sparse matrices. */
static av_status make_extendible(av_sim_file *f, hid_t *dataset, const char *link, hid_t type) {
  const hsize_t none = 0;
  const hsize_t unlimited = H5S_UNLIMITED;
  const hsize_t chunk = chunk_elements(f->shape.nonzeros_expected);
  hid_t space = -1;
  hid_t properties = -1;
  av_status status = AV_OK;
  AV_GO(status, AV_H5_ID(space, H5Screate_simple(1, &none, &unlimited), f->path), done);
  AV_GO(status, dataset_properties(f, &properties), done);
  AV_GO(status, AV_H5(H5Pset_chunk(properties, 1, &chunk), f->path), done);
  if (f->shape.compression > 0) {
    AV_GO(status, AV_H5(H5Pset_shuffle(properties), f->path), done);
    AV_GO(status, AV_H5(H5Pset_deflate(properties, (unsigned)f->shape.compression), f->path), done);
  }
  AV_GO(status,
        AV_H5_ID(*dataset,
                 H5Dcreate2(f->file, link, type, space, H5P_DEFAULT, properties, H5P_DEFAULT),
                 f->path),
        done);
done:
  av_h5_close(&properties);
  av_h5_close(&space);
  return status;
}

/* Writes rows [first, first + n) of a one- or two-dimensional dataset (columns 0: one). */
static av_status write_rows(av_sim_file *f, hid_t dataset, hid_t memory_type, int64_t first,
                            int64_t n, int64_t columns, const void *values) {
  if (n == 0) {
    return AV_OK;
  }
  const int rank = columns == 0 ? 1 : 2;
  const hsize_t start[2] = {(hsize_t)first, 0};
  const hsize_t count[2] = {(hsize_t)n, (hsize_t)columns};
  hid_t file_space = -1;
  hid_t memory_space = -1;
  av_status status = AV_OK;
  AV_GO(status, AV_H5_ID(file_space, H5Dget_space(dataset), f->path), done);
  AV_GO(status,
        AV_H5(H5Sselect_hyperslab(file_space, H5S_SELECT_SET, start, NULL, count, NULL), f->path),
        done);
  AV_GO(status, AV_H5_ID(memory_space, H5Screate_simple(rank, count, NULL), f->path), done);
  AV_GO(
      status,
      AV_H5(H5Dwrite(dataset, memory_type, memory_space, file_space, H5P_DEFAULT, values), f->path),
      done);
done:
  av_h5_close(&memory_space);
  av_h5_close(&file_space);
  return status;
}

/* "cell_0", "cell_1", ... into rows [first, first + n) of a string dataset. */
static av_status write_names(av_sim_file *f, hid_t dataset, const char *prefix, int64_t first,
                             int64_t n) {
  enum { WIDTH = 32 };
  char *text = av_malloc(NAMES_AT_ONCE, WIDTH);
  const char **at = av_malloc(NAMES_AT_ONCE, sizeof *at);
  av_status status = AV_OK;
  if (text == NULL || at == NULL) {
    status = av_fail(AV_NOMEM, "out of memory (%d names)", NAMES_AT_ONCE);
    goto done;
  }
  for (int64_t next = first; next < first + n; next += NAMES_AT_ONCE) {
    const int64_t left = first + n - next;
    const int64_t piece = left < NAMES_AT_ONCE ? left : NAMES_AT_ONCE;
    for (int64_t i = 0; i < piece; ++i) {
      const long long number = next + i;
      snprintf(text + i * WIDTH, WIDTH, "%s_%lld", prefix, number);
      at[i] = text + i * WIDTH;
    }
    AV_GO(status, write_rows(f, dataset, f->text_type, next, piece, 0, at), done);
  }
done:
  free(at);
  free(text);
  return status;
}

/* obs/NAME with categories PREFIX_0, ...; `codes` stays open for append. */
static av_status make_categorical(av_sim_file *f, hid_t *codes, const char *name,
                                  const char *prefix, int64_t n_categories) {
  char link[64];
  hid_t group = -1;
  hid_t categories = -1;
  av_status status = AV_OK;
  snprintf(link, sizeof link, AV_H5AD_OBS "/%s", name);
  AV_GO(status,
        av_put_group(&group, f->file, link, AV_H5AD_ENC_CATEGORICAL, AV_H5AD_VERSION_2, f->path),
        done);
  AV_GO(status, av_put_bool_attribute(group, AV_H5AD_ORDERED, false, f->path), done);
  snprintf(link, sizeof link, AV_H5AD_OBS "/%s/" AV_H5AD_CATEGORIES, name);
  AV_GO(status,
        make_dataset(f, &categories, link, f->text_type, n_categories, 0, AV_H5AD_ENC_STRING_ARRAY),
        done);
  AV_GO(status, write_names(f, categories, prefix, 0, n_categories), done);
  snprintf(link, sizeof link, AV_H5AD_OBS "/%s/" AV_H5AD_CODES, name);
  AV_GO(status,
        make_dataset(f, codes, link, n_categories <= 127 ? H5T_STD_I8LE : H5T_STD_I16LE,
                     f->shape.cells, 0, AV_H5AD_ENC_ARRAY),
        done);
done:
  av_h5_close(&categories);
  av_h5_close(&group);
  return status;
}

/* ---- the parts of the file ----------------------------------------------------------------------
 */

static av_status put_shape(av_sim_file *f, hid_t group) {
  const int64_t shape[2] = {f->shape.cells, f->shape.genes};
  const hsize_t two = 2;
  hid_t space = -1;
  hid_t attribute = -1;
  av_status status = AV_OK;
  AV_GO(status, AV_H5_ID(space, H5Screate_simple(1, &two, NULL), f->path), done);
  AV_GO(status,
        AV_H5_ID(attribute,
                 H5Acreate2(group, AV_H5AD_SHAPE, H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT),
                 f->path),
        done);
  AV_GO(status, AV_H5(H5Awrite(attribute, H5T_NATIVE_INT64, shape), f->path), done);
done:
  av_h5_close(&attribute);
  av_h5_close(&space);
  return status;
}

static av_status make_x(av_sim_file *f) {
  const double limit = 0.8 * 2147483648.0; /* the estimate is good to 1 %, the margin is 20 % */
  const double bound = (double)f->shape.cells * (double)f->shape.genes;
  const bool wide = bound >= 2147483648.0 && f->shape.nonzeros_expected >= limit;
  const hid_t type = wide ? H5T_STD_I64LE : H5T_STD_I32LE;
  hid_t group = -1;
  av_status status = AV_OK;
  AV_GO(status,
        av_put_group(&group, f->file, AV_H5AD_X, AV_H5AD_ENC_CSR, AV_H5AD_VERSION_1, f->path),
        done);
  AV_GO(status, put_shape(f, group), done);
  AV_GO(status, make_extendible(f, &f->data, AV_H5AD_X "/" AV_H5AD_DATA, H5T_IEEE_F32LE), done);
  AV_GO(status, make_extendible(f, &f->indices, AV_H5AD_X "/" AV_H5AD_INDICES, type), done);
  AV_GO(
      status,
      make_dataset(f, &f->indptr, AV_H5AD_X "/" AV_H5AD_INDPTR, type, f->shape.cells + 1, 0, NULL),
      done);
  AV_GO(status, write_rows(f, f->indptr, H5T_NATIVE_INT64, 0, 1, 0, &f->nonzeros), done);
done:
  av_h5_close(&group);
  return status;
}

static av_status make_obs(av_sim_file *f) {
  static const char *const columns[] = {"batch", "label", "true_library"};
  hid_t obs = -1;
  av_status status = AV_OK;
  AV_GO(status, av_put_frame_group(&obs, f->file, AV_H5AD_OBS, 3, f->path), done);
  AV_GO(status, av_put_frame_tags(obs, AV_H5AD_INDEX, 3, columns, f->path), done);
  AV_GO(status,
        make_dataset(f, &f->names, AV_H5AD_OBS "/" AV_H5AD_INDEX, f->text_type, f->shape.cells, 0,
                     AV_H5AD_ENC_STRING_ARRAY),
        done);
  AV_GO(status, make_categorical(f, &f->batch, "batch", "batch", f->shape.batches), done);
  AV_GO(status, make_categorical(f, &f->label, "label", "type", f->shape.labels), done);
  AV_GO(status,
        make_dataset(f, &f->library, AV_H5AD_OBS "/true_library", H5T_IEEE_F64LE, f->shape.cells, 0,
                     AV_H5AD_ENC_ARRAY),
        done);
done:
  av_h5_close(&obs);
  return status;
}

static av_status make_var(av_sim_file *f) {
  hid_t names = -1;
  av_status status = AV_OK;
  AV_GO(status, av_put_frame_group(&f->var, f->file, AV_H5AD_VAR, MAX_GENE_COLUMNS, f->path), done);
  AV_GO(status,
        make_dataset(f, &names, AV_H5AD_VAR "/" AV_H5AD_INDEX, f->text_type, f->shape.genes, 0,
                     AV_H5AD_ENC_STRING_ARRAY),
        done);
  AV_GO(status, write_names(f, names, "gene", 0, f->shape.genes), done);
done:
  av_h5_close(&names);
  return status;
}

static av_status make_contents(av_sim_file *f) {
  static const char *const mappings[] = {AV_H5AD_LAYERS, AV_H5AD_OBSM, AV_H5AD_VARM, AV_H5AD_OBSP,
                                         AV_H5AD_VARP,   AV_H5AD_UNS,  SETTINGS};
  AV_TRY(av_put_text_type(&f->text_type));
  AV_TRY(av_safe_file_open(&f->safe, true, &f->file));
  AV_TRY(av_put_tags(f->file, AV_H5AD_ENC_ANNDATA, AV_H5AD_VERSION_1, f->path));
  for (size_t i = 0; i < sizeof mappings / sizeof mappings[0]; ++i) {
    hid_t group = -1;
    const av_status status =
        av_put_group(&group, f->file, mappings[i], AV_H5AD_ENC_DICT, AV_H5AD_VERSION_1, f->path);
    av_h5_close(&group);
    AV_TRY(status);
  }
  AV_TRY(make_x(f));
  AV_TRY(make_obs(f));
  AV_TRY(make_var(f));
  return make_dataset(f, &f->z, AV_H5AD_OBSM "/true_z", H5T_IEEE_F32LE, f->shape.cells,
                      f->shape.factors, AV_H5AD_ENC_ARRAY);
}

/* ---- what callers use
 * ---------------------------------------------------------------------------- */

av_status av_sim_file_check(const char *path, bool overwrite, double bytes_needed) {
  const int64_t bytes = bytes_needed < 9e18 ? (int64_t)bytes_needed : INT64_MAX;
  AV_TRY(av_safe_file_check_target(path, overwrite));
  return av_safe_file_check_space(path, bytes, bytes);
}

av_status av_sim_file_create(av_sim_file **file, const char *path, bool overwrite,
                             const av_sim_shape *shape) {
  av_sim_file *f = av_calloc(1, sizeof *f);
  AV_TRY_ALLOC(f);
  *file = f;
  f->shape = *shape;
  f->file = f->text_type = f->names = f->batch = f->label = f->library = f->z = f->indptr =
      f->indices = f->data = f->var = -1;
  av_status status = av_safe_file_begin(&f->safe, path, overwrite);
  if (status == AV_OK) {
    f->path = f->safe.path;
    status = av_safe_file_failed(&f->safe, make_contents(f));
  }
  if (status != AV_OK) {
    av_sim_file_discard(file);
  }
  return status;
}

av_status av_sim_file_append(av_sim_file *f, int64_t n, const int32_t *batch, const int32_t *label,
                             const float *z, const double *library, const int64_t *indptr,
                             const int32_t *indices, const float *data) {
  const int64_t at = f->cells_written;
  const int64_t total = f->nonzeros + indptr[n];
  const hsize_t extent = (hsize_t)total;
  int64_t *shifted = av_malloc((size_t)n, sizeof *shifted);
  AV_TRY_ALLOC(shifted);
  for (int64_t i = 0; i < n; ++i) {
    shifted[i] = f->nonzeros + indptr[i + 1];
  }
  av_status status = AV_OK;
  AV_GO(status, write_names(f, f->names, "cell", at, n), done);
  AV_GO(status, write_rows(f, f->batch, H5T_NATIVE_INT32, at, n, 0, batch), done);
  AV_GO(status, write_rows(f, f->label, H5T_NATIVE_INT32, at, n, 0, label), done);
  AV_GO(status, write_rows(f, f->library, H5T_NATIVE_DOUBLE, at, n, 0, library), done);
  AV_GO(status, write_rows(f, f->z, H5T_NATIVE_FLOAT, at, n, f->shape.factors, z), done);
  AV_GO(status, write_rows(f, f->indptr, H5T_NATIVE_INT64, at + 1, n, 0, shifted), done);
  AV_GO(status, AV_H5(H5Dset_extent(f->indices, &extent), f->path), done);
  AV_GO(status, AV_H5(H5Dset_extent(f->data, &extent), f->path), done);
  AV_GO(status, write_rows(f, f->indices, H5T_NATIVE_INT32, f->nonzeros, indptr[n], 0, indices),
        done);
  AV_GO(status, write_rows(f, f->data, H5T_NATIVE_FLOAT, f->nonzeros, indptr[n], 0, data), done);
  f->cells_written += n;
  f->nonzeros += indptr[n];
done:
  free(shifted);
  return av_safe_file_failed(&f->safe, status);
}

av_status av_sim_file_gene_column(av_sim_file *f, const char *name, const float *values) {
  if (f->n_gene_columns == MAX_GENE_COLUMNS) {
    return AV_FAIL_BUG("more than %d columns of genes", MAX_GENE_COLUMNS);
  }
  char link[64];
  snprintf(link, sizeof link, AV_H5AD_VAR "/%s", name);
  AV_TRY_ALLOC(f->gene_columns[f->n_gene_columns] = av_strdup(name));
  f->n_gene_columns += 1;
  hid_t dataset = -1;
  av_status status =
      make_dataset(f, &dataset, link, H5T_IEEE_F32LE, f->shape.genes, 0, AV_H5AD_ENC_ARRAY);
  if (status == AV_OK) {
    status = write_rows(f, dataset, H5T_NATIVE_FLOAT, 0, f->shape.genes, 0, values);
  }
  av_h5_close(&dataset);
  return status;
}

av_status av_sim_file_gene_matrix(av_sim_file *f, const char *name, int64_t n_columns,
                                  const float *values) {
  char link[64];
  snprintf(link, sizeof link, AV_H5AD_VARM "/%s", name);
  hid_t dataset = -1;
  av_status status =
      make_dataset(f, &dataset, link, H5T_IEEE_F32LE, f->shape.genes, n_columns, AV_H5AD_ENC_ARRAY);
  if (status == AV_OK) {
    status = write_rows(f, dataset, H5T_NATIVE_FLOAT, 0, f->shape.genes, n_columns, values);
  }
  av_h5_close(&dataset);
  return status;
}

static av_status write_setting(av_sim_file *f, const char *name, hid_t type, hid_t memory_type,
                               const char *encoding, const void *value) {
  char link[96];
  snprintf(link, sizeof link, SETTINGS "/%s", name);
  hid_t dataset = -1;
  av_status status = make_dataset(f, &dataset, link, type, -1, 0, encoding);
  if (status == AV_OK) {
    status = AV_H5(H5Dwrite(dataset, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, value), f->path);
  }
  av_h5_close(&dataset);
  return status;
}

av_status av_sim_file_integer(av_sim_file *f, const char *name, int64_t value) {
  return write_setting(f, name, H5T_STD_I64LE, H5T_NATIVE_INT64, AV_H5AD_ENC_NUMBER, &value);
}

av_status av_sim_file_real(av_sim_file *f, const char *name, double value) {
  return write_setting(f, name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, AV_H5AD_ENC_NUMBER, &value);
}

av_status av_sim_file_text(av_sim_file *f, const char *name, const char *value) {
  return write_setting(f, name, f->text_type, f->text_type, AV_H5AD_ENC_STRING, &value);
}

static void close_objects(av_sim_file *f) {
  hid_t *const all[] = {&f->names,  &f->batch,   &f->label, &f->library, &f->z,
                        &f->indptr, &f->indices, &f->data,  &f->var};
  for (size_t i = 0; i < sizeof all / sizeof all[0]; ++i) {
    av_h5_close(all[i]);
  }
}

static av_status finish(av_sim_file *f) {
  if (f->cells_written != f->shape.cells) {
    return AV_FAIL_BUG("%s: %lld of %lld cells written", f->path, (long long)f->cells_written,
                       (long long)f->shape.cells);
  }
  AV_TRY(av_put_frame_tags(f->var, AV_H5AD_INDEX, f->n_gene_columns,
                           (const char *const *)f->gene_columns, f->path));
  close_objects(f);
  AV_TRY(av_safe_file_close(&f->safe, &f->file));
  return av_safe_file_sync(&f->safe);
}

static av_status check_extent(hid_t file, const char *path, const char *link, int64_t n) {
  hid_t dataset = -1;
  hid_t space = -1;
  av_status status = AV_OK;
  AV_GO(status, AV_H5_ID(dataset, H5Dopen2(file, link, H5P_DEFAULT), path), done);
  AV_GO(status, AV_H5_ID(space, H5Dget_space(dataset), path), done);
  if (H5Sget_simple_extent_npoints(space) != n) {
    status = av_fail(AV_IOERR, "%s: %s was not written whole", path, link);
  }
done:
  av_h5_close(&space);
  av_h5_close(&dataset);
  return status;
}

/* Reads back what tells a whole file: extents and the end of indptr. */
static av_status verify(av_sim_file *f) {
  hid_t file = -1;
  hid_t indptr = -1;
  hid_t space = -1;
  hid_t memory_space = -1;
  const hsize_t last = (hsize_t)f->shape.cells;
  const hsize_t one = 1;
  int64_t end = -1;
  av_status status = AV_OK;
  AV_GO(status, AV_H5_ID(file, H5Fopen(f->safe.temporary, H5F_ACC_RDONLY, H5P_DEFAULT), f->path),
        done);
  AV_GO(status, check_extent(file, f->path, AV_H5AD_X "/" AV_H5AD_DATA, f->nonzeros), done);
  AV_GO(status, check_extent(file, f->path, AV_H5AD_X "/" AV_H5AD_INDICES, f->nonzeros), done);
  AV_GO(status,
        AV_H5_ID(indptr, H5Dopen2(file, AV_H5AD_X "/" AV_H5AD_INDPTR, H5P_DEFAULT), f->path), done);
  AV_GO(status, AV_H5_ID(space, H5Dget_space(indptr), f->path), done);
  AV_GO(status, AV_H5(H5Sselect_elements(space, H5S_SELECT_SET, 1, &last), f->path), done);
  AV_GO(status, AV_H5_ID(memory_space, H5Screate_simple(1, &one, NULL), f->path), done);
  AV_GO(status,
        AV_H5(H5Dread(indptr, H5T_NATIVE_INT64, memory_space, space, H5P_DEFAULT, &end), f->path),
        done);
  if (end != f->nonzeros) {
    status = av_fail(AV_IOERR,
                     "%s: read back %lld non-zeros where %lld were written (more than the index "
                     "type holds, or a failing disk)",
                     f->path, (long long)end, (long long)f->nonzeros);
  }
done:
  av_h5_close(&memory_space);
  av_h5_close(&space);
  av_h5_close(&indptr);
  av_h5_close(&file);
  return status;
}

av_status av_sim_file_commit(av_sim_file **file) {
  av_status status = finish(*file);
  if (status == AV_OK) {
    status = verify(*file);
  }
  if (status == AV_OK) {
    status = av_safe_file_commit(&(*file)->safe);
  }
  av_sim_file_discard(file);
  return status;
}

void av_sim_file_discard(av_sim_file **file) {
  av_sim_file *f = *file;
  if (f == NULL) {
    return;
  }
  close_objects(f);
  av_h5_close(&f->file);
  av_h5_close(&f->text_type);
  for (int i = 0; i < f->n_gene_columns; ++i) {
    free(f->gene_columns[i]);
  }
  av_safe_file_discard(&f->safe);
  free(f);
  *file = NULL;
}
