/* Header cards and checksums: what is written reads back, and what CFITSIO should not see is recognised. */
#include <limits.h>

#include "data/fits.h"
#include "fits-files.h"

static const char *card(const char *text) {
  static char padded[SPD_FITS_CARD + 1];
  snprintf(padded, sizeof padded, "%-80.80s", text);
  return padded;
}

static void test_values(void) {
  static struct spd_fits_header h;
  char text[SPD_FITS_TEXT];
  long long value;
  h.size = 0;
  spd_fits_add_integer(&h, "NAXIS1", -17);
  spd_fits_add_text(&h, "EXTNAME", "it's a name");
  spd_fits_add_text(&h, "EMPTY", "");
  spd_fits_add(&h, "COMMENT  NAXIS2 = 5");
  spd_fits_end(&h);
  CHECK(h.size == SPD_FITS_BLOCK, "a short header takes %zu bytes", h.size);
  CHECK(spd_fits_equals(&h, "NAXIS1", -17), "an integer does not read back");
  CHECK(spd_fits_says(&h, "EXTNAME", "it's a name"), "a text with a quote does not read back");
  CHECK(spd_fits_text(text, &h, "EMPTY") && text[0] == '\0', "an empty text reads as '%s'", text);
  CHECK(!spd_fits_integer(&value, &h, "EXTNAME") && !spd_fits_text(text, &h, "NAXIS1"), "a value of another type is read");
  CHECK(!spd_fits_find_card(&h, "NAXIS2") && !spd_fits_find_card(&h, "NAXIS"), "a keyword is found where there is none");
  CHECK(spd_fits_card_integer(&value, card("NAXIS   =                    2 / axes"), "NAXIS") && value == 2, "a comment is in the way");
  CHECK(!spd_fits_card_integer(&value, card("NAXIS   =                  2.5"), "NAXIS"), "2.5 is read as an integer");
  CHECK(!spd_fits_card_integer(&value, card("NAXIS   = 99999999999999999999999"), "NAXIS"), "an integer overflows unnoticed");
  CHECK(!spd_fits_card_text(text, card("NAME    = 'no end"), "NAME"), "a text without an end is read");
}

static void test_sound_cards(void) {
  static const char *const sound[] = {"",
                                      "END",
                                      "COMMENT \001",
                                      "HISTORY = 'open",
                                      "KEY",
                                      "KEY     = 'closed'",
                                      "KEY     = 'it''s' / comment",
                                      "KEY     =  1.0000000000E+00",
                                      "HIERARCH LONG KEY = 5"};
  static const char *const unsound[] = {"KEY     = 'open",
                                        "KEY     = \001",
                                        "HIERARCH LONG KEY = 'open",
                                        "KEY     = 11111111112222222222333333333344444444445",
                                        "NAXIS1  = 'a text'",
                                        "zval2   = ( 4 / bytes (1, 2, 4)",
                                        "ZTILE1  = T",
                                        "NAXIS1  = 12345678901234567890123456789"};
  for (size_t i = 0; i < sizeof sound / sizeof *sound; i++) CHECK(spd_fits_card_is_sound(card(sound[i])), "refused: %s", sound[i]);
  for (size_t i = 0; i < sizeof unsound / sizeof *unsound; i++)
    CHECK(!spd_fits_card_is_sound(card(unsound[i])), "accepted: %s", unsound[i]);
}

static int sound(struct fits_file *f, size_t size, int last) {
  FILE *file = fmemopen(f->bytes, size, "rb");
  const int result = spd_fits_headers_are_sound(NULL, file, (long long)size, last);
  fclose(file);
  return result;
}

static void test_headers(void) {
  const struct fits_column columns[] = {{"A", "J"}};
  struct fits_file *f = fits_file_new();
  fits_file_primary(f);
  fits_file_table(f, columns, 1, 4, 1000);
  fits_file_add(f, NULL, 4000);
  CHECK(sound(f, f->size, 0) && sound(f, f->size, 1) && sound(f, f->size, 5), "sound headers are refused");
  CHECK(!sound(f, SPD_FITS_BLOCK + 100, 1), "a header that is cut is accepted");
  CHECK(sound(f, SPD_FITS_BLOCK, 1), "a file may end after an HDU");
  char *rows = (char *)f->bytes + SPD_FITS_BLOCK + 4 * SPD_FITS_CARD; /* NAXIS2 */
  memcpy(rows, "NAXIS2  =     1000000000000000", 30);
  CHECK(!sound(f, f->size, 1), "petabytes of data are accepted");
  memcpy(rows, "NAXIS2  =                   -1", 30);
  CHECK(!sound(f, f->size, 1), "a negative size is accepted");
  memcpy(rows, "COMMENT                       ", 30);
  CHECK(!sound(f, f->size, 1), "a table without its number of rows is accepted");
  free(f);
}

