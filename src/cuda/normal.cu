/* Normal equations of the latents: weights and the objective first, then the sums over pixels, one warp for each, in double. */
#include "cuda/cuda.h"

enum { WARPS = 8 };

/* weight, product: (n, M), zero for pixels that do not count */
static __global__ void __launch_bounds__(CUDA_THREADS) weigh(struct spd_normal s, float *weight, float *product) {
  __shared__ double scratch[CUDA_THREADS];
  const size_t i = blockIdx.x, row = i * s.n_observed;
  size_t from, to;
  spd_coverage_lsf(&from, &to, (double)s.z[i], s.wave_rest, s.n_rest, s.wave_observed, s.n_observed, s.lsf);
  double sum = 0;
  for (size_t m = threadIdx.x; m < s.n_observed; m += CUDA_THREADS) {
    float w = 0, p = 0;
    if (m >= from && m < to) sum += spd_residual(&w, &p, s.flux[row + m], s.model[row + m], s.ivar[row + m], s.freedom);
    weight[row + m] = w, product[row + m] = p;
  }
  sum = cuda_block_sum<CUDA_THREADS>(scratch, sum);
  if (threadIdx.x == 0) s.objective[i] = sum;
}

/* Row a of the Jacobian (K, M) of spectrum i; with `slope` that is the last one. */
template <class Stage>
static __device__ const float *direction(const Stage &s, size_t i, size_t a) {
  const size_t rows = s.directions - (s.slope != NULL);
  return a < rows ? s.jacobian + (i * rows + a) * s.n_observed : s.slope + i * s.n_observed;
}

/* Entries of a spectrum: K of the gradient, then the lower triangle of the matrix, row by row */
static __global__ void __launch_bounds__(WARPS *CUDA_LANES) sum_pixels(struct spd_normal s, const float *weight, const float *product) {
  const size_t i = blockIdx.x, k = s.directions, m = s.n_observed;
  const float *w = weight + i * m, *p = product + i * m;
  size_t a = 0, b = threadIdx.y; /* of entry number threadIdx.y + j WARPS: b < K is the gradient's while a is 0 */
  for (; b < k; b += WARPS) {
    const float *x = direction(s, i, b);
    double sum = 0;
    for (size_t l = threadIdx.x; l < m; l += CUDA_LANES) sum += (double)x[l] * (double)p[l];
    for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
    if (threadIdx.x == 0 && s.gradient) s.gradient[i * k + b] = sum;
  }
  if (!s.matrix) return;
  for (b = threadIdx.y;; b += WARPS) {
    while (a < k && b > a) b -= ++a; /* the next rows of the triangle: row a has a + 1 entries */
    if (a >= k) return;
    const float *x = direction(s, i, a), *y = direction(s, i, b);
    double sum = 0;
    for (size_t l = threadIdx.x; l < m; l += CUDA_LANES) sum += (double)w[l] * (double)x[l] * (double)y[l];
    for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
    if (threadIdx.x == 0) s.matrix[(i * k + a) * k + b] = s.matrix[(i * k + b) * k + a] = sum;
  }
}

spd_status cuda_normal(struct spd_backend *backend, const struct spd_normal *s, size_t n, struct spd_error *error) {
  const size_t bytes = n * s->n_observed * sizeof(float);
  size_t at = 0;
  SPD_TRY(cuda_reserve(backend, 2 * cuda_room(bytes), error));
  float *weight = (float *)cuda_take(backend, &at, bytes), *product = (float *)cuda_take(backend, &at, bytes);
  CUDA_LAUNCH(weigh, n, CUDA_THREADS, *s, weight, product);
  if (s->gradient || s->matrix) CUDA_LAUNCH(sum_pixels, n, dim3(CUDA_LANES, WARPS), *s, weight, product);
  return SPD_STATUS_OK;
}

/* With v = L' J, the variance of a pixel is the sum of squares of v. */
static __global__ void __launch_bounds__(CUDA_THREADS) spread(struct spd_spread s) {
  const size_t i = blockIdx.x, k = s.directions;
  const double *factor = s.factor + i * k * k;
  for (size_t l = threadIdx.x; l < s.n_observed; l += CUDA_THREADS) {
    float variance = 0;
    for (size_t a = 0; a < k; a++) {
      float v = 0;
      for (size_t b = a; b < k; b++) v += (float)factor[b * k + a] * direction(s, i, b)[l];
      variance += v * v;
    }
    s.y[i * s.n_observed + l] = sqrtf(variance);
  }
}

spd_status cuda_spread(struct spd_backend *backend, const struct spd_spread *s, size_t n, struct spd_error *error) {
  CUDA_LAUNCH(spread, n, CUDA_THREADS, *s);
  return SPD_STATUS_OK;
}
