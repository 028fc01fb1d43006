/* Annotations for hot loops and functions: compiler hints that plain C cannot express. */
#ifndef SPD_CORE_HOT_H
#define SPD_CORE_HOT_H

#define SPD_PRAGMA(x) _Pragma(#x)
#ifdef SPD_HAVE_OPENMP_SIMD
#define SPD_SIMD SPD_PRAGMA(omp simd)
#define SPD_SIMD_SUM(variable) SPD_PRAGMA(omp simd reduction(+ : variable))
#else
#define SPD_SIMD
#define SPD_SIMD_SUM(variable)
#endif

/* For loops over a tile of registers, whose lengths are known when they are compiled */
#define SPD_UNROLL SPD_PRAGMA(GCC unroll 16)

/* A hot function is compiled for several x86 levels, and the dynamic loader picks one. Off under sanitizers: their runtime is not
 * initialised when the loader resolves the function. */
#if defined(SPD_HAVE_TARGET_CLONES)
#define SPD_HOT __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define SPD_HOT
#endif

/* For functions that hot functions call: they must be inlined, to be compiled for the same processor. */
#if defined(__GNUC__)
#define SPD_HOT_INLINE static inline __attribute__((always_inline))
#else
#define SPD_HOT_INLINE static inline
#endif

#endif
