/* Refined latents: tangents and normal equations against plain loops in double, Jacobians against finite differences, and what steps
 * promise: the objective falls to a minimum, covariances are inverse curvatures, rows do not depend on their batch. */
#include "network/refine.h"

#include "check.h"
#include "core/rng.h"
#include "cuda-devices.h"
#include "small-network.h"

static struct spd_backend *backend;

/* ---- arrays on the backend ---- */

static void *kept[200];
static size_t n_kept;

static void *on_backend(const void *from, size_t bytes) {
  void *memory = NULL;
  MUST(backend->ops->alloc(backend, &memory, bytes, error));
  if (from) MUST(backend->ops->upload(backend, memory, from, bytes, error));
  kept[n_kept++] = memory;
  return memory;
}

static float *noise(float **host, size_t count, uint64_t stream, double mean, double width) {
  *host = check_alloc(count * sizeof(float));
  for (size_t i = 0; i < count; i++) (*host)[i] = (float)(mean + width * small_normal(11, stream, i));
  return on_backend(*host, count * sizeof(float));
}

static void fetch(void *to, const void *from, size_t bytes) { MUST(backend->ops->download(backend, to, from, bytes, error)); }

static void free_kept(void) {
  while (n_kept > 0) backend->ops->free(backend, kept[--n_kept]);
}

/* ---- the two operations ---- */

static double derivative_at(const struct spd_dense *s, double v, double slope, double beta, double gamma) {
  if (s->activation == SPD_ACTIVATION_NONE) return 1;
  if (s->activation == SPD_ACTIVATION_PRELU) return v > 0 ? 1 : slope;
  if (s->activation == SPD_ACTIVATION_LEAKY) return v > 0 ? 1 : 0.01;
  const double sigmoid = 1 / (1 + exp(-beta * v));
  return gamma + (1 - gamma) * sigmoid + (1 - gamma) * sigmoid * (1 - sigmoid) * beta * v;
}

static void test_tangents(spd_activation activation, size_t in, size_t out, size_t k, size_t n) {
  struct spd_dense s = {.in = in, .out = out, .activation = activation};
  float *w, *v, *slope, *beta, *gamma, *dx;
  s.w = noise(&w, out * in, 1, 0, 1 / sqrt((double)in)), s.v = noise(&v, n * out, 2, 0, 1), s.slope = noise(&slope, out, 3, 0.2, 0.1);
  s.beta = noise(&beta, out, 4, 1, 0.2), s.gamma = noise(&gamma, out, 5, 0.2, 0.2);
  const float *from = noise(&dx, n * k * in, 6, 0, 1);
  float *dy = on_backend(NULL, n * k * out * sizeof *dy), *got = check_alloc(n * k * out * sizeof *got);
  double *want = check_alloc(n * k * out * sizeof *want);
  for (size_t row = 0; row < n * k; row++)
    for (size_t j = 0; j < out; j++) {
      double sum = 0;
      for (size_t i = 0; i < in; i++) sum += (double)w[j * in + i] * dx[row * in + i];
      want[row * out + j] = sum * derivative_at(&s, v[row / k * out + j], slope[j], beta[j], gamma[j]);
    }
  MUST(backend->ops->dense_tangents(backend, &s, dy, from, k, n, error));
  fetch(got, dy, n * k * out * sizeof *dy);
  double *found = check_doubles(got, n * k * out);
  CHECK_CLOSE("tangents", found, want, n * k * out, tolerance_for("dense gradient"));
  void *const all[] = {w, v, slope, beta, gamma, dx, got, want, found};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
  free_kept();
}

/* Direction a of spectrum i at pixel l, of which the first `rows` are the Jacobian's; c: the coefficients of a calibration of x, or NULL */
static double direction_at(const float *jacobian, const float *slope, const float *x, const double *c, size_t rows, size_t terms, size_t m,
                           size_t i, size_t a, size_t l) {
  const double t = 2.0 * (double)l / (double)(m - 1) - 1, p[] = {1, t, (3 * t * t - 1) / 2};
  double q = terms ? 0 : 1;
  for (size_t k = 0; k < terms; k++) q += c[i * terms + k] * p[k];
  return a < rows ? q * jacobian[(i * rows + a) * m + l] : a < rows + terms ? p[a - rows] * x[i * m + l] : q * slope[i * m + l];
}

