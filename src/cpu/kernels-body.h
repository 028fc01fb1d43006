/* The kernels of one instruction set. The including file has chosen the processor and defines
 *   LANES    floats in a vector
 *   VECTORS  vectors side by side in a tile of the product; a panel is VECTORS * LANES columns
 *   KERNELS  name of the table, and KERNELS_NAME the same as a string */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "cpu/kernels.h"
#include "network/scalar.h"

typedef float vec __attribute__((vector_size(4 * LANES)));
/* as it lies in memory: anywhere */
typedef float vec_in_memory __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#include "cpu/hartley.h"

enum {
  PANEL = VECTORS * LANES,
  LARGEST_TILE = 84,
  ROWS = 6 /* rows of a tile of the product; with VECTORS they fill the registers */
};
_Static_assert(CPU_WIDEST_PANEL >= VECTORS * LANES, "a panel is wider than its buffers");

/* Keeps the compiler from computing the addresses of all planes in advance, which takes more registers than there are. */
INLINE const float *opaque(const float *pointer) {
  __asm__("" : "+r"(pointer));
  return pointer;
}

INLINE vec load(const float *from) { return *(const vec_in_memory *)from; }
INLINE void store(float *to, vec value) { *(vec_in_memory *)to = value; }

INLINE vec load_part(const float *from, size_t width) {
  vec value = {0};
  if (width >= LANES) return load(from);
  memcpy(&value, from, width * sizeof *from);
  return value;
}

INLINE void store_part(float *to, vec value, size_t width) {
  if (width >= LANES)
    store(to, value);
  else
    memcpy(to, &value, width * sizeof *to);
}

#include "cpu/norm.h"

/* ---- matrix product ---- */

/* How a product is combined with the elements of C */
enum sums {
  REPLACED,  /* C = A B */
  ADDED,     /* C += A B, which is summed from zero */
  CONTINUED, /* C += A B, term by term */
};

/* A tile of `vectors` vectors a row; `last` is the width of the last one. */
INLINE void product_tile(float *c, size_t c_row, enum sums sums, const int rows, const int vectors, size_t last, size_t depth,
                         const float *a, size_t a_row, size_t a_depth, const float *b, size_t b_depth) {
  vec sum[2 * ROWS][VECTORS];
  UNROLL
  for (int i = 0; i < rows; i++) {
    UNROLL
    for (int j = 0; j < vectors; j++)
      sum[i][j] = sums == CONTINUED ? load_part(c + i * c_row + j * LANES, j + 1 < vectors ? LANES : last) : (vec){0};
  }
  /* C will be written, and the rows of A below are next: both may be far away */
  UNROLL
  for (int i = 0; i < rows; i++) {
    UNROLL
    for (int j = 0; j < vectors * LANES; j += 16) __builtin_prefetch(c + i * c_row + j, 1, 2);
  }
  const size_t below = (size_t)rows * a_row;
  for (size_t k = 0; k < depth; k++, a += a_depth, b += b_depth) {
    vec right[VECTORS];
    if (k % 16 == 0 && a_depth == 1) {
      UNROLL
      for (int i = 0; i < rows; i++) __builtin_prefetch(a + below + i * a_row, 0, 2);
    }
    UNROLL
    for (int j = 0; j < vectors; j++) right[j] = load(b + j * LANES);
    UNROLL
    for (int i = 0; i < rows; i++) {
      UNROLL
      for (int j = 0; j < vectors; j++) sum[i][j] += a[i * a_row] * right[j];
    }
  }
  UNROLL
  for (int i = 0; i < rows; i++) {
    UNROLL
    for (int j = 0; j < vectors; j++) {
      float *to = c + i * c_row + j * LANES;
      const size_t width = j + 1 < vectors ? LANES : last;
      store_part(to, sums == ADDED ? load_part(to, width) + sum[i][j] : sum[i][j], width);
    }
  }
}

