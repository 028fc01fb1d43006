/* Row-major matrix products of our own. A product is summed in blocks of BLOCK terms, each from its first term to its last, and the
 * blocks' sums are added in order. So an element's bits depend on how many terms it has, and on nothing else: not on the other
 * rows and columns, the threads, or where its row is in a batch. Instruction sets with fused multiply-add agree with each other. */
#include <string.h>

#include "cpu/cpu.h"

enum { BLOCK = 256, AHEAD = 8 /* rows that are fetched meanwhile */ };

/* Rows from ... from + depth - 1 of the columns of a strip -> packed (depth, padded), zero beyond `width` */
static void pack(float *packed, size_t padded, size_t width, size_t depth, const float *b, size_t b_row, size_t b_column) {
  if (b_column == 1) {
    for (size_t k = 0; k < depth; k++, packed += padded, b += b_row) {
      for (size_t j = 0; j < width; j += 16) __builtin_prefetch(b + AHEAD * b_row + j); /* rows may be pages apart */
      memcpy(packed, b, width * sizeof *b);
      if (padded > width) memset(packed + width, 0, (padded - width) * sizeof *b);
    }
    return;
  }
  const size_t tile = 16; /* both sides of the transposition stay in the cache */
  for (size_t k0 = 0; k0 < depth; k0 += tile)
    for (size_t j = 0; j < padded; j++)
      for (size_t k = k0; k < depth && k < k0 + tile; k++) packed[k * padded + j] = j < width ? b[k * b_row + j * b_column] : 0;
}

size_t cpu_pack_size(const struct spd_backend *backend, size_t n, size_t k) {
  const size_t panel = cpu_kernels_of(backend)->panel;
  return (n + panel - 1) / panel * panel * k;
}

void cpu_pack(const struct spd_backend *backend, float *packed, size_t n, size_t k, const float *b, size_t b_row, size_t b_column) {
  const size_t panel = cpu_kernels_of(backend)->panel, strips = (n + panel - 1) / panel, blocks = (k + BLOCK - 1) / BLOCK;
  CPU_PARALLEL(backend, strips * blocks)
  for (size_t piece = 0; piece < strips * blocks; piece++) {
    const size_t j = piece / blocks * panel, from = piece % blocks * BLOCK, depth = k - from < BLOCK ? k - from : BLOCK;
    pack(packed + j * k + from * panel, panel, n - j < panel ? n - j : panel, depth, b + from * b_row + j * b_column, b_row, b_column);
  }
}

void cpu_multiply_packed(const struct spd_backend *backend, float *c, size_t c_row, size_t m, size_t strip, size_t n, size_t k,
                         const float *a, size_t a_row, size_t a_depth, const float *packed) {
  const struct cpu_kernels *kernels = cpu_kernels_of(backend);
  const size_t panel = kernels->panel, j = strip * panel, width = n - j < panel ? n - j : panel;
  for (size_t from = 0; from < k || from == 0; from += BLOCK) {
    const size_t depth = k - from < BLOCK ? k - from : BLOCK;
    kernels->multiply(c, c_row, from > 0, m, width, depth, a + from * a_depth, a_row, a_depth, packed + j * k + from * panel, panel);
  }
}

void cpu_multiply(const struct spd_backend *backend, float *c, size_t c_row, int add, size_t m, size_t n, size_t k, const float *a,
                  size_t a_row, size_t a_depth, const float *b, size_t b_row, size_t b_column) {
  const struct cpu_kernels *kernels = cpu_kernels_of(backend);
  float packed[BLOCK * CPU_WIDEST_PANEL] __attribute__((aligned(64)));
  for (size_t j = 0; j < n; j += kernels->panel) {
    const size_t width = n - j < kernels->panel ? n - j : kernels->panel;
    const size_t padded = (width + kernels->lanes - 1) / kernels->lanes * kernels->lanes;
    for (size_t from = 0; from < k || from == 0; from += BLOCK) {
      const size_t depth = k - from < BLOCK ? k - from : BLOCK;
      pack(packed, padded, width, depth, b + from * b_row + j * b_column, b_row, b_column);
      kernels->multiply(c + j, c_row, add || from > 0, m, width, depth, a + from * a_depth, a_row, a_depth, packed, padded);
    }
  }
}
