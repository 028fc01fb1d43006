#include "data/cfitsio.h"

#ifdef SPD_HAVE_CFITSIO

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#ifdef SPD_HAVE_ZLIB
#include <zlib.h>
#endif

#include "data/fits.h"

#define LARGEST ((size_t)1 << 36) /* bytes of a gzipped file, unpacked */

spd_status spd_cfitsio_check_headers(const void *context, FILE *file, long long bytes) {
  const struct spd_cfitsio_headers *h = context;
  if (spd_fits_headers_are_sound(h->names, file, bytes, h->last)) return SPD_STATUS_OK;
  return spd_fail(h->error, SPD_STATUS_FORMAT, "%.200s is cut or damaged: its headers are not those of a FITS file", h->name);
}

/* ---- opening ---- */

/* The bytes of a gzipped file; NULL where that fails, or there are more than `most`, or this build has no zlib. */
static unsigned char *gunzip(size_t *size, const char *path, size_t most) {
  *size = 0;
#ifdef SPD_HAVE_ZLIB
  const size_t at_once = (size_t)1 << 28; /* zlib counts in an int */
  gzFile file = gzopen(path, "rb");
  if (!file) return NULL;
  size_t room = (size_t)1 << 20;
  unsigned char *bytes = malloc(room);
  int got = bytes ? 1 : -1;
  while (got > 0) {
    if (*size == room) {
      unsigned char *larger = room <= most ? realloc(bytes, 2 * room) : NULL;
      if (!larger) break;
      bytes = larger;
      room *= 2;
    }
    got = gzread(file, bytes + *size, (unsigned)(room - *size < at_once ? room - *size : at_once));
    if (got > 0) *size += (size_t)got;
  }
  const int sound = gzclose(file) == Z_OK; /* not where it is cut, or its checksum does not fit */
  if (got == 0 && sound && *size <= most) return bytes;
  free(bytes);
#else
  (void)path, (void)most;
#endif
  return NULL;
}

/* Refuses what CFITSIO must not see: pipes, on which fopen() would block, and other formats, at which CFITSIO would guess. */
static spd_status look(struct spd_cfitsio_file *f, const char *path, const char *name, size_t most, spd_cfitsio_check *check,
                       const void *context, struct spd_error *error) {
  struct stat info;
  char magic[9] = "";
#define FAIL(status, ...) return spd_fail(error, status, "%.200s " __VA_ARGS__)
  if (stat(path, &info) != 0) FAIL(SPD_STATUS_IO, "cannot be opened: %s", name, strerror(errno));
  if (S_ISDIR(info.st_mode)) FAIL(SPD_STATUS_IO, "is a folder, not a file", name);
  if (!S_ISREG(info.st_mode)) FAIL(SPD_STATUS_IO, "is not a regular file", name);
  if (info.st_size == 0) FAIL(SPD_STATUS_FORMAT, "is empty", name);
  if (strlen(path) >= FLEN_FILENAME)
    FAIL(SPD_STATUS_IO, "cannot be opened: its path is longer than CFITSIO's %d bytes", name, FLEN_FILENAME - 1);
  FILE *file = fopen(path, "rb");
  if (!file) FAIL(SPD_STATUS_IO, "cannot be opened: %s", name, strerror(errno));
  size_t n = fread(magic, 1, sizeof magic, file);
  f->bytes = (long long)info.st_size;
  if (n >= 2 && memcmp(magic, "\x1f\x8b", 2) == 0) {
    fclose(file);
    f->unpacked = gunzip(&f->size, path, most);
    if (!f->unpacked || f->size == 0)
      FAIL(SPD_STATUS_FORMAT, "is gzipped and cannot be unpacked: it is cut or damaged, too large, or this build has no zlib", name);
    f->bytes = (long long)f->size;
    file = fmemopen(f->unpacked, f->size, "rb");
    if (!file) FAIL(SPD_STATUS_NO_MEMORY, "cannot be unpacked: %s", name, strerror(errno));
    n = fread(magic, 1, sizeof magic, file);
  }
  spd_status status = n == sizeof magic && memcmp(magic, "SIMPLE  =", sizeof magic) == 0
                          ? SPD_STATUS_OK
                          : spd_fail(error, SPD_STATUS_FORMAT, "%.200s is not a FITS file", name);
#undef FAIL
  rewind(file);
  if (status == SPD_STATUS_OK) status = check(context, file, f->bytes);
  fclose(file);
  return status;
}

