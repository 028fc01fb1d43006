/* Distances between all pairs of a batch. Those of the restframe models are made of products, |x|^2 + |x'|^2 - 2 x x', of spectra less the
 * batch's mean, which leaves few digits to cancel; the gradient is one more product. */
#include <string.h>

#include "core/median.h"
#include "cpu/cpu.h"
#include "network/scalar.h"

enum { COLUMNS = 128, ROWS = 32 };

struct call {
  const struct spd_backend *backend;
  const struct spd_similarity *s;
  size_t n;
  double *work;    /* (threads, to - from) */
  float *packed;   /* `centred` */
  float *products; /* (N, N): of the spectra, on and above the diagonal; then the derivatives by the pairs' differences */
};

static void median_row(const void *context, size_t i, int thread) {
  const struct call *c = context;
  const struct spd_similarity *s = c->s;
  const size_t count = s->to - s->from;
  const float *x = s->rest + i * s->n_rest + s->from;
  double *work = c->work + (size_t)thread * count;
  for (size_t r = 0; r < count; r++) work[r] = x[r];
  const float middle = (float)spd_select(work, count, (count - 1) / 2);
  size_t at = 0;
  while (at + 1 < count && x[at] != middle) at++;
  s->middle[i] = (uint32_t)(s->from + at);
  s->median[i] = middle > SPD_LEAST_MEDIAN ? middle : SPD_LEAST_MEDIAN;
}

/* Some pixels of all spectra */
SPD_HOT static void centre(const struct spd_similarity *s, size_t n, size_t from, size_t width) {
  float mean[COLUMNS] = {0};
  for (size_t i = 0; i < n; i++) {
    const float *x = s->rest + i * s->n_rest + from, scale = 1.0f / s->median[i];
    SPD_SIMD
    for (size_t r = 0; r < width; r++) mean[r] += x[r] * scale;
  }
  for (size_t r = 0; r < width; r++) mean[r] /= (float)n;
  for (size_t i = 0; i < n; i++) {
    const float *x = s->rest + i * s->n_rest + from, *root = s->root + from, scale = 1.0f / s->median[i];
    float *to = s->centred + i * s->n_rest + from;
    SPD_SIMD
    for (size_t r = 0; r < width; r++) to[r] = root[r] * (x[r] * scale - mean[r]);
  }
}

static size_t pieces_of(size_t count, size_t piece) { return (count + piece - 1) / piece; }
static size_t piece_size(size_t count, size_t piece, size_t from) { return count - from < piece ? count - from : piece; }

static void centre_piece(const void *context, size_t piece, int thread) {
  (void)thread;
  const struct call *c = context;
  centre(c->s, c->n, piece * COLUMNS, piece_size(c->s->n_rest, COLUMNS, piece * COLUMNS));
}

static void products_piece(const void *context, size_t piece, int thread) {
  (void)thread;
  const struct call *c = context;
  const size_t from = piece * ROWS, rows = piece_size(c->n, ROWS, from), panel = cpu_kernels_of(c->backend)->panel, width = c->s->n_rest;
  for (size_t strip = from / panel; strip < pieces_of(c->n, panel); strip++)
    cpu_multiply_packed(c->backend, c->products + from * c->n + strip * panel, c->n, rows, strip, c->n, width, c->s->centred + from * width,
                        width, 1, c->packed);
}

static void distances_row(const void *context, size_t i, int thread) {
  (void)thread;
  const struct call *c = context;
  const struct spd_similarity *s = c->s;
  const size_t n = c->n, n_latent = s->n_latent;
  const float *x = s->latent + i * n_latent;
  float *spectral = s->spectral + i * n, *distance = s->distance + i * n;
  double *sums = s->sums + 2 * i;
  sums[0] = sums[1] = 0;
  for (size_t j = 0; j < n; j++) {
    const float product = j < i ? c->products[j * n + i] : c->products[i * n + j], *y = s->latent + j * n_latent;
    float sum = 0;
    for (size_t a = 0; a < n_latent; a++) sum += (x[a] - y[a]) * (x[a] - y[a]);
    spectral[j] = c->products[i * n + i] + c->products[j * n + j] - 2 * product;
    distance[j] = sum / (float)n_latent;
    sums[0] += spectral[j];
    sums[1] += distance[j];
  }
}

