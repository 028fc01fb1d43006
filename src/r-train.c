/* Training, for R: a session is opened, advanced a fraction of a second at a time, read and closed, all from the R loop. */
#include <math.h>
#include <string.h>

#include "core/rng.h"
#include "nccl/create.h"
#include "r-entries.h"
#include "r-group.h"
#include "r-network.h"
#include "r-numbers.h"
#include "r-session.h"
#include "r-source.h"

static spd_status copy_membership(struct r_session *session, const int *is_training, size_t n, struct spd_error *error) {
  session->is_training = malloc(n + 1);
  if (!session->is_training) return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate the training's membership");
  for (size_t i = 0; i < n; i++) session->is_training[i] = is_training[i] != 0;
  return SPD_STATUS_OK;
}

/* The element `invariance` of the options: NULL for none (0), or a list. ids: numbers that stand for the ids of the n spectra, to be copied
 * into R_alloc'ed memory. */
static int take_invariance(struct spd_invariance_options *to, const uint64_t **ids, SEXP options, size_t n, uint64_t seed) {
  const SEXP list = r_list_get(options, "invariance");
  if (list == R_NilValue) return 0;
  const double *const id = r_list_numbers(list, "ids", n), *const z = r_list_numbers(list, "z_range", 2);
  const double *const range = r_list_numbers(list, "median_range", 2);
  *to = (struct spd_invariance_options){.scale_free = r_list_flag(list, "scale_free"),
                                        .similarity = r_list_real(list, "similarity"),
                                        .consistency = r_list_real(list, "consistency"),
                                        .sigma = r_list_real(list, "sigma"),
                                        .amplitude = r_list_real(list, "amplitude"),
                                        .width = r_list_real(list, "width"),
                                        .median_from = range[0],
                                        .median_to = range[1],
                                        .fraction = r_list_real(list, "fraction"),
                                        .z_low = z[0],
                                        .z_high = z[1],
                                        .noisy = r_list_real(list, "noisy"),
                                        .noise = r_list_real(list, "noise"),
                                        .masked = r_list_real(list, "masked"),
                                        .slope = r_list_real(list, "slope"),
                                        .period = (uint64_t)r_list_whole(list, "period", 1, 1e9),
                                        .free_from = (uint64_t)r_list_whole(list, "free_from", 0, 1e15),
                                        .cycle_consistency = r_list_flag(list, "cycle_consistency"),
                                        .seed = seed};
  if (!(to->fraction >= 0 && to->fraction <= 1) || !(to->masked >= 0 && to->masked <= 1) || !(to->z_low > -1 && to->z_high >= to->z_low))
    Rf_error("internal: fractions must be between 0 and 1, redshifts above -1");
  uint64_t *copy = (uint64_t *)(void *)R_alloc(n + 1, sizeof *copy);
  for (size_t i = 0; i < n; i++) {
    if (!(id[i] >= 0 && id[i] <= R_MOST_SEED)) Rf_error("internal: 'ids' must be whole numbers");
    copy[i] = (uint64_t)id[i];
  }
  *ids = copy;
  return 1;
}

/* The element `share` of the options: NULL for a training of one instrument, or a list; `pairs` are rows, from 1. */
static void take_share(struct spd_share *to, SEXP options) {
  const SEXP list = r_list_get(options, "share");
  if (list == R_NilValue) return;
  const SEXP pairs = r_list_get(list, "pairs");
  r_check_numbers(pairs, "pairs", R_ANY);
  const size_t n = (size_t)Rf_xlength(pairs);
  uint64_t *rows = (uint64_t *)(void *)R_alloc(n + 1, sizeof *rows);
  for (size_t i = 0; i < n; i++) {
    if (!(REAL_RO(pairs)[i] >= 1 && REAL_RO(pairs)[i] <= R_MOST_SEED)) Rf_error("internal: 'pairs' must be numbers of rows");
    rows[i] = (uint64_t)REAL_RO(pairs)[i] - 1;
  }
  *to = (struct spd_share){.total = (uint64_t)r_list_whole(list, "total", 1, 4e9),
                           .n_pairs = n,
                           .pairs = rows,
                           .partner = (uint64_t)r_list_whole(list, "partner", 0, 4e9)};
}