static spd_status open_checked(struct spd_cfitsio_file *f, const char *path, const char *name, struct spd_error *error) {
  int status = 0;
  if (f->unpacked)
    fits_open_memfile(&f->file, name, READONLY, (void **)&f->unpacked, &f->size, 0, NULL, &status);
  else
    fits_open_diskfile(&f->file, path, READONLY, &status);
  return status ? spd_fail(error, SPD_STATUS_FORMAT, "%.200s cannot be opened as a FITS file", name) : SPD_STATUS_OK;
}

spd_status spd_cfitsio_open(struct spd_cfitsio_file *f, const char *path, const char *name, size_t most, spd_cfitsio_check *check,
                            const void *context, struct spd_error *error) {
  memset(f, 0, sizeof *f);
  spd_status result = look(f, path, name, most, check, context, error);
  if (result == SPD_STATUS_OK) result = open_checked(f, path, name, error);
  if (result != SPD_STATUS_OK) spd_cfitsio_close(f);
  return result;
}

spd_status spd_cfitsio_open_hdu(struct spd_cfitsio_file *file, const char *path, const char *name, int hdu, struct spd_error *error) {
  const struct spd_cfitsio_headers headers = {name, hdu - 1, NULL, error};
  return spd_cfitsio_open(file, path, name, LARGEST, spd_cfitsio_check_headers, &headers, error);
}

spd_status spd_cfitsio_open_named(struct spd_cfitsio_file *file, struct spd_fits_names *names, const char *path, const char *name,
                                  struct spd_error *error) {
  const struct spd_cfitsio_headers headers = {name, INT_MAX, names, error};
  return spd_cfitsio_open(file, path, name, LARGEST, spd_cfitsio_check_headers, &headers, error);
}

spd_status spd_cfitsio_reopen(struct spd_cfitsio_file *f, const struct spd_cfitsio_file *open, const char *path, const char *name,
                              struct spd_error *error) {
  *f = (struct spd_cfitsio_file){.unpacked = open->unpacked, .size = open->size, .is_borrowed = 1, .bytes = open->bytes};
  const spd_status result = open_checked(f, path, name, error);
  if (result != SPD_STATUS_OK) spd_cfitsio_close(f);
  return result;
}

void spd_cfitsio_close(struct spd_cfitsio_file *f) {
  int status = 0;
  if (f->file) fits_close_file(f->file, &status);
  fits_clear_errmsg();
  if (!f->is_borrowed) free(f->unpacked);
  memset(f, 0, sizeof *f);
}

/* ---- columns ---- */

int spd_cfitsio_names(struct spd_cfitsio_table *table, fitsfile *file) {
  int status = 0, n_named = 0;
  char *names[SPD_FITS_COLUMNS];
  table->file = file;
  fits_get_num_cols(file, &table->n_columns, &status);
  if (!status && table->n_columns > SPD_FITS_COLUMNS) status = BAD_TFIELDS;
  if (status) return status;
  for (int i = 0; i < table->n_columns; i++) {
    names[i] = table->names[i];
    names[i][0] = '\0';
  }
  fits_read_keys_str(file, "TTYPE", 1, table->n_columns, names, &n_named, &status);
  return status;
}

static int same_name(const char *a, const char *b) {
  for (; *a && *b; a++, b++)
    if (toupper((unsigned char)*a) != toupper((unsigned char)*b)) return 0;
  return *a == *b;
}

int spd_cfitsio_find(struct spd_cfitsio_column *column, const struct spd_cfitsio_table *table, const char *name) {
  int status = 0, exact = 0, alike = 0;
  memset(column, 0, sizeof *column);
  for (int i = table->n_columns; i >= 1; i--) {
    if (strcmp(table->names[i - 1], name) == 0) exact = i;
    if (same_name(table->names[i - 1], name)) alike = i;
  }
  column->number = exact ? exact : alike;
  if (column->number) fits_get_eqcoltype(table->file, column->number, &column->type, &column->repeat, &column->width, &status);
  return status;
}

int spd_cfitsio_is_integer(const struct spd_cfitsio_column *column) {
  switch (column->type) {
    case TBYTE:
    case TSBYTE:
    case TSHORT:
    case TUSHORT:
    case TINT:
    case TUINT:
    case TLONG:
    case TULONG:
    case TLONGLONG:
    case TULONGLONG: return 1;
    default: return 0;
  }
}

int spd_cfitsio_is_number(const struct spd_cfitsio_column *column) {
  return spd_cfitsio_is_integer(column) || column->type == TFLOAT || column->type == TDOUBLE;
}

int spd_cfitsio_is_single(const struct spd_cfitsio_column *column) {
  return column->type == TSTRING ? column->repeat <= column->width || column->repeat == 0 : column->repeat == 1;
}

#else
typedef int spd_cfitsio_no_empty_file; /* ISO C requires a declaration */
#endif
