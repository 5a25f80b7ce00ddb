#include "io/raw_array.h"

#include "base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The numbers that need no conversion. */
static av_number kind_of(hid_t dataset) {
  const struct {
    hid_t type;
    av_number kind;
  } known[] = {{H5T_NATIVE_FLOAT, AV_NUMBER_F32}, {H5T_NATIVE_DOUBLE, AV_NUMBER_F64},
               {H5T_NATIVE_INT8, AV_NUMBER_I8},   {H5T_NATIVE_UINT8, AV_NUMBER_U8},
               {H5T_NATIVE_INT16, AV_NUMBER_I16}, {H5T_NATIVE_UINT16, AV_NUMBER_U16},
               {H5T_NATIVE_INT32, AV_NUMBER_I32}, {H5T_NATIVE_UINT32, AV_NUMBER_U32},
               {H5T_NATIVE_INT64, AV_NUMBER_I64}, {H5T_NATIVE_UINT64, AV_NUMBER_U64}};
  av_number kind = AV_NUMBER_NONE;
  hid_t type = H5Dget_type(dataset);
  for (size_t i = 0; type >= 0 && i < sizeof known / sizeof known[0]; ++i) {
    kind = H5Tequal(type, known[i].type) > 0 ? known[i].kind : kind;
  }
  av_h5_close(&type);
  return kind;
}

static int64_t extent_of(hid_t dataset) {
  hsize_t n = 0;
  hid_t space = H5Dget_space(dataset);
  const bool fine = space >= 0 && H5Sget_simple_extent_ndims(space) == 1 &&
                    H5Sget_simple_extent_dims(space, &n, NULL) == 1 && n <= INT64_MAX;
  av_h5_close(&space);
  return fine ? (int64_t)n : 0;
}

static bool has_user_block(hid_t dataset) {
  hsize_t bytes = 1;
  hid_t file = H5Iget_file_id(dataset);
  hid_t properties = file >= 0 ? H5Fget_create_plist(file) : -1;
  const bool known = properties >= 0 && H5Pget_userblock(properties, &bytes) >= 0;
  av_h5_close(&properties);
  av_h5_close(&file);
  return !known || bytes != 0;
}

/* A descriptor of the file that holds the dataset, which need not be the file that was opened: a
 * link may lead into another one. HDF5's own descriptor is duplicated, so that the name cannot
 * stand for another file by now. */
static bool open_file(av_raw_array *array) {
  void *handle = NULL;
  hsize_t bytes = 0;
  hid_t file = H5Iget_file_id(array->dataset);
  hid_t access = file >= 0 ? H5Fget_access_plist(file) : -1;
  if (access >= 0 && H5Pget_driver(access) == H5FD_SEC2 && H5Fget_filesize(file, &bytes) >= 0 &&
      bytes <= INT64_MAX && H5Fget_vfd_handle(file, H5P_DEFAULT, &handle) >= 0 && handle != NULL) {
    array->file = fcntl(*(const int *)handle, F_DUPFD_CLOEXEC, 0);
    array->file_bytes = (int64_t)bytes;
  }
  av_h5_close(&access);
  av_h5_close(&file);
  return array->file >= 0;
}

/* The values lie in one piece within the file. */
static bool open_contiguous(av_raw_array *array) {
  const haddr_t offset = H5Dget_offset(array->dataset);
  if (offset == HADDR_UNDEF || offset > (haddr_t)array->file_bytes) {
    return false;
  }
  array->offset = (int64_t)offset;
  return array->n <= (array->file_bytes - array->offset) / (int64_t)array->size;
}

static bool open_chunked(av_raw_array *array, hid_t properties, int64_t most_bytes) {
  hsize_t chunk = 0;
  unsigned options = 0;
  if (H5Pget_chunk(properties, 1, &chunk) != 1 || chunk == 0 ||
      chunk > (hsize_t)most_bytes / array->size || H5Pget_chunk_opts(properties, &options) < 0 ||
      options != 0) { /* e.g. a last chunk without the filters of the others */
    return false;
  }
  array->chunk = (int64_t)chunk;
  return av_chunk_filters_read(&array->filters, properties);
}

