/* Linear layer and activation.
 *
 * Where planes have 16 bits, the operands of a layer with millions of weights are rounded to fp16 with a scale each, as exact as tf32
 * and several times as fast, in rows padded for aligned access; smaller layers have the precision of cuda_product_of_dense(). */
#include "cuda/cuda.h"

/* Weights from which on a layer is large; tests have smaller ones */
#ifndef CUDA_LARGE_LAYER
#define CUDA_LARGE_LAYER ((size_t)1 << 20)
#endif

enum { WARPS = 8, CHUNK = 64 /* rows that one block sums */, ALIGNED = 64 };

/* A block has a stretch of columns of one row, so that no element needs a division; a thread PER_THREAD of them */
enum { PER_THREAD = 4, STRETCH = CUDA_THREADS * PER_THREAD };
static __host__ __device__ inline size_t stretches_of(size_t columns) { return (columns + STRETCH - 1) / STRETCH; }

/* visit(row, j, load(row, j)) for this thread's columns j of `columns` */
template <class Load, class Visit>
static __device__ __forceinline__ void each_column(size_t columns, Load load, Visit visit) {
  const size_t stretches = stretches_of(columns), row = blockIdx.x / stretches, first = blockIdx.x % stretches * STRETCH;
  cuda_stream<PER_THREAD>((unsigned)first + threadIdx.x, (unsigned)(first + STRETCH < columns ? first + STRETCH : columns), CUDA_THREADS,
                          [&](unsigned j) { return load(row, j); }, [&](unsigned j, float x) { visit(row, j, x); });
}

/* product (n, ld) -> v with the bias, y */
static __global__ void __launch_bounds__(CUDA_THREADS) activate(struct spd_dense s, const float *product, size_t ld) {
  const auto load = [&](size_t i, unsigned j) { return product[i * ld + j]; };
  each_column(s.out, load, [&](size_t i, unsigned j, float x) {
    const size_t at = i * s.out + j;
    const float v = x + s.b[j];
    float y = v;
    switch (s.activation) {
      case SPD_ACTIVATION_NONE: break;
      case SPD_ACTIVATION_PRELU: y = spd_prelu(v, s.slope[j]); break;
      case SPD_ACTIVATION_LEAKY: y = spd_prelu(v, SPD_LEAKY_SLOPE); break;
      case SPD_ACTIVATION_SPECULATOR: y = spd_speculator(v, s.beta[j], s.gamma[j]); break;
    }
    s.v[at] = v;
    s.y[at] = y + s.offset; /* y may be v */
  });
}

/* ---- operands in fp16 ---- */

struct operand {
  __half *at; /* (padded rows, ld), zero beyond the matrix */
  size_t rows, columns, ld;
  float *largest; /* on the device: of the float values, or a bound; the scale follows from it */
};

static __global__ void __launch_bounds__(CUDA_THREADS) find_largest(float *largest, const float *x, size_t columns) {
  float mine = 0;
  each_column(
      columns, [&](size_t i, unsigned j) { return x[i * columns + j]; },
      [&](size_t, unsigned, float value) { mine = cuda_larger(mine, fabsf(value)); });
  cuda_raise(largest, mine);
}

/* The padding becomes zero */
static __global__ void __launch_bounds__(CUDA_THREADS) round_operand(struct operand to, const float *x) {
  const float scale = cuda_scale(*to.largest);
  each_column(
      to.ld, [&](size_t i, unsigned j) { return i < to.rows && j < to.columns ? x[i * to.columns + j] : 0.0f; },
      [&](size_t i, unsigned j, float value) { to.at[i * to.ld + j] = __float2half_rn(value * scale); });
}

/* factor (2): a factor of the product of these operands, and a zero */
static __global__ void choose_factor(float *factor, const float *largest_a, const float *largest_b) {
  factor[0] = 1.0f / (cuda_scale(*largest_a) * cuda_scale(*largest_b));
  factor[1] = 0;
}

static size_t padded(size_t columns) { return (columns + ALIGNED - 1) / ALIGNED * ALIGNED; }
static size_t operand_bytes(size_t rows, size_t columns) { return padded(rows) * padded(columns) * sizeof(__half); }

