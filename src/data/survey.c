#define _FILE_OFFSET_BITS 64

#include "data/survey.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/files.h"
#include "core/hot.h"

enum { CARD = 80, BLOCK = 2880, CARDS = BLOCK / CARD, MAX_HEADER = 64 * BLOCK };

/* ---- numbers ---- */

static uint32_t swap32(uint32_t x) { return x >> 24 | (x >> 8 & 0xff00u) | (x << 8 & 0xff0000u) | x << 24; }

static int is_little(void) {
  const uint16_t one = 1;
  unsigned char first;
  memcpy(&first, &one, 1);
  return first;
}

static uint32_t big32(uint32_t x) { return is_little() ? swap32(x) : x; }
static uint64_t big64(uint64_t x) {
  return is_little() ? (uint64_t)swap32((uint32_t)x) << 32 | swap32((uint32_t)(x >> 32)) : x;
}

void spd_survey_put_int(unsigned char *to, int32_t value) {
  uint32_t bits = big32((uint32_t)value);
  memcpy(to, &bits, 4);
}

int32_t spd_survey_get_int(const unsigned char *from) {
  uint32_t bits;
  memcpy(&bits, from, 4);
  return (int32_t)big32(bits);
}

void spd_survey_put_double(unsigned char *to, double value) {
  uint64_t bits;
  memcpy(&bits, &value, 8);
  spd_survey_put_int(to, (int32_t)(uint32_t)(bits >> 32));
  spd_survey_put_int(to + 4, (int32_t)(uint32_t)bits);
}

double spd_survey_get_double(const unsigned char *from) {
  double value;
  uint64_t bits = (uint64_t)(uint32_t)spd_survey_get_int(from) << 32 | (uint32_t)spd_survey_get_int(from + 4);
  memcpy(&value, &bits, 8);
  return value;
}

void spd_survey_put_floats(unsigned char *to, const float *from, size_t n) {
  for (size_t i = 0; i < n; i++) {
    uint32_t bits;
    memcpy(&bits, from + i, 4);
    bits = big32(bits);
    memcpy(to + 4 * i, &bits, 4);
  }
}

void spd_survey_get_floats(float *to, const unsigned char *from, size_t n) {
  for (size_t i = 0; i < n; i++) {
    uint32_t bits;
    memcpy(&bits, from + 4 * i, 4);
    bits = big32(bits);
    memcpy(to + i, &bits, 4);
  }
}

SPD_HOT static void get_spectrum(float *restrict flux, float *restrict ivar, const unsigned char *restrict row,
                                 const struct spd_survey *survey) {
  const size_t n = survey->n_observed;
  const unsigned char *from_flux = row + survey->columns[survey->flux].offset,
                      *from_ivar = row + survey->columns[survey->ivar].offset;
  enum { EXPONENT = 0x7f800000 }; /* all of it set: not finite */
  SPD_SIMD
  for (size_t m = 0; m < n; m++) {
    uint32_t f, w;
    memcpy(&f, from_flux + 4 * m, 4);
    memcpy(&w, from_ivar + 4 * m, 4);
    f = big32(f), w = big32(w);
    const int finite = ((f & EXPONENT) != EXPONENT) & ((w & EXPONENT) != EXPONENT);
    const int negative = w > 0x80000000u;
    const uint32_t kept = 0u - (uint32_t)(finite & !negative);
    f &= kept, w &= kept;
    memcpy(flux + m, &f, 4);
    memcpy(ivar + m, &w, 4);
  }
}

/* Clones have internal linkage: clang before 18 gives others a name that nothing links to. */
void spd_survey_get_spectrum(float *flux, float *ivar, const unsigned char *row, const struct spd_survey *survey) {
  get_spectrum(flux, ivar, row, survey);
}

/* The standard's checksum: 32-bit words added with the carry brought round, here two at a time, which comes to the same since
 * 2^32 counts as 1. Up to three bytes behind the last whole word do not count: a foreign column may have left them. */
static uint32_t add_words(uint32_t sum, const unsigned char *bytes, size_t n) {
  uint64_t total = sum;
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    uint64_t words;
    memcpy(&words, bytes + i, 8);
    words = big64(words);
    total += words;
    total += total < words;
  }
  if (i + 4 <= n) {
    const uint64_t word = (uint32_t)spd_survey_get_int(bytes + i);
    total += word;
    total += total < word;
  }
  while (total >> 32) total = (total & 0xffffffffu) + (total >> 32);
  return (uint32_t)total;
}

size_t spd_survey_column_bytes(const struct spd_survey_column *column) {
  size_t each = column->type == 'D' ? 8 : column->type == 'J' || column->type == 'E' ? 4 : 1;
  return each * column->repeat;
}

/* ---- files ---- */

static spd_status fail_io(const struct spd_survey *s, const char *what, struct spd_error *error) {
  return spd_fail(error, SPD_STATUS_IO, "%.200s: %s failed (%s)", s->name, what, strerror(errno));
}

