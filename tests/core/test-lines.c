/* Lines: values that are known, the minimum and its curvature by differences of the sum of squares, errors as responses to changes, and
 * spectra that nobody should measure. */
#include "check.h"
#include "core/rng.h"
#include "measure/lines.h"

enum { M = 400, K = 3 };
static const double CENTRE[K] = {6549.86, 6564.61, 6585.27}, LIGHT = 299792.458, PI = 3.14159265358979323846;

static double wave[M], flux[M], ivar[M], changes[2 * M], *work;
static struct spd_lines lines;
static struct spd_line found[K], other[K];

static double normal(double x, double centre, double s) { return exp(-0.5 * (x - centre) * (x - centre) / (s * s)) / (s * sqrt(2 * PI)); }

/* Three lines at redshift 0.1, with or without noise */
static struct spd_lines_spectrum spectrum(double noise) {
  const double f[K] = {4, 30, -12}, velocity = 80, sigma = 130;
  struct spd_random random = spd_random_start(3, 0, 0);
  for (size_t i = 0; i < M; i++) {
    wave[i] = 7100 * exp(2.3e-4 * (double)i);
    const double x = wave[i] / 1.1;
    flux[i] = 2 + 1e-3 * (x - 6550);
    for (int k = 0; k < K; k++) flux[i] += f[k] * normal(x, CENTRE[k] * (1 + velocity / LIGHT), CENTRE[k] * sigma / LIGHT);
    flux[i] = flux[i] / 1.1 + noise * (spd_random_uniform(&random) - 0.5);
    ivar[i] = (1 + 0.5 * sin((double)i)) / (noise > 0 ? noise * noise / 12 : 1e-6);
    changes[i] = 0.1 * sin((double)i / 3), changes[M + i] = 0.05;
  }
  return (struct spd_lines_spectrum){.flux = flux, .ivar = ivar, .z = 0.1, .unit = 1};
}

static void test_known(void) {
  const struct spd_lines_spectrum s = spectrum(0);
  spd_lines_measure(found, &lines, &s, work);
  const double want[K] = {4, 30, -12};
  for (int k = 0; k < K; k++) {
    CHECK(fabs(found[k].flux - want[k]) < 1e-9 && fabs(found[k].sigma - 130) < 1e-8 && fabs(found[k].velocity - 80) < 1e-8,
          "line %d: flux %.12g, sigma %.12g, velocity %.12g", k, found[k].flux, found[k].sigma, found[k].velocity);
    CHECK(fabs(found[k].continuum - (2 + 1e-3 * (CENTRE[k] - 6550))) < 1e-9, "continuum %.12g", found[k].continuum);
  }
  struct spd_lines_spectrum scaled = s;
  scaled.unit = 8;
  spd_lines_measure(other, &lines, &scaled, work);
  CHECK(fabs(other[1].flux - 240) < 1e-7 && fabs(other[1].ew - found[1].ew) < 1e-9 && other[1].chi2 < 1, "in another unit: %g",
        other[1].flux);
}

/* chi2 at a velocity and width, times its degrees of freedom */
static double chi2_at(struct spd_lines_spectrum s, double velocity, double sigma) {
  const double v[K] = {velocity, velocity, velocity}, w[K] = {sigma, sigma, sigma};
  s.velocity = v, s.sigma = w;
  spd_lines_measure(other, &lines, &s, work);
  return other[0].chi2 * (double)(other[0].pixels - K - 4);
}

static void test_minimum(void) {
  const struct spd_lines_spectrum s = spectrum(0.4);
  spd_lines_measure(found, &lines, &s, work);
  const double v = found[0].velocity, w = found[0].sigma, h = 0.005;
  const double least = chi2_at(s, v, w), by_v = (chi2_at(s, v + h, w) - chi2_at(s, v - h, w)) / (2 * h),
               by_w = (chi2_at(s, v, w + h) - chi2_at(s, v, w - h)) / (2 * h);
  CHECK(fabs(by_v * found[0].velocity_err) < 1e-6 && fabs(by_w * found[0].sigma_err) < 1e-6, "gradient %g, %g of an error",
        by_v * found[0].velocity_err, by_w * found[0].sigma_err);
  CHECK(fabs(found[0].chi2 * (double)(found[0].pixels - K - 4) - least) < 1e-9 * least, "chi2 %g, at these values %g", found[0].chi2,
        least);
  /* With little noise the curvature is that of the errors, which are of both together: the inverse matrix's diagonal. */
  const struct spd_lines_spectrum clear = spectrum(1e-3);
  spd_lines_measure(found, &lines, &clear, work);
  const double v1 = found[0].velocity, w1 = found[0].sigma, d = 0.05;
  const double base = chi2_at(clear, v1, w1), vv = (chi2_at(clear, v1 + d, w1) + chi2_at(clear, v1 - d, w1) - 2 * base) / (d * d),
               ww = (chi2_at(clear, v1, w1 + d) + chi2_at(clear, v1, w1 - d) - 2 * base) / (d * d),
               vw = (chi2_at(clear, v1 + d, w1 + d) + chi2_at(clear, v1 - d, w1 - d) - chi2_at(clear, v1 + d, w1 - d) -
                     chi2_at(clear, v1 - d, w1 + d)) /
                    (4 * d * d);
  const double variance_v = 2 * ww / (vv * ww - vw * vw), variance_w = 2 * vv / (vv * ww - vw * vw);
  CHECK(fabs(sqrt(variance_v) / found[0].velocity_err - 1) < 1e-4 && fabs(sqrt(variance_w) / found[0].sigma_err - 1) < 1e-4,
        "errors %g, %g; by curvature %g, %g", found[0].velocity_err, found[0].sigma_err, sqrt(variance_v), sqrt(variance_w));
}

