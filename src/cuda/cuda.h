/* Shared by the CUDA stages: the backend's struct, error checks, launches, sums in a fixed order, matrix products.
 *
 * Every run gives the same bits: one stream for arithmetic, a cuBLAS workspace of our own, no atomics, and sums whose order
 * depends on the shapes alone. Kernels come first in a file, then the functions that launch them. */
#ifndef SPD_CUDA_H
#define SPD_CUDA_H

#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

extern "C" {
#include "cuda/create.h"
#include "network/backend.h"
}
#include "network/scalar.h" /* after what it includes */

struct cuda_backend {
  struct spd_backend base;
  int device, multiprocessors;
  size_t shared_bytes; /* that a block may have */
  spd_precision precision;
  cudaStream_t stream, copies; /* arithmetic; uploads of the lanes */
  cublasHandle_t blas;
  void *blas_workspace;
  char *arena; /* workspace of one stage at a time, as large as the largest has needed */
  size_t arena_bytes;
  unsigned long generation; /* of the arena: how often it has moved */
};

static inline struct cuda_backend *cuda_of(struct spd_backend *backend) { return (struct cuda_backend *)backend; }

/* Both forget the error, which would otherwise look like the next launch's. */
spd_status cuda_fail(struct spd_error *error, cudaError_t code, const char *call);
spd_status cuda_fail_blas(struct spd_error *error, cublasStatus_t code, const char *call);

