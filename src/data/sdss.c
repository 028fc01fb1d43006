#include "data/sdss.h"

#ifndef SPD_HAVE_CFITSIO

spd_status spd_sdss_read(struct spd_sdss_pixels *pixels, struct spd_sdss_object *object, const char *path, const char *mask,
                         struct spd_error *error) {
  (void)pixels;
  (void)object;
  (void)path;
  (void)mask;
  return spd_fail(error, SPD_STATUS_UNSUPPORTED,
                  "this build of spender cannot read FITS files: install CFITSIO (Debian, Ubuntu: apt-get install "
                  "libcfitsio-dev), then reinstall spender");
}

#else

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/files.h"
#include "data/cfitsio.h"

enum { CARD = SPD_FITS_CARD, BLOCK = SPD_FITS_BLOCK, MAX_HEADER_BLOCKS = 1000, LARGEST = 1 << 28 /* bytes of a gzipped file, unpacked */ };

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

/* The cards that a header begins with, in the order that the standard sets. */
struct layout {
  long long bitpix, naxis, row_bytes, n_rows, heap_bytes, groups, n_columns;
};

static int read_layout(struct layout *layout, const char *block, int hdu) {
  static const char table[] = "XTENSION= 'BINTABLE'";
  memset(layout, 0, sizeof *layout);
  if (hdu > 0 && memcmp(block, table, sizeof table - 1) != 0) return 0;
  if (!spd_fits_card_integer(&layout->bitpix, block + CARD, "BITPIX") || !spd_fits_card_integer(&layout->naxis, block + 2 * CARD, "NAXIS"))
    return 0;
  if (hdu == 0) return layout->naxis == 0;
  const long long most = 1LL << 31;
  return layout->bitpix == 8 && layout->naxis == 2 && spd_fits_card_integer(&layout->row_bytes, block + 3 * CARD, "NAXIS1") &&
         spd_fits_card_integer(&layout->n_rows, block + 4 * CARD, "NAXIS2") &&
         spd_fits_card_integer(&layout->heap_bytes, block + 5 * CARD, "PCOUNT") &&
         spd_fits_card_integer(&layout->groups, block + 6 * CARD, "GCOUNT") && layout->groups == 1 &&
         spd_fits_card_integer(&layout->n_columns, block + 7 * CARD, "TFIELDS") && layout->n_columns >= 0 &&
         layout->n_columns <= SPD_FITS_COLUMNS && layout->row_bytes >= 0 && layout->row_bytes < most && layout->n_rows >= 0 &&
         layout->n_rows < most && layout->heap_bytes >= 0 && layout->heap_bytes < most;
}

/* 1 where the header ends in this block, -1 where a card of it is none */
static int ends_header(const char *block) {
  for (int i = 0; i < BLOCK; i += CARD) {
    if (memcmp(block + i, "END     ", 8) == 0) return 1;
    if (!spd_fits_card_is_sound(block + i)) return -1;
  }
  return 0;
}

/* Checks that the headers of HDU 0 to 2 are sound and that the file holds their data. CFITSIO 4.2 continues after an NAXIS2 that it cannot
 * read: it was seen to allocate petabytes of columns, or to fill memory for 24 seconds. */
static spd_status check_layout(const void *context, FILE *file, long long size) {
  const struct reader *reader = context;
  static const char *const contents[] = {"primary header", "COADD", "SPECOBJ or SPALL"};
  char block[BLOCK];
  long long at = 0;
  for (int hdu = 0; hdu <= 2; hdu++) {
    struct layout layout;
    int n_blocks = 0, ends = 0;
    if (hdu > 0 && at >= size)
      return fail(reader, SPD_STATUS_FORMAT, "ends before HDU %d (%s): it is cut, or not an SDSS spectrum", hdu, contents[hdu]);
    do {
      if (fread(block, 1, BLOCK, file) != BLOCK || n_blocks == MAX_HEADER_BLOCKS)
        return fail(reader, SPD_STATUS_FORMAT, "is cut in the header of HDU %d (%s)", hdu, contents[hdu]);
      ends = ends_header(block);
      if (ends >= 0 && (n_blocks++ > 0 || read_layout(&layout, block, hdu))) continue;
      if (hdu == 0) return fail(reader, SPD_STATUS_FORMAT, "has a primary header that is damaged, or not an SDSS spectrum's");
      return fail(reader, SPD_STATUS_FORMAT, "has no sound header of a binary table in HDU %d (%s)", hdu, contents[hdu]);
    } while (!ends);
    long long bytes = layout.row_bytes * layout.n_rows + layout.heap_bytes;
    at += (long long)n_blocks * BLOCK;
    if (bytes > size - at) return fail(reader, SPD_STATUS_FORMAT, "is cut in the data of HDU %d (%s)", hdu, contents[hdu]);
    at += (long long)spd_fits_padded((uint64_t)bytes);
    if (hdu < 2 && at < size && fseek(file, (long)at, SEEK_SET) != 0)
      return fail(reader, SPD_STATUS_IO, "cannot be read: %s", strerror(errno));
  }
  return SPD_STATUS_OK;
}

