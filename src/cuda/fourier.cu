/* Convolutions by products of Fourier coefficients, tile by tile: a fourth to an eighth of the multiplications of a direct sum, by the same
 * library's matrix products.
 *
 * A tile is TILE positions of a spectrum that make TILE - k + 1 outputs; the tiles of a spectrum start that far apart. With F and G the
 * transform (fft.h) and its inverse, and B the products of the coefficients with those of the weights, outputs are the first of G B F x.
 * The adjoint is of the same kind: G B' F dy, with dy continued by zeros, has TILE positions, of which neighbouring tiles share k - 1.
 *
 * A thread transforms one channel's tile in its registers. Coefficients are stored as (rows, HALF, C, 2), a row a tile; those of the
 * weights as real matrices (HALF, 2 C_in, 2 C_out), so that each slot is one real product over all rows. */
#include "cuda/cuda.h"
#include "cuda/fft.h"

enum { TILE = CUDA_TILE, HALF = TILE / 2, WARPS = 4 /* of a block: four on a multiprocessor */, ADDING_WARPS = 6 };

/* Transforms of planes are stored times SHRINK, a power of two: so those of gradients up to 2^15 fit into fp16, too. Those of the weights
 * make up for it and for the factor TILE of the transform back. */
#define SHRINK (1.0f / 256)

/* ---- tiles ---- */

static __host__ __device__ inline size_t divided_up(size_t a, size_t b) { return (a + b - 1) / b; }

static size_t tiles_of(size_t length, size_t kernel) { return divided_up(length, TILE - kernel + 1); }

/* The tiles of n spectra's rows, each of CUDA_LANES channels the work of a warp */
struct tiling {
  struct spd_rows rows;
  size_t n;
  unsigned tiles; /* of a spectrum */
  unsigned step;  /* from one tile's start to the next */
  int start;      /* position of the first tile's first value; those before 0 are a gap */
  unsigned used;  /* values of a tile that are read, or written */
};

/* This thread's tile */
struct place {
  size_t i;      /* spectrum */
  unsigned tile; /* of the spectrum */
  unsigned c;    /* channel */
  int end;       /* values of the tile that are read, or written */
  bool on;
};
static __device__ __forceinline__ place place_at(const struct tiling &t, size_t i, unsigned tile, unsigned group) {
  place p;
  p.i = i, p.tile = tile, p.c = group * CUDA_LANES + threadIdx.x;
  const int left = (int)t.rows.length - t.start - (int)(tile * t.step);
  p.end = left < (int)t.used ? left : (int)t.used;
  p.on = i < t.n && tile < t.tiles && p.c < t.rows.channels;
  return p;
}
/* Warps one after the other: channels, then tiles, then spectra */
static __device__ __forceinline__ place place_of(const struct tiling &t) {
  const unsigned groups = (unsigned)divided_up(t.rows.channels, CUDA_LANES);
  const unsigned warp = blockIdx.x * WARPS + threadIdx.y;
  return place_at(t, warp / groups / t.tiles, warp / groups % t.tiles, warp % groups);
}
static size_t blocks_of(const struct tiling &t) { return divided_up(t.n * t.tiles * divided_up(t.rows.channels, CUDA_LANES), WARPS); }

/* The tile's first value and its coefficient of slot 0; channels: a constant where the compiler has one */
template <class T>
static __device__ __forceinline__ T *values_at(T *rows, const struct tiling &t, const place &p, int channels) {
  return rows + (long long)(p.i * t.rows.stride + t.rows.lead + p.tile * t.step + t.start) * channels + p.c;
}
template <class T>
static __device__ __forceinline__ T *coefficients_at(T *rows, const struct tiling &t, const place &p, int channels) {
  return rows + (long long)(p.i * t.tiles + p.tile) * TILE * channels + 2 * p.c;
}

