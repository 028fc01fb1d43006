/* Networks on a backend, for R: fresh weights, predictions, and what a build can do. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "network/model.h"
#include "core/rng.h"
#include "network/scalar.h"
#include "core/threads.h"
#include "r-entries.h"
#include "r-model.h"
#include "r-network.h"

/* ---- R numbers to the core's floats ---- */

float *r_float_vector(SEXP x, const char *name, size_t n) {
  r_check_numbers(x, name, n);
  const double *from = REAL_RO(x);
  float *to = (float *)R_alloc(n, sizeof *to);
  for (size_t i = 0; i < n; i++) to[i] = (float)from[i];
  return to;
}

size_t r_batch_size(SEXP options, size_t n) {
  const size_t wanted = (size_t)r_list_whole(options, "batch_size", 1, 1e6);
  return wanted < n ? wanted : n > 0 ? n : 1;
}

void r_rows_to_float(float *to, const double *matrix, size_t n_rows, size_t width, size_t from, size_t n) {
  for (size_t m = 0; m < width; m++)
    for (size_t i = 0; i < n; i++) to[i * width + m] = (float)matrix[m * n_rows + from + i];
}

/* ---- sessions: a backend and a model that R's garbage collector frees ---- */

static void finalize(SEXP pointer) {
  struct r_session *session = R_ExternalPtrAddr(pointer);
  if (!session) return;
  R_ClearExternalPtr(pointer);
  spd_training_destroy(session->training);
  spd_model_destroy(session->model);
  if (session->backend) session->backend->ops->destroy(session->backend);
  free(session->flux);
  free(session->ivar);
  free(session->z);
  free(session->is_training);
  r_surveys_close(&session->surveys);
  free(session->places);
  free(session);
}

static SEXP session_tag(void) { return Rf_install("spender_session"); }

SEXP r_session_new(struct r_session **session) {
  SEXP pointer = PROTECT(R_MakeExternalPtr(NULL, session_tag(), R_NilValue));
  R_RegisterCFinalizerEx(pointer, finalize, TRUE);
  *session = calloc(1, sizeof **session);
  if (!*session) Rf_error("could not allocate a session");
  R_SetExternalPtrAddr(pointer, *session);
  UNPROTECT(1);
  return pointer;
}

void r_session_free(SEXP pointer) { finalize(pointer); }

struct r_session *r_session_get(SEXP pointer) {
  const int ours = TYPEOF(pointer) == EXTPTRSXP && R_ExternalPtrTag(pointer) == session_tag();
  struct r_session *session = ours ? R_ExternalPtrAddr(pointer) : NULL;
  if (!session) Rf_error("internal: this session is closed");
  return session;
}

static int choice(SEXP options, const char *name, const char *const *choices) {
  const SEXP value = r_list_get(options, name);
  const char *chosen = Rf_isString(value) && Rf_xlength(value) == 1 ? CHAR(STRING_ELT(value, 0)) : "";
  for (int i = 0; choices[i]; i++)
    if (strcmp(chosen, choices[i]) == 0) return i;
  Rf_error("internal: unknown %s '%s'", name, chosen);
}

struct r_device r_device(SEXP options) {
  static const char *const devices[] = {"cpu", "cuda", NULL}, *const precisions[] = {"fp32", "tf32", "bf16", "fp16", NULL};
  const struct r_device device = {choice(options, "device", devices), (int)r_list_whole(options, "threads", 1, 4096),
                                  (spd_precision)choice(options, "precision", precisions)};
  return device;
}

spd_status r_session_model(struct r_session *session, const struct spd_network *network, const float *weights,
                           const float *wave_observed, const float *wave_rest, size_t capacity, spd_model_purpose purpose,
                           const struct r_device *device, struct spd_error *error) {
  SPD_TRY(device->cuda ? spd_cuda_create(&session->backend, device->precision, error)
                       : spd_cpu_create(&session->backend, device->threads, error));
  SPD_TRY(spd_model_create(&session->model, network, session->backend, wave_observed, wave_rest, capacity, purpose, error));
  return spd_model_set_parameters(session->model, weights, error);
}

/* ---- entries ---- */

SEXP ffi_build_info(void) {
  static const char *const names[] = {"cblas", "cfitsio", "cuda", "cores", "instructions"};
  SEXP list = PROTECT(r_list_new(5, names));
  int cblas = FALSE, cfitsio = FALSE;
#ifdef SPD_HAVE_CBLAS
  cblas = TRUE;
#endif
#ifdef SPD_HAVE_CFITSIO
  cfitsio = TRUE;
#endif
  SET_VECTOR_ELT(list, 0, Rf_ScalarLogical(cblas));
  SET_VECTOR_ELT(list, 1, Rf_ScalarLogical(cfitsio));
  SET_VECTOR_ELT(list, 2, Rf_ScalarLogical(spd_cuda_built()));
  SET_VECTOR_ELT(list, 3, Rf_ScalarInteger(spd_cores()));
  SET_VECTOR_ELT(list, 4, Rf_mkString(spd_cpu_instructions()));
  UNPROTECT(1);
  return list;
}

