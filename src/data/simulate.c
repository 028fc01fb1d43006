#include "data/simulate.h"

#include <math.h>
#include <string.h>

#include "core/median.h"
#include "core/rng.h"

static const double light_speed = 299792.458; /* km/s */
static const double ln10 = 2.302585092994046;

enum stream { CONDITIONS, NOISE, DEFECTS };

/* Fine pixels from..to - 1 of the restframe that a computation needs. */
struct range {
  size_t from, to;
};

size_t spd_simulate_work(const struct spd_simulation *s) { return 2 * s->n_rest + 4 * s->n_observed + s->n_lsf; }

/* ---- restframe ---- */

static void add_starlight(double *light, struct range range, const struct spd_object *object, const struct spd_simulation *s) {
  memset(light + range.from, 0, (range.to - range.from) * sizeof *light);
  for (size_t c = 0; c < s->n_components; c++) {
    const float *component = s->components + c * s->n_rest;
    double share = object->mix[c];
    if (share == 0) continue;
    for (size_t r = range.from; r < range.to; r++) light[r] += share * (double)component[r];
  }
  if (object->ebv == 0) return;
  float dimming = (float)(-0.4 * ln10 * object->ebv);
  for (size_t r = range.from; r < range.to; r++) light[r] *= (double)expf(dimming * s->extinction[r]);
}

static void add_lines(double *light, struct range range, const struct spd_object *object, const struct spd_simulation *s) {
  double width = object->line_sigma / light_speed / ln10 / s->step; /* in fine pixels */
  for (size_t i = 0; i < s->n_lines; i++) {
    if (object->lines[i] == 0) continue;
    double centre = (log10(s->line_wave[i]) - s->log_first) / s->step;
    double first = fmax(ceil(centre - 5 * width), (double)range.from), stop = fmin(centre + 5 * width, (double)range.to - 1);
    double height = object->lines[i] / (sqrt(6.283185307179586) * s->line_wave[i] * object->line_sigma / light_speed);
    for (double r = first; r <= stop; r++) {
      double x = (r - centre) / width;
      light[(size_t)r] += height * exp(-0.5 * x * x);
    }
  }
}

/* ---- observation ---- */

/* Pixels that contribute light: the observed ones and those beyond the ends that the LSF reaches */
static size_t n_pixels(const struct spd_simulation *s) { return s->n_observed + s->n_lsf - 1; }

/* The restframe is linear in wavelength between its pixels: pixel `left` and the fraction t of the way to the next one. */
static size_t place(double *t, double log_wave, double log_stretch, const struct spd_simulation *s) {
  double position = (log_wave - log_stretch - s->log_first) / s->step, left = floor(position);
  double a = s->step * ln10, b = a * (position - left);
  *t = b * (1 + b / 2 * (1 + b / 3)) / (a * (1 + a / 2 * (1 + a / 3)));
  return (size_t)left;
}

static void sample(double *model, const double *light, double log_stretch, const struct spd_simulation *s) {
  for (size_t m = 0; m < n_pixels(s); m++) {
    double t;
    size_t left = place(&t, s->log_wave[m], log_stretch, s);
    model[m] = light[left] + t * (light[left + 1] - light[left]);
  }
}

/* Means over pixels, exact for a restframe linear between its pixels. integral: (R), from the range's start. */
static void integrate(double *model, double *integral, const double *light, struct range range, double log_stretch,
                      const struct spd_simulation *s) {
  const double *wave = s->wave_rest;
  integral[range.from] = 0;
  for (size_t r = range.from; r + 1 < range.to; r++)
    integral[r + 1] = integral[r] + 0.5 * (light[r] + light[r + 1]) * (wave[r + 1] - wave[r]);
  double area_before = 0, edge_before = 0;
  for (size_t m = 0; m <= n_pixels(s); m++) {
    double t;
    size_t left = place(&t, s->log_wave[m], log_stretch, s);
    double width = wave[left + 1] - wave[left], edge = wave[left] + t * width;
    double area = integral[left] + width * t * (light[left] + 0.5 * t * (light[left + 1] - light[left]));
    if (m > 0) model[m - 1] = (area - area_before) / (edge - edge_before);
    area_before = area;
    edge_before = edge;
  }
}

