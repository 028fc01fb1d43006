/* Linear layer and activation. The batch is short and the layer wide, so the pieces are runs of units. Forward, the spectra are the
 * columns of the product: their panels are packed once, and the weights are read as they are. */
#include <string.h>

#include "cpu/cpu.h"
#include "network/scalar.h"

enum { UNITS_PER_PIECE = 96, GRADIENT_UNITS = 256, GRADIENT_ROWS = 64, INPUTS_PER_PIECE = 128, WIDEST = CPU_WIDEST_PANEL };

static size_t pieces_of(size_t count, size_t piece) { return (count + piece - 1) / piece; }

SPD_HOT static void activate(float *y, float *v, const struct spd_dense *s, size_t n, size_t from, size_t units) {
  const float *b = s->b + from;
  for (size_t i = 0; i < n; i++) {
    float *before = v + i * s->out + from, *after = y + i * s->out + from;
    const float offset = s->offset;
    switch (s->activation) {
      case SPD_ACTIVATION_NONE:
        SPD_SIMD
        for (size_t j = 0; j < units; j++) {
          before[j] += b[j];
          after[j] = before[j] + offset;
        }
        break;
      case SPD_ACTIVATION_PRELU: {
        const float *slope = s->slope + from;
        SPD_SIMD
        for (size_t j = 0; j < units; j++) {
          before[j] += b[j];
          after[j] = spd_prelu(before[j], slope[j]) + offset;
        }
        break;
      }
      case SPD_ACTIVATION_LEAKY:
        SPD_SIMD
        for (size_t j = 0; j < units; j++) {
          before[j] += b[j];
          after[j] = spd_prelu(before[j], SPD_LEAKY_SLOPE) + offset;
        }
        break;
      case SPD_ACTIVATION_SPECULATOR: {
        const float *beta = s->beta + from, *gamma = s->gamma + from;
        SPD_SIMD
        for (size_t j = 0; j < units; j++) {
          before[j] += b[j];
          after[j] = spd_speculator(before[j], beta[j], gamma[j]) + offset;
        }
        break;
      }
    }
  }
}

/* to (rows, columns), rows `stride` apart, from its transpose (columns, WIDEST) */
SPD_HOT static void turn(float *to, size_t stride, const float *from, size_t rows, size_t columns) {
  const size_t tile = 16;
  for (size_t j0 = 0; j0 < columns; j0 += tile)
    for (size_t i = 0; i < rows; i++)
      for (size_t j = j0; j < columns && j < j0 + tile; j++) to[i * stride + j] = from[j * WIDEST + i];
}

struct call {
  const struct spd_backend *backend;
  const struct spd_dense *s;
  size_t n;
  const float *packed; /* the spectra */
};

/* Some units of all spectra */
static void forward_piece(const void *context, size_t piece, int thread) {
  (void)thread;
  const struct call *c = context;
  const struct spd_dense *s = c->s;
  const size_t from = piece * UNITS_PER_PIECE, units = s->out - from < UNITS_PER_PIECE ? s->out - from : UNITS_PER_PIECE;
  const size_t panel = cpu_kernels_of(c->backend)->panel;
  float products[UNITS_PER_PIECE * WIDEST] __attribute__((aligned(64))); /* (units, spectra) */
  for (size_t strip = 0; strip < pieces_of(c->n, panel); strip++) {
    const size_t first = strip * panel, here = c->n - first < panel ? c->n - first : panel;
    cpu_multiply_packed(c->backend, products, WIDEST, units, strip, c->n, s->in, s->w + from * s->in, s->in, 1, c->packed);
    turn(s->v + first * s->out + from, s->out, products, here, units);
  }
  activate(s->y, s->v, s, c->n, from, units);
}

