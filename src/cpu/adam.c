#include "core/scalar.h"
#include "cpu/cpu.h"

SPD_HOT static void update(float *restrict p, float *restrict m, float *restrict v, const float *restrict g, size_t count,
                           const struct spd_adam *a) {
  const struct spd_adam o = *a;
  SPD_SIMD
  for (size_t i = 0; i < count; i++)
    spd_adam_update(&p[i], &m[i], &v[i], g[i], o.rate, o.beta1, o.rest1, o.beta2, o.rest2, o.epsilon, o.correction1,
                    o.correction2, o.lowest);
}

spd_status cpu_adam(struct spd_backend *backend, float *parameters, float *m, float *v, const float *gradient, size_t count,
                    const struct spd_adam *options, struct spd_error *error) {
  (void)error;
  const size_t piece_size = (size_t)1 << 16, pieces = (count + piece_size - 1) / piece_size;
  CPU_PARALLEL(backend, pieces)
  for (size_t piece = 0; piece < pieces; piece++) {
    size_t from = piece * piece_size, size = count - from < piece_size ? count - from : piece_size;
    update(parameters + from, m + from, v + from, gradient + from, size, options);
  }
  return SPD_STATUS_OK;
}