/* Sums over the rows of `sums`, in their order */
static void total(double all[2], const struct spd_similarity *s, size_t n) {
  all[0] = all[1] = 0;
  for (size_t i = 0; i < n; i++) all[0] += s->sums[2 * i], all[1] += s->sums[2 * i + 1];
}

static double pairs_of(size_t n) { return n > 1 ? (double)n * (double)(n - 1) : 1; }

/* k (d - D) of a row's pairs, in units of the means */
SPD_HOT static void differences(float *to, const struct spd_similarity *s, size_t n, size_t i) {
  const float *spectral = s->spectral + i * n, *distance = s->distance + i * n;
  const float of_spectral = (float)(s->slope / s->sums[2 * n]), of_distance = (float)(s->slope / s->sums[2 * n + 1]);
  SPD_SIMD
  for (size_t j = 0; j < n; j++) to[j] = of_distance * distance[j] - of_spectral * spectral[j];
}

SPD_HOT static float dissimilarity(const float *t, size_t n) {
  float sum = 0;
  SPD_SIMD_SUM(sum)
  for (size_t j = 0; j < n; j++) sum += spd_dissimilarity(t[j]);
  return sum;
}

SPD_HOT static void dissimilarity_slopes(float *t, size_t n, float factor) {
  SPD_SIMD
  for (size_t j = 0; j < n; j++) t[j] = factor * spd_dissimilarity_slope(t[j]);
}

static void loss_row(const void *context, size_t i, int thread) {
  (void)thread;
  const struct call *c = context;
  float *t = c->products + i * c->n;
  differences(t, c->s, c->n, i);
  c->s->loss[i] = ((double)dissimilarity(t, c->n) - (double)spd_dissimilarity(t[i])) / (double)c->n;
}

static spd_status reserve(struct call *c, struct spd_backend *backend, struct spd_error *error) {
  const size_t threads = (size_t)cpu_of(backend)->threads, work = (c->s->to - c->s->from) * threads * 2;
  const size_t packed = cpu_pack_size(backend, c->n, c->s->n_rest), first = work > packed ? work : packed;
  float *memory;
  SPD_TRY(cpu_arena(&memory, backend, (first + 15) / 16 * 16 + c->n * c->n, error));
  c->work = (double *)(void *)memory;
  c->packed = memory;
  c->products = memory + (first + 15) / 16 * 16;
  return SPD_STATUS_OK;
}

spd_status cpu_similarity_forward(struct spd_backend *backend, const struct spd_similarity *s, size_t n, struct spd_error *error) {
  struct call call = {backend, s, n, NULL, NULL, NULL};
  double all[2];
  SPD_TRY(reserve(&call, backend, error));
  cpu_parallel(backend, n, median_row, &call);
  cpu_parallel(backend, pieces_of(s->n_rest, COLUMNS), centre_piece, &call);
  cpu_pack(backend, call.packed, n, s->n_rest, s->centred, 1, s->n_rest);
  cpu_parallel(backend, pieces_of(n, ROWS), products_piece, &call);
  cpu_parallel(backend, n, distances_row, &call);
  total(all, s, n);
  for (size_t k = 0; k < 2; k++) s->sums[2 * n + k] = s->scale_free ? all[k] / pairs_of(n) + SPD_LEAST_DISTANCE : 1;
  cpu_parallel(backend, n, loss_row, &call);
  return SPD_STATUS_OK;
}

/* ---- backward ---- */

