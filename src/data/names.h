/* A list of strings in one block of memory: gene names, categories, cell names. */
#ifndef AV_DATA_NAMES_H
#define AV_DATA_NAMES_H

#include "base/comm.h"
#include "base/status.h"

#include <stdint.h>

typedef struct av_names {
  int64_t n;
  char **at;  /* (n) NUL-terminated, into `text`; never NULL */
  char *text; /* owned */
} av_names;

void av_names_free(av_names *names);
/* Copies n strings (NULL counts as ""). */
av_status av_names_copy(av_names *names, int64_t n, const char *const *strings);
/* Rank 0's list to every rank. Collective. */
av_status av_names_bcast(const av_comm *comm, av_names *names);

/* Look-up by name. The index borrows the list. */
typedef struct av_name_index av_name_index;
av_status av_name_index_create(av_name_index **index, const av_names *names);
/* Position of `name`, the first if it repeats; -1 if absent. */
int64_t av_name_index_find(const av_name_index *index, const char *name);
/* First name that occurs twice, NULL if all differ. */
const char *av_name_index_duplicate(const av_name_index *index);
void av_name_index_free(av_name_index **index);

/* The candidate with the smallest edit distance to `word`, NULL if none is near (more than a third
 * of its letters differ). For "did you mean". */
const char *av_nearest(const char *word, int64_t n, const char *const *candidates);

#endif
