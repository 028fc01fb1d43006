/* Convolution, instance norm, PReLU and max-pool. The norm takes the convolution's rows while they are in the cache. */
#include <string.h>

#include "cpu/cpu.h"

enum { CHANNELS = CPU_CHANNELS, GROUP = 8 /* spectra that wait together for their norm, where nobody keeps the map */ };

struct pass {
  const struct spd_block *s;
  const struct cpu_kernels *kernels;
};

/* The convolution's rows of one spectrum, as they come */
static void finish(void *context, const float *u, size_t u_stride, size_t i, size_t c, size_t width) {
  const struct pass *pass = context;
  const struct spd_block *s = pass->s;
  const size_t channels = s->out.channels, channel = i * channels + c;
  pass->kernels->normalise(spd_plane_floats(s->y) + (i * s->out.stride + s->out.lead) * channels + c, channels,
                           s->argmax ? s->argmax + i * s->out.length * channels + c : NULL, s->mean + channel,
                           s->inverse_sd + channel, u, u_stride, s->slope + c, s->conv.length, s->pool, s->out.length, width);
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

/* Where plain products are cheaper */
static spd_status plain_forward(struct spd_backend *backend, struct pass *pass, size_t n, struct spd_error *error) {
  const struct spd_block *s = pass->s;
  const size_t channels = s->out.channels, blocks = (channels + CHANNELS - 1) / CHANNELS, group = s->u.at ? n : GROUP;
  float *u = spd_plane_floats(s->u);
  if (!u) SPD_TRY(cpu_arena(&u, backend, spd_rows_size(&s->conv, group), error));
  for (size_t first = 0; first < n; first += group) {
    const size_t count = n - first < group ? n - first : group, pieces = count * blocks;
    cpu_conv(backend, u, spd_plane_floats(s->x) + first * s->in.stride * s->in.channels, s->w, &s->in, s->kernel, channels, count);
    CPU_PARALLEL(backend, pieces)
    for (size_t piece = 0; piece < pieces; piece++) {
      const size_t i = piece / blocks, c = piece % blocks * CHANNELS, width = channels - c < CHANNELS ? channels - c : CHANNELS;
      finish(pass, u + (i * s->conv.stride + s->conv.lead) * channels + c, channels, first + i, c, width);
    }
  }
  return SPD_STATUS_OK;
}

spd_status cpu_block_forward(struct spd_backend *backend, const struct spd_block *s, size_t n, struct spd_error *error) {
  struct pass pass = {s, ((struct cpu_backend *)backend)->kernels};
  const struct cpu_convolution c = convolution(&pass);
  int done;
  SPD_TRY(cpu_fourier_forward(&done, backend, &c, n, error));
  return done ? SPD_STATUS_OK : plain_forward(backend, &pass, n, error);
}

/* (k, C_in, C_out) -> taps in reverse order, (k, C_out, C_in): the input gradient is a convolution with these */
static void flip(const struct spd_backend *backend, float *flipped, const float *w, size_t kernel, size_t in, size_t out) {
  CPU_PARALLEL(backend, kernel)
  for (size_t k = 0; k < kernel; k++) {
    const float *from = w + k * in * out;
    float *to = flipped + (kernel - 1 - k) * in * out;
    const size_t tile = 32;
    for (size_t o0 = 0; o0 < out; o0 += tile)
      for (size_t i0 = 0; i0 < in; i0 += tile)
        for (size_t o = o0; o < out && o < o0 + tile; o++)
          for (size_t i = i0; i < in && i < i0 + tile; i++) to[o * in + i] = from[i * out + o];
  }
}

/* Where plain products are cheaper */
static spd_status plain_backward(struct spd_backend *backend, struct pass *pass, size_t n, struct spd_error *error) {
  const struct spd_block *s = pass->s;
  const size_t channels = s->out.channels, blocks = (channels + CHANNELS - 1) / CHANNELS, pieces = n * blocks;
  CPU_PARALLEL(backend, pieces)
  for (size_t piece = 0; piece < pieces; piece++) {
    const size_t i = piece / blocks, c = piece % blocks * CHANNELS, width = channels - c < CHANNELS ? channels - c : CHANNELS;
    float *u = spd_plane_floats(s->u) + (i * s->conv.stride + s->conv.lead) * channels + c;
    gradient(pass, u, channels, i, c, width);
    for (size_t l = s->conv.length; l < s->conv.stride; l++) memset(u + l * channels, 0, width * sizeof *u);
  }
  if (s->dw) cpu_conv_weight_gradient(backend, s->dw, spd_plane_floats(s->x), spd_plane_floats(s->u), &s->in, s->kernel, channels, n);
  if (!s->dx.at) return SPD_STATUS_OK;
  float *flipped;
  SPD_TRY(cpu_arena(&flipped, backend, s->kernel * s->in.channels * channels, error));
  flip(backend, flipped, s->w, s->kernel, s->in.channels, channels);
  cpu_conv(backend, spd_plane_floats(s->dx), spd_plane_floats(s->u), flipped, &s->conv, s->kernel, s->in.channels, n);
  return SPD_STATUS_OK;
}

spd_status cpu_block_backward(struct spd_backend *backend, const struct spd_block *s, size_t n, struct spd_error *error) {
  struct pass pass = {s, ((struct cpu_backend *)backend)->kernels};
  const struct cpu_convolution c = convolution(&pass);
  int done;
  SPD_TRY(cpu_fourier_backward(&done, backend, &c, n, error));
  if (!done) SPD_TRY(plain_backward(backend, &pass, n, error));
  if (s->dslope) cpu_sum_rows(s->dslope, s->partial, n, s->out.channels);
  return SPD_STATUS_OK;
}
