/* What device.h promises. */
#include "device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <deque>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "cublas_v2.h"
#include "cuda_bf16.h"
#include "cuda_fp16.h"
#include "cuda_runtime.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) ((void)0)
#define ASAN_UNPOISON_MEMORY_REGION(address, size) ((void)0)
#endif

#ifdef SPD_HAVE_CBLAS
extern "C" void cblas_sgemm(int, int, int, int, int, int, float, const float *, int, const float *, int, float, float *, int);
#endif

static device_streams stream_order;
static long calls_to_failure = -1;
static cudaError_t last_error = cudaSuccess;
static size_t leaks;

void device_set(device_streams streams, device_threads threads) { stream_order = streams, device_order = threads; }
void device_set_failure(long calls) { calls_to_failure = calls; }
long device_failure(void) { return calls_to_failure; }
size_t device_leaks(void) { return leaks; }

/* Every call begins with this. On a real device one in a forked child hangs, crashes, or frees what is its parent's. */
static void check_process() {
  static const pid_t first = getpid();
  if (getpid() == first) return;
  fprintf(stderr, "CUDA is called in a forked process\n");
  abort();
}

bool device_fails() {
  check_process();
  return calls_to_failure >= 0 && calls_to_failure-- == 0;
}
void device_launch_failed() { last_error = cudaErrorLaunchFailure; }

/* What a stream is given while it is recorded */
typedef std::vector<std::function<void()>> device_recording;
static cudaStream_t recorded; /* the stream that is; NULL: none */
static device_recording recording;
static bool recording_void;

/* A failed call leaves its error for whoever asks next, as a real one does. */
#define MAY_FAIL \
  if (device_fails()) return last_error = cudaErrorLaunchFailure
/* ... of a call that must not be made while a stream is recorded */
#define NOT_RECORDED \
  if (recorded) return recording_void = true, last_error = cudaErrorStreamCaptureUnsupported
static cudaError_t unless_void(bool taken) { return taken ? cudaSuccess : last_error = cudaErrorStreamCaptureInvalidated; }

const char *cudaGetErrorName(cudaError_t code) {
  return code == cudaErrorLaunchFailure              ? "cudaErrorLaunchFailure"
         : code == cudaErrorStreamCaptureUnsupported ? "cudaErrorStreamCaptureUnsupported"
                                                     : "cudaError";
}
const char *cudaGetErrorString(cudaError_t code) { return code == cudaErrorLaunchFailure ? "unspecified launch failure" : "some error"; }
cudaError_t cudaGetLastError() {
  check_process();
  const cudaError_t code = last_error;
  last_error = cudaSuccess;
  return code;
}

/* ---- memory: one mapped range, closed to the host ---- */

static const size_t range_bytes = (size_t)1 << 36, border = 256;
static size_t memory_limit = (size_t)4 << 30, memory_used;
static char *range;
static size_t range_used;
static std::map<void *, size_t> allocations;
static std::set<void *> pinned;

void device_set_memory(size_t bytes) { memory_limit = bytes; }

static size_t page_up(size_t bytes) { return (bytes + ((size_t)2 << 20) - 1) >> 21 << 21; }

static void open_memory() {
  if (range_used) mprotect(range, page_up(range_used), PROT_READ | PROT_WRITE);
}
static void close_memory() {
  if (range_used) mprotect(range, page_up(range_used), PROT_NONE);
}

