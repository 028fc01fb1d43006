/* Latents of largest likelihood: damped Gauss-Newton steps (Levenberg 1944, Marquardt 1963) from the encoder's latents, spectrum by
 * spectrum.
 *
 * With residuals r = y - y'(s) over weighted pixels, Jacobian J = dy'/ds and a prior N(mu, P^-1), the objective is r'Wr / 2 + (s - mu)'P(s
 * - mu) / 2 and a step is (A + lambda diag A)^-1 (J'Wr - P(s - mu)) with A = J'WJ + P. It is taken if the objective falls (then lambda /
 * 5), otherwise lambda x 10. A^-1 at the end is the covariance of the latents. The redshift may join the latents as a further parameter;
 * the coefficients of a calibration do, which are found anew at each evaluation. */
#ifndef SPD_NETWORK_REFINE_H
#define SPD_NETWORK_REFINE_H

#include "network/model.h"

struct spd_refine_options {
  size_t steps;
  int with_redshift;
  double freedom;          /* of Student's t for the residuals; 0: normal errors */
  const double *mean;      /* (S) of the prior; NULL: none */
  const double *precision; /* (S, S) of the prior */
};

struct spd_refiner;
/* For batches of a model, which must outlive it. */
spd_status spd_refiner_create(struct spd_refiner **refiner, struct spd_model *model, const struct spd_refine_options *options,
                              struct spd_error *error);
void spd_refiner_destroy(struct spd_refiner *refiner);

/* What a batch of n spectra gives; every pointer may be NULL. */
struct spd_refined {
  double *covariance;        /* (n, K, K): K = S, or S + 1 with the redshift last; NaN where neither data nor prior determine it */
  double *calibration_error; /* (n, terms): standard errors of the calibration's coefficients */
  float *spread;             /* (n, M): standard errors of the model in the observed frame; NaN like the covariance */
  double *before, *after;    /* (n): objectives */
  double *slope;             /* (n, S): derivatives of the objective at the first latents; needs a step */
};

/* Moves the latents of the model's batch (and its redshifts), which decoding then starts from. */
spd_status spd_refine(struct spd_refiner *refiner, const struct spd_refined *to, struct spd_error *error);

#endif
