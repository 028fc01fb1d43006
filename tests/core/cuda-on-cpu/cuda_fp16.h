/* fp16: 10 bits of mantissa, exponents from -14 to 15 and subnormals, rounded to nearest even. */
#ifndef SPD_TEST_CUDA_FP16_H
#define SPD_TEST_CUDA_FP16_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "cuda_runtime.h"

struct __half {
  uint16_t bits;
};
struct alignas(4) __half2 {
  __half x, y;
};

static inline __half __float2half_rn(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
  const float magnitude = fabsf(x);
  __half half = {(uint16_t)(sign | 0x7c00)}; /* infinity */
  if (x != x)
    half.bits = 0x7fff;
  else if (magnitude < 65520.0f) {
    /* adding 2^(e + 13), where e is the exponent of the value's last digit but ten, rounds to the digits that half has */
    int exponent = 0;
    frexpf(magnitude, &exponent);
    const float unit = ldexpf(1.0f, (exponent < -13 ? -13 : exponent) - 11), steps = nearbyintf(magnitude / unit);
    const float rounded = steps * unit;
    memcpy(&bits, &rounded, sizeof bits);
    half.bits = rounded < ldexpf(1.0f, -14) ? (uint16_t)(sign | (uint16_t)(rounded * ldexpf(1.0f, 24)))
                                            : (uint16_t)(sign | (uint16_t)(((bits >> 23) - 112) << 10 | (bits >> 13 & 0x3ff)));
  }
  return half;
}

static inline float __half2float(__half x) {
  const int exponent = x.bits >> 10 & 31, mantissa = x.bits & 0x3ff;
  const float magnitude = exponent == 31  ? (mantissa ? NAN : INFINITY)
                          : exponent == 0 ? ldexpf((float)mantissa, -24)
                                          : ldexpf((float)(mantissa + 1024), exponent - 25);
  return x.bits & 0x8000 ? -magnitude : magnitude;
}

static inline __half2 __floats2half2_rn(float x, float y) { return {__float2half_rn(x), __float2half_rn(y)}; }
static inline float2 __half22float2(__half2 p) { return make_float2(__half2float(p.x), __half2float(p.y)); }
static inline unsigned __hgt2_mask(__half2 a, __half2 b) {
  return (__half2float(a.x) > __half2float(b.x) ? 0xffffu : 0) | (__half2float(a.y) > __half2float(b.y) ? 0xffff0000u : 0);
}
static inline __half2 __hmax2(__half2 a, __half2 b) {
  const unsigned larger = __hgt2_mask(a, b);
  return {larger & 0xffffu ? a.x : b.x, larger >> 16 ? a.y : b.y};
}

#endif
