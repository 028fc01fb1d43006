/* Convolution in the frequency domain with three real products per frequency.
 *
 * A spectrum's gap-padded rows are cut into tiles of T rows that start `step` rows apart. A real DFT of each tile, a product
 * with the DFT of the weights at each frequency, and the inverse give `step` outputs that no wrap-around reaches: step = T - k
 * + 1. One tile may also hold a whole spectrum (T >= length + (k - 1)/2, step = length): what wraps around then meets only gap
 * rows, which are zero.
 *
 * Gauss' trick makes a complex product of three real ones. With r, i the real and imaginary parts of a tile's transform, s = r
 * + i, and A, B those of the weights' conjugate transform (scaled by 2/T, or 1/T at DC and Nyquist), for frequencies f = 1 ...
 * T/2 - 1: forward           P1 = s A,       P2 = r (B - A),  P3 = i (A + B);  y  = P1 (cos - sin) - P2 sin - P3 cos input
 * gradient    p1 = s A',      p2 = r (A + B)', p3 = i (B - A)'; dx = p1 (cos - sin) + p2 sin + p3 cos weight gradient   q1 =
 * s_x' s_g,  q2 = r_x' i_g,   q3 = i_x' r_g;   dw = a q1 + (b - a) q2 - (a + b) q3 summed over f, at angle 2 pi f t / T of row
 * or tap t, with a, b = 2/T (cos, sin). DC and Nyquist are one product each. So there are P = 3 (T/2 - 1) + 2 real planes of
 * (tiles, channels), the same ones for all three passes, and every step is a product with a constant matrix or between planes:
 * sgemm all the way. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu.h"

enum {
  PLANE_PAD = 16,         /* floats between planes: strides of a power of two would collide in the cache */
  ROWS_PER_GROUP = 320,   /* tiles that are worked on together: enough rows for a product, few enough for the cache */
  PAIRS_PER_PIECE = 2048, /* (in, out) pairs of a weight transform */
  LARGEST_TILE = 128
};

struct cpu_fourier {
  size_t length, kernel, in, out; /* what it is for */
  size_t tile, step, tiles, planes;
  float *analyse;    /* (P, T) rows to planes */
  float *synthesise; /* (step, P) planes of the output to rows */
  float *transpose;  /* (T, P) planes of the input gradient to rows */
  float *taps;       /* (P, k) weights to planes */
  float *untaps;     /* (k, P) planes of the weight gradient to weights */
  struct cpu_fourier *next;
};

/* ---- plans ---- */

static size_t planes_of(size_t tile) { return 3 * (tile / 2 - 1) + 2; }

/* Multiply-adds per spectrum; those of the transforms count twice, for they run in small products. The weights' transforms are
 * shared by a batch of 64. */
static double cost(size_t tile, size_t step, size_t length, size_t kernel, size_t in, size_t out) {
  const double planes = (double)planes_of(tile), tiles = ceil((double)length / (double)step), pairs = (double)(in * out);
  return tiles * planes * (2.0 * (double)(tile * in) + 2.0 * (double)(step * out) + pairs) +
         2.0 * planes * (double)kernel * pairs / 64.0;
}

/* The cheapest tile and its step, or a tile of 0 where k plain products are cheaper. */
static void choose_tile(size_t *tile, size_t *step, size_t length, size_t kernel, size_t in, size_t out, int always) {
  double best = always ? HUGE_VAL : 0.7 * (double)(length * kernel) * (double)(in * out);
  *tile = *step = 0;
  if (kernel < 2) return;
  for (size_t t = 8; t <= LARGEST_TILE; t += 2) {
    const int whole = t == (length + kernel / 2 + 1) / 2 * 2;
    if (!whole && t < kernel + 1) continue;
    const size_t s = whole ? length : t - kernel + 1;
    const double c = cost(t, s, length, kernel, in, out);
    if (c < best) best = c, *tile = t, *step = s;
  }
}

