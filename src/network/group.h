/* Ranks that train together: processes of MPI (src/mpi), or threads that play them in tests. There is one operation, the exchange between
 * two ranks; sums and gathers are made of it, in an order that depends on the number of ranks alone. Their number is a power of two. */
#ifndef SPD_NETWORK_GROUP_H
#define SPD_NETWORK_GROUP_H

#include <stddef.h>

#include "core/status.h"

enum { SPD_HOST_NAME = 64, SPD_MOST_RANKS = 4096 };

struct spd_group;

struct spd_group_ops {
  const char *name;
  /* Sends to another rank and receives from it, either of which may be 0 bytes; the other calls this with the same sizes, seen from its
   * side. Waits no longer than the group's patience. An error says which rank has not answered, or what it has told. */
  spd_status (*exchange)(struct spd_group *, int with, const void *send, size_t send_bytes, void *receive, size_t receive_bytes,
                         struct spd_error *);
  /* Tells all others that this rank cannot go on: their exchanges, now or later, fail with this message. */
  void (*tell)(struct spd_group *, const char *message);
};

/* A group's own struct starts with this. */
struct spd_group {
  const struct spd_group_ops *ops;
  int rank, size;
  int local_rank;                     /* among those on this host */
  int many_threads;                   /* exchange() may be called by another thread than tell() */
  double patience;                    /* seconds */
  const char (*hosts)[SPD_HOST_NAME]; /* (size) */
};

/* One rank, which needs no other */
struct spd_group *spd_group_alone(void);

/* "rank 2 (host b)" */
void spd_group_name(char *name, size_t size, const struct spd_group *group, int rank);

/* Of `all`, each rank has the bytes bounds[rank] ... bounds[rank + 1] - 1; afterwards every rank has all. bounds: (size + 1), the same
 * everywhere. */
spd_status spd_group_gather(struct spd_group *group, void *all, const size_t *bounds, struct spd_error *error);

/* x (count) becomes the sum over ranks, ((0 + 1) + (2 + 3)) + ...: the same bits on each. scratch: (count) */
spd_status spd_group_sum(struct spd_group *group, float *x, float *scratch, size_t count, struct spd_error *error);

#endif
