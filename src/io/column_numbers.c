/* A column as numbers. */
#include "base/memory.h"
#include "io/dataframe.h"

#include <math.h>
#include <stdlib.h>

static av_status numbers_of(const av_column *column, double **values) {
  const bool text = column->values.kind == AV_ELEMENT_TEXT;
  if (column->kind == AV_COLUMN_CATEGORICAL || text) {
    return av_fail(AV_BADDATA,
                   "%s: is %s, but must be numeric; store it as numbers (pandas: astype(float))",
                   column->what, text ? "text" : "a categorical");
  }
  if (column->values.kind != AV_ELEMENT_BOOL) {
    return av_element_reals(&column->values, values);
  }
  unsigned char *flags = NULL;
  AV_TRY(av_element_flags(&column->values, &flags));
  *values = av_malloc((size_t)column->values.n, sizeof **values);
  for (int64_t i = 0; *values != NULL && i < column->values.n; ++i) {
    (*values)[i] = flags[i] == AV_FLAG_MISSING ? (double)NAN : flags[i] == AV_FLAG_TRUE;
  }
  free(flags);
  AV_TRY_ALLOC(*values);
  return AV_OK;
}

av_status av_frame_numbers(const av_frame *frame, const char *name, double **values) {
  *values = NULL;
  av_column column;
  unsigned char *masked = NULL;
  AV_TRY(av_column_open(&column, frame, name));
  av_status status = av_column_mask(&column, &masked);
  if (status == AV_OK) {
    status = numbers_of(&column, values);
  }
  for (int64_t i = 0; status == AV_OK && masked != NULL && i < column.values.n; ++i) {
    if (masked[i] != AV_FLAG_FALSE) {
      (*values)[i] = (double)NAN;
    }
  }
  free(masked);
  av_column_close(&column);
  return status;
}
