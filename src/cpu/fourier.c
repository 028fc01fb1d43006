/* Convolution in the frequency domain with three real products for a pair of frequencies.
 *
 * A spectrum's gap-padded rows are cut into tiles of T rows that start `step` rows apart. A Hartley transform H(f) = sum_t x_t
 * cas(2 pi f t / T), cas = cos + sin, of each tile, products with that of the taps at each frequency, and the same transform
 * again give `step` outputs that no wrap-around reaches: step = T - k + 1. One tile may also hold a whole spectrum
 * (T >= length + (k - 1) / 2, step = length): what wraps around then meets only gap rows, which are zero.
 *
 * With x+ = H_x(f), x- = H_x(-f), the transforms of y_t = sum_k w_k x_{t+k} are
 *   y+ = [x+ (w+ + w-) - x- (w+ - w-)] / 2,    y- = [x- (w+ + w-) + x+ (w+ - w-)] / 2,
 * a complex product in disguise, which Gauss makes of three real ones. For f = 1 ... T/2 - 1 there are three planes of
 *   rows   X = (x-, x- + x+, x- - x+)    and of taps   W = (w- + w+, w- / 2, w+ / 2) / T,
 * and the three directions, each a product over channels or rows in every plane, are
 *   forward           p = (X1 W1,  X2 W2,  X3 W3);     y+ = p2 - p3,       y- = p1 - p2 - p3
 *   input gradient    p = (G1 W1', G2 W3', G3 W2');    dx+, dx- from p like y+, y-: the taps reversed
 *   weight gradient   q = (X1'G1,  X2'G3,  X3'G2);     dw+ = (q1 - q3/2)/T, dw- = (q1 - q2/2)/T
 * with G the planes of dy. f = 0 and T/2 are one product each: P = 3 (T/2 - 1) + 2 planes in all, the same in all directions.
 *
 * What limits the speed is the cache, so the work is cut to fit it.
 *
 * Several groups of spectra (block 2 of the published network: many rows, few taps). All taps are packed once. A group's rows
 * become planes; then each thread takes a few spectra and COLUMNS channels through all planes, and its products are rows again
 * before they leave its own cache.
 *
 * One group (block 3: few rows, many taps). The planes of the taps would be many times the cache, so they are made in slices of
 * (SLICE, COLUMNS) channels, used and forgotten; a thread takes one plane after another.
 *
 * Either way an element is one sum in one order: its bits depend neither on the threads nor on what else is in the batch. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu.h"

enum {
  PAD = 16,                /* floats: a cache line */
  ROWS_OF_TILES = 120,     /* rows of a group's planes, where a spectrum is many tiles */
  ROWS_OF_SPECTRA = 256,   /* and where it is one */
  FLOATS_OF_PART = 200000, /* products that a thread takes through all planes: they should stay in its second-level cache */
  COLUMNS = CPU_CHANNELS,  /* channels that are worked on together; a multiple of every panel */
  SLICE = 64,              /* channels of a slice of taps */
  PACKED_ROWS = 16         /* and of the piece of it that a thread makes */
};

struct cpu_fourier {
  size_t length, kernel, in, out; /* what it is for */
  const struct cpu_codelet *codelet;
  size_t step, tiles, planes;
  float *kept; /* all packed planes of taps that do not change, which these are, and their version */
  const float *kept_from;
  uint64_t kept_version;
  struct cpu_fourier *next;
};

/* ---- plans ---- */

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }
static size_t round_up(size_t x, size_t multiple) { return (x + multiple - 1) / multiple * multiple; }

static size_t planes_of(size_t tile) { return 3 * (tile / 2 - 1) + 2; }

/* The cheapest tile and its step, or a codelet of NULL where plain products are cheaper. Costs are in multiply-adds for a
 * spectrum; a value of a plane takes as long as 30 of them, and a batch of 64 shares the taps' planes. */
