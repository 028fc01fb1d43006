/* Glue helpers. The r-*.c files are the only ones that include R headers. */
#ifndef SPD_R_UTIL_H
#define SPD_R_UTIL_H

#define R_NO_REMAP
#define STRICT_R_HEADERS
#include <R.h>
#include <Rinternals.h>

#include "core/status.h"

/* Raises the R condition spender_error_<status> with the core's sentence. Does not return; call it last, when everything is
 * freed. */
void r_raise(spd_status status, const struct spd_error *error);

/* Whether the user has asked to stop. For loops that hold what an R error would leak: they end, free it, and R_CheckUserInterrupt(). */
int r_interrupted(void);

/* ---- checks of arguments ----
 *
 * Each raises an R error ("internal: ...") unless its argument has the named type and size. Users' mistakes are reported by R/checks.R;
 * these checks are for objects that were edited by hand. An entry checks all arguments before it takes a pointer or holds anything that an
 * error would leak. */

/* A list, with a name for each element */
void r_check_list(SEXP x, const char *name);
/* n doubles; n = R_ANY: however many */
#define R_ANY ((size_t)-1)
void r_check_numbers(SEXP x, const char *name, size_t n);
/* A matrix of doubles */
void r_check_matrix(SEXP x, const char *name, size_t n_rows, size_t n_columns);
/* n numbers of rows, from 1 to n_rows; n = R_ANY: however many */
void r_check_rows(SEXP rows, size_t n, double n_rows);
/* n texts, none of them missing */
void r_check_texts(SEXP x, const char *name, size_t n);
/* One text that is not missing, in the session's encoding */
const char *r_text(SEXP x, const char *name);
/* One number: any; a whole one of a range. Integers and logicals count as numbers. */
double r_number(SEXP x, const char *name);
double r_whole(SEXP x, const char *name, double lowest, double highest);

/* Element of a named list, R_NilValue when absent. */
SEXP r_list_get(SEXP list, const char *name);
double r_list_real(SEXP list, const char *name);
double r_list_whole(SEXP list, const char *name, double lowest, double highest);
int r_list_flag(SEXP list, const char *name); /* TRUE or FALSE */
/* An element that must be n doubles */
const double *r_list_numbers(SEXP list, const char *name, size_t n);

/* A named list of n elements; names are set, elements are R_NilValue. Returned unprotected. */
SEXP r_list_new(int n, const char *const *names);

#endif
