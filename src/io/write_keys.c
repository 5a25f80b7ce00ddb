/* Adding to a file that has content: which keys are ours, and whether it can take them. */
#include "io/h5.h"
#include "io/h5ad_keys.h"
#include "io/writer.h"

#include <stdio.h>
#include <string.h>

typedef struct key_search {
  const char *const *names; /* ended by NULL; one that ends in '*' stands for all that begin so */
  char found[256];
} key_search;

static bool matches(const char *pattern, const char *name) {
  const size_t n = strlen(pattern);
  return pattern[n - 1] == '*' ? strncmp(pattern, name, n - 1) == 0 : strcmp(pattern, name) == 0;
}

static herr_t search(hid_t group, const char *name, const H5L_info_t *info, void *context) {
  (void)group;
  (void)info;
  key_search *keys = context;
  for (const char *const *pattern = keys->names; *pattern != NULL; ++pattern) {
    if (matches(*pattern, name)) {
      snprintf(keys->found, sizeof keys->found, "%s", name);
      return 1;
    }
  }
  return 0;
}

/* The first key of ours in one group; "" if none, or no such group. */
static av_status find_in(hid_t file, const char *link, key_search *keys, const char *path) {
  bool exists = false;
  hid_t group = -1;
  keys->found[0] = '\0';
  AV_TRY(av_h5_exists(file, link, &exists));
  if (!exists) {
    return AV_OK;
  }
  AV_TRY(av_h5_open_object(&group, file, link, path));
  av_status status = AV_OK;
  if (H5Iget_type(group) == H5I_GROUP) {
    hsize_t next = 0;
    status = AV_H5(H5Literate(group, H5_INDEX_NAME, H5_ITER_INC, &next, search, keys), path);
  }
  av_h5_close(&group);
  return status;
}

av_status av_our_keys(hid_t file, const char *path, bool remove, char found[300]) {
  static const char *const obsm[] = {"X_scvi", "X_scvi_denoised", "X_scvi_sample_rate", NULL};
  static const char *const varm[] = {"ldvae_loadings", NULL};
  static const char *const uns[] = {"atlasvi", "ldvae_*", NULL};
  static const struct {
    const char *group;
    const char *const *names;
  } places[] = {{AV_H5AD_OBSM, obsm}, {AV_H5AD_VARM, varm}, {AV_H5AD_UNS, uns}};
  found[0] = '\0';
  for (size_t i = 0; i < sizeof places / sizeof places[0]; ++i) {
    key_search keys = {.names = places[i].names};
    AV_TRY(find_in(file, places[i].group, &keys, path));
    while (keys.found[0] != '\0') {
      char link[300];
      snprintf(link, sizeof link, "%s/%s", places[i].group, keys.found);
      if (!remove) {
        snprintf(found, 300, "%s", link);
        return AV_OK;
      }
      AV_TRY(AV_H5(H5Ldelete(file, link, H5P_DEFAULT), path));
      AV_TRY(find_in(file, places[i].group, &keys, path));
    }
  }
  return AV_OK;
}

av_status av_check_can_add(hid_t file, const char *path, const av_config *config) {
  static const char *const tables[] = {AV_H5AD_OBS, AV_H5AD_VAR, AV_H5AD_OBSM, AV_H5AD_VARM,
                                       AV_H5AD_UNS};
  for (size_t i = 0; i < sizeof tables / sizeof tables[0]; ++i) {
    bool exists = false;
    hid_t object = -1;
    AV_TRY(av_h5_exists(file, tables[i], &exists));
    if (!exists) {
      continue;
    }
    AV_TRY(av_h5_open_object(&object, file, tables[i], path));
    const bool table = H5Iget_type(object) != H5I_GROUP;
    av_h5_close(&object);
    if (table) {
      return av_fail(AV_CONFIG,
                     "%s: %s was written by anndata 0.6 or older (%s is a table, not a group), "
                     "and results cannot be added to such a file: use mode = results, or write it "
                     "anew with today's anndata",
                     av_config_where(config, "output", "mode"), path, tables[i]);
    }
  }
  return AV_OK;
}
