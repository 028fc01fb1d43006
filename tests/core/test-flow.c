/* Flows: log densities against plain loops in double precision, gradients against their finite differences, samples against the densities,
 * and the same bits for any number of threads. */
#include "check.h"
#include "core/rng.h"
#include "density/flow.h"

enum { MOST = 12, UNITS = 24 }; /* features and conditions; hidden units */

/* ---- a flow with everything at random ---- */

struct small {
  struct spd_flow flow;
  size_t size;
  float *parameters;
  uint32_t order[8 * MOST];
  double centre[2 * MOST], scale[2 * MOST], tail[2 * MOST];
};

static void start(struct small *small, spd_flow_type type, size_t features, size_t conditions, size_t layers, size_t hidden, size_t depth) {
  memset(small, 0, sizeof *small);
  small->flow = (struct spd_flow){.type = type,
                                  .features = features,
                                  .conditions = conditions,
                                  .layers = layers,
                                  .hidden = hidden,
                                  .depth = depth,
                                  .bins = type == SPD_FLOW_SPLINE ? 5 : 0,
                                  .bound = 2.5f,
                                  .order = small->order,
                                  .centre = small->centre,
                                  .scale = small->scale,
                                  .tail = small->tail};
  small->size = spd_flow_size(&small->flow);
  small->parameters = malloc(small->size * sizeof(float));
  small->flow.parameters = small->parameters;
  MUST(spd_flow_start(small->parameters, small->order, &small->flow, 5, error));
  for (size_t i = 0; i < small->size; i++) /* far from the identity; masked weights stay 0 */
    if (small->parameters[i] != 0) small->parameters[i] += 0.8f * (2 * spd_uniform(3, 1, i) - 1);
  for (size_t j = 0; j < conditions + features; j++)
    small->centre[j] = 0.1 * (double)j, small->scale[j] = 1 + 0.2 * (double)j, small->tail[j] = j % 3 == 1 ? 0.7 : 0;
  MUST(spd_flow_check(&small->flow, error));
}

static void normals(double *x, size_t n, uint64_t stream) {
  struct spd_random random = spd_random_start(1, stream, 0);
  spd_random_normals(x, n, &random);
  for (size_t i = 0; i < n; i++) x[i] *= 1.5; /* some are beyond the splines */
}

/* ---- the same in plain loops ---- */

static double softplus(double x) { return x > 0 ? x + log1p(exp(-x)) : log1p(exp(x)); }

static double spline(double *slope, double x, const double *raw, size_t bins, double bound) {
  *slope = 0;
  if (fabs(x) > bound) return x;
  double sums[2] = {0, 0}, left = -bound, low = -bound;
  for (size_t k = 0; k < 2 * bins; k++) sums[k / bins] += exp(raw[k]);
  for (size_t k = 0;; k++) {
    const double w = 2 * bound * (1e-3 + (1 - 1e-3 * (double)bins) * exp(raw[k]) / sums[0]);
    const double h = 2 * bound * (1e-3 + (1 - 1e-3 * (double)bins) * exp(raw[bins + k]) / sums[1]);
    if (x > left + w && k + 1 < bins) {
      left += w, low += h;
      continue;
    }
    const double d0 = k == 0 ? 1 : 1e-3 + softplus(raw[2 * bins + k - 1]), d1 = k + 1 == bins ? 1 : 1e-3 + softplus(raw[2 * bins + k]);
    const double s = h / w, u = (x - left) / w, below = s + (d0 + d1 - 2 * s) * u * (1 - u);
    *slope = log(s * s * (d1 * u * u + 2 * s * u * (1 - u) + d0 * (1 - u) * (1 - u)) / (below * below));
    return low + h * (s * u * u + d0 * u * (1 - u)) / below;
  }
}

/* Degrees of the hidden units, in order */
static void hidden_degrees(int *degrees, const struct spd_flow *f) {
  const int lowest = f->conditions || f->features == 1 ? 0 : 1, count = (int)f->features - lowest;
  size_t at = 0;
  for (int d = 0; d < count; d++)
    for (size_t h = 0; h < f->hidden; h++)
      if ((int)h % count == d) degrees[at++] = lowest + d;
}

