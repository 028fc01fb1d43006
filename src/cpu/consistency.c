/* The latents of copies against those of their spectra. A batch has some thousand latents, so one thread does it. */
#include <math.h>

#include "cpu/cpu.h"
#include "network/scalar.h"

/* |s_i - s_{i + 1}|^2 / (2 S), of which u is the geometric mean; the last row is beside the first. */
static double step(const struct spd_consistency *s, size_t n, size_t i) {
  const float *x = s->latent + i * s->n_latent, *y = s->latent + (i + 1) % n * s->n_latent;
  double sum = 0;
  for (size_t a = 0; a < s->n_latent; a++) sum += ((double)x[a] - (double)y[a]) * ((double)x[a] - (double)y[a]);
  return sum / (2 * (double)s->n_latent) + SPD_LEAST_DISTANCE;
}

/* S sigma^2 u */
static double unit_of(const struct spd_consistency *s, size_t n) {
  double logs = 0;
  for (size_t i = 0; s->scale_free && i < n; i++) logs += log(step(s, n, i));
  return (double)s->n_latent * s->sigma * s->sigma * exp(logs / (double)n);
}

static double distance(const struct spd_consistency *s, size_t i, double unit) {
  double sum = 0;
  for (size_t a = i * s->n_latent; a < (i + 1) * s->n_latent; a++)
    sum += ((double)s->copy[a] - (double)s->latent[a]) * ((double)s->copy[a] - (double)s->latent[a]);
  return sum / unit;
}

spd_status cpu_consistency_forward(struct spd_backend *backend, const struct spd_consistency *s, size_t n, struct spd_error *error) {
  (void)backend;
  (void)error;
  const double unit = unit_of(s, n);
  for (size_t i = 0; i < s->copies; i++) s->loss[i] = spd_consistency_loss(distance(s, i, unit));
  return SPD_STATUS_OK;
}

spd_status cpu_consistency_backward(struct spd_backend *backend, const struct spd_consistency *s, size_t n, struct spd_error *error) {
  (void)backend;
  (void)error;
  const size_t n_latent = s->n_latent;
  const double unit = unit_of(s, n);
  double through_unit = 0; /* - d/d log u of the loss */
  for (size_t i = 0; i < n; i++) {
    const double q = i < s->copies ? distance(s, i, unit) : 0;
    const double slope = i < s->copies ? s->factor / (double)s->copies * spd_consistency_slope(q) : 0;
    through_unit += slope * q;
    for (size_t a = i * n_latent; a < (i + 1) * n_latent; a++) {
      s->dlatent[a] = 0;
      if (i >= s->copies) continue;
      s->dcopy[a] = (float)(slope * 2 * ((double)s->copy[a] - (double)s->latent[a]) / unit);
      s->dlatent[a] = -s->dcopy[a];
    }
  }
  if (!s->scale_free) return SPD_STATUS_OK;
  for (size_t i = 0; i < n; i++) {
    const double factor = through_unit / ((double)n * (double)n_latent * step(s, n, i));
    for (size_t a = 0; a < n_latent; a++) {
      const size_t here = i * n_latent + a, next = (i + 1) % n * n_latent + a;
      const float d = (float)(factor * ((double)s->latent[here] - (double)s->latent[next]));
      s->dlatent[here] -= d;
      s->dlatent[next] += d;
    }
  }
  return SPD_STATUS_OK;
}
