/* Convolution of the flux, instance norm, PReLU and max-pool, fused: nothing of size (length, channels) is stored. With one
 * input channel the norm's statistics follow from the input alone (spd_stem_statistics). */
#include <math.h>
#include <string.h>

#include "cpu/cpu.h"
#include "network/scalar.h"

enum { CHANNELS = CPU_CHANNELS };

/* m_j and R_jk from the autocorrelation at k lags, less the products that the window j leaves out at the ends */
SPD_HOT static void moments(double *m, double *r, const float *x, size_t length, size_t kernel) {
  const long pad = (long)(kernel / 2), last = (long)length;
  double total = 0;
  for (long i = 0; i < last; i++) total += x[i];
  for (long j = 0; j < (long)kernel; j++) {
    double sum = total;
    for (long i = 0; i < j - pad && i < last; i++) sum -= x[i];
    for (long i = last + j - pad > 0 ? last + j - pad : 0; i < last; i++) sum -= x[i];
    m[j] = sum;
  }
  for (long lag = 0; lag < (long)kernel; lag++) {
    double all = 0;
    SPD_SIMD_SUM(all)
    for (long i = 0; i < last - lag; i++) all += (double)x[i] * x[i + lag];
    for (long j = 0; j + lag < (long)kernel; j++) {
      double sum = all;
      for (long i = 0; i < j - pad && i < last - lag; i++) sum -= (double)x[i] * x[i + lag];
      for (long i = last + j - pad > 0 ? last + j - pad : 0; i < last - lag; i++) sum -= (double)x[i] * x[i + lag];
      r[j * (long)kernel + j + lag] = r[(j + lag) * (long)kernel + j] = sum;
    }
  }
}

/* taps and offset of a block of channels at one position: v = offset + sum_j taps_j x[l + j - pad] */
SPD_HOT_INLINE void convolve(float *restrict v, const float *scaled, const float *x, size_t l, size_t length, size_t kernel,
                             size_t channels, size_t width) {
  const size_t pad = kernel / 2;
  const float *offset = scaled + kernel * channels;
  SPD_SIMD
  for (size_t c = 0; c < width; c++) v[c] = offset[c];
  for (size_t j = 0; j < kernel; j++) {
    if (l + j < pad || l + j - pad >= length) continue;
    const float value = x[l + j - pad], *tap = scaled + j * channels;
    SPD_SIMD
    for (size_t c = 0; c < width; c++) v[c] += tap[c] * value;
  }
}

/* The published shape, kernel 5 and pool 5, away from the ends: the five positions of a window from nine pixels, in registers.
 * x points at the first of the nine. */
#define TAPS_OF_FIVE(scaled, channels)                                                                                     \
  const float *const w0 = (scaled), *const w1 = w0 + (channels), *const w2 = w1 + (channels), *const w3 = w2 + (channels), \
                     *const w4 = w3 + (channels), *const offset = w4 + (channels)
#define CONVOLVE_FIVE(i) (offset[c] + w0[c] * x[i] + w1[c] * x[i + 1] + w2[c] * x[i + 2] + w3[c] * x[i + 3] + w4[c] * x[i + 4])

static inline int inside(const struct spd_stem *s, size_t from, size_t to) {
  return s->kernel == 5 && s->pool == 5 && from >= 2 && to + 2 <= s->length && to - from == 5;
}

static inline float larger(float a, float b) { return a > b ? a : b; }
static inline float smaller(float a, float b) { return a < b ? a : b; }

