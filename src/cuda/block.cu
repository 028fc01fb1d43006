/* Convolution, instance norm, PReLU and max-pool.
 *
 * A block of threads has some channels of one spectrum. It keeps their map in shared memory where that is large enough, so that the
 * convolution's output is read once for statistics and result, forward and backward.
 *
 * Convolutions are products of Fourier coefficients where that saves most multiplications (fourier.cu), else direct sums (conv.cu). Direct
 * sums run over groups of spectra whose input stays in the second-level cache, as does the output that the norm reads next; coefficients
 * over groups that are large enough to fill the device, and limit the memory that they take. */
#include "cuda/cuda.h"

/* Bytes of a group: the input of direct sums, which is read k times, half of the second-level cache of an H100 (50 MB) or H200 (60 MB);
 * coefficients. Measured, bench/results. */
#ifndef CUDA_GROUP_BYTES
#define CUDA_GROUP_BYTES ((size_t)26 << 20)
#endif
#ifndef CUDA_FOURIER_BYTES
#define CUDA_FOURIER_BYTES ((size_t)256 << 20)
#endif

/* Spectra of a group: a multiple of 32, or all of them where there would be few groups */
static size_t group_of(size_t bytes, size_t most, size_t n) {
  const size_t fit = most / bytes;
  return 4 * fit >= n ? n : fit >= 32 ? fit / 32 * 32 : fit > 0 ? fit : 1;
}

/* V channels of one spectrum's map: in shared memory if KEPT, else in the rows */
template <class T, int V, int LANES, bool KEPT>
struct cuda_map {
  typedef typename cuda_pack<T, V>::type pack;
  T *kept;
  const T *rows;
  size_t step; /* from one position to the next, in the rows */
  __device__ cuda_map(T *shared, const T *rows_, size_t channels) : kept(shared + threadIdx.x * V), rows(rows_), step(channels) {}
  /* of position `from` + l; the compiler makes constant offsets of constant l */
  __device__ pack at(unsigned from, unsigned l) const {
    return KEPT ? *(const pack *)(kept + from * (LANES * V) + l * (LANES * V)) : *(const pack *)(rows + (from + l) * step);
  }
  /* one channel of it */
  __device__ float one(unsigned l, int v) const {
    float x[1];
    if (KEPT)
      cuda_load<1>(x, kept + l * (LANES * V) + v);
    else
      cuda_load<1>(x, rows + l * step + v);
    return x[0];
  }
  /* Reads the positions of this thread's row of threads, keeps them, and visits them. */
  template <int ROWS, class Visit>
  __device__ void fetch(unsigned length, Visit visit) const {
    cuda_stream<10>(
        threadIdx.y, length, ROWS, [&](unsigned l) { return *(const pack *)(rows + l * step); },
        [&](unsigned l, pack p) {
          if (KEPT) *(pack *)(kept + l * (LANES * V)) = p;
          visit(p);
        });
  }
};

/* First position of a window and their number; POOL is the pool, or 0 for any */
template <int POOL>
static __device__ void window_of(unsigned *from, unsigned *positions, unsigned t, unsigned pool, unsigned length) {
  const unsigned size = POOL ? POOL : pool, begin = t * size, end = begin + size / 2 + 1;
  *from = begin > size / 2 ? begin - size / 2 : 0;
  *positions = (end < length ? end : length) - *from;
}

/* u_rows: the convolution's rows of the spectra from `first` on, times *u_scale. A falling slope makes the smallest value the winner,
 * so where one falls every value is activated before it competes; the first of equal ones wins, as in PyTorch. */
