/* The flux calibration of each spectrum: least squares of Legendre's polynomials times its model, in double. */
#include "cpu/cpu.h"
#include "network/scalar.h"

static void forward_row(const void *context, size_t i, int thread) {
  (void)thread;
  const struct spd_calibrate *s = context;
  const struct spd_calibration *c = &s->calibration;
  const size_t n = s->n_observed, terms = c->terms;
  const float *flux = s->flux + i * n, *ivar = s->ivar + i * n, *x = c->model + i * n;
  double matrix[SPD_MAX_CALIBRATION * SPD_MAX_CALIBRATION] = {0}, p[SPD_MAX_CALIBRATION], *coefficient = c->coefficient + i * terms;
  size_t from, to;
  spd_coverage_lsf(&from, &to, s->z[i], s->wave_rest, s->n_rest, s->wave_observed, n, s->lsf);
  for (size_t a = 0; a < terms; a++) coefficient[a] = 0;
  for (size_t m = from; m < to; m++) {
    const double weighted = (double)ivar[m] * x[m];
    spd_legendre(p, terms, m, n);
    for (size_t a = 0; a < terms; a++) {
      coefficient[a] += weighted * flux[m] * p[a];
      for (size_t b = 0; b <= a; b++) matrix[a * terms + b] += weighted * x[m] * p[a] * p[b];
    }
  }
  s->penalty[i] = spd_calibration_solve(coefficient, matrix, c->precision, terms);
  for (size_t m = 0; m < n; m++) s->y[i * n + m] = (float)(spd_calibration_at(coefficient, terms, m, n) * x[m]);
}

spd_status cpu_calibrate_forward(struct spd_backend *backend, const struct spd_calibrate *s, size_t n, struct spd_error *error) {
  (void)error;
  cpu_parallel(backend, n, forward_row, s);
  return SPD_STATUS_OK;
}

static void backward_row(const void *context, size_t i, int thread) {
  (void)thread;
  const struct spd_calibrate *s = context;
  const size_t n = s->n_observed, terms = s->calibration.terms;
  const double *coefficient = s->calibration.coefficient + i * terms;
  for (size_t m = 0; m < n; m++) s->dy[i * n + m] *= (float)spd_calibration_at(coefficient, terms, m, n);
}

spd_status cpu_calibrate_backward(struct spd_backend *backend, const struct spd_calibrate *s, size_t n, struct spd_error *error) {
  (void)error;
  cpu_parallel(backend, n, backward_row, s);
  return SPD_STATUS_OK;
}
