/* .Call entry of predictions. */
#include <math.h>
#include <string.h>

#include "network/scalar.h"
#include "r-entries.h"
#include "r-network.h"
#include "r-numbers.h"
#include "r-session.h"

typedef enum { LATENT, LATENT_ERRORS, COVARIANCE, REDSHIFT, REST, OBSERVED, OBSERVED_ERRORS, LOSS } result;

static result result_of(SEXP what) {
  static const char *const types[] = {"latent", "latent_errors", "covariance", "z", "rest", "observed", "observed_errors", "loss"};
  const char *type = r_text(what, "type");
  for (int i = LATENT; i <= LOSS; i++)
    if (strcmp(type, types[i]) == 0) return (result)i;
  Rf_error("internal: unknown type '%s'", type);
}

/* refine: list(steps, with_redshift, freedom, mean, precision), the last two NULL without a prior */
static struct spd_refine_options refine_options(SEXP refine, size_t n_latent) {
  struct spd_refine_options o = {.steps = (size_t)r_list_whole(refine, "steps", 0, 1000),
                                 .with_redshift = r_list_flag(refine, "with_redshift"),
                                 .freedom = r_list_real(refine, "freedom")};
  if (r_list_get(refine, "mean") == R_NilValue) return o;
  o.mean = r_list_numbers(refine, "mean", n_latent);
  o.precision = r_list_numbers(refine, "precision", n_latent * n_latent);
  return o;
}

/* One call: its arguments, checked, and buffers for a batch */
struct prediction {
  result type;
  int encode; /* from spectra; else from latents */
  int refine; /* latents are refined, or their covariance is wanted */
  const double *flux, *ivar, *latent, *z;
  size_t n, n_observed, n_rest, n_latent, lsf;
  size_t k; /* latents, and the redshift if it is refined */
  const float *observed_grid, *rest_grid;
  size_t row_size, width; /* of the tensor that is read; of the result */
  float *flux_rows, *ivar_rows, *latent_rows, *z_rows, *rows;
  double *losses;
  struct spd_refined refined;
};

static spd_tensor tensor_of(result type) {
  return type <= REDSHIFT ? SPD_TENSOR_LATENT : type == REST ? SPD_TENSOR_REST : SPD_TENSOR_OBSERVED;
}

static spd_status compute(const struct prediction *p, struct r_session *session, struct spd_error *error) {
  struct spd_model *model = session->model;
  if (p->encode) SPD_TRY(spd_model_encode(model, error));
  if (p->refine) {
    SPD_TRY(spd_refine(session->refiner, &p->refined, error));
    SPD_TRY(spd_model_get_redshift(p->z_rows, model, error));
  }
  const spd_tensor tensor = tensor_of(p->type);
  if (tensor >= SPD_TENSOR_REST) SPD_TRY(spd_model_decode(model, error));
  if (tensor >= SPD_TENSOR_OBSERVED) SPD_TRY(spd_model_observe(model, error));
  return p->type == LOSS ? spd_model_score(model, p->losses, error) : spd_model_read(p->rows, model, tensor, error);
}

static spd_status predict_batch(const struct prediction *p, struct r_session *session, size_t from, size_t count, struct spd_error *error) {
  for (size_t i = 0; i < count; i++) p->z_rows[i] = (float)p->z[from + i];
  if (p->encode) {
    r_columns_to_floats(p->flux_rows, p->flux, p->n, p->n_observed, from, count);
    r_columns_to_floats(p->ivar_rows, p->ivar, p->n, p->n_observed, from, count);
  } else {
    r_columns_to_floats(p->latent_rows, p->latent, p->n, p->n_latent, from, count);
  }
  SPD_TRY(spd_model_load(session->model, p->flux_rows, p->ivar_rows, p->z_rows, count, error));
  if (!p->encode) SPD_TRY(spd_model_set_latent(session->model, p->latent_rows, count, error));
  return compute(p, session, error);
}

static double or_na(double x) { return ISNAN(x) ? NA_REAL : x; }

