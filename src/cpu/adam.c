/* The optimiser: Adam, sums and norms of gradients, averages of parameters. */
#include <math.h>

#include "cpu/cpu.h"
#include "network/scalar.h"

SPD_HOT static void update(float *restrict p, float *restrict m, float *restrict v, const float *restrict g, size_t count,
                           const struct spd_adam *a) {
  const struct spd_adam o = *a;
  SPD_SIMD
  for (size_t i = 0; i < count; i++)
    spd_adam_update(&p[i], &m[i], &v[i], g[i], o.rate, o.beta1, o.new1, o.beta2, o.new2, o.epsilon, o.correction1, o.correction2, o.lowest);
}

struct call {
  float *parameters, *m, *v;
  const float *gradient;
  size_t count;
  const struct spd_adam *options;
};

enum { PIECE = 1 << 16 };

static void update_piece(const void *context, size_t piece, int thread) {
  (void)thread;
  const struct call *c = context;
  const size_t from = piece * PIECE, size = c->count - from < PIECE ? c->count - from : PIECE;
  update(c->parameters + from, c->m + from, c->v + from, c->gradient + from, size, c->options);
}

spd_status cpu_adam(struct spd_backend *backend, float *parameters, float *m, float *v, const float *gradient, size_t count,
                    const struct spd_adam *options, struct spd_error *error) {
  (void)error;
  const struct call call = {parameters, m, v, gradient, count, options};
  cpu_parallel(backend, (count + PIECE - 1) / PIECE, update_piece, &call);
  return SPD_STATUS_OK;
}

SPD_HOT static void add_piece_of(float *restrict y, const float *restrict x, size_t count) {
  SPD_SIMD
  for (size_t i = 0; i < count; i++) y[i] += x[i];
}

struct sum {
  float *y;
  const float *x;
  size_t count;
};

static void add_piece(const void *context, size_t piece, int thread) {
  (void)thread;
  const struct sum *s = context;
  const size_t from = piece * PIECE, size = s->count - from < PIECE ? s->count - from : PIECE;
  add_piece_of(s->y + from, s->x + from, size);
}

spd_status cpu_add(struct spd_backend *backend, float *y, const float *x, size_t count, struct spd_error *error) {
  (void)error;
  const struct sum sum = {y, x, count};
  cpu_parallel(backend, (count + PIECE - 1) / PIECE, add_piece, &sum);
  return SPD_STATUS_OK;
}

SPD_HOT static void average_piece_of(float *restrict mean, const float *restrict x, float fraction, size_t count) {
  SPD_SIMD
  for (size_t i = 0; i < count; i++) mean[i] += fraction * (x[i] - mean[i]);
}

struct averaging {
  float *mean;
  const float *x;
  float fraction;
  size_t count;
};

static void average_piece(const void *context, size_t piece, int thread) {
  (void)thread;
  const struct averaging *a = context;
  const size_t from = piece * PIECE, size = a->count - from < PIECE ? a->count - from : PIECE;
  average_piece_of(a->mean + from, a->x + from, a->fraction, size);
}

spd_status cpu_average(struct spd_backend *backend, float *mean, const float *x, float fraction, size_t count, struct spd_error *error) {
  (void)error;
  const struct averaging averaging = {mean, x, fraction, count};
  cpu_parallel(backend, (count + PIECE - 1) / PIECE, average_piece, &averaging);
  return SPD_STATUS_OK;
}

spd_status cpu_exchange(struct spd_backend *backend, float *x, float *y, size_t count, struct spd_error *error) {
  (void)backend;
  (void)error;
  for (size_t i = 0; i < count; i++) {
    const float kept = x[i];
    x[i] = y[i];
    y[i] = kept;
  }
  return SPD_STATUS_OK;
}

/* ---- clipping: squares are summed by piece, and the pieces' sums in order ---- */

struct clipping {
  float *gradient;
  size_t count;
  double *squares; /* of each piece */
  float factor;
};

SPD_HOT static double sum_of_squares(const float *x, size_t count) {
  double sum = 0;
  SPD_SIMD_SUM(sum)
  for (size_t i = 0; i < count; i++) sum += (double)x[i] * (double)x[i];
  return sum;
}

static void squares_piece(const void *context, size_t piece, int thread) {
  (void)thread;
  const struct clipping *c = context;
  const size_t from = piece * PIECE, size = c->count - from < PIECE ? c->count - from : PIECE;
  c->squares[piece] = sum_of_squares(c->gradient + from, size);
}

static void scale_piece(const void *context, size_t piece, int thread) {
  (void)thread;
  const struct clipping *c = context;
  const size_t from = piece * PIECE, size = c->count - from < PIECE ? c->count - from : PIECE;
  for (size_t i = from; i < from + size; i++) c->gradient[i] *= c->factor;
}

spd_status cpu_clip(struct spd_backend *backend, float *gradient, double norm, size_t count, struct spd_error *error) {
  const size_t pieces = (count + PIECE - 1) / PIECE;
  float *memory;
  SPD_TRY(cpu_arena(&memory, backend, 2 * pieces, error));
  struct clipping c = {gradient, count, (double *)(void *)memory, 1};
  double squares = 0;
  cpu_parallel(backend, pieces, squares_piece, &c);
  for (size_t p = 0; p < pieces; p++) squares += c.squares[p];
  if (!(squares > norm * norm)) return SPD_STATUS_OK;
  c.factor = (float)(norm / sqrt(squares));
  cpu_parallel(backend, pieces, scale_piece, &c);
  return SPD_STATUS_OK;
}
