#include "measure/lines.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "core/hot.h"
#include "core/median.h"

static const double LIGHT_SPEED = 299792.458; /* km/s */
enum { VELOCITY, SIGMA };

/* A group of lines and the valid pixels of its window. The columns of the linear problem, each times the square root of the weights: the
 * continuum and its slope, then the lines; after them the derivatives of the model by velocity and width. */
struct fit {
  size_t n, k, m, width; /* pixels; lines; linear columns k + 2; all columns k + 4 */
  size_t n_observed;     /* M */
  double *centre;        /* (k) */
  double *pixel;         /* (n) their places in the spectrum */
  double *x, *w;         /* (n) wavelength less middle; square root of the weight */
  double *y, *residual;  /* (n) flux and what the model leaves of it, times w */
  double *columns;       /* (width, n) */
  double *t;             /* (k, n) distance from the line in units of its width */
  double *factor;        /* (width, width) lower Cholesky factor of the columns' products; a 0 on its diagonal: no such column */
  double *beta;          /* (width) linear parameters */
  double *covariance;    /* (width, width) */
  double *spare;         /* (2, width) */
  double middle, size;   /* of the wavelengths; sum of y^2 */
  double lower[2], upper[2];
};

/* ---- loops over pixels ---- */

/* exp(x) for x <= 0, to the last bits, branch-free so that loops over it vectorise; saturates at exp(-700). */
SPD_HOT_INLINE double exp_negative(double x) {
  x = x < -700 ? -700 : x;
  /* x = n ln 2 + r with |r| <= ln 2 / 2; adding 1.5 * 2^52 rounds to an integer */
  const double shifted = x * 1.4426950408889634 + 6755399441055744.0, n = shifted - 6755399441055744.0;
  const double r = (x - n * 0.693147180369123816490) - n * 1.90821492927058770002e-10;
  double p = 1.0 / 6227020800; /* 1 / 13! */
  p = p * r + 1.0 / 479001600;
  p = p * r + 1.0 / 39916800;
  p = p * r + 1.0 / 3628800;
  p = p * r + 1.0 / 362880;
  p = p * r + 1.0 / 40320;
  p = p * r + 1.0 / 5040;
  p = p * r + 1.0 / 720;
  p = p * r + 1.0 / 120;
  p = p * r + 1.0 / 24;
  p = p * r + 1.0 / 6;
  p = p * r + 0.5;
  p = p * r + 1;
  p = p * r + 1;
  uint64_t bits;
  memcpy(&bits, &shifted, sizeof bits);
  bits = (bits << 52) + 0x3ff0000000000000u; /* only the low bits of n survive the shift: 2^n */
  double scale;
  memcpy(&scale, &bits, sizeof scale);
  return p * scale;
}

/* A line at x = centre with unit flux, and its distances t */
SPD_HOT static void profile(double *restrict g, double *restrict t, const double *restrict x, const double *restrict w, size_t n,
                            double centre, double s) {
  const double per_s = 1 / s, height = 0.39894228040143267794 / s;
  SPD_SIMD
  for (size_t i = 0; i < n; i++) {
    t[i] = (x[i] - centre) * per_s;
    g[i] = w[i] * height * exp_negative(-0.5 * t[i] * t[i]);
  }
}

SPD_HOT static double dot(const double *restrict a, const double *restrict b, size_t n) {
  double sum = 0;
  SPD_SIMD_SUM(sum)
  for (size_t i = 0; i < n; i++) sum += a[i] * b[i];
  return sum;
}

SPD_HOT static void subtract(double *restrict y, const double *restrict x, double scale, size_t n) {
  SPD_SIMD
  for (size_t i = 0; i < n; i++) y[i] -= scale * x[i];
}

/* Adds a line's derivatives, in units of 1 / width: g t by velocity, g (t^2 - 1) by width. */
SPD_HOT static void add_derivatives(double *restrict by_velocity, double *restrict by_sigma, const double *restrict g,
                                    const double *restrict t, double flux, size_t n) {
  SPD_SIMD
  for (size_t i = 0; i < n; i++) {
    by_velocity[i] += flux * g[i] * t[i];
    by_sigma[i] += flux * g[i] * (t[i] * t[i] - 1);
  }
}

