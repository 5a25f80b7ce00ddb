/* The inside of av_writer, shared by the files that implement io/h5ad_write.h. */
#ifndef AV_IO_WRITER_H
#define AV_IO_WRITER_H

#include "io/h5ad_write.h"
#include "io/safe_file.h"

#include <stdlib.h>

/* A dataset that must be found again when the file is verified. */
typedef struct av_written {
  char *link;
  int n_dims; /* -1: any shape (elements copied from the input) */
  hsize_t dims[2];
  bool checksummed;
  uint32_t checksum;  /* CRC-32 of its values, row after row, as stored */
  int64_t block_rows; /* rows to read at a time */
} av_written;

struct av_writer {
  const av_comm *comm;
  const av_config *config;
  const av_dataset *dataset;
  /* rank 0 only: */
  av_safe_file file;
  hid_t h5;
  int64_t n_var;     /* rows of the output's var */
  struct stat input; /* copy, append: the file that was copied */
  int64_t n_written, room;
  av_written *written;
};

/* Rows of `row_bytes` that make a block of at most 8 MiB (but at least one row); a multiple of
 * `multiple`. */
int64_t av_block_rows(int64_t row_bytes, int64_t multiple);

/* Continues a CRC-32. */
uint32_t av_checksum(uint32_t checksum, const void *data, int64_t bytes);

/* "FILE: LINK"; owned, NULL when out of memory. */
char *av_writer_what(const av_writer *writer, const char *link);

/* Makes room for `link`: its parent groups exist, and it does not (with overwrite: not any more).
 */
av_status av_writer_prepare(av_writer *writer, const char *link);
/* Remembers `entry` (link is copied) for verification. */
av_status av_writer_remember(av_writer *writer, const av_written *entry);

/* results mode: obs, var and the empty mappings, from the input. */
av_status av_writer_new_content(av_writer *writer);

/* Every dataset written is there, with its shape and its values. */
av_status av_writer_verify(const av_writer *writer);

/* The first key of ours in an open file that may not be there without overwrite, "" if none; with
 * `remove`, all of them are unlinked instead. */
av_status av_our_keys(hid_t file, const char *path, bool remove, char found[300]);
/* Fails (AV_CONFIG) if results cannot be added to this file: 0.6 and older. */
av_status av_check_can_add(hid_t file, const char *path, const av_config *config);

#endif
