/* Spectra as R holds them: column-major matrices of doubles, of which rows are taken as floats. */
#ifndef SPD_DATA_COLUMNS_H
#define SPD_DATA_COLUMNS_H

#include <stddef.h>
#include <stdint.h>

struct spd_columns {
  const double *flux, *ivar; /* (n_rows, M), column-major */
  size_t n_rows;
  const double *resolution; /* (n_rows, spd_band_width()), column-major; NULL without */
};

/* to (n, width), row-major: rows[0 ... n - 1] of the column-major matrix `columns` (n_rows, width), rounded to floats */
void spd_columns_take(float *to, const double *columns, size_t n_rows, const uint64_t *rows, size_t n, size_t width, int threads);

#endif