SPD_HOT_INLINE void forward_five(float *restrict y, const float *restrict x, const float *restrict scaled, const float *restrict slope,
                                 size_t channels, size_t width) {
  TAPS_OF_FIVE(scaled, channels);
  SPD_SIMD
  for (size_t c = 0; c < width; c++) {
    const float a = slope[c]; /* read here, so that no branch guards the read */
    const float v0 = CONVOLVE_FIVE(0), v1 = CONVOLVE_FIVE(1), v2 = CONVOLVE_FIVE(2), v3 = CONVOLVE_FIVE(3), v4 = CONVOLVE_FIVE(4);
    const float largest = larger(larger(larger(v0, v1), larger(v2, v3)), v4);
    const float smallest = smaller(smaller(smaller(v0, v1), smaller(v2, v3)), v4);
    y[c] = larger(spd_prelu(largest, a), spd_prelu(smallest, a));
  }
}

/* PReLU rises and falls when its slope is negative, so its maximum is at the largest or the smallest value. */
SPD_HOT static void forward(float *y, const struct spd_stem *s, const float *x, const float *scaled) {
  const size_t channels = s->out.channels;
  for (size_t c0 = 0; c0 < channels; c0 += CHANNELS) {
    const size_t width = channels - c0 < CHANNELS ? channels - c0 : CHANNELS;
    const float *slope = s->slope + c0;
    for (size_t t = 0; t < s->out.length; t++) {
      float v[CHANNELS], largest[CHANNELS], smallest[CHANNELS];
      const size_t from = spd_window_from(t, s->pool), to = spd_window_to(t, s->pool, s->length);
      if (inside(s, from, to)) {
        forward_five(y + t * channels + c0, x + from - 2, scaled + c0, slope, channels, width);
        continue;
      }
      for (size_t l = from; l < to; l++) {
        convolve(v, scaled + c0, x, l, s->length, s->kernel, channels, width);
        if (l == from) {
          memcpy(largest, v, sizeof v);
          memcpy(smallest, v, sizeof v);
        } else {
          SPD_SIMD
          for (size_t c = 0; c < width; c++) {
            largest[c] = v[c] > largest[c] ? v[c] : largest[c];
            smallest[c] = v[c] < smallest[c] ? v[c] : smallest[c];
          }
        }
      }
      SPD_SIMD
      for (size_t c = 0; c < width; c++) {
        float a = spd_prelu(largest[c], slope[c]), b = spd_prelu(smallest[c], slope[c]);
        y[t * channels + c0 + c] = a > b ? a : b;
      }
    }
  }
}

static void forward_row(const void *context, size_t i, int thread) {
  (void)thread;
  const struct spd_stem *s = context;
  const size_t kernel = s->kernel, channels = s->out.channels;
  double *m = s->moments + i * kernel * (kernel + 1), *r = m + kernel;
  float *scaled = s->scaled + i * (kernel + 1) * channels;
  moments(m, r, s->x + i * s->length, s->length, kernel);
  for (size_t c = 0; c < channels; c++) {
    double mean, inverse_sd;
    spd_stem_statistics(&mean, &inverse_sd, s->w, m, r, s->length, kernel, channels, c);
    for (size_t j = 0; j < kernel; j++) scaled[j * channels + c] = (float)(s->w[j * channels + c] * inverse_sd);
    scaled[kernel * channels + c] = (float)(-mean * inverse_sd);
  }
  forward(spd_plane_floats(s->y) + (i * s->out.stride + s->out.lead) * channels, s, s->x + i * s->length, scaled);
}

spd_status cpu_stem_forward(struct spd_backend *backend, const struct spd_stem *s, size_t n, struct spd_error *error) {
  (void)error;
  cpu_parallel(backend, n, forward_row, s);
  return SPD_STATUS_OK;
}

/* Sums of backward() for a block of channels */
struct sums {
  float d[CHANNELS], dv[CHANNELS], dslope[CHANNELS];
  float *taps; /* (k, CHANNELS) */
};

#define COMPARE_FIVE(i)                                                                   \
  {                                                                                       \
    const float v = CONVOLVE_FIVE(i), activated = spd_prelu(v, a);                        \
    const int wins = activated > best;                                                    \
    best = wins ? activated : best, value = wins ? v : value, winner = wins ? i : winner; \
  }
