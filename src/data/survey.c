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

#include "core/bytes.h"
#include "core/files.h"
#include "core/hot.h"
#include "data/fits.h"

enum { BLOCK = SPD_FITS_BLOCK, MOST_PIXELS = 1000000, MOST_TEXT = 1000000 /* bytes of a text column */ };

SPD_HOT static void get_spectrum(float *restrict flux, float *restrict ivar, const unsigned char *restrict row,
                                 const struct spd_survey *survey) {
  const size_t n = survey->n_observed;
  const unsigned char *from_flux = row + survey->columns[survey->flux_column].offset,
                      *from_ivar = row + survey->columns[survey->ivar_column].offset;
  enum { EXPONENT = 0x7f800000 }; /* all of it set: not finite */
  SPD_SIMD
  for (size_t m = 0; m < n; m++) {
    uint32_t f, w;
    memcpy(&f, from_flux + 4 * m, 4);
    memcpy(&w, from_ivar + 4 * m, 4);
    f = spd_big32(f), w = spd_big32(w);
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

void spd_survey_get_resolution(float *resolution, const unsigned char *row, const struct spd_survey *survey) {
  const size_t width = survey->columns[survey->resolution_column].repeat;
  const float lowest = survey->band.gaussian ? 0 : -INFINITY;
  spd_get_floats(resolution, row + survey->columns[survey->resolution_column].offset, width);
  for (size_t i = 0; i < width; i++)
    if (!isfinite(resolution[i]) || resolution[i] < lowest) resolution[i] = 0;
}

size_t spd_survey_column_bytes(const struct spd_survey_column *column) {
  size_t each = column->type == 'D' ? 8 : column->type == 'J' || column->type == 'E' ? 4 : 1;
  return each * column->repeat;
}

/* ---- the file ---- */

static spd_status fail_io(const struct spd_survey *s, const char *what, struct spd_error *error) {
  return spd_fail(error, SPD_STATUS_IO, "%.200s: %s failed (%s)", s->file_name, what, strerror(errno));
}

static spd_status no_memory(const struct spd_survey *s, const char *what, struct spd_error *error) {
  return spd_fail(error, SPD_STATUS_NO_MEMORY, "no memory for %s of %.200s", what, s->file_name);
}

static spd_status damaged(const struct spd_survey *s, const char *what, struct spd_error *error) {
  return spd_fail(error, SPD_STATUS_FORMAT, "%.200s is not a survey, or damaged: %s", s->file_name, what);
}

static spd_status cut_before(const struct spd_survey *s, uint64_t at, struct spd_error *error) {
  return spd_fail(error, SPD_STATUS_FORMAT, "%.200s is cut: it ends before byte %llu", s->file_name, (unsigned long long)at);
}

static spd_status read_all(void *bytes, const struct spd_survey *s, size_t n, uint64_t at, struct spd_error *error) {
  const int read = spd_file_read(bytes, n, at, s->file);
  return read > 0 ? SPD_STATUS_OK : read == 0 ? cut_before(s, at + n, error) : fail_io(s, "reading", error);
}

/* Into s->header */
static spd_status read_header(struct spd_survey *s, uint64_t at, struct spd_error *error) {
  const int read = spd_fits_read_header(s->header, s->file, at);
  if (read == 0) return spd_fail(error, SPD_STATUS_FORMAT, "%.200s is damaged: a header has no end", s->file_name);
  if (read == -1) return cut_before(s, at + s->header->size + BLOCK, error);
  return read > 0 ? SPD_STATUS_OK : fail_io(s, "reading", error);
}

static spd_status write_all(const struct spd_survey *s, const void *bytes, size_t n, uint64_t at, struct spd_error *error) {
  return spd_file_write(s->file, bytes, n, at) ? SPD_STATUS_OK : fail_io(s, "writing", error);
}

static spd_status write_header(struct spd_survey *s, uint64_t at, struct spd_error *error) {
  return write_all(s, s->header->bytes, s->header->size, at, error);
}

static spd_status flush(struct spd_survey *s, struct spd_error *error) {
  return fsync(s->file) == 0 ? SPD_STATUS_OK : fail_io(s, "flushing", error);
}

static uint64_t end_of_rows(const struct spd_survey *s) { return s->rows_at + s->n_rows * s->row_bytes; }

/* A survey without a file yet */
static spd_status begin(struct spd_survey *s, const char *path, struct spd_error *error) {
  memset(s, 0, sizeof *s);
  s->file = -1;
  snprintf(s->file_name, sizeof s->file_name, "%s", spd_file_name(path));
  s->header = malloc(sizeof *s->header);
  return s->header ? SPD_STATUS_OK : no_memory(s, "the header", error);
}

static spd_status open_file(struct spd_survey *s, const char *path, int flags, struct spd_error *error) {
  struct stat info;
  SPD_TRY(begin(s, path, error));
  if (stat(path, &info) == 0 && !S_ISREG(info.st_mode)) return spd_fail(error, SPD_STATUS_IO, "%.200s is not a regular file", s->file_name);
  s->file = open(path, flags | O_CLOEXEC);
  return s->file >= 0 ? SPD_STATUS_OK : fail_io(s, "opening it", error);
}

void spd_survey_close(struct spd_survey *s) {
  if (s->file >= 0) close(s->file);
  free(s->wave);
  free(s->columns);
  free(s->header);
  s->wave = NULL;
  s->columns = NULL;
  s->header = NULL;
  s->file = -1;
}

/* ---- opening ---- */

static spd_status decode_wave(struct spd_survey *s, const unsigned char *bytes, struct spd_error *error) {
  for (size_t m = 0; m < s->n_observed; m++) {
    s->wave[m] = spd_get_double(bytes + 8 * m);
    if (!(s->wave[m] > (m ? s->wave[m - 1] : 0) && isfinite(s->wave[m]))) return damaged(s, "its wavelengths do not increase", error);
  }
  return SPD_STATUS_OK;
}

static spd_status read_wave(struct spd_survey *s, uint64_t file_size, struct spd_error *error) {
  const struct spd_fits_header *h = s->header;
  long long n = 0;
  if (spd_fits_header_sum_is_wrong(h)) return damaged(s, "the checksum of its first header does not fit", error);
  if (!spd_fits_says(h, "EXTNAME", "WAVELENGTH") || !spd_fits_equals(h, "BITPIX", -64) || !spd_fits_equals(h, "NAXIS", 1) ||
      !spd_fits_integer(&n, h, "NAXIS1") || n < 2 || n > MOST_PIXELS)
    return damaged(s, "its first image is not WAVELENGTH", error);
  const size_t size = (size_t)spd_fits_padded(8 * (uint64_t)n);
  if (file_size < h->size + size) return damaged(s, "it is cut in WAVELENGTH", error);
  s->n_observed = (size_t)n;
  spd_fits_text(s->instrument, h, "INSTRUME");
  spd_fits_text(s->prepared, h, "PREPARED");
  spd_fits_text(s->part, h, "PART");
  s->wave = malloc(s->n_observed * sizeof *s->wave);
  unsigned char *bytes = malloc(size);
  spd_status status = s->wave && bytes ? read_all(bytes, s, size, h->size, error) : no_memory(s, "the grid", error);
  if (status == SPD_STATUS_OK && spd_fits_data_sum_is_wrong(h, bytes, size))
    status = damaged(s, "the checksum of WAVELENGTH does not fit", error);
  if (status == SPD_STATUS_OK) status = decode_wave(s, bytes, error);
  free(bytes);
  return status;
}

static int read_form(struct spd_survey_column *column, const char *form) {
  char *end;
  unsigned long repeat = *form >= '0' && *form <= '9' ? strtoul(form, &end, 10) : (end = (char *)form, 1ul);
  column->type = *end;
  column->repeat = repeat;
  if (repeat > MOST_TEXT || *end == '\0' || end[1] != '\0') return 0;
  return strchr("AJDLE", *end) != NULL;
}

static spd_status read_columns(struct spd_survey *s, struct spd_error *error) {
  const struct spd_fits_header *h = s->header;
  long long n = 0, row_bytes = 0;
  if (!spd_fits_integer(&n, h, "TFIELDS") || n < 2 || n > SPD_SURVEY_MAX_COLUMNS) return damaged(s, "the number of its columns", error);
  if (!spd_fits_integer(&row_bytes, h, "NAXIS1") || row_bytes < 1) return damaged(s, "the size of its rows", error);
  s->n_columns = (size_t)n;
  s->columns = calloc(s->n_columns, sizeof *s->columns);
  if (!s->columns) return no_memory(s, "the columns", error);
  s->id_column = s->flux_column = s->ivar_column = s->resolution_column = s->checksum_column = -1;
  for (int c = 0; c < (int)n; c++) {
    struct spd_survey_column *column = &s->columns[c];
    char key[24], form[SPD_FITS_TEXT];
    snprintf(key, sizeof key, "TTYPE%d", c + 1);
    if (!spd_fits_text(column->name, h, key) || column->name[0] == '\0') return damaged(s, "the name of a column", error);
    snprintf(key, sizeof key, "TFORM%d", c + 1);
    if (!spd_fits_text(form, h, key) || !read_form(column, form)) return damaged(s, "the format of a column", error);
    column->offset = s->row_bytes;
    s->row_bytes += spd_survey_column_bytes(column);
    if (strcmp(column->name, "ID") == 0 && column->type == 'A') s->id_column = c;
    if (strcmp(column->name, "FLUX") == 0 && column->type == 'E' && column->repeat == s->n_observed) s->flux_column = c;
    if (strcmp(column->name, "IVAR") == 0 && column->type == 'E' && column->repeat == s->n_observed) s->ivar_column = c;
    if (column->type == 'E' && s->resolution_column < 0 && spd_band_of_name(&s->band, column->name)) s->resolution_column = c;
    if (strcmp(column->name, "ROWSUM") == 0 && column->type == 'J' && column->repeat == 1) s->checksum_column = c;
  }
  if (s->row_bytes != (size_t)row_bytes) return damaged(s, "its columns do not fill a row", error);
  if (s->resolution_column >= 0 && (spd_band_check(&s->band, s->n_observed, error) != SPD_STATUS_OK ||
                                    s->columns[s->resolution_column].repeat != spd_band_width(&s->band, s->n_observed)))
    return damaged(s, "the shape of its resolutions", error);
  if (s->id_column < 0 || (!s->is_results && (s->flux_column < 0 || s->ivar_column < 0)))
    return damaged(s, "it has no columns ID, FLUX and IVAR of the grid's size", error);
  return SPD_STATUS_OK;
}

static spd_status read_table(struct spd_survey *s, uint64_t file_size, struct spd_error *error) {
  const struct spd_fits_header *h = s->header;
  long long n_rows = 0;
  s->is_results = spd_fits_says(h, "EXTNAME", "RESULTS");
  if (memcmp(h->bytes, "XTENSION= 'BINTABLE'", 20) != 0 || (!s->is_results && !spd_fits_says(h, "EXTNAME", "SPECTRA")))
    return damaged(s, "its second part is not the table SPECTRA", error);
  if (spd_fits_header_sum_is_wrong(h)) return damaged(s, "the checksum of the header of SPECTRA does not fit", error);
  if (!spd_fits_equals(h, "PCOUNT", 0) || !spd_fits_equals(h, "GCOUNT", 1) || !spd_fits_equals(h, "NAXIS", 2) ||
      !spd_fits_equals(h, "BITPIX", 8) || !spd_fits_integer(&n_rows, h, "NAXIS2") || n_rows < 0)
    return damaged(s, "the sizes of SPECTRA", error);
  SPD_TRY(read_columns(s, error));
  s->rows_at = s->header_at + h->size;
  s->count_at = s->header_at + (uint64_t)(spd_fits_find_card(h, "NAXIS2") - (const char *)h->bytes);
  s->n_rows = (uint64_t)n_rows;
  s->finished = spd_fits_find_card(h, "CHECKSUM") != NULL;
  const uint64_t whole = s->rows_at > file_size ? 0 : (file_size - s->rows_at) / s->row_bytes;
  if (s->rows_at <= file_size && s->n_rows <= whole) return SPD_STATUS_OK;
  return spd_fail(error, SPD_STATUS_FORMAT, "%.200s is cut: of %llu spectra it has the first %llu", s->file_name,
                  (unsigned long long)s->n_rows, (unsigned long long)whole);
}

static spd_status read_structure(struct spd_survey *s, struct spd_error *error) {
  struct stat info;
  if (fstat(s->file, &info) != 0) return fail_io(s, "looking at it", error);
  char magic[9];
  if (info.st_size < BLOCK || read_all(magic, s, sizeof magic, 0, error) != SPD_STATUS_OK || memcmp(magic, "SIMPLE  =", sizeof magic) != 0)
    return damaged(s, "it is not a FITS file", error);
  const uint64_t file_size = (uint64_t)info.st_size;
  SPD_TRY(read_header(s, 0, error));
  SPD_TRY(read_wave(s, file_size, error));
  s->header_at = s->header->size + spd_fits_padded(8 * s->n_observed);
  SPD_TRY(read_header(s, s->header_at, error));
  return read_table(s, file_size, error);
}

spd_status spd_survey_open(struct spd_survey *s, const char *path, struct spd_error *error) {
  spd_status status = open_file(s, path, O_RDONLY, error);
  if (status == SPD_STATUS_OK) status = read_structure(s, error);
  if (status != SPD_STATUS_OK) spd_survey_close(s);
  return status;
}

/* ---- rows ---- */

static uint32_t row_sum(const unsigned char *row, const struct spd_survey *s) {
  size_t at = s->columns[s->checksum_column].offset;
  return spd_fits_sum(spd_fits_sum(0, row, at), row + at + 4, s->row_bytes - at - 4);
}

spd_status spd_survey_read_raw(unsigned char *rows, const struct spd_survey *s, uint64_t first, size_t count, struct spd_error *error) {
  if (first > s->n_rows || count > s->n_rows - first)
    return spd_fail(error, SPD_STATUS_INVALID, "%.200s has %llu spectra", s->file_name, (unsigned long long)s->n_rows);
  return read_all(rows, s, count * s->row_bytes, s->rows_at + first * s->row_bytes, error);
}

int spd_survey_is_sound(const unsigned char *row, const struct spd_survey *s) {
  return s->checksum_column < 0 || row_sum(row, s) == (uint32_t)spd_get_int(row + s->columns[s->checksum_column].offset);
}

spd_status spd_survey_damaged(const struct spd_survey *s, uint64_t row, struct spd_error *error) {
  return spd_fail(error, SPD_STATUS_FORMAT, "%.200s is damaged: the checksum of spectrum %llu does not fit", s->file_name,
                  (unsigned long long)(row + 1));
}

spd_status spd_survey_read(unsigned char *rows, const struct spd_survey *s, uint64_t first, size_t count, struct spd_error *error) {
  SPD_TRY(spd_survey_read_raw(rows, s, first, count, error));
  for (size_t i = 0; i < count; i++)
    if (!spd_survey_is_sound(rows + i * s->row_bytes, s)) return spd_survey_damaged(s, first + i, error);
  return SPD_STATUS_OK;
}

spd_status spd_survey_read_part(unsigned char *bytes, const struct spd_survey *s, uint64_t row, size_t offset, size_t n,
                                struct spd_error *error) {
  if (row >= s->n_rows || offset > s->row_bytes || n > s->row_bytes - offset)
    return spd_fail(error, SPD_STATUS_INVALID, "%.200s has %llu spectra", s->file_name, (unsigned long long)s->n_rows);
  return read_all(bytes, s, n, s->rows_at + row * s->row_bytes + offset, error);
}

/* ---- writing ---- */

static void table_header(struct spd_fits_header *h, const char *name, const struct spd_survey_column *columns, size_t n_columns,
                         size_t row_bytes, size_t n_rows) {
  h->size = 0;
  spd_fits_add(h, "XTENSION= 'BINTABLE'");
  spd_fits_add_integer(h, "BITPIX", 8);
  spd_fits_add_integer(h, "NAXIS", 2);
  spd_fits_add_integer(h, "NAXIS1", (long long)row_bytes);
  spd_fits_add_integer(h, "NAXIS2", (long long)n_rows);
  spd_fits_add_integer(h, "PCOUNT", 0);
  spd_fits_add_integer(h, "GCOUNT", 1);
  spd_fits_add_integer(h, "TFIELDS", (long long)n_columns);
  spd_fits_add_text(h, "EXTNAME", name);
  spd_fits_add_checksum_room(h);
  for (size_t c = 0; c < n_columns; c++) {
    char key[24], form[32];
    snprintf(key, sizeof key, "TTYPE%d", (int)c + 1);
    spd_fits_add_text(h, key, columns[c].name);
    snprintf(key, sizeof key, "TFORM%d", (int)c + 1);
    snprintf(form, sizeof form, "%zu%c", columns[c].repeat, columns[c].type);
    spd_fits_add_text(h, key, form);
    if (columns[c].type != 'J' || strcmp(columns[c].name, "ROWSUM") == 0) continue;
    snprintf(key, sizeof key, "TNULL%d", (int)c + 1);
    spd_fits_add_integer(h, key, INT32_MIN);
  }
  spd_fits_end(h);
}

static void wave_header(struct spd_fits_header *h, size_t n_observed, const char *instrument, const char *prepared, const char *part) {
  h->size = 0;
  spd_fits_add(h, "SIMPLE  =                    T");
  spd_fits_add_integer(h, "BITPIX", -64);
  spd_fits_add_integer(h, "NAXIS", 1);
  spd_fits_add_integer(h, "NAXIS1", (long long)n_observed);
  spd_fits_add(h, "EXTEND  =                    T");
  spd_fits_add_text(h, "EXTNAME", "WAVELENGTH");
  spd_fits_add_text(h, "BUNIT", "Angstrom");
  spd_fits_add_text(h, "INSTRUME", instrument);
  spd_fits_add_text(h, "PREPARED", prepared);
  if (part && part[0]) spd_fits_add_text(h, "PART", part);
  spd_fits_add_checksum_room(h);
  spd_fits_add(h, "COMMENT  Spectra prepared for spender: FLUX is divided by NORM, IVAR multiplied by its");
  spd_fits_add(h, "COMMENT  square. ROWSUM is the sum of a row's other 32-bit words, carries added.");
  spd_fits_end(h);
}

/* The header in s->header, completed by the checksums of its data, and the data after it */
static spd_status write_part(struct spd_survey *s, const unsigned char *data, size_t size, uint64_t at, struct spd_error *error) {
  spd_fits_set_checksums(s->header, spd_fits_sum(0, data, size));
  SPD_TRY(write_header(s, at, error));
  return write_all(s, data, size, at + s->header->size, error);
}

static spd_status write_wave(struct spd_survey *s, const double *wave, const char *instrument, const char *prepared, const char *part,
                             struct spd_error *error) {
  const size_t size = (size_t)spd_fits_padded(8 * s->n_observed);
  unsigned char *data = calloc(size, 1);
  if (!data) return no_memory(s, "the grid", error);
  for (size_t m = 0; m < s->n_observed; m++) spd_put_double(data + 8 * m, wave[m]);
  wave_header(s->header, s->n_observed, instrument, prepared, part);
  const spd_status status = write_part(s, data, size, 0, error);
  s->header_at = s->header->size + size;
  free(data);
  return status;
}

/* Sets s->columns: those given; PADDING before a column of floats whose offset is not a multiple of 4 bytes, which the row's checksum
 * needs; and ROWSUM. */
static spd_status set_columns(struct spd_survey *s, const struct spd_survey_column *columns, size_t n_columns, struct spd_error *error) {
  size_t n = 0;
  s->columns = calloc(2 * n_columns + 2, sizeof *s->columns); /* PADDING before each, at most */
  if (!s->columns) return no_memory(s, "the columns", error);
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
                            const char *part, const struct spd_survey_column *columns, size_t n_columns, struct spd_error *error) {
  SPD_TRY(set_columns(s, columns, n_columns, error));
  SPD_TRY(write_wave(s, wave, instrument, prepared, part, error));
  table_header(s->header, table, s->columns, s->n_columns, s->row_bytes, 0);
  return write_header(s, s->header_at, error);
}

spd_status spd_survey_create(struct spd_survey *s, const char *path, const char *table, const double *wave, size_t n_observed,
                             const char *instrument, const char *prepared, const char *part, const struct spd_survey_column *columns,
                             size_t n_columns, struct spd_error *error) {
  if (2 * n_columns + 2 > SPD_SURVEY_MAX_COLUMNS)
    return spd_fail(error, SPD_STATUS_INVALID, "a survey has at most %d columns", SPD_SURVEY_MAX_COLUMNS / 2 - 1);
  struct spd_new_file file = {.descriptor = -1};
  spd_status status = begin(s, path, error);
  s->n_observed = n_observed;
  if (status == SPD_STATUS_OK && access(path, F_OK) == 0) errno = EEXIST, status = fail_io(s, "creating it", error);
  if (status == SPD_STATUS_OK && !spd_file_begin(&file, path)) status = fail_io(s, "creating it", error);
  if (status == SPD_STATUS_OK) {
    s->file = file.descriptor;
    status = write_new(s, table, wave, instrument, prepared, part, columns, n_columns, error);
    s->file = -1; /* closed by one of the following */
    if (status == SPD_STATUS_OK && !spd_file_publish(&file, 0)) status = fail_io(s, "creating it", error);
    spd_file_discard(&file);
  }
  spd_survey_close(s);
  return status == SPD_STATUS_OK ? spd_survey_reopen(s, path, error) : status; /* which computes all offsets */
}

/* Removes the checksums before anything is appended: a program killed from here on leaves none that are wrong. */
static spd_status clear_checksums(struct spd_survey *s, struct spd_error *error) {
  SPD_TRY(read_header(s, s->header_at, error));
  spd_fits_clear_checksums(s->header);
  SPD_TRY(write_header(s, s->header_at, error));
  s->finished = 0;
  return flush(s, error);
}

static spd_status prepare_to_append(struct spd_survey *s, struct spd_error *error) {
  SPD_TRY(read_structure(s, error));
  if (s->checksum_column < 0) return damaged(s, "it has no column ROWSUM and cannot be appended to", error);
  if (s->finished) SPD_TRY(clear_checksums(s, error));
  const uint64_t end = end_of_rows(s); /* then zeros to the end of the block */
  if (ftruncate(s->file, (off_t)end) != 0 || ftruncate(s->file, (off_t)spd_fits_padded(end)) != 0)
    return fail_io(s, "cutting off what follows the rows", error);
  s->knows_sum = s->n_rows == 0 && s->row_bytes % 4 == 0 && s->columns[s->checksum_column].offset % 4 == 0;
  s->sum = 0;
  return SPD_STATUS_OK;
}

static spd_status lock(struct spd_survey *s, struct spd_error *error) {
  if (spd_file_lock(s->file)) return SPD_STATUS_OK;
  return spd_fail(error, SPD_STATUS_IO, "%.200s is being written by another program, or elsewhere in this one", s->file_name);
}

spd_status spd_survey_reopen(struct spd_survey *s, const char *path, struct spd_error *error) {
  spd_status status = open_file(s, path, O_RDWR, error);
  if (status == SPD_STATUS_OK) status = lock(s, error);
  if (status == SPD_STATUS_OK) status = prepare_to_append(s, error);
  if (status != SPD_STATUS_OK) spd_survey_close(s);
  return status;
}

static void set_row_sum(unsigned char *row, const struct spd_survey *s) {
  spd_put_int(row + s->columns[s->checksum_column].offset, (int32_t)row_sum(row, s));
}

static uint64_t row_at(const struct spd_survey *s, uint64_t number) { return s->rows_at + number * s->row_bytes; }

spd_status spd_survey_append_written(struct spd_survey *s, const unsigned char *rows, size_t count, struct spd_error *error) {
  uint32_t sum = s->sum;
  for (size_t i = 0; i < count; i++) {
    const uint32_t others = (uint32_t)spd_get_int(rows + i * s->row_bytes + s->columns[s->checksum_column].offset);
    sum = spd_fits_sum_join(spd_fits_sum_join(sum, others), others); /* the second is ROWSUM itself */
  }
  SPD_TRY(flush(s, error));
  char card[SPD_FITS_CARD + 1];
  snprintf(card, sizeof card, "NAXIS2  = %20lld%50s", (long long)(s->n_rows + count), "");
  SPD_TRY(write_all(s, card, SPD_FITS_CARD, s->count_at, error));
  s->n_rows += count;
  s->sum = sum;
  return SPD_STATUS_OK;
}

spd_status spd_survey_append(struct spd_survey *s, unsigned char *rows, size_t count, struct spd_error *error) {
  static const unsigned char zeros[BLOCK];
  if (count == 0) return SPD_STATUS_OK;
  for (size_t i = 0; i < count; i++) set_row_sum(rows + i * s->row_bytes, s);
  const uint64_t at = end_of_rows(s), end = at + count * s->row_bytes;
  SPD_TRY(write_all(s, rows, count * s->row_bytes, at, error));
  SPD_TRY(write_all(s, zeros, (size_t)(spd_fits_padded(end) - end), end, error));
  return spd_survey_append_written(s, rows, count, error);
}

spd_status spd_survey_reserve(const struct spd_survey *s, uint64_t end, struct spd_error *error) {
  return ftruncate(s->file, (off_t)spd_fits_padded(row_at(s, end))) == 0 ? SPD_STATUS_OK : fail_io(s, "writing", error);
}

spd_status spd_survey_write_row(unsigned char *row, const struct spd_survey *s, uint64_t number, struct spd_error *error) {
  set_row_sum(row, s);
  return write_all(s, row, s->row_bytes, row_at(s, number), error);
}

static spd_status sum_rows(uint32_t *sum, const struct spd_survey *s, int (*stopped)(void), struct spd_error *error) {
  enum { STEP = 1 << 22 };
  const uint64_t end = spd_fits_padded(end_of_rows(s));
  unsigned char *bytes = malloc(STEP);
  spd_status status = bytes ? SPD_STATUS_OK : no_memory(s, "the rows", error);
  *sum = 0;
  for (uint64_t at = s->rows_at; at < end && status == SPD_STATUS_OK; at += STEP) {
    size_t n = end - at < STEP ? (size_t)(end - at) : STEP;
    status = stopped && stopped() ? spd_fail(error, SPD_STATUS_INTERRUPTED, "interrupted") : read_all(bytes, s, n, at, error);
    if (status == SPD_STATUS_OK) *sum = spd_fits_sum(*sum, bytes, n);
  }
  free(bytes);
  return status;
}

static size_t longest(const char *const *texts, size_t n) {
  size_t most = 1;
  for (size_t i = 0; i < n; i++) most = strlen(texts[i]) > most ? strlen(texts[i]) : most;
  return most;
}

static spd_status write_rejected(struct spd_survey *s, const char *const *inputs, const char *const *reasons, size_t n,
                                 struct spd_error *error) {
  const struct spd_survey_column columns[2] = {{"INPUT", 'A', longest(inputs, n), 0}, {"REASON", 'A', longest(reasons, n), 0}};
  const size_t width = columns[0].repeat + columns[1].repeat, size = (size_t)spd_fits_padded(n * width);
  unsigned char *data = calloc(size, 1);
  if (!data) return no_memory(s, "the rejected inputs", error);
  for (size_t i = 0; i < n; i++) {
    memcpy(data + i * width, inputs[i], strlen(inputs[i]));
    memcpy(data + i * width + columns[0].repeat, reasons[i], strlen(reasons[i]));
  }
  table_header(s->header, "REJECTED", columns, 2, width, n);
  const spd_status status = write_part(s, data, size, spd_fits_padded(end_of_rows(s)), error);
  free(data);
  return status;
}

spd_status spd_survey_finish(struct spd_survey *s, const char *const *inputs, const char *const *reasons, size_t n, int (*stopped)(void),
                             struct spd_error *error) {
  uint32_t sum = s->sum;
  if (n > 0) SPD_TRY(write_rejected(s, inputs, reasons, n, error));
  if (!s->knows_sum) SPD_TRY(sum_rows(&sum, s, stopped, error));
  SPD_TRY(flush(s, error));
  SPD_TRY(read_header(s, s->header_at, error));
  spd_fits_set_checksums(s->header, sum);
  SPD_TRY(write_header(s, s->header_at, error));
  SPD_TRY(flush(s, error));
  s->finished = 1;
  return SPD_STATUS_OK;
}

/* ---- rejected inputs ---- */

/* The table that s->header is of */
struct rejected {
  long long n_rows, row_bytes;
  size_t widths[2]; /* of INPUT and REASON */
};

static int read_rejected_layout(struct rejected *r, const struct spd_fits_header *h, uint64_t file_size) {
  if (spd_fits_header_sum_is_wrong(h) || !spd_fits_integer(&r->n_rows, h, "NAXIS2") || !spd_fits_integer(&r->row_bytes, h, "NAXIS1") ||
      r->n_rows < 0 || r->row_bytes < 2 || r->row_bytes > MOST_TEXT || (uint64_t)r->n_rows > file_size / (uint64_t)r->row_bytes)
    return 0;
  static const char *const keys[2] = {"TFORM1", "TFORM2"};
  for (int c = 0; c < 2; c++) {
    struct spd_survey_column column;
    char form[SPD_FITS_TEXT];
    if (!spd_fits_text(form, h, keys[c]) || !read_form(&column, form) || column.type != 'A') return 0;
    r->widths[c] = column.repeat;
  }
  return r->widths[0] + r->widths[1] == (size_t)r->row_bytes;
}

/* One column of it: pointers and texts in one block, which one free() frees */
static spd_status read_texts(char ***list, const struct rejected *r, int column, uint64_t at, struct spd_survey *s,
                             struct spd_error *error) {
  const size_t n = (size_t)r->n_rows, width = r->widths[column], skip = column ? r->widths[0] : 0;
  *list = calloc(n, sizeof **list + width + 1);
  if (!*list) return no_memory(s, "the rejected inputs", error);
  char *text = (char *)(*list + n);
  for (size_t i = 0; i < n; i++, text += width + 1) {
    (*list)[i] = text;
    SPD_TRY(read_all(text, s, width, at + i * (size_t)r->row_bytes + skip, error));
    for (char *p = text; *p; p++)
      if (*p < ' ' || *p > '~') *p = '?';
  }
  return SPD_STATUS_OK;
}

static spd_status read_rejected(char ***inputs, char ***reasons, size_t *n, struct spd_survey *s, struct spd_error *error) {
  struct stat info;
  struct rejected rejected;
  const uint64_t at = spd_fits_padded(end_of_rows(s));
  if (fstat(s->file, &info) != 0) return fail_io(s, "looking at it", error);
  if (at >= (uint64_t)info.st_size) return SPD_STATUS_OK;
  SPD_TRY(read_header(s, at, error));
  if (!spd_fits_says(s->header, "EXTNAME", "REJECTED")) return SPD_STATUS_OK;
  if (!read_rejected_layout(&rejected, s->header, (uint64_t)info.st_size)) return damaged(s, "its table REJECTED", error);
  if (rejected.n_rows == 0) return SPD_STATUS_OK;
  SPD_TRY(read_texts(inputs, &rejected, 0, at + s->header->size, s, error));
  SPD_TRY(read_texts(reasons, &rejected, 1, at + s->header->size, s, error));
  *n = (size_t)rejected.n_rows;
  return SPD_STATUS_OK;
}

spd_status spd_survey_rejected(char ***inputs, char ***reasons, size_t *n, struct spd_survey *s, struct spd_error *error) {
  *inputs = *reasons = NULL;
  *n = 0;
  if (!s->finished) return SPD_STATUS_OK; /* data after the rows belongs to a writer that is running or was killed */
  const spd_status status = read_rejected(inputs, reasons, n, s, error);
  if (status == SPD_STATUS_OK) return status;
  free(*inputs);
  free(*reasons);
  *inputs = *reasons = NULL;
  return status;
}
