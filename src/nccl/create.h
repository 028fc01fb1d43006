/* Sums over ranks by NCCL, from GPU to GPU; also in builds without it. */
#ifndef SPD_NCCL_CREATE_H
#define SPD_NCCL_CREATE_H

#include "network/sums.h"

int spd_nccl_built(void);
/* backend: of CUDA, on a device that no other rank uses. All ranks call this. The sums have the same bits on each rank, but not for another
 * number of them. */
spd_status spd_nccl_create(struct spd_sums **sums, struct spd_group *group, struct spd_backend *backend, struct spd_error *error);

#endif
