/* Scalar formulas of flows, branch-free so that loops over them vectorise. */
#ifndef SPD_DENSITY_SCALAR_H
#define SPD_DENSITY_SCALAR_H

#include "network/scalar.h"

/* ln x for positive, normal x; relative error below 2e-7 away from 1, absolute below 1e-7 near it. Polynomial as in Moshier's Cephes. */
SPD_INLINE float flow_log(float x) {
  int32_t bits;
  memcpy(&bits, &x, sizeof bits);
  const int32_t exponent = (bits - 0x3f3504f3) >> 23; /* so that the mantissa is within sqrt(1/2) ... sqrt(2) */
  bits -= (int32_t)((uint32_t)exponent << 23);
  float mantissa;
  memcpy(&mantissa, &bits, sizeof mantissa);
  const float f = mantissa - 1.0f, square = f * f, e = (float)exponent;
  float p = 7.0376836292e-2f;
  p = p * f - 1.1514610310e-1f;
  p = p * f + 1.1676998740e-1f;
  p = p * f - 1.2420140846e-1f;
  p = p * f + 1.4249322787e-1f;
  p = p * f - 1.6668057665e-1f;
  p = p * f + 2.0000714765e-1f;
  p = p * f - 2.4999993993e-1f;
  p = p * f + 3.3333331174e-1f;
  p = p * f * square - 2.12194440e-4f * e;
  return (f - 0.5f * square) + p + 0.693359375f * e;
}

SPD_INLINE float flow_softplus(float x) {
  const float positive = x > 0 ? x : 0, size = x > 0 ? x : -x;
  return positive + flow_log(1.0f + spd_exp(-size));
}

SPD_INLINE float flow_tanh(float x) { return 1.0f - 2.0f / (spd_exp(2.0f * x) + 1.0f); }

#endif
