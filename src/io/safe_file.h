/* An output file that appears under its name only when it is complete: a temporary in the same
 * directory, fsynced and renamed; after an error nothing of it remains. Internal to src/io; not
 * collective: rank 0 only.
 */
#ifndef AV_IO_SAFE_FILE_H
#define AV_IO_SAFE_FILE_H

#include "io/output_driver.h"

#include <sys/stat.h>

typedef struct av_safe_file {
  char *path;      /* what is to appear or be replaced, symbolic links resolved */
  char *temporary; /* NULL when none exists */
  bool overwrite;
  bool replaces; /* path existed when we began; `old` says what it was */
  struct stat old;
  av_write_failure failure; /* HDF5's open file points here: do not move the struct meanwhile */
} av_safe_file;

/* A number of bytes for people: "3.4 GB". Returns `text`. */
const char *av_size_text(char text[32], int64_t bytes);

/* Fails (AV_CANTCREATE) unless `path` can be created: its directory exists and may be written to;
 * nothing, or with `overwrite` a writable regular file, has that name. Changes nothing. */
av_status av_safe_file_check_target(const char *path, bool overwrite);
/* Fails (AV_IOERR) if the file system of `path` has less than `bytes` free, or this process may not
 * write files as long as `longest_file` (ulimit -f). Quotas cannot be known. */
av_status av_safe_file_check_space(const char *path, int64_t bytes, int64_t longest_file);
/* The file that a path leads to, symbolic links resolved; the path itself where there is none.
 * Owned by the caller; NULL when out of memory. */
char *av_resolve_path(const char *path);

/* Checks the target and creates an empty temporary beside it. SIGXFSZ is ignored from here on, so
 * that a file-size limit is an error like a full disk. Ends with av_safe_file_commit or _discard.
 */
av_status av_safe_file_begin(av_safe_file *file, const char *path, bool overwrite);
/* Fills the temporary with the bytes of `source`; `facts` receives what was copied. */
av_status av_safe_file_copy_from(av_safe_file *file, const char *source, struct stat *facts);
/* Opens the temporary for writing with HDF5: empty, or as it is. */
av_status av_safe_file_open(av_safe_file *file, bool empty, hid_t *h5);
/* The first write that failed, as an error that says how much was needed and is free; AV_OK if
 * none. `status` is what the HDF5 calls returned: kept when it is the only fault. */
av_status av_safe_file_failed(const av_safe_file *file, av_status status);
/* Flushes and closes HDF5's file; fails if anything could not be written. */
av_status av_safe_file_close(av_safe_file *file, hid_t *h5);
/* Puts the temporary onto the disk and drops it from the page cache, so that what is read next is
 * what was stored. */
av_status av_safe_file_sync(av_safe_file *file);
/* Renames. Without `overwrite`, fails if the name was taken meanwhile. A replaced file's mode and
 * owner are kept. Frees everything when it succeeds. */
av_status av_safe_file_commit(av_safe_file *file);
/* Removes the temporary and frees everything; harmless on a zeroed struct. */
void av_safe_file_discard(av_safe_file *file);

#endif