/* CHANNELS: their number, or 0 for any */
template <class T, int CHANNELS>
static __global__ void __launch_bounds__(CUDA_LANES *WARPS) transform(T *coefficients, const T *rows, struct tiling t) {
  const int channels = CHANNELS ? CHANNELS : (int)t.rows.channels;
  const place p = place_of(t);
  if (!p.on) return;
  const T *const x = values_at(rows, t, p, channels);
  const float none = 0;
  T values[TILE]; /* all on their way before the first is converted */
  cuda_complex z[HALF];
#pragma unroll
  for (int at = 0; at < TILE; at++) {
    cuda_store<1>(values + at, &none);
    if (at < p.end) values[at] = x[at * channels];
  }
#pragma unroll
  for (int m = 0; m < HALF; m++) {
    cuda_load<1>(&z[m].re, values + 2 * m);
    cuda_load<1>(&z[m].im, values + 2 * m + 1);
  }
  cuda_transform<HALF>(z, SHRINK);
  T *const to = coefficients_at(coefficients, t, p, channels);
#pragma unroll
  for (int f = 0; f < HALF; f++) {
    const float pair[2] = {z[f].re, z[f].im};
    cuda_store<2>(to + f * 2 * channels, pair);
  }
}

/* The values of this thread's tile */
template <class T, int CHANNELS>
static __device__ __forceinline__ void read_back(cuda_complex (&z)[HALF], const T *coefficients, const struct tiling &t, const place &p) {
  const int channels = CHANNELS ? CHANNELS : (int)t.rows.channels;
  const T *const from = coefficients_at(coefficients, t, p, channels);
#pragma unroll
  for (int f = 0; f < HALF; f++) {
    float pair[2];
    cuda_load<2>(pair, from + f * 2 * channels);
    z[f] = {pair[0], pair[1]};
  }
  cuda_transform_back<HALF>(z);
}

template <class T, int CHANNELS>
static __device__ __forceinline__ void write_values(T *rows, const cuda_complex (&z)[HALF], const struct tiling &t, const place &p,
                                                    int end) {
  const int channels = CHANNELS ? CHANNELS : (int)t.rows.channels;
  T *const y = values_at(rows, t, p, channels);
#pragma unroll
  for (int m = 0; m < HALF; m++) {
    const float pair[2] = {z[m].re, z[m].im};
    if (2 * m < end) cuda_store<1>(y + 2 * m * channels, pair);
    if (2 * m + 1 < end) cuda_store<1>(y + (2 * m + 1) * channels, pair + 1);
  }
}

template <class T, int CHANNELS>
static __global__ void __launch_bounds__(CUDA_LANES *WARPS) transform_back(T *rows, const T *coefficients, struct tiling t) {
  const place p = place_of(t);
  if (!p.on) return;
  cuda_complex z[HALF];
  read_back<T, CHANNELS>(z, coefficients, t, p);
  write_values<T, CHANNELS>(rows, z, t, p, p.end);
}

/* The same where tiles share their last values with the next one, which are added up. A block has tiles of one spectrum; where it is not
 * the first, it starts with the last tile of the one before. */
template <class T, int CHANNELS>
static __global__ void __launch_bounds__(CUDA_LANES *ADDING_WARPS) transform_back_and_add(T *rows, const T *coefficients, struct tiling t) {
  CUDA_SHARED(float, ends); /* of the block's tiles, TILE - step of each, CUDA_LANES side by side */
  const unsigned groups = (unsigned)divided_up(t.rows.channels, CUDA_LANES), again = t.tiles > blockDim.y, fresh = blockDim.y - again;
  const unsigned runs = (unsigned)divided_up(t.tiles, fresh), tile = blockIdx.x / groups % runs * fresh + threadIdx.y - again;
  const place p = place_at(t, blockIdx.x / groups / runs, tile, blockIdx.x % groups); /* not on before the first tile */
  const int shared = TILE - (int)t.step;
  float *const mine = ends + threadIdx.y * shared * CUDA_LANES + threadIdx.x;
  cuda_complex z[HALF];
  if (p.on) {
    read_back<T, CHANNELS>(z, coefficients, t, p);
#pragma unroll
    for (int m = 0; m < HALF; m++) {
      if (2 * m >= (int)t.step) mine[(2 * m - (int)t.step) * CUDA_LANES] = z[m].re;
      if (2 * m + 1 >= (int)t.step) mine[(2 * m + 1 - (int)t.step) * CUDA_LANES] = z[m].im;
    }
  }
  __syncthreads();
  if (!p.on || threadIdx.y < again) return;
  if (p.tile > 0) {
    const float *const before = mine - shared * CUDA_LANES;
#pragma unroll
    for (int m = 0; m < HALF / 2; m++) { /* the kernel has up to HALF taps */
      if (2 * m < shared) z[m].re += before[2 * m * CUDA_LANES];
      if (2 * m + 1 < shared) z[m].im += before[(2 * m + 1) * CUDA_LANES];
    }
  }
  write_values<T, CHANNELS>(rows, z, t, p, p.tile + 1 < t.tiles ? (int)t.step : p.end);
}

