/* Conversions between planes and floats. */
#include "cuda/cuda.h"

template <class T>
static __global__ void widen(float *y, const T *x, const float *scale, size_t count) {
  const float factor = 1.0f / *scale;
  CUDA_EACH(i, count) {
    float value[1];
    cuda_load<1>(value, x + i);
    y[i] = value[0] * factor;
  }
}

template <class T>
static __global__ void narrow(T *y, float *y_scale, const float *x, float scale, size_t count) {
  const float factor = cuda_plane_type<T>::scaled ? scale : 1.0f;
  CUDA_EACH(i, count) {
    const float value[1] = {x[i] * factor};
    cuda_store<1>(y + i, value);
    if (i == 0) *y_scale = factor;
  }
}

template <class T>
static spd_status widen_from(struct spd_backend *backend, float *y, struct spd_plane x, size_t count, struct spd_error *error) {
  CUDA_LAUNCH(widen<T>, cuda_blocks(backend, count), CUDA_THREADS, y, (const T *)x.at, x.scale, count);
  return SPD_STATUS_OK;
}

template <class T>
static spd_status narrow_to(struct spd_backend *backend, struct spd_plane y, const float *x, float scale, size_t count,
                            struct spd_error *error) {
  CUDA_LAUNCH(narrow<T>, cuda_blocks(backend, count), CUDA_THREADS, (T *)y.at, y.scale, x, scale, count);
  return SPD_STATUS_OK;
}

spd_status cuda_widen(struct spd_backend *backend, float *y, struct spd_plane x, size_t count, struct spd_error *error) {
  SPD_TRY(cuda_use(backend, error));
  return CUDA_BY_PLANE(widen_from, backend, y, x, count, error);
}

spd_status cuda_narrow(struct spd_backend *backend, struct spd_plane y, const float *x, float scale, size_t count,
                       struct spd_error *error) {
  SPD_TRY(cuda_use(backend, error));
  return CUDA_BY_PLANE(narrow_to, backend, y, x, scale, count, error);
}
