/* What is UTF-8 and what is not: names in files need not be. */
#ifndef AV_BASE_UTF8_H
#define AV_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>

/* Length (1 to 4) of the UTF-8 character that starts at `text`, of which `n` > 0 bytes may be read;
 * 0 if it is not a valid one. */
size_t av_utf8_length(const char *text, size_t n);

/* Are these n bytes UTF-8? */
bool av_is_utf8(const char *text, size_t n);

#endif