static spd_status write_all(struct spd_survey *s, const void *bytes, size_t n, uint64_t at, struct spd_error *error) {
  const unsigned char *from = bytes;
  while (n > 0) {
    ssize_t done = pwrite(s->file, from, n, (off_t)at);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return fail_io(s, "writing", error);
    from += done, at += (uint64_t)done, n -= (size_t)done;
  }
  return SPD_STATUS_OK;
}

static spd_status read_all(void *bytes, const struct spd_survey *s, size_t n, uint64_t at, struct spd_error *error) {
  unsigned char *to = bytes;
  while (n > 0) {
    ssize_t done = pread(s->file, to, n, (off_t)at);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return fail_io(s, "reading", error);
    if (done == 0)
      return spd_fail(error, SPD_STATUS_FORMAT, "%.200s is cut: it ends before byte %llu", s->name,
                      (unsigned long long)(at + n));
    to += done, at += (uint64_t)done, n -= (size_t)done;
  }
  return SPD_STATUS_OK;
}

static spd_status flush(struct spd_survey *s, struct spd_error *error) {
  return fsync(s->file) == 0 ? SPD_STATUS_OK : fail_io(s, "flushing", error);
}

static uint64_t padded(uint64_t n) { return (n + BLOCK - 1) / BLOCK * BLOCK; }

static void keep_name(struct spd_survey *s, const char *path) {
  const char *name = path;
  for (const char *p = path; *p; p++)
    if (*p == '/' && p[1]) name = p + 1;
  snprintf(s->name, sizeof s->name, "%s", name);
}

static spd_status open_file(struct spd_survey *s, const char *path, int flags, struct spd_error *error) {
  memset(s, 0, sizeof *s);
  s->file = -1;
  keep_name(s, path);
  struct stat info;
  if (!(flags & O_CREAT) && stat(path, &info) == 0 && !S_ISREG(info.st_mode))
    return spd_fail(error, SPD_STATUS_IO, "%.200s is not a regular file", s->name);
  s->file = open(path, flags | O_CLOEXEC, 0666);
  return s->file >= 0 ? SPD_STATUS_OK : fail_io(s, flags & O_CREAT ? "creating it" : "opening it", error);
}

void spd_survey_close(struct spd_survey *s) {
  if (s->file >= 0) close(s->file);
  free(s->wave);
  free(s->columns);
  s->wave = NULL;
  s->columns = NULL;
  s->file = -1;
}

/* ---- headers to read ---- */

struct header {
  unsigned char bytes[MAX_HEADER];
  size_t size; /* with padding */
};

static spd_status read_header(struct header *h, const struct spd_survey *s, uint64_t at, struct spd_error *error) {
  for (h->size = 0; h->size < MAX_HEADER;) {
    SPD_TRY(read_all(h->bytes + h->size, s, BLOCK, at + h->size, error));
    h->size += BLOCK;
    for (size_t c = h->size - BLOCK; c < h->size; c += CARD)
      if (memcmp(h->bytes + c, "END     ", 8) == 0) return SPD_STATUS_OK;
  }
  return spd_fail(error, SPD_STATUS_FORMAT, "%.200s is damaged: a header has no end", s->name);
}

/* The value field of a card, from byte 10 on, or NULL. */
static const char *find_card(const struct header *h, const char *key) {
  char padded_key[10];
  snprintf(padded_key, sizeof padded_key, "%-8.8s=", key);
  for (size_t c = 0; c < h->size; c += CARD)
    if (memcmp(h->bytes + c, padded_key, 9) == 0) return (const char *)h->bytes + c + 9;
  return NULL;
}

static int card_integer(long long *value, const struct header *h, const char *key) {
  const char *field = find_card(h, key);
  if (!field) return 0;
  char text[CARD - 9 + 1], *end;
  memcpy(text, field, CARD - 9);
  text[CARD - 9] = '\0';
  errno = 0;
  *value = strtoll(text, &end, 10);
  if (end == text || errno != 0) return 0;
  while (*end == ' ') end++;
  return *end == '\0' || *end == '/';
}

/* value: SPD_SURVEY_NAME bytes; trailing blanks are not part of it. */
static int card_text(char *value, const struct header *h, const char *key) {
  const char *field = find_card(h, key);
  size_t n = 0;
  value[0] = '\0';
  if (!field) return 0;
  const char *p = field, *stop = field + CARD - 9;
  while (p < stop && *p == ' ') p++;
  if (p == stop || *p != '\'') return 0;
  for (p++; p < stop; p++) {
    if (*p == '\'') {
      if (p + 1 == stop || p[1] != '\'') break;
      p++;
    }
    if (*p < ' ' || *p > '~') return 0;
    if (n < SPD_SURVEY_NAME - 1) value[n++] = *p;
  }
  if (p == stop) return 0;
  while (n > 0 && value[n - 1] == ' ') n--;
  value[n] = '\0';
  return 1;
}

static int card_is(const struct header *h, const char *key, const char *wanted) {
  char text[SPD_SURVEY_NAME];
  return card_text(text, h, key) && strcmp(text, wanted) == 0;
}

