/* Convolution in the frequency domain with three real products for a pair of frequencies.
 *
 * A spectrum's gap-padded rows are cut into tiles of T rows that start `step` rows apart. A Hartley transform H(f) = sum_t x_t
 * cas(2 pi f t / T), cas = cos + sin, of each tile, products with that of the taps at each frequency, and the same transform
 * again give `step` outputs without wrap-around: step = T - k + 1. One tile may also hold a whole spectrum
 * (T >= length + (k - 1) / 2, step = length): then only gap rows wrap around, which are zero.
 *
 * With x+ = H_x(f), x- = H_x(-f), the transforms of y_t = sum_k w_k x_{t+k} are
 *   y+ = [x+ (w+ + w-) - x- (w+ - w-)] / 2,    y- = [x- (w+ + w-) + x+ (w+ - w-)] / 2,
 * which is a complex product, computed as three real ones (Gauss). For f = 1 ... T/2 - 1 there are three planes of
 *   rows   X = (x-, x- + x+, x- - x+)    and of taps   W = (w- + w+, w- / 2, w+ / 2) / T,
 * and the three directions, each a product over channels or rows in every plane, are
 *   forward           p = (X1 W1,  X2 W2,  X3 W3);     y+ = p2 - p3,       y- = p1 - p2 - p3
 *   input gradient    p = (G1 W1', G2 W3', G3 W2');    dx+, dx- from p like y+, y-: the taps reversed
 *   weight gradient   q = (X1'G1,  X2'G3,  X3'G2);     dw+ = (q1 - q3/2)/T, dw- = (q1 - q2/2)/T
 * with G the planes of dy. f = 0 and T/2 are one product each: P = 3 (T/2 - 1) + 2 planes in all, the same in all directions.
 *
 * Memory limits the speed, so a piece of work fits the caches of one core, and cores, which need not share a cache, exchange little
 * data.
 *
 * Many tiles a spectrum (block 2 of the published network: many rows, few taps): all taps are packed once; then a piece is a
 * few spectra, which one thread takes from rows to planes, through the products, and back to rows.
 *
 * One tile a spectrum (block 3: few rows, many taps): the batch's rows become planes; then a piece is COLUMNS channels, for
 * which one thread packs the taps in slices, uses and discards them.
 *
 * Only the weight gradient of the first kind sums over spectra of different threads: there a thread computes some of the planes. An element
 * is always one sum in one order: its bits depend neither on the threads nor on the rest of the batch. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu.h"

enum {
  PAD = 16,                  /* floats: a cache line */
  SPECTRA = 2,               /* of a piece, where a spectrum is many tiles */
  FLOATS_OF_PART = 200000,   /* products of one block of columns; they should stay in the second-level cache */
  FLOATS_OF_GROUP = 1500000, /* planes of a group of spectra; they should stay in the last-level cache */
  COLUMNS = CPU_CHANNELS,    /* channels that are worked on together; a multiple of every panel */
  ROWS = 128,                /* at most, of a piece where a spectrum is one tile */
  SLICE = 64,                /* channels of a slice of taps */
  PACKED = 16,               /* channels whose taps are packed by one piece */
  PLANES = 8                 /* planes of a piece of the weight gradient: neighbours, as each fetches what the next one needs */
};

