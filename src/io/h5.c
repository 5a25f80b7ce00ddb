#include "io/h5.h"

#include "base/memory.h"
#include "io/h5_lzf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *av_h5_version(void) {
  static char text[32];
  unsigned major = 0;
  unsigned minor = 0;
  unsigned release = 0;
  if (H5get_libversion(&major, &minor, &release) < 0) {
    return "unknown";
  }
  snprintf(text, sizeof text, "%u.%u.%u", major, minor, release);
  return text;
}

av_status av_h5_init(void) {
  if (H5open() < 0) {
    return av_fail(AV_BUG, "the HDF5 library does not start");
  }
  AV_TRY(AV_H5(H5Eset_auto2(H5E_DEFAULT, NULL, NULL), "HDF5"));
  return av_h5_register_lzf();
}

static herr_t keep_innermost(unsigned n, const H5E_error2_t *error, void *reason) {
  if (n == 0 && error->desc != NULL) {
    snprintf(reason, 512, "%s", error->desc);
  }
  return 0;
}

const char *av_h5_reason(void) {
  static char reason[512];
  reason[0] = '\0';
  if (H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_innermost, reason) < 0) {
    return "";
  }
  for (char *c = reason; *c != '\0'; ++c) {
    if (*c == '\n' || *c == '\r') {
      *c = ' ';
    }
  }
  return reason;
}

av_status av_h5_check(int64_t result, const char *call, const char *what) {
  if (result >= 0) {
    return AV_OK;
  }
  const char *reason = av_h5_reason();
  const int length = (int)strcspn(call, "(");
  return av_fail(AV_IOERR, "%s: %s (%.*s)", what, reason[0] == '\0' ? "HDF5 failed" : reason,
                 length, call);
}

void av_h5_close(hid_t *id) {
  const hid_t open = *id;
  *id = -1;
  if (open < 0) {
    return;
  }
  switch (H5Iget_type(open)) {
    case H5I_FILE:
      H5Fclose(open);
      break;
    case H5I_GROUP:
      H5Gclose(open);
      break;
    case H5I_DATASET:
      H5Dclose(open);
      break;
    case H5I_DATATYPE:
      H5Tclose(open);
      break;
    case H5I_DATASPACE:
      H5Sclose(open);
      break;
    case H5I_ATTR:
      H5Aclose(open);
      break;
    case H5I_GENPROP_LST:
      H5Pclose(open);
      break;
    default:
      H5Idec_ref(open);
      break;
  }
}

/* Filters known by name although this build has not got them (registered HDF5 filter numbers). */
static const char *filter_name(H5Z_filter_t id, const char *recorded) {
  static const struct {
    H5Z_filter_t id;
    const char *name;
  } known[] = {{H5Z_FILTER_DEFLATE, "gzip"},
               {H5Z_FILTER_SHUFFLE, "shuffle"},
               {H5Z_FILTER_FLETCHER32, "fletcher32"},
               {H5Z_FILTER_SZIP, "szip"},
               {H5Z_FILTER_NBIT, "nbit"},
               {H5Z_FILTER_SCALEOFFSET, "scaleoffset"},
               {305, "lzo"},
               {307, "bzip2"},
               {32000, "lzf"},
               {32001, "blosc"},
               {32004, "lz4"},
               {32008, "bitshuffle"},
               {32013, "zfp"},
               {32015, "zstd"},
               {32026, "blosc2"}};
  for (size_t i = 0; i < sizeof known / sizeof known[0]; ++i) {
    if (known[i].id == id) {
      return known[i].name;
    }
  }
  return recorded[0] == '\0' ? "unknown" : recorded;
}

/* One filter of a creation property list: fails if it cannot be undone here. */
static av_status check_filter(hid_t properties, unsigned i, const char *what) {
  unsigned flags = 0;
  unsigned config = 0;
  size_t n_values = 0;
  char recorded[64] = "";
  H5Z_filter_t id = -1;
  AV_TRY(AV_H5(id = H5Pget_filter2(properties, i, &flags, &n_values, NULL, sizeof recorded,
                                   recorded, &config),
               what));
  recorded[sizeof recorded - 1] = '\0';
  const htri_t available = H5Zfilter_avail(id);
  bool decodes = available > 0;
  if (decodes && H5Zget_filter_info(id, &config) >= 0) {
    decodes = (config & H5Z_FILTER_CONFIG_DECODE_ENABLED) != 0;
  }
  if (!decodes) {
    return av_fail(AV_BADDATA,
                   "%s: compressed with %s (HDF5 filter %d), which this build cannot undo; point "
                   "HDF5_PLUGIN_PATH to a folder with that filter's plugin, or rewrite the file "
                   "where the filter exists: h5repack -f GZIP=4 IN.h5ad OUT.h5ad",
                   what, filter_name(id, recorded), (int)id);
  }
  return AV_OK;
}

av_status av_h5_check_filters(hid_t dataset, const char *what) {
  if (H5Dget_storage_size(dataset) == 0) {
    return AV_OK; /* nothing was ever stored: nothing to undo */
  }
  hid_t properties = -1;
  AV_TRY(AV_H5_ID(properties, H5Dget_create_plist(dataset), what));
  int n = 0;
  av_status status = AV_H5(n = H5Pget_nfilters(properties), what);
  for (int i = 0; i < n && status == AV_OK; ++i) {
    status = check_filter(properties, (unsigned)i, what);
  }
  av_h5_close(&properties);
  return status;
}