static int card_equals(const struct header *h, const char *key, long long wanted) {
  long long value;
  return card_integer(&value, h, key) && value == wanted;
}

/* Where both checksums are there, the sum of all words of the header and of the data is all ones. */
static int header_sum_is_wrong(const struct header *h) {
  char text[SPD_SURVEY_NAME], *end;
  if (!find_card(h, "CHECKSUM") || !card_text(text, h, "DATASUM")) return 0;
  unsigned long data = strtoul(text, &end, 10);
  if (*end != '\0' || data > 0xffffffffu) return 1;
  uint32_t sum = add_words((uint32_t)data, h->bytes, h->size);
  return sum != 0xffffffffu && sum != 0;
}

static int data_sum_is_wrong(const struct header *h, const unsigned char *data, size_t n) {
  char text[SPD_SURVEY_NAME];
  return card_text(text, h, "DATASUM") && strtoul(text, NULL, 10) != add_words(0, data, n);
}

/* ---- opening ---- */

static spd_status damaged(const struct spd_survey *s, const char *what, struct spd_error *error) {
  return spd_fail(error, SPD_STATUS_FORMAT, "%.200s is not a survey, or damaged: %s", s->name, what);
}

static spd_status read_wave(struct spd_survey *s, const struct header *h, uint64_t file_size, struct spd_error *error) {
  long long n = 0;
  if (header_sum_is_wrong(h)) return damaged(s, "the checksum of its first header does not fit", error);
  if (!card_is(h, "EXTNAME", "WAVELENGTH") || !card_equals(h, "BITPIX", -64) || !card_equals(h, "NAXIS", 1) ||
      !card_integer(&n, h, "NAXIS1") || n < 2 || n > 1000000)
    return damaged(s, "its first image is not WAVELENGTH", error);
  const size_t size = (size_t)padded(8 * (uint64_t)n);
  if (file_size < h->size + size) return damaged(s, "it is cut in WAVELENGTH", error);
  s->n_observed = (size_t)n;
  card_text(s->instrument, h, "INSTRUME");
  card_text(s->prepared, h, "PREPARED");
  unsigned char *bytes = malloc(size);
  s->wave = malloc(s->n_observed * sizeof *s->wave);
  spd_status status = !bytes || !s->wave ? spd_fail(error, SPD_STATUS_NO_MEMORY, "no memory for the grid of %.200s", s->name)
                                         : read_all(bytes, s, size, h->size, error);
  if (status == SPD_STATUS_OK && data_sum_is_wrong(h, bytes, size))
    status = damaged(s, "the checksum of WAVELENGTH does not fit", error);
  for (size_t m = 0; status == SPD_STATUS_OK && m < s->n_observed; m++) {
    s->wave[m] = spd_survey_get_double(bytes + 8 * m);
    if (!(s->wave[m] > (m ? s->wave[m - 1] : 0) && isfinite(s->wave[m])))
      status = damaged(s, "its wavelengths do not increase", error);
  }
  free(bytes);
  return status;
}

static int read_form(struct spd_survey_column *column, const char *form) {
  char *end;
  unsigned long repeat = *form >= '0' && *form <= '9' ? strtoul(form, &end, 10) : (end = (char *)form, 1ul);
  column->type = *end;
  column->repeat = repeat;
  if (repeat > 1000000 || *end == '\0' || end[1] != '\0') return 0;
  return strchr("AJDLE", *end) != NULL;
}

static spd_status read_columns(struct spd_survey *s, const struct header *h, struct spd_error *error) {
  long long n = 0, row_bytes = 0;
  if (!card_integer(&n, h, "TFIELDS") || n < 2 || n > SPD_SURVEY_MAX_COLUMNS)
    return damaged(s, "the number of its columns", error);
  if (!card_integer(&row_bytes, h, "NAXIS1") || row_bytes < 1) return damaged(s, "the size of its rows", error);
  s->n_columns = (size_t)n;
  s->columns = calloc(s->n_columns, sizeof *s->columns);
  if (!s->columns) return spd_fail(error, SPD_STATUS_NO_MEMORY, "no memory for the columns of %.200s", s->name);
  s->id = s->flux = s->ivar = s->checksum = -1;
  for (int c = 0; c < (int)n; c++) {
    struct spd_survey_column *column = &s->columns[c];
    char key[24], form[SPD_SURVEY_NAME];
    snprintf(key, sizeof key, "TTYPE%d", c + 1);
    if (!card_text(column->name, h, key) || column->name[0] == '\0') return damaged(s, "the name of a column", error);
    snprintf(key, sizeof key, "TFORM%d", c + 1);
    if (!card_text(form, h, key) || !read_form(column, form)) return damaged(s, "the format of a column", error);
    column->offset = s->row_bytes;
    s->row_bytes += spd_survey_column_bytes(column);
    if (strcmp(column->name, "ID") == 0 && column->type == 'A') s->id = c;
    if (strcmp(column->name, "FLUX") == 0 && column->type == 'E' && column->repeat == s->n_observed) s->flux = c;
    if (strcmp(column->name, "IVAR") == 0 && column->type == 'E' && column->repeat == s->n_observed) s->ivar = c;
    if (strcmp(column->name, "ROWSUM") == 0 && column->type == 'J' && column->repeat == 1) s->checksum = c;
  }
  if (s->row_bytes != (size_t)row_bytes) return damaged(s, "its columns do not fill a row", error);
  if (s->id < 0 || (!s->is_results && (s->flux < 0 || s->ivar < 0)))
    return damaged(s, "it has no columns ID, FLUX and IVAR of the grid's size", error);
  return SPD_STATUS_OK;
}

