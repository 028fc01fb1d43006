/* Every stage of the network through the backend's table against its float64 vectors. */
#include "data/band.h"
#include "long-blocks.h"
#include "stage-buffers.h"

static struct spd_stem stem_of(const struct vector_case *c, size_t n) {
  size_t kernel = vectors_size(c, "kernel"), channels = vectors_size(c, "channels"), pool = vectors_size(c, "pool");
  size_t length = vectors_size(c, "length"), pooled = vectors_find(c, "y")->count / n / channels;
  struct spd_stem s = {.length = length, .kernel = kernel, .pool = pool};
  s.out = spd_rows_for_kernel(pooled, channels, vectors_size(c, "next_kernel"));
  s.w = new_floats(vectors_array(c, "w"), kernel * channels);
  s.slope = new_floats(vectors_array(c, "slope"), channels);
  s.x = new_floats(vectors_array(c, "x"), n * length);
  s.moments = new_bytes(n * kernel * (kernel + 1) * sizeof(double));
  s.scaled = new_floats(NULL, n * (kernel + 1) * channels);
  s.y = new_rows(NULL, &s.out, n, 1);
  s.dy = new_rows(vectors_array(c, "dy"), &s.out, n, 64);
  s.dw = new_floats(NULL, kernel * channels);
  s.dslope = new_floats(NULL, channels);
  s.partial = new_floats(NULL, spd_stem_partial_size(&s, n));
  if (backend->keeps_winners) s.winner = new_bytes(n * pooled * channels);
  return s;
}

static void test_stem(const struct vector_case *c) {
  size_t n = vectors_size(c, "n");
  struct spd_stem s = stem_of(c, n);
  uint8_t *const winner = s.winner;
  s.winner = NULL; /* no backward follows */
  OPS(stem_forward, &s, n);
  check_rows(c, "y", s.y, &s.out, n, GAPS_ZERO, "stem");
  s.winner = winner;
  s.y = new_rows(NULL, &s.out, n, 1);
  OPS(stem_forward, &s, n);
  check_rows(c, "y", s.y, &s.out, n, GAPS_ZERO, "stem");
  OPS(stem_backward, &s, n);
  check_floats(c, "dw", s.dw, "stem gradient");
  check_floats(c, "dslope", s.dslope, "stem gradient");
  /* again: nothing accumulates */
  OPS(stem_forward, &s, n);
  OPS(stem_backward, &s, n);
  check_floats(c, "dw", s.dw, "stem gradient");
}

static void test_block(const struct vector_case *c) {
  size_t n = vectors_size(c, "n"), kernel = vectors_size(c, "kernel"), pool = vectors_size(c, "pool");
  size_t in = vectors_size(c, "channels_in"), out = vectors_size(c, "channels"), length = vectors_size(c, "length");
  size_t pooled = vectors_find(c, "y")->count / n / out;
  struct spd_block b = {.kernel = kernel, .pool = pool};
  b.in = spd_rows_for_kernel(length, in, kernel);
  b.conv = spd_rows_for_kernel(length, out, kernel);
  b.out = spd_rows_for_kernel(pooled, out, vectors_size(c, "next_kernel"));
  b.w = new_floats(vectors_array(c, "w"), kernel * in * out);
  b.slope = new_floats(vectors_array(c, "slope"), out);
  b.x = new_rows(vectors_array(c, "x"), &b.in, n, 1);
  b.u = new_rows(NULL, &b.conv, n, 1);
  b.mean = new_floats(NULL, n * out);
  b.inverse_sd = new_floats(NULL, n * out);
  b.y = new_rows(NULL, &b.out, n, 1);

  b.argmax = NULL; /* no backward follows */
  OPS(block_forward, &b, n);
  check_rows(c, "y", b.y, &b.out, n, GAPS_ZERO, "block");

  b.argmax = pool > 1 ? new_bytes(n * pooled * out * sizeof(uint16_t)) : NULL;
  b.y = new_rows(NULL, &b.out, n, 1);
  b.dy = new_rows(vectors_array(c, "dy"), &b.out, n, 0.25f);
  b.dx = new_rows(NULL, &b.in, n, 1);
  b.dw = new_floats(NULL, kernel * in * out);
  b.dslope = new_floats(NULL, out);
  b.partial = new_floats(NULL, n * out);
  for (int again = 0; again < 2; again++) {
    OPS(block_forward, &b, n);
    check_rows(c, "y", b.y, &b.out, n, GAPS_ZERO, "block");
    OPS(block_backward, &b, n);
    check_rows(c, "dx", b.dx, &b.in, n, GAPS_ANYTHING, "block gradient");
    check_floats(c, "dw", b.dw, "block gradient");
    check_floats(c, "dslope", b.dslope, "block gradient");
  }
  b.dx.at = NULL; /* gradients that are not wanted */
  b.dw = new_floats(NULL, kernel * in * out);
  OPS(block_forward, &b, n);
  OPS(block_backward, &b, n);
  check_floats(c, "dw", b.dw, "block gradient");
}

