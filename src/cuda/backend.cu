/* The CUDA backend: memory, streams, lanes, errors, and the table of stages. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cuda/cuda.h"

/* ---- errors ---- */

spd_status cuda_fail(struct spd_error *error, cudaError_t code, const char *call) {
  cudaGetLastError();
  if (code == cudaErrorMemoryAllocation) return spd_fail(error, SPD_STATUS_NO_MEMORY, "the GPU is out of memory; try a smaller batch size");
  return spd_fail(error, SPD_STATUS_DEVICE, "CUDA: %s (%s, in %.120s)", cudaGetErrorString(code), cudaGetErrorName(code), call);
}

spd_status cuda_fail_blas(struct spd_error *error, cublasStatus_t code, const char *call) {
  cudaGetLastError();
  if (code == CUBLAS_STATUS_ALLOC_FAILED)
    return spd_fail(error, SPD_STATUS_NO_MEMORY, "cuBLAS found no memory on the GPU; try a smaller batch size");
  return spd_fail(error, SPD_STATUS_DEVICE, "cuBLAS: %s (in %.120s)", cublasGetStatusString(code), call);
}

/* ---- forks: a CUDA context does not survive one, and calls in the child hang or crash ---- */

static pid_t first_user; /* the process that first talked to CUDA here */

static int forked(void) {
  if (first_user == 0) first_user = getpid();
  return first_user != getpid();
}

static spd_status refuse_fork(struct spd_error *error) {
  if (!forked()) return SPD_STATUS_OK;
  return spd_fail(error, SPD_STATUS_UNSUPPORTED,
                  "CUDA cannot be used in a forked process (mclapply); use a cluster of new processes instead "
                  "(parallel::makeCluster), or the CPU");
}

spd_status cuda_use(struct spd_backend *backend, struct spd_error *error) {
  SPD_TRY(refuse_fork(error));
  cudaGetLastError(); /* somebody else's */
  CUDA_TRY(cudaSetDevice(cuda_of(backend)->device));
  return SPD_STATUS_OK;
}

/* ---- memory ---- */

static spd_status cuda_alloc(struct spd_backend *backend, void **pointer, size_t bytes, struct spd_error *error) {
  *pointer = NULL;
  SPD_TRY(cuda_use(backend, error));
  const cudaError_t code = cudaMalloc(pointer, bytes ? bytes : 1);
  if (code == cudaErrorMemoryAllocation) {
    size_t available = 0, total = 0;
    cudaGetLastError(); /* this error is not to be found by the next launch */
    if (cudaMemGetInfo(&available, &total) != cudaSuccess) available = total = 0;
    *pointer = NULL;
    return spd_fail(error, SPD_STATUS_NO_MEMORY,
                    "could not allocate %.1f MB on the GPU, of whose %.0f MB %.0f are free; try a smaller batch size", (double)bytes / 1e6,
                    (double)total / 1e6, (double)available / 1e6);
  }
  if (code != cudaSuccess) return cuda_fail(error, code, "cudaMalloc");
  const cudaError_t zeroed = bytes ? cudaMemsetAsync(*pointer, 0, bytes, cuda_of(backend)->stream) : cudaSuccess;
  if (zeroed != cudaSuccess) {
    cudaFree(*pointer);
    *pointer = NULL;
    return cuda_fail(error, zeroed, "cudaMemsetAsync");
  }
  return SPD_STATUS_OK;
}

static void cuda_free(struct spd_backend *backend, void *pointer) {
  (void)backend;
  if (!forked()) cudaFree(pointer);
}

static spd_status cuda_upload(struct spd_backend *backend, void *to, const void *from, size_t bytes, struct spd_error *error) {
  SPD_TRY(cuda_use(backend, error));
  if (bytes) CUDA_TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, cuda_of(backend)->stream));
  CUDA_TRY(cudaStreamSynchronize(cuda_of(backend)->stream)); /* the caller may use `from` again */
  return SPD_STATUS_OK;
}

