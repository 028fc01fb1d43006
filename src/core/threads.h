/* Parallel loops on a pool of threads, and the number of threads to use.
 *
 * The pool replaces OpenMP, whose waiting policy cannot be changed in a running process: its threads spin at the end of every loop, and
 * when another process keeps a core busy, two of them are slower than one. Here idle threads sleep after some microseconds, and pieces are
 * handed out one at a time, so that a thread on a shared core gets fewer of them. */
#ifndef SPD_CORE_THREADS_H
#define SPD_CORE_THREADS_H

#include <pthread.h>
#include <stddef.h>

/* One piece of a loop. thread: index of the executing thread, from 0 to the loop's number of threads - 1, unique among those that run. */
typedef void spd_piece(const void *context, size_t piece, int thread);

/* Calls work(context, piece, thread) once for each piece from 0 to pieces - 1, on the calling thread and up to threads - 1 others,
 * and returns when all are done. Pieces start in order. Any thread may call this, also from within a piece. If threads cannot be created,
 * fewer are used; in a forked child (R's mclapply) only the caller. */
void spd_parallel(int threads, size_t pieces, spd_piece *work, const void *context);

/* The largest number of threads that spd_parallel() will use: `wanted`, at most the number of pieces, and 1 in a forked child, where
 * threads started before fork() do not exist. */
int spd_threads(int wanted, size_t pieces);

/* Ends all threads; required before the library is unloaded. The next spd_parallel() starts new ones. Must not be called during one. */
void spd_threads_stop(void);

/* Starts a thread for files, say, which its caller joins. Signals go to the threads that the program knows. Returns 0 where none can be
 * created. */
int spd_thread_start(pthread_t *thread, void *(*run)(void *), void *argument);

/* Cores that this process may keep busy: those of its affinity mask, or fewer if a control group (container, Slurm job) grants less
 * processor time. At least 1. */
int spd_cores(void);
/* Cores' worth of processor time that control groups grant; 0: no limit. groups: content of /proc/self/cgroup; root: mount point. */
int spd_core_quota(const char *groups, const char *root);

#endif