bool av_raw_open(av_raw_array *array, hid_t dataset, int64_t most_bytes, pthread_mutex_t *hdf5) {
  *array = (av_raw_array){.dataset = dataset, .file = -1, .hdf5 = hdf5};
  array->kind = kind_of(dataset);
  array->size = av_number_size(array->kind);
  array->n = extent_of(dataset);
  bool fine = false;
  if (array->kind != AV_NUMBER_NONE && array->n > 0 && !has_user_block(dataset) &&
      open_file(array)) {
    hid_t properties = H5Dget_create_plist(dataset);
    const H5D_layout_t layout = properties >= 0 ? H5Pget_layout(properties) : H5D_LAYOUT_ERROR;
    fine = layout == H5D_CONTIGUOUS ? open_contiguous(array)
           : layout == H5D_CHUNKED  ? open_chunked(array, properties, most_bytes)
                                    : false;
    av_h5_close(&properties);
  }
  if (!fine) {
    av_raw_close(array);
  }
  return fine;
}

void av_raw_close(av_raw_array *array) {
  if (array->file >= 0) {
    close(array->file);
  }
  *array = (av_raw_array){.dataset = -1, .file = -1};
}

/* --- windows ------------------------------------------------------------------------------ */

/* The elements asked for may begin and end within chunks, of which all is unpacked. */
static int64_t capacity_for(const av_raw_array *array, int64_t most) {
  return most + 2 * array->chunk;
}

/* No compressor makes a chunk larger than this; such a one is left to HDF5. */
static size_t most_packed(const av_raw_array *array) {
  const size_t plain = (size_t)array->chunk * array->size;
  return plain + plain / 8 + 256;
}

int64_t av_raw_window_bytes(const av_raw_array *array, int64_t most) {
  const int64_t size = (int64_t)array->size;
  const int64_t packed =
      array->filters.n > 0 ? (int64_t)most_packed(array) + array->chunk * size : 0;
  return capacity_for(array, most) * size + packed;
}

bool av_raw_window_create(av_raw_window *window, const av_raw_array *array, int64_t most) {
  *window = (av_raw_window){.array = array, .capacity = capacity_for(array, most)};
  window->bytes = av_malloc((size_t)window->capacity, array->size);
  return window->bytes != NULL;
}

void av_raw_window_free(av_raw_window *window) {
  av_undoer_free(&window->undoer);
  free(window->packed);
  free(window->bytes);
  *window = (av_raw_window){0};
}

static bool fail(av_raw_window *window, av_raw_fault fault) {
  window->fault = fault;
  return false;
}

static bool read_at(av_raw_window *window, unsigned char *to, size_t n, int64_t offset) {
  while (n > 0) {
    const ssize_t got = pread(window->array->file, to, n, (off_t)offset);
    if (got == 0) {
      return fail(window, AV_RAW_SHORT);
    }
    if (got < 0 && errno != EINTR) {
      window->error = errno;
      return fail(window, AV_RAW_NO_READ);
    }
    if (got > 0) {
      to += got;
      n -= (size_t)got;
      offset += got;
    }
  }
  return true;
}

/* Beyond the file's end HDF5 reads zeros. */
static bool still_whole(av_raw_window *window) {
  struct stat info;
  if (fstat(window->array->file, &info) != 0) {
    window->error = errno;
    return fail(window, AV_RAW_NO_READ);
  }
  return info.st_size >= window->array->file_bytes || fail(window, AV_RAW_SHORT);
}

/* The stored bytes of the filtered chunk that begins at element `first`, into window->packed. One
 * thread at a time. */
static bool fetch_chunk(av_raw_window *window, int64_t first, uint32_t *mask, size_t *n_bytes) {
  const av_raw_array *array = window->array;
  const hsize_t offset = (hsize_t)first;
  hsize_t stored = 0; /* with filters: as recorded, which is what H5Dread_chunk goes by too */
  if (H5Dget_chunk_storage_size(array->dataset, &offset, &stored) < 0 || stored == 0 ||
      stored > most_packed(array)) {
    return fail(window, AV_RAW_ODD);
  }
  if (window->packed == NULL) {
    window->packed = av_malloc(most_packed(array), 1);
  }
  *n_bytes = (size_t)stored;
  return (window->packed != NULL &&
          H5Dread_chunk(array->dataset, H5P_DEFAULT, &offset, mask, window->packed) >= 0) ||
         fail(window, AV_RAW_ODD);
}

