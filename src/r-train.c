/* Training, for R: a session is opened, advanced a fraction of a second at a time, read and closed, all from the R loop. */
#include <math.h>
#include <string.h>

#include "r-entries.h"
#include "r-model.h"
#include "r-network.h"

/* Rows of a column-major matrix, row by row; columns one after the other in blocks, so that lines of the cache are used whole */
static void take_rows(float *to, SEXP matrix, SEXP rows, size_t n, size_t width) {
  enum { AT_ONCE = 64 };
  const size_t n_rows = (size_t)Rf_nrows(matrix);
  const double *from = REAL_RO(matrix), *row = REAL_RO(rows);
  for (size_t i0 = 0; i0 < n; i0 += AT_ONCE)
    for (size_t m = 0; m < width; m++)
      for (size_t i = i0; i < n && i < i0 + AT_ONCE; i++) to[i * width + m] = (float)from[m * n_rows + (size_t)row[i] - 1];
}

/* data: list(flux, ivar, rows), matrices and numbers from 1 of the rows to take; or list(paths, counts, rows), survey files, how many
 * spectra each has, and numbers from 1 over all of them. */
/* The same types and lengths, checked; what the files hold is for those who open them. */
static void check_data(SEXP data, size_t n, size_t width) {
  const SEXP flux = r_list_get(data, "flux"), ivar = r_list_get(data, "ivar"), paths = r_list_get(data, "paths");
  if (flux != R_NilValue) {
    if (!Rf_isMatrix(flux)) Rf_error("internal: 'flux' must be a matrix of doubles");
    const size_t n_rows = (size_t)Rf_nrows(flux);
    r_check_matrix(flux, "flux", n_rows, width);
    r_check_matrix(ivar, "ivar", n_rows, width);
    r_check_rows(r_list_get(data, "rows"), n, (double)n_rows);
    return;
  }
  r_check_texts(paths, "paths", R_ANY);
  if (Rf_xlength(paths) == 0) Rf_error("internal: there are neither spectra nor survey files");
  r_list_numbers(data, "counts", (size_t)Rf_xlength(paths));
  r_list_numbers(data, "rows", n);
}

static spd_status take_data(struct r_session *session, SEXP data, size_t n, size_t width, struct spd_error *error) {
  const SEXP flux = r_list_get(data, "flux"), ivar = r_list_get(data, "ivar"), rows = r_list_get(data, "rows");
  if (flux == R_NilValue) {
    SPD_TRY(r_surveys_open(&session->surveys, r_list_get(data, "paths"), r_list_get(data, "counts"), error));
    session->places = malloc((n + 1) * sizeof *session->places);
    if (!session->places) return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate the numbers of %zu spectra", n);
    int results = 0;
    for (size_t f = 0; f < session->surveys.n_files; f++) results |= session->surveys.files[f].is_results;
    const uint64_t n_there = session->surveys.first[session->surveys.n_files];
    for (size_t i = 0; i < n; i++) {
      const double row = REAL_RO(rows)[i];
      if (!(row >= 1 && row <= (double)n_there) || session->surveys.files[0].n_observed != width || results)
        return spd_fail(error, SPD_STATUS_FORMAT, "the survey files are not those that were opened: open_survey() them again");
      session->places[i] = (uint64_t)row - 1;
    }
    return SPD_STATUS_OK;
  }
  session->flux = malloc((n * width + 1) * sizeof(float));
  session->ivar = malloc((n * width + 1) * sizeof(float));
  if (!session->flux || !session->ivar)
    return spd_fail(error, SPD_STATUS_NO_MEMORY,
                    "could not allocate %.1f MB for the spectra; a survey file needs less, see write_survey()",
                    8e-6 * (double)(n * width));
  take_rows(session->flux, flux, rows, n, width);
  take_rows(session->ivar, ivar, rows, n, width);
  return SPD_STATUS_OK;
}

static spd_status copy_rows(struct r_session *session, const double *z, const int *is_training, size_t n,
                            struct spd_error *error) {
  session->z = malloc((n + 1) * sizeof(float));
  session->is_training = malloc(n + 1);
  if (!session->z || !session->is_training) return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate redshifts");
  for (size_t i = 0; i < n; i++) session->z[i] = (float)z[i], session->is_training[i] = is_training[i] != 0;
  return SPD_STATUS_OK;
}

