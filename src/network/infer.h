/* Inference: one pass of spectra through a model, batch by batch, from which any of several results are taken. */
#ifndef SPD_NETWORK_INFER_H
#define SPD_NETWORK_INFER_H

#include "network/feed.h"
#include "network/refine.h"

/* What a spectrum can give. With S latents, R restframe and M observed pixels, and K = S, or S + 1 if the redshift is refined, too: */
typedef enum {
  SPD_RESULT_LATENT,          /* (S) */
  SPD_RESULT_LATENT_ERRORS,   /* (2 S): latents, then their standard errors */
  SPD_RESULT_COVARIANCE,      /* (K, K) of the latents */
  SPD_RESULT_REDSHIFT,        /* (4): redshift, its error, the improvement of chi^2, and the change in units of the error */
  SPD_RESULT_REST,            /* (R) */
  SPD_RESULT_OBSERVED,        /* (M): calibrated, where the architecture has a calibration */
  SPD_RESULT_OBSERVED_ERRORS, /* (2 M): the model, then its standard errors */
  SPD_RESULT_LOSS,            /* (1) */
  SPD_RESULT_CHI2,            /* (1): sum of w (y - y')^2 over the number of pixels with weight less S and T */
  SPD_RESULT_CALIBRATION,     /* (2 T): the T coefficients of the calibration, then their standard errors */
  SPD_RESULTS
} spd_result;
/* Numbers that a spectrum has of it */
size_t spd_result_width(spd_result result, const struct spd_architecture *architecture, int with_redshift);

struct spd_inference_options {
  unsigned wanted; /* bit 1 << spd_result for each result */
  struct spd_refine_options refine;
  size_t batch_size;
};

struct spd_inference;

/* model: made for at least batch_size spectra. The model and all that the source points to must outlive the inference; grids are copied.
 * wave_observed: (M), wave_rest: (R). */
spd_status spd_inference_create(struct spd_inference **inference, struct spd_model *model, const struct spd_source *source,
                                const float *wave_observed, const float *wave_rest, const struct spd_inference_options *options,
                                struct spd_error *error);
void spd_inference_destroy(struct spd_inference *inference);

/* Queues these rows of the source, in this order. `rows` must stay valid until the last is done. */
spd_status spd_inference_start(struct spd_inference *inference, const uint64_t *rows, size_t count, struct spd_error *error);
/* Computes the next batch; *n is its size, 0 after the last. Its results are there until the next call. */
spd_status spd_inference_next(size_t *n, struct spd_inference *inference, struct spd_error *error);

/* Computes the same batch again: what the device alone takes, for measurements. */
spd_status spd_inference_again(struct spd_inference *inference, struct spd_error *error);

/* Whether the restframe covers a pixel of spectrum i of the batch that has weight; if not, all its results are NaN. */
int spd_inference_knows(const struct spd_inference *inference, size_t i);
/* A wanted result of spectrum i of the batch, with NaN for what is not known: observed pixels that are not covered, or errors that neither
 * data nor prior determine. to: (spd_result_width). Any thread may call this. */
void spd_inference_get(double *to, const struct spd_inference *inference, spd_result result, size_t i);

#endif