static void fill_matrices(struct cpu_fourier *f) {
  const size_t T = f->tile, P = f->planes, half = T / 2;
  const double pi = 3.14159265358979323846;
  for (size_t p = 0; p < P; p++) {
    const size_t frequency = p < P - 2 ? p / 3 + 1 : (p == P - 2 ? 0 : half), part = p < P - 2 ? p % 3 : 0;
    const double scale = (p < P - 2 ? 2.0 : 1.0) / (double)T;
    for (size_t t = 0; t < (T > f->kernel ? T : f->kernel); t++) { /* a short spectrum's tile may be shorter than the kernel */
      const double angle = 2 * pi * (double)(frequency * t % T) / (double)T;
      /* at DC and Nyquist the sine is nothing, and all three parts below agree with cos */
      const double c = cos(angle), s = p < P - 2 ? sin(angle) : 0.0;
      const double analyse[3] = {c - s, c, -s}, synthesise[3] = {c - s, -s, -c}, transpose[3] = {c - s, s, c};
      const double taps[3] = {c, s - c, c + s}, untaps[3] = {c, s - c, -(c + s)};
      if (t < T) {
        f->analyse[p * T + t] = (float)analyse[part];
        f->transpose[t * P + p] = (float)transpose[part];
      }
      if (t < f->step) f->synthesise[t * P + p] = (float)synthesise[part];
      if (t < f->kernel) {
        f->taps[p * f->kernel + t] = (float)(scale * taps[part]);
        f->untaps[t * P + p] = (float)(scale * untaps[part]);
      }
    }
  }
}

static void free_plan(struct cpu_fourier *f) {
  free(f->analyse);
  free(f->synthesise);
  free(f->transpose);
  free(f->taps);
  free(f->untaps);
  free(f);
}

void cpu_fourier_free(struct cpu_backend *cpu) {
  while (cpu->plans) {
    struct cpu_fourier *next = cpu->plans->next;
    free_plan(cpu->plans);
    cpu->plans = next;
  }
  free(cpu->arena);
}

/* The plan for a convolution, made at its first use; NULL where plain products are cheaper. */
static spd_status plan(struct cpu_fourier **out, struct spd_backend *backend, size_t length, size_t kernel, size_t in,
                       size_t out_channels, struct spd_error *error) {
  struct cpu_backend *cpu = (struct cpu_backend *)backend;
  for (*out = cpu->plans; *out; *out = (*out)->next)
    if ((*out)->length == length && (*out)->kernel == kernel && (*out)->in == in && (*out)->out == out_channels)
      return SPD_STATUS_OK;
  size_t tile, step;
  choose_tile(&tile, &step, length, kernel, in, out_channels, cpu->always_fourier);
  if (tile == 0) return SPD_STATUS_OK;
  struct cpu_fourier *f = calloc(1, sizeof *f);
  if (!f) return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate the plan of a convolution");
  f->length = length, f->kernel = kernel, f->in = in, f->out = out_channels;
  f->tile = tile, f->step = step;
  f->tiles = (length + step - 1) / step;
  f->planes = planes_of(tile);
  f->analyse = malloc(f->planes * tile * sizeof(float));
  f->synthesise = malloc(step * f->planes * sizeof(float));
  f->transpose = malloc(tile * f->planes * sizeof(float));
  f->taps = malloc(f->planes * kernel * sizeof(float));
  f->untaps = malloc(kernel * f->planes * sizeof(float));
  if (!f->analyse || !f->synthesise || !f->transpose || !f->taps || !f->untaps) {
    free_plan(f);
    return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate the plan of a convolution");
  }
  fill_matrices(f);
  f->next = cpu->plans;
  *out = cpu->plans = f;
  return SPD_STATUS_OK;
}

/* ---- memory: one arena, grown to what the largest convolution needs ---- */

static spd_status arena(float **memory, struct spd_backend *backend, size_t floats, struct spd_error *error) {
  struct cpu_backend *cpu = (struct cpu_backend *)backend;
  if (cpu->arena_size < floats) {
    void *larger = NULL;
    free(cpu->arena);
    cpu->arena = NULL, cpu->arena_size = 0;
    SPD_TRY(backend->ops->alloc(backend, &larger, floats * sizeof(float), error));
    cpu->arena = larger, cpu->arena_size = floats;
  }
  *memory = cpu->arena;
  return SPD_STATUS_OK;
}

