/* Replaces MPI in a build without it. */
#include "mpi/create.h"
#include "mpi/launched.h"

int spd_mpi_built(void) { return 0; }

int spd_mpi_launched(void) { return spd_mpi_in_environment(); }

spd_status spd_mpi_join(struct spd_group **group, double patience, struct spd_error *error) {
  (void)patience;
  *group = NULL;
  return spd_fail(error, SPD_STATUS_UNSUPPORTED, "this build of spender has no MPI (see the README's section on installation)");
}

void spd_mpi_leave(void) {}
