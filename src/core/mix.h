/* The mixing function of the package's random numbers, for C and CUDA compilers. */
#ifndef SPD_CORE_MIX_H
#define SPD_CORE_MIX_H

#include <stdint.h>

#ifdef __CUDACC__
#define SPD_INLINE static __host__ __device__ __forceinline__
#else
#define SPD_INLINE static inline
#endif

/* splitmix64's output function, Steele et al. 2014 */
SPD_INLINE uint64_t spd_mix64(uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

#endif
