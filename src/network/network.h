/* The network's definition: the sizes of its architecture, and the table of its parameters in one block of floats. */
#ifndef SPD_NETWORK_NETWORK_H
#define SPD_NETWORK_NETWORK_H

#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

enum { SPD_BLOCKS = 3, SPD_MAX_HIDDEN = 8, SPD_MAX_PARAMETERS = 128, SPD_MAX_CALIBRATION = 6 };

typedef enum { SPD_ACTIVATION_NONE = 0, SPD_ACTIVATION_PRELU, SPD_ACTIVATION_SPECULATOR, SPD_ACTIVATION_LEAKY } spd_activation;

struct spd_architecture {
  size_t n_observed;          /* M, pixels of the instrument */
  size_t n_rest;              /* R, pixels of the restframe grid */
  size_t n_latent;            /* S */
  size_t filters[SPD_BLOCKS]; /* channels after each convolution; the last is split into values and keys */
  size_t kernels[SPD_BLOCKS]; /* odd */
  size_t pools[SPD_BLOCKS];   /* odd; the last is 1: no pool */
  size_t n_encoder_hidden, encoder_hidden[SPD_MAX_HIDDEN];
  size_t n_decoder_hidden, decoder_hidden[SPD_MAX_HIDDEN];
  int redshift_input;                         /* z is an input of the encoder MLP, after the attended features */
  int weight_attention;                       /* a second encoder reads log ivar and multiplies its keys in (paper, section 3.3) */
  spd_activation decoder_activation;          /* SPD_ACTIVATION_SPECULATOR or SPD_ACTIVATION_LEAKY */
  int decoder_offset;                         /* 1: the restframe spectrum is 1 + the last layer's output */
  size_t lsf;                                 /* 0, or the odd number of kernel pixels */
  size_t n_calibration;                       /* terms of the polynomial that each spectrum's model is multiplied by; 0: none */
  double calibration_sd[SPD_MAX_CALIBRATION]; /* expected deviations of its coefficients from 1, 0, 0, ... */
};

/* The part of the network that a parameter belongs to. Its index counts convolutions or linear layers, from 0. */
typedef enum { SPD_PART_INSTRUMENT, SPD_PART_SPECTRUM, SPD_PART_WEIGHTS, SPD_PART_ENCODER, SPD_PART_DECODER } spd_part;

/* The role decides the initial values and the PyTorch layout. */
typedef enum {
  SPD_PARAMETER_CONV_WEIGHT,   /* (k, in, out) here, (out, in, k) in PyTorch */
  SPD_PARAMETER_CONV_BIAS,     /* (out): kept for exchange; the norm removes it, so it takes part in nothing */
  SPD_PARAMETER_LINEAR_WEIGHT, /* (out, in) */
  SPD_PARAMETER_LINEAR_BIAS,   /* (out) */
  SPD_PARAMETER_SLOPE,         /* PReLU, (channels) */
  SPD_PARAMETER_BETA,          /* Speculator, (units) */
  SPD_PARAMETER_GAMMA,         /* Speculator, (units) */
  SPD_PARAMETER_LSF            /* (1, 1, k), correlation order as in PyTorch: element j multiplies pixel m + j - (k-1)/2 */
} spd_parameter_role;

struct spd_parameter {
  spd_part part;
  size_t index;
  spd_parameter_role role;
  char name[64];         /* the PyTorch tensor name, e.g. "encoder.conv2.0.weight" */
  size_t rank, shape[3]; /* as stored here */
  float spread;          /* initial values are uniform in +- spread; 0: constants that depend on the role */
  size_t offset, count;  /* in floats; every offset is a multiple of 16 */
};

struct spd_network {
  struct spd_architecture architecture;
  size_t lengths[SPD_BLOCKS + 1]; /* positions before each block and after the last: 3921, 785, 72, 72 */
  size_t n_feature;               /* C of the attended features: half the last filters */
  size_t n_parameters;
  struct spd_parameter parameters[SPD_MAX_PARAMETERS];
  size_t size;     /* floats in a parameter block, gaps for alignment included (they are always zero) */
  size_t lsf_size; /* of them, those of the LSF, at the beginning of the block; 0 without one */
  size_t decoder;  /* place of the decoder's, from which on all are the decoder's */
};

/* Checks the sizes and fills the table. Order: LSF, convolutions of the spectrum, encoder MLP, convolutions of the weights, decoder MLP. */
spd_status spd_network_init(struct spd_network *network, const struct spd_architecture *architecture, struct spd_error *error);

/* NULL if there is no such parameter. */
const struct spd_parameter *spd_network_find(const struct spd_network *network, spd_part part, size_t index, spd_parameter_role role);

/* Copies the parameters that both networks have; their shapes must be the same, or the status is INVALID. */
spd_status spd_network_copy(float *to, const struct spd_network *to_network, const float *from, const struct spd_network *from_network,
                            struct spd_error *error);

/* weights: (network->size). Convolutions, linear layers uniform in +- spread, PReLU 0.25, beta 1, gamma 0, LSF a delta. */
void spd_network_fill(float *weights, const struct spd_network *network, uint64_t seed);

/* PyTorch layout (out, in, k) <-> ours (k, in, out) for convolutions; a plain copy for all else. Both (count). */
void spd_parameter_export(float *pytorch, const float *ours, const struct spd_parameter *parameter);
void spd_parameter_import(float *ours, const float *pytorch, const struct spd_parameter *parameter);

#endif