static spd_status read_table(struct spd_survey *s, const struct header *h, uint64_t file_size, struct spd_error *error) {
  long long n_rows = 0;
  s->is_results = card_is(h, "EXTNAME", "RESULTS");
  if (memcmp(h->bytes, "XTENSION= 'BINTABLE'", 20) != 0 || (!s->is_results && !card_is(h, "EXTNAME", "SPECTRA")))
    return damaged(s, "its second part is not the table SPECTRA", error);
  if (header_sum_is_wrong(h)) return damaged(s, "the checksum of the header of SPECTRA does not fit", error);
  if (!card_equals(h, "PCOUNT", 0) || !card_equals(h, "GCOUNT", 1) || !card_equals(h, "NAXIS", 2) ||
      !card_equals(h, "BITPIX", 8) || !card_integer(&n_rows, h, "NAXIS2") || n_rows < 0)
    return damaged(s, "the sizes of SPECTRA", error);
  SPD_TRY(read_columns(s, h, error));
  s->rows_at = s->header_at + h->size;
  s->count_at = s->header_at + (uint64_t)(find_card(h, "NAXIS2") - 9 - (const char *)h->bytes);
  s->n_rows = (uint64_t)n_rows;
  s->finished = find_card(h, "CHECKSUM") != NULL;
  if (s->rows_at > file_size || s->n_rows > (file_size - s->rows_at) / s->row_bytes)
    return spd_fail(error, SPD_STATUS_FORMAT, "%.200s is cut: of %llu spectra it has the first %llu", s->name,
                    (unsigned long long)s->n_rows,
                    s->rows_at > file_size ? 0ull : (unsigned long long)((file_size - s->rows_at) / s->row_bytes));
  return SPD_STATUS_OK;
}

static spd_status read_structure(struct spd_survey *s, struct spd_error *error) {
  struct stat info;
  if (fstat(s->file, &info) != 0) return fail_io(s, "looking at it", error);
  unsigned char magic[9];
  if (info.st_size < BLOCK || read_all(magic, s, sizeof magic, 0, error) != SPD_STATUS_OK ||
      memcmp(magic, "SIMPLE  =", sizeof magic) != 0)
    return damaged(s, "it is not a FITS file", error);
  struct header *h = malloc(sizeof *h);
  if (!h) return spd_fail(error, SPD_STATUS_NO_MEMORY, "no memory for the header of %.200s", s->name);
  spd_status status = read_header(h, s, 0, error);
  if (status == SPD_STATUS_OK) status = read_wave(s, h, (uint64_t)info.st_size, error);
  if (status == SPD_STATUS_OK) {
    s->header_at = h->size + padded(8 * s->n_observed);
    status = read_header(h, s, s->header_at, error);
  }
  if (status == SPD_STATUS_OK) status = read_table(s, h, (uint64_t)info.st_size, error);
  free(h);
  return status;
}

spd_status spd_survey_open(struct spd_survey *s, const char *path, struct spd_error *error) {
  spd_status status = open_file(s, path, O_RDONLY, error);
  if (status == SPD_STATUS_OK) status = read_structure(s, error);
  if (status != SPD_STATUS_OK) spd_survey_close(s);
  return status;
}

/* ---- rows ---- */

static uint32_t row_sum(const unsigned char *row, const struct spd_survey *s) {
  size_t at = s->columns[s->checksum].offset;
  return add_words(add_words(0, row, at), row + at + 4, s->row_bytes - at - 4);
}

spd_status spd_survey_read_raw(unsigned char *rows, const struct spd_survey *s, uint64_t first, size_t count,
                               struct spd_error *error) {
  if (first > s->n_rows || count > s->n_rows - first)
    return spd_fail(error, SPD_STATUS_INVALID, "%.200s has %llu spectra", s->name, (unsigned long long)s->n_rows);
  return read_all(rows, s, count * s->row_bytes, s->rows_at + first * s->row_bytes, error);
}

int spd_survey_is_sound(const unsigned char *row, const struct spd_survey *s) {
  return s->checksum < 0 || row_sum(row, s) == (uint32_t)spd_survey_get_int(row + s->columns[s->checksum].offset);
}

spd_status spd_survey_damaged(const struct spd_survey *s, uint64_t row, struct spd_error *error) {
  return spd_fail(error, SPD_STATUS_FORMAT, "%.200s is damaged: the checksum of spectrum %llu does not fit", s->name,
                  (unsigned long long)(row + 1));
}

