#include "cpu/cpu.h"
#include "network/scalar.h"

SPD_HOT static void update(float *restrict p, float *restrict m, float *restrict v, const float *restrict g, size_t count,
                           const struct spd_adam *a) {
  const struct spd_adam o = *a;
  SPD_SIMD
  for (size_t i = 0; i < count; i++)
    spd_adam_update(&p[i], &m[i], &v[i], g[i], o.rate, o.beta1, o.new1, o.beta2, o.new2, o.epsilon, o.correction1, o.correction2, o.lowest);
}

struct call {
  float *parameters, *m, *v;
  const float *gradient;
  size_t count;
  const struct spd_adam *options;
};

enum { PIECE = 1 << 16 };

static void update_piece(const void *context, size_t piece, int thread) {
  (void)thread;
  const struct call *c = context;
  const size_t from = piece * PIECE, size = c->count - from < PIECE ? c->count - from : PIECE;
  update(c->parameters + from, c->m + from, c->v + from, c->gradient + from, size, c->options);
}

spd_status cpu_adam(struct spd_backend *backend, float *parameters, float *m, float *v, const float *gradient, size_t count,
                    const struct spd_adam *options, struct spd_error *error) {
  (void)error;
  const struct call call = {parameters, m, v, gradient, count, options};
  cpu_parallel(backend, (count + PIECE - 1) / PIECE, update_piece, &call);
  return SPD_STATUS_OK;
}
