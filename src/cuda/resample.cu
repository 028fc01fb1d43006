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

/* Where each observed pixel falls: interval (n, M), -1 before the covered ones and n_rest behind them, and weight (n, M) */
static __global__ void locate(int *interval, double *weight, struct spd_resample s, size_t n) {
  const double scale = grid_scale(s);
  CUDA_EACH(at, n * s.n_observed) {
    const double wave = (double)s.wave_observed[at % s.n_observed] / (1.0 + (double)s.z[at / s.n_observed]);
    if (!spd_covered(wave, s.wave_rest, s.n_rest)) {
      interval[at] = wave < (double)s.wave_rest[0] ? -1 : (int)s.n_rest;
      weight[at] = 0;
      continue;
    }
    const size_t j = spd_rest_index(wave, s.wave_rest, s.n_rest, scale);
    const double low = (double)s.wave_rest[j], high = (double)s.wave_rest[j + 1];
    interval[at] = (int)j;
    weight[at] = (wave - low) / (high - low);
  }
}

/* Restframe pixel j is an end of the intervals j - 1 and j: it gathers from the observed pixels that fall into them, in order. */
static __global__ void backward(struct spd_resample s, const int *interval, const double *weight, size_t n) {
  CUDA_EACH(at, n * s.n_rest) {
    const size_t row = at / s.n_rest * s.n_observed;
    const int j = (int)(at % s.n_rest), first = j > 0 ? j - 1 : 0;
    size_t m = 0, end = s.n_observed; /* the first pixel of these intervals, by bisection */
    while (m < end) {
      const size_t middle = m + (end - m) / 2;
      if (interval[row + middle] >= first) end = middle;
      else m = middle + 1;
    }
    float dx = 0;
    for (; m < s.n_observed && interval[row + m] <= j; m++) {
      const double w = weight[row + m];
      dx += (float)((interval[row + m] == j ? 1.0 - w : w) * (double)s.dy[row + m]);
    }
    s.dx[at] = dx;
  }
}

static __global__ void __launch_bounds__(CUDA_THREADS) redshift_backward(struct spd_resample s, const int *interval) {
  __shared__ double scratch[CUDA_THREADS];
  const double z = (double)s.z[blockIdx.x];
  const float *x = s.x + blockIdx.x * s.n_rest, *dy = s.dy + blockIdx.x * s.n_observed;
  double dz = 0;
  for (size_t m = threadIdx.x; m < s.n_observed; m += CUDA_THREADS) {
    const int j = interval[blockIdx.x * s.n_observed + m];
    if (j < 0 || (size_t)j >= s.n_rest) continue;
    const double wave = (double)s.wave_observed[m] / (1.0 + z), low = (double)s.wave_rest[j], high = (double)s.wave_rest[j + 1];
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
  const size_t count = n * s->n_observed;
  size_t at = 0;
  SPD_TRY(cuda_reserve(backend, cuda_room(count * sizeof(double)) + cuda_room(count * sizeof(int)), error));
  double *weight = (double *)cuda_take(backend, &at, count * sizeof(double));
  int *interval = (int *)cuda_take(backend, &at, count * sizeof(int));
  CUDA_LAUNCH(locate, cuda_blocks(backend, count), CUDA_THREADS, interval, weight, *s, n);
  if (s->dx) CUDA_LAUNCH(backward, cuda_blocks(backend, n * s->n_rest), CUDA_THREADS, *s, interval, weight, n);
  if (s->dz) CUDA_LAUNCH(redshift_backward, n, CUDA_THREADS, *s, interval);
  return SPD_STATUS_OK;
}
