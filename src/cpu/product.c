/* Row-major matrix products of our own. A product is summed in blocks of BLOCK terms, each from its first term to its last, and the
 * blocks' sums are added in order. So an element's bits depend on how many terms it has, and on nothing else: not on the other
 * rows and columns, the threads, or where its row is in a batch. Instruction sets with fused multiply-add agree with each other. */
#include "cpu/cpu.h"

enum { BLOCK = 256 };

/* Rows from ... from + depth - 1 of the columns of a strip -> packed (depth, padded), zero beyond `width` */
static void pack(const struct cpu_kernels *kernels, float *packed, size_t padded, size_t width, size_t depth, const float *b, size_t b_row,
                 size_t b_column) {
  if (b_column == 1) {
    kernels->pack_rows(packed, padded, width, depth, b, b_row);
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

struct packing {
  const struct cpu_kernels *kernels;
  float *packed;
  size_t blocks, n, k;
  const float *b;
  size_t b_row, b_column;
};

static void pack_piece(const void *context, size_t piece, int thread) {
  (void)thread;
  const struct packing *p = context;
  const size_t panel = p->kernels->panel, j = piece / p->blocks * panel, from = piece % p->blocks * BLOCK;
  const size_t depth = p->k - from < BLOCK ? p->k - from : BLOCK, width = p->n - j < panel ? p->n - j : panel;
  pack(p->kernels, p->packed + j * p->k + from * panel, panel, width, depth, p->b + from * p->b_row + j * p->b_column, p->b_row,
       p->b_column);
}

void cpu_pack(const struct spd_backend *backend, float *packed, size_t n, size_t k, const float *b, size_t b_row, size_t b_column) {
  const size_t panel = cpu_kernels_of(backend)->panel, strips = (n + panel - 1) / panel, blocks = (k + BLOCK - 1) / BLOCK;
  const struct packing packing = {cpu_kernels_of(backend), packed, blocks, n, k, b, b_row, b_column};
  cpu_parallel(backend, strips * blocks, pack_piece, &packing);
}

void cpu_multiply_packed(const struct spd_backend *backend, float *c, size_t c_row, size_t m, size_t strip, size_t n, size_t k,
                         const float *a, size_t a_row, size_t a_depth, const float *packed) {
  const struct cpu_kernels *kernels = cpu_kernels_of(backend);
  const size_t panel = kernels->panel, j = strip * panel, width = n - j < panel ? n - j : panel;
  for (size_t from = 0; from < k || from == 0; from += BLOCK) {
    const size_t depth = k - from < BLOCK ? k - from : BLOCK;
    kernels->multiply(c, c_row, from > 0, m, width, depth, a + from * a_depth, a_row, a_depth, packed + j * k + from * panel, panel,
                      cpu_nothing_ahead);
  }
}

void cpu_multiply(const struct spd_backend *backend, float *c, size_t c_row, int add, size_t m, size_t n, size_t k, const float *a,
                  size_t a_row, size_t a_depth, const float *b, size_t b_row, size_t b_column) {
  const struct cpu_kernels *kernels = cpu_kernels_of(backend);
  float packed[BLOCK * CPU_WIDEST_PANEL] __attribute__((aligned(64)));
  struct cpu_ahead ahead[2] = {{NULL, 0, 0, 0}, {NULL, 0, 0, 0}};
  for (size_t j = 0; j < n; j += kernels->panel) {
    const size_t width = n - j < kernels->panel ? n - j : kernels->panel;
    const size_t padded = (width + kernels->lanes - 1) / kernels->lanes * kernels->lanes;
    for (size_t from = 0; from < k || from == 0; from += BLOCK) {
      const size_t depth = k - from < BLOCK ? k - from : BLOCK;
      pack(kernels, packed, padded, width, depth, b + from * b_row + j * b_column, b_row, b_column);
      /* prefetches the block that is packed next: rows of B are pages apart */
      const size_t next = from + BLOCK < k ? from + BLOCK : 0, next_j = next ? j : j + kernels->panel;
      const size_t deep = k - next < BLOCK ? k - next : BLOCK, wide = next_j >= n ? 0 : n - next_j < width ? n - next_j : width;
      ahead->at = b + next * b_row + next_j * b_column;
      ahead->floats = b_column == 1 ? wide : deep, ahead->rows = b_column == 1 ? deep : wide;
      ahead->stride = b_column == 1 ? b_row : b_column;
      kernels->multiply(c + j, c_row, add || from > 0, m, width, depth, a + from * a_depth, a_row, a_depth, packed, padded, ahead);
    }
  }
}
