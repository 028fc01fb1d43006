/* The portable kernels: 128-bit vectors (SSE2, NEON, AltiVec), or scalar code where there are none. */
#define LANES 4
#if defined(__aarch64__)
#define VECTORS 4 /* 32 registers */
#else
#define VECTORS 2 /* 16 registers */
#endif
#define KERNELS cpu_kernels_baseline
#define KERNELS_NAME "baseline"
#include "cpu/kernels-body.h"