static void test_normal(size_t k, size_t m, size_t n, size_t lsf, double freedom, size_t terms, int with_slope) {
  const size_t rest = m + 20, rows = k - terms - (with_slope ? 1 : 0);
  struct spd_normal s = {.n_rest = rest, .lsf = lsf, .directions = {.n_observed = m, .count = k}, .freedom = freedom};
  float *wave, *wave_rest, *z, *flux, *ivar, *model, *jacobian, *slope = NULL;
  s.wave_observed = noise(&wave, m, 1, 0, 0), s.wave_rest = noise(&wave_rest, rest, 2, 0, 0), s.z = noise(&z, n, 3, 0.2, 0.05);
  for (size_t i = 0; i < m; i++) wave[i] = 4000 + 2 * (float)i;
  for (size_t i = 0; i < rest; i++) wave_rest[i] = 3400 + 2 * (float)i; /* not all pixels are covered */
  MUST(backend->ops->upload(backend, (void *)s.wave_observed, wave, m * sizeof *wave, error));
  MUST(backend->ops->upload(backend, (void *)s.wave_rest, wave_rest, rest * sizeof *wave, error));
  s.flux = noise(&flux, n * m, 4, 1, 0.5), s.ivar = noise(&ivar, n * m, 5, 0, 3), s.model = noise(&model, n * m, 6, 1, 0.2);
  for (size_t i = 0; i < n * m; i++) ivar[i] = ivar[i] > 0 ? ivar[i] : 0;
  MUST(backend->ops->upload(backend, (void *)s.ivar, ivar, n * m * sizeof *ivar, error));
  s.directions.jacobian = noise(&jacobian, n * rows * m, 7, 0, 1);
  if (with_slope) s.directions.slope = noise(&slope, n * m, 8, 0, 1);
  float *x, *c32;
  struct spd_calibration *calibration = &s.directions.calibration;
  calibration->terms = terms, calibration->model = noise(&x, n * m, 9, 1, 0.2);
  noise(&c32, n * terms, 10, 0.5, 0.2);
  double *c = check_doubles(c32, n * terms);
  calibration->coefficient = on_backend(c, n * terms * sizeof *c);
  for (size_t a = 0; a < terms; a++) calibration->precision[a] = 3 + (double)a;
  s.objective = on_backend(NULL, n * sizeof(double)), s.gradient = on_backend(NULL, n * k * sizeof(double));
  s.matrix = on_backend(NULL, n * k * k * sizeof(double));
  double *objective = check_alloc(2 * n * sizeof(double)), *gradient = check_alloc(2 * n * k * sizeof(double)),
         *matrix = check_alloc(2 * n * k * k * sizeof(double));
  for (size_t i = 0; i < n; i++) {
    /* covered pixels, less those whose kernel reaches an uncovered one */
    size_t from = 0, to = m;
    while (from < m && wave[from] / (1.0 + (double)z[i]) < wave_rest[0]) from++;
    while (to > from && wave[to - 1] / (1.0 + (double)z[i]) > wave_rest[rest - 1]) to--;
    if (from > 0) from += lsf / 2;
    if (to < m) to -= lsf / 2;
    for (size_t l = from; l < to; l++) {
      const double r = (double)flux[i * m + l] - model[i * m + l], square = ivar[i * m + l] * r * r;
      const double w = freedom > 0 ? ivar[i * m + l] * (freedom + 1) / (freedom + square) : ivar[i * m + l];
      objective[i] += freedom > 0 ? (freedom + 1) / 2 * log(1 + square / freedom) : square / 2;
      for (size_t a = 0; a < k; a++) {
        const double ja = direction_at(jacobian, slope, x, c, rows, terms, m, i, a, l);
        gradient[i * k + a] += w * r * ja;
        for (size_t b = 0; b < k; b++) matrix[(i * k + a) * k + b] += w * ja * direction_at(jacobian, slope, x, c, rows, terms, m, i, b, l);
      }
    }
    for (size_t a = 0; a < terms; a++) {
      const double off = c[i * terms + a] - (a == 0), precision = 3 + (double)a;
      objective[i] += precision * off * off / 2, gradient[i * k + rows + a] -= precision * off;
      matrix[(i * k + rows + a) * k + rows + a] += precision;
    }
  }
  MUST(backend->ops->normal(backend, &s, n, error));
  fetch(objective + n, s.objective, n * sizeof(double)), fetch(gradient + n * k, s.gradient, n * k * sizeof(double));
  fetch(matrix + n * k * k, s.matrix, n * k * k * sizeof(double));
  const struct check_tolerance tolerance = {"normal", 1e-3, 1e-5}; /* sums of hundreds of terms of order 1 */
  CHECK_CLOSE("objective", objective + n, objective, n, &tolerance);
  CHECK_CLOSE("gradient", gradient + n * k, gradient, n * k, &tolerance);
  CHECK_CLOSE("matrix", matrix + n * k * k, matrix, n * k * k, &tolerance);
  void *const all[] = {wave, wave_rest, z, flux, ivar, model, jacobian, slope, objective, gradient, matrix, x, c32, c};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
  free_kept();
}