static spd_status cuda_download(struct spd_backend *backend, void *to, const void *from, size_t bytes, struct spd_error *error) {
  SPD_TRY(cuda_use(backend, error));
  if (bytes) CUDA_TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, cuda_of(backend)->stream));
  CUDA_TRY(cudaStreamSynchronize(cuda_of(backend)->stream));
  return SPD_STATUS_OK;
}

static spd_status cuda_synchronize(struct spd_backend *backend, struct spd_error *error) {
  SPD_TRY(cuda_use(backend, error));
  CUDA_TRY(cudaStreamSynchronize(cuda_of(backend)->stream));
  return SPD_STATUS_OK;
}

static spd_status cuda_available(struct spd_backend *backend, size_t *bytes, struct spd_error *error) {
  size_t total;
  SPD_TRY(cuda_use(backend, error));
  CUDA_TRY(cudaMemGetInfo(bytes, &total));
  return SPD_STATUS_OK;
}

spd_status cuda_reserve(struct spd_backend *backend, size_t bytes, struct spd_error *error) {
  struct cuda_backend *cuda = cuda_of(backend);
  if (cuda->arena_bytes >= bytes) return SPD_STATUS_OK;
  void *larger = NULL;
  CUDA_TRY(cudaStreamSynchronize(cuda->stream));
  cudaFree(cuda->arena);
  cuda->arena = NULL, cuda->arena_bytes = 0, cuda->generation++;
  SPD_TRY(cuda_alloc(backend, &larger, bytes, error));
  cuda->arena = (char *)larger, cuda->arena_bytes = bytes;
  return SPD_STATUS_OK;
}

/* ---- lanes: a pinned buffer, its copy on the device, and events that tell when either is free ---- */

struct cuda_lane {
  char *device;
  cudaEvent_t sent, taken; /* the copy is complete; the computation has read it */
};

static void cuda_lane_close(struct spd_backend *backend, struct spd_lane *lane) {
  struct cuda_lane *own = (struct cuda_lane *)lane->backend;
  (void)backend;
  if (own && !forked()) {
    if (own->sent) cudaEventSynchronize(own->sent); /* the pinned buffer may be on its way */
    if (own->sent) cudaEventDestroy(own->sent);
    if (own->taken) cudaEventDestroy(own->taken);
    cudaFree(own->device);
    if (lane->host) cudaFreeHost(lane->host);
  }
  free(own);
  lane->host = lane->backend = NULL;
}

static spd_status lane_parts(struct spd_backend *backend, struct spd_lane *lane, struct cuda_lane *own, struct spd_error *error) {
  void *device = NULL;
  if (cudaMallocHost(&lane->host, lane->bytes) != cudaSuccess) {
    cudaGetLastError();
    lane->host = NULL;
    return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate %.1f MB of page-locked memory for uploads; try a smaller batch size",
                    (double)lane->bytes / 1e6);
  }
  SPD_TRY(cuda_alloc(backend, &device, lane->bytes, error));
  own->device = (char *)device;
  CUDA_TRY(cudaEventCreateWithFlags(&own->sent, cudaEventDisableTiming));
  CUDA_TRY(cudaEventCreateWithFlags(&own->taken, cudaEventDisableTiming));
  CUDA_TRY(cudaEventRecord(own->taken, cuda_of(backend)->stream)); /* after alloc has zeroed it */
  return SPD_STATUS_OK;
}

static spd_status cuda_lane_open(struct spd_backend *backend, struct spd_lane *lane, size_t bytes, struct spd_error *error) {
  struct cuda_lane *own = (struct cuda_lane *)calloc(1, sizeof *own);
  lane->host = NULL;
  lane->bytes = bytes;
  lane->backend = own;
  if (!own) return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate a lane");
  const spd_status status = lane_parts(backend, lane, own, error);
  if (status != SPD_STATUS_OK) cuda_lane_close(backend, lane);
  return status;
}

static spd_status cuda_lane_fill(struct spd_backend *backend, struct spd_lane *lane, struct spd_error *error) {
  SPD_TRY(cuda_use(backend, error));
  CUDA_TRY(cudaEventSynchronize(((struct cuda_lane *)lane->backend)->sent));
  return SPD_STATUS_OK;
}

