/* .Call entry of predictions. */
#include <string.h>

#include "network/scalar.h"
#include "r-entries.h"
#include "r-network.h"
#include "r-numbers.h"
#include "r-session.h"

/* What is computed: a tensor, or the loss */
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

static spd_status forward(struct spd_model *model, const struct wanted *want, int encode, double *losses, struct spd_error *error) {
  if (encode) SPD_TRY(spd_model_encode(model, error));
  if (want->tensor >= SPD_TENSOR_REST) SPD_TRY(spd_model_decode(model, error));
  if (want->tensor >= SPD_TENSOR_OBSERVED) SPD_TRY(spd_model_observe(model, error));
  return want->loss ? spd_model_score(model, losses, error) : SPD_STATUS_OK;
}

/* One call: its arguments, checked, and buffers for a batch */
struct prediction {
  struct wanted want;
  int encode; /* from spectra; else from latents */
  const double *flux, *ivar, *latent, *z;
  size_t n, n_observed, n_rest, n_latent, lsf;
  const float *observed_grid, *rest_grid;
  size_t row_size, width; /* of the tensor that is read; of the result */
  float *flux_rows, *ivar_rows, *latent_rows, *z_rows, *rows;
  double *losses;
};

static spd_status predict_batch(const struct prediction *p, struct spd_model *model, size_t from, size_t count, struct spd_error *error) {
  for (size_t i = 0; i < count; i++) p->z_rows[i] = (float)p->z[from + i];
  if (p->encode) {
    r_columns_to_floats(p->flux_rows, p->flux, p->n, p->n_observed, from, count);
    r_columns_to_floats(p->ivar_rows, p->ivar, p->n, p->n_observed, from, count);
  } else {
    r_columns_to_floats(p->latent_rows, p->latent, p->n, p->n_latent, from, count);
  }
  SPD_TRY(spd_model_load(model, p->flux_rows, p->ivar_rows, p->z_rows, count, error));
  if (!p->encode) SPD_TRY(spd_model_set_latent(model, p->latent_rows, count, error));
  SPD_TRY(forward(model, &p->want, p->encode, p->losses, error));
  return p->want.loss ? SPD_STATUS_OK : spd_model_read(p->rows, model, p->want.tensor, error);
}

/* Into the columns of R's matrix (n, width); observed pixels that are not covered become NA. */
static void store_batch(double *out, const struct prediction *p, size_t from, size_t count) {
  for (size_t i = 0; i < count; i++) {
    if (p->want.loss) {
      out[from + i] = p->losses[i];
      continue;
    }
    size_t first = 0, last = p->width;
    if (p->want.tensor == SPD_TENSOR_OBSERVED)
      spd_coverage_lsf(&first, &last, p->z_rows[i], p->rest_grid, p->n_rest, p->observed_grid, p->n_observed, p->lsf);
    for (size_t m = 0; m < p->width; m++) out[m * p->n + from + i] = m >= first && m < last ? (double)p->rows[i * p->width + m] : NA_REAL;
  }
}

static float *floats(size_t n) { return (float *)R_alloc(n, sizeof(float)); }

/* flux and ivar (n, M) or NULL; latent (n, S) or NULL; z (n) */
SEXP ffi_predict(SEXP architecture, SEXP weights, SEXP wave_observed, SEXP wave_rest, SEXP flux, SEXP ivar, SEXP z, SEXP latent, SEXP type,
                 SEXP options) {
  struct spd_network network;
  r_network(architecture, &network);
  const float *parameters = r_weights(weights, &network);
  const struct spd_architecture *a = &network.architecture;
  struct prediction p = {.want = wanted(type),
                         .encode = latent == R_NilValue,
                         .n = (size_t)Rf_xlength(z),
                         .n_observed = a->n_observed,
                         .n_rest = a->n_rest,
                         .n_latent = a->n_latent,
                         .lsf = a->lsf};
  const size_t capacity = r_batch_size(options, p.n);
  const struct r_device device = r_device(options);
  r_check_numbers(z, "z", p.n);
  p.z = REAL_RO(z);
  if (p.encode) {
    r_check_matrix(flux, "flux", p.n, p.n_observed);
    r_check_matrix(ivar, "ivar", p.n, p.n_observed);
    p.flux = REAL_RO(flux), p.ivar = REAL_RO(ivar);
    p.flux_rows = floats(capacity * p.n_observed), p.ivar_rows = floats(capacity * p.n_observed);
  } else {
    r_check_matrix(latent, "latent", p.n, p.n_latent);
    p.latent = REAL_RO(latent);
    p.latent_rows = floats(capacity * p.n_latent);
  }
  p.observed_grid = r_float_vector(wave_observed, "wave_observed", p.n_observed);
  p.rest_grid = r_float_vector(wave_rest, "wave_rest", p.n_rest);
  p.row_size = p.want.tensor == SPD_TENSOR_LATENT ? p.n_latent : p.want.tensor == SPD_TENSOR_REST ? p.n_rest : p.n_observed;
  p.width = p.want.loss ? 1 : p.row_size;
  p.z_rows = floats(capacity), p.rows = floats(capacity * p.row_size);
  p.losses = (double *)R_alloc(capacity, sizeof(double));
  SEXP out = PROTECT(Rf_allocMatrix(REALSXP, (int)p.n, (int)p.width));
  struct r_session *session;
  SEXP pointer = PROTECT(r_session_new(&session));
  struct spd_error error;
  spd_status status =
      r_session_model(session, &network, parameters, p.observed_grid, p.rest_grid, capacity, SPD_MODEL_FORWARD, &device, &error);
  for (size_t from = 0; status == SPD_STATUS_OK && from < p.n; from += capacity) {
    const size_t count = p.n - from < capacity ? p.n - from : capacity;
    R_CheckUserInterrupt();
    status = predict_batch(&p, session->model, from, count, &error);
    if (status == SPD_STATUS_OK) store_batch(REAL(out), &p, from, count);
  }
  r_session_free(pointer);
  UNPROTECT(2);
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  return out;
}