static double plain_log_p(const struct spd_flow *f, const double *p, const double *x, const double *conditions, size_t n, size_t row) {
  const size_t s = f->features, c = f->conditions, width = f->type == SPD_FLOW_SPLINE ? 3 * f->bins - 1 : 2;
  int degrees[UNITS], input_degrees[2 * MOST];
  double input[2 * MOST], mapped[MOST], units[2][UNITS], raw[3 * SPD_FLOW_MOST_BINS], log_p = 0;
  hidden_degrees(degrees, f);
  for (size_t j = 0; j < c + s; j++) {
    const double t = ((j < c ? conditions[j * n + row] : x[(j - c) * n + row]) - f->centre[j]) / f->scale[j];
    input_degrees[j] = j < c ? 0 : (int)(j - c) + 1;
    input[j] = f->tail[j] > 0 ? f->tail[j] * asinh(t) : t;
    if (j >= c) log_p += f->tail[j] > 0 ? log(f->tail[j] / f->scale[j] / sqrt(1 + t * t)) : -log(f->scale[j]);
  }
  for (size_t l = 0; l < f->layers; l++) {
    const double *from = input;
    const int *from_degrees = input_degrees;
    size_t n_from = c + s;
    for (size_t i = 0; i < f->depth; i++, p += f->hidden * (n_from + 1), n_from = f->hidden) {
      for (size_t h = 0; h < f->hidden; h++) {
        double sum = p[f->hidden * n_from + h];
        for (size_t k = 0; k < n_from; k++)
          if (degrees[h] >= from_degrees[k]) sum += p[h * n_from + k] * from[k];
        units[i % 2][h] = tanh(sum);
      }
      from = units[i % 2], from_degrees = degrees;
    }
    for (size_t j = 0; j < s; j++) {
      for (size_t q = 0; q < width; q++) {
        const size_t o = j * width + q;
        raw[q] = p[s * width * f->hidden + o];
        for (size_t h = 0; h < f->hidden; h++)
          if ((int)j + 1 > degrees[h]) raw[q] += p[o * f->hidden + h] * from[h];
      }
      double slope;
      if (f->type == SPD_FLOW_SPLINE) {
        mapped[j] = spline(&slope, input[c + j], raw, f->bins, f->bound);
      } else {
        const double scale = softplus(raw[0]) + 1e-3;
        mapped[j] = scale * input[c + j] + raw[1], slope = log(scale);
      }
      log_p += slope;
    }
    p += s * width * (f->hidden + 1);
    for (size_t j = 0; j < s; j++) input[c + j] = mapped[f->order[l * s + j]];
  }
  for (size_t j = 0; j < s; j++) log_p -= 0.5 * input[c + j] * input[c + j] + 0.91893853320467274178;
  return log_p;
}

/* ---- tests ---- */

