/* Attention over the segments (paper eq. 2): a = softmax over positions of the keys, e = sum over positions of values * a. */
#include "cuda/cuda.h"

enum { WARPS = 8 };

static __global__ void __launch_bounds__(WARPS *CUDA_LANES) forward(struct spd_attend s) {
  __shared__ float scratch[WARPS][CUDA_LANES];
  const size_t channels = s.channels, groups = (channels + CUDA_LANES - 1) / CUDA_LANES;
  const size_t i = blockIdx.x / groups, c = blockIdx.x % groups * CUDA_LANES + threadIdx.x;
  const bool on = c < channels;
  const float *values = s.v + i * s.length * 2 * channels + c, *keys = values + channels;
  const float *gate = s.gate ? s.gate + i * s.length * channels + c : NULL;
  float *attention = s.attention + i * s.length * channels + c, *feature = s.feature + i * s.feature_stride;
  float largest = -INFINITY, sum = 0, weighted = 0;
  for (size_t l = threadIdx.y; on && l < s.length; l += WARPS) {
    const float key = keys[l * 2 * channels] * (gate ? gate[l * channels] : 1.0f);
    largest = key > largest ? key : largest;
    attention[l * channels] = key; /* read again by this thread only */
  }
  scratch[threadIdx.y][threadIdx.x] = largest;
  __syncthreads();
  for (int w = 0; w < WARPS; w++) largest = scratch[w][threadIdx.x] > largest ? scratch[w][threadIdx.x] : largest;
  __syncthreads();
  for (size_t l = threadIdx.y; on && l < s.length; l += WARPS) {
    const float p = spd_exp(attention[l * channels] - largest);
    attention[l * channels] = p;
    sum += p;
    weighted += p * values[l * 2 * channels];
  }
  sum = 1.0f / cuda_column_sum<WARPS>(scratch, sum);
  weighted = cuda_column_sum<WARPS>(scratch, weighted);
  for (size_t l = threadIdx.y; on && l < s.length; l += WARPS) attention[l * channels] *= sum;
  if (on && threadIdx.y == 0) feature[c] = weighted * sum;
  if (c == 0 && threadIdx.y == 0 && s.feature_stride > channels) feature[channels] = s.z[i];
}

/* da = h de; through the softmax dk = a (da - sum a da) = a de (h - e); through the gate each factor gets the other */
static __global__ void backward(struct spd_attend s, size_t n) {
  const size_t channels = s.channels;
  CUDA_EACH(at, n * s.length * channels) {
    const size_t c = at % channels, row = at / channels, i = row / s.length, both = row * 2 * channels + c;
    const float a = s.attention[at], de = s.dfeature[i * s.feature_stride + c], e = s.feature[i * s.feature_stride + c];
    const float value = s.v[both], dkey = a * de * (value - e);
    s.dv[both] = a * de;
    s.dv[both + channels] = s.gate ? dkey * s.gate[at] : dkey;
    if (s.gate) s.dgate[at] = dkey * s.v[both + channels];
    if (s.dattention) s.dattention[at] = value * de;
  }
}

spd_status cuda_attend_forward(struct spd_backend *backend, const struct spd_attend *s, size_t n, struct spd_error *error) {
  CUDA_LAUNCH(forward, n * ((s->channels + CUDA_LANES - 1) / CUDA_LANES), dim3(CUDA_LANES, WARPS), *s);
  return SPD_STATUS_OK;
}

spd_status cuda_attend_backward(struct spd_backend *backend, const struct spd_attend *s, size_t n, struct spd_error *error) {
  CUDA_LAUNCH(backward, cuda_blocks(backend, n * s->length * s->channels), CUDA_THREADS, *s, n);
  return SPD_STATUS_OK;
}