#define CUDA_TRY(call)                                                       \
  do {                                                                       \
    const cudaError_t cuda_code = (call);                                    \
    if (cuda_code != cudaSuccess) return cuda_fail(error, cuda_code, #call); \
  } while (0)
#define CUDA_TRY_BLAS(call)                                                                 \
  do {                                                                                      \
    const cublasStatus_t blas_code = (call);                                                \
    if (blas_code != CUBLAS_STATUS_SUCCESS) return cuda_fail_blas(error, blas_code, #call); \
  } while (0)

/* Tests run the kernels on a CPU, without nvcc, and define their own launch (tests/core/cuda-on-cpu). */
#ifndef CUDA_RUN
#define CUDA_RUN(kernel, blocks, threads, shared, stream, ...) kernel<<<blocks, threads, shared, stream>>>(__VA_ARGS__)
/* The block's dynamic shared memory, as an array */
#define CUDA_SHARED(type, name)                                       \
  extern __shared__ __align__(16) unsigned char cuda_shared_memory[]; \
  type *const name = (type *)cuda_shared_memory
#endif

/* Inside a stage, whose variables are called backend and error. A kernel must request more than 48 kB of shared memory. */
#define CUDA_LAUNCH_SHARED(kernel, blocks, threads, shared, ...)                                                        \
  do {                                                                                                                  \
    if ((shared) > (size_t)48 << 10)                                                                                    \
      CUDA_TRY(cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)(shared))); \
    CUDA_RUN(kernel, dim3((unsigned)(blocks)), threads, shared, cuda_of(backend)->stream, __VA_ARGS__);                 \
    const cudaError_t launched = cudaGetLastError();                                                                    \
    if (launched != cudaSuccess) return cuda_fail(error, launched, #kernel);                                            \
  } while (0)
#define CUDA_LAUNCH(kernel, blocks, threads, ...) CUDA_LAUNCH_SHARED(kernel, blocks, threads, (size_t)0, __VA_ARGS__)

/* ---- one element after the other ---- */

enum { CUDA_THREADS = 256 };

/* Blocks of CUDA_THREADS for a loop over `count` elements with CUDA_EACH: enough to fill the device, no more */
static inline unsigned cuda_blocks(struct spd_backend *backend, size_t count) {
  const size_t needed = (count + CUDA_THREADS - 1) / CUDA_THREADS, most = (size_t)cuda_of(backend)->multiprocessors * 32;
  return (unsigned)(needed < 1 ? 1 : needed < most ? needed : most);
}
#define CUDA_EACH(i, count) for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < (count); i += (size_t)gridDim.x * blockDim.x)

/* visit(l, load(l)) for l = from, from + step, ... below `end`, with BATCH loads in flight: otherwise the compiler waits
 * for each load when the number of rounds is unknown. load() must not depend on the effects of visit(). */
template <int BATCH, class Load, class Visit>
static __device__ __forceinline__ void cuda_stream(unsigned from, unsigned end, unsigned step, Load load, Visit visit) {
  decltype(load(0u)) items[BATCH];
  unsigned first = from;
  for (; first + (BATCH - 1) * step < end; first += BATCH * step) {
#pragma unroll
    for (int b = 0; b < BATCH; b++) items[b] = load(first + (unsigned)b * step);
#pragma unroll
    for (int b = 0; b < BATCH; b++) visit(first + (unsigned)b * step, items[b]);
  }
  if (BATCH == 1 || first >= end) return;
#pragma unroll
  for (int b = 0; b < BATCH; b++) items[b] = load(first + (unsigned)b * step < end ? first + (unsigned)b * step : first);
#pragma unroll
  for (int b = 0; b < BATCH; b++)
    if (first + (unsigned)b * step < end) visit(first + (unsigned)b * step, items[b]);
}

/* ---- elements of planes: float, __nv_bfloat16 or __half; V neighbours (1 or 2) are one access ---- */

/* Runs the template `function` for the type of the backend's planes. */
#define CUDA_BY_PLANE(function, backend, ...)                                                          \
  (cuda_of(backend)->precision == SPD_PRECISION_FP16   ? function<__half>(backend, __VA_ARGS__)        \
   : cuda_of(backend)->precision == SPD_PRECISION_BF16 ? function<__nv_bfloat16>(backend, __VA_ARGS__) \
                                                       : function<float>(backend, __VA_ARGS__))

template <class T, int V>
struct cuda_pack;
template <>
struct cuda_pack<float, 1> {
  typedef float type;
  static __device__ void open(float *x, type p) { x[0] = p; }
  static __device__ type close(const float *x) { return x[0]; }
};
template <>
struct cuda_pack<float, 2> {
  typedef float2 type;
  static __device__ void open(float *x, type p) { x[0] = p.x, x[1] = p.y; }
  static __device__ type close(const float *x) { return make_float2(x[0], x[1]); }
};
template <>
struct cuda_pack<__nv_bfloat16, 1> {
  typedef __nv_bfloat16 type;
  static __device__ void open(float *x, type p) { x[0] = __bfloat162float(p); }
  static __device__ type close(const float *x) { return __float2bfloat16(x[0]); }
};
template <>
struct cuda_pack<__nv_bfloat16, 2> {
  typedef __nv_bfloat162 type;
  static __device__ void open(float *x, type p) {
    const float2 both = __bfloat1622float2(p);
    x[0] = both.x, x[1] = both.y;
  }
  static __device__ type close(const float *x) { return __floats2bfloat162_rn(x[0], x[1]); }
};
template <>
struct cuda_pack<__half, 1> {
  typedef __half type;
  static __device__ void open(float *x, type p) { x[0] = __half2float(p); }
  static __device__ type close(const float *x) { return __float2half_rn(x[0]); }
};
template <>
struct cuda_pack<__half, 2> {
  typedef __half2 type;
  static __device__ void open(float *x, type p) {
    const float2 both = __half22float2(p);
    x[0] = both.x, x[1] = both.y;
  }
  static __device__ type close(const float *x) { return __floats2half2_rn(x[0], x[1]); }
};

template <int V, class T>
static inline __device__ void cuda_load(float *x, const T *from) {
  cuda_pack<T, V>::open(x, *(const typename cuda_pack<T, V>::type *)from);
}
template <int V, class T>
static inline __device__ void cuda_store(T *to, const float *x) {
  *(typename cuda_pack<T, V>::type *)to = cuda_pack<T, V>::close(x);
}

/* The largest of a window's values and its place, V channels side by side; the first of equal ones. Pairs of 16 bits are compared
 * and selected together. */
template <class T, int V>
struct cuda_winner {
  float best[V];
  unsigned place[V];
  __device__ void start(typename cuda_pack<T, V>::type p) {
    cuda_pack<T, V>::open(best, p);
#pragma unroll
    for (int v = 0; v < V; v++) place[v] = 0;
  }
  __device__ void enter(typename cuda_pack<T, V>::type p, unsigned at) {
    float x[V];
    cuda_pack<T, V>::open(x, p);
#pragma unroll
    for (int v = 0; v < V; v++)
      if (x[v] > best[v]) best[v] = x[v], place[v] = at;
  }
  __device__ void end(float *largest, unsigned *at) const {
#pragma unroll
    for (int v = 0; v < V; v++) largest[v] = best[v], at[v] = place[v];
  }
};
template <class T>
struct cuda_winner_of_pairs {
  typedef typename cuda_pack<T, 2>::type pair;
  pair best;
  unsigned place; /* two halves */
  __device__ void start(pair p) { best = p, place = 0; }
  __device__ void enter(pair p, unsigned at) {
    const unsigned wins = __hgt2_mask(p, best), both = at | at << 16;
    best = __hmax2(best, p);
    place = (place & ~wins) | (both & wins);
  }
  __device__ void end(float *largest, unsigned *at) const {
    cuda_pack<T, 2>::open(largest, best);
    at[0] = place & 0xffffu, at[1] = place >> 16;
  }
};
template <>
struct cuda_winner<__half, 2> : cuda_winner_of_pairs<__half> {};
template <>
struct cuda_winner<__nv_bfloat16, 2> : cuda_winner_of_pairs<__nv_bfloat16> {};

/* Places of V winners, in one access */
template <int V>
static inline __device__ void cuda_load_places(unsigned *place, const uint8_t *from) {
  place[0] = V == 1 ? *from : *(const uint16_t *)from & 0xffu;
  if (V == 2) place[V - 1] = *(const uint16_t *)from >> 8;
}
template <int V>
static inline __device__ void cuda_load_places(unsigned *place, const uint16_t *from) {
  place[0] = V == 1 ? *from : *(const uint32_t *)from & 0xffffu;
  if (V == 2) place[V - 1] = *(const uint32_t *)from >> 16;
}
template <int V>
static inline __device__ void cuda_store_places(uint8_t *to, const unsigned *place) {
  if (V == 1)
    *to = (uint8_t)place[0];
  else
    *(uint16_t *)to = (uint16_t)(place[0] | place[V - 1] << 8);
}
template <int V>
static inline __device__ void cuda_store_places(uint16_t *to, const unsigned *place) {
  if (V == 1)
    *to = (uint16_t)place[0];
  else
    *(uint32_t *)to = place[0] | place[V - 1] << 16;
}

/* ---- scales: an fp16 gradient is stored times a power of two that a bound on its largest value gives, computed on the device
 * just before it is written: nothing can overflow, and no step depends on the scales of another ---- */

template <class T>
struct cuda_plane_type {
  enum { scaled = 0 };
};
template <>
struct cuda_plane_type<__half> {
  enum { scaled = 1 };
};

/* The largest power of two that takes values up to `bound` to at most 2^15 */
static inline __device__ float cuda_scale(float bound) {
  int exponent = 0; /* bound < 2^exponent */
  if (!(bound > 0 && bound < INFINITY)) return 1;
  frexpf(bound, &exponent);
  return ldexpf(1.0f, exponent < -85 ? 100 : exponent > 115 ? -100 : 15 - exponent);
}

/* The larger of two; NaN if either is */
static inline __device__ float cuda_larger(float a, float b) { return b > a || b != b ? b : a; }

/* *largest = the larger of it and a value of any thread of the block; values are not negative, NaN is the largest. All threads take
 * part, in whole warps. One thread compares for all; most blocks find no need for the atomic operation. The order does not affect
 * the bits. */
static inline __device__ void cuda_raise(float *largest, float value) {
  __shared__ float of_warps[32];
  const unsigned me = threadIdx.y * blockDim.x + threadIdx.x, warps = blockDim.x * blockDim.y / 32;
  for (int distance = 16; distance > 0; distance /= 2) value = cuda_larger(value, __shfl_xor_sync(0xffffffffu, value, distance));
  if (me % 32 == 0) of_warps[me / 32] = value;
  __syncthreads();
  if (me == 0) {
    for (unsigned w = 1; w < warps; w++) value = cuda_larger(value, of_warps[w]);
    const int bits = __float_as_int(value);
    if (bits > *(volatile int *)largest) atomicMax((int *)largest, bits);
  }
  __syncthreads();
}

/* ---- blocks of LANES * V neighbouring channels by ROWS rows ---- */

enum { CUDA_LANES = 32 };

/* Sum over the block's rows, channel by channel, V of each thread; every thread of a column gets it. Ends with the scratch, for
 * ROWS * LANES * V values, free again. */
template <int ROWS, int LANES, int V, class T>
static __device__ void cuda_column_sums(T *scratch, T (&sums)[V]) {
  T *const column = scratch + threadIdx.x * V;
#pragma unroll
  for (int v = 0; v < V; v++) column[threadIdx.y * LANES * V + v] = sums[v], sums[v] = 0;
  __syncthreads();
#pragma unroll
  for (int row = 0; row < ROWS; row++)
#pragma unroll
    for (int v = 0; v < V; v++) sums[v] += column[row * LANES * V + v];
  __syncthreads();
}

template <int WARPS, class T>
static __device__ T cuda_column_sum(T (*scratch)[CUDA_LANES], T mine) {
  T sums[1] = {mine};
  cuda_column_sums<WARPS, CUDA_LANES, 1>(&scratch[0][0], sums);
  return sums[0];
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

/* First call of an entry without a preceding enter(): refuses a forked process, makes our device the current one. */
spd_status cuda_use(struct spd_backend *backend, struct spd_error *error);

/* The arena, grown to at least this many bytes. Its content is lost. */
spd_status cuda_reserve(struct spd_backend *backend, size_t bytes, struct spd_error *error);
/* The next `bytes` of a reserved arena, from *at on; advances *at. */
static inline size_t cuda_room(size_t bytes) { return (bytes + 255) / 256 * 256; }
static inline void *cuda_take(struct spd_backend *backend, size_t *at, size_t bytes) {
  void *memory = cuda_of(backend)->arena + *at;
  *at += cuda_room(bytes);
  return memory;
}

/* out (count) = sum over n rows of partial (n, count), in double and in an order that n alone decides */
spd_status cuda_sum_rows(struct spd_backend *backend, float *out, const float *partial, size_t n, size_t count, struct spd_error *error);

/* ---- gemm.cu: row-major products ---- */

/* Operands: floats, floats rounded to tf32, bf16, fp16. Sums are float. */
typedef enum { CUDA_EXACT, CUDA_TF32, CUDA_BF16, CUDA_FP16 } cuda_product;

/* A matrix of a batched product: that of the next product starts `step` elements further. */
struct cuda_matrix {
  const void *at;
  size_t ld, step;
};
struct cuda_result {
  void *at;
  size_t ld, step;
  int narrow;          /* of the operands' 16 bits instead of float */
  const float *factor; /* two floats on the device, a factor of the product and a zero; NULL for 1 */
  int more;            /* is added to what is there; without a factor */
};
/* C (m, n) = A (m, k) B (k, n), `batch` times. transpose_a: A is stored (k, m); transpose_b: B is stored (n, k). */
spd_status cuda_gemm(struct spd_backend *backend, cuda_product product, int transpose_a, int transpose_b, size_t m, size_t n, size_t k,
                     struct cuda_matrix a, struct cuda_matrix b, struct cuda_result c, size_t batch, struct spd_error *error);
/* The product type that the backend's precision selects for convolutions, and for linear layers with this many weights */
cuda_product cuda_product_of_convolution(struct spd_backend *backend);
cuda_product cuda_product_of_dense(struct spd_backend *backend, size_t weights);

/* ---- plane.cu ---- */

spd_status cuda_widen(struct spd_backend *backend, float *y, struct spd_plane x, size_t count, struct spd_error *error);
spd_status cuda_narrow(struct spd_backend *backend, struct spd_plane y, const float *x, float scale, size_t count, struct spd_error *error);

/* ---- conv.cu: convolutions over gap-padded rows; x, w, y and dy are planes' elements ---- */

/* y's rows; *factor as in cuda_result */
spd_status cuda_conv(struct spd_backend *backend, void *y, const void *x, const void *w, const float *factor, const struct spd_rows *in,
                     size_t kernel, size_t channels_out, size_t n, struct spd_error *error);
/* partial: room for k times as much as dw; dw is divided by *scale, which may be NULL */
spd_status cuda_conv_weight_gradient(struct spd_backend *backend, float *dw, float *partial, const void *x, const void *dy,
                                     const float *scale, const struct spd_rows *in, size_t kernel, size_t channels_out, size_t n,
                                     struct spd_error *error);
/* Weights (k, in, out) as planes' elements; *largest is raised to their largest magnitude, if it is not NULL. Float weights are
 * used as they are: `to` is set to w. */
spd_status cuda_conv_weights(struct spd_backend *backend, const void **to, void *room, float *largest, const float *w, size_t count,
                             struct spd_error *error);
/* The same with taps in reverse order, (k, out, in), floats too: the input gradient is a convolution with these */
spd_status cuda_conv_flipped(struct spd_backend *backend, void *flipped, float *largest, const float *w, size_t kernel, size_t in,
                             size_t out, struct spd_error *error);

/* ---- fourier.cu: the same convolutions by products of Fourier coefficients; sizes are in elements of planes ---- */

/* Values of a tile: 32 * 3, so that a thread's registers hold them; one tile has the 72 positions of the paper's last block */
#define CUDA_TILE 96
/* Channels from which on products of coefficients are worth their transforms; tests have fewer */
#ifndef CUDA_FOURIER_CHANNELS
#define CUDA_FOURIER_CHANNELS 64
#endif
bool cuda_fourier_pays(struct spd_backend *backend, const struct spd_rows *in, size_t kernel, size_t channels_out);
size_t cuda_fourier_rows_size(const struct spd_rows *rows, size_t kernel, size_t n);
size_t cuda_fourier_weights_size(size_t in, size_t out);
/* *largest as in cuda_conv_weights */
spd_status cuda_fourier_weights(struct spd_backend *backend, void *to, float *largest, const float *w, size_t kernel, size_t in, size_t out,
                                struct spd_error *error);
/* Coefficients of rows x of a convolution's input, and of the gradient dy of its output */
spd_status cuda_fourier_inputs(struct spd_backend *backend, void *coefficients, const void *x, const struct spd_rows *in, size_t kernel,
                               size_t n, struct spd_error *error);
spd_status cuda_fourier_gradients(struct spd_backend *backend, void *coefficients, const void *dy, const struct spd_rows *conv,
                                  size_t kernel, size_t n, struct spd_error *error);
/* y's rows from the coefficients of x; out_coefficients: room. *factor as in cuda_result */
spd_status cuda_fourier_conv(struct spd_backend *backend, void *y, void *out_coefficients, const void *in_coefficients, const void *weights,
                             const float *factor, const struct spd_rows *in, const struct spd_rows *conv, size_t kernel, size_t n,
                             struct spd_error *error);
/* dx's rows from the coefficients of dy; in_coefficients: room */
spd_status cuda_fourier_input_gradient(struct spd_backend *backend, void *dx, void *in_coefficients, const void *out_coefficients,
                                       const void *weights, const float *factor, const struct spd_rows *in, const struct spd_rows *conv,
                                       size_t kernel, size_t n, struct spd_error *error);
/* sums (cuda_fourier_weights_size) of products of these coefficients, added to what is there if `more`; dw from them, as in
 * cuda_conv_weight_gradient */
spd_status cuda_fourier_products(struct spd_backend *backend, float *sums, int more, const void *in_coefficients,
                                 const void *out_coefficients, const struct spd_rows *in, const struct spd_rows *conv, size_t kernel,
                                 size_t n, struct spd_error *error);
spd_status cuda_fourier_weight_gradient(struct spd_backend *backend, float *dw, const float *sums, const float *scale, size_t kernel,
                                        size_t in, size_t out, struct spd_error *error);

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
spd_status cuda_resolution_forward(struct spd_backend *, const struct spd_resolution *, size_t n, struct spd_error *);
spd_status cuda_resolution_backward(struct spd_backend *, const struct spd_resolution *, size_t n, struct spd_error *);
spd_status cuda_gaussians(struct spd_backend *, float *band, const float *sigma, size_t size, size_t count, struct spd_error *);
spd_status cuda_calibrate_forward(struct spd_backend *, const struct spd_calibrate *, size_t n, struct spd_error *);
spd_status cuda_calibrate_backward(struct spd_backend *, const struct spd_calibrate *, size_t n, struct spd_error *);
spd_status cuda_loss_forward(struct spd_backend *, const struct spd_loss *, size_t n, struct spd_error *);
spd_status cuda_loss_backward(struct spd_backend *, const struct spd_loss *, size_t n, struct spd_error *);
spd_status cuda_augment(struct spd_backend *, const struct spd_augment *, size_t n, struct spd_error *);
spd_status cuda_similarity_forward(struct spd_backend *, const struct spd_similarity *, size_t n, struct spd_error *);
spd_status cuda_similarity_backward(struct spd_backend *, const struct spd_similarity *, size_t n, struct spd_error *);
spd_status cuda_consistency_forward(struct spd_backend *, const struct spd_consistency *, size_t n, struct spd_error *);
spd_status cuda_consistency_backward(struct spd_backend *, const struct spd_consistency *, size_t n, struct spd_error *);
spd_status cuda_dense_tangents(struct spd_backend *, const struct spd_dense *, float *dy, const float *dx, size_t k, size_t n,
                               struct spd_error *);
spd_status cuda_normal(struct spd_backend *, const struct spd_normal *, size_t n, struct spd_error *);
spd_status cuda_spread(struct spd_backend *, const struct spd_spread *, size_t n, struct spd_error *);
spd_status cuda_log_ivar(struct spd_backend *, float *y, const float *x, size_t count, struct spd_error *);
spd_status cuda_add(struct spd_backend *, float *y, const float *x, size_t count, struct spd_error *);
spd_status cuda_average(struct spd_backend *, float *mean, const float *x, float fraction, size_t count, struct spd_error *);
spd_status cuda_exchange(struct spd_backend *, float *x, float *y, size_t count, struct spd_error *);
spd_status cuda_clip(struct spd_backend *, float *gradient, double norm, size_t count, struct spd_error *);
spd_status cuda_adam(struct spd_backend *, float *parameters, float *m, float *v, const float *gradient, size_t count,
                     const struct spd_adam *, struct spd_error *);

#endif