/* Errors from changes are those of fits to the changed flux. */
static void test_changes(void) {
  struct spd_lines_spectrum s = spectrum(1e-3);
  s.changes = changes, s.n_changes = 2;
  spd_lines_measure(found, &lines, &s, work);
  double flux_change = 0, ew_change = 0, sigma_change = 0;
  static double moved[M];
  const double h = 1e-4;
  struct spd_lines_spectrum t = spectrum(1e-3);
  t.flux = moved;
  for (size_t c = 0; c < 2; c++) {
    struct spd_line side[2];
    for (int up = 0; up < 2; up++) {
      for (size_t i = 0; i < M; i++) moved[i] = flux[i] + (up ? h : -h) * changes[c * M + i];
      spd_lines_measure(other, &lines, &t, work);
      side[up] = other[1];
    }
    flux_change = hypot(flux_change, (side[1].flux - side[0].flux) / (2 * h));
    ew_change = hypot(ew_change, (side[1].ew - side[0].ew) / (2 * h));
    sigma_change = hypot(sigma_change, (side[1].sigma - side[0].sigma) / (2 * h));
  }
  CHECK(fabs(found[1].flux_err / flux_change - 1) < 1e-3 && fabs(found[1].ew_err / ew_change - 1) < 1e-3 &&
            fabs(found[1].sigma_err / sigma_change - 1) < 1e-3,
        "errors %g, %g, %g; of fits %g, %g, %g", found[1].flux_err, found[1].ew_err, found[1].sigma_err, flux_change, ew_change,
        sigma_change);
}

static void test_gaps(void) {
  struct spd_lines_spectrum s = spectrum(0.1);
  for (size_t i = 0; i < M; i++)
    if (fabs(wave[i] / 1.1 - CENTRE[2]) < 10) ivar[i] = i % 2 ? 0 : NAN;
  spd_lines_measure(found, &lines, &s, work);
  CHECK(isnan(found[2].flux) && isnan(found[2].sigma) && found[1].flux_err > 0 && isnan(found[1].flux_with_next),
        "a masked line: %g beside %g", found[2].flux, found[1].flux_err);
  CHECK(found[2].chi2 == found[1].chi2 && found[2].pixels == found[1].pixels, "pixels of the group");
  const double at_rest[K] = {0, 0, 0}, narrow[K] = {20, 20, 20};
  s = spectrum(0.1);
  s.velocity = at_rest, s.sigma = narrow;
  for (size_t i = 0; i < M; i++)
    if (fabs(wave[i] / 1.1 - CENTRE[1]) < 5) ivar[i] = 0;
  spd_lines_measure(found, &lines, &s, work);
  CHECK(isnan(found[1].flux) && isnan(found[1].flux_err) && found[0].flux_err > 0, "a line between its pixels: %g", found[1].flux);
  for (size_t i = 0; i < M; i++) ivar[i] = 0;
  spd_lines_measure(found, &lines, &s, work);
  CHECK(isnan(found[0].flux) && isnan(found[0].chi2) && found[0].pixels == 0, "no pixel, but %zu", found[0].pixels);
}

/* Ends, and says nothing that is not a number. */
static void test_extremes(void) {
  const double values[] = {0, 1, -1, 1e-300, 1e150, -1e300, INFINITY, NAN};
  for (size_t v = 0; v < sizeof values / sizeof *values; v++)
    for (size_t w = 0; w < sizeof values / sizeof *values; w++)
      for (int pattern = 0; pattern < 3; pattern++) {
        struct spd_lines_spectrum s = spectrum(0.1);
        for (size_t i = 0; i < M; i++)
          if (pattern == 0 || i % (size_t)(7 * pattern) == 0) flux[i] = values[v], ivar[i] = values[w];
        spd_lines_measure(found, &lines, &s, work);
        CHECK(found[0].pixels <= M, "%zu pixels", found[0].pixels);
        s.z = values[v], s.unit = values[w];
        spd_lines_measure(found, &lines, &s, work);
        CHECK(found[0].pixels <= M, "%zu pixels", found[0].pixels);
      }
  struct spd_lines narrow = lines;
  narrow.velocity_max = 0, narrow.sigma_max = 0;
  const struct spd_lines_spectrum s = spectrum(0.1);
  spd_lines_measure(found, &narrow, &s, work);
  CHECK(found[1].velocity == 0 && isnan(found[1].velocity_err) && found[1].flux_err > 0, "velocity %g where it is held at 0",
        found[1].velocity);
}

static void test_dip(void) {
  const double centre[2] = {3727.09, 3729.88}, flux2[2] = {10, 14};
  CHECK(spd_lines_dip(centre, flux2, 50) > 0.5 && spd_lines_dip(centre, flux2, 140) == 0, "dips %g and %g",
        spd_lines_dip(centre, flux2, 50), spd_lines_dip(centre, flux2, 140));
  const double negative[2] = {-1, 3};
  CHECK(isnan(spd_lines_dip(centre, negative, 50)) && isnan(spd_lines_dip(centre, flux2, NAN)), "no dip of a line in absorption");
}

int main(void) {
  lines = (struct spd_lines){
      .n_observed = M, .n_lines = K, .wave = wave, .centre = CENTRE, .gap = 60, .window = 40, .sigma_max = 600, .velocity_max = 600};
  work = malloc(spd_lines_work(&lines) * sizeof *work);
  if (!work) return 1;
  test_known();
  test_minimum();
  test_changes();
  test_gaps();
  test_extremes();
  test_dip();
  free(work);
  return check_end();
}
