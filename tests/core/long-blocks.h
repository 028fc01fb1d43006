/* Blocks that are longer than the vectors' (make-vectors.py), whose convolutions a backend may compute in the frequency domain and in
 * pieces: cases of the same form, made here in double by plain loops. */
#ifndef SPD_TEST_LONG_BLOCKS_H
#define SPD_TEST_LONG_BLOCKS_H

#include "core/rng.h"
#include "network/scalar.h"
#include "vectors.h"

static struct vector_item *long_item(struct vector_case *c, const char *key, double number, size_t count) {
  struct vector_item *item = &c->items[c->n_items++];
  snprintf(item->key, sizeof item->key, "%s", key);
  item->number = number, item->count = count;
  item->values = count ? check_alloc(count * sizeof *item->values) : NULL;
  return item;
}

/* Uniform between two numbers, in the 8 bits that every type of planes has */
static double *long_values(struct vector_case *c, const char *key, size_t count, double low, double high, struct spd_random *random) {
  struct vector_item *item = long_item(c, key, 0, count);
  for (size_t i = 0; i < count; i++) {
    int exponent;
    const double mantissa = frexp(low + (high - low) * spd_random_uniform(random), &exponent);
    item->values[i] = ldexp(rint(ldexp(mantissa, 8)), exponent - 8);
  }
  return item->values;
}

/* With slopes of 1 and no pool, every rounding changes results by as little: for planes of 16 bits. */
static struct vector_case long_block(const char *name, size_t n, size_t length, size_t kernel, size_t pool, size_t in, size_t out,
                                     int smooth) {
  struct vector_case c = {.n_items = 0};
  struct spd_random random = spd_random_start(20221114, length, kernel);
  const size_t pooled = (length + 2 * (pool / 2) - pool) / pool + 1, pad = kernel / 2;
  snprintf(c.name, sizeof c.name, "%s", name);
  long_item(&c, "n", (double)n, 0), long_item(&c, "length", (double)length, 0), long_item(&c, "kernel", (double)kernel, 0);
  long_item(&c, "pool", (double)pool, 0), long_item(&c, "next_kernel", 3, 0);
  long_item(&c, "channels_in", (double)in, 0), long_item(&c, "channels", (double)out, 0);
  const double unit = 1 / sqrt((double)(kernel * in)), *x = long_values(&c, "x", n * length * in, -1, 3, &random);
  const double *w = long_values(&c, "w", kernel * in * out, -unit, unit, &random);
  const double *slope = long_values(&c, "slope", out, smooth ? 1 : 0.1, smooth ? 1 : 0.9, &random);
  const double *dy = long_values(&c, "dy", n * pooled * out, -1, 1, &random);
  double *y = long_item(&c, "y", 0, n * pooled * out)->values, *dx = long_item(&c, "dx", 0, n * length * in)->values;
  double *dw = long_item(&c, "dw", 0, kernel * in * out)->values, *dslope = long_item(&c, "dslope", 0, out)->values;
  double *v = check_alloc(length * sizeof *v), *d = check_alloc(length * sizeof *d);
  memset(dx, 0, n * length * in * sizeof *dx);
  memset(dw, 0, kernel * in * out * sizeof *dw);
  memset(dslope, 0, out * sizeof *dslope);
  for (size_t i = 0; i < n; i++)
    for (size_t o = 0; o < out; o++) {
      double mean = 0, variance = 0, sum_d = 0, sum_dv = 0;
      for (size_t l = 0; l < length; l++) {
        v[l] = d[l] = 0;
        for (size_t j = 0; j < kernel; j++)
          for (size_t a = 0; l + j >= pad && l + j - pad < length && a < in; a++)
            v[l] += x[(i * length + l + j - pad) * in + a] * w[(j * in + a) * out + o];
        mean += v[l] / (double)length;
      }
      for (size_t l = 0; l < length; l++) variance += (v[l] - mean) * (v[l] - mean) / (double)length;
      const double inverse_sd = 1 / sqrt(variance + SPD_NORM_EPSILON);
      for (size_t l = 0; l < length; l++) v[l] = (v[l] - mean) * inverse_sd;
      for (size_t t = 0; t < pooled; t++) {
        const size_t from = spd_window_from(t, pool), to = spd_window_to(t, pool, length), at = (i * pooled + t) * out + o;
        size_t best = from;
        for (size_t l = from; l < to; l++)
          if (v[l] > v[best]) best = l; /* no slope is negative here */
        y[at] = v[best] > 0 ? v[best] : slope[o] * v[best];
        d[best] = v[best] > 0 ? dy[at] : slope[o] * dy[at];
        dslope[o] += v[best] > 0 ? 0 : dy[at] * v[best];
      }
      for (size_t l = 0; l < length; l++) sum_d += d[l], sum_dv += d[l] * v[l];
      for (size_t l = 0; l < length; l++) {
        const double du = inverse_sd * (d[l] - (sum_d + v[l] * sum_dv) / (double)length);
        for (size_t j = 0; j < kernel; j++)
          for (size_t a = 0; l + j >= pad && l + j - pad < length && a < in; a++) {
            dx[(i * length + l + j - pad) * in + a] += du * w[(j * in + a) * out + o];
            dw[(j * in + a) * out + o] += du * x[(i * length + l + j - pad) * in + a];
          }
      }
    }
  free(v);
  free(d);
  return c;
}

static void long_block_free(struct vector_case *c) {
  for (size_t i = 0; i < c->n_items; i++) free(c->items[i].values);
}

#endif
