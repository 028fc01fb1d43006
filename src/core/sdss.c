#include "core/sdss.h"

const char *spd_sdss_file_name(const char *path) {
  const char *name = path;
  for (const char *p = path; *p; p++)
    if ((*p == '/' || *p == '\\') && p[1]) name = p + 1;
  return name;
}

#ifndef SPD_HAVE_CFITSIO

spd_status spd_sdss_read(struct spd_sdss_pixels *pixels, struct spd_sdss_object *object, const char *path,
                         struct spd_error *error) {
  (void)pixels;
  (void)object;
  (void)path;
  return spd_fail(error, SPD_STATUS_UNSUPPORTED,
                  "this build of spender cannot read FITS files: install CFITSIO (Debian, Ubuntu: apt-get install "
                  "libcfitsio-dev), then reinstall spender");
}

#else

#include <ctype.h>
#include <errno.h>
#include <fitsio.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { CARD = 80, BLOCK = 2880, MAX_HEADER_BLOCKS = 1000, MAX_COLUMNS = 999 /* of any FITS table */ };

struct reader {
  fitsfile *file;
  const char *name;
  struct spd_error *error;
};

static spd_status fail(const struct reader *reader, spd_status status, const char *format, ...) {
  char sentence[256];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(sentence, sizeof sentence, format, arguments);
  va_end(arguments);
  return spd_fail(reader->error, status, "%.200s %s", reader->name, sentence);
}

static spd_status fail_fits(const struct reader *reader, const char *what, int fits_status) {
  char text[FLEN_STATUS] = "";
  fits_get_errstatus(fits_status, text);
  fits_clear_errmsg();
  return fail(reader, SPD_STATUS_FORMAT, "is cut or damaged: reading %s failed (CFITSIO: %s)", what, text);
}

/* "KEY     =      value / comment", an integer; 0 unless the card is just that. */
static int card_integer(long long *value, const char *card, const char *key) {
  char text[CARD + 1], *end;
  if (strncmp(card, key, 8) != 0 || card[8] != '=') return 0;
  memcpy(text, card + 9, CARD - 9);
  text[CARD - 9] = '\0';
  errno = 0;
  *value = strtoll(text, &end, 10);
  int found = end > text && errno == 0;
  while (*end == ' ') end++;
  return found && (*end == '\0' || *end == '/');
}

/* The cards that a header begins with, in the order that the standard sets. */
struct layout {
  long long bitpix, naxis, row_bytes, n_rows, heap_bytes, groups, n_columns;
};

static int read_layout(struct layout *layout, const char *block, int hdu) {
  static const char table[] = "XTENSION= 'BINTABLE'";
  memset(layout, 0, sizeof *layout);
  if (hdu > 0 && memcmp(block, table, sizeof table - 1) != 0) return 0;
  if (!card_integer(&layout->bitpix, block + CARD, "BITPIX  ") || !card_integer(&layout->naxis, block + 2 * CARD, "NAXIS   "))
    return 0;
  if (hdu == 0) return layout->naxis == 0;
  const long long most = 1LL << 31;
  return layout->bitpix == 8 && layout->naxis == 2 && card_integer(&layout->row_bytes, block + 3 * CARD, "NAXIS1  ") &&
         card_integer(&layout->n_rows, block + 4 * CARD, "NAXIS2  ") &&
         card_integer(&layout->heap_bytes, block + 5 * CARD, "PCOUNT  ") &&
         card_integer(&layout->groups, block + 6 * CARD, "GCOUNT  ") && layout->groups == 1 &&
         card_integer(&layout->n_columns, block + 7 * CARD, "TFIELDS ") && layout->n_columns >= 0 &&
         layout->n_columns <= MAX_COLUMNS && layout->row_bytes >= 0 && layout->row_bytes < most && layout->n_rows >= 0 &&
         layout->n_rows < most && layout->heap_bytes >= 0 && layout->heap_bytes < most;
}

static int ends_header(const char *block) {
  for (int i = 0; i < BLOCK; i += CARD)
    if (memcmp(block + i, "END     ", 8) == 0) return 1;
  return 0;
}

/* Makes sure that the headers of HDU 0 to 2 are sound and their data in the file. CFITSIO 4.2 goes on after an NAXIS2 that it
 * cannot read, and was seen to ask for petabytes of columns, or to fill what it got for 24 seconds. */
