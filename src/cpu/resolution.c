/* Each spectrum's own resolution: a band matrix, linear between knots, zero beyond the array. */
#include "cpu/cpu.h"
#include "network/scalar.h"

/* The diagonals of pixel m: (size), a sum of those of two knots */
static inline float weight(const float *from, const float *to, float part, size_t k) { return from[k] + part * (to[k] - from[k]); }

static const float *band_of(const struct spd_resolution *s, size_t row) { return s->band + row / s->share * s->n_knots * s->size; }

/* Those of the diagonals that are within the array at pixel m: from ... to - 1 */
static inline void inside(size_t *from, size_t *to, const struct spd_resolution *s, size_t m) {
  const size_t half = s->size / 2, right = s->n_observed - m + half;
  *from = m < half ? half - m : 0;
  *to = right < s->size ? right : s->size;
}

static void forward_row(const void *context, size_t i, int thread) {
  (void)thread;
  const struct spd_resolution *s = context;
  const size_t half = s->size / 2, size = s->size;
  const float *band = band_of(s, i), *x = s->x + i * s->n_observed;
  float *y = s->y + i * s->n_observed;
  for (size_t m = 0; m < s->n_observed; m++) {
    const float *left = band + s->left[m] * size, *right = left + size;
    const float part = s->part[m];
    size_t from, to;
    double sum = 0;
    inside(&from, &to, s, m);
    for (size_t k = from; k < to; k++) sum += (double)weight(left, right, part, k) * x[m + k - half];
    y[m] = (float)sum;
  }
}

spd_status cpu_resolution_forward(struct spd_backend *backend, const struct spd_resolution *s, size_t n, struct spd_error *error) {
  (void)error;
  cpu_parallel(backend, n, forward_row, s);
  return SPD_STATUS_OK;
}

/* dx_i = sum_k b_k(m) dy_m over the pixels m = i + half - k that see pixel i: the same order on every backend */
static void backward_row(const void *context, size_t i, int thread) {
  (void)thread;
  const struct spd_resolution *s = context;
  const size_t half = s->size / 2, size = s->size, last = s->n_observed;
  const float *band = band_of(s, i), *dy = s->dy + i * last;
  float *dx = s->dx + i * last;
  for (size_t p = 0; p < last; p++) {
    double sum = 0;
    for (size_t k = 0; k < size; k++) {
      if (p + half < k || p + half - k >= last) continue;
      const size_t m = p + half - k;
      const float *left = band + s->left[m] * size;
      sum += (double)weight(left, left + size, s->part[m], k) * dy[m];
    }
    dx[p] = (float)sum;
  }
}

spd_status cpu_resolution_backward(struct spd_backend *backend, const struct spd_resolution *s, size_t n, struct spd_error *error) {
  (void)error;
  cpu_parallel(backend, n, backward_row, s);
  return SPD_STATUS_OK;
}

struct gaussians {
  float *band;
  const float *sigma;
  size_t size, count;
};

enum { AT_ONCE = 64 };

static void make_gaussians(const void *context, size_t piece, int thread) {
  (void)thread;
  const struct gaussians *g = context;
  for (size_t i = piece * AT_ONCE; i < (piece + 1) * AT_ONCE && i < g->count; i++)
    spd_gaussian(g->band + i * g->size, g->sigma[i], g->size);
}

spd_status cpu_gaussians(struct spd_backend *backend, float *band, const float *sigma, size_t size, size_t count, struct spd_error *error) {
  (void)error;
  const struct gaussians gaussians = {band, sigma, size, count};
  cpu_parallel(backend, (count + AT_ONCE - 1) / AT_ONCE, make_gaussians, &gaussians);
  return SPD_STATUS_OK;
}
