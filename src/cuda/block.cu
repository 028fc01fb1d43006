/* Convolution, instance norm, PReLU and max-pool. The norm reads the map three times, twice of it from the second-level cache:
 * a block has 32 channels of one spectrum, 100 kB in the published network. */
#include "cuda/cuda.h"

enum { WARPS = 16, GROUP = 256 /* spectra at a time, where nobody keeps the map */ };

/* u: the convolution's rows of the spectra from `first` on. A falling slope makes the smallest value the winner, so every value
 * is activated before it competes; the first of equal ones wins, as in PyTorch. */
static __global__ void __launch_bounds__(WARPS *CUDA_LANES)
    normalise(struct spd_block s, const float *u_rows, size_t first) {
  __shared__ float scratch[WARPS][CUDA_LANES];
  const size_t channels = s.out.channels, groups = (channels + CUDA_LANES - 1) / CUDA_LANES, length = s.conv.length;
  const size_t here = blockIdx.x / groups, i = first + here, c = blockIdx.x % groups * CUDA_LANES + threadIdx.x;
  const bool on = c < channels;
  const float *u = u_rows + (here * s.conv.stride + s.conv.lead) * channels + c;
  const float middle = on ? u[length / 2 * channels] : 0;
  float sum = 0, squares = 0;
  if (on) {
#pragma unroll 4 /* loads on their way together */
    for (size_t l = threadIdx.y; l < length; l += WARPS) sum += u[l * channels] - middle;
  }
  const float centre = middle + cuda_column_sum<WARPS>(scratch, sum) / (float)length;
  if (on) {
#pragma unroll 4
    for (size_t l = threadIdx.y; l < length; l += WARPS) {
      const float d = u[l * channels] - centre;
      squares += d * d;
    }
  }
  const float variance = cuda_column_sum<WARPS>(scratch, squares) / (float)length;
  const float scale = (float)(1.0 / sqrt((double)variance + SPD_NORM_EPSILON));
  if (!on) return;
  if (threadIdx.y == 0) s.mean[i * channels + c] = centre, s.inverse_sd[i * channels + c] = scale;
  const float slope = s.slope[c];
  for (size_t t = threadIdx.y; t < s.out.length; t += WARPS) {
    const size_t from = spd_window_from(t, s.pool), to = spd_window_to(t, s.pool, length);
    float best = spd_prelu((u[from * channels] - centre) * scale, slope);
    size_t place = from;
#pragma unroll 4
    for (size_t l = from + 1; l < to; l++) {
      const float value = spd_prelu((u[l * channels] - centre) * scale, slope);
      if (value > best) best = value, place = l;
    }
    s.y[(s.out.lead + i * s.out.stride + t) * channels + c] = best;
    if (s.argmax) s.argmax[(i * s.out.length + t) * channels + c] = (uint16_t)place;
  }
}

/* With v the normalised map and d the gradient at v (zero but at the winners): du = (d - sum d / L - v sum(d v) / L) / sd.
 * du may be u, as each value is read before it is written, by the same thread. Gap rows become zero. */
template <class T>
static __global__ void __launch_bounds__(WARPS *CUDA_LANES) normalise_backward(struct spd_block s, T *du_rows) {
  __shared__ float scratch[WARPS][CUDA_LANES];
  const size_t channels = s.out.channels, groups = (channels + CUDA_LANES - 1) / CUDA_LANES, length = s.conv.length;
  const size_t i = blockIdx.x / groups, c = blockIdx.x % groups * CUDA_LANES + threadIdx.x, pooled = s.out.length;
  const bool on = c < channels;
  const float *u = s.u + (i * s.conv.stride + s.conv.lead) * channels + c;
  const float *dy = s.dy + (i * s.out.stride + s.out.lead) * channels + c;
  const uint16_t *argmax = s.argmax ? s.argmax + i * pooled * channels + c : NULL;
  const float centre = on ? s.mean[i * channels + c] : 0, scale = on ? s.inverse_sd[i * channels + c] : 0;
  const float slope = on ? s.slope[c] : 0;
  float sum_d = 0, sum_dv = 0, sum_slope = 0;
  if (on)
    for (size_t t = threadIdx.y; t < pooled; t += WARPS) {
      const size_t l = argmax ? argmax[t * channels] : t;
      const float v = (u[l * channels] - centre) * scale, g = dy[t * channels], d = v > 0 ? g : slope * g;
      sum_slope += v > 0 ? 0 : g * v;
      sum_d += d;
      sum_dv += d * v;
    }
  const float mean_d = cuda_column_sum<WARPS>(scratch, sum_d) / (float)length;
  const float mean_dv = cuda_column_sum<WARPS>(scratch, sum_dv) / (float)length;
  sum_slope = cuda_column_sum<WARPS>(scratch, sum_slope);
  if (!on) return;
  if (threadIdx.y == 0) s.partial[i * channels + c] = sum_slope;
  T *du = du_rows + (i * s.conv.stride + s.conv.lead) * channels + c;
  for (size_t l = threadIdx.y; l < s.conv.stride; l += WARPS) {
    float value = 0;
    if (l < length) {
      const size_t t = ((unsigned)l + (unsigned)s.pool / 2) / (unsigned)s.pool;
      const float v = (u[l * channels] - centre) * scale;
      float d = 0;
      if (t < pooled && (!argmax || argmax[t * channels] == l)) {
        const float g = dy[t * channels];
        d = v > 0 ? g : slope * g;
      }
      value = scale * (d - mean_d - v * mean_dv);
    }
    cuda_store(du + l * channels, value);
  }
  if (i == 0) /* the gap before the first spectrum */
    for (size_t l = threadIdx.y; l < s.conv.lead; l += WARPS) cuda_store(du_rows + l * channels + c, 0);
}

