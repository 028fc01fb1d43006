/* Conversions of R's numbers, and .Call entries about numbers as such. */
#include "r-numbers.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/digest.h"
#include "core/threads.h"
#include "r-entries.h"

int r_team_size(SEXP wanted, size_t n) { return spd_threads((int)r_whole(wanted, "threads", 1, 4096), n / R_BLOCK + 1); }

/* ---- conversions ---- */

float *r_float_vector(SEXP x, const char *name, size_t n) {
  r_check_numbers(x, name, n);
  const double *from = REAL_RO(x);
  float *to = (float *)R_alloc(n, sizeof *to);
  for (size_t i = 0; i < n; i++) to[i] = (float)from[i];
  return to;
}

/* Each column of R's matrix is in another page, which takes long to find: those of AHEAD columns later are requested meanwhile. */
enum { AHEAD = 16 };

#define PREFETCH(columns, write) \
  for (size_t i = 0; i < count && m + AHEAD < width; i += 8) __builtin_prefetch((columns) + (m + AHEAD) * n + first + i, write)

void r_columns_to_floats(float *rows, const double *columns, size_t n, size_t width, size_t first, size_t count) {
  for (size_t m = 0; m < width; m++) {
    PREFETCH(columns, 0);
    for (size_t i = 0; i < count; i++) rows[i * width + m] = (float)columns[m * n + first + i];
  }
}

void r_columns_to_rows(double *rows, const double *columns, size_t n, size_t width, size_t first, size_t count) {
  for (size_t m = 0; m < width; m++) {
    PREFETCH(columns, 0);
    for (size_t i = 0; i < count; i++) rows[i * width + m] = columns[m * n + first + i];
  }
}

void r_rows_to_columns(double *columns, const double *rows, size_t n, size_t width, size_t first, size_t count) {
  for (size_t m = 0; m < width; m++) {
    PREFETCH(columns, 1);
    for (size_t i = 0; i < count; i++) columns[m * n + first + i] = rows[i * width + m];
  }
}

void r_use_large_pages(SEXP x) {
#ifdef MADV_HUGEPAGE
  const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = (uintptr_t)REAL(x), size = (uintptr_t)Rf_xlength(x) * sizeof(double);
  const uintptr_t from = (begin + page - 1) / page * page, end = (begin + size) / page * page;
  if (end > from) (void)madvise((void *)from, end - from, MADV_HUGEPAGE);
#else
  (void)x;
#endif
}

/* ---- entries ---- */

/* The doubles rounded to single precision */
SEXP ffi_float32(SEXP x) {
  r_check_numbers(x, "x", R_ANY);
  SEXP out = PROTECT(Rf_allocVector(REALSXP, Rf_xlength(x)));
  for (R_xlen_t i = 0; i < Rf_xlength(x); i++) REAL(out)[i] = (double)(float)REAL_RO(x)[i];
  UNPROTECT(1);
  return out;
}

/* Are all floats in a raw vector finite? */
SEXP ffi_all_finite(SEXP bytes) {
  if (TYPEOF(bytes) != RAWSXP) Rf_error("internal: 'bytes' must be raw");
  const float *values = (const float *)(const void *)RAW(bytes);
  const R_xlen_t n = Rf_xlength(bytes) / (R_xlen_t)sizeof *values;
  int finite = 1;
  for (R_xlen_t i = 0; i < n; i++) finite &= isfinite(values[i]) != 0;
  return Rf_ScalarLogical(finite);
}

uint64_t r_digest(SEXP x, int threads) {
  const size_t n = (size_t)Rf_xlength(x);
  uint64_t digest = spd_digest_join((uint64_t)TYPEOF(x), n);
  switch (TYPEOF(x)) {
    case NILSXP: return digest;
    case RAWSXP: return spd_digest_join(digest, spd_digest(RAW_RO(x), n, threads));
    case LGLSXP: return spd_digest_join(digest, spd_digest(LOGICAL_RO(x), n * sizeof(int), threads));
    case INTSXP: return spd_digest_join(digest, spd_digest(INTEGER_RO(x), n * sizeof(int), threads));
    case REALSXP: return spd_digest_join(digest, spd_digest(REAL_RO(x), n * sizeof(double), threads));
    case STRSXP:
      for (size_t i = 0; i < n; i++) {
        const SEXP text = STRING_ELT(x, (R_xlen_t)i);
        digest = spd_digest_join(digest, text == NA_STRING ? 0 : spd_digest(CHAR(text), (size_t)LENGTH(text), 1));
      }
      return digest;
    case VECSXP:
      for (size_t i = 0; i < n; i++)
        R_CheckUserInterrupt(), digest = spd_digest_join(digest, r_digest(VECTOR_ELT(x, (R_xlen_t)i), threads));
      return digest;
    default: Rf_error("internal: only plain vectors and lists of them have a digest");
  }
}

/* Of a vector, or of a list of them, their types and lengths included: 16 hexadecimal digits. */
SEXP ffi_digest(SEXP x, SEXP threads) {
  char text[17];
  snprintf(text, sizeof text, "%016llx", (unsigned long long)r_digest(x, r_team_size(threads, SIZE_MAX / 2)));
  return Rf_mkString(text);
}
