#include "data/prepare.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "core/median.h"

void spd_prepare_sky(unsigned char *sky, const double *wave, size_t n_observed, const double *lines, const double *half_widths,
                     size_t n_lines) {
  memset(sky, 0, n_observed);
  for (size_t i = 0; i < n_lines; i++)
    for (size_t m = 0; m < n_observed; m++)
      if (fabs(wave[m] - lines[i]) <= half_widths[i]) sky[m] = 1;
}

size_t spd_prepare_clean(double *flux, double *ivar, size_t n) {
  size_t n_negative = 0;
  for (size_t m = 0; m < n; m++) {
    n_negative += ivar[m] < 0;
    if (!isfinite(flux[m]) || !isfinite(ivar[m])) flux[m] = ivar[m] = 0;
    if (ivar[m] <= SPD_PREPARE_LEAST_IVAR) ivar[m] = 0;
  }
  return n_negative;
}

size_t spd_prepare_place(double *flux, double *ivar, struct spd_uniform_grid grid, const float *raw_flux, const float *raw_ivar,
                         const float *loglam, const int32_t *and_mask, size_t n) {
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
    ivar[m] = and_mask[i] != 0 && isfinite(raw_ivar[i]) ? 0 : raw_ivar[i];
  }
  return 0;
}

static spd_norm find_norm(double *norm, const double *flux, const double *ivar, double *work, double z,
                          const struct spd_preparation *preparation) {
  const double *window = preparation->window;
  size_t n_valid = 0, n = 0;
  for (size_t m = 0; m < preparation->n_observed; m++) {
    if (!(ivar[m] > 0)) continue;
    n_valid++;
    double rest = preparation->wave[m] / (1.0 + z);
    if (rest >= window[0] && rest <= window[1]) work[n++] = flux[m];
  }
  *norm = 1.0;
  if (n_valid == 0) return SPD_NORM_NO_PIXEL;
  if (!preparation->normalize) return SPD_NORM_FOUND;
  if (n == 0) return SPD_NORM_NO_WINDOW;
  *norm = spd_median(work, n);
  /* the square must be a number too */
  return isfinite(*norm * *norm) && *norm * *norm >= DBL_MIN && *norm > 0 ? SPD_NORM_FOUND : SPD_NORM_NOT_POSITIVE;
}

spd_norm spd_prepare_normalize(double *norm, double *flux, double *ivar, double *work, double z,
                               const struct spd_preparation *preparation) {
  size_t n_observed = preparation->n_observed;
  if (preparation->sky)
    for (size_t m = 0; m < n_observed; m++)
      if (preparation->sky[m]) ivar[m] = 0;

  spd_norm found = find_norm(norm, flux, ivar, work, z, preparation);
  if (found != SPD_NORM_FOUND) {
    *norm = NAN;
    return found;
  }
  double square = *norm * *norm;
  for (size_t m = 0; m < n_observed; m++) {
    double y = flux[m] / *norm, w = ivar[m] * square;
    int usable = isfinite(y) && isfinite(w); /* a pixel can leave a double's range where the norm does not */
    flux[m] = usable ? y : 0;
    ivar[m] = usable ? w : 0;
  }
  return found;
}

size_t spd_prepare_sn(double *sn, const double *flux, const double *ivar, double *work, size_t n) {
  size_t n_valid = 0;
  for (size_t m = 0; m < n; m++)
    if (ivar[m] > 0) work[n_valid++] = flux[m] * sqrt(ivar[m]);
  *sn = n_valid ? spd_median(work, n_valid) : NAN;
  return n_valid;
}
