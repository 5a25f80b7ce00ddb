#include "io/output_driver.h"

#include "io/h5.h"
#include "io/write_behind.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#if H5_VERSION_GE(1, 13, 0)
#include <H5FDdevelop.h>
#endif

struct av_output_handle {
  H5FD_t base; /* HDF5's part, must be first */
  int descriptor;
  haddr_t eoa; /* end of what HDF5 has allocated */
  haddr_t eof;
  dev_t device;
  ino_t inode;
  bool writes;
  av_write_behind behind;
  av_write_failure *failure; /* NULL: opened for reading */
};
typedef struct av_output_handle output_file;

/* Reads of at least so many bytes are matrices, read once from begin to end. */
enum { LARGE_READ = 1 << 18 };

typedef struct driver_info {
  av_write_failure *failure;
} driver_info;

static H5FD_t *driver_open(const char *name, unsigned flags, hid_t access, haddr_t largest) {
  (void)largest;
  const driver_info *info = H5Pget_driver_info(access);
  if (info == NULL) {
    return NULL;
  }
  int mode = (flags & H5F_ACC_RDWR) != 0 ? O_RDWR : O_RDONLY;
  mode |= (flags & H5F_ACC_TRUNC) != 0 ? O_TRUNC : 0;
  mode |= (flags & H5F_ACC_CREAT) != 0 ? O_CREAT : 0;
  const int descriptor = open(name, mode | O_CLOEXEC, 0666);
  struct stat facts;
  if (descriptor < 0 || fstat(descriptor, &facts) != 0) {
    if (info->failure != NULL) {
      info->failure->error = errno;
    }
    if (descriptor >= 0) {
      close(descriptor);
    }
    return NULL;
  }
  output_file *file = calloc(1, sizeof *file);
  if (file == NULL) {
    close(descriptor);
    return NULL;
  }
  file->descriptor = descriptor;
  file->eof = (haddr_t)facts.st_size;
  file->device = facts.st_dev;
  file->inode = facts.st_ino;
  file->writes = (flags & H5F_ACC_RDWR) != 0;
  file->failure = info->failure;
  return &file->base;
}

static void remember(output_file *file, int error, haddr_t end) {
  if (file->failure != NULL && file->failure->error == 0) {
    file->failure->error = error;
    file->failure->needed = (int64_t)(end > file->eoa ? end : file->eoa);
  }
}

static herr_t driver_close(H5FD_t *base) {
  output_file *file = (output_file *)base;
  if (close(file->descriptor) != 0) {
    remember(file, errno, file->eof);
  }
  free(file);
  return 0;
}

static int driver_compare(const H5FD_t *a, const H5FD_t *b) {
  const output_file *first = (const output_file *)a;
  const output_file *second = (const output_file *)b;
  if (first->device != second->device) {
    return first->device < second->device ? -1 : 1;
  }
  return first->inode == second->inode ? 0 : first->inode < second->inode ? -1 : 1;
}

static herr_t driver_query(const H5FD_t *base, unsigned long *flags) {
  (void)base;
  *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA | H5FD_FEAT_DATA_SIEVE |
           H5FD_FEAT_AGGREGATE_SMALLDATA | H5FD_FEAT_POSIX_COMPAT_HANDLE |
           H5FD_FEAT_DEFAULT_VFD_COMPATIBLE;
  return 0;
}

static haddr_t driver_get_eoa(const H5FD_t *base, H5FD_mem_t type) {
  (void)type;
  return ((const output_file *)base)->eoa;
}

static herr_t driver_set_eoa(H5FD_t *base, H5FD_mem_t type, haddr_t address) {
  (void)type;
  ((output_file *)base)->eoa = address;
  return 0;
}

static haddr_t driver_get_eof(const H5FD_t *base, H5FD_mem_t type) {
  (void)type;
  return ((const output_file *)base)->eof;
}

static herr_t driver_handle(H5FD_t *base, hid_t access, void **handle) {
  (void)access;
  *handle = &((output_file *)base)->descriptor;
  return 0;
}

static herr_t driver_read(H5FD_t *base, H5FD_mem_t type, hid_t transfer, haddr_t address,
                          size_t size, void *buffer) {
  (void)type;
  (void)transfer;
  const output_file *file = (const output_file *)base;
  const off_t begin = (off_t)address;
  const off_t bytes = (off_t)size;
  const bool large = !file->writes && size >= LARGE_READ;
  char *at = buffer;
  while (size > 0) {
    const ssize_t n = pread(file->descriptor, at, size, (off_t)address);
    if (n < 0 && errno == EINTR) {
      continue;
    }
    if (n < 0) {
      return -1;
    }
    if (n == 0) { /* beyond the end of the file, within what is allocated: zeros */
      memset(at, 0, size);
      break;
    }
    at += n;
    address += (haddr_t)n;
    size -= (size_t)n;
  }
  if (large) { /* the same memory serves again: new pages cost more than the copy out of them */
    posix_fadvise(file->descriptor, begin, bytes, POSIX_FADV_DONTNEED);
  }
  return 0;
}

