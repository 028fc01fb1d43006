/* The line spread function: a correlation with the kernel divided by its sum, zero beyond the array. */
#include "cuda/cuda.h"

static __device__ double kernel_sum(const struct spd_lsf &s) {
  double sum = 0;
  for (size_t j = 0; j < s.size; j++) sum += (double)s.kernel[j];
  return sum;
}

/* out_m = sum_j k_j / sum x_{m + j - half}; reversed runs the kernel backwards, which is the transpose */
static __global__ void correlate(float *out, const float *x, struct spd_lsf s, size_t n, int reversed) {
  const size_t half = s.size / 2, last = s.n_observed;
  const double sum = kernel_sum(s);
  CUDA_EACH(at, n * last) {
    const size_t m = at % last;
    const float *row = x + (at - m);
    double total = 0;
    for (size_t j = 0; j < s.size; j++) {
      if (m + j < half || m + j - half >= last) continue;
      total += (double)s.kernel[reversed ? s.size - 1 - j : j] * (double)row[m + j - half];
    }
    out[at] = (float)(total / sum);
  }
}

/* partial (n, size): P_j = sum dy_m x_{m + j - half} of a spectrum */
static __global__ void __launch_bounds__(CUDA_THREADS) products(struct spd_lsf s) {
  __shared__ double scratch[CUDA_THREADS];
  const size_t half = s.size / 2, last = s.n_observed;
  const float *x = s.x + blockIdx.x * last, *dy = s.dy + blockIdx.x * last;
  for (size_t j = 0; j < s.size; j++) {
    const size_t from = j < half ? half - j : 0, to = last + half - j < last ? last + half - j : last;
    double product = 0;
    for (size_t m = from + threadIdx.x; m < to; m += CUDA_THREADS) product += (double)dy[m] * (double)x[m + j - half];
    product = cuda_block_sum<CUDA_THREADS>(scratch, product);
    if (threadIdx.x == 0) s.partial[blockIdx.x * s.size + j] = product;
  }
}

/* dk_j = (P_j - sum_i k_i P_i / sum) / sum, the second term from the division. One block. */
static __global__ void __launch_bounds__(CUDA_THREADS) kernel_gradient(struct spd_lsf s, size_t n) {
  __shared__ double scratch[CUDA_THREADS];
  const double sum = kernel_sum(s);
  double weighted = 0;
  for (size_t j = 0; j < s.size; j++) {
    double total = 0;
    for (size_t i = threadIdx.x; i < n; i += CUDA_THREADS) total += s.partial[i * s.size + j];
    total = cuda_block_sum<CUDA_THREADS>(scratch, total);
    weighted += (double)s.kernel[j] * total;
    if (threadIdx.x == 0) s.partial[j] = total; /* row 0 of this column has been read */
  }
  __syncthreads();
  for (size_t j = threadIdx.x; j < s.size; j += CUDA_THREADS) s.dkernel[j] = (float)((s.partial[j] - weighted / sum) / sum);
}

spd_status cuda_lsf_forward(struct spd_backend *backend, const struct spd_lsf *s, size_t n, struct spd_error *error) {
  CUDA_LAUNCH(correlate, cuda_blocks(backend, n * s->n_observed), CUDA_THREADS, s->y, s->x, *s, n, 0);
  return SPD_STATUS_OK;
}

spd_status cuda_lsf_backward(struct spd_backend *backend, const struct spd_lsf *s, size_t n, struct spd_error *error) {
  if (s->dx) CUDA_LAUNCH(correlate, cuda_blocks(backend, n * s->n_observed), CUDA_THREADS, s->dx, s->dy, *s, n, 1);
  if (!s->dkernel) return SPD_STATUS_OK;
  CUDA_LAUNCH(products, n, CUDA_THREADS, *s);
  CUDA_LAUNCH(kernel_gradient, 1, CUDA_THREADS, *s, n);
  return SPD_STATUS_OK;
}