static void choose(const struct cpu_codelet **codelet, size_t *step, const struct cpu_kernels *kernels, size_t length,
                   size_t kernel, size_t in, size_t out, int always) {
  const double value = 30, batch = 64;
  const double wide_in = (double)round_up(in, kernels->panel), wide_out = (double)round_up(out, kernels->panel);
  double best = always > 0 ? HUGE_VAL : always < 0 ? 0 : (double)(length * kernel) * (double)(in * out);
  *codelet = NULL;
  for (const struct cpu_codelet *c = kernels->codelets; c->tile && kernel > 1; c++) {
    const int whole = c->tile >= length + kernel / 2;
    if (c->tile <= kernel) continue;
    const size_t s = whole ? length : c->tile - kernel + 1;
    const double tiles = ceil((double)length / (double)s), planes = (double)planes_of(c->tile);
    const double cost =
        planes * (tiles * (wide_in * wide_out + value * (wide_in + wide_out)) + value * wide_in * wide_out / batch);
    if (cost < best) best = cost, *codelet = c, *step = s;
  }
}

static void free_plan(struct spd_backend *backend, struct cpu_fourier *f) {
  if (f->kept) backend->ops->free(backend, f->kept);
  free(f);
}

void cpu_fourier_free(struct spd_backend *backend) {
  struct cpu_backend *cpu = (struct cpu_backend *)backend;
  while (cpu->plans) {
    struct cpu_fourier *next = cpu->plans->next;
    free_plan(backend, cpu->plans);
    cpu->plans = next;
  }
}

/* The plan for a convolution, made at its first use; NULL where plain products are cheaper. */
static spd_status plan(struct cpu_fourier **out, struct spd_backend *backend, const struct cpu_convolution *c,
                       struct spd_error *error) {
  struct cpu_backend *cpu = (struct cpu_backend *)backend;
  for (*out = cpu->plans; *out; *out = (*out)->next)
    if ((*out)->length == c->in->length && (*out)->kernel == c->kernel && (*out)->in == c->in->channels &&
        (*out)->out == c->out)
      return SPD_STATUS_OK;
  const struct cpu_codelet *codelet;
  size_t step = 0;
  choose(&codelet, &step, cpu->kernels, c->in->length, c->kernel, c->in->channels, c->out, cpu->always_fourier);
  if (!codelet) return SPD_STATUS_OK;
  struct cpu_fourier *f = calloc(1, sizeof *f);
  if (!f) return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate the plan of a convolution");
  f->length = c->in->length, f->kernel = c->kernel, f->in = c->in->channels, f->out = c->out;
  f->codelet = codelet;
  f->step = step;
  f->tiles = (f->length + step - 1) / step;
  f->planes = planes_of(codelet->tile);
  f->next = cpu->plans;
  *out = cpu->plans = f;
  return SPD_STATUS_OK;
}

/* ---- what one call works with ---- */

/* Planes of rows: element (p, row, channel) is at[p * stride + row * pitch + channel], of `wide` channels, a multiple of the
 * panel. */
struct planes {
  float *at;
  size_t stride, pitch, wide;
};

struct work {
  struct spd_backend *backend;
  const struct cpu_kernels *kernels;
  struct cpu_fourier *f;
  const struct cpu_convolution *c;
  size_t n, group, first, count; /* spectra in the batch, in a full group, before and in the present one */
  int only_group;                /* the whole batch */
  size_t part;                   /* spectra that a thread takes through all planes, where there are several groups */
  struct planes in, out;         /* x; dy */
  struct planes products;        /* of one thread's part, or of the only group: COLUMNS wide */
  float *scratch;                /* for each thread its part of products, and (length, COLUMNS) rows */
  size_t scratch_size;           /* floats, of one thread */
};

/* One of the products with taps: forward, or the input gradient. */
struct direction {
  int transposed;
  const struct planes *from;
  size_t depth, channels; /* summed over, resulting */
  void (*emit)(const struct work *w, const float *products, size_t spectrum, size_t channel, size_t width);
  const float *kept; /* all taps, packed */
  float *packed;     /* or room for them: packed_size() */
};

