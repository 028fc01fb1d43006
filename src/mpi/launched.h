/* What launchers of MPI (mpirun, srun with PMI or PMIx) leave in the environment of each process */
#ifndef SPD_MPI_LAUNCHED_H
#define SPD_MPI_LAUNCHED_H

#include <stdlib.h>

static inline int spd_mpi_in_environment(void) {
  static const char *const variables[] = {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"};
  for (size_t i = 0; i < sizeof variables / sizeof *variables; i++)
    if (getenv(variables[i])) return 1;
  return 0;
}

#endif