/* Prefetches the n-th of `parts` parts of the regions in `ahead`: some of the rows, or of the floats of a single row */
INLINE void fetch(const struct cpu_ahead *ahead, size_t n, size_t parts) {
  for (; ahead->floats; ahead++) {
    const int one = ahead->rows == 1;
    const size_t size = (one ? ahead->floats : ahead->rows) / parts + (one ? 16 : 1), from = n * size;
    const size_t first = one ? 0 : from, last = one ? 1 : from + size < ahead->rows ? from + size : ahead->rows;
    const size_t begin = one ? from : 0, end = one && from + size < ahead->floats ? from + size : ahead->floats;
    for (size_t row = first; row < last; row++)
      for (size_t i = begin; i < end; i += 16) __builtin_prefetch(ahead->at + row * ahead->stride + i, 0, 2);
  }
}

/* All rows of a strip of columns; meanwhile prefetches the n-th of `parts` parts of `ahead`. Narrow strips take twice as many rows at
 * a time: the registers hold them, and the sums of a tile do not wait for each other. */
INLINE void strip(float *c, size_t c_row, enum sums sums, size_t rows, const int vectors, size_t last, size_t depth, const float *a,
                  size_t a_row, size_t a_depth, const float *b, size_t b_depth, const struct cpu_ahead *ahead, size_t n, size_t parts) {
#define STRIP_ROWS(n) product_tile(c + i * c_row, c_row, sums, n, vectors, last, depth, a + i * a_row, a_row, a_depth, b, b_depth)
  const int tall = 2 * vectors <= VECTORS ? 2 * ROWS : ROWS;
  const size_t tiles = (rows + (size_t)tall - 1) / (size_t)tall;
  size_t i = 0, done = n * tiles;
  for (; i + (size_t)tall <= rows; i += (size_t)tall) {
    fetch(ahead, done++, parts * tiles);
    STRIP_ROWS(tall);
  }
  if (i < rows) fetch(ahead, done, parts * tiles);
  for (; tall > ROWS && i + ROWS <= rows; i += ROWS) STRIP_ROWS(ROWS);
  switch (rows - i) {
    case 1: STRIP_ROWS(1); break;
    case 2: STRIP_ROWS(2); break;
    case 3: STRIP_ROWS(3); break;
    case 4: STRIP_ROWS(4); break;
    case 5: STRIP_ROWS(5); break;
  }
#undef STRIP_ROWS
}

INLINE void strip_of(float *c, size_t c_row, enum sums sums, size_t rows, size_t vectors, size_t last, size_t depth, const float *a,
                     size_t a_row, size_t a_depth, const float *b, size_t b_depth, const struct cpu_ahead *ahead, size_t n, size_t parts) {
#define STRIP(v) \
  case v: strip(c, c_row, sums, rows, v, last, depth, a, a_row, a_depth, b, b_depth, ahead, n, parts); break
  switch (vectors) {
    STRIP(1);
    STRIP(2);
#if VECTORS > 2
    STRIP(3);
    STRIP(4);
#endif
  }
#undef STRIP
}

static void product(float *c, size_t c_row, int add, size_t rows, size_t columns, size_t depth, const float *a, size_t a_row,
                    size_t a_depth, const float *b, size_t b_panel, size_t b_depth, const struct cpu_ahead *ahead) {
  const size_t panels = (columns + PANEL - 1) / PANEL;
  for (size_t panel = 0; panel < panels; panel++, b += b_panel, c += PANEL) {
    const size_t left = columns / LANES - panel * VECTORS;
    strip_of(c, c_row, add ? CONTINUED : REPLACED, rows, left < VECTORS ? left : VECTORS, LANES, depth, a, a_row, a_depth, b, b_depth,
             ahead, panel, panels);
  }
}

static void multiply(float *c, size_t c_row, int add, size_t rows, size_t width, size_t depth, const float *a, size_t a_row, size_t a_depth,
                     const float *b, size_t b_depth, const struct cpu_ahead *ahead) {
  const size_t vectors = (width + LANES - 1) / LANES;
  strip_of(c, c_row, add ? ADDED : REPLACED, rows, vectors, width - (vectors - 1) * LANES, depth, a, a_row, a_depth, b, b_depth, ahead, 0,
           1);
}

static void pack_rows(float *packed, size_t padded, size_t width, size_t depth, const float *b, size_t b_row) {
  if (width == PANEL && padded == PANEL) {
    for (size_t k = 0; k < depth; k++, packed += PANEL, b += b_row) {
      UNROLL
      for (int j = 0; j < VECTORS; j++) store(packed + j * LANES, load(b + j * LANES));
    }
    return;
  }
  for (size_t k = 0; k < depth; k++, packed += padded, b += b_row)
    for (size_t j = 0; j < padded; j += LANES) store(packed + j, j < width ? load_part(b + j, width - j) : (vec){0});
}

