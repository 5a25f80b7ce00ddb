/* Opening an input file: every way in which it can be the wrong thing, told apart. */
#include "base/memory.h"
#include "io/h5.h"
#include "io/h5ad_keys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static av_status fail_errno(const char *path, int error) {
  switch (error) {
    case ENOENT:
      return av_fail(AV_NOINPUT, "%s: no such file", path);
    case EACCES:
    case EPERM:
      return av_fail(AV_NOINPUT, "%s: no permission to read it", path);
    case ENOTDIR:
      return av_fail(AV_NOINPUT, "%s: no such file (a part of the path is not a directory)", path);
    default:
      return av_fail(AV_NOINPUT, "%s: cannot be opened: %s", path, strerror(error));
  }
}

static bool folder_has(const char *path, const char *name) {
  char *full = av_format("%s/%s", path, name);
  const bool has = full != NULL && access(full, F_OK) == 0;
  free(full);
  return has;
}

static av_status fail_directory(const char *path) {
  static const char *const zarr[] = {".zgroup", ".zattrs", ".zmetadata", "zarr.json"};
  for (size_t i = 0; i < sizeof zarr / sizeof zarr[0]; ++i) {
    if (folder_has(path, zarr[i])) {
      return av_fail(AV_BADDATA,
                     "%s: a zarr store, not an .h5ad file; convert it: "
                     "anndata.read_zarr(...).write_h5ad(...)",
                     path);
    }
  }
  return av_fail(AV_NOINPUT, "%s: a directory, not an .h5ad file", path);
}

/* What a file that is not HDF5 begins with, in words. */
static const char *kind_of(const unsigned char *start, size_t n) {
  static const struct {
    const char *start;
    size_t n;
    const char *kind;
  } kinds[] = {{"\x1f\x8b", 2, "it is gzip-compressed: gunzip it first"},
               {"PK\x03\x04", 4, "it is a zip archive: unpack it first"},
               {"version https://git-lfs", 23, "it is a git-lfs pointer: run git lfs pull"},
               {"<", 1, "it is a web page or XML: download the file itself"},
               {"%%MatrixMarket", 14, "it is MatrixMarket text: read it with scanpy.read_mtx"}};
  for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; ++i) {
    if (n >= kinds[i].n && memcmp(start, kinds[i].start, kinds[i].n) == 0) {
      return kinds[i].kind;
    }
  }
  return "it does not begin like one";
}

/* Checks that the file is readable and begins like HDF5 of a version that this library knows. */
static av_status check_signature(const char *path) {
  static const unsigned char signature[8] = "\x89HDF\r\n\x1a\n";
  enum { NEWEST_SUPERBLOCK = 3 };
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) {
    return fail_errno(path, errno);
  }
  unsigned char start[64] = {0};
  const ssize_t n_start = pread(file, start, sizeof start, 0);
  bool found = false;
  int version = 0;
  ssize_t n = n_start;
  for (off_t at = 0; n > 0 && !found; at = at == 0 ? 512 : 2 * at) { /* where HDF5 looks too */
    unsigned char head[9];
    n = pread(file, head, sizeof head, at);
    found = n == (ssize_t)sizeof head && memcmp(head, signature, sizeof signature) == 0;
    version = found ? head[8] : version;
  }
  const int read_error = n < 0 || n_start < 0 ? errno : 0;
  close(file);
  if (read_error != 0) {
    return av_fail(AV_IOERR, "%s: cannot be read: %s", path, strerror(read_error));
  }
  if (n_start == 0) {
    return av_fail(AV_BADDATA, "%s: not an HDF5 file: it is empty (0 bytes)", path);
  }
  if (!found) {
    return av_fail(AV_BADDATA, "%s: not an HDF5 file, so no .h5ad: %s", path,
                   kind_of(start, (size_t)n_start));
  }
  if (version > NEWEST_SUPERBLOCK) {
    return av_fail(AV_BADDATA,
                   "%s: written in a newer HDF5 format (superblock %d) than this build's HDF5 %s "
                   "reads; rewrite it with h5py's default libver, or build with a newer HDF5",
                   path, version, av_h5_version());
  }
  return AV_OK;
}

static av_status check_path(const char *path) {
  struct stat info;
  if (stat(path, &info) != 0) {
    return fail_errno(path, errno);
  }
  if (S_ISDIR(info.st_mode)) {
    return fail_directory(path);
  }
  if (!S_ISREG(info.st_mode)) {
    return av_fail(AV_NOINPUT, "%s: not a regular file", path);
  }
  return check_signature(path);
}

static herr_t gather_reasons(unsigned n, const H5E_error2_t *error, void *text) {
  (void)n;
  char *all = text;
  const size_t length = strlen(all);
  snprintf(all + length, 2048 - length, "%s\n", error->desc == NULL ? "" : error->desc);
  return 0;
}

