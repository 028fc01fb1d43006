#include "network/network.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/rng.h"

enum { ALIGNMENT = 16 }; /* floats: a cache line */

static size_t pooled_length(size_t length, size_t pool) { return (length + 2 * (pool / 2) - pool) / pool + 1; }

/* Fills the tensor's PyTorch name. In the published MLPs each layer takes three places of a Sequential: linear, activation, dropout. */
static void make_name(char *name, size_t size, spd_part part, size_t index, spd_parameter_role role) {
  static const char *const parts[] = {"encoder.instrument", "encoder", "encoder", "encoder", "decoder"};
  static const char *const roles[] = {"weight", "bias", "weight", "bias", "weight", "beta", "gamma", "weight"};
  const int is_activation = role == SPD_PARAMETER_SLOPE || role == SPD_PARAMETER_BETA || role == SPD_PARAMETER_GAMMA;
  if (part == SPD_PART_INSTRUMENT)
    snprintf(name, size, "%s.lsf.%s", parts[part], roles[role]);
  else if (part == SPD_PART_SPECTRUM || part == SPD_PART_WEIGHTS)
    snprintf(name, size, "%s.conv%zu%s.%d.%s", parts[part], index + 1, part == SPD_PART_WEIGHTS ? "w" : "", is_activation ? 2 : 0,
             roles[role]);
  else
    snprintf(name, size, "%s.mlp.%zu.%s", parts[part], 3 * index + (is_activation ? 1 : 0), roles[role]);
}