static struct spd_training_options take_options(SEXP options, size_t n, struct spd_invariance_options *invariance) {
  const double refine_from = r_list_real(options, "refine_from"); /* a step, or NA for never */
  struct spd_training_options o = {
      .refine_from = refine_from >= 0 && refine_from < 1e15 ? (uint64_t)refine_from : UINT64_MAX,
      .seed = (uint64_t)r_list_whole(options, "seed", 0, R_MOST_SEED),
      .schedule = {.rate = r_list_real(options, "rate"),
                   .total_steps = (uint64_t)r_list_whole(options, "total_steps", 1, 1e15),
                   .steps_per_stage = (uint64_t)r_list_whole(options, "steps_per_stage", 1, 1e15),
                   .cycle_momentum = r_list_flag(options, "cycle_momentum"),
                   .constant = r_list_flag(options, "constant")},
      .adam = {.rate = 0,
               .beta1 = 0.9,
               .beta2 = 0.999,
               .epsilon = r_list_real(options, "epsilon"),
               .lsf_factor = r_list_real(options, "lsf_factor"),
               .lsf_nonnegative = r_list_flag(options, "lsf_nonnegative")},
      .clip = r_list_real(options, "clip"),
      .average = (uint64_t)r_list_whole(options, "average", 0, 1e15),
      .freeze_decoder = r_list_get(options, "freeze_decoder") != R_NilValue && r_list_flag(options, "freeze_decoder")};
  take_share(&o.share, options);
  o.batch_size = o.share.total ? (size_t)r_list_whole(options, "batch_size", 1, 1e6) : r_batch_size(options, n);
  if (take_invariance(invariance, &o.ids, options, n, o.seed)) o.invariance = invariance;
  return o;
}

/* A part of a training as R describes it: arguments of ffi_train_open() and ffi_train_join(), checked */
struct part {
  struct spd_network network;
  const float *weights, *observed_grid, *rest_grid;
  struct r_source source;
  const double *z;
  const int *is_training;
  size_t n, width;
  struct r_device device;
  struct spd_training_options options;
  struct spd_invariance_options invariance;
  struct spd_sharing sharing;
};

static void check_part(struct part *p, SEXP architecture, SEXP weights, SEXP wave_observed, SEXP wave_rest, SEXP data, SEXP z,
                       SEXP is_training, SEXP options) {
  r_network(architecture, &p->network);
  p->weights = r_weights(weights, &p->network);
  p->n = (size_t)Rf_xlength(z), p->width = p->network.architecture.n_observed;
  r_check_numbers(z, "z", p->n);
  if (!Rf_isLogical(is_training) || (size_t)Rf_xlength(is_training) != p->n) Rf_error("internal: 'is_training' must be %zu logicals", p->n);
  p->source = r_check_source(data, p->n, p->width);
  p->observed_grid = r_float_vector(wave_observed, "wave_observed", p->width);
  if (wave_rest) p->rest_grid = r_float_vector(wave_rest, "wave_rest", p->network.architecture.n_rest);
  p->device = r_device(options);
  p->options = take_options(options, p->n, &p->invariance);
  /* NULL or absent: a batch is one piece. Otherwise it is shared with the processes that have been joined, if there are any */
  p->sharing.pieces = r_list_get(options, "pieces") == R_NilValue ? 0 : (size_t)r_list_whole(options, "pieces", 1, 1 << 30);
  p->sharing.group = r_group();
  if (p->sharing.pieces) p->options.sharing = &p->sharing;
  p->z = REAL_RO(z), p->is_training = LOGICAL_RO(is_training);
}

