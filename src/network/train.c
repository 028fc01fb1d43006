#include "network/train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct spd_training {
  struct spd_model *model;
  struct spd_training_options options;
  struct spd_feed *feed;
  struct spd_batches batches;
  uint64_t n_validation;
  size_t n;                          /* spectra in the present batch */
  uint64_t *validation;              /* (n_validation) rows */
  double *losses;                    /* on the backend, (n_training or n_validation): of the rows in order of processing */
  double *host_losses;               /* (the same) */
  struct spd_refiner *refiner;       /* NULL where the decoder learns at the encoder's latents */
  float *encoded;                    /* (batch_size, S) on the host */
  double *before, *after, *slope;    /* (batch_size): objectives of the batch at the encoder's and at refined latents; (batch_size, S) */
  struct spd_invariance *invariance; /* NULL where the loss is the fidelity alone */
  uint64_t *ids, *next_ids;          /* (n_rows), (n_training): of all rows, of those to come in this epoch */
  int feeding;                       /* the feed is on its way through `order` */
  uint64_t validated;                /* of the validation rows, when it is on its way through these */
  uint64_t epoch, step, step_in_epoch;
  double loss_sum;
  uint64_t loss_count;
  struct spd_pieces pieces;
  uint64_t *own;       /* (n_training): this rank's rows of the epoch, in order; NULL where they are all */
  int stop;            /* asked for */
  double step_seconds; /* of the last steps, 0 at first */
};

static double seconds_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void start_epoch(struct spd_training *t) {
  spd_batches_begin(&t->batches, t->epoch);
  t->feeding = 0;
  t->step_in_epoch = 0;
  t->loss_sum = 0;
  t->loss_count = 0;
}

static spd_status prepare_refiner(struct spd_training *t, struct spd_error *error) {
  const struct spd_refine_options one_step = {.steps = 1};
  const size_t n = t->batches.largest, n_latent = spd_model_network(t->model)->architecture.n_latent;
  t->encoded = malloc(n * n_latent * sizeof *t->encoded);
  t->before = malloc(2 * n * sizeof *t->before);
  t->after = t->before ? t->before + n : NULL;
  t->slope = malloc(n * n_latent * sizeof *t->slope);
  if (!t->encoded || !t->before || !t->slope) return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate the training state");
  return spd_refiner_create(&t->refiner, t->model, &one_step, error);
}

/* Without a refiner: its decoder does not learn at the latents that these losses are of. */
static spd_status prepare_invariance(struct spd_training *t, struct spd_error *error) {
  const size_t n = t->batches.largest, copies = spd_invariance_copies(t->options.invariance, n);
  if (t->pieces.count > 1)
    return spd_fail(error, SPD_STATUS_UNSUPPORTED, "losses of invariance are of all pairs of a batch, which cannot be cut into pieces");
  if (t->refiner) return spd_fail(error, SPD_STATUS_INVALID, "a decoder that learns at refined latents excludes losses of invariance");
  if (n + copies > spd_model_capacity(t->model))
    return spd_fail(error, SPD_STATUS_INVALID, "a batch of %zu spectra and %zu copies does not fit a model made for %zu", n, copies,
                    spd_model_capacity(t->model));
  t->ids = malloc(t->batches.n_rows * sizeof *t->ids);
  t->next_ids = malloc((t->batches.n_training + 1) * sizeof *t->next_ids);
  if (!t->ids || !t->next_ids) return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate the training state");
  for (uint64_t i = 0; i < t->batches.n_rows; i++) t->ids[i] = t->options.ids ? t->options.ids[i] : i;
  return spd_invariance_create(&t->invariance, t->model, t->options.invariance, n, (size_t)t->batches.n_training, error);
}

