/* Reads the spectra of DESI (coadd-*.fits, spectra-*.fits), gzipped or not: for each arm B, R and Z an image of wavelengths and images of
 * flux, inverse variance and mask with a row for each row of the table FIBERMAP. HDUs are found by name.
 * https://desidatamodel.readthedocs.io/en/latest/DESI_SPECTRO_REDUX/SPECPROD/healpix/SURVEY/PROGRAM/PIXGROUP/PIXNUM/coadd-SURVEY-PROGRAM-PIXNUM.html
 */
#ifndef SPD_DATA_DESI_H
#define SPD_DATA_DESI_H

#include <stddef.h>
#include <stdint.h>

#include "core/status.h"
#include "data/prepare.h"

enum {
  SPD_DESI_ARMS = 3,
  SPD_DESI_MAX_PIXELS = 8192,  /* of an arm, which has up to 2881 */
  SPD_DESI_MAX_DIAGONALS = 99, /* of a resolution matrix, which has 11 */
  SPD_DESI_TEXT = 72
};

/* The arms' pixels, in Å (vacuum): they fall on each other where arms overlap. */
#define SPD_DESI_FIRST 3600.0
#define SPD_DESI_STEP 0.8

/* An open file, for one thread at a time */
struct spd_desi;

struct spd_desi_facts {
  size_t n_rows;
  char arms[SPD_DESI_ARMS + 1];                       /* those that the file has, as "BRZ" */
  char survey[SPD_DESI_TEXT], program[SPD_DESI_TEXT]; /* empty where the first header does not say */
  double healpix, tile;                               /* NaN where it does not say */
  size_t n_diagonals;                                 /* of the arms' resolution matrices; 0 where an arm has none, or another number */
};

/* Fails where an arm is incomplete, or none is there. Masks may be absent. */
spd_status spd_desi_open(struct spd_desi **desi, const char *path, struct spd_error *error);
/* The same file for another thread; to be closed before `first`. */
spd_status spd_desi_reopen(struct spd_desi **desi, const struct spd_desi *first, struct spd_error *error);
void spd_desi_close(struct spd_desi *desi);
void spd_desi_describe(struct spd_desi_facts *facts, struct spd_desi *desi);

/* Coadds rows of the file over arms and exposures into n spectra: with w = ivar where no bit of the mask is set and both numbers are
 * finite, else 0, flux = sum(w flux) / sum(w) and ivar = sum(w) for each pixel; both are 0 where sum(w) is. Spectrum i is made of
 * rows[begin[i]] to rows[begin[i + 1] - 1], which count from 0 and are rows of the file. begin: (n + 1); flux, ivar: (n, grid.size);
 * grid: in Å, its pixels DESI's. */
spd_status spd_desi_coadd(double *flux, double *ivar, struct spd_desi *desi, struct spd_uniform_grid grid, const size_t *rows,
                          const size_t *begin, size_t n, struct spd_error *error);

/* The resolution matrices of such spectra: band (n, n_diagonals, grid.size), element k of pixel m is what pixel m + k -
 * (n_diagonals - 1) / 2 contributes. Matrices are averaged like the flux, with the same weights; where there is none, all alike. total:
 * (n, grid.size), for the sums of weights */
spd_status spd_desi_resolution(double *band, double *total, struct spd_desi *desi, struct spd_uniform_grid grid, const size_t *rows,
                               const size_t *begin, size_t n, struct spd_error *error);

/* What there is of a pixel */
enum { SPD_DESI_PIXEL_THERE = 1 /* an arm has it */, SPD_DESI_PIXEL_NOT_FINITE = 2 /* a flux or ivar of it is not finite */ };

/* Masks of such spectra: bits, those that are set in any of a pixel's arms and exposures; state, SPD_DESI_PIXEL_... Both (n, grid.size) */
spd_status spd_desi_masks(uint32_t *bits, unsigned char *state, struct spd_desi *desi, struct spd_uniform_grid grid, const size_t *rows,
                          const size_t *begin, size_t n, struct spd_error *error);

#endif