enum kind { KIND_REAL, KIND_INTEGER, KIND_TEXT };

/* The table that is being read */
struct table {
  const struct reader *reader;
  int hdu; /* as astronomers count, from 0 */
  long n_rows;
  struct spd_cfitsio_table fits;
};

/* column->number is 0 where an optional column is absent. */
static spd_status find_column(struct spd_cfitsio_column *column, const struct table *table, const char *name, enum kind kind,
                              int required) {
  const int status = spd_cfitsio_find(column, &table->fits, name);
  if (status) return fail_fits(table->reader, "its columns", status);
  if (column->number == 0)
    return required ? fail(table->reader, SPD_STATUS_FORMAT, "has no column '%s' in HDU %d", name, table->hdu) : SPD_STATUS_OK;
  const int fits = kind == KIND_REAL      ? spd_cfitsio_is_number(column)
                   : kind == KIND_INTEGER ? spd_cfitsio_is_integer(column)
                                          : column->type == TSTRING && column->width < SPD_SDSS_TEXT;
  if (!fits || !spd_cfitsio_is_single(column)) {
    static const char *const kinds[] = {"one number", "one integer", "a short text"};
    return fail(table->reader, SPD_STATUS_FORMAT, "has a column '%s' in HDU %d that is not %s a row", name, table->hdu, kinds[kind]);
  }
  return SPD_STATUS_OK;
}

static spd_status open_table(struct table *table, const struct reader *reader, int hdu) {
  int status = 0, type = 0;
  table->reader = reader;
  table->hdu = hdu;
  fits_movabs_hdu(reader->file, hdu + 1, &type, &status);
  if (!status && type != BINARY_TBL) status = NOT_BTABLE;
  fits_get_num_rows(reader->file, &table->n_rows, &status);
  if (!status) status = spd_cfitsio_names(&table->fits, reader->file);
  return status ? fail_fits(reader, "its tables", status) : SPD_STATUS_OK;
}

/* Rows of a mask, as 0 or 1: any bit of any integer type sets it, also the sign bit or bits beyond 32; missing values set it. */
static void read_mask(int32_t *mask, const struct reader *reader, const struct spd_cfitsio_column *column, long first, long count,
                      int *status) {
  enum { PART = 2048 };
  ULONGLONG values[PART];
  char nulls[PART];
  int any_null;
  for (long i = 0; i < count && !*status; i += PART) {
    const long here = count - i < PART ? count - i : PART;
    fits_read_colnull(reader->file, column->type == TULONGLONG ? TULONGLONG : TLONGLONG, column->number, first + i + 1, 1, here, values,
                      nulls, &any_null, status);
    for (long k = 0; k < here && !*status; k++) mask[first + i + k] = values[k] != 0 || nulls[k];
  }
}

/* Missing values: TNULL for scaled integers, NaN for reals */
static void read_reals(float *to, const struct reader *reader, const struct spd_cfitsio_column *column, long first, long count,
                       int *status) {
  int any_null; /* CFITSIO writes it wherever it looks for nulls */
  float null = NAN;
  fits_read_col(reader->file, TFLOAT, column->number, first + 1, 1, count, &null, to, &any_null, status);
}

static spd_status read_pixels(struct spd_sdss_pixels *pixels, const char *mask_name, const struct reader *reader) {
  struct table table;
  SPD_TRY(open_table(&table, reader, 1));
  long n = table.n_rows, chunk = 0;
  if (n < 2 || n > SPD_SDSS_MAX_PIXELS)
    return fail(reader, SPD_STATUS_FORMAT, "has %ld pixel%s in HDU 1 where a spectrum has 2 to %d", n, n == 1 ? "" : "s",
                SPD_SDSS_MAX_PIXELS);

  struct spd_cfitsio_column flux, ivar, loglam, mask;
  int status = 0;
  SPD_TRY(find_column(&flux, &table, "flux", KIND_REAL, 1));
  SPD_TRY(find_column(&loglam, &table, "loglam", KIND_REAL, 1));
  SPD_TRY(find_column(&ivar, &table, "ivar", KIND_REAL, 1));
  SPD_TRY(find_column(&mask, &table, mask_name, KIND_INTEGER, 1));

  /* all columns for as many rows as CFITSIO's buffers hold, so that each byte is read from disk once */
  fits_get_rowsize(reader->file, &chunk, &status);
  if (chunk < 1) chunk = 1;
  for (long i = 0; i < n && !status; i += chunk) {
    long count = n - i < chunk ? n - i : chunk;
    read_reals(pixels->flux + i, reader, &flux, i, count, &status);
    read_reals(pixels->loglam + i, reader, &loglam, i, count, &status);
    read_reals(pixels->ivar + i, reader, &ivar, i, count, &status);
    read_mask(pixels->mask, reader, &mask, i, count, &status);
  }
  if (status) return fail_fits(reader, "its pixels", status);
  pixels->n = (size_t)n;
  return SPD_STATUS_OK;
}

