/* The flux calibration of each spectrum, one block for each: sums over pixels in double, solved by one thread. */
#include "cuda/cuda.h"

static __global__ void __launch_bounds__(CUDA_THREADS) forward(struct spd_calibrate s) {
  __shared__ double scratch[CUDA_THREADS], sums[SPD_MAX_CALIBRATION * SPD_MAX_CALIBRATION];
  const size_t i = blockIdx.x, n = s.n_observed, row = i * n, terms = s.calibration.terms;
  const float *x = s.calibration.model + row;
  double *const coefficient = s.calibration.coefficient + i * terms;
  double matrix[SPD_MAX_CALIBRATION * SPD_MAX_CALIBRATION] = {0}, right[SPD_MAX_CALIBRATION] = {0}, p[SPD_MAX_CALIBRATION];
  size_t from, to;
  spd_coverage_lsf(&from, &to, (double)s.z[i], s.wave_rest, s.n_rest, s.wave_observed, n, s.lsf);
  for (size_t m = from + threadIdx.x; m < to; m += CUDA_THREADS) {
    const double weighted = (double)s.ivar[row + m] * (double)x[m];
    spd_legendre(p, terms, m, n);
    for (size_t a = 0; a < terms; a++) {
      right[a] += weighted * (double)s.flux[row + m] * p[a];
      for (size_t b = 0; b <= a; b++) matrix[a * terms + b] += weighted * (double)x[m] * p[a] * p[b];
    }
  }
  for (size_t a = 0; a < terms; a++) {
    const double sum = cuda_block_sum<CUDA_THREADS>(scratch, right[a]);
    if (threadIdx.x == 0) coefficient[a] = sum;
    for (size_t b = 0; b <= a; b++) {
      const double entry = cuda_block_sum<CUDA_THREADS>(scratch, matrix[a * terms + b]);
      if (threadIdx.x == 0) sums[a * terms + b] = entry;
    }
  }
  if (threadIdx.x == 0) s.penalty[i] = spd_calibration_solve(coefficient, sums, s.calibration.precision, terms);
  __syncthreads();
  for (size_t m = threadIdx.x; m < n; m += CUDA_THREADS)
    s.y[row + m] = (float)(spd_calibration_at(coefficient, terms, m, n) * (double)x[m]);
}

static __global__ void __launch_bounds__(CUDA_THREADS) backward(struct spd_calibrate s) {
  const size_t i = blockIdx.x, n = s.n_observed, terms = s.calibration.terms;
  const double *coefficient = s.calibration.coefficient + i * terms;
  for (size_t m = threadIdx.x; m < n; m += CUDA_THREADS) s.dy[i * n + m] *= (float)spd_calibration_at(coefficient, terms, m, n);
}

spd_status cuda_calibrate_forward(struct spd_backend *backend, const struct spd_calibrate *s, size_t n, struct spd_error *error) {
  CUDA_LAUNCH(forward, n, CUDA_THREADS, *s);
  return SPD_STATUS_OK;
}

spd_status cuda_calibrate_backward(struct spd_backend *backend, const struct spd_calibrate *s, size_t n, struct spd_error *error) {
  CUDA_LAUNCH(backward, n, CUDA_THREADS, *s);
  return SPD_STATUS_OK;
}
