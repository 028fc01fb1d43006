/* Convolution of the flux, instance norm, PReLU and max-pool, fused: nothing of size (length, channels) is stored. With one input
 * channel the norm's statistics follow from the input alone (spd_stem_statistics). */
#include "cuda/cuda.h"

enum { FORWARD_WARPS = 8, BACKWARD_WARPS = 16, TAPS = 8 /* whose gradients are summed together, where the kernel is not 5 */ };

/* m_j and R_jk of one spectrum from its autocorrelation at k lags, less the products that the window j leaves out at the ends */
static __global__ void __launch_bounds__(CUDA_THREADS) moments(struct spd_stem s) {
  __shared__ double scratch[CUDA_THREADS];
  const long kernel = (long)s.kernel, pad = kernel / 2, last = (long)s.length, me = (long)threadIdx.x;
  const float *x = s.x + blockIdx.x * s.length;
  double *m = s.moments + blockIdx.x * s.kernel * (s.kernel + 1), *r = m + kernel;
  double mine = 0;
  for (long i = me; i < last; i += CUDA_THREADS) mine += (double)x[i];
  const double total = cuda_block_sum<CUDA_THREADS>(scratch, mine);
  for (long j = me; j < kernel; j += CUDA_THREADS) {
    double sum = total;
    for (long i = 0; i < j - pad && i < last; i++) sum -= (double)x[i];
    for (long i = last + j - pad > 0 ? last + j - pad : 0; i < last; i++) sum -= (double)x[i];
    m[j] = sum;
  }
  for (long lag = 0; lag < kernel; lag++) {
    mine = 0;
    for (long i = me; i < last - lag; i += CUDA_THREADS) mine += (double)x[i] * (double)x[i + lag];
    const double all = cuda_block_sum<CUDA_THREADS>(scratch, mine);
    for (long j = me; j + lag < kernel; j += CUDA_THREADS) {
      double sum = all;
      for (long i = 0; i < j - pad && i < last - lag; i++) sum -= (double)x[i] * (double)x[i + lag];
      for (long i = last + j - pad > 0 ? last + j - pad : 0; i < last - lag; i++) sum -= (double)x[i] * (double)x[i + lag];
      r[j * kernel + j + lag] = r[(j + lag) * kernel + j] = sum;
    }
  }
}

/* Taps and offset with the norm folded in */
static __global__ void scale_taps(struct spd_stem s, size_t n) {
  const size_t kernel = s.kernel, channels = s.out.channels;
  CUDA_EACH(at, n * channels) {
    const size_t i = at / channels, c = at % channels;
    const double *m = s.moments + i * kernel * (kernel + 1);
    float *scaled = s.scaled + i * (kernel + 1) * channels + c;
    double mean, inverse_sd;
    spd_stem_statistics(&mean, &inverse_sd, s.w, m, m + kernel, s.length, kernel, channels, c);
    for (size_t j = 0; j < kernel; j++) scaled[j * channels] = (float)((double)s.w[j * channels + c] * inverse_sd);
    scaled[kernel * channels] = (float)(-mean * inverse_sd);
  }
}

/* The normalised convolution of one channel, position by position. KERNEL 5: taps and the inputs under them stay in registers,
 * of which a step to the next position loads one; 0: any. */
template <int KERNEL>
struct convolution {
  const float *x, *scaled;
  unsigned length, kernel, pad;
  size_t channels;
  float offset, taps[KERNEL ? KERNEL : 1], inputs[KERNEL ? KERNEL : 1];
  unsigned position;

  __device__ convolution(const struct spd_stem &s, size_t i, size_t c)
      : x(s.x + i * s.length), scaled(s.scaled + i * (s.kernel + 1) * s.out.channels + c), length((unsigned)s.length),
        kernel((unsigned)s.kernel), pad((unsigned)s.kernel / 2), channels(s.out.channels), offset(scaled[s.kernel * s.out.channels]),
        position(0) {
#pragma unroll
    for (int j = 0; j < KERNEL; j++) taps[j] = scaled[(size_t)j * channels], inputs[j] = 0;
  }

  /* What is under tap j at position l, zero beyond the spectrum: left of it the difference wraps around */
  __device__ float input(unsigned l, unsigned j) const {
    const unsigned at = l + j - pad;
    return at < length ? x[at] : 0;
  }

  __device__ void start(unsigned l) {
    position = l;
#pragma unroll
    for (int j = 0; j < KERNEL; j++) inputs[j] = input(l, (unsigned)j);
  }

