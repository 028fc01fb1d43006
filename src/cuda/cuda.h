/* What the CUDA stages share: the backend's own struct, error checks, launches, sums in a fixed order, matrix products.
 *
 * Every run gives the same bits: one stream for arithmetic, a cuBLAS workspace of our own, no atomics, and sums whose order
 * follows from the shapes alone. Kernels come first in a file, then what launches them. */
#ifndef SPD_CUDA_H
#define SPD_CUDA_H

#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "core/scalar.h"
extern "C" {
#include "core/backend.h"
}

struct cuda_backend {
  struct spd_backend base;
  int device, multiprocessors;
  spd_precision precision;
  cudaStream_t stream, copies; /* arithmetic; uploads of the lanes */
  cublasHandle_t blas;
  void *blas_workspace;
  char *arena; /* workspace of one stage at a time, as large as the largest has needed */
  size_t arena_bytes;
};

static inline struct cuda_backend *cuda_of(struct spd_backend *backend) { return (struct cuda_backend *)backend; }

/* Both forget the error, which would otherwise look like the next launch's. */
spd_status cuda_fail(struct spd_error *error, cudaError_t code, const char *call);
spd_status cuda_fail_blas(struct spd_error *error, cublasStatus_t code, const char *call);

#define CUDA_TRY(call)                                                          \
  do {                                                                          \
    const cudaError_t cuda_code = (call);                                       \
    if (cuda_code != cudaSuccess) return cuda_fail(error, cuda_code, #call);    \
  } while (0)
#define CUDA_TRY_BLAS(call)                                                     \
  do {                                                                          \
    const cublasStatus_t blas_code = (call);                                    \
    if (blas_code != CUBLAS_STATUS_SUCCESS) return cuda_fail_blas(error, blas_code, #call); \
  } while (0)

/* Tests run the kernels on a CPU, without nvcc, and bring a launch of their own (tests/core/cuda-on-cpu). */
#ifndef CUDA_RUN
#define CUDA_RUN(kernel, blocks, threads, stream, ...) kernel<<<blocks, threads, 0, stream>>>(__VA_ARGS__)
#endif

/* Inside a stage, whose variables are called backend and error */
#define CUDA_LAUNCH(kernel, blocks, threads, ...)                                          \
  do {                                                                                     \
    CUDA_RUN(kernel, dim3((unsigned)(blocks)), threads, cuda_of(backend)->stream, __VA_ARGS__); \
    const cudaError_t launched = cudaGetLastError();                                       \
    if (launched != cudaSuccess) return cuda_fail(error, launched, #kernel);               \
  } while (0)

/* ---- one element after the other ---- */

enum { CUDA_THREADS = 256 };

/* Blocks of CUDA_THREADS for a loop over `count` elements with CUDA_EACH: enough to fill the device, no more */
static inline unsigned cuda_blocks(struct spd_backend *backend, size_t count) {
  const size_t needed = (count + CUDA_THREADS - 1) / CUDA_THREADS, most = (size_t)cuda_of(backend)->multiprocessors * 32;
  return (unsigned)(needed < 1 ? 1 : needed < most ? needed : most);
}
#define CUDA_EACH(i, count)                                                        \
  for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < (count); i += (size_t)gridDim.x * blockDim.x)

static inline __device__ void cuda_store(float *to, float value) { *to = value; }
static inline __device__ void cuda_store(__nv_bfloat16 *to, float value) { *to = __float2bfloat16(value); }

/* ---- blocks of CUDA_LANES channels by WARPS rows: a warp reads neighbouring channels of one row ---- */

enum { CUDA_LANES = 32 };

/* Sum over the block's rows, channel by channel; every thread of a column gets it. Ends with the scratch free again. */
template <int WARPS, class T>
static __device__ T cuda_column_sum(T (*scratch)[CUDA_LANES], T mine) {
  scratch[threadIdx.y][threadIdx.x] = mine;
  __syncthreads();
  T sum = 0;
  for (int w = 0; w < WARPS; w++) sum += scratch[w][threadIdx.x];
  __syncthreads();
  return sum;
}

/* Sum over a block of THREADS threads (a power of two) in one row; every thread gets it */
template <int THREADS>
static __device__ double cuda_block_sum(double *scratch, double mine) {
  scratch[threadIdx.x] = mine;
  __syncthreads();
  for (int half = THREADS / 2; half > 0; half /= 2) {
    if ((int)threadIdx.x < half) scratch[threadIdx.x] += scratch[threadIdx.x + half];
    __syncthreads();
  }
  const double sum = scratch[0];
  __syncthreads();
  return sum;
}

/* ---- backend.cu ---- */

/* What an entry that no enter() precedes does first: refuses a forked process, makes our device the current one. */
spd_status cuda_use(struct spd_backend *backend, struct spd_error *error);

/* The arena, grown to at least this many bytes; what it held before is lost. */
spd_status cuda_reserve(struct spd_backend *backend, size_t bytes, struct spd_error *error);
/* Where the next `bytes` of a reserved arena begin, from *at on, which moves behind them. */
static inline size_t cuda_room(size_t bytes) { return (bytes + 255) / 256 * 256; }
static inline void *cuda_take(struct spd_backend *backend, size_t *at, size_t bytes) {
  void *memory = cuda_of(backend)->arena + *at;
  *at += cuda_room(bytes);
  return memory;
}

/* out (count) = sum over n rows of partial (n, count), in double and in an order that n alone decides */
spd_status cuda_sum_rows(struct spd_backend *backend, float *out, const float *partial, size_t n, size_t count,
                         struct spd_error *error);

/* ---- gemm.cu: row-major products ---- */

/* Matrices of floats, or of bf16 with sums and result in float. */
typedef enum { CUDA_EXACT, CUDA_TF32, CUDA_BF16 } cuda_product;

/* C (m, n) = A (m, k) B (k, n), `batch` times: A, B and C of the next product stand `step` elements further.
 * transpose_a: A is stored (k, m); transpose_b: B is stored (n, k). */
struct cuda_matrix {
  const void *at;
  size_t ld, step;
};
spd_status cuda_gemm(struct spd_backend *backend, cuda_product product, int transpose_a, int transpose_b, size_t m, size_t n,
                     size_t k, struct cuda_matrix a, struct cuda_matrix b, float *c, size_t ldc, size_t step_c,
                     size_t batch, struct spd_error *error);
/* What the backend's precision makes of convolutions, and of linear layers with this many weights */
cuda_product cuda_product_of_convolution(struct spd_backend *backend);
cuda_product cuda_product_of_dense(struct spd_backend *backend, size_t weights);

/* ---- conv.cu: convolutions over gap-padded rows; x, w and dy are floats or bf16, as `product` says ---- */

spd_status cuda_conv(struct spd_backend *backend, cuda_product product, float *y, const void *x, const void *w,
                     const struct spd_rows *in, size_t kernel, size_t channels_out, size_t n, struct spd_error *error);
/* partial: room for k times as much as dw */
spd_status cuda_conv_weight_gradient(struct spd_backend *backend, cuda_product product, float *dw, float *partial, const void *x,
                                     const void *dy, const struct spd_rows *in, size_t kernel, size_t channels_out, size_t n,
                                     struct spd_error *error);
/* (k, in, out) -> taps in reverse order, (k, out, in): the input gradient is a convolution with these */
spd_status cuda_flip(struct spd_backend *backend, cuda_product product, void *flipped, const float *w, size_t kernel, size_t in,
                     size_t out, struct spd_error *error);
spd_status cuda_to_bf16(struct spd_backend *backend, __nv_bfloat16 *y, const float *x, size_t count, struct spd_error *error);

/* ---- stages ---- */

spd_status cuda_stem_forward(struct spd_backend *, const struct spd_stem *, size_t n, struct spd_error *);
spd_status cuda_stem_backward(struct spd_backend *, const struct spd_stem *, size_t n, struct spd_error *);
spd_status cuda_block_forward(struct spd_backend *, const struct spd_block *, size_t n, struct spd_error *);
spd_status cuda_block_backward(struct spd_backend *, const struct spd_block *, size_t n, struct spd_error *);
spd_status cuda_attend_forward(struct spd_backend *, const struct spd_attend *, size_t n, struct spd_error *);
spd_status cuda_attend_backward(struct spd_backend *, const struct spd_attend *, size_t n, struct spd_error *);
spd_status cuda_dense_forward(struct spd_backend *, const struct spd_dense *, size_t n, struct spd_error *);
spd_status cuda_dense_backward(struct spd_backend *, const struct spd_dense *, size_t n, struct spd_error *);
spd_status cuda_resample_forward(struct spd_backend *, const struct spd_resample *, size_t n, struct spd_error *);
spd_status cuda_resample_backward(struct spd_backend *, const struct spd_resample *, size_t n, struct spd_error *);
spd_status cuda_lsf_forward(struct spd_backend *, const struct spd_lsf *, size_t n, struct spd_error *);
spd_status cuda_lsf_backward(struct spd_backend *, const struct spd_lsf *, size_t n, struct spd_error *);
spd_status cuda_loss_forward(struct spd_backend *, const struct spd_loss *, size_t n, struct spd_error *);
spd_status cuda_loss_backward(struct spd_backend *, const struct spd_loss *, size_t n, struct spd_error *);
spd_status cuda_log_ivar(struct spd_backend *, float *y, const float *x, size_t count, struct spd_error *);
spd_status cuda_adam(struct spd_backend *, float *parameters, float *m, float *v, const float *gradient, size_t count,
                     const struct spd_adam *, struct spd_error *);

#endif
