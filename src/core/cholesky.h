/* Small positive definite systems, row-major. */
#ifndef SPD_CORE_CHOLESKY_H
#define SPD_CORE_CHOLESKY_H

#include <stddef.h>

/* Cholesky in place, the lower triangle of a (k, k); 0 if a is not positive definite */
int spd_cholesky(double *a, size_t k);

/* x = (L L')^-1 x, with L from spd_cholesky() */
void spd_cholesky_solve(double *x, const double *l, size_t k);

#endif
