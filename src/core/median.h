#ifndef SPD_CORE_MEDIAN_H
#define SPD_CORE_MEDIAN_H

#include <stddef.h>

/* Of n > 0 values, the mean of the middle two for an even n; reorders x. Without NaN. */
double spd_median(double *x, size_t n);

/* The value that sorting would put at place k < n; reorders x. */
double spd_select(double *x, size_t n, size_t k);

#endif
