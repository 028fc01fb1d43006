/* The convolution in the frequency domain against plain products, on random shapes: odd lengths, one channel, one spectrum,
 * batches that are a multiple of nothing, and the network's own shapes. */
#include "check.h"
#include "core/rng.h"
#include "cpu/cpu.h"
#include "cpu/create.h"

struct shape {
  size_t length, kernel, in, out, n;
};

static uint64_t counter;
static size_t pick(size_t from, size_t to) { return from + (size_t)spd_below(spd_mix64(++counter), to - from + 1); }
static float noise(void) { return 2.0f * spd_uniform(11, 0, ++counter) - 1.0f; }

static void fill_rows(float *x, const struct spd_rows *rows, size_t n) {
  for (size_t i = 0; i < n; i++)
    for (size_t j = 0; j < rows->length * rows->channels; j++) x[(i * rows->stride + rows->lead) * rows->channels + j] = noise();
}

/* Largest difference over the positions, relative to the root mean square of what is wanted. */
static double difference(const float *got, const float *want, const struct spd_rows *rows, size_t n) {
  double worst = 0, square = 0;
  for (size_t i = 0; i < n; i++)
    for (size_t j = 0; j < rows->length * rows->channels; j++) {
      const size_t place = (i * rows->stride + rows->lead) * rows->channels + j;
      const double d = fabs((double)got[place] - want[place]);
      if (!(d <= worst)) worst = d;
      square += (double)want[place] * want[place];
    }
  return worst / sqrt(square / (double)(n * rows->length * rows->channels) + 1e-30);
}

static void test_shape(struct spd_backend *backend, const struct shape *s) {
  const struct spd_rows in = spd_rows_for_kernel(s->length, s->in, s->kernel), out = spd_rows_for_kernel(s->length, s->out, s->kernel);
  const size_t x_size = spd_rows_size(&in, s->n), y_size = spd_rows_size(&out, s->n), w_size = s->kernel * s->in * s->out;
  float *x = check_alloc(x_size * sizeof *x), *y[2], *dy = check_alloc(y_size * sizeof *dy), *dx[2], *dw[2];
  float *w = check_alloc(w_size * sizeof *w), *flipped = check_alloc(w_size * sizeof *flipped);
  for (int i = 0; i < 2; i++) {
    y[i] = check_alloc(y_size * sizeof *y[i]);
    dx[i] = check_alloc(x_size * sizeof *dx[i]);
    dw[i] = check_alloc(w_size * sizeof *dw[i]);
  }
  fill_rows(x, &in, s->n);
  fill_rows(dy, &out, s->n);
  for (size_t i = 0; i < w_size; i++) w[i] = noise() / sqrtf((float)(s->kernel * s->in));
  for (size_t k = 0; k < s->kernel; k++)
    for (size_t i = 0; i < s->in; i++)
      for (size_t o = 0; o < s->out; o++) flipped[((s->kernel - 1 - k) * s->out + o) * s->in + i] = w[(k * s->in + i) * s->out + o];

  cpu_conv(backend, y[0], x, w, &in, s->kernel, s->out, s->n);
  cpu_conv(backend, dx[0], dy, flipped, &out, s->kernel, s->in, s->n);
  cpu_conv_weight_gradient(backend, dw[0], x, dy, &in, s->kernel, s->out, s->n);
  int forward, backward, ignored;
  struct cpu_convolution c = {&in, s->kernel, s->out, x, w, 0, y[1], dy, dx[1], dw[1], NULL, NULL, NULL};
  MUST(cpu_fourier_forward(&forward, backend, &c, s->n, error));
  MUST(cpu_fourier_backward(&backward, backend, &c, s->n, error));
  CHECK(forward && backward, "no plan for length %zu, kernel %zu, %zu to %zu", s->length, s->kernel, s->in, s->out);
  const struct spd_rows weights = {s->kernel, s->in * s->out, 0, s->kernel};
  const double ey = difference(y[1], y[0], &out, s->n), ex = difference(dx[1], dx[0], &in, s->n),
               ew = difference(dw[1], dw[0], &weights, 1);
  CHECK(ey < 1e-5 && ex < 1e-5 && ew < 1e-5, "length %zu, kernel %zu, %zu to %zu, %zu spectra: y %.2g, dx %.2g, dw %.2g", s->length,
        s->kernel, s->in, s->out, s->n, ey, ex, ew);

  /* each gradient alone is the same as both together */
  float *alone = check_alloc(x_size * sizeof *alone);
  c.dx = alone, c.dw = NULL;
  MUST(cpu_fourier_backward(&ignored, backend, &c, s->n, error));
  CHECK(difference(alone, dx[1], &in, s->n) == 0, "the input gradient depends on whether the weight gradient is wanted");
  c.dx = NULL, c.dw = dw[0];
  MUST(cpu_fourier_backward(&ignored, backend, &c, s->n, error));
  CHECK(memcmp(dw[0], dw[1], w_size * sizeof *w) == 0, "the weight gradient depends on whether the input gradient is wanted");
  for (int i = 0; i < 2; i++) free(y[i]), free(dx[i]), free(dw[i]);
  free(x), free(dy), free(w), free(flipped), free(alone);
}