/* Strides of a power of two would make rows, or planes, collide in the cache. */
static void shape(struct planes *planes, size_t rows, size_t wide) {
  planes->wide = wide;
  planes->pitch = wide % 128 ? wide : wide + PAD;
  planes->stride = rows * planes->pitch + PAD;
}

static void start(struct work *w, struct spd_backend *backend, struct cpu_fourier *f, const struct cpu_convolution *c,
                  size_t n) {
  const struct cpu_kernels *kernels = ((struct cpu_backend *)backend)->kernels;
  memset(w, 0, sizeof *w);
  w->backend = backend, w->kernels = kernels, w->f = f, w->c = c, w->n = n;
  w->group = (f->tiles > 1 ? ROWS_OF_TILES : ROWS_OF_SPECTRA) / f->tiles;
  if (w->group < 1) w->group = 1;
  if (w->group > n) w->group = n;
  w->only_group = f->tiles == 1 && w->group == n;
  w->part = FLOATS_OF_PART / (f->planes * f->tiles * COLUMNS);
  if (w->part < 1) w->part = 1;
  if (w->part > w->group) w->part = w->group;
  shape(&w->in, w->group * f->tiles, round_up(f->in, kernels->panel));
  shape(&w->out, w->group * f->tiles, round_up(f->out, kernels->panel));
  shape(&w->products, (w->only_group ? w->group : w->part) * f->tiles, COLUMNS);
  w->scratch_size = (w->only_group ? 0 : f->planes * w->products.stride) + f->length * COLUMNS;
}

static size_t packed_stride(const struct work *w, size_t depth, size_t wide, int all) {
  return (w->only_group && !all ? SLICE * COLUMNS : depth * wide) + PAD;
}

/* Shared memory of `floats`, with the products of an only group and the threads' scratch behind. */
static spd_status arena(struct work *w, float **memory, size_t floats, struct spd_error *error) {
  const size_t threads = (size_t)((const struct cpu_backend *)w->backend)->threads;
  const size_t shared = w->only_group ? w->f->planes * w->products.stride : 0;
  SPD_TRY(cpu_arena(memory, w->backend, floats + shared + threads * w->scratch_size, error));
  w->products.at = *memory + floats;
  w->scratch = w->products.at + shared;
  return SPD_STATUS_OK;
}

static float *row_scratch(const struct work *w) { return w->scratch + (size_t)cpu_thread() * w->scratch_size; }
static float *product_scratch(const struct work *w) { return row_scratch(w) + w->f->length * COLUMNS; }

/* rows -> planes: `rows` is where the first tile of the batch's first spectrum begins, of which `readable` rows may be read, of
 * a tile `depth`; the others are zero. With `give` the rows come from it instead. */
static void analyse(const struct work *w, const struct planes *planes, const float *rows, size_t channels, size_t depth,
                    size_t readable, cpu_rows_give *give, void *context) {
  const struct cpu_fourier *f = w->f;
  const size_t blocks = (planes->wide + COLUMNS - 1) / COLUMNS, pieces = w->count * blocks;
  CPU_PARALLEL(w->backend, pieces)
  for (size_t piece = 0; piece < pieces; piece++) {
    const size_t i = piece / blocks, c = piece % blocks * COLUMNS, wide = smaller(planes->wide - c, COLUMNS);
    const size_t width = channels > c ? smaller(channels - c, COLUMNS) : 0;
    const float *from = rows + (w->first + i) * w->c->in->stride * channels + c;
    size_t row_stride = channels;
    if (give) {
      float *given = row_scratch(w);
      give(context, given, COLUMNS, w->first + i, c, width);
      from = given, row_stride = COLUMNS;
    }
    for (size_t t = 0; t < f->tiles; t++) {
      const size_t row = t * f->step;
      f->codelet->analyse(planes->at + (i * f->tiles + t) * planes->pitch + c, planes->stride, wide, from + row * row_stride,
                          row_stride, smaller(readable - row, depth), width);
    }
  }
}

