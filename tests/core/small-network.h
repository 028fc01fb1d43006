/* A small network and spectra for it, the same for every test that needs a whole one. */
#ifndef SPD_TEST_SMALL_NETWORK_H
#define SPD_TEST_SMALL_NETWORK_H

#include "check.h"
#include "core/rng.h"
#include "network/model.h"

CHECK_UNUSED static const struct spd_parameter *parameter_named(const struct spd_network *network, const char *name) {
  for (size_t i = 0; i < network->n_parameters; i++)
    if (strcmp(network->parameters[i].name, name) == 0) return &network->parameters[i];
  return NULL;
}

CHECK_UNUSED static struct spd_architecture small_architecture(void) {
  struct spd_architecture a = {.n_observed = 139,
                               .n_rest = 187,
                               .n_latent = 3,
                               .filters = {6, 10, 16},
                               .kernels = {5, 7, 9},
                               .pools = {5, 3, 1},
                               .n_encoder_hidden = 2,
                               .encoder_hidden = {10, 7},
                               .n_decoder_hidden = 2,
                               .decoder_hidden = {9, 21},
                               .redshift_input = 1,
                               .decoder_activation = SPD_ACTIVATION_SPECULATOR,
                               .decoder_offset = 1,
                               .lsf = 5};
  return a;
}

CHECK_UNUSED static struct spd_architecture paper_architecture(void) {
  struct spd_architecture a = {.n_observed = 3921,
                               .n_rest = 5881,
                               .n_latent = 6,
                               .filters = {128, 256, 512},
                               .kernels = {5, 11, 21},
                               .pools = {5, 11, 1},
                               .n_encoder_hidden = 3,
                               .encoder_hidden = {128, 64, 32},
                               .n_decoder_hidden = 3,
                               .decoder_hidden = {64, 256, 1024},
                               .redshift_input = 1,
                               .decoder_activation = SPD_ACTIVATION_SPECULATOR,
                               .decoder_offset = 1};
  return a;
}

struct small_data {
  float *wave_observed, *wave_rest; /* (M), (R) */
  float *flux, *ivar, *z;           /* (n, M), (n, M), (n) */
  float *weights;                   /* (network->size) */
};

/* Roughly normal, from four uniforms. */
static double small_normal(uint64_t seed, uint64_t stream, uint64_t i) {
  double sum = 0;
  for (uint64_t j = 0; j < 4; j++) sum += (double)spd_uniform(seed, stream * 4 + j, i);
  return (sum - 2) * sqrt(3.0);
}

/* Observed 4000-6500 A, log-spaced; restframe to z = 0.5. Weights from the initialisation, those of linear layers to twice
 * 1 / sqrt(fan-in) whatever trainings start from, with slopes of both signs, a bent LSF and Speculator parameters off their start, so that
 * no gradient is trivially zero. */
CHECK_UNUSED static struct small_data small_data_new(const struct spd_network *network, size_t n, uint64_t seed) {
  const struct spd_architecture *a = &network->architecture;
  const size_t m = a->n_observed, r = a->n_rest;
  struct small_data d = {check_alloc(m * sizeof(float)),     check_alloc(r * sizeof(float)), check_alloc(n * m * sizeof(float)),
                         check_alloc(n * m * sizeof(float)), check_alloc(n * sizeof(float)), check_alloc(network->size * sizeof(float))};
  for (size_t i = 0; i < m; i++) d.wave_observed[i] = (float)(4000 * pow(6500.0 / 4000.0, (double)i / (double)(m - 1)));
  const double first = (double)d.wave_observed[0] / 1.5, last = (double)d.wave_observed[m - 1];
  for (size_t i = 0; i < r; i++) d.wave_rest[i] = (float)(first + (last - first) * (double)i / (double)(r - 1));
  for (size_t i = 0; i < n; i++) {
    d.z[i] = (float)(0.02 + 0.45 * (double)spd_uniform(seed, 1, i));
    double slope = 0.4 * small_normal(seed, 2, i), line = 3000 + 2500 * (double)spd_uniform(seed, 3, i);
    for (size_t p = 0; p < m; p++) {
      double x = (double)p / (double)m - 0.5, distance = ((double)d.wave_observed[p] - line) / 40;
      uint64_t at = i * m + p;
      d.flux[at] = (float)(1 + slope * x + exp(-distance * distance) + 0.1 * small_normal(seed, 4, at));
      d.ivar[at] = (float)(spd_uniform(seed, 40, at) < 0.1f ? 0 : 5 + 20 * (double)spd_uniform(seed, 41, at));
    }
  }
  spd_network_fill(d.weights, network, seed);
  for (size_t t = 0; t < network->n_parameters; t++) {
    const struct spd_parameter *p = &network->parameters[t];
    float *w = d.weights + p->offset;
    for (size_t i = 0; i < p->count; i++) {
      double g = small_normal(seed, 100 + t, i);
      if (p->role == SPD_PARAMETER_SLOPE) w[i] = (float)(i % 3 == 2 ? -0.2 - 0.1 * fabs(g) : 0.25 + 0.1 * fabs(g));
      if (p->role == SPD_PARAMETER_BETA) w[i] = (float)(1 + 0.3 * g);
      if (p->role == SPD_PARAMETER_GAMMA) w[i] = (float)(0.1 + 0.2 * g);
      if (p->role == SPD_PARAMETER_LSF) w[i] = (float)(0.1 + 0.9 * (double)w[i] + 0.05 * g);
      if (p->role == SPD_PARAMETER_LINEAR_WEIGHT) w[i] *= (float)(2 / sqrt((double)p->shape[1])) / p->spread;
      if (p->role == SPD_PARAMETER_LINEAR_BIAS) w[i] *= 2.0f;
    }
  }
  return d;
}

/* Resolutions of n spectra of m pixels: widths from 0.6 to 1.6 pixels, or diagonals of any sign and sum */
CHECK_UNUSED static float *small_resolutions(const struct spd_band *band, size_t n, size_t m, uint64_t seed) {
  const size_t width = spd_band_width(band, m);
  float *values = check_alloc(n * width * sizeof *values);
  for (size_t i = 0; i < n * width; i++) {
    const double u = (double)spd_uniform(seed, 60, i), centre = i % band->size == band->size / 2 ? 0.5 : 0.1;
    values[i] = (float)(band->gaussian ? 0.6 + u : centre + 0.1 * (u - 0.3));
  }
  return values;
}

CHECK_UNUSED static void small_data_free(struct small_data *d) {
  free(d->wave_observed);
  free(d->wave_rest);
  free(d->flux);
  free(d->ivar);
  free(d->z);
  free(d->weights);
}

#endif