/* Room in the arena; `largest` must have been set to zero */
static struct operand take_operand(struct spd_backend *backend, size_t *at, size_t rows, size_t columns, float *largest) {
  const struct operand o = {(__half *)cuda_take(backend, at, operand_bytes(rows, columns)), rows, columns, padded(columns), largest};
  return o;
}

static spd_status round_to(struct spd_backend *backend, struct operand to, const float *x, struct spd_error *error) {
  CUDA_LAUNCH(find_largest, to.rows * stretches_of(to.columns), CUDA_THREADS, to.largest, x, to.columns);
  CUDA_LAUNCH(round_operand, padded(to.rows) * stretches_of(to.ld), CUDA_THREADS, to, x);
  return SPD_STATUS_OK;
}

static struct cuda_matrix matrix_of(struct operand o) {
  const struct cuda_matrix m = {o.at, o.ld, 0};
  return m;
}

static bool is_large(struct spd_backend *backend, const struct spd_dense *s) {
  return backend->plane_width < sizeof(float) && s->in * s->out >= CUDA_LARGE_LAYER;
}

static spd_status large_forward(struct spd_backend *backend, const struct spd_dense *s, size_t n, struct spd_error *error) {
  const size_t ld = padded(s->out), scalars = 4 * sizeof(float);
  size_t at = 0;
  SPD_TRY(cuda_reserve(
      backend,
      cuda_room(scalars) + cuda_room(operand_bytes(n, s->in)) + cuda_room(operand_bytes(s->out, s->in)) + cuda_room(n * ld * sizeof(float)),
      error));
  float *largest = (float *)cuda_take(backend, &at, scalars), *factor = largest + 2;
  const struct operand x = take_operand(backend, &at, n, s->in, largest), w = take_operand(backend, &at, s->out, s->in, largest + 1);
  float *product = (float *)cuda_take(backend, &at, n * ld * sizeof(float));
  CUDA_TRY(cudaMemsetAsync(largest, 0, scalars, cuda_of(backend)->stream));
  SPD_TRY(round_to(backend, x, s->x, error));
  SPD_TRY(round_to(backend, w, s->w, error));
  CUDA_LAUNCH(choose_factor, 1, 1, factor, x.largest, w.largest);
  const struct cuda_result to = {product, ld, 0, 0, factor, 0};
  SPD_TRY(cuda_gemm(backend, CUDA_FP16, 0, 1, n, ld, x.ld, matrix_of(x), matrix_of(w), to, 1, error));
  CUDA_LAUNCH(activate, n * stretches_of(s->out), CUDA_THREADS, *s, product, ld);
  return SPD_STATUS_OK;
}

spd_status cuda_dense_forward(struct spd_backend *backend, const struct spd_dense *s, size_t n, struct spd_error *error) {
  if (is_large(backend, s)) return large_forward(backend, s, n, error);
  const struct cuda_matrix x = {s->x, s->in, 0}, w = {s->w, s->in, 0};
  const struct cuda_result v = {s->v, s->out, 0, 0, NULL, 0};
  SPD_TRY(cuda_gemm(backend, cuda_product_of_dense(backend, s->in * s->out), 0, 1, n, s->out, s->in, x, w, v, 1, error));
  CUDA_LAUNCH(activate, n * stretches_of(s->out), CUDA_THREADS, *s, s->v, s->out);
  return SPD_STATUS_OK;
}

/* ---- backward ---- */

/* The slope of a piecewise linear activation below zero */
static __device__ float slope_of(const struct spd_dense &s, size_t j) {
  return s.activation == SPD_ACTIVATION_PRELU ? s.slope[j] : s.activation == SPD_ACTIVATION_LEAKY ? SPD_LEAKY_SLOPE : 1.0f;
}

/* Raises *largest to the largest |dy| times a bound on its unit's derivative. Speculator: gamma + (1 - gamma) (sigmoid(x) +
 * x sigmoid'(x)) at beta times the input, where the bracket is between -0.1 and 1.1. */
