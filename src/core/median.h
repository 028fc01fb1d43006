#ifndef SPD_CORE_MEDIAN_H
#define SPD_CORE_MEDIAN_H

#include <stddef.h>

/* Of n > 0 values, the mean of the middle two for an even n; reorders x. Without NaN. */
double spd_median(double *x, size_t n);

#endif
