#include "cpu/kernels.h"
#if defined(CPU_KERNELS_X86)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#endif
#define LANES 16
#define VECTORS 4 /* 32 registers */
#define KERNELS cpu_kernels_avx512
#define KERNELS_NAME "avx512"
#include "cpu/kernels-body.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