/* Packed planes of `depth` channels from `first` on and `columns` from `column` on of the taps, or of their transposes. */
static void pack(const struct work *w, float *packed, size_t stride, int transposed, size_t first, size_t depth, size_t column,
                 size_t columns) {
  const struct cpu_fourier *f = w->f;
  const size_t pieces = (depth + PACKED_ROWS - 1) / PACKED_ROWS;
  CPU_PARALLEL(w->backend, pieces)
  for (size_t piece = 0; piece < pieces; piece++) {
    const size_t i = piece * PACKED_ROWS, n = smaller(depth - i, PACKED_ROWS);
    (transposed ? f->codelet->pack_transposed : f->codelet->pack)(packed + i * w->kernels->panel, stride, depth, w->c->w,
                                                                  f->kernel, f->in, f->out, column, columns, first + i, n);
  }
}

static void multiply_parts(const struct work *w, const struct direction *d, size_t packed_stride) {
  const struct cpu_fourier *f = w->f;
  const size_t panel = w->kernels->panel, parts = (w->count + w->part - 1) / w->part;
  const size_t pieces = parts * ((d->channels + COLUMNS - 1) / COLUMNS);
  const float *packed = d->kept ? d->kept : d->packed;
  CPU_PARALLEL(w->backend, pieces)
  for (size_t piece = 0; piece < pieces; piece++) {
    const size_t i = piece % parts * w->part, count = smaller(w->count - i, w->part);
    const size_t c = piece / parts * COLUMNS, width = smaller(d->channels - c, COLUMNS);
    float *products = product_scratch(w);
    for (size_t p = 0; p < f->planes; p++) {
      const struct cpu_ahead ahead[] = {
          {d->from->at + (p + 1) * d->from->stride + i * f->tiles * d->from->pitch, count * f->tiles * d->from->pitch},
          {NULL, 0}};
      w->kernels->product(products + p * w->products.stride, COLUMNS, 0, count * f->tiles, round_up(width, panel), d->depth,
                          d->from->at + p * d->from->stride + i * f->tiles * d->from->pitch, d->from->pitch, 1,
                          packed + p * packed_stride + c * d->depth, d->depth * panel, panel,
                          p + 1 < f->planes ? ahead : cpu_nothing_ahead);
    }
    for (size_t j = 0; j < count; j++) d->emit(w, products + j * f->tiles * COLUMNS, w->first + i + j, c, width);
  }
}

static void multiply_slices(const struct work *w, const struct direction *d, size_t packed_stride) {
  const struct cpu_fourier *f = w->f;
  const size_t panel = w->kernels->panel, rows = w->count * f->tiles;
  for (size_t column = 0; column < d->channels; column += COLUMNS) {
    const size_t width = smaller(d->channels - column, COLUMNS), wide = round_up(width, panel);
    for (size_t first = 0; first < d->depth; first += SLICE) {
      const size_t depth = d->kept ? d->depth : smaller(d->depth - first, SLICE);
      const float *packed = d->kept ? d->kept + column * depth : d->packed;
      if (!d->kept) pack(w, d->packed, packed_stride, d->transposed, first, depth, column, wide);
      CPU_PARALLEL(w->backend, f->planes)
      for (size_t p = 0; p < f->planes; p++)
        w->kernels->product(w->products.at + p * w->products.stride, COLUMNS, first > 0, rows, wide, depth,
                            d->from->at + p * d->from->stride + first, d->from->pitch, 1, packed + p * packed_stride,
                            depth * panel, panel, cpu_nothing_ahead);
      if (d->kept) break;
    }
    CPU_PARALLEL(w->backend, w->count)
    for (size_t i = 0; i < w->count; i++) d->emit(w, w->products.at + i * f->tiles * COLUMNS, i, column, width);
  }
}

