/* Products of matrices: against sums in double over random and degenerate shapes, on each instruction set; and their promise, that an
 * element's bits depend on nothing but its terms: a row of a linear layer alone has the bits of the same row at any place of any
 * batch, with any number of threads. CBLAS, where there is one, is held against the same sums. */
#include "check.h"
#include "core/rng.h"
#include "cpu/cpu.h"
#include "cpu/create.h"

static uint64_t counter;
static size_t pick(size_t from, size_t to) { return from + (size_t)spd_below(spd_mix64(++counter), to - from + 1); }
static float noise(void) { return 2.0f * spd_uniform(12, 0, ++counter) - 1.0f; }

static float *noises(size_t count) {
  float *x = check_alloc((count + 1) * sizeof *x);
  for (size_t i = 0; i < count; i++) x[i] = noise();
  return x;
}

static struct spd_backend *backend_with(const struct cpu_kernels *kernels, int threads) {
  struct spd_backend *backend;
  MUST(spd_cpu_create(&backend, threads, error));
  cpu_of(backend)->kernels = kernels;
  return backend;
}

/* What a sum of products of numbers uniform in -1 ... 1 may be off. A partial sum of j terms is of order sqrt(j) / 3 and is rounded by
 * 2^-24 of that at most, 0.58 of it in the mean square, so a chain of K ends 1.2e-8 K / sqrt(2) off in the mean square: 8e-9 K. The
 * largest of some thousand is five times as far off; twice that for the sums of blocks. A chain has `block` terms. */
static double allowed(size_t terms, size_t block) {
  const double chain = (double)(terms < block ? terms : block), chains = terms > block ? (double)terms / (double)block : 1;
  return 1e-6 + 8e-8 * chain * sqrt(chains);
}
enum { OWN = 256 };

/* C (m, n) in rows of n + gap, whose gap nobody touches; A and B stored either way */
static void test_shape(struct spd_backend *backend, size_t m, size_t n, size_t k, int transposed_a, int transposed_b, int add) {
  const size_t gap = pick(0, 3), ldc = n + gap, lda = (transposed_a ? m : k) + pick(0, 2), ldb = (transposed_b ? k : n) + pick(0, 2);
  const size_t a_row = transposed_a ? 1 : lda, a_depth = transposed_a ? lda : 1, b_row = transposed_b ? 1 : ldb,
               b_column = transposed_b ? ldb : 1;
  float *a = noises((transposed_a ? k : m) * lda), *b = noises((transposed_b ? n : k) * ldb), *c = noises(m * ldc),
        *blas = check_alloc((m * ldc + 1) * sizeof *blas);
  double *want = check_doubles(c, m * ldc), worst = 0, worst_blas = 0;
  size_t touched = 0;
  memcpy(blas, c, m * ldc * sizeof *blas);
  for (size_t i = 0; i < m; i++)
    for (size_t j = 0; j < n; j++) {
      double sum = add ? want[i * ldc + j] : 0;
      for (size_t l = 0; l < k; l++) sum += (double)a[i * a_row + l * a_depth] * (double)b[l * b_row + j * b_column];
      want[i * ldc + j] = sum;
    }
  cpu_multiply(backend, c, ldc, add, m, n, k, a, a_row, a_depth, b, b_row, b_column);
  if (m > 0 && n > 0 && k > 0) cpu_gemm(transposed_a, transposed_b, m, n, k, a, lda, b, ldb, add ? 1.0f : 0.0f, blas, ldc);
  for (size_t i = 0; i < m; i++)
    for (size_t j = 0; j < ldc; j++) {
      const double d = fabs((double)c[i * ldc + j] - want[i * ldc + j]), d_blas = fabs((double)blas[i * ldc + j] - want[i * ldc + j]);
      if (j >= n)
        touched += d != 0;
      else if (!(d <= worst))
        worst = d;
      if (j < n && k > 0 && !(d_blas <= worst_blas)) worst_blas = d_blas;
    }
  CHECK(worst <= allowed(k, OWN), "%zu x %zu x %zu%s%s%s: %.3g off, %.3g are allowed", m, n, k, transposed_a ? ", A transposed" : "",
        transposed_b ? ", B transposed" : "", add ? ", added" : "", worst, allowed(k, OWN));
  CHECK(worst_blas <= allowed(k, k + 1), "CBLAS, %zu x %zu x %zu: %.3g off", m, n, k, worst_blas);
  CHECK(touched == 0, "%zu x %zu x %zu: %zu elements between the rows are touched", m, n, k, touched);
  free(a), free(b), free(c), free(blas), free(want);
}

