/* Convolutions over gap-padded channels-last rows without an im2col buffer: for each offset r, the patches that start at rows
 * r, r + k, r + 2k, ... of the whole batch are one matrix with leading dimension k * C (DESIGN of the layout: backend.h). */
#include "cpu/cpu.h"

enum {
  ROWS_PER_PIECE = 1152, /* patches in one product: enough to pay for packing the weights, few enough to share out */
  TAPS_PER_PIECE = 192   /* rows of dw in one product */
};

struct call {
  const struct spd_backend *backend;
  float *y, *dw;
  const float *x, *w, *dy;
  const struct spd_rows *in;
  size_t kernel, out, rows; /* rows: patches that start at one offset */
};

/* Patches of one offset */
static void forward_piece(const void *context, size_t piece, int thread) {
  (void)thread;
  const struct call *c = context;
  const size_t r = piece % c->kernel, from = piece / c->kernel * ROWS_PER_PIECE, channels = c->in->channels;
  const size_t m = c->rows - from < ROWS_PER_PIECE ? c->rows - from : ROWS_PER_PIECE, row = r + from * c->kernel;
  cpu_multiply(c->backend, c->y + (c->in->lead + row) * c->out, c->kernel * c->out, 0, m, c->out, c->kernel * channels,
               c->x + row * channels, c->kernel * channels, 1, c->w, c->out, 1);
}

void cpu_conv(const struct spd_backend *backend, float *y, const float *x, const float *w, const struct spd_rows *in, size_t kernel,
              size_t channels_out, size_t n) {
  const struct call call = {backend, y, NULL, x, w, NULL, in, kernel, channels_out, n * in->stride / kernel};
  cpu_parallel(backend, (call.rows + ROWS_PER_PIECE - 1) / ROWS_PER_PIECE * kernel, forward_piece, &call);
}

/* Rows of dw, summed over the offsets */
static void gradient_piece(const void *context, size_t piece, int thread) {
  (void)thread;
  const struct call *c = context;
  const size_t taps = c->kernel * c->in->channels, from = piece * TAPS_PER_PIECE;
  const size_t m = taps - from < TAPS_PER_PIECE ? taps - from : TAPS_PER_PIECE;
  for (size_t r = 0; r < c->kernel; r++)
    cpu_multiply(c->backend, c->dw + from * c->out, c->out, r > 0, m, c->out, c->rows, c->x + r * c->in->channels + from, 1, taps,
                 c->dy + (c->in->lead + r) * c->out, c->kernel * c->out, 1);
}

void cpu_conv_weight_gradient(const struct spd_backend *backend, float *dw, const float *x, const float *dy, const struct spd_rows *in,
                              size_t kernel, size_t channels_out, size_t n) {
  const struct call call = {backend, NULL, dw, x, NULL, dy, in, kernel, channels_out, n * in->stride / kernel};
  cpu_parallel(backend, (kernel * in->channels + TAPS_PER_PIECE - 1) / TAPS_PER_PIECE, gradient_piece, &call);
}
