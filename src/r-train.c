/* Training, for R: a session is opened, advanced a fraction of a second at a time, read and closed, all from the R loop. */
#include <math.h>
#include <string.h>

#include "core/rng.h"
#include "r-entries.h"
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

static spd_status open_session(struct r_session *session, const struct spd_network *network, const float *weights,
                               const float *wave_observed, const float *wave_rest, size_t n, struct spd_training_options *options,
                               const struct r_device *device, struct spd_error *error) {
  const size_t copies = options->invariance ? spd_invariance_copies(options->invariance, options->batch_size) : 0;
  SPD_TRY(
      r_session_model(session, network, weights, wave_observed, wave_rest, options->batch_size + copies, SPD_MODEL_TRAIN, device, error));
  struct spd_source source = {.flux = session->flux,
                              .ivar = session->ivar,
                              .resolution = session->resolution,
                              .z = session->z,
                              .n_rows = n,
                              .is_training = session->is_training,
                              .surveys = session->surveys.n_files ? &session->surveys : NULL,
                              .places = session->surveys.n_files ? session->places : NULL,
                              .threads = device->threads};
  session->schedule = options->schedule;
  return spd_training_create(&session->training, session->model, &source, options, error);
}

SEXP ffi_train_open(SEXP architecture, SEXP weights, SEXP wave_observed, SEXP wave_rest, SEXP data, SEXP z, SEXP is_training,
                    SEXP options) {
  struct spd_network network;
  r_network(architecture, &network);
  const float *parameters = r_weights(weights, &network);
  const size_t n = (size_t)Rf_xlength(z), width = network.architecture.n_observed;
  r_check_numbers(z, "z", n);
  if (!Rf_isLogical(is_training) || (size_t)Rf_xlength(is_training) != n) Rf_error("internal: 'is_training' must be %zu logicals", n);
  const struct r_source from = r_check_source(data, n, width);
  const float *observed_grid = r_float_vector(wave_observed, "wave_observed", width);
  const float *rest_grid = r_float_vector(wave_rest, "wave_rest", network.architecture.n_rest);
  const struct r_device device = r_device(options);
  const double refine_from = r_list_real(options, "refine_from"); /* a step, or NA for never */
  struct spd_training_options o = {.batch_size = r_batch_size(options, n),
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
                                   .average = (uint64_t)r_list_whole(options, "average", 0, 1e15)};
  struct spd_invariance_options invariance;
  if (take_invariance(&invariance, &o.ids, options, n, o.seed)) o.invariance = &invariance;
  struct r_session *session;
  SEXP pointer = PROTECT(r_session_new(&session));
  struct spd_error error;
  spd_status status = r_source_open(session, &from, REAL_RO(z), n, width, &error);
  if (status == SPD_STATUS_OK && from.flux != R_NilValue) status = r_source_copy(session, n, width, device.threads, &error);
  if (status == SPD_STATUS_OK) status = copy_membership(session, LOGICAL_RO(is_training), n, &error);
  if (status == SPD_STATUS_OK) status = open_session(session, &network, parameters, observed_grid, rest_grid, n, &o, &device, &error);
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
  if (!session->training) Rf_error("internal: this session does not train");
  return session;
}