/* The product with the taps of the present group, and what becomes of it. */
static void multiply(const struct work *w, const struct direction *d) {
  const size_t wide = round_up(d->channels, w->kernels->panel), stride = packed_stride(w, d->depth, wide, d->kept != NULL);
  if (w->only_group) {
    multiply_slices(w, d, stride);
  } else {
    if (w->first == 0 && !d->kept) pack(w, d->packed, stride, d->transposed, 0, d->depth, 0, wide);
    multiply_parts(w, d, stride);
  }
}

/* ---- forward ---- */

/* All packed planes of taps that do not change, kept from call to call. */
static spd_status keep(struct work *w, struct spd_error *error) {
  struct cpu_fourier *f = w->f;
  const size_t stride = packed_stride(w, f->in, w->out.wide, 1);
  if (f->kept && f->kept_from == w->c->w && f->kept_version == w->c->version) return SPD_STATUS_OK;
  if (!f->kept) {
    void *memory;
    SPD_TRY(w->backend->ops->alloc(w->backend, &memory, f->planes * stride * sizeof(float), error));
    f->kept = memory;
  }
  pack(w, f->kept, stride, 0, 0, f->in, 0, w->out.wide);
  f->kept_from = w->c->w, f->kept_version = w->c->version;
  return SPD_STATUS_OK;
}

static void emit_forward(const struct work *w, const float *products, size_t spectrum, size_t channel, size_t width) {
  const struct cpu_fourier *f = w->f;
  const struct cpu_convolution *c = w->c;
  float *rows = c->y ? c->y + (spectrum * c->in->stride + c->in->lead) * f->out + channel : row_scratch(w);
  const size_t row_stride = c->y ? f->out : COLUMNS;
  for (size_t t = 0; t < f->tiles; t++)
    f->codelet->synthesise(rows + t * f->step * row_stride, row_stride, smaller(f->length - t * f->step, f->step), 0,
                           products + t * COLUMNS, w->products.stride, width);
  if (c->take) c->take(c->context, rows, row_stride, spectrum, channel, width);
}

spd_status cpu_fourier_forward(int *done, struct spd_backend *backend, const struct cpu_convolution *c, size_t n,
                               struct spd_error *error) {
  struct cpu_fourier *f;
  SPD_TRY(plan(&f, backend, c, error));
  *done = f != NULL;
  if (!f) return SPD_STATUS_OK;
  struct work w;
  start(&w, backend, f, c, n);
  struct direction forward = {0, &w.in, f->in, f->out, emit_forward, NULL, NULL};
  const size_t packed = c->version ? 0 : f->planes * packed_stride(&w, f->in, w.out.wide, 0);
  SPD_TRY(arena(&w, &w.in.at, f->planes * w.in.stride + packed, error));
  forward.packed = w.in.at + f->planes * w.in.stride;
  if (c->version) {
    SPD_TRY(keep(&w, error));
    forward.kept = f->kept;
  }
  for (w.first = 0; w.first < n; w.first += w.group) {
    w.count = smaller(n - w.first, w.group);
    analyse(&w, &w.in, c->x, f->in, f->codelet->tile, c->in->stride + c->in->lead, NULL, NULL);
    multiply(&w, &forward);
  }
  return SPD_STATUS_OK;
}

/* ---- backward ---- */

static void emit_input_gradient(const struct work *w, const float *products, size_t spectrum, size_t channel, size_t width) {
  const struct cpu_fourier *f = w->f;
  const struct cpu_convolution *c = w->c;
  float *rows = c->dx + spectrum * c->in->stride * f->in + channel;
  for (size_t t = 0; t < f->tiles; t++) { /* tiles overlap and add up, in order */
    const size_t row = t * f->step;
    f->codelet->synthesise(rows + row * f->in, f->in, smaller(c->in->stride - row, f->codelet->tile),
                           t > 0 ? f->codelet->tile - f->step : 0, products + t * COLUMNS, w->products.stride, width);
  }
}