#define GRADIENT_FIVE(j) taps[j * CHANNELS + c] += d0 * x[j] + d1 * x[j + 1] + d2 * x[j + 2] + d3 * x[j + 3] + d4 * x[j + 4]

SPD_HOT_INLINE void backward_five(struct sums *restrict sums, const float *restrict dy, const float *restrict x,
                                  const float *restrict scaled, const float *restrict slope, size_t channels, size_t width) {
  TAPS_OF_FIVE(scaled, channels);
  float *restrict taps = sums->taps;
  SPD_SIMD
  for (size_t c = 0; c < width; c++) {
    const float a = slope[c], g = dy[c], first = CONVOLVE_FIVE(0);
    float best = spd_prelu(first, a), value = first;
    int winner = 0;
    COMPARE_FIVE(1)
    COMPARE_FIVE(2)
    COMPARE_FIVE(3)
    COMPARE_FIVE(4)
    const float negative = g * value, scaled_g = g * a, d = value > 0 ? g : scaled_g;
    sums->dslope[c] += value > 0 ? 0.0f : negative;
    sums->d[c] += d;
    sums->dv[c] += d * value;
    const float d0 = winner == 0 ? d : 0, d1 = winner == 1 ? d : 0, d2 = winner == 2 ? d : 0, d3 = winner == 3 ? d : 0,
                d4 = winner == 4 ? d : 0;
    GRADIENT_FIVE(0);
    GRADIENT_FIVE(1);
    GRADIENT_FIVE(2);
    GRADIENT_FIVE(3);
    GRADIENT_FIVE(4);
  }
}

/* Of one spectrum, with d the gradient at the winners and v their normalised values: sums (k, C) of d x[l* + j], of d and of
 * d v, and the slope's gradient. The first of equal winners takes the gradient. */
SPD_HOT static void backward(struct sums *sums, const float *dy, const struct spd_stem *s, const float *x, const float *scaled, size_t c0,
                             size_t width) {
  const size_t channels = s->out.channels, kernel = s->kernel, pad = kernel / 2;
  const float *slope = s->slope + c0;
  for (size_t t = 0; t < s->out.length; t++) {
    float v[CHANNELS], best[CHANNELS], value[CHANNELS], d[CHANNELS];
    int32_t winner[CHANNELS];
    const float *gradient = dy + t * channels + c0;
    const size_t from = spd_window_from(t, s->pool), to = spd_window_to(t, s->pool, s->length);
    if (inside(s, from, to)) {
      backward_five(sums, gradient, x + from - 2, scaled + c0, slope, channels, width);
      continue;
    }
    for (size_t c = 0; c < width; c++) best[c] = -INFINITY, value[c] = 0, winner[c] = 0;
    for (size_t l = from; l < to; l++) {
      convolve(v, scaled + c0, x, l, s->length, kernel, channels, width);
      SPD_SIMD
      for (size_t c = 0; c < width; c++) {
        float activated = spd_prelu(v[c], slope[c]);
        int wins = activated > best[c];
        best[c] = wins ? activated : best[c];
        value[c] = wins ? v[c] : value[c];
        winner[c] = wins ? (int32_t)(l - from) : winner[c];
      }
    }
    SPD_SIMD
    for (size_t c = 0; c < width; c++) {
      float g = gradient[c];
      sums->dslope[c] += value[c] > 0 ? 0 : g * value[c];
      d[c] = value[c] > 0 ? g : g * slope[c];
      sums->d[c] += d[c];
      sums->dv[c] += d[c] * value[c];
    }
    for (size_t l = from; l < to; l++) {
      float here[CHANNELS];
      SPD_SIMD
      for (size_t c = 0; c < width; c++) here[c] = winner[c] == (int32_t)(l - from) ? d[c] : 0;
      for (size_t j = 0; j < kernel; j++) {
        if (l + j < pad || l + j - pad >= s->length) continue;
        const float xj = x[l + j - pad];
        float *tap = sums->taps + j * CHANNELS;
        SPD_SIMD
        for (size_t c = 0; c < width; c++) tap[c] += here[c] * xj;
      }
    }
  }
}

