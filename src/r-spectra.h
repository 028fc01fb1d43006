/* Spectra between R's matrices, whose rows are spectra and whose columns lie one after the other, and the core's rows. */
#ifndef SPD_R_SPECTRA_H
#define SPD_R_SPECTRA_H

#include "data/prepare.h"
#include "r-util.h"

/* Rows that a thread makes before it writes them into R's matrices, 128 contiguous bytes a column; and rows between two looks at
 * Ctrl-C. */
enum { R_BLOCK = 16, R_CHUNK = 1024 };

/* columns: (n, M) of R, rows: (count, M); row 0 is R's row `first`. */
void r_rows_to_columns(double *columns, const double *rows, size_t n, size_t n_observed, size_t first, size_t count);
void r_columns_to_rows(double *rows, const double *columns, size_t n, size_t n_observed, size_t first, size_t count);

/* Threads for n rows, no more than there are blocks; wanted: a number. */
int r_team_size(SEXP wanted, size_t n);

/* recipe: wave, sky (wavelengths of lines, may be empty), half_width, window, normalize, threads; R/spectra.R makes it. Its memory
 * is R's. */
struct spd_preparation r_preparation(SEXP recipe);

#endif
