#include "network/refine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/cholesky.h"
#include "network/model-struct.h"
#include "network/scalar.h"

enum { MAX_OWN = 2 * MAX_LAYERS + 21 };

/* Of lambda. From 1034 held-out simulated spectra, S = 10, after 12 epochs (loss 0.619): three steps lead to 0.532, 0.515, 0.515 and 0.516
 * from 0.001, 0.01, 0.1 and 1; one step to 0.548, 0.532, 0.523 and 0.541. */
static const double FIRST_DAMPING = 0.1, LOWER = 1.0 / 5, HIGHER = 10;

struct spd_refiner {
  struct spd_model *model;
  struct spd_backend *backend;
  struct spd_refine_options options;
  double *prior;                    /* copies of mean (S) and precision (S, S); NULL without */
  size_t group, n_latent, terms, k; /* spectra at a time; S; the calibration's; K */
  /* on the backend, for a group */
  struct spd_dense decoder[MAX_LAYERS];   /* the model's, with buffers of their own */
  struct spd_resample resample, tangents; /* of models, and of tangents */
  struct spd_lsf lsf, lsf_tangents, lsf_slope;
  struct spd_resolution resolution, resolution_tangents, resolution_slope; /* or, of n_knots 0 without */
  struct spd_calibrate calibrate;
  struct spd_normal normal;
  struct spd_spread spread; /* its buffers are allocated when first used */
  float *latent, *z, *repeated_z, *identity, *tangent[2], *jacobian, *slope;
  size_t n_own;
  void *own[MAX_OWN];
  /* on the host, for a group */
  float *host_latent, *trial, *host_z, *trial_z, *host_repeated_z;
  double *objective, *trial_objective, *gradient, *matrix, *inverse, *factor, *work, *damping;
};

/* ---- buffers ---- */

static spd_status take(struct spd_refiner *r, void *pointer, size_t bytes, struct spd_error *error) {
  void *memory = NULL;
  SPD_TRY(r->backend->ops->alloc(r->backend, &memory, bytes, error));
  r->own[r->n_own++] = memory;
  memcpy(pointer, &memory, sizeof memory);
  return SPD_STATUS_OK;
}

static spd_status take_floats(struct spd_refiner *r, float **pointer, size_t count, struct spd_error *error) {
  return take(r, pointer, count * sizeof(float), error);
}

static spd_status take_host(void *pointer, size_t count, size_t size, struct spd_error *error) {
  void *memory = calloc(count + 1, size);
  if (!memory) return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate the state of refined latents");
  memcpy(pointer, &memory, sizeof memory);
  return SPD_STATUS_OK;
}

/* Spectra whose tangents stay in the caches of a CPU; more on a device */
static size_t group_size(const struct spd_model *model) {
  const size_t rows = model->backend->ops->shares_host_memory ? 320 : 10240, s = model->network.architecture.n_latent;
  const size_t group = rows / s > 1 ? rows / s : 1;
  return group < model->capacity ? group : model->capacity;
}

static spd_status build_decoder(struct spd_refiner *r, struct spd_error *error) {
  const struct spd_model *model = r->model;
  const size_t g = r->group;
  size_t widest = r->n_latent;
  SPD_TRY(take_floats(r, &r->latent, g * r->n_latent, error));
  const float *x = r->latent;
  for (size_t i = 0; i < model->n_decoder; i++) {
    struct spd_dense *layer = &r->decoder[i];
    *layer = model->decoder[i];
    layer->dw = layer->db = layer->dslope = layer->dbeta = layer->dgamma = layer->dy = layer->dx = NULL;
    layer->x = x;
    SPD_TRY(take_floats(r, &layer->y, g * layer->out, error));
    SPD_TRY(take_floats(r, &layer->v, g * layer->out, error));
    x = layer->y;
    if (layer->out > widest) widest = layer->out;
  }
  for (int side = 0; side < 2; side++) SPD_TRY(take_floats(r, &r->tangent[side], g * r->n_latent * widest, error));
  return SPD_STATUS_OK;
}