static size_t blocks_of(const struct spd_block *s, size_t n) { return n * ((s->out.channels + CUDA_LANES - 1) / CUDA_LANES); }

spd_status cuda_block_forward(struct spd_backend *backend, const struct spd_block *s, size_t n, struct spd_error *error) {
  const cuda_product product = cuda_product_of_convolution(backend);
  const size_t group = s->u || n < GROUP ? n : (size_t)GROUP, channels = s->out.channels;
  const size_t weights = s->kernel * s->in.channels * channels, rows = spd_rows_size(&s->in, group),
               map = spd_rows_size(&s->conv, group);
  const int narrow = product == CUDA_BF16;
  size_t at = 0;
  SPD_TRY(cuda_reserve(backend,
                       (narrow ? cuda_room(2 * weights) + cuda_room(2 * rows) : 0) + (s->u ? 0 : cuda_room(map * sizeof(float))),
                       error));
  __nv_bfloat16 *narrow_w = NULL, *narrow_x = NULL;
  if (narrow) {
    narrow_w = (__nv_bfloat16 *)cuda_take(backend, &at, 2 * weights);
    narrow_x = (__nv_bfloat16 *)cuda_take(backend, &at, 2 * rows);
    SPD_TRY(cuda_to_bf16(backend, narrow_w, s->w, weights, error));
  }
  float *u = s->u ? s->u : (float *)cuda_take(backend, &at, map * sizeof(float));
  for (size_t first = 0; first < n; first += group) {
    const size_t count = n - first < group ? n - first : group;
    const float *x = s->x + first * s->in.stride * s->in.channels;
    if (narrow) SPD_TRY(cuda_to_bf16(backend, narrow_x, x, spd_rows_size(&s->in, count), error));
    SPD_TRY(cuda_conv(backend, product, u, narrow ? (const void *)narrow_x : x, narrow ? (const void *)narrow_w : s->w, &s->in,
                      s->kernel, channels, count, error));
    CUDA_LAUNCH(normalise, blocks_of(s, count), dim3(CUDA_LANES, WARPS), *s, u, first);
  }
  return SPD_STATUS_OK;
}

spd_status cuda_block_backward(struct spd_backend *backend, const struct spd_block *s, size_t n, struct spd_error *error) {
  const cuda_product product = cuda_product_of_convolution(backend);
  const size_t channels = s->out.channels, weights = s->kernel * s->in.channels * channels;
  const size_t rows = spd_rows_size(&s->in, n), map = spd_rows_size(&s->conv, n);
  const int narrow = product == CUDA_BF16;
  size_t at = 0;
  SPD_TRY(cuda_reserve(backend, cuda_room(4 * weights * s->kernel) + (narrow ? cuda_room(2 * rows) + cuda_room(2 * map) : 0),
                       error));
  float *partial = (float *)cuda_take(backend, &at, 4 * weights * s->kernel); /* then the flipped weights */
  const void *x = s->x, *du = s->u;
  if (narrow) {
    __nv_bfloat16 *narrow_x = (__nv_bfloat16 *)cuda_take(backend, &at, 2 * rows);
    __nv_bfloat16 *narrow_du = (__nv_bfloat16 *)cuda_take(backend, &at, 2 * map);
    if (s->dw) SPD_TRY(cuda_to_bf16(backend, narrow_x, s->x, rows, error));
    CUDA_LAUNCH(normalise_backward<__nv_bfloat16>, blocks_of(s, n), dim3(CUDA_LANES, WARPS), *s, narrow_du);
    x = narrow_x, du = narrow_du;
  } else {
    CUDA_LAUNCH(normalise_backward<float>, blocks_of(s, n), dim3(CUDA_LANES, WARPS), *s, s->u);
  }
  if (s->dslope) SPD_TRY(cuda_sum_rows(backend, s->dslope, s->partial, n, channels, error));
  if (s->dw) SPD_TRY(cuda_conv_weight_gradient(backend, product, s->dw, partial, x, du, &s->in, s->kernel, channels, n, error));
  if (!s->dx) return SPD_STATUS_OK;
  SPD_TRY(cuda_flip(backend, product, partial, s->w, s->kernel, s->in.channels, channels, error));
  return cuda_conv(backend, product, s->dx, du, partial, &s->conv, s->kernel, s->in.channels, n, error);
}
