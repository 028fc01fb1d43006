#include "core/catalogue.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/sdss.h"

#ifndef SPD_HAVE_CFITSIO

spd_status spd_catalogue_open(struct spd_catalogue **catalogue, const char *path, int hdu, struct spd_error *error) {
  (void)path;
  (void)hdu;
  *catalogue = NULL;
  return spd_fail(error, SPD_STATUS_UNSUPPORTED,
                  "this build of spender cannot read FITS files: install CFITSIO, then reinstall spender");
}
void spd_catalogue_close(struct spd_catalogue *catalogue) { (void)catalogue; }
uint64_t spd_catalogue_rows(const struct spd_catalogue *catalogue) {
  (void)catalogue;
  return 0;
}
static spd_status none(struct spd_error *error) { return spd_fail(error, SPD_STATUS_UNSUPPORTED, "no catalogue is open"); }
spd_status spd_catalogue_find(int *number, size_t *width, struct spd_catalogue *catalogue, const char *name,
                              struct spd_error *error) {
  (void)number, (void)width, (void)catalogue, (void)name;
  return none(error);
}
spd_status spd_catalogue_numbers(double *values, struct spd_catalogue *catalogue, int number, uint64_t first, size_t n,
                                 struct spd_error *error) {
  (void)values, (void)catalogue, (void)number, (void)first, (void)n;
  return none(error);
}
spd_status spd_catalogue_texts(char *texts, size_t width, struct spd_catalogue *catalogue, int number, uint64_t first, size_t n,
                               struct spd_error *error) {
  (void)texts, (void)width, (void)catalogue, (void)number, (void)first, (void)n;
  return none(error);
}

#else

#include <fitsio.h>

struct spd_catalogue {
  fitsfile *file;
  char name[256];
  uint64_t n_rows;
};

static spd_status fail_fits(const struct spd_catalogue *c, const char *what, int status, struct spd_error *error) {
  char text[FLEN_STATUS] = "";
  fits_get_errstatus(status, text);
  fits_clear_errmsg();
  return spd_fail(error, SPD_STATUS_FORMAT, "%.200s: reading %s failed (CFITSIO: %s)", c->name, what, text);
}

void spd_catalogue_close(struct spd_catalogue *c) {
  int status = 0;
  if (!c) return;
  if (c->file) fits_close_file(c->file, &status);
  free(c);
}

spd_status spd_catalogue_open(struct spd_catalogue **out, const char *path, int hdu, struct spd_error *error) {
  *out = NULL;
  struct spd_catalogue *c = calloc(1, sizeof *c);
  if (!c) return spd_fail(error, SPD_STATUS_NO_MEMORY, "no memory for a catalogue");
  strncpy(c->name, spd_sdss_file_name(path), sizeof c->name - 1);
  int status = 0, type = 0;
  LONGLONG n_rows = 0, start = 0, data = 0, end = 0;
  fits_open_diskfile(&c->file, path, READONLY, &status);
  if (status) {
    spd_status result = spd_fail(error, SPD_STATUS_IO, "%.200s cannot be opened as a FITS file", c->name);
    fits_clear_errmsg();
    free(c);
    return result;
  }
  long row_bytes = 0;
  fits_movabs_hdu(c->file, hdu, &type, &status);
  if (!status && type != BINARY_TBL) status = NOT_BTABLE;
  fits_get_num_rowsll(c->file, &n_rows, &status);
  fits_read_key(c->file, TLONG, "NAXIS1", &row_bytes, NULL, &status);
  fits_get_hduaddrll(c->file, &start, &data, &end, &status);
  struct stat info;
  if (stat(path, &info) == 0 && end > info.st_size) end = info.st_size; /* what the header says is not what there is */
  spd_status result = SPD_STATUS_OK;
  if (status)
    result = fail_fits(c, "its table", status, error);
  else if (n_rows < 0 || row_bytes < 0 || (row_bytes > 0 && n_rows > 0 && (end <= data || n_rows > (end - data) / row_bytes)))
    result = spd_fail(error, SPD_STATUS_FORMAT, "%.200s is cut, or its table damaged", c->name);
  if (result != SPD_STATUS_OK) {
    spd_catalogue_close(c);
    return result;
  }
  c->n_rows = (uint64_t)n_rows;
  *out = c;
  return SPD_STATUS_OK;
}

uint64_t spd_catalogue_rows(const struct spd_catalogue *c) { return c->n_rows; }

spd_status spd_catalogue_find(int *number, size_t *width, struct spd_catalogue *c, const char *name, struct spd_error *error) {
  int status = 0, type = 0;
  long repeat = 0, bytes = 0;
  char pattern[FLEN_VALUE];
  *number = 0;
  *width = 0;
  strncpy(pattern, name, sizeof pattern - 1);
  pattern[sizeof pattern - 1] = '\0';
  fits_get_colnum(c->file, CASEINSEN, pattern, number, &status);
  if (status == COL_NOT_FOUND || status == COL_NOT_UNIQUE) {
    fits_clear_errmsg();
    *number = 0;
    return SPD_STATUS_OK;
  }
  fits_get_coltype(c->file, *number, &type, &repeat, &bytes, &status);
  if (status) return fail_fits(c, name, status, error);
  if (type == TSTRING)
    *width = repeat > 0 ? (size_t)repeat : 1;
  else if (repeat != 1 || type < 0 || type == TCOMPLEX || type == TDBLCOMPLEX)
    *number = 0;
  return SPD_STATUS_OK;
}

spd_status spd_catalogue_numbers(double *values, struct spd_catalogue *c, int number, uint64_t first, size_t n,
                                 struct spd_error *error) {
  int status = 0, any_null; /* CFITSIO writes it wherever it looks for nulls */
  double null = NAN;
  fits_read_col(c->file, TDOUBLE, number, (LONGLONG)first + 1, 1, (LONGLONG)n, &null, values, &any_null, &status);
  return status ? fail_fits(c, "a column", status, error) : SPD_STATUS_OK;
}

spd_status spd_catalogue_texts(char *texts, size_t width, struct spd_catalogue *c, int number, uint64_t first, size_t n,
                               struct spd_error *error) {
  int status = 0, any_null;
  for (size_t i = 0; i < n && !status; i++) { /* one at a time: CFITSIO wants a pointer for each */
    char *text = texts + i * (width + 1), *list[1] = {text};
    text[0] = '\0';
    fits_read_col(c->file, TSTRING, number, (LONGLONG)first + (LONGLONG)i + 1, 1, 1, NULL, list, &any_null, &status);
    for (char *p = text; *p; p++)
      if (*p < ' ' || *p > '~') *p = '?';
    for (size_t k = strlen(text); k > 0 && text[k - 1] == ' ';) text[--k] = '\0';
  }
  return status ? fail_fits(c, "a column", status, error) : SPD_STATUS_OK;
}

#endif
