/* bf16: the upper half of a float, rounded to nearest even. */
#ifndef SPD_TEST_CUDA_BF16_H
#define SPD_TEST_CUDA_BF16_H

#include <stdint.h>
#include <string.h>

#include "cuda_runtime.h"

struct __nv_bfloat16 {
  uint16_t bits;
};
struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
};

static inline __nv_bfloat16 __float2bfloat16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  const __nv_bfloat16 nan = {0x7fc0}, rounded = {(uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
  return x != x ? nan : rounded;
}

static inline float __bfloat162float(__nv_bfloat16 x) {
  const uint32_t bits = (uint32_t)x.bits << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {__float2bfloat16(x), __float2bfloat16(y)}; }
static inline float2 __bfloat1622float2(__nv_bfloat162 p) { return make_float2(__bfloat162float(p.x), __bfloat162float(p.y)); }
static inline unsigned __hgt2_mask(__nv_bfloat162 a, __nv_bfloat162 b) {
  return (__bfloat162float(a.x) > __bfloat162float(b.x) ? 0xffffu : 0) | (__bfloat162float(a.y) > __bfloat162float(b.y) ? 0xffff0000u : 0);
}
static inline __nv_bfloat162 __hmax2(__nv_bfloat162 a, __nv_bfloat162 b) {
  const unsigned larger = __hgt2_mask(a, b);
  return {larger & 0xffffu ? a.x : b.x, larger >> 16 ? a.y : b.y};
}

#endif