static spd_status make_model(struct r_session *session, struct r_session *first, const struct part *p, struct spd_error *error) {
  const struct spd_training_options *o = &p->options;
  uint64_t n_training = 0;
  for (size_t i = 0; i < p->n; i++) n_training += session->is_training[i];
  const size_t batch = spd_piece_rows(o->sharing, spd_largest_batch(o->batch_size, &o->share, n_training)),
               copies = o->invariance ? spd_invariance_copies(o->invariance, batch) : 0;
  if (!first)
    return r_session_model(session, &p->network, p->weights, p->observed_grid, p->rest_grid, batch + copies, SPD_MODEL_TRAIN, &p->device,
                           error);
  SPD_TRY(spd_model_create_beside(&session->model, first->model, &p->network, p->observed_grid, batch + copies,
                                  session->resolved ? &session->band : NULL, error));
  return spd_model_set_parameters(session->model, p->weights, error);
}

/* first: NULL, or the session beside whose model this one's is */
static spd_status open_part(struct r_session *session, struct r_session *first, struct part *p, struct spd_error *error) {
  SPD_TRY(r_source_open(session, &p->source, p->n, p->width, error));
  SPD_TRY(r_source_allocate(session, p->n, error));
  for (size_t i = 0; i < p->n; i++) r_source_place(session, i, &p->source, p->z, i);
  if (p->source.flux != R_NilValue) SPD_TRY(r_source_copy(session, p->n, p->width, p->device.threads, error));
  SPD_TRY(copy_membership(session, p->is_training, p->n, error));
  SPD_TRY(make_model(session, first, p, error));
  struct spd_source source = {.flux = session->flux,
                              .ivar = session->ivar,
                              .resolution = session->resolution,
                              .z = session->z,
                              .n_rows = p->n,
                              .is_training = session->is_training,
                              .surveys = session->surveys.n_files ? &session->surveys : NULL,
                              .places = session->surveys.n_files ? session->places : NULL,
                              .threads = p->device.threads};
  session->schedule = p->options.schedule;
  if (p->options.sharing && p->sharing.group && p->sharing.group->size > 1 && p->device.cuda && spd_nccl_built()) {
    SPD_TRY(spd_nccl_create(&session->sums, p->sharing.group, session->backend, error));
    p->sharing.sums = session->sums;
  }
  return spd_training_create(&session->training, session->model, &source, &p->options, error);
}

SEXP ffi_train_open(SEXP architecture, SEXP weights, SEXP wave_observed, SEXP wave_rest, SEXP data, SEXP z, SEXP is_training,
                    SEXP options) {
  struct part part = {.n = 0};
  check_part(&part, architecture, weights, wave_observed, wave_rest, data, z, is_training, options);
  struct r_session *session;
  SEXP pointer = PROTECT(r_session_new(&session));
  struct spd_error error;
  const spd_status status = open_part(session, NULL, &part, &error);
  if (status != SPD_STATUS_OK) {
    r_session_free(pointer);
    r_raise(status, &error);
  }
  UNPROTECT(1);
  return pointer;
}

/* A session that trains; there are others. */
static struct r_session *training_session(SEXP pointer) {
  struct r_session *session = r_session_get(pointer);
  for (size_t k = 0; k < r_session_parts(session); k++)
    if (!r_session_part(session, k)->training) Rf_error("internal: this session does not train");
  return session;
}

/* Adds an instrument to a training that ffi_train_open() began, on its device and with its decoder. */
SEXP ffi_train_join(SEXP pointer, SEXP architecture, SEXP weights, SEXP wave_observed, SEXP data, SEXP z, SEXP is_training, SEXP options) {
  struct r_session *session = training_session(pointer);
  if (session->joint) Rf_error("internal: this training has all its instruments");
  struct part part = {.n = 0};
  check_part(&part, architecture, weights, wave_observed, NULL, data, z, is_training, options);
  struct r_session *other = r_session_add_part(session);
  struct spd_error error;
  const spd_status status = other ? open_part(other, session, &part, &error)
                                  : spd_fail(&error, SPD_STATUS_INVALID, "a fit has at most %d instruments", SPD_MAX_INSTRUMENTS);
  if (status != SPD_STATUS_OK) {
    if (other) r_session_drop_part(session);
    r_raise(status, &error);
  }
  return R_NilValue;
}

