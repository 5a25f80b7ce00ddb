#include "io/dataframe.h"

#include "base/memory.h"
#include "io/h5ad_keys.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

av_status av_frame_raw_var(hid_t file, const char **link) {
  static const char *const candidates[] = {AV_H5AD_RAW_VAR, AV_H5AD_OLD_RAW_VAR};
  *link = NULL;
  for (size_t i = 0; i < 2 && *link == NULL; ++i) {
    bool exists = false;
    AV_TRY(av_h5_exists(file, candidates[i], &exists));
    if (exists) {
      *link = candidates[i];
    }
  }
  return AV_OK;
}

/* Removes every `name` from the list. */
static av_status drop_name(av_names *names, const char *name) {
  const char **kept = av_calloc((size_t)names->n, sizeof *kept);
  AV_TRY_ALLOC(kept);
  int64_t n = 0;
  for (int64_t i = 0; i < names->n; ++i) {
    if (strcmp(names->at[i], name) != 0) {
      kept[n++] = names->at[i];
    }
  }
  av_names copy = {0};
  const av_status status = av_names_copy(&copy, n, kept);
  free(kept);
  if (status == AV_OK) {
    av_names_free(names);
    *names = copy;
  }
  return status;
}

/* Rows of the element that holds the row names. */
static av_status count_rows(av_frame *frame) {
  char *what = av_format("%s/%s", frame->what, frame->index);
  AV_TRY_ALLOC(what);
  hid_t object = -1;
  av_element element = AV_ELEMENT_NONE;
  av_status status = av_h5_open_object(&object, frame->object, frame->index, what);
  if (status == AV_OK && H5Iget_type(object) == H5I_GROUP) {
    bool nullable = false; /* else a categorical index, as pandas allows */
    status = av_h5_exists(object, AV_H5AD_VALUES, &nullable);
    if (status == AV_OK) {
      status = av_element_open(&element, object, nullable ? AV_H5AD_VALUES : AV_H5AD_CODES, what);
    }
    av_h5_close(&object);
  } else if (status == AV_OK) {
    status = av_element_adopt(&element, object, what);
  }
  frame->n_rows = element.n;
  av_element_close(&element);
  free(what);
  return status;
}

static av_status open_group(av_frame *frame) {
  AV_TRY(av_h5_attribute_text(frame->object, AV_H5AD_INDEX, &frame->index));
  char *what = av_format("%s: attribute %s", frame->what, AV_H5AD_COLUMN_ORDER);
  AV_TRY_ALLOC(what);
  av_status status = av_attribute_names(frame->object, AV_H5AD_COLUMN_ORDER, what, &frame->columns);
  free(what);
  AV_TRY(status);
  if (frame->index == NULL) {
    return av_fail(AV_BADDATA,
                   "%s: not a dataframe: it has no attribute %s that names its row names",
                   frame->what, AV_H5AD_INDEX);
  }
  bool exists = false;
  AV_TRY(av_h5_exists(frame->object, frame->index, &exists));
  if (!exists) {
    return av_fail(AV_BADDATA, "%s: its row names \"%s\" are not in the file", frame->what,
                   frame->index);
  }
  return count_rows(frame);
}

/* Picks the member that holds the row names and lists the others. */
static av_status list_members(av_frame *frame, hid_t type) {
  static const char *const usual[] = {"index",     "obs_names", "smp_names",
                                      "row_names", "var_names", "col_names"};
  int chosen = 0;
  for (size_t i = sizeof usual / sizeof usual[0]; i-- > 0;) {
    const int at = H5Tget_member_index(type, usual[i]);
    chosen = at >= 0 ? at : chosen;
  }
  const int n = H5Tget_nmembers(type);
  char **members = av_calloc(n > 0 ? (size_t)n : 1, sizeof *members);
  AV_TRY_ALLOC(members);
  av_status status = AV_OK;
  for (int i = 0; i < n; ++i) {
    members[i] = H5Tget_member_name(type, (unsigned)i);
    if (members[i] == NULL) {
      status = av_fail(AV_IOERR, "%s: the names of its columns cannot be read", frame->what);
    }
  }
  if (status == AV_OK && n > 0) {
    status = av_names_copy(&frame->columns, n, (const char *const *)members);
    frame->index = av_strdup(members[chosen]);
  }
  for (int i = 0; i < n; ++i) {
    H5free_memory(members[i]);
  }
  free(members);
  AV_TRY(status);
  if (frame->index == NULL) {
    return av_fail(AV_BADDATA, "%s: a table without columns", frame->what);
  }
  return drop_name(&frame->columns, frame->index);
}

