/* Sums over ranks by NCCL. The communicator does not block: what it is asked for may be in progress for a while, which is looked at for as
 * long as the group's patience lasts; then it is aborted. Sums have a stream of their own, which waits for the backward pass by an event,
 * and for which the update waits by another. */
#include <nccl.h>
#include <time.h>
#include <unistd.h>

#include "cuda/cuda.h"
extern "C" {
#include "nccl/create.h"
}

struct nccl_sums {
  struct spd_sums base;
  struct spd_group *group;
  struct spd_backend *backend;
  ncclComm_t comm; /* NULL: there is none, or not any more */
  cudaStream_t stream;
  cudaEvent_t ready, done; /* what is to be summed; the sums */
  int open;                /* sums were asked for that nobody has waited for */
  pid_t process;
};

static struct nccl_sums *nccl_of(struct spd_sums *sums) { return (struct nccl_sums *)sums; }

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void pause_between(unsigned looks) {
  const struct timespec some = {0, 20000};
  if (looks > 100) nanosleep(&some, NULL);
}

/* What is under way ends somehow, so that nothing waits for it. */
static void give_up(struct nccl_sums *s) {
  if (s->comm) ncclCommAbort(s->comm);
  s->comm = NULL;
}

static spd_status nccl_fail(struct nccl_sums *s, struct spd_error *error, ncclResult_t code, const char *what) {
  give_up(s);
  return spd_fail(error, SPD_STATUS_DEVICE, "%s: NCCL says %s", what, ncclGetErrorString(code));
}

/* The group knows which rank is missing, if one is. */
static spd_status nobody_answers(struct nccl_sums *s, struct spd_error *error) {
  size_t bounds[SPD_MOST_RANKS + 1];
  char all[SPD_MOST_RANKS] = {0};
  give_up(s);
  for (int rank = 0; rank <= s->group->size; rank++) bounds[rank] = (size_t)rank;
  SPD_TRY(spd_group_gather(s->group, all, bounds, error));
  return spd_fail(error, SPD_STATUS_DEVICE, "the sums over ranks have not ended for %.0f seconds: the network between GPUs has stopped",
                  s->group->patience);
}

/* code: of a call that may still be in progress */
static spd_status finish_call(struct nccl_sums *s, ncclResult_t code, const char *what, struct spd_error *error) {
  const double until = now() + s->group->patience;
  for (unsigned looks = 0; code == ncclInProgress; looks++) {
    if (now() > until) return nobody_answers(s, error);
    const ncclResult_t asked = ncclCommGetAsyncError(s->comm, &code);
    if (asked != ncclSuccess) return nccl_fail(s, error, asked, what);
    pause_between(looks);
  }
  return code == ncclSuccess ? SPD_STATUS_OK : nccl_fail(s, error, code, what);
}

static spd_status nccl_begin(struct spd_sums *sums, float *x, size_t count, struct spd_error *error) {
  struct nccl_sums *s = nccl_of(sums);
  SPD_TRY(cuda_use(s->backend, error));
  if (!s->comm) return spd_fail(error, SPD_STATUS_DEVICE, "the ranks have parted");
  s->open = 1;
  CUDA_TRY(cudaEventRecord(s->ready, cuda_of(s->backend)->stream));
  CUDA_TRY(cudaStreamWaitEvent(s->stream, s->ready, 0));
  return finish_call(s, ncclAllReduce(x, x, count, ncclFloat, ncclSum, s->comm, s->stream), "a sum over ranks", error);
}

static spd_status nccl_end(struct spd_sums *sums, struct spd_error *error) {
  struct nccl_sums *s = nccl_of(sums);
  CUDA_TRY(cudaEventRecord(s->done, s->stream));
  CUDA_TRY(cudaStreamWaitEvent(cuda_of(s->backend)->stream, s->done, 0));
  return SPD_STATUS_OK;
}

