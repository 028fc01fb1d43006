/* The innermost loops of the convolutions, compiled once for each instruction set and chosen when the backend is made.
 *
 * Planes: the rows (positions) of a tile become `tile` values of every channel in the frequency domain, of which three products
 * per pair of frequencies make P = 3 (tile/2 - 1) + 2 planes; see fourier.c. A plane holds rows of channels, padded with zeros
 * to a multiple of `lanes`. Plane p begins p * stride floats after the first. */
#ifndef SPD_CPU_KERNELS_H
#define SPD_CPU_KERNELS_H

#include <stddef.h>
#include <stdint.h>

/* All planes of one tile size. */
struct cpu_codelet {
  size_t tile;
  /* One tile: `count` rows of `width` channels, further rows taken as zero -> planes, `padded` channels wide. */
  void (*analyse)(float *planes, size_t stride, size_t padded, const float *rows, size_t row_stride, size_t count, size_t width);
  /* planes of products -> the first `count` rows of a tile; the first `overlap` of them are added to the rows. */
  void (*synthesise)(float *rows, size_t row_stride, size_t count, size_t overlap, const float *planes, size_t stride, size_t width);
  /* Taps (k, n_in, n_out) -> packed planes: rows are input channels i ... i + n - 1, columns output channels column ... A
   * packed plane is a (depth, columns) matrix cut into panels, one after another: [panels][depth][panel]; `packed` is where
   * row i begins in the first. */
  void (*pack)(float *packed, size_t stride, size_t depth, const float *w, size_t kernel, size_t n_in, size_t n_out, size_t column,
               size_t columns, size_t i, size_t n);
  /* The same of the transposed matrices with the taps reversed: rows are output channels, columns input channels. */
  void (*pack_transposed)(float *packed, size_t stride, size_t depth, const float *w, size_t kernel, size_t n_in, size_t n_out,
                          size_t column, size_t columns, size_t i, size_t n);
  /* Planes of sums, rows of `wide` floats -> dw (k, n_in, n_out) of input channels i ... i + n - 1 and `width` output ones */
  void (*unpack)(float *dw, const float *sums, size_t stride, size_t wide, size_t kernel, size_t n_in, size_t n_out, size_t width, size_t i,
                 size_t n);
};

/* A region to prefetch: rows of `floats` floats, `stride` floats apart. */
struct cpu_ahead {
  const float *at;
  size_t floats, rows, stride;
};
static const struct cpu_ahead cpu_nothing_ahead[1];

enum { CPU_WIDEST_PANEL = 64 };

struct cpu_kernels {
  const char *name;
  size_t panel; /* columns that the product makes at a time, CPU_WIDEST_PANEL or fewer */
  /* c (rows, columns) = or += A B. Element (i, k) of A is a[i * a_row + k * a_depth]; row k of panel j of B is at
   * b + j * b_panel + k * b_depth. columns is a multiple of lanes. An element's sum runs over k in order, starting from c
   * when adding: its bits do not depend on which rows and columns are computed together. Meanwhile prefetches the regions in `ahead`, a
   * list ended by an entry with 0 floats. */
  void (*product)(float *c, size_t c_row, int add, size_t rows, size_t columns, size_t depth, const float *a, size_t a_row, size_t a_depth,
                  const float *b, size_t b_panel, size_t b_depth, const struct cpu_ahead *ahead);
  /* c (rows, width) = A B, or c += A B, for a strip of up to `panel` columns. A as above; row k of B is at b + k * b_depth, zero from
   * `width` on to a multiple of `lanes`. A product is summed over k in order from zero, then added. */
  void (*multiply)(float *c, size_t c_row, int add, size_t rows, size_t width, size_t depth, const float *a, size_t a_row, size_t a_depth,
                   const float *b, size_t b_depth, const struct cpu_ahead *ahead);
  /* Rows of B, `width` floats each and b_row apart -> rows of `padded` floats, a multiple of lanes, zero beyond width */
  void (*pack_rows)(float *packed, size_t padded, size_t width, size_t depth, const float *b, size_t b_row);
  size_t lanes;                       /* floats in a vector */
  const struct cpu_codelet *codelets; /* by size; tile 0 ends them */

  /* Norm, PReLU and max-pool of `width` channels of one spectrum's map u (length, ...), rows u_stride apart; pool 1 is none.
   * argmax, with y's stride, may be NULL. */
  void (*normalise)(float *y, size_t y_stride, uint16_t *argmax, float *mean, float *inverse_sd, const float *u, size_t u_stride,
                    const float *slope, size_t length, size_t pool, size_t pooled, size_t width);
  /* The gradient at u from that at y; du may be u. argmax is NULL where pool is 1. */
  void (*normalise_backward)(float *du, size_t du_stride, float *dslope, const float *u, size_t u_stride, const float *dy, size_t dy_stride,
                             const uint16_t *argmax, const float *mean, const float *inverse_sd, const float *slope, size_t length,
                             size_t pool, size_t pooled, size_t width);
};

extern const struct cpu_kernels cpu_kernels_baseline;
/* Not on Windows, where GCC cannot align such vectors on the stack (its bug 54412). */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(_WIN32)
#define CPU_KERNELS_X86
extern const struct cpu_kernels cpu_kernels_avx2, cpu_kernels_avx512;
#endif

/* Number i, from 0 and best first, of those that this processor runs; NULL past the last. */
const struct cpu_kernels *cpu_kernels_available(size_t i);

#endif