static void test_flow(spd_flow_type type, size_t features, size_t conditions, size_t layers, size_t depth) {
  enum { ROWS = 150 };
  struct small small;
  static double x[ROWS * MOST], given[ROWS * MOST], log_p[ROWS], again[ROWS], terms[ROWS * 10];
  start(&small, type, features, conditions, layers, 11, depth);
  normals(x, ROWS * features, 7);
  normals(given, ROWS * conditions, 8);
  MUST(spd_flow_density(log_p, terms, &small.flow, x, given, ROWS, 0, ROWS, 1, error));
  double *p = malloc(small.size * sizeof *p);
  for (size_t i = 0; i < small.size; i++) p[i] = (double)small.parameters[i];

  for (size_t r = 0; r < ROWS; r++) {
    const double want = plain_log_p(&small.flow, p, x, given, ROWS, r);
    double sum = 0;
    for (size_t t = 0; t < layers + 2; t++) sum += terms[t * ROWS + r];
    CHECK(fabs(log_p[r] - want) <= 2e-5 + 2e-6 * fabs(want), "type %d, %zu features: log p of row %zu is %.7g, not %.7g", (int)type,
          features, r, log_p[r], want);
    CHECK(fabs(sum - log_p[r]) < 1e-9 * (1 + fabs(sum)), "terms add up to %g, not %g", sum, log_p[r]);
  }
  MUST(spd_flow_density(again, NULL, &small.flow, x, given, ROWS, 0, ROWS, 3, error));
  CHECK(memcmp(log_p, again, sizeof log_p) == 0, "three threads have other densities than one");

  /* the gradient of some of the parameters */
  double loss, other;
  float *gradient = malloc(small.size * sizeof *gradient), *threaded = malloc(small.size * sizeof *threaded);
  MUST(spd_flow_gradient(&loss, gradient, &small.flow, x, given, ROWS, 1, error));
  MUST(spd_flow_gradient(&other, threaded, &small.flow, x, given, ROWS, 3, error));
  CHECK(loss == other && memcmp(gradient, threaded, small.size * sizeof *gradient) == 0, "three threads have another gradient than one");
  for (size_t i = 0; i < small.size; i += 1 + small.size / 300) {
    const double keep = p[i], step = 1e-5;
    double difference = 0;
    for (int sign = -1; sign <= 1; sign += 2) {
      p[i] = keep + sign * step;
      for (size_t r = 0; r < ROWS; r++) difference -= sign * plain_log_p(&small.flow, p, x, given, ROWS, r) / ROWS;
    }
    p[i] = keep;
    const double want = difference / (2 * step);
    CHECK(fabs((double)gradient[i] - want) <= 2e-5 + 1e-4 * fabs(want), "type %d, %zu features, parameter %zu: gradient %.7g, not %.7g",
          (int)type, features, i, (double)gradient[i], want);
  }

  /* samples: the flow takes them back to the normal numbers that they were made from, whose density is the first term */
  static double sample[ROWS * MOST], part[ROWS * MOST];
  MUST(spd_flow_sample(sample, &small.flow, given, ROWS, 0, ROWS, 4, 1, error));
  MUST(spd_flow_density(log_p, terms, &small.flow, sample, given, ROWS, 0, ROWS, 1, error));
  for (size_t r = 0; r < ROWS; r++) {
    double drawn[MOST], want = -0.91893853320467274178 * (double)features;
    struct spd_random random = spd_random_start(4, 0xf12, r);
    spd_random_normals(drawn, features, &random);
    for (size_t j = 0; j < features; j++) want -= 0.5 * drawn[j] * drawn[j];
    CHECK(fabs(terms[r] - want) < 2e-3 * (1 - want), "type %d: sample %zu goes back to log density %g, not %g", (int)type, r, terms[r],
          want);
  }
  MUST(spd_flow_sample(part, &small.flow, given, ROWS, 0, ROWS, 4, 2, error));
  CHECK(memcmp(sample, part, ROWS * features * sizeof *sample) == 0, "two threads have other samples than one");
  free(threaded), free(gradient), free(p), free(small.parameters);
}

/* log p of far and infinite values is finite or -Inf, never NaN */
static void test_far_values(void) {
  struct small small;
  const double x[] = {0, 1e10, 1e300, INFINITY, 0, 0, 1, -1e300};
  double log_p[4];
  for (int type = 0; type < 2; type++) {
    start(&small, (spd_flow_type)type, 2, 0, 2, 8, 2);
    MUST(spd_flow_density(log_p, NULL, &small.flow, x, NULL, 4, 0, 4, 1, error));
    for (int r = 0; r < 4; r++) CHECK(!isnan(log_p[r]), "log p of far row %d is NaN", r);
    CHECK(log_p[1] < log_p[0] && log_p[2] < log_p[0] && log_p[3] < log_p[0], "far rows are not less probable");
    free(small.parameters);
  }
}