/* x: (n_pixels), from (n_lsf - 1) / 2 before the first observed one */
static void convolve(double *y, const double *x, const struct spd_simulation *s) {
  for (size_t m = 0; m < s->n_observed; m++) {
    double sum = 0;
    for (size_t i = 0; i < s->n_lsf; i++) sum += s->lsf[i] * x[m + s->n_lsf - 1 - i];
    y[m] = sum;
  }
}

/* The same with a Gaussian whose width follows from the object's resolving power */
static void blur(double *y, const double *x, double resolution, const struct spd_simulation *s) {
  const double half = (double)(s->n_lsf / 2);
  for (size_t m = 0; m < s->n_observed; m++) {
    const double sigma = s->deviation[m] / resolution;
    double sum = 0, weights = 0;
    for (size_t i = 0; i < s->n_lsf; i++) {
      const double offset = ((double)i - half) / sigma, weight = exp(-0.5 * offset * offset);
      sum += weight * x[m + i];
      weights += weight;
    }
    y[m] = sum / weights;
  }
}

/* ---- noise ---- */

/* Of a spectrum whose median is 1. Nights differ in the strength of sky lines, plates in the throughput in the blue. */
static void noise_variance(double *variance, const double *flux, double level, double contrast, struct spd_random *random,
                           const struct spd_simulation *s) {
  double strength = exp(0.4 * spd_random_normal(random));
  float tilt = (float)(0.6 * spd_random_normal(random));
  for (size_t m = 0; m < s->n_observed; m++) {
    double sky = s->sky[m] * (1 + strength * s->sky_lines[m]) / (1 + contrast);
    double photons = contrast / (1 + contrast) * fmax(flux[m] / level, 0) * s->photons[m];
    variance[m] = (sky + photons) * (double)powf((float)(s->wave[m] / 5700), tilt);
  }
}

/* ---- defects ---- */

static double clamp(double x, double low, double high) { return x < low ? low : x > high ? high : x; }

static void mask(double *ivar, size_t from, size_t to) { /* from..to - 1 */
  for (size_t m = from; m < to; m++) ivar[m] = 0;
}

/* Residuals of the sky subtraction: a line that was subtracted a little too strong, or too far to one side. */
static void add_sky_residuals(double *flux, const double *ivar, struct spd_random *random, const struct spd_simulation *s) {
  double strength = 0.6 * spd_random_normal(random), shift = 0.8 * spd_random_normal(random);
  for (size_t m = 0; m < s->n_observed; m++) {
    double line = s->sky_lines[m], slope = m > 0 ? line - s->sky_lines[m - 1] : 0;
    double residual = (line > 1 ? strength * fmin(line, 8) : 0) + shift * clamp(slope, -8, 8);
    flux[m] += residual / sqrt(ivar[m] * (1 + line));
  }
}

/* In one spectrum of four; half of them are flagged. */
static void add_cosmic_ray(double *flux, double *ivar, struct spd_random *random, size_t n_observed) {
  if (spd_random_uniform(random) > 0.25) return;
  size_t at = (size_t)(spd_random_uniform(random) * (double)n_observed);
  size_t stop = at + 1 + (size_t)(3 * spd_random_uniform(random));
  int flagged = spd_random_uniform(random) < 0.5;
  for (; at < stop && at < n_observed; at++) {
    flux[at] += (8 + 22 * spd_random_uniform(random)) / sqrt(ivar[at]);
    if (flagged) ivar[at] = 0;
  }
}

static void mask_runs(double *ivar, struct spd_random *random, size_t n_observed) {
  /* A Poisson number of runs, mean 0.8, as arrivals within a unit of time. */
  for (double time = -log(spd_random_uniform(random)) / 0.8; time < 1; time -= log(spd_random_uniform(random)) / 0.8) {
    size_t at = (size_t)(spd_random_uniform(random) * (double)n_observed);
    size_t stop = at + 3 + (size_t)(-10 * log(spd_random_uniform(random)));
    mask(ivar, at, stop < n_observed ? stop : n_observed);
  }
}

/* One arm of the spectrograph, where that leaves the window of the norm alone. */
static void fail_arm(double *ivar, double z, struct spd_random *random, const struct spd_simulation *s) {
  if (spd_random_uniform(random) > 0.02) return;
  int blue = 5300 * (1 + z) > 6150, red = 5850 * (1 + z) < 5900;
  for (size_t m = 0; m < s->n_observed; m++)
    if ((blue && s->wave[m] < 6000) || (red && s->wave[m] > 6150)) ivar[m] = 0;
}

