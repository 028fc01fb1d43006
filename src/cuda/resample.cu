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
    float y = 0, slope = 0;
    if (spd_covered(wave, s.wave_rest, s.n_rest)) {
      const size_t j = spd_rest_index(wave, s.wave_rest, s.n_rest, scale);
      const double low = (double)s.wave_rest[j], high = (double)s.wave_rest[j + 1];
      y = (float)((double)x[j] + (wave - low) / (high - low) * ((double)x[j + 1] - (double)x[j]));
      slope = (float)(-((double)x[j + 1] - (double)x[j]) / (high - low) * wave / (1.0 + (double)s.z[i]));
    }
    s.y[at] = y;
    if (s.slope) s.slope[at] = slope;
  }
}

/* Which interval of the restframe grid a wavelength is in: -1 below the grid, n_rest above it */
static __device__ int interval_of(double wave, const struct spd_resample &s, double scale) {
  if (!spd_covered(wave, s.wave_rest, s.n_rest)) return wave < (double)s.wave_rest[0] ? -1 : (int)s.n_rest;
  return (int)spd_rest_index(wave, s.wave_rest, s.n_rest, scale);
}

/* Where the observed pixels of a spectrum fall */
struct places {
  int *interval; /* (n, M) */
  float *weight; /* (n, M): of the interval's right end */
  int *start;    /* (n, R): the first pixel in interval j or a later one, for intervals from first to last */
  int *ends;     /* (n, 2): the first and the last interval that has a pixel; -1 where none has */
};

static __global__ void locate(struct places to, struct spd_resample s, size_t n) {
  const double scale = grid_scale(s);
  const int above = (int)s.n_rest;
  CUDA_EACH(at, n * s.n_observed) {
    const size_t m = at % s.n_observed, i = at / s.n_observed;
    const double stretch = 1.0 + (double)s.z[i], wave = (double)s.wave_observed[m] / stretch;
    const int here = interval_of(wave, s, scale);
    const int before = m > 0 ? interval_of((double)s.wave_observed[m - 1] / stretch, s, scale) : -1;
    to.interval[at] = here;
    to.weight[at] = 0;
    if (here >= 0 && here < above) {
      const double low = (double)s.wave_rest[here], high = (double)s.wave_rest[here + 1];
      to.weight[at] = (float)((wave - low) / (high - low));
      int *const start = to.start + i * s.n_rest;
      if (before < 0)
        start[here] = (int)m, to.ends[2 * i] = here;
      else
        for (int j = before + 1; j <= here; j++) start[j] = (int)m;
      if (m + 1 == s.n_observed) to.ends[2 * i + 1] = here;
    } else if (here == above && before >= 0 && before < above) {
      to.ends[2 * i + 1] = before;
    }
  }
}

/* Restframe pixel j is an end of the intervals j - 1 and j: it gathers from the observed pixels that fall into them, in order. */
static __global__ void backward(struct spd_resample s, struct places from, size_t n) {
  CUDA_EACH(at, n * s.n_rest) {
    const size_t i = at / s.n_rest, row = i * s.n_observed;
    const int j = (int)(at % s.n_rest), first = from.ends[2 * i], last = from.ends[2 * i + 1];
    float dx = 0;
    if (first >= 0 && j >= first && j <= last + 1) {
      const int *const interval = from.interval + row;
      size_t m = (size_t)from.start[i * s.n_rest + (size_t)(j > first ? j - 1 : first)];
      for (; m < s.n_observed && interval[m] <= j; m++) {
        const double w = (double)from.weight[row + m];
        dx += (float)((interval[m] == j ? 1.0 - w : w) * (double)s.dy[row + m]);
      }
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
  const size_t observed = n * s->n_observed * sizeof(int), rest = n * s->n_rest * sizeof(int), ends = 2 * n * sizeof(int);
  size_t at = 0;
  SPD_TRY(cuda_reserve(backend, 2 * cuda_room(observed) + cuda_room(rest) + cuda_room(ends), error));
  struct places places;
  places.interval = (int *)cuda_take(backend, &at, observed);
  places.weight = (float *)cuda_take(backend, &at, observed);
  places.start = (int *)cuda_take(backend, &at, rest);
  places.ends = (int *)cuda_take(backend, &at, ends);
  CUDA_TRY(cudaMemsetAsync(places.ends, 0xff, ends, cuda_of(backend)->stream));
  CUDA_LAUNCH(locate, cuda_blocks(backend, n * s->n_observed), CUDA_THREADS, places, *s, n);
  if (s->dx) CUDA_LAUNCH(backward, cuda_blocks(backend, n * s->n_rest), CUDA_THREADS, *s, places, n);
  if (s->dz) CUDA_LAUNCH(redshift_backward, n, CUDA_THREADS, *s, places.interval);
  return SPD_STATUS_OK;
}
