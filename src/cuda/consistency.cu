/* The latents of copies against those of their spectra: some thousand numbers, for one block. */
#include "cuda/cuda.h"

static __device__ double latent_mean(double *scratch, const struct spd_consistency &s, size_t n, size_t a) {
  double sum = 0;
  for (size_t i = threadIdx.x; i < n; i += CUDA_THREADS) sum += (double)s.latent[i * s.n_latent + a];
  return cuda_block_sum<CUDA_THREADS>(scratch, sum) / (double)n;
}

/* u; every thread gets it */
static __device__ double size_of_latents(double *scratch, const struct spd_consistency &s, size_t n) {
  if (!s.scale_free) return 1;
  double sum = 0;
  for (size_t a = 0; a < s.n_latent; a++) {
    const double mean = latent_mean(scratch, s, n, a);
    for (size_t i = threadIdx.x; i < n; i += CUDA_THREADS) {
      const double difference = (double)s.latent[i * s.n_latent + a] - mean;
      sum += difference * difference;
    }
  }
  sum = cuda_block_sum<CUDA_THREADS>(scratch, sum);
  return (n > 1 ? sum / ((double)s.n_latent * (double)(n - 1)) : 0) + SPD_LEAST_DISTANCE;
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
  const double unit = (double)s.n_latent * s.sigma * s.sigma * size_of_latents(scratch, s, n);
  for (size_t i = threadIdx.x; i < s.copies; i += CUDA_THREADS) s.loss[i] = spd_consistency_loss(distance(s, i, unit));
}

static __global__ void __launch_bounds__(CUDA_THREADS) backward(struct spd_consistency s, size_t n) {
  __shared__ double scratch[CUDA_THREADS];
  const double u = size_of_latents(scratch, s, n), unit = (double)s.n_latent * s.sigma * s.sigma * u;
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
  if (!s.scale_free || n < 2) return;
  through_unit = cuda_block_sum<CUDA_THREADS>(scratch, through_unit);
  const double factor = through_unit / u * 2 / ((double)s.n_latent * (double)(n - 1));
  for (size_t a = 0; a < s.n_latent; a++) {
    const double mean = latent_mean(scratch, s, n, a);
    for (size_t i = threadIdx.x; i < n; i += CUDA_THREADS)
      s.dlatent[i * s.n_latent + a] -= (float)(factor * ((double)s.latent[i * s.n_latent + a] - mean));
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
