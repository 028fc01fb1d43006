/* Training latents that do not depend on redshift (Liang et al. 2023, arXiv:2302.02496): further losses of a batch, of which copies at
 * other redshifts are encoded with it. The loss of a batch is the mean of its spectra's losses, plus weights times the means of similarity
 * and consistency (struct spd_similarity, spd_consistency). */
#ifndef SPD_NETWORK_INVARIANCE_H
#define SPD_NETWORK_INVARIANCE_H

#include "network/model.h"

struct spd_invariance_options {
  int scale_free;                 /* distances in units of the batch's own; otherwise as published */
  double similarity, consistency; /* weights of the losses */
  double sigma;                   /* of the consistency */
  double amplitude, width;        /* of the similarity: W = amplitude exp(-((wave - 5000) / (2 width))^2), Angstrom */
  double median_from, median_to;  /* Angstrom: where models are normalised */
  double fraction;                /* of each batch that is copied: its first rows */
  double z_low, z_high;           /* of the copies */
  double noisy, noise, masked;    /* of the copies, see struct spd_augment */
  double slope;                   /* the largest k */
  uint64_t period;                /* epochs in which k goes from 0 to the largest in equal steps, then again */
  uint64_t free_from;             /* from this epoch on k is 0 */
  int cycle_consistency;          /* k is a factor of the consistency, too */
  uint64_t seed;                  /* of the copies */
};

/* k in an epoch (from 0) */
double spd_invariance_slope(const struct spd_invariance_options *options, uint64_t epoch);
/* Spectra of a batch of n that are copied: at least one, unless the fraction is 0 */
size_t spd_invariance_copies(const struct spd_invariance_options *options, size_t n);

struct spd_invariance;
/* For batches of up to `batch_size` spectra, up to `most` of them in a row, of a model, which must outlive it and have room for the copies
 * of a batch, too. */
spd_status spd_invariance_create(struct spd_invariance **invariance, struct spd_model *model, const struct spd_invariance_options *options,
                                 size_t batch_size, size_t most, struct spd_error *error);
void spd_invariance_destroy(struct spd_invariance *invariance);

/* Says which spectra the next batches will have. ids (count): their identities; a copy follows from seed, epoch and id. */
spd_status spd_invariance_begin(struct spd_invariance *invariance, const uint64_t *ids, size_t count, uint64_t epoch,
                                struct spd_error *error);
/* Copies the model's batch, the next of those, before it is encoded. */
spd_status spd_invariance_copy(struct spd_invariance *invariance, struct spd_error *error);
/* Both losses of the batch, which has been encoded and decoded, and their gradients, which the model's next backward pass adds. */
spd_status spd_invariance_losses(struct spd_invariance *invariance, uint64_t epoch, struct spd_error *error);
/* Means of the last losses: waits for the backend. */
spd_status spd_invariance_read(double *similarity, double *consistency, struct spd_invariance *invariance, struct spd_error *error);

#endif
