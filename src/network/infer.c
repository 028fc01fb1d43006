#include "network/infer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/threads.h"
#include "network/scalar.h"

/* Of a spectrum as it was given */
struct standing {
  uint32_t n_valid; /* pixels that have weight, counted where chi^2 is wanted */
  int known;        /* one of them is covered */
};

struct spd_inference {
  struct spd_model *model;
  struct spd_feed *feed;
  struct spd_refiner *refiner; /* NULL unless latents are refined or errors are wanted */
  struct spd_source source;
  struct spd_inference_options options;
  size_t n_observed, n_rest, n_latent, n_calibration, lsf, k;
  float *observed_grid, *rest_grid;
  const uint64_t *rows;
  size_t begun, n;  /* of the rows; spectra of the batch */
  spd_status ahead; /* how getting the next batch ready went: told when it is asked for, after the present one's results */
  struct spd_error ahead_error;
  double *scores; /* (batch_size) on the backend */
  /* of the batch, on the host; NULL where no result needs it */
  float *z, *latent, *rest, *observed;
  double *loss, *calibration;
  struct spd_refined refined;
  struct standing *standings;
};

static int wants(const struct spd_inference *f, spd_result result) { return f->options.wanted >> result & 1; }
static int wants_loss(const struct spd_inference *f) { return wants(f, SPD_RESULT_LOSS) || wants(f, SPD_RESULT_CHI2); }
static int wants_observed(const struct spd_inference *f) { return wants(f, SPD_RESULT_OBSERVED) || wants(f, SPD_RESULT_OBSERVED_ERRORS); }
static int wants_calibration(const struct spd_inference *f) { return wants(f, SPD_RESULT_CALIBRATION); }

/* ---- making one ---- */

static spd_status take(void *pointer, size_t count, size_t size, struct spd_error *error) {
  void *memory = calloc(count + 1, size);
  if (!memory) return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate the results of a batch");
  memcpy(pointer, &memory, sizeof memory);
  return SPD_STATUS_OK;
}

static spd_status copy_grid(float **to, const float *from, size_t n, struct spd_error *error) {
  SPD_TRY(take(to, n, sizeof **to, error));
  memcpy(*to, from, n * sizeof **to);
  return SPD_STATUS_OK;
}

static spd_status take_results(struct spd_inference *f, struct spd_error *error) {
  const size_t n = f->options.batch_size;
  const int with_redshift = wants(f, SPD_RESULT_REDSHIFT), with_spread = wants(f, SPD_RESULT_OBSERVED_ERRORS),
            with_covariance = wants(f, SPD_RESULT_LATENT_ERRORS) || wants(f, SPD_RESULT_COVARIANCE) || with_redshift;
  SPD_TRY(take(&f->z, n, sizeof *f->z, error));
  SPD_TRY(take(&f->standings, n, sizeof *f->standings, error));
  SPD_TRY(take(&f->latent, n * f->n_latent, sizeof(float), error));
  if (wants(f, SPD_RESULT_REST)) SPD_TRY(take(&f->rest, n * f->n_rest, sizeof(float), error));
  if (wants_observed(f)) SPD_TRY(take(&f->observed, n * f->n_observed, sizeof(float), error));
  if (wants_loss(f)) {
    struct spd_backend *backend = spd_model_backend(f->model);
    void *scores;
    SPD_TRY(take(&f->loss, n, sizeof(double), error));
    SPD_TRY(backend->ops->alloc(backend, &scores, n * sizeof(double), error));
    f->scores = scores;
  }
  if (with_covariance) SPD_TRY(take(&f->refined.covariance, n * f->k * f->k, sizeof(double), error));
  if (with_spread) SPD_TRY(take(&f->refined.spread, n * f->n_observed, sizeof(float), error));
  if (with_redshift) {
    SPD_TRY(take(&f->refined.before, n, sizeof(double), error));
    SPD_TRY(take(&f->refined.after, n, sizeof(double), error));
  }
  if (wants_calibration(f)) {
    SPD_TRY(take(&f->calibration, n * f->n_calibration, sizeof(double), error));
    SPD_TRY(take(&f->refined.calibration_error, n * f->n_calibration, sizeof(double), error));
  }
  if (f->options.refine.steps == 0 && !with_covariance && !with_spread && !wants_calibration(f)) return SPD_STATUS_OK;
  return spd_refiner_create(&f->refiner, f->model, &f->options.refine, error);
}

