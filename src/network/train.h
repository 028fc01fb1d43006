/* Training: a source of spectra, an order, a learning-rate schedule, and steps. */
#ifndef SPD_NETWORK_TRAIN_H
#define SPD_NETWORK_TRAIN_H

#include "network/feed.h"
#include "network/invariance.h"
#include "network/pieces.h"
#include "network/refine.h"

/* 1Cycle (Smith & Topin 2018) with cosine annealing: from rate/25 up to rate over the first 30 %, down to rate/25/1e4. */
struct spd_schedule {
  double rate; /* the highest */
  uint64_t total_steps;
  uint64_t steps_per_stage; /* 1: per step; steps per epoch: the rate is held through an epoch, as the published code does */
  int cycle_momentum;       /* beta1 goes 0.95 -> 0.85 -> 0.95 with the rate; otherwise it stays at 0.9 */
  int constant;             /* no schedule at all */
};
void spd_schedule_at(double *rate, double *beta1, const struct spd_schedule *schedule, uint64_t step /* from 0 */);

struct spd_training_options {
  size_t batch_size;
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
