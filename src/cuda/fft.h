/* Discrete Fourier transforms of real values in the registers of one thread: every index and every root of unity is known to the compiler.
 *
 * TILE values have HALF = TILE / 2 coefficients, the slots: X_f = sum over l of x_l e^(-2 pi i f l / TILE) for f = 1 ... HALF - 1; slot 0
 * has the two real ones, X_0 and X_HALF. As in any transform of real values, even and odd places are the two parts of HALF complex numbers.
 */
#ifndef SPD_CUDA_FFT_H
#define SPD_CUDA_FFT_H

#include <cuda_runtime.h>

struct cuda_complex {
  float re, im;
};
static __device__ __forceinline__ cuda_complex operator+(cuda_complex a, cuda_complex b) { return {a.re + b.re, a.im + b.im}; }
static __device__ __forceinline__ cuda_complex operator-(cuda_complex a, cuda_complex b) { return {a.re - b.re, a.im - b.im}; }
static __device__ __forceinline__ cuda_complex cuda_conjugate(cuda_complex a) { return {a.re, -a.im}; }
static __device__ __forceinline__ cuda_complex cuda_swap_parts(cuda_complex a) { return {a.im, a.re}; }

/* ---- roots of unity at compile time ---- */

/* Sum of the series of sine (odd = 1) or cosine (odd = 0), of which the terms from `term` on are left */
constexpr double cuda_series(double x, double term, int k) {
  return k > 40 ? 0 : term + cuda_series(x, -term * x * x / ((k + 1) * (k + 2)), k + 2);
}
constexpr float cuda_whole(double x) { /* 0 and +-1 exactly */
  return x < 1e-12 && x > -1e-12 ? 0.0f : x > 1 - 1e-12 ? 1.0f : x < -1 + 1e-12 ? -1.0f : (float)x;
}
/* e^(-2 pi i K / N) */
template <int K, int N>
struct cuda_root {
  static constexpr double angle = -6.283185307179586476925 * (K % N) / N;
  static constexpr float re = cuda_whole(cuda_series(angle, 1, 0)), im = cuda_whole(cuda_series(angle, angle, 1));
};

/* a times that */
template <int K, int N>
static __device__ __forceinline__ cuda_complex cuda_turn(cuda_complex a) {
  constexpr float c = cuda_root<K, N>::re, s = cuda_root<K, N>::im;
  if (s == 0) return c > 0 ? a : cuda_complex{-a.re, -a.im};
  if (c == 0) return s < 0 ? cuda_complex{a.im, -a.re} : cuda_complex{-a.im, a.re};
  return {a.re * c - a.im * s, a.re * s + a.im * c};
}

/* ---- complex transforms: M = R K values are R transforms of K, turned and combined ---- */

template <int M, int R>
static __device__ __forceinline__ void cuda_combine(cuda_complex (&z)[M], int at, const cuda_complex (&a)[R]) {
  constexpr int K = M / R;
  if (R == 2) {
    z[at] = a[0] + a[1], z[at + K] = a[0] - a[1];
  } else if (R == 3) {
    constexpr float half_root = 0.86602540378443865f; /* of 3 */
    const cuda_complex sum = a[1] + a[R - 1], difference = a[1] - a[R - 1];
    const cuda_complex middle = {a[0].re - 0.5f * sum.re, a[0].im - 0.5f * sum.im};
    const cuda_complex side = {half_root * difference.im, -half_root * difference.re};
    z[at] = a[0] + sum, z[at + K] = middle + side, z[at + (R - 1) * K] = middle - side;
  } else {
    const cuda_complex even = a[0] + a[R / 2], odd = a[0] - a[R / 2], sum = a[1] + a[R - 1];
    const cuda_complex side = {a[1].im - a[R - 1].im, a[R - 1].re - a[1].re};
    z[at] = even + sum, z[at + K] = odd + side, z[at + R / 2 * K] = even - sum, z[at + (R - 1) * K] = odd - side;
  }
}

