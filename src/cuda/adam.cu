#include "cuda/cuda.h"

static __global__ void update(float *p, float *m, float *v, const float *g, size_t count, struct spd_adam o) {
  struct parameter {
    float p, m, v, g;
  };
  cuda_stream<4>(
      blockIdx.x * CUDA_THREADS + threadIdx.x, (unsigned)count, gridDim.x * CUDA_THREADS,
      [&](unsigned i) {
        const parameter here = {p[i], m[i], v[i], g[i]};
        return here;
      },
      [&](unsigned i, parameter here) {
        spd_adam_update(&here.p, &here.m, &here.v, here.g, o.rate, o.beta1, o.new1, o.beta2, o.new2, o.epsilon, o.correction1,
                        o.correction2, o.lowest);
        p[i] = here.p, m[i] = here.m, v[i] = here.v;
      });
}

spd_status cuda_adam(struct spd_backend *backend, float *parameters, float *m, float *v, const float *gradient, size_t count,
                     const struct spd_adam *options, struct spd_error *error) {
  SPD_TRY(cuda_use(backend, error));
  CUDA_LAUNCH(update, cuda_blocks(backend, count), CUDA_THREADS, parameters, m, v, gradient, count, *options);
  return SPD_STATUS_OK;
}
