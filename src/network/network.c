#include "network/network.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/rng.h"

enum { ALIGNMENT = 16 }; /* floats: a cache line */

static size_t pooled_length(size_t length, size_t pool) { return (length + 2 * (pool / 2) - pool) / pool + 1; }

static void add(struct spd_network *network, spd_parameter_role role, double spread, size_t rank, size_t a, size_t b, size_t c,
                const char *name) {
  struct spd_parameter *p = &network->parameters[network->n_parameters++];
  memset(p, 0, sizeof *p);
  snprintf(p->name, sizeof p->name, "%s", name);
  p->role = role;
  p->rank = rank;
  p->shape[0] = a, p->shape[1] = b, p->shape[2] = c;
  p->spread = (float)spread;
  p->offset = network->size;
  p->count = a * (rank > 1 ? b : 1) * (rank > 2 ? c : 1);
  network->size += (p->count + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* suffix is "" for the spectrum encoder and "w" for the weight encoder, whose blocks are half as wide: it makes keys only */
static void add_convolutions(struct spd_network *network, const char *suffix, size_t divisor) {
  const struct spd_architecture *a = &network->architecture;
  char name[64];
  for (size_t i = 0; i < SPD_BLOCKS; i++) {
    size_t in = i == 0 ? 1 : a->filters[i - 1] / divisor, out = a->filters[i] / divisor, k = a->kernels[i];
    double spread = 1 / sqrt((double)(in * k)); /* the norm that follows makes any other the same */
    snprintf(name, sizeof name, "encoder.conv%zu%s.0.weight", i + 1, suffix);
    add(network, SPD_PARAMETER_CONV_WEIGHT, spread, 3, k, in, out, name);
    snprintf(name, sizeof name, "encoder.conv%zu%s.0.bias", i + 1, suffix);
    add(network, SPD_PARAMETER_CONV_BIAS, spread, 1, out, 0, 0, name);
    snprintf(name, sizeof name, "encoder.conv%zu%s.2.weight", i + 1, suffix);
    add(network, SPD_PARAMETER_SLOPE, 0, 1, out, 0, 0, name);
  }
}

/* Initial weights are uniform in +- gain / sqrt(fan-in). These gains keep the variance of what passes a layer and its activation.
 * PyTorch's 1 takes more than half of the amplitude at every layer, from the features to the spectrum nearly all: what then grows is one
 * direction of the latents at a time, and a weak one, like the ratio of a doublet, never in a usual training. */
static const double GAIN_PRELU = 2.3764;      /* sqrt(3 * 2 / (1 + 0.25^2)) (He et al. 2015) */
static const double GAIN_SPECULATOR = 2.6999; /* sqrt(3) * 1.5588: x sigma(x), x normal with that deviation, has a mean square of 1 */
static const double GAIN_LEAKY = 2.4494;      /* sqrt(3 * 2 / (1 + 0.01^2)) */
static const double GAIN_SPECTRUM = 0.3;      /* the decoder's last layer: training starts near a flat spectrum */

/* Layers stand at every third place of the published Sequential: linear, activation, dropout. */
static void add_linear(struct spd_network *network, const char *part, size_t layer, size_t in, size_t out, double gain) {
  double spread = 1 / sqrt((double)in);
  char name[64];
  snprintf(name, sizeof name, "%s.mlp.%zu.weight", part, 3 * layer);
  add(network, SPD_PARAMETER_LINEAR_WEIGHT, gain * spread, 2, out, in, 0, name);
  snprintf(name, sizeof name, "%s.mlp.%zu.bias", part, 3 * layer);
  add(network, SPD_PARAMETER_LINEAR_BIAS, spread, 1, out, 0, 0, name);
}

static void add_unit_parameters(struct spd_network *network, spd_parameter_role role, const char *part, size_t layer,
                                size_t units, const char *what) {
  char name[64];
  snprintf(name, sizeof name, "%s.mlp.%zu.%s", part, 3 * layer + 1, what);
  add(network, role, 0, 1, units, 0, 0, name);
}

static spd_status check(const struct spd_architecture *a, struct spd_error *error) {
  const size_t most = (size_t)1 << 24;
#define REQUIRE(condition, ...) \
  if (!(condition)) return spd_fail(error, SPD_STATUS_INVALID, __VA_ARGS__)
  REQUIRE(a->n_observed >= 2 && a->n_observed <= most, "n_observed must be at least 2, not %zu", a->n_observed);
  REQUIRE(a->n_rest >= 2 && a->n_rest <= most, "n_rest must be at least 2, not %zu", a->n_rest);
  REQUIRE(a->n_latent >= 1 && a->n_latent <= 4096, "the number of latents must be at least 1, not %zu", a->n_latent);
  for (size_t i = 0; i < SPD_BLOCKS; i++) {
    REQUIRE(a->filters[i] >= 1 && a->filters[i] <= 65536, "filters[%zu] must be between 1 and 65536, not %zu", i + 1,
            a->filters[i]);
    REQUIRE(a->kernels[i] % 2 == 1 && a->kernels[i] < 1024, "kernels[%zu] must be odd and below 1024, not %zu", i + 1,
            a->kernels[i]);
    REQUIRE(a->pools[i] % 2 == 1 && a->pools[i] < 1024, "pools[%zu] must be odd and below 1024, not %zu", i + 1, a->pools[i]);
    REQUIRE(!a->weight_attention || a->filters[i] % 2 == 0, "filters[%zu] must be even for weight attention, not %zu", i + 1,
            a->filters[i]);
  }
  REQUIRE(a->pools[SPD_BLOCKS - 1] == 1, "the last block has no pool: pools[3] must be 1, not %zu", a->pools[SPD_BLOCKS - 1]);
  REQUIRE(a->filters[SPD_BLOCKS - 1] % 2 == 0, "filters[3] must be even (values and keys), not %zu",
          a->filters[SPD_BLOCKS - 1]);
  REQUIRE(a->n_encoder_hidden <= SPD_MAX_HIDDEN && a->n_decoder_hidden <= SPD_MAX_HIDDEN, "at most %d hidden layers",
          SPD_MAX_HIDDEN);
  for (size_t i = 0; i < a->n_encoder_hidden; i++)
    REQUIRE(a->encoder_hidden[i] >= 1 && a->encoder_hidden[i] <= most, "encoder_hidden[%zu] must be at least 1, not %zu", i + 1,
            a->encoder_hidden[i]);
  for (size_t i = 0; i < a->n_decoder_hidden; i++)
    REQUIRE(a->decoder_hidden[i] >= 1 && a->decoder_hidden[i] <= most, "decoder_hidden[%zu] must be at least 1, not %zu", i + 1,
            a->decoder_hidden[i]);
  REQUIRE(a->decoder_activation == SPD_ACTIVATION_SPECULATOR || a->decoder_activation == SPD_ACTIVATION_LEAKY,
          "the decoder's activation is Speculator or leaky ReLU");
  REQUIRE(a->lsf == 0 || (a->lsf % 2 == 1 && a->lsf < 1024 && a->lsf <= a->n_observed),
          "lsf must be 0 or an odd number of pixels, not %zu", a->lsf);
#undef REQUIRE
  return SPD_STATUS_OK;
}

spd_status spd_network_init(struct spd_network *network, const struct spd_architecture *architecture, struct spd_error *error) {
  SPD_TRY(check(architecture, error));
  memset(network, 0, sizeof *network);
  network->architecture = *architecture;
  const struct spd_architecture *a = &network->architecture;

  network->lengths[0] = a->n_observed;
  for (size_t i = 0; i < SPD_BLOCKS; i++) network->lengths[i + 1] = pooled_length(network->lengths[i], a->pools[i]);
  for (size_t i = 1; i < SPD_BLOCKS; i++)
    if (a->pools[i] > 1 && network->lengths[i] > 65535)
      return spd_fail(error, SPD_STATUS_INVALID, "%zu positions before pool %zu are too many (65535 at most): widen pools[%zu]",
                      network->lengths[i], i + 1, i);
  network->n_feature = a->filters[SPD_BLOCKS - 1] / 2;

  if (a->lsf) add(network, SPD_PARAMETER_LSF, 0, 3, 1, 1, a->lsf, "encoder.instrument.lsf.weight");
  add_convolutions(network, "", 1);
  size_t in = network->n_feature + (a->redshift_input ? 1 : 0);
  for (size_t i = 0; i <= a->n_encoder_hidden; i++) {
    size_t out = i < a->n_encoder_hidden ? a->encoder_hidden[i] : a->n_latent;
    add_linear(network, "encoder", i, in, out, GAIN_PRELU);
    if (i < a->n_encoder_hidden) add_unit_parameters(network, SPD_PARAMETER_SLOPE, "encoder", i, out, "weight");
    in = out;
  }
  if (a->weight_attention) add_convolutions(network, "w", 2);
  in = a->n_latent;
  const double gain = a->decoder_activation == SPD_ACTIVATION_SPECULATOR ? GAIN_SPECULATOR : GAIN_LEAKY;
  for (size_t i = 0; i <= a->n_decoder_hidden; i++) {
    size_t out = i < a->n_decoder_hidden ? a->decoder_hidden[i] : a->n_rest;
    add_linear(network, "decoder", i, in, out, i < a->n_decoder_hidden ? gain : GAIN_SPECTRUM);
    if (a->decoder_activation == SPD_ACTIVATION_SPECULATOR) {
      add_unit_parameters(network, SPD_PARAMETER_BETA, "decoder", i, out, "beta");
      add_unit_parameters(network, SPD_PARAMETER_GAMMA, "decoder", i, out, "gamma");
    }
    in = out;
  }
  return SPD_STATUS_OK;
}

const struct spd_parameter *spd_network_find(const struct spd_network *network, const char *name) {
  for (size_t i = 0; i < network->n_parameters; i++)
    if (strcmp(network->parameters[i].name, name) == 0) return &network->parameters[i];
  return NULL;
}

void spd_network_fill(float *weights, const struct spd_network *network, uint64_t seed) {
  memset(weights, 0, network->size * sizeof *weights);
  for (size_t i = 0; i < network->n_parameters; i++) {
    const struct spd_parameter *p = &network->parameters[i];
    float *w = weights + p->offset;
    switch (p->role) {
      case SPD_PARAMETER_CONV_WEIGHT:
      case SPD_PARAMETER_CONV_BIAS:
      case SPD_PARAMETER_LINEAR_WEIGHT:
      case SPD_PARAMETER_LINEAR_BIAS:
        for (size_t j = 0; j < p->count; j++) w[j] = p->spread * (2.0f * spd_uniform(seed, i, j) - 1.0f);
        break;
      case SPD_PARAMETER_SLOPE:
        for (size_t j = 0; j < p->count; j++) w[j] = 0.25f;
        break;
      case SPD_PARAMETER_BETA:
        for (size_t j = 0; j < p->count; j++) w[j] = 1.0f;
        break;
      case SPD_PARAMETER_GAMMA:
        break;
      case SPD_PARAMETER_LSF:
        w[p->count / 2] = 1.0f;
        break;
    }
  }
}

void spd_parameter_export(float *pytorch, const float *ours, const struct spd_parameter *p) {
  if (p->role != SPD_PARAMETER_CONV_WEIGHT) {
    memcpy(pytorch, ours, p->count * sizeof *ours);
    return;
  }
  size_t kernel = p->shape[0], in = p->shape[1], out = p->shape[2];
  for (size_t k = 0; k < kernel; k++)
    for (size_t i = 0; i < in; i++)
      for (size_t o = 0; o < out; o++) pytorch[(o * in + i) * kernel + k] = ours[(k * in + i) * out + o];
}

void spd_parameter_import(float *ours, const float *pytorch, const struct spd_parameter *p) {
  if (p->role != SPD_PARAMETER_CONV_WEIGHT) {
    memcpy(ours, pytorch, p->count * sizeof *ours);
    return;
  }
  size_t kernel = p->shape[0], in = p->shape[1], out = p->shape[2];
  for (size_t k = 0; k < kernel; k++)
    for (size_t i = 0; i < in; i++)
      for (size_t o = 0; o < out; o++) ours[(k * in + i) * out + o] = pytorch[(o * in + i) * kernel + k];
}
