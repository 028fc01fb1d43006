/* The CPU backend: memory, threads, and the table of stages. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "cpu/cpu.h"
#include "cpu/create.h"

static void cpu_destroy(struct spd_backend *backend) {
  cpu_fourier_free(backend);
  free(cpu_of(backend)->arena);
  free(backend);
}

static spd_status cpu_alloc(struct spd_backend *backend, void **pointer, size_t bytes, struct spd_error *error) {
  (void)backend;
  *pointer = spd_memory_new(bytes);
  if (!*pointer) return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate %.1f MB; try a smaller batch size", (double)bytes / 1e6);
  memset(*pointer, 0, bytes);
  return SPD_STATUS_OK;
}

static void cpu_free(struct spd_backend *backend, void *pointer) {
  (void)backend;
  free(pointer);
}

static spd_status cpu_copy(struct spd_backend *backend, void *to, const void *from, size_t bytes, struct spd_error *error) {
  (void)backend;
  (void)error;
  if (bytes) memcpy(to, from, bytes);
  return SPD_STATUS_OK;
}

static spd_status cpu_synchronize(struct spd_backend *backend, struct spd_error *error) {
  (void)backend;
  (void)error;
  return SPD_STATUS_OK;
}

static spd_status cpu_available(struct spd_backend *backend, size_t *bytes, struct spd_error *error) {
  (void)backend;
  (void)error;
  *bytes = SIZE_MAX; /* the data is in memory already */
  return SPD_STATUS_OK;
}

/* A lane's twin is the host's buffer itself. */
static spd_status cpu_lane_open(struct spd_backend *backend, struct spd_lane *lane, size_t bytes, struct spd_error *error) {
  lane->bytes = bytes;
  lane->backend = NULL;
  return cpu_alloc(backend, &lane->host, bytes, error);
}

static void cpu_lane_close(struct spd_backend *backend, struct spd_lane *lane) {
  (void)backend;
  free(lane->host);
  lane->host = NULL;
}

static spd_status cpu_lane_fill(struct spd_backend *backend, struct spd_lane *lane, struct spd_error *error) {
  (void)backend;
  (void)lane;
  (void)error;
  return SPD_STATUS_OK;
}

static spd_status cpu_lane_send(struct spd_backend *backend, struct spd_lane *lane, size_t bytes, struct spd_error *error) {
  (void)bytes;
  return cpu_lane_fill(backend, lane, error);
}

static spd_status cpu_lane_take(struct spd_backend *backend, struct spd_lane *lane, void *to, size_t offset, size_t bytes,
                                struct spd_error *error) {
  return cpu_copy(backend, to, (const char *)lane->host + offset, bytes, error);
}

/* Planes are floats here, and their scale is 1. */
static spd_status cpu_widen(struct spd_backend *backend, float *y, struct spd_plane x, size_t count, struct spd_error *error) {
  return cpu_copy(backend, y, x.at, count * sizeof *y, error);
}

static spd_status cpu_narrow(struct spd_backend *backend, struct spd_plane y, const float *x, float scale, size_t count,
                             struct spd_error *error) {
  (void)scale;
  return cpu_copy(backend, y.at, x, count * sizeof *x, error);
}

struct gathering {
  float *y;
  const float *x;
  const uint64_t *rows;
  size_t width;
};

static void gather_row(const void *context, size_t i, int thread) {
  (void)thread;
  const struct gathering *g = context;
  memcpy(g->y + i * g->width, g->x + g->rows[i] * g->width, g->width * sizeof *g->y);
}

static spd_status cpu_gather(struct spd_backend *backend, float *y, const float *x, const uint64_t *rows, size_t width, size_t n,
                             struct spd_error *error) {
  (void)error;
  const struct gathering gathering = {y, x, rows, width};
  cpu_parallel(backend, n, gather_row, &gathering);
  return SPD_STATUS_OK;
}

static spd_status cpu_enter(struct spd_backend *backend, struct spd_error *error) {
  (void)backend;
  (void)error;
  return SPD_STATUS_OK;
}

