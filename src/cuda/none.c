/* Replaces the CUDA backend in a build without CUDA. */
#include "cuda/create.h"
#include "network/backend.h"

int spd_cuda_built(void) { return 0; }

int spd_cuda_forked(void) { return 0; }

int spd_cuda_count(void) { return 0; }

static spd_status refuse(struct spd_error *error) {
  return spd_fail(error, SPD_STATUS_UNSUPPORTED, "this build of spender has no CUDA backend");
}

spd_status spd_cuda_describe(struct spd_cuda_device *description, int device, struct spd_error *error) {
  (void)description;
  (void)device;
  return refuse(error);
}

spd_status spd_cuda_create(struct spd_backend **backend, spd_precision precision, struct spd_error *error) {
  (void)precision;
  *backend = NULL;
  return refuse(error);
}

spd_status spd_cuda_choose(int local_rank, struct spd_error *error) {
  (void)local_rank;
  (void)error;
  return SPD_STATUS_OK;
}

void spd_cuda_release(void) {}