static spd_status prepare(struct spd_training *t, const struct spd_source *source, struct spd_error *error) {
  const struct spd_training_options *o = &t->options;
  const struct spd_batches *b = &t->batches;
  struct spd_backend *backend = spd_model_backend(t->model);
  void *losses = NULL;
  SPD_TRY(spd_batches_open(&t->batches, source->is_training, source->n_rows, o->batch_size, o->seed, &o->share, error));
  const size_t rows = spd_piece_rows(o->sharing, b->largest);
  if (rows > spd_model_capacity(t->model))
    return spd_fail(error, SPD_STATUS_INVALID, "the batch size must be between 1 and %zu, not %zu", spd_model_capacity(t->model), rows);
  t->n_validation = b->n_rows - b->n_training;
  SPD_TRY(spd_pieces_open(&t->pieces, t->model, o->sharing, b->largest, b->n_training, t->n_validation, error));
  if (t->pieces.count > 1 && o->share.total)
    return spd_fail(error, SPD_STATUS_UNSUPPORTED, "batches of several instruments cannot be cut into pieces");
  const uint64_t most = b->n_training > t->n_validation ? b->n_training : t->n_validation;
  t->validation = malloc((t->n_validation + 1) * sizeof *t->validation);
  t->host_losses = malloc(most * sizeof *t->host_losses);
  t->own = t->pieces.size > 1 ? malloc((b->n_training + 1) * sizeof *t->own) : NULL;
  if (!t->validation || !t->host_losses || (t->pieces.size > 1 && !t->own))
    return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate the training state");
  uint64_t held_out = 0;
  for (uint64_t i = 0; i < b->n_rows; i++)
    if (!source->is_training[i]) t->validation[held_out++] = i;
  SPD_TRY(backend->ops->alloc(backend, &losses, most * sizeof *t->losses, error));
  t->losses = losses;
  if (o->refine_from != UINT64_MAX) SPD_TRY(prepare_refiner(t, error));
  if (o->invariance) SPD_TRY(prepare_invariance(t, error));
  SPD_TRY(spd_feed_create(&t->feed, t->model, source, t->pieces.rows, o->way, error));
  start_epoch(t);
  return SPD_STATUS_OK;
}

spd_status spd_training_create(struct spd_training **out, struct spd_model *model, const struct spd_source *source,
                               const struct spd_training_options *options, struct spd_error *error) {
  *out = NULL;
  struct spd_training *t = calloc(1, sizeof *t);
  if (!t) return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate the training state");
  t->model = model;
  t->options = *options;
  spd_status status = prepare(t, source, error);
  if (status != SPD_STATUS_OK) {
    spd_training_destroy(t);
    return status;
  }
  *out = t;
  return SPD_STATUS_OK;
}

void spd_training_destroy(struct spd_training *t) {
  if (!t) return;
  struct spd_backend *backend = spd_model_backend(t->model);
  spd_pieces_close(&t->pieces);
  free(t->own);
  spd_feed_destroy(t->feed);
  spd_refiner_destroy(t->refiner);
  spd_invariance_destroy(t->invariance);
  free(t->ids);
  free(t->next_ids);
  free(t->encoded);
  free(t->before);
  free(t->slope);
  if (t->losses) backend->ops->free(backend, t->losses);
  spd_batches_close(&t->batches);
  free(t->validation);
  free(t->host_losses);
  free(t);
}

/* From the latents on; stores the losses after the first `done`. */
static spd_status decode(struct spd_training *t, uint64_t done, struct spd_error *error) {
  SPD_TRY(spd_model_decode(t->model, error));
  SPD_TRY(spd_model_observe(t->model, error));
  return spd_model_score_into(t->model, t->losses + done, error);
}

/* Runs the next batch forward and stores its losses after the first `done`. */
static spd_status forward(size_t *n, struct spd_training *t, uint64_t done, struct spd_error *error) {
  SPD_TRY(spd_feed_next(n, t->feed, error));
  if (*n == 0) return SPD_STATUS_OK;
  SPD_TRY(spd_model_encode(t->model, error));
  return decode(t, done, error);
}

/* Whether the encoder is close enough to refined latents for a decoder to leave it behind: at high rates the encoder cannot follow a
 * decoder that learns elsewhere, and the two drift apart. (A usual training has ratios of 1.1 to 1.3; one that drifted had 1.8.) */
static int encoder_follows(const struct spd_training *t, size_t n) {
  const double most = 1.5;
  double before = 0, after = 0;
  for (size_t i = 0; i < n; i++) before += t->before[i], after += t->after[i];
  return before <= most * after;
}

