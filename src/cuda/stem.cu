/* Convolution of the flux, instance norm, PReLU and max-pool, fused: nothing of size (length, channels) is stored. With one input
 * channel the norm's statistics follow from the input alone (spd_stem_statistics).
 *
 * A block has one spectrum, in shared memory if it fits, and up to 128 channels; a thread has V neighbouring channels and, forward, a
 * run of pooled positions, along which its window of inputs slides. */
#include "cuda/cuda.h"

enum { THREADS = 512, WARPS = THREADS / 32 };

/* The flux under the taps, zero beyond the spectrum */
template <bool KEPT>
struct spectrum {
  const float *x; /* KEPT: from position -pad on, with zeros at both ends */
  unsigned length, pad;
  /* at position l + j - pad */
  __device__ float under(unsigned l, unsigned j) const {
    if (KEPT) return x[l + j];
    const unsigned at = l + j - pad; /* left of the spectrum the difference wraps around */
    return at < length ? x[at] : 0;
  }
};

template <bool KEPT>
static __device__ spectrum<KEPT> open_spectrum(float *shared, const struct spd_stem &s, size_t i) {
  const unsigned length = (unsigned)s.length, pad = (unsigned)s.kernel / 2, me = threadIdx.y * blockDim.x + threadIdx.x;
  const float *x = s.x + i * s.length;
  spectrum<KEPT> out = {KEPT ? shared : x, length, pad};
  if (KEPT) {
    for (unsigned at = me; at < length + 2 * pad + 1; at += THREADS) { /* a last step reads one zero more */
      const unsigned l = at - pad;
      shared[at] = l < length ? x[l] : 0;
    }
    __syncthreads();
  }
  return out;
}

/* Sums over the block, COUNT at a time, in an order of their own; every thread gets them */
template <int COUNT>
static __device__ void block_sums(double (*scratch)[COUNT], double (&sums)[COUNT]) {
  const unsigned me = threadIdx.y * blockDim.x + threadIdx.x;
#pragma unroll
  for (int k = 0; k < COUNT; k++) {
    for (int distance = 16; distance > 0; distance /= 2) sums[k] += __shfl_xor_sync(0xffffffffu, sums[k], distance);
    if (me % 32 == 0) scratch[me / 32][k] = sums[k];
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < COUNT; k++) {
    sums[k] = 0;
    for (int w = 0; w < WARPS; w++) sums[k] += scratch[w][k];
  }
  __syncthreads();
}

/* The terms of a sum over all positions l of f(l) that are outside window j of x, for products at this lag */
template <bool KEPT>
static __device__ double left_out(const spectrum<KEPT> &x, long length, long pad, long j, long lag, bool products) {
  double sum = 0;
  const long first = length + j - pad > 0 ? length + j - pad : 0, last = length - lag;
  for (long l = 0; l < j - pad && l < last; l++)
    sum += (double)x.under((unsigned)l, (unsigned)pad) * (products ? (double)x.under((unsigned)(l + lag), (unsigned)pad) : 1.0);
  for (long l = first; l < last; l++)
    sum += (double)x.under((unsigned)l, (unsigned)pad) * (products ? (double)x.under((unsigned)(l + lag), (unsigned)pad) : 1.0);
  return sum;
}

/* m (k + k * k): m_j and R_jk of the spectrum from its autocorrelation at k lags, less the products that window j leaves out at the
 * ends. KERNEL lags in one pass; 0: any number, one after the other. */