/* Tiles of 96 values or less with ends at, before and behind theirs; as long as the paper's blocks, and as DESI's */
static void test_long_blocks(void) {
  static const struct {
    const char *name;
    size_t n, length, kernel, pool, in, out;
  } blocks[] = {{"one tile, short", 3, 40, 21, 1, 3, 4}, {"one tile, full", 2, 86, 11, 1, 3, 4},
                {"one value more", 2, 87, 11, 1, 3, 4},  {"last block", 3, 72, 21, 1, 5, 4},
                {"middle block", 2, 785, 11, 11, 3, 4},  {"middle block, no pool", 2, 785, 11, 1, 2, 3},
                {"six tiles", 1, 516, 11, 1, 2, 3},      {"DESI", 1, 1557, 11, 11, 2, 3},
                {"long kernel", 2, 130, 47, 1, 2, 3},    {"many spectra", 7, 100, 11, 1, 2, 34}};
  for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++) {
    if (tolerance_precision && blocks[i].pool > 1) continue; /* where two values are close, a rounding decides which wins */
    struct vector_case c = long_block(blocks[i].name, blocks[i].n, blocks[i].length, blocks[i].kernel, blocks[i].pool, blocks[i].in,
                                      blocks[i].out, blocks[i].pool == 1);
    test_block(&c);
    free_all();
    long_block_free(&c);
  }
}

static void test_attend(const struct vector_case *c) {
  size_t n = vectors_size(c, "n"), length = vectors_size(c, "length"), channels = vectors_size(c, "channels");
  size_t stride = vectors_size(c, "feature_stride"), size = n * length * channels;
  const double *gate = vectors_array(c, "gate");
  struct spd_attend a = {.length = length, .channels = channels, .feature_stride = stride};
  a.segments = new_elements(vectors_array(c, "v"), 2 * size);
  if (gate) a.gate = new_elements(gate, size), a.dgate = new_elements(NULL, size);
  a.z = new_floats(vectors_array(c, "z"), n);
  a.attention = new_floats(NULL, size);
  a.feature = new_floats(NULL, n * stride);
  a.dfeature = new_floats(vectors_array(c, "dfeature"), n * stride);
  a.dattention = new_floats(NULL, size);
  a.dsegments = new_elements(NULL, 2 * size);
  OPS(attend_forward, &a, n);
  check_floats(c, "attention", a.attention, "attend");
  check_floats(c, "feature", a.feature, "attend");
  for (int with_attention = 1; with_attention >= 0; with_attention--) {
    if (!with_attention) a.dattention = NULL, a.dsegments = new_elements(NULL, 2 * size);
    OPS(attend_backward, &a, n);
    if (with_attention) check_floats(c, "dattention", a.dattention, "attend gradient");
    check_elements(c, "dv", a.dsegments, "attend gradient");
    if (gate) check_elements(c, "dgate", a.dgate, "attend gradient");
  }
}

