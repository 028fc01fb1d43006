/* Scalar formulas that every backend computes alike: one formula, one place. Compiled by C and CUDA compilers. */
#ifndef SPD_NETWORK_SCALAR_H
#define SPD_NETWORK_SCALAR_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "core/cholesky.h"
#include "core/mix.h"
#include "network/network.h"

#define SPD_NORM_EPSILON 1e-5
#define SPD_LEAKY_SLOPE 0.01f

/* exp(x) for float x, relative error below 2e-7, branch-free so that loops over it vectorise; saturates at exp(+-87.3). */
SPD_INLINE float spd_exp(float x) {
#ifdef __CUDA_ARCH__
  return expf(x);
#else
  x = x < -87.3f ? -87.3f : x;
  x = x > 87.3f ? 87.3f : x;
  /* x = n ln 2 + r with |r| <= ln 2 / 2; adding 1.5 * 2^23 rounds to an integer */
  float shifted = x * 1.44269504f + 12582912.0f;
  float n = shifted - 12582912.0f;
  float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  int32_t bits;
  memcpy(&bits, &shifted, sizeof bits);
  bits = (int32_t)((uint32_t)bits << 23) + 0x3f800000; /* only the low bits of n survive the shift: 2^n */
  float scale;
  memcpy(&scale, &bits, sizeof scale);
  return p * scale;
#endif
}

SPD_INLINE float spd_sigmoid(float x) { return 1.0f / (1.0f + spd_exp(-x)); }

SPD_INLINE float spd_prelu(float x, float slope) { return x > 0 ? x : slope * x; }

/* Speculator activation (Alsing et al. 2020; paper eq. 3): [gamma + (1 - gamma) sigmoid(beta x)] x */
SPD_INLINE float spd_speculator(float x, float beta, float gamma) { return (gamma + (1.0f - gamma) * spd_sigmoid(beta * x)) * x; }

/* d of the activation with respect to x, beta, gamma */
SPD_INLINE void spd_speculator_gradient(float *dx, float *dbeta, float *dgamma, float x, float beta, float gamma) {
  float s = spd_sigmoid(beta * x);
  float slope = (1.0f - gamma) * s * (1.0f - s) * x;
  *dx = gamma + (1.0f - gamma) * s + slope * beta;
  *dbeta = slope * x;
  *dgamma = (1.0f - s) * x;
}

SPD_INLINE void spd_adam_update(float *p, float *m, float *v, float g, float rate, float beta1, float new1, float beta2, float new2,
                                float epsilon, float correction1, float correction2, float lowest) {
  *m = beta1 * *m + new1 * g;
  *v = beta2 * *v + new2 * g * g;
  const float moved = *p - rate * (*m * correction1) / (sqrtf(*v * correction2) + epsilon);
  *p = moved < lowest ? lowest : moved;
}

/* A pixel's term of the objective of struct spd_normal, its weight, and weight times residual */
SPD_INLINE double spd_residual(float *weight, float *product, float flux, float model, float ivar, double freedom) {
  const double r = (double)flux - (double)model, square = (double)ivar * r * r;
  const double w = freedom > 0 ? (double)ivar * (freedom + 1) / (freedom + square) : (double)ivar;
  *weight = (float)w;
  *product = (float)(w * r);
  return freedom > 0 ? 0.5 * (freedom + 1) * log1p(square / freedom) : 0.5 * square;
}

/* Legendre's polynomials P_0 ... P_{terms - 1} at pixel m of n, whose first is at -1 and last at 1 */
SPD_INLINE void spd_legendre(double *p, size_t terms, size_t m, size_t n) {
  const double t = 2.0 * (double)m / (double)(n - 1) - 1.0;
  for (size_t k = 0; k < terms; k++)
    p[k] = k == 0 ? 1 : k == 1 ? t : ((2.0 * (double)k - 1) * t * p[k - 1] - ((double)k - 1) * p[k - 2]) / (double)k;
}

/* The polynomial with these coefficients at pixel m of n */
SPD_INLINE double spd_calibration_at(const double *coefficient, size_t terms, size_t m, size_t n) {
  double p[SPD_MAX_CALIBRATION], sum = 0;
  spd_legendre(p, terms, m, n);
  for (size_t k = 0; k < terms; k++) sum += coefficient[k] * p[k];
  return sum;
}

/* Of a normal matrix (lower triangle) and right side without the expectations' part, which are changed: coefficients, in place of the right
 * side, and sum p_k (c_k - [k = 0])^2. What nothing determines is as expected. */
SPD_INLINE double spd_calibration_solve(double *coefficient, double *matrix, const double *precision, size_t terms) {
  double penalty = 0;
  for (size_t k = 0; k < terms; k++) matrix[k * terms + k] += precision[k];
  coefficient[0] += precision[0];
  if (spd_cholesky(matrix, terms))
    spd_cholesky_solve(coefficient, matrix, terms);
  else
    for (size_t k = 0; k < terms; k++) coefficient[k] = k == 0;
  for (size_t k = 0; k < terms; k++) penalty += precision[k] * (coefficient[k] - (k == 0)) * (coefficient[k] - (k == 0));
  return penalty;
}

