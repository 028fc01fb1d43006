#define _POSIX_C_SOURCE 200809L
#define _FILE_OFFSET_BITS 64

#include "data/fits.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "core/bytes.h"
#include "core/files.h"
#include "core/hot.h"

enum { CARD = SPD_FITS_CARD, BLOCK = SPD_FITS_BLOCK, VALUE_AT = 9 /* in a card, after "KEYWORD =" */ };

/* ---- one card ---- */

int spd_fits_card_has(const char *card, const char *key) {
  size_t n = 0;
  for (; n < 8 && key[n]; n++)
    if (card[n] != key[n]) return 0;
  for (; n < 8; n++)
    if (card[n] != ' ') return 0;
  return card[8] == '=';
}

int spd_fits_card_integer(long long *value, const char *card, const char *key) {
  char text[CARD - VALUE_AT + 1], *end;
  if (!spd_fits_card_has(card, key)) return 0;
  memcpy(text, card + VALUE_AT, CARD - VALUE_AT);
  text[CARD - VALUE_AT] = '\0';
  errno = 0;
  *value = strtoll(text, &end, 10);
  if (end == text || errno != 0) return 0;
  while (*end == ' ') end++;
  return *end == '\0' || *end == '/';
}

int spd_fits_card_text(char value[SPD_FITS_TEXT], const char *card, const char *key) {
  const char *p = card + VALUE_AT, *stop = card + CARD;
  size_t n = 0;
  value[0] = '\0';
  if (!spd_fits_card_has(card, key)) return 0;
  while (p < stop && *p == ' ') p++;
  if (p == stop || *p != '\'') return 0;
  for (p++; p < stop; p++) {
    if (*p == '\'') {
      if (p + 1 == stop || p[1] != '\'') break;
      p++;
    }
    if (*p < ' ' || *p > '~') return 0;
    if (n < SPD_FITS_TEXT - 1) value[n++] = *p;
  }
  if (p == stop) return 0;
  while (n > 0 && value[n - 1] == ' ') n--;
  value[n] = '\0';
  return 1;
}

/* Keywords, perhaps with a number, that CFITSIO reads as integers, in any case. */
static int is_integer_key(const char *card) {
  static const char *const keys[] = {"BITPIX",  "NAXIS",  "PCOUNT", "GCOUNT", "TFIELDS", "THEAP",  "TNULL",   "TBCOL",  "BLANK",
                                     "ZBITPIX", "ZNAXIS", "ZTILE",  "ZVAL",   "ZBLANK",  "ZTHEAP", "ZPCOUNT", "ZGCOUNT"};
  for (size_t k = 0; k < sizeof keys / sizeof keys[0]; k++) {
    size_t n = strlen(keys[k]);
    if (strncasecmp(card, keys[k], n) != 0) continue;
    while (n < 8 && isdigit((unsigned char)card[n])) n++;
    if (n == 8 || card[n] == ' ' || card[n] == '=') return 1;
  }
  return 0;
}

int spd_fits_card_is_sound(const char *card) {
  enum { LONGEST_INTEGER = 28, LONGEST_NUMBER = 40 }; /* where an integer is expected, CFITSIO 4.2 overruns a buffer on longer texts */
  static const char *const comments[] = {"COMMENT ", "HISTORY ", "        ", "END     ", "CONTINUE"};
  for (int k = 0; k < 5; k++)
    if (memcmp(card, comments[k], 8) == 0) return 1;
  for (int i = 0; i < CARD; i++)
    if (card[i] < ' ' || card[i] > '~') return 0;
  int i = 0; /* for CFITSIO the value follows the first '=', at any position */
  while (i < CARD && card[i] != '=') i++;
  if (i == CARD) return 1;
  i++;
  while (i < CARD && card[i] == ' ') i++;
  const int from = i;
  for (int k = i; is_integer_key(card) && k < CARD && card[k] != ' ' && card[k] != '/'; k++)
    if (!strchr("+-.0123456789DEde", card[k]) || k - from >= LONGEST_INTEGER) return 0;
  if (i < CARD && card[i] == '\'') {
    for (i++; i < CARD; i++) {
      if (card[i] != '\'') continue;
      if (i + 1 < CARD && card[i + 1] == '\'')
        i++; /* a quote within the text */
      else
        return 1;
    }
    return 0;
  }
  while (i < CARD && card[i] != ' ' && card[i] != '/') i++;
  return i - from <= LONGEST_NUMBER;
}