static size_t padded(size_t count) { return (count + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

/* shape: (a), (a, b) or (a, b, c); 0 where a dimension is missing */
static void add(struct spd_network *network, spd_part part, size_t index, spd_parameter_role role, double spread, size_t a, size_t b,
                size_t c) {
  struct spd_parameter *p = &network->parameters[network->n_parameters++];
  memset(p, 0, sizeof *p);
  p->part = part, p->index = index, p->role = role;
  make_name(p->name, sizeof p->name, part, index, role);
  p->rank = c ? 3 : b ? 2 : 1;
  p->shape[0] = a, p->shape[1] = b, p->shape[2] = c;
  p->spread = (float)spread;
  p->offset = network->size;
  p->count = a * (b ? b : 1) * (c ? c : 1);
  network->size += padded(p->count);
}

/* divisor: the blocks of the weight encoder, which makes keys only, are half as wide */
static void add_convolutions(struct spd_network *network, spd_part part, size_t divisor) {
  const struct spd_architecture *a = &network->architecture;
  for (size_t i = 0; i < SPD_BLOCKS; i++) {
    const size_t in = i == 0 ? 1 : a->filters[i - 1] / divisor, out = a->filters[i] / divisor, k = a->kernels[i];
    const double spread = 1 / sqrt((double)(in * k)); /* any would do: a norm follows */
    add(network, part, i, SPD_PARAMETER_CONV_WEIGHT, spread, k, in, out);
    add(network, part, i, SPD_PARAMETER_CONV_BIAS, spread, out, 0, 0);
    add(network, part, i, SPD_PARAMETER_SLOPE, 0, out, 0, 0);
  }
}

/* Initial weights are uniform in +- gain / sqrt(fan-in). These gains preserve the variance through a layer and its activation. With
 * PyTorch's gain of 1 each layer loses more than half of the amplitude, the two MLPs together nearly all; training then finds one direction
 * of the latents at a time, and misses weak ones, such as the ratio within a doublet, in a usual number of epochs. */
static const double GAIN_PRELU = 2.3764;      /* sqrt(3 * 2 / (1 + 0.25^2)) (He et al. 2015) */
static const double GAIN_SPECULATOR = 2.6999; /* sqrt(3) * 1.5588: x sigma(x), x normal with that deviation, has a mean square of 1 */
static const double GAIN_LEAKY = 2.4494;      /* sqrt(3 * 2 / (1 + 0.01^2)) */
static const double GAIN_SPECTRUM = 0.3;      /* the decoder's last layer: training starts near a flat spectrum */

static void add_linear(struct spd_network *network, spd_part part, size_t layer, size_t in, size_t out, double gain) {
  const double spread = 1 / sqrt((double)in);
  add(network, part, layer, SPD_PARAMETER_LINEAR_WEIGHT, gain * spread, out, in, 0);
  add(network, part, layer, SPD_PARAMETER_LINEAR_BIAS, spread, out, 0, 0);
}

static spd_status check(const struct spd_architecture *a, struct spd_error *error) {
  const size_t most = (size_t)1 << 24;
#define REQUIRE(condition, ...) \
  if (!(condition)) return spd_fail(error, SPD_STATUS_INVALID, __VA_ARGS__)
  REQUIRE(a->n_observed >= 2 && a->n_observed <= most, "n_observed must be at least 2, not %zu", a->n_observed);
  REQUIRE(a->n_rest >= 2 && a->n_rest <= most, "n_rest must be at least 2, not %zu", a->n_rest);
  REQUIRE(a->n_latent >= 1 && a->n_latent <= 4096, "the number of latents must be at least 1, not %zu", a->n_latent);
  for (size_t i = 0; i < SPD_BLOCKS; i++) {
    REQUIRE(a->filters[i] >= 1 && a->filters[i] <= 65536, "filters[%zu] must be between 1 and 65536, not %zu", i + 1, a->filters[i]);
    REQUIRE(a->kernels[i] % 2 == 1 && a->kernels[i] < 1024, "kernels[%zu] must be odd and below 1024, not %zu", i + 1, a->kernels[i]);
    REQUIRE(a->pools[i] % 2 == 1 && a->pools[i] < 1024, "pools[%zu] must be odd and below 1024, not %zu", i + 1, a->pools[i]);
    REQUIRE(!a->weight_attention || a->filters[i] % 2 == 0, "filters[%zu] must be even for weight attention, not %zu", i + 1,
            a->filters[i]);
  }
  REQUIRE(a->pools[SPD_BLOCKS - 1] == 1, "the last block has no pool: pools[3] must be 1, not %zu", a->pools[SPD_BLOCKS - 1]);
  REQUIRE(a->filters[SPD_BLOCKS - 1] % 2 == 0, "filters[3] must be even (values and keys), not %zu", a->filters[SPD_BLOCKS - 1]);
  REQUIRE(a->n_encoder_hidden <= SPD_MAX_HIDDEN && a->n_decoder_hidden <= SPD_MAX_HIDDEN, "at most %d hidden layers", SPD_MAX_HIDDEN);
  for (size_t i = 0; i < a->n_encoder_hidden; i++)
    REQUIRE(a->encoder_hidden[i] >= 1 && a->encoder_hidden[i] <= most, "encoder_hidden[%zu] must be at least 1, not %zu", i + 1,
            a->encoder_hidden[i]);
  for (size_t i = 0; i < a->n_decoder_hidden; i++)
    REQUIRE(a->decoder_hidden[i] >= 1 && a->decoder_hidden[i] <= most, "decoder_hidden[%zu] must be at least 1, not %zu", i + 1,
            a->decoder_hidden[i]);
  REQUIRE(a->decoder_activation == SPD_ACTIVATION_SPECULATOR || a->decoder_activation == SPD_ACTIVATION_LEAKY,
          "the decoder's activation is Speculator or leaky ReLU");
  REQUIRE(a->lsf == 0 || (a->lsf % 2 == 1 && a->lsf < 1024 && a->lsf <= a->n_observed), "lsf must be 0 or an odd number of pixels, not %zu",
          a->lsf);
  REQUIRE(a->n_calibration <= SPD_MAX_CALIBRATION, "a calibration has at most %d terms, not %zu", SPD_MAX_CALIBRATION, a->n_calibration);
  for (size_t i = 0; i < a->n_calibration; i++)
    REQUIRE(a->calibration_sd[i] > 0 && a->calibration_sd[i] <= 1e6, "calibration_sd[%zu] must be positive and at most 1e6, not %g", i + 1,
            a->calibration_sd[i]);
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

  if (a->lsf) add(network, SPD_PART_INSTRUMENT, 0, SPD_PARAMETER_LSF, 0, 1, 1, a->lsf);
  network->lsf_size = network->size;
  add_convolutions(network, SPD_PART_SPECTRUM, 1);
  size_t in = network->n_feature + (a->redshift_input ? 1 : 0);
  for (size_t i = 0; i <= a->n_encoder_hidden; i++) {
    const size_t out = i < a->n_encoder_hidden ? a->encoder_hidden[i] : a->n_latent;
    add_linear(network, SPD_PART_ENCODER, i, in, out, GAIN_PRELU);
    if (i < a->n_encoder_hidden) add(network, SPD_PART_ENCODER, i, SPD_PARAMETER_SLOPE, 0, out, 0, 0);
    in = out;
  }
  if (a->weight_attention) add_convolutions(network, SPD_PART_WEIGHTS, 2);
  network->decoder = network->size;
  in = a->n_latent;
  const double gain = a->decoder_activation == SPD_ACTIVATION_SPECULATOR ? GAIN_SPECULATOR : GAIN_LEAKY;
  for (size_t i = 0; i <= a->n_decoder_hidden; i++) {
    const size_t out = i < a->n_decoder_hidden ? a->decoder_hidden[i] : a->n_rest;
    add_linear(network, SPD_PART_DECODER, i, in, out, i < a->n_decoder_hidden ? gain : GAIN_SPECTRUM);
    if (a->decoder_activation == SPD_ACTIVATION_SPECULATOR) {
      add(network, SPD_PART_DECODER, i, SPD_PARAMETER_BETA, 0, out, 0, 0);
      add(network, SPD_PART_DECODER, i, SPD_PARAMETER_GAMMA, 0, out, 0, 0);
    }
    in = out;
  }
  return SPD_STATUS_OK;
}

const struct spd_parameter *spd_network_find(const struct spd_network *network, spd_part part, size_t index, spd_parameter_role role) {
  for (size_t i = 0; i < network->n_parameters; i++) {
    const struct spd_parameter *p = &network->parameters[i];
    if (p->part == part && p->index == index && p->role == role) return p;
  }
  return NULL;
}

spd_status spd_network_copy(float *to, const struct spd_network *to_network, const float *from, const struct spd_network *from_network,
                            struct spd_error *error) {
  for (size_t i = 0; i < to_network->n_parameters; i++) {
    const struct spd_parameter *p = &to_network->parameters[i];
    const struct spd_parameter *q = spd_network_find(from_network, p->part, p->index, p->role);
    if (!q) continue;
    if (memcmp(p->shape, q->shape, sizeof p->shape) != 0)
      return spd_fail(error, SPD_STATUS_INVALID, "the two networks have different shapes of %s", p->name);
    memcpy(to + p->offset, from + q->offset, p->count * sizeof *to);
  }
  return SPD_STATUS_OK;
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
      case SPD_PARAMETER_GAMMA: break;
      case SPD_PARAMETER_LSF: w[p->count / 2] = 1.0f; break;
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