/* The encoder's gradient, through the decoder held fixed: from the derivatives at its latents that the refinement started with. Their
 * objectives are the batch's losses, but for a factor. */
static spd_status encoder_gradient(struct spd_training *t, size_t n, size_t total, uint64_t done, struct spd_error *error) {
  const struct spd_architecture *a = &spd_model_network(t->model)->architecture;
  struct spd_backend *backend = spd_model_backend(t->model);
  const double m = (double)a->n_observed;
  for (size_t i = 0; i < n * a->n_latent; i++) t->encoded[i] = (float)(t->slope[i] / (m * (double)total));
  for (size_t i = 0; i < n; i++) t->before[i] /= m;
  SPD_TRY(backend->ops->upload(backend, t->losses + done, t->before, n * sizeof *t->losses, error));
  return spd_model_backward_from(t->model, SPD_TENSOR_LATENT, t->encoded, SPD_TENSOR_INPUT, error);
}

/* Gradients of the next batch: the decoder's at refined latents, through which no gradient goes to the encoder; the encoder's at its own
 * latents through the decoder held fixed. The losses are those of the encoder's latents. If the encoder does not follow, the usual ones. */
static spd_status refined_gradients(struct spd_training *t, size_t total, uint64_t done, struct spd_error *error) {
  size_t n;
  const struct spd_refined refined = {.before = t->before, .after = t->after, .slope = t->slope};
  SPD_TRY(spd_feed_next(&n, t->feed, error));
  spd_model_set_total(t->model, total);
  SPD_TRY(spd_model_encode(t->model, error));
  SPD_TRY(spd_model_read(t->encoded, t->model, SPD_TENSOR_LATENT, error));
  SPD_TRY(spd_refine(t->refiner, &refined, error));
  if (encoder_follows(t, n)) {
    SPD_TRY(decode(t, done, error));
    SPD_TRY(spd_model_backward_decoder(t->model, error));
    return encoder_gradient(t, n, total, done, error);
  }
  SPD_TRY(spd_model_set_latent(t->model, t->encoded, n, error));
  SPD_TRY(decode(t, done, error));
  return spd_model_backward(t->model, error);
}

/* This rank's rows of the epoch from the present step on. Returns their number. */
static size_t own_rows(struct spd_training *t) {
  size_t count = 0, from, to;
  for (uint64_t step = t->step_in_epoch; step < t->batches.per_epoch; step++) {
    spd_pieces_of_rank(&from, &to, &t->pieces, t->pieces.rank, spd_pieces_batch(&t->pieces, step));
    memcpy(t->own + count, t->batches.order + step * t->batches.largest + from, (to - from) * sizeof *t->own);
    count += to - from;
  }
  return count;
}

/* The rows of this epoch, of this rank, after its first `done` */
static spd_status start_feeding(struct spd_training *t, uint64_t done, struct spd_error *error) {
  const size_t count = t->own ? own_rows(t) : (size_t)(t->batches.n_training - done);
  if (t->batches.ends)
    SPD_TRY(
        spd_feed_start_cut(t->feed, t->batches.order + done, count, t->batches.ends + spd_batches_until(&t->batches, done), done, error));
  else
    SPD_TRY(spd_feed_start(t->feed, t->own ? t->own : t->batches.order + done, count, error));
  t->feeding = 1;
  if (!t->invariance) return SPD_STATUS_OK;
  for (size_t i = 0; i < count; i++) t->next_ids[i] = t->ids[t->batches.order[done + i]];
  return spd_invariance_begin(t->invariance, t->next_ids, count, t->epoch, error);
}

/* Whether the decoder learns at refined latents: then a step's gradients are there after its forward part */
static int is_refined(const struct spd_training *t) { return t->refiner && t->step >= t->options.refine_from; }

size_t spd_training_next(const struct spd_training *t) { return spd_batches_size(&t->batches, t->step_in_epoch); }

size_t spd_training_next_pairs(const struct spd_training *t) { return spd_batches_pairs(&t->batches, t->step_in_epoch); }