template <int KERNEL, bool KEPT>
static __device__ void find_moments(double *m, const spectrum<KEPT> &x, const struct spd_stem &s) {
  enum { LAGS = KERNEL ? KERNEL : 1 };
  __shared__ double scratch[WARPS][LAGS + 1];
  const long kernel = (long)s.kernel, length = (long)s.length, pad = kernel / 2;
  const unsigned me = threadIdx.y * blockDim.x + threadIdx.x;
  double *r = m + kernel;
  for (long lag0 = 0; lag0 < kernel; lag0 += LAGS) {
    double sums[LAGS + 1] = {0};
    for (unsigned l = me; l < (unsigned)length; l += THREADS) {
      const double here = (double)x.under(l, (unsigned)pad);
      sums[LAGS] += here;
#pragma unroll
      for (int k = 0; k < LAGS; k++)
        if (l + lag0 + k < (unsigned)length) sums[k] += here * (double)x.under(l + (unsigned)(lag0 + k), (unsigned)pad);
    }
    block_sums<LAGS + 1>(scratch, sums);
    if (lag0 == 0)
      for (long j = me; j < kernel; j += THREADS) m[j] = sums[LAGS] - left_out(x, length, pad, j, 0, false);
#pragma unroll
    for (int k = 0; k < LAGS; k++) {
      const long lag = lag0 + k;
      for (long j = me; j + lag < kernel; j += THREADS)
        r[j * kernel + j + lag] = r[(j + lag) * kernel + j] = sums[k] - left_out(x, length, pad, j, lag, true);
    }
  }
  __syncthreads();
}

/* The normalised convolution of V channels, position by position. KERNEL 5: taps and the inputs under them are in registers, of
 * which a step to the next position loads one; 0: any. */
template <int V, int KERNEL, bool KEPT>
struct convolution {
  enum { TAPS = KERNEL ? KERNEL : 1 };
  const spectrum<KEPT> x;
  const float *scaled;
  unsigned kernel, position;
  size_t channels;
  float offset[V], taps[TAPS][V], inputs[TAPS];

  __device__ convolution(const spectrum<KEPT> &x_, const struct spd_stem &s, size_t i, size_t c)
      : x(x_),
        scaled(s.scaled + i * (s.kernel + 1) * s.out.channels + c),
        kernel((unsigned)s.kernel),
        position(0),
        channels(s.out.channels) {
    cuda_load<V>(offset, scaled + s.kernel * channels);
#pragma unroll
    for (int j = 0; j < KERNEL; j++) cuda_load<V>(taps[j], scaled + (size_t)j * channels), inputs[j] = 0;
  }

  __device__ void start(unsigned l) {
    position = l;
#pragma unroll
    for (int j = 0; j < KERNEL; j++) inputs[j] = x.under(l, (unsigned)j);
  }

  __device__ void step() {
    position++;
#pragma unroll
    for (int j = 0; j + 1 < KERNEL; j++) inputs[j] = inputs[j + 1];
    if (KERNEL > 0) inputs[TAPS - 1] = x.under(position, (unsigned)KERNEL - 1);
  }

  __device__ void value(float *out) const {
#pragma unroll
    for (int v = 0; v < V; v++) out[v] = offset[v];
    if (KERNEL > 0) {
#pragma unroll
      for (int j = 0; j < KERNEL; j++)
#pragma unroll
        for (int v = 0; v < V; v++) out[v] += taps[j][v] * inputs[j];
    } else {
      for (unsigned j = 0; j < kernel; j++)
#pragma unroll
        for (int v = 0; v < V; v++) out[v] += scaled[j * channels + v] * x.under(position, j);
    }
  }
};

/* The winner of a window: values compete as they are where every slope rises, which is faster, else activated. The first of equal
 * ones wins. */
template <int V, bool RISING>
struct winner {
  float best[V] = {0};
  unsigned place[V] = {0}; /* in the window */
  template <class Convolution>
  __device__ void enter(const Convolution &conv, const float *slope, unsigned l) {
    float values[V];
    conv.value(values);
#pragma unroll
    for (int v = 0; v < V; v++) {
      const float competes = RISING ? values[v] : spd_prelu(values[v], slope[v]);
      if (l == 0 || competes > best[v]) best[v] = competes, place[v] = l;
    }
  }
};

/* The pooled positions of this thread's row of threads. PLACES: the winners' places are kept. POOL: the pool, whose windows inside
 * the spectrum are unrolled; 0: any. */
