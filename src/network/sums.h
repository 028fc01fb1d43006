/* Sums of gradients over the ranks of a group, beside the backward pass that makes the next ones. */
#ifndef SPD_NETWORK_SUMS_H
#define SPD_NETWORK_SUMS_H

#include "network/backend.h"
#include "network/group.h"

struct spd_sums;

struct spd_sums_ops {
  /* x (count), on the backend, is to become its sum over the ranks. It was made by what the backend has been given, and nobody touches it
   * before end(). All ranks begin the same sums in the same order, and the same number of them between two ends. */
  spd_status (*begin)(struct spd_sums *, float *x, size_t count, struct spd_error *);
  /* What the backend is given from now on has the sums. */
  spd_status (*end)(struct spd_sums *, struct spd_error *);
  /* Waits until they are there; fails where waiting for the backend would take for ever. */
  spd_status (*settle)(struct spd_sums *, struct spd_error *);
  void (*destroy)(struct spd_sums *);
};

/* An implementation's own struct starts with this. */
struct spd_sums {
  const struct spd_sums_ops *ops;
};

enum { SPD_MOST_SUMS = 8 }; /* between two ends */

/* Through the host's memory, on a thread of its own where the group allows it; of sums of up to `most` floats between two ends. The same
 * bits on each rank and for any number of them, see spd_group_sum(). */
spd_status spd_sums_create(struct spd_sums **sums, struct spd_group *group, struct spd_backend *backend, size_t most,
                           struct spd_error *error);

#endif