/* All instruments are there. options: `weight`, `sigma` and `scale_free` of the loss that pulls pairs together. */
SEXP ffi_train_joined(SEXP pointer, SEXP options) {
  struct r_session *session = training_session(pointer);
  if (session->joint) Rf_error("internal: this training has all its instruments");
  const struct spd_joint_options o = {
      .weight = r_list_real(options, "weight"), .sigma = r_list_real(options, "sigma"), .scale_free = r_list_flag(options, "scale_free")};
  struct spd_training *trainings[SPD_MAX_INSTRUMENTS];
  for (size_t k = 0; k < r_session_parts(session); k++) trainings[k] = r_session_part(session, k)->training;
  struct spd_error error;
  const spd_status status = spd_joint_create(&session->joint, trainings, r_session_parts(session), &o, &error);
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  return R_NilValue;
}

/* `loss` is that of all spectra of the epoch so far, `losses` has those of each instrument. */
SEXP ffi_train_advance(SEXP pointer, SEXP seconds) {
  static const char *const names[] = {"step", "epoch", "loss", "learning_rate", "epoch_finished", "stopped", "losses"};
  struct r_session *session = training_session(pointer);
  const double limit = r_number(seconds, "seconds");
  const size_t parts = r_session_parts(session);
  SEXP list = PROTECT(r_list_new(7, names));
  for (int i = 0; i < 4; i++) SET_VECTOR_ELT(list, i, Rf_ScalarReal(NA_REAL));
  for (int i = 4; i < 6; i++) { /* ScalarLogical() would give R's shared constants */
    SET_VECTOR_ELT(list, i, Rf_allocVector(LGLSXP, 1));
    LOGICAL(VECTOR_ELT(list, i))[0] = FALSE;
  }
  SET_VECTOR_ELT(list, 6, Rf_allocVector(REALSXP, (R_xlen_t)parts));
  struct spd_progress of[SPD_MAX_INSTRUMENTS], progress;
  struct spd_error error;
  if (parts > 1 && !session->joint) Rf_error("internal: this training lacks instruments");
  spd_status status =
      session->joint ? spd_joint_advance(session->joint, limit, of, &error) : spd_training_advance(session->training, limit, of, &error);
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  session->validated = 0;
  progress = of[0];
  LOGICAL(VECTOR_ELT(list, 5))[0] = progress.stopped;
  if (progress.stopped) {
    UNPROTECT(1);
    return list;
  }
  for (size_t k = 0; k < parts; k++) {
    REAL(VECTOR_ELT(list, 6))[k] = of[k].loss_sum / (double)of[k].loss_count;
    if (k > 0) progress.loss_sum += of[k].loss_sum, progress.loss_count += of[k].loss_count;
  }
  double rate, beta1;
  spd_schedule_at(&rate, &beta1, &session->schedule, progress.step - 1);
  REAL(VECTOR_ELT(list, 0))[0] = (double)progress.step;
  REAL(VECTOR_ELT(list, 1))[0] = (double)progress.epoch;
  REAL(VECTOR_ELT(list, 2))[0] = progress.loss_sum / (double)progress.loss_count;
  REAL(VECTOR_ELT(list, 3))[0] = rate;
  LOGICAL(VECTOR_ELT(list, 4))[0] = progress.epoch_finished;
  UNPROTECT(1);
  return list;
}

/* No rank of a group makes another step: the next advance is `stopped`, on all of them. */
SEXP ffi_train_stop(SEXP pointer) {
  spd_training_stop(training_session(pointer)->training);
  return R_NilValue;
}