static void test_spread(size_t k, size_t m, size_t n, size_t terms, int with_slope) {
  const size_t rows = k - terms - (with_slope ? 1 : 0);
  float *jacobian, *slope = NULL, *x, *c32;
  struct spd_spread s = {.directions = {.n_observed = m, .count = k, .jacobian = noise(&jacobian, n * rows * m, 1, 0, 1)}};
  if (with_slope) s.directions.slope = noise(&slope, n * m, 2, 0, 1);
  s.directions.calibration.terms = terms, s.directions.calibration.model = noise(&x, n * m, 9, 1, 0.2);
  noise(&c32, n * terms, 10, 0.5, 0.2);
  double *coefficient = check_doubles(c32, n * terms);
  s.directions.calibration.coefficient = on_backend(coefficient, n * terms * sizeof *coefficient);
  double *factor = check_alloc(n * k * k * sizeof *factor), *want = check_alloc(n * m * sizeof *want);
  for (size_t i = 0; i < n * k * k; i++) factor[i] = small_normal(11, 3, i); /* also above the diagonal */
  s.factor = on_backend(factor, n * k * k * sizeof *factor);
  s.y = on_backend(NULL, n * m * sizeof *s.y);
  float *got = check_alloc(n * m * sizeof *got);
  for (size_t i = 0; i < n; i++)
    for (size_t l = 0; l < m; l++) {
      double variance = 0;
      for (size_t a = 0; a < k; a++)
        for (size_t b = 0; b < k; b++) {
          double c = 0; /* of the covariance */
          for (size_t d = 0; d <= a && d <= b; d++) c += factor[(i * k + a) * k + d] * factor[(i * k + b) * k + d];
          variance += c * direction_at(jacobian, slope, x, coefficient, rows, terms, m, i, a, l) *
                      direction_at(jacobian, slope, x, coefficient, rows, terms, m, i, b, l);
        }
      want[i * m + l] = sqrt(variance);
    }
  MUST(backend->ops->spread(backend, &s, n, error));
  fetch(got, s.y, n * m * sizeof *got);
  double *found = check_doubles(got, n * m);
  const struct check_tolerance tolerance = {"spread", 1e-4, 1e-5};
  CHECK_CLOSE("spread", found, want, n * m, &tolerance);
  void *const all[] = {jacobian, slope, factor, want, got, found, x, c32, coefficient};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
  free_kept();
}

/* ---- steps of a whole network ---- */

enum { N = 7, S = 3 };

struct problem {
  struct spd_network net;
  struct small_data data;
  struct spd_model *model;
  float *bands; /* NULL: without resolutions */
};

static void load(struct problem *p, size_t first, size_t n) {
  const size_t m = p->net.architecture.n_observed;
  MUST(spd_model_load(p->model, p->data.flux + first * m, p->data.ivar + first * m, p->data.z + first, n, error));
  if (p->bands) MUST(spd_model_load_bands(p->model, p->bands + first * spd_model_band_width(p->model), error));
  MUST(spd_model_encode(p->model, error));
}

static void refine(double *objective, double *covariance, float *latent, struct problem *p, const struct spd_refine_options *options) {
  struct spd_refiner *refiner;
  MUST(spd_refiner_create(&refiner, p->model, options, error));
  MUST(spd_refine(refiner, &(struct spd_refined){.covariance = covariance, .after = objective}, error));
  MUST(spd_model_read(latent, p->model, SPD_TENSOR_LATENT, error));
  spd_refiner_destroy(refiner);
}

