/* Texts from files: UTF-8, and how names and paths are shown in messages. */
#ifndef SPD_CORE_TEXT_H
#define SPD_CORE_TEXT_H

#include <stddef.h>

/* Bytes of the well-formed character at s (RFC 3629: no overlong forms, no surrogates), 0 where there is none. */
size_t spd_text_utf8_length(const unsigned char *s, const unsigned char *end);
/* (n) bytes */
int spd_text_is_utf8(const char *text, size_t n);

/* A name from a file may be long or hold control characters; a sentence shows its start, cut between characters. */
struct spd_text_shown {
  char text[100];
};
struct spd_text_shown spd_text_shown(const char *name);

/* A long path keeps its end: the file's own name. Points into it. */
const char *spd_text_tail(const char *path);

#endif
