/* R's numbers as the core has them: doubles and floats, columns (R's matrices) and rows (the core's). */
#ifndef SPD_R_NUMBERS_H
#define SPD_R_NUMBERS_H

#include <stdint.h>

#include "r-util.h"

/* Rows that a thread prepares before it writes them into R's matrices, so that it writes 128 contiguous bytes of each column; and rows
 * between two checks for user interrupts. */
enum { R_BLOCK = 16, R_CHUNK = 1024 };

/* Seeds are whole numbers up to 2^53. */
#define R_MOST_SEED 9007199254740992.0

/* Threads for n rows, no more than there are blocks of them; wanted: a number from R. */
int r_team_size(SEXP wanted, size_t n);

/* Asks the system for large pages for a matrix of doubles that is about to be filled row by row: fewer page faults, and columns that are
 * within reach of the processor's table of pages. */
void r_use_large_pages(SEXP x);

/* Digest of a vector or a list of them; fails in R for anything else. */
uint64_t r_digest(SEXP x, int threads);

/* R_alloc'ed copy of n doubles */
float *r_float_vector(SEXP x, const char *name, size_t n);
/* Rows first ... first + count - 1 of a column-major matrix (n, width), row by row */
void r_columns_to_floats(float *rows, const double *columns, size_t n, size_t width, size_t first, size_t count);
void r_columns_to_rows(double *rows, const double *columns, size_t n, size_t width, size_t first, size_t count);
void r_rows_to_columns(double *columns, const double *rows, size_t n, size_t width, size_t first, size_t count);

#endif