struct cpu_fourier {
  size_t length, kernel, in, out; /* of the convolution */
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

/* Chooses the cheapest tile and its step, or a codelet of NULL if plain products are cheaper. Costs are in multiply-adds for a spectrum.
 * Measured on Zen 4 with one thread (bench/run.py, stages of the published network): the transforms of one value of a plane take the time
 * of about 30 multiply-adds of a product; a batch of 64 shares the transforms of the taps; if a spectrum has many tiles, reading the taps
 * again for each piece takes the time of about 2 more. */
static void choose(const struct cpu_codelet **codelet, size_t *step, const struct cpu_kernels *kernels, size_t length, size_t kernel,
                   size_t in, size_t out, int always) {
  const double value = 30, batch = 64;
  const double wide_in = (double)round_up(in, kernels->lanes), wide_out = (double)round_up(out, kernels->lanes);
  double best = always > 0 ? HUGE_VAL : always < 0 ? 0 : (double)(length * kernel) * (double)(in * out);
  *codelet = NULL;
  for (const struct cpu_codelet *c = kernels->codelets; c->tile && kernel > 1; c++) {
    const int whole = c->tile >= length + kernel / 2;
    if (c->tile <= kernel) continue;
    const size_t s = whole ? length : c->tile - kernel + 1;
    const double tiles = ceil((double)length / (double)s), planes = (double)planes_of(c->tile);
    const double taps = wide_in * wide_out * (value / batch + (tiles > 1 ? 2 : 0));
    const double cost = planes * (tiles * (wide_in * wide_out + value * (wide_in + wide_out)) + taps);
    if (cost < best) best = cost, *codelet = c, *step = s;
  }
}

static void free_plan(struct spd_backend *backend, struct cpu_fourier *f) {
  if (f->kept) backend->ops->free(backend, f->kept);
  free(f);
}

void cpu_fourier_free(struct spd_backend *backend) {
  struct cpu_backend *cpu = cpu_of(backend);
  while (cpu->plans) {
    struct cpu_fourier *next = cpu->plans->next;
    free_plan(backend, cpu->plans);
    cpu->plans = next;
  }
}

/* The plan for a convolution, made at its first use; NULL where plain products are cheaper. */
static spd_status plan(struct cpu_fourier **out, struct spd_backend *backend, const struct cpu_convolution *c, struct spd_error *error) {
  struct cpu_backend *cpu = cpu_of(backend);
  for (*out = cpu->plans; *out; *out = (*out)->next)
    if ((*out)->length == c->in->length && (*out)->kernel == c->kernel && (*out)->in == c->in->channels && (*out)->out == c->out)
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

/* ---- workspace of one call ---- */

/* Planes of rows: element (p, row, channel) is at[p * stride + row * pitch + channel], of `wide` channels, a multiple of
 * a vector. */
struct planes {
  float *at;
  size_t stride, pitch, wide;
};

struct work {
  struct spd_backend *backend;
  const struct cpu_kernels *kernels;
  struct cpu_fourier *f;
  const struct cpu_convolution *c;
  size_t n, threads;
  struct planes in, out;  /* of rows: x; dy */
  struct planes products; /* of a piece, COLUMNS wide */
  struct planes packed;   /* sums for dw: all of them where a spectrum is many tiles, else (SLICE, COLUMNS), as a slice of taps */
  float *scratch;         /* of each thread; in own_work(), of the calling thread */
  size_t scratch_size;    /* floats, of one thread */
};

/* One of the products with taps: forward, or the input gradient. */
struct direction {
  int transposed;
  size_t depth, channels; /* summed over, resulting */
  void (*emit)(const struct work *w, const float *products, size_t spectrum, size_t channel, size_t width);
  const float *packed; /* all taps; NULL where they are made in slices */
  size_t packed_stride;
};

/* Strides of a power of two would make rows, or planes, collide in the cache. */
static struct planes shape(size_t rows, size_t wide) {
  struct planes planes = {NULL, 0, wide % 128 ? wide : wide + PAD, wide};
  planes.stride = rows * planes.pitch + PAD;
  return planes;
}

static size_t wide(const struct work *w, size_t channels) { return round_up(channels, w->kernels->lanes); }
static size_t packed_stride(const struct work *w, const struct direction *d) {
  return d->depth * round_up(d->channels, w->kernels->panel) + PAD;
}
static size_t blocks_of(size_t channels) { return (channels + COLUMNS - 1) / COLUMNS; }

static struct work start(struct spd_backend *backend, struct cpu_fourier *f, const struct cpu_convolution *c, size_t n) {
  const struct cpu_backend *cpu = cpu_of(backend);
  struct work w = {.backend = backend, .kernels = cpu->kernels, .f = f, .c = c, .n = n, .threads = (size_t)cpu->threads};
  return w;
}

/* Memory of one thread: a block of rows, a piece of products, then room for planes or packed taps */
static struct work own_work(const struct work *shared, int thread) {
  struct work w = *shared;
  w.scratch += (size_t)thread * w.scratch_size;
  return w;
}
static float *own_rows(const struct work *w) { return w->scratch; }
static float *own_products(const struct work *w) { return own_rows(w) + w->f->length * COLUMNS; }
static float *own_rest(const struct work *w) { return own_products(w) + w->f->planes * w->products.stride; }

/* `shared` floats, and for each thread its own memory with `rest` floats in the end. */
static spd_status arena(struct work *w, float **shared, size_t size, size_t rest, struct spd_error *error) {
  w->scratch_size = round_up(w->f->length * COLUMNS + w->f->planes * w->products.stride + rest, PAD);
  SPD_TRY(cpu_arena(shared, w->backend, size + w->threads * w->scratch_size, error));
  w->scratch = *shared + size;
  return SPD_STATUS_OK;
}

/* The rows of x or dy that a tile takes, and how many of them; the rest of the tile is zero. */
struct rows {
  const float *at; /* where the first tile of the batch's first spectrum begins; NULL: c->give makes them */
  size_t channels, depth, readable;
};

static struct rows rows_of_x(const struct work *w) {
  const struct rows rows = {w->c->x, w->f->in, w->f->codelet->tile, w->c->in->stride + w->c->in->lead};
  return rows;
}

static struct rows rows_of_dy(const struct work *w) {
  const struct rows rows = {w->c->give ? NULL : w->c->dy + w->c->in->lead * w->f->out, w->f->out, w->f->step, w->f->length};
  return rows;
}

/* A block of COLUMNS channels from c on of one spectrum becomes planes; `row` is its first row there. */
static void analyse(const struct work *w, const struct planes *planes, size_t row, const struct rows *rows, size_t spectrum, size_t c) {
  const struct cpu_fourier *f = w->f;
  const size_t width = smaller(rows->channels - c, COLUMNS);
  const float *from = rows->at + (rows->at ? spectrum * w->c->in->stride * rows->channels + c : 0);
  size_t row_stride = rows->channels;
  if (!rows->at) {
    float *given = own_rows(w);
    w->c->give(w->c->context, given, COLUMNS, spectrum, c, width);
    from = given, row_stride = COLUMNS;
  }
  for (size_t t = 0; t < f->tiles; t++) {
    const size_t start = t * f->step;
    f->codelet->analyse(planes->at + (row + t) * planes->pitch + c, planes->stride, smaller(planes->wide - c, COLUMNS),
                        from + start * row_stride, row_stride, smaller(rows->readable - start, rows->depth), width);
  }
}

/* Packed planes, `depth` channels deep, of which this is `n` channels from `first` on and `columns` from `column` on of the
 * taps, or of their transposes. */
static void pack(const struct work *w, float *packed, size_t stride, size_t depth, int transposed, size_t first, size_t n, size_t column,
                 size_t columns) {
  const struct cpu_fourier *f = w->f;
  (transposed ? f->codelet->pack_transposed : f->codelet->pack)(packed, stride, depth, w->c->w, f->kernel, f->in, f->out, column, columns,
                                                                first, n);
}

/* The context of a loop over pieces */
struct loop {
  const struct work *w;
  const struct direction *d;
  const struct planes *planes;
  const struct rows *rows;
  float *packed;
  size_t first, count, run; /* spectra; columns or planes of a piece */
  int add;
};

static void pack_piece(const void *context, size_t piece, int thread) {
  (void)thread;
  const struct loop *loop = context;
  const struct work *w = loop->w;
  const struct direction *d = loop->d;
  const size_t blocks = blocks_of(d->channels), first = piece / blocks * PACKED, column = piece % blocks * COLUMNS;
  pack(w, loop->packed + column * d->depth + first * w->kernels->panel, d->packed_stride, d->depth, d->transposed, first,
       smaller(d->depth - first, PACKED), column, smaller(wide(w, d->channels) - column, COLUMNS));
}

static void pack_all(const struct work *w, const struct direction *d, float *packed) {
  const struct loop loop = {.w = w, .d = d, .packed = packed};
  cpu_parallel(w->backend, blocks_of(d->channels) * ((d->depth + PACKED - 1) / PACKED), pack_piece, &loop);
}

/* ---- many tiles a spectrum ---- */

/* Spectra of which the products of a block of columns are held together. */
static size_t part_of(const struct work *w) {
  const size_t part = FLOATS_OF_PART / (w->f->planes * w->f->tiles * COLUMNS);
  return part < 1 ? 1 : smaller(part, SPECTRA);
}

/* Blocks of columns from `block` on, up to `end`, of `count` spectra whose planes begin at `row`. */
static void multiply(const struct work *w, const struct direction *d, const struct planes *planes, size_t row, size_t spectrum,
                     size_t count, size_t block, size_t end) {
  const struct cpu_fourier *f = w->f;
  const size_t panel = w->kernels->panel, part = part_of(w);
  float *products = own_products(w);
  for (; block < end; block++) {
    const size_t c = block * COLUMNS, width = smaller(d->channels - c, COLUMNS);
    for (size_t i = 0; i < count; i += part) {
      const size_t here = smaller(count - i, part);
      for (size_t p = 0; p < f->planes; p++)
        w->kernels->product(products + p * w->products.stride, COLUMNS, 0, here * f->tiles, wide(w, width), d->depth,
                            planes->at + p * planes->stride + (row + i * f->tiles) * planes->pitch, planes->pitch, 1,
                            d->packed + p * d->packed_stride + c * d->depth, d->depth * panel, panel, cpu_nothing_ahead);
      for (size_t j = 0; j < here; j++) d->emit(w, products + j * f->tiles * COLUMNS, spectrum + i + j, c, width);
    }
  }
}

static void forward_piece(const void *context, size_t piece, int thread) {
  const struct loop *loop = context;
  const struct work w = own_work(loop->w, thread);
  const size_t blocks = blocks_of(loop->d->channels), runs = (blocks + loop->run - 1) / loop->run;
  const size_t first = piece / runs * SPECTRA, count = smaller(w.n - first, SPECTRA), block = piece % runs * loop->run;
  struct planes planes = w.in;
  planes.at = own_rest(&w);
  for (size_t i = 0; i < count; i++)
    for (size_t c = 0; c < planes.wide; c += COLUMNS) analyse(&w, &planes, i * w.f->tiles, loop->rows, first + i, c);
  multiply(&w, loop->d, &planes, 0, first, count, block, smaller(block + loop->run, blocks));
}

/* Few spectra are shared out by columns as well, and every thread makes their planes for itself. */
static void forward_of_tiles(const struct work *w, const struct direction *d) {
  const struct rows x = rows_of_x(w);
  const size_t chunks = (w->n + SPECTRA - 1) / SPECTRA, blocks = blocks_of(d->channels);
  const size_t run = chunks >= w->threads ? blocks : (blocks * chunks + w->threads - 1) / w->threads;
  const struct loop loop = {.w = w, .d = d, .rows = &x, .run = run};
  cpu_parallel(w->backend, chunks * ((blocks + run - 1) / run), forward_piece, &loop);
}

/* The plane of G that plane p of X meets in the weight gradient: parts 2 and 3 change places. */
static size_t partner(const struct cpu_fourier *f, size_t p) {
  if (p >= f->planes - 2 || p % 3 == 0) return p;
  return p % 3 == 1 ? p + 1 : p - 1;
}

/* sums (planes, in, out) = or += those of the rows of `count` spectra */
static void weights_piece(const void *context, size_t piece, int thread) {
  (void)thread;
  const struct loop *loop = context;
  const struct work *w = loop->w;
  const struct cpu_fourier *f = w->f;
  const struct planes *x = &w->in, *g = &w->out, *sums = &w->packed;
  const size_t rows = loop->count * f->tiles;
  const int add = loop->add;
  for (size_t p = piece * PLANES; p < smaller((piece + 1) * PLANES, f->planes); p++) {
    const struct cpu_ahead ahead[] = {{x->at + (p + 1) * x->stride, rows * x->pitch, 1, 0},
                                      {g->at + partner(f, p + 1) * g->stride, rows * g->pitch, 1, 0},
                                      {sums->at + (p + 1) * sums->stride, add ? sums->stride : 0, 1, 0},
                                      {NULL, 0, 0, 0}};
    w->kernels->product(sums->at + p * sums->stride, g->wide, add, f->in, g->wide, rows, x->at + p * x->stride, 1, x->pitch,
                        g->at + partner(f, p) * g->stride, w->kernels->panel, g->pitch, p + 1 < f->planes ? ahead : cpu_nothing_ahead);
  }
}

/* Rows of dy and x to planes, and those of dy on to dx */
static void backward_piece(const void *context, size_t piece, int thread) {
  const struct loop *loop = context;
  const struct work w = own_work(loop->w, thread);
  const struct cpu_fourier *f = w.f;
  const struct rows x = rows_of_x(&w), dy = rows_of_dy(&w);
  const size_t from = piece * SPECTRA, here = smaller(loop->count - from, SPECTRA), first = loop->first;
  for (size_t i = from; i < from + here; i++) {
    for (size_t c = 0; c < w.out.wide; c += COLUMNS) analyse(&w, &w.out, i * f->tiles, &dy, first + i, c);
    for (size_t c = 0; w.c->dw && c < w.in.wide; c += COLUMNS) analyse(&w, &w.in, i * f->tiles, &x, first + i, c);
  }
  if (w.c->dx) multiply(&w, loop->d, &w.out, from * f->tiles, first + from, here, 0, blocks_of(f->in));
}

/* The taps' gradient of one input channel, from the sums */
static void unpack_channel(const void *context, size_t i, int thread) {
  (void)thread;
  const struct work *w = ((const struct loop *)context)->w;
  const struct cpu_fourier *f = w->f;
  f->codelet->unpack(w->c->dw, w->packed.at + i * w->out.wide, w->packed.stride, w->out.wide, f->kernel, f->in, f->out, f->out, i, 1);
}

/* Groups of a piece for every thread: rows to planes and on to dx, then the weight gradient over all. */
static void backward_of_tiles(const struct work *w, const struct direction *d, size_t group) {
  struct loop loop = {.w = w, .d = d};
  for (; loop.first < w->n; loop.first += group) {
    loop.count = smaller(w->n - loop.first, group), loop.add = loop.first > 0;
    cpu_parallel(w->backend, (loop.count + SPECTRA - 1) / SPECTRA, backward_piece, &loop);
    if (w->c->dw) cpu_parallel(w->backend, (w->f->planes + PLANES - 1) / PLANES, weights_piece, &loop);
  }
  if (w->c->dw) cpu_parallel(w->backend, w->f->in, unpack_channel, &loop);
}

/* ---- one tile a spectrum ---- */

static void analyse_piece(const void *context, size_t piece, int thread) {
  const struct loop *loop = context;
  const struct work w = own_work(loop->w, thread);
  const size_t blocks = blocks_of(loop->planes->wide);
  analyse(&w, loop->planes, piece / blocks, loop->rows, piece / blocks, piece % blocks * COLUMNS);
}

static void analyse_batch(const struct work *w, const struct planes *planes, const struct rows *rows) {
  const struct loop loop = {.w = w, .planes = planes, .rows = rows};
  cpu_parallel(w->backend, w->n * blocks_of(planes->wide), analyse_piece, &loop);
}

/* Spectra of a piece: fewer where there are more threads than blocks of columns. */
static size_t rows_of_piece(const struct work *w, size_t channels) {
  const size_t splits = (w->threads + blocks_of(channels) - 1) / blocks_of(channels), rows = (w->n + splits - 1) / splits;
  return smaller(rows, ROWS);
}

static void multiply_piece(const void *context, size_t piece, int thread) {
  const struct loop *loop = context;
  const struct work w = own_work(loop->w, thread);
  const struct direction *d = loop->d;
  const struct planes *planes = loop->planes;
  const size_t panel = w.kernels->panel, rows = loop->run, splits = (w.n + rows - 1) / rows;
  const size_t column = piece / splits * COLUMNS, width = smaller(d->channels - column, COLUMNS);
  const size_t spectrum = piece % splits * rows, count = smaller(w.n - spectrum, rows);
  float *products = own_products(&w), *slice = own_rest(&w);
  for (size_t first = 0; first < d->depth;) {
    const size_t depth = d->packed ? d->depth : smaller(d->depth - first, SLICE);
    const float *packed = d->packed ? d->packed + column * depth : slice;
    const size_t stride = d->packed ? d->packed_stride : w.packed.stride;
    if (!d->packed) pack(&w, slice, stride, depth, d->transposed, first, depth, column, wide(&w, width));
    for (size_t p = 0; p < w.f->planes; p++)
      w.kernels->product(products + p * w.products.stride, COLUMNS, first > 0, count, wide(&w, width), depth,
                         planes->at + p * planes->stride + spectrum * planes->pitch + first, planes->pitch, 1, packed + p * stride,
                         depth * panel, panel, cpu_nothing_ahead);
    first += depth;
  }
  for (size_t i = 0; i < count; i++) d->emit(&w, products + i * COLUMNS, spectrum + i, column, width);
}

static void multiply_batch(const struct work *w, const struct direction *d, const struct planes *planes) {
  const size_t rows = rows_of_piece(w, d->channels);
  const struct loop loop = {.w = w, .d = d, .planes = planes, .run = rows};
  cpu_parallel(w->backend, blocks_of(d->channels) * ((w->n + rows - 1) / rows), multiply_piece, &loop);
}

static void gradient_piece(const void *context, size_t piece, int thread) {
  const struct work w = own_work(((const struct loop *)context)->w, thread);
  const struct cpu_fourier *f = w.f;
  const size_t slices = (f->in + SLICE - 1) / SLICE, column = piece / slices * COLUMNS, width = smaller(f->out - column, COLUMNS);
  const size_t first = piece % slices * SLICE, depth = smaller(f->in - first, SLICE);
  float *sums = own_rest(&w);
  for (size_t p = 0; p < f->planes; p++)
    w.kernels->product(sums + p * w.packed.stride, COLUMNS, 0, depth, wide(&w, width), w.n, w.in.at + p * w.in.stride + first, 1,
                       w.in.pitch, w.out.at + partner(f, p) * w.out.stride + column, w.kernels->panel, w.out.pitch, cpu_nothing_ahead);
  f->codelet->unpack(w.c->dw + column, sums, w.packed.stride, COLUMNS, f->kernel, f->in, f->out, width, first, depth);
}

static void weight_gradient_of_batch(const struct work *w) {
  const struct loop loop = {.w = w};
  cpu_parallel(w->backend, (w->f->in + SLICE - 1) / SLICE * blocks_of(w->f->out), gradient_piece, &loop);
}

/* ---- forward and backward ---- */

static void emit_forward(const struct work *w, const float *products, size_t spectrum, size_t channel, size_t width) {
  const struct cpu_fourier *f = w->f;
  const struct cpu_convolution *c = w->c;
  float *rows = c->y ? c->y + (spectrum * c->in->stride + c->in->lead) * f->out + channel : own_rows(w);
  const size_t row_stride = c->y ? f->out : COLUMNS;
  for (size_t t = 0; t < f->tiles; t++)
    f->codelet->synthesise(rows + t * f->step * row_stride, row_stride, smaller(f->length - t * f->step, f->step), 0,
                           products + t * COLUMNS, w->products.stride, width);
  if (c->take) c->take(c->context, rows, row_stride, spectrum, channel, width);
}

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

/* All packed planes of taps that do not change, kept from call to call. */
static spd_status keep(const struct work *w, struct direction *d, struct spd_error *error) {
  struct cpu_fourier *f = w->f;
  if (!f->kept || f->kept_from != w->c->w || f->kept_version != w->c->version) {
    if (!f->kept) {
      void *memory;
      SPD_TRY(w->backend->ops->alloc(w->backend, &memory, f->planes * d->packed_stride * sizeof(float), error));
      f->kept = memory;
    }
    pack_all(w, d, f->kept);
    f->kept_from = w->c->w, f->kept_version = w->c->version;
  }
  d->packed = f->kept;
  return SPD_STATUS_OK;
}

spd_status cpu_fourier_forward(int *done, struct spd_backend *backend, const struct cpu_convolution *c, size_t n, struct spd_error *error) {
  struct cpu_fourier *f;
  SPD_TRY(plan(&f, backend, c, error));
  *done = f != NULL;
  if (!f) return SPD_STATUS_OK;
  const int tiles = f->tiles > 1, kept = c->version != 0;
  struct work w = start(backend, f, c, n);
  struct direction d = {.transposed = 0, .depth = f->in, .channels = f->out, .emit = emit_forward};
  d.packed_stride = packed_stride(&w, &d);
  w.in = shape(tiles ? smaller(n, SPECTRA) * f->tiles : n, wide(&w, f->in));
  w.products = shape(tiles ? part_of(&w) * f->tiles : rows_of_piece(&w, f->out), COLUMNS);
  w.packed = shape(SLICE, COLUMNS);
  const size_t in = f->planes * w.in.stride, taps = kept ? 0 : f->planes * (tiles ? d.packed_stride : w.packed.stride);
  float *shared; /* the taps; or the rows */
  SPD_TRY(arena(&w, &shared, tiles ? taps : in, tiles ? in : taps, error));
  if (kept) SPD_TRY(keep(&w, &d, error));
  if (tiles) {
    if (!kept) {
      pack_all(&w, &d, shared);
      d.packed = shared;
    }
    forward_of_tiles(&w, &d);
  } else {
    const struct rows x = rows_of_x(&w);
    w.in.at = shared;
    analyse_batch(&w, &w.in, &x);
    multiply_batch(&w, &d, &w.in);
  }
  return SPD_STATUS_OK;
}

spd_status cpu_fourier_backward(int *done, struct spd_backend *backend, const struct cpu_convolution *c, size_t n,
                                struct spd_error *error) {
  struct cpu_fourier *f;
  SPD_TRY(plan(&f, backend, c, error));
  *done = f != NULL;
  if (!f) return SPD_STATUS_OK;
  const int tiles = f->tiles > 1;
  struct work w = start(backend, f, c, n);
  struct direction d = {.transposed = 1, .depth = f->out, .channels = f->in, .emit = emit_input_gradient};
  d.packed_stride = packed_stride(&w, &d);
  /* of a group: enough rows to pay for touching all sums, and for waiting for each other where spectra are small */
  const size_t spectrum = f->planes * f->tiles * (wide(&w, f->in) + wide(&w, f->out)), enough = FLOATS_OF_GROUP / (SPECTRA * spectrum);
  const size_t least = 2 * (w.threads > 2 ? w.threads : 2), pieces = enough > least ? enough : least;
  const size_t group = tiles ? smaller(n, SPECTRA * pieces) : n;
  w.in = shape(group * f->tiles, wide(&w, f->in));
  w.out = shape(group * f->tiles, wide(&w, f->out));
  w.products = shape(tiles ? part_of(&w) * f->tiles : rows_of_piece(&w, f->in), COLUMNS);
  w.packed = tiles ? shape(f->in, w.out.wide) : shape(SLICE, COLUMNS);
  w.packed.pitch = w.packed.wide;
  const size_t in = f->planes * w.in.stride, out = f->planes * w.out.stride, packed = f->planes * w.packed.stride,
               all = f->planes * d.packed_stride;
  float *shared;
  SPD_TRY(arena(&w, &shared, in + out + (tiles ? packed + all : 0), tiles ? 0 : packed, error));
  w.in.at = shared;
  w.out.at = shared + in;
  if (tiles) {
    w.packed.at = shared + in + out;
    if (c->dx) pack_all(&w, &d, w.packed.at + packed);
    d.packed = w.packed.at + packed;
    backward_of_tiles(&w, &d, group);
  } else {
    const struct rows x = rows_of_x(&w), dy = rows_of_dy(&w);
    analyse_batch(&w, &w.out, &dy);
    if (c->dx) multiply_batch(&w, &d, &w.out);
    if (!c->dw) return SPD_STATUS_OK;
    analyse_batch(&w, &w.in, &x);
    weight_gradient_of_batch(&w);
  }
  return SPD_STATUS_OK;
}