/* An encoder without weight attention does not look at it, and a decoder does not look at the spectrum; a calibration does. */
static int needs_no_ivar(const struct spd_inference *f, const struct spd_architecture *a) {
  const unsigned plain = 1u << SPD_RESULT_LATENT | 1u << SPD_RESULT_REST | (a->n_calibration ? 0 : 1u << SPD_RESULT_OBSERVED);
  return !(f->options.wanted & ~plain) && f->options.refine.steps == 0 && !a->weight_attention;
}

spd_status spd_inference_create(struct spd_inference **out, struct spd_model *model, const struct spd_source *source,
                                const float *wave_observed, const float *wave_rest, const struct spd_inference_options *options,
                                struct spd_error *error) {
  *out = NULL;
  struct spd_inference *f = calloc(1, sizeof *f);
  if (!f) return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate an inference");
  const struct spd_architecture *a = &spd_model_network(model)->architecture;
  f->model = model;
  f->source = *source;
  f->options = *options;
  f->n_observed = a->n_observed, f->n_rest = a->n_rest, f->n_latent = a->n_latent, f->n_calibration = a->n_calibration,
  f->lsf = spd_model_footprint(model);
  f->k = f->n_latent + (options->refine.with_redshift ? 1 : 0);
  f->source.without_ivar = needs_no_ivar(f, a);
  spd_status status = copy_grid(&f->observed_grid, wave_observed, f->n_observed, error);
  if (status == SPD_STATUS_OK) status = copy_grid(&f->rest_grid, wave_rest, f->n_rest, error);
  if (status == SPD_STATUS_OK) status = take_results(f, error);
  if (status == SPD_STATUS_OK) status = spd_feed_create(&f->feed, model, &f->source, options->batch_size, SPD_FEED_STREAMED, error);
  if (status != SPD_STATUS_OK) {
    spd_inference_destroy(f);
    return status;
  }
  *out = f;
  return SPD_STATUS_OK;
}

void spd_inference_destroy(struct spd_inference *f) {
  if (!f) return;
  struct spd_backend *backend = spd_model_backend(f->model);
  spd_feed_destroy(f->feed);
  spd_refiner_destroy(f->refiner);
  if (f->scores) backend->ops->free(backend, f->scores);
  void *const host[] = {f->observed_grid,
                        f->rest_grid,
                        f->z,
                        f->latent,
                        f->rest,
                        f->observed,
                        f->loss,
                        f->refined.covariance,
                        f->refined.spread,
                        f->refined.before,
                        f->standings,
                        f->refined.after,
                        f->calibration,
                        f->refined.calibration_error};
  for (size_t i = 0; i < sizeof host / sizeof *host; i++) free(host[i]);
  free(f);
}

spd_status spd_inference_start(struct spd_inference *f, const uint64_t *rows, size_t count, struct spd_error *error) {
  f->rows = rows;
  f->begun = f->n = 0;
  f->ahead = SPD_STATUS_OK;
  return spd_feed_start(f->feed, rows, count, error);
}

/* ---- a batch ---- */

/* Everything up to the last result that is wanted. What is downloaded comes later, so that the next batch can be got ready meanwhile. */
static spd_status launch(struct spd_inference *f, struct spd_error *error) {
  const int observe = wants_observed(f) || wants_loss(f) || wants_calibration(f), decode = observe || wants(f, SPD_RESULT_REST);
  SPD_TRY(spd_model_encode(f->model, error));
  if (f->refiner) SPD_TRY(spd_refine(f->refiner, &f->refined, error));
  if (decode) SPD_TRY(spd_model_decode(f->model, error));
  if (observe) SPD_TRY(spd_model_observe(f->model, error));
  if (wants_loss(f)) return spd_model_score_into(f->model, f->scores, error);
  return observe ? spd_model_calibrate(f->model, error) : SPD_STATUS_OK;
}