  __device__ void step() {
    position++;
#pragma unroll
    for (int j = 0; j + 1 < KERNEL; j++) inputs[j] = inputs[j + 1];
    if (KERNEL > 0) inputs[KERNEL > 0 ? KERNEL - 1 : 0] = input(position, (unsigned)KERNEL - 1);
  }

  __device__ float value() const {
    float v = offset;
    if (KERNEL > 0) {
#pragma unroll
      for (int j = 0; j < KERNEL; j++) v += taps[j] * inputs[j];
    } else {
      for (unsigned j = 0; j < kernel; j++) v += scaled[j * channels] * input(position, j);
    }
    return v;
  }
};

/* PReLU rises and falls when its slope is negative, so its maximum is at the largest or the smallest value. */
template <int KERNEL>
static __global__ void __launch_bounds__(FORWARD_WARPS *CUDA_LANES) forward(struct spd_stem s) {
  const size_t channels = s.out.channels, groups = (channels + CUDA_LANES - 1) / CUDA_LANES;
  const size_t i = blockIdx.x / groups, c = blockIdx.x % groups * CUDA_LANES + threadIdx.x;
  if (c >= channels) return;
  convolution<KERNEL> conv(s, i, c);
  const float slope = s.slope[c];
  for (size_t t = threadIdx.y; t < s.out.length; t += FORWARD_WARPS) {
    const unsigned from = (unsigned)spd_window_from(t, s.pool), to = (unsigned)spd_window_to(t, s.pool, s.length);
    conv.start(from);
    float largest = conv.value(), smallest = largest;
    for (unsigned l = from + 1; l < to; l++) {
      conv.step();
      const float value = conv.value();
      largest = value > largest ? value : largest;
      smallest = value < smallest ? value : smallest;
    }
    const float a = spd_prelu(largest, slope), b = spd_prelu(smallest, slope);
    s.y[(s.out.lead + i * s.out.stride + t) * channels + c] = a > b ? a : b;
  }
}

/* With d the gradient at the winners l* and v their normalised values: sums (n, k + 2, C) of d x[l* + j], d and d v, and dslope
 * (n, C). The first of equal winners takes the gradient. */
template <int KERNEL>
static __global__ void __launch_bounds__(BACKWARD_WARPS *CUDA_LANES) backward(struct spd_stem s, float *sums, float *dslope) {
  __shared__ float scratch[BACKWARD_WARPS][CUDA_LANES];
  const int taps = KERNEL ? KERNEL : TAPS;
  const size_t kernel = s.kernel, channels = s.out.channels, groups = (channels + CUDA_LANES - 1) / CUDA_LANES;
  const size_t i = blockIdx.x / groups, c = blockIdx.x % groups * CUDA_LANES + threadIdx.x;
  const bool on = c < channels, writes = on && threadIdx.y == 0;
  convolution<KERNEL> conv(s, i, on ? c : 0);
  const float slope = on ? s.slope[c] : 0;
  const float *dy = s.dy + (s.out.lead + i * s.out.stride) * channels + c;
  float *out = sums + i * (kernel + 2) * channels + c;
  for (size_t j0 = 0; j0 < kernel; j0 += (size_t)taps) {
    float sum_d = 0, sum_dv = 0, sum_slope = 0, products[taps];
    for (int j = 0; j < taps; j++) products[j] = 0;
    for (size_t t = threadIdx.y; on && t < s.out.length; t += BACKWARD_WARPS) {
      const unsigned from = (unsigned)spd_window_from(t, s.pool), to = (unsigned)spd_window_to(t, s.pool, s.length);
      conv.start(from);
      float v = conv.value(), best = spd_prelu(v, slope);
      unsigned winner = from;
      for (unsigned l = from + 1; l < to; l++) {
        conv.step();
        const float value = conv.value(), activated = spd_prelu(value, slope);
        if (activated > best) best = activated, v = value, winner = l;
      }
      const float g = dy[t * channels], d = v > 0 ? g : g * slope;
      sum_slope += v > 0 ? 0 : g * v;
      sum_d += d;
      sum_dv += d * v;
#pragma unroll
      for (int j = 0; j < taps; j++) products[j] += d * conv.input(winner, (unsigned)j0 + (unsigned)j);
    }
#pragma unroll
    for (int j = 0; j < taps; j++) {
      const float sum = cuda_column_sum<BACKWARD_WARPS>(scratch, products[j]);
      if (writes && j0 + (size_t)j < kernel) out[(j0 + (size_t)j) * channels] = sum;
    }
    if (j0 > 0) continue;
    sum_d = cuda_column_sum<BACKWARD_WARPS>(scratch, sum_d);
    sum_dv = cuda_column_sum<BACKWARD_WARPS>(scratch, sum_dv);
    sum_slope = cuda_column_sum<BACKWARD_WARPS>(scratch, sum_slope);
    if (writes) out[kernel * channels] = sum_d, out[(kernel + 1) * channels] = sum_dv, dslope[i * channels + c] = sum_slope;
  }
}

