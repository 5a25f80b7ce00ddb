#include "io/write_behind.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>

/* Stretches below LEAST are headers and other small things: the kernel's business. */
enum { LEAST = 1 << 18, ENOUGH = 4 << 20, WINDOW = 64 << 20 };

/* A file system or a kind of file that lacks the call is no fault: it writes when it likes. */
static bool is_unsupported(int error) {
  return error == EINVAL || error == ENOSYS || error == EOPNOTSUPP || error == ESPIPE;
}

/* All else is one, whatever its name: the call uses it up, so no later fsync need report it. */
static int fault_of(int result) {
  const int error = result == 0 ? 0 : errno;
  return is_unsupported(error) ? 0 : error;
}

static int finish_oldest(av_write_behind *behind, int descriptor) {
  const int64_t begin = behind->stretch[behind->oldest].begin;
  const int64_t bytes = behind->stretch[behind->oldest].end - begin;
  behind->oldest = (behind->oldest + 1) % AV_BEHIND_STRETCHES;
  behind->n -= 1;
  behind->on_the_way -= bytes;
  const int fault = fault_of(sync_file_range(
      descriptor, begin, bytes,
      SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER));
  posix_fadvise(descriptor, begin, bytes, POSIX_FADV_DONTNEED); /* advice: nothing depends on it */
  return fault;
}

/* Sends the open stretch on its way. */
static int send(av_write_behind *behind, int descriptor) {
  const int64_t begin = behind->open_begin;
  const int64_t bytes = behind->open_end - begin;
  behind->open_begin = behind->open_end;
  if (bytes < LEAST) {
    return 0;
  }
  int fault = fault_of(sync_file_range(descriptor, begin, bytes, SYNC_FILE_RANGE_WRITE));
  const int last = (behind->oldest + behind->n) % AV_BEHIND_STRETCHES;
  behind->stretch[last].begin = begin;
  behind->stretch[last].end = begin + bytes;
  behind->n += 1;
  behind->on_the_way += bytes;
  while (fault == 0 && behind->n > 0 &&
         (behind->on_the_way > WINDOW || behind->n == AV_BEHIND_STRETCHES)) {
    fault = finish_oldest(behind, descriptor);
  }
  return fault;
}

int av_write_behind_wrote(av_write_behind *behind, int descriptor, int64_t offset, int64_t bytes) {
  int fault = 0;
  if (offset != behind->open_end) {
    fault = send(behind, descriptor);
    behind->open_begin = offset;
  }
  behind->open_end = offset + bytes;
  if (fault == 0 && behind->open_end - behind->open_begin >= ENOUGH) {
    fault = send(behind, descriptor);
  }
  return fault;
}
