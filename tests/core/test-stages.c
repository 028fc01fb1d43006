/* Every stage through the backend's table against its float64 vectors. What a stage writes is NaN before (gap rows: zero), so a
 * forgotten element, an accumulation or a write into a gap shows. */
#include "cpu/cpu.h"
#include "cpu/create.h"
#include "cuda-devices.h"
#include "cuda/create.h"
#include "network/backend.h"
#include "network/scalar.h"
#include "tolerances.h"
#include "vectors.h"

static struct spd_backend *backend;
static void *owned[128];
static size_t n_owned;
static char label[160];

#define OPS(stage, ...)                                     \
  do {                                                      \
    MUST(backend->ops->enter(backend, error));              \
    MUST(backend->ops->stage(backend, __VA_ARGS__, error)); \
    backend->ops->leave(backend);                           \
  } while (0)

static const char *label_of(const struct vector_case *c, const char *what) {
  snprintf(label, sizeof label, "%s %s", c->name, what);
  return label;
}

static void *new_bytes(size_t bytes) {
  void *p;
  MUST(backend->ops->alloc(backend, &p, bytes, error));
  if (n_owned == sizeof owned / sizeof *owned) exit(2);
  owned[n_owned++] = p;
  return p;
}

static void free_all(void) {
  while (n_owned) backend->ops->free(backend, owned[--n_owned]);
}

/* values NULL: NaN */
static float *new_floats(const double *values, size_t count) {
  float *host = check_alloc((count + 1) * sizeof *host), *p = new_bytes(count * sizeof *host);
  for (size_t i = 0; i < count; i++) host[i] = values ? (float)values[i] : NAN;
  MUST(backend->ops->upload(backend, p, host, count * sizeof *host, error));
  free(host);
  return p;
}

/* A plane of these host values, which are freed; stored with `scale` where planes have one */
static struct spd_plane new_plane(float *host, size_t count, float scale) {
  float *wide = new_bytes(count * sizeof *host);
  struct spd_plane plane = {new_bytes(count * backend->plane_width), new_bytes(sizeof(float))};
  MUST(backend->ops->upload(backend, wide, host, count * sizeof *host, error));
  MUST(backend->ops->narrow(backend, plane, wide, scale, count, error));
  free(host);
  return plane;
}

/* (n, length, channels) into gap-padded rows; values NULL: NaN at the positions */
static struct spd_plane new_rows(const double *values, const struct spd_rows *rows, size_t n, float scale) {
  size_t size = spd_rows_size(rows, n);
  float *host = check_alloc(size * sizeof *host);
  for (size_t i = 0; i < n; i++)
    for (size_t l = 0; l < rows->length; l++)
      for (size_t c = 0; c < rows->channels; c++)
        host[(rows->lead + i * rows->stride + l) * rows->channels + c] =
            values ? (float)values[(i * rows->length + l) * rows->channels + c] : NAN;
  return new_plane(host, size, values ? scale : 1);
}

/* Elements of a plane without gaps; values NULL: NaN */
static struct spd_plane new_elements(const double *values, size_t count) {
  float *host = check_alloc((count + 1) * sizeof *host);
  for (size_t i = 0; i < count; i++) host[i] = values ? (float)values[i] : NAN;
  return new_plane(host, count, 1);
}

static double *download(const float *p, size_t count) {
  float *host = check_alloc((count + 1) * sizeof *host);
  MUST(backend->ops->synchronize(backend, error));
  MUST(backend->ops->download(backend, host, p, count * sizeof *host, error));
  double *values = check_doubles(host, count);
  free(host);
  return values;
}

/* The array of this name, or the one that planes of the present precision make, where the case has one */
static const struct vector_item *wanted(const struct vector_case *c, const char *what) {
  char own[80];
  const struct vector_item *item = NULL;
  if (tolerance_precision) snprintf(own, sizeof own, "%s-%s", what, tolerance_precision), item = vectors_find(c, own);
  return item ? item : vectors_find(c, what);
}

static void check_floats(const struct vector_case *c, const char *what, const float *p, const char *tolerance) {
  const struct vector_item *want = wanted(c, what);
  double *got = download(p, want->count);
  CHECK_TOLERATED(label_of(c, what), got, want->values, want->count, tolerance);
  free(got);
}

static double *download_plane(struct spd_plane plane, size_t count) {
  float *wide = new_bytes(count * sizeof *wide);
  MUST(backend->ops->widen(backend, wide, plane, count, error));
  return download(wide, count);
}

static void check_elements(const struct vector_case *c, const char *what, struct spd_plane plane, const char *tolerance) {
  const struct vector_item *want = wanted(c, what);
  double *got = download_plane(plane, want->count);
  CHECK_TOLERATED(label_of(c, what), got, want->values, want->count, tolerance);
  free(got);
}

