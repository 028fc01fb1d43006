/* Training encoders of several instruments with one decoder. The objective is the mean loss of all training spectra. A step takes the same
 * share of the spectra of each instrument (struct spd_share): each encoder is updated by the gradient of its spectra's part of that mean,
 * the decoder by the sum over the instruments, in their order. */
#ifndef SPD_NETWORK_JOINT_H
#define SPD_NETWORK_JOINT_H

#include "network/train.h"

enum { SPD_MAX_INSTRUMENTS = 16 };

/* Latents of the same object from two instruments should be the same: struct spd_consistency of the pairs of a batch (the second
 * instrument's latents are the copies), and `weight` times its mean is added to the objective. */
struct spd_joint_options {
  double weight, sigma;
  int scale_free;
};

struct spd_joint;
/* trainings (n): on one backend, of models that use the decoder of the first's (spd_model_create_beside()), with the same options but for
 * the sizes; they must outlive it. With a weight there are two of them, and their shares have pairs. */
spd_status spd_joint_create(struct spd_joint **joint, struct spd_training *const *trainings, size_t n,
                            const struct spd_joint_options *options, struct spd_error *error);
void spd_joint_destroy(struct spd_joint *joint);

/* Steps of all instruments until `seconds` have passed or the epoch ends, at least one. progress: (n). The state of the trainings between
 * two calls is the state of all. */
spd_status spd_joint_advance(struct spd_joint *joint, double seconds, struct spd_progress *progress, struct spd_error *error);

#endif
