/* Tables of FITS files through CFITSIO: columns by name, as what they are once scaled. Only in builds with CFITSIO. */
#ifndef SPD_CORE_FITS_H
#define SPD_CORE_FITS_H

#ifdef SPD_HAVE_CFITSIO

#include <fitsio.h>

enum { SPD_FITS_COLUMNS = 999 /* of any FITS table */ };

struct spd_fits_table {
  fitsfile *file;
  int n_columns;
  char names[SPD_FITS_COLUMNS][FLEN_VALUE];
};

/* type: CFITSIO's, after TSCAL and TZERO (unsigned integers are such); repeat: values in a row; width: of a text */
struct spd_fits_column {
  int number, type; /* number 0: there is none */
  long repeat, width;
};

/* The names of the columns of the HDU that `file` stands on: fits_get_colnum() would compare all of them, with wildcards, for each that
 * is asked for. Returns CFITSIO's status. */
int spd_fits_names(struct spd_fits_table *table, fitsfile *file);
/* A column by its name, or else by its name in another case; of several, the first. */
int spd_fits_find(struct spd_fits_column *column, const struct spd_fits_table *table, const char *name);

int spd_fits_is_integer(const struct spd_fits_column *column); /* of up to 64 bits */
int spd_fits_is_number(const struct spd_fits_column *column);  /* integer or real */
/* One value in a row, a text being one */
int spd_fits_is_single(const struct spd_fits_column *column);

/* The bytes of a gzipped file, unpacked: *size of them, which the caller frees. NULL where that fails, or there are more than `most`, or
 * this build has no zlib. */
unsigned char *spd_fits_gunzip(size_t *size, const char *path, size_t most);

#endif
#endif
