/* The processes of MPI as a group; also in builds without MPI. */
#ifndef SPD_MPI_CREATE_H
#define SPD_MPI_CREATE_H

#include "network/group.h"

int spd_mpi_built(void);
/* Whether this process was started by MPI's launcher, or MPI has been initialised by another library: only then can it be used. */
int spd_mpi_launched(void);
/* All processes, as one group. They must all call this; the second time they get the same group. patience: seconds that they wait for each
 * other, but for ten times as long now, as they may have started at different times. */
spd_status spd_mpi_join(struct spd_group **group, double patience, struct spd_error *error);
/* When the process ends, or the library is unloaded. If MPI was initialised here, this ends it; after a failure, in a bounded time. */
void spd_mpi_leave(void);

#endif
