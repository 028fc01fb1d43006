/* Convolution, instance norm, PReLU and max-pool. The norm takes the convolution's rows while they are in the cache. */
#include <string.h>

#include "cpu/cpu.h"

enum { CHANNELS = CPU_CHANNELS, GROUP = 8 /* spectra per group if the map is not kept (inference) */ };

struct pass {
  const struct spd_block *s;
  const struct cpu_kernels *kernels;
  float *u; /* where plain products are cheaper: the maps of the spectra from `first` on */
  size_t first;
};

/* Takes the convolution's rows of one spectrum */
static void finish(void *context, const float *u, size_t u_stride, size_t i, size_t c, size_t width) {
  const struct pass *pass = context;
  const struct spd_block *s = pass->s;
  const size_t channels = s->out.channels, channel = i * channels + c;
  pass->kernels->normalise(spd_plane_floats(s->y) + (i * s->out.stride + s->out.lead) * channels + c, channels,
                           s->argmax ? s->argmax + i * s->out.length * channels + c : NULL, s->mean + channel, s->inverse_sd + channel, u,
                           u_stride, s->slope + c, s->conv.length, s->pool, s->out.length, width);
}

/* The gradient at the convolution's rows of one spectrum; du may be u */
static void gradient(void *context, float *du, size_t du_stride, size_t i, size_t c, size_t width) {
  const struct pass *pass = context;
  const struct spd_block *s = pass->s;
  const size_t channels = s->out.channels, channel = i * channels + c;
  pass->kernels->normalise_backward(du, du_stride, s->partial + channel,
                                    spd_plane_floats(s->u) + (i * s->conv.stride + s->conv.lead) * channels + c, channels,
                                    spd_plane_floats(s->dy) + (i * s->out.stride + s->out.lead) * channels + c, channels,
                                    s->pool == 1 ? NULL : s->argmax + i * s->out.length * channels + c, s->mean + channel,
                                    s->inverse_sd + channel, s->slope + c, s->conv.length, s->pool, s->out.length, width);
}

static struct cpu_convolution convolution(const struct pass *pass) {
  const struct spd_block *s = pass->s;
  const struct cpu_convolution c = {&s->in,
                                    s->kernel,
                                    s->out.channels,
                                    spd_plane_floats(s->x),
                                    s->w,
                                    s->version,
                                    spd_plane_floats(s->u),
                                    NULL,
                                    spd_plane_floats(s->dx),
                                    s->dw,
                                    finish,
                                    gradient,
                                    (void *)pass};
  return c;
}

/* A block of channels of one spectrum */
struct part {
  size_t spectrum, channel, width;
};

static size_t blocks_of(const struct spd_block *s) { return (s->out.channels + CHANNELS - 1) / CHANNELS; }

static struct part part_of(const struct spd_block *s, size_t piece) {
  const size_t c = piece % blocks_of(s) * CHANNELS, left = s->out.channels - c;
  const struct part part = {piece / blocks_of(s), c, left < CHANNELS ? left : CHANNELS};
  return part;
}

static void finish_piece(const void *context, size_t piece, int thread) {
  (void)thread;
  const struct pass *pass = context;
  const struct spd_block *s = pass->s;
  const struct part part = part_of(s, piece);
  const float *u = pass->u + (part.spectrum * s->conv.stride + s->conv.lead) * s->out.channels + part.channel;
  finish((void *)pass, u, s->out.channels, pass->first + part.spectrum, part.channel, part.width);
}

/* Where plain products are cheaper */
static spd_status plain_forward(struct spd_backend *backend, struct pass *pass, size_t n, struct spd_error *error) {
  const struct spd_block *s = pass->s;
  const size_t group = s->u.at ? n : GROUP;
  pass->u = spd_plane_floats(s->u);
  if (!pass->u) SPD_TRY(cpu_arena(&pass->u, backend, spd_rows_size(&s->conv, group), error));
  for (pass->first = 0; pass->first < n; pass->first += group) {
    const size_t count = n - pass->first < group ? n - pass->first : group;
    cpu_conv(backend, pass->u, spd_plane_floats(s->x) + pass->first * s->in.stride * s->in.channels, s->w, &s->in, s->kernel,
             s->out.channels, count);
    cpu_parallel(backend, count * blocks_of(s), finish_piece, pass);
  }
  return SPD_STATUS_OK;
}