static spd_status check_layout(const struct reader *reader, FILE *file, long long size) {
  static const char *const contents[] = {"primary header", "COADD", "SPECOBJ or SPALL"};
  char block[BLOCK];
  long long at = 0;
  for (int hdu = 0; hdu <= 2; hdu++) {
    struct layout layout;
    int n_blocks = 0;
    if (hdu > 0 && at >= size)
      return fail(reader, SPD_STATUS_FORMAT, "ends before HDU %d (%s): it is cut, or not an SDSS spectrum", hdu, contents[hdu]);
    do {
      if (fread(block, 1, BLOCK, file) != BLOCK || n_blocks == MAX_HEADER_BLOCKS)
        return fail(reader, SPD_STATUS_FORMAT, "is cut in the header of HDU %d (%s)", hdu, contents[hdu]);
      if (n_blocks++ > 0 || read_layout(&layout, block, hdu)) continue;
      if (hdu == 0) return fail(reader, SPD_STATUS_FORMAT, "has a primary header that is damaged, or not an SDSS spectrum's");
      return fail(reader, SPD_STATUS_FORMAT, "has no sound header of a binary table in HDU %d (%s)", hdu, contents[hdu]);
    } while (!ends_header(block));
    long long bytes = layout.row_bytes * layout.n_rows + layout.heap_bytes;
    at += (long long)n_blocks * BLOCK;
    if (bytes > size - at) return fail(reader, SPD_STATUS_FORMAT, "is cut in the data of HDU %d (%s)", hdu, contents[hdu]);
    at += (bytes + BLOCK - 1) / BLOCK * BLOCK;
    if (hdu < 2 && at < size && fseek(file, (long)at, SEEK_SET) != 0)
      return fail(reader, SPD_STATUS_IO, "cannot be read: %s", strerror(errno));
  }
  return SPD_STATUS_OK;
}

/* Before CFITSIO, which would wait on a pipe, guess at other formats and look for "name.gz". */
static spd_status check_file(const struct reader *reader, const char *path) {
  struct stat info;
  if (stat(path, &info) != 0) return fail(reader, SPD_STATUS_IO, "cannot be opened: %s", strerror(errno));
  if (S_ISDIR(info.st_mode)) return fail(reader, SPD_STATUS_IO, "is a folder, not a file");
  if (!S_ISREG(info.st_mode)) return fail(reader, SPD_STATUS_IO, "is not a regular file");
  if (info.st_size == 0) return fail(reader, SPD_STATUS_FORMAT, "is empty");
  if (strlen(path) >= FLEN_FILENAME)
    return fail(reader, SPD_STATUS_IO, "cannot be opened: its path is longer than CFITSIO's %d bytes", FLEN_FILENAME - 1);

  FILE *file = fopen(path, "rb");
  if (!file) return fail(reader, SPD_STATUS_IO, "cannot be opened: %s", strerror(errno));
  char magic[9] = "";
  spd_status status;
  size_t n = fread(magic, 1, sizeof magic, file);
  if (n >= 2 && memcmp(magic, "\x1f\x8b", 2) == 0)
    status = fail(reader, SPD_STATUS_FORMAT, "is gzipped: unpack it first (gunzip)");
  else if (n < sizeof magic || memcmp(magic, "SIMPLE  =", sizeof magic) != 0)
    status = fail(reader, SPD_STATUS_FORMAT, "is not a FITS file");
  else {
    rewind(file);
    status = check_layout(reader, file, info.st_size);
  }
  fclose(file);
  return status;
}

enum kind { KIND_REAL, KIND_INTEGER, KIND_TEXT };

/* A table that the reader stands on, with the names of its columns: fits_get_colnum() would compare all of them, with
 * wildcards, for each column that is asked for. */
struct table {
  const struct reader *reader;
  int hdu; /* as astronomers count, from 0 */
  long n_rows;
  int n_columns;
  char names[MAX_COLUMNS][FLEN_VALUE];
};

static int same_name(const char *a, const char *b) {
  for (; *a && *b; a++, b++)
    if (toupper((unsigned char)*a) != toupper((unsigned char)*b)) return 0;
  return *a == *b;
}