template <class T, int V, int KERNEL, int POOL, bool KEPT, bool RISING, bool PLACES>
static __device__ void pool_windows(const struct spd_stem &s, const spectrum<KEPT> &x, size_t i, size_t c) {
  const unsigned pooled = (unsigned)s.out.length, each = (pooled + blockDim.y - 1) / blockDim.y, first = threadIdx.y * each;
  const unsigned end = first + each < pooled ? first + each : pooled, channels = (unsigned)s.out.channels;
  T *y = (T *)s.y.at + (s.out.lead + i * s.out.stride + first) * channels + c;
  uint8_t *places = PLACES ? s.winner + (i * pooled + first) * channels + c : NULL;
  convolution<V, KERNEL, KEPT> conv(x, s, i, c);
  float slope[V];
#pragma unroll
  for (int v = 0; v < V; v++) slope[v] = s.slope[c + v];
  const auto keep = [&](winner<V, RISING> &found) {
#pragma unroll
    for (int v = 0; v < V; v++)
      if (RISING) found.best[v] = spd_prelu(found.best[v], slope[v]);
    if (PLACES) cuda_store_places<V>(places, found.place);
    cuda_store<V>(y, found.best);
    y += channels;
    if (PLACES) places += channels;
  };
  /* windows whose positions must be counted: the first and the last ones */
  const auto slowly = [&](unsigned t) {
    const unsigned positions = (unsigned)spd_window_to(t, s.pool, s.length) - (unsigned)spd_window_from(t, s.pool);
    winner<V, RISING> found;
    for (unsigned l = 0; l < positions; l++) found.enter(conv, slope, l), conv.step();
    keep(found);
  };
  if (first >= end) return;
  unsigned t = first;
  conv.start((unsigned)spd_window_from(first, s.pool));
  if (POOL > 0) {
    const unsigned inner = (unsigned)((s.length - POOL / 2 - 1) / (POOL ? POOL : 1)) + 1; /* windows that end inside */
    if (t == 0) slowly(t++);
    for (; t < (inner < end ? inner : end); t++) {
      winner<V, RISING> found;
#pragma unroll
      for (int l = 0; l < POOL; l++) found.enter(conv, slope, (unsigned)l), conv.step();
      keep(found);
    }
  }
  for (; t < end; t++) slowly(t);
}

template <class T, int V, int KERNEL, int POOL, bool KEPT>
static __global__ void __launch_bounds__(THREADS, 2) forward(struct spd_stem s) {
  CUDA_SHARED(double, shared); /* the moments, then the spectrum */
  const size_t channels = s.out.channels, width = blockDim.x * V, groups = (channels + width - 1) / width;
  const size_t i = blockIdx.x / groups, c0 = blockIdx.x % groups * width, c = c0 + threadIdx.x * V, n_moments = s.kernel * (s.kernel + 1);
  const unsigned me = threadIdx.y * blockDim.x + threadIdx.x;
  const spectrum<KEPT> x = open_spectrum<KEPT>((float *)(shared + n_moments), s, i);
  double *m = shared;
  float *scaled = s.scaled + i * (s.kernel + 1) * channels;
  find_moments<KERNEL, KEPT>(m, x, s);
  if (c0 == 0)
    for (size_t k = me; k < n_moments; k += THREADS) s.moments[i * n_moments + k] = m[k];
  for (size_t own = c0 + me; own < c0 + width && own < channels; own += THREADS) { /* taps and offset with the norm folded in */
    double mean, inverse_sd;
    spd_stem_statistics(&mean, &inverse_sd, s.w, m, m + s.kernel, s.length, s.kernel, channels, own);
    for (size_t j = 0; j < s.kernel; j++) scaled[j * channels + own] = (float)((double)s.w[j * channels + own] * inverse_sd);
    scaled[s.kernel * channels + own] = (float)(-mean * inverse_sd);
  }
  __syncthreads();
  if (c >= channels) return;
  bool rising = true;
#pragma unroll
  for (int v = 0; v < V; v++) rising = rising && s.slope[c + v] > 0;
  if (rising && s.winner)
    pool_windows<T, V, KERNEL, POOL, KEPT, true, true>(s, x, i, c);
  else if (rising)
    pool_windows<T, V, KERNEL, POOL, KEPT, true, false>(s, x, i, c);
  else if (s.winner)
    pool_windows<T, V, KERNEL, POOL, KEPT, false, true>(s, x, i, c);
  else
    pool_windows<T, V, KERNEL, POOL, KEPT, false, false>(s, x, i, c);
}