/* name, memory (bytes) and compute capability of each GPU that can be used now */
SEXP ffi_cuda_devices(void) {
  static const char *const names[] = {"name", "memory", "capability"};
  const int count = spd_cuda_count();
  SEXP list = PROTECT(r_list_new(3, names));
  SET_VECTOR_ELT(list, 0, Rf_allocVector(STRSXP, count));
  SET_VECTOR_ELT(list, 1, Rf_allocVector(REALSXP, count));
  SET_VECTOR_ELT(list, 2, Rf_allocVector(STRSXP, count));
  for (int i = 0; i < count; i++) {
    struct spd_cuda_device device;
    struct spd_error error;
    char capability[32];
    const spd_status status = spd_cuda_describe(&device, i, &error);
    if (status != SPD_STATUS_OK) r_raise(status, &error);
    snprintf(capability, sizeof capability, "%d.%d", device.major, device.minor);
    SET_STRING_ELT(VECTOR_ELT(list, 0), i, Rf_mkChar(device.name));
    REAL(VECTOR_ELT(list, 1))[i] = (double)device.memory;
    SET_STRING_ELT(VECTOR_ELT(list, 2), i, Rf_mkChar(capability));
  }
  UNPROTECT(1);
  return list;
}

SEXP ffi_float32(SEXP x) {
  r_check_numbers(x, "x", R_ANY);
  SEXP out = PROTECT(Rf_allocVector(REALSXP, Rf_xlength(x)));
  for (R_xlen_t i = 0; i < Rf_xlength(x); i++) REAL(out)[i] = (double)(float)REAL_RO(x)[i];
  UNPROTECT(1);
  return out;
}

#define MOST_SEED 9007199254740992.0 /* 2^53 */

SEXP ffi_network_fill(SEXP architecture, SEXP seed) {
  struct spd_network network;
  r_network(architecture, &network);
  const double first = r_whole(seed, "seed", 0, MOST_SEED);
  SEXP weights = PROTECT(Rf_allocVector(RAWSXP, (R_xlen_t)(network.size * sizeof(float))));
  spd_network_fill((float *)(void *)RAW(weights), &network, (uint64_t)first);
  UNPROTECT(1);
  return weights;
}

SEXP ffi_split(SEXP ids, SEXP fraction, SEXP seed) {
  r_check_texts(ids, "ids", R_ANY);
  const R_xlen_t n = Rf_xlength(ids);
  const double validation = r_number(fraction, "fraction");
  const uint64_t first = (uint64_t)r_whole(seed, "seed", 0, MOST_SEED);
  SEXP is_training = PROTECT(Rf_allocVector(LGLSXP, n));
  for (R_xlen_t i = 0; i < n; i++) {
    const char *id = CHAR(STRING_ELT(ids, i));
    const uint64_t h = spd_hash(id, strlen(id), first);
    LOGICAL(is_training)[i] = (double)(h >> 11) * 0x1p-53 >= validation;
  }
  UNPROTECT(1);
  return is_training;
}

SEXP ffi_coverage(SEXP z, SEXP wave_observed, SEXP wave_rest, SEXP lsf) {
  const R_xlen_t n = Rf_xlength(z);
  r_check_numbers(z, "z", (size_t)n);
  const size_t n_observed = (size_t)Rf_xlength(wave_observed), n_rest = (size_t)Rf_xlength(wave_rest);
  const size_t size = (size_t)r_whole(lsf, "lsf", 0, 1e6);
  if (n_observed < 2 || n_rest < 2) Rf_error("internal: a grid has at least two pixels");
  const float *observed = r_float_vector(wave_observed, "wave_observed", n_observed), *rest = r_float_vector(wave_rest, "wave_rest", n_rest);
  SEXP out = PROTECT(Rf_allocMatrix(REALSXP, (int)n, 2));
  for (R_xlen_t i = 0; i < n; i++) {
    size_t from, to;
    spd_coverage_lsf(&from, &to, (double)(float)REAL_RO(z)[i], rest, n_rest, observed, n_observed, size);
    REAL(out)[i] = (double)from + 1;
    REAL(out)[n + i] = (double)to;
  }
  SEXP dimnames = PROTECT(Rf_allocVector(VECSXP, 2)), columns = PROTECT(Rf_allocVector(STRSXP, 2));
  SET_STRING_ELT(columns, 0, Rf_mkChar("from"));
  SET_STRING_ELT(columns, 1, Rf_mkChar("to"));
  SET_VECTOR_ELT(dimnames, 1, columns);
  Rf_setAttrib(out, R_DimNamesSymbol, dimnames);
  UNPROTECT(3);
  return out;
}

/* What ffi_predict computes: the tensor, or the loss. */
struct wanted {
  const char *type;
  spd_tensor tensor;
  int loss;
};