SEXP ffi_train_advance(SEXP pointer, SEXP seconds) {
  static const char *const names[] = {"step", "epoch", "loss", "learning_rate", "epoch_finished"};
  struct r_session *session = training_session(pointer);
  const double limit = r_number(seconds, "seconds");
  SEXP list = PROTECT(r_list_new(5, names));
  for (int i = 0; i < 4; i++) SET_VECTOR_ELT(list, i, Rf_ScalarReal(NA_REAL));
  SET_VECTOR_ELT(list, 4, Rf_allocVector(LGLSXP, 1)); /* ScalarLogical() would give R's shared constant */
  struct spd_progress progress;
  struct spd_error error;
  spd_status status = spd_training_advance(session->training, limit, &progress, &error);
  if (status != SPD_STATUS_OK) r_raise(status, &error);
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

/* Validates for some seconds. Returns the mean loss, NA without validation rows, or NULL before the end. */
SEXP ffi_train_validate(SEXP pointer, SEXP seconds) {
  struct r_session *session = training_session(pointer);
  const double limit = r_number(seconds, "seconds");
  double mean;
  uint64_t count;
  int finished;
  struct spd_error error;
  spd_status status = spd_training_validate(session->training, limit, &finished, &mean, &count, &error);
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  return finished ? Rf_ScalarReal(count ? mean : NA_REAL) : R_NilValue;
}

SEXP ffi_train_weights(SEXP pointer) {
  struct r_session *session = training_session(pointer);
  SEXP weights = PROTECT(Rf_allocVector(RAWSXP, (R_xlen_t)(spd_model_network(session->model)->size * sizeof(float))));
  struct spd_error error;
  spd_status status = spd_training_get_weights((float *)(void *)RAW(weights), session->training, &error);
  UNPROTECT(1);
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  return weights;
}

/* The state of a training between two steps, as a list; its weights, Adam's moments m and v, and the weights' average, where the training
 * keeps it, are float32 as raw vectors. */
static const char *const state_names[] = {"epoch", "step", "step_in_epoch", "loss_count", "loss_sum", "weights", "m", "v", "average"};
enum { N_COUNTS = 4, WEIGHTS = 5, AVERAGE = 8, N_STATE = 9 };

static float *raw_floats(SEXP list, int i) { return (float *)(void *)RAW(VECTOR_ELT(list, i)); }

SEXP ffi_train_state(SEXP pointer) {
  struct r_session *session = training_session(pointer);
  const size_t bytes = spd_model_network(session->model)->size * sizeof(float);
  const struct spd_training_state s = spd_training_get_state(session->training);
  const double numbers[WEIGHTS] = {(double)s.epoch, (double)s.step, (double)s.step_in_epoch, (double)s.loss_count, s.loss_sum};
  const int n = spd_training_averages(session->training) ? N_STATE : AVERAGE;
  SEXP list = PROTECT(r_list_new(n, state_names));
  for (int i = 0; i < n; i++) SET_VECTOR_ELT(list, i, i < WEIGHTS ? Rf_ScalarReal(numbers[i]) : Rf_allocVector(RAWSXP, (R_xlen_t)bytes));
  struct spd_error error;
  spd_status status = spd_model_get_parameters(raw_floats(list, WEIGHTS), session->model, &error);
  if (status == SPD_STATUS_OK)
    status = spd_model_get_moments(raw_floats(list, WEIGHTS + 1), raw_floats(list, WEIGHTS + 2), session->model, &error);
  if (status == SPD_STATUS_OK && n > AVERAGE) status = spd_training_get_weights(raw_floats(list, AVERAGE), session->training, &error);
  UNPROTECT(1);
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  return list;
}

static spd_status restore(struct r_session *session, const struct spd_training_state *state, const float *weights, const float *m,
                          const float *v, const float *average, struct spd_error *error) {
  SPD_TRY(spd_model_set_parameters(session->model, weights, error));
  SPD_TRY(spd_model_set_moments(session->model, m, v, error));
  if (average) SPD_TRY(spd_model_set_average(session->model, average, error));
  return spd_training_set_state(session->training, state, error);
}

SEXP ffi_train_restore(SEXP pointer, SEXP list) {
  struct r_session *session = training_session(pointer);
  const struct spd_network *network = spd_model_network(session->model);
  uint64_t counts[N_COUNTS];
  for (int i = 0; i < N_COUNTS; i++) counts[i] = (uint64_t)r_list_whole(list, state_names[i], 0, 1e15);
  const struct spd_training_state state = {counts[0], counts[1], counts[2], counts[3], r_list_real(list, "loss_sum")};
  const float *weights = r_weights(r_list_get(list, "weights"), network), *m = r_weights(r_list_get(list, "m"), network),
              *v = r_weights(r_list_get(list, "v"), network),
              *average = spd_training_averages(session->training) ? r_weights(r_list_get(list, "average"), network) : NULL;
  struct spd_error error;
  const spd_status status = restore(session, &state, weights, m, v, average, &error);
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