static void check_doubles_of(const struct vector_case *c, const char *what, const double *p, const char *tolerance) {
  const struct vector_item *want = wanted(c, what);
  double *got = check_alloc(want->count * sizeof *got);
  MUST(backend->ops->synchronize(backend, error));
  MUST(backend->ops->download(backend, got, p, want->count * sizeof *got, error));
  CHECK_CLOSE(label_of(c, what), got, want->values, want->count, tolerance_for(tolerance));
  free(got);
}

enum gaps { GAPS_ZERO, GAPS_ANYTHING };

static void check_rows(const struct vector_case *c, const char *what, struct spd_plane plane, const struct spd_rows *rows, size_t n,
                       enum gaps gaps, const char *tolerance) {
  size_t size = spd_rows_size(rows, n), count = n * rows->length * rows->channels, at = 0, touched = 0;
  double *all = download_plane(plane, size), *got = check_alloc(count * sizeof *got);
  for (size_t row = 0; row < size / rows->channels; row++) {
    size_t l = (row - rows->lead) % rows->stride;
    int is_position = row >= rows->lead && (row - rows->lead) / rows->stride < n && l < rows->length;
    for (size_t i = 0; i < rows->channels; i++) {
      double value = all[row * rows->channels + i];
      if (is_position)
        got[at++] = value;
      else
        touched += value != 0;
    }
  }
  CHECK_TOLERATED(label_of(c, what), got, wanted(c, what)->values, count, tolerance);
  if (gaps == GAPS_ZERO) CHECK(touched == 0, "%s: %zu elements of gap rows are not zero", label_of(c, what), touched);
  free(all);
  free(got);
}

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

static void test_similarity(const struct vector_case *c) {
  const size_t n = vectors_size(c, "n"), rest = vectors_size(c, "n_rest"), latents = vectors_size(c, "n_latent");
  struct spd_similarity s = {.n_rest = rest,
                             .n_latent = latents,
                             .from = vectors_size(c, "start"),
                             .to = vectors_size(c, "end"),
                             .scale_free = (int)vectors_number(c, "scale_free"),
                             .slope = vectors_number(c, "slope"),
                             .factor = vectors_number(c, "factor")};
  s.root = new_floats(vectors_array(c, "root"), rest);
  s.rest = new_floats(vectors_array(c, "rest"), n * rest);
  s.latent = new_floats(vectors_array(c, "latent"), n * latents);
  s.median = new_floats(NULL, n);
  s.middle = new_bytes(n * sizeof *s.middle);
  s.centred = new_floats(NULL, n * rest);
  s.spectral = new_floats(NULL, n * n);
  s.distance = new_floats(NULL, n * n);
  s.sums = new_bytes((2 * n + 4) * sizeof *s.sums);
  s.loss = new_bytes(n * sizeof *s.loss);
  s.drest = new_floats(NULL, n * rest);
  s.dlatent = new_floats(NULL, n * latents);
  OPS(similarity_forward, &s, n);
  check_doubles_of(c, "loss", s.loss, "similarity");
  OPS(similarity_backward, &s, n);
  check_floats(c, "drest", s.drest, "similarity gradient");
  check_floats(c, "dlatent", s.dlatent, "similarity gradient");
}

static void test_consistency(const struct vector_case *c) {
  const size_t n = vectors_size(c, "n"), copies = vectors_size(c, "copies"), latents = vectors_size(c, "n_latent");
  struct spd_consistency s = {.n_latent = latents,
                              .copies = copies,
                              .scale_free = (int)vectors_number(c, "scale_free"),
                              .sigma = vectors_number(c, "sigma"),
                              .factor = vectors_number(c, "factor")};
  const float *latent = new_floats(vectors_array(c, "latent"), n * latents), *copy = new_floats(vectors_array(c, "copy"), copies * latents);
  s.latent = latent, s.copy = copy;
  s.loss = new_bytes(copies * sizeof *s.loss);
  s.dlatent = new_floats(NULL, n * latents);
  s.dcopy = new_floats(NULL, copies * latents);
  OPS(consistency_forward, &s, n);
  check_doubles_of(c, "loss", s.loss, "consistency");
  OPS(consistency_backward, &s, n);
  check_floats(c, "dlatent", s.dlatent, "consistency gradient");
  check_floats(c, "dcopy", s.dcopy, "consistency gradient");
}

