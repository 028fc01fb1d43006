/* Convolutions over gap-padded channels-last rows without an im2col buffer: for each offset r, the patches that start at rows
 * r, r + k, r + 2k, ... of the whole batch are one matrix with leading dimension k * C (the layout: core/backend.h). The k
 * products of a layer have the same shape and are one batched product. */
#include "cuda/cuda.h"

/* y's rows start at y + lead * C_out */
spd_status cuda_conv(struct spd_backend *backend, cuda_product product, float *y, const void *x, const void *w,
                     const struct spd_rows *in, size_t kernel, size_t channels_out, size_t n, struct spd_error *error) {
  const size_t patch = kernel * in->channels;
  const struct cuda_matrix patches = {x, patch, in->channels}, weights = {w, channels_out, 0};
  return cuda_gemm(backend, product, 0, 0, n * in->stride / kernel, channels_out, patch, patches, weights,
                   y + in->lead * channels_out, kernel * channels_out, channels_out, kernel, error);
}

static __global__ void sum_offsets(float *dw, const float *partial, size_t kernel, size_t count) {
  CUDA_EACH(i, count) {
    float sum = 0;
    for (size_t r = 0; r < kernel; r++) sum += partial[r * count + i];
    dw[i] = sum;
  }
}

/* dw (k, C_in, C_out) from x and dy, whose gap rows are zero: the k products side by side fill the device, then they are added */
spd_status cuda_conv_weight_gradient(struct spd_backend *backend, cuda_product product, float *dw, float *partial, const void *x,
                                     const void *dy, const struct spd_rows *in, size_t kernel, size_t channels_out, size_t n,
                                     struct spd_error *error) {
  const size_t patch = kernel * in->channels, count = patch * channels_out, gap = in->lead * channels_out;
  const struct cuda_matrix patches = {x, patch, in->channels};
  const struct cuda_matrix gradient = {(const char *)dy + gap * (product == CUDA_BF16 ? sizeof(__nv_bfloat16) : sizeof(float)),
                                       kernel * channels_out, channels_out};
  SPD_TRY(cuda_gemm(backend, product, 1, 0, patch, channels_out, n * in->stride / kernel, patches, gradient, partial,
                    channels_out, count, kernel, error));
  CUDA_LAUNCH(sum_offsets, cuda_blocks(backend, count), CUDA_THREADS, dw, partial, kernel, count);
  return SPD_STATUS_OK;
}

template <class T>
static __global__ void flip(T *flipped, const float *w, size_t kernel, size_t in, size_t out) {
  CUDA_EACH(at, kernel * in * out) {
    const size_t i = at % in, o = at / in % out, k = at / in / out;
    cuda_store(flipped + at, w[((kernel - 1 - k) * in + i) * out + o]);
  }
}

spd_status cuda_flip(struct spd_backend *backend, cuda_product product, void *flipped, const float *w, size_t kernel, size_t in,
                     size_t out, struct spd_error *error) {
  const unsigned blocks = cuda_blocks(backend, kernel * in * out);
  if (product == CUDA_BF16)
    CUDA_LAUNCH(flip<__nv_bfloat16>, blocks, CUDA_THREADS, (__nv_bfloat16 *)flipped, w, kernel, in, out);
  else
    CUDA_LAUNCH(flip<float>, blocks, CUDA_THREADS, (float *)flipped, w, kernel, in, out);
  return SPD_STATUS_OK;
}

static __global__ void to_bf16(__nv_bfloat16 *y, const float *x, size_t count) {
  CUDA_EACH(i, count) y[i] = __float2bfloat16(x[i]);
}

spd_status cuda_to_bf16(struct spd_backend *backend, __nv_bfloat16 *y, const float *x, size_t count, struct spd_error *error) {
  CUDA_LAUNCH(to_bf16, cuda_blocks(backend, count), CUDA_THREADS, y, x, count);
  return SPD_STATUS_OK;
}
