#include "core/rng.h"

#include <math.h>

float spd_uniform(uint64_t seed, uint64_t stream, uint64_t i) {
  uint64_t h = spd_mix64(spd_mix64(spd_mix64(seed) ^ stream) ^ i);
  return (float)(h >> 40) * (1.0f / 16777216.0f);
}

struct spd_random spd_random_start(uint64_t seed, uint64_t stream, uint64_t i) {
  struct spd_random random = {spd_mix64(spd_mix64(spd_mix64(seed) ^ stream) ^ i)};
  return random;
}

double spd_random_uniform(struct spd_random *random) {
  uint64_t bits = spd_mix64(random->state);
  random->state += 0x9E3779B97F4A7C15u;
  return ((double)(bits >> 12) + 0.5) * (1.0 / 4503599627370496.0);
}

static void normal_pair(double pair[2], struct spd_random *random) {
  double radius = sqrt(-2.0 * log(spd_random_uniform(random)));
  double angle = 6.283185307179586 * spd_random_uniform(random);
  pair[0] = radius * cos(angle);
  pair[1] = radius * sin(angle);
}

double spd_random_normal(struct spd_random *random) {
  double pair[2];
  normal_pair(pair, random);
  return pair[0];
}

void spd_random_normals(double *x, size_t n, struct spd_random *random) {
  for (size_t i = 0; i < n; i += 2) {
    double pair[2];
    normal_pair(pair, random);
    x[i] = pair[0];
    if (i + 1 < n) x[i + 1] = pair[1];
  }
}

uint64_t spd_below(uint64_t bits, uint64_t n) {
  uint64_t high = bits >> 32, low = bits & 0xffffffffu, n_high = n >> 32, n_low = n & 0xffffffffu;
  uint64_t middle = high * n_low + ((low * n_low) >> 32);
  uint64_t carry = low * n_high + (middle & 0xffffffffu);
  return high * n_high + (middle >> 32) + (carry >> 32);
}

uint64_t spd_hash(const char *bytes, size_t n, uint64_t seed) {
  uint64_t h = 0xcbf29ce484222325u;
  for (size_t i = 0; i < n; i++) h = (h ^ (unsigned char)bytes[i]) * 0x100000001b3u;
  return spd_mix64(h ^ spd_mix64(seed));
}