spd_status cpu_dense_forward(struct spd_backend *backend, const struct spd_dense *s, size_t n, struct spd_error *error) {
  float *packed;
  SPD_TRY(cpu_arena(&packed, backend, cpu_pack_size(backend, n, s->in), error));
  cpu_pack(backend, packed, n, s->in, s->x, 1, s->in);
  const struct call call = {backend, s, n, packed};
  cpu_parallel(backend, pieces_of(s->out, UNITS_PER_PIECE), forward_piece, &call);
  return SPD_STATUS_OK;
}

/* ---- tangents ---- */

/* Derivative of the activation at v */
SPD_HOT static void derivative(float *to, const struct spd_dense *s, const float *v, size_t from, size_t units) {
  switch (s->activation) {
    case SPD_ACTIVATION_NONE:
      for (size_t j = 0; j < units; j++) to[j] = 1;
      break;
    case SPD_ACTIVATION_PRELU:
      SPD_SIMD
      for (size_t j = 0; j < units; j++) to[j] = v[j] > 0 ? 1.0f : s->slope[from + j];
      break;
    case SPD_ACTIVATION_LEAKY:
      SPD_SIMD
      for (size_t j = 0; j < units; j++) to[j] = v[j] > 0 ? 1.0f : SPD_LEAKY_SLOPE;
      break;
    case SPD_ACTIVATION_SPECULATOR:
      SPD_SIMD
      for (size_t j = 0; j < units; j++) {
        float dbeta, dgamma;
        spd_speculator_gradient(&to[j], &dbeta, &dgamma, v[j], s->beta[from + j], s->gamma[from + j]);
      }
      break;
  }
}

struct tangents {
  const struct spd_backend *backend;
  const struct spd_dense *s;
  float *dy;
  size_t k, n;
  const float *packed; /* dx */
};

/* Some units of all directions */
static void tangents_piece(const void *context, size_t piece, int thread) {
  (void)thread;
  const struct tangents *c = context;
  const struct spd_dense *s = c->s;
  const size_t from = piece * UNITS_PER_PIECE, units = s->out - from < UNITS_PER_PIECE ? s->out - from : UNITS_PER_PIECE;
  const size_t panel = cpu_kernels_of(c->backend)->panel, rows = c->n * c->k;
  float products[UNITS_PER_PIECE * WIDEST] __attribute__((aligned(64))), slope[UNITS_PER_PIECE];
  for (size_t strip = 0; strip < pieces_of(rows, panel); strip++) {
    const size_t first = strip * panel, here = rows - first < panel ? rows - first : panel;
    cpu_multiply_packed(c->backend, products, WIDEST, units, strip, rows, s->in, s->w + from * s->in, s->in, 1, c->packed);
    turn(c->dy + first * s->out + from, s->out, products, here, units);
  }
  for (size_t i = 0; i < c->n; i++) {
    derivative(slope, s, s->v + i * s->out + from, from, units);
    for (size_t row = i * c->k; row < (i + 1) * c->k; row++) {
      float *dy = c->dy + row * s->out + from;
      SPD_SIMD
      for (size_t j = 0; j < units; j++) dy[j] *= slope[j];
    }
  }
}

spd_status cpu_dense_tangents(struct spd_backend *backend, const struct spd_dense *s, float *dy, const float *dx, size_t k, size_t n,
                              struct spd_error *error) {
  float *packed;
  SPD_TRY(cpu_arena(&packed, backend, cpu_pack_size(backend, n * k, s->in), error));
  cpu_pack(backend, packed, n * k, s->in, dx, 1, s->in);
  const struct tangents call = {backend, s, dy, k, n, packed};
  cpu_parallel(backend, pieces_of(s->out, UNITS_PER_PIECE), tangents_piece, &call);
  return SPD_STATUS_OK;
}

/* ---- backward ---- */