/* chi^2 / 2 of the batch's rows at these latents */
static void score_at(double *scores, struct problem *p, const float *latent, size_t n) {
  MUST(spd_model_set_latent(p->model, latent, n, error));
  MUST(spd_model_decode(p->model, error));
  MUST(spd_model_observe(p->model, error));
  MUST(spd_model_score(p->model, scores, error));
  for (size_t i = 0; i < n; i++) scores[i] *= (double)p->net.architecture.n_observed;
}

static struct problem new_resolved_problem(size_t lsf, spd_activation activation, size_t terms, const struct spd_band *band) {
  struct problem p;
  struct spd_architecture a = small_architecture();
  a.lsf = lsf, a.decoder_activation = activation;
  a.n_calibration = terms;
  for (size_t k = 0; k < terms; k++) a.calibration_sd[k] = 0.3;
  MUST(spd_network_init(&p.net, &a, error));
  p.data = small_data_new(&p.net, N, 21);
  MUST(spd_model_create_with_resolution(&p.model, &p.net, backend, p.data.wave_observed, p.data.wave_rest, N, SPD_MODEL_FORWARD, band,
                                        error));
  MUST(spd_model_set_parameters(p.model, p.data.weights, error));
  p.bands = band ? small_resolutions(band, N, a.n_observed, 9) : NULL;
  return p;
}

static struct problem new_problem(size_t lsf, spd_activation activation) { return new_resolved_problem(lsf, activation, 0, NULL); }

static void free_problem(struct problem *p) {
  free(p->bands);
  spd_model_destroy(p->model);
  small_data_free(&p->data);
}

/* Data that the network can make: the observed frame at latents of order 1, with noise of the stated weights */
static void make_possible(struct problem *p, float *truth, double scatter) {
  const size_t m = p->net.architecture.n_observed;
  float *observed = check_alloc(N * m * sizeof *observed);
  for (size_t i = 0; i < N * S; i++) truth[i] = (float)small_normal(5, 90, i);
  load(p, 0, N);
  MUST(spd_model_set_latent(p->model, truth, N, error));
  MUST(spd_model_decode(p->model, error));
  MUST(spd_model_observe(p->model, error));
  MUST(spd_model_read(observed, p->model, SPD_TENSOR_OBSERVED, error));
  for (size_t i = 0; i < N * m; i++)
    p->data.flux[i] = (float)(observed[i] + (p->data.ivar[i] > 0 ? scatter * small_normal(6, 91, i) / sqrt((double)p->data.ivar[i]) : 0));
  free(observed);
}

static void test_minimum(const char *name, size_t lsf, spd_activation activation, size_t terms, const struct spd_band *band) {
  struct problem p = new_resolved_problem(lsf, activation, terms, band);
  float truth[N * S], latent[N * S], moved[N * S];
  double before[N], objective[N], covariance[N * S * S], plus[N], minus[N];
  for (size_t i = 0; i < N * p.net.architecture.n_observed; i++) p.data.ivar[i] *= 1e3f; /* errors within which the model is linear */
  make_possible(&p, truth, 1);
  load(&p, 0, N);
  MUST(spd_model_read(latent, p.model, SPD_TENSOR_LATENT, error));
  score_at(before, &p, latent, N);
  load(&p, 0, N);
  const struct spd_refine_options options = {.steps = 60};
  refine(objective, covariance, latent, &p, &options);
  size_t risen = 0;
  for (size_t i = 0; i < N; i++) risen += objective[i] > before[i] * (1 + 1e-6);
  CHECK(risen == 0, "%s: %zu objectives rose", name, risen);
  double now[N];
  score_at(now, &p, latent, N);
  for (size_t i = 0; i < N; i++)
    CHECK(fabs(now[i] - objective[i]) < 1e-4 * (1 + now[i]), "%s: objective %g, of the model %g", name, objective[i], now[i]);
  /* a minimum: half an error to either side the objective is 1/8 higher, but for curvature that the model itself has */
  for (size_t a = 0; a < S; a++) {
    for (int side = 0; side < 2; side++) {
      memcpy(moved, latent, sizeof moved);
      for (size_t i = 0; i < N; i++) { /* along the column of the covariance: the other latents follow */
        const double error = sqrt(covariance[i * S * S + a * S + a]);
        for (size_t b = 0; b < S; b++) moved[i * S + b] += (float)((side ? -0.5 : 0.5) * covariance[i * S * S + a * S + b] / error);
      }
      score_at(side ? minus : plus, &p, moved, N);
    }
    size_t wrong = 0;
    for (size_t i = 0; i < N; i++) {
      const double curvature = (plus[i] + minus[i]) / 2 - now[i], tilt = (plus[i] - minus[i]) / 2;
      wrong += fabs(curvature - 0.125) > 0.04 || fabs(tilt) > 0.04;
      if (fabs(curvature - 0.125) > 0.04 || fabs(tilt) > 0.04) printf("%s, row %zu, latent %zu: %g, %g\n", name, i, a, curvature, tilt);
    }
    CHECK(wrong == 0, "%s, latent %zu: %zu of %d rows are not at a minimum of the stated width", name, a, wrong, N);
  }
  free_problem(&p);
}

