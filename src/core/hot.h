/* Marks for loops and functions where the time goes: what a compiler is told beyond the language. */
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

/* A hot function is compiled for several x86 levels, and the loader picks. Kept off under sanitizers, whose runtime is not up
 * when the loader asks. */
#if defined(SPD_HAVE_TARGET_CLONES)
#define SPD_HOT __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define SPD_HOT
#endif

/* What a hot function calls must be compiled into it, for the same processor. */
#if defined(__GNUC__)
#define SPD_HOT_INLINE static inline __attribute__((always_inline))
#else
#define SPD_HOT_INLINE static inline
#endif

#endif
