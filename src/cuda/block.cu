/* Convolution, instance norm, PReLU and max-pool.
 *
 * A block of threads has some channels of one spectrum. It keeps their map in shared memory where that is large enough, so that the
 * convolution's output is read once for statistics and result, forward and backward.
 *
 * Products run over groups of spectra: the k products of a convolution each read all of its input, which stays in the second-level
 * cache if it is small enough, as does the output that the norm reads next. */
#include "cuda/cuda.h"

/* Bytes of a group's input. Measured on an H100 (50 MB of cache), bench/results. */
#ifndef CUDA_GROUP_BYTES
#define CUDA_GROUP_BYTES ((size_t)26 << 20)
#endif

enum { SHORT = 128 /* positions: maps of up to this length take more channels at a time */ };

/* Spectra of a group: a multiple of 32, or all of them where there would be few groups */
static size_t group_of(const struct spd_rows *rows, size_t width, size_t n) {
  const size_t fit = CUDA_GROUP_BYTES / (rows->stride * rows->channels * width);
  return 4 * fit >= n ? n : fit >= 32 ? fit / 32 * 32 : fit > 0 ? fit : 1;
}

/* V channels of one spectrum's map, position by position: in shared memory if KEPT, else in the rows */
template <class T, int V, int LANES, bool KEPT>
struct cuda_map {
  T *kept;
  const T *rows;
  size_t step;
  __device__ cuda_map(T *shared, const T *rows_, size_t channels)
      : kept(shared + threadIdx.x * V), rows(rows_), step(channels) {}
  __device__ void value(float *x, unsigned l) const {
    if (KEPT) cuda_load<V>(x, kept + l * (LANES * V));
    else cuda_load<V>(x, rows + l * step);
  }
  /* Reads it from the rows and keeps it */
  __device__ void fetch(float *x, unsigned l) const {
    typedef typename cuda_pack<T, V>::type pack;
    const pack p = *(const pack *)(rows + l * step);
    if (KEPT) *(pack *)(kept + l * (LANES * V)) = p;
    cuda_pack<T, V>::open(x, p);
  }
};

/* u_rows: the convolution's rows of the spectra from `first` on, times *u_scale. A falling slope makes the smallest value the winner,
 * so where one falls every value is activated before it competes; the first of equal ones wins, as in PyTorch. */