cudaError_t cudaMalloc(void **pointer, size_t bytes) {
  MAY_FAIL;
  NOT_RECORDED;
  if (bytes > memory_limit - memory_used) return cudaErrorMemoryAllocation;
  if (!range) {
    range = (char *)mmap(NULL, range_bytes + ((size_t)2 << 20), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range == MAP_FAILED) abort();
    range = (char *)page_up((size_t)range);
    madvise(range, range_bytes, MADV_HUGEPAGE); /* opening and closing goes by page */
  }
  const size_t room = (bytes + border - 1) / border * border + border;
  if (range_used + room > range_bytes) return cudaErrorMemoryAllocation;
  char *memory = range + range_used + border;
  range_used += room + border;
  open_memory();
  memset(memory, 0xff, bytes);
  ASAN_POISON_MEMORY_REGION(memory - border, border);
  ASAN_POISON_MEMORY_REGION(memory + bytes, room - bytes);
  close_memory();
  allocations[memory] = bytes;
  memory_used += bytes;
  leaks++;
  *pointer = memory;
  return cudaSuccess;
}

static void drain_all();

cudaError_t cudaFree(void *pointer) {
  check_process();
  if (!pointer) return cudaSuccess;
  NOT_RECORDED;
  drain_all();
  const auto found = allocations.find(pointer);
  if (found == allocations.end()) abort();
  open_memory();
  ASAN_POISON_MEMORY_REGION(pointer, found->second);
  close_memory();
  memory_used -= found->second;
  allocations.erase(found);
  leaks--;
  if (allocations.empty()) { /* start again */
    open_memory();
    ASAN_UNPOISON_MEMORY_REGION(range, range_used);
    close_memory();
    range_used = 0;
  }
  return cudaSuccess;
}

cudaError_t cudaMallocHost(void **pointer, size_t bytes) {
  MAY_FAIL;
  NOT_RECORDED;
  *pointer = malloc(bytes);
  memset(*pointer, 0xff, bytes);
  pinned.insert(*pointer);
  leaks++;
  return cudaSuccess;
}

cudaError_t cudaFreeHost(void *pointer) {
  check_process();
  if (!pointer) return cudaSuccess;
  NOT_RECORDED;
  if (!pinned.erase(pointer)) abort();
  free(pointer);
  leaks--;
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *available, size_t *total) {
  MAY_FAIL;
  *available = memory_limit - memory_used;
  *total = memory_limit;
  return cudaSuccess;
}

/* ---- streams ---- */

static void stay() {}
void (*device_yield)(void) = stay;

struct device_item {
  std::function<void()> work;
  std::function<bool()> ready; /* may be none */
};
struct device_stream {
  std::deque<device_item> queue;
  unsigned long issued, done;
  int number;
};
struct device_event {
  cudaStream_t stream;
  unsigned long position;
};
static std::vector<cudaStream_t> streams;

/* What can be run without waiting for other ranks; whether that was all up to this position */
static bool advance(cudaStream_t stream, unsigned long position) {
  while (stream->done < position) {
    if (stream->queue.front().ready && !stream->queue.front().ready()) return false;
    const std::function<void()> work = stream->queue.front().work;
    stream->queue.pop_front();
    stream->done++;
    work();
  }
  return true;
}

static void drain(cudaStream_t stream, unsigned long position) {
  for (long looks = 0; !advance(stream, position); looks++) {
    if (looks > 20000) {
      fprintf(stderr, "a rank waits for others on the device, and they do not come\n");
      abort();
    }
    device_yield();
  }
}

void device_memory(int open) { open ? open_memory() : close_memory(); }

/* But for what waits for other ranks */
static void drain_all() {
  for (cudaStream_t stream : streams) advance(stream, stream->issued);
}

bool device_enqueue(cudaStream_t stream, std::function<void()> work, std::function<bool()> ready) {
  if (stream == recorded) {
    recording.push_back(std::move(work));
    return !recording_void;
  }
  stream->queue.push_back({std::move(work), std::move(ready)});
  stream->issued++;
  const bool late = stream->number == 0 ? stream_order == DEVICE_FIRST_LATE : stream_order == DEVICE_SECOND_LATE;
  if (!late) advance(stream, stream->issued);
  return true;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned) {
  MAY_FAIL;
  *stream = new device_stream();
  (*stream)->issued = (*stream)->done = 0;
  (*stream)->number = (int)streams.size();
  streams.push_back(*stream);
  leaks++;
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  check_process();
  drain(stream, stream->issued);
  for (size_t i = 0; i < streams.size(); i++)
    if (streams[i] == stream) streams.erase(streams.begin() + (long)i--);
  delete stream;
  leaks--;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  MAY_FAIL;
  if (stream == recorded) NOT_RECORDED;
  drain(stream, stream->issued);
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned) {
  MAY_FAIL;
  *event = new device_event();
  (*event)->stream = NULL;
  leaks++;
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  check_process();
  delete event;
  leaks--;
  return cudaSuccess;
}