int spd_training_epoch_done(const struct spd_training *t) { return t->step_in_epoch == t->batches.per_epoch; }

uint64_t spd_training_size(const struct spd_training *t) { return t->batches.n_training; }

struct spd_model *spd_training_model(const struct spd_training *t) {
  return t->model;
}

const struct spd_training_options *spd_training_options(const struct spd_training *t) { return &t->options; }

/* The next spectra of the feed, of a batch of `total`: up to their losses, and gradients of those of invariance, or with all gradients
 * where the decoder learns at refined latents. Losses come after the first `done`. */
static spd_status forward_to_losses(struct spd_training *t, size_t total, uint64_t done, struct spd_error *error) {
  size_t n;
  if (is_refined(t)) return refined_gradients(t, total, done, error);
  SPD_TRY(spd_feed_next(&n, t->feed, error));
  spd_model_set_total(t->model, total);
  if (t->invariance) SPD_TRY(spd_invariance_copy(t->invariance, error));
  SPD_TRY(spd_model_encode(t->model, error));
  SPD_TRY(decode(t, done, error));
  return t->invariance ? spd_invariance_losses(t->invariance, t->epoch, error) : SPD_STATUS_OK;
}

spd_status spd_training_forward(struct spd_training *t, size_t total, struct spd_error *error) {
  const uint64_t done = spd_batches_before(&t->batches, t->step_in_epoch);
  t->n = spd_training_next(t);
  t->validated = 0;
  if (t->n == 0) return SPD_STATUS_OK;
  if (!t->feeding) SPD_TRY(start_feeding(t, done, error));
  return forward_to_losses(t, total, done, error);
}

spd_status spd_training_backward(struct spd_training *t, struct spd_error *error) {
  return t->n == 0 || is_refined(t) ? SPD_STATUS_OK : spd_model_backward(t->model, error);
}

/* Adam's count of steps of the encoder leaves out batches without a spectrum. */
spd_status spd_training_update(struct spd_training *t, int decoder, struct spd_error *error) {
  const uint64_t seen = spd_batches_before(&t->batches, t->step_in_epoch);
  struct spd_adam_options adam = t->options.adam;
  spd_schedule_at(&adam.rate, &adam.beta1, &t->options.schedule, t->step);
  if (!t->batches.ends && decoder && !t->options.freeze_decoder) {
    SPD_TRY(spd_model_update(t->model, &adam, t->step + 1, error));
  } else if (t->n > 0) {
    const uint64_t updates = t->batches.ends ? t->epoch * t->batches.n_ends + spd_batches_until(&t->batches, seen) : t->step;
    SPD_TRY(spd_model_update_encoder(t->model, &adam, updates + 1, error));
    if (decoder && !t->options.freeze_decoder) SPD_TRY(spd_model_update_decoder(t->model, &adam, t->step + 1, error));
  }
  t->step++;
  if (t->options.average)
    SPD_TRY(spd_model_average(t->model, 1.0 / (double)(t->step < t->options.average ? t->step : t->options.average), error));
  t->step_in_epoch++;
  return SPD_STATUS_OK;
}

/* A piece's part of the gradient of a batch of `total` */
static spd_status piece_gradients(struct spd_training *t, size_t total, uint64_t done, struct spd_error *error) {
  SPD_TRY(forward_to_losses(t, total, done, error));
  return is_refined(t) ? SPD_STATUS_OK : spd_model_backward(t->model, error);
}

/* The last piece of a rank: its gradient goes to the others range by range, while the next ones are computed. */
static spd_status last_piece(struct spd_training *t, size_t total, uint64_t done, int empty, struct spd_error *error) {
  const int in_parts = t->pieces.size > 1 && !is_refined(t);
  const struct spd_range all = {0, spd_model_network(t->model)->size};
  struct spd_range ranges[SPD_MODEL_RANGES];
  if (empty) SPD_TRY(spd_pieces_none(&t->pieces, error));
  if (!in_parts) {
    if (!empty) SPD_TRY(piece_gradients(t, total, done, error));
    return spd_pieces_sum(&t->pieces, all, error);
  }
  if (!empty) SPD_TRY(forward_to_losses(t, total, done, error));
  for (int part = 0; part < SPD_MODEL_PARTS; part++) {
    const size_t n_ranges = spd_model_ranges(ranges, t->model, part);
    if (!empty) SPD_TRY(spd_model_backward_part(t->model, part, error));
    for (size_t i = 0; i < n_ranges; i++) SPD_TRY(spd_pieces_sum(&t->pieces, ranges[i], error));
  }
  return SPD_STATUS_OK;
}