/* The slope at the first latents, against differences of the score */
static void test_first_slope(size_t lsf, const struct spd_band *band) {
  struct problem p = new_resolved_problem(lsf, SPD_ACTIVATION_SPECULATOR, 0, band);
  float latent[N * S], moved[N * S];
  double slope[N * S], plus[N], minus[N], want[N * S];
  const double h = 5e-3;
  struct spd_refiner *refiner;
  const struct spd_refine_options one_step = {.steps = 1};
  load(&p, 0, N);
  MUST(spd_model_read(latent, p.model, SPD_TENSOR_LATENT, error));
  MUST(spd_refiner_create(&refiner, p.model, &one_step, error));
  MUST(spd_refine(refiner, &(struct spd_refined){.slope = slope}, error));
  spd_refiner_destroy(refiner);
  for (size_t a = 0; a < S; a++) {
    for (int side = 0; side < 2; side++) {
      memcpy(moved, latent, sizeof moved);
      for (size_t i = 0; i < N; i++) moved[i * S + a] += (float)(side ? -h : h);
      score_at(side ? minus : plus, &p, moved, N);
    }
    for (size_t i = 0; i < N; i++) want[i * S + a] = (plus[i] - minus[i]) / (2 * h);
  }
  const struct check_tolerance tolerance = {"slope", 1e-2, 1e-2};
  CHECK_CLOSE("slope", slope, want, N * S, &tolerance);
  free_problem(&p);
}

/* The same bits alone, and with fewer threads */
static void test_rows(size_t lsf, const struct spd_band *band) {
  struct problem p = new_resolved_problem(lsf, SPD_ACTIVATION_SPECULATOR, 0, band);
  float truth[N * S], together[N * S], alone[S];
  double objective[N], covariance[N * S * S], one_objective, one_covariance[S * S];
  make_possible(&p, truth, 1);
  const struct spd_refine_options options = {.steps = 3, .freedom = 4};
  load(&p, 0, N);
  refine(objective, covariance, together, &p, &options);
  for (size_t i = 0; i < N; i++) {
    load(&p, i, 1);
    refine(&one_objective, one_covariance, alone, &p, &options);
    double *one = check_doubles(alone, S), *among = check_doubles(together + i * S, S);
    CHECK(test_alike(one, among, S) && test_alike(&one_objective, objective + i, 1) &&
              test_alike(one_covariance, covariance + i * S * S, S * S),
          "row %zu alone has other results", i);
    free(one);
    free(among);
  }
  free_problem(&p);
}

