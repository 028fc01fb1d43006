/* Attention over the segments (paper eq. 2): a = softmax over positions of the keys, e = sum over positions of values * a. */
#include "cuda/cuda.h"

enum { WARPS = 8 };

/* A thread processes V neighbouring channels of every WARPS-th position; only it reads back what it wrote to `attention`. */
template <class T, int V>
static __global__ void __launch_bounds__(WARPS *CUDA_LANES) forward(struct spd_attend s) {
  typedef typename cuda_pack<T, V>::type pack;
  enum { BATCH = 9 }; /* all of a thread's in the published network */
  __shared__ float scratch[WARPS * CUDA_LANES * V];
  const size_t channels = s.channels, groups = (channels + CUDA_LANES * V - 1) / (CUDA_LANES * V);
  const size_t i = blockIdx.x / groups, c = blockIdx.x % groups * (CUDA_LANES * V) + threadIdx.x * V;
  const bool on = c < channels;
  const unsigned length = on ? (unsigned)s.length : 0;
  const T *values = (const T *)s.segments.at + i * s.length * 2 * channels + c, *keys = values + channels;
  const T *gate = s.gate.at ? (const T *)s.gate.at + i * s.length * channels + c : NULL;
  float *attention = s.attention + i * s.length * channels + c, *feature = s.feature + i * s.feature_stride;
  float largest[V], sum[V], weighted[V], key[V], value[V];
#pragma unroll
  for (int v = 0; v < V; v++) largest[v] = -INFINITY, sum[v] = weighted[v] = 0;
  cuda_stream<BATCH>(
      threadIdx.y, length, WARPS, [&](unsigned l) { return *(const pack *)(keys + l * 2 * channels); },
      [&](unsigned l, pack p) {
        cuda_pack<T, V>::open(key, p);
        if (gate) {
          cuda_load<V>(value, gate + l * channels);
#pragma unroll
          for (int v = 0; v < V; v++) key[v] *= value[v];
        }
#pragma unroll
        for (int v = 0; v < V; v++) largest[v] = key[v] > largest[v] ? key[v] : largest[v];
        cuda_store<V>(attention + l * channels, key);
      });
  float *column = scratch + threadIdx.x * V;
#pragma unroll
  for (int v = 0; v < V; v++) column[threadIdx.y * CUDA_LANES * V + v] = largest[v];
  __syncthreads();
  for (int w = 0; w < WARPS; w++)
#pragma unroll
    for (int v = 0; v < V; v++) {
      const float other = column[w * CUDA_LANES * V + v];
      largest[v] = other > largest[v] ? other : largest[v];
    }
  __syncthreads();
  cuda_stream<BATCH>(
      threadIdx.y, length, WARPS, [&](unsigned l) { return *(const pack *)(values + l * 2 * channels); },
      [&](unsigned l, pack p) {
        cuda_load<V>(key, attention + l * channels);
        cuda_pack<T, V>::open(value, p);
#pragma unroll
        for (int v = 0; v < V; v++) {
          key[v] = spd_exp(key[v] - largest[v]);
          sum[v] += key[v];
          weighted[v] += key[v] * value[v];
        }
        cuda_store<V>(attention + l * channels, key);
      });
  cuda_column_sums<WARPS, CUDA_LANES, V>(scratch, sum);
  cuda_column_sums<WARPS, CUDA_LANES, V>(scratch, weighted);
  if (!on) return;
#pragma unroll
  for (int v = 0; v < V; v++) sum[v] = 1.0f / sum[v];
  typedef typename cuda_pack<float, V>::type wide;
  cuda_stream<BATCH>(
      threadIdx.y, length, WARPS, [&](unsigned l) { return *(const wide *)(attention + l * channels); },
      [&](unsigned l, wide p) {
        cuda_pack<float, V>::open(key, p);
#pragma unroll
        for (int v = 0; v < V; v++) key[v] *= sum[v];
        cuda_store<V>(attention + l * channels, key);
      });
  if (threadIdx.y != 0) return;
#pragma unroll
  for (int v = 0; v < V; v++) feature[c + v] = weighted[v] * sum[v];
  if (c == 0 && s.feature_stride > channels) feature[channels] = s.z[i];
}