template <class T, int V, int LANES, int ROWS, bool KEPT>
static __global__ void __launch_bounds__(LANES *ROWS) normalise(struct spd_block s, const T *u_rows, const float *u_scale, size_t first) {
  enum { ONE_PASS = sizeof(T) < sizeof(float) }; /* the values' own rounding is coarser than what it costs */
  CUDA_SHARED(T, shared);
  __shared__ float scratch[ROWS * LANES * V];
  const size_t channels = s.out.channels, groups = (channels + LANES * V - 1) / (LANES * V), length = s.conv.length;
  const size_t here = blockIdx.x / groups, i = first + here, c = blockIdx.x % groups * (LANES * V) + threadIdx.x * V;
  const bool on = c < channels;
  const cuda_map<T, V, LANES, KEPT> map(shared, u_rows + (here * s.conv.stride + s.conv.lead) * channels + (on ? c : 0), channels);
  float middle[V], x[V], centre[V], scale[V], slope[V];
  bool rising = true;
#pragma unroll
  for (int v = 0; v < V; v++) {
    slope[v] = on ? s.slope[c + v] : 1;
    rising = rising && slope[v] > 0;
    centre[v] = scale[v] = 0;
  }
  cuda_load<V>(middle, map.rows + length / 2 * channels);
  if (on) {
#pragma unroll 10 /* loads on their way together */
    for (unsigned l = threadIdx.y; l < length; l += ROWS) {
      map.fetch(x, l);
#pragma unroll
      for (int v = 0; v < V; v++) {
        centre[v] += x[v] - middle[v];
        scale[v] += (x[v] - middle[v]) * (x[v] - middle[v]);
      }
    }
  }
  cuda_column_sums<ROWS, LANES, V>(scratch, centre);
#pragma unroll
  for (int v = 0; v < V; v++) centre[v] /= (float)length;
  if (ONE_PASS) { /* the squares around the middle value, less what its distance from the mean adds */
    cuda_column_sums<ROWS, LANES, V>(scratch, scale);
#pragma unroll
    for (int v = 0; v < V; v++) {
      scale[v] -= centre[v] * centre[v] * (float)length;
      scale[v] = scale[v] > 0 ? scale[v] : 0;
      centre[v] += middle[v];
    }
  } else {
#pragma unroll
    for (int v = 0; v < V; v++) centre[v] += middle[v], scale[v] = 0;
    if (on) {
#pragma unroll 4
      for (unsigned l = threadIdx.y; l < length; l += ROWS) {
        map.value(x, l);
#pragma unroll
        for (int v = 0; v < V; v++) scale[v] += (x[v] - centre[v]) * (x[v] - centre[v]);
      }
    }
    cuda_column_sums<ROWS, LANES, V>(scratch, scale);
  }
  const double epsilon = cuda_plane_type<T>::scaled ? SPD_NORM_EPSILON * (double)*u_scale * (double)*u_scale : SPD_NORM_EPSILON;
#pragma unroll
  for (int v = 0; v < V; v++) scale[v] = (float)(1.0 / sqrt((double)(scale[v] / (float)length) + epsilon));
  if (!on) return;
  if (threadIdx.y == 0)
#pragma unroll
    for (int v = 0; v < V; v++) s.mean[i * channels + c + v] = centre[v], s.inverse_sd[i * channels + c + v] = scale[v];
  T *y = (T *)s.y.at + (s.out.lead + i * s.out.stride) * channels + c;
  for (unsigned t = threadIdx.y; t < s.out.length; t += ROWS) {
    const unsigned from = (unsigned)spd_window_from(t, s.pool), to = (unsigned)spd_window_to(t, s.pool, length);
    float best[V];
    unsigned place[V];
#pragma unroll
    for (int v = 0; v < V; v++) place[v] = from;
    map.value(best, from);
    if (rising) {
#pragma unroll 10 /* the published pool's, after the first */
      for (unsigned l = from + 1; l < to; l++) {
        map.value(x, l);
#pragma unroll
        for (int v = 0; v < V; v++)
          if (x[v] > best[v]) best[v] = x[v], place[v] = l;
      }
#pragma unroll
      for (int v = 0; v < V; v++) best[v] = spd_prelu((best[v] - centre[v]) * scale[v], slope[v]);
    } else {
#pragma unroll
      for (int v = 0; v < V; v++) best[v] = spd_prelu((best[v] - centre[v]) * scale[v], slope[v]);
      for (unsigned l = from + 1; l < to; l++) {
        map.value(x, l);
#pragma unroll
        for (int v = 0; v < V; v++) {
          const float value = spd_prelu((x[v] - centre[v]) * scale[v], slope[v]);
          if (value > best[v]) best[v] = value, place[v] = l;
        }
      }
    }
    cuda_store<V>(y + t * channels, best);
    if (s.argmax) cuda_store_places<V>(s.argmax + (i * s.out.length + t) * channels + c, place);
  }
}

/* ---- backward ---- */

/* What the scales of a block's gradients follow from, on the device */
struct scales {
  float weight, gradient; /* the largest |w|; the largest |dy| / sd times the steeper side of the PReLU, of u and dy as stored */
  float du;               /* scale of du */
  float factor[2];        /* of the product that makes dx, and a zero */
};