/* sums[q]: of residual g t^q */
SPD_HOT static void moments(double sums[5], const double *restrict residual, const double *restrict g, const double *restrict t, size_t n) {
  double s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0;
#ifdef SPD_HAVE_OPENMP_SIMD
  SPD_PRAGMA(omp simd reduction(+ : s0, s1, s2, s3, s4))
#endif
  for (size_t i = 0; i < n; i++) {
    const double rg = residual[i] * g[i], t1 = t[i], t2 = t1 * t1;
    s0 += rg, s1 += rg * t1, s2 += rg * t2, s3 += rg * t2 * t1, s4 += rg * t2 * t2;
  }
  sums[0] = s0, sums[1] = s1, sums[2] = s2, sums[3] = s3, sums[4] = s4;
}

/* ---- the linear problem ---- */

/* Row j of the factor: products of column j with those before it. A column that the others make up, or that is 0, is left out. */
static void factorise_row(struct fit *f, size_t j) {
  double *row = f->factor + j * f->width;
  const double *column = f->columns + j * f->n;
  const double square = dot(column, column, f->n);
  double rest = square;
  for (size_t i = 0; i < j; i++) {
    const double *other = f->factor + i * f->width;
    double sum = dot(column, f->columns + i * f->n, f->n);
    for (size_t l = 0; l < i; l++) sum -= row[l] * other[l];
    row[i] = other[i] > 0 ? sum / other[i] : 0;
    rest -= row[i] * row[i];
  }
  row[j] = rest > 1e-14 * square ? sqrt(rest) : 0;
}

/* x = L^-1 x, of the first m columns */
static void solve_lower(double *x, const struct fit *f, size_t m) {
  for (size_t i = 0; i < m; i++) {
    const double *row = f->factor + i * f->width;
    for (size_t j = 0; j < i; j++) x[i] -= row[j] * x[j];
    x[i] = row[i] > 0 ? x[i] / row[i] : 0;
  }
}

/* x = L^-T x */
static void solve_upper(double *x, const struct fit *f, size_t m) {
  for (size_t i = m; i-- > 0;) {
    for (size_t j = i + 1; j < m; j++) x[i] -= f->factor[j * f->width + i] * x[j];
    const double pivot = f->factor[i * f->width + i];
    x[i] = pivot > 0 ? x[i] / pivot : 0;
  }
}

/* The linear parameters at p and the residual; returns the sum of its squares. */
static double evaluate(struct fit *f, const double p[2]) {
  for (size_t k = 0; k < f->k; k++) {
    const double centre = f->centre[k];
    profile(f->columns + (2 + k) * f->n, f->t + k * f->n, f->x, f->w, f->n, centre - f->middle + centre * p[VELOCITY] / LIGHT_SPEED,
            centre * p[SIGMA] / LIGHT_SPEED);
    factorise_row(f, 2 + k);
  }
  for (size_t j = 0; j < f->m; j++) f->beta[j] = dot(f->columns + j * f->n, f->y, f->n);
  solve_lower(f->beta, f, f->m);
  solve_upper(f->beta, f, f->m);
  memcpy(f->residual, f->y, f->n * sizeof *f->y);
  for (size_t j = 0; j < f->m; j++) subtract(f->residual, f->columns + j * f->n, f->beta[j], f->n);
  return dot(f->residual, f->residual, f->n);
}

/* ---- velocity and width ---- */

/* Half the sum of squares, as a function of velocity and width alone, to second order about p; matrices as (vv, vs, ss) */
struct shape {
  double gradient[2];
  double gauss[3];  /* products of the residual's derivatives */
  double newton[3]; /* all second derivatives */
};

/* The derivatives of the model, as columns m and m + 1 */
static void differentiate_model(struct fit *f, const double p[2]) {
  double *by_velocity = f->columns + f->m * f->n, *by_sigma = by_velocity + f->n;
  memset(by_velocity, 0, 2 * f->n * sizeof *by_velocity);
  for (size_t k = 0; k < f->k; k++)
    add_derivatives(by_velocity, by_sigma, f->columns + (2 + k) * f->n, f->t + k * f->n, f->beta[2 + k] / p[SIGMA], f->n);
}