/* An image and a table, with names; what follows them is no HDU */
static void test_names(void) {
  static struct spd_fits_names names;
  const struct fits_column columns[] = {{"A", "J"}};
  struct fits_file *f = fits_file_new();
  fits_file_primary(f);
  fits_file_image(f, "B_FLUX", -32, 10, 2);
  fits_file_add(f, NULL, 80);
  fits_file_table(f, columns, 1, 4, 3);
  spd_fits_add_text(&f->header, "EXTNAME", "FIBERMAP");
  fits_file_add(f, NULL, 12);
  for (size_t more = 0; more < 4000; more += 1000) {
    FILE *file = fmemopen(f->bytes, f->size + more, "rb");
    CHECK(spd_fits_headers_are_sound(&names, file, (long long)(f->size + more), INT_MAX), "refused with %zu bytes more", more);
    fclose(file);
    CHECK(names.n == 3 && spd_fits_find_name(&names, "B_FLUX") == 1 && spd_fits_find_name(&names, "fibermap") == 2 &&
              spd_fits_find_name(&names, "B_IVAR") == -1,
          "%d HDUs, called '%s', '%s', '%s'", names.n, names.names[0], names.names[1], names.names[2]);
  }
  free(f);
}

/* Numbers of a compressed image by which CFITSIO divides */
static void test_compressed(void) {
  static const char *const cards[][2] = {{"ZTILE1  = 0", ""},
                                         {"zTILE2  = -1", ""},
                                         {"ZNAXIS  = 7", ""},
                                         {"ZNAME1  = 'BLOCKSIZE'", "ZVAL1   = 0"},
                                         {"ZVAL2   = 0.5", "ZNAME2  = 'blocksize'"}};
  for (size_t i = 0; i < sizeof cards / sizeof *cards; i++)
    for (int harmless = 0; harmless < 2; harmless++) {
      const struct fits_column columns[] = {{"COMPRESSED_DATA", "1PB(9)"}};
      struct fits_file *f = fits_file_new();
      fits_file_primary(f);
      fits_file_table(f, columns, 1, 8, 3);
      spd_fits_add(&f->header, harmless ? "ZNAME1  = 'BLOCKSIZE'" : cards[i][0]);
      spd_fits_add(&f->header, harmless ? "ZVAL1   = 32" : cards[i][1]);
      fits_file_add(f, NULL, 24);
      CHECK(sound(f, f->size, 1) == harmless, "'%s' and '%s'%s", cards[i][0], cards[i][1],
            harmless ? ", mended, are refused" : " are accepted");
      free(f);
    }
}

static void test_checksums(void) {
  static struct spd_fits_header h;
  unsigned char data[SPD_FITS_BLOCK];
  for (size_t i = 0; i < sizeof data; i++) data[i] = (unsigned char)(i * 37);
  /* from the standard's definition, a word at a time */
  uint64_t sum = 0;
  for (size_t i = 0; i < sizeof data; i += 4) sum += (uint32_t)spd_get_int(data + i);
  while (sum >> 32) sum = (sum & 0xffffffffu) + (sum >> 32);
  CHECK(spd_fits_sum(0, data, sizeof data) == sum, "the sum is %lu, not %lu", (unsigned long)spd_fits_sum(0, data, sizeof data),
        (unsigned long)sum);
  h.size = 0;
  spd_fits_add_integer(&h, "NAXIS", 1);
  spd_fits_add_checksum_room(&h);
  spd_fits_end(&h);
  CHECK(!spd_fits_header_sum_is_wrong(&h) && !spd_fits_data_sum_is_wrong(&h, data, sizeof data), "a missing checksum is wrong");
  spd_fits_set_checksums(&h, (uint32_t)sum);
  CHECK(spd_fits_find_card(&h, "CHECKSUM") && spd_fits_find_card(&h, "DATASUM"), "no checksums were set");
  CHECK(spd_fits_sum((uint32_t)sum, h.bytes, h.size) == 0xffffffffu, "header and data do not add up to ones");
  CHECK(!spd_fits_header_sum_is_wrong(&h) && !spd_fits_data_sum_is_wrong(&h, data, sizeof data), "checksums do not fit");
  h.bytes[SPD_FITS_CARD + 5] ^= 1;
  CHECK(spd_fits_header_sum_is_wrong(&h) || !spd_fits_find_card(&h, "CHECKSUM"), "a flipped bit in the header is not noticed");
  h.bytes[SPD_FITS_CARD + 5] ^= 1;
  data[7] ^= 4;
  CHECK(spd_fits_data_sum_is_wrong(&h, data, sizeof data), "a flipped bit in the data is not noticed");
  spd_fits_clear_checksums(&h);
  CHECK(!spd_fits_find_card(&h, "CHECKSUM") && !spd_fits_find_card(&h, "DATASUM"), "checksums were not cleared");
}

int main(void) {
  test_values();
  test_sound_cards();
  test_headers();
  test_names();
  test_compressed();
  test_checksums();
  return check_end();
}
