#include "network/batches.h"

#include <stdlib.h>
#include <string.h>

#include "data/order.h"

enum { PAIR_SALT = 0x9a12 };

size_t spd_largest_batch(size_t batch_size, const struct spd_share *share, uint64_t n_training) {
  const uint64_t total = share->total;
  return total ? (size_t)((batch_size * n_training + total - 1) / total) : batch_size;
}

/* n of the whole, shared out by steps: of a batch of an epoch with others */
static uint64_t shared_out(const struct spd_batches *b, uint64_t n, uint64_t step) {
  const uint64_t total = b->share.total, all = step * b->batch_size;
  return all >= total ? n : all * n / total;
}

uint64_t spd_batches_before(const struct spd_batches *b, uint64_t step) {
  if (b->ends) return shared_out(b, b->n_training, step);
  const uint64_t all = step * b->batch_size;
  return all < b->n_training ? all : b->n_training;
}

size_t spd_batches_size(const struct spd_batches *b, uint64_t step) {
  return (size_t)(spd_batches_before(b, step + 1) - spd_batches_before(b, step));
}

size_t spd_batches_pairs(const struct spd_batches *b, uint64_t step) { return b->pairs_of ? (size_t)b->pairs_of[step] : 0; }

uint64_t spd_batches_until(const struct spd_batches *b, uint64_t done) {
  uint64_t low = 0, high = b->n_ends;
  while (low < high) {
    const uint64_t middle = (low + high) / 2;
    if (b->ends[middle] <= done)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

/* Pairs at the beginning of each batch, in the same order for both instruments: as many as both their batches have room for, and no more
 * than their share */
static void count_pairs(struct spd_batches *b) {
  uint64_t used = 0;
  for (uint64_t step = 0; step < b->per_epoch; step++) {
    const uint64_t own = spd_batches_size(b, step);
    const uint64_t other = shared_out(b, b->share.partner, step + 1) - shared_out(b, b->share.partner, step);
    uint64_t most = shared_out(b, b->share.n_pairs, step + 1) - used;
    if (most > own) most = own;
    if (most > other) most = other;
    b->pairs_of[step] = most;
    used += most;
  }
}

/* Brings pairs together. Those for which a step has no room fill up its instrument's batches where its other spectra are used up: from the
 * end of the pairs, which no step has reached by then. */
static void arrange_pairs(struct spd_batches *b, uint64_t epoch) {
  uint64_t at = 0, next = 0, head = 0, tail = b->share.n_pairs;
  spd_order_fill(b->pair_order, b->share.n_pairs, b->seed ^ PAIR_SALT, epoch);
  for (uint64_t step = 0; step < b->per_epoch; step++) {
    for (uint64_t i = 0; i < b->pairs_of[step]; i++) b->arranged[at++] = b->pairs[b->pair_order[head++]];
    while (at < spd_batches_before(b, step + 1)) {
      while (next < b->n_training && b->is_paired[b->order[next]]) next++;
      b->arranged[at++] = next < b->n_training ? b->order[next++] : b->pairs[b->pair_order[--tail]];
    }
  }
  memcpy(b->order, b->arranged, b->n_training * sizeof *b->order);
}

void spd_batches_begin(struct spd_batches *b, uint64_t epoch) {
  uint64_t kept = 0;
  spd_order_fill(b->order, b->n_rows, b->seed, epoch);
  for (uint64_t i = 0; i < b->n_rows; i++)
    if (b->is_training[b->order[i]]) b->order[kept++] = b->order[i];
  if (b->share.n_pairs > 0) arrange_pairs(b, epoch);
}

static spd_status no_memory(struct spd_error *error) {
  return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate the order of spectra");
}

static spd_status open_pairs(struct spd_batches *b, const uint64_t *pairs, struct spd_error *error) {
  const uint64_t n = b->share.n_pairs;
  b->pairs = malloc(n * sizeof *b->pairs);
  b->pair_order = malloc(n * sizeof *b->pair_order);
  b->arranged = malloc(b->n_training * sizeof *b->arranged);
  b->pairs_of = malloc(b->per_epoch * sizeof *b->pairs_of);
  b->is_paired = calloc(b->n_rows, 1);
  if (!b->pairs || !b->pair_order || !b->arranged || !b->pairs_of || !b->is_paired) return no_memory(error);
  for (uint64_t i = 0; i < n; i++) {
    const uint64_t row = pairs[i];
    if (row >= b->n_rows || !b->is_training[row] || b->is_paired[row])
      return spd_fail(error, SPD_STATUS_INVALID, "internal: pairs must be different rows that train");
    b->is_paired[row] = 1;
    b->pairs[i] = row;
  }
  count_pairs(b);
  return SPD_STATUS_OK;
}

/* Where the steps' shares of the spectra end */
static spd_status open_share(struct spd_batches *b, struct spd_error *error) {
  b->ends = malloc(b->per_epoch * sizeof *b->ends);
  if (!b->ends) return no_memory(error);
  for (uint64_t step = 0; step < b->per_epoch; step++)
    if (spd_batches_size(b, step) > 0) b->ends[b->n_ends++] = spd_batches_before(b, step + 1);
  return b->share.n_pairs ? open_pairs(b, b->share.pairs, error) : SPD_STATUS_OK;
}

spd_status spd_batches_open(struct spd_batches *b, const unsigned char *is_training, uint64_t n_rows, size_t batch_size, uint64_t seed,
                            const struct spd_share *share, struct spd_error *error) {
  *b = (struct spd_batches){.n_rows = n_rows, .is_training = is_training, .batch_size = batch_size, .seed = seed, .share = *share};
  if (batch_size == 0) return spd_fail(error, SPD_STATUS_INVALID, "the batch size must be at least 1");
  for (uint64_t i = 0; i < n_rows; i++) b->n_training += is_training[i] != 0;
  if (b->n_training == 0) return spd_fail(error, SPD_STATUS_INVALID, "there is no spectrum to train on");
  const uint64_t total = share->total ? share->total : b->n_training;
  if (b->n_training > total) return spd_fail(error, SPD_STATUS_INVALID, "internal: an instrument has more spectra than all together");
  b->largest = spd_largest_batch(batch_size, share, b->n_training);
  b->per_epoch = (total + batch_size - 1) / batch_size;
  b->order = malloc(n_rows * sizeof *b->order);
  if (!b->order) return no_memory(error);
  return share->total ? open_share(b, error) : SPD_STATUS_OK;
}

void spd_batches_close(struct spd_batches *b) {
  free(b->order);
  free(b->ends);
  free(b->pairs);
  free(b->pair_order);
  free(b->arranged);
  free(b->pairs_of);
  free(b->is_paired);
  *b = (struct spd_batches){0};
}
