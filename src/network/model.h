/* A network on a backend: parameters, buffers for up to `capacity` spectra, and the passes through the stages. */
#ifndef SPD_NETWORK_MODEL_H
#define SPD_NETWORK_MODEL_H

#include "data/band.h"
#include "network/backend.h"
#include "network/network.h"

/* Buffers that a model has in addition to those of the forward pass */
typedef enum {
  SPD_MODEL_FORWARD = 0,  /* forward only */
  SPD_MODEL_GRADIENT = 1, /* and all gradients */
  SPD_MODEL_TRAIN = 2     /* and Adam's moments, without the gradients of attention and redshift, which training does not need */
} spd_model_purpose;

/* Values that can be read, and gradients that can be read or set, by name. Shapes are those of the host array. */
typedef enum {
  SPD_TENSOR_INPUT,      /* as the end of a backward pass only: through the stem */
  SPD_TENSOR_STEM,       /* (N, L1, C1) after the first pool */
  SPD_TENSOR_BLOCK,      /* (N, L2, C2) after the second pool */
  SPD_TENSOR_SEGMENTS,   /* (N, L3, 2C) values and keys */
  SPD_TENSOR_ATTENTION,  /* (N, L3, C) after the softmax */
  SPD_TENSOR_FEATURE,    /* (N, C) attended features */
  SPD_TENSOR_LATENT,     /* (N, S) */
  SPD_TENSOR_REST,       /* (N, R) */
  SPD_TENSOR_OBSERVED,   /* (N, M) */
  SPD_TENSOR_CALIBRATED, /* (N, M) times the calibration, after spd_model_calibrate(): values only */
  SPD_TENSORS
} spd_tensor;

struct spd_model;

/* wave_observed (M) and wave_rest (R): Angstrom, increasing. The backend must outlive the model. */
spd_status spd_model_create(struct spd_model **model, const struct spd_network *network, struct spd_backend *backend,
                            const float *wave_observed, const float *wave_rest, size_t capacity, spd_model_purpose purpose,
                            struct spd_error *error);
/* The same for spectra with resolutions of their own, which models are multiplied by: then the architecture has no LSF. NULL: without. */
spd_status spd_model_create_with_resolution(struct spd_model **model, const struct spd_network *network, struct spd_backend *backend,
                                            const float *wave_observed, const float *wave_rest, size_t capacity, spd_model_purpose purpose,
                                            const struct spd_band *band, struct spd_error *error);
/* A model of the same purpose for another instrument, on the same backend, with the restframe grid and the decoder of `first`: both use
 * the same parameters and moments of it, and each has its own gradient of them. `first` must outlive it. */
spd_status spd_model_create_beside(struct spd_model **model, struct spd_model *first, const struct spd_network *network,
                                   const float *wave_observed, size_t capacity, const struct spd_band *band, struct spd_error *error);
void spd_model_destroy(struct spd_model *model);
/* Pixels that an observed one is made of: of the LSF or the resolution, 0 or odd */
size_t spd_model_footprint(const struct spd_model *model);
size_t spd_model_band_width(const struct spd_model *model); /* floats that a spectrum has of its resolution, 0 without */
const struct spd_network *spd_model_network(const struct spd_model *model);
struct spd_backend *spd_model_backend(const struct spd_model *model);
size_t spd_model_capacity(const struct spd_model *model);

/* host blocks of network->size floats, a shared decoder's included */
spd_status spd_model_set_parameters(struct spd_model *model, const float *weights, struct spd_error *error);
spd_status spd_model_get_parameters(float *weights, const struct spd_model *model, struct spd_error *error);
spd_status spd_model_get_gradient(float *gradient, const struct spd_model *model, struct spd_error *error);
spd_status spd_model_set_moments(struct spd_model *model, const float *m, const float *v, struct spd_error *error);
spd_status spd_model_get_moments(float *m, float *v, const struct spd_model *model, struct spd_error *error);

/* host rows: flux (n, M), ivar (n, M), z (n); ivar may be NULL if neither the loss nor weight attention is used */
spd_status spd_model_load(struct spd_model *model, const float *flux, const float *ivar, const float *z, size_t n, struct spd_error *error);
/* The same from rows[0 ... n - 1] of spectra on the backend; `rows` is on the backend, too */
spd_status spd_model_load_rows(struct spd_model *model, const float *flux, const float *ivar, const float *z, const uint64_t *rows,
                               size_t n, struct spd_error *error);
/* ... and from a lane that holds flux (n, M), ivar (n, M) and z (n), one after the other */
spd_status spd_model_load_lane(struct spd_model *model, struct spd_lane *lane, size_t n, struct spd_error *error);
/* Resolutions of the n spectra that were loaded, (n, spd_model_band_width()): host rows, or rows on the backend as above. A lane has them
 * after the redshifts. Without resolution these do nothing. */