static spd_status build_transform(struct spd_refiner *r, struct spd_error *error) {
  const struct spd_model *model = r->model;
  const size_t g = r->group, m = model->network.architecture.n_observed, rows = g * r->n_latent;
  float *unresolved = NULL;
  SPD_TRY(take_floats(r, &r->z, g, error));
  SPD_TRY(take_floats(r, &r->repeated_z, rows, error));
  SPD_TRY(take_floats(r, &r->jacobian, rows * m, error));
  if (r->options.with_redshift) SPD_TRY(take_floats(r, &r->slope, g * m, error));
  r->resample = model->resample;
  r->resample.z = r->z;
  r->resample.x = r->decoder[model->n_decoder - 1].y;
  r->resample.slope = r->slope;
  SPD_TRY(take_floats(r, &r->resample.y, g * m, error));
  r->tangents = model->resample;
  r->tangents.z = r->repeated_z;
  r->tangents.x = r->tangent[model->n_decoder % 2];
  r->tangents.y = r->jacobian;
  r->normal.model = r->resample.y;
  if (!spd_model_footprint(model)) return SPD_STATUS_OK;
  float *resolved, *slope = NULL;
  SPD_TRY(take_floats(r, &unresolved, rows * m, error));
  SPD_TRY(take_floats(r, &resolved, g * m, error));
  if (r->slope) SPD_TRY(take_floats(r, &slope, g * m, error));
  r->normal.model = resolved;
  r->tangents.y = unresolved;
  r->resample.slope = slope;
  r->lsf = r->lsf_tangents = r->lsf_slope = model->lsf;
  r->lsf.x = r->resample.y, r->lsf.y = resolved;
  r->lsf_tangents.x = unresolved, r->lsf_tangents.y = r->jacobian;
  r->lsf_slope.x = slope, r->lsf_slope.y = r->slope;
  r->resolution = r->resolution_tangents = r->resolution_slope = model->resolution;
  r->resolution.x = r->resample.y, r->resolution.y = resolved;
  r->resolution_tangents.x = unresolved, r->resolution_tangents.y = r->jacobian, r->resolution_tangents.share = r->n_latent;
  r->resolution_slope.x = slope, r->resolution_slope.y = r->slope;
  return SPD_STATUS_OK;
}

/* Of the models that normal.model is so far */
static spd_status build_calibration(struct spd_refiner *r, struct spd_error *error) {
  struct spd_calibrate *calibrate = &r->calibrate;
  if (!r->terms) return SPD_STATUS_OK;
  *calibrate = r->model->calibrate;
  calibrate->z = r->z;
  calibrate->dy = NULL;
  calibrate->calibration.model = r->normal.model;
  SPD_TRY(take(r, &calibrate->calibration.coefficient, r->group * r->terms * sizeof(double), error));
  SPD_TRY(take(r, &calibrate->penalty, r->group * sizeof(double), error));
  SPD_TRY(take_floats(r, &calibrate->y, r->group * calibrate->n_observed, error));
  r->normal.model = calibrate->y;
  return SPD_STATUS_OK;
}

static spd_status build_normal(struct spd_refiner *r, struct spd_error *error) {
  const struct spd_loss *loss = &r->model->loss;
  struct spd_normal *normal = &r->normal;
  normal->n_rest = loss->n_rest, normal->lsf = loss->lsf;
  normal->wave_rest = loss->wave_rest, normal->wave_observed = loss->wave_observed;
  normal->z = r->z;
  normal->directions = (struct spd_directions){
      .n_observed = loss->n_observed, .count = r->k, .jacobian = r->jacobian, .slope = r->slope, .calibration = r->calibrate.calibration};
  normal->freedom = r->options.freedom;
  SPD_TRY(take(r, &normal->objective, r->group * sizeof(double), error));
  SPD_TRY(take(r, &normal->gradient, r->group * r->k * sizeof(double), error));
  return take(r, &normal->matrix, r->group * r->k * r->k * sizeof(double), error);
}

