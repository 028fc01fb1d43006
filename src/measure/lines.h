/* Gaussian lines on a sloped continuum, fitted to spectra. All in double precision; nothing is allocated.
 *
 *   f(x) = a + b (x - x0) + sum_k F_k N(x; c_k (1 + v / c), c_k s / c)      x: restframe wavelength, Å; N: the normal density
 *
 * Lines near each other are a group: they share velocity v and width s (km/s), and each has its own flux F_k. Variable projection (Golub
 * & Pereyra 1973): at each (v, s) the linear parameters a, b, F_k are those of weighted least squares, and a trust region method finds the
 * two others. */
#ifndef SPD_MEASURE_LINES_H
#define SPD_MEASURE_LINES_H

#include <stddef.h>

/* What is measured, alike for all spectra */
struct spd_lines {
  size_t n_observed, n_lines; /* M, K */
  const double *wave;         /* (M) observed, increasing, Å */
  const double *centre;       /* (K) in the restframe, increasing, Å */
  double gap;                 /* lines further apart than this are fitted by themselves, Å */
  double window;              /* how far the fit reaches beyond a group's first and last line, Å in the restframe */
  double sigma_max, velocity_max;
};

/* One line. NaN: not measured */
struct spd_line {
  double flux, flux_err, ew, ew_err, sigma, sigma_err, velocity, velocity_err, continuum;
  double chi2;           /* of its group, per degree of freedom; NaN without weights */
  double flux_with_next; /* covariance of its flux and that of the next line of the group */
  size_t pixels;         /* valid ones of its group */
};

struct spd_lines_spectrum {
  const double *flux, *ivar; /* (M); ivar NULL: all pixels weigh alike */
  double z, unit;            /* flux is multiplied by unit first */
  /* NULL, or (K) each: velocities and widths to keep; those of a group are the first that are not NaN */
  const double *velocity, *sigma;
  /* NULL, or (n_changes, M): independent changes of the flux by one standard deviation each. Errors then are the response of the fit to
   * them; otherwise they follow from ivar. */
  const double *changes;
  size_t n_changes;
};

/* Doubles of workspace */
size_t spd_lines_work(const struct spd_lines *lines);

/* out: (K) */
void spd_lines_measure(struct spd_line *out, const struct spd_lines *lines, const struct spd_lines_spectrum *spectrum, double *work);

/* How far the sum of two lines at rest sinks between its peaks, over the lower peak; 0 where it has one peak, NaN where a flux is not
 * above 0. */
double spd_lines_dip(const double centre[2], const double flux[2], double sigma);

#endif
