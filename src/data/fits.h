/* FITS without a library: header cards, checksums, and a check of foreign headers before CFITSIO reads them.
 * https://fits.gsfc.nasa.gov/fits_standard.html (sections 3, 4 and appendix J) */
#ifndef SPD_DATA_FITS_H
#define SPD_DATA_FITS_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum {
  SPD_FITS_CARD = 80,     /* bytes */
  SPD_FITS_BLOCK = 2880,  /* bytes; headers and data are padded to whole blocks */
  SPD_FITS_TEXT = 69,     /* bytes of a card's text, with the terminating 0 */
  SPD_FITS_COLUMNS = 999, /* that a table may have */
  SPD_FITS_HDUS = 256     /* that are known by name */
};

/* n bytes, padded to whole blocks */
static inline uint64_t spd_fits_padded(uint64_t n) { return (n + SPD_FITS_BLOCK - 1) / SPD_FITS_BLOCK * SPD_FITS_BLOCK; }

/* ---- one card: 80 bytes, without a terminating 0 ---- */

/* Whether a card has the given keyword and a value */
int spd_fits_card_has(const char *card, const char *key);
/* Value of a card "KEY     = value / comment". Return 0 if the card has another keyword or no value of that type. */
int spd_fits_card_integer(long long *value, const char *card, const char *key);
int spd_fits_card_text(char value[SPD_FITS_TEXT], const char *card, const char *key); /* without trailing blanks */
/* Whether CFITSIO can be given the card: it has no value, or one of printable characters, a closed text or something short. */
int spd_fits_card_is_sound(const char *card);

/* Names (EXTNAME) of a file's HDUs, the first of them; empty where an HDU has none */
struct spd_fits_names {
  int n;
  char names[SPD_FITS_HDUS][SPD_FITS_TEXT];
};
/* Index of the first HDU with this name, in any case; -1 if there is none */
int spd_fits_find_name(const struct spd_fits_names *names, const char *name);

/* Whether the headers of HDU 0 to `last` (or as many as there are) consist of sound cards and say how long their data is. CFITSIO 4.2 and
 * earlier copies some values without checking their length. names: NULL, or what the HDUs are called */
int spd_fits_headers_are_sound(struct spd_fits_names *names, FILE *file, long long file_size, int last);

/* ---- a header in memory ---- */

struct spd_fits_header {
  unsigned char bytes[64 * SPD_FITS_BLOCK];
  size_t size; /* with padding */
};

/* Reads the header at `offset`. Returns 1; 0 if it has no end; -1 if the file ends before it does; -2 with errno set. */
int spd_fits_read_header(struct spd_fits_header *header, int file, uint64_t offset);
/* The first card with this keyword, or NULL */
const char *spd_fits_find_card(const struct spd_fits_header *header, const char *key);
int spd_fits_integer(long long *value, const struct spd_fits_header *header, const char *key);
int spd_fits_text(char value[SPD_FITS_TEXT], const struct spd_fits_header *header, const char *key);
int spd_fits_equals(const struct spd_fits_header *header, const char *key, long long value);
int spd_fits_says(const struct spd_fits_header *header, const char *key, const char *text);

/* Append a card: any, or one with a value. spd_fits_end() appends END and the padding. */
void spd_fits_add(struct spd_fits_header *header, const char *card);
void spd_fits_add_integer(struct spd_fits_header *header, const char *key, long long value);
void spd_fits_add_text(struct spd_fits_header *header, const char *key, const char *value); /* what exceeds a card is cut off */
void spd_fits_end(struct spd_fits_header *header);

/* ---- checksums ---- */

/* The sum of n bytes as 32-bit words with end-around carry, added to `sum`. Up to three bytes after the last whole word are ignored. */
uint32_t spd_fits_sum(uint32_t sum, const unsigned char *bytes, size_t n);
/* Of what two sums are of, one after the other */
uint32_t spd_fits_sum_join(uint32_t a, uint32_t b);
/* Appends two COMMENT cards that spd_fits_set_checksums() replaces by CHECKSUM and DATASUM: a missing checksum is valid, a stale one is
 * not. */
void spd_fits_add_checksum_room(struct spd_fits_header *header);
void spd_fits_set_checksums(struct spd_fits_header *header, uint32_t data_sum);
void spd_fits_clear_checksums(struct spd_fits_header *header);
/* Whether checksums are present and do not fit */
int spd_fits_header_sum_is_wrong(const struct spd_fits_header *header);
int spd_fits_data_sum_is_wrong(const struct spd_fits_header *header, const unsigned char *data, size_t n);

#endif