static __global__ void __launch_bounds__(CUDA_THREADS) bound_gradient(float *largest, struct spd_dense s) {
  float mine = 0;
  each_column(
      s.out, [&](size_t i, unsigned j) { return s.dy[i * s.out + j]; },
      [&](size_t, unsigned j, float dy) {
        const float slope = fabsf(slope_of(s, j));
        const float steep = s.activation == SPD_ACTIVATION_SPECULATOR ? fabsf(s.gamma[j]) + 1.1f * fabsf(1 - s.gamma[j])
                            : slope > 1                               ? slope
                                                                      : 1.0f;
        mine = cuda_larger(mine, fabsf(dy) * steep);
      });
  cuda_raise(largest, mine);
}

/* dy -> dv in place, and as an fp16 operand if that has room, whose padding becomes zero except in the last rows. partial (chunks, 3, out):
 * sums over CHUNK rows for the gradients of bias, slope or beta, and gamma. */
static __global__ void __launch_bounds__(WARPS *CUDA_LANES)
    activation_backward(struct spd_dense s, float *partial, struct operand rounded, size_t n) {
  __shared__ float scratch[WARPS][CUDA_LANES];
  const size_t groups = ((rounded.at ? rounded.ld : s.out) + CUDA_LANES - 1) / CUDA_LANES, chunk = blockIdx.x / groups;
  const size_t j = blockIdx.x % groups * CUDA_LANES + threadIdx.x, end = (chunk + 1) * CHUNK < n ? (chunk + 1) * CHUNK : n;
  const bool on = j < s.out, speculator = s.activation == SPD_ACTIVATION_SPECULATOR;
  const float slope = on ? slope_of(s, j) : 0, scale = rounded.at ? cuda_scale(*rounded.largest) : 0;
  const float beta = on && speculator ? s.beta[j] : 0, gamma = on && speculator ? s.gamma[j] : 0;
  float db = 0, first = 0, second = 0; /* first: of the slope or beta; second: of gamma */
  cuda_stream<CHUNK / WARPS>((unsigned)(chunk * CHUNK) + threadIdx.y, on ? (unsigned)end : 0, WARPS,
                             [&](unsigned i) { return make_float2(s.v[i * s.out + j], s.dy[i * s.out + j]); },
                             [&](unsigned i, float2 both) {
                               const float v = both.x;
                               float d = both.y;
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
                               if (rounded.at) rounded.at[i * rounded.ld + j] = __float2half_rn(d * scale);
                               db += d;
                             });
  if (rounded.at && !on && j < rounded.ld)
    for (size_t i = chunk * CHUNK + threadIdx.y; i < end; i += WARPS) rounded.at[i * rounded.ld + j] = __float2half_rn(0.0f);
  db = cuda_column_sum<WARPS>(scratch, db);
  first = cuda_column_sum<WARPS>(scratch, first);
  second = cuda_column_sum<WARPS>(scratch, second);
  if (!on || threadIdx.y != 0) return;
  partial += chunk * 3 * s.out + j;
  partial[0] = db, partial[s.out] = first, partial[2 * s.out] = second;
}

static __global__ void sum_chunks(struct spd_dense s, const float *partial, size_t chunks) {
  CUDA_EACH(at, 3 * s.out) {
    float sum = 0;
    for (size_t chunk = 0; chunk < chunks; chunk++) sum += partial[chunk * 3 * s.out + at];
    const size_t j = at % s.out;
    float *const to = at < s.out ? s.db : at < 2 * s.out ? (s.dslope ? s.dslope : s.dbeta) : s.dgamma;
    if (to) to[j] = sum;
  }
}