static spd_status build_host(struct spd_refiner *r, struct spd_error *error) {
  const size_t g = r->group, s = r->n_latent, k = r->k;
  SPD_TRY(take_host(&r->host_latent, g * s, sizeof(float), error));
  SPD_TRY(take_host(&r->trial, g * s, sizeof(float), error));
  SPD_TRY(take_host(&r->host_z, g, sizeof(float), error));
  SPD_TRY(take_host(&r->trial_z, g, sizeof(float), error));
  SPD_TRY(take_host(&r->host_repeated_z, g * s, sizeof(float), error));
  SPD_TRY(take_host(&r->objective, g, sizeof(double), error));
  SPD_TRY(take_host(&r->trial_objective, g, sizeof(double), error));
  SPD_TRY(take_host(&r->damping, g, sizeof(double), error));
  SPD_TRY(take_host(&r->gradient, g * k, sizeof(double), error));
  SPD_TRY(take_host(&r->matrix, g * k * k, sizeof(double), error));
  SPD_TRY(take_host(&r->inverse, g * k * k, sizeof(double), error));
  SPD_TRY(take_host(&r->work, k * k + 2 * k, sizeof(double), error));
  if (!r->options.mean) return SPD_STATUS_OK;
  SPD_TRY(take_host(&r->prior, s + s * s, sizeof(double), error));
  memcpy(r->prior, r->options.mean, s * sizeof(double));
  memcpy(r->prior + s, r->options.precision, s * s * sizeof(double));
  return SPD_STATUS_OK;
}

/* The tangents that the first layer starts from: the unit vectors, for each spectrum */
static spd_status build_identity(struct spd_refiner *r, struct spd_error *error) {
  const size_t s = r->n_latent, count = r->group * s * s;
  float *host = calloc(count + 1, sizeof *host);
  if (!host) return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate the state of refined latents");
  for (size_t i = 0; i < r->group * s; i++) host[i * s + i % s] = 1;
  spd_status status = take_floats(r, &r->identity, count, error);
  if (status == SPD_STATUS_OK) status = r->backend->ops->upload(r->backend, r->identity, host, count * sizeof *host, error);
  free(host);
  return status;
}

static spd_status build(struct spd_refiner *r, struct spd_error *error) {
  SPD_TRY(build_decoder(r, error));
  SPD_TRY(build_identity(r, error));
  SPD_TRY(build_transform(r, error));
  SPD_TRY(build_calibration(r, error));
  SPD_TRY(build_normal(r, error));
  return build_host(r, error);
}

spd_status spd_refiner_create(struct spd_refiner **out, struct spd_model *model, const struct spd_refine_options *options,
                              struct spd_error *error) {
  *out = NULL;
  struct spd_refiner *r = calloc(1, sizeof *r);
  if (!r) return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate the state of refined latents");
  r->model = model;
  r->backend = model->backend;
  r->options = *options;
  r->n_latent = model->network.architecture.n_latent;
  r->terms = model->network.architecture.n_calibration;
  r->k = r->n_latent + r->terms + (options->with_redshift ? 1 : 0);
  r->group = group_size(model);
  const spd_status status = build(r, error);
  if (status != SPD_STATUS_OK) {
    spd_refiner_destroy(r);
    return status;
  }
  *out = r;
  return SPD_STATUS_OK;
}

void spd_refiner_destroy(struct spd_refiner *r) {
  if (!r) return;
  for (size_t i = 0; i < r->n_own; i++) r->backend->ops->free(r->backend, r->own[i]);
  void *const host[] = {r->host_latent, r->trial,    r->host_z, r->trial_z, r->host_repeated_z, r->objective, r->trial_objective,
                        r->damping,     r->gradient, r->matrix, r->inverse, r->factor,          r->work,      r->prior};
  for (size_t i = 0; i < sizeof host / sizeof *host; i++) free(host[i]);
  free(r);
}

/* ---- one group ---- */

/* n rows of models, or of tangents, of the spectra from `first` on, where these have resolutions */
static spd_status resolve(const struct spd_refiner *r, const struct spd_resolution *of, size_t first, size_t n, struct spd_error *error) {
  if (!of->n_knots) return SPD_STATUS_OK;
  struct spd_resolution stage = *of;
  stage.band += first * of->n_knots * of->size;
  return r->backend->ops->resolution_forward(r->backend, &stage, n, error);
}

/* Objectives at these latents and redshifts of n spectra from `first` on; leaves the values that differentiate() and normal_equations()
 * need. */