spd_status spd_survey_read(unsigned char *rows, const struct spd_survey *s, uint64_t first, size_t count,
                           struct spd_error *error) {
  SPD_TRY(spd_survey_read_raw(rows, s, first, count, error));
  for (size_t i = 0; i < count; i++)
    if (!spd_survey_is_sound(rows + i * s->row_bytes, s)) return spd_survey_damaged(s, first + i, error);
  return SPD_STATUS_OK;
}

spd_status spd_survey_read_part(unsigned char *bytes, const struct spd_survey *s, uint64_t row, size_t offset, size_t n,
                                struct spd_error *error) {
  if (row >= s->n_rows || offset > s->row_bytes || n > s->row_bytes - offset)
    return spd_fail(error, SPD_STATUS_INVALID, "%.200s has %llu spectra", s->name, (unsigned long long)s->n_rows);
  return read_all(bytes, s, n, s->rows_at + row * s->row_bytes + offset, error);
}

/* ---- headers to write ---- */

static void add_card(struct header *h, const char *text) {
  if (h->size + CARD > MAX_HEADER - BLOCK) return; /* SPD_SURVEY_MAX_COLUMNS fit */
  memset(h->bytes + h->size, ' ', CARD);
  size_t n = strlen(text);
  memcpy(h->bytes + h->size, text, n < CARD ? n : CARD);
  h->size += CARD;
}

static void add_integer(struct header *h, const char *key, long long value) {
  char text[CARD + 1];
  snprintf(text, sizeof text, "%-8.8s= %20lld", key, value);
  add_card(h, text);
}

static void add_text(struct header *h, const char *key, const char *value) {
  char text[2 * CARD], quoted[2 * SPD_SURVEY_NAME];
  size_t n = 0;
  for (const char *p = value; *p && n + 3 < CARD - 12; p++) {
    if (*p == '\'') quoted[n++] = '\'';
    quoted[n++] = *p;
  }
  quoted[n] = '\0';
  snprintf(text, sizeof text, "%-8.8s= '%-8s'", key, quoted);
  add_card(h, text);
}

static void end_header(struct header *h) {
  add_card(h, "END");
  while (h->size % BLOCK) add_card(h, "");
}

/* Cards that spd_survey_finish() fills; a comment until then, for checksums that are not there are not wrong. */
static void add_checksum_room(struct header *h) {
  add_card(h, "COMMENT  checksum");
  add_card(h, "COMMENT  datasum");
}

static void table_header(struct header *h, const char *name, const struct spd_survey_column *columns, size_t n_columns,
                         long long row_bytes, long long n_rows) {
  h->size = 0;
  add_card(h, "XTENSION= 'BINTABLE'");
  add_integer(h, "BITPIX", 8);
  add_integer(h, "NAXIS", 2);
  add_integer(h, "NAXIS1", row_bytes);
  add_integer(h, "NAXIS2", n_rows);
  add_integer(h, "PCOUNT", 0);
  add_integer(h, "GCOUNT", 1);
  add_integer(h, "TFIELDS", (long long)n_columns);
  add_text(h, "EXTNAME", name);
  add_checksum_room(h);
  for (size_t c = 0; c < n_columns; c++) {
    char key[24], form[32];
    snprintf(key, sizeof key, "TTYPE%d", (int)c + 1);
    add_text(h, key, columns[c].name);
    snprintf(key, sizeof key, "TFORM%d", (int)c + 1);
    snprintf(form, sizeof form, "%zu%c", columns[c].repeat, columns[c].type);
    add_text(h, key, form);
    if (columns[c].type != 'J' || strcmp(columns[c].name, "ROWSUM") == 0) continue;
    snprintf(key, sizeof key, "TNULL%d", (int)c + 1);
    add_integer(h, key, INT32_MIN);
  }
  end_header(h);
}

/* The standard's appendix J: four characters a byte, each a letter or digit, in cyclic order by one. */
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

/* Fills the room for checksums in a header whose data sums up to `data`. */
static void set_checksums(struct header *h, uint32_t data) {
  size_t at = 0;
  while (at < h->size && memcmp(h->bytes + at, "COMMENT  checksum", 17) != 0 && memcmp(h->bytes + at, "CHECKSUM=", 9) != 0)
    at += CARD;
  if (at + CARD >= h->size) return;
  struct header cards = {.size = 0};
  char text[CARD + 1], ascii[17];
  add_text(&cards, "CHECKSUM", "0000000000000000");
  snprintf(text, sizeof text, "%lu", (unsigned long)data);
  add_text(&cards, "DATASUM", text);
  memcpy(h->bytes + at, cards.bytes, 2 * CARD);
  encode_checksum(ascii, ~add_words(data, h->bytes, h->size));
  memcpy(h->bytes + at + 11, ascii, 16);
}

