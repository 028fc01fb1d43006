/* Principal components of spectra with gaps and noise, by expectation maximisation (Bailey 2012, PASP 124, 1015): scores from components
 * and components from scores, both by weighted least squares. The model of a restframe pixel r of spectrum i is
 *
 *   mean_r + sum_k score_ik basis_kr
 *
 * All sums are made of their terms one after the other: of a spectrum's pixels in order, of a pixel's spectra in order. So they do not
 * depend on how spectra and pixels are divided among threads and calls. */
#ifndef SPD_MEASURE_PCA_H
#define SPD_MEASURE_PCA_H

#include <stddef.h>

struct spd_pca {
  size_t n_observed, n_rest, n_components; /* M, R, K; K may be 0 */
  const double *wave, *wave_rest;          /* (M) and (R), increasing, Å */
  const double *mean;                      /* (R) */
  const double *basis;                     /* (K, R) */
};

/* A spectrum on the restframe grid: flux by linear interpolation, less the mean and times the weight; the weight (R) is that of the lesser
 * of the two neighbours, and less where the grid is finer than the pixels, whose information would count twice. flux, ivar: (M). */
void spd_pca_to_rest(double *weight, double *difference, const struct spd_pca *pca, const double *flux, const double *ivar, double z);

/* The basis and the products of its components, as spd_pca_scores() reads them */
size_t spd_pca_basis_size(const struct spd_pca *pca);
void spd_pca_pack_basis(double *packed, const struct spd_pca *pca);

/* Scores (n, K) of spectra from spd_pca_to_rest(), weight and difference: (n, R). A spectrum whose weights do not determine them is damped
 * towards 0. work: spd_pca_scores_work() doubles */
size_t spd_pca_scores_work(const struct spd_pca *pca, size_t n);
void spd_pca_scores(double *scores, const struct spd_pca *pca, const double *packed, const double *weight, const double *difference,
                    size_t n, double *work);

/* Scores of spectrum i of n, and their products, as spd_pca_add() reads them */
size_t spd_pca_packed_scores_size(const struct spd_pca *pca, size_t n);
void spd_pca_pack_scores(double *packed, const struct spd_pca *pca, const double *scores, size_t i, size_t n);

/* Adds n spectra to the sums (R, spd_pca_sums_width()) of the restframe pixels from `from` to `to` - 1. A pixel's sums are its normal
 * equations, and last how many spectra have weight there. */
size_t spd_pca_sums_width(size_t n_components);
void spd_pca_add(double *sums, const struct spd_pca *pca, const double *packed_scores, const double *weight, const double *difference,
                 size_t n, size_t from, size_t to);

/* What a pixel's mean and components (1 + K) should be, less the mean that the sums were made with. work: (1 + K)^2 */
void spd_pca_solve(double *solution, const double *sums, size_t n_components, double *work);

/* The model in the observed frame (M), NAN where the restframe grid does not reach. work: (R) */
void spd_pca_observed(double *model, const struct spd_pca *pca, const double *scores, double z, double *work);

#endif