static void weight_gradient(float *dw, const struct spd_stem *s, const double *m, const double *r, const struct sums *sums, size_t c0,
                            size_t width) {
  const size_t channels = s->out.channels, kernel = s->kernel;
  for (size_t c = 0; c < width; c++) {
    double mean, inverse_sd;
    spd_stem_statistics(&mean, &inverse_sd, s->w, m, r, s->length, kernel, channels, c0 + c);
    for (size_t j = 0; j < kernel; j++)
      dw[j * channels + c0 + c] = spd_stem_tap_gradient(sums->taps[j * CHANNELS + c], sums->d[c], sums->dv[c], j, mean, inverse_sd, s->w, m,
                                                        r, s->length, kernel, channels, c0 + c);
  }
}

struct batch {
  const struct spd_stem *s;
  float *dslope; /* (n, C), stored after the weight gradients (n, k, C) */
};

static size_t blocks_of(const struct spd_stem *s) { return (s->out.channels + CHANNELS - 1) / CHANNELS; }

/* A block of channels of one spectrum */
static void backward_piece(const void *context, size_t piece, int thread) {
  (void)thread;
  const struct batch *batch = context;
  const struct spd_stem *s = batch->s;
  const size_t kernel = s->kernel, channels = s->out.channels, i = piece / blocks_of(s), c0 = piece % blocks_of(s) * CHANNELS;
  const size_t width = channels - c0 < CHANNELS ? channels - c0 : CHANNELS;
  const double *m = s->moments + i * kernel * (kernel + 1), *r = m + kernel;
  float taps[kernel * CHANNELS];
  struct sums sums = {.taps = taps};
  memset(taps, 0, sizeof taps);
  backward(&sums, spd_plane_floats(s->dy) + (i * s->out.stride + s->out.lead) * channels, s, s->x + i * s->length,
           s->scaled + i * (kernel + 1) * channels, c0, width);
  weight_gradient(s->partial + i * kernel * channels, s, m, r, &sums, c0, width);
  memcpy(batch->dslope + i * channels + c0, sums.dslope, width * sizeof(float));
}

spd_status cpu_stem_backward(struct spd_backend *backend, const struct spd_stem *s, size_t n, struct spd_error *error) {
  (void)error;
  const size_t kernel = s->kernel, channels = s->out.channels;
  const struct batch batch = {s, s->partial + n * kernel * channels};
  cpu_parallel(backend, n * blocks_of(s), backward_piece, &batch);
  if (s->dw) cpu_sum_rows(s->dw, s->partial, n, kernel * channels);
  if (s->dslope) cpu_sum_rows(s->dslope, batch.dslope, n, channels);
  return SPD_STATUS_OK;
}

SPD_HOT static void log_range(float *y, const float *x, size_t count) {
  for (size_t i = 0; i < count; i++) y[i] = logf(x[i] + 1e-6f);
}

struct logarithms {
  float *y;
  const float *x;
  size_t count;
};

enum { LOGARITHMS = 4096 /* of a piece */ };

static void log_piece(const void *context, size_t piece, int thread) {
  (void)thread;
  const struct logarithms *l = context;
  const size_t from = piece * LOGARITHMS, size = l->count - from < LOGARITHMS ? l->count - from : LOGARITHMS;
  log_range(l->y + from, l->x + from, size);
}

spd_status cpu_log_ivar(struct spd_backend *backend, float *y, const float *x, size_t count, struct spd_error *error) {
  (void)error;
  const struct logarithms logarithms = {y, x, count};
  cpu_parallel(backend, (count + LOGARITHMS - 1) / LOGARITHMS, log_piece, &logarithms);
  return SPD_STATUS_OK;
}
