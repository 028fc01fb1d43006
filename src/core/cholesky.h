/* Small positive definite systems, row-major, for C and CUDA compilers. */
#ifndef SPD_CORE_CHOLESKY_H
#define SPD_CORE_CHOLESKY_H

#include <math.h>
#include <stddef.h>

#include "core/mix.h"

/* Cholesky in place, the lower triangle of a (k, k); 0 if a is not positive definite */
SPD_INLINE int spd_cholesky(double *a, size_t k) {
  for (size_t j = 0; j < k; j++) {
    for (size_t i = j; i < k; i++) {
      double sum = a[i * k + j];
      for (size_t l = 0; l < j; l++) sum -= a[i * k + l] * a[j * k + l];
      if (i == j) {
        if (!(sum > 0) || !isfinite(sum)) return 0;
        a[j * k + j] = sqrt(sum);
      } else {
        a[i * k + j] = sum / a[j * k + j];
      }
    }
  }
  return 1;
}

/* x = (L L')^-1 x, with L from spd_cholesky() */
SPD_INLINE void spd_cholesky_solve(double *x, const double *l, size_t k) {
  for (size_t i = 0; i < k; i++) {
    for (size_t j = 0; j < i; j++) x[i] -= l[i * k + j] * x[j];
    x[i] /= l[i * k + i];
  }
  for (size_t i = k; i-- > 0;) {
    for (size_t j = i + 1; j < k; j++) x[i] -= l[j * k + i] * x[j];
    x[i] /= l[i * k + i];
  }
}

#endif
