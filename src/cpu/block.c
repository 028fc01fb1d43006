/* Convolution, instance norm, PReLU and max-pool. Channels are the fast axis, so every inner loop runs over them. */
#include <math.h>
#include <string.h>

#include "core/scalar.h"
#include "cpu/cpu.h"

enum { CHANNELS = 64 };

struct span {
  size_t from, to;
};

static inline struct span window(size_t t, size_t pool, size_t length) {
  struct span s = {t * pool < pool / 2 ? 0 : t * pool - pool / 2, t * pool + pool / 2 + 1};
  if (s.to > length) s.to = length;
  return s;
}

/* Sums of u - first row, so that a large common level costs no digits. */
CPU_INLINE void statistics(float *mean, float *inverse_sd, const float *first, const float *sum, const float *squares,
                           size_t length, size_t width) {
  for (size_t c = 0; c < width; c++) {
    double m = (double)sum[c] / (double)length, variance = (double)squares[c] / (double)length - m * m;
    mean[c] = first[c] + (float)m;
    inverse_sd[c] = (float)(1.0 / sqrt((variance > 0 ? variance : 0) + SPD_NORM_EPSILON));
  }
}

CPU_INLINE void add_row(float *sum, float *squares, const float *row, const float *first, size_t width) {
  CPU_SIMD
  for (size_t c = 0; c < width; c++) {
    float d = row[c] - first[c];
    sum[c] += d;
    squares[c] += d * d;
  }
}

/* y may be u */
CPU_INLINE void activate(float *y, const float *u, const float *mean, const float *inverse_sd, const float *slope,
                         size_t length, size_t stride, size_t width) {
  for (size_t l = 0; l < length; l++) {
    const float *row = u + l * stride;
    float *out = y + l * stride;
    CPU_SIMD
    for (size_t c = 0; c < width; c++) out[c] = spd_prelu((row[c] - mean[c]) * inverse_sd[c], slope[c]);
  }
}

/* Without a pool. */
CPU_HOT static void normalise(float *y, float *mean, float *inverse_sd, const float *u, const float *slope, size_t length,
                              size_t stride, size_t width) {
  float sum[CHANNELS] = {0}, squares[CHANNELS] = {0};
  for (size_t l = 0; l < length; l++) add_row(sum, squares, u + l * stride, u, width);
  statistics(mean, inverse_sd, u, sum, squares, length, width);
  activate(y, u, mean, inverse_sd, slope, length, stride, width);
}

/* One window's winners: the value that `candidate` makes of row[c], and its place. The first of equal values wins, as in
 * PyTorch. */
#define POOL_WINDOW(best, place, u, span, stride, width, candidate)                            \
  do {                                                                                         \
    for (size_t c = 0; c < (width); c++) best[c] = -INFINITY, place[c] = (int32_t)(span).from; \
    for (size_t l = (span).from; l < (span).to; l++) {                                         \
      const float *row = (u) + l * (stride);                                                   \
      const int32_t here = (int32_t)l;                                                         \
      CPU_SIMD                                                                                 \
      for (size_t c = 0; c < (width); c++) {                                                   \
        const float value = (candidate);                                                       \
        const int wins = value > best[c];                                                      \
        best[c] = wins ? value : best[c];                                                      \
        place[c] = wins ? here : place[c];                                                     \
      }                                                                                        \
    }                                                                                          \
  } while (0)

static inline void keep_places(uint16_t *argmax, const int32_t *place, size_t width) {
  for (size_t c = 0; argmax && c < width; c++) argmax[c] = (uint16_t)place[c];
}

/* With a pool, and no falling slope: norm and PReLU keep the order of values, so one pass finds the statistics and the winners,
 * and only these are activated. */
CPU_HOT static void normalise_and_pool(float *y, uint16_t *argmax, float *mean, float *inverse_sd, const float *u,
                                       const float *slope, const struct spd_block *s, size_t width) {
  const size_t stride = s->out.channels, length = s->conv.length, pooled = s->out.length;
  float sum[CHANNELS] = {0}, squares[CHANNELS] = {0};
  for (size_t t = 0; t < pooled; t++) {
    const struct span span = window(t, s->pool, length);
    float best[CHANNELS];
    int32_t place[CHANNELS];
    const size_t end = t + 1 == pooled ? length : span.to; /* rows that the pool's floor leaves out count in the norm */
    for (size_t l = span.from; l < end; l++) add_row(sum, squares, u + l * stride, u, width);
    POOL_WINDOW(best, place, u, span, stride, width, row[c]);
    memcpy(y + t * stride, best, width * sizeof *best);
    keep_places(argmax ? argmax + t * stride : NULL, place, width);
  }
  statistics(mean, inverse_sd, u, sum, squares, length, width);
  activate(y, y, mean, inverse_sd, slope, pooled, stride, width);
}

