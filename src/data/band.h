/* Resolutions of spectra, as they are stored: a matrix's diagonals, or widths of Gaussians, at every few pixels. No R. */
#ifndef SPD_DATA_BAND_H
#define SPD_DATA_BAND_H

#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

/* The shape that the resolutions of some spectra share: `size` diagonals (odd) at every step-th pixel and the last, linear between them. A
 * spectrum has them all, (knots, size) floats, or the deviations in pixels of Gaussians with so many diagonals, (knots). */
struct spd_band {
  size_t size, step;
  int gaussian;
};

/* Of m pixels (step > 0, m > 1): the number of knots, and pixel j of them */
static inline size_t spd_band_knots(size_t step, size_t m) { return (m - 2) / step + 2; }
static inline size_t spd_band_knot(size_t j, size_t step, size_t m) { return j * step < m - 1 ? j * step : m - 1; }

/* The knot on the left of pixel i, the last but one at most, and the part of the way to the next one */
static inline void spd_band_place(uint32_t *left, float *part, size_t i, size_t step, size_t m) {
  const size_t last = spd_band_knots(step, m) - 2, j = i / step < last ? i / step : last, from = j * step;
  *left = (uint32_t)j;
  *part = (float)((double)(i - from) / (double)(spd_band_knot(j + 1, step, m) - from));
}

spd_status spd_band_check(const struct spd_band *band, size_t n_observed, struct spd_error *error);
/* Floats that a spectrum has; 0 for NULL */
size_t spd_band_width(const struct spd_band *band, size_t n_observed);

/* Names of columns of files: RESOLUTION_BAND_size_step, RESOLUTION_SIGMA_size_step. Whether a name is one of these */
int spd_band_of_name(struct spd_band *band, const char *name);

#endif