static struct wanted wanted(SEXP what) {
  const char *type = r_text(what, "type");
  static const struct wanted known[] = {{"latent", SPD_TENSOR_LATENT, 0},
                                        {"rest", SPD_TENSOR_REST, 0},
                                        {"observed", SPD_TENSOR_OBSERVED, 0},
                                        {"loss", SPD_TENSOR_OBSERVED, 1}};
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (strcmp(type, known[i].type) == 0) return known[i];
  Rf_error("internal: unknown type '%s'", type);
}

static spd_status forward(struct spd_model *model, const struct wanted *want, int encode, double *losses,
                          struct spd_error *error) {
  if (encode) SPD_TRY(spd_model_encode(model, error));
  if (want->tensor >= SPD_TENSOR_REST) SPD_TRY(spd_model_decode(model, error));
  if (want->tensor >= SPD_TENSOR_OBSERVED) SPD_TRY(spd_model_observe(model, error));
  return want->loss ? spd_model_score(model, losses, error) : SPD_STATUS_OK;
}

/* flux and ivar (n, M) or NULL; latent (n, S) or NULL; z (n). Observed pixels that are not covered become NA. */
SEXP ffi_predict(SEXP architecture, SEXP weights, SEXP wave_observed, SEXP wave_rest, SEXP flux, SEXP ivar, SEXP z, SEXP latent,
                 SEXP type, SEXP options) {
  struct spd_network network;
  r_network(architecture, &network);
  const float *parameters = r_weights(weights, &network);
  const struct wanted want = wanted(type);
  const size_t n = (size_t)Rf_xlength(z), n_observed = network.architecture.n_observed, n_rest = network.architecture.n_rest;
  const size_t n_latent = network.architecture.n_latent, capacity = r_batch_size(options, n);
  const int encode = latent == R_NilValue;
  const struct r_device device = r_device(options);
  r_check_numbers(z, "z", n);
  if (encode) {
    r_check_matrix(flux, "flux", n, n_observed);
    r_check_matrix(ivar, "ivar", n, n_observed);
  } else {
    r_check_matrix(latent, "latent", n, n_latent);
  }
  const float *observed_grid = r_float_vector(wave_observed, "wave_observed", n_observed);
  const float *rest_grid = r_float_vector(wave_rest, "wave_rest", n_rest);
  const size_t row_size = want.tensor == SPD_TENSOR_LATENT ? n_latent : want.tensor == SPD_TENSOR_REST ? n_rest : n_observed;
  const size_t width = want.loss ? 1 : row_size;
  SEXP out = PROTECT(Rf_allocMatrix(REALSXP, (int)n, (int)width));
  float *flux_rows = NULL, *ivar_rows = NULL, *latent_rows = NULL;
  if (encode) {
    flux_rows = (float *)R_alloc(capacity * n_observed, sizeof(float));
    ivar_rows = (float *)R_alloc(capacity * n_observed, sizeof(float));
  } else {
    latent_rows = (float *)R_alloc(capacity * n_latent, sizeof(float));
  }
  float *z_rows = (float *)R_alloc(capacity, sizeof(float)), *result = (float *)R_alloc(capacity * row_size, sizeof(float));
  double *losses = (double *)R_alloc(capacity, sizeof(double));
  struct r_session *session;
  SEXP pointer = PROTECT(r_session_new(&session));
  struct spd_error error;
  spd_status status =
      r_session_model(session, &network, parameters, observed_grid, rest_grid, capacity, SPD_MODEL_FORWARD, &device, &error);
  for (size_t from = 0; status == SPD_STATUS_OK && from < n; from += capacity) {
    const size_t count = n - from < capacity ? n - from : capacity;
    R_CheckUserInterrupt();
    for (size_t i = 0; i < count; i++) z_rows[i] = (float)REAL_RO(z)[from + i];
    if (encode) {
      r_rows_to_float(flux_rows, REAL_RO(flux), n, n_observed, from, count);
      r_rows_to_float(ivar_rows, REAL_RO(ivar), n, n_observed, from, count);
    } else {
      r_rows_to_float(latent_rows, REAL_RO(latent), n, n_latent, from, count);
    }
    status = spd_model_load(session->model, flux_rows, ivar_rows, z_rows, count, &error);
    if (status == SPD_STATUS_OK && !encode) status = spd_model_set_latent(session->model, latent_rows, count, &error);
    if (status == SPD_STATUS_OK) status = forward(session->model, &want, encode, losses, &error);
    if (status == SPD_STATUS_OK && !want.loss) status = spd_model_read(result, session->model, want.tensor, &error);
    if (status != SPD_STATUS_OK) break;
    for (size_t i = 0; i < count; i++) {
      if (want.loss) {
        REAL(out)[from + i] = losses[i];
        continue;
      }
      size_t first = 0, last = width;
      if (want.tensor == SPD_TENSOR_OBSERVED)
        spd_coverage_lsf(&first, &last, z_rows[i], rest_grid, n_rest, observed_grid, n_observed, network.architecture.lsf);
      for (size_t m = 0; m < width; m++)
        REAL(out)[m * n + from + i] = m >= first && m < last ? (double)result[i * width + m] : NA_REAL;
    }
  }
  r_session_free(pointer);
  UNPROTECT(2);
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  return out;
}