/* ---- a file's headers ---- */

enum { MAX_AXES = 9, MAX_HEADER_BLOCKS = 2000 };

/* What the cards say of an HDU: its name and the size of its data */
struct extent {
  long long bitpix, n_axes, axes[MAX_AXES], heap, groups;
  char name[SPD_FITS_TEXT];
  uint64_t block_sizes, not_positive; /* bits: parameters of compression that are BLOCKSIZE; that are not positive integers */
};

/* Cards of a compressed image. CFITSIO divides by the sizes of tiles and blocks, has room for six axes, and takes a keyword in any case. */
static int take_tile_card(struct extent *extent, const char *card) {
  char upper[CARD], key[9], text[SPD_FITS_TEXT];
  long long value = 0;
  if (toupper((unsigned char)card[0]) != 'Z') return 1;
  memcpy(upper, card, CARD);
  for (int i = 0; i < 8; i++) upper[i] = (char)toupper((unsigned char)card[i]);
  memcpy(key, upper, 8);
  key[8] = '\0';
  key[strcspn(key, " ")] = '\0';
  const int is_integer = spd_fits_card_integer(&value, upper, key);
  if (strcmp(key, "ZNAXIS") == 0) return is_integer && value >= 0 && value <= 6;
  if (strncmp(key, "ZTILE", 5) == 0) return is_integer && value >= 1;
  if (strncmp(key, "ZNAME", 5) == 0 && spd_fits_card_text(text, upper, key) && strncasecmp(text, "BLOCKSIZE", 9) == 0)
    extent->block_sizes |= UINT64_C(1) << (unsigned)atoi(key + 5) % 64;
  if (strncmp(key, "ZVAL", 4) == 0 && !(is_integer && value >= 1)) extent->not_positive |= UINT64_C(1) << (unsigned)atoi(key + 4) % 64;
  return 1;
}

static int take_card(struct extent *extent, const char *card) {
  if (!spd_fits_card_is_sound(card) || !take_tile_card(extent, card)) return 0;
  if (spd_fits_card_has(card, "BITPIX")) return spd_fits_card_integer(&extent->bitpix, card, "BITPIX");
  if (spd_fits_card_has(card, "NAXIS")) return spd_fits_card_integer(&extent->n_axes, card, "NAXIS");
  if (spd_fits_card_has(card, "PCOUNT")) return spd_fits_card_integer(&extent->heap, card, "PCOUNT");
  if (spd_fits_card_has(card, "GCOUNT")) return spd_fits_card_integer(&extent->groups, card, "GCOUNT");
  if (spd_fits_card_has(card, "EXTNAME")) (void)spd_fits_card_text(extent->name, card, "EXTNAME"); /* or none */
  for (int axis = 1; axis <= MAX_AXES; axis++) {
    const char key[] = {'N', 'A', 'X', 'I', 'S', (char)('0' + axis), '\0'};
    if (spd_fits_card_has(card, key)) return spd_fits_card_integer(&extent->axes[axis - 1], card, key);
  }
  return 1;
}

