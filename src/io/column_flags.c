/* Values of a column as flags and as a split. */
#include "base/memory.h"
#include "io/dataframe.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Flags from a factor with levels True and False, in any case. */
static av_status flags_of_factor(const av_column *column, unsigned char *flags) {
  av_factor factor;
  AV_TRY(av_column_factor(column, &factor));
  av_status status = AV_OK;
  for (int64_t i = 0; i < column->values.n && status == AV_OK; ++i) {
    const char *level = factor.code[i] < 0 ? NULL : factor.levels.at[factor.code[i]];
    if (level == NULL) {
      flags[i] = AV_FLAG_MISSING;
    } else if (strcasecmp(level, "True") == 0) {
      flags[i] = AV_FLAG_TRUE;
    } else if (strcasecmp(level, "False") == 0) {
      flags[i] = AV_FLAG_FALSE;
    } else {
      status = av_fail(AV_BADDATA, "%s: value \"%s\" in row %" PRId64 " is neither True nor False",
                       column->what, level, i);
    }
  }
  av_names_free(&factor.levels);
  free(factor.code);
  return status;
}

static av_status flags_of_column(const av_column *column, unsigned char **flags) {
  if (column->kind == AV_COLUMN_CATEGORICAL || column->values.kind == AV_ELEMENT_TEXT) {
    *flags = av_calloc((size_t)column->values.n, 1);
    AV_TRY_ALLOC(*flags);
    return flags_of_factor(column, *flags);
  }
  unsigned char *masked = NULL;
  AV_TRY(av_column_mask(column, &masked));
  const av_status status = av_element_flags(&column->values, flags);
  for (int64_t i = 0; status == AV_OK && masked != NULL && i < column->values.n; ++i) {
    if (masked[i] != AV_FLAG_FALSE) {
      (*flags)[i] = AV_FLAG_MISSING;
    }
  }
  free(masked);
  return status;
}

av_status av_frame_flags(const av_frame *frame, const char *name, unsigned char **flags) {
  *flags = NULL;
  av_column column;
  AV_TRY(av_column_open(&column, frame, name));
  av_status status = flags_of_column(&column, flags);
  int64_t n_missing = 0;
  int64_t first = 0;
  for (int64_t i = 0; status == AV_OK && i < column.values.n; ++i) {
    if ((*flags)[i] == AV_FLAG_MISSING) {
      first = n_missing++ == 0 ? i : first;
    }
  }
  if (n_missing > 0) {
    status = av_fail(AV_BADDATA,
                     "%s: %" PRId64 " of %" PRId64
                     " rows are neither true nor false but missing "
                     "(first: row %" PRId64 "); fill them in",
                     column.what, n_missing, column.values.n, first);
  }
  av_column_close(&column);
  if (status != AV_OK) {
    free(*flags);
    *flags = NULL;
  }
  return status;
}

static int split_of_word(const char *word) {
  static const struct {
    const char *word;
    int split;
  } words[] = {{"train", AV_SPLIT_TRAIN},
               {"validation", AV_SPLIT_VALIDATION},
               {"val", AV_SPLIT_VALIDATION},
               {"valid", AV_SPLIT_VALIDATION},
               {"test", AV_SPLIT_TEST}};
  for (size_t i = 0; i < sizeof words / sizeof words[0]; ++i) {
    if (strcasecmp(word, words[i].word) == 0) {
      return words[i].split;
    }
  }
  return -1;
}

/* Fails if a level is none of the words, naming the first and how many others there are. */
static av_status check_words(const char *what, const av_names *levels) {
  int64_t n_others = 0;
  int64_t first = 0;
  for (int64_t i = 0; i < levels->n; ++i) {
    if (split_of_word(levels->at[i]) < 0) {
      first = n_others++ == 0 ? i : first;
    }
  }
  if (n_others == 0) {
    return AV_OK;
  }
  char more[48] = "";
  if (n_others > 1) {
    snprintf(more, sizeof more, " and %" PRId64 " more", n_others - 1);
  }
  return av_fail(AV_BADDATA,
                 "%s: holds \"%s\"%s where only train, validation and test are understood", what,
                 levels->at[first], more);
}

av_status av_frame_split(const av_frame *frame, const char *name, int8_t **split) {
  *split = NULL;
  av_column column;
  av_factor factor = {0};
  AV_TRY(av_column_open(&column, frame, name));
  av_status status = AV_OK;
  AV_GO(status, av_column_factor(&column, &factor), done);
  AV_GO(status, check_words(column.what, &factor.levels), done);
  int8_t *made = av_malloc((size_t)column.values.n, 1);
  if (made == NULL) {
    AV_GO(status, av_fail(AV_NOMEM, "out of memory (%s)", column.what), done);
  }
  for (int64_t i = 0; i < column.values.n && status == AV_OK; ++i) {
    if (factor.code[i] < 0) {
      status =
          av_fail(AV_BADDATA, "%s: row %" PRId64 " has no value; say train, validation or test",
                  column.what, i);
    } else {
      made[i] = (int8_t)split_of_word(factor.levels.at[factor.code[i]]);
    }
  }
  if (status == AV_OK) {
    *split = made;
  } else {
    free(made);
  }
done:
  av_names_free(&factor.levels);
  free(factor.code);
  av_column_close(&column);
  return status;
}
