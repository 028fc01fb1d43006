/* Discrete Hartley transforms of fixed sizes, one in each lane of a vector:
 *   H(f) = sum_t x_t cas(2 pi f t / n),    cas = cos + sin
 *
 * Real in, real out, and its own transpose, so one transform serves every direction. Mixed radix by decimation in time: with
 * n = r m and H_j the transform of x_j, x_{j+r}, ..., the pair (H(f), H(-f)) behaves as the complex number H(f) + i H(-f): it
 * is the r-point complex DFT of the pairs (H_j(f), H_j(-f)) turned by the angle -2 pi f j / n.
 *
 * Every size and index is a constant once the loops are unrolled, so the compiler makes straight-line code of it and computes
 * the cosines itself. Included by kernels-body.h, which says what a vec is. */

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 128")
#define COS(k, n) ((float)__builtin_cos(6.283185307179586476925 * (double)((k) % (n)) / (double)(n)))
#define SIN(k, n) ((float)__builtin_sin(6.283185307179586476925 * (double)((k) % (n)) / (double)(n)))

enum { HALF_RADIX = 4 }; /* odd radices fold to (r - 1) / 2 pairs: up to 7 */

/* h = DHT of the r reals x, x + stride, ... */
INLINE void hartley_small(vec *h, const vec *x, const int stride, const int r) {
  if (r == 2) {
    h[0] = x[0] + x[stride], h[1] = x[0] - x[stride];
  } else if (r == 4) {
    const vec a = x[0] + x[2 * stride], b = x[0] - x[2 * stride];
    const vec c = x[stride] + x[3 * stride], d = x[stride] - x[3 * stride];
    h[0] = a + c, h[1] = b + d, h[2] = a - c, h[3] = b - d;
  } else { /* odd */
    vec sum[HALF_RADIX], difference[HALF_RADIX];
    h[0] = x[0];
    UNROLL
    for (int j = 1; j <= r / 2; j++) {
      sum[j] = x[j * stride] + x[(r - j) * stride], difference[j] = x[j * stride] - x[(r - j) * stride];
      h[0] += sum[j];
    }
    UNROLL
    for (int f = 1; f <= r / 2; f++) {
      vec even = x[0], odd = SIN(f, r) * difference[1];
      UNROLL
      for (int j = 1; j <= r / 2; j++) {
        even += COS(j * f, r) * sum[j];
        if (j > 1) odd += SIN(j * f, r) * difference[j];
      }
      h[f] = even + odd, h[r - f] = even - odd;
    }
  }
}

/* The r complex numbers u + i v become their DFT. */
INLINE void fourier_small(vec *u, vec *v, const int r) {
  if (r == 2) {
    const vec a = u[0], b = v[0];
    u[0] = a + u[1], v[0] = b + v[1], u[1] = a - u[1], v[1] = b - v[1];
  } else if (r == 4) {
    const vec a = u[0] + u[2], b = u[0] - u[2], c = u[1] + u[3], d = u[1] - u[3];
    const vec e = v[0] + v[2], f = v[0] - v[2], g = v[1] + v[3], h = v[1] - v[3];
    u[0] = a + c, u[1] = b + h, u[2] = a - c, u[3] = b - h;
    v[0] = e + g, v[1] = f - d, v[2] = e - g, v[3] = f + d;
  } else { /* odd */
    vec u_sum[HALF_RADIX], v_sum[HALF_RADIX], u_difference[HALF_RADIX], v_difference[HALF_RADIX];
    const vec u0 = u[0], v0 = v[0];
    UNROLL
    for (int j = 1; j <= r / 2; j++) {
      u_sum[j] = u[j] + u[r - j], u_difference[j] = u[j] - u[r - j];
      v_sum[j] = v[j] + v[r - j], v_difference[j] = v[j] - v[r - j];
      u[0] += u_sum[j], v[0] += v_sum[j];
    }
    UNROLL
    for (int f = 1; f <= r / 2; f++) {
      vec u_even = u0, v_even = v0, u_odd = SIN(f, r) * v_difference[1], v_odd = SIN(f, r) * u_difference[1];
      UNROLL
      for (int j = 1; j <= r / 2; j++) {
        u_even += COS(j * f, r) * u_sum[j], v_even += COS(j * f, r) * v_sum[j];
        if (j > 1) u_odd += SIN(j * f, r) * v_difference[j], v_odd += SIN(j * f, r) * u_difference[j];
      }
      u[f] = u_even + u_odd, v[f] = v_even - v_odd;
      u[r - f] = u_even - u_odd, v[r - f] = v_even + v_odd;
    }
  }
}

/* h (r m) from the r transforms of size m that are stored one after another in `part` */
INLINE void hartley_combine(vec *h, const vec *part, const int r, const int m) {
  const int n = r * m;
  vec u[2 * HALF_RADIX], v[2 * HALF_RADIX];
  hartley_small(u, part, m, r);
  UNROLL
  for (int q = 0; q < r; q++) h[q * m] = u[q];
  UNROLL
  for (int f = 1; f <= m / 2; f++) {
    u[0] = part[f], v[0] = part[m - f];
    UNROLL
    for (int j = 1; j < r; j++) {
      const vec plus = part[j * m + f], minus = part[j * m + m - f];
      u[j] = COS(f * j, n) * plus + SIN(f * j, n) * minus;
      v[j] = COS(f * j, n) * minus - SIN(f * j, n) * plus;
    }
    fourier_small(u, v, r);
    UNROLL
    for (int q = 0; q < r; q++)
      if (2 * f < m || 2 * q < r) h[f + q * m] = u[q], h[n - f - q * m] = v[q]; /* at f = m / 2 both halves say the same */
  }
}

#define HARTLEY_SMALL(n) \
  INLINE void hartley_##n(vec *h, const vec *x, const int stride) { hartley_small(h, x, stride, n); }
#define HARTLEY(n, r, m)                                                               \
  INLINE void hartley_##n(vec *h, const vec *x, const int stride) {                    \
    vec part[n];                                                                       \
    UNROLL                                                                             \
    for (int j = 0; j < r; j++) hartley_##m(part + j * m, x + j * stride, stride * r); \
    hartley_combine(h, part, r, m);                                                    \
  }
HARTLEY_SMALL(4)
HARTLEY_SMALL(7)
HARTLEY(8, 2, 4)
HARTLEY(16, 4, 4)
HARTLEY(21, 3, 7)
HARTLEY(32, 4, 8)
HARTLEY(64, 4, 16)
HARTLEY(84, 4, 21)

/* n: a constant */
INLINE void hartley(vec *h, const vec *x, const int n) {
  if (n == 16) hartley_16(h, x, 1);
  if (n == 32) hartley_32(h, x, 1);
  if (n == 64) hartley_64(h, x, 1);
  if (n == 84) hartley_84(h, x, 1);
}