/* ---- backward ---- */

/* The largest |de|, |h| and |gate|, which the scales of the gradients follow from; and these scales */
struct scales {
  float feature, value, gate;
};

/* Raises the scales' bounds. One block a spectrum. */
template <class T, int V>
static __global__ void __launch_bounds__(CUDA_THREADS) find_largest(struct scales *scales, struct spd_attend s) {
  const unsigned channels = (unsigned)s.channels, both = (unsigned)s.length * 2 * channels;
  const T *const v = (const T *)s.segments.at + (size_t)blockIdx.x * both, *const g =
                                                                               (const T *)s.gate.at + (size_t)blockIdx.x * (both / 2);
  float feature = 0, value = 0, gate = 0, x[V];
  for (unsigned c = threadIdx.x; c < channels; c += CUDA_THREADS)
    feature = cuda_larger(feature, fabsf(s.dfeature[blockIdx.x * s.feature_stride + c]));
  typedef typename cuda_pack<T, V>::type pack;
  cuda_stream<9>(
      threadIdx.x * V, both, CUDA_THREADS * V, [&](unsigned at) { return *(const pack *)(v + at); }, /* keys too: dgate has them */
      [&](unsigned, pack p) {
        cuda_pack<T, V>::open(x, p);
#pragma unroll
        for (int k = 0; k < V; k++) value = cuda_larger(value, fabsf(x[k]));
      });
  if (s.gate.at)
    for (unsigned at = threadIdx.x * V; at < both / 2; at += CUDA_THREADS * V) {
      cuda_load<V>(x, g + at);
#pragma unroll
      for (int k = 0; k < V; k++) gate = cuda_larger(gate, fabsf(x[k]));
    }
  cuda_raise(&scales->feature, feature);
  cuda_raise(&scales->value, value);
  cuda_raise(&scales->gate, gate);
}

/* With a <= 1 and |h - e| <= 2 max|h|; dsegments has a de and a de (h - e) gate, dgate a de (h - e) key */
static __global__ void choose_scales(const struct scales *largest, struct spd_attend s) {
  const float dkey = 2 * largest->value * largest->feature, gated = s.gate.at ? dkey * largest->gate : dkey;
  *s.dsegments.scale = cuda_scale(largest->feature > gated ? largest->feature : gated);
  if (s.gate.at) *s.dgate.scale = cuda_scale(dkey * largest->value);
}

/* da = h de; through the softmax dk = a (da - sum a da) = a de (h - e); through the gate each factor gets the other. A thread
 * processes V neighbouring channels and reads their de and e once. */