/* Bytes of the data; -1 if the header does not say, or says more than a petabyte */
static long long data_bytes(const struct extent *extent) {
  const double most = 1e15;
  double elements = extent->n_axes > 0 ? 1 : 0;
  if (extent->n_axes < 0 || extent->n_axes > MAX_AXES || extent->heap < 0 || extent->groups < 1 || extent->bitpix % 8 != 0 ||
      extent->bitpix == 0 || extent->bitpix < -64 || extent->bitpix > 64)
    return -1;
  for (int axis = 0; axis < extent->n_axes; axis++) {
    if (extent->axes[axis] < 0) return -1;
    elements *= (double)extent->axes[axis];
  }
  const double bytes = (elements + (double)extent->heap) * (double)extent->groups * (double)llabs(extent->bitpix) / 8;
  return bytes <= most ? (long long)bytes : -1;
}

/* Whether a header begins with the mandatory cards in their order (section 4.4.1): CFITSIO 4.2 continues after those that it cannot read,
 * with whatever was in memory. */
static int begins_well(const char *block, int hdu) {
  long long n_axes, value;
  const int is_table = hdu > 0 && (memcmp(block, "XTENSION= 'BINTABLE'", 20) == 0 || memcmp(block, "XTENSION= 'TABLE   '", 20) == 0);
  if (!spd_fits_card_integer(&value, block + CARD, "BITPIX") || !spd_fits_card_integer(&n_axes, block + 2 * CARD, "NAXIS")) return 0;
  if (n_axes < 0 || n_axes > MAX_AXES) return 0;
  for (int axis = 1; axis <= n_axes; axis++) {
    const char key[] = {'N', 'A', 'X', 'I', 'S', (char)('0' + axis), '\0'};
    if (!spd_fits_card_integer(&value, block + (2 + axis) * CARD, key)) return 0;
  }
  return !is_table || (n_axes == 2 && spd_fits_card_integer(&value, block + 5 * CARD, "PCOUNT") &&
                       spd_fits_card_integer(&value, block + 6 * CARD, "GCOUNT") &&
                       spd_fits_card_integer(&value, block + 7 * CARD, "TFIELDS") && value >= 0 && value <= SPD_FITS_COLUMNS);
}

int spd_fits_find_name(const struct spd_fits_names *names, const char *name) {
  for (int hdu = 0; hdu < names->n; hdu++)
    if (strcasecmp(names->names[hdu], name) == 0) return hdu;
  return -1;
}

int spd_fits_headers_are_sound(struct spd_fits_names *names, FILE *file, long long file_size, int last) {
  char block[BLOCK];
  long long at = 0;
  if (names) names->n = 0;
  for (int hdu = 0; hdu <= last && at < file_size; hdu++) {
    struct extent extent = {.bitpix = 0, .n_axes = -1, .groups = 1, .name = ""};
    int ended = 0;
    for (int n_blocks = 0; !ended; n_blocks++) {
      const int is_whole = fread(block, 1, BLOCK, file) == BLOCK, is_first = n_blocks == 0;
      if (names && hdu > 0 && is_first && (!is_whole || memcmp(block, "XTENSION= '", 11) != 0)) return 1; /* something else follows */
      if (!is_whole || n_blocks == MAX_HEADER_BLOCKS || (is_first && !begins_well(block, hdu))) return 0;
      for (int i = 0; i < BLOCK && !ended; i += CARD) {
        ended = memcmp(block + i, "END     ", 8) == 0;
        if (!ended && !take_card(&extent, block + i)) return 0;
      }
      at += BLOCK;
    }
    if (extent.block_sizes & extent.not_positive) return 0;
    const long long bytes = data_bytes(&extent);
    if (bytes < 0) return 0;
    if (names && hdu < SPD_FITS_HDUS) memcpy(names->names[names->n++], extent.name, sizeof extent.name);
    at += (long long)spd_fits_padded((uint64_t)bytes);
    if (at < file_size && fseeko(file, (off_t)at, SEEK_SET) != 0) return 0;
  }
  return 1;
}

/* ---- a header in memory: reading ---- */