static spd_status evaluate(double *objective, struct spd_refiner *r, const float *latent, const float *z, size_t first, size_t n,
                           struct spd_error *error) {
  const struct spd_backend_ops *ops = r->backend->ops;
  struct spd_backend *backend = r->backend;
  struct spd_normal normal = r->normal;
  const size_t offset = first * normal.directions.n_observed;
  SPD_TRY(ops->upload(backend, r->latent, latent, n * r->n_latent * sizeof *latent, error));
  SPD_TRY(ops->upload(backend, r->z, z, n * sizeof *z, error));
  for (size_t i = 0; i < r->model->n_decoder; i++) SPD_TRY(ops->dense_forward(backend, &r->decoder[i], n, error));
  SPD_TRY(ops->resample_forward(backend, &r->resample, n, error));
  if (r->lsf.size) SPD_TRY(ops->lsf_forward(backend, &r->lsf, n, error));
  SPD_TRY(resolve(r, &r->resolution, first, n, error));
  normal.flux = r->model->flux + offset, normal.ivar = r->model->ivar + offset;
  if (r->terms) {
    struct spd_calibrate calibrate = r->calibrate;
    calibrate.flux = normal.flux, calibrate.ivar = normal.ivar;
    SPD_TRY(ops->calibrate_forward(backend, &calibrate, n, error));
  }
  normal.gradient = normal.matrix = NULL;
  SPD_TRY(ops->normal(backend, &normal, n, error));
  SPD_TRY(ops->download(backend, objective, normal.objective, n * sizeof *objective, error));
  for (size_t i = 0; r->prior && i < n; i++) { /* (s - mu)'P(s - mu) / 2 */
    const double *mean = r->prior, *precision = r->prior + r->n_latent;
    for (size_t a = 0; a < r->n_latent; a++)
      for (size_t b = 0; b < r->n_latent; b++)
        objective[i] +=
            0.5 * (latent[i * r->n_latent + a] - mean[a]) * precision[a * r->n_latent + b] * (latent[i * r->n_latent + b] - mean[b]);
  }
  return SPD_STATUS_OK;
}

/* The Jacobian at the latents that were evaluated last */
static spd_status differentiate(struct spd_refiner *r, const float *z, size_t first, size_t n, struct spd_error *error) {
  const struct spd_backend_ops *ops = r->backend->ops;
  struct spd_backend *backend = r->backend;
  const size_t s = r->n_latent, rows = n * s;
  for (size_t i = 0; i < rows; i++) r->host_repeated_z[i] = z[i / s];
  SPD_TRY(ops->upload(backend, r->repeated_z, r->host_repeated_z, rows * sizeof(float), error));
  for (size_t i = 0; i < r->model->n_decoder; i++)
    SPD_TRY(ops->dense_tangents(backend, &r->decoder[i], r->tangent[(i + 1) % 2], i ? r->tangent[i % 2] : r->identity, s, n, error));
  SPD_TRY(ops->resample_forward(backend, &r->tangents, rows, error));
  SPD_TRY(resolve(r, &r->resolution_tangents, first, rows, error));
  if (r->slope) SPD_TRY(resolve(r, &r->resolution_slope, first, n, error));
  if (!r->lsf.size) return SPD_STATUS_OK;
  SPD_TRY(ops->lsf_forward(backend, &r->lsf_tangents, rows, error));
  return r->slope ? ops->lsf_forward(backend, &r->lsf_slope, n, error) : SPD_STATUS_OK;
}

/* Gradient and, if asked for, matrix of the objective (with the prior's part) to the host */
static spd_status normal_equations(struct spd_refiner *r, const float *latent, size_t first, size_t n, int with_matrix,
                                   struct spd_error *error) {
  struct spd_backend *backend = r->backend;
  struct spd_normal normal = r->normal;
  const size_t offset = first * normal.directions.n_observed, k = r->k, s = r->n_latent;
  normal.flux = r->model->flux + offset, normal.ivar = r->model->ivar + offset;
  if (!with_matrix) normal.matrix = NULL;
  SPD_TRY(backend->ops->normal(backend, &normal, n, error));
  SPD_TRY(backend->ops->download(backend, r->gradient, normal.gradient, n * k * sizeof(double), error));
  if (with_matrix) SPD_TRY(backend->ops->download(backend, r->matrix, normal.matrix, n * k * k * sizeof(double), error));
  for (size_t i = 0; r->prior && i < n; i++)
    for (size_t a = 0; a < s; a++)
      for (size_t b = 0; b < s; b++) {
        const double p = r->prior[s + a * s + b];
        r->gradient[i * k + a] -= p * (latent[i * s + b] - r->prior[b]);
        if (with_matrix) r->matrix[i * k * k + a * k + b] += p;
      }
  return SPD_STATUS_OK;
}