/* After evaluate(f, p). With model derivatives D, u = (dG/dp)' residual, and G = LL' the products of the linear columns: the residual's
 * derivatives are -(D - its projection on the columns) and a part within the columns, L^-1 u. */
static void differentiate(struct shape *shape, struct fit *f, const double p[2]) {
  const double sigma = p[SIGMA];
  double *along[2] = {f->spare, f->spare + f->width}, curvature[3] = {0, 0, 0};
  differentiate_model(f, p);
  memset(f->spare, 0, 2 * f->width * sizeof *f->spare);
  shape->gradient[VELOCITY] = shape->gradient[SIGMA] = 0;
  for (size_t k = 0; k < f->k; k++) {
    double s[5];
    const double flux = f->beta[2 + k];
    moments(s, f->residual, f->columns + (2 + k) * f->n, f->t + k * f->n, f->n);
    along[VELOCITY][2 + k] = s[1] / sigma;
    along[SIGMA][2 + k] = (s[2] - s[0]) / sigma;
    shape->gradient[VELOCITY] -= flux * along[VELOCITY][2 + k];
    shape->gradient[SIGMA] -= flux * along[SIGMA][2 + k];
    curvature[0] += flux * (s[2] - s[0]);
    curvature[1] += flux * (s[3] - 3 * s[1]);
    curvature[2] += flux * (s[4] - 5 * s[2] + 2 * s[0]);
  }
  for (int a = 0; a < 2; a++) {
    solve_lower(along[a], f, f->m);
    factorise_row(f, f->m + (size_t)a);
  }
  const double *of[2] = {f->factor + f->m * f->width, f->factor + (f->m + 1) * f->width};
  for (int a = 0, e = 0; a < 2; a++)
    for (int b = a; b < 2; b++, e++) {
      const double *column = f->columns + f->m * f->n;
      double product = dot(column + (size_t)a * f->n, column + (size_t)b * f->n, f->n);
      shape->gauss[e] = product;
      shape->newton[e] = product - curvature[e] / (sigma * sigma);
      for (size_t j = 0; j < f->m; j++) {
        shape->gauss[e] += along[a][j] * along[b][j] - of[a][j] * of[b][j];
        shape->newton[e] -= (of[a][j] - along[a][j]) * (of[b][j] - along[b][j]);
      }
    }
}

/* x = -(A + damping D^2)^-1 x for the free parameters, 0 for others and where the matrix is not positive */
static void solve_two(double x[2], const double a[3], const double scale[2], double damping, const int is_free[2]) {
  const double vv = a[0] + damping * scale[0] * scale[0], vs = is_free[0] && is_free[1] ? a[1] : 0,
               ss = a[2] + damping * scale[1] * scale[1];
  const double determinant = vv * ss - vs * vs;
  if (vs != 0 && determinant > 1e-14 * vv * ss) {
    const double first = (vs * x[1] - ss * x[0]) / determinant;
    x[1] = (vs * x[0] - vv * x[1]) / determinant;
    x[0] = first;
    return;
  }
  x[0] = is_free[0] && vv > 0 ? -x[0] / vv : 0;
  x[1] = is_free[1] && ss > 0 ? -x[1] / ss : 0;
}

static double scaled_length(const double x[2], const double scale[2]) { return hypot(scale[0] * x[0], scale[1] * x[1]); }

/* The step of a scaled length of at most the radius, to a tenth (Moré 1978, algorithm 5.5). damping: the last step's, then this one's */
static void trust_step(double step[2], double *damping, const double a[3], const double gradient[2], const double scale[2], double radius,
                       const int is_free[2]) {
  memcpy(step, gradient, 2 * sizeof *step);
  solve_two(step, a, scale, 0, is_free);
  double length = scaled_length(step, scale), excess = length - radius, low = 0, high = 0;
  if (excess <= 0.1 * radius) {
    *damping = 0;
    return;
  }
  for (int j = 0; j < 2; j++)
    if (is_free[j]) high = hypot(high, gradient[j] / scale[j]);
  high /= radius;
  for (int round = 0;; round++) {
    double direction[2] = {scale[0] * scale[0] * step[0] / length, scale[1] * scale[1] * step[1] / length};
    const double along[2] = {direction[0], direction[1]};
    solve_two(direction, a, scale, round > 0 ? *damping : 0, is_free);
    const double correction = -excess / radius / (along[0] * direction[0] + along[1] * direction[1]);
    if (round == 0) {
      low = correction;
      *damping = fmin(fmax(*damping, low), high);
    } else {
      if (excess > 0) low = fmax(low, *damping);
      if (excess < 0) high = fmin(high, *damping);
      *damping = fmax(low, *damping + correction);
    }
    memcpy(step, gradient, 2 * sizeof *step);
    solve_two(step, a, scale, *damping, is_free);
    length = scaled_length(step, scale);
    excess = length - radius;
    if (fabs(excess) <= 0.1 * radius || round == 9 || !isfinite(excess)) return;
  }
}