static void test_dense(const struct vector_case *c) {
  size_t n = vectors_size(c, "n"), in = vectors_size(c, "in"), out = vectors_size(c, "out");
  struct spd_dense d = {
      .in = in, .out = out, .activation = (spd_activation)vectors_size(c, "activation"), .offset = (float)vectors_number(c, "offset")};
  d.w = new_floats(vectors_array(c, "w"), out * in);
  d.b = new_floats(vectors_array(c, "b"), out);
  int prelu = d.activation == SPD_ACTIVATION_PRELU, speculator = d.activation == SPD_ACTIVATION_SPECULATOR;
  if (prelu) d.slope = new_floats(vectors_array(c, "slope"), out), d.dslope = new_floats(NULL, out);
  if (speculator) {
    d.beta = new_floats(vectors_array(c, "beta"), out), d.dbeta = new_floats(NULL, out);
    d.gamma = new_floats(vectors_array(c, "gamma"), out), d.dgamma = new_floats(NULL, out);
  }
  d.x = new_floats(vectors_array(c, "x"), n * in);
  d.y = new_floats(NULL, n * out);
  d.v = d.y; /* where no backward follows */
  OPS(dense_forward, &d, n);
  check_floats(c, "y", d.y, "dense");

  d.v = new_floats(NULL, n * out);
  d.dw = new_floats(NULL, out * in);
  d.db = new_floats(NULL, out);
  d.dx = new_floats(NULL, n * in);
  d.dy = new_floats(vectors_array(c, "dy"), n * out);
  OPS(dense_forward, &d, n);
  check_floats(c, "y", d.y, "dense");
  check_floats(c, "v", d.v, "dense");
  OPS(dense_backward, &d, n);
  check_floats(c, "dx", d.dx, "dense gradient");
  check_floats(c, "dw", d.dw, "dense gradient");
  check_floats(c, "db", d.db, "dense gradient");
  if (prelu) check_floats(c, "dslope", d.dslope, "dense gradient");
  if (speculator) {
    check_floats(c, "dbeta", d.dbeta, "dense gradient");
    check_floats(c, "dgamma", d.dgamma, "dense gradient");
  }

  d.dy = new_floats(vectors_array(c, "dy"), n * out); /* only the input's gradient is wanted */
  d.dw = d.db = d.dslope = d.dbeta = d.dgamma = NULL;
  d.dx = new_floats(NULL, n * in);
  OPS(dense_backward, &d, n);
  check_floats(c, "dx", d.dx, "dense gradient");
  d.dy = new_floats(vectors_array(c, "dy"), n * out); /* only the parameters' */
  d.dw = new_floats(NULL, out * in);
  d.db = new_floats(NULL, out);
  d.dx = NULL;
  OPS(dense_backward, &d, n);
  check_floats(c, "dw", d.dw, "dense gradient");
}

static void test_resample(const struct vector_case *c) {
  size_t n = vectors_size(c, "n"), rest = vectors_size(c, "n_rest"), m = vectors_size(c, "n_observed");
  struct spd_resample r = {.n_rest = rest, .n_observed = m};
  r.wave_rest = new_floats(vectors_array(c, "wave_rest"), rest);
  r.wave_observed = new_floats(vectors_array(c, "wave_observed"), m);
  r.z = new_floats(vectors_array(c, "z"), n);
  r.x = new_floats(vectors_array(c, "x"), n * rest);
  r.y = new_floats(NULL, n * m);
  r.dy = new_floats(vectors_array(c, "dy"), n * m);
  r.dx = new_floats(NULL, n * rest);
  r.dz = new_bytes(n * sizeof(double));
  OPS(resample_forward, &r, n);
  check_floats(c, "y", r.y, "resample");
  OPS(resample_backward, &r, n);
  check_floats(c, "dx", r.dx, "resample gradient");
  check_doubles_of(c, "dz", r.dz, "redshift gradient");
  r.dx = new_floats(NULL, n * rest);
  r.dz = NULL;
  OPS(resample_backward, &r, n);
  check_floats(c, "dx", r.dx, "resample gradient");
  r.dx = NULL;
  r.dz = new_bytes(n * sizeof(double));
  OPS(resample_backward, &r, n);
  check_doubles_of(c, "dz", r.dz, "redshift gradient");
}

