/* Random numbers that are a pure function of (seed, stream, counter): no hidden state, so any order gives the same values. */
#ifndef SPD_CORE_RNG_H
#define SPD_CORE_RNG_H

#include <stddef.h>
#include <stdint.h>

#include "core/mix.h"

/* Uniform in [0, 1) with 24 bits, for element i of stream t. */
float spd_uniform(uint64_t seed, uint64_t stream, uint64_t i);

/* A sequence of its own for each (seed, stream, i): splitmix64 from a mixed start. */
struct spd_random {
  uint64_t state;
};
struct spd_random spd_random_start(uint64_t seed, uint64_t stream, uint64_t i);
double spd_random_uniform(struct spd_random *random); /* in (0, 1), never an end, 52 bits */
double spd_random_normal(struct spd_random *random);  /* Box & Muller 1958; uses two uniforms */
/* n of them, two from each pair of uniforms. */
void spd_random_normals(double *x, size_t n, struct spd_random *random);

/* Uniform integer below n (n > 0) without bias worth naming (64-bit multiply-high). */
uint64_t spd_below(uint64_t bits, uint64_t n);

/* FNV-1a of a byte string, mixed with the seed: the hash of a row's identity that decides its place in train or validation. */
uint64_t spd_hash(const char *bytes, size_t n, uint64_t seed);

#endif