static double quadratic(const double a[3], const double x[2]) { return a[0] * x[0] * x[0] + 2 * a[1] * x[0] * x[1] + a[2] * x[1] * x[1]; }

static int is_positive(const double a[3], const int is_free[2]) {
  if (is_free[0] && is_free[1]) return a[0] > 0 && a[0] * a[2] - a[1] * a[1] > 1e-12 * a[0] * a[2];
  return is_free[0] ? a[0] > 0 : a[2] > 0;
}

/* The radius after a step of this length. slope: of the relative sum of squares along the step; actual: its reduction; ratio: that to the
 * predicted one */
static void adjust_radius(double *radius, double *damping, double length, double slope, double actual, double ratio) {
  if (ratio <= 0.25) {
    const double less = actual >= 0 ? 0.5 : fmax(0.1, 0.5 * slope / (slope + 0.5 * actual));
    *radius = less * fmin(*radius, 10 * length);
    *damping /= less;
  } else if (*damping == 0 || ratio >= 0.75) {
    *radius = 2 * length;
    *damping *= 0.5;
  }
}

/* A parameter at its limit is free if the gradient points inwards. */
static int find_free(int is_free[2], const struct fit *f, const double p[2], const double gradient[2]) {
  for (int j = 0; j < 2; j++)
    is_free[j] = f->lower[j] < f->upper[j] && (p[j] > f->lower[j] || gradient[j] < 0) && (p[j] < f->upper[j] || gradient[j] > 0);
  return is_free[0] || is_free[1];
}

/* From p to a minimum within the limits, by the rules of MINPACK's lmder (Moré 1978). When the sum of squares hardly changes any more, the
 * matrix is that of all second derivatives, and the last steps converge quadratically whatever the noise; a step below 1e-5 standard
 * deviations is the last. Returns the sum of squares. */
static double minimise(double p[2], struct fit *f) {
  const double freedom = f->n > f->m + 2 ? (double)(f->n - f->m - 2) : 1;
  double scale[2] = {0, 0}, radius = 0, damping = 0, now = evaluate(f, p);
  struct shape shape;
  const double *a = shape.gauss;
  int is_free[2] = {0, 0}, is_near = 0, is_new = 1;
  for (int tries = 0; tries < 200; tries++) {
    if (is_new) {
      differentiate(&shape, f, p);
      if (!find_free(is_free, f, p, shape.gradient)) break;
      for (int j = 0; j < 2; j++) {
        scale[j] = fmax(scale[j], sqrt(shape.gauss[2 * j]));
        if (!(scale[j] > 0)) scale[j] = 1;
      }
      a = is_near && is_positive(shape.newton, is_free) ? shape.newton : shape.gauss;
    }
    double step[2], to[2];
    if (tries == 0) radius = 100 * scaled_length(p, scale);
    trust_step(step, &damping, a, shape.gradient, scale, radius, is_free);
    for (int j = 0; j < 2; j++) to[j] = fmin(fmax(p[j] + step[j], f->lower[j]), f->upper[j]);
    const double length = scaled_length(step, scale), size = quadratic(a, step);
    const double fall = -2 * (shape.gradient[0] * step[0] + shape.gradient[1] * step[1]);
    if (tries == 0) radius = fmin(radius, length);
    const double then = evaluate(f, to);
    if (damping == 0 && size <= (a == shape.newton ? 1e-10 : 1e-16) * now / freedom + 1e-26 * f->size) { /* or rounding's */
      if (then <= now || a == shape.newton) p[0] = to[0], p[1] = to[1], now = then;
      break;
    }
    const double actual = then < 100 * now ? 1 - then / now : -INFINITY, predicted = (fall - size) / now;
    const double ratio = predicted > 0 ? actual / predicted : 0;
    adjust_radius(&radius, &damping, length, -0.5 * fall / now, actual, ratio);
    is_new = ratio >= 1e-4;
    if (is_new) {
      p[0] = to[0], p[1] = to[1], now = then;
      is_near = is_near || actual < 1e-5;
    }
    if (!(radius > 1e-12 * scaled_length(p, scale)) || !isfinite(now)) break;
  }
  return now;
}

