/* Restframe to observed frame: y_m = x interpolated linearly at wave_m / (1 + z). Positions and weights in double. */
#include "cuda/cuda.h"

static __host__ __device__ double grid_scale(const struct spd_resample &s) {
  return (double)(s.n_rest - 1) / ((double)s.wave_rest[s.n_rest - 1] - (double)s.wave_rest[0]);
}

static __global__ void forward(struct spd_resample s, size_t n) {
  const double scale = grid_scale(s);
  CUDA_EACH(at, n * s.n_observed) {
    const size_t i = at / s.n_observed, m = at % s.n_observed;
    const double wave = (double)s.wave_observed[m] / (1.0 + (double)s.z[i]);
    const float *x = s.x + i * s.n_rest;
    float y = 0;
    if (spd_covered(wave, s.wave_rest, s.n_rest)) {
      const size_t j = spd_rest_index(wave, s.wave_rest, s.n_rest, scale);
      const double low = (double)s.wave_rest[j], high = (double)s.wave_rest[j + 1];
      y = (float)((double)x[j] + (wave - low) / (high - low) * ((double)x[j + 1] - (double)x[j]));
    }
    s.y[at] = y;
  }
}

/* Restframe pixel j is an end of the intervals j - 1 and j: it gathers from the observed pixels that fall into them, in order. */
static __global__ void backward(struct spd_resample s, size_t n) {
  const double scale = grid_scale(s);
  CUDA_EACH(at, n * s.n_rest) {
    const size_t i = at / s.n_rest, j = at % s.n_rest;
    const double z = (double)s.z[i];
    const float *dy = s.dy + i * s.n_observed;
    /* first covered pixel beyond node j - 1: those of interval j - 1 begin there */
    size_t m = 0, end = s.n_observed;
    while (m < end) {
      const size_t middle = m + (end - m) / 2;
      const double wave = (double)s.wave_observed[middle] / (1.0 + z);
      if (j < 2 ? wave >= (double)s.wave_rest[0] : wave > (double)s.wave_rest[j - 1]) end = middle;
      else m = middle + 1;
    }
    float dx = 0;
    for (; m < s.n_observed; m++) {
      const double wave = (double)s.wave_observed[m] / (1.0 + z);
      if (!spd_covered(wave, s.wave_rest, s.n_rest)) break;
      const size_t k = spd_rest_index(wave, s.wave_rest, s.n_rest, scale);
      if (k > j) break;
      if (k + 1 < j) continue;
      const double low = (double)s.wave_rest[k], high = (double)s.wave_rest[k + 1], weight = (wave - low) / (high - low);
      dx += (float)((k == j ? 1.0 - weight : weight) * (double)dy[m]);
    }
    s.dx[at] = dx;
  }
}

static __global__ void __launch_bounds__(CUDA_THREADS) redshift_backward(struct spd_resample s) {
  __shared__ double scratch[CUDA_THREADS];
  const double scale = grid_scale(s), z = (double)s.z[blockIdx.x];
  const float *x = s.x + blockIdx.x * s.n_rest, *dy = s.dy + blockIdx.x * s.n_observed;
  double dz = 0;
  for (size_t m = threadIdx.x; m < s.n_observed; m += CUDA_THREADS) {
    const double wave = (double)s.wave_observed[m] / (1.0 + z);
    if (!spd_covered(wave, s.wave_rest, s.n_rest)) continue;
    const size_t j = spd_rest_index(wave, s.wave_rest, s.n_rest, scale);
    const double low = (double)s.wave_rest[j], high = (double)s.wave_rest[j + 1];
    dz -= (double)dy[m] * ((double)x[j + 1] - (double)x[j]) / (high - low) * wave / (1.0 + z);
  }
  dz = cuda_block_sum<CUDA_THREADS>(scratch, dz);
  if (threadIdx.x == 0) s.dz[blockIdx.x] = dz;
}

spd_status cuda_resample_forward(struct spd_backend *backend, const struct spd_resample *s, size_t n, struct spd_error *error) {
  CUDA_LAUNCH(forward, cuda_blocks(backend, n * s->n_observed), CUDA_THREADS, *s, n);
  return SPD_STATUS_OK;
}

spd_status cuda_resample_backward(struct spd_backend *backend, const struct spd_resample *s, size_t n, struct spd_error *error) {
  if (s->dx) CUDA_LAUNCH(backward, cuda_blocks(backend, n * s->n_rest), CUDA_THREADS, *s, n);
  if (s->dz) CUDA_LAUNCH(redshift_backward, n, CUDA_THREADS, *s);
  return SPD_STATUS_OK;
}