/* Raises scales->gradient. One block a spectrum. */
template <class T, int V>
static __global__ void __launch_bounds__(CUDA_THREADS) bound_gradient(struct scales *scales, struct spd_block s) {
  const size_t channels = s.out.channels, i = blockIdx.x;
  const T *dy = (const T *)s.dy.at + (i * s.out.stride + s.out.lead) * channels;
  float largest = 0;
  for (size_t at = threadIdx.x * V; at < s.out.length * channels; at += CUDA_THREADS * V) {
    float g[V];
    cuda_load<V>(g, dy + at);
#pragma unroll
    for (int v = 0; v < V; v++) {
      const size_t c = at % channels + v;
      const float steep = fabsf(s.slope[c]);
      largest = cuda_larger(largest, fabsf(g[v]) * s.inverse_sd[i * channels + c] * (steep > 1 ? steep : 1));
    }
  }
  largest = cuda_warp_largest(largest);
  if (threadIdx.x % 32 == 0) cuda_raise(&scales->gradient, largest);
}

/* Of du = (d - sum d / L - v sum(d v) / L) / sd with P values d: |sum d| <= P max|d|, |v| <= sqrt(L) as the v^2 add up to at most L,
 * and |sum d v| <= max|d| sqrt(P L). Of dx: each sum has `terms` products of du and a weight. */
static __global__ void choose_scales(struct scales *scales, struct spd_block s, size_t terms) {
  const float length = (float)s.conv.length, winners = (float)s.out.length;
  const float bound = scales->gradient * *s.u.scale / *s.dy.scale * (1 + winners / length + sqrtf(winners));
  scales->du = cuda_scale(bound);
  scales->factor[0] = cuda_scale((float)terms * scales->weight) / 32768.0f; /* |du| <= 2^15 as stored; so is dx */
  scales->factor[1] = 0;
  if (s.dx.at) *s.dx.scale = scales->du * scales->factor[0];
}

/* With v the normalised map and d the gradient at v (zero but at the winners): du = (d - sum d / L - v sum(d v) / L) / sd, which
 * takes the place of u: the map is kept, or else each value is read before it is written by the same thread. Gap rows become zero. */
