/* .Call entry of digests. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "core/digest.h"
#include "r-entries.h"
#include "r-spectra.h"

static uint64_t digest_of(SEXP x, int threads) {
  const size_t n = (size_t)Rf_xlength(x);
  uint64_t digest = spd_digest_join((uint64_t)TYPEOF(x), n);
  switch (TYPEOF(x)) {
    case NILSXP:
      return digest;
    case RAWSXP:
      return spd_digest_join(digest, spd_digest(RAW_RO(x), n, threads));
    case LGLSXP:
      return spd_digest_join(digest, spd_digest(LOGICAL_RO(x), n * sizeof(int), threads));
    case INTSXP:
      return spd_digest_join(digest, spd_digest(INTEGER_RO(x), n * sizeof(int), threads));
    case REALSXP:
      return spd_digest_join(digest, spd_digest(REAL_RO(x), n * sizeof(double), threads));
    case STRSXP:
      for (size_t i = 0; i < n; i++) {
        const SEXP text = STRING_ELT(x, (R_xlen_t)i);
        digest = spd_digest_join(digest, text == NA_STRING ? 0 : spd_digest(CHAR(text), (size_t)LENGTH(text), 1));
      }
      return digest;
    case VECSXP:
      for (size_t i = 0; i < n; i++) digest = spd_digest_join(digest, digest_of(VECTOR_ELT(x, (R_xlen_t)i), threads));
      return digest;
    default:
      Rf_error("internal: only plain vectors and lists of them have a digest");
  }
}

/* Of a vector, or of a list of them, their types and lengths included: 16 hexadecimal digits. */
SEXP ffi_digest(SEXP x, SEXP threads) {
  char text[17];
  snprintf(text, sizeof text, "%016llx", (unsigned long long)digest_of(x, r_team_size(threads, SIZE_MAX / 2)));
  return Rf_mkString(text);
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