/* Derivatives by d - D, and their sums times D and d */
static void slopes_row(const void *context, size_t i, int thread) {
  (void)thread;
  const struct call *c = context;
  const struct spd_similarity *s = c->s;
  const size_t n = c->n;
  float *t = c->products + i * n;
  double *sums = s->sums + 2 * i;
  differences(t, s, n, i);
  dissimilarity_slopes(t, n, (float)(s->factor * s->slope / ((double)n * (double)n)));
  sums[0] = sums[1] = 0;
  for (size_t j = 0; j < n; j++) {
    sums[0] += (double)t[j] * (double)s->spectral[i * n + j];
    sums[1] += (double)t[j] * (double)s->distance[i * n + j];
  }
}

/* The gradient of a spectrum is sum_j 4 c_ij (x_i - x_j), with the derivatives c by D: `spectral` becomes this matrix. The same of the
 * latents, whose sums are short. */
static void coefficients_row(const void *context, size_t i, int thread) {
  (void)thread;
  const struct call *c = context;
  const struct spd_similarity *s = c->s;
  const size_t n = c->n, n_latent = s->n_latent;
  const double *unit = s->sums + 2 * n, *mean = unit + 2; /* mean: what each pair gets through the units */
  const float *t = c->products + i * n, *x = s->latent + i * n_latent;
  float *spectral = s->spectral + i * n;
  double diagonal = 0;
  for (size_t j = 0; j < n; j++) {
    const double by_spectral = j == i ? 0 : 4 * (mean[0] - (double)t[j] / unit[0]);
    diagonal += by_spectral;
    spectral[j] = (float)-by_spectral;
  }
  spectral[i] = (float)diagonal;
  for (size_t a = 0; a < n_latent; a++) {
    double sum = 0;
    for (size_t j = 0; j < n; j++) sum += ((double)t[j] / unit[1] - mean[1]) * ((double)x[a] - (double)s->latent[j * n_latent + a]);
    s->dlatent[i * n_latent + a] = (float)(4 * sum / (double)n_latent);
  }
}

static void spectra_piece(const void *context, size_t piece, int thread) {
  (void)thread;
  const struct call *c = context;
  const size_t from = piece * COLUMNS, width = c->s->n_rest;
  cpu_multiply(c->backend, c->s->drest + from, width, 0, c->n, piece_size(width, COLUMNS, from), c->n, c->s->spectral, c->n, 1,
               c->s->centred + from, width, 1);
}

/* From the gradient at root x to that at the model, also through its median */
SPD_HOT static double unscale(float *restrict d, const float *restrict root, const float *restrict rest, float scale, size_t n) {
  double product = 0;
  SPD_SIMD_SUM(product)
  for (size_t r = 0; r < n; r++) {
    d[r] *= root[r] * scale;
    product += (double)d[r] * (double)rest[r];
  }
  return product;
}

static void median_backward_row(const void *context, size_t i, int thread) {
  (void)thread;
  const struct spd_similarity *s = ((const struct call *)context)->s;
  const size_t row = i * s->n_rest;
  const double product = unscale(s->drest + row, s->root, s->rest + row, 1.0f / s->median[i], s->n_rest);
  if (s->median[i] > SPD_LEAST_MEDIAN) s->drest[row + s->middle[i]] -= (float)(product / (double)s->median[i]);
}

spd_status cpu_similarity_backward(struct spd_backend *backend, const struct spd_similarity *s, size_t n, struct spd_error *error) {
  struct call call = {backend, s, n, NULL, NULL, NULL};
  double all[2];
  SPD_TRY(reserve(&call, backend, error));
  cpu_parallel(backend, n, slopes_row, &call);
  total(all, s, n);
  for (size_t k = 0; k < 2; k++) {
    const double unit = s->sums[2 * n + k];
    s->sums[2 * n + 2 + k] = s->scale_free ? all[k] / (unit * unit * pairs_of(n)) : 0;
  }
  cpu_parallel(backend, n, coefficients_row, &call);
  cpu_parallel(backend, pieces_of(s->n_rest, COLUMNS), spectra_piece, &call);
  cpu_parallel(backend, n, median_backward_row, &call);
  return SPD_STATUS_OK;
}