/* Turns HDF5's reasons for not opening the file into one line. Call right after the failure. */
static av_status fail_open_file(const char *path) {
  char reason[512];
  char all[2048] = "";
  snprintf(reason, sizeof reason, "%s", av_h5_reason());
  if (H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, gather_reasons, all) < 0) {
    all[0] = '\0';
  }
  if (strstr(all, "truncated file") != NULL) {
    return av_fail(AV_BADDATA,
                   "%s: truncated: the file is shorter than its header says (an "
                   "interrupted copy or download?)",
                   path);
  }
  /* the signature was there a moment ago: if HDF5 does not find it, the read itself failed */
  if (strstr(all, "read failed") != NULL || strstr(all, "signature not found") != NULL) {
    return av_fail(AV_IOERR, "%s: reading failed: check the disk or file system", path);
  }
  if (strstr(all, "unable to lock") != NULL) {
    return av_fail(
        AV_IOERR,
        "%s: locked: another program has it open for writing, or this file system has no "
        "locks; close it there or, if nothing writes to it, set "
        "HDF5_USE_FILE_LOCKING=FALSE",
        path);
  }
  if (strstr(all, "already open for write") != NULL || strstr(all, "consistency flags") != NULL) {
    return av_fail(AV_IOERR,
                   "%s: marked as open for writing: a program still writes to it, or crashed while "
                   "it did; in the latter case: h5clear -s FILE",
                   path);
  }
  if (strstr(all, "version number") != NULL) {
    return av_fail(
        AV_BADDATA,
        "%s: damaged, or written in a newer HDF5 format than this build's HDF5 %s reads: %s", path,
        av_h5_version(), reason);
  }
  return av_fail(AV_BADDATA, "%s: damaged: HDF5 cannot open it: %s", path, reason);
}

/* A root link of the given kind (H5I_GROUP, H5I_DATASET)? */
static bool root_has(hid_t file, const char *link, H5I_type_t kind) {
  bool exists = false;
  hid_t object = -1;
  if (av_h5_exists(file, link, &exists) != AV_OK || !exists ||
      av_h5_open_object(&object, file, link, link) != AV_OK) {
    av_error_clear(); /* recognition only: whatever cannot be opened is not what we look for */
    return false;
  }
  const bool same = H5Iget_type(object) == kind;
  av_h5_close(&object);
  return same;
}

static bool root_has_link(hid_t file, const char *link) {
  return H5Lexists(file, link, H5P_DEFAULT) > 0;
}

static herr_t has_genome(hid_t root, const char *name, const H5L_info_t *info, void *found) {
  (void)info;
  char link[256];
  snprintf(link, sizeof link, "%s/barcodes", name);
  *(bool *)found = root_has(root, name, H5I_GROUP) && root_has(root, link, H5I_DATASET);
  return *(bool *)found ? 1 : 0;
}

/* Names the other formats that are HDF5 files too; NULL if it is none of them. */
static const char *other_format(hid_t file) {
  if (root_has(file, "mod", H5I_GROUP)) {
    return "a MuData .h5mu file; take one modality out of it: "
           "mudata.read(...).mod[\"rna\"].write_h5ad(...)";
  }
  const bool has_both = root_has_link(file, AV_H5AD_OBS) && root_has_link(file, AV_H5AD_VAR);
  if (has_both) {
    return NULL;
  }
  if (root_has(file, "matrix", H5I_DATASET) && root_has(file, "col_attrs", H5I_GROUP)) {
    return "a loom file; convert it: anndata.read_loom(...).write_h5ad(...)";
  }
  if (root_has(file, "assays", H5I_GROUP) && root_has_link(file, "meta.data")) {
    return "an h5Seurat file; convert it: SeuratDisk::Convert(..., dest = \"h5ad\")";
  }
  bool tenx = root_has(file, "matrix/barcodes", H5I_DATASET);
  hsize_t next = 0;
  if (!tenx && H5Literate(file, H5_INDEX_NAME, H5_ITER_NATIVE, &next, has_genome, &tenx) < 0) {
    tenx = false;
  }
  if (tenx) {
    return "a 10x .h5 file; convert it: scanpy.read_10x_h5(...).write_h5ad(...)";
  }
  static const char *const old[] = {"_X",   "_obs",       "_var",        "smp",
                                    "_smp", "X_csr_data", "X_csr_indptr"};
  for (size_t i = 0; i < sizeof old / sizeof old[0]; ++i) {
    if (root_has_link(file, old[i])) {
      return "the layout of anndata before 0.5; read and write it once with anndata 0.6";
    }
  }
  return NULL;
}

static av_status check_content(hid_t file, const char *path) {
  const char *other = other_format(file);
  if (other != NULL) {
    return av_fail(AV_BADDATA, "%s: not an .h5ad file: it is %s", path, other);
  }
  static const char *const needed[] = {AV_H5AD_OBS, AV_H5AD_VAR};
  for (size_t i = 0; i < sizeof needed / sizeof needed[0]; ++i) {
    if (!root_has_link(file, needed[i])) {
      return av_fail(AV_BADDATA, "%s: not an .h5ad file: an HDF5 file without /%s", path,
                     needed[i]);
    }
  }
  return AV_OK;
}

av_status av_h5_open_input(hid_t *file, const char *path) {
  *file = -1;
  AV_TRY(check_path(path));
  *file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
  if (*file < 0) {
    return fail_open_file(path);
  }
  const av_status status = check_content(*file, path);
  if (status != AV_OK) {
    av_h5_close(file);
  }
  return status;
}

av_status av_h5_open_parallel(hid_t *file, const av_comm *comm, const char *path) {
  *file = -1;
  AV_TRY(av_agree(comm, check_path(path))); /* a file that not every node sees */
  /* each rank alone: with all ranks in one open, one that cannot read would leave the others
   * waiting inside HDF5 */
  *file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
  const av_status status = av_agree(comm, *file >= 0 ? AV_OK : fail_open_file(path));
  if (status != AV_OK) {
    av_h5_close(file);
  }
  return status;
}
