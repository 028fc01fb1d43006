/* The part of the CUDA runtime that the backend uses, for device.cpp. */
#ifndef SPD_TEST_CUDA_RUNTIME_H
#define SPD_TEST_CUDA_RUNTIME_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <functional>
#include <tuple>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __launch_bounds__(...)
#define __forceinline__ inline

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
extern dim3 threadIdx, blockIdx, blockDim, gridDim;
void __syncthreads();

struct alignas(8) float2 {
  float x, y;
};
static inline float2 make_float2(float x, float y) { return {x, y}; }

/* Every thread of a warp must take part: others of its block may be elsewhere. */
uint64_t device_exchange(uint64_t sent, int lane_mask);
template <class T>
static inline T __shfl_xor_sync(unsigned, T value, int lane_mask) {
  static_assert(sizeof value <= sizeof(uint64_t), "what a lane can send");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  bits = device_exchange(bits, lane_mask);
  memcpy(&value, &bits, sizeof value);
  return value;
}
static inline int atomicMax(int *at, int value) {
  const int before = *at;
  if (value > before) *at = value;
  return before;
}
static inline int __float_as_int(float x) {
  int bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

typedef enum {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorNoDevice = 100,
  cudaErrorIllegalState = 401,
  cudaErrorNotReady = 600,
  cudaErrorLaunchFailure = 719,
  cudaErrorStreamCaptureUnsupported = 900,
  cudaErrorStreamCaptureInvalidated = 901
} cudaError_t;
const char *cudaGetErrorName(cudaError_t code);
const char *cudaGetErrorString(cudaError_t code);
cudaError_t cudaGetLastError();

typedef struct device_stream *cudaStream_t;
typedef struct device_event *cudaEvent_t;
enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2 };
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
/* Runs what can be run before it without waiting for other ranks. */
cudaError_t cudaEventQuery(cudaEvent_t event);

/* Between begin and end what a stream is given is stored, with its arguments, and not run. What waits for the device or changes its memory
 * fails meanwhile, and makes the recording void. */
typedef struct device_graph *cudaGraph_t;
typedef struct device_graph_exec *cudaGraphExec_t;
typedef enum { cudaStreamCaptureModeThreadLocal = 1 } cudaStreamCaptureMode;
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph);
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);

typedef enum { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 } cudaMemcpyKind;
cudaError_t cudaMalloc(void **pointer, size_t bytes);
cudaError_t cudaFree(void *pointer);
cudaError_t cudaMallocHost(void **pointer, size_t bytes);
cudaError_t cudaFreeHost(void *pointer);
cudaError_t cudaMemGetInfo(size_t *available, size_t *total);
cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);

struct cudaDeviceProp {
  char name[256];
  size_t totalGlobalMem, sharedMemPerBlockOptin;
  int multiProcessorCount, major, minor;
};
cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device);

typedef enum { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 } cudaFuncAttribute;
cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute attribute, int value);

/* Runs, keeps or records the work; false if the recording is void. ready: whether work that waits for other ranks can run; whoever waits
 * for such work without looking, and they do not come, ends the program. */
bool device_enqueue(cudaStream_t stream, std::function<void()> work, std::function<bool()> ready = nullptr);
/* `shared` bytes of dynamic shared memory, which start as NaN for each block; device_order: a device_threads */
extern int device_order;
void device_run_blocks(dim3 blocks, dim3 threads, size_t shared, const std::function<void()> &thread);
bool device_may_share(const void *kernel, size_t bytes);
extern char *device_shared;
bool device_fails();
void device_launch_failed();

/* Arguments are copied when the kernel is launched, as a real launch does. */
template <class... P, class... A>
void device_launch(dim3 blocks, dim3 threads, size_t shared, cudaStream_t stream, void (*kernel)(P...), A... arguments) {
  if (device_fails() || threads.x * threads.y * threads.z > 1024 || blocks.x == 0 || !device_may_share((const void *)kernel, shared))
    return device_launch_failed();
  std::tuple<P...> copies(arguments...);
  if (!device_enqueue(stream, [=] { device_run_blocks(blocks, threads, shared, [&] { std::apply(kernel, copies); }); }))
    device_launch_failed();
}
#define CUDA_RUN(kernel, blocks, threads, shared, stream, ...) device_launch(blocks, threads, shared, stream, kernel, __VA_ARGS__)
#define CUDA_SHARED(type, name) type *const name = (type *)device_shared

#endif
