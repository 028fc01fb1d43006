/* Convolutions over gap-padded channels-last rows without an im2col buffer: for each offset r, the patches that start at rows
 * r, r + k, r + 2k, ... of the whole batch are one matrix with leading dimension k * C (DESIGN of the layout: backend.h). */
#include "cpu/cpu.h"

enum {
  ROWS_PER_PIECE = 1152, /* patches in one product: enough to pay for packing the weights, few enough to share out */
  TAPS_PER_PIECE = 192   /* rows of dw in one product */
};

void cpu_conv(const struct spd_backend *backend, float *y, const float *x, const float *w, const struct spd_rows *in,
              size_t kernel, size_t channels_out, size_t n) {
  const size_t c = in->channels, rows = n * in->stride / kernel;
  const size_t chunks = (rows + ROWS_PER_PIECE - 1) / ROWS_PER_PIECE, pieces = chunks * kernel;
  CPU_PARALLEL(backend, pieces)
  for (size_t piece = 0; piece < pieces; piece++) {
    size_t r = piece % kernel, from = piece / kernel * ROWS_PER_PIECE;
    size_t m = rows - from < ROWS_PER_PIECE ? rows - from : ROWS_PER_PIECE;
    size_t row = r + from * kernel;
    cpu_multiply(backend, y + (in->lead + row) * channels_out, kernel * channels_out, 0, m, channels_out, kernel * c, x + row * c,
                 kernel * c, 1, w, channels_out, 1);
  }
}

void cpu_conv_weight_gradient(const struct spd_backend *backend, float *dw, const float *x, const float *dy,
                              const struct spd_rows *in, size_t kernel, size_t channels_out, size_t n) {
  const size_t c = in->channels, rows = n * in->stride / kernel, taps = kernel * c;
  const size_t pieces = (taps + TAPS_PER_PIECE - 1) / TAPS_PER_PIECE;
  CPU_PARALLEL(backend, pieces)
  for (size_t piece = 0; piece < pieces; piece++) {
    size_t from = piece * TAPS_PER_PIECE, m = taps - from < TAPS_PER_PIECE ? taps - from : TAPS_PER_PIECE;
    for (size_t r = 0; r < kernel; r++)
      cpu_multiply(backend, dw + from * channels_out, channels_out, r > 0, m, channels_out, rows, x + r * c + from, 1, taps,
                   dy + (in->lead + r) * channels_out, kernel * channels_out, 1);
  }
}
