/* Reading back what was written. */
#include "base/memory.h"
#include "io/block_thread.h"
#include "io/h5.h"
#include "io/writer.h"

#include <string.h>

static bool sum_part(void *context, const av_block_part *part) {
  (void)context;
  *part->checksum = av_checksum(*part->checksum, part->data, part->bytes);
  return true;
}

/* CRC-32 of an open dataset of one or two dimensions, in blocks of rows: of one by a thread, while
 * the next is read. */
static av_status read_checksum(hid_t dataset, const av_written *entry, const char *what,
                               uint32_t *checksum) {
  enum { BLOCKS = 2 };
  hid_t type = -1;
  hid_t file = -1;
  hid_t memory = -1;
  av_block_thread *thread = NULL;
  av_status status = AV_OK;
  AV_GO(status, AV_H5_ID(type, H5Dget_type(dataset), what), done);
  AV_GO(status, AV_H5_ID(file, H5Dget_space(dataset), what), done);
  const int64_t n_rows = (int64_t)entry->dims[0];
  const int64_t per_row = entry->n_dims > 1 ? (int64_t)entry->dims[1] : 1;
  const size_t row_bytes = (size_t)per_row * H5Tget_size(type);
  const int64_t at_once = entry->block_rows < n_rows ? entry->block_rows : n_rows;
  AV_GO(status,
        av_block_thread_create(&thread, BLOCKS, at_once * (int64_t)row_bytes, sum_part, NULL),
        done);
  *checksum = 0;
  for (int64_t first = 0; first < n_rows && per_row > 0; first += at_once) {
    const int64_t rows = n_rows - first < at_once ? n_rows - first : at_once;
    const hsize_t start[2] = {(hsize_t)first, 0};
    const hsize_t count[2] = {(hsize_t)rows, (hsize_t)per_row};
    AV_GO(status, AV_H5_ID(memory, H5Screate_simple(entry->n_dims, count, NULL), what), done);
    AV_GO(status, AV_H5(H5Sselect_hyperslab(file, H5S_SELECT_SET, start, NULL, count, NULL), what),
          done);
    void *block = av_block_thread_room(thread);
    AV_GO(status, AV_H5(H5Dread(dataset, type, memory, file, H5P_DEFAULT, block), what), done);
    av_h5_close(&memory);
    const av_block_part part = {
        .data = block, .bytes = rows * (int64_t)row_bytes, .checksum = checksum};
    av_block_thread_put(thread, block, 1, &part);
  }

done:
  av_block_thread_finish(&thread); /* then *checksum is that of all */
  av_h5_close(&memory);
  av_h5_close(&file);
  av_h5_close(&type);
  return status;
}

static av_status check_shape(hid_t dataset, const av_written *entry, const char *what) {
  hid_t space = -1;
  hsize_t dims[H5S_MAX_RANK] = {0};
  AV_TRY(AV_H5_ID(space, H5Dget_space(dataset), what));
  const int n_dims = H5Sget_simple_extent_dims(space, dims, NULL);
  av_h5_close(&space);
  bool same = n_dims == entry->n_dims;
  for (int i = 0; same && i < n_dims; ++i) {
    same = dims[i] == entry->dims[i];
  }
  return same ? AV_OK : av_fail(AV_IOERR, "%s: read back with another shape than written", what);
}

static av_status verify_entry(hid_t h5, const av_written *entry, const char *what) {
  hid_t object = -1;
  AV_TRY(av_h5_open_object(&object, h5, entry->link, what));
  av_status status = AV_OK;
  if (entry->n_dims >= 0) {
    status = check_shape(object, entry, what);
  }
  if (status == AV_OK && entry->checksummed) {
    uint32_t checksum = 0;
    status = read_checksum(object, entry, what, &checksum);
    if (status == AV_OK && checksum != entry->checksum) {
      status = av_fail(AV_IOERR,
                       "%s: read back with other values than written: the disk, or a file system "
                       "on the way, is not reliable",
                       what);
    }
  }
  av_h5_close(&object);
  return status;
}

av_status av_writer_verify(const av_writer *writer) {
  hid_t h5 = -1;
  AV_TRY(av_output_reopen(&h5, writer->file.temporary));
  av_status status = AV_OK;
  for (int64_t i = 0; i < writer->n_written && status == AV_OK; ++i) {
    char *what = av_writer_what(writer, writer->written[i].link);
    status = what == NULL ? av_fail(AV_NOMEM, "out of memory (verification)")
                          : verify_entry(h5, &writer->written[i], what);
    free(what);
  }
  av_h5_close(&h5);
  return status;
}