/* The better of the minima from a narrow and a wide start, which differ where lines blend; leaves the fit evaluated there. */
static double find_best(double p[2], struct fit *f, double pixel) {
  double least = INFINITY;
  static const double factors[] = {1, 2.2};
  for (int i = 0; i < 2; i++) {
    double from[2] = {0, fmin(fmax(110, 1.2 * pixel) * factors[i], 0.9 * f->upper[SIGMA])};
    const double deviance = minimise(from, f);
    if (deviance < least || i == 0) {
      least = deviance;
      memcpy(p, from, sizeof from);
    }
  }
  return evaluate(f, p);
}

/* ---- errors ---- */

/* Covariance of the parameters of the first m columns, whose rows are in the factor, from the weights or from changes of the flux */
static void find_covariance(struct fit *f, size_t m, const struct spd_lines_spectrum *s) {
  const double unit = s->unit * (1 + s->z);
  double *x = f->spare, *change = f->residual;
  memset(f->covariance, 0, f->width * f->width * sizeof *f->covariance);
  for (size_t round = 0; round < (s->changes ? s->n_changes : m); round++) {
    for (size_t i = 0; s->changes && i < f->n; i++) change[i] = s->changes[round * f->n_observed + (size_t)f->pixel[i]] * unit * f->w[i];
    for (size_t j = 0; j < m; j++) x[j] = s->changes ? dot(f->columns + j * f->n, change, f->n) : j == round;
    solve_lower(x, f, m);
    solve_upper(x, f, m);
    for (size_t i = 0; i < m; i++)
      for (size_t j = 0; j < m; j++)
        if (s->changes)
          f->covariance[i * f->width + j] += x[i] * x[j];
        else if (i == round)
          f->covariance[i * f->width + j] = x[j];
  }
}

static double variance_of(const struct fit *f, size_t j) { return f->covariance[j * (f->width + 1)]; }

/* The same with the derivatives by velocity, width, or both, where they are not at their limits. 0 if the pixels do not determine them
 * within these: of a line too weak to have a width, or beside masked pixels. */
static int find_full_covariance(struct fit *f, const double p[2], const int *moving, size_t n_moving, const struct spd_lines_spectrum *s) {
  double *first = f->columns + f->m * f->n;
  differentiate_model(f, p);
  if (n_moving == 1 && moving[0] == SIGMA) memcpy(first, first + f->n, f->n * sizeof *first);
  for (size_t a = 0; a < n_moving; a++) {
    factorise_row(f, f->m + a);
    if (!(f->factor[(f->m + a) * (f->width + 1)] > 0)) return 0;
  }
  find_covariance(f, f->m + n_moving, s);
  for (size_t a = 0; a < n_moving; a++)
    if (sqrt(variance_of(f, f->m + a)) > f->upper[moving[a]] - f->lower[moving[a]]) return 0;
  return 1;
}

/* ---- a group ---- */

static const struct spd_line NOT_MEASURED = {NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN, 0};