/* The damped step of spectrum i of the group, from its normal equations; a parameter that nothing depends on stays. */
static void propose(struct spd_refiner *r, size_t i) {
  const size_t k = r->k, s = r->n_latent;
  const double *matrix = r->matrix + i * k * k;
  double *a = r->work, *step = r->work + k * k;
  memcpy(a, matrix, k * k * sizeof *a);
  memcpy(step, r->gradient + i * k, k * sizeof *step);
  for (size_t j = 0; j < k; j++) {
    if (a[j * k + j] > 0)
      a[j * k + j] *= 1 + r->damping[i];
    else
      a[j * k + j] = 1, step[j] = 0;
  }
  const int solved = spd_cholesky(a, k);
  if (solved) spd_cholesky_solve(step, a, k);
  for (size_t j = 0; j < s; j++) r->trial[i * s + j] = r->host_latent[i * s + j] + (solved ? (float)step[j] : 0);
  r->trial_z[i] = r->host_z[i];
  const double dz = solved && r->options.with_redshift ? step[k - 1] : 0;
  if (isfinite(dz) && r->host_z[i] + dz > -0.99) r->trial_z[i] = (float)(r->host_z[i] + dz);
}

/* Takes the steps that lowered the objective. */
static void decide(struct spd_refiner *r, size_t n) {
  const size_t s = r->n_latent;
  for (size_t i = 0; i < n; i++) {
    if (!(r->trial_objective[i] < r->objective[i])) { /* also if it is not finite */
      r->damping[i] *= HIGHER;
      continue;
    }
    memcpy(r->host_latent + i * s, r->trial + i * s, s * sizeof *r->trial);
    r->host_z[i] = r->trial_z[i];
    r->objective[i] = r->trial_objective[i];
    r->damping[i] *= LOWER;
  }
}

static void invert(struct spd_refiner *r, size_t n) {
  const size_t k = r->k;
  for (size_t i = 0; i < n; i++) {
    double *a = r->work, *column = r->work + k * k, *to = r->inverse + i * k * k;
    memcpy(a, r->matrix + i * k * k, k * k * sizeof *a);
    const int sound = spd_cholesky(a, k);
    for (size_t j = 0; j < k; j++) {
      memset(column, 0, k * sizeof *column);
      column[j] = 1;
      if (sound) spd_cholesky_solve(column, a, k);
      for (size_t l = 0; l < k; l++) to[l * k + j] = sound ? column[l] : NAN;
    }
  }
}

static spd_status build_spread(struct spd_refiner *r, struct spd_error *error) {
  struct spd_spread *spread = &r->spread;
  const size_t g = r->group, k = r->k, m = r->normal.directions.n_observed;
  void *factor;
  spread->directions = r->normal.directions;
  SPD_TRY(take_host(&r->factor, g * k * k, sizeof(double), error));
  SPD_TRY(take(r, &factor, g * k * k * sizeof(double), error));
  spread->factor = factor;
  return take_floats(r, &spread->y, g * m, error);
}

/* Errors of the model, from the covariances and the Jacobian there are */
static spd_status spread_group(float *to, struct spd_refiner *r, size_t n, struct spd_error *error) {
  const struct spd_backend_ops *ops = r->backend->ops;
  const size_t k = r->k, m = r->normal.directions.n_observed;
  if (!r->spread.y) SPD_TRY(build_spread(r, error));
  for (size_t i = 0; i < n; i++) {
    double *factor = r->factor + i * k * k;
    memcpy(factor, r->inverse + i * k * k, k * k * sizeof *factor);
    if (!spd_cholesky(factor, k))
      for (size_t j = 0; j < k * k; j++) factor[j] = NAN;
  }
  SPD_TRY(ops->upload(r->backend, (void *)r->spread.factor, r->factor, n * k * k * sizeof(double), error));
  SPD_TRY(ops->spread(r->backend, &r->spread, n, error));
  return ops->download(r->backend, to, r->spread.y, n * m * sizeof *to, error);
}

