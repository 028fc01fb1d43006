#include "data/prepare.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "core/hot.h"
#include "core/median.h"

void spd_prepare_sky(unsigned char *sky, const double *wave, size_t n_observed, const double *lines, const double *half_widths,
                     size_t n_lines) {
  memset(sky, 0, n_observed);
  for (size_t i = 0; i < n_lines; i++)
    for (size_t m = 0; m < n_observed; m++)
      if (fabs(wave[m] - lines[i]) <= half_widths[i]) sky[m] = 1;
}

/* Comparisons with DBL_MAX, not isfinite(): they become vector instructions, as everything in the hot functions below. */
SPD_HOT size_t spd_prepare_clean(double *restrict flux, double *restrict ivar, size_t n) {
  size_t n_negative = 0;
  SPD_SIMD_SUM(n_negative)
  for (size_t m = 0; m < n; m++) {
    const double y = flux[m], w = ivar[m];
    const int is_finite = (fabs(y) <= DBL_MAX) & (fabs(w) <= DBL_MAX);
    n_negative += w < 0 ? 1 : 0;
    flux[m] = is_finite ? y : 0;
    ivar[m] = is_finite & (w > SPD_PREPARE_LEAST_IVAR) ? w : 0;
  }
  return n_negative;
}

size_t spd_prepare_place(double *flux, double *ivar, struct spd_uniform_grid grid, const float *raw_flux, const float *raw_ivar,
                         const float *loglam, const int32_t *mask, size_t n) {
  memset(flux, 0, grid.size * sizeof *flux);
  memset(ivar, 0, grid.size * sizeof *ivar);
  double offset = NAN; /* of the input's pixel 0 on the grid, in pixels */
  for (size_t i = 0; i < n; i++) {
    if (!isfinite(loglam[i])) continue;
    double position = ((double)loglam[i] - grid.first) / grid.step;
    if (isnan(offset)) offset = position - (double)i;
    if (!(fabs(position - (double)i - offset) < 0.25)) return i + 1;
    if (!(position >= -0.5 && position < (double)grid.size - 0.5)) continue;
    size_t m = (size_t)(position + 0.5);
    flux[m] = raw_flux[i];
    ivar[m] = mask[i] != 0 && isfinite(raw_ivar[i]) ? 0 : raw_ivar[i];
  }
  return 0;
}

/* The first pixel whose restframe wavelength is at least `least`, or, if `beyond`, larger; n if none is. */
static size_t first_pixel(const double *wave, size_t n, double z, double least, int beyond) {
  size_t from = 0, to = n;
  while (from < to) {
    const size_t middle = from + (to - from) / 2;
    const double rest = wave[middle] / (1.0 + z);
    if (beyond ? !(rest <= least) : rest >= least)
      to = middle;
    else
      from = middle + 1;
  }
  return from;
}

SPD_HOT static size_t count_valid(const double *ivar, size_t n) {
  size_t n_valid = 0;
  SPD_SIMD_SUM(n_valid)
  for (size_t m = 0; m < n; m++) n_valid += ivar[m] > 0 ? 1 : 0;
  return n_valid;
}

static spd_norm find_norm(double *norm, const double *flux, const double *ivar, double *work, double z,
                          const struct spd_preparation *preparation) {
  const size_t n_observed = preparation->n_observed;
  *norm = 1.0;
  if (count_valid(ivar, n_observed) == 0) return SPD_NORM_NO_PIXEL;
  if (!preparation->normalize) return SPD_NORM_FOUND;
  const size_t end = first_pixel(preparation->wave, n_observed, z, preparation->window[1], 1);
  size_t n = 0;
  for (size_t m = first_pixel(preparation->wave, n_observed, z, preparation->window[0], 0); m < end; m++)
    if (ivar[m] > 0) work[n++] = flux[m];
  if (n == 0) return SPD_NORM_NO_WINDOW;
  *norm = spd_median(work, n);
  /* the square must be a number too */
  return isfinite(*norm * *norm) && *norm * *norm >= DBL_MIN && *norm > 0 ? SPD_NORM_FOUND : SPD_NORM_NOT_POSITIVE;
}

SPD_HOT static void mask_sky(double *restrict ivar, const unsigned char *restrict sky, size_t n) {
  SPD_SIMD
  for (size_t m = 0; m < n; m++) ivar[m] = sky[m] ? 0 : ivar[m];
}

SPD_HOT static void divide(double *restrict flux, double *restrict ivar, double norm, size_t n) {
  const double square = norm * norm;
  SPD_SIMD
  for (size_t m = 0; m < n; m++) {
    const double y = flux[m] / norm, w = ivar[m] * square;
    const int usable = (fabs(y) <= DBL_MAX) & (fabs(w) <= DBL_MAX); /* a pixel can leave a double's range where the norm does not */
    flux[m] = usable ? y : 0;
    ivar[m] = usable ? w : 0;
  }
}

spd_norm spd_prepare_normalize(double *norm, double *flux, double *ivar, double *work, double z,
                               const struct spd_preparation *preparation) {
  if (preparation->sky) mask_sky(ivar, preparation->sky, preparation->n_observed);
  const spd_norm found = find_norm(norm, flux, ivar, work, z, preparation);
  if (found == SPD_NORM_FOUND)
    divide(flux, ivar, *norm, preparation->n_observed);
  else
    *norm = NAN;
  return found;
}

size_t spd_prepare_sn(double *sn, const double *flux, const double *ivar, double *work, size_t n) {
  size_t n_valid = 0;
  for (size_t m = 0; m < n; m++)
    if (ivar[m] > 0) work[n_valid++] = flux[m] * sqrt(ivar[m]);
  *sn = n_valid ? spd_median(work, n_valid) : NAN;
  return n_valid;
}