static spd_status collect(struct spd_inference *f, struct spd_error *error) {
  struct spd_backend *backend = spd_model_backend(f->model);
  SPD_TRY(spd_model_read(f->latent, f->model, SPD_TENSOR_LATENT, error));
  SPD_TRY(spd_model_get_redshift(f->z, f->model, error));
  if (f->rest) SPD_TRY(spd_model_read(f->rest, f->model, SPD_TENSOR_REST, error));
  if (f->observed) SPD_TRY(spd_model_read(f->observed, f->model, SPD_TENSOR_CALIBRATED, error));
  if (f->calibration) SPD_TRY(spd_model_get_calibration(f->calibration, f->model, error));
  return f->loss ? backend->ops->download(backend, f->loss, f->scores, f->n * sizeof *f->loss, error) : SPD_STATUS_OK;
}

enum { EXAMINED = 8 /* rows of a piece */ };

/* The ivar of a spectrum: its row of the batch, or its place in the columns where it was not converted */
struct weights {
  const float *row;
  const double *column;
  size_t step; /* of the column */
};

static inline int has_weight(const struct weights *w, size_t m) { return w->row ? w->row[m] > 0 : w->column[m * w->step] > 0; }

/* Whether a pixel from `first` to last - 1 has weight. Looked for from the middle on: masks are at the ends. */
static int any_weight(const struct weights *w, size_t first, size_t last) {
  const size_t middle = first + (last - first) / 2;
  for (size_t m = middle; m < last; m++)
    if (has_weight(w, m)) return 1;
  for (size_t m = first; m < middle; m++)
    if (has_weight(w, m)) return 1;
  return 0;
}

static void examine_piece(const void *context, size_t piece, int thread) {
  (void)thread;
  const struct spd_inference *f = context;
  const struct spd_source *source = &f->source;
  const float *ivar = spd_feed_ivar(f->feed);
  for (size_t i = piece * EXAMINED; i < (piece + 1) * EXAMINED && i < f->n; i++) {
    const uint64_t row = f->rows[f->begun + i];
    struct weights w = {.row = ivar ? ivar + i * f->n_observed : NULL};
    if (!ivar) w.column = source->columns->ivar + (source->places ? source->places[row] : row), w.step = source->columns->n_rows;
    size_t first, last;
    spd_coverage_lsf(&first, &last, (double)source->z[row], f->rest_grid, f->n_rest, f->observed_grid, f->n_observed, f->lsf);
    f->standings[i].known = any_weight(&w, first, last);
    f->standings[i].n_valid = 0;
    for (size_t m = 0; wants(f, SPD_RESULT_CHI2) && m < f->n_observed; m++) f->standings[i].n_valid += (uint32_t)has_weight(&w, m);
  }
}

spd_status spd_inference_next(size_t *n, struct spd_inference *f, struct spd_error *error) {
  f->begun += f->n;
  f->n = 0;
  if (f->ahead != SPD_STATUS_OK && error) *error = f->ahead_error;
  SPD_TRY(f->ahead);
  SPD_TRY(spd_feed_load(n, f->feed, error));
  f->n = *n;
  if (*n == 0) return SPD_STATUS_OK;
  spd_parallel(f->source.threads, (f->n + EXAMINED - 1) / EXAMINED, examine_piece, f);
  SPD_TRY(launch(f, error));
  f->ahead = spd_feed_ahead(f->feed, &f->ahead_error);
  return collect(f, error);
}

spd_status spd_inference_again(struct spd_inference *f, struct spd_error *error) {
  SPD_TRY(launch(f, error));
  return collect(f, error);
}

/* ---- its results ---- */