/* Taps whose planes are kept give the same bits as fresh ones, also after they have changed; and so does a spectrum alone. */
static void test_kept(struct spd_backend *backend, const struct shape *s) {
  const struct spd_rows in = spd_rows_for_kernel(s->length, s->in, s->kernel), out = spd_rows_for_kernel(s->length, s->out, s->kernel);
  const size_t x_size = spd_rows_size(&in, s->n), y_size = spd_rows_size(&out, s->n), w_size = s->kernel * s->in * s->out;
  float *x = check_alloc(x_size * sizeof *x), *w = check_alloc(w_size * sizeof *w), *y[3];
  for (int i = 0; i < 3; i++) y[i] = check_alloc(y_size * sizeof *y[i]);
  fill_rows(x, &in, s->n);
  for (uint64_t version = 1; version <= 2; version++) {
    int done;
    for (size_t i = 0; i < w_size; i++) w[i] = noise();
    struct cpu_convolution c = {.in = &in, .kernel = s->kernel, .out = s->out, .x = x, .w = w, .y = y[0]};
    MUST(cpu_fourier_forward(&done, backend, &c, s->n, error));
    c.version = version, c.y = y[1];
    MUST(cpu_fourier_forward(&done, backend, &c, s->n, error));
    for (size_t i = 0; i < s->n; i++) { /* the last first */
      c.x = x + (s->n - 1 - i) * in.stride * s->in, c.y = y[2] + (s->n - 1 - i) * out.stride * s->out;
      c.version = i % 2 ? 0 : version;
      MUST(cpu_fourier_forward(&done, backend, &c, 1, error));
    }
    for (int i = 1; i < 3; i++)
      CHECK(difference(y[i], y[0], &out, s->n) == 0, "length %zu, kernel %zu, %zu to %zu, %zu spectra: %s", s->length, s->kernel, s->in,
            s->out, s->n, i == 1 ? "kept taps give other bits" : "a spectrum alone has other bits");
  }
  for (int i = 0; i < 3; i++) free(y[i]);
  free(x), free(w);
}

static struct spd_backend *backend_with(const struct cpu_kernels *kernels, int always_fourier, int threads) {
  struct spd_backend *backend = NULL;
  MUST(spd_cpu_create(&backend, threads, error));
  cpu_of(backend)->kernels = kernels;
  cpu_of(backend)->always_fourier = always_fourier;
  MUST(backend->ops->enter(backend, error));
  return backend;
}

static void close_backend(struct spd_backend *backend) {
  backend->ops->leave(backend);
  backend->ops->destroy(backend);
}