template <class T, int V, int LANES, int ROWS, int POOL, bool KEPT>
static __global__ void __launch_bounds__(LANES *ROWS) normalise(struct spd_block s, const T *u_rows, const float *u_scale, size_t first) {
  enum { NARROW = sizeof(T) < sizeof(float) };
  typedef typename cuda_pack<T, V>::type pack;
  CUDA_SHARED(T, shared);
  __shared__ float scratch[ROWS * LANES * V];
  const size_t channels = s.out.channels, groups = (channels + LANES * V - 1) / (LANES * V);
  const size_t here = blockIdx.x / groups, i = first + here, c = blockIdx.x % groups * (LANES * V) + threadIdx.x * V;
  const unsigned length = (unsigned)s.conv.length, pooled = (unsigned)s.out.length;
  const bool on = c < channels;
  const cuda_map<T, V, LANES, KEPT> map(shared, u_rows + (here * s.conv.stride + s.conv.lead) * channels + (on ? c : 0), channels);
  float middle[V], centre[V], scale[V], slope[V];
  bool rising = true;
#pragma unroll
  for (int v = 0; v < V; v++) {
    slope[v] = on ? s.slope[c + v] : 1;
    rising = rising && slope[v] > 0;
    centre[v] = scale[v] = middle[v] = 0;
  }
  if (!NARROW) cuda_load<V>(middle, map.rows + length / 2 * channels); /* sums around it lose fewer digits */
  if (on)
    map.template fetch<ROWS>(length, [&](pack p) {
      float x[V];
      cuda_pack<T, V>::open(x, p);
#pragma unroll
      for (int v = 0; v < V; v++) {
        centre[v] += NARROW ? x[v] : x[v] - middle[v];
        if (NARROW) scale[v] += x[v] * x[v]; /* the rounding of the values exceeds the error of the difference of sums */
      }
    });
  cuda_column_sums<ROWS, LANES, V>(scratch, centre);
#pragma unroll
  for (int v = 0; v < V; v++) centre[v] = middle[v] + centre[v] / (float)length;
  if (!NARROW && on) {
#pragma unroll 4
    for (unsigned l = threadIdx.y; l < length; l += ROWS) {
      float x[V];
      cuda_pack<T, V>::open(x, map.at(l, 0));
#pragma unroll
      for (int v = 0; v < V; v++) scale[v] += (x[v] - centre[v]) * (x[v] - centre[v]);
    }
  }
  cuda_column_sums<ROWS, LANES, V>(scratch, scale);
  const double epsilon = cuda_plane_type<T>::scaled ? SPD_NORM_EPSILON * (double)*u_scale * (double)*u_scale : SPD_NORM_EPSILON;
#pragma unroll
  for (int v = 0; v < V; v++) {
    double variance = (double)(scale[v] / (float)length);
    if (NARROW) variance -= (double)centre[v] * (double)centre[v];
    scale[v] = (float)(1.0 / sqrt((variance > 0 ? variance : 0) + epsilon));
  }
  if (!on) return;
  if (threadIdx.y == 0)
#pragma unroll
    for (int v = 0; v < V; v++) s.mean[i * channels + c + v] = centre[v], s.inverse_sd[i * channels + c + v] = scale[v];
  T *y = (T *)s.y.at + (s.out.lead + i * s.out.stride + threadIdx.y) * channels + c;
  uint16_t *argmax = s.argmax ? s.argmax + (i * pooled + threadIdx.y) * channels + c : NULL;
  for (unsigned t = threadIdx.y; t < pooled; t += ROWS, y += ROWS * channels) {
    unsigned from, positions, place[V] = {0};
    float best[V] = {0};
    window_of<POOL>(&from, &positions, t, (unsigned)s.pool, length);
    if (rising) {
      cuda_winner<T, V> winner;
      winner.start(map.at(from, 0));
      if (POOL > 1 && positions == POOL) {
#pragma unroll
        for (int l = 1; l < POOL; l++) winner.enter(map.at(from, (unsigned)l), (unsigned)l);
      } else {
        for (unsigned l = 1; l < positions; l++) winner.enter(map.at(from, l), l);
      }
      winner.end(best, place);
#pragma unroll
      for (int v = 0; v < V; v++) best[v] = spd_prelu((best[v] - centre[v]) * scale[v], slope[v]);
    } else {
      for (unsigned l = 0; l < positions; l++) {
        float x[V];
        cuda_pack<T, V>::open(x, map.at(from, l));
#pragma unroll
        for (int v = 0; v < V; v++) {
          const float value = spd_prelu((x[v] - centre[v]) * scale[v], slope[v]);
          if (l == 0 || value > best[v]) best[v] = value, place[v] = l;
        }
      }
    }
    cuda_store<V>(y, best);
    if (!argmax) continue;
#pragma unroll
    for (int v = 0; v < V; v++) place[v] += from;
    cuda_store_places<V>(argmax, place);
    argmax += ROWS * channels;
  }
}