static spd_status open_session(struct r_session *session, const struct spd_network *network, const float *weights,
                               const float *wave_observed, const float *wave_rest, size_t n,
                               struct spd_training_options *options, const struct r_device *device, struct spd_error *error) {
  SPD_TRY(r_session_model(session, network, weights, wave_observed, wave_rest, options->batch_size, SPD_MODEL_TRAIN, device,
                          error));
  struct spd_source source = {.flux = session->flux,
                              .ivar = session->ivar,
                              .z = session->z,
                              .n_rows = n,
                              .is_training = session->is_training,
                              .surveys = session->places ? &session->surveys : NULL,
                              .places = session->places,
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
  check_data(data, n, width);
  if (!Rf_isLogical(is_training) || (size_t)Rf_xlength(is_training) != n) Rf_error("internal: 'is_training' must be %zu logicals", n);
  const float *observed_grid = r_float_vector(wave_observed, "wave_observed", width);
  const float *rest_grid = r_float_vector(wave_rest, "wave_rest", network.architecture.n_rest);
  const struct r_device device = r_device(options);
  struct spd_training_options o = {.batch_size = r_batch_size(options, n),
                                   .seed = (uint64_t)r_list_whole(options, "seed", 0, 9007199254740992.0),
                                   .schedule = {.rate = r_list_real(options, "rate"),
                                                .total_steps = (uint64_t)r_list_whole(options, "total_steps", 1, 1e15),
                                                .steps_per_stage = (uint64_t)r_list_whole(options, "steps_per_stage", 1, 1e15),
                                                .cycle_momentum = r_list_flag(options, "cycle_momentum"),
                                                .constant = r_list_flag(options, "constant")},
                                   .adam = {.rate = 0,
                                            .beta1 = 0.9,
                                            .beta2 = 0.999,
                                            .epsilon = 1e-8,
                                            .lsf_factor = r_list_real(options, "lsf_factor"),
                                            .lsf_nonnegative = r_list_flag(options, "lsf_nonnegative")}};
  struct r_session *session;
  SEXP pointer = PROTECT(r_session_new(&session));
  struct spd_error error;
  spd_status status = take_data(session, data, n, width, &error);
  if (status == SPD_STATUS_OK) status = copy_rows(session, REAL_RO(z), LOGICAL_RO(is_training), n, &error);
  if (status == SPD_STATUS_OK)
    status = open_session(session, &network, parameters, observed_grid, rest_grid, n, &o, &device, &error);
  if (status != SPD_STATUS_OK) {
    r_session_free(pointer);
    r_raise(status, &error);
  }
  UNPROTECT(1);
  return pointer;
}

SEXP ffi_train_advance(SEXP pointer, SEXP seconds) {
  static const char *const names[] = {"step", "epoch", "loss", "learning_rate", "epoch_finished"};
  struct r_session *session = r_session_get(pointer);
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

SEXP ffi_train_validate(SEXP pointer) {
  struct r_session *session = r_session_get(pointer);
  double mean;
  uint64_t count;
  struct spd_error error;
  spd_status status = spd_training_validate(session->training, &mean, &count, &error);
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  return Rf_ScalarReal(count ? mean : NA_REAL);
}

SEXP ffi_train_weights(SEXP pointer) {
  struct r_session *session = r_session_get(pointer);
  SEXP weights = PROTECT(Rf_allocVector(RAWSXP, (R_xlen_t)(spd_model_network(session->model)->size * sizeof(float))));
  struct spd_error error;
  spd_status status = spd_model_get_parameters((float *)(void *)RAW(weights), session->model, &error);
  UNPROTECT(1);
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  return weights;
}

/* list(numbers, weights, m, v): what a checkpoint holds. */
SEXP ffi_train_state(SEXP pointer) {
  static const char *const names[] = {"numbers", "weights", "m", "v"};
  struct r_session *session = r_session_get(pointer);
  const size_t bytes = spd_model_network(session->model)->size * sizeof(float);
  const struct spd_training_state s = spd_training_get_state(session->training);
  const double numbers[5] = {(double)s.epoch, (double)s.step, (double)s.step_in_epoch, (double)s.loss_count, s.loss_sum};
  SEXP list = PROTECT(r_list_new(4, names));
  SET_VECTOR_ELT(list, 0, Rf_allocVector(REALSXP, 5));
  memcpy(REAL(VECTOR_ELT(list, 0)), numbers, sizeof numbers);
  for (int i = 1; i < 4; i++) SET_VECTOR_ELT(list, i, Rf_allocVector(RAWSXP, (R_xlen_t)bytes));
  struct spd_error error;
  spd_status status = spd_model_get_parameters((float *)(void *)RAW(VECTOR_ELT(list, 1)), session->model, &error);
  if (status == SPD_STATUS_OK)
    status = spd_model_get_moments((float *)(void *)RAW(VECTOR_ELT(list, 2)), (float *)(void *)RAW(VECTOR_ELT(list, 3)),
                                   session->model, &error);
  UNPROTECT(1);
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  return list;
}

SEXP ffi_train_restore(SEXP pointer, SEXP list) {
  struct r_session *session = r_session_get(pointer);
  const struct spd_network *network = spd_model_network(session->model);
  const SEXP numbers = r_list_get(list, "numbers");
  r_check_numbers(numbers, "numbers", 5);
  const double *s = REAL_RO(numbers);
  for (int i = 0; i < 4; i++)
    if (!(s[i] >= 0 && s[i] <= 1e15)) Rf_error("internal: this is not the state of a training");
  const struct spd_training_state state = {(uint64_t)s[0], (uint64_t)s[1], (uint64_t)s[2], (uint64_t)s[3], s[4]};
  const float *weights = r_weights(r_list_get(list, "weights"), network), *m = r_weights(r_list_get(list, "m"), network),
              *v = r_weights(r_list_get(list, "v"), network);
  struct spd_error error;
  spd_status status = spd_model_set_parameters(session->model, weights, &error);
  if (status == SPD_STATUS_OK) status = spd_model_set_moments(session->model, m, v, &error);
  if (status == SPD_STATUS_OK) status = spd_training_set_state(session->training, &state, &error);
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  return R_NilValue;
}

/* Are all floats in a raw vector finite? */
SEXP ffi_all_finite(SEXP bytes) {
  if (TYPEOF(bytes) != RAWSXP) Rf_error("internal: 'bytes' must be raw");
  const float *values = (const float *)(const void *)RAW(bytes);
  const R_xlen_t n = Rf_xlength(bytes) / (R_xlen_t)sizeof *values;
  int finite = 1;
  for (R_xlen_t i = 0; i < n; i++) finite &= isfinite(values[i]) != 0;
  return Rf_ScalarLogical(finite);
}

SEXP ffi_train_close(SEXP pointer) {
  r_session_get(pointer);
  r_session_free(pointer);
  return R_NilValue;
}