/* ---- weights ---- */

/* Of a real matrix of two rows and columns for each complex weight; slot 0 has two real weights */
template <class T>
static __global__ void __launch_bounds__(CUDA_THREADS)
    transform_weights(T *to, float *largest, const float *w, unsigned kernel, unsigned in, unsigned out) {
  const unsigned at = blockIdx.x * CUDA_THREADS + threadIdx.x, count = in * out;
  float mine = 0;
  if (at < count) {
    cuda_complex z[HALF];
#pragma unroll
    for (int m = 0; m < HALF / 2; m++) {
      z[m] = z[m + HALF / 2] = {0, 0}; /* there are at most HALF taps */
      if (2 * m < (int)kernel) z[m].re = w[(size_t)(2 * m) * count + at];
      if (2 * m + 1 < (int)kernel) z[m].im = w[(size_t)(2 * m + 1) * count + at];
      mine = cuda_larger(mine, cuda_larger(fabsf(z[m].re), fabsf(z[m].im)));
    }
    cuda_transform<HALF>(z, 1 / (SHRINK * TILE));
    T *const first = to + (size_t)(at / out) * 4 * out + at % out * 2; /* row 2 a; the next is 2 out further */
#pragma unroll
    for (int f = 0; f < HALF; f++) {
      const float up[2] = {z[f].re, f == 0 ? 0 : -z[f].im}, down[2] = {f == 0 ? 0 : z[f].im, f == 0 ? z[f].im : z[f].re};
      cuda_store<2>(first + (size_t)f * 4 * count, up);
      cuda_store<2>(first + (size_t)f * 4 * count + 2 * out, down);
    }
  }
  if (largest) cuda_raise(largest, mine);
}

/* dw from the products of the transforms of x and of dy, which is stored times *scale */
static __global__ void __launch_bounds__(CUDA_THREADS)
    weight_gradient(float *dw, const float *product, const float *scale, unsigned kernel, unsigned in, unsigned out) {
  const unsigned at = blockIdx.x * CUDA_THREADS + threadIdx.x, count = in * out;
  if (at >= count) return;
  const float factor = 1 / (SHRINK * SHRINK * TILE) / (scale ? *scale : 1.0f);
  const float *const first = product + (size_t)(at / out) * 4 * out + at % out * 2;
  cuda_complex z[HALF];
#pragma unroll
  for (int f = 0; f < HALF; f++) {
    float up[2], down[2];
    cuda_load<2>(up, first + (size_t)f * 4 * count);
    cuda_load<2>(down, first + (size_t)f * 4 * count + 2 * out);
    z[f] = f == 0 ? cuda_complex{up[0], down[1]} : cuda_complex{up[0] + down[1], down[0] - up[1]};
  }
  cuda_transform_back<HALF>(z);
#pragma unroll
  for (int m = 0; m < HALF / 2; m++) {
    if (2 * m < (int)kernel) dw[(size_t)(2 * m) * count + at] = z[m].re * factor;
    if (2 * m + 1 < (int)kernel) dw[(size_t)(2 * m + 1) * count + at] = z[m].im * factor;
  }
}

/* ---- launches ---- */

bool cuda_fourier_pays(struct spd_backend *backend, const struct spd_rows *in, size_t kernel, size_t channels_out) {
  if (cuda_of(backend)->precision == SPD_PRECISION_BF16) return false; /* 8 bits: rounding coefficients as well would change winners */
  if (kernel > HALF || in->channels < CUDA_FOURIER_CHANNELS || channels_out < CUDA_FOURIER_CHANNELS) return false;
  return kernel * in->length >= 2 * 4 * HALF * tiles_of(in->length, kernel); /* multiplications: at least half of them saved */
}

