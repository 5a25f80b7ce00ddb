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

/* Opens a file of ours for reading, without a lock: such files appear complete or not at all, and
 * not every file system has locks. */
av_status av_output_reopen(hid_t *file, const char *path);

#endif
