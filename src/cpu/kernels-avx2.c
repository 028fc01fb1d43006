#include "cpu/kernels.h"
#if defined(CPU_KERNELS_X86)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define LANES 8
#define VECTORS 2 /* 16 registers */
#define KERNELS cpu_kernels_avx2
#define KERNELS_NAME "avx2"
#include "cpu/kernels-body.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