static void test_lsf(const struct vector_case *c) {
  size_t n = vectors_size(c, "n"), m = vectors_size(c, "n_observed"), size = vectors_size(c, "size");
  struct spd_lsf l = {.n_observed = m, .size = size};
  l.kernel = new_floats(vectors_array(c, "kernel"), size);
  l.x = new_floats(vectors_array(c, "x"), n * m);
  l.y = new_floats(NULL, n * m);
  l.dy = new_floats(vectors_array(c, "dy"), n * m);
  l.dx = new_floats(NULL, n * m);
  l.dkernel = new_floats(NULL, size);
  l.partial = new_bytes(n * size * sizeof(double));
  OPS(lsf_forward, &l, n);
  check_floats(c, "y", l.y, "lsf");
  for (int again = 0; again < 2; again++) {
    OPS(lsf_backward, &l, n);
    check_floats(c, "dx", l.dx, "lsf gradient");
    check_floats(c, "dkernel", l.dkernel, "lsf gradient");
  }
  l.dkernel = NULL;
  l.dx = new_floats(NULL, n * m);
  OPS(lsf_backward, &l, n);
  check_floats(c, "dx", l.dx, "lsf gradient");
}

static void test_resolution(const struct vector_case *c) {
  size_t n = vectors_size(c, "n"), m = vectors_size(c, "n_observed"), size = vectors_size(c, "size"), share = vectors_size(c, "share");
  size_t step = vectors_size(c, "step"), n_knots = spd_band_knots(step, m);
  struct spd_resolution r = {.n_observed = m, .size = size, .n_knots = n_knots, .share = share};
  uint32_t *left = check_alloc(m * sizeof *left), *there = new_bytes(m * sizeof *left);
  float *part = check_alloc(m * sizeof *part), *parts = new_bytes(m * sizeof *part);
  for (size_t i = 0; i < m; i++) spd_band_place(&left[i], &part[i], i, step, m);
  MUST(backend->ops->upload(backend, there, left, m * sizeof *left, error));
  MUST(backend->ops->upload(backend, parts, part, m * sizeof *part, error));
  r.left = there, r.part = parts;
  r.band = new_floats(vectors_array(c, "band"), n / share * n_knots * size);
  r.x = new_floats(vectors_array(c, "x"), n * m);
  r.y = new_floats(NULL, n * m);
  r.dy = new_floats(vectors_array(c, "dy"), n * m);
  r.dx = new_floats(NULL, n * m);
  OPS(resolution_forward, &r, n);
  check_floats(c, "y", r.y, "resolution");
  for (int again = 0; again < 2; again++) {
    OPS(resolution_backward, &r, n);
    check_floats(c, "dx", r.dx, "resolution gradient");
  }
  free(left), free(part);
}

/* Gaussians in double, and a deviation of 0: all in one pixel */
static void test_gaussians(void) {
  enum { COUNT = 300, SIZE = 13 };
  double sigma[COUNT], want[COUNT * SIZE];
  for (int i = 0; i < COUNT; i++) {
    double sum = 0;
    sigma[i] = (double)(float)(i == 0 ? 0 : 0.1 + 0.01 * i);
    for (int k = 0; k < SIZE; k++)
      sum += want[i * SIZE + k] = k == SIZE / 2 ? 1 : exp(-0.5 * pow((k - SIZE / 2) / fmax(sigma[i], 1e-9), 2));
    for (int k = 0; k < SIZE; k++) want[i * SIZE + k] /= sum;
  }
  float *band = new_floats(NULL, COUNT * SIZE), *from = new_floats(sigma, COUNT);
  OPS(gaussians, band, from, SIZE, COUNT);
  double *got = download(band, COUNT * SIZE);
  CHECK_CLOSE("gaussians", got, want, COUNT * SIZE, tolerance_for("resolution"));
  free(got);
  free_all();
}

static void test_loss(const struct vector_case *c) {
  size_t n = vectors_size(c, "n"), rest = vectors_size(c, "n_rest"), m = vectors_size(c, "n_observed");
  struct spd_loss l = {.n_rest = rest, .n_observed = m, .lsf = vectors_size(c, "lsf")};
  l.wave_rest = new_floats(vectors_array(c, "wave_rest"), rest);
  l.wave_observed = new_floats(vectors_array(c, "wave_observed"), m);
  l.z = new_floats(vectors_array(c, "z"), n);
  l.flux = new_floats(vectors_array(c, "flux"), n * m);
  l.ivar = new_floats(vectors_array(c, "ivar"), n * m);
  l.model = new_floats(vectors_array(c, "model"), n * m);
  l.loss = new_bytes(n * sizeof(double));
  l.dmodel = new_floats(NULL, n * m);
  OPS(loss_forward, &l, n);
  check_doubles_of(c, "loss", l.loss, "loss");
  OPS(loss_backward, &l, n);
  check_floats(c, "dmodel", l.dmodel, "loss gradient");
}