/* Validates for some seconds. Returns the mean loss of each instrument, NA without validation rows, or NULL before the end. */
SEXP ffi_train_validate(SEXP pointer, SEXP seconds) {
  struct r_session *session = training_session(pointer);
  const double limit = r_number(seconds, "seconds");
  const size_t parts = r_session_parts(session);
  double mean;
  uint64_t count;
  int finished;
  struct spd_error error;
  SEXP means = PROTECT(Rf_allocVector(REALSXP, (R_xlen_t)parts));
  while (session->validated < parts) {
    struct r_session *part = r_session_part(session, session->validated);
    const spd_status status = spd_training_validate(part->training, limit, &finished, &mean, &count, &error);
    if (status != SPD_STATUS_OK) r_raise(status, &error);
    if (finished) part->validation_loss = count ? mean : NA_REAL, session->validated++;
    if (session->validated < parts) {
      UNPROTECT(1);
      return R_NilValue;
    }
  }
  session->validated = 0;
  for (size_t k = 0; k < parts; k++) REAL(means)[k] = r_session_part(session, k)->validation_loss;
  UNPROTECT(1);
  return means;
}

/* Bytes of the parameters of all instruments, one after the other */
static size_t all_bytes(struct r_session *session) {
  size_t bytes = 0;
  for (size_t k = 0; k < r_session_parts(session); k++) bytes += spd_model_network(r_session_part(session, k)->model)->size * sizeof(float);
  return bytes;
}

SEXP ffi_train_weights(SEXP pointer) {
  struct r_session *session = training_session(pointer);
  SEXP weights = PROTECT(Rf_allocVector(RAWSXP, (R_xlen_t)all_bytes(session)));
  float *to = (float *)(void *)RAW(weights);
  struct spd_error error;
  spd_status status = SPD_STATUS_OK;
  for (size_t k = 0; status == SPD_STATUS_OK && k < r_session_parts(session); k++) {
    struct r_session *part = r_session_part(session, k);
    status = spd_training_get_weights(to, part->training, &error);
    to += spd_model_network(part->model)->size;
  }
  UNPROTECT(1);
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  return weights;
}

/* The state of a training between two steps, as a list; its weights, Adam's moments m and v, and the weights' average, where the training
 * keeps it, are float32 as raw vectors. Of several instruments these are one after the other, and count and sum of the losses have an
 * element for each. */
static const char *const state_names[] = {"epoch", "step", "step_in_epoch", "loss_count", "loss_sum", "weights", "m", "v", "average"};
enum { N_COUNTS = 3, LOSS_COUNT = 3, LOSS_SUM = 4, WEIGHTS = 5, AVERAGE = 8, N_STATE = 9 };

static float *raw_floats(SEXP list, int i) { return (float *)(void *)RAW(VECTOR_ELT(list, i)); }

SEXP ffi_train_state(SEXP pointer) {
  struct r_session *session = training_session(pointer);
  const size_t parts = r_session_parts(session), bytes = all_bytes(session);
  const struct spd_training_state first = spd_training_get_state(session->training);
  const double numbers[N_COUNTS] = {(double)first.epoch, (double)first.step, (double)first.step_in_epoch};
  const int n = spd_training_averages(session->training) ? N_STATE : AVERAGE;
  SEXP list = PROTECT(r_list_new(n, state_names));
  for (int i = 0; i < n; i++)
    SET_VECTOR_ELT(list, i,
                   i < N_COUNTS  ? Rf_ScalarReal(numbers[i])
                   : i < WEIGHTS ? Rf_allocVector(REALSXP, (R_xlen_t)parts)
                                 : Rf_allocVector(RAWSXP, (R_xlen_t)bytes));
  struct spd_error error;
  spd_status status = SPD_STATUS_OK;
  size_t at = 0;
  for (size_t k = 0; status == SPD_STATUS_OK && k < parts; k++) {
    const struct r_session *part = r_session_part(session, k);
    const struct spd_training_state s = spd_training_get_state(part->training);
    REAL(VECTOR_ELT(list, LOSS_COUNT))[k] = (double)s.loss_count;
    REAL(VECTOR_ELT(list, LOSS_SUM))[k] = s.loss_sum;
    status = spd_model_get_parameters(raw_floats(list, WEIGHTS) + at, part->model, &error);
    if (status == SPD_STATUS_OK)
      status = spd_model_get_moments(raw_floats(list, WEIGHTS + 1) + at, raw_floats(list, WEIGHTS + 2) + at, part->model, &error);
    if (status == SPD_STATUS_OK && n > AVERAGE) status = spd_training_get_weights(raw_floats(list, AVERAGE) + at, part->training, &error);
    at += spd_model_network(part->model)->size;
  }
  UNPROTECT(1);
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  return list;
}