static spd_status read_real(double *value, const struct table *table, const char *name, int required) {
  struct spd_cfitsio_column column;
  int any_null, status = 0;
  double null = NAN;
  *value = NAN;
  SPD_TRY(find_column(&column, table, name, KIND_REAL, required));
  if (column.number) fits_read_col(table->reader->file, TDOUBLE, column.number, 1, 1, 1, &null, value, &any_null, &status);
  return status ? fail_fits(table->reader, name, status) : SPD_STATUS_OK;
}

/* NaN where the file has none */
static spd_status read_whole(double *value, const struct table *table, const char *name) {
  struct spd_cfitsio_column column;
  *value = NAN;
  SPD_TRY(find_column(&column, table, name, KIND_INTEGER, 0));
  return column.number ? read_real(value, table, name, 0) : SPD_STATUS_OK;
}

/* Identifying numbers, such as plates. Negative ones (SDSS-V's -999) and those that exceed an int count as missing. */
static spd_status read_integer(int *value, const struct table *table, const char *name) {
  double whole;
  SPD_TRY(read_whole(&whole, table, name));
  *value = whole >= 0 && whole <= INT_MAX ? (int)whole : SPD_SDSS_UNKNOWN;
  return SPD_STATUS_OK;
}

/* A 64-bit integer as text; empty where the file has none, or a negative one */
static spd_status read_long(char *value, const struct table *table, const char *name) {
  struct spd_cfitsio_column column;
  int any_null, status = 0;
  LONGLONG whole = -1, null = -1;
  value[0] = '\0';
  SPD_TRY(find_column(&column, table, name, KIND_INTEGER, 0));
  if (!column.number) return SPD_STATUS_OK;
  fits_read_col(table->reader->file, TLONGLONG, column.number, 1, 1, 1, &null, &whole, &any_null, &status);
  if (status) return fail_fits(table->reader, name, status);
  if (whole > 0) snprintf(value, SPD_SDSS_TEXT, "%lld", (long long)whole);
  return SPD_STATUS_OK;
}

static spd_status read_text(char *value, const struct table *table, const char *name) {
  struct spd_cfitsio_column column;
  int any_null, status = 0;
  char *values[1] = {value};
  value[0] = '\0';
  SPD_TRY(find_column(&column, table, name, KIND_TEXT, 0));
  if (column.number) fits_read_col(table->reader->file, TSTRING, column.number, 1, 1, 1, NULL, values, &any_null, &status);
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

/* Where the fibre was, or else the object */
static spd_status read_position(struct spd_sdss_object *object, const struct table *table) {
  SPD_TRY(read_real(&object->ra, table, "PLUG_RA", 0));
  SPD_TRY(read_real(&object->dec, table, "PLUG_DEC", 0));
  if (isnan(object->ra)) SPD_TRY(read_real(&object->ra, table, "RA", 0));
  return isnan(object->dec) ? read_real(&object->dec, table, "DEC", 0) : SPD_STATUS_OK;
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
  SPD_TRY(read_position(object, &table));
  SPD_TRY(read_whole(&object->zwarning, &table, "ZWARNING"));
  SPD_TRY(read_integer(&object->plate, &table, "PLATE"));
  SPD_TRY(read_integer(&object->mjd, &table, "MJD"));
  SPD_TRY(read_integer(&object->fiber, &table, "FIBERID"));
  SPD_TRY(read_text(object->class_name, &table, "CLASS"));
  SPD_TRY(read_text(object->subclass, &table, "SUBCLASS"));
  SPD_TRY(read_text(object->plate_quality, &table, "PLATEQUALITY"));
  if (object->plate_quality[0] == '\0') SPD_TRY(read_text(object->plate_quality, &table, "FIELDQUALITY"));
  SPD_TRY(read_integer(&object->field, &table, "FIELD"));
  SPD_TRY(read_long(object->catalogid, &table, "CATALOGID"));
  SPD_TRY(read_long(object->sdss_id, &table, "SDSS_ID"));
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

static spd_status read_tables(struct spd_sdss_pixels *pixels, struct spd_sdss_object *object, const char *mask,
                              const struct reader *reader) {
  SPD_TRY(read_pixels(pixels, mask, reader));
  SPD_TRY(read_object(object, reader));
  complete_instrument(object, reader);
  return SPD_STATUS_OK;
}

spd_status spd_sdss_read(struct spd_sdss_pixels *pixels, struct spd_sdss_object *object, const char *path, const char *mask,
                         struct spd_error *error) {
  struct reader reader = {NULL, spd_file_name(path), error};
  struct spd_cfitsio_file opened;
  SPD_TRY(spd_cfitsio_open(&opened, path, reader.name, LARGEST, check_layout, &reader, error));
  reader.file = opened.file;
  const spd_status result = read_tables(pixels, object, mask, &reader);
  spd_cfitsio_close(&opened);
  return result;
}

#endif