/* A fit finds a correlated normal density, with the same bits for any number of threads. */
static void test_fit(void) {
  enum { ROWS = 1000 };
  static double x[2 * ROWS], log_p[ROWS];
  struct small small;
  normals(x, 2 * ROWS, 9);
  for (size_t r = 0; r < ROWS; r++) x[r] /= 1.5, x[ROWS + r] = 0.9 * x[r] + sqrt(1 - 0.81) * x[ROWS + r] / 1.5;
  uint64_t rows[ROWS];
  for (size_t r = 0; r < ROWS; r++) rows[r] = r;
  float *first = NULL;
  for (int threads = 1; threads <= 3; threads += 2) {
    memset(&small, 0, sizeof small);
    start(&small, SPD_FLOW_SPLINE, 2, 0, 2, 8, 1);
    MUST(spd_flow_start(small.parameters, small.order, &small.flow, 2, error));
    for (size_t j = 0; j < 2; j++) small.centre[j] = 0, small.scale[j] = 1, small.tail[j] = 0;
    const struct spd_flow_options options = {.batch_size = 250, .rate = 1e-2, .total_steps = 160, .seed = 3, .threads = threads};
    struct spd_flow_fit *fit;
    struct spd_flow_progress progress = {0};
    MUST(spd_flow_fit_create(&fit, &small.flow, x, NULL, ROWS, rows, ROWS, &options, error));
    while (progress.epoch < 40) spd_flow_fit_advance(fit, 0, &progress);
    CHECK(progress.step == 160, "40 epochs have %d steps", (int)progress.step);
    const float *parameters = spd_flow_fit_parameters(fit);
    if (first)
      CHECK(memcmp(first, parameters, small.size * sizeof *first) == 0, "three threads fit another flow than one");
    else
      memcpy(first = malloc(small.size * sizeof *first), parameters, small.size * sizeof *first);
    small.flow.parameters = first;
    MUST(spd_flow_density(log_p, NULL, &small.flow, x, NULL, ROWS, 0, ROWS, 1, error));
    double mean = 0, truth = 0;
    for (size_t r = 0; r < ROWS; r++) {
      const double u = x[r], v = (x[ROWS + r] - 0.9 * u) / sqrt(1 - 0.81);
      mean += log_p[r] / ROWS;
      truth -= (0.5 * (u * u + v * v) + 0.5 * log(1 - 0.81) + 2 * 0.91893853320467274178) / ROWS;
    }
    CHECK(fabs(mean - truth) < 0.06, "mean log p is %g, not %g", mean, truth);
    spd_flow_fit_destroy(fit);
    free(small.parameters);
  }
  free(first);
}

static void test_shapes_are_checked(void) {
  struct spd_error error;
  struct small small;
  start(&small, SPD_FLOW_SPLINE, 3, 0, 2, 4, 1);
  struct spd_flow wrong = small.flow;
  wrong.hidden = 0;
  CHECK(spd_flow_check(&wrong, &error) == SPD_STATUS_INVALID, "no hidden units");
  wrong = small.flow, wrong.bins = 100;
  CHECK(spd_flow_check(&wrong, &error) == SPD_STATUS_INVALID, "100 bins");
  small.order[1] = small.order[0];
  CHECK(spd_flow_check(&small.flow, &error) == SPD_STATUS_INVALID, "an order that is no permutation");
  small.order[1] = 1, small.scale[2] = 0;
  CHECK(spd_flow_check(&small.flow, &error) == SPD_STATUS_INVALID, "a scale of 0");
  free(small.parameters);
}

int main(void) {
  for (int type = 0; type < 2; type++) {
    test_flow((spd_flow_type)type, 4, 0, 3, 2);
    test_flow((spd_flow_type)type, 3, 2, 2, 3);
    test_flow((spd_flow_type)type, 1, 1, 2, 1);
    test_flow((spd_flow_type)type, 1, 0, 2, 1);
    test_flow((spd_flow_type)type, 12, 0, 2, 2);
  }
  test_far_values();
  test_fit();
  test_shapes_are_checked();
  return check_end();
}
