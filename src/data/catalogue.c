#include "data/catalogue.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifndef SPD_HAVE_CFITSIO

spd_status spd_catalogue_open(struct spd_catalogue **catalogue, const char *path, const char *name, int hdu, struct spd_error *error) {
  (void)path, (void)name, (void)hdu;
  *catalogue = NULL;
  return spd_fail(error, SPD_STATUS_UNSUPPORTED, "this build of spender cannot read FITS files: install CFITSIO, then reinstall spender");
}
void spd_catalogue_close(struct spd_catalogue *catalogue) { (void)catalogue; }
uint64_t spd_catalogue_rows(const struct spd_catalogue *catalogue) {
  (void)catalogue;
  return 0;
}
static spd_status none(struct spd_error *error) { return spd_fail(error, SPD_STATUS_UNSUPPORTED, "no catalogue is open"); }
spd_status spd_catalogue_find(struct spd_catalogue_column *column, struct spd_catalogue *catalogue, const char *name,
                              struct spd_error *error) {
  (void)column, (void)catalogue, (void)name;
  return none(error);
}
spd_status spd_catalogue_numbers(double *values, struct spd_catalogue *catalogue, const struct spd_catalogue_column *column, uint64_t first,
                                 size_t n, struct spd_error *error) {
  (void)values, (void)catalogue, (void)column, (void)first, (void)n;
  return none(error);
}
spd_status spd_catalogue_logicals(signed char *values, struct spd_catalogue *catalogue, const struct spd_catalogue_column *column,
                                  uint64_t first, size_t n, struct spd_error *error) {
  (void)values, (void)catalogue, (void)column, (void)first, (void)n;
  return none(error);
}
spd_status spd_catalogue_texts(char *texts, struct spd_catalogue *catalogue, const struct spd_catalogue_column *column, uint64_t first,
                               size_t n, struct spd_error *error) {
  (void)texts, (void)catalogue, (void)column, (void)first, (void)n;
  return none(error);
}

#else

#include <stdio.h>

#include "core/files.h"
#include "data/cfitsio.h"

struct spd_catalogue {
  struct spd_cfitsio_file opened;
  fitsfile *file; /* the same */
  struct spd_cfitsio_table table;
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
  if (!c) return;
  spd_cfitsio_close(&c->opened);
  free(c);
}

/* The file, and the number of the HDU with that name */
static spd_status open_named(struct spd_catalogue *c, int *hdu, const char *path, const char *name, struct spd_error *error) {
  struct spd_fits_names *names = malloc(sizeof *names);
  if (!names) return spd_fail(error, SPD_STATUS_NO_MEMORY, "no memory for a catalogue");
  spd_status result = spd_cfitsio_open_named(&c->opened, names, path, c->name, error);
  if (result == SPD_STATUS_OK) {
    *hdu = spd_fits_find_name(names, name) + 1;
    if (*hdu == 0) result = spd_fail(error, SPD_STATUS_FORMAT, "%.200s has no HDU %.60s", c->name, name);
  }
  free(names);
  return result;
}

static spd_status open_table(struct spd_catalogue *c, int hdu, struct spd_error *error) {
  int status = 0, type = 0;
  long row_bytes = 0;
  LONGLONG n_rows = 0, start = 0, data = 0, end = 0;
  c->file = c->opened.file;
  fits_movabs_hdu(c->file, hdu, &type, &status);
  if (!status && type != BINARY_TBL && type != ASCII_TBL) status = NOT_TABLE;
  fits_get_num_rowsll(c->file, &n_rows, &status);
  fits_read_key(c->file, TLONG, "NAXIS1", &row_bytes, NULL, &status);
  fits_get_hduaddrll(c->file, &start, &data, &end, &status);
  if (end > c->opened.bytes) end = c->opened.bytes; /* the header promises more than the file holds */
  if (!status) status = spd_cfitsio_names(&c->table, c->file);
  if (status) return fail_fits(c, "its table", status, error);
  if (n_rows < 0 || row_bytes < 0 || (row_bytes > 0 && n_rows > 0 && (end <= data || n_rows > (end - data) / row_bytes)))
    return spd_fail(error, SPD_STATUS_FORMAT, "%.200s is cut, or its table damaged", c->name);
  c->n_rows = (uint64_t)n_rows;
  return SPD_STATUS_OK;
}

spd_status spd_catalogue_open(struct spd_catalogue **out, const char *path, const char *name, int hdu, struct spd_error *error) {
  *out = NULL;
  struct spd_catalogue *c = calloc(1, sizeof *c);
  if (!c) return spd_fail(error, SPD_STATUS_NO_MEMORY, "no memory for a catalogue");
  strncpy(c->name, spd_file_name(path), sizeof c->name - 1);
  spd_status result = name ? open_named(c, &hdu, path, name, error) : spd_cfitsio_open_hdu(&c->opened, path, c->name, hdu, error);
  if (result == SPD_STATUS_OK) result = open_table(c, hdu, error);
  if (result == SPD_STATUS_OK)
    *out = c;
  else
    spd_catalogue_close(c);
  return result;
}

uint64_t spd_catalogue_rows(const struct spd_catalogue *c) { return c->n_rows; }

