/* The latents of copies against those of their spectra. A batch has some thousand latents, so one thread does it. */
#include <math.h>

#include "cpu/cpu.h"
#include "network/scalar.h"

/* The latents' variance over the batch, a mean over latents; 0 for one spectrum */
static double variance(const float *latent, size_t n, size_t n_latent) {
  double sum = 0;
  for (size_t a = 0; a < n_latent; a++) {
    double mean = 0;
    for (size_t i = 0; i < n; i++) mean += (double)latent[i * n_latent + a];
    mean /= (double)n;
    for (size_t i = 0; i < n; i++) sum += ((double)latent[i * n_latent + a] - mean) * ((double)latent[i * n_latent + a] - mean);
  }
  return n > 1 ? sum / ((double)n_latent * (double)(n - 1)) : 0;
}

/* S sigma^2 u */
static double unit_of(const struct spd_consistency *s, double u) {
  return (double)s->n_latent * s->sigma * s->sigma * (s->scale_free ? u + SPD_LEAST_DISTANCE : 1);
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
  const double unit = unit_of(s, s->scale_free ? variance(s->latent, n, s->n_latent) : 1);
  for (size_t i = 0; i < s->copies; i++) s->loss[i] = spd_consistency_loss(distance(s, i, unit));
  return SPD_STATUS_OK;
}

spd_status cpu_consistency_backward(struct spd_backend *backend, const struct spd_consistency *s, size_t n, struct spd_error *error) {
  (void)backend;
  (void)error;
  const size_t n_latent = s->n_latent;
  const double u = s->scale_free ? variance(s->latent, n, n_latent) : 1, unit = unit_of(s, u);
  double through_unit = 0; /* - u d/du of the sum of losses */
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
  if (!s->scale_free || n < 2) return SPD_STATUS_OK;
  const double factor = through_unit / (u + SPD_LEAST_DISTANCE) * 2 / ((double)n_latent * (double)(n - 1));
  for (size_t a = 0; a < n_latent; a++) {
    double mean = 0;
    for (size_t i = 0; i < n; i++) mean += (double)s->latent[i * n_latent + a];
    mean /= (double)n;
    for (size_t i = 0; i < n; i++) s->dlatent[i * n_latent + a] -= (float)(factor * ((double)s->latent[i * n_latent + a] - mean));
  }
  return SPD_STATUS_OK;
}
