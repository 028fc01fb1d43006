/* Restframe to observed frame: y_m = x interpolated linearly at wave_m / (1 + z). Positions and weights in double. */
#include <string.h>

#include "cpu/cpu.h"
#include "network/scalar.h"

static double grid_scale(const struct spd_resample *s) {
  return (double)(s->n_rest - 1) / ((double)s->wave_rest[s->n_rest - 1] - (double)s->wave_rest[0]);
}

static void forward_row(const void *context, size_t i, int thread) {
  (void)thread;
  const struct spd_resample *s = context;
  const double z = s->z[i], scale = grid_scale(s);
  const float *x = s->x + i * s->n_rest;
  float *y = s->y + i * s->n_observed;
  float *slope = s->slope ? s->slope + i * s->n_observed : NULL;
  size_t from, to;
  spd_coverage(&from, &to, z, s->wave_rest, s->n_rest, s->wave_observed, s->n_observed);
  memset(y, 0, s->n_observed * sizeof *y);
  if (slope) memset(slope, 0, s->n_observed * sizeof *slope);
  for (size_t m = from; m < to; m++) {
    double wave = (double)s->wave_observed[m] / (1.0 + z);
    size_t j = spd_rest_index(wave, s->wave_rest, s->n_rest, scale);
    double low = s->wave_rest[j], high = s->wave_rest[j + 1];
    y[m] = (float)(x[j] + (wave - low) / (high - low) * ((double)x[j + 1] - (double)x[j]));
    if (slope) slope[m] = (float)(-((double)x[j + 1] - (double)x[j]) / (high - low) * wave / (1.0 + z));
  }
}

spd_status cpu_resample_forward(struct spd_backend *backend, const struct spd_resample *s, size_t n, struct spd_error *error) {
  (void)error;
  cpu_parallel(backend, n, forward_row, s);
  return SPD_STATUS_OK;
}

static void backward_row(const void *context, size_t i, int thread) {
  (void)thread;
  const struct spd_resample *s = context;
  const double z = s->z[i], scale = grid_scale(s);
  const float *x = s->x + i * s->n_rest, *dy = s->dy + i * s->n_observed;
  float *dx = s->dx ? s->dx + i * s->n_rest : NULL;
  double dz = 0;
  size_t from, to;
  spd_coverage(&from, &to, z, s->wave_rest, s->n_rest, s->wave_observed, s->n_observed);
  if (dx) memset(dx, 0, s->n_rest * sizeof *dx);
  for (size_t m = from; m < to; m++) {
    double wave = (double)s->wave_observed[m] / (1.0 + z);
    size_t j = spd_rest_index(wave, s->wave_rest, s->n_rest, scale);
    double low = s->wave_rest[j], high = s->wave_rest[j + 1], weight = (wave - low) / (high - low);
    if (dx) {
      dx[j] += (float)((1.0 - weight) * dy[m]);
      dx[j + 1] += (float)(weight * dy[m]);
    }
    dz -= dy[m] * ((double)x[j + 1] - (double)x[j]) / (high - low) * wave / (1.0 + z);
  }
  if (s->dz) s->dz[i] = dz;
}

spd_status cpu_resample_backward(struct spd_backend *backend, const struct spd_resample *s, size_t n, struct spd_error *error) {
  (void)error;
  cpu_parallel(backend, n, backward_row, s);
  return SPD_STATUS_OK;
}
