#include "data/dtype.h"

#include <stdint.h>
#include <string.h>

#include "core/bytes.h"

static const struct {
  const char *name;
  size_t size;
} dtypes[SPD_N_DTYPES] = {{"F64", 8}, {"F32", 4}, {"F16", 2}, {"BF16", 2}, {"I64", 8},
                          {"I32", 4}, {"I16", 2}, {"I8", 1},  {"U8", 1},   {"BOOL", 1}};

const char *spd_dtype_name(spd_dtype dtype) { return dtypes[dtype].name; }
size_t spd_dtype_size(spd_dtype dtype) { return dtypes[dtype].size; }

int spd_dtype_find(spd_dtype *dtype, const char *name) {
  for (int i = 0; i < SPD_N_DTYPES; i++)
    if (strcmp(dtypes[i].name, name) == 0) return *dtype = (spd_dtype)i, 1;
  return 0;
}

static float bits_to_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static double bits_to_double(uint64_t bits) {
  double value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

/* IEEE 754 binary16 */
static float half_to_float(uint32_t bits) {
  uint32_t sign = (bits & 0x8000) << 16, exponent = bits >> 10 & 0x1f, fraction = bits & 0x3ff;
  if (exponent == 31) return bits_to_float(sign | 0x7f800000 | fraction << 13);
  if (exponent > 0) return bits_to_float(sign | (exponent + 112) << 23 | fraction << 13);
  float value = (float)fraction * 0x1p-24f;
  return sign ? -value : value;
}

double spd_dtype_value(spd_dtype dtype, const unsigned char *bytes) {
  switch (dtype) {
    case SPD_DTYPE_F64: return bits_to_double(spd_get_little(bytes, 8));
    case SPD_DTYPE_F32: return bits_to_float((uint32_t)spd_get_little(bytes, 4));
    case SPD_DTYPE_F16: return half_to_float((uint32_t)spd_get_little(bytes, 2));
    case SPD_DTYPE_BF16: return bits_to_float((uint32_t)spd_get_little(bytes, 2) << 16);
    case SPD_DTYPE_I64: return (double)(int64_t)spd_get_little(bytes, 8);
    case SPD_DTYPE_I32: return (int32_t)(uint32_t)spd_get_little(bytes, 4);
    case SPD_DTYPE_I16: return (int16_t)(uint16_t)spd_get_little(bytes, 2);
    case SPD_DTYPE_I8: return (int8_t)bytes[0];
    case SPD_DTYPE_U8: return bytes[0];
    case SPD_DTYPE_BOOL: return bytes[0] != 0;
  }
  return 0;
}
