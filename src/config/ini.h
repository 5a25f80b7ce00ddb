/* INI text cut into sections, keys and values. Knows no key.
 *
 * The syntax is inih's with its default options:
 *   [section]                     keys that follow belong to it; a section may be opened again
 *   key = value, key: value       blanks around key and value are dropped
 *   ; comment, # comment          a whole line, indented or not
 *   key = value ; comment         after a value only ; behind a blank (# belongs to the value)
 *     more                        an indented line continues the value of the key above it
 * UTF-8, with or without a byte order mark; lines end in LF or CR LF, and have any length.
 *
 * inih skips what it cannot read; here these are faults: a section without ] (its name still
 * counts, so that what follows is checked), text after the ], a line that is neither section nor
 * key, a key without a name or before the first section, a NUL byte (reading stops there: the
 * file is not text), UTF-16.
 */
#ifndef AV_CONFIG_INI_H
#define AV_CONFIG_INI_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

/* What the reader calls, in the order of the text. Strings are borrowed until the call returns. */
typedef struct av_ini_handler {
  void *user;
  void (*section)(void *user, int64_t line, const char *name);
  /* The pieces of a continued value are separated by '\n', one for each line of the file (comments
   * and empty lines too), so that piece i stands on line `line` + i. The callee may write into
   * `value`. */
  void (*entry)(void *user, int64_t line, const char *section, const char *key, char *value);
  void (*fault)(void *user, int64_t line, const char *message);
} av_ini_handler;

/* Reads `length` bytes of text. Faults of the text go to the handler and are no error here; fails
 * only with AV_NOMEM. */
av_status av_ini_parse(const char *text, size_t length, const av_ini_handler *handler);

#endif