/* A window's gradient and winner */
template <class T, int V>
struct winning {
  typename cuda_pack<T, V>::type g;
  unsigned place[V];
};

/* With d the gradient at the winners l* and v their normalised values: sums (n, k + 2, C) of d x[l* + j], d and d v, and dslope
 * (n, C). KERNEL: all sums over j in one pass; 0: some at a time. */
template <class T, int V, int KERNEL, bool KEPT>
static __global__ void __launch_bounds__(THREADS, 2) backward(struct spd_stem s, float *sums, float *dslope) {
  enum { TAPS = KERNEL ? KERNEL : 4 };
  CUDA_SHARED(float, shared);
  __shared__ float scratch[THREADS * V];
  const size_t kernel = s.kernel, channels = s.out.channels, width = blockDim.x * V, groups = (channels + width - 1) / width;
  const size_t i = blockIdx.x / groups, c = blockIdx.x % groups * width + threadIdx.x * V, pooled = s.out.length;
  const bool on = c < channels;
  const spectrum<KEPT> x = open_spectrum<KEPT>(shared, s, i);
  const unsigned pool = (unsigned)s.pool, begin = on ? threadIdx.y : (unsigned)pooled, end = (unsigned)pooled;
  const T *const dy = (const T *)s.dy.at + (s.out.lead + i * s.out.stride) * channels + c;
  const uint8_t *const places = s.winner + i * pooled * channels + c;
  const float *scaled = s.scaled + i * (kernel + 1) * channels + c;
  const float per_dy = cuda_plane_type<T>::scaled ? 1.0f / *s.dy.scale : 1.0f;
  float *out = sums + i * (kernel + 2) * channels + c;
  float offset[V], slope[V], taps[TAPS][V], g[V];
#pragma unroll
  for (int v = 0; v < V; v++) offset[v] = on ? scaled[kernel * channels + v] : 0, slope[v] = on ? s.slope[c + v] : 0;
#pragma unroll
  for (int j = 0; j < KERNEL; j++)
#pragma unroll
    for (int v = 0; v < V; v++) taps[j][v] = on ? scaled[j * channels + v] : 0;
  for (unsigned j0 = 0; j0 < (unsigned)kernel; j0 += TAPS) {
    float totals[TAPS + 3][V]; /* of d x under each tap, d, d v and the slope's gradient */
#pragma unroll
    for (int k = 0; k < TAPS + 3; k++)
#pragma unroll
      for (int v = 0; v < V; v++) totals[k][v] = 0;
    cuda_stream<2>(/* more would cost a block a multiprocessor */
                   begin, end, blockDim.y,
                   [&](unsigned t) {
                     winning<T, V> w;
                     w.g = *(const typename cuda_pack<T, V>::type *)(dy + t * channels);
                     cuda_load_places<V>(w.place, places + t * channels);
                     return w;
                   },
                   [&](unsigned t, const winning<T, V> &w) {
                     const unsigned from = t * pool > pool / 2 ? t * pool - pool / 2 : 0;
                     cuda_pack<T, V>::open(g, w.g);
#pragma unroll
                     for (int v = 0; v < V; v++) {
                       const unsigned l = from + w.place[v];
                       float value = offset[v], inputs[TAPS];
#pragma unroll
                       for (int j = 0; j < TAPS; j++)
                         inputs[j] = KERNEL > 0 || j0 + j < (unsigned)kernel ? x.under(l, j0 + (unsigned)j) : 0;
                       if (KERNEL > 0) {
#pragma unroll
                         for (int j = 0; j < KERNEL; j++) value += taps[j][v] * inputs[j];
                       } else {
                         for (unsigned j = 0; j < (unsigned)kernel; j++) value += scaled[j * channels + v] * x.under(l, j);
                       }
                       const float d = value > 0 ? g[v] : g[v] * slope[v];
#pragma unroll
                       for (int j = 0; j < TAPS; j++) totals[j][v] += d * inputs[j];
                       totals[TAPS][v] += d;
                       totals[TAPS + 1][v] += d * value;
                       totals[TAPS + 2][v] += value > 0 ? 0 : g[v] * value;
                     }
                   });
#pragma unroll
    for (int k = 0; k < TAPS + 3; k++) {
#pragma unroll
      for (int v = 0; v < V; v++) scratch[(threadIdx.y * blockDim.x + threadIdx.x) * V + v] = totals[k][v];
      __syncthreads();
      if (threadIdx.y == 0 && on && (k >= TAPS ? j0 == 0 : j0 + k < (unsigned)kernel))
#pragma unroll
        for (int v = 0; v < V; v++) {
          float total = 0;
          for (unsigned row = 0; row < blockDim.y; row++) total += scratch[(row * blockDim.x + threadIdx.x) * V + v];
          total *= per_dy;
          if (k == TAPS + 2)
            dslope[i * channels + c + v] = total;
          else
            out[(k < TAPS ? j0 + k : kernel + (k - TAPS)) * channels + v] = total;
        }
      __syncthreads();
    }
  }
}

