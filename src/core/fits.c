#include "core/fits.h"

#ifdef SPD_HAVE_CFITSIO

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#ifdef SPD_HAVE_ZLIB
#include <zlib.h>
#endif

int spd_fits_names(struct spd_fits_table *table, fitsfile *file) {
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

int spd_fits_find(struct spd_fits_column *column, const struct spd_fits_table *table, const char *name) {
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

int spd_fits_is_integer(const struct spd_fits_column *column) {
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
    case TULONGLONG:
      return 1;
    default:
      return 0;
  }
}

int spd_fits_is_number(const struct spd_fits_column *column) {
  return spd_fits_is_integer(column) || column->type == TFLOAT || column->type == TDOUBLE;
}

int spd_fits_is_single(const struct spd_fits_column *column) {
  return column->type == TSTRING ? column->width > 0 && column->repeat <= column->width : column->repeat == 1;
}

unsigned char *spd_fits_gunzip(size_t *size, const char *path, size_t most) {
  *size = 0;
#ifdef SPD_HAVE_ZLIB
  gzFile file = gzopen(path, "rb");
  if (!file) return NULL;
  size_t room = (size_t)1 << 20;
  unsigned char *bytes = malloc(room);
  for (;;) {
    const int got = bytes ? gzread(file, bytes + *size, (unsigned)(room - *size)) : -1;
    if (got > 0) *size += (size_t)got;
    if (got < 0 || *size > most) {
      free(bytes);
      bytes = NULL;
      break;
    }
    if (*size < room) break; /* the end */
    room *= 2;
    unsigned char *larger = realloc(bytes, room);
    if (!larger) free(bytes);
    bytes = larger;
  }
  if (gzclose(file) != Z_OK) { /* cut, or its checksum does not fit */
    free(bytes);
    bytes = NULL;
  }
  return bytes;
#else
  (void)path, (void)most;
  return NULL;
#endif
}

#else
typedef int spd_fits_no_empty_file; /* ISO C wants one declaration */
#endif
