#include "core/train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/rng.h"

/* ---- schedule ---- */

static double anneal(double from, double to, double fraction) {
  return to + (from - to) * (1.0 + cos(3.14159265358979323846 * fraction)) / 2.0;
}

void spd_schedule_at(double *rate, double *beta1, const struct spd_schedule *s, uint64_t step) {
  *rate = s->rate;
  *beta1 = 0.9;
  if (s->constant) return;
  const uint64_t per_stage = s->steps_per_stage ? s->steps_per_stage : 1;
  const double stages = ceil((double)s->total_steps / (double)per_stage), stage = (double)(step / per_stage);
  const double start = s->rate / 25.0, end = start / 1e4;
  /* the boundaries that PyTorch's OneCycleLR uses: the peak at 0.3 T - 1, the end at T - 1 */
  const double peak = 0.3 * stages - 1.0, last = stages - 1.0;
  if (stage <= peak) {
    double f = peak > 0 ? stage / peak : 1.0;
    *rate = anneal(start, s->rate, f);
    if (s->cycle_momentum) *beta1 = anneal(0.95, 0.85, f);
  } else {
    const double from = peak > 0 ? peak : 0.0;
    double f = last > from ? (stage - from) / (last - from) : 1.0;
    if (f > 1.0) f = 1.0;
    *rate = anneal(s->rate, end, f);
    if (s->cycle_momentum) *beta1 = anneal(0.85, 0.95, f);
  }
}

/* ---- order ---- */

enum { ROWS_PER_BLOCK = 512, BLOCKS_PER_WINDOW = 16 };

static void shuffle(uint64_t *x, uint64_t n, uint64_t key) {
  for (uint64_t i = n; i > 1; i--) {
    uint64_t j = spd_below(spd_mix64(key ^ spd_mix64(i)), i), swap = x[i - 1];
    x[i - 1] = x[j];
    x[j] = swap;
  }
}

/* The blocks' order stands in the first entries of `order` until the last window has been written; windows are written from the
 * last to the first, so that no block number is overwritten before it is read. */
void spd_order_fill(uint64_t *order, uint64_t n_rows, uint64_t seed, uint64_t epoch) {
  if (n_rows == 0) return;
  const uint64_t key = spd_mix64(spd_mix64(seed) ^ spd_mix64(epoch + 0x5eed)),
                 n_blocks = (n_rows + ROWS_PER_BLOCK - 1) / ROWS_PER_BLOCK;
  const uint64_t short_rows = n_rows - (n_blocks - 1) * ROWS_PER_BLOCK;
  for (uint64_t b = 0; b < n_blocks; b++) order[b] = b;
  shuffle(order, n_blocks, key);
  uint64_t short_place = 0;
  while (order[short_place] != n_blocks - 1) short_place++;
  const uint64_t n_windows = (n_blocks + BLOCKS_PER_WINDOW - 1) / BLOCKS_PER_WINDOW;
  for (uint64_t w = n_windows; w-- > 0;) {
    uint64_t blocks[BLOCKS_PER_WINDOW];
    const uint64_t first = w * BLOCKS_PER_WINDOW;
    const uint64_t count = n_blocks - first < BLOCKS_PER_WINDOW ? n_blocks - first : BLOCKS_PER_WINDOW;
    memcpy(blocks, order + first, count * sizeof *blocks);
    const uint64_t start = first * ROWS_PER_BLOCK - (short_place < first ? ROWS_PER_BLOCK - short_rows : 0);
    uint64_t used = 0;
    for (uint64_t b = 0; b < count; b++) {
      const uint64_t rows = blocks[b] == n_blocks - 1 ? short_rows : ROWS_PER_BLOCK;
      for (uint64_t i = 0; i < rows; i++) order[start + used + i] = blocks[b] * ROWS_PER_BLOCK + i;
      used += rows;
    }
    shuffle(order + start, used, spd_mix64(key ^ spd_mix64(w + 0x3107)));
  }
}

/* ---- training ---- */

struct spd_training {
  struct spd_model *model;
  struct spd_source source;
  struct spd_training_options options;
  size_t n_observed;
  uint64_t n_training, n_validation;
  uint64_t *order;    /* (n_rows): the training rows of this epoch stand first */
  float *flux, *ivar; /* (batch, M) */
  float *z;           /* (batch) */
  double *losses;     /* (batch) */
  uint64_t epoch, step, step_in_epoch, steps_per_epoch;
  double loss_sum;
  uint64_t loss_count;
};

static double seconds_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void start_epoch(struct spd_training *t) {
  uint64_t kept = 0;
  spd_order_fill(t->order, t->source.n_rows, t->options.seed, t->epoch);
  for (uint64_t i = 0; i < t->source.n_rows; i++)
    if (t->source.is_training[t->order[i]]) t->order[kept++] = t->order[i];
  t->step_in_epoch = 0;
  t->loss_sum = 0;
  t->loss_count = 0;
}