static void test_calibrate(const struct vector_case *c) {
  size_t n = vectors_size(c, "n"), rest = vectors_size(c, "n_rest"), m = vectors_size(c, "n_observed"), terms = vectors_size(c, "terms");
  struct spd_calibrate s = {.n_rest = rest, .n_observed = m, .lsf = vectors_size(c, "lsf"), .calibration.terms = terms};
  const double *sd = vectors_array(c, "sd");
  for (size_t k = 0; k < terms; k++) s.calibration.precision[k] = 1 / (sd[k] * sd[k]);
  s.wave_rest = new_floats(vectors_array(c, "wave_rest"), rest);
  s.wave_observed = new_floats(vectors_array(c, "wave_observed"), m);
  s.z = new_floats(vectors_array(c, "z"), n);
  s.flux = new_floats(vectors_array(c, "flux"), n * m);
  s.ivar = new_floats(vectors_array(c, "ivar"), n * m);
  s.calibration.model = new_floats(vectors_array(c, "x"), n * m);
  s.calibration.coefficient = new_bytes(n * terms * sizeof(double));
  s.penalty = new_bytes(n * sizeof(double));
  s.y = new_floats(NULL, n * m);
  s.dy = new_floats(vectors_array(c, "dy"), n * m);
  OPS(calibrate_forward, &s, n);
  check_doubles_of(c, "coefficient", s.calibration.coefficient, "calibrate");
  check_doubles_of(c, "penalty", s.penalty, "calibrate");
  check_floats(c, "y", s.y, "calibrate");
  OPS(calibrate_backward, &s, n);
  check_floats(c, "dx", s.dy, "calibrate gradient");
}

static void test_adam(const struct vector_case *c) {
  size_t count = vectors_size(c, "count"), steps = vectors_size(c, "steps");
  double beta1 = vectors_number(c, "beta1"), beta2 = vectors_number(c, "beta2");
  float *p = new_floats(vectors_array(c, "parameters"), count);
  float *m = new_bytes(count * sizeof *m), *v = new_bytes(count * sizeof *v);
  for (size_t t = 0; t < steps; t++) {
    float *gradient = new_floats(vectors_array(c, "gradient") + t * count, count);
    struct spd_adam adam = {.rate = (float)vectors_number(c, "rate"),
                            .beta1 = (float)beta1,
                            .beta2 = (float)beta2,
                            .new1 = (float)(1 - beta1),
                            .new2 = (float)(1 - beta2),
                            .epsilon = (float)vectors_number(c, "epsilon"),
                            .lowest = -INFINITY,
                            .correction1 = (float)(1 / (1 - pow(beta1, (double)(t + 1)))),
                            .correction2 = (float)(1 / (1 - pow(beta2, (double)(t + 1))))};
    OPS(adam, p, m, v, gradient, count, &adam);
    double *got = download(p, count);
    CHECK_CLOSE(label_of(c, "parameters"), got, vectors_array(c, "want") + t * count, count, tolerance_for("adam"));
    free(got);
  }
  check_floats(c, "m", m, "adam");
  check_floats(c, "v", v, "adam");
}

/* The limit holds what would go below it, and nothing else. */
static void test_adam_limit(void) {
  const double start[] = {0.05, 0.05, -1, 1}, gradient[] = {1, -1, 1, 1}, want[] = {0, 0.15, 0, 0.9};
  const struct spd_adam adam = {0.1f, 0.9f, 0.999f, 1e-8f, 0.1f, 0.001f, 10, 1000, 0};
  float *p = new_floats(start, 4), *g = new_floats(gradient, 4);
  OPS(adam, p, new_bytes(4 * sizeof *p), new_bytes(4 * sizeof *p), g, 4, &adam);
  double *got = download(p, 4);
  CHECK_CLOSE("adam with a limit", got, want, 4, tolerance_for("adam"));
  free(got);
  free_all();
}

