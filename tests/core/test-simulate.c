/* Simulated observations: against plain sums, in the limits where the answer is known. */
#include "check.h"
#include "core/median.h"
#include "core/rng.h"
#include "data/simulate.h"

enum { REST = 2600, OBSERVED = 200 };

struct fixture {
  struct spd_simulation simulation;
  struct spd_object object;
  double wave_rest[REST], wave[OBSERVED], log_wave[OBSERVED + 3], ones[OBSERVED], zeros[OBSERVED];
  float components[2 * REST], extinction[REST];
  double truth[OBSERVED], flux[OBSERVED], ivar[OBSERVED], rest[REST];
  double *work;
};

/* Light: a constant, and one that grows in proportion to wavelength; pixels of 2 Å from 5000 Å, edges at odd ones. */
static void begin(struct fixture *f, int integrate) {
  static const double one = 1, mix[2] = {1, 0}, line_wave = 5200, line = 0;
  memset(f, 0, sizeof *f);
  double log_first = log10(4900), step = 2e-5;
  for (int r = 0; r < REST; r++) {
    f->wave_rest[r] = pow(10, log_first + step * r);
    f->components[r] = 1;
    f->components[REST + r] = (float)(f->wave_rest[r] / 5000);
    f->extinction[r] = 4;
  }
  for (int m = 0; m < OBSERVED; m++) {
    f->wave[m] = 5000 + 2 * m;
    f->ones[m] = 1;
  }
  for (int m = 0; m <= OBSERVED; m++)
    if (integrate)
      f->log_wave[m] = log10(4999 + 2 * m);
    else if (m < OBSERVED)
      f->log_wave[m] = log10(f->wave[m]);
  f->simulation = (struct spd_simulation){.n_rest = REST,
                                          .log_first = log_first,
                                          .step = step,
                                          .wave_rest = f->wave_rest,
                                          .n_components = 2,
                                          .components = f->components,
                                          .extinction = f->extinction,
                                          .n_lines = 1,
                                          .line_wave = &line_wave,
                                          .n_observed = OBSERVED,
                                          .wave = f->wave,
                                          .integrate = integrate,
                                          .log_wave = f->log_wave,
                                          .n_lsf = 1,
                                          .lsf = &one,
                                          .sky = f->ones,
                                          .sky_lines = f->zeros,
                                          .photons = f->zeros,
                                          .noise = 0,
                                          .defects = 0,
                                          .seed = 1};
  f->object = (struct spd_object){
      .z = 0, .mix = mix, .ebv = 0, .lines = &line, .line_sigma = 100, .brightness = 3, .contrast = 1, .sn = 10, .row = 0};
  f->work = malloc(spd_simulate_work(&f->simulation) * sizeof *f->work);
}

static spd_status simulate(struct fixture *f, int with_rest, struct spd_error *error) {
  return spd_simulate(f->truth, f->flux, f->ivar, with_rest ? f->rest : NULL, &f->object, &f->simulation, f->work, error);
}

static void test_light(void) {
  for (int integrate = 0; integrate < 2; integrate++) {
    struct fixture f;
    begin(&f, integrate);
    MUST(simulate(&f, 1, error));
    double worst = 0;
    for (int m = 0; m < OBSERVED; m++) worst = fmax(worst, fabs(f.truth[m] - 3));
    CHECK(worst < 1e-11, "a constant is off by %g", worst); /* a difference of sums up to 500 */
    CHECK(fabs(f.rest[0] - 3) < 1e-12 && fabs(f.rest[REST - 1] - 3) < 1e-12, "its restframe is %g, %g", f.rest[0], f.rest[REST - 1]);

    static const double slope[2] = {0, 1};
    f.object.mix = slope;
    f.object.z = 0.01;
    MUST(simulate(&f, 0, error));
    /* the mean of a straight line over a pixel is its value in the middle: wave / median(wave) */
    worst = 0;
    for (int m = 0; m < OBSERVED; m++) worst = fmax(worst, fabs(f.truth[m] - 3 * f.wave[m] / 5199));
    CHECK(worst < 1e-6, "a slope is off by %g (integrate %d)", worst, integrate);
    free(f.work);
  }
}