template <class T, int V, int LANES, int ROWS, bool KEPT>
static __global__ void __launch_bounds__(LANES *ROWS) normalise_backward(struct spd_block s, const struct scales *scales, size_t first) {
  CUDA_SHARED(T, shared);
  __shared__ float scratch[ROWS * LANES * V];
  const size_t channels = s.out.channels, groups = (channels + LANES * V - 1) / (LANES * V), length = s.conv.length;
  const size_t i = first + blockIdx.x / groups, c = blockIdx.x % groups * (LANES * V) + threadIdx.x * V, pooled = s.out.length;
  const bool on = c < channels;
  T *du = (T *)s.u.at + (i * s.conv.stride + s.conv.lead) * channels + (on ? c : 0);
  const T *dy = (const T *)s.dy.at + (i * s.out.stride + s.out.lead) * channels + (on ? c : 0);
  const uint16_t *argmax = s.argmax ? s.argmax + i * pooled * channels + (on ? c : 0) : NULL;
  const cuda_map<T, V, LANES, KEPT> map(shared, du, channels);
  float centre[V], scale[V], slope[V], sum_d[V], sum_dv[V], sum_slope[V], x[V], g[V];
  unsigned place[V];
#pragma unroll
  for (int v = 0; v < V; v++) {
    centre[v] = on ? s.mean[i * channels + c + v] : 0;
    scale[v] = on ? s.inverse_sd[i * channels + c + v] : 0;
    slope[v] = on ? s.slope[c + v] : 0;
    sum_d[v] = sum_dv[v] = sum_slope[v] = 0;
  }
  if (KEPT) {
    if (on) {
#pragma unroll 10
      for (unsigned l = threadIdx.y; l < length; l += ROWS) map.fetch(x, l);
    }
    __syncthreads();
  }
  if (on)
#pragma unroll 5
    for (unsigned t = threadIdx.y; t < pooled; t += ROWS) {
      cuda_load<V>(g, dy + t * channels);
      if (argmax) cuda_load_places<V>(place, argmax + t * channels);
      else map.value(x, t);
#pragma unroll
      for (int v = 0; v < V; v++) {
        float winner[V];
        if (argmax) map.value(winner, place[v]), x[v] = winner[v];
        const float value = (x[v] - centre[v]) * scale[v], d = value > 0 ? g[v] : slope[v] * g[v];
        sum_slope[v] += value > 0 ? 0 : g[v] * value;
        sum_d[v] += d;
        sum_dv[v] += d * value;
      }
    }
  cuda_column_sums<ROWS, LANES, V>(scratch, sum_d);
  cuda_column_sums<ROWS, LANES, V>(scratch, sum_dv);
  cuda_column_sums<ROWS, LANES, V>(scratch, sum_slope);
  if (!on) return;
  const float per_dy = cuda_plane_type<T>::scaled ? 1.0f / *s.dy.scale : 1.0f;
  const float stored = cuda_plane_type<T>::scaled ? scales->du * *s.u.scale * per_dy : 1.0f;
  float factor[V];
#pragma unroll
  for (int v = 0; v < V; v++) {
    if (threadIdx.y == 0) s.partial[i * channels + c + v] = sum_slope[v] * per_dy;
    sum_d[v] /= (float)length, sum_dv[v] /= (float)length; /* means from here on */
    factor[v] = scale[v] * stored;
  }
  for (unsigned t = threadIdx.y; t < pooled; t += ROWS) {
    const unsigned from = (unsigned)spd_window_from(t, s.pool), to = (unsigned)spd_window_to(t, s.pool, length);
    cuda_load<V>(g, dy + t * channels);
    if (argmax) cuda_load_places<V>(place, argmax + t * channels);
    else place[V - 1] = t, place[0] = t;
#pragma unroll 11 /* the published pool */
    for (unsigned l = from; l < to; l++) {
      map.value(x, l);
#pragma unroll
      for (int v = 0; v < V; v++) {
        const float value = (x[v] - centre[v]) * scale[v], d = l != place[v] ? 0 : value > 0 ? g[v] : slope[v] * g[v];
        x[v] = factor[v] * (d - sum_d[v] - value * sum_dv[v]);
      }
      cuda_store<V>(du + l * channels, x);
    }
  }
  for (unsigned l = pooled > 0 ? (unsigned)spd_window_to(pooled - 1, s.pool, length) : 0; l < s.conv.stride; l++) {
    if (l % ROWS != threadIdx.y) continue;
    if (l < length) map.value(x, l); /* beyond the last window */
#pragma unroll
    for (int v = 0; v < V; v++)
      x[v] = l < length ? factor[v] * (0 - sum_d[v] - (x[v] - centre[v]) * scale[v] * sum_dv[v]) : 0;
    cuda_store<V>(du + l * channels, x);
  }
  if (i == 0) { /* the gap before the first spectrum */
#pragma unroll
    for (int v = 0; v < V; v++) x[v] = 0;
    for (size_t l = threadIdx.y; l < s.conv.lead; l += ROWS) cuda_store<V>((T *)s.u.at + l * channels + c, x);
  }
}

/* ---- launches ---- */

/* The kernels' shapes: long maps, short ones, maps that are too long for shared memory, and an odd number of channels */
template <class T, int V, int LANES, int ROWS, bool KEPT>
static spd_status launch_normalise(struct spd_backend *backend, const struct spd_block *s, const T *u, const float *u_scale, size_t first,
                                   size_t n, struct spd_error *error) {
  const auto kernel = normalise<T, V, LANES, ROWS, KEPT>;
  const size_t channels = s->out.channels, shared = KEPT ? s->conv.length * LANES * V * sizeof(T) : 0;
  CUDA_LAUNCH_SHARED(kernel, n * ((channels + LANES * V - 1) / (LANES * V)), dim3(LANES, ROWS), shared, *s, u, u_scale, first);
  return SPD_STATUS_OK;
}