static void test_augment(const struct vector_case *c) {
  const size_t n = vectors_size(c, "n"), m = vectors_size(c, "n_observed");
  const double *key = vectors_array(c, "key");
  uint64_t host[16], *keys = new_bytes(sizeof host);
  for (size_t i = 0; i < n; i++) host[i] = (uint64_t)key[i];
  MUST(backend->ops->upload(backend, keys, host, n * sizeof *host, error));
  struct spd_augment a = {.n_observed = m,
                          .z_low = vectors_number(c, "z_low"),
                          .z_high = vectors_number(c, "z_high"),
                          .noisy = vectors_number(c, "noisy"),
                          .noise = vectors_number(c, "noise"),
                          .masked = vectors_number(c, "masked"),
                          .key = keys};
  a.wave_observed = new_floats(vectors_array(c, "wave_observed"), m);
  a.flux = new_floats(vectors_array(c, "flux"), n * m);
  a.ivar = new_floats(vectors_array(c, "ivar"), n * m);
  a.z = new_floats(vectors_array(c, "z"), n);
  a.to_flux = new_floats(NULL, n * m);
  a.to_ivar = new_floats(NULL, n * m);
  a.to_z = new_floats(NULL, n);
  OPS(augment, &a, n);
  check_floats(c, "to_flux", a.to_flux, "augment");
  check_floats(c, "to_ivar", a.to_ivar, "augment");
  check_floats(c, "to_z", a.to_z, "augment");
}

/* Gradients are added, and those with a norm above the limit keep their direction. */
static void test_add_and_clip(void) {
  enum { COUNT = 150001 };
  double *x = check_alloc(COUNT * sizeof *x), *want = check_alloc(COUNT * sizeof *want), squares = 0;
  for (size_t i = 0; i < COUNT; i++) x[i] = (double)((float)(i % 17) - 7.5f), squares += x[i] * x[i];
  for (int clipped = 0; clipped < 2; clipped++) {
    const double norm = sqrt(squares), limit = clipped ? 0.1 * norm : 1.01 * norm;
    float *g = new_floats(x, COUNT), *y = new_floats(x, COUNT);
    OPS(clip, g, limit, COUNT);
    for (size_t i = 0; i < COUNT; i++) want[i] = x[i] * (clipped ? 0.1 : 1);
    double *got = download(g, COUNT);
    CHECK_CLOSE("a clipped gradient", got, want, COUNT, tolerance_for("adam"));
    free(got);
    OPS(add, y, g, COUNT);
    for (size_t i = 0; i < COUNT; i++) want[i] += x[i];
    got = download(y, COUNT);
    CHECK_CLOSE("a sum of gradients", got, want, COUNT, tolerance_for("adam"));
    free(got);
  }
  free(x);
  free(want);
  free_all();
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

static const struct {
  const char *file;
  void (*test)(const struct vector_case *);
} stages[] = {{"stem", test_stem},
              {"block", test_block},
              {"attend", test_attend},
              {"dense", test_dense},
              {"resample", test_resample},
              {"lsf", test_lsf},
              {"loss", test_loss},
              {"adam", test_adam},
              {"similarity", test_similarity},
              {"consistency", test_consistency},
              {"augment", test_augment}};

static void test_all(const char *folder) {
  for (size_t i = 0; i < sizeof stages / sizeof *stages; i++) {
    struct vectors v;
    vectors_read(&v, folder, stages[i].file);
    for (size_t j = 0; j < v.n_cases; j++) {
      stages[i].test(&v.cases[j]);
      free_all();
    }
    CHECK(v.n_cases > 0, "no vectors for %s", stages[i].file);
    vectors_free(&v);
  }
  test_adam_limit();
  test_add_and_clip();
  test_log_ivar();
  test_gather();
  backend->ops->destroy(backend);
}

int main(int argc, char **argv) {
  const char *folder = argc > 1 ? argv[1] : NULL;
  if (spd_cuda_built()) {
    if (!test_cuda_here()) return check_end();
    for (int precision = 0; precision < SPD_PRECISIONS && test_precision(precision); precision++)
      /* orders have nothing to do with the type of planes: all in fp32 and fp16, one each for the others */
      for (int order = precision % 3 % TEST_ORDERS; order < TEST_ORDERS && test_order(order) && test_little_shared(order == 1);
           order += precision == SPD_PRECISION_FP32 || precision == SPD_PRECISION_FP16 ? 1 : TEST_ORDERS) {
        MUST(spd_cuda_create(&backend, (spd_precision)precision, error));
        test_all(folder);
      }
  } else {
    /* each instruction set, with one to three threads; the last time with convolutions in the frequency domain, which small ones
     * are not by themselves */
    for (size_t run = 0; cpu_kernels_available(run / 3); run++) {
      MUST(spd_cpu_create(&backend, (int)(run % 3) + 1, error));
      cpu_of(backend)->kernels = cpu_kernels_available(run / 3);
      cpu_of(backend)->always_fourier = run % 3 == 2;
      test_all(folder);
    }
  }
  test_exp();
  test_rest_index();
  return check_end();
}