bool av_output_write(av_output_handle *file, int64_t address, const void *data, int64_t bytes) {
  const int64_t end = address + bytes;
  const char *at = data;
  for (int64_t to = address; to < end && file->failure->error == 0;) {
    const ssize_t n = pwrite(file->descriptor, at, (size_t)(end - to), (off_t)to);
    if (n < 0 && errno == EINTR) {
      continue;
    }
    if (n <= 0) {
      remember(file, n < 0 ? errno : EIO, (haddr_t)end);
      break;
    }
    at += n;
    to += n;
  }
  file->eof = (haddr_t)end > file->eof ? (haddr_t)end : file->eof;
  if (file->failure->error == 0) {
    const int error = av_write_behind_wrote(&file->behind, file->descriptor, address, bytes);
    if (error != 0) {
      remember(file, error, (haddr_t)end);
    }
  }
  return file->failure->error == 0;
}

static herr_t driver_write(H5FD_t *base, H5FD_mem_t type, hid_t transfer, haddr_t address,
                           size_t size, const void *buffer) {
  (void)type;
  (void)transfer;
  av_output_write((output_file *)base, (int64_t)address, buffer, (int64_t)size);
  return 0;
}

static herr_t driver_truncate(H5FD_t *base, hid_t transfer, hbool_t closing) {
  (void)transfer;
  (void)closing;
  output_file *file = (output_file *)base;
  if (file->eoa != file->eof) {
    if (file->failure->error == 0 && ftruncate(file->descriptor, (off_t)file->eoa) != 0) {
      remember(file, errno, file->eoa);
    }
    file->eof = file->eoa;
  }
  return 0;
}

static const H5FD_class_t DRIVER = {
#if H5_VERSION_GE(1, 13, 0)
    .version = H5FD_CLASS_VERSION,
    .value = (H5FD_class_value_t)600, /* above the range reserved for HDF5's own and registered
                                         drivers */
#endif
    .name = "atlasvi-output",
    .maxaddr = ((haddr_t)1 << 62) - 1,
    .fc_degree = H5F_CLOSE_STRONG,
    .fapl_size = sizeof(driver_info),
    .open = driver_open,
    .close = driver_close,
    .cmp = driver_compare,
    .query = driver_query,
    .get_eoa = driver_get_eoa,
    .set_eoa = driver_set_eoa,
    .get_eof = driver_get_eof,
    .get_handle = driver_handle,
    .read = driver_read,
    .write = driver_write,
    .truncate = driver_truncate,
    .fl_map = H5FD_FLMAP_DICHOTOMY,
};

/* File access through the driver above; `failure` may be NULL for reading. */
static av_status driver_access(hid_t *access, av_write_failure *failure, const char *path) {
  const driver_info info = {failure};
  hid_t driver = -1;
  av_status status = AV_OK;
  AV_GO(status, AV_H5_ID(driver, H5FDregister(&DRIVER), path), done);
  AV_GO(status, AV_H5_ID(*access, H5Pcreate(H5P_FILE_ACCESS), path), done);
  AV_GO(status, AV_H5(H5Pset_driver(*access, driver, &info), path), done);
  AV_GO(status, AV_H5(H5Pset_fclose_degree(*access, H5F_CLOSE_STRONG), path), done);

done:
  if (driver >= 0) {
    H5FDunregister(driver); /* the properties keep their own reference */
  }
  return status;
}

av_status av_output_open(hid_t *file, const char *path, bool create, av_write_failure *failure) {
  hid_t access = -1;
  *file = -1;
  *failure = (av_write_failure){0};
  av_status status = driver_access(&access, failure, path);
  if (status == AV_OK && create) {
    status = AV_H5_ID(*file, H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, access), path);
  } else if (status == AV_OK) {
    status = AV_H5_ID(*file, H5Fopen(path, H5F_ACC_RDWR, access), path);
  }
  av_h5_close(&access);
  return status;
}

av_status av_output_reopen(hid_t *file, const char *path) {
  hid_t access = -1;
  *file = -1;
  av_status status = driver_access(&access, NULL, path);
  if (status == AV_OK) {
    status = AV_H5_ID(*file, H5Fopen(path, H5F_ACC_RDONLY, access), path);
  }
  av_h5_close(&access);
  return status;
}

av_status av_output_handle_of(av_output_handle **handle, hid_t file) {
  void *descriptor = NULL;
  AV_TRY(AV_H5(H5Fget_vfd_handle(file, H5P_DEFAULT, &descriptor), "output file"));
  *handle = (output_file *)((char *)descriptor - offsetof(output_file, descriptor));
  return AV_OK;
}

int64_t av_output_address(hid_t dataset) {
  const haddr_t address = H5Dget_offset(dataset);
  return address == HADDR_UNDEF ? -1 : (int64_t)address;
}
