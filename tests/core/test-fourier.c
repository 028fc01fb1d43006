/* The convolution in the frequency domain against plain products, on random shapes: odd lengths, one channel, one spectrum,
 * batches that are a multiple of nothing, and the network's own shapes. */
#include "check.h"
#include "core/rng.h"
#include "cpu/cpu.h"

struct shape {
  size_t length, kernel, in, out, n;
};

static uint64_t counter;
static size_t pick(size_t from, size_t to) { return from + (size_t)spd_below(spd_mix64(++counter), to - from + 1); }
static float noise(void) { return 2.0f * spd_uniform(11, 0, ++counter) - 1.0f; }

static void fill_rows(float *x, const struct spd_rows *rows, size_t n) {
  for (size_t i = 0; i < n; i++)
    for (size_t j = 0; j < rows->length * rows->channels; j++)
      x[(i * rows->stride + rows->lead) * rows->channels + j] = noise();
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
  const struct spd_rows in = spd_rows_for_kernel(s->length, s->in, s->kernel),
                        out = spd_rows_for_kernel(s->length, s->out, s->kernel);
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
      for (size_t o = 0; o < s->out; o++)
        flipped[((s->kernel - 1 - k) * s->out + o) * s->in + i] = w[(k * s->in + i) * s->out + o];

  cpu_conv(backend, y[0], x, w, &in, s->kernel, s->out, s->n);
  cpu_conv(backend, dx[0], dy, flipped, &out, s->kernel, s->in, s->n);
  cpu_conv_weight_gradient(backend, dw[0], x, dy, &in, s->kernel, s->out, s->n);
  int forward, backward, ignored;
  MUST(cpu_fourier_forward(&forward, backend, y[1], x, w, &in, s->kernel, s->out, s->n, error));
  MUST(cpu_fourier_backward(&backward, backend, dx[1], dw[1], dy, x, w, &in, s->kernel, s->out, s->n, error));
  CHECK(forward && backward, "no plan for length %zu, kernel %zu, %zu to %zu", s->length, s->kernel, s->in, s->out);
  const struct spd_rows weights = {s->kernel, s->in * s->out, 0, s->kernel};
  const double ey = difference(y[1], y[0], &out, s->n), ex = difference(dx[1], dx[0], &in, s->n),
               ew = difference(dw[1], dw[0], &weights, 1);
  CHECK(ey < 1e-5 && ex < 1e-5 && ew < 1e-5, "length %zu, kernel %zu, %zu to %zu, %zu spectra: y %.2g, dx %.2g, dw %.2g",
        s->length, s->kernel, s->in, s->out, s->n, ey, ex, ew);

  /* each gradient alone is the same as both together */
  float *alone = check_alloc(x_size * sizeof *alone);
  MUST(cpu_fourier_backward(&ignored, backend, alone, NULL, dy, x, w, &in, s->kernel, s->out, s->n, error));
  CHECK(difference(alone, dx[1], &in, s->n) == 0, "the input gradient depends on whether the weight gradient is wanted");
  MUST(cpu_fourier_backward(&ignored, backend, NULL, dw[0], dy, x, w, &in, s->kernel, s->out, s->n, error));
  CHECK(memcmp(dw[0], dw[1], w_size * sizeof *w) == 0, "the weight gradient depends on whether the input gradient is wanted");
  for (int i = 0; i < 2; i++) free(y[i]), free(dx[i]), free(dw[i]);
  free(x), free(dy), free(w), free(flipped), free(alone);
}

int main(void) {
  struct spd_backend *backend = NULL;
  MUST(spd_cpu_create(&backend, 2, error));
  backend->ops->enter(backend);
  const struct shape own[] = {{785, 11, 32, 48, 3}, {72, 21, 32, 64, 5}, {1, 3, 1, 1, 1}, {2, 21, 3, 1, 2}, {157, 11, 1, 5, 1}};
  for (int always = 0; always < 2; always++) { /* the network's shapes by the cost rule, all by force */
    ((struct cpu_backend *)backend)->always_fourier = always;
    for (size_t i = 0; i < (always ? sizeof own / sizeof *own : 2); i++) test_shape(backend, &own[i]);
  }
  for (int i = 0; i < 60; i++) {
    const struct shape s = {pick(1, 200), 2 * pick(1, 12) + 1, pick(1, 20), pick(1, 20), pick(1, 7)};
    test_shape(backend, &s);
  }
  backend->ops->leave(backend);
  backend->ops->destroy(backend);
  return check_end();
}
