/* The optimiser: Adam, sums and norms of gradients, averages of parameters. */
#include "cuda/cuda.h"

static __global__ void update(float *p, float *m, float *v, const float *g, size_t count, struct spd_adam o) {
  struct parameter {
    float p, m, v, g;
  };
  cuda_stream<4>(
      blockIdx.x * CUDA_THREADS + threadIdx.x, (unsigned)count, gridDim.x * CUDA_THREADS,
      [&](unsigned i) {
        const parameter here = {p[i], m[i], v[i], g[i]};
        return here;
      },
      [&](unsigned i, parameter here) {
        spd_adam_update(&here.p, &here.m, &here.v, here.g, o.rate, o.beta1, o.new1, o.beta2, o.new2, o.epsilon, o.correction1,
                        o.correction2, o.lowest);
        p[i] = here.p, m[i] = here.m, v[i] = here.v;
      });
}

spd_status cuda_adam(struct spd_backend *backend, float *parameters, float *m, float *v, const float *gradient, size_t count,
                     const struct spd_adam *options, struct spd_error *error) {
  SPD_TRY(cuda_use(backend, error));
  CUDA_LAUNCH(update, cuda_blocks(backend, count), CUDA_THREADS, parameters, m, v, gradient, count, *options);
  return SPD_STATUS_OK;
}

static __global__ void add(float *y, const float *x, size_t count) { CUDA_EACH(i, count) y[i] += x[i]; }

spd_status cuda_add(struct spd_backend *backend, float *y, const float *x, size_t count, struct spd_error *error) {
  CUDA_LAUNCH(add, cuda_blocks(backend, count), CUDA_THREADS, y, x, count);
  return SPD_STATUS_OK;
}

static __global__ void average(float *mean, const float *x, float fraction, size_t count) {
  CUDA_EACH(i, count) mean[i] += fraction * (x[i] - mean[i]);
}

spd_status cuda_average(struct spd_backend *backend, float *mean, const float *x, float fraction, size_t count, struct spd_error *error) {
  SPD_TRY(cuda_use(backend, error));
  CUDA_LAUNCH(average, cuda_blocks(backend, count), CUDA_THREADS, mean, x, fraction, count);
  return SPD_STATUS_OK;
}

static __global__ void exchange(float *x, float *y, size_t count) {
  CUDA_EACH(i, count) {
    const float kept = x[i];
    x[i] = y[i];
    y[i] = kept;
  }
}

spd_status cuda_exchange(struct spd_backend *backend, float *x, float *y, size_t count, struct spd_error *error) {
  SPD_TRY(cuda_use(backend, error));
  CUDA_LAUNCH(exchange, cuda_blocks(backend, count), CUDA_THREADS, x, y, count);
  return SPD_STATUS_OK;
}

/* ---- clipping ---- */

static __global__ void __launch_bounds__(CUDA_THREADS) sum_squares(double *partial, const float *x, size_t count) {
  __shared__ double scratch[CUDA_THREADS];
  double sum = 0;
  CUDA_EACH(i, count) sum += (double)x[i] * (double)x[i];
  sum = cuda_block_sum<CUDA_THREADS>(scratch, sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

/* One block */
static __global__ void __launch_bounds__(CUDA_THREADS) find_factor(float *factor, const double *partial, unsigned blocks, double norm) {
  __shared__ double scratch[CUDA_THREADS];
  double sum = 0;
  for (unsigned b = threadIdx.x; b < blocks; b += CUDA_THREADS) sum += partial[b];
  sum = cuda_block_sum<CUDA_THREADS>(scratch, sum);
  if (threadIdx.x == 0) *factor = sum > norm * norm ? (float)(norm / sqrt(sum)) : 1.0f;
}

static __global__ void scale(float *x, const float *factor, size_t count) {
  const float by = *factor;
  if (by == 1) return;
  CUDA_EACH(i, count) x[i] *= by;
}

spd_status cuda_clip(struct spd_backend *backend, float *gradient, double norm, size_t count, struct spd_error *error) {
  const unsigned blocks = cuda_blocks(backend, count);
  size_t at = 0;
  SPD_TRY(cuda_use(backend, error));
  SPD_TRY(cuda_reserve(backend, cuda_room(blocks * sizeof(double)) + cuda_room(sizeof(float)), error));
  double *partial = (double *)cuda_take(backend, &at, blocks * sizeof(double));
  float *factor = (float *)cuda_take(backend, &at, sizeof(float));
  CUDA_LAUNCH(sum_squares, blocks, CUDA_THREADS, partial, gradient, count);
  CUDA_LAUNCH(find_factor, 1, CUDA_THREADS, factor, partial, blocks, norm);
  CUDA_LAUNCH(scale, blocks, CUDA_THREADS, gradient, factor, count);
  return SPD_STATUS_OK;
}