/* Under a falling slope the smallest value may win: every value is activated before it competes. */
CPU_HOT static void normalise_and_pool_falling(float *y, uint16_t *argmax, float *mean, float *inverse_sd, const float *u,
                                               const float *slope, const struct spd_block *s, size_t width) {
  const size_t stride = s->out.channels, length = s->conv.length;
  float sum[CHANNELS] = {0}, squares[CHANNELS] = {0};
  for (size_t l = 0; l < length; l++) add_row(sum, squares, u + l * stride, u, width);
  statistics(mean, inverse_sd, u, sum, squares, length, width);
  for (size_t t = 0; t < s->out.length; t++) {
    const struct span span = window(t, s->pool, length);
    float best[CHANNELS];
    int32_t place[CHANNELS];
    POOL_WINDOW(best, place, u, span, stride, width, spd_prelu((row[c] - mean[c]) * inverse_sd[c], slope[c]));
    memcpy(y + t * stride, best, width * sizeof *best);
    keep_places(argmax ? argmax + t * stride : NULL, place, width);
  }
}

static int any_falling(const float *slope, size_t width) {
  for (size_t c = 0; c < width; c++)
    if (slope[c] < 0) return 1;
  return 0;
}

spd_status cpu_block_forward(struct spd_backend *backend, const struct spd_block *s, size_t n, struct spd_error *error) {
  const size_t channels = s->out.channels, blocks = (channels + CHANNELS - 1) / CHANNELS, pieces = n * blocks;
  int done;
  SPD_TRY(cpu_fourier_forward(&done, backend, s->u, s->x, s->w, &s->in, s->kernel, channels, n, error));
  if (!done) cpu_conv(backend, s->u, s->x, s->w, &s->in, s->kernel, channels, n);
  CPU_PARALLEL(backend, pieces)
  for (size_t piece = 0; piece < pieces; piece++) {
    size_t i = piece / blocks, c0 = piece % blocks * CHANNELS, width = channels - c0 < CHANNELS ? channels - c0 : CHANNELS;
    const float *u = s->u + (i * s->conv.stride + s->conv.lead) * channels + c0;
    float *mean = s->mean + i * channels + c0, *inverse_sd = s->inverse_sd + i * channels + c0;
    float *y = s->y + (i * s->out.stride + s->out.lead) * channels + c0;
    if (s->pool == 1) {
      normalise(y, mean, inverse_sd, u, s->slope + c0, s->conv.length, channels, width);
    } else {
      uint16_t *argmax = s->argmax ? s->argmax + i * s->out.length * channels + c0 : NULL;
      if (any_falling(s->slope + c0, width))
        normalise_and_pool_falling(y, argmax, mean, inverse_sd, u, s->slope + c0, s, width);
      else
        normalise_and_pool(y, argmax, mean, inverse_sd, u, s->slope + c0, s, width);
    }
  }
  return SPD_STATUS_OK;
}

/* With v the normalised convolution and d the gradient at v (zero but at the winners):
 * du = (d - sum d / L - v sum(d v) / L) / sd. */
