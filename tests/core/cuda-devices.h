/* Which CUDA devices tests run on: a real one, or the one on the CPU in all its orders. */
#ifndef SPD_TEST_CUDA_DEVICES_H
#define SPD_TEST_CUDA_DEVICES_H

#include "cpu/create.h"
#include "cuda/create.h"
#include "network/backend.h"
#include "tolerances.h"
#ifdef TEST_CUDA_ON_CPU
#include "cuda-on-cpu/device.h"
#endif

static const char *const test_precisions[] = {"fp32", "tf32", "bf16", "fp16"};

/* Orders of streams and threads in which the device on the CPU runs */
enum {
#ifdef TEST_CUDA_ON_CPU
  TEST_ORDERS = 3
#else
  TEST_ORDERS = 1
#endif
};

CHECK_UNUSED static int test_order(int order) {
#ifdef TEST_CUDA_ON_CPU
  device_set((device_streams)order, (device_threads)order);
#else
  (void)order;
#endif
  return 1;
}

/* Whether blocks get too little shared memory to keep a map, which changes bits */
CHECK_UNUSED static int test_little_shared(int little) {
#ifdef TEST_CUDA_ON_CPU
  device_set_shared(little ? (size_t)9 << 10 : (size_t)227 << 10);
  spd_cuda_release(); /* what is open has the other size */
#else
  (void)little;
#endif
  return 1;
}

CHECK_UNUSED static int test_precision(int precision) {
  tolerance_precision = precision == SPD_PRECISION_FP32 ? NULL : test_precisions[precision];
  return 1;
}

/* No device: everything is skipped, or fails where SPENDER_TEST_CUDA=1 promises one. */
CHECK_UNUSED static int test_cuda_here(void) {
  const char *promised = getenv("SPENDER_TEST_CUDA");
  if (spd_cuda_count() > 0) return 1;
  if (promised && strcmp(promised, "1") == 0)
    check_fail(__FILE__, __LINE__, "no CUDA device, though SPENDER_TEST_CUDA=1");
  else
    check_skip("CUDA", "there is no device here");
  return 0;
}

/* Whether results of a spectrum are those that it has in another batch: to the bit on the CPU and on the device that it plays; on a real
 * GPU, where cuBLAS chooses its kernels by the number of rows, within 1e-4 of their norm in fp32. */
CHECK_UNUSED static int test_alike(const double *a, const double *b, size_t count) {
#ifndef TEST_CUDA_ON_CPU
  if (spd_cuda_built()) {
    double square = 0, difference = 0;
    for (size_t i = 0; i < count; i++) {
      if (isnan(a[i]) != isnan(b[i])) return 0;
      if (isnan(b[i])) continue;
      square += b[i] * b[i], difference += (a[i] - b[i]) * (a[i] - b[i]);
    }
    return difference <= 1e-8 * square;
  }
#endif
  return memcmp(a, b, count * sizeof *a) == 0;
}

/* What a test of a whole network runs on: the CUDA device of a build that has CUDA, in fp32; otherwise the CPU. */
CHECK_UNUSED static struct spd_backend *test_backend(void) {
  struct spd_backend *backend;
  if (spd_cuda_built())
    MUST(spd_cuda_create(&backend, SPD_PRECISION_FP32, error));
  else
    MUST(spd_cpu_create(&backend, 2, error));
  return backend;
}

#endif
