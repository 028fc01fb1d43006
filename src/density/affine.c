/* The affine functions of masked autoregressive flows, and the standardisation of columns. */
#include <math.h>

#include "density/made.h"
#include "density/scalar.h"

#define LEAST 1e-3f /* of a scale */
/* Standardised values are within +-FARTHEST, lest squares overflow: log p of a row is never below about -S FARTHEST^2 / 2. */
#define FARTHEST 1e6

SPD_HOT void flow_affine_forward(float *restrict y, float *restrict log_slope, const float *restrict x, const float *restrict raw) {
  SPD_SIMD
  for (size_t r = 0; r < FLOW_ROWS; r++) {
    const float scale = flow_softplus(raw[r]) + LEAST;
    y[r] = scale * x[r] + raw[FLOW_ROWS + r];
    log_slope[r] += flow_log(scale);
  }
}

SPD_HOT void flow_affine_inverse(float *restrict x, const float *restrict y, const float *restrict raw) {
  SPD_SIMD
  for (size_t r = 0; r < FLOW_ROWS; r++) x[r] = (y[r] - raw[FLOW_ROWS + r]) / (flow_softplus(raw[r]) + LEAST);
}

SPD_HOT void flow_affine_backward(float *restrict dx, float *restrict draw, const float *restrict x, const float *restrict raw,
                                  const float *restrict dy, const float *restrict dlog) {
  SPD_SIMD
  for (size_t r = 0; r < FLOW_ROWS; r++) {
    const float scale = flow_softplus(raw[r]) + LEAST;
    draw[r] = (dy[r] * x[r] + dlog[r] / scale) * spd_sigmoid(raw[r]);
    draw[FLOW_ROWS + r] = dy[r];
    dx[r] = dy[r] * scale;
  }
}

/* ---- standardisation ---- */

static double clamp(double x) { return x > FARTHEST ? FARTHEST : x < -FARTHEST ? -FARTHEST : x; }

SPD_HOT static void scale_column(float *restrict to, const double *restrict from, size_t count, double centre, double inverse) {
  SPD_SIMD
  for (size_t r = 0; r < count; r++) {
    const double t = (from[r] - centre) * inverse;
    to[r] = (float)(t > FARTHEST ? FARTHEST : t < -FARTHEST ? -FARTHEST : t);
  }
}

void flow_standardise(float *to, double *log_slope, const double *from, size_t count, const struct spd_flow *flow, size_t column) {
  const double centre = flow->centre[column], scale = flow->scale[column], tail = flow->tail[column];
  if (tail > 0) {
    for (size_t r = 0; r < count; r++) {
      const double t = (from[r] - centre) / scale;
      to[r] = (float)clamp(tail * asinh(t));
      if (log_slope) log_slope[r] += log(tail / scale) - 0.5 * log1p(t * t);
    }
  } else {
    scale_column(to, from, count, centre, 1.0 / scale);
    const double slope = -log(scale);
    for (size_t r = 0; log_slope && r < count; r++) log_slope[r] += slope;
  }
  for (size_t r = count; r < FLOW_ROWS; r++) to[r] = 0;
}

void flow_restore(double *to, const float *from, size_t count, const struct spd_flow *flow, size_t column) {
  const double centre = flow->centre[column], scale = flow->scale[column], tail = flow->tail[column];
  for (size_t r = 0; r < count; r++) to[r] = centre + scale * (tail > 0 ? sinh((double)from[r] / tail) : (double)from[r]);
}
