#include "network/pieces.h"

#include <stdlib.h>
#include <string.h>

/* ---- which rank has what ---- */

size_t spd_piece_rows(const struct spd_sharing *sharing, size_t batch_size) {
  return sharing && sharing->pieces ? (batch_size + sharing->pieces - 1) / sharing->pieces : batch_size;
}

size_t spd_pieces_batch(const struct spd_pieces *p, uint64_t step) {
  const uint64_t left = p->n_training - step * p->batch_size;
  return left < p->batch_size ? (size_t)left : p->batch_size;
}

void spd_pieces_of_rank(size_t *from, size_t *to, const struct spd_pieces *p, int rank, size_t batch) {
  const size_t stretch = p->own * p->rows, first = (size_t)rank * stretch;
  *from = first < batch ? first : batch;
  *to = first + stretch < batch ? first + stretch : batch;
}

size_t spd_pieces_before(const struct spd_pieces *p, int rank, uint64_t steps) {
  size_t from, to;
  if (steps == 0) return 0;
  spd_pieces_of_rank(&from, &to, p, rank, p->batch_size);
  const size_t full = (size_t)(steps - 1) * (to - from);
  spd_pieces_of_rank(&from, &to, p, rank, spd_pieces_batch(p, steps - 1));
  return full + to - from;
}

void spd_pieces_validation(size_t *from, size_t *to, const struct spd_pieces *p, int rank) {
  *from = (size_t)(p->n_validation * (uint64_t)rank / (uint64_t)p->size);
  *to = (size_t)(p->n_validation * (uint64_t)(rank + 1) / (uint64_t)p->size);
}

/* ---- making ---- */

static int power_of_two(size_t n) { return n > 0 && (n & (n - 1)) == 0; }

static spd_status check(const struct spd_pieces *p, struct spd_error *error) {
  if (!power_of_two(p->count) || !power_of_two((size_t)p->size) || p->count < (size_t)p->size || p->count >> 31)
    return spd_fail(error, SPD_STATUS_INVALID,
                    "batches of %zu pieces cannot be shared by %d ranks: both must be powers of two, with no more ranks than pieces",
                    p->count, p->size);
  if (p->batch_size % p->count && p->steps_per_epoch > 1)
    return spd_fail(error, SPD_STATUS_INVALID, "a batch of %zu spectra cannot be cut into %zu pieces of one size", p->batch_size, p->count);
  return SPD_STATUS_OK;
}

static size_t bytes_of(const struct spd_pieces *p) { return spd_model_network(p->model)->size * sizeof(float); }

static spd_status allocate(struct spd_pieces *p, struct spd_error *error) {
  struct spd_backend *backend = spd_model_backend(p->model);
  const uint64_t most = p->n_training > p->n_validation ? p->n_training : p->n_validation;
  void *memory;
  for (size_t level = 0; (size_t)1 << level < p->own; level++) {
    SPD_TRY(backend->ops->alloc(backend, &memory, bytes_of(p), error));
    p->partial[level] = memory;
  }
  SPD_TRY(backend->ops->alloc(backend, &memory, sizeof *p->zero, error));
  p->zero = memory;
  if (p->size == 1) return SPD_STATUS_OK;
  p->packed = malloc((most + 1) * sizeof *p->packed);
  if (!p->packed) return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate the losses of all ranks");
  if (p->sums) return SPD_STATUS_OK;
  SPD_TRY(spd_sums_create(&p->own_sums, p->group, backend, spd_model_network(p->model)->size, error));
  p->sums = p->own_sums;
  return SPD_STATUS_OK;
}

spd_status spd_pieces_open(struct spd_pieces *p, struct spd_model *model, const struct spd_sharing *sharing, size_t batch_size,
                           uint64_t n_training, uint64_t n_validation, struct spd_error *error) {
  *p = (struct spd_pieces){.model = model,
                           .count = sharing ? sharing->pieces : 1,
                           .own = 1,
                           .rows = spd_piece_rows(sharing, batch_size),
                           .batch_size = batch_size,
                           .n_training = n_training,
                           .n_validation = n_validation,
                           .steps_per_epoch = (n_training + batch_size - 1) / batch_size,
                           .size = 1};
  if (!sharing) return SPD_STATUS_OK;
  if (sharing->group && sharing->group->size > 1)
    p->group = sharing->group, p->sums = sharing->sums, p->rank = p->group->rank, p->size = p->group->size;
  SPD_TRY(check(p, error));
  p->own = p->count / (size_t)p->size;
  return allocate(p, error);
}

void spd_pieces_close(struct spd_pieces *p) {
  if (p->own_sums) p->own_sums->ops->destroy(p->own_sums);
  struct spd_backend *backend = p->model ? spd_model_backend(p->model) : NULL;
  for (size_t level = 0; level < sizeof p->partial / sizeof *p->partial; level++)
    if (p->partial[level]) backend->ops->free(backend, p->partial[level]);
  if (p->zero) backend->ops->free(backend, p->zero);
  free(p->packed);
}

