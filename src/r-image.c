/* .Call entry that reads an image of a FITS file. */
#include <stdlib.h>

#include "data/image.h"
#include "r-entries.h"
#include "r-util.h"

static void free_pixels(SEXP pointer) {
  free(R_ExternalPtrAddr(pointer));
  R_ClearExternalPtr(pointer);
}

/* A list: pixels (height, width), first, step, log. An R error after the reading leaves the pixels to the finalizer. */
SEXP ffi_read_image(SEXP path, SEXP hdu) {
  static const char *const names[] = {"pixels", "first", "step", "log"};
  struct spd_image image;
  struct spd_error error = {""};
  const char *file = R_ExpandFileName(r_text(path, "path"));
  const int number = (int)r_whole(hdu, "hdu", 1, 100000);
  SEXP result = PROTECT(r_list_new(4, names));
  SEXP pointer = PROTECT(R_MakeExternalPtr(NULL, R_NilValue, R_NilValue));
  R_RegisterCFinalizer(pointer, free_pixels);

  spd_status status = spd_image_read(&image, file, number, &error);
  if (status == SPD_STATUS_OK) {
    R_SetExternalPtrAddr(pointer, image.pixels);
    SEXP pixels = Rf_allocMatrix(REALSXP, (int)image.height, (int)image.width);
    SET_VECTOR_ELT(result, 0, pixels);
    for (size_t i = 0; i < image.height; i++)
      for (size_t j = 0; j < image.width; j++) REAL(pixels)[j * image.height + i] = image.pixels[i * image.width + j];
    SET_VECTOR_ELT(result, 1, Rf_ScalarReal(image.first));
    SET_VECTOR_ELT(result, 2, Rf_ScalarReal(image.step));
    SET_VECTOR_ELT(result, 3, Rf_ScalarLogical(image.is_log));
    free_pixels(pointer);
  }
  UNPROTECT(2);
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  return result;
}