static void clear_checksums(struct header *h) {
  for (size_t at = 0; at < h->size; at += CARD) {
    const char *room = memcmp(h->bytes + at, "CHECKSUM=", 9) == 0   ? "COMMENT  checksum"
                       : memcmp(h->bytes + at, "DATASUM =", 9) == 0 ? "COMMENT  datasum"
                                                                    : NULL;
    if (!room) continue;
    memset(h->bytes + at, ' ', CARD);
    memcpy(h->bytes + at, room, strlen(room));
  }
}

/* ---- writing ---- */

static spd_status write_wave(struct spd_survey *s, struct header *h, const char *instrument, const char *prepared,
                             struct spd_error *error) {
  size_t bytes = (size_t)padded(8 * s->n_observed);
  unsigned char *data = calloc(bytes, 1);
  if (!data) return spd_fail(error, SPD_STATUS_NO_MEMORY, "no memory for the grid of %.200s", s->name);
  for (size_t m = 0; m < s->n_observed; m++) spd_survey_put_double(data + 8 * m, s->wave[m]);
  h->size = 0;
  add_card(h, "SIMPLE  =                    T");
  add_integer(h, "BITPIX", -64);
  add_integer(h, "NAXIS", 1);
  add_integer(h, "NAXIS1", (long long)s->n_observed);
  add_card(h, "EXTEND  =                    T");
  add_text(h, "EXTNAME", "WAVELENGTH");
  add_text(h, "BUNIT", "Angstrom");
  add_text(h, "INSTRUME", instrument);
  add_text(h, "PREPARED", prepared);
  add_checksum_room(h);
  add_card(h, "COMMENT  Spectra prepared for spender: FLUX is divided by NORM, IVAR multiplied by its");
  add_card(h, "COMMENT  square. ROWSUM is the sum of a row's other 32-bit words, carries added.");
  end_header(h);
  set_checksums(h, add_words(0, data, bytes));
  spd_status status = write_all(s, h->bytes, h->size, 0, error);
  if (status == SPD_STATUS_OK) status = write_all(s, data, bytes, h->size, error);
  s->header_at = h->size + bytes;
  free(data);
  return status;
}

/* The columns given, with PADDING before the first of floats where that does not stand on a multiple of 4 bytes, as the
 * checksum needs it, and ROWSUM behind the last. */
static spd_status set_columns(struct spd_survey *s, const struct spd_survey_column *columns, size_t n_columns,
                              struct spd_error *error) {
  size_t n = 0;
  s->columns = calloc(2 * n_columns + 2, sizeof *s->columns); /* PADDING before each, at most */
  if (!s->columns) return spd_fail(error, SPD_STATUS_NO_MEMORY, "no memory for the columns of %.200s", s->name);
  s->row_bytes = 0;
  for (size_t c = 0; c <= n_columns; c++) {
    struct spd_survey_column sum = {"ROWSUM", 'J', 1, 0}, padding = {"PADDING", 'A', 4 - s->row_bytes % 4, s->row_bytes};
    const struct spd_survey_column *column = c < n_columns ? &columns[c] : &sum;
    if (s->row_bytes % 4 != 0 && (c == n_columns || column->type == 'E')) {
      s->columns[n++] = padding;
      s->row_bytes += padding.repeat;
    }
    s->columns[n] = *column;
    s->columns[n].offset = s->row_bytes;
    s->row_bytes += spd_survey_column_bytes(&s->columns[n++]);
  }
  s->n_columns = n;
  return SPD_STATUS_OK;
}

static spd_status write_new(struct spd_survey *s, const char *table, const double *wave, const char *instrument, const char *prepared,
                            struct spd_error *error) {
  struct header *h = malloc(sizeof *h);
  s->wave = malloc(s->n_observed * sizeof *s->wave);
  spd_status status = SPD_STATUS_OK;
  if (!s->wave || !h) {
    status = spd_fail(error, SPD_STATUS_NO_MEMORY, "no memory for the header of %.200s", s->name);
  } else {
    memcpy(s->wave, wave, s->n_observed * sizeof *wave);
    status = write_wave(s, h, instrument, prepared, error);
    if (status == SPD_STATUS_OK) {
      table_header(h, table, s->columns, s->n_columns, (long long)s->row_bytes, 0);
      status = write_all(s, h->bytes, h->size, s->header_at, error);
    }
    if (status == SPD_STATUS_OK) status = flush(s, error);
  }
  free(h);
  return status;
}