/* The gradient of the batch's mean loss, the same on all ranks */
static spd_status shared_gradients(struct spd_training *t, struct spd_error *error) {
  struct spd_pieces *p = &t->pieces;
  uint64_t done = spd_pieces_before(p, p->rank, t->step_in_epoch); /* this rank's spectra of the epoch so far */
  size_t from, to;
  t->n = spd_pieces_batch(p, t->step_in_epoch);
  t->validated = 0;
  if (!t->feeding) SPD_TRY(start_feeding(t, done, error));
  spd_pieces_of_rank(&from, &to, p, p->rank, t->n);
  for (size_t i = 0; i + 1 < p->own; i++) {
    const size_t n = to - from < p->rows ? to - from : p->rows;
    SPD_TRY(n ? piece_gradients(t, t->n, done, error) : spd_pieces_none(p, error));
    SPD_TRY(spd_pieces_keep(p, i, error));
    from += n, done += n;
  }
  SPD_TRY(last_piece(t, t->n, done, from == to, error));
  return spd_pieces_end(p, error);
}

static spd_status one_step(struct spd_training *t, struct spd_error *error) {
  if (t->pieces.count > 1) {
    SPD_TRY(shared_gradients(t, error));
  } else {
    SPD_TRY(spd_training_forward(t, spd_training_next(t), error));
    SPD_TRY(spd_training_backward(t, error));
  }
  if (t->options.clip > 0) SPD_TRY(spd_model_clip(t->model, t->options.clip, error));
  return spd_training_update(t, 1, error);
}

/* Ranks have clocks of their own: they make the steps that the first one expects to make in this time. 0: stop */
static spd_status agree_on_steps(uint64_t *steps, struct spd_training *t, double seconds, struct spd_error *error) {
  const double left = (double)(t->batches.per_epoch - t->step_in_epoch), fit = t->step_seconds > 0 ? seconds / t->step_seconds : 1;
  const double wanted = t->stop ? 0 : fit < 1 ? 1 : fit < left ? fit : left;
  return spd_pieces_agree(steps, &t->pieces, (uint64_t)wanted, error);
}

void spd_training_stop(struct spd_training *t) { t->stop = 1; }

spd_status spd_training_advance(struct spd_training *t, double seconds, struct spd_progress *progress, struct spd_error *error) {
  const double begun = seconds_now();
  const uint64_t first = t->step_in_epoch;
  const int shared = t->pieces.size > 1;
  uint64_t steps = 0;
  if (shared) SPD_TRY(agree_on_steps(&steps, t, seconds, error));
  progress->stopped = shared && steps == 0;
  if (progress->stopped) return SPD_STATUS_OK;
  do SPD_TRY(one_step(t, error));
  while (!spd_training_epoch_done(t) && (shared ? t->step_in_epoch - first < steps : seconds_now() < begun + seconds));
  const uint64_t made = t->step_in_epoch - first;
  SPD_TRY(spd_training_report(t, progress, error));
  t->step_seconds = (seconds_now() - begun) / (double)made;
  return SPD_STATUS_OK;
}

/* To host_losses, in their order, those of the epoch that are not in its sum yet: waits for the backend. seen: spectra so far, of all ranks
 */
static spd_status fetch_losses(struct spd_training *t, uint64_t seen, struct spd_error *error) {
  struct spd_backend *backend = spd_model_backend(t->model);
  if (t->own) return spd_pieces_losses(t->host_losses, &t->pieces, t->losses, t->loss_count / t->batches.largest, t->step_in_epoch, error);
  return backend->ops->download(backend, t->host_losses, t->losses + t->loss_count, (seen - t->loss_count) * sizeof *t->losses, error);
}

