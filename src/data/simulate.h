/* Simulated observations: a restframe spectrum from a few parameters, and its observation by an instrument. No R.
 *
 * The population of galaxies is drawn in R/simulate-galaxies.R; here one row of parameters becomes light, pixels, noise and defects.
 * Random numbers are a function of the seed and the row, so that any part of a sample is the same wherever it is made.
 */
#ifndef SPD_DATA_SIMULATE_H
#define SPD_DATA_SIMULATE_H

#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

/* Properties that all spectra of a sample share. The restframe grid is uniform in log10 wavelength, log_first + step * r. */
struct spd_simulation {
  size_t n_rest; /* R */
  double log_first, step;
  const double *wave_rest; /* (R) the same grid in Å */
  size_t n_components;
  const float *components; /* (n_components, R): spectra that a galaxy's starlight is a sum of */
  const float *extinction; /* (R): k(lambda); light is dimmed by 10^(-0.4 k E(B-V)) */
  size_t n_lines;
  const double *line_wave; /* (n_lines) restframe Å */
  size_t n_observed;       /* M */
  const double *wave;      /* (M) observed Å */
  int integrate;           /* 1: a pixel has the mean over its width, 0: the value at its centre */
  const double *log_wave;  /* log10 of Å: (M + n_lsf - 1) of centres, one more of edges where integrate. Includes (n_lsf - 1) / 2 pixels
                            * beyond each end, from which the LSF takes light */
  size_t n_lsf;            /* odd */
  const double *lsf;       /* (n_lsf): y_m = sum_i k_i x_{m-i}, i from -(n_lsf - 1) / 2 */
  const double *deviation; /* (M): that in pixels of a Gaussian with resolving power 1; NULL: objects have none of their own */
  /* (M) variances for an object whose median is 1, relative to the sky at 5500-6000 Å: the continuous sky with the read-out,
   * the sky's lines over that, and the object's photons where its flux is 1 */
  const double *sky, *sky_lines, *photons;
  int noise, defects; /* add them? */
  uint64_t seed;
};

/* One object. */
struct spd_object {
  double z;
  const double *mix;   /* (n_components) */
  double ebv;          /* E(B-V), mag, of the starlight */
  const double *lines; /* (n_lines) observed line fluxes, in units of the starlight times Å */
  double line_sigma;   /* their dispersion, km/s */
  double brightness;   /* median of the noiseless flux over pixels, 1e-17 erg/s/cm^2/Å */
  double contrast;     /* that over the sky's, which decides the noise's shape */
  double sn;           /* and its amount: the median over pixels of noiseless flux / noise */
  double resolution;   /* 0: the shared LSF; or lambda / FWHM of a Gaussian, whose weights are its values at n_lsf pixels */
  uint64_t row;        /* its number in the sample, from 0 */
};

/* How many doubles `work` must hold. */
size_t spd_simulate_work(const struct spd_simulation *simulation);

/* truth: (M) noiseless; flux, ivar: (M) as observed; rest: (R) the restframe spectrum in the same units, or NULL. Fails where
 * the restframe grid does not hold all pixels or the light's median is not positive. */
spd_status spd_simulate(double *truth, double *flux, double *ivar, double *rest, const struct spd_object *object,
                        const struct spd_simulation *simulation, double *work, struct spd_error *error);

#endif