static spd_status cuda_lane_send(struct spd_backend *backend, struct spd_lane *lane, size_t bytes, struct spd_error *error) {
  struct cuda_backend *cuda = cuda_of(backend);
  struct cuda_lane *own = (struct cuda_lane *)lane->backend;
  SPD_TRY(cuda_use(backend, error));
  CUDA_TRY(cudaStreamWaitEvent(cuda->copies, own->taken, 0));
  CUDA_TRY(cudaMemcpyAsync(own->device, lane->host, bytes, cudaMemcpyHostToDevice, cuda->copies));
  CUDA_TRY(cudaEventRecord(own->sent, cuda->copies));
  return SPD_STATUS_OK;
}

static spd_status cuda_lane_take(struct spd_backend *backend, struct spd_lane *lane, void *to, size_t offset, size_t bytes,
                                 struct spd_error *error) {
  struct cuda_backend *cuda = cuda_of(backend);
  struct cuda_lane *own = (struct cuda_lane *)lane->backend;
  SPD_TRY(cuda_use(backend, error));
  CUDA_TRY(cudaStreamWaitEvent(cuda->stream, own->sent, 0));
  CUDA_TRY(cudaMemcpyAsync(to, own->device + offset, bytes, cudaMemcpyDeviceToDevice, cuda->stream));
  CUDA_TRY(cudaEventRecord(own->taken, cuda->stream));
  return SPD_STATUS_OK;
}

/* ---- shared by the stages ---- */

enum { SUM_WARPS = 16 };

static __global__ void sum_rows(float *out, const float *partial, size_t n, size_t count) {
  __shared__ double scratch[SUM_WARPS][CUDA_LANES];
  const size_t i = (size_t)blockIdx.x * CUDA_LANES + threadIdx.x;
  double sum = 0;
  if (i < count)
    cuda_stream<8>(
        threadIdx.y, (unsigned)n, SUM_WARPS, [&](unsigned row) { return partial[row * count + i]; },
        [&](unsigned, float x) { sum += (double)x; });
  sum = cuda_column_sum<SUM_WARPS>(scratch, sum);
  if (threadIdx.y == 0 && i < count) out[i] = (float)sum;
}

spd_status cuda_sum_rows(struct spd_backend *backend, float *out, const float *partial, size_t n, size_t count, struct spd_error *error) {
  CUDA_LAUNCH(sum_rows, (count + CUDA_LANES - 1) / CUDA_LANES, dim3(CUDA_LANES, SUM_WARPS), out, partial, n, count);
  return SPD_STATUS_OK;
}

static __global__ void gather(float *y, const float *x, const uint64_t *rows, size_t width) {
  const float *from = x + rows[blockIdx.x] * width;
  float *to = y + blockIdx.x * width;
  cuda_stream<8>(
      threadIdx.x, (unsigned)width, blockDim.x, [&](unsigned i) { return from[i]; }, [&](unsigned i, float value) { to[i] = value; });
}

static spd_status cuda_gather(struct spd_backend *backend, float *y, const float *x, const uint64_t *rows, size_t width, size_t n,
                              struct spd_error *error) {
  SPD_TRY(cuda_use(backend, error));
  CUDA_LAUNCH(gather, n, CUDA_THREADS, y, x, rows, width);
  return SPD_STATUS_OK;
}

static void cuda_leave(struct spd_backend *backend) { (void)backend; }

/* ---- recordings: the launches of a pass as a CUDA graph, which is launched as one. Launches have pointers into the arena: when that has
 * moved, recordings are void. ---- */

struct spd_recording {
  cudaGraphExec_t graph;    /* NULL: not recorded yet */
  unsigned long generation; /* of the arena */
};

static void cuda_forget(struct spd_backend *backend, struct spd_recording *recording) {
  (void)backend;
  if (recording && recording->graph && !forked()) cudaGraphExecDestroy(recording->graph);
  free(recording);
}