size_t cuda_fourier_rows_size(const struct spd_rows *rows, size_t kernel, size_t n) {
  return n * tiles_of(rows->length, kernel) * TILE * rows->channels;
}
size_t cuda_fourier_weights_size(size_t in, size_t out) { return (size_t)HALF * 4 * in * out; }

template <class T>
static spd_status weights_to(struct spd_backend *backend, void *to, float *largest, const float *w, size_t kernel, size_t in, size_t out,
                             struct spd_error *error) {
  CUDA_LAUNCH(transform_weights<T>, divided_up(in * out, CUDA_THREADS), CUDA_THREADS, (T *)to, largest, w, (unsigned)kernel, (unsigned)in,
              (unsigned)out);
  return SPD_STATUS_OK;
}

spd_status cuda_fourier_weights(struct spd_backend *backend, void *to, float *largest, const float *w, size_t kernel, size_t in, size_t out,
                                struct spd_error *error) {
  return CUDA_BY_PLANE(weights_to, backend, to, largest, w, kernel, in, out, error);
}

/* Inputs of tiles, and outputs of tiles */
static struct tiling tiling_of(const struct spd_rows *rows, size_t kernel, int start, unsigned used, size_t n) {
  const struct tiling t = {*rows, n, (unsigned)tiles_of(rows->length, kernel), (unsigned)(TILE - kernel + 1), start, used};
  return t;
}
static struct tiling inputs_of(const struct spd_rows *in, size_t kernel, size_t n) {
  return tiling_of(in, kernel, -(int)(kernel / 2), TILE, n);
}
static struct tiling outputs_of(const struct spd_rows *conv, size_t kernel, size_t n) {
  return tiling_of(conv, kernel, 0, (unsigned)(TILE - kernel + 1), n);
}

enum direction { FORTH, BACK, BACK_AND_ADD };

template <class T, int CHANNELS>
static spd_status launch(struct spd_backend *backend, direction to, void *rows, void *coefficients, const struct tiling &t,
                         struct spd_error *error) {
  const dim3 threads(CUDA_LANES, WARPS), tiles(CUDA_LANES, t.tiles < ADDING_WARPS ? t.tiles : (unsigned)ADDING_WARPS);
  const size_t runs = t.tiles <= ADDING_WARPS ? 1 : divided_up(t.tiles, ADDING_WARPS - 1);
  switch (to) {
    case FORTH: CUDA_LAUNCH((transform<T, CHANNELS>), blocks_of(t), threads, (T *)coefficients, (const T *)rows, t); break;
    case BACK: CUDA_LAUNCH((transform_back<T, CHANNELS>), blocks_of(t), threads, (T *)rows, (const T *)coefficients, t); break;
    case BACK_AND_ADD:
      CUDA_LAUNCH_SHARED((transform_back_and_add<T, CHANNELS>), t.n * runs * divided_up(t.rows.channels, CUDA_LANES), tiles,
                         tiles.y * (TILE - t.step) * CUDA_LANES * sizeof(float), (T *)rows, (const T *)coefficients, t);
  }
  return SPD_STATUS_OK;
}

/* The paper's numbers of channels are constants, so that places in a tile are, too. */
template <class T>
static spd_status launch_for(struct spd_backend *backend, direction to, void *rows, void *coefficients, const struct tiling &t,
                             struct spd_error *error) {
  switch (t.rows.channels) {
    case 128: return launch<T, 128>(backend, to, rows, coefficients, t, error);
    case 256: return launch<T, 256>(backend, to, rows, coefficients, t, error);
    case 512: return launch<T, 512>(backend, to, rows, coefficients, t, error);
    default: return launch<T, 0>(backend, to, rows, coefficients, t, error);
  }
}

static spd_status run(struct spd_backend *backend, direction to, const void *rows, const void *coefficients, const struct tiling &t,
                      struct spd_error *error) {
  if (backend->plane_width == sizeof(float)) return launch_for<float>(backend, to, (void *)rows, (void *)coefficients, t, error);
  return launch_for<__half>(backend, to, (void *)rows, (void *)coefficients, t, error);
}