template <int M, int R, int Q>
struct cuda_combine_from { /* the values Q, Q + 1, ... of each part */
  static __device__ __forceinline__ void run(cuda_complex (&z)[M], const cuda_complex (&part)[R][M / R]) {
    cuda_complex a[R];
    a[0] = part[0][Q], a[1] = cuda_turn<Q, M>(part[1][Q]);
    if (R > 2) a[R / 2 + R % 2] = cuda_turn<(R / 2 + R % 2) * Q, M>(part[R / 2 + R % 2][Q]);
    if (R > 3) a[R - 1] = cuda_turn<(R - 1) * Q, M>(part[R - 1][Q]);
    cuda_combine<M, R>(z, Q, a);
    cuda_combine_from<M, R, Q + 1>::run(z, part);
  }
};
template <int M>
struct cuda_combine_from<M, 2, M / 2> {
  static __device__ __forceinline__ void run(cuda_complex (&)[M], const cuda_complex (&)[2][M / 2]) {}
};
template <int M>
struct cuda_combine_from<M, 3, M / 3> {
  static __device__ __forceinline__ void run(cuda_complex (&)[M], const cuda_complex (&)[3][M / 3]) {}
};
template <int M>
struct cuda_combine_from<M, 4, M / 4> {
  static __device__ __forceinline__ void run(cuda_complex (&)[M], const cuda_complex (&)[4][M / 4]) {}
};

template <int M>
struct cuda_fft {
  enum { R = M % 4 == 0 ? 4 : M % 3 == 0 ? 3 : 2, K = M / R };
  static __device__ __forceinline__ void run(cuda_complex (&z)[M]) {
    cuda_complex part[R][K];
#pragma unroll
    for (int r = 0; r < R; r++)
#pragma unroll
      for (int k = 0; k < K; k++) part[r][k] = z[R * k + r];
#pragma unroll
    for (int r = 0; r < R; r++) cuda_fft<K>::run(part[r]);
    cuda_combine_from<M, R, 0>::run(z, part);
  }
};
template <>
struct cuda_fft<1> {
  static __device__ __forceinline__ void run(cuda_complex (&)[1]) {}
};

/* ---- real transforms ---- */

/* The coefficients of the even and odd places <-> those of all, slots F and HALF - F */
template <int HALF, int F, bool MORE = (F <= HALF / 2)>
struct cuda_part_reals {
  static __device__ __forceinline__ void forward(cuda_complex (&z)[HALF], float half) { /* half of a factor of the result */
    const cuda_complex a = z[F], b = cuda_conjugate(z[HALF - F]);
    const cuda_complex even = {half * (a.re + b.re), half * (a.im + b.im)}, odd = {half * (a.im - b.im), -half * (a.re - b.re)};
    const cuda_complex turned = cuda_turn<F, 2 * HALF>(odd);
    z[F] = even + turned, z[HALF - F] = cuda_conjugate(even - turned);
    cuda_part_reals<HALF, F + 1>::forward(z, half);
  }
  static __device__ __forceinline__ void backward(cuda_complex (&z)[HALF]) { /* twice the inverse of that */
    const cuda_complex a = z[F], b = cuda_conjugate(z[HALF - F]), even = a + b;
    const cuda_complex turned = cuda_turn<2 * HALF - F, 2 * HALF>(a - b), odd = {-turned.im, turned.re};
    z[F] = even + odd, z[HALF - F] = cuda_conjugate(even - odd);
    cuda_part_reals<HALF, F + 1>::backward(z);
  }
};
template <int HALF, int F>
struct cuda_part_reals<HALF, F, false> {
  static __device__ __forceinline__ void forward(cuda_complex (&)[HALF], float) {}
  static __device__ __forceinline__ void backward(cuda_complex (&)[HALF]) {}
};

/* z: pairs of neighbouring values -> slots, times `factor` */
template <int HALF>
static __device__ __forceinline__ void cuda_transform(cuda_complex (&z)[HALF], float factor) {
  cuda_fft<HALF>::run(z);
  cuda_part_reals<HALF, 1>::forward(z, 0.5f * factor);
  z[0] = {factor * (z[0].re + z[0].im), factor * (z[0].re - z[0].im)};
}

/* z: slots -> pairs of neighbouring values, times 2 HALF */
template <int HALF>
static __device__ __forceinline__ void cuda_transform_back(cuda_complex (&z)[HALF]) {
  cuda_part_reals<HALF, 1>::backward(z);
  z[0] = {z[0].re + z[0].im, z[0].re - z[0].im};
#pragma unroll
  for (int f = 0; f < HALF; f++) z[f] = cuda_swap_parts(z[f]);
  cuda_fft<HALF>::run(z);
#pragma unroll
  for (int f = 0; f < HALF; f++) z[f] = cuda_swap_parts(z[f]);
}

#endif