/* The same bits for any number of threads, however the work is then cut. */
static void test_threads(const struct cpu_kernels *kernels, const struct shape *s) {
  const struct spd_rows in = spd_rows_for_kernel(s->length, s->in, s->kernel), out = spd_rows_for_kernel(s->length, s->out, s->kernel);
  const size_t x_size = spd_rows_size(&in, s->n), y_size = spd_rows_size(&out, s->n), w_size = s->kernel * s->in * s->out;
  float *x = check_alloc(x_size * sizeof *x), *dy = check_alloc(y_size * sizeof *dy), *w = check_alloc(w_size * sizeof *w);
  float *first[3] = {NULL, NULL, NULL};
  const struct spd_rows weights = {s->kernel, s->in * s->out, 0, s->kernel};
  fill_rows(x, &in, s->n);
  fill_rows(dy, &out, s->n);
  for (size_t i = 0; i < w_size; i++) w[i] = noise();
  const int threads[] = {1, 2, 3, 11};
  for (size_t t = 0; t < sizeof threads / sizeof *threads; t++) {
    float *y = check_alloc(y_size * sizeof *y), *dx = check_alloc(x_size * sizeof *dx), *dw = check_alloc(w_size * sizeof *dw);
    const struct cpu_convolution c = {&in, s->kernel, s->out, x, w, 0, y, dy, dx, dw, NULL, NULL, NULL};
    struct spd_backend *backend = backend_with(kernels, 1, threads[t]);
    int done;
    MUST(cpu_fourier_forward(&done, backend, &c, s->n, error));
    MUST(cpu_fourier_backward(&done, backend, &c, s->n, error));
    close_backend(backend);
    if (t == 0) {
      first[0] = y, first[1] = dx, first[2] = dw;
      continue;
    }
    CHECK(
        difference(y, first[0], &out, s->n) == 0 && difference(dx, first[1], &in, s->n) == 0 && difference(dw, first[2], &weights, 1) == 0,
        "length %zu, kernel %zu, %zu to %zu, %zu spectra: %d threads give other bits than one", s->length, s->kernel, s->in, s->out, s->n,
        threads[t]);
    free(y), free(dx), free(dw);
  }
  free(x), free(dy), free(w), free(first[0]), free(first[1]), free(first[2]);
}

static size_t different(const float *a, const float *b, size_t count, double tolerance) {
  double square = 0;
  size_t found = 0;
  for (size_t i = 0; i < count; i++) square += (double)a[i] * a[i];
  for (size_t i = 0; i < count; i++) found += !(fabs((double)a[i] - b[i]) <= tolerance * sqrt(square / (double)count + 1e-30));
  return found;
}