static void cpu_leave(struct spd_backend *backend) { (void)backend; }

static spd_status cpu_repeat(struct spd_backend *backend, struct spd_recording **recording,
                             spd_status (*work)(const void *context, struct spd_error *), const void *context, struct spd_error *error) {
  (void)backend;
  (void)recording;
  return work(context, error);
}

static void cpu_forget(struct spd_backend *backend, struct spd_recording *recording) {
  (void)backend;
  (void)recording;
}

static const struct spd_backend_ops cpu_ops = {
    /* .name = */ "cpu",
    /* .shares_host_memory = */ 1,
    /* .destroy = */ cpu_destroy,
    /* .alloc = */ cpu_alloc,
    /* .free = */ cpu_free,
    /* .upload = */ cpu_copy,
    /* .download = */ cpu_copy,
    /* .synchronize = */ cpu_synchronize,
    /* .available = */ cpu_available,
    /* .lane_open = */ cpu_lane_open,
    /* .lane_close = */ cpu_lane_close,
    /* .lane_fill = */ cpu_lane_fill,
    /* .lane_send = */ cpu_lane_send,
    /* .lane_take = */ cpu_lane_take,
    /* .enter = */ cpu_enter,
    /* .leave = */ cpu_leave,
    /* .repeat = */ cpu_repeat,
    /* .forget = */ cpu_forget,
    /* .stem_forward = */ cpu_stem_forward,
    /* .stem_backward = */ cpu_stem_backward,
    /* .block_forward = */ cpu_block_forward,
    /* .block_backward = */ cpu_block_backward,
    /* .attend_forward = */ cpu_attend_forward,
    /* .attend_backward = */ cpu_attend_backward,
    /* .dense_forward = */ cpu_dense_forward,
    /* .dense_backward = */ cpu_dense_backward,
    /* .resample_forward = */ cpu_resample_forward,
    /* .resample_backward = */ cpu_resample_backward,
    /* .lsf_forward = */ cpu_lsf_forward,
    /* .lsf_backward = */ cpu_lsf_backward,
    /* .resolution_forward = */ cpu_resolution_forward,
    /* .resolution_backward = */ cpu_resolution_backward,
    /* .gaussians = */ cpu_gaussians,
    /* .calibrate_forward = */ cpu_calibrate_forward,
    /* .calibrate_backward = */ cpu_calibrate_backward,
    /* .loss_forward = */ cpu_loss_forward,
    /* .loss_backward = */ cpu_loss_backward,
    /* .augment = */ cpu_augment,
    /* .similarity_forward = */ cpu_similarity_forward,
    /* .similarity_backward = */ cpu_similarity_backward,
    /* .consistency_forward = */ cpu_consistency_forward,
    /* .consistency_backward = */ cpu_consistency_backward,
    /* .dense_tangents = */ cpu_dense_tangents,
    /* .normal = */ cpu_normal,
    /* .spread = */ cpu_spread,
    /* .widen = */ cpu_widen,
    /* .narrow = */ cpu_narrow,
    /* .gather = */ cpu_gather,
    /* .log_ivar = */ cpu_log_ivar,
    /* .add = */ cpu_add,
    /* .clip = */ cpu_clip,
    /* .average = */ cpu_average,
    /* .exchange = */ cpu_exchange,
    /* .adam = */ cpu_adam,
};

const char *spd_cpu_instructions(void) { return cpu_kernels_available(0)->name; }

spd_status spd_cpu_create(struct spd_backend **backend, int threads, struct spd_error *error) {
  *backend = NULL;
  if (threads < 1 || threads > 4096)
    return spd_fail(error, SPD_STATUS_INVALID, "the number of threads must be between 1 and 4096, not %d", threads);
  struct cpu_backend *cpu = calloc(1, sizeof *cpu);
  if (!cpu) return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate the CPU backend");
  cpu->base.ops = &cpu_ops;
  cpu->base.plane_width = sizeof(float);
  cpu->threads = threads;
  cpu->kernels = cpu_kernels_available(0);
  *backend = &cpu->base;
  return SPD_STATUS_OK;
}