void av_h5_filters_text(hid_t dataset, char *text, size_t room) {
  snprintf(text, room, "none");
  hid_t properties = H5Dget_create_plist(dataset);
  const int n = properties < 0 ? 0 : H5Pget_nfilters(properties);
  size_t used = 0;
  for (int i = 0; i < n && used < room; ++i) {
    char recorded[64] = "";
    size_t n_values = 0;
    const H5Z_filter_t id = H5Pget_filter2(properties, (unsigned)i, NULL, &n_values, NULL,
                                           sizeof recorded, recorded, NULL);
    recorded[sizeof recorded - 1] = '\0';
    used += (size_t)snprintf(text + used, room - used, "%s%s", i == 0 ? "" : " + ",
                             filter_name(id, recorded));
  }
  av_h5_close(&properties);
}

av_status av_h5_check_storage(hid_t dataset, const char *what) {
  hid_t properties = -1;
  AV_TRY(AV_H5_ID(properties, H5Dget_create_plist(dataset), what));
  const H5D_layout_t layout = H5Pget_layout(properties);
  int n_external = 0;
  av_status status = AV_H5(layout, what);
  if (status == AV_OK && layout == H5D_CONTIGUOUS) {
    status = AV_H5(n_external = H5Pget_external_count(properties), what);
  }
  if (status == AV_OK && layout == H5D_VIRTUAL) {
    status = av_fail(AV_BADDATA,
                     "%s: a virtual dataset, whose values are in other files or datasets; write "
                     "real values first: anndata.read_h5ad(...).write_h5ad(...)",
                     what);
  } else if (status == AV_OK && n_external > 0) {
    status = av_fail(AV_BADDATA,
                     "%s: its values are kept outside this file (HDF5 external storage); write "
                     "them into it first: h5repack IN.h5ad OUT.h5ad",
                     what);
  }
  av_h5_close(&properties);
  return status;
}

/* Why an existing link cannot be opened: an external or soft link that leads nowhere, or `reason`.
 */
static av_status fail_open(hid_t location, const char *link, const char *what) {
  char reason[512];
  snprintf(reason, sizeof reason, "%s", av_h5_reason());
  H5L_info_t info;
  char *target = NULL;
  if (H5Lget_info(location, link, &info, H5P_DEFAULT) >= 0 &&
      (info.type == H5L_TYPE_EXTERNAL || info.type == H5L_TYPE_SOFT)) {
    target = av_calloc(info.u.val_size + 1, 1);
  }
  if (target == NULL || H5Lget_val(location, link, target, info.u.val_size, H5P_DEFAULT) < 0) {
    free(target);
    return av_fail(AV_IOERR, "%s: cannot be opened: %s", what, reason);
  }
  const char *file = NULL;
  const char *object = target;
  if (info.type == H5L_TYPE_EXTERNAL &&
      H5Lunpack_elink_val(target, info.u.val_size, NULL, &file, &object) < 0) {
    file = "?";
    object = "?";
  }
  if (file != NULL) {
    av_fail(AV_BADDATA, "%s: a link to \"%s\" in the file \"%s\", which cannot be opened", what,
            object, file);
  } else {
    av_fail(AV_BADDATA, "%s: a link to \"%s\", which does not exist", what, object);
  }
  free(target);
  return AV_BADDATA;
}

av_status av_h5_open_object(hid_t *object, hid_t location, const char *link, const char *what) {
  *object = H5Oopen(location, link, H5P_DEFAULT);
  return *object >= 0 ? AV_OK : fail_open(location, link, what);
}

/* Is the object at `path` a group (one that further links may follow)? */
static av_status is_group(hid_t location, const char *path, bool *group) {
  hid_t object = -1;
  AV_TRY(av_h5_open_object(&object, location, path, path));
  *group = H5Iget_type(object) == H5I_GROUP;
  av_h5_close(&object);
  return AV_OK;
}

/* A link whose absence or presence cannot be told: names file and link. */
static av_status fail_lookup(hid_t location, const char *path) {
  char reason[256]; /* kept before H5Fget_name clears HDF5's record of the error */
  snprintf(reason, sizeof reason, "%s", av_h5_reason());
  char file[512] = "";
  H5Fget_name(location, file, sizeof file);
  return av_fail(AV_IOERR, "%s: %s: cannot be looked up: %s", file, path, reason);
}

av_status av_h5_exists(hid_t location, const char *link, bool *exists) {
  *exists = false;
  char *path = av_strdup(link);
  AV_TRY_ALLOC(path);
  av_status status = AV_OK;
  bool there = true;
  char *end = path + strspn(path, "/");
  while (status == AV_OK && there && *end != '\0') {
    end += strcspn(end, "/");
    const char next = *end;
    *end = '\0';
    const htri_t found = H5Lexists(location, path, H5P_DEFAULT);
    status = found < 0 ? fail_lookup(location, path) : AV_OK;
    there = status == AV_OK && found > 0;
    if (there && next != '\0') {
      status = is_group(location, path, &there);
    }
    *end = next;
    end += strspn(end, "/");
  }
  free(path);
  *exists = status == AV_OK && there;
  return status;
}
