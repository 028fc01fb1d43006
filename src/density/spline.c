/* Monotonic rational-quadratic splines (Gregory & Delbourgo 1982; Durkan et al. 2019, arXiv:1906.04032), on rows side by side.
 *
 * In the bin of width w and height h that begins at (x_k, y_k), with s = h / w, slopes d0 and d1 at its ends and u = (x - x_k) / w,
 *   y = y_k + h (s u^2 + d0 u (1 - u)) / D,    D = s + (d0 + d1 - 2 s) u (1 - u),
 *   dy/dx = s^2 (d1 u^2 + 2 s u (1 - u) + d0 (1 - u)^2) / D^2.
 * Widths and heights are LEAST + (1 - K LEAST) softmax(raw) of the unit square, which [-bound, bound]^2 is scaled to; inner slopes are
 * LEAST + softplus(raw), those at the ends 1. */
#include "density/made.h"
#include "density/scalar.h"

#define LEAST 1e-3f
#define EDGE 0.5397424f /* softplus(EDGE) = 1 - LEAST: ln(e^0.999 - 1) */

typedef float row[FLOW_ROWS];

/* The bins of all rows, on the unit square */
struct found {
  row x, width, y, height, raw0, raw1; /* raw slopes at both ends */
  row scale[2];                        /* (1 - K LEAST) / sum of the exponentials, of widths and of heights */
  row index;
  row exponential[2 * SPD_FLOW_MOST_BINS]; /* of raw - max */
};

/* The bin of `at` among the knots in x, or in y */
SPD_HOT_INLINE void find_bin(struct found *restrict f, const float *restrict at, const float *restrict raw, size_t bins,
                             const int by_height) {
  for (size_t axis = 0; axis < 2; axis++) {
    const float *restrict from = raw + axis * bins * FLOW_ROWS;
    row *restrict e = f->exponential + axis * bins;
    row largest, sum;
    SPD_SIMD
    for (size_t r = 0; r < FLOW_ROWS; r++) largest[r] = from[r], sum[r] = 0;
    for (size_t k = 1; k < bins; k++) {
      const float *restrict here = from + k * FLOW_ROWS;
      SPD_SIMD
      for (size_t r = 0; r < FLOW_ROWS; r++) largest[r] = here[r] > largest[r] ? here[r] : largest[r];
    }
    for (size_t k = 0; k < bins; k++) {
      const float *restrict here = from + k * FLOW_ROWS;
      SPD_SIMD
      for (size_t r = 0; r < FLOW_ROWS; r++) {
        const float value = spd_exp(here[r] - largest[r]);
        e[k][r] = value;
        sum[r] += value;
      }
    }
    float *restrict scale = f->scale[axis];
    const float rest = 1.0f - LEAST * (float)bins;
    SPD_SIMD
    for (size_t r = 0; r < FLOW_ROWS; r++) scale[r] = rest / sum[r];
  }
  row left, low;
  SPD_SIMD
  for (size_t r = 0; r < FLOW_ROWS; r++) left[r] = low[r] = 0;
  const float *restrict slopes = raw + 2 * bins * FLOW_ROWS;
  for (size_t k = 0; k < bins; k++) {
    const float *restrict before = k == 0 ? slopes : slopes + (k - 1) * FLOW_ROWS;
    const float *restrict after = k + 1 < bins ? slopes + k * FLOW_ROWS : slopes;
    const int is_first = k == 0, is_last = k + 1 == bins;
    const float *restrict ew = f->exponential[k], *restrict eh = f->exponential[bins + k];
    const float number = (float)k;
    SPD_SIMD
    for (size_t r = 0; r < FLOW_ROWS; r++) {
      const float width = LEAST + f->scale[0][r] * ew[r], height = LEAST + f->scale[1][r] * eh[r];
      const int here = is_first || at[r] >= (by_height ? low[r] : left[r]);
      f->x[r] = here ? left[r] : f->x[r];
      f->width[r] = here ? width : f->width[r];
      f->y[r] = here ? low[r] : f->y[r];
      f->height[r] = here ? height : f->height[r];
      f->raw0[r] = here ? (is_first ? EDGE : before[r]) : f->raw0[r];
      f->raw1[r] = here ? (is_last ? EDGE : after[r]) : f->raw1[r];
      f->index[r] = here ? number : f->index[r];
      left[r] += width;
      low[r] += height;
    }
  }
}

SPD_HOT void flow_spline_forward(float *restrict y, float *restrict log_slope, const float *restrict x, const float *restrict raw,
                                 size_t bins, float bound) {
  struct found f;
  row at;
  const float scale = 0.5f / bound;
  SPD_SIMD
  for (size_t r = 0; r < FLOW_ROWS; r++) at[r] = x[r] * scale + 0.5f;
  find_bin(&f, at, raw, bins, 0);
  SPD_SIMD
  for (size_t r = 0; r < FLOW_ROWS; r++) {
    const float d0 = LEAST + flow_softplus(f.raw0[r]), d1 = LEAST + flow_softplus(f.raw1[r]);
    const float s = f.height[r] / f.width[r], u = (at[r] - f.x[r]) / f.width[r], v = 1.0f - u, uv = u * v;
    const float below = s + (d0 + d1 - 2.0f * s) * uv;
    const float value = f.y[r] + f.height[r] * (s * u * u + d0 * uv) / below;
    const float slope = s * s * (d1 * u * u + 2.0f * s * uv + d0 * v * v) / (below * below);
    const int inside = at[r] >= 0.0f && at[r] <= 1.0f;
    y[r] = inside ? (value - 0.5f) * 2.0f * bound : x[r];
    log_slope[r] += inside ? flow_log(slope) : 0.0f;
  }
}