template <class T, int V, int LANES, int ROWS, bool KEPT>
static spd_status launch_backward(struct spd_backend *backend, const struct spd_block *s, const struct scales *scales, size_t first,
                                  size_t n, struct spd_error *error) {
  const auto kernel = normalise_backward<T, V, LANES, ROWS, KEPT>;
  const size_t channels = s->out.channels, shared = KEPT ? s->conv.length * LANES * V * sizeof(T) : 0;
  CUDA_LAUNCH_SHARED(kernel, n * ((channels + LANES * V - 1) / (LANES * V)), dim3(LANES, ROWS), shared, *s, scales, first);
  return SPD_STATUS_OK;
}

/* Does the map of `channels` channels fit beside the kernels' fixed arrays? */
static bool fits(struct spd_backend *backend, const struct spd_block *s, size_t channels) {
  const size_t fixed = (size_t)8 << 10;
  return s->conv.length * channels * backend->plane_width + fixed <= cuda_of(backend)->shared_bytes;
}

template <class T>
static spd_status run_normalise(struct spd_backend *backend, const struct spd_block *s, const T *u, const float *u_scale, size_t first,
                                size_t n, struct spd_error *error) {
  if (s->out.channels % 2) return launch_normalise<T, 1, 32, 8, false>(backend, s, u, u_scale, first, n, error);
  if (!fits(backend, s, 32)) return launch_normalise<T, 2, 16, 16, false>(backend, s, u, u_scale, first, n, error);
  if (s->conv.length <= SHORT) return launch_normalise<T, 2, 32, 8, true>(backend, s, u, u_scale, first, n, error);
  return launch_normalise<T, 2, 16, 16, true>(backend, s, u, u_scale, first, n, error);
}

template <class T>
static spd_status run_backward(struct spd_backend *backend, const struct spd_block *s, const struct scales *scales, size_t first, size_t n,
                               struct spd_error *error) {
  if (s->out.channels % 2) return launch_backward<T, 1, 32, 8, false>(backend, s, scales, first, n, error);
  if (!fits(backend, s, 32)) return launch_backward<T, 2, 16, 16, false>(backend, s, scales, first, n, error);
  if (s->conv.length <= SHORT) return launch_backward<T, 2, 32, 8, true>(backend, s, scales, first, n, error);
  if (sizeof(T) < sizeof(float) && fits(backend, s, 64)) return launch_backward<T, 2, 32, 16, true>(backend, s, scales, first, n, error);
  return launch_backward<T, 2, 16, 16, true>(backend, s, scales, first, n, error);
}

/* The convolution's output is stored times a power of two that keeps its exponent in range: a sum of `terms` products stays below 2^7
 * times the largest input, which is at most the root of the map's length times the PReLU's slope. */
static __global__ void choose_output_scale(float *u_scale, struct scales *scales, size_t terms) {
  *u_scale = scales->factor[0] = cuda_scale((float)terms * scales->weight) / 256.0f;
  scales->factor[1] = 0;
}

