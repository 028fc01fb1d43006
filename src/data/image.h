/* Images in FITS files, such as spectral templates: the pixels as doubles and the keywords that place them in wavelength. */
#ifndef SPD_DATA_IMAGE_H
#define SPD_DATA_IMAGE_H

#include <stddef.h>

#include "core/status.h"

struct spd_image {
  size_t width, height; /* NAXIS1, NAXIS2; height 1 for a single row */
  double *pixels;       /* (height, width), from malloc; spd_image_free() */
  double first, step;   /* CRVAL1 and CDELT1 (or CD1_1), or COEFF0 and COEFF1 with is_log set; NaN where there are none */
  int is_log;           /* log10 of wavelength: COEFF0, LOGLAM = 1 or DC-FLAG = 1 */
};

/* The image in HDU `hdu`, from 1. Fails with SPD_STATUS_UNSUPPORTED in a build without CFITSIO. */
spd_status spd_image_read(struct spd_image *image, const char *path, int hdu, struct spd_error *error);
void spd_image_free(struct spd_image *image);

#endif
