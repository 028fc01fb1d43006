#include "data/image.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void spd_image_free(struct spd_image *image) {
  free(image->pixels);
  image->pixels = NULL;
}

#ifndef SPD_HAVE_CFITSIO

spd_status spd_image_read(struct spd_image *image, const char *path, int hdu, struct spd_error *error) {
  (void)path;
  (void)hdu;
  memset(image, 0, sizeof *image);
  return spd_fail(error, SPD_STATUS_UNSUPPORTED, "this build of spender cannot read FITS files: install CFITSIO, then reinstall spender");
}

#else

#include "core/files.h"
#include "data/cfitsio.h"

static int read_key(fitsfile *file, const char *key, double *value) {
  int status = 0;
  double found;
  fits_read_key(file, TDOUBLE, key, &found, NULL, &status);
  fits_clear_errmsg();
  if (status == 0) *value = found;
  return status == 0;
}

static void read_placement(struct spd_image *image, fitsfile *file) {
  double flag = 0;
  image->first = image->step = NAN;
  image->is_log = read_key(file, "COEFF0", &image->first) && read_key(file, "COEFF1", &image->step);
  if (image->is_log) return;
  if (!read_key(file, "CRVAL1", &image->first)) return;
  if (!read_key(file, "CDELT1", &image->step)) read_key(file, "CD1_1", &image->step);
  image->is_log = (read_key(file, "LOGLAM", &flag) && flag != 0) || (read_key(file, "DC-FLAG", &flag) && flag != 0);
  double pixel = 1;
  read_key(file, "CRPIX1", &pixel);
  image->first -= (pixel - 1) * image->step;
}

static spd_status read_open(struct spd_image *image, fitsfile *file, const char *name, int hdu, LONGLONG bytes, struct spd_error *error) {
  int status = 0, type = 0, n_axes = 0, any_null = 0;
  long sizes[2] = {0, 1};
  fits_movabs_hdu(file, hdu, &type, &status);
  if (status != 0 || type != IMAGE_HDU) return spd_fail(error, SPD_STATUS_FORMAT, "%.200s has no image in HDU %d", name, hdu);
  if (fits_is_compressed_image(file, &status)) /* CFITSIO 4.2 reads beyond damaged ones */
    return spd_fail(error, SPD_STATUS_FORMAT, "%.200s, HDU %d: the image is compressed: unpack it by CFITSIO's funpack", name, hdu);
  fits_get_img_dim(file, &n_axes, &status);
  if (status != 0 || n_axes < 1 || n_axes > 2)
    return spd_fail(error, SPD_STATUS_FORMAT, "%.200s, HDU %d: the image has %d axes, not 1 or 2", name, hdu, n_axes);
  fits_get_img_size(file, 2, sizes, &status);
  if (n_axes == 1) sizes[1] = 1;
  /* more pixels than the file has bytes is a damaged header */
  LONGLONG start = 0, data = 0, end = 0;
  fits_get_hduaddrll(file, &start, &data, &end, &status);
  if (end > bytes) end = bytes; /* the header promises more than the file holds */
  if (status != 0 || sizes[0] < 1 || sizes[1] < 1 || end <= data || sizes[0] > (end - data) / sizes[1])
    return spd_fail(error, SPD_STATUS_FORMAT, "%.200s, HDU %d: the image's size does not fit the file", name, hdu);
  image->width = (size_t)sizes[0];
  image->height = (size_t)sizes[1];
  image->pixels = malloc(image->width * image->height * sizeof *image->pixels);
  if (!image->pixels) return spd_fail(error, SPD_STATUS_NO_MEMORY, "no memory for the image in %.200s", name);
  double null = NAN;
  fits_read_img(file, TDOUBLE, 1, (LONGLONG)(image->width * image->height), &null, image->pixels, &any_null, &status);
  if (status != 0) return spd_fail(error, SPD_STATUS_FORMAT, "%.200s is cut or damaged: reading the image in HDU %d failed", name, hdu);
  read_placement(image, file);
  return SPD_STATUS_OK;
}

spd_status spd_image_read(struct spd_image *image, const char *path, int hdu, struct spd_error *error) {
  memset(image, 0, sizeof *image);
  const char *name = spd_file_name(path);
  struct spd_cfitsio_file file;
  SPD_TRY(spd_cfitsio_open_hdu(&file, path, name, hdu, error));
  spd_status status = read_open(image, file.file, name, hdu, (LONGLONG)file.bytes, error);
  spd_cfitsio_close(&file);
  if (status != SPD_STATUS_OK) spd_image_free(image);
  return status;
}

#endif
