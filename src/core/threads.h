/* How many threads a parallel region gets. */
#ifndef SPD_CORE_THREADS_H
#define SPD_CORE_THREADS_H

/* wanted, but one in a forked child (R's mclapply), where the OpenMP runtime's threads no longer exist and a second would be
 * waited for in vain. */
int spd_threads(int wanted);

/* Cores that this process may keep busy: those of its affinity mask, or fewer where a control group (a container, Slurm) grants
 * less processor time than they have. At least 1. */
int spd_cores(void);

#endif
