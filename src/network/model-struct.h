/* The inside of a model, for model-build.c, which makes it, and model.c, which runs it. */
#ifndef SPD_NETWORK_MODEL_STRUCT_H
#define SPD_NETWORK_MODEL_STRUCT_H

#include "network/model.h"

/* MAX_RECORDINGS: a training has some five passes, over full batches and the last of an epoch and of a validation, with and without
 * invariance */
enum { MAX_LAYERS = SPD_MAX_HIDDEN + 1, MAX_BUFFERS = 160, MAX_RECORDINGS = 32 };

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

/* One of the passes through stages, and all that its launches depend on besides what is bound once */
typedef spd_status model_pass(struct spd_model *model, struct spd_error *error);
struct pass {
  model_pass *run;
  size_t n, copies;       /* of the model */
  size_t from, to, total; /* of a backward pass */
  const float *added_rest, *added_latent;
  uint64_t version; /* of the weights */
};

/* A pass that the backend may have recorded; `used` counts passes, 0: the place is free */
struct recorded {
  struct pass pass;
  struct spd_recording *recording;
  uint64_t used;
};

struct spd_model {
  struct spd_network network;
  struct spd_backend *backend;
  struct spd_backend like;                /* the backend's properties, also without a backend, when bytes are only counted */
  size_t capacity, n;                     /* n: spectra in the present batch */
  size_t copies;                          /* augmented copies of spectra after them, which are encoded only (network/invariance.c) */
  const float *added_rest, *added_latent; /* (n, R), (n, S): gradients that a backward pass adds to those of the loss; NULL: none */
  spd_model_purpose purpose;
  struct spd_model *first;                           /* the model whose decoder and restframe grid this one uses; NULL: its own */
  float *parameters, *gradient, *m, *v;              /* without those of another model's decoder, but for the gradient */
  float *average;                                    /* of all parameters; NULL until there is one */
  float *decoder_parameters, *decoder_m, *decoder_v; /* those of the decoder, in these blocks or in the other model's */
  float *observed_grid, *rest_grid;
  float *flux, *ivar, *z, *log_ivar;
  struct trunk spectrum, weights;
  struct spd_attend attend;
  size_t n_encoder, n_decoder; /* layers */
  struct spd_dense encoder[MAX_LAYERS], decoder[MAX_LAYERS];
  struct spd_resample resample;
  struct spd_lsf lsf;
  struct spd_resolution resolution; /* n_knots is 0 without */
  float *bands, *sigmas;            /* (capacity, n_knots, size); (capacity, n_knots): what it is made of, or NULL */
  struct spd_calibrate calibrate;   /* of `observed`, where the architecture has one */
  struct spd_loss loss;
  float *observed, *dobserved;
  struct tap taps[SPD_TENSORS];
  spd_tensor from;         /* where the last backward pass began, SPD_TENSORS: at the loss */
  spd_tensor reached;      /* where it ended; it has overwritten gradients of tensors before that */
  size_t n_buffers, bytes; /* bytes: of all buffers */
  void *buffers[MAX_BUFFERS];
  struct recorded recorded[MAX_RECORDINGS];
  uint64_t passes; /* that have been run */
};

#endif
