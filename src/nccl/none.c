/* Replaces NCCL in a build without it. */
#include "nccl/create.h"

int spd_nccl_built(void) { return 0; }

spd_status spd_nccl_create(struct spd_sums **sums, struct spd_group *group, struct spd_backend *backend, struct spd_error *error) {
  (void)group;
  (void)backend;
  *sums = NULL;
  return spd_fail(error, SPD_STATUS_UNSUPPORTED, "this build of spender has no NCCL");
}