/* Spectra that are worked on together, and the sizes of a plane of rows and of a plane of weights. */
struct layout {
  size_t group, rows, in_plane, out_plane, pair_plane;
};

static struct layout layout_of(const struct cpu_fourier *f, size_t n) {
  struct layout l;
  l.group = (ROWS_PER_GROUP + f->tiles - 1) / f->tiles;
  if (l.group > n) l.group = n;
  l.rows = l.group * f->tiles;
  l.in_plane = l.rows * f->in + PLANE_PAD;
  l.out_plane = l.rows * f->out + PLANE_PAD;
  l.pair_plane = f->in * f->out + PLANE_PAD;
  return l;
}

/* ---- steps; each is a parallel loop over pieces ---- */

/* weights (k, in * out) -> planes (P, in * out) */
static void transform_weights(const struct spd_backend *backend, float *planes, const float *w, const struct cpu_fourier *f,
                              size_t stride) {
  const size_t pairs = f->in * f->out, pieces = (pairs + PAIRS_PER_PIECE - 1) / PAIRS_PER_PIECE;
  CPU_PARALLEL(backend, pieces)
  for (size_t piece = 0; piece < pieces; piece++) {
    const size_t from = piece * PAIRS_PER_PIECE, width = pairs - from < PAIRS_PER_PIECE ? pairs - from : PAIRS_PER_PIECE;
    cpu_gemm(0, 0, f->planes, width, f->kernel, f->taps, f->kernel, w + from, pairs, 0, planes + from, stride);
  }
}

/* rows of the spectra first ... first + count - 1 -> planes (P, count * tiles, channels). Of a tile `depth` rows are read, of a
 * spectrum `readable` ones; the others are taken as zero. */
static void transform_rows(const struct spd_backend *backend, float *planes, const float *rows, const struct cpu_fourier *f,
                           size_t channels, size_t spectrum_rows, size_t depth, size_t readable, size_t first, size_t count,
                           size_t stride) {
  const size_t pieces = count * f->tiles;
  CPU_PARALLEL(backend, pieces)
  for (size_t piece = 0; piece < pieces; piece++) {
    const size_t start = piece % f->tiles * f->step, d = readable - start < depth ? readable - start : depth;
    cpu_gemm(0, 0, f->planes, channels, d, f->analyse, f->tile,
             rows + ((first + piece / f->tiles) * spectrum_rows + start) * channels, channels, 0, planes + piece * channels,
             stride);
  }
}

/* The plane that a product pairs with plane p: parts 1 and 2 change places */
static size_t partner(const struct cpu_fourier *f, size_t p) {
  if (p >= f->planes - 2 || p % 3 == 0) return p;
  return p % 3 == 1 ? p + 1 : p - 1;
}

spd_status cpu_fourier_forward(int *done, struct spd_backend *backend, float *y, const float *x, const float *w,
                               const struct spd_rows *in, size_t kernel, size_t channels_out, size_t n,
                               struct spd_error *error) {
  struct cpu_fourier *f;
  float *weights;
  SPD_TRY(plan(&f, backend, in->length, kernel, in->channels, channels_out, error));
  *done = f != NULL;
  if (!f) return SPD_STATUS_OK;
  const struct layout l = layout_of(f, n);
  SPD_TRY(arena(&weights, backend, f->planes * (l.pair_plane + l.in_plane + l.out_plane), error));
  float *xs = weights + f->planes * l.pair_plane, *ys = xs + f->planes * l.in_plane;
  transform_weights(backend, weights, w, f, l.pair_plane);
  for (size_t first = 0; first < n; first += l.group) {
    const size_t count = n - first < l.group ? n - first : l.group, rows = count * f->tiles;
    transform_rows(backend, xs, x, f, f->in, in->stride, f->tile, in->stride + in->lead, first, count, l.in_plane);
    CPU_PARALLEL(backend, f->planes)
    for (size_t p = 0; p < f->planes; p++)
      cpu_gemm(0, 0, rows, f->out, f->in, xs + p * l.in_plane, f->in, weights + p * l.pair_plane, f->out, 0,
               ys + p * l.out_plane, f->out);
    CPU_PARALLEL(backend, rows)
    for (size_t piece = 0; piece < rows; piece++) {
      const size_t t = piece % f->tiles * f->step, last = f->length - t < f->step ? f->length - t : f->step;
      cpu_gemm(0, 0, last, f->out, f->planes, f->synthesise, f->planes, ys + piece * f->out, l.out_plane, 0,
               y + ((first + piece / f->tiles) * in->stride + in->lead + t) * f->out, f->out);
    }
  }
  return SPD_STATUS_OK;
}