/* dw (n, k, C): the sums through the norm */
static __global__ void tap_gradients(float *dw, const float *sums, struct spd_stem s, size_t n) {
  const size_t kernel = s.kernel, channels = s.out.channels;
  CUDA_EACH(at, n * channels) {
    const size_t i = at / channels, c = at % channels;
    const double *m = s.moments + i * kernel * (kernel + 1), *r = m + kernel;
    const float *taps = sums + i * (kernel + 2) * channels + c;
    const double sum_d = (double)taps[kernel * channels], sum_dv = (double)taps[(kernel + 1) * channels];
    double mean, inverse_sd;
    spd_stem_statistics(&mean, &inverse_sd, s.w, m, r, s.length, kernel, channels, c);
    for (size_t j = 0; j < kernel; j++)
      dw[(i * kernel + j) * channels + c] =
          spd_stem_tap_gradient((double)taps[j * channels], sum_d, sum_dv, j, mean, inverse_sd, s.w, m, r, s.length, kernel, channels, c);
  }
}

/* ---- launches ---- */

static size_t spectrum_bytes(const struct spd_stem *s) { return (s->length + 2 * (s->kernel / 2) + 1) * sizeof(float); }

/* Threads of a block: lanes along the channels, as many as they need up to 64, by rows */
static dim3 threads_of(const struct spd_stem *s, size_t v) {
  unsigned lanes = 8;
  while (lanes < 64 && lanes * v < s->out.channels) lanes *= 2;
  return dim3(lanes, THREADS / lanes);
}

template <class T, int V, int KERNEL, int POOL, bool KEPT>
static spd_status launch_forward(struct spd_backend *backend, const struct spd_stem *s, size_t n, struct spd_error *error) {
  const auto kernel = forward<T, V, KERNEL, POOL, KEPT>;
  const dim3 threads = threads_of(s, V);
  const size_t width = threads.x * V, blocks = n * ((s->out.channels + width - 1) / width);
  CUDA_LAUNCH_SHARED(kernel, blocks, threads, s->kernel * (s->kernel + 1) * sizeof(double) + (KEPT ? spectrum_bytes(s) : 0), *s);
  return SPD_STATUS_OK;
}