int spd_fits_read_header(struct spd_fits_header *h, int file, uint64_t offset) {
  for (h->size = 0; h->size < sizeof h->bytes;) {
    const int read = spd_file_read(h->bytes + h->size, BLOCK, offset + h->size, file);
    if (read <= 0) return read - 1;
    h->size += BLOCK;
    for (size_t c = h->size - BLOCK; c < h->size; c += CARD)
      if (memcmp(h->bytes + c, "END     ", 8) == 0) return 1;
  }
  return 0;
}

const char *spd_fits_find_card(const struct spd_fits_header *h, const char *key) {
  for (size_t c = 0; c < h->size; c += CARD)
    if (spd_fits_card_has((const char *)h->bytes + c, key)) return (const char *)h->bytes + c;
  return NULL;
}

int spd_fits_integer(long long *value, const struct spd_fits_header *h, const char *key) {
  const char *card = spd_fits_find_card(h, key);
  return card && spd_fits_card_integer(value, card, key);
}

int spd_fits_text(char value[SPD_FITS_TEXT], const struct spd_fits_header *h, const char *key) {
  const char *card = spd_fits_find_card(h, key);
  value[0] = '\0';
  return card && spd_fits_card_text(value, card, key);
}

int spd_fits_equals(const struct spd_fits_header *h, const char *key, long long value) {
  long long found;
  return spd_fits_integer(&found, h, key) && found == value;
}

int spd_fits_says(const struct spd_fits_header *h, const char *key, const char *text) {
  char found[SPD_FITS_TEXT];
  return spd_fits_text(found, h, key) && strcmp(found, text) == 0;
}

/* ---- a header in memory: writing ---- */

void spd_fits_add(struct spd_fits_header *h, const char *card) {
  if (h->size + CARD > sizeof h->bytes - BLOCK) return; /* room for SPD_SURVEY_MAX_COLUMNS columns, and for the padding */
  const size_t n = strlen(card);
  memset(h->bytes + h->size, ' ', CARD);
  memcpy(h->bytes + h->size, card, n < CARD ? n : CARD);
  h->size += CARD;
}

void spd_fits_add_integer(struct spd_fits_header *h, const char *key, long long value) {
  char text[CARD + 1];
  snprintf(text, sizeof text, "%-8.8s= %20lld", key, value);
  spd_fits_add(h, text);
}

void spd_fits_add_text(struct spd_fits_header *h, const char *key, const char *value) {
  char text[2 * CARD], quoted[CARD];
  size_t n = 0;
  for (const char *p = value; *p && n + (*p == '\'' ? 2 : 1) < SPD_FITS_TEXT; p++) {
    if (*p == '\'') quoted[n++] = '\'';
    quoted[n++] = *p;
  }
  quoted[n] = '\0';
  snprintf(text, sizeof text, "%-8.8s= '%-8s'", key, quoted);
  spd_fits_add(h, text);
}

void spd_fits_end(struct spd_fits_header *h) {
  spd_fits_add(h, "END");
  while (h->size % BLOCK) spd_fits_add(h, "");
}

/* ---- checksums ---- */

/* Adds two words at a time: the result is the same, since a carry out of 2^64 counts as 1, as one out of 2^32 does. */
/* The sum of at most 2^30 words, which 64 bits hold */
SPD_HOT static uint64_t sum_words(const unsigned char *bytes, size_t n) {
  uint64_t total = 0;
  SPD_SIMD_SUM(total)
  for (size_t i = 0; i < n; i++) {
    uint32_t word;
    memcpy(&word, bytes + 4 * i, 4);
    total += spd_big32(word);
  }
  return total;
}

uint32_t spd_fits_sum(uint32_t sum, const unsigned char *bytes, size_t n) {
  enum { AT_ONCE = 1 << 30 };
  uint64_t total = sum;
  for (size_t left = n / 4, some; left > 0; left -= some, bytes += 4 * some) {
    some = left < AT_ONCE ? left : AT_ONCE;
    total += sum_words(bytes, some);
    while (total >> 32) total = (total & 0xffffffffu) + (total >> 32); /* carries are added: modulo 2^32 - 1 */
  }
  return (uint32_t)total;
}

