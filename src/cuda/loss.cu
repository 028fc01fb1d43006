/* l_n = 1/(2M) sum_m w_m (y_m - y'_m)^2 (paper eq. 1), and a penalty; the gradient is that of the batch's mean. */
#include "cuda/cuda.h"

static __device__ void weighted_range(size_t *from, size_t *to, const struct spd_loss &s, size_t i) {
  spd_coverage_lsf(from, to, (double)s.z[i], s.wave_rest, s.n_rest, s.wave_observed, s.n_observed, s.lsf);
}

static __global__ void __launch_bounds__(CUDA_THREADS) forward(struct spd_loss s) {
  __shared__ double scratch[CUDA_THREADS];
  const size_t i = blockIdx.x, row = i * s.n_observed;
  size_t from, to;
  weighted_range(&from, &to, s, i);
  double sum = 0;
  for (size_t m = from + threadIdx.x; m < to; m += CUDA_THREADS) {
    const double difference = (double)s.flux[row + m] - (double)s.model[row + m];
    sum += (double)s.ivar[row + m] * difference * difference;
  }
  sum = cuda_block_sum<CUDA_THREADS>(scratch, sum);
  if (threadIdx.x == 0) s.loss[i] = (s.penalty ? sum + s.penalty[i] : sum) / (2.0 * (double)s.n_observed);
}

static __global__ void backward(struct spd_loss s, float scale) {
  const size_t i = blockIdx.x, row = i * s.n_observed;
  size_t from, to;
  weighted_range(&from, &to, s, i);
  for (size_t m = threadIdx.x; m < s.n_observed; m += blockDim.x)
    s.dmodel[row + m] = m >= from && m < to ? scale * s.ivar[row + m] * (s.model[row + m] - s.flux[row + m]) : 0;
}

spd_status cuda_loss_forward(struct spd_backend *backend, const struct spd_loss *s, size_t n, struct spd_error *error) {
  CUDA_LAUNCH(forward, n, CUDA_THREADS, *s);
  return SPD_STATUS_OK;
}

spd_status cuda_loss_backward(struct spd_backend *backend, const struct spd_loss *s, size_t n, struct spd_error *error) {
  CUDA_LAUNCH(backward, n, CUDA_THREADS, *s, (float)(1.0 / ((double)s->n_observed * (double)(s->total ? s->total : n))));
  return SPD_STATUS_OK;
}