SPD_HOT void flow_spline_inverse(float *restrict x, const float *restrict y, const float *restrict raw, size_t bins, float bound) {
  struct found f;
  row at;
  const float scale = 0.5f / bound;
  SPD_SIMD
  for (size_t r = 0; r < FLOW_ROWS; r++) at[r] = y[r] * scale + 0.5f;
  find_bin(&f, at, raw, bins, 1);
  SPD_SIMD
  for (size_t r = 0; r < FLOW_ROWS; r++) {
    const float d0 = LEAST + flow_softplus(f.raw0[r]), d1 = LEAST + flow_softplus(f.raw1[r]);
    const float s = f.height[r] / f.width[r], above = at[r] - f.y[r], bend = d0 + d1 - 2.0f * s;
    const float a = f.height[r] * (s - d0) + above * bend, b = f.height[r] * d0 - above * bend, c = -s * above;
    const float square = b * b - 4.0f * a * c;
    const float u = 2.0f * c / (-b - sqrtf(square > 0 ? square : 0));
    const float value = f.x[r] + u * f.width[r];
    x[r] = at[r] >= 0.0f && at[r] <= 1.0f ? (value - 0.5f) * 2.0f * bound : y[r];
  }
}

SPD_HOT void flow_spline_backward(float *restrict dx, float *restrict draw, const float *restrict x, const float *restrict raw,
                                  const float *restrict dy, const float *restrict dlog, size_t bins, float bound) {
  struct found f;
  row at, dleft, dwidth, dlow, dheight, draw0, draw1;
  const float scale = 0.5f / bound;
  SPD_SIMD
  for (size_t r = 0; r < FLOW_ROWS; r++) at[r] = x[r] * scale + 0.5f;
  find_bin(&f, at, raw, bins, 0);
  SPD_SIMD
  for (size_t r = 0; r < FLOW_ROWS; r++) {
    const float d0 = LEAST + flow_softplus(f.raw0[r]), d1 = LEAST + flow_softplus(f.raw1[r]);
    const float w = 1.0f / f.width[r], h = f.height[r], s = h * w, u = (at[r] - f.x[r]) * w, v = 1.0f - u, uv = u * v;
    const float bend = d0 + d1 - 2.0f * s, below = 1.0f / (s + bend * uv);
    const float above = s * u * u + d0 * uv, slope = d1 * u * u + 2.0f * s * uv + d0 * v * v;
    const int inside = at[r] >= 0.0f && at[r] <= 1.0f;
    const float gy = inside ? dy[r] * 2.0f * bound : 0.0f, gl = inside ? dlog[r] : 0.0f;
    /* y = y_k + h above / D and ln(slope): ln s^2 + ln(slope) - 2 ln D */
    const float gabove = gy * h * below;
    const float gbelow = -gabove * above * below - 2.0f * gl * below;
    const float gslope = gl / slope;
    const float gs = gabove * u * u + gbelow * (1.0f - 2.0f * uv) + 2.0f * gslope * uv + 2.0f * gl / s;
    const float guv = gabove * d0 + gbelow * bend + 2.0f * gslope * s;
    const float gu = guv * (1.0f - 2.0f * u) + 2.0f * u * (gabove * s + gslope * d1) - 2.0f * v * gslope * d0;
    dlow[r] = gy;
    dheight[r] = gy * above * below + gs * w;
    dwidth[r] = -(gs * s + gu * u) * w;
    dleft[r] = -gu * w;
    draw0[r] = (gabove * uv + gbelow * uv + gslope * v * v) * spd_sigmoid(f.raw0[r]);
    draw1[r] = (gbelow * uv + gslope * u * u) * spd_sigmoid(f.raw1[r]);
    dx[r] = inside ? gu * w * scale : dy[r];
  }
  for (size_t axis = 0; axis < 2; axis++) { /* through sums of widths (heights) and the softmax: p_k (g_k - sum_j p_j g_j) */
    const row *e = (const row *)(f.exponential + axis * bins);
    const float *restrict dstart = axis ? dlow : dleft, *restrict dsize = axis ? dheight : dwidth, *restrict factor = f.scale[axis];
    const float rest = 1.0f - LEAST * (float)bins;
    row mean;
    SPD_SIMD
    for (size_t r = 0; r < FLOW_ROWS; r++) mean[r] = 0;
    for (size_t k = 0; k < bins; k++) {
      const float *restrict here = e[k], number = (float)k;
      SPD_SIMD
      for (size_t r = 0; r < FLOW_ROWS; r++) {
        const float g = number < f.index[r] ? dstart[r] : number == f.index[r] ? dsize[r] : 0.0f;
        mean[r] += here[r] * g;
      }
    }
    SPD_SIMD
    for (size_t r = 0; r < FLOW_ROWS; r++) mean[r] *= factor[r] / rest;
    for (size_t k = 0; k < bins; k++) {
      float *restrict to = draw + (axis * bins + k) * FLOW_ROWS;
      const float *restrict here = e[k], number = (float)k;
      SPD_SIMD
      for (size_t r = 0; r < FLOW_ROWS; r++) {
        const float g = number < f.index[r] ? dstart[r] : number == f.index[r] ? dsize[r] : 0.0f;
        to[r] = here[r] * factor[r] * (g - mean[r]);
      }
    }
  }
  for (size_t k = 0; k + 1 < bins; k++) { /* the slope between bins k and k + 1 */
    float *restrict to = draw + (2 * bins + k) * FLOW_ROWS, number = (float)k;
    SPD_SIMD
    for (size_t r = 0; r < FLOW_ROWS; r++) to[r] = f.index[r] == number ? draw1[r] : f.index[r] == number + 1.0f ? draw0[r] : 0.0f;
  }
}
