/* The inside of a model, for model-build.c, which makes it, and model.c, which runs it. */
#ifndef SPD_NETWORK_MODEL_STRUCT_H
#define SPD_NETWORK_MODEL_STRUCT_H

#include "network/model.h"

enum { MAX_LAYERS = SPD_MAX_HIDDEN + 1, MAX_BUFFERS = 160 };

/* The convolutional part; the spectrum's and the weights' encoder have one each. */
struct trunk {
  struct spd_stem stem;
  struct spd_block blocks[SPD_BLOCKS - 1];
};

/* Location of a tensor that can be read: a plane, or floats */
struct tap {
  struct spd_plane plane, gradient_plane;
  float *value, *gradient; /* NULL for planes; `gradient` also if it is not kept */
  struct spd_rows rows;
};

struct spd_model {
  struct spd_network network;
  struct spd_backend *backend;
  struct spd_backend like;                /* the backend's properties, also without a backend, when bytes are only counted */
  size_t capacity, n;                     /* n: spectra in the present batch */
  size_t copies;                          /* augmented copies of spectra after them, which are encoded only (network/invariance.c) */
  const float *added_rest, *added_latent; /* (n, R), (n, S): gradients that a backward pass adds to those of the loss; NULL: none */
  spd_model_purpose purpose;
  float *parameters, *gradient, *m, *v;
  float *observed_grid, *rest_grid;
  float *flux, *ivar, *z, *log_ivar;
  struct trunk spectrum, weights;
  struct spd_attend attend;
  size_t n_encoder, n_decoder; /* layers */
  struct spd_dense encoder[MAX_LAYERS], decoder[MAX_LAYERS];
  struct spd_resample resample;
  struct spd_lsf lsf;
  struct spd_calibrate calibrate; /* of `observed`, where the architecture has one */
  struct spd_loss loss;
  float *observed, *dobserved;
  struct tap taps[SPD_TENSORS];
  spd_tensor reached;      /* where the last backward pass ended; it has overwritten gradients of tensors before that */
  size_t n_buffers, bytes; /* bytes: of all buffers */
  void *buffers[MAX_BUFFERS];
};

#endif