template <class T>
static spd_status forward(struct spd_backend *backend, const struct spd_block *s, size_t n, struct spd_error *error) {
  const bool scaled = cuda_plane_type<T>::scaled;
  const size_t channels = s->out.channels, count = s->kernel * s->in.channels * channels, group = group_of(&s->in, sizeof(T), n);
  const size_t map = spd_rows_size(&s->conv, group) * sizeof(T);
  size_t at = 0;
  SPD_TRY(cuda_reserve(backend, cuda_room(count * sizeof(T)) + cuda_room(s->u.at ? 0 : map) + 2 * cuda_room(sizeof(struct scales)),
                       error));
  void *room = cuda_take(backend, &at, count * sizeof(T));
  struct scales *scales = (struct scales *)cuda_take(backend, &at, sizeof *scales);
  float *u_scale = s->u.at ? s->u.scale : (float *)cuda_take(backend, &at, sizeof *u_scale);
  void *own = s->u.at ? NULL : cuda_take(backend, &at, map);
  const void *w;
  CUDA_TRY(cudaMemsetAsync(scales, 0, sizeof *scales, cuda_of(backend)->stream));
  SPD_TRY(cuda_conv_weights(backend, &w, room, scaled ? &scales->weight : NULL, s->w, count, error));
  if (scaled) CUDA_LAUNCH(choose_output_scale, 1, 1, u_scale, scales, s->kernel * s->in.channels);
  for (size_t first = 0; first < n; first += group) {
    const size_t here = n - first < group ? n - first : group;
    const T *x = (const T *)s->x.at + first * s->in.stride * s->in.channels;
    T *u = s->u.at ? (T *)s->u.at + first * s->conv.stride * channels : (T *)own;
    SPD_TRY(cuda_conv(backend, u, x, w, scaled ? scales->factor : NULL, &s->in, s->kernel, channels, here, error));
    SPD_TRY(run_normalise<T>(backend, s, u, u_scale, first, here, error));
  }
  return SPD_STATUS_OK;
}

template <class T>
static spd_status backward(struct spd_backend *backend, const struct spd_block *s, size_t n, struct spd_error *error) {
  const bool scaled = cuda_plane_type<T>::scaled;
  const size_t channels = s->out.channels, count = s->kernel * s->in.channels * channels, group = group_of(&s->in, sizeof(T), n);
  size_t at = 0;
  SPD_TRY(cuda_reserve(backend, cuda_room(4 * count * s->kernel) + cuda_room(count * sizeof(T)) + cuda_room(sizeof(struct scales)), error));
  float *partial = (float *)cuda_take(backend, &at, 4 * count * s->kernel);
  void *flipped = cuda_take(backend, &at, count * sizeof(T));
  struct scales *scales = (struct scales *)cuda_take(backend, &at, sizeof *scales);
  CUDA_TRY(cudaMemsetAsync(scales, 0, sizeof *scales, cuda_of(backend)->stream));
  if (s->dx.at)
    SPD_TRY(cuda_conv_flipped(backend, flipped, scaled ? &scales->weight : NULL, s->w, s->kernel, s->in.channels, channels, error));
  if (scaled) {
    if (channels % 2) CUDA_LAUNCH((bound_gradient<T, 1>), n, CUDA_THREADS, scales, *s);
    else CUDA_LAUNCH((bound_gradient<T, 2>), n, CUDA_THREADS, scales, *s);
    CUDA_LAUNCH(choose_scales, 1, 1, scales, *s, s->kernel * channels);
  }
  for (size_t first = 0; first < n; first += group) {
    const size_t here = n - first < group ? n - first : group;
    SPD_TRY(run_backward<T>(backend, s, scales, first, here, error));
    if (s->dx.at)
      SPD_TRY(cuda_conv(backend, (T *)s->dx.at + first * s->in.stride * s->in.channels,
                        (const T *)s->u.at + first * s->conv.stride * channels, flipped, scaled ? scales->factor : NULL, &s->conv,
                        s->kernel, s->in.channels, here, error));
  }
  if (s->dslope) SPD_TRY(cuda_sum_rows(backend, s->dslope, s->partial, n, channels, error));
  if (!s->dw) return SPD_STATUS_OK;
  return cuda_conv_weight_gradient(backend, s->dw, partial, s->x.at, s->u.at, scaled ? &scales->du : NULL, &s->in, s->kernel, channels, n,
                                   error);
}

spd_status cuda_block_forward(struct spd_backend *backend, const struct spd_block *s, size_t n, struct spd_error *error) {
  return CUDA_BY_PLANE(forward, backend, s, n, error);
}

spd_status cuda_block_backward(struct spd_backend *backend, const struct spd_block *s, size_t n, struct spd_error *error) {
  return CUDA_BY_PLANE(backward, backend, s, n, error);
}
