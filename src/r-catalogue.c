/* .Call entry that reads columns of a catalogue. */
#include "core/catalogue.h"
#include "r-entries.h"
#include "r-util.h"

enum { PART = 10000 }; /* rows between two looks at Ctrl-C */

static void finalize(SEXP pointer) {
  spd_catalogue_close(R_ExternalPtrAddr(pointer));
  R_ClearExternalPtr(pointer);
}

static spd_status read_column(SEXP column, struct spd_catalogue *catalogue, int number, size_t width, struct spd_error *error) {
  const uint64_t n_rows = spd_catalogue_rows(catalogue);
  const void *top = vmaxget();
  char *texts = width ? R_alloc(PART, (int)(width + 1)) : NULL;
  spd_status status = SPD_STATUS_OK;
  for (uint64_t first = 0; first < n_rows && status == SPD_STATUS_OK; first += PART) {
    const size_t n = n_rows - first < PART ? (size_t)(n_rows - first) : PART;
    status = width ? spd_catalogue_texts(texts, width, catalogue, number, first, n, error)
                   : spd_catalogue_numbers(REAL(column) + first, catalogue, number, first, n, error);
    for (size_t i = 0; width && status == SPD_STATUS_OK && i < n; i++)
      SET_STRING_ELT(column, (R_xlen_t)(first + i), Rf_mkChar(texts + i * (width + 1)));
    R_CheckUserInterrupt();
  }
  vmaxset(top);
  return status;
}

/* The columns of `names` that the table in HDU `hdu` (from 1) has, NULL for the others. */
SEXP ffi_read_catalogue(SEXP path, SEXP hdu, SEXP names) {
  const R_xlen_t n = Rf_xlength(names);
  struct spd_catalogue *catalogue;
  struct spd_error error = {""};
  SEXP result = PROTECT(Rf_allocVector(VECSXP, n));
  Rf_setAttrib(result, R_NamesSymbol, names);
  SEXP pointer = PROTECT(R_MakeExternalPtr(NULL, R_NilValue, R_NilValue));
  R_RegisterCFinalizer(pointer, finalize);
  spd_status status =
      spd_catalogue_open(&catalogue, R_ExpandFileName(Rf_translateChar(STRING_ELT(path, 0))), Rf_asInteger(hdu), &error);
  R_SetExternalPtrAddr(pointer, status == SPD_STATUS_OK ? catalogue : NULL);
  for (R_xlen_t k = 0; k < n && status == SPD_STATUS_OK; k++) {
    int number;
    size_t width;
    status = spd_catalogue_find(&number, &width, catalogue, CHAR(STRING_ELT(names, k)), &error);
    if (status != SPD_STATUS_OK || number == 0) continue;
    const R_xlen_t n_rows = (R_xlen_t)spd_catalogue_rows(catalogue);
    SEXP column = width ? Rf_allocVector(STRSXP, n_rows) : Rf_allocVector(REALSXP, n_rows);
    SET_VECTOR_ELT(result, k, column);
    status = read_column(column, catalogue, number, width, &error);
  }
  finalize(pointer);
  UNPROTECT(2);
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  return result;
}