/* A wrong redshift returns; without valid pixels nothing moves, and the covariance says so; with a prior it is the prior's. */
static void test_redshift_and_prior(const struct spd_band *band) {
  struct problem p = new_resolved_problem(0, SPD_ACTIVATION_SPECULATOR, 0, band);
  enum { K = S + 1 };
  float truth[N * S], latent[N * S], z[N], moved_z[N];
  double covariance[N * K * K], objective[N];
  const size_t m = p.net.architecture.n_observed;
  make_possible(&p, truth, 0.01);
  for (size_t i = 0; i < N * m; i++) p.data.ivar[i] *= 1e4f;
  memcpy(z, p.data.z, sizeof z);
  const struct spd_refine_options joint = {.steps = 60, .with_redshift = 1};
  for (size_t i = 0; i < N; i++) p.data.z[i] += 3e-4f;
  load(&p, 0, N);
  MUST(spd_model_set_latent(p.model, truth, N, error));
  refine(objective, covariance, latent, &p, &joint);
  MUST(spd_model_get_redshift(moved_z, p.model, error));
  size_t closer = 0;
  for (size_t i = 0; i < N; i++) closer += fabs((double)moved_z[i] - z[i]) < 1e-4 && covariance[i * K * K + S * K + S] > 0;
  CHECK(closer == N, "%zu of %d redshifts returned", closer, N);
  for (size_t i = 0; i < m; i++) p.data.ivar[2 * m + i] = 0;
  const struct spd_refine_options plain = {.steps = 3};
  float before[N * S];
  load(&p, 0, N);
  MUST(spd_model_read(before, p.model, SPD_TENSOR_LATENT, error));
  refine(objective, covariance, latent, &p, &plain);
  CHECK(memcmp(before + 2 * S, latent + 2 * S, S * sizeof *latent) == 0 && objective[2] == 0 && isnan(covariance[2 * S * S]),
        "a masked spectrum: %g, objective %g, variance %g", (double)latent[2 * S], objective[2], covariance[2 * S * S]);
  const double mean[S] = {0.1, 0.2, 0.3}, precision[S * S] = {4, 0, 0, 0, 5, 0, 0, 0, 6};
  const struct spd_refine_options with_prior = {.steps = 20, .mean = mean, .precision = precision};
  load(&p, 0, N);
  refine(objective, covariance, latent, &p, &with_prior);
  for (size_t a = 0; a < S; a++)
    CHECK(fabs(latent[2 * S + a] - mean[a]) < 1e-5 && fabs(covariance[2 * S * S + a * S + a] - 1 / precision[a * S + a]) < 1e-9,
          "a masked spectrum with a prior: %g +- %g", (double)latent[2 * S + a], sqrt(covariance[2 * S * S + a * S + a]));
  free_problem(&p);
}

/* Spikes move latents with normal errors, and hardly with Student's t. */
static void test_robust(void) {
  struct problem p = new_problem(0, SPD_ACTIVATION_SPECULATOR);
  float truth[N * S], clean[N * S], plain[N * S], robust[N * S];
  const size_t m = p.net.architecture.n_observed;
  double objective[N], covariance[N * S * S], by_plain = 0, by_robust = 0;
  make_possible(&p, truth, 1);
  const struct spd_refine_options normal_errors = {.steps = 40}, student = {.steps = 40, .freedom = 3};
  load(&p, 0, N);
  MUST(spd_model_set_latent(p.model, truth, N, error));
  refine(objective, covariance, clean, &p, &student);
  for (size_t i = 0; i < N; i++)
    for (size_t l = 20; l < 25; l++)
      if (p.data.ivar[i * m + l] > 0) p.data.flux[i * m + l] += (float)(20 / sqrt((double)p.data.ivar[i * m + l]));
  load(&p, 0, N);
  MUST(spd_model_set_latent(p.model, truth, N, error));
  refine(objective, covariance, plain, &p, &normal_errors);
  load(&p, 0, N);
  MUST(spd_model_set_latent(p.model, truth, N, error));
  refine(objective, covariance, robust, &p, &student);
  for (size_t i = 0; i < N * S; i++) {
    const double error = sqrt(covariance[i / S * S * S + i % S * (S + 1)]);
    by_plain += pow((plain[i] - clean[i]) / error, 2) / (N * S), by_robust += pow((robust[i] - clean[i]) / error, 2) / (N * S);
  }
  CHECK(sqrt(by_robust) < 0.7 && sqrt(by_plain) > 2 * sqrt(by_robust), "spikes move latents by %.2f errors, with Student's t by %.2f",
        sqrt(by_plain), sqrt(by_robust));
  free_problem(&p);
}

