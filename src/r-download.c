#include "core/sha256.h"
#include "r-entries.h"
#include "r-util.h"

/* SHA-256 of a file: one text of 64 hexadecimal digits */
SEXP ffi_sha256(SEXP path) {
  char digits[65];
  struct spd_error error;
  const spd_status status = spd_sha256_file(digits, R_ExpandFileName(r_text(path, "path")), &error);
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  return Rf_mkString(digits);
}
