/* HDF5's file driver for outputs. It is the default driver but for one thing: after the first write
 * that fails it remembers why, discards what follows and reports success.
 *
 * HDF5 does not survive a full disk: H5Fclose may report success over a damaged file, or crash when
 * its caches cannot be flushed. With this driver it always closes in order, and the caller asks the
 * av_write_failure before it trusts the file. Internal to src/io.
 */
#ifndef AV_IO_OUTPUT_DRIVER_H
#define AV_IO_OUTPUT_DRIVER_H

#include "base/status.h"

#include <hdf5.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct av_write_failure {
  int error;      /* errno of the first write that failed; 0: none */
  int64_t needed; /* length the file must have had by then, bytes */
} av_write_failure;

/* Creates (replacing what is there) or opens for writing. `failure` must outlive the open file.
 * Objects left open are closed with the file. */
av_status av_output_open(hid_t *file, const char *path, bool create, av_write_failure *failure);

/* The open file behind HDF5's back, for writes beside HDF5 into storage that it has allocated. */
typedef struct av_output_handle av_output_handle;
/* Borrowed until the file is closed; the file must have been opened by av_output_open. */
av_status av_output_handle_of(av_output_handle **handle, hid_t file);
/* As HDF5's own writes: a failure is remembered (and false returned), what follows it discarded.
 * Any one thread at a time, HDF5's calls on this file included. */
bool av_output_write(av_output_handle *handle, int64_t address, const void *data, int64_t bytes);
/* Address of the first value of a contiguous dataset; -1 if it has none. */
int64_t av_output_address(hid_t dataset);

/* Opens a file of ours for reading, without a lock: such files appear complete or not at all, and
 * not every file system has locks. What is read in large pieces leaves the page cache again. */
av_status av_output_reopen(hid_t *file, const char *path);

#endif