spd_status spd_survey_create(struct spd_survey *s, const char *path, const char *table, const double *wave, size_t n_observed,
                             const char *instrument, const char *prepared, const struct spd_survey_column *columns, size_t n_columns,
                             struct spd_error *error) {
  if (2 * n_columns + 2 > SPD_SURVEY_MAX_COLUMNS)
    return spd_fail(error, SPD_STATUS_INVALID, "a survey has at most %d columns", SPD_SURVEY_MAX_COLUMNS / 2 - 1);
  keep_name(s, path);
  if (access(path, F_OK) == 0) return errno = EEXIST, fail_io(s, "creating it", error);
  /* whole or not at all: beside it first, then to its name */
  char *temporary = malloc(strlen(path) + 32);
  if (!temporary) return spd_fail(error, SPD_STATUS_NO_MEMORY, "no memory for a file name");
  sprintf(temporary, "%s.tmp-%ld", path, (long)getpid());
  unlink(temporary);
  spd_status status = open_file(s, temporary, O_RDWR | O_CREAT | O_EXCL, error);
  if (status == SPD_STATUS_OK) {
    keep_name(s, path);
    s->n_observed = n_observed;
    status = set_columns(s, columns, n_columns, error);
    if (status == SPD_STATUS_OK) status = write_new(s, table, wave, instrument, prepared, error);
    if (status == SPD_STATUS_OK && !spd_file_publish(temporary, path, 0)) status = fail_io(s, "creating it", error);
    spd_survey_close(s);
    if (status != SPD_STATUS_OK) unlink(temporary);
    strcpy(temporary, path);
    spd_file_sync_folder(temporary);
  }
  free(temporary);
  return status == SPD_STATUS_OK ? spd_survey_reopen(s, path, error) : status; /* one way of knowing what is where */
}

spd_status spd_survey_reopen(struct spd_survey *s, const char *path, struct spd_error *error) {
  spd_status status = open_file(s, path, O_RDWR, error);
  if (status == SPD_STATUS_OK) status = read_structure(s, error);
  if (status == SPD_STATUS_OK && s->checksum < 0)
    status = damaged(s, "it has no column ROWSUM and cannot be appended to", error);
  struct header *h = status == SPD_STATUS_OK ? malloc(sizeof *h) : NULL;
  if (status == SPD_STATUS_OK && !h)
    status = spd_fail(error, SPD_STATUS_NO_MEMORY, "no memory for the header of %.200s", s->name);
  if (status == SPD_STATUS_OK && s->finished) {
    /* the checksums go first: a program killed from here on leaves none that are wrong */
    status = read_header(h, s, s->header_at, error);
    clear_checksums(h);
    if (status == SPD_STATUS_OK) status = write_all(s, h->bytes, h->size, s->header_at, error);
    if (status == SPD_STATUS_OK) status = flush(s, error);
    s->finished = 0;
  }
  free(h);
  const uint64_t end = s->rows_at + s->n_rows * s->row_bytes; /* and zeros from there to the end of the block */
  if (status == SPD_STATUS_OK && (ftruncate(s->file, (off_t)end) != 0 || ftruncate(s->file, (off_t)padded(end)) != 0))
    status = fail_io(s, "cutting off what follows the rows", error);
  if (status != SPD_STATUS_OK) spd_survey_close(s);
  return status;
}

spd_status spd_survey_append(struct spd_survey *s, unsigned char *rows, size_t count, struct spd_error *error) {
  static const unsigned char zeros[BLOCK];
  if (count == 0) return SPD_STATUS_OK;
  for (size_t i = 0; i < count; i++) {
    unsigned char *row = rows + i * s->row_bytes;
    spd_survey_put_int(row + s->columns[s->checksum].offset, (int32_t)row_sum(row, s));
  }
  const uint64_t at = s->rows_at + s->n_rows * s->row_bytes, end = at + count * s->row_bytes;
  SPD_TRY(write_all(s, rows, count * s->row_bytes, at, error));
  SPD_TRY(write_all(s, zeros, (size_t)(padded(end) - end), end, error));
  SPD_TRY(flush(s, error));
  char card[CARD + 1];
  snprintf(card, sizeof card, "NAXIS2  = %20lld%50s", (long long)(s->n_rows + count), "");
  SPD_TRY(write_all(s, card, CARD, s->count_at, error));
  s->n_rows += count;
  return SPD_STATUS_OK;
}

static spd_status sum_rows(uint32_t *sum, const struct spd_survey *s, struct spd_error *error) {
  enum { STEP = 1 << 22 };
  const uint64_t end = padded(s->rows_at + s->n_rows * s->row_bytes);
  unsigned char *bytes = malloc(STEP);
  spd_status status = bytes ? SPD_STATUS_OK : spd_fail(error, SPD_STATUS_NO_MEMORY, "no memory to read %.200s", s->name);
  *sum = 0;
  for (uint64_t at = s->rows_at; at < end && status == SPD_STATUS_OK; at += STEP) {
    size_t n = end - at < STEP ? (size_t)(end - at) : STEP;
    status = read_all(bytes, s, n, at, error);
    if (status == SPD_STATUS_OK) *sum = add_words(*sum, bytes, n);
  }
  free(bytes);
  return status;
}

static size_t longest(const char *const *texts, size_t n) {
  size_t most = 1;
  for (size_t i = 0; i < n; i++) most = strlen(texts[i]) > most ? strlen(texts[i]) : most;
  return most;
}

