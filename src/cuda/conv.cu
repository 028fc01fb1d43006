/* Convolutions over gap-padded channels-last rows without an im2col buffer: for each offset r, the patches that start at rows
 * r, r + k, r + 2k, ... of the whole batch are one matrix with leading dimension k * C (the layout: network/backend.h). The k
 * products of a layer have the same shape and are one batched product. */
#include "cuda/cuda.h"

/* y's rows start at y + lead * C_out */
spd_status cuda_conv(struct spd_backend *backend, void *y, const void *x, const void *w, const float *factor, const struct spd_rows *in,
                     size_t kernel, size_t channels_out, size_t n, struct spd_error *error) {
  const size_t patch = kernel * in->channels, width = backend->plane_width;
  const struct cuda_matrix patches = {x, patch, in->channels}, weights = {w, channels_out, 0};
  const struct cuda_result rows = {
      (char *)y + in->lead * channels_out * width, kernel * channels_out, channels_out, width < sizeof(float), factor, 0};
  return cuda_gemm(backend, cuda_product_of_convolution(backend), 0, 0, n * in->stride / kernel, channels_out, patch, patches, weights,
                   rows, kernel, error);
}

static __global__ void sum_offsets(float *dw, const float *partial, const float *scale, size_t kernel, size_t count) {
  const float factor = scale ? 1.0f / *scale : 1.0f;
  CUDA_EACH(i, count) {
    float sum = 0;
    for (size_t r = 0; r < kernel; r++) sum += partial[r * count + i];
    dw[i] = sum * factor;
  }
}

/* dw (k, C_in, C_out) from x and dy, whose gap rows are zero: the k products are computed at once, to fill the device, then added */
spd_status cuda_conv_weight_gradient(struct spd_backend *backend, float *dw, float *partial, const void *x, const void *dy,
                                     const float *scale, const struct spd_rows *in, size_t kernel, size_t channels_out, size_t n,
                                     struct spd_error *error) {
  const size_t patch = kernel * in->channels, count = patch * channels_out, gap = in->lead * channels_out;
  const struct cuda_matrix patches = {x, patch, in->channels};
  const struct cuda_matrix gradient = {(const char *)dy + gap * backend->plane_width, kernel * channels_out, channels_out};
  const struct cuda_result sums = {partial, channels_out, count, 0, NULL, 0};
  SPD_TRY(cuda_gemm(backend, cuda_product_of_convolution(backend), 1, 0, patch, channels_out, n * in->stride / kernel, patches, gradient,
                    sums, kernel, error));
  CUDA_LAUNCH(sum_offsets, cuda_blocks(backend, count), CUDA_THREADS, dw, partial, scale, kernel, count);
  return SPD_STATUS_OK;
}

/* ---- weights ---- */

enum { TILE = 32, TILE_ROWS = 8, BLOCKS = 512 /* of a copy: each ends with a look at the largest */ };

template <class T>
static __global__ void __launch_bounds__(CUDA_THREADS) copy_weights(T *to, float *largest, const float *w, size_t count) {
  float mine = 0;
#pragma unroll 4
  for (size_t i = (size_t)blockIdx.x * CUDA_THREADS + threadIdx.x; i < count; i += (size_t)gridDim.x * CUDA_THREADS) {
    const float value[1] = {w[i]};
    cuda_store<1>(to + i, value);
    mine = cuda_larger(mine, fabsf(value[0]));
  }
  if (!largest) return;
  cuda_raise(largest, mine);
}

/* A block has a tile of one tap's (in, out), which it turns over in shared memory. */
template <class T>
static __global__ void __launch_bounds__(TILE *TILE_ROWS)
    flip(T *flipped, float *largest, const float *w, unsigned kernel, unsigned in, unsigned out) {
  __shared__ float tile[TILE][TILE + 1];
  const unsigned across = (out + TILE - 1) / TILE, down = (in + TILE - 1) / TILE, k = blockIdx.x / (across * down);
  const unsigned i0 = blockIdx.x / across % down * TILE, o0 = blockIdx.x % across * TILE, lane = threadIdx.x;
  float mine = 0;
#pragma unroll
  for (unsigned row = threadIdx.y; row < TILE; row += TILE_ROWS)
    if (i0 + row < in && o0 + lane < out) {
      tile[row][lane] = w[((size_t)k * in + i0 + row) * out + o0 + lane];
      mine = cuda_larger(mine, fabsf(tile[row][lane]));
    }
  __syncthreads();
#pragma unroll
  for (unsigned row = threadIdx.y; row < TILE; row += TILE_ROWS)
    if (o0 + row < out && i0 + lane < in) {
      const float value[1] = {tile[lane][row]};
      cuda_store<1>(flipped + ((size_t)(kernel - 1 - k) * out + o0 + row) * in + i0 + lane, value);
    }
  if (!largest) return;
  cuda_raise(largest, mine);
}

template <class T>
static spd_status copy_to(struct spd_backend *backend, void *to, float *largest, const float *w, size_t count, struct spd_error *error) {
  const size_t blocks = (count + CUDA_THREADS - 1) / CUDA_THREADS;
  CUDA_LAUNCH(copy_weights<T>, blocks < BLOCKS ? blocks : (size_t)BLOCKS, CUDA_THREADS, (T *)to, largest, w, count);
  return SPD_STATUS_OK;
}

template <class T>
static spd_status flip_to(struct spd_backend *backend, void *flipped, float *largest, const float *w, size_t kernel, size_t in, size_t out,
                          struct spd_error *error) {
  CUDA_LAUNCH(flip<T>, kernel * ((in + TILE - 1) / TILE) * ((out + TILE - 1) / TILE), dim3(TILE, TILE_ROWS), (T *)flipped, largest, w,
              (unsigned)kernel, (unsigned)in, (unsigned)out);
  return SPD_STATUS_OK;
}

spd_status cuda_conv_weights(struct spd_backend *backend, const void **to, void *room, float *largest, const float *w, size_t count,
                             struct spd_error *error) {
  *to = backend->plane_width == sizeof(float) ? w : (const float *)room;
  return *to == w ? SPD_STATUS_OK : CUDA_BY_PLANE(copy_to, backend, room, largest, w, count, error);
}

spd_status cuda_conv_flipped(struct spd_backend *backend, void *flipped, float *largest, const float *w, size_t kernel, size_t in,
                             size_t out, struct spd_error *error) {
  return CUDA_BY_PLANE(flip_to, backend, flipped, largest, w, kernel, in, out, error);
}