/* dw (n, k, C): the sums through the norm */
static __global__ void tap_gradients(float *dw, const float *sums, struct spd_stem s, size_t n) {
  const size_t kernel = s.kernel, channels = s.out.channels;
  CUDA_EACH(at, n * channels) {
    const size_t i = at / channels, c = at % channels;
    const double *m = s.moments + i * kernel * (kernel + 1), *r = m + kernel;
    const float *taps = sums + i * (kernel + 2) * channels + c;
    const double sum_d = (double)taps[kernel * channels], sum_dv = (double)taps[(kernel + 1) * channels];
    double mean, inverse_sd;
    spd_stem_statistics(&mean, &inverse_sd, s.w, m, r, s.length, kernel, channels, c);
    for (size_t j = 0; j < kernel; j++)
      dw[(i * kernel + j) * channels + c] = spd_stem_tap_gradient((double)taps[j * channels], sum_d, sum_dv, j, mean, inverse_sd, s.w, m,
                                                                  r, s.length, kernel, channels, c);
  }
}

static size_t blocks_of(const struct spd_stem *s, size_t n) { return n * ((s->out.channels + CUDA_LANES - 1) / CUDA_LANES); }

spd_status cuda_stem_forward(struct spd_backend *backend, const struct spd_stem *s, size_t n, struct spd_error *error) {
  CUDA_LAUNCH(moments, n, CUDA_THREADS, *s);
  CUDA_LAUNCH(scale_taps, cuda_blocks(backend, n * s->out.channels), CUDA_THREADS, *s, n);
  if (s->kernel == 5)
    CUDA_LAUNCH(forward<5>, blocks_of(s, n), dim3(CUDA_LANES, FORWARD_WARPS), *s);
  else
    CUDA_LAUNCH(forward<0>, blocks_of(s, n), dim3(CUDA_LANES, FORWARD_WARPS), *s);
  return SPD_STATUS_OK;
}

spd_status cuda_stem_backward(struct spd_backend *backend, const struct spd_stem *s, size_t n, struct spd_error *error) {
  const size_t kernel = s->kernel, channels = s->out.channels;
  float *dslope = s->partial + n * kernel * channels; /* (n, C) behind the weight gradients (n, k, C) */
  size_t at = 0;
  SPD_TRY(cuda_reserve(backend, cuda_room(n * (kernel + 2) * channels * sizeof(float)), error));
  float *sums = (float *)cuda_take(backend, &at, n * (kernel + 2) * channels * sizeof(float));
  if (kernel == 5)
    CUDA_LAUNCH(backward<5>, blocks_of(s, n), dim3(CUDA_LANES, BACKWARD_WARPS), *s, sums, dslope);
  else
    CUDA_LAUNCH(backward<0>, blocks_of(s, n), dim3(CUDA_LANES, BACKWARD_WARPS), *s, sums, dslope);
  CUDA_LAUNCH(tap_gradients, cuda_blocks(backend, n * channels), CUDA_THREADS, s->partial, sums, *s, n);
  if (s->dw) SPD_TRY(cuda_sum_rows(backend, s->dw, s->partial, n, kernel * channels, error));
  if (s->dslope) SPD_TRY(cuda_sum_rows(backend, s->dslope, dslope, n, channels, error));
  return SPD_STATUS_OK;
}

static __global__ void log_range(float *y, const float *x, size_t count) {
  CUDA_EACH(i, count) y[i] = logf(x[i] + 1e-6f);
}

spd_status cuda_log_ivar(struct spd_backend *backend, float *y, const float *x, size_t count, struct spd_error *error) {
  CUDA_LAUNCH(log_range, cuda_blocks(backend, count), CUDA_THREADS, y, x, count);
  return SPD_STATUS_OK;
}