static void test_dust_and_lines(void) {
  struct fixture f;
  begin(&f, 1);
  f.object.ebv = 0.1; /* 10^(-0.4 * 4 * 0.1), the same everywhere: seen against a line, which no dust of the stars' dims */
  static const double line = 5;
  f.object.lines = &line;
  MUST(simulate(&f, 0, error));
  double area = 0, dimmed = pow(10, -0.16), level = f.truth[10];
  for (int m = 0; m < OBSERVED; m++) area += (f.truth[m] / level - 1) * 2 * dimmed;
  CHECK(fabs(area - 5) < 5e-3, "a line of flux 5 has %g", area); /* five sigma hold all but 6e-7; the grid is linear between pixels */
  free(f.work);
}

/* A line at one end: the kernel brings light from beyond it. */
static void test_lsf(void) {
  struct fixture f, g;
  static const double line = 50, kernel[3] = {0.2, 0.5, 0.3}, line_wave = 5002;
  begin(&f, 0);
  begin(&g, 0);
  f.object.lines = g.object.lines = &line;
  f.simulation.line_wave = g.simulation.line_wave = &line_wave;
  f.simulation.n_lsf = 3;
  f.simulation.lsf = kernel;
  for (int m = 0; m < OBSERVED + 2; m++) f.log_wave[m] = log10(5000 + 2 * (m - 1));
  g.simulation.n_observed = OBSERVED; /* the same pixels, one further to the left */
  for (int m = 0; m < OBSERVED; m++) g.log_wave[m] = log10(5000 + 2 * (m - 1));
  free(f.work);
  f.work = malloc(spd_simulate_work(&f.simulation) * sizeof *f.work);
  MUST(simulate(&f, 0, error));
  MUST(simulate(&g, 0, error));
  double worst = 0, scale = f.truth[150] / g.truth[151];
  for (int m = 0; m < OBSERVED - 3; m++) /* y_m = sum_i k_i x_{m-i}, i = -1, 0, 1; g begins one pixel before f */
    worst = fmax(worst, fabs(f.truth[m] - scale * (0.2 * g.truth[m + 2] + 0.5 * g.truth[m + 1] + 0.3 * g.truth[m])));
  CHECK(worst < 1e-9, "the kernel is off by %g", worst);
  CHECK(f.truth[0] > 1.2 * f.truth[100], "the line is not where it should be");
  free(f.work);
  free(g.work);
}

/* An object's own Gaussian does what the same kernel for all does. */
static void test_resolution(void) {
  struct fixture f, g;
  static const double line = 50, line_wave = 5250;
  double kernel[13], deviation[OBSERVED], sum = 0;
  for (int i = 0; i < 13; i++) sum += kernel[i] = exp(-0.5 * pow((i - 6) / 1.25, 2));
  for (int i = 0; i < 13; i++) kernel[i] /= sum;
  for (int m = 0; m < OBSERVED; m++) deviation[m] = 1250;
  begin(&f, 0);
  begin(&g, 0);
  struct fixture *both[2] = {&f, &g};
  for (int k = 0; k < 2; k++) {
    both[k]->object.lines = &line;
    both[k]->simulation.line_wave = &line_wave;
    both[k]->simulation.n_lsf = 13, both[k]->simulation.lsf = kernel;
    both[k]->simulation.n_observed = OBSERVED - 12; /* the others are beyond the ends */
    free(both[k]->work);
    both[k]->work = malloc(spd_simulate_work(&both[k]->simulation) * sizeof *f.work);
  }
  g.simulation.deviation = deviation, g.object.resolution = 1000;
  MUST(simulate(&f, 0, error));
  MUST(simulate(&g, 0, error));
  double worst = 0, highest = 0;
  for (int m = 0; m < OBSERVED - 12; m++) worst = fmax(worst, fabs(f.truth[m] - g.truth[m])), highest = fmax(highest, f.truth[m]);
  CHECK(worst < 1e-12 * highest && highest > 3.3, "the resolution is off by %g of %g", worst, highest);
  free(f.work);
  free(g.work);
}