/* Real recordings may have events in them; ours have none. */
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  MAY_FAIL;
  if (stream == recorded) NOT_RECORDED;
  event->stream = stream;
  event->position = stream->issued;
  return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  MAY_FAIL;
  if (stream == recorded) NOT_RECORDED;
  const device_event now = *event;
  if (now.stream)
    device_enqueue(
        stream, [] {}, [=] { return advance(now.stream, now.position); });
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  MAY_FAIL;
  NOT_RECORDED;
  if (event->stream) drain(event->stream, event->position);
  return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  MAY_FAIL;
  NOT_RECORDED;
  device_yield();
  return !event->stream || advance(event->stream, event->position) ? cudaSuccess : last_error = cudaErrorNotReady;
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream) {
  MAY_FAIL;
  return unless_void(device_enqueue(stream, [=] {
    open_memory();
    memset(to, value, bytes);
    close_memory();
  }));
}

/* A recording reads and writes the host's memory when it runs. */
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  MAY_FAIL;
  if (stream != recorded && kind == cudaMemcpyHostToDevice && !pinned.count((void *)from)) { /* pageable: read now */
    const std::vector<char> staged((const char *)from, (const char *)from + bytes);
    device_enqueue(stream, [=] {
      open_memory();
      memcpy(to, staged.data(), staged.size());
      close_memory();
    });
    return cudaSuccess;
  }
  const bool taken = device_enqueue(stream, [=] {
    open_memory();
    memcpy(to, from, bytes);
    close_memory();
  });
  if (stream != recorded && kind == cudaMemcpyDeviceToHost && !pinned.count(to)) drain(stream, stream->issued);
  return unless_void(taken);
}

/* ---- recordings ---- */

struct device_graph {
  device_recording work;
};
struct device_graph_exec {
  std::shared_ptr<const device_recording> work; /* may be destroyed while it is on its way */
};

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  MAY_FAIL;
  if (recorded) return last_error = cudaErrorIllegalState;
  recorded = stream;
  recording_void = false;
  return cudaSuccess;
}

/* Ends it, whatever it returns */
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
  *graph = NULL;
  if (recorded != stream) return last_error = cudaErrorIllegalState;
  device_recording work;
  work.swap(recording);
  recorded = NULL;
  MAY_FAIL;
  if (recording_void) return last_error = cudaErrorStreamCaptureInvalidated;
  *graph = new device_graph{std::move(work)};
  leaks++;
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long) {
  MAY_FAIL;
  *exec = new device_graph_exec{std::make_shared<const device_recording>(graph->work)};
  leaks++;
  return cudaSuccess;
}

static size_t replays;
size_t device_replays(void) { return replays; }

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  MAY_FAIL;
  NOT_RECORDED;
  replays++;
  const std::shared_ptr<const device_recording> all = exec->work;
  device_enqueue(stream, [=] {
    for (const std::function<void()> &work : *all) work();
  });
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  leaks--;
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  leaks--;
  return cudaSuccess;
}

/* ---- the device ---- */

/* Shared memory of a block: what a kernel may have without asking, and at all */
static const size_t shared_unasked = 48 << 10;
static size_t shared_limit = 227 << 10;
static std::map<const void *, size_t> shared_asked;

cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute, int value) {
  MAY_FAIL;
  if (value < 0 || (size_t)value > shared_limit) return last_error = cudaErrorInvalidValue;
  shared_asked[kernel] = (size_t)value;
  return cudaSuccess;
}

