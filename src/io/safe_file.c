#include "io/safe_file.h"

#include "base/log.h"
#include "base/memory.h"
#include "base/unfinished.h"
#include "io/h5.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

const char *av_size_text(char text[32], int64_t bytes) {
  static const char *const units[] = {"bytes", "kB", "MB", "GB", "TB", "PB"};
  double size = (double)bytes;
  size_t unit = 0;
  while (size >= 999.5 && unit + 1 < sizeof units / sizeof units[0]) {
    size /= 1000;
    ++unit;
  }
  snprintf(text, 32, unit == 0 || size >= 99.5 ? "%.0f %s" : "%.3g %s", size, units[unit]);
  return text;
}

char *av_resolve_path(const char *path) {
  char *resolved = realpath(path, NULL);
  return resolved != NULL ? resolved : av_strdup(path);
}

/* The directory part of a path, "." if it has none. Owned by the caller; NULL when out of memory.
 */
static char *directory_of(const char *path) {
  const char *slash = strrchr(path, '/');
  if (slash == NULL) {
    return av_strdup(".");
  }
  return av_format("%.*s", slash == path ? 1 : (int)(slash - path), path);
}

static const char *name_of(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash == NULL ? path : slash + 1;
}

static av_status check_directory(const char *directory, const char *path) {
  struct stat facts;
  if (stat(directory, &facts) != 0) {
    if (errno == ENOENT) {
      return av_fail(AV_CANTCREATE, "%s: cannot be created: the directory %s does not exist", path,
                     directory);
    }
    return av_fail(AV_CANTCREATE, "%s: cannot be created: directory %s: %s", path, directory,
                   strerror(errno));
  }
  if (!S_ISDIR(facts.st_mode)) {
    return av_fail(AV_CANTCREATE, "%s: cannot be created: %s is not a directory", path, directory);
  }
  if (faccessat(AT_FDCWD, directory, W_OK | X_OK, AT_EACCESS) != 0) {
    return errno == EROFS
               ? av_fail(AV_CANTCREATE, "%s: cannot be created: %s is on a read-only file system",
                         path, directory)
               : av_fail(AV_CANTCREATE,
                         "%s: cannot be created: no permission to write in the directory %s", path,
                         directory);
  }
  return AV_OK;
}

/* The same for a path with its links resolved; `exists` and `old` receive what is there now. */
static av_status check_target(const char *path, bool overwrite, bool *exists, struct stat *old) {
  char *directory = directory_of(path);
  AV_TRY_ALLOC(directory);
  const av_status status = check_directory(directory, path);
  free(directory);
  AV_TRY(status);
  *exists = stat(path, old) == 0;
  if (!*exists) {
    const int error = errno;
    struct stat link;
    if (error != ENOENT) {
      return av_fail(AV_CANTCREATE, "%s: cannot be created: %s", path, strerror(error));
    }
    return lstat(path, &link) != 0
               ? AV_OK
               : av_fail(AV_CANTCREATE,
                         "%s: cannot be created: a symbolic link of that name leads nowhere", path);
  }
  if (!S_ISREG(old->st_mode)) {
    return av_fail(AV_CANTCREATE, "%s: cannot be created: %s of that name exists", path,
                   S_ISDIR(old->st_mode) ? "a directory" : "something that is not a file");
  }
  if (!overwrite) {
    return av_fail(AV_CANTCREATE, "%s: exists already: choose another path, or set overwrite = yes",
                   path);
  }
  if (faccessat(AT_FDCWD, path, W_OK, AT_EACCESS) != 0) {
    return av_fail(AV_CANTCREATE, "%s: cannot be replaced: it is write-protected", path);
  }
  return AV_OK;
}

av_status av_safe_file_check_target(const char *path, bool overwrite) {
  char *resolved = av_resolve_path(path);
  AV_TRY_ALLOC(resolved);
  bool exists = false;
  struct stat old;
  const av_status status = check_target(resolved, overwrite, &exists, &old);
  free(resolved);
  return status;
}

/* Free bytes for this user on the file system of `path`'s directory; -1 if unknown. */
static int64_t free_space(const char *path) {
  char *directory = directory_of(path);
  struct statvfs facts;
  const bool known = directory != NULL && statvfs(directory, &facts) == 0;
  free(directory);
  if (!known || facts.f_blocks == 0) { /* some network file systems count nothing */
    return -1;
  }
  const double bytes = (double)facts.f_bavail * (double)facts.f_frsize;
  return bytes < 9e18 ? (int64_t)bytes : INT64_MAX;
}

/* The longest file this process may write (ulimit -f). */
static int64_t file_size_limit(void) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY ||
      limit.rlim_cur > (rlim_t)INT64_MAX) {
    return INT64_MAX;
  }
  return (int64_t)limit.rlim_cur;
}