static void test_noise(void) {
  struct fixture f;
  begin(&f, 1);
  f.simulation.noise = 1;
  double sum = 0, square = 0;
  enum { ROWS = 400 };
  for (int row = 0; row < ROWS; row++) {
    f.object.row = (uint64_t)row;
    MUST(simulate(&f, 0, error));
    double sn[OBSERVED];
    for (int m = 0; m < OBSERVED; m++) {
      double d = (f.flux[m] - f.truth[m]) * sqrt(f.ivar[m]);
      sum += d;
      square += d * d;
      sn[m] = f.truth[m] * sqrt(f.ivar[m]);
    }
    if (row == 0) CHECK(fabs(spd_median(sn, OBSERVED) - 10) < 1e-9, "S/N is not 10");
  }
  double n = (double)ROWS * OBSERVED; /* 80,000: errors of 0.0035 and 0.005 */
  CHECK(fabs(sum / n) < 0.015 && fabs(square / n - 1) < 0.02, "noise has mean %g and variance %g", sum / n, square / n);

  double first = f.flux[7];
  MUST(simulate(&f, 0, error));
  CHECK(f.flux[7] == first, "the same row is not the same");
  f.object.row++;
  MUST(simulate(&f, 0, error));
  CHECK(f.flux[7] != first, "another row is the same");
  free(f.work);
}

static void test_defects(void) {
  struct fixture f;
  begin(&f, 1);
  f.simulation.defects = 1;
  int masked = 0, finite = 1;
  for (int row = 0; row < 200; row++) {
    f.object.row = (uint64_t)row;
    f.object.z = row % 2 ? 0.0 : 0.02;
    MUST(simulate(&f, 0, error));
    for (int m = 0; m < OBSERVED; m++) {
      masked += f.ivar[m] == 0;
      finite = finite && isfinite(f.flux[m]) && isfinite(f.ivar[m]) && f.ivar[m] >= 0;
    }
  }
  CHECK(finite, "defects are not finite");
  /* 0.5 and 1.4 % at the ends, 0.8 runs of 13 pixels in 200 */
  CHECK(masked > 200 * OBSERVED * 0.03 && masked < 200 * OBSERVED * 0.12, "%d pixels are masked", masked);
  free(f.work);
}

static void test_refusals(void) {
  struct fixture f;
  begin(&f, 1);
  f.object.z = 0.3;
  CHECK_STATUS(simulate(&f, 0, error), SPD_STATUS_INVALID, "does not hold");
  f.object.z = -0.2;
  CHECK_STATUS(simulate(&f, 0, error), SPD_STATUS_INVALID, "does not hold");
  f.object.z = 0;
  static const double dark[2] = {-1, 0};
  f.object.mix = dark;
  CHECK_STATUS(simulate(&f, 0, error), SPD_STATUS_INVALID, "no light");
  free(f.work);
}

static void test_random(void) {
  struct spd_random a = spd_random_start(1, 2, 3), b = spd_random_start(1, 2, 4);
  CHECK(spd_random_uniform(&a) != spd_random_uniform(&b), "two sequences are the same");
  double sum = 0, least = 1, most = 0;
  for (int i = 0; i < 100000; i++) {
    double u = spd_random_uniform(&a);
    sum += u;
    least = fmin(least, u);
    most = fmax(most, u);
  }
  CHECK(fabs(sum / 1e5 - 0.5) < 0.004 && least > 0 && most < 1, "uniforms have mean %g, range %g to %g", sum / 1e5, least, most);
  double x[3], y[3] = {3, 1, 2}, z[4] = {4, 1, 3, 2};
  spd_random_normals(x, 3, &a); /* an odd number writes no fourth */
  CHECK(x[0] != x[1] && x[1] != x[2], "normals repeat");
  CHECK(spd_median(y, 3) == 2 && spd_median(z, 4) == 2.5, "medians are wrong");
}

int main(void) {
  test_light();
  test_dust_and_lines();
  test_lsf();
  test_resolution();
  test_noise();
  test_defects();
  test_refusals();
  test_random();
  return check_end();
}
