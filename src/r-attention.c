/* Attention maps and their gradients, for R. */
#include <string.h>

#include "network/model.h"
#include "r-entries.h"
#include "r-network.h"
#include "r-numbers.h"
#include "r-session.h"

struct maps {
  struct spd_model *model;
  size_t n, length, channels; /* of the R arrays (n, length, channels) */
  float *values, *gradients;  /* (batch, length, channels) */
  double *attention, *fam;    /* fam may be NULL */
};

/* of spectra from ... from + count - 1, with the restframe gradient (count, R) if fam is requested */
static spd_status one_batch(const struct maps *maps, size_t from, size_t count, const float *rest_gradient, struct spd_error *error) {
  SPD_TRY(spd_model_encode(maps->model, error));
  SPD_TRY(spd_model_read(maps->values, maps->model, SPD_TENSOR_ATTENTION, error));
  if (maps->fam) {
    SPD_TRY(spd_model_decode(maps->model, error));
    SPD_TRY(spd_model_backward_from(maps->model, SPD_TENSOR_REST, rest_gradient, SPD_TENSOR_ATTENTION, error));
    SPD_TRY(spd_model_read_gradient(maps->gradients, maps->model, SPD_TENSOR_ATTENTION, error));
  }
  for (size_t i = 0; i < count; i++)
    for (size_t l = 0; l < maps->length; l++)
      for (size_t c = 0; c < maps->channels; c++) {
        const size_t at = (i * maps->length + l) * maps->channels + c, to = (c * maps->length + l) * maps->n + from + i;
        maps->attention[to] = (double)maps->values[at];
        if (maps->fam) maps->fam[to] = (double)maps->values[at] * (double)maps->gradients[at];
      }
  return SPD_STATUS_OK;
}

static SEXP new_array(size_t n, size_t length, size_t channels) {
  SEXP dims = PROTECT(Rf_allocVector(INTSXP, 3));
  INTEGER(dims)[0] = (int)n, INTEGER(dims)[1] = (int)length, INTEGER(dims)[2] = (int)channels;
  SEXP array = Rf_allocArray(REALSXP, dims);
  UNPROTECT(1);
  return array;
}

/* flux, ivar (n, M); z (n); gradient of a feature with respect to the restframe: (n, R), or NULL for attention alone. A list of
 * attention and fam = attention * d feature / d attention, each (n, L, C). */
SEXP ffi_attention(SEXP architecture, SEXP weights, SEXP wave_observed, SEXP wave_rest, SEXP flux, SEXP ivar, SEXP z, SEXP gradient,
                   SEXP options) {
  static const char *const names[] = {"attention", "fam"};
  struct spd_network network;
  r_network(architecture, &network);
  const float *parameters = r_weights(weights, &network);
  const size_t n = (size_t)Rf_xlength(z), n_observed = network.architecture.n_observed, n_rest = network.architecture.n_rest;
  const size_t capacity = r_batch_size(options, n), length = network.lengths[SPD_BLOCKS];
  const size_t map = length * network.n_feature;
  const int wanted = gradient != R_NilValue;
  const struct r_device device = r_device(options);
  r_check_numbers(z, "z", n);
  r_check_matrix(flux, "flux", n, n_observed);
  r_check_matrix(ivar, "ivar", n, n_observed);
  if (wanted) r_check_matrix(gradient, "gradient", n, n_rest);
  const float *observed_grid = r_float_vector(wave_observed, "wave_observed", n_observed);
  const float *rest_grid = r_float_vector(wave_rest, "wave_rest", n_rest);
  SEXP out = PROTECT(r_list_new(2, names));
  SET_VECTOR_ELT(out, 0, new_array(n, length, network.n_feature));
  if (wanted) SET_VECTOR_ELT(out, 1, new_array(n, length, network.n_feature));
  float *flux_rows = (float *)R_alloc(capacity * n_observed, sizeof(float)),
        *ivar_rows = (float *)R_alloc(capacity * n_observed, sizeof(float)), *z_rows = (float *)R_alloc(capacity, sizeof(float)),
        *rest_rows = wanted ? (float *)R_alloc(capacity * n_rest, sizeof(float)) : NULL;
  struct maps maps = {NULL,
                      n,
                      length,
                      network.n_feature,
                      (float *)R_alloc(capacity * map, sizeof(float)),
                      (float *)R_alloc(capacity * map, sizeof(float)),
                      REAL(VECTOR_ELT(out, 0)),
                      wanted ? REAL(VECTOR_ELT(out, 1)) : NULL};
  struct r_session *session;
  SEXP pointer = PROTECT(r_session_new(&session));
  struct spd_error error;
  spd_status status = r_session_model(session, &network, parameters, observed_grid, rest_grid, capacity,
                                      wanted ? SPD_MODEL_GRADIENT : SPD_MODEL_FORWARD, &device, &error);
  maps.model = session->model;
  for (size_t from = 0; status == SPD_STATUS_OK && from < n; from += capacity) {
    const size_t count = n - from < capacity ? n - from : capacity;
    R_CheckUserInterrupt();
    for (size_t i = 0; i < count; i++) z_rows[i] = (float)REAL_RO(z)[from + i];
    r_columns_to_floats(flux_rows, REAL_RO(flux), n, n_observed, from, count);
    r_columns_to_floats(ivar_rows, REAL_RO(ivar), n, n_observed, from, count);
    if (wanted) r_columns_to_floats(rest_rows, REAL_RO(gradient), n, n_rest, from, count);
    status = spd_model_load(session->model, flux_rows, ivar_rows, z_rows, count, &error);
    if (status == SPD_STATUS_OK) status = one_batch(&maps, from, count, rest_rows, &error);
  }
  r_session_free(pointer);
  UNPROTECT(2);
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  return out;
}