av_status av_safe_file_check_space(const char *path, int64_t bytes, int64_t longest_file) {
  char needed[32];
  char there[32];
  const int64_t available = free_space(path);
  if (available >= 0 && available < bytes) {
    return av_fail(AV_IOERR, "%s: not enough space on its disk: needed %s, free %s", path,
                   av_size_text(needed, bytes), av_size_text(there, available));
  }
  if (longest_file > file_size_limit()) {
    return av_fail(AV_IOERR,
                   "%s: larger than the file-size limit of this process (ulimit -f): needed %s, "
                   "allowed %s",
                   path, av_size_text(needed, longest_file),
                   av_size_text(there, file_size_limit()));
  }
  return AV_OK;
}

static av_status fail_create(const av_safe_file *file, int error) {
  if (error == ENOSPC || error == EDQUOT) {
    return av_fail(AV_IOERR, "%s: cannot be created: %s (disk full?)", file->path, strerror(error));
  }
  return av_fail(AV_CANTCREATE, "%s: cannot be created: %s", file->path, strerror(error));
}

/* An empty file of a name of its own. A leftover of a killed process with our number is not in the
 * way. */
static av_status create_temporary(av_safe_file *file) {
  enum { TRIES = 100, LONGEST_NAME = 200 };
  char *directory = directory_of(file->path);
  AV_TRY_ALLOC(directory);
  int descriptor = -1;
  for (int i = 0; i < TRIES && descriptor < 0; ++i) {
    char suffix[16] = "";
    if (i > 0) {
      snprintf(suffix, sizeof suffix, "-%d", i);
    }
    free(file->temporary);
    file->temporary = av_format("%s/.%.*s.atlasvi-%ld%s.tmp", directory, (int)LONGEST_NAME,
                                name_of(file->path), (long)getpid(), suffix);
    if (file->temporary == NULL) {
      break;
    }
    descriptor = open(file->temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor < 0 && errno != EEXIST) {
      break;
    }
  }
  const int error = errno;
  free(directory);
  if (descriptor < 0) {
    free(file->temporary);
    file->temporary = NULL;
    return fail_create(file, error);
  }
  close(descriptor); /* nothing was written through it */
  return AV_OK;
}

av_status av_safe_file_begin(av_safe_file *file, const char *path, bool overwrite) {
  *file = (av_safe_file){.overwrite = overwrite, .path = av_resolve_path(path)};
  AV_TRY_ALLOC(file->path);
  signal(SIGXFSZ, SIG_IGN);
  av_status status = check_target(file->path, overwrite, &file->replaces, &file->old);
  if (status == AV_OK) {
    status = create_temporary(file);
  }
  if (status == AV_OK) {
    av_unfinished_add(file->temporary);
  }
  if (status != AV_OK) {
    av_safe_file_discard(file);
  }
  return status;
}

av_status av_safe_file_failed(const av_safe_file *file, av_status status) {
  const int error = file->failure.error;
  if (error == 0) {
    return status;
  }
  if (status != AV_OK) {
    av_error_clear(); /* HDF5's view of the same fault */
  }
  char needed[32];
  char there[32];
  av_size_text(needed, file->failure.needed);
  if (error == EFBIG) {
    return av_fail(AV_IOERR,
                   "%s: writing failed: %s: needed at least %s, allowed %s by the file-size limit "
                   "of this process (ulimit -f); nothing was left behind",
                   file->path, strerror(error), needed, av_size_text(there, file_size_limit()));
  }
  const int64_t available = free_space(file->path);
  /* what the temporary holds counts as free: it will be removed */
  struct stat facts;
  const int64_t ours = file->temporary != NULL && stat(file->temporary, &facts) == 0
                           ? (int64_t)facts.st_blocks * 512
                           : 0;
  return av_fail(
      AV_IOERR, "%s: writing failed: %s%s: needed at least %s, free %s; nothing was left behind",
      file->path, strerror(error), error == ENOSPC || error == EDQUOT ? " (disk full?)" : "",
      needed, available < 0 ? "unknown" : av_size_text(there, available + ours));
}

/* Writes all of `bytes`; a failure is kept in file->failure. */
static av_status write_all(av_safe_file *file, int descriptor, const char *data, size_t bytes,
                           int64_t total) {
  while (bytes > 0) {
    const ssize_t n = write(descriptor, data, bytes);
    if (n < 0 && errno == EINTR) {
      continue;
    }
    if (n <= 0) {
      file->failure = (av_write_failure){n < 0 ? errno : EIO, total};
      return av_safe_file_failed(file, AV_OK);
    }
    data += n;
    bytes -= (size_t)n;
  }
  return AV_OK;
}

static av_status copy_bytes(av_safe_file *file, int from, int to, const char *source,
                            const struct stat *facts) {
  enum { BLOCK = 8 << 20 };
  char *block = av_malloc(BLOCK, 1);
  AV_TRY_ALLOC(block);
  av_status status = AV_OK;
  int64_t copied = 0;
  while (status == AV_OK) {
    const ssize_t n = read(from, block, BLOCK);
    if (n < 0 && errno == EINTR) {
      continue;
    }
    if (n < 0) {
      status = av_fail(AV_IOERR, "%s: reading failed: %s", source, strerror(errno));
    }
    if (n <= 0) {
      break;
    }
    status = write_all(file, to, block, (size_t)n, (int64_t)facts->st_size);
    copied += n;
  }
  free(block);
  if (status == AV_OK && copied != (int64_t)facts->st_size) {
    status = av_fail(AV_IOERR, "%s: changed while it was copied", source);
  }
  return status;
}