spd_status cpu_block_forward(struct spd_backend *backend, const struct spd_block *s, size_t n, struct spd_error *error) {
  struct pass pass = {.s = s, .kernels = cpu_kernels_of(backend)};
  const struct cpu_convolution c = convolution(&pass);
  int done;
  SPD_TRY(cpu_fourier_forward(&done, backend, &c, n, error));
  return done ? SPD_STATUS_OK : plain_forward(backend, &pass, n, error);
}

/* (k, C_in, C_out) -> taps in reverse order, (k, C_out, C_in): the input gradient is a convolution with these */
struct flip {
  float *flipped;
  const struct spd_block *s;
};

static void flip_tap(const void *context, size_t k, int thread) {
  (void)thread;
  const struct flip *flip = context;
  const size_t in = flip->s->in.channels, out = flip->s->out.channels, tile = 32;
  const float *from = flip->s->w + k * in * out;
  float *to = flip->flipped + (flip->s->kernel - 1 - k) * in * out;
  for (size_t o0 = 0; o0 < out; o0 += tile)
    for (size_t i0 = 0; i0 < in; i0 += tile)
      for (size_t o = o0; o < out && o < o0 + tile; o++)
        for (size_t i = i0; i < in && i < i0 + tile; i++) to[o * in + i] = from[i * out + o];
}

static void gradient_piece(const void *context, size_t piece, int thread) {
  (void)thread;
  const struct pass *pass = context;
  const struct spd_block *s = pass->s;
  const struct part part = part_of(s, piece);
  const size_t channels = s->out.channels;
  float *u = spd_plane_floats(s->u) + (part.spectrum * s->conv.stride + s->conv.lead) * channels + part.channel;
  gradient((void *)pass, u, channels, part.spectrum, part.channel, part.width);
  /* gap rows: those after each spectrum, and before the first of the batch */
  for (size_t l = s->conv.length; l < s->conv.stride; l++) memset(u + l * channels, 0, part.width * sizeof *u);
  for (size_t l = 0; part.spectrum == 0 && l < s->conv.lead; l++)
    memset(spd_plane_floats(s->u) + l * channels + part.channel, 0, part.width * sizeof *u);
}

/* Where plain products are cheaper */
static spd_status plain_backward(struct spd_backend *backend, struct pass *pass, size_t n, struct spd_error *error) {
  const struct spd_block *s = pass->s;
  const size_t channels = s->out.channels;
  cpu_parallel(backend, n * blocks_of(s), gradient_piece, pass);
  if (s->dw) cpu_conv_weight_gradient(backend, s->dw, spd_plane_floats(s->x), spd_plane_floats(s->u), &s->in, s->kernel, channels, n);
  if (!s->dx.at) return SPD_STATUS_OK;
  struct flip flip = {NULL, s};
  SPD_TRY(cpu_arena(&flip.flipped, backend, s->kernel * s->in.channels * channels, error));
  cpu_parallel(backend, s->kernel, flip_tap, &flip);
  cpu_conv(backend, spd_plane_floats(s->dx), spd_plane_floats(s->u), flip.flipped, &s->conv, s->kernel, s->in.channels, n);
  return SPD_STATUS_OK;
}

spd_status cpu_block_backward(struct spd_backend *backend, const struct spd_block *s, size_t n, struct spd_error *error) {
  struct pass pass = {.s = s, .kernels = cpu_kernels_of(backend)};
  const struct cpu_convolution c = convolution(&pass);
  int done;
  SPD_TRY(cpu_fourier_backward(&done, backend, &c, n, error));
  if (!done) SPD_TRY(plain_backward(backend, &pass, n, error));
  if (s->dslope) cpu_sum_rows(s->dslope, s->partial, n, s->out.channels);
  return SPD_STATUS_OK;
}
