/* Training: a source of spectra, their batches, a learning-rate schedule, and steps. */
#ifndef SPD_NETWORK_TRAIN_H
#define SPD_NETWORK_TRAIN_H

#include "network/batches.h"
#include "network/feed.h"
#include "network/invariance.h"
#include "network/pieces.h"
#include "network/refine.h"
#include "network/schedule.h"

struct spd_training_options {
  size_t batch_size; /* of all instruments together */
  uint64_t seed;
  struct spd_schedule schedule; /* total_steps counts from this training's first step */
  struct spd_adam_options adam; /* rate and beta1 are the schedule's */
  spd_feed_way way;
  uint64_t refine_from; /* from this step on the decoder learns at latents refined by one step; UINT64_MAX: never */
  double clip;          /* the gradient's norm is at most this; 0: no limit */
  uint64_t average;     /* validate with, and return, averages of the weights over about so many last steps; 0: with the weights */
  const struct spd_invariance_options *invariance; /* NULL: the loss is the fidelity alone */
  const uint64_t *ids;                             /* (n_rows) of the source: identities of spectra, for invariance; NULL: row numbers */
  const struct spd_sharing *sharing;               /* NULL: a batch is one piece */
  int freeze_decoder;                              /* only the encoder and the LSF learn */
  struct spd_share share;
};

struct spd_training;
spd_status spd_training_create(struct spd_training **training, struct spd_model *model, const struct spd_source *source,
                               const struct spd_training_options *options, struct spd_error *error);
void spd_training_destroy(struct spd_training *training);

struct spd_progress {
  uint64_t epoch, step; /* of this training, from 0: finished ones */
  uint64_t step_in_epoch, steps_per_epoch;
  double loss_sum; /* sum over the spectra of this epoch so far of their loss (the fidelity) before each step */
  uint64_t loss_count;
  int epoch_finished; /* the last advance ended an epoch */
  int stopped;        /* a rank was asked to stop, and no step was made: nothing else is set */
};
/* The parts of a step, for instruments whose steps are one (network/joint.h): the next batch forward, as a part of a batch of `total`
 * spectra; its gradients; the update, with `decoder` that of the decoder by this model's gradient, too. A batch may have no spectrum: then
 * the first two do nothing. With spd_training_report() the losses of the steps since the last one are read, and an epoch ends that is
 * through. */
size_t spd_training_next(const struct spd_training *training);       /* spectra of the next batch */
size_t spd_training_next_pairs(const struct spd_training *training); /* pairs of which one half is at its beginning */
spd_status spd_training_forward(struct spd_training *training, size_t total, struct spd_error *error);
spd_status spd_training_backward(struct spd_training *training, struct spd_error *error);
spd_status spd_training_update(struct spd_training *training, int decoder, struct spd_error *error);
spd_status spd_training_report(struct spd_training *training, struct spd_progress *progress, struct spd_error *error);
int spd_training_epoch_done(const struct spd_training *training);
uint64_t spd_training_size(const struct spd_training *training); /* spectra that train */
struct spd_model *spd_training_model(const struct spd_training *training);
const struct spd_training_options *spd_training_options(const struct spd_training *training);

/* Steps until `seconds` have passed or the epoch ends, at least one. The ranks of a group make the same number of steps. */
spd_status spd_training_advance(struct spd_training *training, double seconds, struct spd_progress *progress, struct spd_error *error);
/* Of a group: no rank makes another step after the advance that it is in; later ones are `stopped`. */
void spd_training_stop(struct spd_training *training);
/* (network->size) that a fit has of this training: the model's, or their averages. These are 0 before the first step. */
spd_status spd_training_get_weights(float *weights, struct spd_training *training, struct spd_error *error);
int spd_training_averages(const struct spd_training *training);

/* Position of a training between two advances. Restored together with weights, Adam's moments and averages, a training with the same
 * source and options continues to the same bits. */
struct spd_training_state {
  uint64_t epoch, step, step_in_epoch, loss_count;
  double loss_sum;
};
struct spd_training_state spd_training_get_state(const struct spd_training *training);
spd_status spd_training_set_state(struct spd_training *training, const struct spd_training_state *state, struct spd_error *error);

/* Validates for some seconds, or to the end, which *finished says; then *mean is the mean loss of the validation rows with the present
 * weights, and *count their number, 0 if there are none. The next call goes on, or begins anew after the end or an advance. */
spd_status spd_training_validate(struct spd_training *training, double seconds, int *finished, double *mean, uint64_t *count,
                                 struct spd_error *error);

#endif