/* The packed way has the same bits. */
static void test_packed(struct spd_backend *backend, size_t m, size_t n, size_t k) {
  const size_t panel = cpu_kernels_of(backend)->panel;
  float *a = noises(m * k), *b = noises(n * k), *c = noises(m * n), *whole = noises(m * n);
  float *packed = check_alloc((cpu_pack_size(backend, n, k) + 1) * sizeof *packed);
  cpu_multiply(backend, whole, n, 0, m, n, k, a, k, 1, b, 1, k);
  cpu_pack(backend, packed, n, k, b, 1, k);
  for (size_t strip = 0; strip * panel < n; strip++) cpu_multiply_packed(backend, c + strip * panel, n, m, strip, n, k, a, k, 1, packed);
  CHECK(memcmp(c, whole, m * n * sizeof *c) == 0, "%zu x %zu x %zu: packed beforehand, other bits", m, n, k);
  free(a), free(b), free(c), free(whole), free(packed);
}

/* A layer over a batch of n, and over each of its rows alone */
static void test_rows(const struct cpu_kernels *kernels, size_t n, size_t in, size_t out) {
  struct spd_backend *one = backend_with(kernels, 1), *three = backend_with(kernels, 3);
  struct spd_dense d = {.in = in, .out = out, .activation = SPD_ACTIVATION_SPECULATOR, .offset = 1};
  float *x = noises(n * in), *w = noises(out * in), *b = noises(out), *beta = noises(out), *gamma = noises(out), *dy = noises(n * out);
  float *y = noises(n * out), *v = noises(n * out), *dx = noises(n * in), *alone = noises(out), *dalone = noises(in);
  size_t other = 0, other_gradient = 0;
  d.w = w, d.b = b, d.beta = beta, d.gamma = gamma, d.x = x, d.y = y, d.v = v, d.dx = dx;
  float *dw[2] = {noises(out * in), noises(out * in)};
  d.dw = dw[0];
  d.dy = check_alloc((n * out + 1) * sizeof *dy);
  memcpy(d.dy, dy, n * out * sizeof *dy);
  MUST(three->ops->dense_forward(three, &d, n, error));
  MUST(three->ops->dense_backward(three, &d, n, error));
  float *dv = d.dy;
  d.dw = dw[1], d.dy = check_alloc((n * out + 1) * sizeof *dy); /* the same with one thread */
  memcpy(d.dy, dy, n * out * sizeof *dy);
  MUST(one->ops->dense_backward(one, &d, n, error));
  CHECK(memcmp(dw[0], dw[1], out * in * sizeof **dw) == 0, "%s, %zu to %zu: the weights' gradient depends on the threads", kernels->name,
        in, out);
  double worst = 0;
  for (size_t o = 0; o < out; o++)
    for (size_t i = 0; i < in; i++) {
      double sum = 0;
      for (size_t row = 0; row < n; row++) sum += (double)dv[row * out + o] * (double)x[row * in + i];
      if (!(fabs(sum - (double)dw[0][o * in + i]) <= worst)) worst = fabs(sum - (double)dw[0][o * in + i]);
    }
  CHECK(worst <= allowed(n, OWN), "%s, %zu to %zu: the weights' gradient is %.3g off", kernels->name, in, out, worst);
  free(d.dy), free(dw[0]), free(dw[1]);
  d.dw = NULL;
  for (size_t i = 0; i < n; i++) {
    d.x = x + i * in, d.y = alone, d.v = check_alloc((out + 1) * sizeof *alone), d.dx = dalone;
    d.dy = check_alloc((out + 1) * sizeof *dy);
    memcpy(d.dy, dy + i * out, out * sizeof *dy);
    MUST(one->ops->dense_forward(one, &d, 1, error));
    MUST(one->ops->dense_backward(one, &d, 1, error));
    other += memcmp(alone, y + i * out, out * sizeof *alone) != 0;
    other_gradient += memcmp(dalone, dx + i * in, in * sizeof *dalone) != 0;
    free(d.v), free(d.dy);
  }
  CHECK(other == 0, "%s, %zu to %zu: %zu of %zu rows have other bits alone", kernels->name, in, out, other, n);
  CHECK(other_gradient == 0, "%s, %zu to %zu: the gradients of %zu of %zu rows have other bits alone", kernels->name, in, out,
        other_gradient, n);
  free(x), free(w), free(b), free(beta), free(gamma), free(dy), free(y), free(v), free(dx), free(alone), free(dalone), free(dv);
  one->ops->destroy(one);
  three->ops->destroy(three);
}