av_status av_safe_file_copy_from(av_safe_file *file, const char *source, struct stat *facts) {
  av_status status = AV_OK;
  int to = -1;
  const int from = open(source, O_RDONLY | O_CLOEXEC);
  if (from < 0 || fstat(from, facts) != 0) {
    status = av_fail(AV_NOINPUT, "%s: cannot be opened: %s", source, strerror(errno));
    goto done;
  }
  to = open(file->temporary, O_WRONLY | O_TRUNC | O_CLOEXEC);
  if (to < 0) {
    status = fail_create(file, errno);
    goto done;
  }
  status = copy_bytes(file, from, to, source, facts);

done:
  if (from >= 0) {
    close(from);
  }
  if (to >= 0 && close(to) != 0 && status == AV_OK) {
    file->failure = (av_write_failure){errno, (int64_t)facts->st_size};
    status = av_safe_file_failed(file, AV_OK);
  }
  return status;
}

av_status av_safe_file_open(av_safe_file *file, bool empty, hid_t *h5) {
  return av_safe_file_failed(file, av_output_open(h5, file->temporary, empty, &file->failure));
}

av_status av_safe_file_close(av_safe_file *file, hid_t *h5) {
  const hid_t open = *h5;
  *h5 = -1;
  const av_status flushed = AV_H5(H5Fflush(open, H5F_SCOPE_LOCAL), file->path);
  const av_status closed = AV_H5(H5Fclose(open), file->path);
  return av_safe_file_failed(file, flushed != AV_OK ? flushed : closed);
}

av_status av_safe_file_sync(av_safe_file *file) {
  const int descriptor = open(file->temporary, O_RDONLY | O_CLOEXEC);
  if (descriptor < 0 || fsync(descriptor) != 0) {
    const int error = errno;
    struct stat facts;
    file->failure =
        (av_write_failure){error, stat(file->temporary, &facts) == 0 ? (int64_t)facts.st_size : 0};
  } else {
    posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED); /* advice: nothing depends on it */
  }
  if (descriptor >= 0) {
    close(descriptor);
  }
  return av_safe_file_failed(file, AV_OK);
}

/* The new file gets the replaced one's owner and mode. */
static void keep_owner_and_mode(const av_safe_file *file) {
  struct stat facts;
  if (stat(file->temporary, &facts) == 0 &&
      (facts.st_uid != file->old.st_uid || facts.st_gid != file->old.st_gid) &&
      chown(file->temporary, file->old.st_uid, file->old.st_gid) != 0) {
    av_warn("%s: its owner or group could not be kept: %s", file->path, strerror(errno));
  }
  if (chmod(file->temporary, file->old.st_mode & 07777) != 0) {
    av_warn("%s: its mode could not be kept: %s", file->path, strerror(errno));
  }
}

/* Renames without replacing, also where the file system cannot do that in one step. */
static int rename_new(const char *from, const char *to) {
  if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0) {
    return 0;
  }
  if (errno != EINVAL && errno != ENOSYS) {
    return -1;
  }
  if (access(to, F_OK) == 0) {
    errno = EEXIST;
    return -1;
  }
  return rename(from, to);
}

static av_status sync_directory(const char *path) {
  char *directory = directory_of(path);
  AV_TRY_ALLOC(directory);
  const int descriptor = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  av_status status = AV_OK;
  if (descriptor >= 0 && fsync(descriptor) != 0 && errno != EINVAL && errno != ENOTSUP) {
    status = av_fail(AV_IOERR, "%s: written, but its directory could not be stored: %s", path,
                     strerror(errno));
  }
  if (descriptor >= 0) {
    close(descriptor);
  }
  free(directory);
  return status;
}

av_status av_safe_file_commit(av_safe_file *file) {
  if (file->replaces) {
    keep_owner_and_mode(file);
  }
  const int renamed = file->overwrite ? rename(file->temporary, file->path)
                                      : rename_new(file->temporary, file->path);
  if (renamed != 0) {
    return errno == EEXIST ? av_fail(AV_CANTCREATE,
                                     "%s: exists already: it was made during this run", file->path)
                           : av_fail(AV_CANTCREATE, "%s: cannot be created: rename: %s", file->path,
                                     strerror(errno));
  }
  av_unfinished_drop(file->temporary);
  free(file->temporary);
  file->temporary = NULL;
  const av_status status = sync_directory(file->path);
  av_safe_file_discard(file);
  return status;
}

void av_safe_file_discard(av_safe_file *file) {
  if (file->temporary != NULL) {
    unlink(file->temporary);
    av_unfinished_drop(file->temporary);
  }
  free(file->temporary);
  free(file->path);
  *file = (av_safe_file){0};
}
