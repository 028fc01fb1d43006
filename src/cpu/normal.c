/* Normal equations of the latents, and errors of the model: sums over pixels in blocks, in float within a block and in double over the
 * blocks. */
#include <math.h>

#include "cpu/cpu.h"
#include "network/scalar.h"

enum { BLOCK = 256 };

SPD_HOT static float dot(const float *restrict a, const float *restrict b, size_t n) {
  float sum = 0;
  SPD_SIMD_SUM(sum)
  for (size_t m = 0; m < n; m++) sum += a[m] * b[m];
  return sum;
}

SPD_HOT static void add_scaled(float *restrict y, const float *restrict x, float scale, size_t n) {
  SPD_SIMD
  for (size_t m = 0; m < n; m++) y[m] += scale * x[m];
}

SPD_HOT static void add_square(float *restrict y, const float *restrict x, size_t n) {
  SPD_SIMD
  for (size_t m = 0; m < n; m++) y[m] += x[m] * x[m];
}

struct normal {
  const struct spd_normal *s;
  float *workspace; /* (threads, K, BLOCK): directions times weights */
};

/* Row a of the Jacobian (K, M) of spectrum i; with `slope` that is the last one. */
static const float *direction(const float *jacobian, const float *slope, size_t k, size_t m, size_t i, size_t a) {
  const size_t rows = k - (slope != NULL);
  return a < rows ? jacobian + (i * rows + a) * m : slope + i * m;
}

static void normal_row(const void *context, size_t i, int thread) {
  const struct normal *c = context;
  const struct spd_normal *s = c->s;
  const size_t k = s->directions, row = i * s->n_observed;
  const float *y = s->flux + row, *w = s->ivar + row, *model = s->model + row;
  double *gradient = s->gradient ? s->gradient + i * k : NULL, *matrix = s->matrix ? s->matrix + i * k * k : NULL, sum = 0;
  float *weighted = c->workspace + (size_t)thread * k * BLOCK, weight[BLOCK], product[BLOCK];
  size_t from, to;
  spd_coverage_lsf(&from, &to, s->z[i], s->wave_rest, s->n_rest, s->wave_observed, s->n_observed, s->lsf);
  for (size_t a = 0; gradient && a < k; a++) gradient[a] = 0;
  for (size_t a = 0; matrix && a < k * k; a++) matrix[a] = 0;
  for (size_t first = from; first < to; first += BLOCK) {
    const size_t here = to - first < BLOCK ? to - first : BLOCK;
    for (size_t m = 0; m < here; m++)
      sum += spd_residual(&weight[m], &product[m], y[first + m], model[first + m], w[first + m], s->freedom);
    for (size_t a = 0; (gradient || matrix) && a < k; a++) {
      const float *ja = direction(s->jacobian, s->slope, k, s->n_observed, i, a) + first;
      if (gradient) gradient[a] += dot(ja, product, here);
      if (!matrix) continue;
      float *wa = weighted + a * BLOCK;
      SPD_SIMD
      for (size_t m = 0; m < here; m++) wa[m] = weight[m] * ja[m];
      for (size_t b = 0; b <= a; b++) matrix[a * k + b] += dot(ja, weighted + b * BLOCK, here);
    }
  }
  s->objective[i] = sum;
  for (size_t a = 0; matrix && a < k; a++)
    for (size_t b = a + 1; b < k; b++) matrix[a * k + b] = matrix[b * k + a];
}

spd_status cpu_normal(struct spd_backend *backend, const struct spd_normal *s, size_t n, struct spd_error *error) {
  struct normal context = {s, NULL};
  SPD_TRY(cpu_arena(&context.workspace, backend, (size_t)cpu_of(backend)->threads * s->directions * BLOCK, error));
  cpu_parallel(backend, n, normal_row, &context);
  return SPD_STATUS_OK;
}

/* With v = L' J, the variance of a pixel is the sum of squares of v. */
static void spread_row(const void *context, size_t i, int thread) {
  (void)thread;
  const struct spd_spread *s = context;
  const size_t k = s->directions, m = s->n_observed;
  const double *factor = s->factor + i * k * k;
  for (size_t first = 0; first < m; first += BLOCK) {
    const size_t here = m - first < BLOCK ? m - first : BLOCK;
    float variance[BLOCK] = {0}, v[BLOCK];
    for (size_t a = 0; a < k; a++) {
      for (size_t l = 0; l < here; l++) v[l] = 0;
      for (size_t b = a; b < k; b++) add_scaled(v, direction(s->jacobian, s->slope, k, m, i, b) + first, (float)factor[b * k + a], here);
      add_square(variance, v, here);
    }
    for (size_t l = 0; l < here; l++) s->y[i * m + first + l] = sqrtf(variance[l]);
  }
}

spd_status cpu_spread(struct spd_backend *backend, const struct spd_spread *s, size_t n, struct spd_error *error) {
  (void)error;
  cpu_parallel(backend, n, spread_row, s);
  return SPD_STATUS_OK;
}