spd_status spd_catalogue_find(struct spd_catalogue_column *column, struct spd_catalogue *c, const char *name, struct spd_error *error) {
  struct spd_cfitsio_column found;
  const int status = spd_cfitsio_find(&found, &c->table, name);
  memset(column, 0, sizeof *column);
  if (status) return fail_fits(c, name, status, error);
  if (!found.number) return SPD_STATUS_OK;
  column->number = found.number;
  if (found.type < 0 || !spd_cfitsio_is_single(&found))
    return spd_fail(error, SPD_STATUS_FORMAT, "%.200s has a column '%.60s' that is not one value a row", c->name, name);
  if (found.type == TSTRING)
    column->kind = SPD_CATALOGUE_TEXT, column->width = found.width > 0 ? (size_t)found.width : 1;
  else if (found.type == TLOGICAL || found.type == TBIT)
    column->kind = SPD_CATALOGUE_LOGICAL;
  else if (found.type == TLONGLONG || found.type == TULONGLONG)
    column->kind = SPD_CATALOGUE_INTEGER64, column->width = 20;
  else if (spd_cfitsio_is_number(&found))
    column->kind = SPD_CATALOGUE_NUMBER;
  else
    return spd_fail(error, SPD_STATUS_FORMAT, "%.200s has a column '%.60s' that holds neither numbers nor texts", c->name, name);
  return SPD_STATUS_OK;
}

spd_status spd_catalogue_numbers(double *values, struct spd_catalogue *c, const struct spd_catalogue_column *column, uint64_t first,
                                 size_t n, struct spd_error *error) {
  int status = 0, any_null, type = 0; /* CFITSIO writes any_null wherever it looks for nulls */
  long repeat, width;
  double null = NAN;
  fits_get_coltype(c->file, column->number, &type, &repeat, &width, &status);
  /* among reals CFITSIO takes infinities for nulls; those that are NaN say so themselves */
  fits_read_col(c->file, TDOUBLE, column->number, (LONGLONG)first + 1, 1, (LONGLONG)n, type == TFLOAT || type == TDOUBLE ? NULL : &null,
                values, &any_null, &status);
  return status ? fail_fits(c, "a column", status, error) : SPD_STATUS_OK;
}

spd_status spd_catalogue_logicals(signed char *values, struct spd_catalogue *c, const struct spd_catalogue_column *column, uint64_t first,
                                  size_t n, struct spd_error *error) {
  int status = 0, any_null, type = 0;
  long repeat, width;
  char *nulls = calloc(n + 1, 1);
  if (!nulls) return spd_fail(error, SPD_STATUS_NO_MEMORY, "no memory for a column of a catalogue");
  fits_get_eqcoltype(c->file, column->number, &type, &repeat, &width, &status);
  for (size_t i = 0; type == TBIT && i < n && !status; i++) /* none of which is null */
    fits_read_col_bit(c->file, column->number, (LONGLONG)(first + i) + 1, 1, 1, (char *)values + i, &status);
  if (type != TBIT)
    fits_read_colnull(c->file, TLOGICAL, column->number, (LONGLONG)first + 1, 1, (LONGLONG)n, values, nulls, &any_null, &status);
  for (size_t i = 0; i < n && !status; i++) values[i] = nulls[i] ? -1 : values[i] != 0;
  free(nulls);
  return status ? fail_fits(c, "a column", status, error) : SPD_STATUS_OK;
}

/* The type of the column is read again for each part: it tells whether integers are unsigned. */
static int read_integers(char *texts, struct spd_catalogue *c, const struct spd_catalogue_column *column, uint64_t first, size_t n) {
  int status = 0, any_null, type = 0;
  long repeat, width;
  ULONGLONG *values = calloc(n + 1, sizeof *values);
  char *nulls = calloc(n + 1, 1);
  if (!values || !nulls) status = MEMORY_ALLOCATION;
  fits_get_eqcoltype(c->file, column->number, &type, &repeat, &width, &status);
  if (!status) fits_read_colnull(c->file, type, column->number, (LONGLONG)first + 1, 1, (LONGLONG)n, values, nulls, &any_null, &status);
  for (size_t i = 0; i < n && !status; i++) {
    char *text = texts + i * (column->width + 1);
    if (nulls[i])
      text[0] = '\0';
    else if (type == TULONGLONG)
      snprintf(text, column->width + 1, "%llu", (unsigned long long)values[i]);
    else
      snprintf(text, column->width + 1, "%lld", (long long)values[i]);
  }
  free(values);
  free(nulls);
  return status;
}

spd_status spd_catalogue_texts(char *texts, struct spd_catalogue *c, const struct spd_catalogue_column *column, uint64_t first, size_t n,
                               struct spd_error *error) {
  int status = 0, any_null;
  if (column->kind == SPD_CATALOGUE_INTEGER64) {
    status = read_integers(texts, c, column, first, n);
    return status ? fail_fits(c, "a column", status, error) : SPD_STATUS_OK;
  }
  for (size_t i = 0; i < n && !status; i++) { /* one at a time: CFITSIO takes an array of pointers */
    char *text = texts + i * (column->width + 1), *list[1] = {text};
    text[0] = '\0';
    fits_read_col(c->file, TSTRING, column->number, (LONGLONG)first + (LONGLONG)i + 1, 1, 1, NULL, list, &any_null, &status);
    for (char *p = text; *p; p++)
      if (*p < ' ' || *p > '~') *p = '?';
    for (size_t k = strlen(text); k > 0 && text[k - 1] == ' ';) text[--k] = '\0';
  }
  return status ? fail_fits(c, "a column", status, error) : SPD_STATUS_OK;
}

#endif