/* Flux under a mask stays finite and may be wild, as in real files; padding is zero in both. */
static void add_defects(double *flux, double *ivar, double z, struct spd_random *random, const struct spd_simulation *s) {
  size_t n_observed = s->n_observed;
  add_sky_residuals(flux, ivar, random, s);
  add_cosmic_ray(flux, ivar, random, n_observed);
  mask_runs(ivar, random, n_observed);
  size_t first = (size_t)(0.010 * spd_random_uniform(random) * (double)n_observed);
  size_t last = n_observed - (size_t)((0.010 + 0.008 * spd_random_uniform(random)) * (double)n_observed);
  fail_arm(ivar, z, random, s);
  for (size_t m = 0; m < n_observed; m++)
    if (m < first || m >= last) flux[m] = ivar[m] = 0;
}

/* ---- */

static spd_status needed_range(struct range *range, double log_stretch, const struct spd_simulation *s, struct spd_error *error) {
  double low = (s->log_wave[0] - log_stretch - s->log_first) / s->step;
  double high = (s->log_wave[n_pixels(s) - (s->integrate ? 0 : 1)] - log_stretch - s->log_first) / s->step;
  if (!(low >= 0 && high < (double)s->n_rest - 1))
    return spd_fail(error, SPD_STATUS_INVALID, "the restframe grid does not hold the observed pixels at z = %g",
                    pow(10.0, log_stretch) - 1);
  range->from = (size_t)low;
  range->to = (size_t)high + 2;
  return SPD_STATUS_OK;
}

static void scale(double *x, size_t n, double by) {
  for (size_t i = 0; i < n; i++) x[i] *= by;
}

spd_status spd_simulate(double *truth, double *flux, double *ivar, double *rest, const struct spd_object *object,
                        const struct spd_simulation *s, double *work, struct spd_error *error) {
  size_t n_observed = s->n_observed;
  double *light = work, *integral = light + s->n_rest, *model = integral + s->n_rest, *variance = model + n_pixels(s);
  double *normals = variance + n_observed, *scratch = normals + n_observed;
  double log_stretch = log10(1 + object->z);
  struct range seen = {0, 0}, made, all = {0, s->n_rest};
  SPD_TRY(needed_range(&seen, log_stretch, s, error));
  if (rest) light = rest;
  made = rest ? all : seen;

  add_starlight(light, made, object, s);
  add_lines(light, made, object, s);
  if (s->integrate)
    integrate(model, integral, light, seen, log_stretch, s);
  else
    sample(model, light, log_stretch, s);
  if (object->resolution > 0)
    blur(truth, model, object->resolution, s);
  else
    convolve(truth, model, s);

  memcpy(scratch, truth, n_observed * sizeof *scratch);
  double level = spd_median(scratch, n_observed);
  if (!(level > 0 && isfinite(level)))
    return spd_fail(error, SPD_STATUS_INVALID, "spectrum %llu has no light: its median is %g", (unsigned long long)object->row + 1, level);
  struct spd_random random = spd_random_start(s->seed, CONDITIONS, object->row);
  noise_variance(variance, truth, level, object->contrast, &random, s);
  for (size_t m = 0; m < n_observed; m++) scratch[m] = truth[m] / sqrt(variance[m]);
  double brightness = object->brightness / level;
  double noise = brightness * spd_median(scratch, n_observed) / object->sn;
  scale(truth, n_observed, brightness);
  if (rest) scale(rest, s->n_rest, brightness);
  for (size_t m = 0; m < n_observed; m++) ivar[m] = 1 / (variance[m] * noise * noise);

  memcpy(flux, truth, n_observed * sizeof *flux);
  if (s->noise) {
    random = spd_random_start(s->seed, NOISE, object->row);
    spd_random_normals(normals, n_observed, &random);
    for (size_t m = 0; m < n_observed; m++) flux[m] += normals[m] / sqrt(ivar[m]);
  }
  if (s->defects) {
    random = spd_random_start(s->seed, DEFECTS, object->row);
    add_defects(flux, ivar, object->z, &random, s);
  }
  return SPD_STATUS_OK;
}
