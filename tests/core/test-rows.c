/* A spectrum's bits do not depend on its company: each stage, forward and backward, on each instruction set, gives a row alone the same
 * bits as at any place of any batch of 1 to 70, with any number of threads. Shapes are random. */
#include <stddef.h>

#include "check.h"
#include "core/rng.h"
#include "cpu/cpu.h"
#include "cpu/create.h"
#include "data/band.h"

static uint64_t counter;
static size_t pick(size_t from, size_t to) { return from + (size_t)spd_below(spd_mix64(++counter), to - from + 1); }
static float noise(void) { return 2.0f * spd_uniform(17, 0, ++counter) - 1.0f; }

/* A buffer with a part for each spectrum. Of a part, `count` elements from `start` on mean something. */
enum role { GIVEN, MADE, CHANGED /* given and made */ };
struct buffer {
  size_t member; /* offset of the pointer in the stage */
  enum role role;
  size_t width; /* bytes of an element; what is given are floats */
  size_t part, start, count;
};

union stage {
  struct spd_stem stem;
  struct spd_block block;
  struct spd_attend attend;
  struct spd_dense dense;
  struct spd_resample resample;
  struct spd_lsf lsf;
  struct spd_resolution resolution;
  struct spd_loss loss;
  struct spd_calibrate calibrate;
  struct spd_augment augment;
};

enum { MOST = 70, MOST_BUFFERS = 16 };
typedef void both_ways(struct spd_backend *, union stage *, size_t n);

struct subject {
  const char *name;
  union stage stage;
  both_ways *run;
  struct buffer buffers[MOST_BUFFERS];
  size_t n_buffers, n;
  void *given[MOST_BUFFERS], *made[MOST_BUFFERS]; /* of the batch of n */
  void *owned[16];                                /* parameters */
  size_t n_owned;
};

static void **member(union stage *stage, const struct buffer *b) { return (void **)((char *)stage + b->member); }
static size_t part_bytes(const struct buffer *b) { return b->part * b->width; }
/* patches of the last gap rows may reach beyond the last part, and the stem's workspace has a second part of each */
static size_t buffer_bytes(const struct buffer *b, size_t n) { return (2 * n + 1) * part_bytes(b) + 4096; }

static float *parameter(struct subject *s, size_t count) {
  float *p = check_alloc(count * sizeof *p);
  for (size_t i = 0; i < count; i++) p[i] = noise();
  s->owned[s->n_owned++] = p;
  return p;
}

static void add(struct subject *s, size_t at, enum role role, size_t width, size_t part, size_t start, size_t count) {
  const struct buffer b = {at, role, width, part, start, count};
  s->buffers[s->n_buffers++] = b;
}
#define VALUES(s, type, name, role, count) add(s, offsetof(union stage, type.name), role, sizeof(float), count, 0, count)
#define DOUBLES(s, type, name, role, count) add(s, offsetof(union stage, type.name), role, sizeof(double), count, 0, count)
#define ROWS(s, type, name, role, rows)                                                                                          \
  add(s, offsetof(union stage, type.name.at), role, sizeof(float), (rows).stride *(rows).channels, (rows).lead *(rows).channels, \
      (rows).length *(rows).channels)

static void run_batch(struct subject *s, struct spd_backend *backend, const size_t *rows, size_t n, void **made) {
  union stage stage = s->stage;
  void *buffers[MOST_BUFFERS];
  for (size_t b = 0; b < s->n_buffers; b++) {
    const struct buffer *buffer = &s->buffers[b];
    char *at = buffers[b] = check_alloc(buffer_bytes(buffer, n));
    if (buffer->role != GIVEN) memset(at, 0x5a, buffer_bytes(buffer, n)); /* what was there before does not matter */
    for (size_t i = 0; i < n && buffer->role != MADE; i++)
      memcpy(at + i * part_bytes(buffer), (char *)s->given[b] + rows[i] * part_bytes(buffer), part_bytes(buffer));
    *member(&stage, buffer) = at;
  }
  s->run(backend, &stage, n);
  for (size_t b = 0; b < s->n_buffers; b++) {
    if (s->buffers[b].role == GIVEN)
      free(buffers[b]), made[b] = NULL;
    else
      made[b] = buffers[b];
  }
}

