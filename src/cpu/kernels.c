#include "cpu/kernels.h"

const struct cpu_kernels *cpu_kernels_available(size_t i) {
#if defined(CPU_KERNELS_X86)
  __builtin_cpu_init();
  const int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const int avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                     __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512 && i-- == 0) return &cpu_kernels_avx512;
  if (avx2 && i-- == 0) return &cpu_kernels_avx2;
#endif
  return i == 0 ? &cpu_kernels_baseline : NULL;
}