/* ---- gradients ---- */

/* Adds the gradients of pieces before the i-th that belong together with it. */
static spd_status add_earlier(struct spd_pieces *p, size_t i, struct spd_range range, struct spd_error *error) {
  struct spd_backend *backend = spd_model_backend(p->model);
  float *gradient = spd_model_gradient(p->model) + range.from;
  for (size_t level = 0; i >> level & 1; level++)
    SPD_TRY(backend->ops->add(backend, gradient, p->partial[level] + range.from, range.count, error));
  return SPD_STATUS_OK;
}

spd_status spd_pieces_keep(struct spd_pieces *p, size_t i, struct spd_error *error) {
  struct spd_backend *backend = spd_model_backend(p->model);
  const struct spd_range all = {0, spd_model_network(p->model)->size};
  size_t level = 0;
  SPD_TRY(add_earlier(p, i, all, error));
  while (i >> level & 1) level++;
  return backend->ops->gather(backend, p->partial[level], spd_model_gradient(p->model), p->zero, all.count, 1, error); /* a copy */
}

spd_status spd_pieces_none(struct spd_pieces *p, struct spd_error *error) {
  struct spd_backend *backend = spd_model_backend(p->model);
  void *zeros = calloc(1, bytes_of(p));
  if (!zeros) return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate a gradient");
  const spd_status status = backend->ops->upload(backend, spd_model_gradient(p->model), zeros, bytes_of(p), error);
  free(zeros);
  return status;
}

spd_status spd_pieces_sum(struct spd_pieces *p, struct spd_range range, struct spd_error *error) {
  SPD_TRY(add_earlier(p, p->own - 1, range, error));
  return p->size > 1 ? p->sums->ops->begin(p->sums, spd_model_gradient(p->model) + range.from, range.count, error) : SPD_STATUS_OK;
}

spd_status spd_pieces_end(struct spd_pieces *p, struct spd_error *error) {
  return p->size > 1 ? p->sums->ops->end(p->sums, error) : SPD_STATUS_OK;
}

/* ---- what all ranks know ---- */

spd_status spd_pieces_agree(uint64_t *steps, struct spd_pieces *p, uint64_t wanted, struct spd_error *error) {
  uint64_t all[SPD_MOST_RANKS];
  size_t bounds[SPD_MOST_RANKS + 1];
  for (int rank = 0; rank <= p->size; rank++) bounds[rank] = (size_t)rank * sizeof *all;
  all[p->rank] = wanted;
  if (p->size > 1) SPD_TRY(spd_group_gather(p->group, all, bounds, error));
  *steps = all[0];
  for (int rank = 0; rank < p->size; rank++)
    if (all[rank] == 0) *steps = 0;
  return SPD_STATUS_OK;
}

static spd_status read_own(double *losses, struct spd_pieces *p, const double *own, size_t n, struct spd_error *error) {
  struct spd_backend *backend = spd_model_backend(p->model);
  if (p->size > 1) SPD_TRY(p->sums->ops->settle(p->sums, error));
  return backend->ops->download(backend, losses, own, n * sizeof *losses, error);
}

spd_status spd_pieces_losses(double *losses, struct spd_pieces *p, const double *own, uint64_t from, uint64_t to, struct spd_error *error) {
  size_t bounds[SPD_MOST_RANKS + 1] = {0}, first, last;
  const size_t before = spd_pieces_before(p, p->rank, from), n = spd_pieces_before(p, p->rank, to) - before;
  for (int rank = 0; rank < p->size; rank++)
    bounds[rank + 1] = bounds[rank] + (spd_pieces_before(p, rank, to) - spd_pieces_before(p, rank, from)) * sizeof *losses;
  SPD_TRY(read_own(p->packed + bounds[p->rank] / sizeof *losses, p, own + before, n, error));
  SPD_TRY(spd_group_gather(p->group, p->packed, bounds, error));
  const double *next = p->packed;
  for (int rank = 0; rank < p->size; rank++)
    for (uint64_t step = from; step < to; step++) {
      spd_pieces_of_rank(&first, &last, p, rank, spd_pieces_batch(p, step));
      memcpy(losses + (size_t)(step - from) * p->batch_size + first, next, (last - first) * sizeof *losses);
      next += last - first;
    }
  return SPD_STATUS_OK;
}

spd_status spd_pieces_validation_losses(double *losses, struct spd_pieces *p, const double *own, struct spd_error *error) {
  size_t bounds[SPD_MOST_RANKS + 1] = {0}, from, to;
  for (int rank = 0; rank < p->size; rank++) {
    spd_pieces_validation(&from, &to, p, rank);
    bounds[rank + 1] = to * sizeof *losses;
  }
  spd_pieces_validation(&from, &to, p, p->rank);
  SPD_TRY(read_own(losses + from, p, own, to - from, error));
  return p->size > 1 ? spd_group_gather(p->group, losses, bounds, error) : SPD_STATUS_OK;
}
