/* Instance norm, PReLU and max-pool of LANES channels at a time, over positions in order; called by block.c.
 * Included by kernels-body.h. `here`: number of channels, LANES or fewer in the last group. */

typedef int32_t vec_int __attribute__((vector_size(4 * LANES)));
typedef uint16_t vec_place __attribute__((vector_size(2 * LANES)));

/* All ones where the comparison of vectors holds: a where it does, else b */
INLINE vec choose(vec_int where, vec a, vec b) { return (vec)((where & (vec_int)a) | (~where & (vec_int)b)); }

INLINE vec prelu(vec x, vec slope) { return choose(x > 0, x, slope * x); }

/* Sum of (u - centre)^power over the positions, in four parts: the processor adds while it multiplies, and long sums lose fewer
 * digits. */
INLINE vec sum_of_powers(const float *u, size_t u_stride, size_t length, vec centre, const int power, size_t here) {
  vec sum[4] = {{0}};
  size_t l = 0;
  for (; l + 4 <= length; l += 4) {
    UNROLL
    for (int j = 0; j < 4; j++) {
      const vec d = load_part(u + (l + (size_t)j) * u_stride, here) - centre;
      sum[j] += power == 1 ? d : d * d;
    }
  }
  for (; l < length; l++) {
    const vec d = load_part(u + l * u_stride, here) - centre;
    sum[0] += power == 1 ? d : d * d;
  }
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/* A falling slope makes the smallest value the winner, so every value is activated before it competes; the first of equal ones
 * wins, as in PyTorch. */
INLINE void normalise_lanes(float *y, size_t y_stride, uint16_t *argmax, float *mean, float *inverse_sd, const float *u, size_t u_stride,
                            const float *slope, size_t length, size_t pool, size_t pooled, size_t here) {
  const vec a = load_part(slope, here), middle = load_part(u + length / 2 * u_stride, here);
  const vec shift = sum_of_powers(u, u_stride, length, middle, 1, here) / (float)length;
  const vec variance = sum_of_powers(u, u_stride, length, middle + shift, 2, here) / (float)length;
  for (size_t c = 0; c < here; c++) {
    mean[c] = middle[c] + shift[c];
    inverse_sd[c] = (float)(1.0 / sqrt((double)variance[c] + SPD_NORM_EPSILON));
  }
  const vec centre = load_part(mean, here), scale = load_part(inverse_sd, here);
  for (size_t t = 0; t < pooled; t++) {
    const size_t from = spd_window_from(t, pool), to = spd_window_to(t, pool, length);
    vec best = prelu((load_part(u + from * u_stride, here) - centre) * scale, a);
    vec_int place = (vec_int){0} + (int32_t)from;
    for (size_t l = from + 1; l < to; l++) {
      const vec value = prelu((load_part(u + l * u_stride, here) - centre) * scale, a);
      const vec_int wins = value > best;
      best = choose(wins, value, best);
      place = (wins & (int32_t)l) | (~wins & place);
    }
    store_part(y + t * y_stride, best, here);
    if (argmax) {
      const vec_place narrow = __builtin_convertvector(place, vec_place);
      memcpy(argmax + t * y_stride, &narrow, here * sizeof *argmax);
    }
  }
}

static void normalise(float *y, size_t y_stride, uint16_t *argmax, float *mean, float *inverse_sd, const float *u, size_t u_stride,
                      const float *slope, size_t length, size_t pool, size_t pooled, size_t width) {
  size_t c = 0;
  for (; c + LANES <= width; c += LANES)
    normalise_lanes(y + c, y_stride, argmax ? argmax + c : NULL, mean + c, inverse_sd + c, u + c, u_stride, slope + c, length, pool, pooled,
                    LANES);
  if (c < width)
    normalise_lanes(y + c, y_stride, argmax ? argmax + c : NULL, mean + c, inverse_sd + c, u + c, u_stride, slope + c, length, pool, pooled,
                    width - c);
}

/* With v the normalised map and d the gradient at v (zero but at the winners):
 * du = (d - sum d / L - v sum(d v) / L) / sd. */
INLINE void normalise_backward_lanes(float *du, size_t du_stride, float *dslope, const float *u, size_t u_stride, const float *dy,
                                     size_t dy_stride, const uint16_t *argmax, const float *mean, const float *inverse_sd,
                                     const float *slope, size_t length, size_t pool, size_t pooled, size_t here) {
  const vec centre = load_part(mean, here), scale = load_part(inverse_sd, here), a = load_part(slope, here);
  vec sum_d = {0}, sum_dv = {0}, sum_slope = {0};
  for (size_t t = 0; t < pooled; t++) {
    vec x = {0};
    if (argmax)
      for (size_t c = 0; c < here; c++) x[c] = u[argmax[t * dy_stride + c] * u_stride + c];
    else
      x = load_part(u + t * u_stride, here);
    const vec v = (x - centre) * scale, g = load_part(dy + t * dy_stride, here), d = choose(v > 0, g, a * g);
    sum_slope += choose(v > 0, (vec){0}, g * v);
    sum_d += d;
    sum_dv += d * v;
  }
  store_part(dslope, sum_slope, here);
  const vec mean_d = sum_d / (float)length, mean_dv = sum_dv / (float)length;
  size_t l = 0;
  for (size_t t = 0; t < pooled; t++) {
    const size_t to = spd_window_to(t, pool, length);
    const vec g = load_part(dy + t * dy_stride, here);
    vec_int place = {0};
    if (argmax) {
      vec_place narrow = {0};
      memcpy(&narrow, argmax + t * dy_stride, here * sizeof *argmax);
      place = __builtin_convertvector(narrow, vec_int);
    }
    for (; l < to; l++) {
      const vec v = (load_part(u + l * u_stride, here) - centre) * scale;
      vec d = choose(v > 0, g, a * g);
      if (argmax) d = choose(place == (int32_t)l, d, (vec){0});
      store_part(du + l * du_stride, scale * (d - mean_d - v * mean_dv), here);
    }
  }
  for (; l < length; l++) {
    const vec v = (load_part(u + l * u_stride, here) - centre) * scale;
    store_part(du + l * du_stride, scale * (-mean_d - v * mean_dv), here);
  }
}

static void normalise_backward(float *du, size_t du_stride, float *dslope, const float *u, size_t u_stride, const float *dy,
                               size_t dy_stride, const uint16_t *argmax, const float *mean, const float *inverse_sd, const float *slope,
                               size_t length, size_t pool, size_t pooled, size_t width) {
  size_t c = 0;
  for (; c + LANES <= width; c += LANES)
    normalise_backward_lanes(du + c, du_stride, dslope + c, u + c, u_stride, dy + c, dy_stride, argmax ? argmax + c : NULL, mean + c,
                             inverse_sd + c, slope + c, length, pool, pooled, LANES);
  if (c < width)
    normalise_backward_lanes(du + c, du_stride, dslope + c, u + c, u_stride, dy + c, dy_stride, argmax ? argmax + c : NULL, mean + c,
                             inverse_sd + c, slope + c, length, pool, pooled, width - c);
}