spd_status spd_training_report(struct spd_training *t, struct spd_progress *progress, struct spd_error *error) {
  const int finished = spd_training_epoch_done(t);
  const uint64_t seen = spd_batches_before(&t->batches, t->step_in_epoch);
  SPD_TRY(fetch_losses(t, seen, error));
  for (uint64_t i = 0; i < seen - t->loss_count; i++) t->loss_sum += t->host_losses[i];
  t->loss_count = seen;
  if (finished) t->epoch++;
  progress->epoch = t->epoch;
  progress->step = t->step;
  progress->step_in_epoch = t->step_in_epoch;
  progress->steps_per_epoch = t->batches.per_epoch;
  progress->loss_sum = t->loss_sum;
  progress->loss_count = t->loss_count;
  progress->epoch_finished = finished;
  progress->stopped = 0;
  if (finished) start_epoch(t);
  return SPD_STATUS_OK;
}

struct spd_training_state spd_training_get_state(const struct spd_training *t) {
  const struct spd_training_state state = {t->epoch, t->step, t->step_in_epoch, t->loss_count, t->loss_sum};
  return state;
}

spd_status spd_training_set_state(struct spd_training *t, const struct spd_training_state *state, struct spd_error *error) {
  const uint64_t seen = spd_batches_before(&t->batches, state->step_in_epoch);
  if (state->step_in_epoch >= t->batches.per_epoch || state->loss_count != seen ||
      state->step != state->epoch * t->batches.per_epoch + state->step_in_epoch)
    return spd_fail(error, SPD_STATUS_INVALID, "this is not the state of a training with %llu steps an epoch",
                    (unsigned long long)t->batches.per_epoch);
  t->epoch = state->epoch;
  t->step = state->step;
  start_epoch(t);
  t->step_in_epoch = state->step_in_epoch;
  t->loss_count = state->loss_count;
  t->loss_sum = state->loss_sum;
  return SPD_STATUS_OK;
}

int spd_training_averages(const struct spd_training *t) { return t->options.average > 0; }

spd_status spd_training_get_weights(float *weights, struct spd_training *t, struct spd_error *error) {
  return t->options.average ? spd_model_get_average(weights, t->model, error) : spd_model_get_parameters(weights, t->model, error);
}

static spd_status validate(struct spd_training *t, double seconds, int *finished, double *mean, uint64_t *count, struct spd_error *error) {
  const double until = seconds_now() + seconds;
  size_t from, to;
  double sum = 0;
  *count = t->n_validation;
  *mean = NAN;
  *finished = 1;
  if (t->n_validation == 0) return SPD_STATUS_OK;
  spd_pieces_validation(&from, &to, &t->pieces, t->pieces.rank);
  if (t->validated == 0) SPD_TRY(spd_feed_start(t->feed, t->validation + from, to - from, error));
  t->feeding = 0; /* the feed must be restarted with the epoch's order afterwards */
  while (t->validated < to - from) {
    size_t n;
    SPD_TRY(forward(&n, t, t->validated, error));
    t->validated += n;
    if (seconds_now() >= until) break;
  }
  *finished = t->validated == to - from;
  if (!*finished) return SPD_STATUS_OK;
  t->validated = 0;
  SPD_TRY(spd_pieces_validation_losses(t->host_losses, &t->pieces, t->losses, error));
  for (uint64_t i = 0; i < t->n_validation; i++) sum += t->host_losses[i];
  *mean = sum / (double)t->n_validation;
  return SPD_STATUS_OK;
}

spd_status spd_training_validate(struct spd_training *t, double seconds, int *finished, double *mean, uint64_t *count,
                                 struct spd_error *error) {
  const int averaged = t->options.average && t->step;
  if (averaged) SPD_TRY(spd_model_exchange_average(t->model, error));
  const spd_status status = validate(t, seconds, finished, mean, count, error);
  if (averaged && status == SPD_STATUS_OK) return spd_model_exchange_average(t->model, error);
  return status;
}
