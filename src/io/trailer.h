/* A checksum behind an HDF5 file: one line of text after HDF5's own end, over all bytes before it.
 *
 * Compared before HDF5 sees the file, since HDF5 may crash on a damaged one. A program that changes
 * the file through HDF5 cuts the line off; a file without it is not checked. Internal to src/io;
 * rank 0 only.
 */
#ifndef AV_IO_TRAILER_H
#define AV_IO_TRAILER_H

#include "io/safe_file.h"

/* Adds the line to a temporary that HDF5 has closed. */
av_status av_trailer_append(av_safe_file *file);
/* AV_NOINPUT if `path` is not a readable file, AV_BADDATA if its content is not what the line says.
 */
av_status av_trailer_check(const char *path);

#endif