/* *column is 0 where an optional column is absent. Of two columns of one name, the first. */
static spd_status find_column(int *column, const struct table *table, const char *name, enum kind kind, int required) {
  int status = 0, type = 0;
  long repeat = 0, width = 0;
  *column = 0;
  for (int i = table->n_columns; i >= 1; i--)
    if (same_name(table->names[i - 1], name)) *column = i;
  if (*column == 0)
    return required ? fail(table->reader, SPD_STATUS_FORMAT, "has no column '%s' in HDU %d", name, table->hdu) : SPD_STATUS_OK;

  fits_get_coltype(table->reader->file, *column, &type, &repeat, &width, &status);
  if (status) return fail_fits(table->reader, "its columns", status);
  int fits = kind == KIND_REAL      ? type == TFLOAT || type == TDOUBLE
             : kind == KIND_INTEGER ? type == TBYTE || type == TSHORT || type == TLONG || type == TLONGLONG
                                    : type == TSTRING;
  if (!fits || (kind == KIND_TEXT ? width < 0 || width >= SPD_SDSS_TEXT : repeat != 1)) {
    static const char *const kinds[] = {"one real number", "one integer", "a short text"};
    return fail(table->reader, SPD_STATUS_FORMAT, "has a column '%s' in HDU %d that is not %s a row", name, table->hdu,
                kinds[kind]);
  }
  return SPD_STATUS_OK;
}

static spd_status open_table(struct table *table, const struct reader *reader, int hdu) {
  int status = 0, type = 0, n_named = 0;
  table->reader = reader;
  table->hdu = hdu;
  fits_movabs_hdu(reader->file, hdu + 1, &type, &status);
  if (!status && type != BINARY_TBL) status = NOT_BTABLE;
  fits_get_num_rows(reader->file, &table->n_rows, &status);
  fits_get_num_cols(reader->file, &table->n_columns, &status);
  if (!status && table->n_columns > MAX_COLUMNS) status = BAD_TFIELDS;

  char *names[MAX_COLUMNS];
  for (int i = 0; i < table->n_columns && i < MAX_COLUMNS; i++) {
    names[i] = table->names[i];
    names[i][0] = '\0';
  }
  fits_read_keys_str(reader->file, "TTYPE", 1, table->n_columns, names, &n_named, &status);
  return status ? fail_fits(reader, "its tables", status) : SPD_STATUS_OK;
}

static spd_status read_pixels(struct spd_sdss_pixels *pixels, const struct reader *reader) {
  struct table table;
  SPD_TRY(open_table(&table, reader, 1));
  long n = table.n_rows, chunk = 0;
  if (n < 2 || n > SPD_SDSS_MAX_PIXELS)
    return fail(reader, SPD_STATUS_FORMAT, "has %ld pixel%s in HDU 1 where a spectrum has 2 to %d", n, n == 1 ? "" : "s",
                SPD_SDSS_MAX_PIXELS);

  int flux, ivar, loglam, and_mask, status = 0;
  SPD_TRY(find_column(&flux, &table, "flux", KIND_REAL, 1));
  SPD_TRY(find_column(&loglam, &table, "loglam", KIND_REAL, 1));
  SPD_TRY(find_column(&ivar, &table, "ivar", KIND_REAL, 1));
  SPD_TRY(find_column(&and_mask, &table, "and_mask", KIND_INTEGER, 1));

  /* all columns of as many rows as CFITSIO's buffers hold, so that each byte comes from the disk once */
  fits_get_rowsize(reader->file, &chunk, &status);
  if (chunk < 1) chunk = 1;
  for (long i = 0; i < n && !status; i += chunk) {
    int any_null; /* CFITSIO writes it wherever it looks for nulls */
    long count = n - i < chunk ? n - i : chunk;
    fits_read_col(reader->file, TFLOAT, flux, i + 1, 1, count, NULL, pixels->flux + i, &any_null, &status);
    fits_read_col(reader->file, TFLOAT, loglam, i + 1, 1, count, NULL, pixels->loglam + i, &any_null, &status);
    fits_read_col(reader->file, TFLOAT, ivar, i + 1, 1, count, NULL, pixels->ivar + i, &any_null, &status);
    fits_read_col(reader->file, TINT, and_mask, i + 1, 1, count, NULL, pixels->and_mask + i, &any_null, &status);
  }
  if (status) return fail_fits(reader, "its pixels", status);
  pixels->n = (size_t)n;
  return SPD_STATUS_OK;
}

static spd_status read_real(double *value, const struct table *table, const char *name, int required) {
  int column, any_null, status = 0;
  *value = NAN;
  SPD_TRY(find_column(&column, table, name, KIND_REAL, required));
  if (column) fits_read_col(table->reader->file, TDOUBLE, column, 1, 1, 1, NULL, value, &any_null, &status);
  return status ? fail_fits(table->reader, name, status) : SPD_STATUS_OK;
}

