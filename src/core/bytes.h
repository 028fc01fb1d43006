/* Numbers as files store them, big-endian (FITS) or little-endian (safetensors), on any host. */
#ifndef SPD_CORE_BYTES_H
#define SPD_CORE_BYTES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline int spd_host_is_little(void) {
  const uint16_t one = 1;
  unsigned char first;
  memcpy(&first, &one, 1);
  return first;
}

/* Converts between the host's order and big-endian; its own inverse. */
static inline uint32_t spd_big32(uint32_t x) {
  return spd_host_is_little() ? x >> 24 | (x >> 8 & 0xff00u) | (x << 8 & 0xff0000u) | x << 24 : x;
}
static inline uint64_t spd_big64(uint64_t x) {
  return spd_host_is_little() ? (uint64_t)spd_big32((uint32_t)x) << 32 | spd_big32((uint32_t)(x >> 32)) : x;
}

/* ---- big-endian ---- */

static inline void spd_put_int(unsigned char *to, int32_t value) {
  const uint32_t bits = spd_big32((uint32_t)value);
  memcpy(to, &bits, sizeof bits);
}
static inline int32_t spd_get_int(const unsigned char *from) {
  uint32_t bits;
  memcpy(&bits, from, sizeof bits);
  return (int32_t)spd_big32(bits);
}
static inline void spd_put_double(unsigned char *to, double value) {
  uint64_t bits;
  memcpy(&bits, &value, sizeof bits);
  bits = spd_big64(bits);
  memcpy(to, &bits, sizeof bits);
}
static inline double spd_get_double(const unsigned char *from) {
  uint64_t bits;
  double value;
  memcpy(&bits, from, sizeof bits);
  bits = spd_big64(bits);
  memcpy(&value, &bits, sizeof value);
  return value;
}
static inline void spd_put_float(unsigned char *to, float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  bits = spd_big32(bits);
  memcpy(to, &bits, sizeof bits);
}
static inline void spd_put_floats(unsigned char *to, const float *from, size_t n) {
  for (size_t i = 0; i < n; i++) spd_put_float(to + 4 * i, from[i]);
}
static inline void spd_get_floats(float *to, const unsigned char *from, size_t n) {
  for (size_t i = 0; i < n; i++) {
    uint32_t bits;
    memcpy(&bits, from + 4 * i, sizeof bits);
    bits = spd_big32(bits);
    memcpy(to + i, &bits, sizeof bits);
  }
}

/* ---- little-endian ---- */

/* An unsigned integer of `size` bytes, 8 at most */
static inline uint64_t spd_get_little(const unsigned char *bytes, size_t size) {
  uint64_t value = 0;
  for (size_t i = size; i-- > 0;) value = value << 8 | bytes[i];
  return value;
}

/* Reverses the bytes of each of `count` values of `size` bytes. */
static inline void spd_swap_bytes(unsigned char *values, size_t count, size_t size) {
  for (size_t i = 0; i < count; i++, values += size)
    for (size_t j = 0; j < size / 2; j++) {
      const unsigned char byte = values[j];
      values[j] = values[size - 1 - j];
      values[size - 1 - j] = byte;
    }
}

#endif