template <class T, int V, int KERNEL, bool KEPT>
static spd_status launch_backward(struct spd_backend *backend, const struct spd_stem *s, float *sums, float *dslope, size_t n,
                                  struct spd_error *error) {
  const auto kernel = backward<T, V, KERNEL, KEPT>;
  const dim3 threads = threads_of(s, V);
  const size_t width = threads.x * V, blocks = n * ((s->out.channels + width - 1) / width);
  CUDA_LAUNCH_SHARED(kernel, blocks, threads, KEPT ? spectrum_bytes(s) : 0, *s, sums, dslope);
  return SPD_STATUS_OK;
}

/* The published shape, any other, and spectra that are too long for shared memory or have an odd number of channels */
enum shape { PUBLISHED, PAIRS, ANY };
static enum shape shape_of(struct spd_backend *backend, const struct spd_stem *s) {
  const size_t fixed = ((size_t)8 << 10) + s->kernel * (s->kernel + 1) * sizeof(double);
  if (s->out.channels % 2 || spectrum_bytes(s) + fixed > cuda_of(backend)->shared_bytes) return ANY;
  return s->kernel == 5 && s->pool == 5 && s->length > s->pool ? PUBLISHED : PAIRS;
}

template <class T>
static spd_status run_forward(struct spd_backend *backend, const struct spd_stem *s, size_t n, struct spd_error *error) {
  switch (shape_of(backend, s)) {
    case PUBLISHED: return launch_forward<T, 2, 5, 5, true>(backend, s, n, error);
    case PAIRS: return launch_forward<T, 2, 0, 0, true>(backend, s, n, error);
    default: return launch_forward<T, 1, 0, 0, false>(backend, s, n, error);
  }
}

template <class T>
static spd_status run_backward(struct spd_backend *backend, const struct spd_stem *s, float *sums, float *dslope, size_t n,
                               struct spd_error *error) {
  switch (shape_of(backend, s)) {
    case PUBLISHED: return launch_backward<T, 2, 5, true>(backend, s, sums, dslope, n, error);
    case PAIRS: return launch_backward<T, 2, 0, true>(backend, s, sums, dslope, n, error);
    default: return launch_backward<T, 1, 0, false>(backend, s, sums, dslope, n, error);
  }
}

spd_status cuda_stem_forward(struct spd_backend *backend, const struct spd_stem *s, size_t n, struct spd_error *error) {
  if (s->winner && s->pool > 255)
    return spd_fail(error, SPD_STATUS_UNSUPPORTED, "a GPU trains networks whose first pool has up to 255 positions, not %zu", s->pool);
  return CUDA_BY_PLANE(run_forward, backend, s, n, error);
}

spd_status cuda_stem_backward(struct spd_backend *backend, const struct spd_stem *s, size_t n, struct spd_error *error) {
  const size_t kernel = s->kernel, channels = s->out.channels;
  float *dslope = s->partial + n * kernel * channels; /* (n, C) after the weight gradients (n, k, C) */
  size_t at = 0;
  SPD_TRY(cuda_reserve(backend, cuda_room(n * (kernel + 2) * channels * sizeof(float)), error));
  float *sums = (float *)cuda_take(backend, &at, n * (kernel + 2) * channels * sizeof(float));
  SPD_TRY(CUDA_BY_PLANE(run_backward, backend, s, sums, dslope, n, error));
  CUDA_LAUNCH(tap_gradients, cuda_blocks(backend, n * channels), CUDA_THREADS, s->partial, sums, *s, n);
  if (s->dw) SPD_TRY(cuda_sum_rows(backend, s->dw, s->partial, n, kernel * channels, error));
  if (s->dslope) SPD_TRY(cuda_sum_rows(backend, s->dslope, dslope, n, channels, error));
  return SPD_STATUS_OK;
}

static __global__ void log_range(float *y, const float *x, size_t count) { CUDA_EACH(i, count) y[i] = logf(x[i] + 1e-6f); }

spd_status cuda_log_ivar(struct spd_backend *backend, float *y, const float *x, size_t count, struct spd_error *error) {
  CUDA_LAUNCH(log_range, cuda_blocks(backend, count), CUDA_THREADS, y, x, count);
  return SPD_STATUS_OK;
}