/* Takes the valid pixels of a spectrum from restframe wavelength `from` to `to`; x is the wavelength. */
static void take_pixels(struct fit *f, const struct spd_lines *lines, const struct spd_lines_spectrum *s, double from, double to) {
  const double stretch = 1 + s->z, unit = s->unit * stretch; /* (1 + z) f_lambda */
  size_t low = 0, high = lines->n_observed;
  while (low < high) {
    const size_t half = low + (high - low) / 2;
    if (lines->wave[half] / stretch >= from)
      high = half;
    else
      low = half + 1;
  }
  f->n = 0;
  for (size_t i = low; i < lines->n_observed && lines->wave[i] / stretch <= to; i++) {
    const double weight = s->ivar ? s->ivar[i] / (unit * unit) : 1, flux = s->flux[i] * unit;
    if (!isfinite(flux) || !(weight > 0) || !isfinite(weight)) continue;
    f->pixel[f->n] = (double)i;
    f->x[f->n] = lines->wave[i] / stretch;
    f->w[f->n] = sqrt(weight);
    f->y[f->n] = flux * f->w[f->n];
    f->n++;
  }
}

static int is_covered(const struct fit *f, double centre) {
  int near = 0;
  for (size_t i = 0; i < f->n; i++) near += fabs(f->x[i] - centre) < 10;
  return near >= 3;
}

/* Wavelengths from their middle on, limits, and the columns of the continuum; returns the pixels' median distance, km/s. */
static double set_up(struct fit *f, const struct spd_lines *lines) {
  double sum = 0;
  for (size_t i = 0; i < f->n; i++) sum += f->x[i];
  f->middle = sum / (double)f->n;
  for (size_t i = 0; i + 1 < f->n; i++) f->residual[i] = f->x[i + 1] - f->x[i];
  const double pixel = spd_median(f->residual, f->n - 1) / f->middle * LIGHT_SPEED, least = fmax(10, 0.3 * pixel);
  f->lower[VELOCITY] = -lines->velocity_max, f->upper[VELOCITY] = lines->velocity_max;
  f->lower[SIGMA] = least, f->upper[SIGMA] = fmax(lines->sigma_max, 2 * least);
  for (size_t i = 0; i < f->n; i++) {
    f->x[i] -= f->middle;
    f->columns[i] = f->w[i];
    f->columns[f->n + i] = f->w[i] * f->x[i];
  }
  f->size = dot(f->y, f->y, f->n);
  factorise_row(f, 0);
  factorise_row(f, 1);
  return pixel;
}

/* Has line k of the fit a valid pixel within three widths? If not, its flux is that of tails: any number. */
static int is_seen(const struct fit *f, size_t k) {
  const double *t = f->t + k * f->n;
  int near = 0;
  for (size_t i = 0; i < f->n; i++) near += fabs(t[i]) <= 3;
  return near > 0;
}

/* Line k of the fit; is_known: the covariance is */
static void store_line(struct spd_line *out, const struct fit *f, size_t k, int is_known) {
  const size_t j = 2 + k;
  const double away = f->centre[k] - f->middle, flux = f->beta[j], continuum = f->beta[0] + f->beta[1] * away;
  out->flux = flux, out->continuum = continuum, out->ew = flux / continuum;
  if (!is_known) return;
  const size_t of[3] = {0, 1, j};
  const double change[3] = {-flux / (continuum * continuum), -flux / (continuum * continuum) * away, 1 / continuum};
  double variance = 0;
  for (int a = 0; a < 3; a++)
    for (int b = 0; b < 3; b++) variance += change[a] * change[b] * f->covariance[of[a] * f->width + of[b]];
  out->flux_err = sqrt(variance_of(f, j));
  out->ew_err = sqrt(variance < 0 ? 0 : variance);
}