/* Those with fused multiply-add agree to the last bit. */
static void test_instruction_sets(size_t m, size_t n, size_t k) {
  float *a = noises(m * k), *b = noises(n * k), *first = NULL;
  for (size_t i = 0; cpu_kernels_available(i); i++) {
    if (strcmp(cpu_kernels_available(i)->name, "baseline") == 0) continue;
    struct spd_backend *backend = backend_with(cpu_kernels_available(i), 1);
    float *c = noises(m * n);
    cpu_multiply(backend, c, n, 0, m, n, k, a, k, 1, b, n, 1);
    if (first) CHECK(memcmp(c, first, m * n * sizeof *c) == 0, "%s: other bits, %zu x %zu x %zu", cpu_kernels_available(i)->name, m, n, k);
    if (first)
      free(c);
    else
      first = c;
    backend->ops->destroy(backend);
  }
  free(a), free(b), free(first);
}

int main(void) {
  const size_t sizes[] = {0, 1, 2, 5, 6, 7, 13, 16, 17, 64, 97};
  const size_t n_sizes = sizeof sizes / sizeof *sizes;
  for (size_t i = 0; cpu_kernels_available(i); i++) {
    struct spd_backend *backend = backend_with(cpu_kernels_available(i), 2);
    printf("kernels: %s\n", cpu_kernels_available(i)->name);
    for (size_t m = 0; m < n_sizes; m++)
      for (size_t n = 0; n < n_sizes; n++)
        for (size_t k = 0; k < n_sizes; k += 2) test_shape(backend, sizes[m], sizes[n], sizes[k], (int)(m & 1), (int)(n & 1), (int)(k & 1));
    for (int j = 0; j < 60; j++) {
      const size_t m = pick(1, 100), n = pick(1, 150), k = pick(1, 700);
      test_shape(backend, m, n, k, j & 1, j >> 1 & 1, j >> 2 & 1);
      test_packed(backend, m, n, k);
    }
    test_shape(backend, 11, 67, 5881, 0, 0, 0);
    for (int j = 0; j < 12; j++) test_rows(cpu_kernels_available(i), pick(1, 70), pick(1, 300), pick(1, 200));
    test_rows(cpu_kernels_available(i), 70, 257, 128);
    test_rows(cpu_kernels_available(i), 5, 64, 601);
    backend->ops->destroy(backend);
  }
  for (int j = 0; j < 20; j++) test_instruction_sets(pick(1, 60), pick(1, 150), pick(1, 600));
  return check_end();
}
