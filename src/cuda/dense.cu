/* Linear layer and activation. */
#include "cuda/cuda.h"

enum { WARPS = 32 };

/* v holds the product; adds the bias */
static __global__ void activate(struct spd_dense s, size_t n) {
  CUDA_EACH(at, n * s.out) {
    const size_t j = at % s.out;
    const float v = s.v[at] + s.b[j];
    float y = v;
    switch (s.activation) {
      case SPD_ACTIVATION_NONE:
        break;
      case SPD_ACTIVATION_PRELU:
        y = spd_prelu(v, s.slope[j]);
        break;
      case SPD_ACTIVATION_LEAKY:
        y = spd_prelu(v, SPD_LEAKY_SLOPE);
        break;
      case SPD_ACTIVATION_SPECULATOR:
        y = spd_speculator(v, s.beta[j], s.gamma[j]);
        break;
    }
    s.v[at] = v;
    s.y[at] = y + s.offset; /* y may be v */
  }
}

/* dy -> dv in place; the gradients of what belongs to a unit are summed over the batch */
static __global__ void __launch_bounds__(WARPS *CUDA_LANES) activation_backward(struct spd_dense s, size_t n) {
  __shared__ float scratch[WARPS][CUDA_LANES];
  const size_t j = (size_t)blockIdx.x * CUDA_LANES + threadIdx.x;
  const bool on = j < s.out, speculator = s.activation == SPD_ACTIVATION_SPECULATOR;
  const float slope = !on                                       ? 0
                      : s.activation == SPD_ACTIVATION_PRELU ? s.slope[j]
                      : s.activation == SPD_ACTIVATION_LEAKY ? SPD_LEAKY_SLOPE
                                                              : 1.0f;
  const float beta = on && speculator ? s.beta[j] : 0, gamma = on && speculator ? s.gamma[j] : 0;
  float db = 0, first = 0, second = 0; /* first: of the slope or beta; second: of gamma */
  for (size_t i = threadIdx.y; on && i < n; i += WARPS) {
    const float v = s.v[i * s.out + j];
    float d = s.dy[i * s.out + j];
    if (speculator) {
      float dx, dbeta, dgamma;
      spd_speculator_gradient(&dx, &dbeta, &dgamma, v, beta, gamma);
      first += d * dbeta;
      second += d * dgamma;
      d *= dx;
    } else if (!(v > 0)) {
      first += d * v;
      d *= slope;
    }
    s.dy[i * s.out + j] = d;
    db += d;
  }
  db = cuda_column_sum<WARPS>(scratch, db);
  first = cuda_column_sum<WARPS>(scratch, first);
  second = cuda_column_sum<WARPS>(scratch, second);
  if (!on || threadIdx.y != 0) return;
  if (s.db) s.db[j] = db;
  if (s.dslope) s.dslope[j] = first;
  if (s.dbeta) s.dbeta[j] = first;
  if (s.dgamma) s.dgamma[j] = second;
}

spd_status cuda_dense_forward(struct spd_backend *backend, const struct spd_dense *s, size_t n, struct spd_error *error) {
  const struct cuda_matrix x = {s->x, s->in, 0}, w = {s->w, s->in, 0};
  SPD_TRY(cuda_gemm(backend, cuda_product_of_dense(backend, s->in * s->out), 0, 1, n, s->out, s->in, x, w, s->v, s->out, 0, 1,
                    error));
  CUDA_LAUNCH(activate, cuda_blocks(backend, n * s->out), CUDA_THREADS, *s, n);
  return SPD_STATUS_OK;
}

spd_status cuda_dense_backward(struct spd_backend *backend, const struct spd_dense *s, size_t n, struct spd_error *error) {
  const cuda_product product = cuda_product_of_dense(backend, s->in * s->out);
  const struct cuda_matrix x = {s->x, s->in, 0}, w = {s->w, s->in, 0}, dv = {s->dy, s->out, 0};
  CUDA_LAUNCH(activation_backward, (s->out + CUDA_LANES - 1) / CUDA_LANES, dim3(CUDA_LANES, WARPS), *s, n);
  if (s->dw) SPD_TRY(cuda_gemm(backend, product, 1, 0, s->out, s->in, n, dv, x, s->dw, s->in, 0, 1, error));
  if (s->dx) SPD_TRY(cuda_gemm(backend, product, 0, 0, n, s->in, s->out, dv, w, s->dx, s->in, 0, 1, error));
  return SPD_STATUS_OK;
}
