#include "core/median.h"

static void swap(double *a, double *b) {
  double c = *a;
  *a = *b;
  *b = c;
}

/* Reorders x so that x[k] is the element that sorting would put there, with no larger element before it (Hoare's FIND). */
double spd_select(double *x, size_t n, size_t k) {
  size_t low = 0, high = n - 1;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (x[middle] < x[low]) swap(&x[middle], &x[low]);
    if (x[high] < x[low]) swap(&x[high], &x[low]);
    if (x[high] < x[middle]) swap(&x[high], &x[middle]);
    double pivot = x[middle];
    size_t i = low, j = high;
    for (;;) {
      while (x[i] < pivot) i++;
      while (pivot < x[j]) j--;
      if (i >= j) break;
      swap(&x[i++], &x[j--]);
    }
    /* x[low..j] <= pivot <= x[j + 1..high] */
    if (k <= j)
      high = j;
    else
      low = j + 1;
  }
  return x[k];
}

double spd_median(double *x, size_t n) {
  double upper = spd_select(x, n, n / 2);
  if (n % 2) return upper;
  double lower = x[0];
  for (size_t i = 1; i < n / 2; i++)
    if (x[i] > lower) lower = x[i];
  return lower + 0.5 * (upper - lower);
}
