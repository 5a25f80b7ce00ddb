#include "data/names.h"

#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

void av_names_free(av_names *names) {
  free(names->at);
  free(names->text);
  *names = (av_names){0};
}

static size_t length_of(const char *string) { return string == NULL ? 0 : strlen(string); }

/* Points at[i] at the i-th of n strings that follow each other in text. */
static void point_into_text(av_names *names) {
  char *next = names->text;
  for (int64_t i = 0; i < names->n; ++i) {
    names->at[i] = next;
    next += strlen(next) + 1;
  }
}

av_status av_names_copy(av_names *names, int64_t n, const char *const *strings) {
  size_t bytes = 0;
  for (int64_t i = 0; i < n; ++i) {
    bytes += length_of(strings[i]) + 1;
  }
  av_names copy = {
      .n = n, .at = av_calloc((size_t)n, sizeof *copy.at), .text = av_calloc(bytes, 1)};
  if (copy.at == NULL || copy.text == NULL) {
    av_names_free(&copy);
    return av_fail(AV_NOMEM, "out of memory (%lld names)", (long long)n);
  }
  char *next = copy.text;
  for (int64_t i = 0; i < n; ++i) {
    const size_t length = length_of(strings[i]);
    if (length > 0) {
      memcpy(next, strings[i], length);
    }
    next += length + 1;
  }
  point_into_text(&copy);
  *names = copy;
  return AV_OK;
}

av_status av_names_bcast(const av_comm *comm, av_names *names) {
  int64_t sizes[2] = {names->n, 0};
  if (comm->rank == 0) {
    for (int64_t i = 0; i < names->n; ++i) {
      sizes[1] += (int64_t)strlen(names->at[i]) + 1;
    }
  }
  AV_TRY(av_bcast(comm, sizes, (int64_t)sizeof sizes));
  av_status status = AV_OK;
  if (comm->rank != 0) {
    *names = (av_names){.n = sizes[0],
                        .at = av_calloc((size_t)sizes[0], sizeof *names->at),
                        .text = av_calloc((size_t)sizes[1], 1)};
    if (names->at == NULL || names->text == NULL) {
      status = av_fail(AV_NOMEM, "out of memory (%lld names)", (long long)sizes[0]);
    }
  }
  AV_TRY(av_agree(comm, status));
  AV_TRY(av_bcast(comm, names->text, sizes[1]));
  if (comm->rank != 0) {
    point_into_text(names);
  }
  return AV_OK;
}

/* Open addressing; slots hold position + 1, 0 = free. */
struct av_name_index {
  const av_names *names;
  int64_t n_slots; /* a power of two */
  int64_t *slot;
  const char *duplicate;
};

static uint64_t hash_of(const char *name) {
  uint64_t hash = 14695981039346656037u; /* FNV-1a */
  for (const unsigned char *c = (const unsigned char *)name; *c != 0; ++c) {
    hash = (hash ^ *c) * 1099511628211u;
  }
  return hash ^ (hash >> 29);
}

av_status av_name_index_create(av_name_index **index, const av_names *names) {
  av_name_index *made = av_calloc(1, sizeof *made);
  AV_TRY_ALLOC(made);
  made->names = names;
  made->n_slots = 16;
  while (made->n_slots < 2 * names->n) {
    made->n_slots *= 2;
  }
  made->slot = av_calloc((size_t)made->n_slots, sizeof *made->slot);
  if (made->slot == NULL) {
    free(made);
    return av_fail(AV_NOMEM, "out of memory (index of %lld names)", (long long)names->n);
  }
  for (int64_t i = 0; i < names->n; ++i) {
    int64_t at = (int64_t)(hash_of(names->at[i]) & (uint64_t)(made->n_slots - 1));
    while (made->slot[at] != 0) {
      if (strcmp(names->at[made->slot[at] - 1], names->at[i]) == 0) {
        if (made->duplicate == NULL) {
          made->duplicate = names->at[i];
        }
        break;
      }
      at = (at + 1) & (made->n_slots - 1);
    }
    if (made->slot[at] == 0) {
      made->slot[at] = i + 1;
    }
  }
  *index = made;
  return AV_OK;
}

int64_t av_name_index_find(const av_name_index *index, const char *name) {
  int64_t at = (int64_t)(hash_of(name) & (uint64_t)(index->n_slots - 1));
  while (index->slot[at] != 0) {
    const int64_t i = index->slot[at] - 1;
    if (strcmp(index->names->at[i], name) == 0) {
      return i;
    }
    at = (at + 1) & (index->n_slots - 1);
  }
  return -1;
}

const char *av_name_index_duplicate(const av_name_index *index) { return index->duplicate; }

void av_name_index_free(av_name_index **index) {
  if (*index != NULL) {
    free((*index)->slot);
    free(*index);
    *index = NULL;
  }
}

/* Edit distance with insertion, deletion, substitution and swap of neighbours; at most `limit` + 1.
 */
static size_t edit_distance(const char *a, const char *b, size_t limit) {
  enum { LONGEST = 64 };
  const size_t m = strlen(a);
  const size_t n = strlen(b);
  if (m > LONGEST || n > LONGEST || (m > n ? m - n : n - m) > limit) {
    return limit + 1;
  }
  size_t row[3][LONGEST + 1];
  for (size_t j = 0; j <= n; ++j) {
    row[0][j] = j;
  }
  for (size_t i = 1; i <= m; ++i) {
    size_t *now = row[i % 3];
    const size_t *last = row[(i + 2) % 3];
    const size_t *before = row[(i + 1) % 3];
    now[0] = i;
    for (size_t j = 1; j <= n; ++j) {
      size_t best = last[j - 1] + (a[i - 1] != b[j - 1]);
      best = last[j] + 1 < best ? last[j] + 1 : best;
      best = now[j - 1] + 1 < best ? now[j - 1] + 1 : best;
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
          before[j - 2] + 1 < best) {
        best = before[j - 2] + 1;
      }
      now[j] = best;
    }
  }
  return row[m % 3][n];
}

const char *av_nearest(const char *word, int64_t n, const char *const *candidates) {
  const size_t limit = strlen(word) / 3 + 1;
  size_t best = limit + 1;
  const char *nearest = NULL;
  for (int64_t i = 0; i < n; ++i) {
    const size_t distance = edit_distance(word, candidates[i], limit);
    if (distance < best) {
      best = distance;
      nearest = candidates[i];
    }
  }
  return nearest;
}