static bool read_filtered(av_raw_window *window, int64_t first, unsigned char *plain) {
  const av_raw_array *array = window->array;
  size_t n_bytes = 0;
  uint32_t mask = 0;
  pthread_mutex_lock(array->hdf5);
  const bool fetched = fetch_chunk(window, first, &mask, &n_bytes);
  pthread_mutex_unlock(array->hdf5);
  if (!fetched || !still_whole(window)) {
    return false;
  }
  window->reason = av_chunk_undo(&array->filters, &window->undoer, mask, window->packed, n_bytes,
                                 plain, (size_t)array->chunk * array->size);
  return window->reason == NULL ||
         fail(window, window->reason == av_undo_no_memory ? AV_RAW_ODD : AV_RAW_DAMAGED);
}

/* Elements [first, first + n) of chunks without filters, as HDF5 reads them. */
static bool read_unfiltered(av_raw_window *window, int64_t first, int64_t n, unsigned char *plain) {
  const av_raw_array *array = window->array;
  const hsize_t from = (hsize_t)first;
  const hsize_t count = (hsize_t)n;
  pthread_mutex_lock(array->hdf5);
  hid_t type = H5Dget_type(array->dataset);
  hid_t space = H5Dget_space(array->dataset);
  hid_t memory_space = H5Screate_simple(1, &count, NULL);
  const bool read = type >= 0 && space >= 0 && memory_space >= 0 &&
                    H5Sselect_hyperslab(space, H5S_SELECT_SET, &from, NULL, &count, NULL) >= 0 &&
                    H5Dread(array->dataset, type, memory_space, space, H5P_DEFAULT, plain) >= 0;
  av_h5_close(&memory_space);
  av_h5_close(&space);
  av_h5_close(&type);
  pthread_mutex_unlock(array->hdf5);
  return read ? still_whole(window) : fail(window, AV_RAW_ODD);
}

/* Elements from `at` on behind those of the window, `wanted` or as many as come together; returns
 * how many, 0 after a failure. */
static int64_t read_more(av_raw_window *window, int64_t at, int64_t wanted) {
  const av_raw_array *array = window->array;
  const int64_t size = (int64_t)array->size;
  unsigned char *to = window->bytes + window->n * size;
  int64_t n = wanted;
  bool read = false;
  if (array->chunk == 0) {
    read = read_at(window, to, (size_t)(n * size), array->offset + at * size);
  } else if (array->filters.n == 0) {
    const int64_t end = (at + wanted + array->chunk - 1) / array->chunk * array->chunk;
    n = (end < array->n ? end : array->n) - at; /* whole chunks: none is read twice */
    read = read_unfiltered(window, at, n, to);
  } else {
    read = read_filtered(window, at, to);
    n = array->chunk < array->n - at ? array->chunk : array->n - at;
  }
  return read ? n : 0;
}

/* Drops what comes before `first`, or everything if the window is elsewhere. */
static void move_window(av_raw_window *window, int64_t first) {
  const av_raw_array *array = window->array;
  const int64_t end = window->first + window->n;
  if (first >= window->first && first < end) {
    memmove(window->bytes, window->bytes + (size_t)(first - window->first) * array->size,
            (size_t)(end - first) * array->size);
    window->n = end - first;
    window->first = first;
  } else {
    window->first = array->chunk > 0 ? first / array->chunk * array->chunk : first;
    window->n = 0;
  }
}

const void *av_raw_get(av_raw_window *window, int64_t first, int64_t n) {
  const av_raw_array *array = window->array;
  const int64_t size = (int64_t)array->size;
  if (first < 0 || n < 0 || first > array->n - n || n > window->capacity - 2 * array->chunk) {
    window->fault = AV_RAW_ODD;
    return NULL;
  }
  if (first < window->first || first + n > window->first + window->n) {
    move_window(window, first);
  }
  window->fault = AV_RAW_FINE;
  while (window->first + window->n < first + n) {
    const int64_t end = window->first + window->n;
    const int64_t more = read_more(window, end, first + n - end);
    if (more == 0) {
      return NULL;
    }
    window->n += more;
  }
  return window->bytes + (first - window->first) * size;
}
