/* Attention over the segments (paper eq. 2): a = softmax over positions of the keys, e = sum over positions of values * a. */
#include <math.h>
#include <string.h>

#include "cpu/cpu.h"
#include "network/scalar.h"

enum { CHANNELS = CPU_CHANNELS };

SPD_HOT static void forward(float *a, float *e, const float *v, const float *gate, size_t length, size_t channels, size_t width) {
  float largest[CHANNELS], sum[CHANNELS] = {0}, weighted[CHANNELS] = {0};
  for (size_t c = 0; c < width; c++) largest[c] = -INFINITY;
  for (size_t l = 0; l < length; l++) {
    const float *key = v + l * 2 * channels + channels;
    float *out = a + l * channels;
    memcpy(out, key, width * sizeof *out);
    if (gate) {
      SPD_SIMD
      for (size_t c = 0; c < width; c++) out[c] *= gate[l * channels + c];
    }
    SPD_SIMD
    for (size_t c = 0; c < width; c++) largest[c] = out[c] > largest[c] ? out[c] : largest[c];
  }
  for (size_t l = 0; l < length; l++) {
    const float *value = v + l * 2 * channels;
    float *out = a + l * channels;
    SPD_SIMD
    for (size_t c = 0; c < width; c++) {
      float p = spd_exp(out[c] - largest[c]);
      out[c] = p;
      sum[c] += p;
      weighted[c] += p * value[c];
    }
  }
  for (size_t c = 0; c < width; c++) {
    sum[c] = 1.0f / sum[c];
    e[c] = weighted[c] * sum[c];
  }
  for (size_t l = 0; l < length; l++) {
    float *out = a + l * channels;
    SPD_SIMD
    for (size_t c = 0; c < width; c++) out[c] *= sum[c];
  }
}

/* A piece is a block of channels of one spectrum. */
static size_t blocks_of(const struct spd_attend *s) { return (s->channels + CHANNELS - 1) / CHANNELS; }

static void forward_piece(const void *context, size_t piece, int thread) {
  (void)thread;
  const struct spd_attend *s = context;
  const size_t channels = s->channels, i = piece / blocks_of(s), c0 = piece % blocks_of(s) * CHANNELS;
  const size_t width = channels - c0 < CHANNELS ? channels - c0 : CHANNELS, plane = i * s->length * channels + c0;
  forward(s->attention + plane, s->feature + i * s->feature_stride + c0, spd_plane_floats(s->segments) + 2 * i * s->length * channels + c0,
          s->gate.at ? spd_plane_floats(s->gate) + plane : NULL, s->length, channels, width);
}

spd_status cpu_attend_forward(struct spd_backend *backend, const struct spd_attend *s, size_t n, struct spd_error *error) {
  (void)error;
  cpu_parallel(backend, n * blocks_of(s), forward_piece, s);
  if (s->feature_stride > s->channels)
    for (size_t i = 0; i < n; i++) s->feature[i * s->feature_stride + s->channels] = s->z[i];
  return SPD_STATUS_OK;
}

/* da = h de; through the softmax dk = a (da - sum a da) = a de (h - e); through the gate each factor gets the other */
SPD_HOT static void backward(float *dv, float *dgate, float *da, const float *de, const float *e, const float *a, const float *v,
                             const float *gate, size_t length, size_t channels, size_t width) {
  for (size_t l = 0; l < length; l++) {
    const float *value = v + l * 2 * channels, *key = value + channels, *p = a + l * channels;
    float *dvalue = dv + l * 2 * channels, *dkey = dvalue + channels;
    SPD_SIMD
    for (size_t c = 0; c < width; c++) {
      dvalue[c] = p[c] * de[c];
      dkey[c] = p[c] * de[c] * (value[c] - e[c]);
    }
    if (da) {
      SPD_SIMD
      for (size_t c = 0; c < width; c++) da[l * channels + c] = value[c] * de[c];
    }
    if (gate) {
      const float *g = gate + l * channels;
      SPD_SIMD
      for (size_t c = 0; c < width; c++) {
        float d = dkey[c];
        dkey[c] = d * g[c];
        dgate[l * channels + c] = d * key[c];
      }
    }
  }
}

static void backward_piece(const void *context, size_t piece, int thread) {
  (void)thread;
  const struct spd_attend *s = context;
  const size_t channels = s->channels, i = piece / blocks_of(s), c0 = piece % blocks_of(s) * CHANNELS;
  const size_t width = channels - c0 < CHANNELS ? channels - c0 : CHANNELS;
  const size_t plane = i * s->length * channels + c0, row = i * s->feature_stride + c0;
  backward(spd_plane_floats(s->dsegments) + 2 * i * s->length * channels + c0, s->gate.at ? spd_plane_floats(s->dgate) + plane : NULL,
           s->dattention ? s->dattention + plane : NULL, s->dfeature + row, s->feature + row, s->attention + plane,
           spd_plane_floats(s->segments) + 2 * i * s->length * channels + c0, s->gate.at ? spd_plane_floats(s->gate) + plane : NULL,
           s->length, channels, width);
}

spd_status cpu_attend_backward(struct spd_backend *backend, const struct spd_attend *s, size_t n, struct spd_error *error) {
  (void)error;
  cpu_parallel(backend, n * blocks_of(s), backward_piece, s);
  return SPD_STATUS_OK;
}
