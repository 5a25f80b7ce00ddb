#include "io/trailer.h"

#include "base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

enum { TRAILER_BYTES = 64 };

static const char MARK[] = "atlasvi";

/* CRC-32 of the first `bytes` bytes of an open file. */
static av_status file_checksum(int descriptor, int64_t bytes, const char *path, uLong *checksum) {
  enum { BLOCK = 1 << 20 };
  unsigned char *block = av_malloc(BLOCK, 1);
  AV_TRY_ALLOC(block);
  *checksum = 0;
  av_status status = AV_OK;
  for (int64_t at = 0; at < bytes && status == AV_OK;) {
    const int64_t left = bytes - at;
    const ssize_t n = pread(descriptor, block, left < BLOCK ? (size_t)left : BLOCK, (off_t)at);
    if (n < 0 && errno == EINTR) {
      continue;
    }
    if (n <= 0) {
      status = av_fail(AV_IOERR, "%s: cannot be read: %s", path,
                       n < 0 ? strerror(errno) : "it became shorter");
    } else {
      *checksum = crc32_z(*checksum, block, (size_t)n);
      at += n;
    }
  }
  free(block);
  return status;
}

static void format_trailer(char trailer[TRAILER_BYTES + 1], int64_t bytes, uLong checksum) {
  snprintf(trailer, TRAILER_BYTES + 1, "\n%s crc32 %08lx of %19" PRId64 " bytes %*s\n", MARK,
           checksum, bytes, TRAILER_BYTES - 54, "");
}

av_status av_trailer_append(av_safe_file *file) {
  char trailer[TRAILER_BYTES + 1];
  struct stat facts;
  uLong checksum = 0;
  const int descriptor = open(file->temporary, O_RDWR | O_APPEND | O_CLOEXEC);
  if (descriptor < 0 || fstat(descriptor, &facts) != 0) {
    const int error = errno;
    if (descriptor >= 0) {
      close(descriptor);
    }
    return av_fail(AV_IOERR, "%s: cannot be opened again: %s", file->path, strerror(error));
  }
  av_status status = file_checksum(descriptor, (int64_t)facts.st_size, file->path, &checksum);
  format_trailer(trailer, (int64_t)facts.st_size, checksum);
  errno = EIO; /* for a short write */
  if (status == AV_OK && write(descriptor, trailer, TRAILER_BYTES) != TRAILER_BYTES) {
    file->failure = (av_write_failure){errno, (int64_t)facts.st_size + TRAILER_BYTES};
    status = av_safe_file_failed(file, AV_OK);
  }
  close(descriptor);
  return status;
}

/* Compares the checksum at the end of the file, if there is one. */
static av_status check_trailer(int descriptor, int64_t size, const char *path) {
  char trailer[TRAILER_BYTES + 1] = "";
  char expected[TRAILER_BYTES + 1];
  const int64_t bytes = size - TRAILER_BYTES;
  if (bytes <= 0 || pread(descriptor, trailer, TRAILER_BYTES, (off_t)bytes) != TRAILER_BYTES ||
      strncmp(trailer + 1, MARK, strlen(MARK)) != 0) {
    return AV_OK; /* whether it is complete at all is then for HDF5 to see */
  }
  uLong checksum = 0;
  AV_TRY(file_checksum(descriptor, bytes, path, &checksum));
  format_trailer(expected, bytes, checksum);
  return memcmp(trailer, expected, TRAILER_BYTES) == 0
             ? AV_OK
             : av_fail(AV_BADDATA,
                       "%s: damaged: its checksum is not that of its content; use "
                       "another copy of this file",
                       path);
}

av_status av_trailer_check(const char *path) {
  struct stat facts;
  const int descriptor = open(path, O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) {
    return av_fail(AV_NOINPUT, "%s: %s", path, errno == ENOENT ? "no such file" : strerror(errno));
  }
  av_status status = AV_OK;
  if (fstat(descriptor, &facts) != 0 || !S_ISREG(facts.st_mode)) {
    status = av_fail(AV_NOINPUT, "%s: not a file", path);
  } else {
    status = check_trailer(descriptor, (int64_t)facts.st_size, path);
  }
  close(descriptor);
  return status;
}
