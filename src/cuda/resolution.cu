/* Each spectrum's own resolution: a band matrix, linear between knots, zero beyond the array. */
#include "cuda/cuda.h"

/* Element k of the band of pixel m */
static __device__ double weight(const float *band, const struct spd_resolution &s, size_t m, size_t k) {
  const float *left = band + s.left[m] * s.size + k;
  return (double)(left[0] + s.part[m] * (left[s.size] - left[0]));
}

static __global__ void forward(struct spd_resolution s, size_t n) {
  const size_t half = s.size / 2, last = s.n_observed;
  CUDA_EACH(at, n * last) {
    const size_t row = at / last, m = at % last;
    const float *band = s.band + row / s.share * s.n_knots * s.size, *x = s.x + row * last;
    double sum = 0;
    for (size_t k = 0; k < s.size; k++) {
      if (m + k < half || m + k - half >= last) continue;
      sum += weight(band, s, m, k) * (double)x[m + k - half];
    }
    s.y[at] = (float)sum;
  }
}

/* dx_i = sum_k b_k(m) dy_m over the pixels m = i + half - k that see pixel i */
static __global__ void backward(struct spd_resolution s, size_t n) {
  const size_t half = s.size / 2, last = s.n_observed;
  CUDA_EACH(at, n * last) {
    const size_t row = at / last, i = at % last;
    const float *band = s.band + row / s.share * s.n_knots * s.size, *dy = s.dy + row * last;
    double sum = 0;
    for (size_t k = 0; k < s.size; k++) {
      if (i + half < k || i + half - k >= last) continue;
      const size_t m = i + half - k;
      sum += weight(band, s, m, k) * (double)dy[m];
    }
    s.dx[at] = (float)sum;
  }
}

static __global__ void gaussians(float *band, const float *sigma, size_t size, size_t count) {
  CUDA_EACH(i, count) spd_gaussian(band + i * size, sigma[i], size);
}

spd_status cuda_resolution_forward(struct spd_backend *backend, const struct spd_resolution *s, size_t n, struct spd_error *error) {
  CUDA_LAUNCH(forward, cuda_blocks(backend, n * s->n_observed), CUDA_THREADS, *s, n);
  return SPD_STATUS_OK;
}

spd_status cuda_resolution_backward(struct spd_backend *backend, const struct spd_resolution *s, size_t n, struct spd_error *error) {
  CUDA_LAUNCH(backward, cuda_blocks(backend, n * s->n_observed), CUDA_THREADS, *s, n);
  return SPD_STATUS_OK;
}

spd_status cuda_gaussians(struct spd_backend *backend, float *band, const float *sigma, size_t size, size_t count,
                          struct spd_error *error) {
  CUDA_LAUNCH(gaussians, cuda_blocks(backend, count), CUDA_THREADS, band, sigma, size, count);
  return SPD_STATUS_OK;
}
