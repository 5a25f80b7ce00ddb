/* The configuration of a run of many ranks: rank 0 reads, checks and tells the others. */
#include "base/memory.h"
#include "config/config_table.h"
#include "data/names.h"

#include <stdlib.h>
#include <string.h>

/* Rank 0's part: every fault of the text, of the overrides and between keys is recorded. */
static av_status read_here(av_config *config, const char *path, int n, char *const *overrides) {
  char *text = NULL;
  size_t length = 0;
  char *why = NULL;
  av_status status = av_config_slurp(path, &text, &length, &why);
  if (status != AV_OK) {
    if (status != AV_NOMEM) {
      const bool hdf5 = status == AV_CONFIG && why != NULL && strstr(why, "HDF5") != NULL;
      av_fail(status, "%s%s%s", why == NULL ? path : why,
              hdf5 ? "; the INI file comes first (to look into this one: atlasvi inspect " : "",
              hdf5 ? "FILE)" : "");
    }
    free(why);
    return status;
  }
  const av_status parsed = av_config_parse_bytes(config, path, text, length, n, overrides);
  free(text);
  if (parsed != AV_OK && parsed != AV_CONFIG) {
    return parsed;
  }
  const av_status resolved = av_config_resolve(config);
  return resolved == AV_OK ? parsed : resolved;
}

static av_status share_list(const av_comm *comm, av_name_list *list) {
  av_names names = {0};
  av_status status = AV_OK;
  if (comm->rank == 0) {
    status = av_names_copy(&names, list->n, (const char *const *)list->at);
  }
  AV_TRY(av_agree(comm, status));
  status = av_names_bcast(comm, &names);
  if (status == AV_OK && comm->rank != 0) {
    list->at = av_calloc((size_t)names.n + 1, sizeof *list->at);
    for (; list->at != NULL && list->n < names.n; ++list->n) {
      list->at[list->n] = av_strdup(names.at[list->n]);
      if (list->at[list->n] == NULL) {
        break;
      }
    }
    if (list->n < names.n) {
      status = av_fail(AV_NOMEM, "out of memory (list of %lld names)", (long long)names.n);
    }
  }
  av_names_free(&names);
  return av_agree(comm, status);
}

static av_status share_value(const av_comm *comm, av_config *config, const av_config_key *key) {
  void *field = av_config_field(config, key);
  AV_TRY(av_bcast(comm, av_config_given(config, key), (int64_t)sizeof(bool)));
  switch (key->type) {
    case AV_TYPE_BOOL:
      return av_bcast(comm, field, (int64_t)sizeof(bool));
    case AV_TYPE_INT:
      return av_bcast(comm, field, (int64_t)sizeof(int64_t));
    case AV_TYPE_REAL:
      return av_bcast(comm, field, (int64_t)sizeof(double));
    case AV_TYPE_CHOICE:
      return av_bcast(comm, field, (int64_t)sizeof(int));
    case AV_TYPE_AMOUNT:
      return av_bcast(comm, field, (int64_t)sizeof(av_amount));
    case AV_TYPE_TEXT:
      if (comm->rank != 0) {
        free(*(char **)field);
        *(char **)field = NULL;
      }
      return av_bcast_text(comm, field);
    case AV_TYPE_LIST:
      return share_list(comm, field);
  }
  return AV_FAIL_BUG("key %s has no type", key->name);
}

av_status av_config_read(av_config *config, const av_comm *comm, const char *path, int n,
                         char *const *overrides) {
  av_status status = av_config_defaults(config);
  if (status == AV_OK && comm->rank == 0) {
    status = read_here(config, path, n, overrides);
  }
  AV_TRY(av_agree(comm, status));
  for (int i = 0; i < AV_N_KEYS; ++i) {
    AV_TRY(share_value(comm, config, &av_config_keys[i]));
  }
  AV_TRY(av_bcast(comm, config->origin->line, (int64_t)sizeof config->origin->line));
  AV_TRY(av_bcast(comm, &config->origin->resolved, (int64_t)sizeof(bool)));
  return av_bcast_text(comm, &config->path);
}
