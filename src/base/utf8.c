#include "base/utf8.h"

size_t av_utf8_length(const char *text, size_t n) {
  static const unsigned char lowest[5] = {0, 0, 0xc2, 0xe0, 0xf0};
  const unsigned char *s = (const unsigned char *)text;
  if (s[0] < 0x80) {
    return 1;
  }
  const size_t length = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
  if (s[0] < lowest[length] || s[0] > 0xf4 || n < length) {
    return 0;
  }
  for (size_t i = 1; i < length; ++i) {
    if ((s[i] & 0xc0) != 0x80) {
      return 0;
    }
  }
  const bool overlong = (s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xf0 && s[1] < 0x90);
  const bool surrogate = s[0] == 0xed && s[1] >= 0xa0;
  const bool beyond = s[0] == 0xf4 && s[1] >= 0x90;
  return overlong || surrogate || beyond ? 0 : length;
}

bool av_is_utf8(const char *text, size_t n) {
  for (size_t at = 0; at < n;) {
    const size_t length = av_utf8_length(text + at, n - at);
    if (length == 0) {
      return false;
    }
    at += length;
  }
  return true;
}