/* First and one-past-last position of max-pooling's window t (odd pool, pool / 2 padding) */
SPD_INLINE size_t spd_window_from(size_t t, size_t pool) { return t * pool < pool / 2 ? 0 : t * pool - pool / 2; }
SPD_INLINE size_t spd_window_to(size_t t, size_t pool, size_t length) {
  return t * pool + pool / 2 + 1 < length ? t * pool + pool / 2 + 1 : length;
}

/* Mean and 1/sd of channel c's convolution w (k, C) of one input channel x, from its window sums m_j = sum_l x[l + j] and
 * products R_jk = sum_l x[l + j] x[l + k] over the zero-padded x: mean = w.m / L and variance = w'Rw / L - mean^2. */
SPD_INLINE void spd_stem_statistics(double *mean, double *inverse_sd, const float *w, const double *m, const double *r, size_t length,
                                    size_t kernel, size_t channels, size_t c) {
  double first = 0, second = 0;
  for (size_t j = 0; j < kernel; j++) {
    double wj = w[j * channels + c];
    first += wj * m[j];
    for (size_t k = 0; k < kernel; k++) second += wj * (double)w[k * channels + c] * r[j * kernel + k];
  }
  *mean = first / (double)length;
  double variance = second / (double)length - *mean * *mean;
  *inverse_sd = 1.0 / sqrt((variance > 0 ? variance : 0) + SPD_NORM_EPSILON);
}

/* Gradient of tap j through the norm, for a gradient d at the normalised values v of the winners l*, from sum d x[l* + j] (tap),
 * sum d and sum d v: [tap - sum_d m_j / L - sum_dv (sum_k w_k R_kj - mean m_j) / (sd L)] / sd */
SPD_INLINE float spd_stem_tap_gradient(double tap, double sum_d, double sum_dv, size_t j, double mean, double inverse_sd, const float *w,
                                       const double *m, const double *r, size_t length, size_t kernel, size_t channels, size_t c) {
  double product = -mean * m[j];
  for (size_t k = 0; k < kernel; k++) product += (double)w[k * channels + c] * r[k * kernel + j];
  return (float)(inverse_sd * (tap - sum_d * m[j] / (double)length - sum_dv * product * inverse_sd / (double)length));
}

/* Is the restframe wavelength x within the closed interval of the grid? */
SPD_INLINE int spd_covered(double x, const float *wave_rest, size_t n_rest) {
  return x >= (double)wave_rest[0] && x <= (double)wave_rest[n_rest - 1];
}

/* For a covered x: the j with wave[j] < x <= wave[j + 1], and 0 at x == wave[0]: on a grid point, where the derivative jumps,
 * the interval to its left, as in the published code. `scale` is (n - 1) / (wave[n - 1] - wave[0]): on a uniform grid the first
 * guess is right to one pixel, on any other the search narrows an interval. */
SPD_INLINE size_t spd_rest_index(double x, const float *wave, size_t n, double scale) {
  double guess = (x - (double)wave[0]) * scale;
  size_t low = 0, high = n - 2; /* the answer is within low ... high */
  size_t j = guess <= 0 ? 0 : (size_t)guess;
  if (j > high) j = high;
  for (;;) {
    if (j > 0 && x <= (double)wave[j]) {
      high = j - 1;
      if (j == 1 || x > (double)wave[j - 1]) return j - 1;
    } else if (x > (double)wave[j + 1] && j < high) {
      low = j + 1;
      if (x <= (double)wave[j + 2]) return j + 1;
    } else {
      return j;
    }
    j = low + (high - low) / 2; /* the neighbour was not it */
  }
}

/* First and one-past-last observed pixel that the restframe covers at redshift z; *from == *to when none. */
SPD_INLINE void spd_coverage(size_t *from, size_t *to, double z, const float *wave_rest, size_t n_rest, const float *wave_observed,
                             size_t n_observed) {
  size_t a = 0, b = n_observed; /* bisection: the observed grid increases */
  while (a < b) {
    size_t middle = a + (b - a) / 2;
    if ((double)wave_observed[middle] / (1.0 + z) >= (double)wave_rest[0])
      b = middle;
    else
      a = middle + 1;
  }
  *from = a;
  b = n_observed;
  while (a < b) {
    size_t middle = a + (b - a) / 2;
    if ((double)wave_observed[middle] / (1.0 + z) <= (double)wave_rest[n_rest - 1])
      a = middle + 1;
    else
      b = middle;
  }
  *to = a;
}

/* The same, less the pixels inside the array whose LSF footprint (size 0 or odd) reaches an uncovered pixel. At the ends of
 * the array the kernel is zero-padded, and pixels keep their weight, as in the published code. */
