/* A column held whole, to be written again in today's encoding: numbers keep their type,
 * categoricals their order, nullable values their mask. Internal to src/io; rank 0 only.
 */
#ifndef AV_IO_HELD_COLUMN_H
#define AV_IO_HELD_COLUMN_H

#include "io/dataframe.h"

typedef enum av_held_kind {
  AV_HELD_NUMBERS,
  AV_HELD_BOOLEANS,
  AV_HELD_TEXT,
  AV_HELD_CATEGORICAL
} av_held_kind;

typedef struct av_held {
  av_held_kind kind;
  int64_t n;
  hid_t type;             /* numbers: of `values`; else -1 */
  void *values;           /* numbers (n) */
  unsigned char *boolean; /* booleans (n), 0 or 1 */
  av_names text;
  int32_t *code; /* categorical (n), -1 = missing */
  struct av_held *categories;
  bool ordered;
  bool nullable;          /* numbers, booleans: stored with a mask */
  unsigned char *missing; /* numbers, booleans, text (n), 0 or 1; NULL: none is */
} av_held;

/* Reads all values. What cannot be stored as a column (codes without category, missing categories,
 * ...) is AV_BADDATA. */
av_status av_held_read(av_held *held, const av_column *column);
/* Keeps n rows, in this order; row -1 gives a missing value. */
av_status av_held_select(av_held *held, int64_t n, const int64_t *row);
av_status av_held_write(const av_held *held, hid_t frame, const char *link, const char *what);
/* Also after av_held_read failed. */
void av_held_free(av_held *held);

#endif