/* ---- backward ---- */

/* Quantities that determine the scales of a block's gradients, on the device */
struct scales {
  float weight, gradient; /* the largest |w|; the largest |dy| / sd times the steeper side of the PReLU, of u and dy as stored */
  float du;               /* scale of du */
  float factor[2];        /* of the product that makes dx, and a zero */
};

/* Raises scales->gradient. A block has some channels of a spectrum. */
template <class T, int V>
static __global__ void __launch_bounds__(CUDA_LANES * 8) bound_gradient(struct scales *scales, struct spd_block s) {
  const unsigned channels = (unsigned)s.out.channels, groups = (channels + CUDA_LANES * V - 1) / (CUDA_LANES * V);
  const size_t i = blockIdx.x / groups;
  const unsigned c = blockIdx.x % groups * (CUDA_LANES * V) + threadIdx.x * V;
  float largest[V] = {0}, all = 0;
  if (c < channels) {
    typedef typename cuda_pack<T, V>::type pack;
    const T *const dy = (const T *)s.dy.at + (i * s.out.stride + s.out.lead) * channels + c;
    cuda_stream<9>(
        threadIdx.y, (unsigned)s.out.length, 8, [&](unsigned t) { return *(const pack *)(dy + t * channels); },
        [&](unsigned, pack p) {
          float g[V];
          cuda_pack<T, V>::open(g, p);
#pragma unroll
          for (int v = 0; v < V; v++) largest[v] = cuda_larger(largest[v], fabsf(g[v]));
        });
#pragma unroll
    for (int v = 0; v < V; v++) {
      const float steep = fabsf(s.slope[c + v]);
      all = cuda_larger(all, largest[v] * s.inverse_sd[i * channels + c + v] * (steep > 1 ? steep : 1));
    }
  }
  cuda_raise(&scales->gradient, all);
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

/* A window's gradient and winner */
template <class T, int V, int POOL>
struct winning {
  typename cuda_pack<T, V>::type g;
  unsigned place[POOL == 1 ? 1 : V];
  __device__ void load_place(const uint16_t *from) { cuda_load_places<V>(place, from); }
};

/* With v = (u - mean) / sd and d the gradient at v (zero but at the winners): du = (d - sum d / L - v sum(d v) / L) / sd, in u a straight
 * line that is raised at the winners. It takes the place of u: the map is kept, or else each value is read before it is written by
 * the same thread. Gap rows become zero. */
template <class T, int V, int LANES, int ROWS, int POOL, bool KEPT>
static __global__ void __launch_bounds__(LANES *ROWS) normalise_backward(struct spd_block s, const struct scales *scales, size_t first) {
  typedef typename cuda_pack<T, V>::type pack;
  CUDA_SHARED(T, shared);
  __shared__ float scratch[ROWS * LANES * V];
  const size_t channels = s.out.channels, groups = (channels + LANES * V - 1) / (LANES * V);
  const size_t i = first + blockIdx.x / groups, c = blockIdx.x % groups * (LANES * V) + threadIdx.x * V;
  const unsigned length = (unsigned)s.conv.length, pooled = (unsigned)s.out.length;
  const bool on = c < channels;
  T *du = (T *)s.u.at + (i * s.conv.stride + s.conv.lead) * channels + (on ? c : 0);
  const T *const dy = (const T *)s.dy.at + (i * s.out.stride + s.out.lead) * channels + (on ? c : 0);
  const uint16_t *const argmax = POOL == 1 ? NULL : s.argmax + i * pooled * channels + (on ? c : 0);
  const cuda_map<T, V, LANES, KEPT> map(shared, du, channels);
  float centre[V], scale[V], slope[V], sum_d[V], sum_dv[V], sum_slope[V], g[V];
#pragma unroll
  for (int v = 0; v < V; v++) {
    centre[v] = on ? s.mean[i * channels + c + v] : 0;
    scale[v] = on ? s.inverse_sd[i * channels + c + v] : 0;
    slope[v] = on ? s.slope[c + v] : 0;
    sum_d[v] = sum_dv[v] = sum_slope[v] = 0;
  }
  if (KEPT) {
    if (on) map.template fetch<ROWS>(length, [](pack) {});
    __syncthreads();
  }
  const auto load = [&](unsigned t) {
    struct winning<T, V, POOL> w;
    w.g = *(const pack *)(dy + t * channels);
    if (POOL != 1) w.load_place(argmax + t * channels);
    return w;
  };
  enum { BATCH = 5 };
  if (on)
    cuda_stream<BATCH>(threadIdx.y, pooled, ROWS, load, [&](unsigned t, const winning<T, V, POOL> &w) {
      float x[V];
      cuda_pack<T, V>::open(g, w.g);
      if (POOL == 1) cuda_pack<T, V>::open(x, map.at(t, 0));
#pragma unroll
      for (int v = 0; v < V; v++) {
        const float value = ((POOL == 1 ? x[v] : map.one(w.place[v], v)) - centre[v]) * scale[v];
        const float d = value > 0 ? g[v] : slope[v] * g[v];
        sum_slope[v] += value > 0 ? 0 : g[v] * value;
        sum_d[v] += d;
        sum_dv[v] += d * value;
      }
    });
  cuda_column_sums<ROWS, LANES, V>(scratch, sum_d);
  cuda_column_sums<ROWS, LANES, V>(scratch, sum_dv);
  cuda_column_sums<ROWS, LANES, V>(scratch, sum_slope);
  if (!on) return;
  const float per_dy = cuda_plane_type<T>::scaled ? 1.0f / *s.dy.scale : 1.0f;
  const float stored = cuda_plane_type<T>::scaled ? scales->du * *s.u.scale * per_dy : 1.0f;
  float factor[V], rise[V], level[V]; /* du = rise u + level + factor d */
#pragma unroll
  for (int v = 0; v < V; v++) {
    if (threadIdx.y == 0) s.partial[i * channels + c + v] = sum_slope[v] * per_dy;
    factor[v] = scale[v] * stored;
    rise[v] = -factor[v] * (sum_dv[v] / (float)length) * scale[v];
    level[v] = -factor[v] * (sum_d[v] / (float)length) - rise[v] * centre[v];
  }
  cuda_stream<BATCH>(threadIdx.y, pooled, ROWS, load, [&](unsigned t, const winning<T, V, POOL> &w) {
    unsigned from, positions;
    float x[V], top[V];
    window_of<POOL>(&from, &positions, t, (unsigned)s.pool, length);
    cuda_pack<T, V>::open(g, w.g);
    cuda_pack<T, V>::open(x, map.at(t, 0)); /* the winner where there is no pool */
#pragma unroll
    for (int v = 0; v < V; v++) { /* du at the winner */
      const float u = POOL == 1 ? x[v] : map.one(w.place[v], v);
      top[v] = rise[v] * u + level[v] + factor[v] * ((u - centre[v]) * scale[v] > 0 ? g[v] : slope[v] * g[v]);
    }
    T *to = du + from * channels;
    if (POOL == 1) {
      cuda_store<V>(to, top);
      return;
    }
    const auto write = [&](unsigned l) {
      cuda_pack<T, V>::open(x, map.at(from, l));
#pragma unroll
      for (int v = 0; v < V; v++) x[v] = from + l == w.place[v] ? top[v] : rise[v] * x[v] + level[v];
      cuda_store<V>(to, x);
      to += channels;
    };
    if (POOL > 1 && positions == POOL) {
#pragma unroll
      for (int l = 0; l < POOL; l++) write((unsigned)l);
    } else {
      for (unsigned l = 0; l < positions; l++) write(l);
    }
  });
  unsigned covered = 0, positions = 0;
  if (pooled > 0) window_of<POOL>(&covered, &positions, pooled - 1, (unsigned)s.pool, length);
  for (unsigned l = covered + positions; l < (unsigned)s.conv.stride; l++) {
    if (l % ROWS != threadIdx.y) continue;
    float x[V] = {0};
    if (l < length) { /* beyond the last window */
      cuda_pack<T, V>::open(x, map.at(l, 0));
#pragma unroll
      for (int v = 0; v < V; v++) x[v] = rise[v] * x[v] + level[v];
    }
    cuda_store<V>(du + l * channels, x);
  }
  if (i == 0) { /* the gap before the first spectrum */
    const float zeros[V] = {0};
    for (unsigned l = threadIdx.y; l < (unsigned)s.conv.lead; l += ROWS) cuda_store<V>((T *)s.u.at + l * channels + c, zeros);
  }
}

/* ---- launches ---- */

/* The kernels' shapes: the published blocks', maps of any pool, maps that are too long for shared memory, and an odd number of
 * channels */
template <class T, int V, int LANES, int ROWS, int POOL, bool KEPT>
struct shape {
  static size_t blocks(const struct spd_block *s, size_t n) { return n * ((s->out.channels + LANES * V - 1) / (LANES * V)); }
  static size_t shared(const struct spd_block *s) { return KEPT ? s->conv.length * LANES * V * sizeof(T) : 0; }
  static spd_status forward(struct spd_backend *backend, const struct spd_block *s, const T *u, const float *u_scale, size_t first,
                            size_t n, struct spd_error *error) {
    const auto kernel = normalise<T, V, LANES, ROWS, POOL, KEPT>;
    CUDA_LAUNCH_SHARED(kernel, blocks(s, n), dim3(LANES, ROWS), shared(s), *s, u, u_scale, first);
    return SPD_STATUS_OK;
  }
  static spd_status backward(struct spd_backend *backend, const struct spd_block *s, const struct scales *scales, size_t first, size_t n,
                             struct spd_error *error) {
    const auto kernel = normalise_backward<T, V, LANES, ROWS, POOL, KEPT>;
    CUDA_LAUNCH_SHARED(kernel, blocks(s, n), dim3(LANES, ROWS), shared(s), *s, scales, first);
    return SPD_STATUS_OK;
  }
};

/* Whether the map of `channels` channels fits into shared memory together with the kernels' fixed arrays */
static bool fits(struct spd_backend *backend, const struct spd_block *s, size_t channels) {
  const size_t fixed = (size_t)8 << 10;
  return s->conv.length * channels * backend->plane_width + fixed <= cuda_of(backend)->shared_bytes;
}

#define BY_SHAPE(way, ...)                                                                                      \
  do {                                                                                                          \
    const bool pairs = s->out.channels % 2 == 0;                                                                \
    if (!pairs && s->pool == 1) return shape<T, 1, 32, 8, 1, false>::way(backend, s, __VA_ARGS__);              \
    if (!pairs) return shape<T, 1, 32, 8, 0, false>::way(backend, s, __VA_ARGS__);                              \
    if (s->pool == 1 && fits(backend, s, 64)) return shape<T, 2, 32, 8, 1, true>::way(backend, s, __VA_ARGS__); \
    if (s->pool == 1) return shape<T, 2, 16, 16, 1, false>::way(backend, s, __VA_ARGS__);                       \
    if (!fits(backend, s, 32)) return shape<T, 2, 16, 16, 0, false>::way(backend, s, __VA_ARGS__);              \
    if (s->pool == 11) return shape<T, 2, 16, 16, 11, true>::way(backend, s, __VA_ARGS__);                      \
    return shape<T, 2, 16, 16, 0, true>::way(backend, s, __VA_ARGS__);                                          \
  } while (0)

template <class T>
static spd_status run_normalise(struct spd_backend *backend, const struct spd_block *s, const T *u, const float *u_scale, size_t first,
                                size_t n, struct spd_error *error) {
  BY_SHAPE(forward, u, u_scale, first, n, error);
}

template <class T>
static spd_status run_backward(struct spd_backend *backend, const struct spd_block *s, const struct scales *scales, size_t first, size_t n,
                               struct spd_error *error) {
  if (sizeof(T) < sizeof(float) && s->out.channels % 2 == 0 && s->pool == 11 && fits(backend, s, 64))
    return shape<T, 2, 32, 16, 11, true>::backward(backend, s, scales, first, n, error);
  BY_SHAPE(backward, scales, first, n, error);
}

/* The convolution's output is stored times a power of two that keeps its exponent in range: a sum of `terms` products stays below 2^7
 * times the largest input, which is at most the root of the map's length times the PReLU's slope. */
static __global__ void choose_output_scale(float *u_scale, struct scales *scales, size_t terms) {
  *u_scale = scales->factor[0] = cuda_scale((float)terms * scales->weight) / 256.0f;
  scales->factor[1] = 0;
}

/* How a block's convolution is computed, and its room in the arena; what is not needed is NULL */
struct way {
  bool fourier;
  size_t group;          /* spectra at a time */
  void *weights;         /* as the product needs them */
  void *in, *out;        /* of a group: coefficients of input and output */
  void *u;               /* of a group, where the stage has no room for it */
  float *sums;           /* of the weights' gradient */
  struct scales *scales; /* zeroed */
  float *u_scale;
};

static spd_status choose_way(struct way *way, struct spd_backend *backend, const struct spd_block *s, bool backward, size_t n,
                             struct spd_error *error) {
  const size_t width = backend->plane_width, channels = s->out.channels, count = s->kernel * s->in.channels * channels;
  const bool fourier = cuda_fourier_pays(backend, &s->in, s->kernel, channels);
  const size_t of_in = cuda_fourier_rows_size(&s->in, s->kernel, 1) * width,
               of_out = cuda_fourier_rows_size(&s->conv, s->kernel, 1) * width;
  const size_t group =
      fourier ? group_of(of_in + of_out, CUDA_FOURIER_BYTES, n) : group_of(s->in.stride * s->in.channels * width, CUDA_GROUP_BYTES, n);
  const size_t weights = fourier ? cuda_fourier_weights_size(s->in.channels, channels) * width : count * width;
  const size_t sums = !backward || !s->dw ? 0 : 4 * (fourier ? cuda_fourier_weights_size(s->in.channels, channels) : count * s->kernel);
  const size_t in = fourier ? of_in * group : 0, out = fourier ? of_out * group : 0;
  const size_t u = backward || s->u.at ? 0 : spd_rows_size(&s->conv, group) * width;
  size_t at = 0;
  SPD_TRY(cuda_reserve(backend,
                       cuda_room(weights) + cuda_room(sums) + cuda_room(in) + cuda_room(out) + cuda_room(u) +
                           cuda_room(sizeof(struct scales)) + cuda_room(sizeof(float)),
                       error));
  way->fourier = fourier, way->group = group;
  way->weights = cuda_take(backend, &at, weights);
  way->sums = (float *)cuda_take(backend, &at, sums);
  way->in = cuda_take(backend, &at, in), way->out = cuda_take(backend, &at, out);
  way->u = cuda_take(backend, &at, u);
  way->scales = (struct scales *)cuda_take(backend, &at, sizeof *way->scales);
  way->u_scale = s->u.at ? s->u.scale : (float *)cuda_take(backend, &at, sizeof *way->u_scale);
  CUDA_TRY(cudaMemsetAsync(way->scales, 0, sizeof *way->scales, cuda_of(backend)->stream));
  return SPD_STATUS_OK;
}

template <class T>
static spd_status forward(struct spd_backend *backend, const struct spd_block *s, size_t n, struct spd_error *error) {
  const bool scaled = cuda_plane_type<T>::scaled;
  const size_t channels = s->out.channels, count = s->kernel * s->in.channels * channels;
  struct way way;
  SPD_TRY(choose_way(&way, backend, s, false, n, error));
  float *const largest = scaled ? &way.scales->weight : NULL, *const factor = scaled ? way.scales->factor : NULL;
  const void *w = way.weights;
  if (way.fourier)
    SPD_TRY(cuda_fourier_weights(backend, way.weights, largest, s->w, s->kernel, s->in.channels, channels, error));
  else
    SPD_TRY(cuda_conv_weights(backend, &w, way.weights, largest, s->w, count, error));
  if (scaled) CUDA_LAUNCH(choose_output_scale, 1, 1, way.u_scale, way.scales, s->kernel * s->in.channels);
  for (size_t first = 0; first < n; first += way.group) {
    const size_t here = n - first < way.group ? n - first : way.group;
    const T *x = (const T *)s->x.at + first * s->in.stride * s->in.channels;
    T *u = s->u.at ? (T *)s->u.at + first * s->conv.stride * channels : (T *)way.u;
    if (way.fourier) {
      SPD_TRY(cuda_fourier_inputs(backend, way.in, x, &s->in, s->kernel, here, error));
      SPD_TRY(cuda_fourier_conv(backend, u, way.out, way.in, w, factor, &s->in, &s->conv, s->kernel, here, error));
    } else {
      SPD_TRY(cuda_conv(backend, u, x, w, factor, &s->in, s->kernel, channels, here, error));
    }
    SPD_TRY(run_normalise<T>(backend, s, u, way.u_scale, first, here, error));
  }
  return SPD_STATUS_OK;
}

/* The gradients of a group's input, and its part in those of the weights, from du */
template <class T>
static spd_status gradients(struct spd_backend *backend, const struct spd_block *s, const struct way *way, size_t first, size_t n,
                            struct spd_error *error) {
  const float *const factor = cuda_plane_type<T>::scaled ? way->scales->factor : NULL;
  const T *x = (const T *)s->x.at + first * s->in.stride * s->in.channels;
  const T *du = (const T *)s->u.at + first * s->conv.stride * s->conv.channels;
  T *dx = s->dx.at ? (T *)s->dx.at + first * s->in.stride * s->in.channels : NULL;
  if (!way->fourier) {
    if (!dx) return SPD_STATUS_OK;
    return cuda_conv(backend, dx, du, way->weights, factor, &s->conv, s->kernel, s->in.channels, n, error);
  }
  if (s->dw || dx) SPD_TRY(cuda_fourier_gradients(backend, way->out, du, &s->conv, s->kernel, n, error));
  if (dx) SPD_TRY(cuda_fourier_input_gradient(backend, dx, way->in, way->out, way->weights, factor, &s->in, &s->conv, s->kernel, n, error));
  if (!s->dw) return SPD_STATUS_OK;
  SPD_TRY(cuda_fourier_inputs(backend, way->in, x, &s->in, s->kernel, n, error));
  return cuda_fourier_products(backend, way->sums, first > 0, way->in, way->out, &s->in, &s->conv, s->kernel, n, error);
}

template <class T>
static spd_status backward(struct spd_backend *backend, const struct spd_block *s, size_t n, struct spd_error *error) {
  const bool scaled = cuda_plane_type<T>::scaled;
  const size_t channels = s->out.channels, in = s->in.channels;
  struct way way;
  SPD_TRY(choose_way(&way, backend, s, true, n, error));
  float *const largest = scaled ? &way.scales->weight : NULL;
  if (s->dx.at && way.fourier) SPD_TRY(cuda_fourier_weights(backend, way.weights, largest, s->w, s->kernel, in, channels, error));
  if (s->dx.at && !way.fourier) SPD_TRY(cuda_conv_flipped(backend, way.weights, largest, s->w, s->kernel, in, channels, error));
  if (scaled) {
    if (channels % 2)
      CUDA_LAUNCH((bound_gradient<T, 1>), n * ((channels + 31) / 32), dim3(CUDA_LANES, 8), way.scales, *s);
    else
      CUDA_LAUNCH((bound_gradient<T, 2>), n * ((channels + 63) / 64), dim3(CUDA_LANES, 8), way.scales, *s);
    CUDA_LAUNCH(choose_scales, 1, 1, way.scales, *s, s->kernel * channels);
  }
  for (size_t first = 0; first < n; first += way.group) {
    const size_t here = n - first < way.group ? n - first : way.group;
    SPD_TRY(run_backward<T>(backend, s, way.scales, first, here, error));
    SPD_TRY(gradients<T>(backend, s, &way, first, here, error));
  }
  if (s->dslope) SPD_TRY(cuda_sum_rows(backend, s->dslope, s->partial, n, channels, error));
  if (!s->dw) return SPD_STATUS_OK;
  const float *const scale = scaled ? &way.scales->du : NULL;
  if (way.fourier) return cuda_fourier_weight_gradient(backend, s->dw, way.sums, scale, s->kernel, in, channels, error);
  return cuda_conv_weight_gradient(backend, s->dw, way.sums, s->x.at, s->u.at, scale, &s->in, s->kernel, channels, n, error);
}

spd_status cuda_block_forward(struct spd_backend *backend, const struct spd_block *s, size_t n, struct spd_error *error) {
  return CUDA_BY_PLANE(forward, backend, s, n, error);
}

spd_status cuda_block_backward(struct spd_backend *backend, const struct spd_block *s, size_t n, struct spd_error *error) {
  return CUDA_BY_PLANE(backward, backend, s, n, error);
}