static av_status open_compound(av_frame *frame) {
  frame->compound = true;
  hid_t type = -1;
  AV_TRY(AV_H5_ID(type, H5Dget_type(frame->object), frame->what));
  av_status status = AV_OK;
  if (H5Tget_class(type) == H5T_COMPOUND) {
    status = list_members(frame, type);
  } else {
    status = av_fail(AV_BADDATA, "%s: not a dataframe: a dataset of %s", frame->what,
                     av_h5_type_name(type));
  }
  av_h5_close(&type);
  AV_TRY(status);
  av_element index = AV_ELEMENT_NONE;
  AV_TRY(av_element_open_member(&index, frame->object, frame->index, frame->what));
  frame->n_rows = index.n;
  av_element_close(&index);
  return AV_OK;
}

av_status av_frame_open(av_frame *frame, hid_t file, const char *path, const char *link) {
  *frame = (av_frame){.file = file,
                      .object = -1,
                      .link = av_strdup(link),
                      .path = av_strdup(path),
                      .what = av_format("%s: %s", path, link)};
  if (frame->link == NULL || frame->path == NULL || frame->what == NULL) {
    av_frame_close(frame);
    return av_fail(AV_NOMEM, "out of memory (%s: %s)", path, link);
  }
  av_status status = av_h5_open_object(&frame->object, file, link, frame->what);
  if (status == AV_OK) {
    status = H5Iget_type(frame->object) == H5I_GROUP ? open_group(frame) : open_compound(frame);
  }
  if (status != AV_OK) {
    av_frame_close(frame);
  }
  return status;
}

void av_frame_close(av_frame *frame) {
  av_h5_close(&frame->object);
  free(frame->link);
  free(frame->path);
  free(frame->what);
  free(frame->index);
  av_names_free(&frame->columns);
  *frame = (av_frame){.file = -1, .object = -1};
}

av_status av_frame_names(const av_frame *frame, av_names *names) {
  *names = (av_names){0};
  char *what = av_format("%s/%s", frame->what, frame->index);
  AV_TRY_ALLOC(what);
  av_status status = AV_OK;
  if (frame->compound) {
    av_element index = AV_ELEMENT_NONE;
    status = av_element_open_member(&index, frame->object, frame->index, what);
    if (status == AV_OK) {
      status = av_element_names(&index, names, NULL);
    }
    av_element_close(&index);
  } else {
    status = av_h5_read_strings(frame->object, frame->index, what, names, NULL);
  }
  free(what);
  return status;
}

bool av_frame_has(const av_frame *frame, const char *column) {
  for (int64_t i = 0; i < frame->columns.n; ++i) {
    if (strcmp(frame->columns.at[i], column) == 0) {
      return true;
    }
  }
  return false;
}

av_status av_frame_fail_missing(const av_frame *frame, const char *where, const char *column,
                                const char *advice) {
  enum { LISTED = 10 };
  char list[1024] = "";
  size_t used = 0;
  const int64_t n = frame->columns.n;
  for (int64_t i = 0; i < n && i < LISTED && used < sizeof list; ++i) {
    used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", i == 0 ? "" : ", ",
                             frame->columns.at[i]);
  }
  char more[64] = "";
  if (n > LISTED) {
    snprintf(more, sizeof more, " and %" PRId64 " more", n - LISTED);
  }
  const char *near = av_nearest(column, n, (const char *const *)frame->columns.at);
  return av_fail(AV_CONFIG, "%s: %s has no column \"%s\"%s%s%s; %s%s%s%s", where, frame->what,
                 column, near == NULL ? "" : "; did you mean \"", near == NULL ? "" : near,
                 near == NULL ? "" : "\"?", n == 0 ? "it has no columns" : "it has ", list, more,
                 advice);
}