static spd_status write_rejected(struct spd_survey *s, struct header *h, const char *const *inputs, const char *const *reasons,
                                 size_t n, struct spd_error *error) {
  struct spd_survey_column columns[2] = {{"INPUT", 'A', longest(inputs, n), 0}, {"REASON", 'A', longest(reasons, n), 0}};
  const size_t width = columns[0].repeat + columns[1].repeat, size = (size_t)padded(n * width);
  unsigned char *data = calloc(size, 1);
  if (!data) return spd_fail(error, SPD_STATUS_NO_MEMORY, "no memory for the table of rejected inputs");
  for (size_t i = 0; i < n; i++) {
    memcpy(data + i * width, inputs[i], strlen(inputs[i]));
    memcpy(data + i * width + columns[0].repeat, reasons[i], strlen(reasons[i]));
  }
  table_header(h, "REJECTED", columns, 2, (long long)width, (long long)n);
  set_checksums(h, add_words(0, data, size));
  const uint64_t at = padded(s->rows_at + s->n_rows * s->row_bytes);
  spd_status status = write_all(s, h->bytes, h->size, at, error);
  if (status == SPD_STATUS_OK) status = write_all(s, data, size, at + h->size, error);
  free(data);
  return status;
}

spd_status spd_survey_finish(struct spd_survey *s, const char *const *inputs, const char *const *reasons, size_t n,
                             struct spd_error *error) {
  uint32_t sum;
  struct header *h = malloc(sizeof *h);
  if (!h) return spd_fail(error, SPD_STATUS_NO_MEMORY, "no memory for the header of %.200s", s->name);
  spd_status status = n > 0 ? write_rejected(s, h, inputs, reasons, n, error) : SPD_STATUS_OK;
  if (status == SPD_STATUS_OK) status = sum_rows(&sum, s, error);
  if (status == SPD_STATUS_OK) status = flush(s, error);
  if (status == SPD_STATUS_OK) status = read_header(h, s, s->header_at, error);
  if (status == SPD_STATUS_OK) {
    set_checksums(h, sum);
    status = write_all(s, h->bytes, h->size, s->header_at, error);
  }
  if (status == SPD_STATUS_OK) status = flush(s, error);
  s->finished = status == SPD_STATUS_OK;
  free(h);
  return status;
}

spd_status spd_survey_rejected(char ***inputs, char ***reasons, size_t *n, struct spd_survey *s, struct spd_error *error) {
  *inputs = *reasons = NULL;
  *n = 0;
  if (!s->finished) return SPD_STATUS_OK; /* what follows the rows then is of a writer at work, or killed */
  struct stat info;
  const uint64_t at = padded(s->rows_at + s->n_rows * s->row_bytes);
  if (fstat(s->file, &info) != 0) return fail_io(s, "looking at it", error);
  if (at >= (uint64_t)info.st_size) return SPD_STATUS_OK;
  struct header *h = malloc(sizeof *h);
  if (!h) return spd_fail(error, SPD_STATUS_NO_MEMORY, "no memory for the header of %.200s", s->name);
  struct spd_survey_column columns[2];
  char form[SPD_SURVEY_NAME];
  long long rows = 0, width = 0;
  spd_status status = read_header(h, s, at, error);
  int ours = status == SPD_STATUS_OK && card_is(h, "EXTNAME", "REJECTED");
  if (ours &&
      (header_sum_is_wrong(h) || !card_integer(&rows, h, "NAXIS2") || !card_integer(&width, h, "NAXIS1") || rows < 0 ||
       width < 2 || width > 1000000 || !card_text(form, h, "TFORM1") || !read_form(&columns[0], form) ||
       !card_text(form, h, "TFORM2") || !read_form(&columns[1], form) || columns[0].type != 'A' || columns[1].type != 'A' ||
       columns[0].repeat + columns[1].repeat != (size_t)width || (uint64_t)rows > (uint64_t)info.st_size / (uint64_t)width))
    status = damaged(s, "its table REJECTED", error);
  if (ours && status == SPD_STATUS_OK && rows > 0) {
    /* pointers and texts in one block, which one free() frees */
    for (int c = 0; c < 2 && status == SPD_STATUS_OK; c++) {
      const size_t repeat = columns[c].repeat, skip = c ? columns[0].repeat : 0;
      char **list = calloc((size_t)rows, sizeof *list + repeat + 1);
      if (!list) {
        status = spd_fail(error, SPD_STATUS_NO_MEMORY, "no memory for the rejected inputs of %.200s", s->name);
        break;
      }
      *(c ? reasons : inputs) = list;
      char *text = (char *)(list + rows);
      for (size_t i = 0; i < (size_t)rows && status == SPD_STATUS_OK; i++, text += repeat + 1) {
        list[i] = text;
        status = read_all(text, s, repeat, at + h->size + i * (size_t)width + skip, error);
        for (char *p = text; *p; p++)
          if (*p < ' ' || *p > '~') *p = '?';
      }
    }
    *n = (size_t)rows;
  }
  if (status != SPD_STATUS_OK) {
    free(*inputs);
    free(*reasons);
    *inputs = *reasons = NULL;
    *n = 0;
  }
  free(h);
  return status;
}
