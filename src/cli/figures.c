#include "cli/figures.h"

#include "base/memory.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

const char *av_count_text(av_figure *figure, int64_t n) {
  char digits[32];
  snprintf(digits, sizeof digits, "%" PRId64, n);
  const size_t sign = digits[0] == '-';
  const size_t length = strlen(digits);
  char *out = figure->text;
  for (size_t i = 0; i < length; ++i) {
    if (i > sign && (length - i) % 3 == 0) {
      *out++ = ',';
    }
    *out++ = digits[i];
  }
  *out = '\0';
  return figure->text;
}

const char *av_bytes_text(av_figure *figure, double bytes) {
  static const char *const unit[] = {"KiB", "MiB", "GiB", "TiB", "PiB"};
  if (bytes < 1023.5) {
    snprintf(figure->text, sizeof figure->text, "%.0f bytes", bytes);
    return figure->text;
  }
  int u = 0;
  bytes /= 1024;
  while (bytes >= 1023.95 && u < 4) {
    bytes /= 1024;
    ++u;
  }
  snprintf(figure->text, sizeof figure->text, "%.1f %s", bytes, unit[u]);
  return figure->text;
}

const char *av_clock_text(av_figure *figure, double seconds) {
  if (!isfinite(seconds) || seconds < 0 || seconds > 1e12) {
    snprintf(figure->text, sizeof figure->text, "?");
    return figure->text;
  }
  const int64_t whole = (int64_t)(seconds + 0.5);
  snprintf(figure->text, sizeof figure->text, "%" PRId64 ":%02d:%02d", whole / 3600,
           (int)(whole / 60 % 60), (int)(whole % 60));
  return figure->text;
}

char *av_printable(const char *name) {
  char *copy = av_strdup(name);
  if (copy == NULL) {
    return NULL;
  }
  for (unsigned char *at = (unsigned char *)copy; *at != '\0'; ++at) {
    const int c1 = at[0] == 0xc2 && at[1] >= 0x80 && at[1] < 0xa0; /* U+0080 to U+009F */
    if (*at < 0x20 || *at == 0x7f || c1) {
      *at = '?';
      if (c1) {
        at[1] = '?';
      }
    }
  }
  return copy;
}