static void test_log_ivar(void) {
  enum { COUNT = 5003 }; /* more than one piece */
  double *x = check_alloc(COUNT * sizeof *x), *want = check_alloc(COUNT * sizeof *want);
  for (size_t i = 0; i < COUNT; i++) {
    x[i] = i % 7 == 0 ? 0 : (double)(float)exp(20.0 * (double)i / COUNT - 8);
    want[i] = log(x[i] + 1e-6);
  }
  float *y = new_floats(NULL, COUNT), *from = new_floats(x, COUNT);
  OPS(log_ivar, y, from, COUNT);
  double *got = download(y, COUNT);
  CHECK_CLOSE("log ivar", got, want, COUNT, tolerance_for("log ivar"));
  free(got);
  free(x);
  free(want);
  free_all();
}

static void test_gather(void) {
  enum { ROWS = 11, WIDTH = 301, PICKED = 17 };
  double x[ROWS * WIDTH], want[PICKED * WIDTH];
  uint64_t rows[PICKED], *picked = new_bytes(sizeof rows);
  for (size_t i = 0; i < ROWS * WIDTH; i++) x[i] = (double)i;
  for (size_t i = 0; i < PICKED; i++) {
    rows[i] = i * 7 % ROWS;
    memcpy(want + i * WIDTH, x + rows[i] * WIDTH, WIDTH * sizeof *want);
  }
  MUST(backend->ops->upload(backend, picked, rows, sizeof rows, error));
  float *from = new_floats(x, ROWS * WIDTH), *y = new_floats(NULL, PICKED * WIDTH);
  MUST(backend->ops->gather(backend, y, from, picked, WIDTH, PICKED, error));
  double *got = download(y, PICKED * WIDTH);
  CHECK(memcmp(got, want, sizeof want) == 0, "gather picks other rows");
  free(got);
  free_all();
}

/* spd_exp is what the softmax and the sigmoids stand on */
static void test_exp(void) {
  double worst = 0;
  for (int i = -87000; i <= 87000; i++) {
    float x = (float)i * 1e-3f;
    double error = fabs((double)spd_exp(x) / exp((double)x) - 1);
    if (error > worst) worst = error;
  }
  CHECK(worst < 2e-7, "spd_exp: relative error %.3g", worst);
  CHECK(spd_exp(-1e30f) >= 0 && spd_exp(-1e30f) < 1e-37f && isfinite(spd_exp(1e30f)), "spd_exp does not saturate");
  CHECK(spd_exp(0) == 1, "spd_exp(0) is %.9g", (double)spd_exp(0));
}

/* wave[j] < x <= wave[j + 1], and 0 at the start: a node belongs to the interval on its left, whatever the first guess */
static void test_rest_index(void) {
  enum { COUNT = 200 };
  float wave[COUNT];
  for (int kind = 0; kind < 3; kind++) {
    for (size_t i = 0; i < COUNT; i++)
      wave[i] = kind == 0 ? 3000.0f + (float)i : kind == 1 ? 100.0f * expf(0.03f * (float)i) : 1.0f + (float)(i * i * i);
    double scale = (COUNT - 1) / ((double)wave[COUNT - 1] - (double)wave[0]);
    size_t wrong = 0;
    for (size_t i = 0; i + 1 < COUNT; i++)
      for (int f = 0; f <= 8; f++) {
        double x = (double)wave[i] + ((double)wave[i + 1] - (double)wave[i]) * f / 8;
        size_t j = spd_rest_index(x, wave, COUNT, scale);
        wrong += !(j + 1 < COUNT && ((double)wave[j] < x || j == 0) && x <= (double)wave[j + 1]);
      }
    CHECK(wrong == 0, "spd_rest_index: %zu positions of grid %d in the wrong interval", wrong, kind);
  }
}

static void test_all(const char *folder) {
  static const struct stage_test tests[] = {
      {"stem", test_stem},           {"block", test_block}, {"attend", test_attend},         {"dense", test_dense},
      {"resample", test_resample},   {"lsf", test_lsf},     {"resolution", test_resolution}, {"loss", test_loss},
      {"calibrate", test_calibrate}, {"adam", test_adam}};
  test_vectors(tests, sizeof tests / sizeof *tests, folder);
  test_long_blocks();
  test_adam_limit();
  test_log_ivar();
  test_gather();
  test_gaussians();
}

int main(int argc, char **argv) {
  if (!on_every_backend(test_all, argc > 1 ? argv[1] : NULL)) return check_end();
  test_exp();
  test_rest_index();
  return check_end();
}