/* ---- rows to planes and back ---- */

INLINE void analyse(float *planes, size_t stride, size_t padded, const float *rows, size_t row_stride, size_t count, size_t width,
                    const int tile) {
  for (size_t c = 0; c < padded; c += LANES, planes += LANES) {
    const size_t here = width > c ? width - c : 0;
    vec x[LARGEST_TILE], h[LARGEST_TILE];
    for (size_t t = 0; t < count; t++) x[t] = load_part(rows + t * row_stride + c, here);
    for (int t = (int)count; t < tile; t++) x[t] = (vec){0};
    hartley(h, x, tile);
    float *out = planes;
    UNROLL
    for (int f = 1; f < tile / 2; f++, out = (float *)opaque(out + 3 * stride)) {
      store(out, h[tile - f]);
      store(out + stride, h[tile - f] + h[f]);
      store(out + 2 * stride, h[tile - f] - h[f]);
    }
    store(out, h[0]);
    store(out + stride, h[tile / 2]);
  }
}

INLINE void synthesise(float *rows, size_t row_stride, size_t count, size_t overlap, const float *planes, size_t stride, size_t width,
                       const int tile) {
  for (size_t c = 0; c < width; c += LANES, planes += LANES) {
    const size_t here = width - c;
    vec h[LARGEST_TILE], y[LARGEST_TILE];
    const float *in = planes;
    UNROLL
    for (int f = 1; f < tile / 2; f++, in = opaque(in + 3 * stride)) {
      const vec first = load(in), second = load(in + stride), third = load(in + 2 * stride);
      h[f] = second - third;
      h[tile - f] = first - second - third;
    }
    h[0] = load(in);
    h[tile / 2] = load(in + stride);
    hartley(y, h, tile);
    float *out = rows + c;
    for (size_t t = 0; t < count && t < overlap; t++) store_part(out + t * row_stride, load_part(out + t * row_stride, here) + y[t], here);
    for (size_t t = overlap; t < count; t++) store_part(out + t * row_stride, y[t], here);
  }
}

/* ---- taps to packed planes and back ---- */

/* x (tile): taps, further ones zero. Parts 2 and 3 change places when the taps run backwards. */
INLINE void pack_taps(float *out, size_t stride, const vec *x, int reversed, const int tile) {
  const float scale = 1.0f / (float)tile, half = 0.5f / (float)tile;
  const size_t minus = reversed ? 2 * stride : stride, plus = 3 * stride - minus;
  vec h[LARGEST_TILE];
  hartley(h, x, tile);
  UNROLL
  for (int f = 1; f < tile / 2; f++, out = (float *)opaque(out + 3 * stride)) {
    store(out, scale * (h[tile - f] + h[f]));
    store(out + minus, half * h[tile - f]);
    store(out + plus, half * h[f]);
  }
  store(out, scale * h[0]);
  store(out + stride, scale * h[tile / 2]);
}

INLINE void pack(float *packed, size_t stride, size_t depth, const float *w, size_t kernel, size_t n_in, size_t n_out, size_t column,
                 size_t columns, size_t i, size_t n, const int tile) {
  vec x[LARGEST_TILE];
  for (int t = (int)kernel; t < tile; t++) x[t] = (vec){0};
  for (const size_t end = i + n; i < end; i++, packed += PANEL)
    for (size_t c = 0; c < columns; c += LANES) {
      const size_t o = column + c, here = n_out > o ? n_out - o : 0;
      for (size_t t = 0; t < kernel; t++) x[t] = load_part(w + (t * n_in + i) * n_out + o, here);
      pack_taps(packed + c / PANEL * depth * PANEL + c % PANEL, stride, x, 0, tile);
    }
}

