/* HDF5 with its return codes checked. The only folder that calls HDF5 is src/io.
 *
 * HDF5's own error printing is switched off by av_h5_init; the innermost message of its stack goes
 * into our one line instead.
 */
#ifndef AV_IO_H5_H
#define AV_IO_H5_H

#include "base/comm.h"
#include "base/status.h"
#include "data/names.h"

#include <hdf5.h>
#include <stdbool.h>
#include <stdint.h>

/* For calls that return herr_t or another negative-on-failure integer. `what` names the object for
 * the user, e.g. "pbmc.h5ad: layers/counts". Records the error with HDF5's reason; code AV_IOERR.
 */
#define AV_H5(call, what) av_h5_check((int64_t)(call), #call, (what))
av_status av_h5_check(int64_t result, const char *call, const char *what);

/* For calls that return an id: stores it in `id`. */
#define AV_H5_ID(id, call, what) av_h5_check((int64_t)((id) = (call)), #call, (what))

/* Version of the HDF5 library in use, e.g. "1.10.8". Borrowed until the next call. */
const char *av_h5_version(void);

/* Silences HDF5's printing, registers the LZF filter (32000). Call once, after MPI_Init. */
av_status av_h5_init(void);

/* Closes an id of any kind (file, group, dataset, type, space, attribute, property list) if it is
 * >= 0 and sets it to -1. */
void av_h5_close(hid_t *id);

/* The description of HDF5's innermost recorded error, for messages; "" if none. Borrowed. */
const char *av_h5_reason(void);

/* Opens an existing .h5ad for reading with the default driver (rank 0 alone, or every rank by
 * itself: not collective). Distinct one-line errors: absent (AV_NOINPUT), a directory (zarr named),
 * not HDF5, truncated, locked by a writer (names HDF5_USE_FILE_LOCKING), needs a newer HDF5, no
 * permission; also recognises 10x .h5, loom and .h5mu and says so (AV_BADDATA). */
av_status av_h5_open_input(hid_t *file, const char *path);

/* Opens the same file on all ranks, each by itself with the default driver, for independent reads
 * of slabs: nothing that HDF5 does afterwards waits for another rank or calls MPI, so that any one
 * thread at a time may read. Collective. */
av_status av_h5_open_parallel(hid_t *file, const av_comm *comm, const char *path);

/* Fails with name, id and remedy (HDF5_PLUGIN_PATH, h5repack) if a filter of `dataset` is missing.
 */
av_status av_h5_check_filters(hid_t dataset, const char *what);

/* The filters of a dataset in words, e.g. "shuffle + gzip"; "none". Unreadable ones are named too.
 */
void av_h5_filters_text(hid_t dataset, char *text, size_t room);

/* Fails with the remedy if values of `dataset` live elsewhere: a virtual dataset, or one kept in
 * files beside this one (HDF5 would read fill values where such a file is missing). */
av_status av_h5_check_storage(hid_t dataset, const char *what);

/* Opens the group or dataset at `link`; a link that leads nowhere is named as such (AV_BADDATA). */
av_status av_h5_open_object(hid_t *object, hid_t location, const char *link, const char *what);

/* Attributes and links, tri-state safe: errors are errors, absence is absence. */
av_status av_h5_exists(hid_t location, const char *link, bool *exists);
av_status av_h5_attribute_text(hid_t object, const char *name,
                               char **text); /* NULL if absent; owned */

/* Every string element the format has (dataset of variable or fixed strings, nullable-string-array
 * group, integer array printed in decimal, categorical expanded) as a list of names.
 * missing (may be NULL) receives an owned (n) array, nonzero where the element is masked or NaN. */
av_status av_h5_read_strings(hid_t location, const char *link, const char *what, av_names *names,
                             unsigned char **missing);

#endif