/* Buffers in which row `i` of one batch and row `j` of another differ */
static void compare(const struct subject *s, void *const *batch, size_t i, void *const *other, size_t j, const char *kernels, size_t n,
                    size_t size) {
  for (size_t b = 0; b < s->n_buffers; b++) {
    const struct buffer *buffer = &s->buffers[b];
    if (buffer->role == GIVEN) continue;
    const char *x = (const char *)batch[b] + i * part_bytes(buffer) + buffer->start * buffer->width;
    const char *y = (const char *)other[b] + j * part_bytes(buffer) + buffer->start * buffer->width;
    CHECK(memcmp(x, y, buffer->count * buffer->width) == 0, "%s, %s: row %zu of %zu has other bits at place %zu of %zu (buffer %zu)",
          kernels, s->name, i, n, j, size, b);
  }
}

static void free_made(const struct subject *s, void **made) {
  for (size_t b = 0; b < s->n_buffers; b++) free(made[b]);
}

static void test_subject(struct subject *s, const struct cpu_kernels *kernels, int always_fourier, int same_size_only) {
  struct spd_backend *backends[3];
  size_t order[MOST];
  for (int t = 0; t < 3; t++) {
    MUST(spd_cpu_create(&backends[t], t + 1, error));
    cpu_of(backends[t])->kernels = kernels;
    cpu_of(backends[t])->always_fourier = always_fourier;
  }
  s->n = pick(1, MOST);
  for (size_t b = 0; b < s->n_buffers; b++) {
    const struct buffer *buffer = &s->buffers[b];
    if (buffer->role == MADE) continue;
    float *given = check_alloc(buffer_bytes(buffer, s->n));
    for (size_t i = 0; i < s->n; i++)
      for (size_t j = 0; j < buffer->count; j++) given[i * buffer->part + buffer->start + j] = noise();
    s->given[b] = given;
  }
  for (size_t i = 0; i < s->n; i++) order[i] = i;
  run_batch(s, backends[1], order, s->n, s->made);
  for (int round = 0; round < 4; round++) {
    void *made[MOST_BUFFERS];
    const size_t size = same_size_only ? s->n : round == 0 ? 1 : pick(1, MOST), row = pick(0, s->n - 1), place = pick(0, size - 1);
    size_t rows[MOST];
    for (size_t i = 0; i < size; i++) rows[i] = i == place ? row : pick(0, s->n - 1);
    run_batch(s, backends[round % 3], rows, size, made);
    compare(s, s->made, row, made, place, kernels->name, s->n, size);
    free_made(s, made);
  }
  free_made(s, s->made);
  for (size_t b = 0; b < s->n_buffers; b++) free(s->given[b]);
  for (size_t i = 0; i < s->n_owned; i++) free(s->owned[i]);
  for (int t = 0; t < 3; t++) backends[t]->ops->destroy(backends[t]);
}

/* ---- the stages ---- */