/* Without the calibration's rows and columns, and the errors that these are of */
static void store_covariance(const struct spd_refined *to, const struct spd_refiner *r, size_t row, const double *inverse) {
  const size_t s = r->n_latent, terms = r->terms, k = r->k, kept = k - terms;
  for (size_t a = 0; to->covariance && a < kept; a++)
    for (size_t b = 0; b < kept; b++)
      to->covariance[(row * kept + a) * kept + b] = inverse[(a < s ? a : a + terms) * k + (b < s ? b : b + terms)];
  for (size_t a = 0; to->calibration_error && a < terms; a++) to->calibration_error[row * terms + a] = sqrt(inverse[(s + a) * k + s + a]);
}

static spd_status errors_of_group(struct spd_refiner *r, const struct spd_refined *to, size_t first, size_t n, struct spd_error *error) {
  const size_t k = r->k;
  SPD_TRY(evaluate(r->objective, r, r->host_latent, r->host_z, first, n, error));
  SPD_TRY(differentiate(r, r->host_z, first, n, error));
  SPD_TRY(normal_equations(r, r->host_latent, first, n, 1, error));
  invert(r, n);
  for (size_t i = 0; i < n; i++) store_covariance(to, r, first + i, r->inverse + i * k * k);
  return to->spread ? spread_group(to->spread + first * r->normal.directions.n_observed, r, n, error) : SPD_STATUS_OK;
}

static void store_slope(double *to, const struct spd_refiner *r, size_t n) {
  for (size_t i = 0; i < n; i++)
    for (size_t a = 0; a < r->n_latent; a++) to[i * r->n_latent + a] = -r->gradient[i * r->k + a];
}

static spd_status refine_group(struct spd_refiner *r, const struct spd_refined *to, size_t first, size_t n, struct spd_error *error) {
  for (size_t i = 0; i < n; i++) r->damping[i] = FIRST_DAMPING;
  SPD_TRY(evaluate(r->objective, r, r->host_latent, r->host_z, first, n, error));
  if (to->before) memcpy(to->before + first, r->objective, n * sizeof *to->before);
  for (size_t step = 0; step < r->options.steps; step++) {
    const int anew = step % 2 == 0; /* every second step keeps the Jacobian of the one before */
    if (step > 0) SPD_TRY(evaluate(r->objective, r, r->host_latent, r->host_z, first, n, error));
    if (anew) SPD_TRY(differentiate(r, r->host_z, first, n, error));
    SPD_TRY(normal_equations(r, r->host_latent, first, n, anew, error));
    if (to->slope && step == 0) store_slope(to->slope + first * r->n_latent, r, n);
    for (size_t i = 0; i < n; i++) propose(r, i);
    SPD_TRY(evaluate(r->trial_objective, r, r->trial, r->trial_z, first, n, error));
    decide(r, n);
  }
  if (to->covariance || to->calibration_error || to->spread) SPD_TRY(errors_of_group(r, to, first, n, error));
  if (to->after) memcpy(to->after + first, r->objective, n * sizeof *to->after);
  return SPD_STATUS_OK;
}

static spd_status refine_batch(struct spd_refiner *r, const struct spd_refined *to, struct spd_error *error) {
  struct spd_model *model = r->model;
  const struct spd_backend_ops *ops = r->backend->ops;
  const size_t s = r->n_latent;
  float *const latent = model->taps[SPD_TENSOR_LATENT].value;
  for (size_t first = 0; first < model->n; first += r->group) {
    const size_t n = model->n - first < r->group ? model->n - first : r->group;
    SPD_TRY(ops->download(r->backend, r->host_latent, latent + first * s, n * s * sizeof(float), error));
    SPD_TRY(ops->download(r->backend, r->host_z, model->z + first, n * sizeof(float), error));
    SPD_TRY(refine_group(r, to, first, n, error));
    SPD_TRY(ops->upload(r->backend, latent + first * s, r->host_latent, n * s * sizeof(float), error));
    if (r->options.with_redshift) SPD_TRY(ops->upload(r->backend, model->z + first, r->host_z, n * sizeof(float), error));
  }
  return SPD_STATUS_OK;
}

spd_status spd_refine(struct spd_refiner *r, const struct spd_refined *to, struct spd_error *error) {
  SPD_TRY(r->backend->ops->enter(r->backend, error));
  const spd_status status = refine_batch(r, to, error);
  r->backend->ops->leave(r->backend);
  return status;
}