template <class T, int V>
static __global__ void __launch_bounds__(WARPS *CUDA_LANES) backward(struct spd_attend s) {
  const unsigned channels = (unsigned)s.channels, groups = (channels + CUDA_LANES * V - 1) / (CUDA_LANES * V);
  const size_t i = blockIdx.x / groups;
  const unsigned c = blockIdx.x % groups * (CUDA_LANES * V) + threadIdx.x * V;
  if (c >= channels) return;
  const float stored = cuda_plane_type<T>::scaled ? *s.dsegments.scale : 1.0f;
  const float gate_stored = cuda_plane_type<T>::scaled && s.gate.at ? *s.dgate.scale : 1.0f;
  float de[V], e[V];
#pragma unroll
  for (int v = 0; v < V; v++) de[v] = s.dfeature[i * s.feature_stride + c + v], e[v] = s.feature[i * s.feature_stride + c + v];
  struct position {
    typename cuda_pack<float, V>::type attention;
    typename cuda_pack<T, V>::type value, key, gate;
  };
  const size_t row = i * s.length;
  cuda_stream<3>(
      threadIdx.y, (unsigned)s.length, WARPS,
      [&](unsigned l) {
        typedef typename cuda_pack<T, V>::type pack;
        const size_t one = (row + l) * channels + c, both = (row + l) * 2 * channels + c;
        position p;
        p.attention = *(const typename cuda_pack<float, V>::type *)(s.attention + one);
        p.value = *(const pack *)((const T *)s.segments.at + both);
        if (s.gate.at) {
          p.key = *(const pack *)((const T *)s.segments.at + both + channels);
          p.gate = *(const pack *)((const T *)s.gate.at + one);
        } else {
          p.key = p.gate = p.value;
        }
        return p;
      },
      [&](unsigned l, const position &p) {
        const size_t one = (row + l) * channels + c, both = (row + l) * 2 * channels + c;
        float a[V], value[V], key[V], gate[V], dvalue[V], dkey[V], dgate[V], dattention[V];
        cuda_pack<float, V>::open(a, p.attention);
        cuda_pack<T, V>::open(value, p.value);
        cuda_pack<T, V>::open(key, p.key);
        cuda_pack<T, V>::open(gate, p.gate);
#pragma unroll
        for (int v = 0; v < V; v++) {
          const float d = a[v] * de[v] * (value[v] - e[v]);
          dattention[v] = value[v] * de[v];
          dvalue[v] = a[v] * de[v] * stored;
          dkey[v] = (s.gate.at ? d * gate[v] : d) * stored;
          dgate[v] = d * key[v] * gate_stored;
        }
        cuda_store<V>((T *)s.dsegments.at + both, dvalue);
        cuda_store<V>((T *)s.dsegments.at + both + channels, dkey);
        if (s.gate.at) cuda_store<V>((T *)s.dgate.at + one, dgate);
        if (s.dattention) cuda_store<V>(s.dattention + one, dattention);
      });
}

/* ---- launches ---- */

template <class T, int V>
static spd_status launch_forward(struct spd_backend *backend, const struct spd_attend *s, size_t n, struct spd_error *error) {
  const auto kernel = forward<T, V>;
  CUDA_LAUNCH(kernel, n * ((s->channels + CUDA_LANES * V - 1) / (CUDA_LANES * V)), dim3(CUDA_LANES, WARPS), *s);
  return SPD_STATUS_OK;
}

template <class T>
static spd_status run_forward(struct spd_backend *backend, const struct spd_attend *s, size_t n, struct spd_error *error) {
  return s->channels % 2 ? launch_forward<T, 1>(backend, s, n, error) : launch_forward<T, 2>(backend, s, n, error);
}

template <class T, int V>
static spd_status launch_backward(struct spd_backend *backend, const struct spd_attend *s, size_t n, struct spd_error *error) {
  const auto kernel = backward<T, V>;
  CUDA_LAUNCH(kernel, n * ((s->channels + CUDA_LANES * V - 1) / (CUDA_LANES * V)), dim3(CUDA_LANES, WARPS), *s);
  return SPD_STATUS_OK;
}

template <class T>
static spd_status run_backward(struct spd_backend *backend, const struct spd_attend *s, size_t n, struct spd_error *error) {
  if (cuda_plane_type<T>::scaled) {
    size_t at = 0;
    SPD_TRY(cuda_reserve(backend, cuda_room(sizeof(struct scales)), error));
    struct scales *scales = (struct scales *)cuda_take(backend, &at, sizeof *scales);
    CUDA_TRY(cudaMemsetAsync(scales, 0, sizeof *scales, cuda_of(backend)->stream));
    if (s->channels % 2)
      CUDA_LAUNCH((find_largest<T, 1>), n, CUDA_THREADS, scales, *s);
    else
      CUDA_LAUNCH((find_largest<T, 2>), n, CUDA_THREADS, scales, *s);
    CUDA_LAUNCH(choose_scales, 1, 1, scales, *s);
  }
  return s->channels % 2 ? launch_backward<T, 1>(backend, s, n, error) : launch_backward<T, 2>(backend, s, n, error);
}

spd_status cuda_attend_forward(struct spd_backend *backend, const struct spd_attend *s, size_t n, struct spd_error *error) {
  return CUDA_BY_PLANE(run_forward, backend, s, n, error);
}

spd_status cuda_attend_backward(struct spd_backend *backend, const struct spd_attend *s, size_t n, struct spd_error *error) {
  return CUDA_BY_PLANE(run_backward, backend, s, n, error);
}
