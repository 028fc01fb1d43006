/* The batches of a training: which rows each step of an epoch has. */
#ifndef SPD_NETWORK_BATCHES_H
#define SPD_NETWORK_BATCHES_H

#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

/* The part of one instrument in a training of several (network/joint.h): each batch has the same share of the spectra of each, so that all
 * are through in the same steps. Objects that this instrument and one other have seen are `pairs`, numbered alike in both: their
 * spectra come at the beginning of the batches of both, in the same order, as far as the sizes of the batches allow. */
struct spd_share {
  uint64_t total;        /* training spectra of all instruments; 0: this is the only one */
  uint64_t n_pairs;      /* of training spectra */
  const uint64_t *pairs; /* (n_pairs) rows of the source; not needed any more once the batches are made */
  uint64_t partner;      /* training spectra of the other instrument; 0 without pairs */
};

struct spd_batches {
  uint64_t n_rows, n_training;
  const unsigned char *is_training; /* (n_rows), the source's */
  size_t batch_size;                /* of all instruments together */
  size_t largest;                   /* of this one */
  uint64_t seed;
  struct spd_share share;
  uint64_t per_epoch;
  uint64_t *order; /* (n_rows): the training rows of this epoch, in order */
  uint64_t *ends;  /* (n_ends) where batches with a spectrum end in `order`; NULL: all have batch_size */
  uint64_t n_ends;
  uint64_t *pairs;                            /* (n_pairs) rows */
  uint64_t *pair_order, *arranged, *pairs_of; /* (n_pairs), (n_training), (per_epoch): pairs at the beginning of each batch */
  unsigned char *is_paired;                   /* (n_rows) */
};

/* The largest batch of an instrument of which n_training spectra train */
size_t spd_largest_batch(size_t batch_size, const struct spd_share *share, uint64_t n_training);

/* share: all 0 for one instrument. To be closed also after a failure. */
spd_status spd_batches_open(struct spd_batches *b, const unsigned char *is_training, uint64_t n_rows, size_t batch_size, uint64_t seed,
                            const struct spd_share *share, struct spd_error *error);
void spd_batches_close(struct spd_batches *b);

/* Brings `order` into that of an epoch. */
void spd_batches_begin(struct spd_batches *b, uint64_t epoch);

/* Training rows before a step of an epoch */
uint64_t spd_batches_before(const struct spd_batches *b, uint64_t step);
/* Rows of a step's batch, and how many of them, at its beginning, belong to pairs */
size_t spd_batches_size(const struct spd_batches *b, uint64_t step);
size_t spd_batches_pairs(const struct spd_batches *b, uint64_t step);
/* Where `ends` is: batches with a spectrum that end at or before row `done` of the epoch */
uint64_t spd_batches_until(const struct spd_batches *b, uint64_t done);

#endif