spd_status cuda_fourier_inputs(struct spd_backend *backend, void *coefficients, const void *x, const struct spd_rows *in, size_t kernel,
                               size_t n, struct spd_error *error) {
  return run(backend, FORTH, x, coefficients, inputs_of(in, kernel, n), error);
}

spd_status cuda_fourier_gradients(struct spd_backend *backend, void *coefficients, const void *dy, const struct spd_rows *conv,
                                  size_t kernel, size_t n, struct spd_error *error) {
  return run(backend, FORTH, dy, coefficients, outputs_of(conv, kernel, n), error);
}

/* The matrices of the slots, of coefficients and of weights */
static struct cuda_matrix slots_of(const void *coefficients, size_t channels) {
  const struct cuda_matrix m = {coefficients, TILE * channels, 2 * channels};
  return m;
}
static struct cuda_result slots_to(struct spd_backend *backend, void *coefficients, size_t channels, const float *factor) {
  const struct cuda_result m = {coefficients, TILE * channels, 2 * channels, backend->plane_width < sizeof(float), factor, 0};
  return m;
}
static struct cuda_matrix slots_of_weights(const void *weights, size_t in, size_t out) {
  const struct cuda_matrix m = {weights, 2 * out, 4 * in * out};
  return m;
}

spd_status cuda_fourier_conv(struct spd_backend *backend, void *y, void *out_coefficients, const void *in_coefficients, const void *weights,
                             const float *factor, const struct spd_rows *in, const struct spd_rows *conv, size_t kernel, size_t n,
                             struct spd_error *error) {
  const struct tiling t = outputs_of(conv, kernel, n);
  SPD_TRY(cuda_gemm(backend, cuda_product_of_convolution(backend), 0, 0, n * t.tiles, 2 * conv->channels, 2 * in->channels,
                    slots_of(in_coefficients, in->channels), slots_of_weights(weights, in->channels, conv->channels),
                    slots_to(backend, out_coefficients, conv->channels, factor), HALF, error));
  return run(backend, BACK, y, out_coefficients, t, error);
}

spd_status cuda_fourier_input_gradient(struct spd_backend *backend, void *dx, void *in_coefficients, const void *out_coefficients,
                                       const void *weights, const float *factor, const struct spd_rows *in, const struct spd_rows *conv,
                                       size_t kernel, size_t n, struct spd_error *error) {
  const struct tiling t = inputs_of(in, kernel, n);
  SPD_TRY(cuda_gemm(backend, cuda_product_of_convolution(backend), 0, 1, n * t.tiles, 2 * in->channels, 2 * conv->channels,
                    slots_of(out_coefficients, conv->channels), slots_of_weights(weights, in->channels, conv->channels),
                    slots_to(backend, in_coefficients, in->channels, factor), HALF, error));
  return run(backend, BACK_AND_ADD, dx, in_coefficients, t, error);
}

spd_status cuda_fourier_products(struct spd_backend *backend, float *sums, int more, const void *in_coefficients,
                                 const void *out_coefficients, const struct spd_rows *in, const struct spd_rows *conv, size_t kernel,
                                 size_t n, struct spd_error *error) {
  const struct cuda_result to = {sums, 2 * conv->channels, 4 * in->channels * conv->channels, 0, NULL, more};
  return cuda_gemm(backend, cuda_product_of_convolution(backend), 1, 0, 2 * in->channels, 2 * conv->channels,
                   n * tiles_of(in->length, kernel), slots_of(in_coefficients, in->channels), slots_of(out_coefficients, conv->channels),
                   to, HALF, error);
}

spd_status cuda_fourier_weight_gradient(struct spd_backend *backend, float *dw, const float *sums, const float *scale, size_t kernel,
                                        size_t in, size_t out, struct spd_error *error) {
  CUDA_LAUNCH(weight_gradient, divided_up(in * out, CUDA_THREADS), CUDA_THREADS, dw, sums, scale, (unsigned)kernel, (unsigned)in,
              (unsigned)out);
  return SPD_STATUS_OK;
}
