/* Batches in pieces, which the ranks of a group share. Pieces have the same size, but for an epoch's last batch, where the last ones are
 * short or empty. Their gradients are added in pairs: neighbours, then neighbouring pairs, and so on. So the result depends on the number
 * of pieces and not on the number of ranks, each of which has the same number of pieces, in a row. Both numbers are powers of two. */
#ifndef SPD_NETWORK_PIECES_H
#define SPD_NETWORK_PIECES_H

#include "network/model.h"
#include "network/sums.h"

struct spd_sharing {
  size_t pieces;
  struct spd_group *group; /* NULL: all pieces are computed here */
  struct spd_sums *sums;   /* over the group; NULL: through the host's memory */
};

/* Of a training. Without sharing a batch is one piece, of rank 0 of 1. */
struct spd_pieces {
  struct spd_model *model;
  size_t count, own, rows; /* pieces of a batch; of this rank; spectra of a piece */
  size_t batch_size;
  uint64_t n_training, n_validation, steps_per_epoch;
  int rank, size;
  struct spd_group *group; /* NULL where the size is 1 */
  struct spd_sums *sums, *own_sums;
  float *partial[32]; /* on the backend, (network size): gradients of 1, 2, 4, ... pieces */
  uint64_t *zero;     /* on the backend: one 0 */
  double *packed;     /* (n_training or n_validation): losses, rank by rank */
};

/* Spectra of a piece: the model must have room for so many */
size_t spd_piece_rows(const struct spd_sharing *sharing, size_t batch_size);
/* To be closed also after a failure. */
spd_status spd_pieces_open(struct spd_pieces *p, struct spd_model *model, const struct spd_sharing *sharing, size_t batch_size,
                           uint64_t n_training, uint64_t n_validation, struct spd_error *error);
void spd_pieces_close(struct spd_pieces *p);

/* Spectra of a step of the epoch, on all ranks; of these, those of a rank: from ... to - 1 */
size_t spd_pieces_batch(const struct spd_pieces *p, uint64_t step);
void spd_pieces_of_rank(size_t *from, size_t *to, const struct spd_pieces *p, int rank, size_t batch);
/* Spectra of a rank in the first `steps` steps of an epoch */
size_t spd_pieces_before(const struct spd_pieces *p, int rank, uint64_t steps);
/* A rank's validation rows, from ... to - 1 */
void spd_pieces_validation(size_t *from, size_t *to, const struct spd_pieces *p, int rank);

/* The model's gradient is that of this rank's i-th piece, not its last: it is kept. Of a piece without spectra, it is made 0. */
spd_status spd_pieces_keep(struct spd_pieces *p, size_t i, struct spd_error *error);
spd_status spd_pieces_none(struct spd_pieces *p, struct spd_error *error);
/* A range of the gradient of the last piece is complete: it becomes the batch's, on every rank, after spd_pieces_end(). */
spd_status spd_pieces_sum(struct spd_pieces *p, struct spd_range range, struct spd_error *error);
spd_status spd_pieces_end(struct spd_pieces *p, struct spd_error *error);

/* The number of steps that the first rank wants to make, for all; 0 if one wants none. */
spd_status spd_pieces_agree(uint64_t *steps, struct spd_pieces *p, uint64_t wanted, struct spd_error *error);
/* Losses, on the host of every rank in the order of the spectra: of steps from ... to - 1 of the epoch, where there are several ranks; of
 * the validation rows. `own`: on the backend, those of this rank's spectra, from the first of the epoch or of its validation rows on. They
 * wait for the backend. */
spd_status spd_pieces_losses(double *losses, struct spd_pieces *p, const double *own, uint64_t from, uint64_t to, struct spd_error *error);
spd_status spd_pieces_validation_losses(double *losses, struct spd_pieces *p, const double *own, struct spd_error *error);

#endif
