#include "core/text.h"

#include <string.h>

size_t spd_text_utf8_length(const unsigned char *s, const unsigned char *end) {
  size_t n = *s < 0x80 ? 1 : *s >= 0xc2 && *s < 0xe0 ? 2 : *s >= 0xe0 && *s < 0xf0 ? 3 : *s >= 0xf0 && *s < 0xf5 ? 4 : 0;
  if (n == 0 || (size_t)(end - s) < n) return 0;
  for (size_t i = 1; i < n; i++)
    if ((s[i] & 0xc0) != 0x80) return 0;
  if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
    return 0;
  return n;
}

int spd_text_is_utf8(const char *text, size_t n) {
  const unsigned char *s = (const unsigned char *)text, *end = s + n;
  while (s < end) {
    size_t length = spd_text_utf8_length(s, end);
    if (length == 0) return 0;
    s += length;
  }
  return 1;
}

struct spd_text_shown spd_text_shown(const char *name) {
  struct spd_text_shown s;
  size_t n = 0, most = sizeof s.text - 4;
  for (; name[n] && n < most; n++) s.text[n] = (unsigned char)name[n] < 0x20 || name[n] == 0x7f ? '?' : name[n];
  if (name[n]) {
    while (n > 0 && ((unsigned char)name[n] & 0xc0) == 0x80) n--;
    memcpy(s.text + n, "...", 3);
    n += 3;
  }
  s.text[n] = 0;
  return s;
}

const char *spd_text_tail(const char *path) {
  enum { MOST = 240 };
  size_t n = strlen(path);
  if (n <= MOST) return path;
  path += n - MOST;
  while (((unsigned char)*path & 0xc0) == 0x80) path++;
  return path;
}