spd_status spd_model_load_bands(struct spd_model *model, const float *bands, struct spd_error *error);
spd_status spd_model_load_band_rows(struct spd_model *model, const float *bands, const uint64_t *rows, struct spd_error *error);
/* Where the backend computes in the host's memory: n spectra are to be written here. flux, ivar: (n, M); z: (n). */
spd_status spd_model_input(float **flux, float **ivar, float **z, struct spd_model *model, size_t n, struct spd_error *error);
float *spd_model_band_input(struct spd_model *model);                                   /* ... their resolutions here */
spd_status spd_model_bands_are_there(struct spd_model *model, struct spd_error *error); /* ... after which this is called */
/* Says that the loaded batch is a part of one of `total` spectra, whose mean loss backward passes are of. */
void spd_model_set_total(struct spd_model *model, size_t total);
spd_status spd_model_get_redshift(float *z, const struct spd_model *model, struct spd_error *error);
spd_status spd_model_set_latent(struct spd_model *model, const float *latent, size_t n, struct spd_error *error);

/* Forward: spectra -> latents -> restframe -> observed frame -> loss per spectrum. Each uses the result of the one before. */
spd_status spd_model_encode(struct spd_model *model, struct spd_error *error);
spd_status spd_model_decode(struct spd_model *model, struct spd_error *error);
spd_status spd_model_observe(struct spd_model *model, struct spd_error *error);
/* Where the architecture has no calibration this does nothing. spd_model_score() does it, too. */
spd_status spd_model_calibrate(struct spd_model *model, struct spd_error *error);
spd_status spd_model_get_calibration(double *coefficient /* (n, terms) */, const struct spd_model *model, struct spd_error *error);
spd_status spd_model_score(struct spd_model *model, double *losses /* (n) */, struct spd_error *error);
/* The same, losses (n) on the backend: nothing waits for the result. */
spd_status spd_model_score_into(struct spd_model *model, double *losses, struct spd_error *error);

/* Backward of the mean loss through everything, parameters included. Needs the four forward passes before it. */
spd_status spd_model_backward(struct spd_model *model, struct spd_error *error);
/* Of decoder and LSF alone, at the present latents */
spd_status spd_model_backward_decoder(struct spd_model *model, struct spd_error *error);
/* The first of the three in parts: one after the other, 0 to SPD_MODEL_PARTS - 1, they are the whole. */
enum { SPD_MODEL_PARTS = 3, SPD_MODEL_RANGES = 2 };
struct spd_range {
  size_t from, count;
};
spd_status spd_model_backward_part(struct spd_model *model, int part, struct spd_error *error);
/* The places of the gradient that a part makes. Returns their number. */
size_t spd_model_ranges(struct spd_range *ranges, const struct spd_model *model, int part);
/* The gradient, on the backend: (network->size) */
float *spd_model_gradient(struct spd_model *model);
/* From a gradient given at a tensor (LATENT, REST or OBSERVED), down to and including the tensor `to`; with LATENT, parameters of decoder
 * and LSF keep their gradients. */
spd_status spd_model_backward_from(struct spd_model *model, spd_tensor from, const float *gradient, spd_tensor to, struct spd_error *error);

size_t spd_model_tensor_size(const struct spd_model *model, spd_tensor tensor); /* floats per spectrum */
spd_status spd_model_read(float *host, struct spd_model *model, spd_tensor tensor, struct spd_error *error);
spd_status spd_model_read_gradient(float *host, struct spd_model *model, spd_tensor tensor, struct spd_error *error);
/* d loss / d z: through the redshift and resampling, and through the encoder's redshift input. Both (n); either may be NULL. */
spd_status spd_model_read_redshift_gradient(double *through_transform, double *through_encoder, struct spd_model *model,
                                            struct spd_error *error);

/* One Adam update with the gradient of the last backward. step counts from 1; lsf_factor scales the LSF's learning rate (0:
 * fixed); lsf_nonnegative keeps its weights from going below zero. */
struct spd_adam_options {
  double rate, beta1, beta2, epsilon, lsf_factor;
  int lsf_nonnegative;
};
/* After it: an average of the parameters over updates, which goes this fraction of the way to the present ones. It is 0 before the first
 * call. */
spd_status spd_model_average(struct spd_model *model, double fraction, struct spd_error *error);
spd_status spd_model_set_average(struct spd_model *model, const float *weights, struct spd_error *error);
spd_status spd_model_get_average(float *weights, struct spd_model *model, struct spd_error *error);
spd_status spd_model_exchange_average(struct spd_model *model, struct spd_error *error);  /* the average and the parameters change places */
spd_status spd_model_clip(struct spd_model *model, double norm, struct spd_error *error); /* before it: limits the gradient's norm */
spd_status spd_model_update(struct spd_model *model, const struct spd_adam_options *options, uint64_t step, struct spd_error *error);
/* Its two parts: all but the decoder, and the decoder, with this model's gradient of it. A shared one is updated once for all models, with
 * the sum that spd_model_add_decoder() makes: to's gradient of the decoder += from's. */
spd_status spd_model_update_encoder(struct spd_model *model, const struct spd_adam_options *options, uint64_t step,
                                    struct spd_error *error);
spd_status spd_model_update_decoder(struct spd_model *model, const struct spd_adam_options *options, uint64_t step,
                                    struct spd_error *error);
spd_status spd_model_add_decoder(struct spd_model *to, const struct spd_model *from, struct spd_error *error);

#endif
