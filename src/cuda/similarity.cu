/* Distances between all pairs of a batch: those of the restframe models from products of centred spectra, see cpu/similarity.c. Pairs of a
 * row belong to one block. */
#include "cuda/cuda.h"

/* Unsigned numbers in the order of the floats */
static __device__ unsigned key_of(float x) {
  const unsigned bits = (unsigned)__float_as_int(x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/* The lower median bit by bit, from the highest: of the values that agree with it so far, as many as it has before it say what the next
 * bit is. */
static __global__ void __launch_bounds__(CUDA_THREADS) median_rows(struct spd_similarity s) {
  __shared__ double scratch[CUDA_THREADS];
  __shared__ unsigned places[CUDA_THREADS];
  const size_t count = s.to - s.from;
  const float *x = s.rest + blockIdx.x * s.n_rest + s.from;
  double before = (double)((count - 1) / 2);
  unsigned prefix = 0;
  for (int bit = 31; bit >= 0; bit--) {
    double zeros = 0;
    for (size_t r = threadIdx.x; r < count; r += CUDA_THREADS) zeros += (key_of(x[r]) ^ prefix) >> bit == 0;
    zeros = cuda_block_sum<CUDA_THREADS>(scratch, zeros);
    if (zeros <= before) before -= zeros, prefix |= 1u << bit;
  }
  unsigned mine = (unsigned)count - 1;
  for (size_t r = threadIdx.x; r < count && mine + 1 == count; r += CUDA_THREADS)
    if (key_of(x[r]) == prefix) mine = (unsigned)r;
  places[threadIdx.x] = mine;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int t = 1; t < CUDA_THREADS; t++) mine = places[t] < mine ? places[t] : mine;
  s.middle[blockIdx.x] = (uint32_t)(s.from + mine);
  s.median[blockIdx.x] = x[mine] > SPD_LEAST_MEDIAN ? x[mine] : SPD_LEAST_MEDIAN;
}

static __global__ void centre(struct spd_similarity s, size_t n) {
  const unsigned width = (unsigned)s.n_rest;
  CUDA_EACH(r, s.n_rest) {
    float mean = 0;
    const float *x = s.rest + r, root = s.root[r];
    float *to = s.centred + r;
    cuda_stream<8>(
        0u, (unsigned)n, 1u, [&](unsigned i) { return x[(size_t)i * width] / s.median[i]; }, [&](unsigned, float value) { mean += value; });
    mean /= (float)n;
    cuda_stream<8>(
        0u, (unsigned)n, 1u, [&](unsigned i) { return x[(size_t)i * width] / s.median[i]; },
        [&](unsigned i, float value) { to[(size_t)i * width] = root * (value - mean); });
  }
}

static __global__ void __launch_bounds__(CUDA_THREADS) distances(struct spd_similarity s, const float *products, size_t n) {
  __shared__ double scratch[CUDA_THREADS];
  const size_t i = blockIdx.x;
  const float *x = s.latent + i * s.n_latent;
  double sums[2] = {0, 0};
  for (size_t j = threadIdx.x; j < n; j += CUDA_THREADS) {
    const float *y = s.latent + j * s.n_latent;
    float sum = 0;
    for (size_t a = 0; a < s.n_latent; a++) sum += (x[a] - y[a]) * (x[a] - y[a]);
    const float spectral = products[i * n + i] + products[j * n + j] - 2 * products[i * n + j], distance = sum / (float)s.n_latent;
    s.spectral[i * n + j] = spectral;
    s.distance[i * n + j] = distance;
    sums[0] += (double)spectral, sums[1] += (double)distance;
  }
  for (int k = 0; k < 2; k++) {
    sums[k] = cuda_block_sum<CUDA_THREADS>(scratch, sums[k]);
    if (threadIdx.x == 0) s.sums[2 * i + k] = sums[k];
  }
}

/* Totals of the rows' sums -> the units (forward), or what each pair's derivatives get through them (backward). One block. */
static __global__ void __launch_bounds__(CUDA_THREADS) total(struct spd_similarity s, size_t n, int backward) {
  __shared__ double scratch[CUDA_THREADS];
  const double pairs = n > 1 ? (double)n * (double)(n - 1) : 1;
  for (int k = 0; k < 2; k++) {
    double sum = 0;
    for (size_t i = threadIdx.x; i < n; i += CUDA_THREADS) sum += s.sums[2 * i + k];
    sum = cuda_block_sum<CUDA_THREADS>(scratch, sum);
    if (threadIdx.x != 0) continue;
    double *unit = s.sums + 2 * n + k;
    if (backward)
      unit[2] = s.scale_free ? sum / (*unit * *unit * pairs) : 0;
    else
      *unit = s.scale_free ? sum / pairs + SPD_LEAST_DISTANCE : 1;
  }
}

/* k (d - D) of a pair, in units of the means */
static __device__ float difference(const struct spd_similarity &s, size_t n, size_t at) {
  return (float)(s.slope / s.sums[2 * n + 1]) * s.distance[at] - (float)(s.slope / s.sums[2 * n]) * s.spectral[at];
}

static __global__ void __launch_bounds__(CUDA_THREADS) losses(struct spd_similarity s, size_t n) {
  __shared__ double scratch[CUDA_THREADS];
  const size_t i = blockIdx.x;
  double sum = 0;
  for (size_t j = threadIdx.x; j < n; j += CUDA_THREADS)
    if (j != i) sum += (double)spd_dissimilarity(difference(s, n, i * n + j));
  sum = cuda_block_sum<CUDA_THREADS>(scratch, sum);
  if (threadIdx.x == 0) s.loss[i] = sum / (double)n;
}

/* slopes (N, N): derivatives by d - D */
static __global__ void __launch_bounds__(CUDA_THREADS) pair_slopes(float *slopes, struct spd_similarity s, size_t n, float factor) {
  __shared__ double scratch[CUDA_THREADS];
  const size_t i = blockIdx.x;
  double sums[2] = {0, 0};
  for (size_t j = threadIdx.x; j < n; j += CUDA_THREADS) {
    const size_t at = i * n + j;
    const float slope = factor * spd_dissimilarity_slope(difference(s, n, at));
    slopes[at] = slope;
    sums[0] += (double)slope * (double)s.spectral[at], sums[1] += (double)slope * (double)s.distance[at];
  }
  for (int k = 0; k < 2; k++) {
    sums[k] = cuda_block_sum<CUDA_THREADS>(scratch, sums[k]);
    if (threadIdx.x == 0) s.sums[2 * i + k] = sums[k];
  }
}

static __global__ void __launch_bounds__(CUDA_THREADS) coefficients(struct spd_similarity s, const float *slopes, size_t n) {
  __shared__ double scratch[CUDA_THREADS];
  const size_t i = blockIdx.x;
  const double *unit = s.sums + 2 * n, *mean = unit + 2;
  double diagonal = 0;
  for (size_t j = threadIdx.x; j < n; j += CUDA_THREADS) {
    const double by_spectral = j == i ? 0 : 4 * (mean[0] - (double)slopes[i * n + j] / unit[0]);
    diagonal += by_spectral;
    if (j != i) s.spectral[i * n + j] = (float)-by_spectral;
  }
  diagonal = cuda_block_sum<CUDA_THREADS>(scratch, diagonal);
  if (threadIdx.x == 0) s.spectral[i * n + i] = (float)diagonal;
  for (size_t a = 0; a < s.n_latent; a++) {
    const double here = (double)s.latent[i * s.n_latent + a];
    double sum = 0;
    for (size_t j = threadIdx.x; j < n; j += CUDA_THREADS)
      sum += ((double)slopes[i * n + j] / unit[1] - mean[1]) * (here - (double)s.latent[j * s.n_latent + a]);
    sum = cuda_block_sum<CUDA_THREADS>(scratch, sum);
    if (threadIdx.x == 0) s.dlatent[i * s.n_latent + a] = (float)(4 * sum / (double)s.n_latent);
  }
}

/* From the gradient at root x to that at the model, also through its median */
static __global__ void __launch_bounds__(CUDA_THREADS) unscale(struct spd_similarity s) {
  __shared__ double scratch[CUDA_THREADS];
  const float median = s.median[blockIdx.x], *rest = s.rest + blockIdx.x * s.n_rest;
  float *d = s.drest + blockIdx.x * s.n_rest;
  double product = 0;
  for (size_t r = threadIdx.x; r < s.n_rest; r += CUDA_THREADS) {
    d[r] *= s.root[r] / median;
    product += (double)d[r] * (double)rest[r];
  }
  product = cuda_block_sum<CUDA_THREADS>(scratch, product); /* and all of d is written */
  if (threadIdx.x == 0 && median > SPD_LEAST_MEDIAN) d[s.middle[blockIdx.x]] -= (float)(product / (double)median);
}

/* The arena as a matrix (N, N) */
static spd_status reserve(float **matrix, struct spd_backend *backend, size_t n, struct spd_error *error) {
  size_t at = 0;
  SPD_TRY(cuda_reserve(backend, cuda_room(n * n * sizeof **matrix), error));
  *matrix = (float *)cuda_take(backend, &at, n * n * sizeof **matrix);
  return SPD_STATUS_OK;
}

spd_status cuda_similarity_forward(struct spd_backend *backend, const struct spd_similarity *s, size_t n, struct spd_error *error) {
  float *products;
  SPD_TRY(reserve(&products, backend, n, error));
  const struct cuda_matrix centred = {s->centred, s->n_rest, 0};
  const struct cuda_result to = {products, n, 0, 0, NULL, 0};
  CUDA_LAUNCH(median_rows, n, CUDA_THREADS, *s);
  CUDA_LAUNCH(centre, cuda_blocks(backend, s->n_rest), CUDA_THREADS, *s, n);
  SPD_TRY(cuda_gemm(backend, CUDA_EXACT, 0, 1, n, n, s->n_rest, centred, centred, to, 1, error));
  CUDA_LAUNCH(distances, n, CUDA_THREADS, *s, products, n);
  CUDA_LAUNCH(total, 1, CUDA_THREADS, *s, n, 0);
  CUDA_LAUNCH(losses, n, CUDA_THREADS, *s, n);
  return SPD_STATUS_OK;
}

spd_status cuda_similarity_backward(struct spd_backend *backend, const struct spd_similarity *s, size_t n, struct spd_error *error) {
  float *slopes;
  SPD_TRY(reserve(&slopes, backend, n, error));
  const struct cuda_matrix matrix = {s->spectral, n, 0}, centred = {s->centred, s->n_rest, 0};
  const struct cuda_result to = {s->drest, s->n_rest, 0, 0, NULL, 0};
  CUDA_LAUNCH(pair_slopes, n, CUDA_THREADS, slopes, *s, n, (float)(s->factor * s->slope / ((double)n * (double)n)));
  CUDA_LAUNCH(total, 1, CUDA_THREADS, *s, n, 1);
  CUDA_LAUNCH(coefficients, n, CUDA_THREADS, *s, slopes, n);
  SPD_TRY(cuda_gemm(backend, CUDA_EXACT, 0, 0, n, s->n_rest, n, matrix, centred, to, 1, error));
  CUDA_LAUNCH(unscale, n, CUDA_THREADS, *s);
  return SPD_STATUS_OK;
}