size_t spd_result_width(spd_result result, const struct spd_architecture *a, int with_redshift) {
  const size_t k = a->n_latent + (with_redshift ? 1 : 0);
  switch (result) {
    case SPD_RESULT_LATENT: return a->n_latent;
    case SPD_RESULT_LATENT_ERRORS: return 2 * a->n_latent;
    case SPD_RESULT_COVARIANCE: return k * k;
    case SPD_RESULT_REDSHIFT: return 4;
    case SPD_RESULT_REST: return a->n_rest;
    case SPD_RESULT_OBSERVED: return a->n_observed;
    case SPD_RESULT_OBSERVED_ERRORS: return 2 * a->n_observed;
    case SPD_RESULT_CALIBRATION: return 2 * a->n_calibration;
    default: return 1;
  }
}

int spd_inference_knows(const struct spd_inference *f, size_t i) { return f->standings[i].known; }

static void get_latent(double *to, const struct spd_inference *f, size_t i) {
  for (size_t s = 0; s < f->n_latent; s++) to[s] = (double)f->latent[i * f->n_latent + s];
}

static void get_redshift(double *to, const struct spd_inference *f, size_t i) {
  const double *covariance = f->refined.covariance + i * f->k * f->k, before = (double)f->source.z[f->rows[f->begun + i]];
  to[0] = (double)f->z[i];
  to[1] = sqrt(covariance[f->k * f->k - 1]);
  to[2] = 2 * (f->refined.before[i] - f->refined.after[i]);
  to[3] = (to[0] - before) / to[1];
}

static void get_observed(double *to, const struct spd_inference *f, size_t i, int with_errors) {
  const size_t n = f->n_observed;
  const float *model = f->observed + i * n, *spread = with_errors ? f->refined.spread + i * n : NULL;
  size_t first, last;
  spd_coverage_lsf(&first, &last, (double)f->z[i], f->rest_grid, f->n_rest, f->observed_grid, n, f->lsf);
  for (size_t m = 0; m < n; m++) {
    const int covered = m >= first && m < last;
    to[m] = covered ? (double)model[m] : (double)NAN;
    if (spread) to[n + m] = covered ? (double)spread[m] : (double)NAN;
  }
}

void spd_inference_get(double *to, const struct spd_inference *f, spd_result result, size_t i) {
  const size_t k = f->k;
  if (!f->standings[i].known) {
    const size_t width = spd_result_width(result, &spd_model_network(f->model)->architecture, f->options.refine.with_redshift);
    for (size_t m = 0; m < width; m++) to[m] = (double)NAN;
    return;
  }
  switch (result) {
    case SPD_RESULT_LATENT: get_latent(to, f, i); break;
    case SPD_RESULT_LATENT_ERRORS:
      get_latent(to, f, i);
      for (size_t s = 0; s < f->n_latent; s++) to[f->n_latent + s] = sqrt(f->refined.covariance[i * k * k + s * k + s]);
      break;
    case SPD_RESULT_COVARIANCE: memcpy(to, f->refined.covariance + i * k * k, k * k * sizeof *to); break;
    case SPD_RESULT_REDSHIFT: get_redshift(to, f, i); break;
    case SPD_RESULT_REST:
      for (size_t r = 0; r < f->n_rest; r++) to[r] = (double)f->rest[i * f->n_rest + r];
      break;
    case SPD_RESULT_OBSERVED: get_observed(to, f, i, 0); break;
    case SPD_RESULT_OBSERVED_ERRORS: get_observed(to, f, i, 1); break;
    case SPD_RESULT_CALIBRATION:
      memcpy(to, f->calibration + i * f->n_calibration, f->n_calibration * sizeof *to);
      memcpy(to + f->n_calibration, f->refined.calibration_error + i * f->n_calibration, f->n_calibration * sizeof *to);
      break;
    case SPD_RESULT_LOSS: to[0] = f->loss[i]; break;
    case SPD_RESULT_CHI2: {
      const double freedom = (double)f->standings[i].n_valid - (double)(f->n_latent + f->n_calibration);
      to[0] = freedom > 0 ? f->loss[i] * (2 * (double)f->n_observed / freedom) : (double)NAN;
      break;
    }
    default: break;
  }
}