/* Blocks of (LANES input, LANES output channels) change rows and columns on the way. */
INLINE void pack_transposed(float *packed, size_t stride, size_t depth, const float *w, size_t kernel, size_t n_in, size_t n_out,
                            size_t column, size_t columns, size_t i, size_t n, const int tile) {
  vec x[LARGEST_TILE];
  for (int t = (int)kernel; t < tile; t++) x[t] = (vec){0};
  for (const size_t end = i + n; i < end; i += LANES, packed += LANES * PANEL) {
    const size_t rows = end - i < LANES ? end - i : LANES;
    for (size_t c = 0; c < columns; c += LANES) {
      const size_t first = column + c, here = n_in > first ? (n_in - first < LANES ? n_in - first : LANES) : 0;
      float block[LANES][kernel][LANES]; /* [output][tap][input] */
      if (here < LANES) memset(block, 0, sizeof block);
      for (size_t t = 0; t < kernel; t++)
        for (size_t q = 0; q < here; q++) {
          const float *from = w + (t * n_in + first + q) * n_out + i;
          for (size_t row = 0; row < rows; row++) block[row][t][q] = from[row];
        }
      for (size_t row = 0; row < rows; row++) {
        for (size_t t = 0; t < kernel; t++) x[t] = load(block[row][t]);
        pack_taps(packed + c / PANEL * depth * PANEL + row * PANEL + c % PANEL, stride, x, 1, tile);
      }
    }
  }
}

INLINE void unpack(float *dw, const float *sums, size_t stride, size_t wide, size_t kernel, size_t n_in, size_t n_out, size_t width,
                   size_t i, size_t n, const int tile) {
  const float scale = 1.0f / (float)tile, half = 0.5f / (float)tile;
  for (const size_t end = i + n; i < end; i++, sums += wide)
    for (size_t c = 0; c < width; c += LANES) {
      vec h[LARGEST_TILE], y[LARGEST_TILE];
      const float *in = sums + c;
      UNROLL
      for (int f = 1; f < tile / 2; f++, in = opaque(in + 3 * stride)) {
        const vec first = scale * load(in);
        h[f] = first - half * load(in + 2 * stride);
        h[tile - f] = first - half * load(in + stride);
      }
      h[0] = scale * load(in);
      h[tile / 2] = scale * load(in + stride);
      hartley(y, h, tile);
      for (size_t t = 0; t < kernel; t++) store_part(dw + (t * n_in + i) * n_out + c, y[t], width - c);
    }
}

#define CODELET(T)                                                                                                                         \
  static void analyse_##T(float *planes, size_t stride, size_t padded, const float *rows, size_t row_stride, size_t count, size_t width) { \
    analyse(planes, stride, padded, rows, row_stride, count, width, T);                                                                    \
  }                                                                                                                                        \
  static void synthesise_##T(float *rows, size_t row_stride, size_t count, size_t overlap, const float *planes, size_t stride,             \
                             size_t width) {                                                                                               \
    synthesise(rows, row_stride, count, overlap, planes, stride, width, T);                                                                \
  }                                                                                                                                        \
  static void pack_##T(float *packed, size_t stride, size_t depth, const float *w, size_t kernel, size_t n_in, size_t n_out,               \
                       size_t column, size_t columns, size_t i, size_t n) {                                                                \
    pack(packed, stride, depth, w, kernel, n_in, n_out, column, columns, i, n, T);                                                         \
  }                                                                                                                                        \
  static void pack_transposed_##T(float *packed, size_t stride, size_t depth, const float *w, size_t kernel, size_t n_in, size_t n_out,    \
                                  size_t column, size_t columns, size_t i, size_t n) {                                                     \
    pack_transposed(packed, stride, depth, w, kernel, n_in, n_out, column, columns, i, n, T);                                              \
  }                                                                                                                                        \
  static void unpack_##T(float *dw, const float *sums, size_t stride, size_t wide, size_t kernel, size_t n_in, size_t n_out, size_t width, \
                         size_t i, size_t n) {                                                                                             \
    unpack(dw, sums, stride, wide, kernel, n_in, n_out, width, i, n, T);                                                                   \
  }
CODELET(16)
CODELET(32)
CODELET(64)
CODELET(84)

#define ENTRY(T) \
  { T, analyse_##T, synthesise_##T, pack_##T, pack_transposed_##T, unpack_##T }
static const struct cpu_codelet codelets[] = {ENTRY(16), ENTRY(32), ENTRY(64), ENTRY(84), {0, NULL, NULL, NULL, NULL, NULL}};

const struct cpu_kernels KERNELS = {KERNELS_NAME, PANEL, product, multiply, pack_rows, LANES, codelets, normalise, normalise_backward};