spd_status cuda_dense_backward(struct spd_backend *backend, const struct spd_dense *s, size_t n, struct spd_error *error) {
  const bool large = is_large(backend, s);
  const size_t chunks = (n + CHUNK - 1) / CHUNK, sums = chunks * 3 * s->out * sizeof(float), scalars = 7 * sizeof(float);
  size_t at = 0;
  SPD_TRY(cuda_reserve(
      backend,
      cuda_room(sums) + cuda_room(scalars) +
          (large ? cuda_room(operand_bytes(n, s->in)) + cuda_room(operand_bytes(s->out, s->in)) + cuda_room(operand_bytes(n, s->out)) : 0),
      error));
  float *partial = (float *)cuda_take(backend, &at, sums), *largest = (float *)cuda_take(backend, &at, scalars);
  float *factor_w = largest + 3, *factor_x = largest + 5;
  struct operand x = {NULL, 0, 0, 0, NULL}, w = x, dv = x;
  if (large) {
    x = take_operand(backend, &at, n, s->in, largest);
    w = take_operand(backend, &at, s->out, s->in, largest + 1);
    dv = take_operand(backend, &at, n, s->out, largest + 2);
    CUDA_TRY(cudaMemsetAsync(largest, 0, scalars, cuda_of(backend)->stream));
    CUDA_LAUNCH(bound_gradient, n * stretches_of(s->out), CUDA_THREADS, dv.largest, *s);
  }
  CUDA_LAUNCH(activation_backward, ((large ? dv.ld : s->out) + CUDA_LANES - 1) / CUDA_LANES * chunks, dim3(CUDA_LANES, WARPS), *s, partial,
              dv, n);
  CUDA_LAUNCH(sum_chunks, cuda_blocks(backend, 3 * s->out), CUDA_THREADS, *s, partial, chunks);
  struct cuda_result dw = {s->dw, s->in, 0, 0, NULL, 0}, dx = {s->dx, s->in, 0, 0, NULL, 0};
  if (!large) {
    const cuda_product product = cuda_product_of_dense(backend, s->in * s->out);
    const struct cuda_matrix wide_x = {s->x, s->in, 0}, wide_w = {s->w, s->in, 0}, wide_dv = {s->dy, s->out, 0};
    if (s->dw) SPD_TRY(cuda_gemm(backend, product, 1, 0, s->out, s->in, n, wide_dv, wide_x, dw, 1, error));
    if (s->dx) SPD_TRY(cuda_gemm(backend, product, 0, 0, n, s->in, s->out, wide_dv, wide_w, dx, 1, error));
    return SPD_STATUS_OK;
  }
  if (s->dw) {
    SPD_TRY(round_to(backend, x, s->x, error));
    CUDA_LAUNCH(choose_factor, 1, 1, factor_w, dv.largest, x.largest);
    dw.factor = factor_w;
    SPD_TRY(cuda_gemm(backend, CUDA_FP16, 1, 0, s->out, s->in, n, matrix_of(dv), matrix_of(x), dw, 1, error));
  }
  if (s->dx) {
    SPD_TRY(round_to(backend, w, s->w, error));
    CUDA_LAUNCH(choose_factor, 1, 1, factor_x, dv.largest, w.largest);
    dx.factor = factor_x;
    SPD_TRY(cuda_gemm(backend, CUDA_FP16, 0, 0, n, s->in, dv.ld, matrix_of(dv), matrix_of(w), dx, 1, error));
  }
  return SPD_STATUS_OK;
}

/* ---- tangents ---- */

/* dy (n, k, out) times the activation's derivative at v */
static __global__ void __launch_bounds__(CUDA_THREADS) scale_tangents(struct spd_dense s, float *dy, size_t k) {
  each_column(
      s.out, [&](size_t row, unsigned j) { return s.v[row / k * s.out + j]; },
      [&](size_t row, unsigned j, float v) {
        float dx = v > 0 ? 1.0f : slope_of(s, j), dbeta, dgamma;
        if (s.activation == SPD_ACTIVATION_SPECULATOR) spd_speculator_gradient(&dx, &dbeta, &dgamma, v, s.beta[j], s.gamma[j]);
        dy[row * s.out + j] *= dx;
      });
}

spd_status cuda_dense_tangents(struct spd_backend *backend, const struct spd_dense *s, float *dy, const float *dx, size_t k, size_t n,
                               struct spd_error *error) {
  const struct cuda_matrix x = {dx, s->in, 0}, w = {s->w, s->in, 0};
  const struct cuda_result to = {dy, s->out, 0, 0, NULL, 0};
  SPD_TRY(cuda_gemm(backend, cuda_product_of_dense(backend, s->in * s->out), 0, 1, n * k, s->out, s->in, x, w, to, 1, error));
  CUDA_LAUNCH(scale_tangents, n * k * stretches_of(s->out), CUDA_THREADS, *s, dy, k);
  return SPD_STATUS_OK;
}
