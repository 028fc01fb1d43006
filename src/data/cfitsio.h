/* FITS files and the columns of their tables through CFITSIO. Empty in builds without it. */
#ifndef SPD_DATA_CFITSIO_H
#define SPD_DATA_CFITSIO_H

#ifdef SPD_HAVE_CFITSIO

#include <fitsio.h>
#include <stdio.h>

#include "core/status.h"
#include "data/fits.h"

/* An open file: on disk, or in memory if it is gzipped. */
struct spd_cfitsio_file {
  fitsfile *file;
  unsigned char *unpacked;
  size_t size;     /* of `unpacked` */
  int is_borrowed; /* `unpacked` belongs to another file */
  long long bytes; /* of the file, unpacked */
};

/* Checks a file from its beginning before CFITSIO opens it (CFITSIO 4.2 and earlier copies some values without checking their length). The
 * error message begins with the file's name. */
typedef spd_status spd_cfitsio_check(const void *context, FILE *file, long long bytes);
/* The usual one: the headers of HDU 0 to `last`, whose names are noted if they are wanted. */
struct spd_cfitsio_headers {
  const char *name;
  int last;
  struct spd_fits_names *names; /* or NULL */
  struct spd_error *error;
};
spd_cfitsio_check spd_cfitsio_check_headers; /* context: struct spd_cfitsio_headers */

/* Opens a file, gzipped or not (then of up to `most` bytes, unpacked), that passes `check`. */
spd_status spd_cfitsio_open(struct spd_cfitsio_file *file, const char *path, const char *name, size_t most, spd_cfitsio_check *check,
                            const void *context, struct spd_error *error);
/* The same with the usual check, for a table or image in HDU `hdu` (1: the primary HDU); for any HDU, with the names of all */
spd_status spd_cfitsio_open_hdu(struct spd_cfitsio_file *file, const char *path, const char *name, int hdu, struct spd_error *error);
spd_status spd_cfitsio_open_named(struct spd_cfitsio_file *file, struct spd_fits_names *names, const char *path, const char *name,
                                  struct spd_error *error);
/* Opens a file that is open once more, for another thread, without a check. What was unpacked is shared: close `open` last. */
spd_status spd_cfitsio_reopen(struct spd_cfitsio_file *file, const struct spd_cfitsio_file *open, const char *path, const char *name,
                              struct spd_error *error);
void spd_cfitsio_close(struct spd_cfitsio_file *file);

struct spd_cfitsio_table {
  fitsfile *file;
  int n_columns;
  char names[SPD_FITS_COLUMNS][FLEN_VALUE];
};

/* type: CFITSIO's, after TSCAL and TZERO (unsigned integers are such); repeat: values in a row; width: of a text */
struct spd_cfitsio_column {
  int number, type; /* number 0: there is none */
  long repeat, width;
};

/* Reads the column names of the current HDU, once: fits_get_colnum() compares all of them, with wildcards, at each call. Returns CFITSIO's
 * status. */
int spd_cfitsio_names(struct spd_cfitsio_table *table, fitsfile *file);
/* A column by its name, or else by its name in another case; of several, the first. */
int spd_cfitsio_find(struct spd_cfitsio_column *column, const struct spd_cfitsio_table *table, const char *name);

int spd_cfitsio_is_integer(const struct spd_cfitsio_column *column); /* of up to 64 bits */
int spd_cfitsio_is_number(const struct spd_cfitsio_column *column);  /* integer or real */
/* One value in a row, a text being one */
int spd_cfitsio_is_single(const struct spd_cfitsio_column *column);

#endif
#endif