/* A whole block both ways: the rows that norm and pool take and give while they are in the cache are the right ones. */
static void test_block(struct spd_backend *fast, struct spd_backend *plain, const struct shape *s, size_t pool) {
  const size_t pooled = (s->length + 2 * (pool / 2) - pool) / pool + 1;
  struct spd_block b = {.kernel = s->kernel, .pool = pool};
  b.in = spd_rows_for_kernel(s->length, s->in, s->kernel);
  b.conv = spd_rows_for_kernel(s->length, s->out, s->kernel);
  b.out = spd_rows_for_kernel(pooled, s->out, 3);
  const size_t x_size = spd_rows_size(&b.in, s->n), u_size = spd_rows_size(&b.conv, s->n), y_size = spd_rows_size(&b.out, s->n),
               w_size = s->kernel * s->in * s->out, channels = s->n * s->out;
  float *x = check_alloc(x_size * sizeof *x), *w = check_alloc(w_size * sizeof *w), *slope = check_alloc(s->out * sizeof *slope),
        *dy = check_alloc(y_size * sizeof *dy), *results[2][5];
  fill_rows(x, &b.in, s->n);
  fill_rows(dy, &b.out, s->n);
  for (size_t i = 0; i < w_size; i++) w[i] = noise();
  for (size_t i = 0; i < s->out; i++) slope[i] = 0.5f * noise(); /* rising and falling */
  b.x.at = x, b.w = w, b.slope = slope, b.dy.at = dy;
  b.u.at = check_alloc(u_size * sizeof(float));
  b.mean = check_alloc(channels * sizeof *b.mean), b.inverse_sd = check_alloc(channels * sizeof *b.inverse_sd);
  b.partial = check_alloc(channels * sizeof *b.partial);
  b.argmax = check_alloc(channels * pooled * sizeof *b.argmax);
  float *u = b.u.at;
  for (int i = 0; i < 2; i++) {
    struct spd_backend *backend = i ? fast : plain;
    const size_t sizes[] = {y_size, y_size, w_size, s->out, x_size};
    for (int j = 0; j < 5; j++) results[i][j] = check_alloc(sizes[j] * sizeof(float));
    b.y.at = results[i][0], b.dw = results[i][2], b.dslope = results[i][3], b.dx.at = results[i][4];
    MUST(backend->ops->block_forward(backend, &b, s->n, error));
    MUST(backend->ops->block_backward(backend, &b, s->n, error));
    b.y.at = results[i][1], b.u.at = NULL; /* and where no backward follows */
    MUST(backend->ops->block_forward(backend, &b, s->n, error));
    b.u.at = u;
    float *dx = b.dx.at;
    for (size_t k = 0; k < s->n; k++) { /* gap rows of dx hold anything */
      memset(dx + k * b.in.stride * s->in, 0, b.in.lead * s->in * sizeof(float));
      memset(dx + (k * b.in.stride + b.in.lead + s->length) * s->in, 0, (b.in.stride - b.in.lead - s->length) * s->in * sizeof(float));
    }
    memset(dx + s->n * b.in.stride * s->in, 0, 2 * b.in.lead * s->in * sizeof(float));
  }
  CHECK(memcmp(results[1][0], results[1][1], y_size * sizeof(float)) == 0, "y depends on whether the map is kept");
  const char *const names[] = {"y", "y without a map", "dw", "dslope", "dx"};
  const size_t sizes[] = {y_size, y_size, w_size, s->out, x_size};
  for (int j = 0; j < 5; j++) {
    const size_t found = different(results[0][j], results[1][j], sizes[j], 2e-5);
    CHECK(found == 0, "length %zu, kernel %zu, pool %zu, %zu to %zu, %zu spectra: %zu of %zu values of %s differ", s->length, s->kernel,
          pool, s->in, s->out, s->n, found, sizes[j], names[j]);
  }
  for (int i = 0; i < 2; i++)
    for (int j = 0; j < 5; j++) free(results[i][j]);
  free(x), free(w), free(slope), free(dy), free(u), free(b.mean), free(b.inverse_sd), free(b.partial);
  free(b.argmax);
}

int main(void) {
  const struct shape own[] = {{785, 11, 128, 256, 2}, {72, 21, 256, 512, 3}, {785, 11, 32, 48, 9}, {72, 21, 32, 64, 5},
                              {1, 3, 1, 1, 1},        {2, 21, 3, 1, 2},      {157, 11, 1, 5, 1}};
  for (size_t k = 0; cpu_kernels_available(k); k++) {
    const struct cpu_kernels *kernels = cpu_kernels_available(k);
    printf("kernels: %s\n", kernels->name);
    struct spd_backend *by_cost = backend_with(kernels, 0, 2), *fast = backend_with(kernels, 1, 2), *plain = backend_with(kernels, -1, 2);
    for (size_t i = 0; i < 2; i++) test_shape(by_cost, &own[i]); /* the network's shapes are worth it */
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
      if (i > 1) test_shape(fast, &own[i]);
      if (i > 1) test_kept(fast, &own[i]);
      if (i > 1) test_threads(kernels, &own[i]);
    }
    for (int i = 0; i < 60; i++) {
      const struct shape s = {pick(1, 200), 2 * pick(1, 12) + 1, pick(1, 20), pick(1, 20), pick(1, 7)};
      test_shape(fast, &s);
      if (i % 4 == 0) test_kept(fast, &s);
      if (i % 4 == 1) test_threads(kernels, &s);
      if (i % 3 == 0 && s.length > 30) test_block(fast, plain, &s, i % 2 ? 1 : 2 * pick(1, 5) + 1);
    }
    close_backend(by_cost), close_backend(fast), close_backend(plain);
  }
  return check_end();
}