static spd_status read_integer(int *value, const struct table *table, const char *name) {
  int column, any_null, status = 0;
  *value = SPD_SDSS_UNKNOWN;
  SPD_TRY(find_column(&column, table, name, KIND_INTEGER, 0));
  if (column) fits_read_col(table->reader->file, TINT, column, 1, 1, 1, NULL, value, &any_null, &status);
  return status ? fail_fits(table->reader, name, status) : SPD_STATUS_OK;
}

static spd_status read_text(char *value, const struct table *table, const char *name) {
  int column, any_null, status = 0;
  char *values[1] = {value};
  value[0] = '\0';
  SPD_TRY(find_column(&column, table, name, KIND_TEXT, 0));
  if (column) fits_read_col(table->reader->file, TSTRING, column, 1, 1, 1, NULL, values, &any_null, &status);
  if (status) return fail_fits(table->reader, name, status);
  size_t n = strlen(value);
  while (n && value[n - 1] == ' ') value[--n] = '\0';
  for (size_t i = 0; i < n; i++)
    if (value[i] < ' ' || value[i] > '~') value[i] = '?'; /* FITS texts are ASCII */
  return SPD_STATUS_OK;
}

/* Median S/N over the whole spectrum; old reductions have it as SN_MEDIAN, where newer ones have five bands. */
static spd_status read_sn(double *value, const struct table *table) {
  SPD_TRY(read_real(value, table, "SN_MEDIAN_ALL", 0));
  if (isnan(*value) && read_real(value, table, "SN_MEDIAN", 0) != SPD_STATUS_OK) *value = NAN;
  return SPD_STATUS_OK;
}

static spd_status read_object(struct spd_sdss_object *object, const struct reader *reader) {
  struct table table;
  SPD_TRY(open_table(&table, reader, 2));
  if (table.n_rows != 1) return fail(reader, SPD_STATUS_FORMAT, "has %ld rows in HDU 2 where one object has one", table.n_rows);
  SPD_TRY(read_real(&object->z, &table, "Z", 1));
  if (!isfinite(object->z) || object->z <= -1)
    return fail(reader, SPD_STATUS_FORMAT, "has no redshift: Z in HDU 2 is not finite and above -1");
  SPD_TRY(read_real(&object->z_err, &table, "Z_ERR", 0));
  SPD_TRY(read_sn(&object->sn_median, &table));
  SPD_TRY(read_integer(&object->zwarning, &table, "ZWARNING"));
  SPD_TRY(read_integer(&object->plate, &table, "PLATE"));
  SPD_TRY(read_integer(&object->mjd, &table, "MJD"));
  SPD_TRY(read_integer(&object->fiber, &table, "FIBERID"));
  SPD_TRY(read_text(object->class_name, &table, "CLASS"));
  SPD_TRY(read_text(object->subclass, &table, "SUBCLASS"));
  SPD_TRY(read_text(object->plate_quality, &table, "PLATEQUALITY"));
  SPD_TRY(read_text(object->instrument, &table, "INSTRUMENT"));
  return SPD_STATUS_OK;
}

/* BOSS files have no INSTRUMENT column; the versions of their reduction begin with "v", those of SDSS are bare numbers. */
static void complete_instrument(struct spd_sdss_object *object, const struct reader *reader) {
  if (object->instrument[0] != '\0') return;
  char run2d[FLEN_VALUE] = "";
  int status = 0;
  fits_movabs_hdu(reader->file, 1, NULL, &status);
  fits_read_key(reader->file, TSTRING, "RUN2D", run2d, NULL, &status);
  if (status) fits_clear_errmsg();
  if (run2d[0] == 'v') strcpy(object->instrument, "BOSS");
}

static spd_status read_tables(struct spd_sdss_pixels *pixels, struct spd_sdss_object *object, const struct reader *reader) {
  SPD_TRY(read_pixels(pixels, reader));
  SPD_TRY(read_object(object, reader));
  complete_instrument(object, reader);
  return SPD_STATUS_OK;
}

spd_status spd_sdss_read(struct spd_sdss_pixels *pixels, struct spd_sdss_object *object, const char *path,
                         struct spd_error *error) {
  struct reader reader = {NULL, spd_sdss_file_name(path), error};
  int status = 0;
  SPD_TRY(check_file(&reader, path));
  fits_open_diskfile(&reader.file, path, READONLY, &status);
  if (status) return fail_fits(&reader, "its first header", status);
  spd_status result = read_tables(pixels, object, &reader);
  status = 0;
  fits_close_file(reader.file, &status);
  return result;
}

#endif
