/* A one-dimensional dataset read in the type and byte order it is stored in, by several threads of
 * a rank at once, past HDF5's own read: contiguous values by their place in the file, filtered
 * chunks as HDF5 hands them out, filters undone here; chunks without filters by one H5Dread of all
 * that a window lacks (HDF5 1.10 hands those out by the length recorded beside them, unchecked).
 * Internal to src/io.
 *
 * It reads what is plain and refuses the rest, which is then read through HDF5. What it began to
 * read and found damaged it never gives back to HDF5, whose filters trust the sizes recorded.
 */
#ifndef AV_IO_RAW_ARRAY_H
#define AV_IO_RAW_ARRAY_H

#include "data/counts_pack.h"
#include "io/chunk_filters.h"

#include <pthread.h>

typedef struct av_raw_array {
  hid_t dataset;         /* borrowed */
  av_number kind;        /* of its elements, all in native byte order */
  size_t size;           /* bytes of one */
  int64_t n;             /* elements */
  int64_t chunk;         /* elements a chunk; 0: contiguous */
  int64_t offset;        /* contiguous: of the first byte in the file */
  int file;              /* descriptor of the file the dataset is in, whatever link led there */
  int64_t file_bytes;    /* of that file when HDF5 opened it */
  pthread_mutex_t *hdf5; /* held around calls of HDF5 */
  av_chunk_filters filters;
} av_raw_array;

/* False if the dataset is not one of those this can read (array->kind is then AV_NUMBER_NONE):
 * other number types, another filter, nothing written, a file with a user block or not opened by
 * HDF5's default driver, more than `most_bytes` a chunk. */
bool av_raw_open(av_raw_array *array, hid_t dataset, int64_t most_bytes, pthread_mutex_t *hdf5);
void av_raw_close(av_raw_array *array);

/* Why elements could not be had. */
typedef enum av_raw_fault {
  AV_RAW_FINE,
  AV_RAW_ODD,     /* not stored as expected, or memory is short: HDF5 may know */
  AV_RAW_SHORT,   /* the file has become shorter than it was when it was opened */
  AV_RAW_NO_READ, /* the system cannot read it: `error` */
  AV_RAW_DAMAGED  /* a chunk cannot be unpacked: `reason` */
} av_raw_fault;

/* What one thread sees of an array: elements [first, first + n). */
typedef struct av_raw_window {
  const av_raw_array *array;
  int64_t first, n, capacity;
  unsigned char *bytes;  /* (capacity * array->size) */
  unsigned char *packed; /* a chunk as it lies in the file; NULL before the first */
  av_undoer undoer;
  av_raw_fault fault; /* of the last av_raw_get; kept after a failure */
  int error;
  const char *reason; /* borrowed for good */
} av_raw_window;

/* A window for at most `most` elements at a time; most bytes it takes, besides a decompressor's
 * tables: av_raw_window_bytes. False when out of memory. */
int64_t av_raw_window_bytes(const av_raw_array *array, int64_t most);
bool av_raw_window_create(av_raw_window *window, const av_raw_array *array, int64_t most);
void av_raw_window_free(av_raw_window *window);

/* Elements [first, first + n), n <= `most`, valid until the next call; NULL if they cannot be read
 * this way: window->fault. Thread-safe, each with a window of its own. */
const void *av_raw_get(av_raw_window *window, int64_t first, int64_t n);

#endif