/* dy -> dv in place; gradients of a unit's parameters are summed over the batch in row order */
SPD_HOT static void activation_backward(const struct spd_dense *s, size_t n, size_t from, size_t units) {
  float sums[3][GRADIENT_UNITS] = {{0}};
  float *db = sums[0], *first = sums[1], *second = sums[2];
  for (size_t i = 0; i < n; i++) {
    float *d = s->dy + i * s->out + from;
    const float *v = s->v + i * s->out + from;
    switch (s->activation) {
      case SPD_ACTIVATION_NONE: break;
      case SPD_ACTIVATION_PRELU: {
        const float *slope = s->slope + from;
        SPD_SIMD
        for (size_t j = 0; j < units; j++) {
          first[j] += v[j] > 0 ? 0 : d[j] * v[j];
          d[j] *= v[j] > 0 ? 1.0f : slope[j];
        }
        break;
      }
      case SPD_ACTIVATION_LEAKY:
        SPD_SIMD
        for (size_t j = 0; j < units; j++) d[j] *= v[j] > 0 ? 1.0f : SPD_LEAKY_SLOPE;
        break;
      case SPD_ACTIVATION_SPECULATOR: {
        const float *beta = s->beta + from, *gamma = s->gamma + from;
        SPD_SIMD
        for (size_t j = 0; j < units; j++) {
          float dx, dbeta, dgamma;
          spd_speculator_gradient(&dx, &dbeta, &dgamma, v[j], beta[j], gamma[j]);
          first[j] += d[j] * dbeta;
          second[j] += d[j] * dgamma;
          d[j] *= dx;
        }
        break;
      }
    }
    SPD_SIMD
    for (size_t j = 0; j < units; j++) db[j] += d[j];
  }
  if (s->db) memcpy(s->db + from, db, units * sizeof *db);
  if (s->dslope) memcpy(s->dslope + from, first, units * sizeof *first);
  if (s->dbeta) memcpy(s->dbeta + from, first, units * sizeof *first);
  if (s->dgamma) memcpy(s->dgamma + from, second, units * sizeof *second);
}

/* The weights' gradient of some units; dy becomes dv on the way. */
static void weights_piece(const void *context, size_t piece, int thread) {
  (void)thread;
  const struct call *c = context;
  const struct spd_dense *s = c->s;
  const size_t from = piece * GRADIENT_UNITS, units = s->out - from < GRADIENT_UNITS ? s->out - from : GRADIENT_UNITS, n = c->n;
  activation_backward(s, n, from, units);
  if (!s->dw) return;
  float dv[GRADIENT_ROWS * GRADIENT_UNITS]; /* copies the rows of the batch next to each other: in dy they are pages apart */
  for (size_t first = 0; first < n || first == 0; first += GRADIENT_ROWS) {
    const size_t here = n - first < GRADIENT_ROWS ? n - first : GRADIENT_ROWS;
    for (size_t i = 0; i < here; i++) memcpy(dv + i * units, s->dy + (first + i) * s->out + from, units * sizeof *dv);
    cpu_multiply(c->backend, s->dw + from * s->in, s->in, first > 0, units, s->in, here, dv, 1, units, s->x + first * s->in, s->in, 1);
  }
}

/* The gradient at some inputs */
static void inputs_piece(const void *context, size_t piece, int thread) {
  (void)thread;
  const struct call *c = context;
  const struct spd_dense *s = c->s;
  const size_t from = piece * INPUTS_PER_PIECE, inputs = s->in - from < INPUTS_PER_PIECE ? s->in - from : INPUTS_PER_PIECE;
  cpu_multiply(c->backend, s->dx + from, s->in, 0, c->n, inputs, s->out, s->dy, s->out, 1, s->w + from, s->in, 1);
}

spd_status cpu_dense_backward(struct spd_backend *backend, const struct spd_dense *s, size_t n, struct spd_error *error) {
  (void)error;
  const struct call call = {backend, s, n, NULL};
  cpu_parallel(backend, pieces_of(s->out, GRADIENT_UNITS), weights_piece, &call);
  if (s->dx) cpu_parallel(backend, pieces_of(s->in, INPUTS_PER_PIECE), inputs_piece, &call);
  return SPD_STATUS_OK;
}
