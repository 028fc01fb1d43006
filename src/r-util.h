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

/* Element of a named list, R_NilValue when absent. */
SEXP r_list_get(SEXP list, const char *name);
double r_list_real(SEXP list, const char *name);
int r_list_flag(SEXP list, const char *name);

/* A named list of n elements; names are set, elements are R_NilValue. Returned unprotected. */
SEXP r_list_new(int n, const char *const *names);

#endif