void device_set_shared(size_t bytes) { shared_limit = bytes; }

bool device_may_share(const void *kernel, size_t bytes) {
  const auto found = shared_asked.find(kernel);
  return bytes <= (found == shared_asked.end() ? shared_unasked : found->second);
}

cudaError_t cudaGetDeviceCount(int *count) {
  MAY_FAIL;
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int *device) {
  MAY_FAIL;
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int) {
  MAY_FAIL;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int) {
  MAY_FAIL;
  snprintf(properties->name, sizeof properties->name, "a GPU on the CPU");
  properties->totalGlobalMem = memory_limit;
  properties->sharedMemPerBlockOptin = shared_limit;
  properties->multiProcessorCount = 1;
  properties->major = 9, properties->minor = 0;
  return cudaSuccess;
}

/* ---- cuBLAS, column-major ---- */

struct device_blas {
  cudaStream_t stream;
  cublasPointerMode_t factors;
};

const char *cublasGetStatusString(cublasStatus_t) { return "some cuBLAS error"; }

#define BLAS_MAY_FAIL \
  if (device_fails()) return CUBLAS_STATUS_EXECUTION_FAILED

cublasStatus_t cublasCreate(cublasHandle_t *handle) {
  BLAS_MAY_FAIL;
  if (recorded) return CUBLAS_STATUS_ALLOC_FAILED;
  *handle = new device_blas();
  leaks++;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasDestroy(cublasHandle_t handle) {
  check_process();
  delete handle;
  leaks--;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream) {
  BLAS_MAY_FAIL;
  handle->stream = stream;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetWorkspace(cublasHandle_t, void *, size_t) {
  BLAS_MAY_FAIL;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetPointerMode(cublasHandle_t handle, cublasPointerMode_t mode) {
  BLAS_MAY_FAIL;
  handle->factors = mode;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetAtomicsMode(cublasHandle_t, cublasAtomicsMode_t) {
  BLAS_MAY_FAIL;
  return CUBLAS_STATUS_SUCCESS;
}

/* 10 bits of mantissa, to nearest */
static float to_tf32(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  bits = (bits + 0x1000) & 0xffffe000u;
  memcpy(&x, &bits, sizeof x);
  return x;
}

static float element(const void *from, cudaDataType_t type, size_t at) {
  return type == CUDA_R_16BF  ? __bfloat162float(((const __nv_bfloat16 *)from)[at])
         : type == CUDA_R_16F ? __half2float(((const __half *)from)[at])
                              : ((const float *)from)[at];
}

static void set_element(void *to, cudaDataType_t type, size_t at, float value) {
  if (type == CUDA_R_16BF)
    ((__nv_bfloat16 *)to)[at] = __float2bfloat16(value);
  else if (type == CUDA_R_16F)
    ((__half *)to)[at] = __float2half_rn(value);
  else
    ((float *)to)[at] = value;
}

static size_t width_of(cudaDataType_t type) { return type == CUDA_R_32F ? 4 : 2; }

/* rows x columns, column-major, packed */
static std::vector<float> operand(const void *from, cudaDataType_t type, int rows, int columns, int ld, cublasComputeType_t compute) {
  std::vector<float> packed((size_t)rows * (size_t)columns);
  for (int j = 0; j < columns; j++)
    for (int i = 0; i < rows; i++) {
      float x = element(from, type, (size_t)j * (size_t)ld + (size_t)i);
      if (compute == CUBLAS_COMPUTE_32F_FAST_TF32) x = to_tf32(x);
      packed[(size_t)j * (size_t)rows + (size_t)i] = x;
    }
  return packed;
}

static void multiply(cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k, float alpha, const void *a, cudaDataType_t type,
                     int lda, const void *b, int ldb, float beta, void *c, cudaDataType_t type_c, int ldc, cublasComputeType_t compute) {
  const int rows_a = op_a == CUBLAS_OP_N ? m : k, rows_b = op_b == CUBLAS_OP_N ? k : n;
  const std::vector<float> left = operand(a, type, rows_a, op_a == CUBLAS_OP_N ? k : m, lda, compute),
                           right = operand(b, type, rows_b, op_b == CUBLAS_OP_N ? n : k, ldb, compute);
  std::vector<float> result((size_t)m * (size_t)n);
#ifdef SPD_HAVE_CBLAS
  cblas_sgemm(102, op_a == CUBLAS_OP_N ? 111 : 112, op_b == CUBLAS_OP_N ? 111 : 112, m, n, k, 1, left.data(), rows_a, right.data(), rows_b,
              0, result.data(), m);
#else
  for (int j = 0; j < n; j++)
    for (int i = 0; i < m; i++) {
      float sum = 0;
      for (int l = 0; l < k; l++)
        sum += (op_a == CUBLAS_OP_N ? left[(size_t)l * (size_t)m + (size_t)i] : left[(size_t)i * (size_t)k + (size_t)l]) *
               (op_b == CUBLAS_OP_N ? right[(size_t)j * (size_t)k + (size_t)l] : right[(size_t)l * (size_t)n + (size_t)j]);
      result[(size_t)j * (size_t)m + (size_t)i] = sum;
    }
#endif
  for (int j = 0; j < n; j++)
    for (int i = 0; i < m; i++) {
      const size_t at = (size_t)j * (size_t)ldc + (size_t)i;
      const float before = beta != 0 ? beta * element(c, type_c, at) : 0;
      set_element(c, type_c, at, alpha * result[(size_t)j * (size_t)m + (size_t)i] + before);
    }
}

cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k,
                                          const void *alpha, const void *a, cudaDataType_t type_a, int lda, long long step_a, const void *b,
                                          cudaDataType_t type_b, int ldb, long long step_b, const void *beta, void *c,
                                          cudaDataType_t type_c, int ldc, long long step_c, int batch, cublasComputeType_t compute,
                                          cublasGemmAlgo_t) {
  BLAS_MAY_FAIL;
  if (m < 0 || n < 0 || k < 0 || lda < (op_a == CUBLAS_OP_N ? m : k) || ldb < (op_b == CUBLAS_OP_N ? k : n) || ldc < m ||
      type_a != type_b || (type_c != CUDA_R_32F && type_c != type_a))
    return CUBLAS_STATUS_INVALID_VALUE;
  const bool on_device = handle->factors == CUBLAS_POINTER_MODE_DEVICE; /* then they are read when the product runs */
  const float *const alpha_at = (const float *)alpha, *const beta_at = (const float *)beta;
  const float alpha_now = on_device ? 0 : *alpha_at, beta_now = on_device ? 0 : *beta_at;
  const auto product = [=] {
    const long long width = (long long)width_of(type_a), width_c = (long long)width_of(type_c);
    open_memory();
    for (int i = 0; i < batch; i++)
      multiply(op_a, op_b, m, n, k, on_device ? *alpha_at : alpha_now, (const char *)a + i * step_a * width, type_a, lda,
               (const char *)b + i * step_b * width, ldb, on_device ? *beta_at : beta_now, (char *)c + i * step_c * width_c, type_c, ldc,
               compute);
    close_memory();
  };
  return device_enqueue(handle->stream, product) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k, const void *alpha,
                            const void *a, cudaDataType_t type_a, int lda, const void *b, cudaDataType_t type_b, int ldb, const void *beta,
                            void *c, cudaDataType_t type_c, int ldc, cublasComputeType_t compute, cublasGemmAlgo_t algorithm) {
  return cublasGemmStridedBatchedEx(handle, op_a, op_b, m, n, k, alpha, a, type_a, lda, 0, b, type_b, ldb, 0, beta, c, type_c, ldc, 0, 1,
                                    compute, algorithm);
}