spd_status spd_training_create(struct spd_training **out, struct spd_model *model, const struct spd_source *source,
                               const struct spd_training_options *options, struct spd_error *error) {
  *out = NULL;
  if (options->batch_size == 0 || options->batch_size > spd_model_capacity(model))
    return spd_fail(error, SPD_STATUS_INVALID, "the batch size must be between 1 and %zu, not %zu", spd_model_capacity(model),
                    options->batch_size);
  struct spd_training *t = calloc(1, sizeof *t);
  if (!t) return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate the training state");
  t->model = model;
  t->source = *source;
  t->options = *options;
  t->n_observed = spd_model_network(model)->architecture.n_observed;
  for (uint64_t i = 0; i < source->n_rows; i++) {
    if (source->is_training[i])
      t->n_training++;
    else
      t->n_validation++;
  }
  t->steps_per_epoch = (t->n_training + options->batch_size - 1) / options->batch_size;
  t->order = malloc((source->n_rows + 1) * sizeof *t->order);
  t->flux = malloc(options->batch_size * t->n_observed * sizeof *t->flux);
  t->ivar = malloc(options->batch_size * t->n_observed * sizeof *t->ivar);
  t->z = malloc(options->batch_size * sizeof *t->z);
  t->losses = malloc(options->batch_size * sizeof *t->losses);
  if (!t->order || !t->flux || !t->ivar || !t->z || !t->losses) {
    spd_training_destroy(t);
    return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate the training buffers");
  }
  if (t->n_training == 0) {
    spd_training_destroy(t);
    return spd_fail(error, SPD_STATUS_INVALID, "there is no spectrum to train on");
  }
  start_epoch(t);
  *out = t;
  return SPD_STATUS_OK;
}

void spd_training_destroy(struct spd_training *t) {
  if (!t) return;
  free(t->order);
  free(t->flux);
  free(t->ivar);
  free(t->z);
  free(t->losses);
  free(t);
}

static spd_status load_rows(struct spd_training *t, const uint64_t *rows, size_t n, struct spd_error *error) {
  const size_t width = t->n_observed;
  for (size_t i = 0; i < n; i++) {
    memcpy(t->flux + i * width, t->source.flux + rows[i] * width, width * sizeof *t->flux);
    memcpy(t->ivar + i * width, t->source.ivar + rows[i] * width, width * sizeof *t->ivar);
    t->z[i] = t->source.z[rows[i]];
  }
  return spd_model_load(t->model, t->flux, t->ivar, t->z, n, error);
}

static spd_status forward(struct spd_training *t, struct spd_error *error) {
  SPD_TRY(spd_model_encode(t->model, error));
  SPD_TRY(spd_model_decode(t->model, error));
  SPD_TRY(spd_model_observe(t->model, error));
  return spd_model_score(t->model, t->losses, error);
}

static spd_status one_step(struct spd_training *t, struct spd_error *error) {
  const uint64_t done = t->step_in_epoch * t->options.batch_size, left = t->n_training - done;
  const size_t n = left < t->options.batch_size ? (size_t)left : t->options.batch_size;
  struct spd_adam_options adam = t->options.adam;
  spd_schedule_at(&adam.rate, &adam.beta1, &t->options.schedule, t->step);
  SPD_TRY(load_rows(t, t->order + done, n, error));
  SPD_TRY(forward(t, error));
  SPD_TRY(spd_model_backward(t->model, error));
  SPD_TRY(spd_model_update(t->model, &adam, t->step + 1, error));
  for (size_t i = 0; i < n; i++) t->loss_sum += t->losses[i];
  t->loss_count += n;
  t->step++;
  t->step_in_epoch++;
  return SPD_STATUS_OK;
}

spd_status spd_training_advance(struct spd_training *t, double seconds, struct spd_progress *progress,
                                struct spd_error *error) {
  const double until = seconds_now() + seconds;
  do SPD_TRY(one_step(t, error));
  while (t->step_in_epoch < t->steps_per_epoch && seconds_now() < until);
  const int finished = t->step_in_epoch == t->steps_per_epoch;
  if (finished) t->epoch++;
  progress->epoch = t->epoch;
  progress->step = t->step;
  progress->step_in_epoch = t->step_in_epoch;
  progress->steps_per_epoch = t->steps_per_epoch;
  progress->loss_sum = t->loss_sum;
  progress->loss_count = t->loss_count;
  progress->epoch_finished = finished;
  if (finished) start_epoch(t);
  return SPD_STATUS_OK;
}

spd_status spd_training_validate(struct spd_training *t, double *mean, uint64_t *count, struct spd_error *error) {
  uint64_t *rows = malloc(t->options.batch_size * sizeof *rows);
  if (!rows) return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate %zu row numbers", t->options.batch_size);
  spd_status status = SPD_STATUS_OK;
  double sum = 0;
  uint64_t row = 0, seen = 0;
  while (status == SPD_STATUS_OK && seen < t->n_validation) {
    size_t n = 0;
    for (; row < t->source.n_rows && n < t->options.batch_size; row++)
      if (!t->source.is_training[row]) rows[n++] = row;
    status = load_rows(t, rows, n, error);
    if (status == SPD_STATUS_OK) status = forward(t, error);
    for (size_t i = 0; status == SPD_STATUS_OK && i < n; i++) sum += t->losses[i];
    seen += n;
  }
  free(rows);
  *count = t->n_validation;
  *mean = t->n_validation ? sum / (double)t->n_validation : NAN;
  return status;
}