/* Lines first ... first + count - 1, which are a group */
static void measure_group(struct spd_line *out, struct fit *f, const struct spd_lines *lines, const struct spd_lines_spectrum *s,
                          size_t first, size_t count) {
  const double *centre = lines->centre + first;
  double kept[2] = {NAN, NAN}, p[2];
  int moving[2];
  size_t n_moving = 0;
  take_pixels(f, lines, s, centre[0] - lines->window, centre[count - 1] + lines->window);
  f->k = 0;
  for (size_t k = 0; k < count; k++) {
    out[k] = NOT_MEASURED;
    out[k].pixels = f->n;
    if (is_covered(f, centre[k])) f->centre[f->k++] = centre[k];
  }
  for (size_t k = 0; s->sigma && k < count && isnan(kept[SIGMA]); k++)
    kept[VELOCITY] = s->velocity[first + k], kept[SIGMA] = s->sigma[first + k];
  if (f->k == 0 || f->n < f->k + 6 || (s->sigma && (isnan(kept[SIGMA]) || isnan(kept[VELOCITY])))) return;
  f->m = f->k + 2;
  f->width = f->k + 4;
  const double pixel = set_up(f, lines);
  memcpy(p, kept, sizeof p);
  const double deviance = s->sigma ? evaluate(f, p) : find_best(p, f, pixel);
  for (int j = 0; j < 2 && !s->sigma; j++)
    if (p[j] > f->lower[j] && p[j] < f->upper[j]) moving[n_moving++] = j;
  const int is_known = s->ivar || s->changes, is_full = is_known && find_full_covariance(f, p, moving, n_moving, s);
  if (is_known && !is_full) find_covariance(f, f->m, s);
  const double chi2 = s->ivar ? deviance / (f->n > f->m + 2 ? (double)(f->n - f->m - 2) : 1) : NAN;
  for (size_t k = 0, of = 0; k < count; k++) {
    out[k].chi2 = chi2;
    if (of == f->k || f->centre[of] != centre[k]) continue;
    const size_t j = 2 + of++;
    if (!is_seen(f, of - 1)) continue;
    out[k].velocity = p[VELOCITY], out[k].sigma = p[SIGMA];
    store_line(&out[k], f, of - 1, is_known);
    if (is_known && of < f->k && f->centre[of] == centre[k + 1]) out[k].flux_with_next = f->covariance[j * f->width + j + 1];
    for (size_t a = 0; is_full && a < n_moving; a++)
      *(moving[a] == SIGMA ? &out[k].sigma_err : &out[k].velocity_err) = sqrt(variance_of(f, f->m + a));
  }
}

size_t spd_lines_work(const struct spd_lines *lines) {
  const size_t width = lines->n_lines + 4;
  return lines->n_lines + (5 + width + lines->n_lines) * lines->n_observed + width * (2 * width + 3);
}

void spd_lines_measure(struct spd_line *out, const struct spd_lines *lines, const struct spd_lines_spectrum *spectrum, double *work) {
  const size_t m = lines->n_observed, width = lines->n_lines + 4;
  struct fit f = {.n_observed = m, .centre = work, .pixel = work + lines->n_lines};
  f.x = f.pixel + m, f.w = f.x + m, f.y = f.w + m, f.residual = f.y + m, f.columns = f.residual + m;
  f.t = f.columns + width * m, f.factor = f.t + lines->n_lines * m, f.covariance = f.factor + width * width;
  f.beta = f.covariance + width * width, f.spare = f.beta + width;
  for (size_t first = 0, count; first < lines->n_lines; first += count) {
    count = 1;
    while (first + count < lines->n_lines && !(lines->centre[first + count] - lines->centre[first + count - 1] > lines->gap)) count++;
    measure_group(out + first, &f, lines, spectrum, first, count);
  }
}

/* ---- doublets ---- */

double spd_lines_dip(const double centre[2], const double flux[2], double sigma) {
  enum { STEPS = 2000 };
  if (!(flux[0] > 0) || !(flux[1] > 0) || !(sigma > 0)) return NAN;
  const double s[2] = {centre[0] * sigma / LIGHT_SPEED, centre[1] * sigma / LIGHT_SPEED};
  const double from = centre[0] - 3 * s[0], step = (centre[1] + 3 * s[1] - from) / STEPS;
  double sum[STEPS + 1];
  for (int i = 0; i <= STEPS; i++) {
    const double x = from + step * i, t[2] = {(x - centre[0]) / s[0], (x - centre[1]) / s[1]};
    sum[i] = flux[0] / s[0] * exp_negative(-0.5 * t[0] * t[0]) + flux[1] / s[1] * exp_negative(-0.5 * t[1] * t[1]);
  }
  int first = 0, last = 0;
  for (int i = 1; i < STEPS; i++)
    if (sum[i] > sum[i - 1] && sum[i] > sum[i + 1]) first = first ? first : i, last = i;
  if (first == last) return 0;
  double least = sum[first];
  for (int i = first; i <= last; i++) least = fmin(least, sum[i]);
  return 1 - least / fmin(sum[first], sum[last]);
}
