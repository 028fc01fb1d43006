/* .Call entry of spectra from latents. */
#include <string.h>

#include "core/threads.h"
#include "network/scalar.h"
#include "r-entries.h"
#include "r-network.h"
#include "r-numbers.h"
#include "r-session.h"

struct decoding {
  const double *latent, *z; /* (n, S), column-major; (n) */
  const float *observed_grid, *rest_grid;
  const struct spd_architecture *a;
  spd_tensor tensor;
  size_t n, width;
  float *latent_rows, *z_rows, *rows; /* of a batch */
  double *out;                        /* (n, width), column-major */
};

static spd_status decode_batch(const struct decoding *d, struct spd_model *model, size_t from, size_t count, struct spd_error *error) {
  r_columns_to_floats(d->latent_rows, d->latent, d->n, d->a->n_latent, from, count);
  for (size_t i = 0; i < count; i++) d->z_rows[i] = (float)d->z[from + i];
  SPD_TRY(spd_model_load(model, NULL, NULL, d->z_rows, count, error));
  SPD_TRY(spd_model_set_latent(model, d->latent_rows, count, error));
  SPD_TRY(spd_model_decode(model, error));
  if (d->tensor == SPD_TENSOR_OBSERVED) SPD_TRY(spd_model_observe(model, error));
  SPD_TRY(spd_model_read(d->rows, model, d->tensor, error));
  for (size_t i = 0; i < count; i++) {
    size_t first = 0, last = d->width;
    if (d->tensor == SPD_TENSOR_OBSERVED)
      spd_coverage_lsf(&first, &last, (double)d->z_rows[i], d->rest_grid, d->a->n_rest, d->observed_grid, d->width, d->a->lsf);
    for (size_t m = 0; m < d->width; m++)
      d->out[m * d->n + from + i] = m >= first && m < last ? (double)d->rows[i * d->width + m] : NA_REAL;
  }
  return SPD_STATUS_OK;
}

static float *floats(size_t n) { return (float *)R_alloc(n, sizeof(float)); }

/* latent (n, S), z (n), type: "rest" or "observed". A matrix with a row for each z; NA where the restframe does not cover a pixel. */
SEXP ffi_decode(SEXP architecture, SEXP weights, SEXP wave_observed, SEXP wave_rest, SEXP latent, SEXP z, SEXP type, SEXP options) {
  struct spd_network network;
  r_network(architecture, &network);
  const float *parameters = r_weights(weights, &network);
  const struct spd_architecture *a = &network.architecture;
  const char *frame = r_text(type, "type");
  const int rest = strcmp(frame, "rest") == 0;
  if (!rest && strcmp(frame, "observed") != 0) Rf_error("internal: unknown type '%s'", frame);
  struct decoding d = {.a = a, .tensor = rest ? SPD_TENSOR_REST : SPD_TENSOR_OBSERVED, .n = (size_t)Rf_xlength(z)};
  d.width = rest ? a->n_rest : a->n_observed;
  const size_t capacity = r_batch_size(options, d.n);
  const struct r_device device = r_device(options);
  r_check_numbers(z, "z", d.n);
  r_check_matrix(latent, "latent", d.n, a->n_latent);
  d.z = REAL_RO(z), d.latent = REAL_RO(latent);
  d.observed_grid = r_float_vector(wave_observed, "wave_observed", a->n_observed);
  d.rest_grid = r_float_vector(wave_rest, "wave_rest", a->n_rest);
  d.latent_rows = floats(capacity * a->n_latent), d.z_rows = floats(capacity), d.rows = floats(capacity * d.width);
  SEXP out = PROTECT(Rf_allocMatrix(REALSXP, (int)d.n, (int)d.width));
  d.out = REAL(out);
  struct r_session *session;
  SEXP pointer = PROTECT(r_session_new(&session));
  struct spd_error error;
  spd_status status =
      r_session_model(session, &network, parameters, d.observed_grid, d.rest_grid, capacity, SPD_MODEL_FORWARD, &device, &error);
  for (size_t from = 0; status == SPD_STATUS_OK && from < d.n; from += capacity) {
    R_CheckUserInterrupt();
    status = decode_batch(&d, session->model, from, d.n - from < capacity ? d.n - from : capacity, &error);
  }
  r_session_free(pointer);
  UNPROTECT(2);
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  return out;
}
