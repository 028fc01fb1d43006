/* Normal equations of the latents: weights and the objective first, then the sums over pixels, one warp for each, in double. */
#include "cuda/cuda.h"

enum { WARPS = 8 };

/* weight, product: (n, M), zero for pixels that do not count */
static __global__ void __launch_bounds__(CUDA_THREADS) weigh(struct spd_normal s, float *weight, float *product) {
  __shared__ double scratch[CUDA_THREADS];
  const size_t i = blockIdx.x, n = s.directions.n_observed, row = i * n;
  size_t from, to;
  spd_coverage_lsf(&from, &to, (double)s.z[i], s.wave_rest, s.n_rest, s.wave_observed, n, s.lsf);
  double sum = 0;
  for (size_t m = threadIdx.x; m < n; m += CUDA_THREADS) {
    float w = 0, p = 0;
    if (m >= from && m < to) sum += spd_residual(&w, &p, s.flux[row + m], s.model[row + m], s.ivar[row + m], s.freedom);
    weight[row + m] = w, product[row + m] = p;
  }
  sum = cuda_block_sum<CUDA_THREADS>(scratch, sum);
  if (threadIdx.x != 0) return;
  const struct spd_calibration &c = s.directions.calibration;
  for (size_t a = 0; a < c.terms; a++) {
    const double off = c.coefficient[i * c.terms + a] - (a == 0);
    sum += 0.5 * c.precision[a] * off * off;
  }
  s.objective[i] = sum;
}

/* Direction a of spectrum i */
struct direction {
  const float *stored;
  const double *coefficient; /* of the calibration, or NULL */
  size_t n, terms, term;     /* term: of the calibration's own direction */
  __device__ direction(const struct spd_directions &d, size_t i, size_t a)
      : coefficient(NULL), n(d.n_observed), terms(d.calibration.terms) {
    const size_t rows = d.count - terms - (d.slope != NULL);
    term = a >= rows && a < rows + terms ? a - rows : terms;
    stored = a < rows ? d.jacobian + (i * rows + a) * n : term < terms ? d.calibration.model + i * n : d.slope + i * n;
    if (terms) coefficient = d.calibration.coefficient + i * terms;
  }
  __device__ float at(size_t m) const {
    double p[SPD_MAX_CALIBRATION];
    if (!terms) return stored[m];
    if (term == terms) return (float)spd_calibration_at(coefficient, terms, m, n) * stored[m];
    spd_legendre(p, terms, m, n);
    return (float)p[term] * stored[m];
  }
};

/* What the expectation of the calibration's coefficient that is direction a adds to the gradient, and to the matrix's diagonal */
static __device__ double expected_gradient(const struct spd_directions &d, size_t i, size_t a) {
  const struct spd_calibration &c = d.calibration;
  const size_t first = d.count - c.terms - (d.slope != NULL);
  return a < first || a >= first + c.terms ? 0 : -c.precision[a - first] * (c.coefficient[i * c.terms + a - first] - (a == first));
}
static __device__ double expected_precision(const struct spd_directions &d, size_t a) {
  const size_t first = d.count - d.calibration.terms - (d.slope != NULL);
  return a < first || a >= first + d.calibration.terms ? 0 : d.calibration.precision[a - first];
}

/* Entries of a spectrum: K of the gradient, then the lower triangle of the matrix, row by row */
static __global__ void __launch_bounds__(WARPS *CUDA_LANES) sum_pixels(struct spd_normal s, const float *weight, const float *product) {
  const struct spd_directions &d = s.directions;
  const size_t i = blockIdx.x, k = d.count, m = d.n_observed;
  const float *w = weight + i * m, *p = product + i * m;
  size_t a = 0, b = threadIdx.y; /* of entry number threadIdx.y + j WARPS: b < K is the gradient's while a is 0 */
  for (; b < k; b += WARPS) {
    const direction x(d, i, b);
    double sum = 0;
    for (size_t l = threadIdx.x; l < m; l += CUDA_LANES) sum += (double)x.at(l) * (double)p[l];
    for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
    if (threadIdx.x == 0 && s.gradient) s.gradient[i * k + b] = sum + expected_gradient(d, i, b);
  }
  if (!s.matrix) return;
  for (b = threadIdx.y;; b += WARPS) {
    while (a < k && b > a) b -= ++a; /* the next rows of the triangle: row a has a + 1 entries */
    if (a >= k) return;
    const direction x(d, i, a), y(d, i, b);
    double sum = 0;
    for (size_t l = threadIdx.x; l < m; l += CUDA_LANES) sum += (double)w[l] * (double)x.at(l) * (double)y.at(l);
    for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
    if (a == b) sum += expected_precision(d, a);
    if (threadIdx.x == 0) s.matrix[(i * k + a) * k + b] = s.matrix[(i * k + b) * k + a] = sum;
  }
}

spd_status cuda_normal(struct spd_backend *backend, const struct spd_normal *s, size_t n, struct spd_error *error) {
  const size_t bytes = n * s->directions.n_observed * sizeof(float);
  size_t at = 0;
  SPD_TRY(cuda_reserve(backend, 2 * cuda_room(bytes), error));
  float *weight = (float *)cuda_take(backend, &at, bytes), *product = (float *)cuda_take(backend, &at, bytes);
  CUDA_LAUNCH(weigh, n, CUDA_THREADS, *s, weight, product);
  if (s->gradient || s->matrix) CUDA_LAUNCH(sum_pixels, n, dim3(CUDA_LANES, WARPS), *s, weight, product);
  return SPD_STATUS_OK;
}

/* With v = L' d, the variance of a pixel is the sum of squares of v. */
static __global__ void __launch_bounds__(CUDA_THREADS) spread(struct spd_spread s) {
  const size_t i = blockIdx.x, k = s.directions.count, m = s.directions.n_observed;
  const double *factor = s.factor + i * k * k;
  for (size_t l = threadIdx.x; l < m; l += CUDA_THREADS) {
    float variance = 0;
    for (size_t a = 0; a < k; a++) {
      float v = 0;
      for (size_t b = a; b < k; b++) v += (float)factor[b * k + a] * direction(s.directions, i, b).at(l);
      variance += v * v;
    }
    s.y[i * m + l] = sqrtf(variance);
  }
}

spd_status cuda_spread(struct spd_backend *backend, const struct spd_spread *s, size_t n, struct spd_error *error) {
  CUDA_LAUNCH(spread, n, CUDA_THREADS, *s);
  return SPD_STATUS_OK;
}
