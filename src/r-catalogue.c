/* .Call entries of catalogues. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "data/catalogue.h"
#include "r-entries.h"
#include "r-util.h"

enum { PART = 10000 }; /* rows between two looks at Ctrl-C */

static void finalize(SEXP pointer) {
  spd_catalogue_close(R_ExternalPtrAddr(pointer));
  R_ClearExternalPtr(pointer);
}

static SEXP new_column(const struct spd_catalogue_column *c, R_xlen_t n) {
  return Rf_allocVector(c->kind == SPD_CATALOGUE_NUMBER ? REALSXP : c->kind == SPD_CATALOGUE_LOGICAL ? LGLSXP : STRSXP, n);
}

static spd_status read_column(SEXP column, struct spd_catalogue *catalogue, const struct spd_catalogue_column *c, struct spd_error *error) {
  const uint64_t n_rows = spd_catalogue_rows(catalogue);
  const void *top = vmaxget();
  char *part = c->kind == SPD_CATALOGUE_NUMBER ? NULL : R_alloc(PART, (int)(c->width + 1));
  spd_status status = SPD_STATUS_OK;
  for (uint64_t first = 0; first < n_rows && status == SPD_STATUS_OK; first += PART) {
    const size_t n = n_rows - first < PART ? (size_t)(n_rows - first) : PART;
    if (c->kind == SPD_CATALOGUE_NUMBER)
      status = spd_catalogue_numbers(REAL(column) + first, catalogue, c, first, n, error);
    else if (c->kind == SPD_CATALOGUE_LOGICAL)
      status = spd_catalogue_logicals((signed char *)part, catalogue, c, first, n, error);
    else
      status = spd_catalogue_texts(part, catalogue, c, first, n, error);
    for (size_t i = 0; c->kind == SPD_CATALOGUE_NUMBER && i < n; i++)
      if (ISNAN(REAL(column)[first + i])) REAL(column)[first + i] = NA_REAL;
    for (size_t i = 0; part && status == SPD_STATUS_OK && i < n; i++) {
      const R_xlen_t row = (R_xlen_t)(first + i);
      const char *text = part + i * (c->width + 1);
      if (c->kind == SPD_CATALOGUE_LOGICAL)
        LOGICAL(column)[row] = part[i] < 0 ? NA_LOGICAL : part[i];
      else
        SET_STRING_ELT(column, row, c->kind == SPD_CATALOGUE_INTEGER64 && !text[0] ? NA_STRING : Rf_mkChar(text));
    }
    R_CheckUserInterrupt();
  }
  vmaxset(top);
  return status;
}

/* The columns of `names` that the table in HDU `hdu` (a number from 1, or a name) has, NULL for the others. 64-bit integers are texts with
 * an attribute `integer64`. */
SEXP ffi_read_catalogue(SEXP path, SEXP hdu, SEXP names) {
  r_check_texts(names, "names", R_ANY);
  const char *file = R_ExpandFileName(r_text(path, "path"));
  const char *hdu_name = TYPEOF(hdu) == STRSXP ? r_text(hdu, "hdu") : NULL;
  const int number = hdu_name ? 0 : (int)r_whole(hdu, "hdu", 1, 100000);
  const R_xlen_t n = Rf_xlength(names);
  struct spd_catalogue *catalogue;
  struct spd_error error = {""};
  SEXP result = PROTECT(Rf_allocVector(VECSXP, n));
  Rf_setAttrib(result, R_NamesSymbol, names);
  SEXP pointer = PROTECT(R_MakeExternalPtr(NULL, R_NilValue, R_NilValue));
  R_RegisterCFinalizer(pointer, finalize);
  spd_status status = spd_catalogue_open(&catalogue, file, hdu_name, number, &error);
  R_SetExternalPtrAddr(pointer, status == SPD_STATUS_OK ? catalogue : NULL);
  for (R_xlen_t k = 0; k < n && status == SPD_STATUS_OK; k++) {
    struct spd_catalogue_column c;
    status = spd_catalogue_find(&c, catalogue, CHAR(STRING_ELT(names, k)), &error);
    if (status != SPD_STATUS_OK || c.number == 0) continue;
    SEXP column = new_column(&c, (R_xlen_t)spd_catalogue_rows(catalogue));
    SET_VECTOR_ELT(result, k, column);
    if (c.kind == SPD_CATALOGUE_INTEGER64) Rf_setAttrib(column, Rf_install("integer64"), Rf_ScalarLogical(TRUE));
    status = read_column(column, catalogue, &c, &error);
  }
  finalize(pointer);
  UNPROTECT(2);
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  return result;
}

/* Numbers of class integer64 (package bit64), which are doubles that hold the bits of 64-bit integers, as text */
SEXP ffi_integer64_text(SEXP x) {
  if (!Rf_isReal(x)) Rf_error("internal: integer64 is a vector of doubles");
  const R_xlen_t n = Rf_xlength(x);
  SEXP out = PROTECT(Rf_allocVector(STRSXP, n));
  for (R_xlen_t i = 0; i < n; i++) {
    int64_t value;
    char text[24];
    memcpy(&value, &REAL_RO(x)[i], sizeof value);
    snprintf(text, sizeof text, "%lld", (long long)value);
    SET_STRING_ELT(out, i, value == INT64_MIN ? NA_STRING : Rf_mkChar(text));
  }
  UNPROTECT(1);
  return out;
}
