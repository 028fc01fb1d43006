/* Prepares measured spectra for the network: masks, placement on the grid, norm. No files, no R.
 *
 * flux in f_lambda, ivar its inverse variance, wavelengths in Å (vacuum). A pixel is valid where its ivar is positive.
 */
#ifndef SPD_DATA_PREPARE_H
#define SPD_DATA_PREPARE_H

#include <stddef.h>
#include <stdint.h>

/* Pixels whose inverse variance, in the units of the input, is at or below this are masked. */
#define SPD_PREPARE_LEAST_IVAR 1e-6

struct spd_preparation {
  size_t n_observed;        /* M */
  const double *wave;       /* (M) the observed grid, increasing */
  const unsigned char *sky; /* (M) 1: a sky line is near; NULL: no sky mask */
  double window[2];         /* restframe Å, both ends included: where the norm is measured */
  int normalize;            /* 0: the input is normalised already, its norm is 1 */
};

/* Whether a spectrum has a norm, or why it has none. */
typedef enum {
  SPD_NORM_FOUND = 0,
  SPD_NORM_NO_PIXEL,    /* no valid pixel at all */
  SPD_NORM_NO_WINDOW,   /* no valid pixel in the window */
  SPD_NORM_NOT_POSITIVE /* the median is zero, negative, or too small to divide by */
} spd_norm;

/* sky: (M); 1 where |wave - line| <= the line's half-width, for any of the lines, in any order. */
void spd_prepare_sky(unsigned char *sky, const double *wave, size_t n_observed, const double *lines, const double *half_widths,
                     size_t n_lines);

/* A pixel that is not finite becomes flux 0, ivar 0; an ivar up to SPD_PREPARE_LEAST_IVAR becomes 0 and the flux stays.
 * Both (n), in place. Returns how many ivars were negative. */
size_t spd_prepare_clean(double *flux, double *ivar, size_t n);

/* A grid of pixels uniform in wavelength, or in its log10. */
struct spd_uniform_grid {
  double first, step;
  size_t size;
};

/* Copies n pixels to the nearest pixels of a grid in log10 wavelength. Pixels beyond its ends are dropped; grid pixels without a source get
 * flux 0, ivar 0; mask != 0 sets ivar to 0; pixels without a finite wavelength are skipped. flux, ivar: (grid.size), the others: (n).
 * Returns 0, or 1 + the index of a pixel whose spacing from its neighbour is not the grid's step. */
size_t spd_prepare_place(double *flux, double *ivar, struct spd_uniform_grid grid, const float *raw_flux, const float *raw_ivar,
                         const float *loglam, const int32_t *mask, size_t n);

/* Sky mask and norm of one cleaned spectrum. With SPD_NORM_FOUND, flux is divided by *norm and ivar multiplied by its
 * square; otherwise *norm is NaN and both keep their units. flux, ivar, work: (M). */
spd_norm spd_prepare_normalize(double *norm, double *flux, double *ivar, double *work, double z, const struct spd_preparation *preparation);

/* *sn: median of flux sqrt(ivar) over the valid pixels, NaN without one. Returns how many there are. All (n). */
size_t spd_prepare_sn(double *sn, const double *flux, const double *ivar, double *work, size_t n);

#endif
