/* Copies of spectra at other redshifts: one block finds a row's largest valid flux, then each pixel is made by itself. */
#include "cuda/cuda.h"

static __global__ void __launch_bounds__(CUDA_THREADS) largest_valid(float *largest, struct spd_augment s) {
  __shared__ float of_threads[CUDA_THREADS];
  const size_t row = blockIdx.x * s.n_observed;
  float mine = 0;
  for (size_t m = threadIdx.x; m < s.n_observed; m += CUDA_THREADS)
    if (s.ivar[row + m] > 0 && s.flux[row + m] > mine) mine = s.flux[row + m];
  of_threads[threadIdx.x] = mine;
  __syncthreads();
  for (int half = CUDA_THREADS / 2; half > 0; half /= 2) {
    if ((int)threadIdx.x < half && of_threads[threadIdx.x + half] > of_threads[threadIdx.x])
      of_threads[threadIdx.x] = of_threads[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) largest[blockIdx.x] = of_threads[0];
}

static __global__ void make_pixels(struct spd_augment s, const float *largest, size_t n) {
  const size_t width = s.n_observed, size = spd_block_size(s.masked, width);
  const double scale = (double)(width - 1) / ((double)s.wave_observed[width - 1] - (double)s.wave_observed[0]);
  CUDA_EACH(at, n * width) {
    const size_t i = at / width, m = at % width, row = at - m;
    const uint64_t key = s.key[i];
    const float z = spd_augmented_redshift(key, s.z_low, s.z_high);
    const size_t from = spd_block_from(key, size, width);
    const double seen_at = (double)s.wave_observed[m] * ((1.0 + (double)s.z[i]) / (1.0 + (double)z));
    float flux = 0, ivar = 0;
    if (spd_covered(seen_at, s.wave_observed, width) && !(m >= from && m < from + size)) {
      const size_t j = spd_rest_index(seen_at, s.wave_observed, width, scale);
      const double low = (double)s.wave_observed[j], high = (double)s.wave_observed[j + 1];
      spd_augmented_pixel(&flux, &ivar, s.flux + row, s.ivar + row, j, (seen_at - low) / (high - low),
                          spd_augmented_noise(key, m, s.noisy, s.noise * (double)largest[i]));
    }
    s.to_flux[at] = flux;
    s.to_ivar[at] = ivar;
    if (m == 0) s.to_z[i] = z;
  }
}

spd_status cuda_augment(struct spd_backend *backend, const struct spd_augment *s, size_t n, struct spd_error *error) {
  size_t at = 0;
  SPD_TRY(cuda_reserve(backend, cuda_room(n * sizeof(float)), error));
  float *largest = (float *)cuda_take(backend, &at, n * sizeof(float));
  CUDA_LAUNCH(largest_valid, n, CUDA_THREADS, largest, *s);
  CUDA_LAUNCH(make_pixels, cuda_blocks(backend, n * s->n_observed), CUDA_THREADS, *s, largest, n);
  return SPD_STATUS_OK;
}
