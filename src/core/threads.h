/* Work shared out among threads, and how many there may be.
 *
 * The threads are the package's own and not OpenMP's, whose waiting cannot be set in a process that runs already: they would spin
 * at the end of every loop, and beside another busy process two of them are slower than one. Here who has nothing to do sleeps
 * after some microseconds, and pieces are taken one at a time, so a core that is shared with others takes fewer. */
#ifndef SPD_CORE_THREADS_H
#define SPD_CORE_THREADS_H

#include <stddef.h>

/* One piece of a loop. thread: who has it, from 0 to one less than the loop's threads; nobody else has that number meanwhile. */
typedef void spd_piece(const void *context, size_t piece, int thread);

/* Calls work(context, piece, thread) once for each piece from 0 to pieces - 1, on the calling thread and up to threads - 1 others,
 * and returns when all are done. Pieces begin in order. Any thread may call this, also within a piece. Threads that cannot be had
 * are done without. A forked child (R's mclapply) has none but the caller. */
void spd_parallel(int threads, size_t pieces, spd_piece *work, const void *context);

/* wanted, but one in a forked child, and never more than there are pieces: what spd_parallel() will use at most. */
int spd_threads(int wanted, size_t pieces);

/* Ends the threads, before the code that they run is unloaded. The next spd_parallel() starts new ones. Not while one runs. */
void spd_threads_stop(void);

/* Cores that this process may keep busy: those of its affinity mask, or fewer where a control group (a container, Slurm) grants
 * less processor time than they have. At least 1. */
int spd_cores(void);
/* What control groups grant: groups: the process's, as in /proc/self/cgroup; root: where they are mounted. 0 for no limit. */
int spd_core_quota(const char *groups, const char *root);

#endif
