/* Spectra in R's matrices: how they are prepared. */
#ifndef SPD_R_SPECTRA_H
#define SPD_R_SPECTRA_H

#include "data/prepare.h"
#include "r-numbers.h"

/* recipe: a list of wave, sky (wavelengths of lines, may be empty), half_width (of all lines, or of each), window, normalize, threads; made
 * by preparation() in R/spectra.R. The result points into it, or into R_alloc'ed memory. */
struct spd_preparation r_preparation(SEXP recipe);

/* Buffers of one thread for a block of spectra */
struct r_block {
  double *flux, *ivar; /* (R_BLOCK, M) */
  double *work;        /* (M) */
};
/* R_alloc'ed, one for each of n threads */
struct r_block *r_blocks(int n, size_t n_observed);

#endif