static spd_status nccl_settle(struct spd_sums *sums, struct spd_error *error) {
  struct nccl_sums *s = nccl_of(sums);
  const double until = now() + s->group->patience;
  if (!s->open) return SPD_STATUS_OK;
  if (!s->comm) return spd_fail(error, SPD_STATUS_DEVICE, "the ranks have parted");
  for (unsigned looks = 0;; looks++) {
    const cudaError_t code = cudaEventQuery(s->done);
    if (code == cudaSuccess) break;
    if (code != cudaErrorNotReady) return cuda_fail(error, code, "cudaEventQuery");
    cudaGetLastError();
    ncclResult_t state = ncclSuccess;
    const ncclResult_t asked = ncclCommGetAsyncError(s->comm, &state);
    if (asked != ncclSuccess) return nccl_fail(s, error, asked, "a sum over ranks");
    if (state != ncclSuccess && state != ncclInProgress) return nccl_fail(s, error, state, "a sum over ranks");
    if (now() > until) return nobody_answers(s, error);
    pause_between(looks);
  }
  s->open = 0;
  return SPD_STATUS_OK;
}

/* Without a word to the others, who may be gone: what this rank has asked for has ended, or does not matter any more. */
static void nccl_destroy(struct spd_sums *sums) {
  struct nccl_sums *s = nccl_of(sums);
  if (!s || s->process != getpid()) return;
  give_up(s);
  if (s->done) cudaEventDestroy(s->done);
  if (s->ready) cudaEventDestroy(s->ready);
  if (s->stream) cudaStreamDestroy(s->stream);
  free(s);
}

/* The first rank's id goes to all, or its failure. */
struct introduction {
  int made;
  ncclUniqueId id;
};

static spd_status introduce(ncclUniqueId *id, struct nccl_sums *s, struct spd_error *error) {
  const size_t n = (size_t)s->group->size;
  size_t bounds[SPD_MOST_RANKS + 1] = {0};
  struct introduction first;
  ncclResult_t code = ncclSuccess;
  memset(&first, 0, sizeof first);
  if (s->group->rank == 0) code = ncclGetUniqueId(&first.id);
  first.made = code == ncclSuccess;
  for (size_t rank = 1; rank <= n; rank++) bounds[rank] = sizeof first;
  SPD_TRY(spd_group_gather(s->group, &first, bounds, error)); /* the others have nothing to say */
  if (code != ncclSuccess) return nccl_fail(s, error, code, "an id of the sums over ranks");
  if (!first.made) return spd_fail(error, SPD_STATUS_DEVICE, "the first rank could not begin the sums over ranks");
  *id = first.id;
  return SPD_STATUS_OK;
}

static spd_status open_sums(struct nccl_sums *s, struct spd_error *error) {
  ncclUniqueId id;
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  SPD_TRY(cuda_use(s->backend, error));
  CUDA_TRY(cudaStreamCreateWithFlags(&s->stream, cudaStreamNonBlocking));
  CUDA_TRY(cudaEventCreateWithFlags(&s->ready, cudaEventDisableTiming));
  CUDA_TRY(cudaEventCreateWithFlags(&s->done, cudaEventDisableTiming));
  SPD_TRY(introduce(&id, s, error));
  return finish_call(s, ncclCommInitRankConfig(&s->comm, s->group->size, id, s->group->rank, &config),
                     "the sums over ranks could not begin (each rank needs a GPU of its own)", error);
}

extern "C" int spd_nccl_built(void) { return 1; }

extern "C" spd_status spd_nccl_create(struct spd_sums **out, struct spd_group *group, struct spd_backend *backend,
                                      struct spd_error *error) {
  static const struct spd_sums_ops ops = {/* .begin = */ nccl_begin,
                                          /* .end = */ nccl_end,
                                          /* .settle = */ nccl_settle,
                                          /* .destroy = */ nccl_destroy};
  *out = NULL;
  struct nccl_sums *s = (struct nccl_sums *)calloc(1, sizeof *s);
  if (!s) return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate the sums over ranks");
  s->base.ops = &ops;
  s->group = group;
  s->backend = backend;
  s->process = getpid();
  const spd_status status = open_sums(s, error);
  if (status != SPD_STATUS_OK) {
    nccl_destroy(&s->base);
    return status;
  }
  *out = &s->base;
  return SPD_STATUS_OK;
}