static spd_status restore(struct r_session *session, const struct spd_training_state *state, const float *const block[4], size_t at,
                          struct spd_error *error) {
  SPD_TRY(spd_model_set_parameters(session->model, block[0] + at, error));
  SPD_TRY(spd_model_set_moments(session->model, block[1] + at, block[2] + at, error));
  if (block[3]) SPD_TRY(spd_model_set_average(session->model, block[3] + at, error));
  return spd_training_set_state(session->training, state, error);
}

SEXP ffi_train_restore(SEXP pointer, SEXP list) {
  struct r_session *session = training_session(pointer);
  const size_t parts = r_session_parts(session), bytes = all_bytes(session);
  uint64_t counts[N_COUNTS];
  const float *block[4] = {NULL, NULL, NULL, NULL};
  for (int i = 0; i < N_COUNTS; i++) counts[i] = (uint64_t)r_list_whole(list, state_names[i], 0, 1e15);
  const double *loss_count = r_list_numbers(list, "loss_count", parts), *loss_sum = r_list_numbers(list, "loss_sum", parts);
  for (size_t k = 0; k < parts; k++)
    if (!(loss_count[k] >= 0 && loss_count[k] <= 1e15)) Rf_error("internal: 'loss_count' must not be negative");
  for (int i = 0; i < (spd_training_averages(session->training) ? 4 : 3); i++) {
    const SEXP raw = r_list_get(list, state_names[WEIGHTS + i]);
    if (TYPEOF(raw) != RAWSXP || (size_t)Rf_xlength(raw) != bytes) Rf_error("internal: weights must be %zu raw bytes", bytes);
    block[i] = (const float *)(const void *)RAW_RO(raw);
  }
  struct spd_error error;
  spd_status status = SPD_STATUS_OK;
  size_t at = 0;
  for (size_t k = 0; status == SPD_STATUS_OK && k < parts; k++) {
    struct r_session *part = r_session_part(session, k);
    const struct spd_training_state state = {counts[0], counts[1], counts[2], (uint64_t)loss_count[k], loss_sum[k]};
    status = restore(part, &state, block, at, &error);
    at += spd_model_network(part->model)->size;
  }
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  return R_NilValue;
}

/* For each id whether it trains (TRUE) or validates: decided by a hash of the id and the seed alone. */
SEXP ffi_split(SEXP ids, SEXP fraction, SEXP seed) {
  r_check_texts(ids, "ids", R_ANY);
  const R_xlen_t n = Rf_xlength(ids);
  const double validation = r_number(fraction, "fraction");
  const uint64_t first = (uint64_t)r_whole(seed, "seed", 0, R_MOST_SEED);
  SEXP is_training = PROTECT(Rf_allocVector(LGLSXP, n));
  for (R_xlen_t i = 0; i < n; i++) {
    const char *id = CHAR(STRING_ELT(ids, i));
    const uint64_t h = spd_hash(id, strlen(id), first);
    LOGICAL(is_training)[i] = (double)(h >> 11) * 0x1p-53 >= validation;
  }
  UNPROTECT(1);
  return is_training;
}
