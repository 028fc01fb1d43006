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

/* Direction a of spectrum i over a block of pixels from `first` on: as it is stored, or made in `to` where there is a calibration, whose
 * polynomial over the block is q */
static const float *direction(float *restrict to, const struct spd_directions *d, const float *restrict q, size_t i, size_t a, size_t first,
                              size_t here) {
  const size_t terms = d->calibration.terms, rows = d->count - terms - (d->slope != NULL), at = i * d->n_observed + first;
  const float *stored = a < rows ? d->jacobian + (i * rows + a) * d->n_observed + first : d->slope ? d->slope + at : NULL;
  if (!terms) return stored;
  if (a >= rows && a < rows + terms) {
    const float *x = d->calibration.model + at;
    double p[SPD_MAX_CALIBRATION];
    for (size_t m = 0; m < here; m++) {
      spd_legendre(p, terms, first + m, d->n_observed);
      to[m] = (float)p[a - rows] * x[m];
    }
    return to;
  }
  SPD_SIMD
  for (size_t m = 0; m < here; m++) to[m] = q[m] * stored[m];
  return to;
}

static void calibration_over(float *q, const struct spd_directions *d, size_t i, size_t first, size_t here) {
  const struct spd_calibration *c = &d->calibration;
  for (size_t m = 0; c->terms && m < here; m++)
    q[m] = (float)spd_calibration_at(c->coefficient + i * c->terms, c->terms, first + m, d->n_observed);
}

/* The part of the expectations of the calibration's coefficients */
static void add_expectations(double *objective, double *gradient, double *matrix, const struct spd_directions *d, size_t i) {
  const struct spd_calibration *c = &d->calibration;
  const size_t k = d->count, rows = k - c->terms - (d->slope != NULL);
  for (size_t a = 0; a < c->terms; a++) {
    const double off = c->coefficient[i * c->terms + a] - (a == 0);
    *objective += 0.5 * c->precision[a] * off * off;
    if (gradient) gradient[rows + a] -= c->precision[a] * off;
    if (matrix) matrix[(rows + a) * k + rows + a] += c->precision[a];
  }
}

struct normal {
  const struct spd_normal *s;
  float *workspace; /* (threads, 2, K, BLOCK): directions, and these times weights */
};

static void normal_row(const void *context, size_t i, int thread) {
  const struct normal *c = context;
  const struct spd_normal *s = c->s;
  const struct spd_directions *d = &s->directions;
  const size_t k = d->count, n = d->n_observed, row = i * n;
  const float *y = s->flux + row, *w = s->ivar + row, *model = s->model + row;
  double *gradient = s->gradient ? s->gradient + i * k : NULL, *matrix = s->matrix ? s->matrix + i * k * k : NULL, sum = 0;
  float *made = c->workspace + (size_t)thread * 2 * k * BLOCK, *weighted = made + k * BLOCK;
  float weight[BLOCK], product[BLOCK], q[BLOCK];
  size_t from, to;
  spd_coverage_lsf(&from, &to, s->z[i], s->wave_rest, s->n_rest, s->wave_observed, n, s->lsf);
  for (size_t a = 0; gradient && a < k; a++) gradient[a] = 0;
  for (size_t a = 0; matrix && a < k * k; a++) matrix[a] = 0;
  for (size_t first = from; first < to; first += BLOCK) {
    const size_t here = to - first < BLOCK ? to - first : BLOCK;
    for (size_t m = 0; m < here; m++)
      sum += spd_residual(&weight[m], &product[m], y[first + m], model[first + m], w[first + m], s->freedom);
    calibration_over(q, d, i, first, here);
    for (size_t a = 0; (gradient || matrix) && a < k; a++) {
      const float *ja = direction(made + a * BLOCK, d, q, i, a, first, here);
      if (gradient) gradient[a] += dot(ja, product, here);
      if (!matrix) continue;
      float *wa = weighted + a * BLOCK;
      SPD_SIMD
      for (size_t m = 0; m < here; m++) wa[m] = weight[m] * ja[m];
      for (size_t b = 0; b <= a; b++) matrix[a * k + b] += dot(ja, weighted + b * BLOCK, here);
    }
  }
  add_expectations(&sum, gradient, matrix, d, i);
  s->objective[i] = sum;
  for (size_t a = 0; matrix && a < k; a++)
    for (size_t b = a + 1; b < k; b++) matrix[a * k + b] = matrix[b * k + a];
}

spd_status cpu_normal(struct spd_backend *backend, const struct spd_normal *s, size_t n, struct spd_error *error) {
  struct normal context = {s, NULL};
  SPD_TRY(cpu_arena(&context.workspace, backend, (size_t)cpu_of(backend)->threads * 2 * s->directions.count * BLOCK, error));
  cpu_parallel(backend, n, normal_row, &context);
  return SPD_STATUS_OK;
}

/* With v = L' d, the variance of a pixel is the sum of squares of v. */
static void spread_row(const void *context, size_t i, int thread) {
  (void)thread;
  const struct spd_spread *s = context;
  const struct spd_directions *d = &s->directions;
  const size_t k = d->count, m = d->n_observed;
  const double *factor = s->factor + i * k * k;
  for (size_t first = 0; first < m; first += BLOCK) {
    const size_t here = m - first < BLOCK ? m - first : BLOCK;
    float variance[BLOCK] = {0}, v[BLOCK], q[BLOCK], made[BLOCK];
    calibration_over(q, d, i, first, here);
    for (size_t a = 0; a < k; a++) {
      for (size_t l = 0; l < here; l++) v[l] = 0;
      for (size_t b = a; b < k; b++) add_scaled(v, direction(made, d, q, i, b, first, here), (float)factor[b * k + a], here);
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