/* One row of the result, `stride` apart; observed pixels that are not covered become NA. */
static void store_row(double *out, size_t stride, const struct prediction *p, size_t i) {
  const size_t k = p->k, s = p->n_latent;
  const struct spd_refined *refined = &p->refined;
  const double *covariance = refined->covariance ? refined->covariance + i * k * k : NULL;
  const float *spread = refined->spread ? refined->spread + i * p->row_size : NULL;
  const float *row = p->rows + i * p->row_size;
  size_t first = 0, last = p->row_size;
  switch (p->type) {
    case LOSS: out[0] = p->losses[i]; return;
    case COVARIANCE:
      for (size_t m = 0; m < k * k; m++) out[m * stride] = or_na(covariance[m]);
      return;
    case REDSHIFT: /* with its error, and the objectives before and after */
      out[0] = p->z_rows[i], out[stride] = or_na(sqrt(covariance[k * k - 1]));
      out[2 * stride] = refined->before[i], out[3 * stride] = refined->after[i];
      return;
    case LATENT_ERRORS:
      for (size_t m = 0; m < s; m++) out[(s + m) * stride] = or_na(sqrt(covariance[m * k + m]));
      break;
    case OBSERVED:
    case OBSERVED_ERRORS:
      spd_coverage_lsf(&first, &last, p->z_rows[i], p->rest_grid, p->n_rest, p->observed_grid, p->n_observed, p->lsf);
      break;
    default: break;
  }
  for (size_t m = 0; m < p->row_size; m++) {
    const int known = m >= first && m < last;
    out[m * stride] = known ? (double)row[m] : NA_REAL;
    if (spread) out[(p->row_size + m) * stride] = known ? or_na(spread[m]) : NA_REAL;
  }
}

static float *floats(size_t n) { return (float *)R_alloc(n, sizeof(float)); }
static double *doubles(size_t n) { return (double *)R_alloc(n, sizeof(double)); }

static size_t width_of(const struct prediction *p) {
  switch (p->type) {
    case LOSS: return 1;
    case COVARIANCE: return p->k * p->k;
    case REDSHIFT: return 4;
    case LATENT_ERRORS:
    case OBSERVED_ERRORS: return 2 * p->row_size;
    default: return p->row_size;
  }
}

/* flux and ivar (n, M) or NULL; latent (n, S) or NULL; z (n); refine: see refine_options(). The result has a row for each z. */
SEXP ffi_predict(SEXP architecture, SEXP weights, SEXP wave_observed, SEXP wave_rest, SEXP flux, SEXP ivar, SEXP z, SEXP latent, SEXP type,
                 SEXP refine, SEXP options) {
  struct spd_network network;
  r_network(architecture, &network);
  const float *parameters = r_weights(weights, &network);
  const struct spd_architecture *a = &network.architecture;
  struct prediction p = {.type = result_of(type),
                         .encode = latent == R_NilValue,
                         .n = (size_t)Rf_xlength(z),
                         .n_observed = a->n_observed,
                         .n_rest = a->n_rest,
                         .n_latent = a->n_latent,
                         .lsf = a->lsf};
  const size_t capacity = r_batch_size(options, p.n);
  const struct r_device device = r_device(options);
  const struct spd_refine_options how = refine_options(refine, p.n_latent);
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
  const int with_covariance = p.type == LATENT_ERRORS || p.type == COVARIANCE || p.type == REDSHIFT,
            with_spread = p.type == OBSERVED_ERRORS;
  p.refine = how.steps > 0 || with_covariance || with_spread;
  if (p.refine && !p.encode) Rf_error("internal: only latents of spectra are refined");
  p.k = p.n_latent + (how.with_redshift ? 1 : 0);
  p.observed_grid = r_float_vector(wave_observed, "wave_observed", p.n_observed);
  p.rest_grid = r_float_vector(wave_rest, "wave_rest", p.n_rest);
  p.row_size = tensor_of(p.type) == SPD_TENSOR_LATENT ? p.n_latent : p.type == REST ? p.n_rest : p.n_observed;
  p.width = width_of(&p);
  p.z_rows = floats(capacity), p.rows = floats(capacity * p.row_size);
  p.losses = doubles(capacity), p.refined.before = doubles(capacity), p.refined.after = doubles(capacity);
  if (with_covariance) p.refined.covariance = doubles(capacity * p.k * p.k);
  if (with_spread) p.refined.spread = floats(capacity * p.n_observed);
  SEXP out = PROTECT(Rf_allocMatrix(REALSXP, (int)p.n, (int)p.width));
  struct r_session *session;
  SEXP pointer = PROTECT(r_session_new(&session));
  struct spd_error error;
  spd_status status =
      r_session_model(session, &network, parameters, p.observed_grid, p.rest_grid, capacity, SPD_MODEL_FORWARD, &device, &error);
  if (status == SPD_STATUS_OK && p.refine) status = spd_refiner_create(&session->refiner, session->model, &how, &error);
  for (size_t from = 0; status == SPD_STATUS_OK && from < p.n; from += capacity) {
    const size_t count = p.n - from < capacity ? p.n - from : capacity;
    R_CheckUserInterrupt();
    status = predict_batch(&p, session, from, count, &error);
    for (size_t i = 0; status == SPD_STATUS_OK && i < count; i++) store_row(REAL(out) + from + i, p.n, &p, i);
  }
  r_session_free(pointer);
  UNPROTECT(2);
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  return out;
}