CPU_HOT static void backward(float *u, float *dslope, const float *dy, const uint16_t *argmax, const float *mean,
                             const float *inverse_sd, const float *slope, const struct spd_block *s, size_t width) {
  const size_t stride = s->out.channels, length = s->conv.length;
  float sum_d[CHANNELS] = {0}, sum_dv[CHANNELS] = {0};
  memset(dslope, 0, width * sizeof *dslope);
  for (size_t t = 0; t < s->out.length; t++) {
    const float *gradient = dy + t * stride;
    CPU_SIMD
    for (size_t c = 0; c < width; c++) {
      size_t l = argmax ? argmax[t * stride + c] : t;
      float v = (u[l * stride + c] - mean[c]) * inverse_sd[c], g = gradient[c];
      float d = v > 0 ? g : g * slope[c];
      dslope[c] += v > 0 ? 0 : g * v;
      sum_d[c] += d;
      sum_dv[c] += d * v;
    }
  }
  for (size_t c = 0; c < width; c++) sum_d[c] /= (float)length, sum_dv[c] /= (float)length;
  for (size_t l = 0; l < length; l++) {
    float *row = u + l * stride;
    const size_t t =
        (l + s->pool / 2) / s->pool; /* the window that l belongs to; the last may be cut off by the pool's floor */
    const int in_window = t < s->out.length;
    const float *gradient = dy + (in_window ? t : 0) * stride;
    const uint16_t *place = argmax ? argmax + (in_window ? t : 0) * stride : NULL;
    if (!in_window) {
      CPU_SIMD
      for (size_t c = 0; c < width; c++) {
        float v = (row[c] - mean[c]) * inverse_sd[c];
        row[c] = -inverse_sd[c] * (sum_d[c] + v * sum_dv[c]);
      }
    } else if (place) {
      CPU_SIMD
      for (size_t c = 0; c < width; c++) {
        float v = (row[c] - mean[c]) * inverse_sd[c];
        float d = place[c] == (uint16_t)l ? gradient[c] * (v > 0 ? 1.0f : slope[c]) : 0.0f;
        row[c] = inverse_sd[c] * (d - sum_d[c] - v * sum_dv[c]);
      }
    } else {
      CPU_SIMD
      for (size_t c = 0; c < width; c++) {
        float v = (row[c] - mean[c]) * inverse_sd[c], d = gradient[c] * (v > 0 ? 1.0f : slope[c]);
        row[c] = inverse_sd[c] * (d - sum_d[c] - v * sum_dv[c]);
      }
    }
  }
}

/* (k, C_in, C_out) -> taps in reverse order, (k, C_out, C_in): the input gradient is a convolution with these */
static void flip(const struct spd_backend *backend, float *flipped, const float *w, size_t kernel, size_t in, size_t out) {
  CPU_PARALLEL(backend, kernel)
  for (size_t k = 0; k < kernel; k++) {
    const float *from = w + k * in * out;
    float *to = flipped + (kernel - 1 - k) * in * out;
    const size_t tile = 32;
    for (size_t o0 = 0; o0 < out; o0 += tile)
      for (size_t i0 = 0; i0 < in; i0 += tile)
        for (size_t o = o0; o < out && o < o0 + tile; o++)
          for (size_t i = i0; i < in && i < i0 + tile; i++) to[o * in + i] = from[i * out + o];
  }
}

spd_status cpu_block_backward(struct spd_backend *backend, const struct spd_block *s, size_t n, struct spd_error *error) {
  const size_t channels = s->out.channels, blocks = (channels + CHANNELS - 1) / CHANNELS, pieces = n * blocks;
  CPU_PARALLEL(backend, pieces)
  for (size_t piece = 0; piece < pieces; piece++) {
    size_t i = piece / blocks, c0 = piece % blocks * CHANNELS, width = channels - c0 < CHANNELS ? channels - c0 : CHANNELS;
    float *u = s->u + (i * s->conv.stride + s->conv.lead) * channels + c0;
    backward(u, s->partial + i * channels + c0, s->dy + (i * s->out.stride + s->out.lead) * channels + c0,
             s->pool == 1 ? NULL : s->argmax + i * s->out.length * channels + c0, s->mean + i * channels + c0,
             s->inverse_sd + i * channels + c0, s->slope + c0, s, width);
    for (size_t l = s->conv.length; l < s->conv.stride; l++) memset(u + l * channels, 0, width * sizeof *u);
  }
  if (s->dslope) cpu_sum_rows(s->dslope, s->partial, n, channels);
  int done;
  SPD_TRY(cpu_fourier_backward(&done, backend, s->dx, s->dw, s->u, s->x, s->w, &s->in, s->kernel, channels, n, error));
  if (done) return SPD_STATUS_OK;
  if (s->dw) cpu_conv_weight_gradient(backend, s->dw, s->x, s->u, &s->in, s->kernel, channels, n);
  if (s->dx) {
    flip(backend, s->flipped, s->w, s->kernel, s->in.channels, channels);
    cpu_conv(backend, s->dx, s->u, s->flipped, &s->conv, s->kernel, s->in.channels, n);
  }
  return SPD_STATUS_OK;
}
