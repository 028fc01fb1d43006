/* The latents of copies against those of their spectra: some thousand numbers, for one block. */
#include "cuda/cuda.h"

/* |s_i - s_{i + 1}|^2 / (2 S), of which u is the geometric mean; the last row is beside the first. */
static __device__ double step(const struct spd_consistency &s, size_t n, size_t i) {
  const float *x = s.latent + i * s.n_latent, *y = s.latent + (i + 1) % n * s.n_latent;
  double sum = 0;
  for (size_t a = 0; a < s.n_latent; a++) sum += ((double)x[a] - (double)y[a]) * ((double)x[a] - (double)y[a]);
  return sum / (2 * (double)s.n_latent) + SPD_LEAST_DISTANCE;
}

/* S sigma^2 u; every thread gets it */
static __device__ double unit_of(double *scratch, const struct spd_consistency &s, size_t n) {
  double logs = 0;
  for (size_t i = threadIdx.x; s.scale_free && i < n; i += CUDA_THREADS) logs += log(step(s, n, i));
  return (double)s.n_latent * s.sigma * s.sigma * exp(cuda_block_sum<CUDA_THREADS>(scratch, logs) / (double)n);
}

static __device__ double distance(const struct spd_consistency &s, size_t i, double unit) {
  double sum = 0;
  for (size_t a = i * s.n_latent; a < (i + 1) * s.n_latent; a++) {
    const double difference = (double)s.copy[a] - (double)s.latent[a];
    sum += difference * difference;
  }
  return sum / unit;
}

static __global__ void __launch_bounds__(CUDA_THREADS) forward(struct spd_consistency s, size_t n) {
  __shared__ double scratch[CUDA_THREADS];
  const double unit = unit_of(scratch, s, n);
  for (size_t i = threadIdx.x; i < s.copies; i += CUDA_THREADS) s.loss[i] = spd_consistency_loss(distance(s, i, unit));
}

static __global__ void __launch_bounds__(CUDA_THREADS) backward(struct spd_consistency s, size_t n) {
  __shared__ double scratch[CUDA_THREADS];
  const double unit = unit_of(scratch, s, n);
  double through_unit = 0;
  for (size_t i = threadIdx.x; i < n; i += CUDA_THREADS) {
    const double q = i < s.copies ? distance(s, i, unit) : 0;
    const double slope = i < s.copies ? s.factor / (double)s.copies * spd_consistency_slope(q) : 0;
    through_unit += slope * q;
    for (size_t a = i * s.n_latent; a < (i + 1) * s.n_latent; a++) {
      s.dlatent[a] = 0;
      if (i >= s.copies) continue;
      s.dcopy[a] = (float)(slope * 2 * ((double)s.copy[a] - (double)s.latent[a]) / unit);
      s.dlatent[a] = -s.dcopy[a];
    }
  }
  if (!s.scale_free) return;
  through_unit = cuda_block_sum<CUDA_THREADS>(scratch, through_unit); /* and all of dlatent is written */
  for (size_t i = threadIdx.x; i < n; i += CUDA_THREADS) {            /* between the rows before and after */
    const size_t before = (i + n - 1) % n, next = (i + 1) % n;
    const double factor = through_unit / ((double)n * (double)s.n_latent);
    const double to_before = factor / step(s, n, before), to_next = factor / step(s, n, i);
    for (size_t a = 0; a < s.n_latent; a++) {
      const double here = (double)s.latent[i * s.n_latent + a];
      s.dlatent[i * s.n_latent + a] -= (float)(to_next * (here - (double)s.latent[next * s.n_latent + a]) +
                                               to_before * (here - (double)s.latent[before * s.n_latent + a]));
    }
  }
}

spd_status cuda_consistency_forward(struct spd_backend *backend, const struct spd_consistency *s, size_t n, struct spd_error *error) {
  CUDA_LAUNCH(forward, 1, CUDA_THREADS, *s, n);
  return SPD_STATUS_OK;
}

spd_status cuda_consistency_backward(struct spd_backend *backend, const struct spd_consistency *s, size_t n, struct spd_error *error) {
  CUDA_LAUNCH(backward, 1, CUDA_THREADS, *s, n);
  return SPD_STATUS_OK;
}