/* Launches nothing */
static spd_status record(cudaGraphExec_t *to, cudaStream_t stream, spd_status (*work)(const void *, struct spd_error *),
                         const void *context, struct spd_error *error) {
  cudaGraph_t graph = NULL;
  CUDA_TRY(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  const spd_status status = work(context, error);
  cudaError_t code = cudaStreamEndCapture(stream, &graph);
  if (status == SPD_STATUS_OK && code == cudaSuccess) code = cudaGraphInstantiateWithFlags(to, graph, 0);
  if (graph) cudaGraphDestroy(graph);
  if (status != SPD_STATUS_OK) {
    cudaGetLastError(); /* that the recording is void is not the next launch's error */
    return status;
  }
  return code == cudaSuccess ? SPD_STATUS_OK : cuda_fail(error, code, "a recording");
}

/* The first time only runs it: the arena grows to its size, and cuBLAS loads its kernels, which is not possible while launches are
 * recorded. The second time records. */
static spd_status cuda_repeat(struct spd_backend *backend, struct spd_recording **recording,
                              spd_status (*work)(const void *, struct spd_error *), const void *context, struct spd_error *error) {
  struct cuda_backend *cuda = cuda_of(backend);
  struct spd_recording *known = *recording;
  if (!backend->records) return work(context, error);
  if (!known || known->generation != cuda->generation) {
    cuda_forget(backend, known);
    *recording = NULL;
    SPD_TRY(work(context, error));
    *recording = known = (struct spd_recording *)calloc(1, sizeof *known); /* if there is none, the next time is the first again */
    if (known) known->generation = cuda->generation;
    return SPD_STATUS_OK;
  }
  if (!known->graph) {
    cudaGraphExec_t graph = NULL;
    SPD_TRY(record(&graph, cuda->stream, work, context, error));
    known->graph = graph;
  }
  CUDA_TRY(cudaGraphLaunch(known->graph, cuda->stream));
  return SPD_STATUS_OK;
}

/* ---- the table ---- */

static void cuda_destroy(struct spd_backend *backend); /* below, beside what opens one */

static const struct spd_backend_ops cuda_ops = {
    /* .name = */ "cuda",
    /* .shares_host_memory = */ 0,
    /* .destroy = */ cuda_destroy,
    /* .alloc = */ cuda_alloc,
    /* .free = */ cuda_free,
    /* .upload = */ cuda_upload,
    /* .download = */ cuda_download,
    /* .synchronize = */ cuda_synchronize,
    /* .available = */ cuda_available,
    /* .lane_open = */ cuda_lane_open,
    /* .lane_close = */ cuda_lane_close,
    /* .lane_fill = */ cuda_lane_fill,
    /* .lane_send = */ cuda_lane_send,
    /* .lane_take = */ cuda_lane_take,
    /* .enter = */ cuda_use,
    /* .leave = */ cuda_leave,
    /* .repeat = */ cuda_repeat,
    /* .forget = */ cuda_forget,
    /* .stem_forward = */ cuda_stem_forward,
    /* .stem_backward = */ cuda_stem_backward,
    /* .block_forward = */ cuda_block_forward,
    /* .block_backward = */ cuda_block_backward,
    /* .attend_forward = */ cuda_attend_forward,
    /* .attend_backward = */ cuda_attend_backward,
    /* .dense_forward = */ cuda_dense_forward,
    /* .dense_backward = */ cuda_dense_backward,
    /* .resample_forward = */ cuda_resample_forward,
    /* .resample_backward = */ cuda_resample_backward,
    /* .lsf_forward = */ cuda_lsf_forward,
    /* .lsf_backward = */ cuda_lsf_backward,
    /* .resolution_forward = */ cuda_resolution_forward,
    /* .resolution_backward = */ cuda_resolution_backward,
    /* .gaussians = */ cuda_gaussians,
    /* .calibrate_forward = */ cuda_calibrate_forward,
    /* .calibrate_backward = */ cuda_calibrate_backward,
    /* .loss_forward = */ cuda_loss_forward,
    /* .loss_backward = */ cuda_loss_backward,
    /* .augment = */ cuda_augment,
    /* .similarity_forward = */ cuda_similarity_forward,
    /* .similarity_backward = */ cuda_similarity_backward,
    /* .consistency_forward = */ cuda_consistency_forward,
    /* .consistency_backward = */ cuda_consistency_backward,
    /* .dense_tangents = */ cuda_dense_tangents,
    /* .normal = */ cuda_normal,
    /* .spread = */ cuda_spread,
    /* .widen = */ cuda_widen,
    /* .narrow = */ cuda_narrow,
    /* .gather = */ cuda_gather,
    /* .log_ivar = */ cuda_log_ivar,
    /* .add = */ cuda_add,
    /* .clip = */ cuda_clip,
    /* .average = */ cuda_average,
    /* .exchange = */ cuda_exchange,
    /* .adam = */ cuda_adam,
};

/* ---- devices ---- */

extern "C" int spd_cuda_built(void) { return 1; }

extern "C" int spd_cuda_forked(void) { return forked(); }

extern "C" int spd_cuda_count(void) {
  int count = 0;
  if (forked()) return 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return count;
}

extern "C" spd_status spd_cuda_describe(struct spd_cuda_device *description, int device, struct spd_error *error) {
  enum { KNOWN = 16 };
  static struct spd_cuda_device known[KNOWN]; /* the driver takes milliseconds to answer, always the same */
  struct cudaDeviceProp properties;
  SPD_TRY(refuse_fork(error));
  if (device >= 0 && device < KNOWN && known[device].memory) {
    *description = known[device];
    return SPD_STATUS_OK;
  }
  CUDA_TRY(cudaGetDeviceProperties(&properties, device));
  memset(description, 0, sizeof *description);
  snprintf(description->name, sizeof description->name, "%s", properties.name);
  description->memory = properties.totalGlobalMem;
  description->major = properties.major, description->minor = properties.minor;
  if (device < KNOWN) known[device] = *description;
  return SPD_STATUS_OK;
}

/* ---- opening takes tenths of a second: a backend that is destroyed is kept, synchronised, and the next one takes it over ---- */

enum { KEPT = 2 };
static struct cuda_backend *kept[KEPT];
#ifndef CUDA_KEPT_ARENA
#define CUDA_KEPT_ARENA ((size_t)64 << 20) /* bytes; a larger one is given back */
#endif

static spd_status open_device(struct spd_backend *backend, struct spd_error *error) {
  const size_t workspace = (size_t)32 << 20; /* cuBLAS's recommendation for Hopper; a fixed size keeps its choice of algorithms the same */
  struct cuda_backend *cuda = cuda_of(backend);
  struct cudaDeviceProp properties;
  CUDA_TRY(cudaGetDeviceProperties(&properties, cuda->device));
  cuda->multiprocessors = properties.multiProcessorCount;
  cuda->shared_bytes = properties.sharedMemPerBlockOptin;
  CUDA_TRY(cudaStreamCreateWithFlags(&cuda->stream, cudaStreamNonBlocking));
  CUDA_TRY(cudaStreamCreateWithFlags(&cuda->copies, cudaStreamNonBlocking));
  SPD_TRY(cuda_alloc(backend, &cuda->blas_workspace, workspace, error));
  CUDA_TRY_BLAS(cublasCreate(&cuda->blas));
  CUDA_TRY_BLAS(cublasSetStream(cuda->blas, cuda->stream)); /* first: it takes the workspace away */
  CUDA_TRY_BLAS(cublasSetWorkspace(cuda->blas, cuda->blas_workspace, workspace));
  CUDA_TRY_BLAS(cublasSetAtomicsMode(cuda->blas, CUBLAS_ATOMICS_NOT_ALLOWED));
  return SPD_STATUS_OK;
}

/* In a forked child what is on the device is the parent's. */
static void close_device(struct cuda_backend *cuda) {
  if (!forked()) {
    if (cuda->stream) cudaStreamSynchronize(cuda->stream);
    if (cuda->blas) cublasDestroy(cuda->blas);
    cudaFree(cuda->blas_workspace);
    cudaFree(cuda->arena);
    if (cuda->copies) cudaStreamDestroy(cuda->copies);
    if (cuda->stream) cudaStreamDestroy(cuda->stream);
  }
  free(cuda);
}

/* Nothing of the last owner may be under way, or left in cuBLAS by a failed product. */
static int may_be_kept(const struct cuda_backend *cuda) {
  return !forked() && cudaStreamSynchronize(cuda->stream) == cudaSuccess && cudaStreamSynchronize(cuda->copies) == cudaSuccess &&
         cublasSetPointerMode(cuda->blas, CUBLAS_POINTER_MODE_HOST) == CUBLAS_STATUS_SUCCESS;
}

static void cuda_destroy(struct spd_backend *backend) {
  struct cuda_backend *cuda = cuda_of(backend);
  int slot = 0;
  while (slot < KEPT && kept[slot]) slot++;
  if (slot == KEPT || !may_be_kept(cuda)) {
    close_device(cuda);
    return;
  }
  if (cuda->arena_bytes > CUDA_KEPT_ARENA) {
    cudaFree(cuda->arena);
    cuda->arena = NULL, cuda->arena_bytes = 0, cuda->generation++;
  }
  kept[slot] = cuda;
}

extern "C" void spd_cuda_release(void) {
  for (int slot = 0; slot < KEPT; slot++) {
    if (kept[slot]) close_device(kept[slot]);
    kept[slot] = NULL;
  }
}

/* One that is open on this device already, or a new one */
static spd_status take_device(struct cuda_backend **out, int device, struct spd_error *error) {
  for (int slot = 0; slot < KEPT; slot++)
    if (kept[slot] && kept[slot]->device == device) {
      *out = kept[slot];
      kept[slot] = NULL;
      return SPD_STATUS_OK;
    }
  struct cuda_backend *cuda = (struct cuda_backend *)calloc(1, sizeof *cuda);
  if (!cuda) return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate the CUDA backend");
  cuda->device = device;
  const spd_status status = open_device(&cuda->base, error);
  if (status != SPD_STATUS_OK) {
    close_device(cuda);
    return status;
  }
  *out = cuda;
  return SPD_STATUS_OK;
}

extern "C" spd_status spd_cuda_choose(int local_rank, struct spd_error *error) {
  const int count = spd_cuda_count();
  if (count < 2) return SPD_STATUS_OK;
  CUDA_TRY(cudaSetDevice(local_rank % count));
  return SPD_STATUS_OK;
}

extern "C" spd_status spd_cuda_create(struct spd_backend **backend, spd_precision precision, struct spd_error *error) {
  int count = 0, device = 0;
  struct spd_cuda_device description;
  struct cuda_backend *cuda = NULL;
  *backend = NULL;
  SPD_TRY(refuse_fork(error));
  const cudaError_t code = cudaGetDeviceCount(&count);
  if (code != cudaSuccess || count == 0) {
    cudaGetLastError();
    return spd_fail(error, SPD_STATUS_UNSUPPORTED, "there is no CUDA device here (%s)",
                    code == cudaSuccess ? "none visible" : cudaGetErrorString(code));
  }
  CUDA_TRY(cudaGetDevice(&device));
  SPD_TRY(spd_cuda_describe(&description, device, error));
  if (precision == SPD_PRECISION_BF16 && description.major < 8)
    return spd_fail(error, SPD_STATUS_UNSUPPORTED, "%s has no bf16 products (compute capability %d.%d, 8.0 is needed)", description.name,
                    description.major, description.minor);
  SPD_TRY(take_device(&cuda, device, error));
  cuda->base.ops = &cuda_ops;
  cuda->base.plane_width = precision == SPD_PRECISION_FP16 || precision == SPD_PRECISION_BF16 ? 2 : sizeof(float);
  cuda->base.keeps_winners = cuda->base.records = 1;
  cuda->precision = precision;
  *backend = &cuda->base;
  return SPD_STATUS_OK;
}