spd_status cpu_fourier_backward(int *done, struct spd_backend *backend, float *dx, float *dw, const float *dy, const float *x,
                                const float *w, const struct spd_rows *in, size_t kernel, size_t channels_out, size_t n,
                                struct spd_error *error) {
  struct cpu_fourier *f;
  float *weights;
  SPD_TRY(plan(&f, backend, in->length, kernel, in->channels, channels_out, error));
  *done = f != NULL;
  if (!f) return SPD_STATUS_OK;
  const struct layout l = layout_of(f, n);
  SPD_TRY(arena(&weights, backend, f->planes * (2 * l.pair_plane + l.in_plane + l.out_plane), error));
  float *products = weights + f->planes * l.pair_plane, *xs = products + f->planes * l.pair_plane,
        *gs = xs + f->planes * l.in_plane;
  const size_t pairs = f->in * f->out;
  if (dx) transform_weights(backend, weights, w, f, l.pair_plane);
  for (size_t first = 0; first < n; first += l.group) {
    const size_t count = n - first < l.group ? n - first : l.group, rows = count * f->tiles;
    transform_rows(backend, gs, dy + in->lead * f->out, f, f->out, in->stride, f->step, f->length, first, count, l.out_plane);
    if (dw) {
      transform_rows(backend, xs, x, f, f->in, in->stride, f->tile, in->stride + in->lead, first, count, l.in_plane);
      CPU_PARALLEL(backend, f->planes)
      for (size_t p = 0; p < f->planes; p++)
        cpu_gemm(1, 0, f->in, f->out, rows, xs + p * l.in_plane, f->in, gs + partner(f, p) * l.out_plane, f->out, first > 0,
                 products + p * l.pair_plane, f->out);
    }
    if (dx) { /* the planes of x have done their work; those of dx take their place */
      CPU_PARALLEL(backend, f->planes)
      for (size_t p = 0; p < f->planes; p++)
        cpu_gemm(0, 1, rows, f->in, f->out, gs + p * l.out_plane, f->out, weights + partner(f, p) * l.pair_plane, f->out, 0,
                 xs + p * l.in_plane, f->in);
      CPU_PARALLEL(backend, count)
      for (size_t i = 0; i < count; i++) {
        float *out = dx + (first + i) * in->stride * f->in;
        memset(out, 0, in->stride * f->in * sizeof *out);
        for (size_t t = 0; t < f->tiles; t++) { /* tiles overlap and add up, in order */
          const size_t start = t * f->step, rows_out = in->stride - start < f->tile ? in->stride - start : f->tile;
          cpu_gemm(0, 0, rows_out, f->in, f->planes, f->transpose, f->planes, xs + (i * f->tiles + t) * f->in, l.in_plane, 1,
                   out + start * f->in, f->in);
        }
      }
    }
  }
  if (!dw) return SPD_STATUS_OK;
  const size_t pieces = (pairs + PAIRS_PER_PIECE - 1) / PAIRS_PER_PIECE;
  CPU_PARALLEL(backend, pieces)
  for (size_t piece = 0; piece < pieces; piece++) {
    const size_t from = piece * PAIRS_PER_PIECE, width = pairs - from < PAIRS_PER_PIECE ? pairs - from : PAIRS_PER_PIECE;
    cpu_gemm(0, 0, f->kernel, width, f->planes, f->untaps, f->planes, products + from, l.pair_plane, 0, dw + from, pairs);
  }
  return SPD_STATUS_OK;
}
