#include "r-util.h"

#include <string.h>

void r_raise(spd_status status, const struct spd_error *error) {
  SEXP namespace = PROTECT(R_FindNamespace(PROTECT(Rf_mkString("spender"))));
  SEXP call = PROTECT(Rf_lang3(Rf_install("raise_core_error"), PROTECT(Rf_mkString(spd_status_name(status))),
                               PROTECT(Rf_mkString(error->message))));
  Rf_eval(call, namespace);
  UNPROTECT(5);
  Rf_error("%s", error->message); /* not reached: raise_core_error() stops */
}

SEXP r_list_get(SEXP list, const char *name) {
  SEXP names = Rf_getAttrib(list, R_NamesSymbol);
  for (R_xlen_t i = 0; i < Rf_xlength(list) && names != R_NilValue; i++)
    if (strcmp(CHAR(STRING_ELT(names, i)), name) == 0) return VECTOR_ELT(list, i);
  return R_NilValue;
}

double r_list_real(SEXP list, const char *name) {
  SEXP value = r_list_get(list, name);
  if (value == R_NilValue) Rf_error("internal: list element '%s' is missing", name);
  return Rf_asReal(value);
}

int r_list_flag(SEXP list, const char *name) { return r_list_real(list, name) != 0; }

SEXP r_list_new(int n, const char *const *names) {
  SEXP list = PROTECT(Rf_allocVector(VECSXP, n)), tags = PROTECT(Rf_allocVector(STRSXP, n));
  for (int i = 0; i < n; i++) SET_STRING_ELT(tags, i, Rf_mkChar(names[i]));
  Rf_setAttrib(list, R_NamesSymbol, tags);
  UNPROTECT(2);
  return list;
}
