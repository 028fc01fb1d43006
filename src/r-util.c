#include "r-util.h"

#include <R_ext/GraphicsEngine.h> /* which declares R_interrupts_pending */
#include <math.h>
#include <string.h>

void r_raise(spd_status status, const struct spd_error *error) {
  SEXP namespace = PROTECT(R_FindNamespace(PROTECT(Rf_mkString("spender"))));
  SEXP call = PROTECT(
      Rf_lang3(Rf_install("raise_core_error"), PROTECT(Rf_mkString(spd_status_name(status))), PROTECT(Rf_mkString(error->message))));
  Rf_eval(call, namespace);
  UNPROTECT(5);
  Rf_error("%s", error->message); /* not reached: raise_core_error() stops */
}

int r_interrupted(void) { return R_interrupts_pending && !R_interrupts_suspended; }

/* ---- checks ---- */

void r_check_list(SEXP x, const char *name) {
  const SEXP names = TYPEOF(x) == VECSXP ? Rf_getAttrib(x, R_NamesSymbol) : R_NilValue;
  if (TYPEOF(x) != VECSXP || (Rf_xlength(x) > 0 && (TYPEOF(names) != STRSXP || Rf_xlength(names) != Rf_xlength(x))))
    Rf_error("internal: '%s' must be a named list", name);
}

void r_check_numbers(SEXP x, const char *name, size_t n) {
  if (TYPEOF(x) != REALSXP) Rf_error("internal: '%s' must be a vector of doubles", name);
  if (n != R_ANY && (size_t)Rf_xlength(x) != n)
    Rf_error("internal: '%s' must be a vector of %zu doubles, not %zu", name, n, (size_t)Rf_xlength(x));
}

void r_check_matrix(SEXP x, const char *name, size_t n_rows, size_t n_columns) {
  if (TYPEOF(x) != REALSXP || !Rf_isMatrix(x)) Rf_error("internal: '%s' must be a matrix of doubles, %zu by %zu", name, n_rows, n_columns);
  if ((size_t)Rf_nrows(x) != n_rows || (size_t)Rf_ncols(x) != n_columns)
    Rf_error("internal: '%s' must be %zu by %zu, not %d by %d", name, n_rows, n_columns, Rf_nrows(x), Rf_ncols(x));
}

void r_check_rows(SEXP rows, size_t n, double n_rows) {
  r_check_numbers(rows, "rows", n);
  for (R_xlen_t i = 0; i < Rf_xlength(rows); i++)
    if (!(REAL_RO(rows)[i] >= 1 && REAL_RO(rows)[i] <= n_rows)) Rf_error("internal: there is no row %g of %.0f", REAL_RO(rows)[i], n_rows);
}

void r_check_texts(SEXP x, const char *name, size_t n) {
  if (TYPEOF(x) != STRSXP || (n != R_ANY && (size_t)Rf_xlength(x) != n)) Rf_error("internal: '%s' must be texts", name);
  for (R_xlen_t i = 0; i < Rf_xlength(x); i++)
    if (STRING_ELT(x, i) == NA_STRING) Rf_error("internal: text %lld of '%s' is missing", (long long)i + 1, name);
}

const char *r_text(SEXP x, const char *name) {
  r_check_texts(x, name, 1);
  return Rf_translateChar(STRING_ELT(x, 0));
}

double r_number(SEXP x, const char *name) {
  if ((TYPEOF(x) != REALSXP && TYPEOF(x) != INTSXP && TYPEOF(x) != LGLSXP) || Rf_xlength(x) != 1)
    Rf_error("internal: '%s' must be one number", name);
  return Rf_asReal(x);
}

double r_whole(SEXP x, const char *name, double lowest, double highest) {
  const double value = r_number(x, name);
  if (!(value >= lowest && value <= highest) || value != floor(value))
    Rf_error("internal: '%s' must be a whole number from %.0f to %.0f, not %g", name, lowest, highest, value);
  return value;
}

SEXP r_list_get(SEXP list, const char *name) {
  r_check_list(list, name);
  const SEXP names = Rf_getAttrib(list, R_NamesSymbol);
  for (R_xlen_t i = 0; i < Rf_xlength(list); i++)
    if (strcmp(CHAR(STRING_ELT(names, i)), name) == 0) return VECTOR_ELT(list, i);
  return R_NilValue;
}

double r_list_real(SEXP list, const char *name) { return r_number(r_list_get(list, name), name); }

double r_list_whole(SEXP list, const char *name, double lowest, double highest) {
  return r_whole(r_list_get(list, name), name, lowest, highest);
}

int r_list_flag(SEXP list, const char *name) { return r_list_whole(list, name, 0, 1) != 0; }

const double *r_list_numbers(SEXP list, const char *name, size_t n) {
  const SEXP x = r_list_get(list, name);
  r_check_numbers(x, name, n);
  return REAL_RO(x);
}

SEXP r_list_new(int n, const char *const *names) {
  SEXP list = PROTECT(Rf_allocVector(VECSXP, n)), tags = PROTECT(Rf_allocVector(STRSXP, n));
  for (int i = 0; i < n; i++) SET_STRING_ELT(tags, i, Rf_mkChar(names[i]));
  Rf_setAttrib(list, R_NamesSymbol, tags);
  UNPROTECT(2);
  return list;
}