SPD_INLINE void spd_coverage_lsf(size_t *from, size_t *to, double z, const float *wave_rest, size_t n_rest, const float *wave_observed,
                                 size_t n_observed, size_t lsf) {
  size_t half = lsf / 2;
  spd_coverage(from, to, z, wave_rest, n_rest, wave_observed, n_observed);
  size_t a = *from > 0 ? *from + half : 0, b = *to < n_observed ? (*to > half ? *to - half : 0) : n_observed;
  if (*from == *to || a >= b) b = a = *from;
  *from = a;
  *to = b;
}

/* ---- resolution ---- */

/* The diagonals (size) of a Gaussian of this deviation in pixels, whose sum is 1 */
SPD_INLINE void spd_gaussian(float *to, float sigma, size_t size) {
  const float half = (float)(size / 2), scale = sigma > 0.05f ? -0.5f / (sigma * sigma) : -1e4f; /* narrower: all in one pixel */
  float sum = 0;
  for (size_t k = 0; k < size; k++) {
    const float x = (float)k - half;
    to[k] = spd_exp(scale * x * x);
    sum += to[k];
  }
  for (size_t k = 0; k < size; k++) to[k] /= sum;
}

/* ---- augmented copies and the losses of redshift invariance ---- */

/* Number `i` of the sequence that a key starts, uniform in (0, 1) */
SPD_INLINE double spd_drawn(uint64_t key, uint64_t i) {
  return ((double)(spd_mix64(key ^ spd_mix64(i)) >> 12) + 0.5) * (1.0 / 4503599627370496.0);
}

/* Which of a row's numbers decide what: the redshift, the masked block, then three for each pixel. */
enum { SPD_DRAWN_REDSHIFT, SPD_DRAWN_BLOCK, SPD_DRAWN_PIXELS };

SPD_INLINE float spd_augmented_redshift(uint64_t key, double z_low, double z_high) {
  return (float)(z_low + (z_high - z_low) * spd_drawn(key, SPD_DRAWN_REDSHIFT));
}

/* First pixel of the masked block of `size` among m pixels, and the size of one that is this fraction of them */
SPD_INLINE size_t spd_block_size(double fraction, size_t m) { return (size_t)(fraction * (double)m + 0.5); }
SPD_INLINE size_t spd_block_from(uint64_t key, size_t size, size_t m) {
  return (size_t)(spd_drawn(key, SPD_DRAWN_BLOCK) * (double)(m - size + 1));
}

/* Noise of pixel m (Box & Muller 1958): most pixels have none */
SPD_INLINE double spd_augmented_noise(uint64_t key, size_t m, double fraction, double deviation) {
  const uint64_t i = SPD_DRAWN_PIXELS + 3 * (uint64_t)m;
  if (spd_drawn(key, i) >= fraction) return 0;
  return deviation * sqrt(-2.0 * log(spd_drawn(key, i + 1))) * cos(6.283185307179586 * spd_drawn(key, i + 2));
}

/* A pixel between pixels j and j + 1 of a spectrum, at `part` of the way, with this noise added. It has weight only if those that it is
 * made of have. */
SPD_INLINE void spd_augmented_pixel(float *to_flux, float *to_ivar, const float *flux, const float *ivar, size_t j, double part,
                                    double noise) {
  const double low = (double)ivar[j], high = (double)ivar[j + 1];
  const double w = (part < 1 && !(low > 0)) || (part > 0 && !(high > 0)) ? 0 : (1 - part) * low + part * high;
  *to_flux = (float)((1 - part) * (double)flux[j] + part * (double)flux[j + 1] + noise);
  *to_ivar = (float)(w > 0 ? 1 / (1 / w + noise * noise) : 0);
}

/* f(t) = sigma(t - 2.5) + sigma(-t - 2.5), the similarity of a pair whose distances differ by t / k: between 0.15 and 1 */
SPD_INLINE float spd_dissimilarity(float t) { return spd_sigmoid(t - 2.5f) + spd_sigmoid(-t - 2.5f); }
SPD_INLINE float spd_dissimilarity_slope(float t) {
  const float up = spd_sigmoid(t - 2.5f), down = spd_sigmoid(-t - 2.5f);
  return up * (1.0f - up) - down * (1.0f - down);
}

/* sigma(q) - 1/2 and its derivative */
SPD_INLINE double spd_consistency_loss(double q) { return 1 / (1 + exp(-q)) - 0.5; }
SPD_INLINE double spd_consistency_slope(double q) {
  const double small = exp(-q); /* q is not negative */
  return small / ((1 + small) * (1 + small));
}

/* Medians are not taken to be smaller than this, lest a spectrum be divided by nothing; spectra of the data have about 1. */
#define SPD_LEAST_MEDIAN 1e-3f
/* Added to a mean distance that others are divided by: a batch whose spectra are all the same has none. */
#define SPD_LEAST_DISTANCE 1e-12

#endif