/* The plane of G that plane p of X meets in the weight gradient: parts 2 and 3 change places. */
static size_t partner(const struct cpu_fourier *f, size_t p) {
  if (p >= f->planes - 2 || p % 3 == 0) return p;
  return p % 3 == 1 ? p + 1 : p - 1;
}

/* dw of `n_in` input channels from `first` on and `n_out` output channels from `column` on; sums: (planes, n_in, wide) */
static void weight_gradient(const struct work *w, float *sums, size_t stride, size_t first, size_t n_in, size_t column,
                            size_t n_out) {
  const struct cpu_fourier *f = w->f;
  const size_t rows = w->count * f->tiles, panel = w->kernels->panel, wide = round_up(n_out, panel);
  CPU_PARALLEL_IN_RUNS(w->backend, f->planes)
  for (size_t p = 0; p < f->planes; p++) {
    float *const to = sums + p * stride, *const x = w->in.at + p * w->in.stride;
    const float *const g = w->out.at + partner(f, p) * w->out.stride;
    const struct cpu_ahead ahead[] = {{to + stride, w->first > 0 ? stride : 0},
                                      {x + w->in.stride, w->in.stride},
                                      {w->out.at + partner(f, p + 1) * w->out.stride, w->out.stride},
                                      {NULL, 0}};
    w->kernels->product(to, wide, w->first > 0, n_in, wide, rows, x + first, 1, w->in.pitch, g + column, panel, w->out.pitch,
                        p + 1 < f->planes && !w->only_group ? ahead + (w->first == 0) : cpu_nothing_ahead);
  }
  if (w->first + w->count < w->n) return;
  const size_t pieces = (n_in + PACKED_ROWS - 1) / PACKED_ROWS;
  CPU_PARALLEL(w->backend, pieces)
  for (size_t piece = 0; piece < pieces; piece++) {
    const size_t i = piece * PACKED_ROWS;
    f->codelet->unpack(w->c->dw + column, sums + i * wide, stride, wide, f->kernel, f->in, f->out, n_out, first + i,
                       smaller(n_in - i, PACKED_ROWS));
  }
}

spd_status cpu_fourier_backward(int *done, struct spd_backend *backend, const struct cpu_convolution *c, size_t n,
                                struct spd_error *error) {
  struct cpu_fourier *f;
  SPD_TRY(plan(&f, backend, c, error));
  *done = f != NULL;
  if (!f) return SPD_STATUS_OK;
  struct work w;
  start(&w, backend, f, c, n);
  struct direction backward = {1, &w.out, f->out, f->in, emit_input_gradient, NULL, NULL};
  const size_t packed = c->dx ? f->planes * packed_stride(&w, f->out, w.in.wide, 0) : 0;
  const size_t slice = w.only_group ? SLICE : f->in, columns = w.only_group ? COLUMNS : f->out;
  const size_t stride = slice * round_up(columns, w.kernels->panel) + PAD;
  SPD_TRY(arena(&w, &w.in.at, f->planes * (w.in.stride + w.out.stride + (c->dw ? stride : 0)) + packed, error));
  w.out.at = w.in.at + f->planes * w.in.stride;
  backward.packed = w.out.at + f->planes * w.out.stride;
  float *sums = backward.packed + packed;
  for (w.first = 0; w.first < n; w.first += w.group) {
    w.count = smaller(n - w.first, w.group);
    analyse(&w, &w.out, c->dy ? c->dy + c->in->lead * f->out : NULL, f->out, f->step, f->length, c->give, c->context);
    if (c->dw) {
      analyse(&w, &w.in, c->x, f->in, f->codelet->tile, c->in->stride + c->in->lead, NULL, NULL);
      for (size_t column = 0; column < f->out; column += columns)
        for (size_t first = 0; first < f->in; first += slice)
          weight_gradient(&w, sums, stride, first, smaller(f->in - first, slice), column, smaller(f->out - column, columns));
    }
    if (c->dx) multiply(&w, &backward);
  }
  return SPD_STATUS_OK;
}