static void test_slope(void) {
  struct problem p = new_problem(0, SPD_ACTIVATION_SPECULATOR);
  const size_t m = p.net.architecture.n_observed, rest = p.net.architecture.n_rest;
  float *x, *y[2], z[2] = {0.2f, 0.2f}, *slope;
  struct spd_resample s = {.n_rest = rest, .n_observed = m};
  s.wave_rest = on_backend(p.data.wave_rest, rest * sizeof(float)), s.wave_observed = on_backend(p.data.wave_observed, m * sizeof(float));
  s.x = noise(&x, rest, 3, 0, 1);
  for (size_t i = 0; i < rest; i++) x[i] = (float)sin(0.05 * (double)i); /* smooth */
  MUST(backend->ops->upload(backend, (void *)s.x, x, rest * sizeof *x, error));
  s.y = on_backend(NULL, m * sizeof(float)), s.slope = on_backend(NULL, m * sizeof(float));
  slope = check_alloc(m * sizeof *slope);
  const float h = 0.002f;
  for (int side = 0; side < 2; side++) {
    const float at = z[0] + (side ? -h : h);
    s.z = on_backend(&at, sizeof at);
    y[side] = check_alloc(m * sizeof(float));
    MUST(backend->ops->resample_forward(backend, &s, 1, error));
    fetch(y[side], s.y, m * sizeof(float));
  }
  s.z = on_backend(z, sizeof *z);
  MUST(backend->ops->resample_forward(backend, &s, 1, error));
  fetch(slope, s.slope, m * sizeof *slope);
  double worst = 0, largest = 0;
  for (size_t i = 1; i + 1 < m; i++) {
    const double want = (y[0][i] - y[1][i]) / (2.0 * h);
    if (y[0][i] == 0 || y[1][i] == 0) continue; /* not covered */
    if (fabs(slope[i] - want) > worst) worst = fabs(slope[i] - want);
    if (fabs(want) > largest) largest = fabs(want);
  }
  CHECK(largest > 1 && worst < 0.05 * largest, "dy/dz is up to %g off, of %g", worst, largest);
  free(x), free(slope), free(y[0]), free(y[1]);
  free_kept();
  free_problem(&p);
}

static void test_all(void) {
  const spd_activation activations[] = {SPD_ACTIVATION_NONE, SPD_ACTIVATION_PRELU, SPD_ACTIVATION_LEAKY, SPD_ACTIVATION_SPECULATOR};
  for (size_t i = 0; i < 4; i++) {
    test_tangents(activations[i], 3, 17, 3, 5);
    test_tangents(activations[i], 40, 300, 4, 9);
    test_tangents(activations[i], 1, 1, 1, 1);
  }
  test_normal(1, 40, 1, 0, 0, 0, 0);
  test_normal(4, 300, 5, 0, 0, 0, 0);
  test_normal(4, 300, 5, 5, 3, 0, 1);
  test_normal(11, 700, 3, 0, 5, 0, 1);
  test_normal(3, 300, 5, 0, 0, 1, 0);
  test_normal(9, 700, 3, 5, 3, 3, 1);
  test_spread(1, 3, 1, 0, 0);
  test_spread(5, 300, 4, 0, 0);
  test_spread(11, 700, 3, 0, 1);
  test_spread(8, 300, 4, 3, 1);
  test_slope();
  test_minimum("speculator", 0, SPD_ACTIVATION_SPECULATOR, 0, NULL);
  test_minimum("with LSF", 5, SPD_ACTIVATION_SPECULATOR, 0, NULL);
  test_minimum("with LSF and calibration", 5, SPD_ACTIVATION_SPECULATOR, 3, NULL);
  test_minimum("with bands", 0, SPD_ACTIVATION_SPECULATOR, 0, &(struct spd_band){5, 3, 0});
  test_minimum("with Gaussians and calibration", 0, SPD_ACTIVATION_SPECULATOR, 3, &(struct spd_band){7, 16, 1});
  test_first_slope(5, NULL);
  test_first_slope(0, &(struct spd_band){5, 3, 0});
  test_rows(5, NULL);
  test_rows(0, &(struct spd_band){7, 16, 1});
  test_redshift_and_prior(NULL);
  test_redshift_and_prior(&(struct spd_band){3, 50, 1});
  test_robust();
}

int main(void) {
  if (spd_cuda_built() && !test_cuda_here()) return check_end();
  for (int order = 0; order < (spd_cuda_built() ? TEST_ORDERS : 1) && test_order(order); order++) {
    backend = test_backend();
    test_all();
    backend->ops->destroy(backend);
  }
  return check_end();
}