uint32_t spd_fits_sum_join(uint32_t a, uint32_t b) {
  const uint64_t total = (uint64_t)a + b;
  return (uint32_t)(total + (total >> 32));
}

static const char room_for_checksum[] = "COMMENT  checksum", room_for_datasum[] = "COMMENT  datasum";

void spd_fits_add_checksum_room(struct spd_fits_header *h) {
  spd_fits_add(h, room_for_checksum);
  spd_fits_add(h, room_for_datasum);
}

/* Appendix J: four characters for each byte, letters and digits only, rotated by one. */
static void encode_checksum(char ascii[17], uint32_t sum) {
  static const char excluded[] = ":;<=>?@[\\]^_`";
  for (int i = 0; i < 4; i++) {
    int byte = (int)(sum >> (24 - 8 * i) & 0xff), quotient = byte / 4 + '0', ch[4];
    for (int j = 0; j < 4; j++) ch[j] = quotient;
    ch[0] += byte % 4;
    for (int again = 1; again;) {
      again = 0;
      for (int j = 0; j < 4; j += 2)
        for (const char *x = excluded; *x; x++)
          if (ch[j] == *x || ch[j + 1] == *x) ch[j]++, ch[j + 1]--, again = 1;
    }
    for (int j = 0; j < 4; j++) ascii[(4 * j + i + 1) % 16] = (char)ch[j];
  }
  ascii[16] = '\0';
}

void spd_fits_set_checksums(struct spd_fits_header *h, uint32_t data_sum) {
  size_t at = 0;
  while (at < h->size && memcmp(h->bytes + at, room_for_checksum, strlen(room_for_checksum)) != 0 &&
         !spd_fits_card_has((const char *)h->bytes + at, "CHECKSUM"))
    at += CARD;
  if (at + CARD >= h->size) return;
  struct spd_fits_header cards = {.size = 0};
  char text[CARD + 1], ascii[17];
  spd_fits_add_text(&cards, "CHECKSUM", "0000000000000000");
  snprintf(text, sizeof text, "%lu", (unsigned long)data_sum);
  spd_fits_add_text(&cards, "DATASUM", text);
  memcpy(h->bytes + at, cards.bytes, 2 * CARD);
  encode_checksum(ascii, ~spd_fits_sum(data_sum, h->bytes, h->size));
  memcpy(h->bytes + at + VALUE_AT + 2, ascii, 16); /* after the quote */
}

void spd_fits_clear_checksums(struct spd_fits_header *h) {
  for (size_t at = 0; at < h->size; at += CARD) {
    const char *card = (const char *)h->bytes + at;
    const char *room = spd_fits_card_has(card, "CHECKSUM")  ? room_for_checksum
                       : spd_fits_card_has(card, "DATASUM") ? room_for_datasum
                                                            : NULL;
    if (!room) continue;
    memset(h->bytes + at, ' ', CARD);
    memcpy(h->bytes + at, room, strlen(room));
  }
}

/* With both checksums present, the sum of all words of header and data is all ones. */
int spd_fits_header_sum_is_wrong(const struct spd_fits_header *h) {
  char text[SPD_FITS_TEXT], *end;
  if (!spd_fits_find_card(h, "CHECKSUM") || !spd_fits_text(text, h, "DATASUM")) return 0;
  const unsigned long data = strtoul(text, &end, 10);
  if (*end != '\0' || data > 0xffffffffu) return 1;
  const uint32_t sum = spd_fits_sum((uint32_t)data, h->bytes, h->size);
  return sum != 0xffffffffu && sum != 0;
}

int spd_fits_data_sum_is_wrong(const struct spd_fits_header *h, const unsigned char *data, size_t n) {
  char text[SPD_FITS_TEXT];
  return spd_fits_text(text, h, "DATASUM") && strtoul(text, NULL, 10) != spd_fits_sum(0, data, n);
}