#define BOTH_WAYS(what)                                                     \
  static void run_##what(struct spd_backend *b, union stage *s, size_t n) { \
    MUST(b->ops->what##_forward(b, &s->what, n, error));                    \
    MUST(b->ops->what##_backward(b, &s->what, n, error));                   \
  }
BOTH_WAYS(stem)
BOTH_WAYS(block)
BOTH_WAYS(attend)
BOTH_WAYS(dense)
BOTH_WAYS(lsf)
BOTH_WAYS(resolution)
BOTH_WAYS(loss)
BOTH_WAYS(calibrate)

/* Redshifts of the given noise that stay above -1 */
static void run_resample(struct spd_backend *b, union stage *s, size_t n) {
  float *z = (float *)s->resample.z;
  for (size_t i = 0; i < n; i++) z[i] = fabsf(z[i]);
  MUST(b->ops->resample_forward(b, &s->resample, n, error));
  MUST(b->ops->resample_backward(b, &s->resample, n, error));
}

static void run_augment(struct spd_backend *b, union stage *s, size_t n) {
  float *z = (float *)s->augment.z;
  for (size_t i = 0; i < n; i++) z[i] = fabsf(z[i]);
  MUST(b->ops->augment(b, &s->augment, n, error));
}

static void test_stem(const struct cpu_kernels *kernels) {
  struct subject s = {.name = "stem", .run = run_stem};
  struct spd_stem *t = &s.stage.stem;
  t->kernel = 2 * pick(0, 4) + 1, t->pool = pick(1, 7), t->length = pick(12, 300);
  const size_t channels = pick(1, 90);
  t->out = spd_rows_for_kernel((t->length + 2 * (t->pool / 2) - t->pool) / t->pool + 1, channels, 2 * pick(0, 5) + 1);
  t->w = parameter(&s, t->kernel * channels), t->slope = parameter(&s, channels);
  VALUES(&s, stem, x, GIVEN, t->length);
  ROWS(&s, stem, dy, GIVEN, t->out);
  DOUBLES(&s, stem, moments, MADE, t->kernel * (t->kernel + 1));
  VALUES(&s, stem, scaled, MADE, (t->kernel + 1) * channels);
  ROWS(&s, stem, y, MADE, t->out);
  /* the weights' gradients of the spectra, before they are summed; the slopes' stand behind all of them */
  VALUES(&s, stem, partial, MADE, (t->kernel + 1) * channels);
  s.buffers[s.n_buffers - 1].part = s.buffers[s.n_buffers - 1].count = t->kernel * channels;
  test_subject(&s, kernels, 0, 1);
}

static void test_block(const struct cpu_kernels *kernels, int always_fourier) {
  struct subject s = {.name = always_fourier > 0 ? "block in the frequency domain" : "block with plain products", .run = run_block};
  struct spd_block *t = &s.stage.block;
  const size_t in = pick(1, 40), out = pick(1, 90), length = pick(8, 150);
  t->kernel = 2 * pick(1, 10) + 1, t->pool = pick(0, 1) ? 1 : pick(2, 11);
  t->in = spd_rows_for_kernel(length, in, t->kernel), t->conv = spd_rows_for_kernel(length, out, t->kernel);
  t->out = spd_rows_for_kernel((length + 2 * (t->pool / 2) - t->pool) / t->pool + 1, out, 2 * pick(0, 10) + 1);
  t->w = parameter(&s, t->kernel * in * out), t->slope = parameter(&s, out);
  ROWS(&s, block, x, GIVEN, t->in);
  ROWS(&s, block, dy, GIVEN, t->out);
  ROWS(&s, block, y, MADE, t->out);
  ROWS(&s, block, dx, MADE, t->in);
  VALUES(&s, block, mean, MADE, out);
  VALUES(&s, block, inverse_sd, MADE, out);
  VALUES(&s, block, partial, MADE, out);
  if (t->pool > 1) add(&s, offsetof(union stage, block.argmax), MADE, sizeof(uint16_t), t->out.length * out, 0, t->out.length * out);
  ROWS(&s, block, u, MADE, t->conv);
  s.buffers[s.n_buffers - 1].count = 0; /* backward may destroy it */
  test_subject(&s, kernels, always_fourier, 0);
}

static void test_attend(const struct cpu_kernels *kernels) {
  struct subject s = {.name = "attend", .run = run_attend};
  struct spd_attend *t = &s.stage.attend;
  t->length = pick(1, 80), t->channels = pick(1, 150), t->feature_stride = t->channels + pick(0, 1);
  const size_t plane = t->length * t->channels, stride = t->feature_stride;
  add(&s, offsetof(union stage, attend.segments.at), GIVEN, sizeof(float), 2 * plane, 0, 2 * plane);
  if (pick(0, 1)) {
    add(&s, offsetof(union stage, attend.gate.at), GIVEN, sizeof(float), plane, 0, plane);
    add(&s, offsetof(union stage, attend.dgate.at), MADE, sizeof(float), plane, 0, plane);
  }
  VALUES(&s, attend, z, GIVEN, 1);
  VALUES(&s, attend, dfeature, GIVEN, stride);
  VALUES(&s, attend, attention, MADE, plane);
  VALUES(&s, attend, feature, MADE, stride);
  VALUES(&s, attend, dattention, MADE, plane);
  add(&s, offsetof(union stage, attend.dsegments.at), MADE, sizeof(float), 2 * plane, 0, 2 * plane);
  test_subject(&s, kernels, 0, 0);
}

static void test_dense(const struct cpu_kernels *kernels) {
  static const spd_activation activations[] = {SPD_ACTIVATION_NONE, SPD_ACTIVATION_PRELU, SPD_ACTIVATION_LEAKY, SPD_ACTIVATION_SPECULATOR};
  struct subject s = {.name = "dense", .run = run_dense};
  struct spd_dense *t = &s.stage.dense;
  t->in = pick(1, 300), t->out = pick(1, 700), t->activation = activations[pick(0, 3)], t->offset = noise();
  t->w = parameter(&s, t->in * t->out), t->b = parameter(&s, t->out), t->slope = parameter(&s, t->out);
  t->beta = parameter(&s, t->out), t->gamma = parameter(&s, t->out);
  VALUES(&s, dense, x, GIVEN, t->in);
  VALUES(&s, dense, dy, CHANGED, t->out);
  VALUES(&s, dense, v, MADE, t->out);
  VALUES(&s, dense, y, MADE, t->out);
  VALUES(&s, dense, dx, MADE, t->in);
  test_subject(&s, kernels, 0, 0);
}

static float *wavelengths(struct subject *s, size_t count, float from, float to) {
  float *wave = parameter(s, count);
  for (size_t i = 0; i < count; i++) wave[i] = from + (to - from) * (float)i / (float)count;
  return wave;
}

static void test_observed_frame(const struct cpu_kernels *kernels) {
  const size_t n_observed = pick(30, 400), n_rest = pick(30, 500), size = 2 * pick(0, 6) + 1;
  {
    struct subject s = {.name = "resample", .run = run_resample};
    s.stage.resample.n_rest = n_rest, s.stage.resample.n_observed = n_observed;
    s.stage.resample.wave_rest = wavelengths(&s, n_rest, 2000, 9000),
    s.stage.resample.wave_observed = wavelengths(&s, n_observed, 3800, 9200);
    VALUES(&s, resample, z, GIVEN, 1);
    VALUES(&s, resample, x, GIVEN, n_rest);
    VALUES(&s, resample, dy, GIVEN, n_observed);
    VALUES(&s, resample, y, MADE, n_observed);
    VALUES(&s, resample, dx, MADE, n_rest);
    DOUBLES(&s, resample, dz, MADE, 1);
    test_subject(&s, kernels, 0, 0);
  }
  {
    struct subject s = {.name = "augment", .run = run_augment};
    s.stage.augment.n_observed = n_observed, s.stage.augment.wave_observed = wavelengths(&s, n_observed, 3800, 9200);
    s.stage.augment.z_high = 0.5, s.stage.augment.noisy = 0.2, s.stage.augment.noise = 0.1, s.stage.augment.masked = 0.1;
    VALUES(&s, augment, key, GIVEN, 2); /* the bits of two floats */
    VALUES(&s, augment, z, GIVEN, 1);
    VALUES(&s, augment, flux, GIVEN, n_observed);
    VALUES(&s, augment, ivar, GIVEN, n_observed);
    VALUES(&s, augment, to_flux, MADE, n_observed);
    VALUES(&s, augment, to_ivar, MADE, n_observed);
    VALUES(&s, augment, to_z, MADE, 1);
    test_subject(&s, kernels, 0, 0);
  }
  {
    struct subject s = {.name = "lsf", .run = run_lsf};
    s.stage.lsf.n_observed = n_observed, s.stage.lsf.size = size, s.stage.lsf.kernel = parameter(&s, size);
    VALUES(&s, lsf, x, GIVEN, n_observed);
    VALUES(&s, lsf, dy, GIVEN, n_observed);
    VALUES(&s, lsf, y, MADE, n_observed);
    VALUES(&s, lsf, dx, MADE, n_observed);
    test_subject(&s, kernels, 0, 0);
  }
  {
    struct subject s = {.name = "resolution", .run = run_resolution};
    struct spd_resolution *t = &s.stage.resolution;
    uint32_t *left = check_alloc(n_observed * sizeof *left);
    const size_t step = pick(1, 20);
    t->n_observed = n_observed, t->size = size, t->n_knots = spd_band_knots(step, n_observed), t->share = 1;
    float *part = parameter(&s, n_observed);
    s.owned[s.n_owned++] = left;
    for (size_t m = 0; m < n_observed; m++) spd_band_place(&left[m], &part[m], m, step, n_observed);
    t->left = left, t->part = part;
    VALUES(&s, resolution, band, GIVEN, t->n_knots * size);
    VALUES(&s, resolution, x, GIVEN, n_observed);
    VALUES(&s, resolution, dy, GIVEN, n_observed);
    VALUES(&s, resolution, y, MADE, n_observed);
    VALUES(&s, resolution, dx, MADE, n_observed);
    test_subject(&s, kernels, 0, 0);
  }
  {
    struct subject s = {.name = "loss", .run = run_loss};
    s.stage.loss.n_rest = n_rest, s.stage.loss.n_observed = n_observed, s.stage.loss.lsf = size;
    s.stage.loss.wave_rest = wavelengths(&s, n_rest, 2000, 9000), s.stage.loss.wave_observed = wavelengths(&s, n_observed, 3800, 9200);
    VALUES(&s, loss, z, GIVEN, 1);
    VALUES(&s, loss, flux, GIVEN, n_observed);
    VALUES(&s, loss, ivar, GIVEN, n_observed);
    VALUES(&s, loss, model, GIVEN, n_observed);
    DOUBLES(&s, loss, loss, MADE, 1);
    VALUES(&s, loss, dmodel, MADE, n_observed); /* of the batch's mean: batches of one size are compared */
    test_subject(&s, kernels, 0, 1);
  }
  {
    struct subject s = {.name = "calibrate", .run = run_calibrate};
    struct spd_calibrate *t = &s.stage.calibrate;
    t->n_rest = n_rest, t->n_observed = n_observed, t->lsf = size, t->calibration.terms = pick(1, SPD_MAX_CALIBRATION);
    for (size_t k = 0; k < t->calibration.terms; k++) t->calibration.precision[k] = 4;
    t->wave_rest = wavelengths(&s, n_rest, 2000, 9000), t->wave_observed = wavelengths(&s, n_observed, 3800, 9200);
    VALUES(&s, calibrate, z, GIVEN, 1);
    VALUES(&s, calibrate, flux, GIVEN, n_observed);
    VALUES(&s, calibrate, ivar, GIVEN, n_observed);
    VALUES(&s, calibrate, calibration.model, GIVEN, n_observed);
    VALUES(&s, calibrate, dy, CHANGED, n_observed);
    DOUBLES(&s, calibrate, calibration.coefficient, MADE, t->calibration.terms);
    DOUBLES(&s, calibrate, penalty, MADE, 1);
    VALUES(&s, calibrate, y, MADE, n_observed);
    test_subject(&s, kernels, 0, 0);
  }
}

int main(void) {
  for (size_t i = 0; cpu_kernels_available(i); i++) {
    const struct cpu_kernels *kernels = cpu_kernels_available(i);
    printf("kernels: %s\n", kernels->name);
    for (int round = 0; round < 12; round++) {
      test_stem(kernels);
      test_block(kernels, 1);
      test_block(kernels, -1);
      test_attend(kernels);
      test_dense(kernels);
      test_observed_frame(kernels);
    }
  }
  return check_end();
}
